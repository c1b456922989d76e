//! Which entries this consumer goes for, and when: an entry waits here until its stream is
//! free and there is room, and then goes into the acquire lane (R6, R11).

use super::Leases;
use super::table::{Origin, State};
use crate::machine::cx::Cx;
use crate::machine::effects::Effect;
use crate::machine::lifecycle::closed;
use crate::machine::{Answer, CallId, ClaimResult};
use crate::{Announcement, ConsumerName, EntryId, Error, ErrorKind, Info, StreamName, Timestamp};

impl Leases {
    /// An entry that this consumer should work on, unless it is known already.
    pub(crate) fn admit(
        &mut self,
        cx: &mut Cx,
        entry: EntryId,
        content: Announcement,
        origin: Origin,
    ) {
        self.late.own_taken(entry);
        self.id_is_of(cx, entry, Some(&content.stream));
        if self.items.contains(entry) {
            return;
        }
        if let Some(until) = self.cooldown.get(&entry) {
            if until > cx.now {
                cx.effect(Effect::Recheck(entry, until));
                return;
            }
            self.cooldown.cancel(&entry);
        }
        self.items
            .insert(entry, content.stream, content.info, origin);
        self.try_start(cx, entry);
    }

    pub(crate) fn admit_from(
        &mut self,
        cx: &mut Cx,
        entry: EntryId,
        content: Announcement,
        origin: Origin,
        giver: Option<ConsumerName>,
    ) {
        self.admit(cx, entry, content, origin);
        if let Some(item) = self.items.get_mut(entry)
            && giver.is_some()
        {
            item.giver = giver;
        }
    }

    /// What was known of these is outdated: one that waits here for its turn
    /// had an owner meanwhile, may have failed once more, and is to rest then.
    pub(crate) fn reconsider(&mut self, entries: &[EntryId]) {
        for entry in entries {
            if let Some(item) = self.items.get(*entry)
                && matches!(item.state, State::Waiting { .. })
                && !matches!(item.origin, Origin::Call(_))
            {
                self.items.remove(*entry);
            }
        }
    }

    /// Into the acquire lane, if nothing stands against it.
    pub(super) fn try_start(&mut self, cx: &mut Cx, entry: EntryId) {
        let Some(item) = self.items.get(entry) else {
            return;
        };
        let State::Waiting { refused } = item.state else {
            return;
        };
        let (stream, origin) = (item.stream.clone(), item.origin);
        if self.items.active_entry(&stream).is_some() || self.lanes.is_releasing(&stream) {
            return self.wait_for_stream(cx, entry, origin);
        }
        if !matches!(origin, Origin::Call(_)) {
            match self.items.first_waiting(&stream) {
                Some(first) if first != entry => return self.wait_for_stream(cx, entry, origin),
                _ => {}
            }
        }
        if self.room(cx) == 0 {
            return match origin {
                Origin::Mine => {
                    self.no_room.insert(entry);
                }
                Origin::HandedBack | Origin::Orphan => {
                    self.items.remove(entry);
                    cx.effect(Effect::LeftBehind(entry));
                    // There was room when it was seen. That nobody owns it is known
                    // already, and who had it may be removed before the next sweep.
                    if origin == Origin::Orphan {
                        cx.effect(Effect::Unowned(entry));
                        let soon = cx.rng.jittered(cx.settings.ttl / 4);
                        cx.effect(Effect::Recheck(entry, cx.now + soon));
                    }
                }
                Origin::Call(call) => {
                    self.items.remove(entry);
                    let why = match cx.is_paused {
                        true => ClaimResult::Paused,
                        false => ClaimResult::Full,
                    };
                    cx.answer(call, Ok(Answer::Claim(why)));
                }
            };
        }
        self.last_attempt += 1;
        self.items.set(
            entry,
            State::Acquiring {
                attempt: self.last_attempt,
                refused,
                freed: false,
            },
        );
        self.lanes.acquire.queue.insert(entry);
    }

    /// R6: woken by the end of what is in the way, at the latest after a TTL.
    fn wait_for_stream(&mut self, cx: &mut Cx, entry: EntryId, origin: Origin) {
        match origin {
            Origin::Call(call) => {
                self.items.remove(entry);
                cx.answer(call, Ok(Answer::Claim(ClaimResult::HeldElsewhere)));
            }
            _ => {
                self.wake_at(cx.now + cx.settings.ttl, entry);
            }
        }
    }

    /// Tries a waiting item then, instead of whenever it was to be tried before.
    pub(super) fn wake_at(&mut self, at: Timestamp, entry: EntryId) {
        if self.items.contains(entry) {
            self.wakes.set(entry, at);
        }
    }

    /// Something in the way of this data stream may be gone: its lowest waiting entry is next.
    pub(crate) fn wake_stream(&mut self, cx: &mut Cx, stream: &StreamName) {
        if self.items.inbound() > 0
            && let Some(entry) = self.items.active_entry(stream)
            && let Some(item) = self.items.get_mut(entry)
            && let State::Acquiring { freed, .. } = &mut item.state
        {
            *freed = true;
        }
        if let Some(entry) = self.items.first_waiting(stream) {
            self.try_start(cx, entry);
        }
    }

    pub(crate) fn pump_waiting(&mut self, cx: &mut Cx) {
        while self.cooldown.pop_due(cx.now).is_some() {}
        while let Some(entry) = self.wakes.pop_due(cx.now) {
            self.try_start(cx, entry);
        }
        while !self.no_room.is_empty()
            && self.room(cx) > 0
            && let Some(entry) = self.no_room.pop_first()
        {
            self.try_start(cx, entry);
        }
    }

    /// A user's claim of an orphan.
    pub(crate) fn claim_orphan(
        &mut self,
        cx: &mut Cx,
        entry: EntryId,
        stream: StreamName,
        info: Info,
        call: CallId,
    ) {
        if !cx.is_open() || !self.may_take(cx) {
            return cx.answer(call, Err(self.not_now(cx)));
        }
        if self.items.contains(entry) {
            return cx.answer(call, Ok(Answer::Claim(ClaimResult::HeldElsewhere)));
        }
        self.cooldown.cancel(&entry);
        self.admit(
            cx,
            entry,
            Announcement::new(stream, info),
            Origin::Call(call),
        );
    }

    pub(super) fn may_take(&self, cx: &Cx) -> bool {
        !cx.budget.is_receiver_dropped() && !cx.is_draining()
    }

    /// What a claim is told that cannot be followed up.
    pub(crate) fn not_now(&self, cx: &Cx) -> Error {
        if cx.is_draining() {
            closed()
        } else if cx.budget.is_receiver_dropped() {
            Error::new(
                ErrorKind::Closed,
                "the client was told to stop or its events were dropped, so it takes no more \
                 streams; build a new one",
            )
        } else {
            Error::new(
                ErrorKind::Unavailable,
                "the client has no session at the moment; try again when it is connected",
            )
        }
    }
}
