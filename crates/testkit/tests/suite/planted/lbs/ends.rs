//! Bugs of what ends an ownership: completions, hand backs, quarantines.

use streamlease_core::{
    CompleteOutcome, ConsumerName, EntryId, Fenced, FencingToken, HandBackOutcome, HandBackRequest,
    Pending, Quarantine, QuarantineOutcome, Result, Scope, SubmitBatch,
};

use super::{Bug, Lbs};

impl Lbs {
    pub(super) async fn complete_one(
        &self,
        consumer: &ConsumerName,
        done: Fenced,
    ) -> Result<CompleteOutcome> {
        let at = self.at(done.entry).await;
        let own = at.as_ref().is_some_and(|(owner, _)| owner == consumer);
        let had = at.as_ref().map_or(FencingToken::NONE, |(_, had)| *had);
        let complete = async |token| {
            let fenced = Fenced {
                entry: done.entry,
                token,
            };
            let outcomes = self.lbs().complete(consumer, &[fenced]).await;
            outcomes.map(|outcomes| outcomes.into_iter().next().expect("one"))
        };
        let refused = Ok(CompleteOutcome::NotOwner { seen: had });
        self.state().withdrawn += u64::from(at.is_none());
        match self.bug {
            Some(Bug::CompleteOfHigherFails) if at.is_some() && done.token > had => return refused,
            Some(Bug::CompleteNeedsName) if at.is_some() && !own => return refused,
            Some(Bug::CompleteDoesNothing) => return Ok(CompleteOutcome::Completed),
            Some(Bug::CompleteOnlyAcknowledges) if at.is_none() => {
                let there = self
                    .inner
                    .admin
                    .list_undelivered(EntryId::MIN, 10_000)
                    .await?;
                if there.iter().any(|delivery| delivery.entry == done.entry) {
                    return Ok(CompleteOutcome::Completed);
                }
            }
            Some(Bug::CompleteTakesOthers) => {
                let all = self
                    .lbs()
                    .list_pending(
                        &Scope::All {
                            after: EntryId::MIN,
                        },
                        10_000,
                    )
                    .await?;
                let name =
                    |pending: &Pending| pending.content.as_ref().ok().map(|c| c.stream.clone());
                let this = all
                    .entries
                    .iter()
                    .find(|p| p.entry == done.entry)
                    .and_then(name);
                for other in all
                    .entries
                    .iter()
                    .filter(|p| name(p) == this && p.entry != done.entry)
                {
                    let token = other.token;
                    let entry = other.entry;
                    self.lbs()
                        .complete(consumer, &[Fenced { entry, token }])
                        .await?;
                }
            }
            _ => {}
        }
        let outcome = complete(done.token).await?;
        Ok(match (outcome, self.bug) {
            (CompleteOutcome::NotOwner { seen }, Some(Bug::CompleteTakesLower)) => {
                complete(seen).await?
            }
            (CompleteOutcome::NotOwner { seen }, Some(Bug::CompleteIsByName)) if own => {
                complete(seen).await?
            }
            (CompleteOutcome::Gone, Some(Bug::CompleteOfTheGoneSaysYes)) => {
                CompleteOutcome::Completed
            }
            (outcome, _) => outcome,
        })
    }

    pub(super) async fn hand_back_one(
        &self,
        consumer: &ConsumerName,
        back: &HandBackRequest,
    ) -> Result<HandBackOutcome> {
        let mut back = back.clone();
        let before = self.pending(back.entry).await;
        let had = before
            .as_ref()
            .map_or(FencingToken::NONE, |before| before.token);
        let handed_back = before.as_ref().is_some_and(|before| before.handed_back);
        let give = async |back: &HandBackRequest| {
            let outcomes = self
                .lbs()
                .hand_back(consumer, std::slice::from_ref(back))
                .await;
            outcomes.map(|outcomes| outcomes.into_iter().next().expect("one"))
        };
        match self.bug {
            Some(Bug::NoHandBackCounts) => back.failed = None,
            Some(Bug::EveryHandBackCounts) => back.failed = Some("?".into()),
            Some(Bug::ReasonsAreCut) => {
                back.failed = back.failed.map(|reason| reason.chars().take(100).collect());
            }
            Some(Bug::RepeatedHandBackCounts)
                if handed_back && had == back.token && back.failed.is_some() =>
            {
                let next = FencingToken(had.0 + 1);
                let entry = back.entry;
                self.claim_inner(consumer, Fenced { entry, token: next })
                    .await?;
                back.token = next;
            }
            Some(Bug::HandBackRemoves) => {
                let done = Fenced {
                    entry: back.entry,
                    token: back.token,
                };
                let outcomes = self.lbs().complete(consumer, &[done]).await?;
                return Ok(match outcomes[0] {
                    CompleteOutcome::NotOwner { seen } => HandBackOutcome::NotOwner { seen },
                    CompleteOutcome::Gone => HandBackOutcome::Gone,
                    _ => HandBackOutcome::HandedBack,
                });
            }
            Some(Bug::HandBackDoesNothing) if before.is_some() && back.token >= had => {
                return Ok(HandBackOutcome::HandedBack);
            }
            Some(Bug::HandBackForgetsToken) if before.is_some() && back.token > had => {
                back.token = had
            }
            Some(Bug::LateHandBackTakesNothingBack) if back.token < had => {
                return Ok(HandBackOutcome::NotOwner { seen: had });
            }
            _ => {}
        }
        let outcome = give(&back).await?;
        Ok(match (outcome, self.bug) {
            (HandBackOutcome::NotOwner { seen }, Some(Bug::HandBackTakesLower)) => {
                back.token = seen;
                give(&back).await?
            }
            (outcome, _) => outcome,
        })
    }

    pub(super) async fn quarantine_one(
        &self,
        consumer: &ConsumerName,
        wanted: &Quarantine,
    ) -> Result<QuarantineOutcome> {
        let mut wanted = wanted.clone();
        let before = self.pending(wanted.entry).await;
        let put = async |wanted: &Quarantine| {
            let outcomes = self
                .lbs()
                .quarantine(consumer, std::slice::from_ref(wanted))
                .await;
            outcomes.map(|outcomes| outcomes.into_iter().next().expect("one"))
        };
        match self.bug {
            Some(Bug::QuarantineIgnoresFailures) => wanted.min_failures = 0,
            Some(Bug::QuarantineLosesReason) => wanted.reason.clear(),
            _ => {}
        }
        let outcome = put(&wanted).await?;
        Ok(match (outcome, self.bug) {
            (QuarantineOutcome::NotOwner { seen }, Some(Bug::QuarantineTakesLower)) => {
                wanted.token = seen;
                put(&wanted).await?
            }
            (QuarantineOutcome::Quarantined, Some(Bug::QuarantineIsNowhere)) => {
                self.inner.admin.drop_quarantined(&[wanted.entry]).await?;
                QuarantineOutcome::Quarantined
            }
            (QuarantineOutcome::Quarantined, Some(Bug::QuarantineKeepsEntry)) => {
                if let Some(Ok(content)) = before.map(|before| before.content) {
                    let again = SubmitBatch::with_id(self.new_id(), vec![content]);
                    self.inner.submitter.submit(&again).await?;
                }
                QuarantineOutcome::Quarantined
            }
            (outcome, _) => outcome,
        })
    }
}
