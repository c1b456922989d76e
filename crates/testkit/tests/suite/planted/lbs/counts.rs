//! What is wrong with counts.

use std::time::Duration;

use streamlease_core::{
    EntryId, Error, ErrorKind, Fenced, FetchRequest, Pending, Result, Scope, ServiceCounts,
};

use super::{Bug, Lbs, nobody};

impl Lbs {
    pub(super) async fn miscounted(&self) -> Result<ServiceCounts> {
        let admin = &self.inner.admin;
        let mut counts = admin.counts().await?;
        let waiting = admin.list_undelivered(EntryId::MIN, 10_000).await?;
        match self.bug {
            Some(Bug::CountsForgetTheQuarantine) => counts.quarantined = 0,
            Some(Bug::CountsHideThePause) => counts.is_paused = false,
            Some(Bug::CountsTakeAllForWaiting) => {
                counts.waiting = counts.waiting.map(|waiting| waiting + counts.pending);
            }
            Some(Bug::CountsTakeUnknownForNone) if self.state().withdrawn > 0 => {
                counts.waiting = Some(0);
            }
            Some(Bug::CountsEstimate) if counts.oldest_waiting.is_some() => {
                let withdrawn = self.state().withdrawn;
                counts.waiting = counts.waiting.map(|waiting| waiting + withdrawn);
            }
            Some(Bug::CountsNeedAGroup) if !self.state().prepared => {
                return Err(Error::new(ErrorKind::NotPrepared, "no group"));
            }
            Some(Bug::CountsForgetTheHandedBack) => {
                let pending = self.all_pending().await?;
                let handed_back = pending.iter().filter(|pending| pending.handed_back);
                counts.pending -= handed_back.count() as u64;
            }
            Some(Bug::CountsAgeTheNewest) => {
                let newest = waiting.last().map(|last| last.entry.ms);
                let now = self.clock.now().since_origin();
                counts.oldest_waiting =
                    newest.map(|ms| now.saturating_sub(Duration::from_millis(ms)));
            }
            Some(Bug::CountsAgeStands) => {
                counts.oldest_waiting = counts.oldest_waiting.map(|_| Duration::ZERO);
            }
            Some(Bug::CountsAgeOfNothing) => {
                counts.oldest_waiting = counts.oldest_waiting.or(Some(Duration::ZERO));
            }
            Some(Bug::CountsTouch) if self.state().prepared => {
                for pending in self.all_pending().await? {
                    let consumer = pending.consumer.unwrap_or_else(nobody);
                    let (entry, token) = (pending.entry, pending.token);
                    self.claim_inner(&consumer, Fenced { entry, token }).await?;
                }
            }
            Some(Bug::CountsDeliver) if self.state().prepared => {
                let request = FetchRequest::new(nobody(), 1, Duration::ZERO);
                self.inner.transport.fetch(&request).await?;
            }
            _ => {}
        }
        Ok(counts)
    }

    async fn all_pending(&self) -> Result<Vec<Pending>> {
        if !self.state().prepared {
            return Ok(Vec::new());
        }
        let scope = Scope::All {
            after: EntryId::MIN,
        };
        let page = self.inner.transport.list_pending(&scope, 10_000).await?;
        Ok(page.entries)
    }
}
