//! How often a process asks for entries that nobody has had.

use std::time::Duration;

use streamlease_core::Timestamp;
use streamlease_core::machine::Reply;

use super::super::Checker;

/// Of an idle consumer, whatever the server says.
const MOST_FETCHES_A_SECOND: usize = 10;

impl Checker {
    /// R11: who is brought nothing asks no more often than that.
    pub(in crate::simulation) fn fetches(&mut self, node: usize, local: Timestamp) {
        let fetches = &mut self.watches[node].fetches;
        let second = Duration::from_secs(1);
        fetches.retain(|at| local.saturating_since(*at) < second);
        fetches.push_back(local);
        let number = fetches.len();
        if number > MOST_FETCHES_A_SECOND {
            let what =
                format!("n{node} fetches {number} times in a second, and is brought nothing");
            self.fail("R11", "an idle consumer spins", what);
        }
    }

    pub(in crate::simulation) fn brought(&mut self, node: usize, reply: &Reply) {
        if let Reply::Fetched(fetched) = reply
            && !fetched.entries.is_empty()
        {
            self.watches[node].fetches.clear();
        }
    }
}
