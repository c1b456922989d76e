//! The suite for [`LockManager`], of either
//! [`LockScheme`](streamlease_core::LockScheme).
//!
//! Give each behaviour an `Arc<dyn LockManager>` of a service that has never
//! been used. Behaviours of sessions are skipped, and say so, where the backend keeps none.

mod deadlines;
mod harness;
mod leases;
mod sessions;

use std::sync::Arc;

use streamlease_core::LockManager;

use super::suite;

pub use deadlines::*;
pub use leases::*;
pub use sessions::*;

suite!($ lock_manager_conformance!, lock_manager: Arc<dyn LockManager>, [
    // Leases
    the_scheme_is_always_the_same,
    a_held_stream_is_refused_whatever_the_entry,
    a_session_holds_a_stream_for_one_entry,
    a_stream_twice_in_one_page_is_held_once,
    an_acquire_can_be_repeated,
    another_attempt_gets_a_greater_token_and_the_old_one_frees_nothing,
    an_earlier_attempt_that_executes_late_changes_nothing,
    tokens_grow_over_successive_owners,
    tokens_grow_past_the_floor,
    a_released_stream_is_free,
    a_release_can_be_repeated,
    a_release_with_another_token_changes_nothing,
    a_late_release_does_not_free_a_newer_acquisition,
    racing_acquires_give_each_stream_to_one_session,
    inspection_says_who_holds_a_lock_and_for_how_long,
    streams_are_told_apart_whatever_their_names,
    results_are_positional,
    large_batches_are_answered_whole,
    dropped_calls_can_be_repeated,
    // Deadlines
    a_lease_ends_at_its_deadline,
    a_renewal_extends_what_is_held,
    a_renewal_leaves_alone_what_it_does_not_name,
    a_renewal_gives_the_whole_ttl_again,
    a_renewal_names_what_is_lost,
    a_late_renewal_revives_nothing,
    a_late_open_revives_nothing,
    an_open_can_be_repeated,
    an_acquire_does_not_extend_its_session,
    ttls_may_differ,
    a_closed_session_is_dead_at_once,
    a_session_that_is_gone_acquires_nothing,
    // Sessions
    dead_sessions_are_reported_until_they_are_removed,
    a_live_session_is_not_removed,
    a_take_over_leaves_the_living_alone,
    a_take_over_moves_a_dead_sessions_leases_in_pages,
    a_take_over_leaves_what_others_acquired_since,
    racing_take_overs_move_each_lease_once,
    a_session_that_was_taken_over_does_not_come_back,
    a_session_that_is_gone_takes_nothing_over,
    the_next_deadline_is_the_soonest_of_the_others,
    members_are_the_live_sessions,
    records_are_what_is_held,
    the_generation_stays_while_nothing_is_lost,
    a_revoked_lease_is_named_until_its_owner_releases_it,
    the_turn_to_sweep_comes_once_per_length_of_time,
]);
