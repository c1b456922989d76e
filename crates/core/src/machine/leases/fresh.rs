//! Leases so fresh that a restart of the lock server may still lose them (session
//! leases with a long TTL).
//!
//! A restart may lose the last writes, and with them that a lease was acquired. So
//! it holds everybody back for a while, but not for the longest TTL there is: one
//! consumer with a TTL of ten minutes would stop all others for as long, even if it
//! is dead. It holds back for [`LONGEST_GRACE`], and who acquires believes no longer
//! than that in what a restart may still lose: until a heartbeat that was sent a while
//! after the answer to the acquire shows that there was no restart in between.

use super::Leases;
use crate::machine::cx::Cx;
use crate::machine::effects::Effect;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::{LONGEST_GRACE, LeaseRef, LockScheme, Timestamp};

/// For how long a server may lose what it has answered: Redis writes its log out once
/// a second, and begins the next write only when the last one has ended.
const UNSYNCED: Duration = Duration::from_secs(2);

/// A tenth below what the server waits, as with every other belief.
const BELIEVED: Duration = LONGEST_GRACE.saturating_sub(Duration::from_secs(1));

/// The fresh leases: when they were acquired at the latest, and until when they are
/// believed as long as they are fresh.
pub(crate) type Fresh = BTreeMap<LeaseRef, (Timestamp, Timestamp)>;

impl Leases {
    /// Until when a lease is believed that came with the answer to a call sent at `sent`.
    pub(crate) fn fresh_until(
        &mut self,
        cx: &mut Cx,
        lease: &LeaseRef,
        sent: Timestamp,
    ) -> Timestamp {
        if cx.scheme != LockScheme::Session || cx.settings.ttl <= LONGEST_GRACE {
            return Timestamp::MAX;
        }
        cx.effect(Effect::HeartbeatBy(cx.now + UNSYNCED));
        let fresh = &mut self.record.fresh;
        let known = fresh.entry(lease.clone());
        known.or_insert((cx.now, sent + BELIEVED)).1
    }

    /// A heartbeat sent at `sent` was answered; `unchanged`: the record lost nothing before it.
    pub(crate) fn lasting(&mut self, cx: &mut Cx, sent: Timestamp, unchanged: bool) {
        let mut lasting = Vec::new();
        self.record.fresh.retain(|lease, (acquired, _)| {
            let lasts = unchanged && *acquired + UNSYNCED <= sent;
            if lasts {
                lasting.push(lease.clone());
            }
            !lasts
        });
        for lease in &lasting {
            let until = self.record.valid_at_most(lease);
            self.believe_until(lease, until);
        }
        let fresh = self.record.fresh.values();
        if let Some(oldest) = fresh.map(|(acquired, _)| *acquired).min() {
            cx.effect(Effect::HeartbeatBy(
                (oldest + UNSYNCED).max(cx.now + UNSYNCED / 10),
            ));
        }
    }
}
