//! Bugs of batches with a key.

use std::collections::BTreeMap;

use streamlease_core::{Result, SubmitBatch, SubmitOutcome};

use super::{Bug, Lbs};

impl Lbs {
    pub(super) async fn submit_keyed(&self, mut sent: SubmitBatch) -> Result<Vec<SubmitOutcome>> {
        match self.bug {
            Some(Bug::KeyedByPlace) => sent.id = sent.key.take().unwrap_or_default(),
            Some(Bug::KeyIsIgnored) => sent.key = None,
            Some(Bug::KeysAreOne) => sent.key = Some(1),
            Some(Bug::KeyedIgnoresAbsent) => sent.if_absent = false,
            Some(Bug::KeyedRepeatIsAnothers) => sent.id = self.new_id(),
            Some(Bug::KeyedNameIsOneEntry) => {
                let names = sent.announcements.clone().into_iter().map(|a| a.stream);
                let mut seen = BTreeMap::new();
                sent.announcements.retain(|a| {
                    let nth = seen.len();
                    let is_new = !seen.contains_key(&a.stream);
                    seen.entry(a.stream.clone()).or_insert(nth);
                    is_new
                });
                let outcomes = self.inner.submitter.submit(&sent).await?;
                return Ok(names.map(|name| outcomes[seen[&name]]).collect());
            }
            _ => {}
        }
        let mut outcomes = self.inner.submitter.submit(&sent).await?;
        if self.is(Bug::KeyedSaysAnnounced) {
            for outcome in &mut outcomes {
                if let SubmitOutcome::AlreadySubmitted(entry) = *outcome {
                    *outcome = SubmitOutcome::Announced(entry);
                }
            }
        }
        Ok(outcomes)
    }
}
