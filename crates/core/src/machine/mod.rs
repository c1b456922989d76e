//! The recovery state machine: sans-IO, no clock, no randomness of its own.
//!
//! ```text
//! handle(now, input)      something happened
//! handle_timeout(now)     the time that Output::Timeout named has come
//! poll_output()           until it yields Timeout or Stopped
//! ```
//!
//! After each `handle` or `handle_timeout` the outputs are drained until
//! `Timeout` or `Stopped`. Several inputs may be handled before draining.
//!
//! Where to find what, in the order of a stream's life:
//! - `fetch`: fresh entries, and how many at once;
//! - `acquiring`: lock → fenced claim → added (R3, R4, R6);
//! - `ending`: refresh, complete, hand back, quarantine, release (R4, R7, R12);
//! - `lanes`: how steps are sent, a page at a time;
//! - `session`: open, beat, believe, disown (R1, R2);
//! - `doubt`: leases that the lock server may have lost, and its record of them;
//!   `fresh`: those that it may still lose;
//! - `look`: what makes it look at what is pending, and at what next: hints, own
//!   entries, the dead, everything (R7, R9); `look/steps`: how one look goes;
//!   `look/sweep`: whose turn it is to look at everything;
//! - `judging`: what a look shows: ours, an orphan, somebody else's (R9);
//! - `orphans`: who is dead, who takes over (R9, R11);
//! - `turns`: who of the survivors goes first for which entry (R11);
//! - `silence`: handlers that make no progress;
//! - `ids`: entry ids that a restored LBS gave to other announcements;
//! - `forgiving`: failures of earlier owners that are over;
//! - `late`: what was lost although this process lives, and whether it ran on time;
//! - `control`: preparing, outages, giving up, shutting down (R8).
//!
//! It is level-triggered and edge-accelerated: looking at what is pending is,
//! alone, enough for every orphan to be found; hints only make it faster.

mod acquiring;
mod control;
mod doubt;
mod ending;
mod fetch;
mod forgiving;
mod fresh;
mod ids;
mod io;
mod items;
mod judging;
mod lanes;
mod late;
mod look;
mod orphans;
mod rng;
mod session;
mod silence;
#[cfg(test)]
mod tests;
mod turns;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub use io::{
    Action, ActionId, Answer, CallId, ClaimResult, Command, Completion, DisownReason, End,
    Handover, Input, Notice, Output, Reply,
};

pub use crate::belief::Belief;
use crate::{
    ClaimMode, ConsumerName, EntryId, Fenced, FencingToken, Hint, LeaseRef, LockScheme, Settings,
    Timestamp,
};
pub use control::Part;
pub(crate) use control::closed;
use control::{Outage, Phase};
use forgiving::Forgiving;
use items::Items;
use lanes::Lanes;
use late::{Late, Punctuality};
use look::Looking;
use orphans::Orphans;
use rng::Rng;
pub(crate) use rng::mix;
use session::Sitting;

/// Streams per action: a page. A script over one takes Redis well under 2 ms.
pub(crate) const PAGE: usize = 120;

/// What a machine is made of.
#[derive(Debug, Clone)]
pub struct Config {
    /// The consumer's name in the group.
    pub consumer: ConsumerName,
    /// Validated settings.
    pub settings: Settings,
    /// What the lock manager's leases hang on.
    pub scheme: LockScheme,
    /// Source of session nonces and jitter; must differ for every start.
    pub seed: u64,
}

/// One consumer's state machine. See the [module docs](self).
#[derive(Debug)]
pub struct Machine {
    consumer: ConsumerName,
    settings: Settings,
    scheme: LockScheme,
    rng: Rng,
    now: Timestamp,
    outputs: VecDeque<Output>,
    flights: BTreeMap<ActionId, InFlight>,
    last_action: u64,

    phase: Phase,
    /// By [`control::Part`].
    outages: [Option<Outage>; 3],
    /// Which calls have ever worked, by [`control::Vital`].
    answered: [bool; 4],
    /// When a refusal was told last.
    refusal_told: Option<Timestamp>,
    prepared: bool,
    started: bool,
    shutdown_calls: Vec<CallId>,
    /// Between the tries of a shutdown's last steps.
    leaving: Backoff,

    sitting: Sitting,
    items: Items,
    lanes: Lanes,
    /// Greatest token seen anywhere (R5).
    floor: FencingToken,
    last_attempt: u64,
    /// Who waits for the end of an entry's lease.
    end_calls: BTreeMap<EntryId, Vec<CallId>>,
    /// Entries handed back here: left to others until then (R7).
    shunned: BTreeMap<EntryId, Timestamp>,

