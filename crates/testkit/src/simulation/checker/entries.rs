//! What is done to entries, and with which tokens.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use streamlease_core::machine::{Action, LbsCall, LocksCall, Reply};
use streamlease_core::{
    Acquire, AcquireOutcome, ClaimOutcome, CompleteOutcome, EntryId, FencingToken, HandBackOutcome,
    QuarantineOutcome, SessionId, StreamName, TakeOverOutcome,
};

use super::Checker;
use crate::simulation::model::lbs::Lbs;
use crate::simulation::servers::{LOST_FENCES, LOST_WRITES};

/// What became of an entry that is off the LBS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Completed,
    Quarantined,
    /// A foreign consumer, which has no token, completed it.
    Foreign,
    /// A fault took it.
    Vanished,
}

#[derive(Default)]
pub(super) struct Entries {
    submitted: BTreeMap<EntryId, Option<StreamName>>,
    fates: BTreeMap<EntryId, Fate>,
    /// How many should be on the LBS.
    live: usize,
    /// Greatest token claimed with, and by whom, per entry.
    claims: BTreeMap<EntryId, (FencingToken, usize)>,
    minted: BTreeMap<StreamName, FencingToken>,
    /// What each acquire was answered with, for its repeats.
    answered: BTreeMap<(SessionId, u64, StreamName), FencingToken>,
    /// Data streams of which an entry is in quarantine.
    quarantined: BTreeSet<StreamName>,
    /// Taken off the pending list by hand, and not found yet.
    stranded: BTreeSet<EntryId>,
}

/// What it takes to take over the streams of somebody dead.
#[derive(Default)]
pub(in super::super) struct Taking {
    streams: BTreeSet<StreamName>,
    pub(in super::super) acquires: u64,
    pub(in super::super) claims: u64,
}

impl Checker {
    /// Counts from now on what is asked for these.
    pub(in super::super) fn count_taking(&mut self, streams: BTreeSet<StreamName>) {
        self.taking = Taking {
            streams,
            ..Taking::default()
        };
    }

    pub(in super::super) fn submitted(&mut self, entry: EntryId, stream: Option<StreamName>) {
        self.entries.live += 1;
        if self.entries.submitted.insert(entry, stream).is_some() && self.is_durable() {
            let what = format!("the entry id {entry} was given twice");
            self.fail("R7", "an id twice", what);
        }
        self.entries.fates.remove(&entry);
    }

    /// A call as the server executed it.
    pub(in super::super) fn executed(
        &mut self,
        now: Duration,
        node: usize,
        action: &Action,
        reply: &Reply,
        lbs: &Lbs,
    ) {
        self.now = now;
        match (action, reply) {
            (Action::Locks(LocksCall::Acquire(session, requests)), Reply::Acquired(outcomes)) => {
                for (request, outcome) in requests.iter().zip(outcomes) {
                    self.taking.acquires +=
                        u64::from(self.taking.streams.contains(&request.stream));
                    if let AcquireOutcome::Acquired(token) = outcome
                        && !self.repeats_what_is_forgotten(&session.id, request, *token)
                    {
                        self.minted(node, request.entry, &request.stream, *token);
                    }
                }
            }
            (
                Action::Locks(LocksCall::TakeOver { .. }),
                Reply::TakenOver(TakeOverOutcome::Taken { leases, .. }),
            ) => {
                for lease in leases {
                    self.taking.acquires += u64::from(self.taking.streams.contains(&lease.stream));
                    self.minted(node, lease.entry, &lease.stream, lease.token);
                }
            }
            (
                Action::Lbs(call @ (LbsCall::Claim(claims) | LbsCall::Keep(claims))),
                Reply::Claimed(outcomes),
            ) => {
                for (claim, outcome) in claims.iter().zip(outcomes) {
                    if matches!(outcome, ClaimOutcome::Claimed { .. }) {
                        if self.is_paused && matches!(call, LbsCall::Claim(_)) {
                            self.check_owner(node, claim.entry, claim.token);
                        }
                        self.acts("claims", node, claim.entry, claim.token);
                        self.claimed(node, claim.entry, claim.token);
                    }
                }
            }
            (Action::Lbs(LbsCall::Complete(entries)), Reply::Completed(outcomes)) => {
                for (fenced, outcome) in entries.iter().zip(outcomes) {
                    if *outcome == CompleteOutcome::Completed {
                        self.acts("completes", node, fenced.entry, fenced.token);
                        self.gone(fenced.entry, Fate::Completed);
                        if !self.watches[node].wants_completed(fenced.entry, fenced.token) {
                            let what = format!("n{node} completes {}", fenced.entry);
                            self.fail("R7", "completed unasked", what);
                        }
                    }
                }
            }
            (Action::Lbs(LbsCall::HandBack(entries)), Reply::HandedBack(outcomes)) => {
                for (back, outcome) in entries.iter().zip(outcomes) {
                    if *outcome == HandBackOutcome::HandedBack {
                        self.acts("hands back", node, back.entry, back.token);
                    }
                }
            }
            (Action::Lbs(LbsCall::Quarantine(entries)), Reply::Quarantined(outcomes)) => {
                for (quarantined, outcome) in entries.iter().zip(outcomes) {
                    if *outcome == QuarantineOutcome::Quarantined {
                        self.acts("quarantines", node, quarantined.entry, quarantined.token);
                        self.gone(quarantined.entry, Fate::Quarantined);
                    }
                }
            }
            _ => {}
        }
        self.check_count(lbs);
    }

