//! The driver: executes the machine's actions against the traits, on the given
//! runtime, and feeds what happens back. It decides nothing.

mod counting;
mod measures;
mod notices;
mod pulse;
mod startup;
mod subscription;
mod voice;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::iter;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_lite::future;
use log::Level;

pub(crate) use self::measures::Measures;
use self::measures::{measured, size_of};
pub(crate) use self::pulse::Pulse;
use self::pulse::{Freed, measure_change, measure_end};
pub(crate) use self::startup::{ReportStart, Startup};
pub(crate) use self::voice::{Lines, TARGET as LOG_TARGET, Voice};
use crate::client::WeakHandle;
use crate::events::{Disowned, Event, Orphan, QuarantinedEntry, Termination};
use crate::lease::Lease;
use crate::limits::time_limit;
use crate::machine::{
    Action, ActionId, Answer, CallId, Command, End, Input, LbsCall, Machine, Notice, Output, Reply,
};
use crate::recorder::{EndKind, Load, Started};
use crate::{
    Backend, ConsumerName, Error, ErrorKind, Hint, Recorder, Result, Runtime, Timestamp, readable,
};

/// Most of what has come is handled at once: what comes without end must not keep
/// the driver from its heartbeats.
const MOST_AT_ONCE: usize = 1_000;

/// What handles send to the driver.
#[derive(Debug)]
pub(crate) enum Message {
    Command(Command, Option<(CallId, Sender<Result<Answer>>)>),
    /// Events were taken; the count is in [`Shared::taken`].
    EventsTaken,
    /// Streams that are leased from now on would find nobody who takes them.
    TakeNoStreams,
}

/// What the driver, the client and the events receiver share besides the channel.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Events taken since the driver last looked.
    pub(crate) taken: AtomicUsize,
    /// How the client ended, also for those who read no events any more.
    end: OnceLock<Termination>,
    /// How the client fares; `None` once its task has ended.
    pulse: Mutex<Option<Pulse>>,
}

impl Shared {
    /// Of a client that is about to start.
    pub(crate) fn new(machine: &Machine, now: Timestamp) -> Self {
        Self {
            taken: AtomicUsize::default(),
            end: OnceLock::new(),
            pulse: Mutex::new(Some(Pulse {
                vitals: machine.vitals(),
                due: now,
            })),
        }
    }

    pub(crate) fn pulse(&self) -> MutexGuard<'_, Option<Pulse>> {
        // Whoever panics meanwhile leaves nothing half done.
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the client ended. Ask this once it has.
    pub(crate) fn termination(&self) -> Termination {
        self.end.get().cloned().unwrap_or_else(|| {
            let what = "the client's task was dropped, by a panic or by its executor";
            Termination::new(Some(Error::new(ErrorKind::Closed, what)))
        })
    }
}

/// Everything that one client's driver needs.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) machine: Machine,
    pub(crate) consumer: ConsumerName,
    pub(crate) ttl: Duration,
    pub(crate) backend: Backend,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) voice: Voice,
    /// What it says, until there is a task that writes it.
    pub(crate) lines: Option<Lines>,
    pub(crate) measures: Measures,
    pub(crate) messages: Receiver<Message>,
    pub(crate) events: Sender<Event>,
    pub(crate) shared: Arc<Shared>,
    /// For the leases it hands out; weak, so that the driver does not keep itself alive.
    pub(crate) handles: WeakHandle,
    pub(crate) started: ReportStart,
}

/// What a notice is measured as.
enum Measure {
    Started(Started),
    Ended(EndKind, Duration),
    Quarantined,
}

/// What the driver's own tasks send to it.
#[derive(Debug)]
enum Arrival {
    Done(ActionId, Result<Reply>),
    Hint(Hint),
    /// The first subscription stands, or cannot be had for now.
    SubscriptionTried,
}

/// Says how a task ended, whatever becomes of it: executors drop a task that
/// panics, and whoever waited for it would wait for ever.
#[derive(Debug)]
struct LastWord {
    arrive: Sender<Arrival>,
    /// `None`: the subscription.
    about: Option<ActionId>,
    said: bool,
}

impl LastWord {
    fn say(mut self, result: Result<Reply>) {
        self.send(result);
    }

    fn send(&mut self, result: Result<Reply>) {
        self.said = true;
        let arrival = match self.about {
            Some(id) => Arrival::Done(id, result),
            None => Arrival::SubscriptionTried,
        };
        let _ = self.arrive.try_send(arrival);
    }
}

