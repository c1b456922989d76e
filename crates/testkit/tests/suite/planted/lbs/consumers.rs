//! What consumers call, and bugs of fetching and listing.

use std::time::Duration;

use async_trait::async_trait;
use streamlease_core::{
    ClaimOutcome, CompleteOutcome, ConsumerName, EntryId, Error, ErrorKind, Fenced, FencingToken,
    FetchRequest, Fetched, HandBackOutcome, HandBackRequest, Pause, PendingIds, PendingPage,
    Quarantine, QuarantineOutcome, Result, Runtime, Scope, Transport,
};

use super::{Bug, Lbs, nobody};

impl Lbs {
    pub(super) fn listed(&self, mut page: PendingPage, limit: usize) -> PendingPage {
        match self.bug {
            Some(Bug::ListForgetsTheLast) if page.next.is_none() && page.entries.len() > 1 => {
                page.entries.pop();
            }
            Some(Bug::ListStopsEarly) => page.next = None,
            Some(Bug::ListHasAnEmptyEnd) if page.next.is_none() => {
                page.next = page.entries.last().map(|last| last.entry);
            }
            Some(Bug::ListIsUnordered) => page.entries.reverse(),
            Some(Bug::FetchIsNotPending) => {
                let state = self.state();
                page.entries
                    .retain(|entry| state.claimed.contains(&entry.entry));
            }
            _ => {}
        }
        let _ = limit;
        let mut state = self.state();
        state.looked += 1;
        for entry in &mut page.entries {
            match self.bug {
                Some(Bug::ListDelivers) => entry.deliveries += state.looked,
                Some(Bug::ListTouches) => {
                    let now = self.clock.now();
                    let last = state.since.insert(entry.entry, now);
                    entry.idle = last.map_or(entry.idle, |last| now.saturating_since(last));
                }
                Some(Bug::ClaimKeepsIdle) => {
                    let now = self.clock.now();
                    let first = *state.since.entry(entry.entry).or_insert(now);
                    entry.idle = entry.idle.max(now.saturating_since(first));
                }
                _ => {}
            }
        }
        page
    }

    /// The items in the order in which their results come.
    pub(super) fn order<T: Clone>(&self, items: &[T], id: impl Fn(&T) -> EntryId) -> Vec<T> {
        let mut items = items.to_vec();
        if self.is(Bug::ResultsAreSorted) {
            items.sort_by_key(id);
        }
        items
    }
}

#[async_trait]
impl Transport for Lbs {
    async fn prepare(&self) -> Result<()> {
        let first = !std::mem::replace(&mut self.state().prepared, true);
        if self.is(Bug::PrepareMakesAnew) {
            self.memory.destroy_group(&self.service);
        }
        if self.is(Bug::PauseNeedsAGroup) {
            self.inner.admin.resume().await?;
        }
        self.lbs().prepare().await?;
        if first && self.is(Bug::GroupBeginsAtTheEnd) {
            self.lbs()
                .fetch(&FetchRequest::new(nobody(), 10_000, Duration::ZERO))
                .await?;
        }
        Ok(())
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        let mut asked = request.clone();
        match self.bug {
            Some(Bug::UnpreparedFails) if !self.state().prepared => {
                return Err(Error::new(ErrorKind::Protocol, "there is no group"));
            }
            Some(Bug::FetchBringsMore) => asked.max += 1,
            Some(Bug::FetchGivesUpEarly) => asked.wait = asked.wait.min(Duration::from_secs(1)),
            Some(Bug::FetchOfNothingWaits) => asked.wait = asked.wait.max(Duration::from_secs(1)),
            Some(Bug::FetchSkips) if asked.max == 2 => {
                self.lbs()
                    .fetch(&FetchRequest::new(nobody(), 1, Duration::ZERO))
                    .await?;
            }
            Some(Bug::FetchDoesNotWake) if !asked.wait.is_zero() => {
                let until = self.clock.now() + asked.wait;
                asked.wait = Duration::ZERO;
                let fetched = self.lbs().fetch(&asked).await?;
                if !fetched.entries.is_empty() {
                    return Ok(fetched);
                }
                self.clock.sleep_until(until).await;
            }
            _ => {}
        }
        self.state().fetching += 1;
        let fetched = self.lbs().fetch(&asked).await;
        self.state().fetching -= 1;
        let mut fetched = fetched?;
        match self.bug {
            Some(Bug::FetchNewestFirst) => fetched.entries.reverse(),
            Some(Bug::FetchOverstates) => fetched.backlog += 100,
            Some(Bug::FetchFailsWhenEmpty)
                if fetched.entries.is_empty() && !asked.wait.is_zero() =>
            {
                return Err(Error::new(ErrorKind::Unavailable, "nothing came"));
            }
            Some(Bug::FetchIsForAll) => {
                let mut state = self.state();
                if fetched.entries.is_empty() {
                    fetched.entries = std::mem::take(&mut state.delivered);
                } else {
                    state.delivered.clone_from(&fetched.entries);
                }
            }
            _ => {}
        }
        Ok(fetched)
    }

