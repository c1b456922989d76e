//! How often a process asks for entries that nobody has had.

use std::collections::VecDeque;
use std::time::Duration;

use streamlease_core::Timestamp;
use streamlease_core::machine::Reply;

use super::super::Checker;

/// How often an idle consumer is told at once that there is nothing, whatever else the
/// server says.
const MOST_A_SECOND: usize = 10;

/// How often it asks, if it is not always answered.
const MOST_ASKED_A_SECOND: usize = 20;

/// An answer that took longer came after a wait, or late.
const AT_ONCE: Duration = Duration::from_millis(100);

/// What is known of one process's fetches.
#[derive(Default)]
pub(super) struct Fetches {
    /// When it asked, and when it was told at once that there is nothing, within the
    /// last second and since it was last brought anything.
    asked: VecDeque<Timestamp>,
    nothing: VecDeque<Timestamp>,
    /// Once it is told what it could not know: that there is nothing left.
    knows: bool,
}

impl Checker {
    /// R11: who is brought nothing asks no more often than that.
    pub(in crate::simulation) fn fetches(&mut self, node: usize, local: Timestamp) {
        let asked = within_a_second(&mut self.watches[node].fetches.asked, local);
        self.check_idle(node, asked, MOST_ASKED_A_SECOND);
    }

    pub(in crate::simulation) fn brought(&mut self, node: usize, reply: &Reply, local: Timestamp) {
        let Reply::Fetched(fetched) = reply else {
            return;
        };
        let fetches = &mut self.watches[node].fetches;
        let asked = fetches.asked.back().copied().unwrap_or_default();
        let at_once = local.saturating_since(asked) < AT_ONCE;
        if !fetched.entries.is_empty() {
            *fetches = Fetches::default();
        } else if std::mem::replace(&mut fetches.knows, true) && at_once {
            let nothing = within_a_second(&mut fetches.nothing, local);
            self.check_idle(node, nothing, MOST_A_SECOND);
        }
    }

    fn check_idle(&mut self, node: usize, number: usize, most: usize) {
        if number > most {
            let what =
                format!("n{node} fetches {number} times in a second, and is brought nothing");
            self.fail("R11", "an idle consumer spins", what);
        }
    }
}

/// How many there are with this one.
fn within_a_second(times: &mut VecDeque<Timestamp>, now: Timestamp) -> usize {
    times.retain(|at| now.saturating_since(*at) < Duration::from_secs(1));
    times.push_back(now);
    times.len()
}
