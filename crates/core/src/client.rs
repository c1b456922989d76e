//! [`Client`]: one consumer of one service, and its [`ClientBuilder`].

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_channel::{Sender, WeakSender};

use crate::driver::{Driver, LOG_TARGET, Measures, Message, ReportStart, Shared, Startup, Voice};
use crate::events::{Events, Orphan};
use crate::machine::{Answer, CallId, ClaimResult, Command, Completion, Config, Machine, closed};
use crate::recorder::NoRecorder;
use crate::settings::check_capacity;
use crate::{
    Backend, BackendProvider, BoxFuture, ConsumerName, Error, ErrorKind, Health, LockManager,
    Recorder, Report, Result, Runtime, ServiceName, Settings, StreamName, Timestamp,
};

/// One consumer of one service.
///
/// A cheap handle; clones are the same client. [`ClientBuilder::start`] makes and starts
/// it. When the client, its events and its leases are all dropped, everything is handed
/// back and every task ends; await [`shutdown`](Self::shutdown) before the process ends, so
/// that nobody has to wait for its death.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    consumer: ConsumerName,
    startup: Arc<Startup>,
    handle: Handle,
    /// For those who look at it.
    backend: Backend,
    ttl: Duration,
    shared: Arc<Shared>,
}

impl Client {
    /// Starts to build a client of `service`. This name gives the load balancer stream
    /// (LBS, `<service>-input`) and its group their names.
    pub fn builder(service: impl AsRef<str>) -> ClientBuilder {
        ClientBuilder {
            service: service.as_ref().to_owned(),
            consumer: None,
            provider: None,
            locks: None,
            runtime: None,
            recorder: Arc::new(NoRecorder),
            log_target: LOG_TARGET.to_owned(),
            settings: Settings::default(),
            seed: None,
        }
    }

    /// Resolves once the client is subscribed to hints and reads the LBS.
    ///
    /// Waits for a backend that is not up yet, as the retry policy says. You need not call
    /// it: the client also reports everything as [`Event`](crate::Event)s.
    ///
    /// # Errors
    /// After an error the client has ended. Either the backend refused a call that it has
    /// never allowed, or it cannot be reached and the retry policy gives up (by default it
    /// never does). [`Closed`](ErrorKind::Closed) if the client was shut down before.
    ///
    /// Cancel-safe, and can be called again: dropping the future changes nothing, and the
    /// client goes on with its start. To stop the start, call [`shutdown`](Self::shutdown).
    pub async fn started(&self) -> Result<()> {
        self.inner.startup.outcome().await
    }

    /// Takes an orphan that `StreamExpired` reported. If it succeeds, the lease
    /// arrives as `StreamAdded`. Losing to another consumer is an ordinary answer.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) while there is no session,
    /// [`Closed`](ErrorKind::Closed) after the end, or if the [`Events`] were dropped.
    ///
    /// Cancel-safe: once polled, the claim goes on without the caller.
    pub async fn claim(&self, orphan: &Orphan) -> Result<ClaimResult> {
        let (entry, stream, info) = (
            orphan.entry(),
            orphan.stream().clone(),
            orphan.info().clone(),
        );
        let answer = self
            .inner
            .handle
            .call(|call| Command::Claim {
                entry,
                stream,
                info,
                call,
            })
            .await;
        match answer {
            Some(Ok(Answer::Claim(result))) => Ok(result),
            Some(Err(error)) => Err(error),
            Some(Ok(_)) | None => Err(closed()),
        }
    }

    /// Sets how many streams may be held at once, as
    /// [`ClientBuilder::capacity`] does at the start.
    ///
    /// A lower capacity takes nothing away. The client keeps what it holds, and what it is
    /// acquiring at this moment still arrives. It takes nothing more until it holds fewer.
    /// An entry that was fetched and finds no room goes to another consumer after about a
    /// TTL. With 0 the client takes nothing more. After the client's end the call has no
    /// effect.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) if it is out of bounds (0 to 10,000,000).
    pub fn set_capacity(&self, capacity: usize) -> Result<()> {
        if capacity > 0 {
            check_capacity(capacity)?;
        }
        self.inner.handle.post(Command::SetCapacity(capacity));
        Ok(())
    }