    async fn list_pending(&self, scope: &Scope, limit: usize) -> Result<PendingPage> {
        let (scope, limit) = match (scope, self.bug) {
            (Scope::Consumer { after, .. }, Some(Bug::ListOfOneIsOfAll)) => {
                (Scope::All { after: *after }, limit)
            }
            (Scope::Entries(wanted), Some(Bug::EntriesAreNotFound)) => (
                Scope::Entries(wanted.iter().take(1).copied().collect()),
                limit,
            ),
            (scope, Some(Bug::ListIgnoresLimit)) => (scope.clone(), 10_000),
            (scope, _) => (scope.clone(), limit),
        };
        Ok(self.listed(self.lbs().list_pending(&scope, limit).await?, limit))
    }

    async fn list_pending_ids(
        &self,
        consumer: Option<&ConsumerName>,
        after: EntryId,
        limit: usize,
    ) -> Result<PendingIds> {
        let consumer = consumer.filter(|_| !self.is(Bug::ListOfOneIsOfAll));
        let mut page = self.lbs().list_pending_ids(consumer, after, limit).await?;
        if self.is(Bug::IdsForgetTheLast) && page.next.is_none() {
            page.entries.pop();
        }
        Ok(page)
    }

    async fn list_stranded(&self, after: EntryId, limit: usize) -> Result<PendingIds> {
        if self.is(Bug::StrandedAreAll) {
            return self.lbs().list_pending_ids(None, after, limit).await;
        }
        self.lbs().list_stranded(after, limit).await
    }

    async fn keep(&self, consumer: &ConsumerName, held: &[Fenced]) -> Result<Vec<ClaimOutcome>> {
        if self.is(Bug::PauseStopsKeeping) {
            return self.lbs().claim(consumer, held).await;
        }
        let outcomes = self.lbs().keep(consumer, held).await?;
        match outcomes[..] {
            [ClaimOutcome::Stale { seen }] if self.is(Bug::KeepIsUnfenced) => {
                let token = FencingToken(seen.0 + 1);
                let held = Fenced { token, ..held[0] };
                self.lbs().keep(consumer, &[held]).await
            }
            _ => Ok(outcomes),
        }
    }

    async fn paused(&self) -> Result<Option<Pause>> {
        let pause = self.lbs().paused().await?;
        Ok(match self.bug {
            Some(Bug::PauseIsNotShown) => None,
            Some(Bug::PauseHasNoReason) => pause.map(|pause| Pause::new(pause.since_ms, "")),
            _ => pause,
        })
    }

    async fn claim(&self, consumer: &ConsumerName, claims: &[Fenced]) -> Result<Vec<ClaimOutcome>> {
        while self.is(Bug::FetchBlocksAll) && self.state().fetching > 0 {
            let soon = self.clock.now() + Duration::from_millis(100);
            self.clock.sleep_until(soon).await;
        }
        let mut outcomes = Vec::new();
        for claim in self.order(claims, |claim| claim.entry) {
            let outcome = self.claim_one(consumer, claim).await?;
            let refused = !matches!(outcome, ClaimOutcome::Claimed { .. });
            outcomes.push(outcome);
            if refused && self.is(Bug::ClaimOfManyStops) {
                outcomes.resize(claims.len(), ClaimOutcome::Gone);
                break;
            }
        }
        Ok(outcomes)
    }

    async fn clear_failures(&self, entries: &[Fenced]) -> Result<()> {
        for owner in entries {
            let mut owner = *owner;
            let had = self.at(owner.entry).await;
            match (self.bug, had) {
                (Some(Bug::ClearDoesNothing), _) => continue,
                (Some(Bug::ClearTakesAny), Some((_, token))) => owner.token = token,
                (Some(Bug::ClearForgetsToken), Some(_)) => {
                    self.state().lowered.insert(owner.entry, 0);
                }
                _ => {}
            }
            self.lbs().clear_failures(&[owner]).await?;
        }
        Ok(())
    }

    async fn complete(
        &self,
        consumer: &ConsumerName,
        entries: &[Fenced],
    ) -> Result<Vec<CompleteOutcome>> {
        let mut outcomes = Vec::new();
        for done in self.order(entries, |done| done.entry) {
            outcomes.push(self.complete_one(consumer, done).await?);
        }
        Ok(outcomes)
    }

    async fn hand_back(
        &self,
        consumer: &ConsumerName,
        entries: &[HandBackRequest],
    ) -> Result<Vec<HandBackOutcome>> {
        let mut outcomes = Vec::new();
        for back in self.order(entries, |back| back.entry) {
            outcomes.push(self.hand_back_one(consumer, &back).await?);
        }
        Ok(outcomes)
    }

    async fn quarantine(
        &self,
        consumer: &ConsumerName,
        entries: &[Quarantine],
    ) -> Result<Vec<QuarantineOutcome>> {
        let mut outcomes = Vec::new();
        for wanted in self.order(entries, |wanted| wanted.entry) {
            outcomes.push(self.quarantine_one(consumer, &wanted).await?);
        }
        Ok(outcomes)
    }

    async fn remove_consumer(&self, consumer: &ConsumerName) -> Result<bool> {
        if self.is(Bug::NotRemoved) {
            return Ok(false);
        }
        if self.is(Bug::RemovedWithPending) {
            let ids = self
                .lbs()
                .list_pending_ids(Some(consumer), EntryId::MIN, 10_000)
                .await?;
            for entry in ids.entries {
                let token = self
                    .at(entry)
                    .await
                    .map_or(FencingToken::NONE, |(_, had)| had);
                self.lbs()
                    .complete(consumer, &[Fenced { entry, token }])
                    .await?;
            }
        }
        self.lbs().remove_consumer(consumer).await
    }
}