impl Drop for LastWord {
    fn drop(&mut self) {
        if !self.said {
            self.send(Err(Error::new(
                ErrorKind::Protocol,
                "the call ended without a result; its backend may have panicked",
            )));
        }
    }
}

/// What the loop waits for.
enum Wake {
    Message(Message),
    HandlesGone,
    Arrival(Arrival),
    ReceiverDropped,
    Timeout,
}

impl Driver {
    /// Runs until the machine has stopped. When this returns, every task that
    /// it started ends by itself.
    pub(crate) async fn run(mut self) {
        let (arrive, arrivals) = async_channel::unbounded();
        let (alive, stop) = async_channel::bounded::<Infallible>(1);
        if let Some(lines) = self.lines.take() {
            self.runtime.spawn(Box::pin(lines.write()));
        }
        self.spawn_subscription(arrive.clone(), stop.clone());
        self.spawn_counting(stop.clone());
        // What does not change is told of, too.
        self.measures.load(&Load::from(&self.machine.vitals()));

        let mut calls = BTreeMap::new();
        let mut cancels: BTreeMap<ActionId, Sender<Infallible>> = BTreeMap::new();
        let mut state = StartState::default();
        let mut freed = Freed::new(self.ttl);
        let mut listened_to = true;
        let mut handles_gone = false;
        let mut suspended = self.runtime.suspended();
        loop {
            let deadline = loop {
                match self.machine.poll_output() {
                    Output::Action(id, action) => {
                        self.say(Level::Trace, |c| format!("{c} does {id:?} {action:?}"));
                        let cancel = self.spawn_action(id, action, arrive.clone(), stop.clone());
                        if let Some(cancel) = cancel {
                            cancels.retain(|_, cancel| !cancel.is_closed());
                            cancels.insert(id, cancel);
                        }
                    }
                    Output::Cancel(id) => drop(cancels.remove(&id)),
                    Output::Notice(notice) => {
                        self.log(&notice);
                        if matches!(notice, Notice::Terminated { .. }) {
                            // Nothing is held any more, and whoever hears of the end
                            // may end the process.
                            self.voice.finish(&*self.runtime).await;
                        }
                        self.deliver(notice, &mut state, &mut freed);
                    }
                    Output::Answer(call, answer) => answer_call(&mut calls, call, answer),
                    Output::Timeout(at) => break at,
                    Output::Stopped => {
                        // Nothing is held any more.
                        self.take_pulse(Timestamp::MAX);
                        self.messages.close();
                        while let Ok(message) = self.messages.try_recv() {
                            if let Message::Command(command, call) = message {
                                self.take_command(command, call, &mut calls);
                            }
                        }
                        while let Output::Answer(call, answer) = self.machine.poll_output() {
                            answer_call(&mut calls, call, answer);
                        }
                        drop(alive);
                        return;
                    }
                }
            };
            self.report_started(&state);
            self.take_pulse(deadline);

            let wake = self
                .wait(&arrivals, deadline, listened_to, handles_gone)
                .await;
            let until_now = self.runtime.suspended();
            if let Some(slept) = until_now.checked_sub(suspended).filter(|t| !t.is_zero()) {
                suspended = until_now;
                self.machine
                    .handle(self.runtime.now(), Input::Suspended(slept));
            }
            match wake {
                Wake::Message(message) => self.take_message(message, &mut calls),
                Wake::Arrival(arrival) => self.take_arrival(arrival, &mut state, &mut freed),
                Wake::ReceiverDropped => {
                    listened_to = false;
                    self.machine
                        .handle(self.runtime.now(), Input::ReceiverDropped);
                }
                Wake::HandlesGone => {
                    handles_gone = true;
                    let command = Command::Shutdown { call: None };
                    self.machine
                        .handle(self.runtime.now(), Input::Command(command));
                }
                Wake::Timeout => self.machine.handle_timeout(self.runtime.now()),
            }
            // What else has come goes into the same pages.
            for arrival in iter::from_fn(|| arrivals.try_recv().ok()).take(MOST_AT_ONCE) {
                self.take_arrival(arrival, &mut state, &mut freed);
            }
            for _ in 0..MOST_AT_ONCE {
                let Ok(message) = self.messages.try_recv() else {
                    break;
                };
                self.take_message(message, &mut calls);
            }
        }
    }

