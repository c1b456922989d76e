//! A load balancer stream with bugs: the one in memory, and what each bug makes of its calls.

mod counts;

mod absent;
mod keyed;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use streamlease_backend_memory::MemoryBackend;
use streamlease_core::{
    Admin, Announcement, Backend, BackendProvider, ClaimOutcome, CompleteOutcome, ConsumerName,
    ConsumerState, Delivery, EntryId, Error, ErrorKind, Fenced, FencingToken, FetchRequest,
    Fetched, HandBackOutcome, HandBackRequest, Info, Pause, Pending, PendingIds, PendingPage,
    Quarantine, QuarantineOutcome, QuarantineRelease, Quarantined, Result, Runtime, Scope,
    ServiceCounts, ServiceName, StreamName, SubmitBatch, SubmitOutcome, Submitter, Timestamp,
    Transport,
};
use streamlease_testkit::conformance;
use streamlease_testkit::simulation::SimRuntime;

use self::absent::Absent;
use super::{assert_right, planted, table};

planted! { Bug:
    Safety GroupBeginsAtTheEnd = "a new group begins behind what is there",
    Safety PrepareMakesAnew = "a prepare makes the group anew",
    Delay UnpreparedFails = "a fetch without a group is an error of another kind",
    Safety RepeatAppends = "a batch that is repeated is appended again",
    Safety RepeatIsForgottenOnceGone = "a batch is forgotten when its entries are gone",
    Safety BatchIsItsContents = "a batch with the contents of another one is its repeat",
    Safety GrownBatchIsIgnored = "what a batch has grown by is not appended",
    Safety GrownBatchIsAppendedWhole = "a batch that has grown is appended from its start",
    Safety SubmitLosesTheLast = "of a batch with several the last is not appended",
    Safety SameStreamIsOneEntry = "a data stream is announced once at most in a batch",
    Safety AbsentIsIgnored = "what is announced is announced again although it was asked",
    Safety AbsentSeesItsOwn = "only what was announced by batches that asked counts as announced",
    Safety AbsentForgetsThePending = "what is pending counts as absent",
    Safety AbsentForgetsTheReleased = "what came back from the quarantine counts as absent",
    Safety AbsentForgetsTheOld = "what was announced long ago counts as absent, though it is held",
    Safety AbsentRemembersTheGone = "what is completed counts as announced",
    Safety AbsentIsTwoSteps = "between looking and announcing others announce it",
    Safety AbsentRepeatLooksAnew = "a batch that asks is answered anew when it is repeated",
    Safety AbsentDoublesInABatch = "two of one name in a batch that asks are both announced",
    Safety AbsentCutsNames = "of names that are asked for 255 bytes are compared",
    Safety AbsentIgnoresCase = "names that are asked for are compared without case",
    Safety AbsentTrimsNames = "names that are asked for are compared without blanks around",
    Delay AbsentTellsNoEntry = "of what is announced another entry is told",
    Delay AbsentSaysAnnounced = "what was announced already is told as announced now",
    Safety KeyIsIgnored = "a batch with a key is known by its own id only",
    Safety KeysAreOne = "what one key has announced counts for all keys",
    Safety KeyedByPlace = "what a key has announced is known by its place in the batch",
    Safety KeyedNameIsOneEntry = "of a batch with a key each name is announced once at most",
    Safety KeyedIgnoresAbsent = "a batch with a key announces also what is there",
    Delay KeyedSaysAnnounced = "what another batch with the key has announced is told as new",
    Delay KeyedRepeatIsAnothers = "a batch with a key that is repeated is told of as another one",
    Safety SubmitReverses = "a batch is appended in the other order",
    Safety NamesAreCut = "names are cut at 1000 bytes",
    Safety NamesAreTrimmed = "line breaks in names are blanks",
    Safety InfoIsFormatted = "numbers in an info lose their digits",
    Safety InfoIsDropped = "infos are lost",
    Safety FetchIsForAll = "two consumers are given the same entries",
    Safety FetchIsNotPending = "what was fetched is pending nowhere until it is claimed",
    Safety FetchSkips = "a fetch with room for one passes over an entry",
    Safety FetchBringsMore = "a fetch brings one more than it was asked for",
    Safety FetchNewestFirst = "a fetch brings the newest first",
    Delay FetchGivesUpEarly = "a fetch waits for a second at most",
    Delay FetchFailsWhenEmpty = "a fetch that nothing came for is an error",
    Delay FetchDoesNotWake = "a fetch that waits does not see what is submitted meanwhile",
    Delay FetchOfNothingWaits = "a fetch that is to wait for nothing waits",
    Delay FetchBlocksAll = "while a fetch waits, no claim is served",
    Delay FetchOverstates = "a fetch says that more are waiting than there are",
    Safety ClaimTakesLower = "a claim with a lower token is granted",
    Safety ClaimForgetsToken = "a claim does not remember its token",
    Safety ClaimLowersToken = "a claim with a lower token is refused and lowers the remembered one",
    Safety ClaimIgnoresHandBack = "after a hand back the same token can claim again",
    Safety ClaimAfterHandBackUndoesIt = "a claim with the token that handed back is refused and takes the entry",
    Safety ClaimMakesTheGone = "a claim of an entry that is gone is granted",
    Safety ClaimOfTheUndeliveredLosesIt = "a claim of an entry that nobody has is refused as gone",
    Safety ClaimDoesNotMove = "a claim leaves the entry pending where it was",
    Safety ClaimIsByName = "a claim by the consumer that has the entry ignores the token",
    Delay ClaimKeepsIdle = "a claim leaves the idle time as it was",
    Delay ClaimAgainIsStale = "an owner that claims again is refused",
    Delay ClaimFromUnknown = "a claim does not say whose the entry was",
    Safety ClaimOfManyStops = "the first claim of a page that is refused ends it",
    Safety CompleteTakesLower = "a completion with a lower token is granted",
    Safety CompleteIsByName = "a completion by the consumer that has the entry ignores the token",
    Delay CompleteOfHigherFails = "a completion with a token above the remembered one is refused",
    Delay CompleteNeedsName = "a completion by another consumer than has the entry is refused",
    Safety CompleteDoesNothing = "a completion is answered and leaves the entry",
    Safety CompleteOnlyAcknowledges = "a completed entry that nobody had fetched is delivered",
    Safety CompleteTakesOthers = "a completion takes the other announcements of the data stream with it",
    Delay CompleteOfTheGoneSaysYes = "a completion of what is gone says completed",
    Safety HandBackTakesLower = "a hand back with a lower token is granted",
    Safety HandBackRemoves = "a hand back takes the entry off the LBS",
    Safety HandBackDoesNothing = "a hand back is answered and gives nothing back",
    Safety HandBackForgetsToken = "a hand back with a greater token does not remember it",
    Delay RepeatedHandBackCounts = "a hand back that is repeated counts a failure each time",
    Delay EveryHandBackCounts = "every hand back counts a failure",
    Delay NoHandBackCounts = "no hand back counts a failure",
    Delay DeathDoesNotCount = "the death of an owner counts no failure",
    Delay LateHandBackTakesNothingBack = "a late hand back takes no death back",
    Delay ReasonsAreLost = "reasons of failures are not kept",
    Delay ReasonsAreCut = "reasons are cut at 100 bytes",
    Delay ClearTakesAny = "any token clears failures",
    Delay ClearDoesNothing = "failures are never cleared",
    Safety ClearForgetsToken = "to clear failures clears the token, too",
    Safety QuarantineTakesLower = "a quarantine with a lower token is granted",
    Safety QuarantineIgnoresFailures = "an entry goes into quarantine with fewer failures than it must have",
    Safety QuarantineLosesPayload = "the quarantine keeps no payload",
    Safety QuarantineIsNowhere = "what is quarantined is nowhere",
    Delay QuarantineLosesReason = "the quarantine keeps no reason",
    Safety QuarantineKeepsEntry = "what is quarantined is pending, too",
    Delay QuarantineCountsNothing = "the quarantine does not say how often owners failed",
    Safety ReleaseLosesInfo = "what comes back from the quarantine has no info",
    Safety ReleaseAppendsAgain = "a release from the quarantine that is repeated appends again",
    Safety ReleaseIsGone = "a release from the quarantine removes the entry and appends none",
    Delay ReleaseKeepsFailures = "what comes back from the quarantine has still failed",
    Safety DropOfAll = "to drop one entry of the quarantine drops all",
    Delay DropDoesNothing = "to drop an entry of the quarantine does nothing",
    Safety DropTakesPending = "to drop an entry that is not in quarantine completes it",
    Safety ListForgetsTheLast = "a page of the list has no end: its last entry is left out",
    Safety ListStopsEarly = "after its first page a list says that it is over",
    Allowed("a page more, which is empty, ends it")
        ListHasAnEmptyEnd = "a list says that there is more when there is not",
    Safety TokensAreDoubles = "tokens are kept as floating-point numbers",
    Delay ListIsUnordered = "a page comes in the other order",
    Safety ListOfOneIsOfAll = "one consumer's list is everybody's",
    Delay ListIgnoresLimit = "a page is as long as there are entries",
    Delay ListDelivers = "to look at an entry counts as its delivery",
    Delay ListTouches = "to look at an entry resets its idle time",
    Safety IdsForgetTheLast = "the list of ids leaves the last out",
    Safety EntriesAreNotFound = "of entries that are asked for by id only the first is found",
    Delay StrandedAreAll = "everything pending counts as stranded",
    Safety RemovedWithPending = "a consumer's name is removed with what is pending at it",
    Delay NotRemoved = "a consumer's name is never removed",
    Delay UndeliveredAreDelivered = "a look at what nobody has had delivers it",
    Delay ConsumersCountNothing = "the list of consumers does not say what they have",
    Delay CountsForgetTheQuarantine = "the counts leave the quarantine out",
    Delay CountsTakeAllForWaiting = "what is pending counts as waiting, too",
    Delay CountsTakeUnknownForNone = "as long as one that was withdrawn lies among them, none waits",
    Delay CountsEstimate = "what was withdrawn is counted among those that wait",
    Delay CountsNeedAGroup = "without a group nothing can be counted",
    Delay CountsForgetTheHandedBack = "what was handed back is not pending",
    Delay CountsAgeTheNewest = "the age of the oldest is that of the newest",
    Delay CountsAgeStands = "the age of the oldest does not grow",
    Delay CountsAgeOfNothing = "where nothing waits, the oldest has age 0",
    Delay CountsTouch = "to count what is pending resets its idle time",
    Delay CountsDeliver = "to count what waits delivers it",
    Delay CountsHideThePause = "the counts do not tell of a pause",
    Safety PauseIsIgnored = "a claim in a pause makes a new owner",
    Safety PauseLetsTakeOver = "in a pause what had an owner is taken over",
    Safety PauseLetsTakeTheHandedBack = "in a pause what was handed back is taken",
    Safety PauseNeedsAGroup = "a pause is forgotten when the group is made",
    Safety PausedAgainIsResumed = "to pause a service twice resumes it",
    Delay PauseStopsOwners = "in a pause an owner that claims again is refused",
    Safety PauseStopsKeeping = "in a pause who keeps what was forgotten of it is refused",
    Safety KeepIsUnfenced = "who keeps an entry needs no token",
    Delay PausedClaimMoves = "a claim that a pause refused moves the entry to the claimer",
    Delay PausedClaimCounts = "a claim that a pause refused counts a failure",
    Delay PauseBeginsAnew = "to pause a service again begins another pause",
    Delay PauseSaysNew = "to pause a service again says that it was not paused",
    Delay PauseHasNoReason = "a pause keeps no reason",
    Delay PauseIsNotShown = "nothing shows that a service is paused",
    Delay ResumeDoesNothing = "a resume is answered and ends nothing",
    Safety ResultsAreSorted = "results come in the order of ids",
}

