//! What processes believe, before and after each input of a machine, and as time passes.

use std::time::Duration;

use streamlease_core::{EntryId, FencingToken, LockScheme, StreamName, Timestamp};

use super::super::{Checker, Clocks, TICK};
use super::Overlap;

impl Checker {
    pub(in crate::simulation) fn before(&mut self, now: Duration, node: usize, local: Timestamp) {
        self.now = now;
        let watch = &mut self.watches[node];
        let mut views = watch.views.values();
        watch.ran_out = views.any(|view| !view.is_over() && view.belief.until() <= local);
    }

    pub(in crate::simulation) fn after(&mut self, node: usize, local: Clocks<'_>) {
        self.check_beliefs(node, local(node), Duration::ZERO);
        self.check_overlaps(local);
    }

    /// A process that runs has been told of everything that was due a tick ago.
    pub(in crate::simulation) fn check_told(&mut self, node: usize, local: Timestamp) {
        self.check_beliefs(node, local, TICK);
        let watch = &self.watches[node];
        let drained_by = watch.asked_to_stop.map(|at| at + watch.ttl + TICK);
        if drained_by.is_some_and(|by| by < local) && !watch.terminated {
            let what = format!("n{node} has not ended a TTL after it was asked to");
            self.fail("R12", "a shutdown does not end", what);
        }
    }

    /// R1: nothing is believed for longer than its lock stands, and who runs is
    /// told at once. What is `late` by less is not looked at.
    fn check_beliefs(&mut self, node: usize, local: Timestamp, late: Duration) {
        let stated_jump = self.is_durable().then_some(self.stated_jump);
        let (now, scheme) = (self.now, self.scheme);
        let watch = &mut self.watches[node];
        let mut failed = None;
        for (entry, view) in &mut watch.views {
            let (entry, token, until) = (*entry, view.token, view.belief.until());
            let lease = format_args!("{entry} {}", view.stream).to_string();
            if view.is_over() {
                let times_out_at = view.times_out_at();
                if !view.ending && times_out_at.is_none_or(|at| at > local) {
                    let what = format!("n{node} is told that {lease} is lost, for no reason");
                    failed = Some(("progress", "lost() fires unasked", what));
                }
                (view.ending, view.timed_out) = (true, true);
                continue;
            }
            if view.timed_out {
                let what = format!("n{node} believes {lease} again, after lost() fired");
                failed = Some(("R1", "believed again after its end", what));
            }
            let allowed = match scheme {
                LockScheme::Session => watch.session_allowed,
                LockScheme::PerStream => watch
                    .lease_allowed
                    .get(&(entry, token))
                    .copied()
                    .unwrap_or_default(),
            };
            if until + late <= local {
                let what = format!("n{node} keeps {lease} past its belief, {until:?}");
                failed = Some(("R1", "not told at once", what));
            }
            if until > allowed.local {
                let what = format!(
                    "n{node} believes {lease} until {until:?}, allowed is {:?}",
                    allowed.local
                );
                failed = Some(("R1", "believes more than was extended", what));
            }
            // Its lock may be gone, by the true time.
            if let Some(jump) = stated_jump
                && until > local
                && now + jump >= allowed.truly
            {
                let what = format!("n{node} believes {lease}, whose lock may have expired");
                failed = Some(("R1", "believes more than the lock", what));
            }
            let times_out_at = view.times_out_at();
            let may_time_out = view.ending || watch.asked_to_stop.is_some();
            if times_out_at.is_some_and(|at| at + TICK.max(late) < local) && !may_time_out {
                let what =
                    format!("the handler of {lease} at n{node} makes no progress, and keeps it");
                failed = Some((
                    "progress",
                    "a handler without progress keeps its lease",
                    what,
                ));
            }
        }
        if let Some((rule, check, what)) = failed {
            self.fail(rule, check, what);
        }
    }

    /// R6 and R1: no two believe that they hold one data stream. In a *lossy*
    /// run, whatever took the earlier owner's lock, that owner believes for no
    /// longer than R1 lets it without its lock: its TTL less the margin, on its
    /// own clock (which may be slow, or have stood still).
    pub(in crate::simulation) fn check_overlaps(&mut self, local: Clocks<'_>) {
        if self.contended.is_empty() {
            self.overlaps.clear();
            return;
        }
        let mut found = Vec::new();
        for stream in &self.contended {
            let mut believers: Vec<_> = self.believers(stream, local).collect();
            believers.sort_unstable_by_key(|(node, token)| (*token, *node));
            for (nth, earlier) in believers.iter().enumerate() {
                for later in &believers[nth + 1..] {
                    found.push((*earlier, *later, stream.clone()));
                }
            }
        }
        self.overlaps.retain(|overlap| {
            found.iter().any(|(earlier, later, stream)| {
                (overlap.earlier, overlap.later) == (*earlier, *later) && overlap.stream == *stream
            })
        });
        for (earlier, later, stream) in found {
            let known = |overlap: &&Overlap| {
                (overlap.earlier, overlap.later) == (earlier, later) && overlap.stream == stream
            };
            let here = local(earlier.0);
            let (since, truly_since) = match self.overlaps.iter().find(known) {
                Some(overlap) => (overlap.since, overlap.truly_since),
                None => {
                    self.overlaps.push(Overlap {
                        earlier,
                        later,
                        stream: stream.clone(),
                        since: here,
                        truly_since: self.now,
                    });
                    (here, self.now)
                }
            };
            let (ttl, margin) = (self.watches[earlier.0].ttl, self.watches[earlier.0].margin);
            let lasted = here.saturating_since(since);
            let share = |of: Duration| (of.as_nanos() * 1_000 / ttl.as_nanos()) as u64;
            self.longest_overlap = self.longest_overlap.max(share(lasted));
            let truly = share(self.now.saturating_sub(truly_since));
            self.longest_true_overlap = self.longest_true_overlap.max(truly);
            let what = format!("{stream} is believed by {earlier:?} and {later:?} since {since:?}");
            if self.is_durable() {
                self.fail("R6", "believed twice", what);
            } else if lasted > ttl - margin {
                self.fail("R6", "believed twice for too long", what);
            }
        }
    }

    fn believers<'a>(
        &'a self,
        stream: &StreamName,
        local: Clocks<'a>,
    ) -> impl Iterator<Item = (usize, FencingToken)> + 'a {
        let holders = self.by_stream.get(stream).into_iter().flatten();
        holders.filter_map(move |&(node, entry)| {
            let view = self.watches[node].views.get(&entry)?;
            (view.belief.until() > local(node)).then_some((node, view.token))
        })
    }

    /// R6 in a mixed fleet: a foreign consumer gets an entry's lock, for so
    /// long, only if none of ours believes in it; and the other way round.
    pub(in crate::simulation) fn foreign_lock(
        &mut self,
        now: Duration,
        lasts: Duration,
        entry: EntryId,
        stream: &StreamName,
        local: Clocks<'_>,
    ) {
        self.now = now;
        self.foreign.insert(entry, now + lasts);
        let holders = self.by_stream.get(stream).into_iter().flatten();
        let of_it = holders.filter(|(_, theirs)| *theirs == entry);
        let believer = of_it.map(|(node, _)| *node).find(|node| {
            let view = self.watches[*node].views.get(&entry);
            view.is_some_and(|view| view.belief.until() > local(*node))
        });
        if let Some(node) = believer.filter(|_| self.is_durable()) {
            let what = format!("a foreign consumer has the lock of {entry}, and n{node} believes");
            self.fail("R6", "believed beside a foreign consumer", what);
        }
    }
}
