//! Infos as files: an environment variable holds 128 KiB, and an info may be larger.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use streamlease::Lease;

/// A directory for the infos of this process's streams, made when there is one.
#[derive(Debug, Clone, Default)]
pub(crate) struct InfoFiles {
    dir: Arc<Mutex<Option<PathBuf>>>,
}

/// Removed when dropped.
#[derive(Debug)]
pub(super) struct InfoFile(PathBuf);

impl InfoFiles {
    pub(super) fn write(&self, lease: &Lease, json: &str) -> io::Result<InfoFile> {
        let path = self.dir()?.join(format!("{}.json", lease.token()));
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
        let parent = std::env::temp_dir();
        // What others have put there is never used: making it must succeed.
        for n in 0..1000 {
            let path = parent.join(format!("streamlease-{}-{n}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(dir.insert(path).clone()),
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
                Err(err) => return Err(err),
            }
        }
        Err(io::Error::other(format!(
            "there are too many streamlease-* in {}",
            parent.display()
        )))
    }
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