    /// Completes the lease of a data stream by its name; see
    /// [`Lease::complete`](crate::Lease::complete).
    #[doc(alias = "DoneStream")]
    pub async fn complete_stream(&self, stream: &StreamName) -> Result<Completion> {
        let stream = stream.clone();
        self.inner
            .handle
            .complete(|call| Command::CompleteStream { stream, call })
            .await
    }

    /// Hands everything back, so that others continue at once, and ends the client.
    ///
    /// It does not wait for handlers: their leases are [`lost`](crate::Lease::lost). To let
    /// handlers finish first, drop the [`Events`](crate::Events), so that no new stream
    /// arrives. Let each handler hand its lease back, and call this when all have ended.
    ///
    /// It takes at most one TTL, whether or not the backend can be reached. It takes a tenth
    /// of a second more if the logger blocks. When it resolves, the client has written its
    /// log; the same holds when the last event, `Terminated`, arrives. It can be called
    /// again, and before the client has [`started`](Self::started).
    ///
    /// # Errors
    /// If the client did not end because it was asked to: what made it give up, or
    /// [`Closed`](ErrorKind::Closed) if its task was dropped, by a panic or by its executor.
    /// It has ended all the same.
    ///
    /// Cancel-safe: once polled, the client ends without the caller.
    #[doc(alias = "Done")]
    pub async fn shutdown(&self) -> Result<()> {
        let shutdown = |call| Command::Shutdown { call: Some(call) };
        // No answer, or an error: its task has ended already.
        let _ = self.inner.handle.call(shutdown).await;
        self.inner.shared.termination().into_result()
    }

    /// Whether these events are this client's.
    pub(crate) fn has(&self, events: &Events) -> bool {
        events.are_of(&self.inner.shared)
    }

    /// Looks at the server, the service and this process, and says what is as it should be
    /// and what is not, each with what to do about it; `streamlease doctor` does the same.
    ///
    /// Nothing is changed by it. It takes about a second, ten if the server does not answer,
    /// and works before the client has [`started`](Self::started) and after its end. It never
    /// fails: what cannot be reached is a finding. Dropping the future ends it.
    ///
    /// The lag of the executor is that of the runtime which the client was given, while this
    /// runs: call it when handlers are at work.
    pub async fn check(&self) -> Report {
        let inner = &self.inner;
        Report::of(&inner.backend, &*inner.handle.runtime, inner.ttl).await
    }

    /// How the client fares, for the probes of an orchestrator. Does no I/O and waits for
    /// nothing; see [`Health`] for what to answer.
    pub fn health(&self) -> Health {
        let pulse = self.inner.shared.pulse().clone();
        Health::of(pulse, self.now(), self.ttl())
    }

    pub(crate) fn spawn_handler(&self, task: BoxFuture<'static, ()>) {
        self.inner.handle.runtime.spawn_handler(task);
    }

    pub(crate) fn ttl(&self) -> Duration {
        self.inner.ttl
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.inner.handle.now()
    }

    pub(crate) fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        self.inner.handle.sleep_until(deadline)
    }

    /// The consumer's name in the group: its identity, with the backend's prefix in front
    /// if the backend has one (Redis has).
    pub fn id(&self) -> &ConsumerName {
        &self.inner.consumer
    }
}

/// What clients, events and leases share: the way to the driver, and the clock.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    messages: Sender<Message>,
    calls: Arc<AtomicU64>,
    runtime: Arc<dyn Runtime>,
    seed: u64,
}

/// The same for the driver, which must not keep itself alive.
#[derive(Debug)]
pub(crate) struct WeakHandle {
    messages: WeakSender<Message>,
    calls: Arc<AtomicU64>,
    runtime: Arc<dyn Runtime>,
    seed: u64,
}

