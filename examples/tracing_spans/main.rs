//! Handlers at work in spans of `tracing`, and the library's log lines in the same spans.
//!
//! ```text
//! cargo run --example tracing_spans
//! ```
//!
//! One consumer handles three calls, of which one fails at first. Each lease has a span `call`
//! with its stream, entry and token, and with which attempt it is. What the handler says is in
//! it, and so is what the library logs of this lease: its lines have the same as keys.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use log::kv::{self, Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};
use streamlease::{Client, Done, Lease, MemoryBackend, Producer, Result, Run, TokioRuntime};
use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};
use tracing_log::LogTracer;
use tracing_subscriber::fmt::MakeWriter;

const SERVICE: &str = "calls";
const CALLS: [&str; 3] = ["call-1", "call-2", "call-3"];

#[tokio::main]
async fn main() -> Result<()> {
    work(&trace_to(io::stdout)).await
}

/// Installs the subscriber, and a logger that passes lines on to it.
fn trace_to<W>(writer: W) -> Arc<Spans>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let subscriber = tracing_subscriber::fmt().with_writer(writer);
    // Only once in a program, as the logger.
    let subscriber = subscriber.with_ansi(false).finish();
    let is_first = tracing::subscriber::set_global_default(subscriber).is_ok();
    assert!(is_first, "another subscriber is installed");
    let spans = Arc::new(Spans::default());
    let is_first = log::set_boxed_logger(Box::new(Bridge(spans.clone(), LogTracer::new()))).is_ok();
    assert!(is_first, "another logger is installed");
    // The lines that a span begins and ends with are of this level.
    log::set_max_level(LevelFilter::Info);
    spans
}

/// Handles all calls.
async fn work(spans: &Arc<Spans>) -> Result<()> {
    let backend = MemoryBackend::new(TokioRuntime::new());
    let producer = Producer::new(SERVICE, &backend, TokioRuntime::new())?;
    producer.submit_all(CALLS).await?;
    let (client, events) = Client::builder(SERVICE)
        .consumer("worker-1")
        .ttl(Duration::from_millis(500))
        .backend(backend)
        .runtime(TokioRuntime::new())
        .start()?;
    let (done, all_done) = async_channel::bounded::<()>(CALLS.len());
    let until_all_are_done = async move {
        for _ in CALLS {
            let _ = all_done.recv().await;
        }
    };
    let spans = spans.clone();
    let handler = move |lease: Arc<Lease>, _stopping| {
        // Of one that was lost before its turn came the last line may be written already.
        let span = match lease.is_valid() {
            true => spans.of(&Named::from(&*lease)),
            false => Span::none(),
        };
        span.record("attempt", lease.failures() + 1);
        let done = done.clone();
        let handle = async move {
            tracing::info!("at work");
            if lease.stream().as_str() == "call-2" && lease.failures() == 0 {
                return Done::Fail("nobody answered".to_owned());
            }
            let _ = done.try_send(());
            Done::Complete
        };
        handle.instrument(span)
    };
    client
        .run(events, Run::until(until_all_are_done), handler)
        .await
}

/// One lease: its entry and its token are another lease's never.
#[derive(Debug, Default, Clone, PartialEq, Eq, Hash)]
struct Named {
    stream: String,
    entry: String,
    token: u64,
}

impl From<&Lease> for Named {
    fn from(lease: &Lease) -> Self {
        Self {
            stream: lease.stream().to_string(),
            entry: lease.entry().to_string(),
            token: lease.token().get(),
        }
    }
}

impl Named {
    /// What a line is about; `None` if it is about no lease.
    fn in_line(record: &Record<'_>) -> Option<Self> {
        let mut named = Self::default();
        record.key_values().visit(&mut named).ok()?;
        (named.token > 0).then_some(named)
    }
}

impl<'kvs> VisitSource<'kvs> for Named {
    fn visit_pair(
        &mut self,
        key: Key<'kvs>,
        value: Value<'kvs>,
    ) -> std::result::Result<(), kv::Error> {
        match key.as_str() {
            "stream" => self.stream = value.to_string(),
            "entry" => self.entry = value.to_string(),
            "token" => self.token = value.to_u64().unwrap_or_default(),
            _ => {}
        }
        Ok(())
    }
}

/// The spans of the leases that have begun and not ended.
#[derive(Debug, Default)]
struct Spans(Mutex<HashMap<Named, Span>>);

impl Spans {
    /// The handler, or the line that says that it has begun: whoever comes first makes it.
    fn of(&self, named: &Named) -> Span {
        let make = || {
            let Named {
                stream,
                entry,
                token,
            } = named;
            info_span!("call", stream, entry, token, attempt = Empty)
        };
        let mut open = self.open();
        open.entry(named.clone()).or_insert_with(make).clone()
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Named, Span>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes log lines on as events, each within the span of its lease.
struct Bridge(Arc<Spans>, LogTracer);

impl Log for Bridge {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.1.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        let Some(named) = Named::in_line(record) else {
            return self.1.log(record);
        };
        let text = record.args().to_string();
        // The first line about a lease, and the last one of those within it.
        let span = match text.starts_with("leased ") {
            true => self.0.of(&named),
            false => self.0.open().get(&named).cloned().unwrap_or(Span::none()),
        };
        span.in_scope(|| self.1.log(record));
        if text.starts_with("ended ") {
            self.0.open().remove(&named);
        }
    }

    fn flush(&self) {
        self.1.flush();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(text)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_handlers_and_the_library_say_of_a_lease_is_in_its_span() {
        let captured = Captured::default();
        let writer = captured.clone();
        let spans = trace_to(move || writer.clone());
        work(&spans).await.unwrap();
        let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        let count = |words: &[&str]| {
            let lines = text.lines();
            lines
                .filter(|line| words.iter().all(|word| line.contains(word)))
                .count()
        };
        for (call, leases) in [("call-1", 1), ("call-2", 2), ("call-3", 1)] {
            let span = format!("call{{stream=\"{call}\" entry=\"");
            for said in [
                "at work".to_owned(),
                format!("leased stream={call} "),
                format!("ended stream={call} "),
            ] {
                assert_eq!(count(&[&span, &said]), leases, "{said}: {text}");
                assert_eq!(count(&["call{", &said]), count(&[&said]), "{said}: {text}");
            }
            assert_eq!(count(&[&span, "attempt=1}", "at work"]), 1, "{text}");
        }
        let second = "attempt=2}";
        assert_eq!(count(&["call-2", second, "at work"]), 1, "{text}");
        assert_eq!(count(&["call-2", second, "end=Completed"]), 1, "{text}");
        // What is about no lease is in no span.
        assert_eq!(count(&["stopped consumer=worker-1"]), 1, "{text}");
        assert_eq!(count(&["call{", "stopped"]), 0, "{text}");
        assert!(spans.open().is_empty(), "{spans:?}");
    }
}