    /// R7: what left, left by one of the known ways.
    fn check_count(&mut self, lbs: &Lbs) {
        if self.entries.live != lbs.len() {
            let (should, are) = (self.entries.live, lbs.len());
            let what = format!("{should} entries should be on the LBS, {are} are");
            self.fail("R7", "entries vanish", what);
        }
    }

    /// Somebody took these off the pending list by hand. They have to be found.
    pub(in super::super) fn stranded(&mut self, lbs: &Lbs) {
        self.entries.stranded.extend(lbs.strays());
    }

    /// R7: what was delivered and is not finished is pending at somebody.
    pub(in super::super) fn check_pending(&mut self, lbs: &Lbs) {
        let strays = lbs.strays();
        let stranded = &mut self.entries.stranded;
        stranded.retain(|entry| strays.contains(entry));
        if let Some(entry) = strays.iter().find(|entry| !stranded.contains(entry)) {
            let what = format!("{entry} was delivered and is pending at nobody");
            self.fail("R7", "pending at nobody", what);
        }
    }

    /// Not promised: the lock server lost writes, and its clock was set back. Then
    /// who asks next may not have seen the last token (seed 13839).
    pub(super) fn may_mint_again(&self) -> bool {
        self.lossy.contains(LOST_WRITES) && self.set_back
    }

    /// Not promised: the lock server has forgotten that it gave the stream to others
    /// since, and answers the same acquire as before with the same token (seed 34978).
    /// Nothing is minted then, and R4 refuses it.
    fn repeats_what_is_forgotten(
        &mut self,
        session: &SessionId,
        request: &Acquire,
        token: FencingToken,
    ) -> bool {
        let acquire = (session.clone(), request.attempt, request.stream.clone());
        let before = self.entries.answered.insert(acquire, token);
        before == Some(token) && self.lossy.contains(LOST_WRITES)
    }

    /// R5: only growing tokens come from the lock server.
    fn minted(&mut self, node: usize, entry: EntryId, stream: &StreamName, token: FencingToken) {
        for (other, watch) in self.watches.iter_mut().enumerate() {
            if other != node {
                watch.had_elsewhere(entry);
            }
        }
        let greatest = self.entries.minted.entry(stream.clone()).or_default();
        // The repeat of an unanswered acquire yields the same token.
        let grows = token >= *greatest;
        *greatest = token.max(*greatest);
        if !grows && !self.may_mint_again() {
            let what = format!("{stream} gets {token:?} after greater ones");
            self.fail("R5", "a smaller token is minted", what);
        }
    }

    /// R4: whoever acts on an entry has the greatest token of it.
    fn acts(&mut self, how: &str, node: usize, entry: EntryId, token: FencingToken) {
        if let Some(&(greatest, owner)) = self.entries.claims.get(&entry)
            && token < greatest
            && !self.lossy.contains("LBS restored")
            && !self.lossy.contains(LOST_FENCES)
        {
            let what =
                format!("n{node} {how} {entry} with {token:?}, n{owner} claimed with {greatest:?}");
            self.fail("R4", "a stale owner is obeyed", what);
        }
    }

    fn claimed(&mut self, node: usize, entry: EntryId, token: FencingToken) {
        let known = self.entries.claims.insert(entry, (token, node));
        let stream = self.entries.submitted.get(&entry).and_then(Option::as_ref);
        let counts = stream.is_some_and(|stream| self.taking.streams.contains(stream));
        let is_new = known.is_none_or(|(seen, _)| seen < token);
        self.taking.claims += u64::from(counts && is_new);
    }

    /// R3: nothing is given to a user without a claim, nor what is finished.
    pub(super) fn check_claimed(&mut self, entry: EntryId, token: FencingToken, what: &str) {
        let claimed = self.entries.claims.get(&entry);
        if claimed.is_none_or(|(claimed, _)| *claimed < token) {
            self.fail("R3", "added without a claim", what);
        }
        // A foreign consumer that asks nobody may complete it after the claim.
        let fate = self.entries.fates.get(&entry).copied();
        let finished = fate.filter(|fate| *fate != Fate::Foreign);
        if let Some(fate) = finished
            && self.is_durable()
        {
            let what = format!("{what}, which is {fate:?}");
            self.fail("R3", "added after its end", what);
        }
    }

