//! Releasing locks, last of all: repeated until it is answered ("late release").

use super::Leases;
use super::table::Item;
use crate::machine::calls::Flight;
use crate::machine::cx::Cx;
use crate::machine::{LocksCall, PAGE, Reply};
use crate::{EntryId, LeaseRef, Release, Result};

impl Leases {
    pub(crate) fn release_lock_of(
        &mut self,
        cx: &mut Cx,
        entry: EntryId,
        item: &Item,
        announce: bool,
    ) {
        if let Some(lock) = item.state.lock() {
            let lease = LeaseRef {
                stream: item.stream.clone(),
                entry,
                token: lock.token,
            };
            self.release(cx, lease, announce);
        }
    }

    /// Frees a lock; repeated until answered.
    pub(crate) fn release(&mut self, cx: &mut Cx, lease: LeaseRef, announce: bool) {
        // Not to be gathered, unless it is of a completion (see `complete_done`).
        self.lanes.release_by = cx.now;
        self.lanes.releasing.insert(lease, announce);
    }

    pub(crate) fn send_release(&mut self, cx: &mut Cx) {
        let releases: Vec<Release> = self
            .lanes
            .releasing
            .iter()
            .take(PAGE)
            .map(|(lease, &announce)| Release {
                lease: lease.clone(),
                announce,
            })
            .collect();
        if releases.is_empty() {
            return;
        }
        self.lanes.release.busy = true;
        let flight = releases
            .iter()
            .map(|release| release.lease.clone())
            .collect();
        let session = cx.session.id().clone();
        cx.act(
            LocksCall::Release(session, releases),
            Flight::Release(flight),
        );
    }

    pub(crate) fn release_done(&mut self, cx: &mut Cx, page: &[LeaseRef], result: Result<Reply>) {
        self.lanes.release.busy = false;
        match result {
            // Released or not held: either way it is not ours any more.
            Ok(Reply::Released(outcomes)) if outcomes.len() == page.len() => {
                self.lanes.release.backoff.succeed();
                for lease in page {
                    self.lanes.releasing.remove(lease);
                    self.wake_stream(cx, &lease.stream);
                }
            }
            result => {
                let backoff = &mut self.lanes.release.backoff;
                backoff.fail(cx.now, cx.settings.ttl, &mut cx.rng);
                cx.step_done("release", result);
            }
        }
    }
}
