//! The model backend: what Redis does with each call, call by call.
//!
//! Written from the contracts and from what Redis was seen to do, not from any
//! of our backends, so that a misunderstanding shows.

pub(super) mod lbs;
pub(super) mod locks;

/// Deliberate breaches of a contract, to show that the checker sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A process's clock does not count the time it was stopped (R1).
    ClockStops,
    /// Timers fire a tenth of a second late (R1).
    TimersAreLate,
    /// A claim that is refused is reported as if it were done (R3).
    RefusedIsDone,
    /// Nothing tells that the record of leases has vanished (R6).
    LossIsSilent,
    /// A heartbeat that fails is reported as if every lease were lost (R2).
    ErrorIsLoss,
    /// A claim of an entry that is gone is reported as claimed (R3).
    ClaimsTheGone,
    /// The LBS takes claims and completions whatever their token (R4).
    NoFence,
    /// Infos come on the connection of the heartbeats (R2).
    InfosAmongHeartbeats,
    /// Handing back takes the entry off the LBS (R7).
    HandBackRemoves,
    /// Tokens are counted, without regard to floor and clock (R5).
    TokensRestart,
    /// The locks of foreign consumers stand in nobody's way (R6).
    ForeignLocksIgnored,
    /// The lock is per entry, not per data stream (R6).
    LockPerEntry,
    /// A dead consumer's name is removed with what is pending at it (R7).
    ForgetsPending,
    /// A new group starts at the last entry (R7).
    GroupAtTheEnd,
    /// Malformed entries are kept from the consumer that fetched them (R8).
    SwallowsPoison,
    /// Heartbeats tell neither of the dead nor of the next deadline (R9).
    HeartbeatsAreSilent,
    /// No heartbeat is sent while events wait for a slow user (R10).
    SlowUserStopsHeartbeats,
    /// The event queue's places are given back twice (R10).
    TakenTwice,
    /// A take-over moves everything, however much was asked for (R11).
    TakesEverything,
    /// A refused acquire is told that the holder has no time left (R11).
    HeldForNoTime,
    /// The driver asks again by itself when a fetch brings nothing (R11).
    AsksAgain,
    /// Notices of an end come twice (R12).
    EndsTwice,
    /// A claim in a pause makes a new owner.
    ClaimIgnoresPause,
    /// Who knows of a pause never asks whether it is over, and hears no hint.
    PauseHasNoEnd,
    /// Hanging handlers are reported as making progress (`progress_timeout`).
    HangingIsProgress,
}

impl Mutant {
    /// All of them, each with the rule whose check is to find it.
    pub const ALL: [(Self, &'static str); 25] = [
        (Self::ClockStops, "R1"),
        (Self::TimersAreLate, "R1"),
        (Self::ErrorIsLoss, "R2"),
        (Self::InfosAmongHeartbeats, "R2"),
        (Self::ClaimsTheGone, "R3"),
        (Self::RefusedIsDone, "R3"),
        (Self::NoFence, "R4"),
        (Self::TokensRestart, "R5"),
        (Self::LockPerEntry, "R6"),
        (Self::ForeignLocksIgnored, "R6"),
        (Self::LossIsSilent, "R6"),
        (Self::HandBackRemoves, "R7"),
        (Self::ForgetsPending, "R7"),
        (Self::GroupAtTheEnd, "R7"),
        (Self::SwallowsPoison, "R8"),
        (Self::HeartbeatsAreSilent, "R9"),
        (Self::SlowUserStopsHeartbeats, "R10"),
        (Self::TakenTwice, "R10"),
        (Self::TakesEverything, "R11"),
        (Self::HeldForNoTime, "R11"),
        (Self::AsksAgain, "R11"),
        (Self::EndsTwice, "R12"),
        (Self::ClaimIgnoresPause, "pause"),
        (Self::PauseHasNoEnd, "R9"),
        (Self::HangingIsProgress, "progress"),
    ];
}
