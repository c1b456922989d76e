//! A logger that the user installs sees what happens, labelled alike. In a test
//! binary of its own: a process has one logger.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use log::kv::{self, Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};
use streamlease_core::{Completion, Event, LockScheme};
use support::{World, on_async_std, on_memory, on_tokio};

/// What a user has: some implementation of `log::Log`.
struct Collected(Mutex<Vec<Line>>);

#[derive(Debug)]
struct Line {
    level: Level,
    target: String,
    message: String,
    keys: BTreeMap<String, String>,
}

/// Collects what loggers that know keys show apart.
#[derive(Default)]
struct Keys(BTreeMap<String, String>);

impl<'kvs> VisitSource<'kvs> for Keys {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let before = self.0.insert(key.to_string(), value.to_string());
        assert_eq!(before, None, "{key} comes twice");
        Ok(())
    }
}

static LOGGER: Collected = Collected(Mutex::new(Vec::new()));

impl Collected {
    fn take(&self) -> Vec<Line> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Collected {
    fn has(&self, word: &str) -> bool {
        let messages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        messages.iter().any(|line| line.message.contains(word))
    }
}

impl Log for Collected {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("streamlease")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let mut keys = Keys::default();
            record.key_values().visit(&mut keys).unwrap();
            let mut messages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            messages.push(Line {
                level: record.level(),
                target: record.target().to_owned(),
                message: record.args().to_string(),
                keys: keys.0,
            });
        }
    }

    fn flush(&self) {}
}

// One test: they share the process's logger.
#[test]
fn a_user_supplied_logger_sees_ownership_changes_with_their_labels() {
    log::set_logger(&LOGGER).unwrap();
    log::set_max_level(LevelFilter::Debug);
    on_memory(LockScheme::Session, a_life);
    on_memory(LockScheme::PerStream, a_life);
    on_tokio(a_life);
    on_async_std(a_life);
}

/// A stream is leased, taken over and completed; a bad entry is quarantined.
async fn a_life(world: World) {
    LOGGER.take();
    let mut a = world.start("a").await;
    let bad = world.submit_raw(&[(b"lbs-input", b"secret, but not JSON")]);
    assert!(matches!(a.event().await, Event::Quarantined(_)));
    world.submit(&["call-7"]).await;
    let old = a.lease().await;
    let mut b = world
        .start_with("b", |b| b.log_target("streamlease::mine"))
        .await;
    a.process.kill();
    let lease = b.lease().await;
    assert_eq!(lease.complete().await.unwrap(), Completion::Completed);
    b.client.shutdown().await.unwrap();
    assert!(matches!(b.event().await, Event::Terminated(_)));

    // Lines are written by a task of their own, which nothing waits for.
    world
        .eventually("the last line", async || LOGGER.has("stopped"))
        .await;
    let messages = LOGGER.take();
    let backend = world.backend().await;
    let label = |id| format!("consumer={}", backend.consumer_name(id).unwrap());
    let (a, b) = (&*label("a"), &*label("b"));
    let saw = |level: Level, words: &[&str]| {
        assert!(
            messages.iter().any(|line| {
                line.level == level
                    && if words.contains(&b) {
                        line.target == "streamlease::mine"
                    } else {
                        line.target == "streamlease_core::driver"
                    }
                    && words.iter().all(|word| line.message.contains(word))
            }),
            "no {level} with {words:?} among {messages:#?}"
        );
    };
    let token = |lease: &streamlease_core::Lease| format!("token={}", lease.token());
    saw(Level::Info, &["reading", a]);
    saw(Level::Warn, &["quarantined", a, &format!("entry={bad}")]);
    saw(Level::Info, &["leased", "stream=call-7", a, &token(&old)]);
    saw(Level::Info, &["leased", "stream=call-7", b, &token(&lease)]);
    saw(
        Level::Info,
        &["ended", "stream=call-7", b, &token(&lease), "Completed"],
    );
    saw(Level::Info, &["stopped", b]);
    for line in &messages {
        assert!(!line.message.contains("secret"), "a payload in {line:?}");
    }
    keys_are_as_in_the_text(&messages);
}

/// Each line of a client has whose it is as keys, and one about a stream which. The text
/// says the same, for those who search it.
fn keys_are_as_in_the_text(messages: &[Line]) {
    let of_clients = |line: &&Line| line.message.contains(" consumer=");
    let mut about_streams = 0;
    for line in messages.iter().filter(of_clients) {
        let key = |name: &str| line.keys.get(name).map(String::as_str);
        assert_eq!(key("service"), Some("orders"), "{line:?}");
        for name in ["consumer", "stream", "entry", "token"] {
            let labelled = line.message.split_once(&format!("{name}="));
            let value = labelled.and_then(|(_, rest)| rest.split([' ', ':']).next());
            let value = value.filter(|value| !value.is_empty());
            assert_eq!(key(name), value, "{name} of {line:?}");
        }
        about_streams += u32::from(key("stream").is_some());
    }
    assert!(about_streams >= 3, "{messages:#?}");
}