    fetch: fetch::Fetching,
    looking: Looking,
    orphans: Orphans,

    /// Events that the user has not taken yet.
    undelivered: usize,
    /// Quarantinings under way, each of which will be an event.
    quarantining: usize,
    /// Nobody takes events any more.
    deaf: bool,
    /// When a lease's handler must have reported progress (looked up again then).
    silences: BTreeSet<(Timestamp, EntryId)>,
    /// When to look again at waiting items.
    wakes: BTreeSet<(Timestamp, EntryId)>,
    /// Items that wait for nothing but room.
    no_room: BTreeSet<EntryId>,
    forgiving: Forgiving,
    late: Late,
    punctuality: Punctuality,
}

/// An action whose reply is awaited.
#[derive(Debug)]
struct InFlight {
    /// The sitting it belongs to; replies for an earlier one change nothing.
    sitting: u64,
    sent: Timestamp,
    /// Leases that it brings are believed no longer than this, until the record
    /// shows them (see `doubt`).
    capped: Timestamp,
    flight: Flight,
}

/// What the reply of an action will be about.
#[derive(Debug)]
enum Flight {
    Prepare,
    Open,
    Close,
    Beat {
        leases: Arc<[LeaseRef]>,
        quiet_since: Option<u64>,
    },
    Records(doubt::Reading),
    Fetch {
        max: usize,
        wait: Duration,
    },
    Acquire(Vec<(EntryId, u64)>),
    Claim(Vec<(EntryId, FencingToken)>),
    Refresh(Vec<(EntryId, FencingToken)>),
    ClearFailures(Vec<Fenced>),
    Complete(Vec<(EntryId, FencingToken)>),
    HandBack(Vec<(EntryId, FencingToken)>),
    LateHandBack(Vec<(EntryId, FencingToken)>),
    Quarantine(Vec<(EntryId, lanes::Parking)>),
    Release(Vec<LeaseRef>),
    Look,
    TakeOver {
        suspect: orphans::SuspectKey,
        /// How many leases it may bring.
        places: usize,
    },
    Bury(orphans::SuspectKey),
    /// Of a dead consumer, or one's own name.
    Forget(Option<orphans::SuspectKey>),
}

impl Machine {
    /// A machine that has not done anything yet; drain its outputs to start it.
    pub fn new(config: Config, now: Timestamp) -> Self {
        let mut rng = Rng::new(config.seed);
        let sitting = Sitting::new(&config, &mut rng, now);
        let mut machine = Self {
            consumer: config.consumer,
            scheme: config.scheme,
            rng,
            now,
            outputs: VecDeque::new(),
            flights: BTreeMap::new(),
            last_action: 0,
            phase: Phase::Running,
            outages: [None; 3],
            answered: [false; 4],
            refusal_told: None,
            prepared: false,
            started: false,
            shutdown_calls: Vec::new(),
            leaving: Backoff::default(),
            sitting,
            items: Items::default(),
            lanes: Lanes::default(),
            floor: FencingToken::NONE,
            last_attempt: 0,
            end_calls: BTreeMap::new(),
            shunned: BTreeMap::new(),
            fetch: fetch::Fetching::default(),
            looking: Looking::new(now),
            orphans: Orphans::default(),
            undelivered: 0,
            quarantining: 0,
            deaf: false,
            silences: BTreeSet::new(),
            wakes: BTreeSet::new(),
            no_room: BTreeSet::new(),
            forgiving: Forgiving::default(),
            late: Late::default(),
            punctuality: Punctuality::new(),
            settings: config.settings,
        };
        machine.pump();
        machine
    }

