//! [`Script`] and [`Call`]: Lua on the server, by its hash.

use redis_rs::{Cmd, cmd};

/// A Lua script and the hash by which a server knows it.
#[derive(Debug)]
pub(crate) struct Script {
    code: &'static str,
    hash: String,
    /// It looks at each key before it writes to any: with a key of another type it has done
    /// nothing.
    pub(super) looks_first: bool,
}

impl Script {
    pub(crate) fn new(code: &'static str, looks_first: bool) -> Self {
        Self {
            code,
            hash: redis_rs::Script::new(code).get_hash().to_owned(),
            looks_first,
        }
    }
}

/// A script of these files in `scripts`, one behind the other: what it shares with others,
/// and itself. `streamlease-benches` reads these lists to name a script by its hash.
///
/// `beyond_full` is for what must go on when the server's memory is full: owners that
/// cannot extend or complete would lose everything, and the LBS could never be drained.
/// Not for what appends announcements, and not for what only reads or deletes, which
/// Redis does not refuse: a script with flags is refused as a whole wherever writes are.
/// `looks_first` is for what looks at each key before it writes to any.
macro_rules! script {
    (beyond_full: $($part:literal),+) => {
        $crate::connection::script!(of "#!lua flags=allow-oom\n", false, $($part),+)
    };
    (looks_first: $($part:literal),+) => {
        $crate::connection::script!(of "", true, $($part),+)
    };
    ($($part:literal),+) => {
        $crate::connection::script!(of "", false, $($part),+)
    };
    (of $head:literal, $looks_first:literal, $($part:literal),+) => {
        std::sync::LazyLock::new(|| {
            $crate::connection::Script::new(concat!($head, $(
                include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/scripts/", $part, ".lua"))
            ),+), $looks_first)
        })
    };
}
pub(crate) use script;

/// One call of a script.
#[derive(Debug, Default)]
pub(crate) struct Call {
    keys: Vec<Vec<u8>>,
    args: Vec<Vec<u8>>,
}

impl Call {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn key(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.keys.push(key.as_ref().to_vec());
        self
    }

    pub(crate) fn arg(&mut self, arg: impl AsRef<[u8]>) -> &mut Self {
        self.args.push(arg.as_ref().to_vec());
        self
    }

    pub(crate) fn args<A: AsRef<[u8]>>(&mut self, args: impl IntoIterator<Item = A>) -> &mut Self {
        let args = args.into_iter().map(|arg| arg.as_ref().to_vec());
        self.args.extend(args);
        self
    }

    pub(super) fn by_hash(&self, script: &Script) -> Cmd {
        self.command("EVALSHA", &script.hash)
    }

    /// The server remembers the script from then on.
    pub(super) fn by_code(&self, script: &Script) -> Cmd {
        self.command("EVAL", script.code)
    }

    fn command(&self, name: &str, script: &str) -> Cmd {
        let mut command = cmd(name);
        command
            .arg(script)
            .arg(self.keys.len())
            .arg(&self.keys)
            .arg(&self.args);
        command
    }
}
