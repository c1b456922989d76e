//! What clients log. A simulation runs on the thread of its test, and each test is given the
//! lines of its thread.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Once;

use log::kv::{self, Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};

#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) level: Level,
    pub(crate) target: String,
    pub(crate) text: String,
    pub(crate) keys: BTreeMap<String, String>,
}

impl<'kvs> VisitSource<'kvs> for Line {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        self.keys.insert(key.to_string(), value.to_string());
        Ok(())
    }
}

thread_local! {
    /// `None` where nobody listens.
    static LINES: RefCell<Option<Vec<Line>>> = const { RefCell::new(None) };
}

struct PerThread;

impl Log for PerThread {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        LINES.with_borrow(Option::is_some)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let mut line = Line {
                level: record.level(),
                target: record.target().to_owned(),
                text: record.args().to_string(),
                keys: BTreeMap::new(),
            };
            record.key_values().visit(&mut line).unwrap();
            LINES.with_borrow_mut(|lines| lines.get_or_insert_default().push(line));
        }
    }

    fn flush(&self) {}
}

/// Lines are kept from now on.
pub(crate) fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&PerThread).unwrap();
        log::set_max_level(LevelFilter::Debug);
    });
    LINES.set(Some(Vec::new()));
}

/// What was said with this target since `listen` or the last time.
pub(crate) fn take(target: &str) -> Vec<Line> {
    LINES.with_borrow_mut(|lines| {
        let lines = lines.as_mut().expect("listen first");
        lines.extract_if(.., |line| line.target == target).collect()
    })
}

/// What was said with any target since `listen` or the last time.
pub(crate) fn take_all() -> Vec<Line> {
    LINES.with_borrow_mut(|lines| std::mem::take(lines.as_mut().expect("listen first")))
}