impl Handle {
    pub(crate) fn now(&self) -> Timestamp {
        self.runtime.now()
    }

    pub(crate) fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        self.runtime.sleep_until(deadline)
    }

    pub(crate) fn send(&self, message: Message) {
        // A driver that has ended has nothing left to do for anybody.
        let _ = self.messages.try_send(message);
    }

    pub(crate) fn post(&self, command: Command) {
        self.send(Message::Command(command, None));
    }

    /// `None` if the client has ended before.
    pub(crate) async fn call(
        &self,
        command: impl FnOnce(CallId) -> Command,
    ) -> Option<Result<Answer>> {
        let call = CallId(self.calls.fetch_add(1, Ordering::Relaxed));
        let (answer, answered) = async_channel::bounded(1);
        let message = Message::Command(command(call), Some((call, answer)));
        self.messages.try_send(message).ok()?;
        // The driver answers every call. Unless its executor drops it.
        Some(answered.recv().await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::LeaseEnded,
                "the client's task was dropped, by a panic or by its executor; whether the call was executed is unknown",
            ))
        }))
    }

    pub(crate) async fn complete(
        &self,
        command: impl FnOnce(CallId) -> Command,
    ) -> Result<Completion> {
        match self.call(command).await {
            Some(Ok(Answer::Completion(completion))) => Ok(completion),
            Some(Err(error)) => Err(error),
            // The client has ended, and everything it held with it.
            Some(Ok(_)) | None => Ok(Completion::NotOwner),
        }
    }

    fn downgrade(&self) -> WeakHandle {
        WeakHandle {
            messages: self.messages.downgrade(),
            calls: self.calls.clone(),
            runtime: self.runtime.clone(),
            seed: self.seed,
        }
    }
}

impl WeakHandle {
    /// `None` once every handle is gone: there is nobody to give anything to.
    pub(crate) fn upgrade(&self) -> Option<Handle> {
        Some(Handle {
            messages: self.messages.upgrade()?,
            calls: self.calls.clone(),
            runtime: self.runtime.clone(),
            seed: self.seed,
        })
    }
}

/// Builds and starts a [`Client`]. It needs a backend and a runtime. It also needs an
/// identity, unless `POD_NAME` or `POD_IP` is set. Everything else has a default.
// The setters of the settings are in `settings`, with their defaults and bounds.
#[derive(Debug)]
pub struct ClientBuilder {
    service: String,
    consumer: Option<String>,
    provider: Option<Arc<dyn BackendProvider>>,
    locks: Option<Arc<dyn LockManager>>,
    runtime: Option<Arc<dyn Runtime>>,
    recorder: Arc<dyn Recorder>,
    log_target: String,
    pub(crate) settings: Settings,
    seed: Option<u64>,
}

impl ClientBuilder {
    /// The consumer's identity. It must be unique in the service. With the same identity
    /// after a restart a consumer finds its own work faster. Default: `POD_NAME`, else
    /// `POD_IP`.
    pub fn consumer(mut self, identity: impl Into<String>) -> Self {
        self.consumer = Some(identity.into());
        self
    }

    /// Where the LBS, the locks and the hints are.
    pub fn backend(mut self, provider: impl BackendProvider) -> Self {
        self.provider = Some(Arc::new(provider));
        self
    }

    /// Locks of another system, instead of the backend's own. All consumers of a service
    /// must use the same locks. This **is not checked**: a consumer with other locks takes
    /// streams from healthy owners, and then only fencing protects your data. Stop all
    /// consumers of a service before you give it other locks.
    pub fn locks(mut self, locks: Arc<dyn LockManager>) -> Self {
        self.locks = Some(locks);
        self
    }

    /// The executor that tasks run on.
    pub fn runtime(mut self, runtime: impl Runtime) -> Self {
        self.runtime = Some(Arc::new(runtime));
        self
    }