    /// Entries were quarantined, each with the failures that were on record just before (R7).
    pub(in super::super) fn quarantined(
        &mut self,
        failures: &[(EntryId, u32)],
        outcomes: &[QuarantineOutcome],
        limit: Option<u32>,
    ) {
        for (&(entry, failures), outcome) in failures.iter().zip(outcomes) {
            if *outcome == QuarantineOutcome::Quarantined {
                self.check_failures(entry, failures, limit);
            }
        }
    }

    /// An LBS that was restored, or lost its records, may have forgotten those that were
    /// counted.
    fn check_failures(&mut self, entry: EntryId, failures: u32, limit: Option<u32>) {
        let submitted = self.entries.submitted.get(&entry);
        let readable = submitted.is_some_and(Option::is_some);
        let restored = ["LBS restored", LOST_FENCES];
        let restored = restored.iter().any(|why| self.lossy.contains(why));
        if readable && !restored && limit.is_none_or(|limit| failures < limit) {
            let what = format!("{entry} is quarantined after {failures} failures");
            self.fail("R7", "quarantined without reason", what);
        }
    }

    pub(in super::super) fn foreign_completes(&mut self, entry: EntryId) {
        self.foreign.remove(&entry);
        self.gone(entry, Fate::Foreign);
    }

    pub(super) fn was_completed_by_foreigner(&self, entry: EntryId) -> bool {
        self.entries.fates.get(&entry) == Some(&Fate::Foreign)
    }

    pub(in super::super) fn is_quarantined(&self, stream: &StreamName) -> bool {
        self.entries.quarantined.contains(stream)
    }

    /// In a pause only who is an owner already claims.
    fn check_owner(&mut self, node: usize, entry: EntryId, token: FencingToken) {
        let known = self.entries.claims.get(&entry).map(|(token, _)| *token);
        if known.is_none_or(|known| token > known) {
            let what = format!("n{node} claims {entry} with {token:?}, a new owner");
            self.fail("pause", "taken in a pause", what);
        }
    }

    fn gone(&mut self, entry: EntryId, fate: Fate) {
        self.entries.live -= 1;
        if fate == Fate::Quarantined
            && let Some(Some(stream)) = self.entries.submitted.get(&entry)
        {
            self.entries.quarantined.insert(stream.clone());
        }
        if let Some(before) = self.entries.fates.insert(entry, fate)
            && self.is_durable()
        {
            self.fail(
                "R7",
                "finished twice",
                format!("{entry} was {before:?} already"),
            );
        }
    }

    /// The LBS is as it was before: what came since is gone, what went is back.
    pub(in super::super) fn restored(&mut self, lbs: &Lbs) {
        self.lossy.insert("LBS restored");
        let Entries {
            submitted, fates, ..
        } = &mut self.entries;
        fates.retain(|entry, _| !lbs.contains(*entry));
        for entry in submitted.keys().filter(|entry| !lbs.contains(**entry)) {
            fates.entry(*entry).or_insert(Fate::Vanished);
        }
        self.entries.live = lbs.len();
        // What had been found again is as it was before.
        self.stranded(lbs);
    }

    /// The most entries that one data stream has on the LBS.
    pub(in super::super) fn most_of_one_stream(&self, lbs: &Lbs) -> usize {
        let mut counts = BTreeMap::<&StreamName, usize>::new();
        for entry in lbs.entries() {
            if let Some(Some(stream)) = self.entries.submitted.get(&entry) {
                *counts.entry(stream).or_default() += 1;
            }
        }
        counts.into_values().max().unwrap_or(0)
    }

    /// R7, R8, R9: all that was submitted is finished in time.
    pub(in super::super) fn check_finished(&mut self, now: Duration, lbs: &Lbs) {
        self.now = now;
        self.check_count(lbs);
        if let Some(entry) = lbs.entries().next() {
            let submitted = self.entries.submitted.get(&entry);
            let readable = submitted.is_some_and(Option::is_some);
            let rule = if readable { "R9" } else { "R8" };
            let (left, first) = (lbs.len(), lbs.describe(entry));
            let what = format!("{left} entries are not finished in time, the first is {first}");
            self.fail(rule, "not finished in time", what);
        }
    }

    /// A write of an owner who believed when sending it reaches the resource (R4).
    pub(in super::super) fn write(
        &mut self,
        now: Duration,
        stream: &StreamName,
        token: FencingToken,
        node: usize,
    ) {
        self.now = now;
        let &mut (greatest, whose) = self.resource.entry(stream.clone()).or_insert((token, node));
        if token < greatest {
            return; // refused
        }
        if token == greatest && whose != node && !self.may_mint_again() {
            let what = format!("{stream}: n{node} and n{whose} write with {token:?}");
            self.fail("R5", "a token twice", what);
        }
        self.resource.insert(stream.clone(), (token, node));
    }
}
