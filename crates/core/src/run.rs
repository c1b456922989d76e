//! [`Client::run`]: the loop around handlers.

use std::any::Any;
use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_lite::{FutureExt, future};

use crate::lease::LONGEST_REASON;
use crate::{BoxFuture, Client, Error, Event, Events, Lease, Result, printable};

/// How long [`Client::run`] works, and how it ends.
#[must_use]
pub struct Run {
    stop: BoxFuture<'static, ()>,
    grace: Duration,
    drops_lost: bool,
    on_event: Box<dyn FnMut(Event) + Send>,
}

/// What becomes of a stream whose handler has returned.
///
/// A handler may return `()` for `Complete`, or a `Result` of either, whose error is the reason
/// of a `Fail`, with its causes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Done {
    /// It is finished for good; see [`Lease::complete`].
    Complete,
    /// Another consumer goes on with it; see [`Lease::hand_back`].
    HandBack,
    /// The work failed, for this reason; see [`Lease::fail`].
    Fail(String),
}

/// Tells handlers that the client is to stop. Clones tell the same.
#[derive(Debug, Clone)]
pub struct Stopping(Receiver<Infallible>);

impl Run {
    /// Works until `stop` resolves: a signal, a message, whatever it waits for.
    pub fn until<T>(stop: impl Future<Output = T> + Send + 'static) -> Self {
        Self {
            stop: Box::pin(async {
                stop.await;
            }),
            grace: Duration::from_secs(10),
            drops_lost: true,
            on_event: Box::new(|event| log::debug!("not for a handler: {event:?}")),
        }
    }

    /// Works until the client ends.
    pub fn forever() -> Self {
        Self::until(future::pending::<()>())
    }

    /// How long handlers have to end once they were told to stop. Default: 10 s. Then they
    /// are dropped, and their streams handed back.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Whether the future of a handler is dropped as soon as its lease is lost. Default:
    /// yes. If not, it runs on, and has to look at [`Lease::lost`] itself.
    ///
    /// Then end soon after the loss. A handler whose lease is lost holds nothing any more, and
    /// counts for nothing: the stream may come back, to this process too, and is given to a
    /// new handler while the old one still runs. So there may be two handlers of one stream in
    /// one process, of which only the new one's lease is valid, and more handlers than
    /// [`capacity`](crate::ClientBuilder::capacity).
    ///
    /// A handler that ends its lease itself, to see the answer of [`Lease::complete`] for
    /// example, is not dropped by that. What it returns then changes nothing. This holds for the
    /// methods of its [`Lease`], as long as it waits for their answers.
    pub fn drop_when_lost(mut self, drops: bool) -> Self {
        self.drops_lost = drops;
        self
    }

    /// Called with each event that brings no lease, in order: what was quarantined or lost,
    /// the orphans of manual claiming (to pass to [`Client::claim`], in a task), and the end
    /// of a client that was not asked to stop. Default: they are logged at `DEBUG`.
    ///
    /// No stream is taken while it runs, so it must not block. Once the client was told to
    /// stop it hears, until the handlers have ended, of what is lost in the grace too; not
    /// of orphans, which the client could not claim any more.
    pub fn on_event(mut self, hook: impl FnMut(Event) + Send + 'static) -> Self {
        self.on_event = Box::new(hook);
        self
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("grace", &self.grace)
            .field("drop_when_lost", &self.drops_lost)
            .finish_non_exhaustive()
    }
}

impl From<()> for Done {
    fn from((): ()) -> Self {
        Self::Complete
    }
}

/// The reason of a failure is what the error says, and each of its
/// [sources](StdError::source) that it does not name itself: `saving the call: the store is
/// away: connection refused`. The first 256 bytes are kept, see [`Lease::fail`]. A text is an
/// error, too, and so are those of `anyhow` and `eyre`; of what can only be displayed return the
/// text.
impl<D, E> From<Result<D, E>> for Done
where
    D: Into<Done>,
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    fn from(result: Result<D, E>) -> Self {
        match result {
            Ok(done) => done.into(),
            Err(error) => Self::Fail(with_causes(&*error.into())),
        }
    }
}

