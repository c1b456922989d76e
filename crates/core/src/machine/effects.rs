//! What parts want of each other, and how the machine carries it out.

use super::calls::Flight;
use super::cx::Phase;
use super::leases::lanes::ToQuarantine;
use super::leases::table::Origin;
use super::lifecycle::outages::{Part, Vital};
use super::session::SessionState;
use super::session::heartbeat::Heartbeat;
use super::{DisownReason, Machine, Notice};
use crate::{Announcement, ConsumerName, EntryId, Error, Info, LeaseRef, StreamName, Timestamp};

/// What one part wants of another. The machine carries it out as soon as that part is done.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Scan the entry again at that time, or before.
    Recheck(EntryId, Timestamp),
    /// Nobody owned the entry when it was seen last: that is not to be waited for again.
    Unowned(EntryId),
    /// There was no room for this orphan.
    LeftBehind(EntryId),
    /// A claim was refused because the service is paused.
    ClaimPaused,
    /// The service is paused, as is known from now on.
    Paused,
    /// It is paused no more.
    Resumed,
    /// Scan these entries.
    Rescan(Vec<EntryId>),
    /// Scan what is pending at this consumer.
    RescanOwn,
    /// The next heartbeat is to be sent by then.
    HeartbeatBy(Timestamp),
    /// Nothing is to be fetched before then.
    FetchNotBefore(Timestamp),
    /// An entry was read: under its id the LBS has an announcement of this stream, or one
    /// that cannot be read.
    Read(EntryId, Option<StreamName>),
    /// Lock it and claim it. With who gave it up, if somebody did.
    Admit {
        entry: EntryId,
        content: Announcement,
        origin: Origin,
        giver: Option<ConsumerName>,
    },
    /// Claim what a take-over brought, now that its entry was read.
    Adopt(LeaseRef, Info),
    /// Free what a take-over brought.
    GiveBack(LeaseRef),
    /// A take-over brought a lease: when that was sent, and until when the lease is
    /// believed at most.
    TakenOver {
        lease: LeaseRef,
        sent: Timestamp,
        valid_at_most: Timestamp,
    },
    /// Into quarantine.
    Quarantine(EntryId, ToQuarantine),
    /// Claim again what is held.
    Refresh(Vec<EntryId>),
    /// Something in the way of this stream may be gone.
    Wake(StreamName),
    /// The lock server makes everybody wait, for it was restarted.
    LocksRestarted,
    /// The session is over, and everything that hangs on it.
    AbandonSession(DisownReason),
    /// A heartbeat was answered.
    Heartbeat(Box<Heartbeat>),
    /// Everything is prepared for a session.
    OpenSession,
    /// A call, of this name, failed. Its part tries it again.
    Failed(&'static str, Error),
    /// A call without which nothing goes on failed.
    VitalFailed(Vital, Error),
    /// This part has not answered for long, and why the first of its calls failed.
    Unreachable(Part, Error),
    /// The client is at its end, for this reason if it was not asked for.
    Stop(Option<Error>),
}

impl Machine {
    /// Carries out what parts want of each other, in the order in which they asked.
    #[inline(always)]
    pub(super) fn apply(&mut self) {
        // Mostly there are none, and this is asked several times for each input.
        if !self.cx.effects.is_empty() {
            self.apply_all();
        }
    }

    #[inline(never)]
    fn apply_all(&mut self) {
        while let Some(effect) = self.cx.effects.pop_front() {
            match effect {
                Effect::Recheck(entry, at) => self.recovery.recheck(at, entry),
                Effect::Unowned(entry) => self.recovery.remember_expired(&mut self.cx, entry),
                Effect::LeftBehind(entry) => self.recovery.left_behind(&self.cx, entry),
                Effect::ClaimPaused => self.pauses.refused(&mut self.cx),
                Effect::Paused => self.intake.give_up(&mut self.cx),
                Effect::Resumed => self.recovery.resumed(&mut self.cx),
                Effect::Rescan(entries) => self.recovery.rescan(entries),
                Effect::RescanOwn => self.recovery.rescan_own(&mut self.cx),
                Effect::HeartbeatBy(at) => self.session.heartbeat_by(at),
                Effect::FetchNotBefore(at) => self.intake.wait_until(at),
                Effect::Read(entry, stream) => {
                    self.leases.read(&mut self.cx, entry, stream.as_ref());
                }
                Effect::Admit {
                    entry,
                    content,
                    origin,
                    giver,
                } => self
                    .leases
                    .admit_from(&mut self.cx, entry, content, origin, giver),
                Effect::Adopt(lease, info) => self.leases.adopt(&mut self.cx, lease, info),
                Effect::GiveBack(lease) => self.leases.give_back(&mut self.cx, lease),
                Effect::TakenOver {
                    lease,
                    sent,
                    valid_at_most,
                } => self
                    .leases
                    .taken_over(&mut self.cx, lease, sent, valid_at_most),
                Effect::Quarantine(entry, wanted) => self.leases.quarantine(entry, wanted),
                Effect::Refresh(entries) => self.leases.lanes.refresh.queue.extend(entries),
                Effect::Wake(stream) => self.leases.wake_stream(&mut self.cx, &stream),
                Effect::LocksRestarted => self.leases.lock_server_restarted(&mut self.cx),
                Effect::AbandonSession(reason) => self.abandon_session(reason),
                Effect::Heartbeat(heartbeat) => self.heartbeat(*heartbeat),
                Effect::OpenSession => self.session.open(&mut self.cx),
                Effect::Failed(call, error) => self.outages.step_failed(&mut self.cx, call, &error),
                Effect::Unreachable(part, error) => {
                    self.outages.unreachable(&mut self.cx, part, error)
                }
                Effect::VitalFailed(call, error) => self.outages.failed(&mut self.cx, call, error),
                Effect::Stop(error) => self.stop(error),
            }
        }
    }

    /// What a heartbeat brought, to whom it concerns.
    fn heartbeat(&mut self, heartbeat: Heartbeat) {
        let deadline = self.leases.heartbeat(&mut self.cx, &heartbeat);
        self.session.heartbeat_answered(self.cx.now, deadline);
        self.session.show_deadline(&self.cx);
        self.recovery
            .heartbeat(&mut self.cx, &self.leases, &heartbeat.reply);
        self.session
            .told_of_deadline(&mut self.cx, &heartbeat.reply);
        self.leases.compare_count(&mut self.cx, &heartbeat);
    }

    /// Ends everything that hangs on the current session and begins another,
    /// whose id was never used. What was pending here is listed again by it.
    pub(super) fn abandon_session(&mut self, reason: DisownReason) {
        self.leases.start_over(&mut self.cx, reason);
        self.cx.begin_session();
        self.session = SessionState::new(self.cx.now);
        self.recovery.start_over(&self.cx);
    }

    /// The end. After `Terminated` nothing comes (R12).
    pub(super) fn stop(&mut self, error: Option<Error>) {
        self.leases
            .lose_all(&mut self.cx, DisownReason::ClientStopped);
        self.cx
            .cancel(|flight| matches!(flight, Flight::Fetch { .. }));
        self.cx.calls.cancel_all();
        self.cx.effects.clear();
        self.cx.phase = Phase::Stopped;
        self.cx.notify(Notice::Terminated { error });
        self.drain.stopped(&mut self.cx);
    }
}