    async fn wait(
        &self,
        arrivals: &Receiver<Arrival>,
        deadline: Timestamp,
        listened_to: bool,
        handles_gone: bool,
    ) -> Wake {
        let arrival = async {
            match arrivals.recv().await {
                Ok(arrival) => Wake::Arrival(arrival),
                // This function's caller holds a sender.
                Err(_) => future::pending().await,
            }
        };
        let message = async {
            if handles_gone {
                future::pending::<()>().await;
            }
            match self.messages.recv().await {
                Ok(message) => Wake::Message(message),
                Err(_) => Wake::HandlesGone,
            }
        };
        let silence = async {
            if !listened_to {
                future::pending::<()>().await;
            }
            self.events.closed().await;
            Wake::ReceiverDropped
        };
        let timeout = async {
            self.runtime.sleep_until(deadline).await;
            Wake::Timeout
        };
        // Time first: a lease that has expired is lost, whatever else waits.
        future::or(timeout, future::or(arrival, future::or(message, silence))).await
    }

    fn take_message(
        &mut self,
        message: Message,
        calls: &mut BTreeMap<CallId, Sender<Result<Answer>>>,
    ) {
        match message {
            Message::Command(command, call) => self.take_command(command, call, calls),
            Message::EventsTaken => {
                let taken = self.shared.taken.swap(0, Ordering::AcqRel);
                self.machine
                    .handle(self.runtime.now(), Input::EventsTaken(taken));
            }
            Message::TakeNoStreams => {
                self.machine
                    .handle(self.runtime.now(), Input::ReceiverDropped);
            }
        }
    }

    fn take_command(
        &mut self,
        command: Command,
        call: Option<(CallId, Sender<Result<Answer>>)>,
        calls: &mut BTreeMap<CallId, Sender<Result<Answer>>>,
    ) {
        calls.extend(call);
        self.machine
            .handle(self.runtime.now(), Input::Command(command));
    }

    fn take_arrival(&mut self, arrival: Arrival, state: &mut StartState, freed: &mut Freed) {
        let input = match arrival {
            Arrival::Done(id, result) => {
                self.say(Level::Trace, |c| format!("{c} gets {id:?} {result:?}"));
                freed.replied(&result, self.runtime.now());
                Input::Done(id, result)
            }
            Arrival::Hint(hint) => {
                let is_lost = hint == Hint::MayHaveMissed;
                freed.hinted(&hint, self.runtime.now());
                self.machine.handle(self.runtime.now(), Input::Hint(hint));
                return match is_lost {
                    true => self.measures.hint_dropped(),
                    false => self.measures.hint_received(),
                };
            }
            Arrival::SubscriptionTried => {
                state.subscription_tried = true;
                return;
            }
        };
        self.machine.handle(self.runtime.now(), input);
    }

    fn report_started(&self, state: &StartState) {
        if state.fetching && state.subscription_tried && !self.started.is_told() {
            self.started.tell(Ok(()));
        }
    }

    /// Starts an action; for a fetch, dropping what is returned cancels it.
    fn spawn_action(
        &self,
        id: ActionId,
        action: Action,
        arrive: Sender<Arrival>,
        stop: Receiver<Infallible>,
    ) -> Option<Sender<Infallible>> {
        let limit = time_limit(&action, self.ttl);
        let (cancel, cancelled) = match action {
            Action::Lbs(LbsCall::Fetch { .. }) => {
                let (cancel, cancelled) = async_channel::bounded(1);
                (Some(cancel), Some(cancelled))
            }
            _ => (None, None),
        };
        let (operation, size) = (action.operation(), size_of(&action));
        let runtime = self.runtime.clone();
        let (voice, measures) = (self.voice.clone(), self.measures.clone());
        let sent = runtime.now();
        let deadline = sent + limit;
        let work = Box::pin(action.execute(self.backend.clone(), self.consumer.clone()));
        let consumer = self.consumer.clone();
        let last_word = LastWord {
            arrive,
            about: Some(id),
            said: false,
        };
        self.runtime.spawn(Box::pin(async move {
            let work = async {
                let overdue = async {
                    runtime.sleep_until(deadline).await;
                    Err(Error::new(
                        ErrorKind::Unavailable,
                        format!("no answer to {operation} within {}", readable(limit)),
                    ))
                };
                let result = future::or(work, overdue).await;
                if let Err(error) = &result {
                    let line = || format!("{operation} failed consumer={consumer}: {error:?}");
                    voice.say(Level::Debug, line);
                }
                let record = measured(
                    operation,
                    size,
                    runtime.now().saturating_since(sent),
                    &result,
                );
                last_word.say(result);
                record(&measures);
            };
            let stopped = async {
                let _ = stop.recv().await;
            };
            let cancelled = async {
                match cancelled {
                    Some(cancelled) => drop(cancelled.recv().await),
                    None => future::pending().await,
                }
            };
            future::or(work, future::or(stopped, cancelled)).await;
        }));
        cancel
    }

