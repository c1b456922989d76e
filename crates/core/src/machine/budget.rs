//! How much may be taken: within the capacity (R11), and within the event queue, so that
//! each event has its place before it is needed (R10).

use super::cx::{Cx, Phase};
use super::leases::Leases;

/// What takes places in the event queue, and of the capacity, besides what is held.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    /// Events that the user has not taken yet.
    undelivered: usize,
    /// Quarantinings under way, each of which will be an event.
    quarantining: usize,
    /// How many leases the take-overs under way may bring.
    reserved: usize,
    /// Nobody takes streams any more.
    receiver_dropped: bool,
}

impl Budget {
    /// An event goes to the user.
    pub(crate) fn queued(&mut self) {
        self.undelivered += 1;
    }

    /// The user took so many events out.
    pub(crate) fn taken(&mut self, events: usize) {
        self.undelivered = self.undelivered.saturating_sub(events);
    }

    /// A take-over may bring so many leases.
    pub(crate) fn reserve(&mut self, places: usize) {
        self.reserved += places;
    }

    /// It is answered.
    pub(crate) fn free(&mut self, places: usize) {
        self.reserved = self.reserved.saturating_sub(places);
    }

    /// What the session asked for is not awaited any more.
    pub(crate) fn free_all(&mut self) {
        self.reserved = 0;
    }

    pub(crate) fn quarantine_sent(&mut self, entries: usize) {
        self.quarantining += entries;
    }

    pub(crate) fn quarantine_answered(&mut self, entries: usize) {
        self.quarantining = self.quarantining.saturating_sub(entries);
    }

    pub(crate) fn receiver_dropped(&mut self) {
        self.receiver_dropped = true;
    }

    pub(crate) fn undelivered(&self) -> usize {
        self.undelivered
    }

    pub(crate) fn is_receiver_dropped(&self) -> bool {
        self.receiver_dropped
    }
}

impl Leases {
    /// How many more streams may be taken now: within the capacity (R11) and
    /// the event queue, which each will need a place in (R10). None in a pause.
    pub(crate) fn room(&self, cx: &Cx) -> usize {
        let takes_nothing = cx.budget.receiver_dropped || cx.is_paused;
        if takes_nothing || cx.phase != Phase::Running || !cx.is_open() {
            return 0;
        }
        let arriving = self.arriving(cx);
        let taken = self.items.active() + arriving;
        let seats = cx.settings.capacity.saturating_sub(taken);
        let waiting = self.lanes.quarantine.queue.len();
        seats.min(self.event_places(cx).saturating_sub(waiting))
    }

    /// Places that leases on their way here will take.
    fn arriving(&self, cx: &Cx) -> usize {
        self.adopting.len() + cx.budget.reserved
    }

    /// How many may be quarantined now: each will be an event. What nobody listens to,
    /// or what is to be over soon, waits for no place.
    pub(crate) fn quarantine_places(&self, cx: &Cx) -> usize {
        match cx.budget.receiver_dropped || cx.is_draining() {
            true => usize::MAX,
            false => self.event_places(cx),
        }
    }

    /// Places in the event queue that nothing under way will need (R10).
    pub(crate) fn event_places(&self, cx: &Cx) -> usize {
        let coming = self.items.inbound() + self.arriving(cx) + cx.budget.quarantining;
        cx.settings
            .event_queue
            .saturating_sub(cx.budget.undelivered + coming)
    }
}
