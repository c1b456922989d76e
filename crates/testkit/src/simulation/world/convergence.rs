//! After the faults: everything is finished in time, a crash is made up for,
//! and everybody can end.
//!
//! The bounds are computed from the settings of the longest TTL, which decides
//! when the slowest client looks.

use std::collections::BTreeSet;
use std::time::Duration;

use streamlease_core::limits::{BETWEEN_SMALL_PAGES, DEADLINE_JITTER, LATEST_RANK, LONGEST_FETCH};
use streamlease_core::{Settings, StreamName, Timestamp};

use super::{Event, LEAST_STEPS, Outcome, World, trace};
use crate::clock::{Time, ns};
use crate::simulation::checker::TICK;
use crate::simulation::fault::Fault;
use crate::simulation::link::Link;
use crate::simulation::network::TRAVEL;
use crate::simulation::plan::{LEAST_FAULTS, Manual};

impl World {
    pub(super) fn converge(&mut self, outcome: &mut Outcome) {
        let healed = self.now;
        let within = self.converges_within();
        self.run_until(healed + within, |world| {
            world.servers.lbs.is_empty() && world.unsubmitted == 0
        });
        outcome.converged = Duration::from_nanos(self.now - healed);
        outcome.converges_within = Duration::from_nanos(within);
        if self.checker.violation.is_none() {
            let now = Duration::from_nanos(self.now);
            self.checker.check_finished(now, &self.servers.lbs);
        }
        if self.checker.violation.is_none() {
            // What was sent before is past: a late heartbeat makes the dead live longer, and
            // who waits for a listing looks at nothing else.
            let late_until = healed + ns(self.plan.most_late().max(self.listing_timeout()));
            self.run_until(late_until.max(self.now), |_| false);
            (outcome.failover, outcome.herd) = self.last_crash();
        }
        while self.steps < LEAST_STEPS && self.checker.violation.is_none() {
            self.run_until(self.now + ns(self.plan.ttl), |_| false);
        }
        if self.checker.violation.is_none() {
            self.shut_all_down();
        }
    }

    /// All faults stop, and there is more room than work; in some seeds, for
    /// one stream more.
    pub(super) fn heal(&mut self) {
        if self.injected() < LEAST_FAULTS && self.plan.faults.len() >= LEAST_FAULTS {
            let crash = Fault::Crash {
                node: self.rng.next(),
                same_name: true,
                after: self.plan.ttl / 4,
            };
            self.inject_counted("TOO FEW FAULTS", crash);
            return self.push(self.now + ns(self.plan.ttl), Event::Heal);
        }
        trace!(self, "HEALED");
        self.faults_over = true;
        self.servers.heal();
        // In half of the seeds nobody hears that it is resumed.
        self.service_paused_until = 0;
        if self.plan.seed.is_multiple_of(2) {
            self.no_hints_until = self.now + 1;
        }
        self.resume_service();
        self.storm_until = 0;
        self.bad_hints_until = 0;
        self.no_hints_until = 0;
        for node in 0..self.nodes.len() {
            let n = &mut self.nodes[node];
            n.requests_lost_until = 0;
            n.replies_lost_until = 0;
            n.demoted_until = 0;
            n.connects_until = 0;
            n.link = Link::default();
            n.slow_until = 0;
            n.hang_until = 0;
            n.paused_until = n.paused_until.min(self.now);
            // Whatever stopped the clock, it goes on now.
            n.clock.at = n.clock.at.min(self.now);
            n.clock.set_rate(self.now, 1_000_000);
            if n.runs {
                n.wake_at = Timestamp::ZERO;
                self.feed(node, None);
                // Its user may have been about to take an event much later.
                self.push(self.now, Event::Take(node));
                if self.nodes[node].leaving {
                    self.push(self.now, Event::Stop(node));
                }
            }
        }
        let tight = self.plan.tight;
        let wanted = |work: usize| if tight { work } else { 2 * work };
        while self.room() <= wanted(self.servers.lbs.len()) || self.running().count() < 3 {
            let name = self.new_name();
            self.start(name);
        }
        while tight && self.servers.lbs.len() + 1 < self.room() {
            self.submit_new();
        }
    }

    fn room(&self) -> usize {
        let running = self.running();
        running.map(|n| self.nodes[n].settings.capacity).sum()
    }

    fn longest_ttl(&self) -> Settings {
        let mut settings = Settings::default();
        settings.ttl = self.checker.longest_ttl;
        settings
    }