fn with_causes(error: &(dyn StdError + 'static)) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    // What is longer is cut anyhow.
    while let Some(error) = cause.filter(|_| said.len() < LONGEST_REASON) {
        let text = error.to_string();
        if !said.ends_with(&text) {
            said = format!("{said}: {text}");
        }
        cause = error.source();
    }
    said
}

impl Stopping {
    /// Whether the client is to stop.
    pub fn is_requested(&self) -> bool {
        self.0.is_closed()
    }

    /// Resolves once the client is to stop. Cancel-safe.
    pub async fn requested(&self) {
        let _ = self.0.recv().await;
    }
}

enum Wake {
    Event(Option<Event>),
    Stop,
}

impl Client {
    /// Works on streams until told to stop: calls `handler` for each stream that is leased,
    /// runs the future that it returns as a task of the client's runtime, and ends the lease
    /// as the outcome says.
    ///
    /// - When the lease is lost, the handler's future is dropped (see
    ///   [`Run::drop_when_lost`]). Somebody else goes on.
    /// - A handler that panics has failed, with what it said as the reason. The others go on.
    /// - Once [`Run::until`]'s future resolves, no further streams are taken, and handlers
    ///   are told by [`Stopping`]. They may go on to their end, hand back with
    ///   [`Done::HandBack`], or fail. After the grace those that are left are dropped, and
    ///   their streams are handed back. Then the client ends, as by
    ///   [`shutdown`](Self::shutdown).
    ///
    /// Orphans that manual claiming reports are left alone, unless [`Run::on_event`] claims
    /// them. To see each event in order, read the [`Events`] yourself instead.
    ///
    /// ```no_run
    /// # use streamlease_core::{Client, Events, Lease, Result, Run};
    /// # async fn work(_: &Lease) -> std::io::Result<()> { Ok(()) }
    /// # async fn example(client: Client, events: Events, ctrl_c: impl Future + Send + 'static) -> Result<()> {
    /// client
    ///     .run(events, Run::until(ctrl_c), |lease, _stopping| async move { work(&lease).await })
    ///     .await
    /// # }
    /// ```
    ///
    /// # Errors
    /// What made the client give up; [`Closed`](crate::ErrorKind::Closed) if its task was
    /// dropped, by a panic or by its executor. A lease that cannot be ended as wished is logged
    /// (`WARN`), and goes to another consumer. [`Config`](crate::ErrorKind::Config) at once if
    /// `events` are another client's.
    ///
    /// Dropping the future drops all handlers and hands their streams back. The client does
    /// not end by that: call [`shutdown`](Self::shutdown).
    pub async fn run<F>(
        &self,
        mut events: Events,
        options: Run,
        handler: impl Fn(Arc<Lease>, Stopping) -> F,
    ) -> Result<()>
    where
        F: Future<Output: Into<Done>> + Send + 'static,
    {
        if !self.has(&events) {
            let what = "the events that were given to run are another client's; \
                        pass those that start() returned with this client";
            return Err(Error::config(what));
        }
        let Run {
            mut stop,
            grace,
            drops_lost,
            mut on_event,
        } = options;
        // Nothing is ever sent: what counts is that the other side is gone.
        let (told, stopping) = async_channel::bounded(1);
        let (keep, dropped) = async_channel::bounded::<Infallible>(1);
        let (running, all_ended) = async_channel::bounded::<Infallible>(1);
        loop {
            let event = async { Wake::Event(events.next().await) };
            let stop = async {
                (&mut stop).await;
                Wake::Stop
            };
            match future::or(stop, event).await {
                Wake::Event(Some(Event::StreamAdded(lease))) => {
                    let lease = Arc::new(lease);
                    let call = || handler(lease.clone(), Stopping(stopping.clone()));
                    let task = Task {
                        handled: panic::catch_unwind(AssertUnwindSafe(call)),
                        lease,
                        drops_lost,
                        dropped: dropped.clone(),
                        running: running.clone(),
                    };
                    self.spawn_handler(Box::pin(task.run()));
                }
                Wake::Event(Some(event)) => on_event(event),
                // Nothing comes after `Terminated`.
                Wake::Event(None) | Wake::Stop => break,
            }
        }
        // What was not read goes back.
        events.take_no_streams();
        while let Some(event) = events.try_next() {
            if !matches!(event, Event::StreamAdded(_)) {
                on_event(event);
            }
        }
        drop((told, running));
        let told_of = async {
            // Who works on in the grace is told of a loss, and why, as ever.
            while let Some(event) = events.next().await {
                if !matches!(event, Event::StreamAdded(_) | Event::StreamExpired(_)) {
                    on_event(event);
                }
            }
            // Handlers are waited for even if the client has ended.
            future::pending().await
        };
        let ended = async {
            self.ended_within(&all_ended, grace).await;
            drop(keep);
            // They end their leases, before the client does it for them. Who blocks its thread
            // cannot be dropped, and is not waited for.
            self.ended_within(&all_ended, self.ttl()).await;
        };
        future::or(told_of, ended).await;
        drop(events);
        self.shutdown().await
    }

    /// Waits until all handlers have ended, but no longer than that.
    async fn ended_within(&self, all_ended: &Receiver<Infallible>, limit: Duration) {
        let ended = async {
            let _ = all_ended.recv().await;
        };
        future::or(ended, self.sleep_until(self.now() + limit)).await;
    }
}

/// One handler at work.
struct Task<F> {
    /// Its future, unless it has panicked before it returned one.
    handled: thread::Result<F>,
    lease: Arc<Lease>,
    drops_lost: bool,
    /// Closed when it is not to run any longer.
    dropped: Receiver<Infallible>,
    /// Held until it has ended.
    running: Sender<Infallible>,
}

impl<F: Future<Output: Into<Done>> + Send + 'static> Task<F> {
    async fn run(self) {
        let Self {
            handled,
            lease,
            drops_lost,
            dropped,
            running,
        } = self;
        let lost = async {
            match drops_lost {
                true => lease.lost_unasked().await,
                false => future::pending().await,
            }
            None
        };
        let too_late = async {
            let _ = dropped.recv().await;
            Some(Done::HandBack)
        };
        let handled = async {
            // What it shares with others is for it to keep in order, as with any task.
            let ended = match handled {
                Ok(handled) => AssertUnwindSafe(handled).catch_unwind().await,
                Err(panic) => Err(panic),
            };
            Some(match ended {
                Ok(done) => done.into(),
                Err(panic) => Done::Fail(reason_of(&*panic)),
            })
        };
        let done = lost.or(handled.or(too_late)).await;
        let (what, ended) = match done {
            None => return,
            Some(Done::Complete) => ("complete", lease.complete().await.map(drop)),
            Some(Done::HandBack) => ("hand back", lease.hand_back().await.map(drop)),
            Some(Done::Fail(reason)) => ("fail", lease.fail(reason).await.map(drop)),
        };
        if let Err(error) = ended {
            let stream = printable(lease.stream());
            log::warn!(
                stream:% = stream, entry:% = lease.entry, token = lease.token().get();
                "the lease was not ended as its handler wished: stream={stream} wish={what:?} error={error}"
            );
        }
        drop(running);
    }
}

fn reason_of(panic: &(dyn Any + Send)) -> String {
    let said = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    match said {
        Some(said) => format!("its handler panicked: {said}"),
        None => "its handler panicked".to_owned(),
    }
}
