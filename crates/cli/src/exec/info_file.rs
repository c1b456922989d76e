//! Infos as files: an environment variable holds 128 KiB, and an info may be larger.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A directory for the infos of this process's streams, made when there is one.
#[derive(Debug, Clone, Default)]
pub(crate) struct InfoFiles {
    dir: Arc<Mutex<Option<PathBuf>>>,
}

/// Removed when dropped.
#[derive(Debug)]
pub(super) struct InfoFile(PathBuf);

impl InfoFiles {
    pub(super) fn write(&self, token: &str, json: &str) -> io::Result<InfoFile> {
        let path = self.dir()?.join(format!("{token}.json"));
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        // From here on it is removed, whatever happens.
        let info = InfoFile(path);
        file.write_all(json.as_bytes())?;
        Ok(info)
    }

    /// Removes what is left.
    pub(crate) fn remove_all(&self) {
        if let Some(dir) = self
            .dir
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            let _ = fs::remove_dir_all(dir);
        }
    }

    fn dir(&self) -> io::Result<PathBuf> {
        let mut dir = self.dir.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dir) = &*dir {
            return Ok(dir.clone());
        }
        Ok(dir.insert(make_dir(&std::env::temp_dir())?).clone())
    }
}

/// Its name cannot be foreseen, so that nobody stands in the way: neither another user
/// with a directory of its own, nor what earlier processes have left that were killed.
/// In a container they all had the same process id.
fn make_dir(parent: &Path) -> io::Result<PathBuf> {
    let random = getrandom::u64().map_err(|err| io::Error::other(err.to_string()))?;
    let path = parent.join(format!("streamlease-{}-{random:016x}", std::process::id()));
    // Fails if anything stands there, a link too.
    DirBuilder::new().mode(0o700).create(&path)?;
    Ok(path)
}

impl InfoFile {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for InfoFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process;

    use super::*;

    /// A directory to make others in, which is nobody else's.
    struct Parent(PathBuf);

    impl Parent {
        fn new(test: &str) -> Self {
            let name = format!("streamlease-test-{test}-{}", process::id());
            let parent = std::env::temp_dir().join(name);
            let _ = fs::remove_dir_all(&parent);
            fs::create_dir(&parent).unwrap();
            Self(parent)
        }
    }

    impl Drop for Parent {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_killed_processes_with_the_same_id_have_left_keeps_nobody_from_starting_programs() {
        let parent = Parent::new("left");
        for n in 0..1000 {
            let left = format!("streamlease-{}-{n}", process::id());
            fs::create_dir(parent.0.join(left)).unwrap();
        }
        let made = make_dir(&parent.0).unwrap();
        let mode = made.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn nobody_can_tell_the_name_of_the_directory_before_it_is_made() {
        let parent = Parent::new("name");
        let suffix = |made: PathBuf| {
            let name = made.file_name().unwrap().to_str().unwrap().to_owned();
            name.rsplit('-').next().unwrap().to_owned()
        };
        let (one, two) = (make_dir(&parent.0).unwrap(), make_dir(&parent.0).unwrap());
        let (one, two) = (suffix(one), suffix(two));
        assert_ne!(one, two);
        assert_eq!((one.len(), two.len()), (16, 16), "{one} {two}");
    }
}