#[derive(Debug)]
struct Lbs {
    bug: Option<Bug>,
    memory: MemoryBackend,
    service: ServiceName,
    inner: Backend,
    clock: Arc<dyn Runtime>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    prepared: bool,
    /// Batches as they were sent, with the id and the size that the one in memory knows.
    batches: BTreeMap<u128, (u128, usize)>,
    by_contents: BTreeMap<String, u128>,
    renamed: u128,
    delivered: Vec<Delivery>,
    claimed: BTreeSet<EntryId>,
    looked: u64,
    fetching: usize,
    since: BTreeMap<EntryId, Timestamp>,
    lowered: BTreeMap<EntryId, u64>,
    absent: Absent,
    /// How many were completed that nobody had had.
    withdrawn: u64,
}

fn entries(outcomes: &[SubmitOutcome]) -> Vec<EntryId> {
    outcomes.iter().map(|outcome| outcome.entry()).collect()
}

const NOBODY: &str = "nobody";

fn nobody() -> ConsumerName {
    ConsumerName::from_wire(NOBODY)
}

impl Lbs {
    fn is(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lbs(&self) -> &dyn Transport {
        &*self.inner.transport
    }

    async fn pending(&self, entry: EntryId) -> Option<Pending> {
        let page = self
            .lbs()
            .list_pending(&Scope::Entries(vec![entry]), 1)
            .await;
        page.ok()?.entries.into_iter().next()
    }

    /// Where it is pending, if it is, with its token.
    async fn at(&self, entry: EntryId) -> Option<(ConsumerName, FencingToken)> {
        let pending = self.pending(entry).await?;
        Some((pending.consumer?, pending.token))
    }

    async fn claim_inner(&self, consumer: &ConsumerName, claim: Fenced) -> Result<ClaimOutcome> {
        let outcomes = self.lbs().claim(consumer, &[claim]).await?;
        Ok(outcomes.into_iter().next().expect("one"))
    }

    async fn claim_one(&self, consumer: &ConsumerName, claim: Fenced) -> Result<ClaimOutcome> {
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
    async fn in_a_pause(
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

    async fn complete_one(&self, consumer: &ConsumerName, done: Fenced) -> Result<CompleteOutcome> {
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

    async fn hand_back_one(
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

    async fn quarantine_one(
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

    /// Of a batch of one.
    async fn submit_inner(&self, batch: &SubmitBatch) -> Result<EntryId> {
        Ok(self.inner.submitter.submit(batch).await?[0].entry())
    }

    fn new_id(&self) -> u128 {
        let state = &mut *self.state();
        state.renamed += 1;
        (1 << 127) | state.renamed
    }

    fn as_announced(&self, announcement: &Announcement) -> Announcement {
        let name = announcement.stream.as_str();
        let name: String = match self.bug {
            Some(Bug::NamesAreCut) => name.chars().take(1_000).collect(),
            Some(Bug::NamesAreTrimmed) => name.replace('\n', " "),
            _ => name.to_owned(),
        };
        let info = match self.bug {
            Some(Bug::InfoIsDropped) => Info::NONE,
            Some(Bug::InfoIsFormatted) => {
                let text = announcement.info.as_json().unwrap_or("{}");
                let text = text.replace("12345678901234567890", "12345678901234567000");
                Info::from_json(&text).expect("it was JSON")
            }
            _ => announcement.info.clone(),
        };
        Announcement::new(StreamName::new(name).expect("not empty"), info)
    }

    fn listed(&self, mut page: PendingPage, limit: usize) -> PendingPage {
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
    fn order<T: Clone>(&self, items: &[T], id: impl Fn(&T) -> EntryId) -> Vec<T> {
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

#[async_trait]
impl Submitter for Lbs {
    async fn submit(&self, batch: &SubmitBatch) -> Result<Vec<SubmitOutcome>> {
        if batch.if_absent && self.is_of_absent() {
            return self.submit_absent(batch).await;
        }
        let announcements: Vec<_> = batch
            .announcements
            .iter()
            .map(|a| self.as_announced(a))
            .collect();
        let mut sent = SubmitBatch::with_id(batch.id, announcements);
        sent.if_absent = batch.if_absent;
        if batch.key.is_some() {
            sent.key = batch.key;
            return self.submit_keyed(sent).await;
        }
        let known = self.state().batches.get(&batch.id).copied();
        match self.bug {
            Some(Bug::RepeatAppends) => sent.id = self.new_id(),
            Some(Bug::RepeatIsForgottenOnceGone) if known.is_some() => {
                let first = self.inner.submitter.submit(&sent).await?;
                let there = self
                    .lbs()
                    .list_pending(&Scope::Entries(entries(&first)), 10_000)
                    .await;
                let waiting = self
                    .inner
                    .admin
                    .list_undelivered(EntryId::MIN, 10_000)
                    .await?;
                let waits = |id: &EntryId| waiting.iter().any(|delivery| delivery.entry == *id);
                let there = there.map_or(0, |page| page.entries.len());
                if there > 0 || entries(&first).iter().any(waits) {
                    return Ok(first);
                }
                sent.id = self.new_id();
            }
            Some(Bug::BatchIsItsContents) => {
                let contents = format!(
                    "{:?}",
                    sent.announcements
                        .iter()
                        .map(|a| &a.stream)
                        .collect::<Vec<_>>()
                );
                let id = *self.state().by_contents.entry(contents).or_insert(sent.id);
                sent.id = id;
            }
            Some(Bug::GrownBatchIsIgnored) if known.is_some() => {
                let size = known.map_or(0, |(_, size)| size);
                sent.announcements.truncate(size);
            }
            Some(Bug::GrownBatchIsAppendedWhole) => {
                let size = known.map_or(sent.announcements.len(), |(_, size)| size);
                if sent.announcements.len() > size {
                    sent.id = self.new_id();
                }
            }
            Some(Bug::SubmitLosesTheLast) if sent.announcements.len() > 1 => {
                sent.announcements.pop();
                let mut ids = self.inner.submitter.submit(&sent).await?;
                let last = ids[ids.len() - 1].entry();
                ids.push(SubmitOutcome::Announced(EntryId::new(
                    last.ms,
                    last.seq + 1,
                )));
                return Ok(ids);
            }
            Some(Bug::SameStreamIsOneEntry) => {
                let names: Vec<_> = sent
                    .announcements
                    .iter()
                    .map(|a| a.stream.clone())
                    .collect();
                let mut seen = BTreeMap::new();
                sent.announcements.retain(|a| {
                    let nth = seen.len();
                    let new = !seen.contains_key(&a.stream);
                    seen.entry(a.stream.clone()).or_insert(nth);
                    new
                });
                let ids = self.inner.submitter.submit(&sent).await?;
                return Ok(names.iter().map(|name| ids[seen[name]]).collect());
            }
            Some(Bug::SubmitReverses) => sent.announcements.reverse(),
            _ => {}
        }
        let size = known.map_or(sent.announcements.len(), |(_, size)| {
            size.max(sent.announcements.len())
        });
        self.state().batches.insert(batch.id, (sent.id, size));
        let mut ids = self.inner.submitter.submit(&sent).await?;
        if self.is(Bug::SubmitReverses) {
            ids.reverse();
        }
        let names = sent.announcements.into_iter().map(|a| a.stream);
        let submitted = names.zip(entries(&ids));
        self.state().absent.submitted.extend(submitted);
        Ok(ids)
    }
}

#[async_trait]
impl Admin for Lbs {
    async fn consumers(&self) -> Result<Vec<ConsumerState>> {
        let mut consumers = self.inner.admin.consumers().await?;
        if self.is(Bug::ConsumersCountNothing) {
            consumers
                .iter_mut()
                .for_each(|consumer| consumer.pending = 0);
        }
        Ok(consumers)
    }

    async fn list_undelivered(&self, after: EntryId, limit: usize) -> Result<Vec<Delivery>> {
        let there = self.inner.admin.list_undelivered(after, limit).await?;
        if self.is(Bug::UndeliveredAreDelivered) && self.state().prepared {
            self.lbs()
                .fetch(&FetchRequest::new(nobody(), limit, Duration::ZERO))
                .await?;
        }
        Ok(there)
    }

    async fn pause(&self, reason: &str) -> Result<bool> {
        let admin = &self.inner.admin;
        let was_paused = self.lbs().paused().await?.is_some();
        match self.bug {
            Some(Bug::PausedAgainIsResumed) if was_paused => {
                admin.resume().await?;
                Ok(false)
            }
            Some(Bug::PauseBeginsAnew) if was_paused => {
                admin.resume().await?;
                admin.pause(reason).await?;
                Ok(false)
            }
            Some(Bug::PauseSaysNew) => admin.pause(reason).await.map(|_| true),
            _ => admin.pause(reason).await,
        }
    }

    async fn resume(&self) -> Result<bool> {
        match self.bug {
            Some(Bug::ResumeDoesNothing) => Ok(self.lbs().paused().await?.is_some()),
            _ => self.inner.admin.resume().await,
        }
    }

    async fn counts(&self) -> Result<ServiceCounts> {
        self.miscounted().await
    }

    async fn list_quarantined(&self, after: EntryId, limit: usize) -> Result<Vec<Quarantined>> {
        let mut quarantined = self.inner.admin.list_quarantined(after, limit).await?;
        for entry in &mut quarantined {
            match self.bug {
                Some(Bug::QuarantineLosesPayload) => entry.fields.clear(),
                Some(Bug::QuarantineCountsNothing) => entry.failures = 0,
                Some(Bug::ReasonsAreLost) => entry.reasons.clear(),
                _ => {}
            }
        }
        Ok(quarantined)
    }

    async fn release_quarantined(&self, entries: &[EntryId]) -> Result<Vec<QuarantineRelease>> {
        let mut releases = Vec::new();
        for entry in self.order(entries, |entry| *entry) {
            let there = self
                .inner
                .admin
                .list_quarantined(EntryId::MIN, 10_000)
                .await?;
            let there = there
                .into_iter()
                .find(|quarantined| quarantined.entry == entry);
            let content = there.as_ref().and_then(|quarantined| {
                let fields = quarantined.fields.iter();
                Announcement::from_fields(fields.map(|(n, v)| (&n[..], &v[..]))).ok()
            });
            let release = async || self.inner.admin.release_quarantined(&[entry]).await;
            let mut outcome = release().await?[0];
            match (self.bug, outcome) {
                (Some(Bug::ReleaseLosesInfo), QuarantineRelease::Released(new))
                    if there.is_some() =>
                {
                    let fenced = Fenced {
                        entry: new,
                        token: FencingToken::NONE,
                    };
                    self.lbs().complete(&nobody(), &[fenced]).await?;
                    let stream = content.expect("readable").stream;
                    let bare = vec![Announcement::new(stream, Info::NONE)];
                    let batch = SubmitBatch::with_id(self.new_id(), bare);
                    outcome = QuarantineRelease::Released(self.submit_inner(&batch).await?);
                }
                (Some(Bug::ReleaseAppendsAgain), QuarantineRelease::Released(new))
                    if there.is_none() =>
                {
                    let stream = StreamName::new(format!("again-{new}")).expect("short");
                    let again = vec![Announcement::new(stream, Info::NONE)];
                    let batch = SubmitBatch::with_id(self.new_id(), again);
                    outcome = QuarantineRelease::Released(self.submit_inner(&batch).await?);
                }
                (Some(Bug::ReleaseIsGone), QuarantineRelease::Released(new)) => {
                    let fenced = Fenced {
                        entry: new,
                        token: FencingToken::NONE,
                    };
                    self.lbs().complete(&nobody(), &[fenced]).await?;
                }
                (Some(Bug::ReleaseKeepsFailures), QuarantineRelease::Released(new)) => {
                    let back =
                        HandBackRequest::new(new, FencingToken::NONE).failed(Some("?".into()));
                    self.lbs().hand_back(&nobody(), &[back]).await?;
                }
                _ => {}
            }
            releases.push(outcome);
        }
        Ok(releases)
    }

    async fn drop_quarantined(&self, entries: &[EntryId]) -> Result<Vec<bool>> {
        let mut dropped = Vec::new();
        for entry in self.order(entries, |entry| *entry) {
            match self.bug {
                Some(Bug::DropDoesNothing) => {
                    dropped.push(true);
                    continue;
                }
                Some(Bug::DropOfAll) => {
                    let all = self
                        .inner
                        .admin
                        .list_quarantined(EntryId::MIN, 10_000)
                        .await?;
                    let others = all.iter().map(|quarantined| quarantined.entry);
                    let others: Vec<_> = others.filter(|other| *other != entry).collect();
                    self.inner.admin.drop_quarantined(&others).await?;
                }
                Some(Bug::DropTakesPending) => {
                    if let Some((consumer, token)) = self.at(entry).await {
                        self.lbs()
                            .complete(&consumer, &[Fenced { entry, token }])
                            .await?;
                    }
                }
                _ => {}
            }
            dropped.extend(self.inner.admin.drop_quarantined(&[entry]).await?);
        }
        Ok(dropped)
    }
}

fn backend(sim: &SimRuntime, bug: Option<Bug>) -> Backend {
    let memory = MemoryBackend::new(Arc::new(sim.clone()));
    let service = ServiceName::new("orders").expect("a valid name");
    let inner = memory.backend(&service).expect("its own service");
    let lbs = Lbs {
        bug,
        memory,
        service,
        clock: Arc::new(sim.clone()),
        state: Mutex::default(),
        inner: inner.clone(),
    };
    Backend::new(Arc::new(lbs), inner.locks, inner.notifier)
}

/// Behaviours with thousands of entries.
const LONG: [&str; 2] = [
    "large_batches_are_answered_whole",
    "what_is_held_is_announced_however_much_comes_and_goes",
];

#[test]
fn what_is_wrong_with_a_load_balancer_stream_is_found() {
    let mut behaviours = conformance::transport::behaviours();
    // What takes longest last: most bugs are found before.
    behaviours.sort_by_key(|behaviour| LONG.contains(&behaviour.name()));
    assert_right(&table("Transport", &behaviours, backend, Bug::ALL));
}