    /// Something happened.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        if let Input::Suspended(time) = input {
            // Before the clock is looked at.
            self.punctuality.suspended(time);
        }
        self.advance(now);
        if self.phase == Phase::Stopped {
            self.answer_late(input);
            return;
        }
        match input {
            Input::Done(id, result) => self.done(id, result),
            Input::Hint(hint) => self.hint(hint),
            Input::Command(command) => self.command(command),
            Input::EventsTaken(n) => self.undelivered = self.undelivered.saturating_sub(n),
            // Nothing but the clock has moved.
            Input::Suspended(_) => {}
            Input::NobodyListens => {
                self.deaf = true;
                // It would bring what only others can take.
                self.cancel_fetch();
            }
        }
        self.pump();
    }

    /// The time named by the last [`Output::Timeout`] has come (or any other has).
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.advance(now);
        self.pump();
    }

    /// The next thing to do. Call until it yields `Timeout` or `Stopped`.
    pub fn poll_output(&mut self) -> Output {
        if let Some(output) = self.outputs.pop_front() {
            return output;
        }
        match self.phase {
            Phase::Stopped => Output::Stopped,
            _ => {
                let at = self.next_timeout();
                debug_assert!(at > self.now, "spins on a time in the past: {self:?}");
                let at = at.max(self.now + Duration::from_millis(1));
                self.punctuality.promise(at);
                Output::Timeout(at)
            }
        }
    }

    /// How many streams are held. For metrics.
    pub fn held(&self) -> usize {
        self.items.locked()
    }

    /// Moves the clock, never back, and disowns before anything else is done (R1).
    fn advance(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
        self.punctuality.look(self.now, self.settings.ttl);
        if self.phase != Phase::Stopped && self.belief_ran_out() {
            self.abandon_session(DisownReason::Expired);
        }
    }

    /// Everything that may be due or have become possible. Cheap when nothing is.
    fn pump(&mut self) {
        if self.phase == Phase::Stopped {
            return;
        }
        self.pump_control();
        if self.phase != Phase::Stopped && self.sitting.is_open() {
            self.pump_session();
        }
        if self.phase != Phase::Stopped {
            self.pump_late();
        }
    }

    fn pump_session(&mut self) {
        self.pump_waiting();
        self.pump_silence();
        self.pump_forgiving();
        self.pump_unreported();
        self.pump_looks();
        self.pump_lanes();
        self.pump_fetch();
        self.pump_beat();
        self.pump_doubt();
        self.pump_drain();
    }

    fn done(&mut self, id: ActionId, result: crate::Result<Reply>) {
        // A reply that comes twice is known by its id being gone.
        let Some(InFlight {
            sitting,
            sent,
            capped,
            flight,
        }) = self.flights.remove(&id)
        else {
            return;
        };
        let current = sitting == self.sitting.number;
        match flight {
            Flight::Prepare => self.prepare_done(result),
            Flight::Fetch { max, wait } => self.fetch_done(sent, (max, wait), result),
            Flight::Look => self.look_done(result),
            Flight::LateHandBack(page) => self.late_hand_back_done(&page, result),
            Flight::Quarantine(page) => self.quarantine_done(page, result, current),
            Flight::Forget(None) => self.forget_own_done(&result),
            Flight::Forget(Some(suspect)) => self.forget_done(&suspect, &result),
            Flight::Close => self.close_done(&result),
            // What an abandoned session did no longer matters: what it held is
            // dead with it, and all of it is listed again.
            _ if !current => {}
            Flight::Open => self.open_done(sent, result),
            Flight::Beat {
                leases,
                quiet_since,
            } => self.beat_done(sent, &leases, quiet_since, result),
            Flight::Records(reading) => self.records_done(reading, result),
            Flight::Acquire(page) => self.acquire_done(sent, capped, &page, result),
            Flight::Claim(page) => self.claim_done(&page, result),
            Flight::Refresh(page) => self.refresh_done(&page, result),
            Flight::ClearFailures(page) => self.clear_failures_done(page, result),
            Flight::Complete(page) => self.complete_done(&page, result),
            Flight::HandBack(page) => self.hand_back_done(&page, result),
            Flight::Release(page) => self.release_done(&page, result),
            Flight::TakeOver { suspect, places } => {
                self.take_over_done(&suspect, places, (sent, capped), result);
            }
            Flight::Bury(suspect) => self.bury_done(&suspect, result),
        }
    }

    fn hint(&mut self, hint: Hint) {
        match hint {
            Hint::LockExpired { entry, .. } => self.look_at_expired(entry),
            Hint::HandedBack(entries) => self.look_at_handed_back(entries),
            Hint::Freed(streams) => {
                for stream in &streams {
                    self.wake_stream(stream);
                    self.turn_freed(stream);
                }
            }
            Hint::HolderGone(consumer) => self.suspect(consumer, None),
            Hint::MayHaveMissed => {
                // Hints come again: so may everything else.
                self.retry_soon();
                self.look_after_silence();
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Complete { entry, token, call } => self.complete(entry, token, call),
            Command::DoneStream { stream, call } => {
                let lease = self
                    .items
                    .active_entry(&stream)
                    .and_then(|entry| Some((entry, self.items.get(entry)?.state.lock()?.token)));
                match lease {
                    Some((entry, token)) => self.complete(entry, token, call),
                    None => self.answer(call, Ok(Answer::Completion(Completion::NotOwner))),
                }
            }
            Command::HandBack {
                entry,
                token,
                failed,
                call,
            } => {
                self.hand_back(entry, token, failed, call);
            }
            Command::Claim {
                entry,
                stream,
                info,
                call,
            } => {
                self.claim_orphan(entry, stream, info, call);
            }
            Command::LimitSilence {
                entry,
                token,
                limit,
            } => self.limit_silence(entry, token, limit),
            Command::SetCapacity(capacity) => {
                self.late.allow(self.settings.capacity);
                self.settings.capacity = capacity;
            }
            Command::Shutdown { call } => self.shut_down(call),
        }
    }

    fn act(&mut self, action: Action, flight: Flight) {
        self.last_action += 1;
        let id = ActionId(self.last_action);
        let in_flight = InFlight {
            sitting: self.sitting.number,
            sent: self.now,
            capped: Timestamp::MAX,
            flight,
        };
        self.flights.insert(id, in_flight);
        self.outputs.push_back(Output::Action(id, action));
    }

    fn notify(&mut self, notice: Notice) {
        self.outputs.push_back(Output::Notice(notice));
    }

    /// A notice that takes a place in the user's queue until they take it out.
    fn notify_queued(&mut self, notice: Notice) {
        self.undelivered += 1;
        self.notify(notice);
    }

    fn answer(&mut self, call: CallId, answer: crate::Result<Answer>) {
        self.outputs.push_back(Output::Answer(call, answer));
    }

    /// How many more streams may be taken now: within the capacity (R11) and
    /// the event queue, which each will need a place in (R10).
    fn room(&self) -> usize {
        if self.deaf || self.phase != Phase::Running || !self.sitting.is_open() {
            return 0;
        }
        let arriving = self.orphans.arriving();
        let taken = self.items.active() + arriving;
        let seats = self.settings.capacity.saturating_sub(taken);
        let parking = self.lanes.quarantine.queue.len();
        seats.min(self.event_places().saturating_sub(parking))
    }

    /// How many may be parked now: each will be an event. What nobody listens to,
    /// or what is to be over soon, waits for no place.
    fn parking_places(&self) -> usize {
        match self.deaf || self.is_draining() {
            true => usize::MAX,
            false => self.event_places(),
        }
    }

    /// Places in the event queue that nothing under way will need (R10).
    fn event_places(&self) -> usize {
        let coming = self.items.inbound() + self.orphans.arriving() + self.quarantining;
        self.settings
            .event_queue
            .saturating_sub(self.undelivered + coming)
    }

    fn is_manual(&self) -> bool {
        self.settings.claim == ClaimMode::Manual
    }

    /// A short wait with jitter, for looking at a deadline that has just passed.
    fn deadline_jitter(&mut self) -> Duration {
        self.rng.up_to(orphans::LATEST_NEWS)
    }

    fn next_timeout(&self) -> Timestamp {
        let mut next = self.control_timeout().min(self.late.timeout());
        if self.sitting.is_open() {
            next = next
                .min(self.session_timeout())
                .min(self.doubt_timeout())
                .min(self.lanes.timeout(self.parking_places() > 0))
                .min(self.look_timeout())
                .min(self.fetch_timeout())
                .min(self.forgiving.timeout())
                .min(self.silences.first().map_or(Timestamp::MAX, |(at, _)| *at))
                .min(self.wakes.first().map_or(Timestamp::MAX, |(at, _)| *at));
        }
        next
    }
}

/// Doubling waits after failures in a row.
#[derive(Debug, Clone, Copy, Default)]
struct Backoff {
    failures: u32,
    not_before: Timestamp,
}

impl Backoff {
    fn is_ready(&self, now: Timestamp) -> bool {
        self.not_before <= now
    }

    fn succeed(&mut self) {
        *self = Self::default();
    }

    /// Waits 10 ms, doubling up to a fifth of the TTL, so that a lease's work
    /// is tried several times before R1 strikes.
    fn fail(&mut self, now: Timestamp, ttl: Duration, rng: &mut Rng) {
        let wait = Duration::from_millis(10) * 2u32.pow(self.failures.min(8));
        self.failures += 1;
        self.not_before = now + rng.jittered(wait.min(ttl / 5));
    }
}