    /// How long everything may take once the faults have stopped. One after the other:
    fn converges_within(&self) -> Time {
        let longest = self.longest_ttl();
        let ttl = longest.ttl;
        // What was sent before still arrives, or is given up;
        let late = self.plan.most_late().max(self.listing_timeout());
        // a restarted lock server is quiet for a TTL, and may have been away for one;
        let quiet = 2 * ttl;
        // who missed a hint asks whether the service is paused still;
        let resumed = longest.heartbeat_interval();
        // an entry that a foreign consumer or an abandoned fetch took is left
        // alone, and this begins when a clock that was set back is where it was;
        let left_alone = longest.foreign_grace() + Duration::from_millis(self.set_back_ms as u64);
        // it is seen by the second sweep at the latest (who had the turn may
        // have died with it), a turn coming with a heartbeat;
        let seen = 2 * (longest.sweep_interval() + longest.heartbeat_interval());
        // a consumer that lives must leave it unlocked for a TTL;
        let unlocked = ttl;
        // it rests if its owners failed;
        let rest = self.longest_rest();
        // it is worked on, after all others of its data stream, each of which
        // waits for a TTL at most.
        let work = (1 + self.most_of_one_stream()) * (ttl + self.plan.ttl / 2);
        ns(late + quiet + resumed + left_alone + seen + unlocked + rest + work) + self.by_hand()
    }

    /// How long a listing is waited for, by a clock that ran at 0.7 of the true rate.
    fn listing_timeout(&self) -> Duration {
        self.longest_ttl().ttl.max(Duration::from_secs(2)) * 10 / 7
    }

    /// The rest of what has failed most, and once more by a request that is late.
    fn longest_rest(&self) -> Duration {
        let failures = self
            .servers
            .lbs
            .entries()
            .map(|entry| self.servers.lbs.failures(entry));
        let most = failures.max().unwrap_or(0);
        self.longest_ttl().rest(most + 2)
    }

    fn most_of_one_stream(&self) -> u32 {
        self.checker.most_of_one_stream(&self.servers.lbs) as u32
    }

    /// By hand, a claim that lost or found no room is made again when the next
    /// sweep reports the stream.
    fn by_hand(&self) -> Time {
        match self.plan.manual {
            Manual::Nobody => 0,
            Manual::Some | Manual::All => self.two_sweeps(),
        }
    }

    /// R9, R10, R11 without any other trouble: one process dies, another one's
    /// user is slow; the rest takes over, in time and without a herd.
    fn last_crash(&mut self) -> (Option<Duration>, u64) {
        self.endless = true;
        let ttl = ns(self.checker.longest_ttl);
        let mut rooms: Vec<_> = self
            .running()
            .map(|n| self.nodes[n].settings.capacity)
            .collect();
        rooms.sort_unstable();
        let slow_too = rooms.len() > 3;
        // Enough without the largest, and without the slow one.
        let most = rooms.pop().unwrap_or(0);
        let slow_room = if slow_too { rooms.remove(1) } else { 0 };
        let count = rooms.iter().sum::<usize>().min(most).min(12);
        // By now the server has noticed which connections are gone.
        let nodes = &self.nodes;
        self.waiters.retain(|w| nodes[w.node].runs);
        let first = self.streams.len();
        for _ in 0..count {
            self.submit_new();
        }
        let leased = |world: &Self| world.unleased(first).is_empty();
        // A fetch whose answer was lost is given up only when its wait is over;
        // what it took is listed then.
        let no_reply = ns(LONGEST_FETCH) + ttl.max(ns(Duration::from_secs(2)));
        let seen = 2 * ns(self.longest_ttl().sweep_interval()) + ttl;
        if !self.run_until(self.now + no_reply + seen + self.by_hand(), leased) {
            let what = format!(
                "of {count} fresh streams these are not leased in time: {:?}",
                self.unleased(first)
            );
            self.checker.fail("R9", "fresh streams wait", what);
            return (None, 0);
        }
        // So that everybody's heartbeat has told of everybody.
        self.run_until(self.now + ttl, |_| false);
        self.run_until(self.now + seen, leased);
        let Some(victim) = self.running().max_by_key(|n| self.checker.views(*n)) else {
            return (None, 0);
        };
        // Who sets a progress timeout wants a stream that nobody takes to go elsewhere.
        let may_be_slow = |n: &usize| {
            let settings = &self.nodes[*n].settings;
            settings.progress_timeout.is_none() && settings.capacity <= slow_room
        };
        let others = self.running().filter(|n| *n != victim && may_be_slow(n));
        let slow = others.min_by_key(|n| self.nodes[*n].settings.capacity);
        if let Some(slow) = slow {
            self.nodes[slow].slow_until = self.now + 3 * ttl;
        }
        let freed: BTreeSet<_> = self.checker.streams_of(victim);
        let (crashed, dies_within) = (self.now, ns(self.nodes[victim].settings.ttl));
        if freed.is_empty() || self.checker.violation.is_some() {
            return (None, 0);
        }
        let thin = self.narrow_one(victim, slow);
        let (number, lost) = (freed.len(), slow.map(|slow| self.checker.lost(slow)));
        self.checker.count_taking(freed);
        self.crash(victim);
        let within = dies_within + self.taken_within(victim, number);
        let in_time = self.run_until(crashed + within, leased);
        if let (Some(slow), Some(lost)) = (slow, lost)
            && self.checker.lost(slow) > lost
        {
            let what = format!("n{slow}'s user is slow, and it loses leases");
            self.checker.fail("R10", "a slow user loses leases", what);
        }
        if let Some((thin, lost)) = thin {
            if self.checker.lost(thin) > lost {
                let what = format!("n{thin}'s link is thin, and it loses leases");
                self.checker.fail("R2", "a thin link loses leases", what);
            }
            self.nodes[thin].link = Link::default();
        }
        if !in_time {
            let what = format!(
                "of n{victim}'s {number} streams these are not taken over in time: {:?}",
                self.unleased(first)
            );
            self.checker.fail("R9", "the dead are not inherited", what);
            return (None, 0);
        }
        let failover = Duration::from_nanos((self.now - crashed).saturating_sub(dies_within));
        self.run_until(self.now + ttl, |_| false);
        let herd = self.check_herd(victim, number, self.now - crashed);
        // By hand it takes as long as the users do, and see `taken_within`.
        let by_itself = self.plan.manual == Manual::Nobody && !self.is_shared(victim);
        (by_itself.then_some(failover), herd)
    }