    /// Tells the user, then measures: what is slow comes last. The machine has made
    /// sure that there is a place in the queue.
    fn deliver(&mut self, notice: Notice, state: &mut StartState, freed: &mut Freed) {
        let (event, measure) = match notice {
            Notice::Started => {
                state.fetching = true;
                return;
            }
            Notice::Unreachable { .. } | Notice::Refused { .. } | Notice::Reached { .. } => return,
            Notice::Paused(_) | Notice::Resumed => return,
            Notice::Late { by } => return self.measures.late(by),
            Notice::Recovered { entries } => return self.measures.startup_recovery(entries),
            Notice::Added {
                entry,
                stream,
                info,
                token,
                claimed_from,
                origin,
                failures,
                death_counts,
                belief,
            } => {
                let owner = claimed_from.as_ref().unwrap_or(&self.consumer);
                let free_for = freed.taken(entry, origin, owner, self.runtime.now());
                let announced_at = Duration::from_millis(entry.ms);
                let started = Started::new(origin, announced_at, free_for, death_counts);
                // Without handles the shutdown is on its way, and hands this back too.
                let event = self.handles.upgrade().map(|handle| {
                    Event::StreamAdded(Lease {
                        entry,
                        stream,
                        info,
                        token,
                        claimed_from,
                        failures,
                        belief,
                        handle,
                        ending: Default::default(),
                    })
                });
                (event, Some(Measure::Started(started)))
            }
            Notice::Ended {
                entry,
                stream,
                info,
                token,
                end,
                held,
            } => {
                let (kind, event) = match end {
                    End::Completed => (EndKind::Completed, None),
                    End::HandedBack => (EndKind::HandedBack, None),
                    End::Failed(_) => (EndKind::Failed, None),
                    End::Disowned(reason) => {
                        let disowned = Disowned::new(entry, stream, info, token, reason);
                        let event = Event::StreamDisowned(disowned);
                        (EndKind::Disowned(reason), Some(event))
                    }
                };
                (event, Some(Measure::Ended(kind, held)))
            }
            Notice::Expired {
                entry,
                stream,
                info,
                owner,
            } => {
                let orphan = Orphan::new(entry, stream, info, owner);
                (Some(Event::StreamExpired(orphan)), None)
            }
            Notice::Quarantined {
                entry,
                content,
                reason,
                failures,
            } => {
                let quarantined = QuarantinedEntry::new(entry, content, reason, failures);
                (
                    Some(Event::Quarantined(quarantined)),
                    Some(Measure::Quarantined),
                )
            }
            Notice::Terminated { error } => {
                let termination = Termination::new(error);
                if !self.started.is_told() {
                    self.started.tell(Err(termination.to_error()));
                }
                let _ = self.shared.end.set(termination.clone());
                (Some(Event::Terminated(termination)), None)
            }
        };
        if let Some(event) = event {
            // Nobody listens: a lease in the event hands itself back as it is dropped.
            let _ = self.events.try_send(event);
        }
        match measure {
            Some(Measure::Started(started)) => self.measures.stream_started(&started),
            Some(Measure::Ended(kind, held)) => self.measures.stream_ended(kind, held),
            Some(Measure::Quarantined) => self.measures.quarantined(),
            None => {}
        }
    }

    /// Shows how the client fares, and measures what has changed.
    fn take_pulse(&self, due: Timestamp) {
        let vitals = self.machine.vitals();
        let before = {
            let mut pulse = self.shared.pulse();
            let before = pulse.take();
            *pulse = Some(Pulse {
                vitals: vitals.clone(),
                due,
            });
            before.map(|pulse| pulse.vitals)
        };
        if before.as_ref() != Some(&vitals) {
            measure_change(before.as_ref(), &vitals, self.runtime.now(), &self.measures);
        }
    }
}

impl Drop for Driver {
    /// When it has run to its end nothing is held. But executors drop a task that
    /// panics, and all tasks in the end; then nobody extends the leases any more.
    fn drop(&mut self) {
        self.machine.end_beliefs();
        *self.shared.pulse() = None;
        measure_end(&self.measures);
    }
}

/// What `Client::started` waits for.
#[derive(Debug, Default)]
struct StartState {
    fetching: bool,
    subscription_tried: bool,
}

fn answer_call(
    calls: &mut BTreeMap<CallId, Sender<Result<Answer>>>,
    call: CallId,
    answer: Result<Answer>,
) {
    if let Some(caller) = calls.remove(&call) {
        let _ = caller.try_send(answer);
    }
}
