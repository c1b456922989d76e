//! What the LBS remembers of an entry's owners: the greatest token, and who failed.

use streamlease_core::{ConsumerName, FencingToken};

#[derive(Debug, Clone, Default)]
pub(super) struct Fence {
    pub(super) token: FencingToken,
    pub(super) handed_back: bool,
    pub(super) failures: u32,
    /// Of at most five of them: whose token, by which one it was counted (a death) or
    /// none (its owner said so), and why.
    pub(super) kept: Vec<(FencingToken, FencingToken, String)>,
}

impl Fence {
    pub(super) fn count(&mut self, token: FencingToken, by: FencingToken, reason: String) {
        self.failures += 1;
        self.kept.push((token, by, reason));
        if self.kept.len() > 5 {
            self.kept.remove(0);
        }
    }

    /// Somebody comes with a greater token than an owner that never handed back.
    pub(super) fn find_dead(&mut self, by: FencingToken, at: Option<&ConsumerName>) {
        if by <= self.token || self.token == FencingToken::NONE || self.handed_back {
            return;
        }
        let who = at.map_or("", |at| at.as_str());
        self.count(self.token, by, format!("{who} is dead"));
    }

    /// The owner with that token is not dead; whether it had counted as that.
    pub(super) fn revive(&mut self, token: FencingToken, failed: Option<&String>) -> bool {
        let mut kept = self.kept.iter_mut();
        let death = kept.find(|(of, by, _)| *of == token && *by != FencingToken::NONE);
        let found = death.is_some();
        match (death, failed) {
            (Some(death), Some(reason)) => *death = (token, FencingToken::NONE, reason.clone()),
            (Some(_), None) => {
                self.failures -= 1;
                self.kept.retain(|(of, ..)| *of != token);
            }
            (None, _) => {}
        }
        found
    }

    pub(super) fn deaths(&self) -> u32 {
        let deaths = self
            .kept
            .iter()
            .filter(|(_, by, _)| *by != FencingToken::NONE);
        deaths.count() as u32
    }

    pub(super) fn reasons(&self) -> Vec<String> {
        self.kept
            .iter()
            .map(|(.., reason)| reason.clone())
            .collect()
    }
}
