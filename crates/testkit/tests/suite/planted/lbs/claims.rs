//! Bugs of claims.

use streamlease_core::{
    ClaimOutcome, ConsumerName, Fenced, FencingToken, HandBackRequest, Pending, Result,
};

use super::{Bug, Lbs};

impl Lbs {
    pub(super) async fn claim_inner(
        &self,
        consumer: &ConsumerName,
        claim: Fenced,
    ) -> Result<ClaimOutcome> {
        let outcomes = self.lbs().claim(consumer, &[claim]).await?;
        Ok(outcomes.into_iter().next().expect("one"))
    }

    pub(super) async fn claim_one(
        &self,
        consumer: &ConsumerName,
        claim: Fenced,
    ) -> Result<ClaimOutcome> {
        let entry = claim.entry;
        let claim = match self.bug {
            Some(Bug::TokensAreDoubles) => Fenced {
                token: FencingToken(claim.token.0 as f64 as u64),
                entry,
            },
            _ => claim,
        };
        let before = self.pending(entry).await;
        let had = before.as_ref().map(|pending| pending.token);
        let had_by = before.as_ref().and_then(|pending| pending.consumer.clone());
        let handed_back = before.as_ref().is_some_and(|pending| pending.handed_back);
        let own = had_by.as_ref() == Some(consumer);
        let with = |token| Fenced { entry, token };
        match self.bug {
            Some(Bug::ClaimForgetsToken) if had == Some(FencingToken::NONE) => {
                return self.claim_inner(consumer, with(FencingToken::NONE)).await;
            }
            Some(Bug::ClaimAgainIsStale) if had == Some(claim.token) && claim.token.0 > 0 => {
                return Ok(ClaimOutcome::Stale { seen: claim.token });
            }
            Some(Bug::ClaimOfTheUndeliveredLosesIt) if before.is_none() => {
                return Ok(ClaimOutcome::Gone);
            }
            Some(Bug::DeathDoesNotCount)
                if had.is_some_and(|had| claim.token > had) && !handed_back =>
            {
                let back = HandBackRequest::new(entry, had.unwrap_or_default());
                self.lbs().hand_back(consumer, &[back]).await?;
            }
            Some(Bug::ClaimLowersToken | Bug::ClearForgetsToken) => {
                let lowered = self.state().lowered.get(&entry).copied();
                if lowered.is_some_and(|lowered| claim.token.0 >= lowered) {
                    let token = had.unwrap_or_default().max(claim.token);
                    return self.claim_inner(consumer, with(token)).await;
                }
            }
            _ => {}
        }
        let mover = match self.bug {
            Some(Bug::ClaimDoesNotMove) => had_by.clone().unwrap_or(consumer.clone()),
            _ => consumer.clone(),
        };
        let mut outcome = self.claim_inner(&mover, claim).await?;
        if let Some(otherwise) = self.in_a_pause(consumer, claim, before.as_ref()).await? {
            outcome = otherwise;
        }
        match (&mut outcome, self.bug) {
            (ClaimOutcome::Stale { seen }, Some(Bug::ClaimTakesLower)) if claim.token < *seen => {
                return self.claim_inner(consumer, with(*seen)).await;
            }
            (ClaimOutcome::Stale { .. }, Some(Bug::ClaimLowersToken)) => {
                self.state().lowered.insert(entry, claim.token.0);
            }
            (ClaimOutcome::Stale { seen }, Some(Bug::ClaimIgnoresHandBack))
                if *seen == claim.token =>
            {
                return self
                    .claim_inner(consumer, with(FencingToken(seen.0 + 1)))
                    .await;
            }
            (ClaimOutcome::Stale { seen }, Some(Bug::ClaimAfterHandBackUndoesIt))
                if *seen == claim.token =>
            {
                self.claim_inner(consumer, with(FencingToken(seen.0 + 1)))
                    .await?;
            }
            (ClaimOutcome::Stale { seen }, Some(Bug::ClaimIsByName)) if own => {
                return self.claim_inner(consumer, with(*seen)).await;
            }
            (ClaimOutcome::Gone, Some(Bug::ClaimMakesTheGone)) => {
                let failures = 0.into();
                return Ok(ClaimOutcome::Claimed {
                    from: None,
                    failures,
                });
            }
            (ClaimOutcome::Claimed { from, .. }, Some(Bug::ClaimFromUnknown)) => *from = None,
            (ClaimOutcome::Claimed { failures, .. }, Some(Bug::ReasonsAreLost)) => {
                failures.reasons.clear();
            }
            _ => {}
        }
        if let ClaimOutcome::Claimed { .. } = outcome {
            self.state().claimed.insert(entry);
        }
        Ok(outcome)
    }

    /// What a claim is answered in a pause, if the bug is about that.
    pub(super) async fn in_a_pause(
        &self,
        consumer: &ConsumerName,
        claim: Fenced,
        before: Option<&Pending>,
    ) -> Result<Option<ClaimOutcome>> {
        let Some(before) = before.filter(|before| claim.token >= before.token) else {
            return Ok(None);
        };
        if self.lbs().paused().await?.is_none() {
            return Ok(None);
        }
        let had_owner = before.token != FencingToken::NONE;
        let is_granted = match self.bug {
            Some(Bug::PauseIsIgnored) => true,
            Some(Bug::PauseLetsTakeOver) => had_owner && !before.handed_back,
            Some(Bug::PauseLetsTakeTheHandedBack) => before.handed_back,
            Some(Bug::PauseStopsOwners) => return Ok(Some(ClaimOutcome::Paused)),
            Some(Bug::PausedClaimMoves) => {
                let token = before.token;
                let moved = Fenced { token, ..claim };
                self.lbs().keep(consumer, &[moved]).await?;
                false
            }
            Some(Bug::PausedClaimCounts) => {
                let back = HandBackRequest::new(claim.entry, before.token).failed(Some("?".into()));
                self.lbs().hand_back(consumer, &[back]).await?;
                false
            }
            _ => false,
        };
        if !is_granted {
            return Ok(None);
        }
        let outcomes = self.lbs().keep(consumer, &[claim]).await?;
        Ok(outcomes.into_iter().next())
    }
}
