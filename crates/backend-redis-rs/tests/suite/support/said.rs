//! What the backend logs, to be looked at.

use std::sync::{Mutex, Once};

struct Warnings(Mutex<Vec<String>>);

static WARNINGS: Warnings = Warnings(Mutex::new(Vec::new()));

impl log::Log for Warnings {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

/// Warnings are kept from now on.
pub(crate) fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&WARNINGS).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
    });
}

/// Those that have this in them: tests of one binary may share a process.
pub(crate) fn warnings(with: &str) -> Vec<String> {
    let mut said = WARNINGS.0.lock().unwrap().clone();
    said.retain(|line| line.contains(with));
    said
}
