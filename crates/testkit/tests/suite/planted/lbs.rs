//! A load balancer stream with bugs: the one in memory, and what each bug makes of its calls.

mod absent;
mod admin;
mod claims;
mod consumers;
mod counts;
mod ends;
mod keyed;
mod submit;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use streamlease_backend_memory::MemoryBackend;
use streamlease_core::{
    Backend, BackendProvider, ConsumerName, Delivery, EntryId, FencingToken, Pending, Runtime,
    Scope, ServiceName, SubmitOutcome, Timestamp, Transport,
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