    /// Somebody's link is thin while it takes over, if the plan says so; and how many
    /// leases it has lost until then.
    fn narrow_one(&mut self, victim: usize, slow: Option<usize>) -> Option<(usize, u64)> {
        let each = self.plan.thin?;
        let others = self.running().filter(|n| *n != victim && Some(*n) != slow);
        let thin = others.max_by_key(|n| self.nodes[*n].settings.capacity)?;
        trace!(self, "n{thin} has a thin link, {each:?} for each entry");
        let length = self.checker.longest_ttl * 100;
        self.nodes[thin].link.narrow(self.now, each, length);
        Some((thin, self.checker.lost(thin)))
    }

    /// Which of the streams from that one on nobody has a lease of, although
    /// they have not failed too often.
    fn unleased(&self, first: usize) -> Vec<&StreamName> {
        let streams = self.streams[first..].iter();
        streams
            .filter(|stream| {
                let is_quarantined = self.checker.is_quarantined(stream);
                self.checker.holders(stream).is_empty() && !is_quarantined
            })
            .collect()
    }

    /// Beyond the TTL of the dead.
    fn taken_within(&self, victim: usize, streams: usize) -> Time {
        let pages = (BETWEEN_SMALL_PAGES + 2 * TRAVEL) * streams as u32;
        // A look is a heartbeat, a list and an inspection; then acquire and claim.
        let steps = 2 * 5 * TRAVEL;
        // Who has no room for a moment comes again for the rest of the list in
        // a quarter of a TTL.
        let again = self.checker.longest_ttl / 4;
        // What is pending at a name that lives is its bearer's for a TTL more:
        // two sweeps have to see it unlocked.
        let shared = match self.is_shared(victim) {
            true => ns(self.longest_ttl().ttl) + self.two_sweeps(),
            false => 0,
        };
        // Whoever has a thin link, and alone has room, reads each of them once for the
        // list of the dead and once by its name; beside that it sweeps twice, and reads
        // there what is pending at others. Its turn waits for a TTL while it reads.
        let read = 2 * (streams + self.servers.lbs.len()) as u32;
        let thin = self
            .plan
            .thin
            .map(|each| each * read + self.checker.longest_ttl);
        let thin = thin.unwrap_or_default();
        ns(DEADLINE_JITTER + LATEST_RANK + pages + steps + again + thin) + shared + self.by_hand()
    }

    /// Whether somebody who runs has the name of that process, which is dead.
    fn is_shared(&self, victim: usize) -> bool {
        let name = &self.nodes[victim].name;
        self.running().any(|n| self.nodes[n].name == *name)
    }

    fn two_sweeps(&self) -> Time {
        let longest = self.longest_ttl();
        ns(2 * (longest.sweep_interval() + longest.heartbeat_interval()))
    }

    /// R11: a claim per stream, and an acquire per stream and survivor for each
    /// of the two looks at it (by the list of the dead, by the lock's end); and
    /// where two have one name, what is pending at it is each one's own, so that
    /// the other probes it once per TTL. In thousandths per stream and survivor.
    fn check_herd(&mut self, victim: usize, streams: usize, lasted: Time) -> u64 {
        let survivors: Vec<_> = self.running().map(|n| &self.nodes[n].name).collect();
        let names: BTreeSet<_> = survivors.iter().collect();
        let each = match names.len() == survivors.len() && !self.is_shared(victim) {
            true => 2,
            false => 3 + lasted / ns(self.plan.ttl),
        };
        let most = (survivors.len() * streams) as u64;
        let (acquires, claims) = (self.checker.taking.acquires, self.checker.taking.claims);
        if claims > streams as u64 {
            let what = format!("{claims} claims for {streams} streams");
            self.checker.fail("R11", "too many claims", what);
        }
        if acquires > each * most {
            let what = format!(
                "{acquires} acquires for {streams} streams, {} are allowed",
                each * most
            );
            self.checker.fail("R11", "too many acquires", what);
        }
        acquires * 1_000 / most
    }

    /// Everybody hands back and ends (the checker looks when); what they had
    /// stays on the LBS.
    fn shut_all_down(&mut self) {
        for node in self.running().collect::<Vec<_>>() {
            self.shut_down(node);
        }
        let within = ns(self.checker.longest_ttl + 2 * TICK);
        self.run_until(self.now + within, |world| world.alive().next().is_none());
    }
}