    /// Where measurements go.
    pub fn recorder(mut self, recorder: Arc<dyn Recorder>) -> Self {
        self.recorder = recorder;
        self
    }

    /// The target of the client's log lines, for loggers that filter by it: to tell the
    /// clients of one process apart, for example. Default: `streamlease_core::driver`.
    pub fn log_target(mut self, target: impl Into<String>) -> Self {
        self.log_target = target.into();
        self
    }

    /// The seed of all random numbers, so that a simulation can be replayed. By default the
    /// operating system gives one. Two clients must never share a seed.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Checks all settings and starts to take streams, in one task that it spawns on the
    /// runtime. Returns at once, without I/O. [`Client::started`] waits until the client
    /// reads the LBS.
    ///
    /// The client waits for a backend that is not up yet, as the retry policy says. If
    /// something ends the client, [`Terminated`](crate::Event::Terminated) says what.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) if a setting is invalid; the message names the setting,
    /// its value and its bounds. [`Environment`](ErrorKind::Environment) if the operating
    /// system gives no random numbers.
    #[doc(alias = "Init")]
    pub fn start(self) -> Result<(Client, Events)> {
        let service = ServiceName::new(&self.service)?;
        self.settings.validate()?;
        let identity = identity(self.consumer)?;
        let provider = self
            .provider
            .ok_or_else(|| Error::config("no backend is set; call .backend(…) with one"))?;
        let runtime = self
            .runtime
            .ok_or_else(|| Error::config("no runtime is set; call .runtime(…) with one"))?;
        let mut backend = provider.backend(&service)?;
        let consumer = backend.consumer_name(identity)?;
        if let Some(locks) = self.locks {
            backend.locks = locks;
        }
        let seed = match self.seed {
            Some(seed) => seed,
            None => random()?,
        };
        let (messages_in, messages) = async_channel::unbounded();
        let (events_in, events_out) = async_channel::unbounded();
        let handle = Handle {
            messages: messages_in,
            calls: Arc::new(AtomicU64::new(1)),
            runtime: runtime.clone(),
            seed,
        };
        let startup = Arc::new(Startup::default());
        let ttl = self.settings.ttl;
        let config = Config {
            consumer: consumer.clone(),
            settings: self.settings,
            scheme: backend.locks.scheme(),
            seed,
        };
        let (voice, lines) = Voice::new(self.log_target, service, consumer.clone());
        let now = runtime.now();
        let machine = Machine::new(config, now);
        let shared = Arc::new(Shared::new(&machine, now));
        let events = Events::new(events_out, shared.clone(), handle.clone());
        let driver = Driver {
            machine,
            consumer: consumer.clone(),
            ttl,
            backend: backend.clone(),
            runtime: runtime.clone(),
            measures: Measures::new(self.recorder, voice.clone()),
            voice,
            lines: Some(lines),
            messages,
            events: events_in,
            shared: shared.clone(),
            handles: handle.downgrade(),
            started: ReportStart(startup.clone()),
        };
        runtime.spawn(Box::pin(driver.run()));
        let inner = Inner {
            consumer,
            startup,
            handle,
            backend,
            ttl,
            shared,
        };
        let client = Client {
            inner: Arc::new(inner),
        };
        Ok((client, events))
    }
}

fn identity(configured: Option<String>) -> Result<String> {
    let from_env = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    configured
        .or_else(|| from_env("POD_NAME"))
        .or_else(|| from_env("POD_IP"))
        .ok_or_else(|| {
            Error::config(
                "the consumer has no identity; set .consumer(…), or POD_NAME or POD_IP in the environment",
            )
        })
}

/// Eight bytes of the operating system's randomness.
pub(crate) fn random() -> Result<u64> {
    getrandom::u64().map_err(|err| {
        Error::new(
            ErrorKind::Environment,
            format!("the operating system gives no random numbers: {err}"),
        )
    })
}
