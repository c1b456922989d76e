//! The suite for [`Transport`](streamlease_core::Transport), `Submitter` and `Admin`.
//!
//! Give each behaviour a [`Backend`] of a service that has never been
//! used: nothing announced, no group.

mod delivery;
mod failures;
mod fencing;
mod harness;
mod listing;
mod quarantine;

use streamlease_core::Backend;

use super::suite;

pub use delivery::*;
pub use failures::*;
pub use fencing::*;
pub use listing::*;
pub use quarantine::*;

suite!($ transport_conformance!, transport: Backend, [
    // Delivery
    prepare_is_idempotent,
    a_new_group_starts_at_the_first_entry,
    an_unprepared_service_says_so_or_works,
    submitted_entries_arrive_in_order_as_they_were,
    an_empty_batch_appends_nothing,
    a_repeated_batch_appends_nothing,
    a_batch_that_has_grown_appends_what_is_new,
    a_repeated_batch_appends_nothing_after_its_entries_are_gone,
    a_batch_submitted_twice_at_once_is_appended_once,
    the_same_data_stream_can_be_announced_twice,
    a_fetch_brings_at_most_max_and_each_entry_to_one_consumer,
    racing_fetches_deliver_every_entry_once,
    a_fetch_that_waits_for_nothing_returns_at_once,
    a_blocking_fetch_wakes_on_submit,
    a_fetch_of_over_a_second_returns_empty_when_nothing_comes,
    a_blocking_fetch_delays_no_other_call,
    entries_of_a_dropped_fetch_are_found_by_listing,
    dropped_calls_can_be_repeated,
    everything_works_at_once,
    // Listing
    a_delivered_entry_is_listed_as_untouched,
    pages_are_in_order_and_complete,
    scopes_list_what_they_say,
    ids_are_listed_as_the_entries_are,
    nothing_is_stranded_whatever_its_consumers_do,
    listing_changes_neither_idle_time_nor_deliveries,
    undelivered_entries_are_listed_without_being_delivered,
    consumers_are_listed_with_what_they_have,
    a_consumer_is_removed_only_when_nothing_is_pending_at_it,
    a_check_changes_nothing_and_says_what_it_is_about,
    // Fencing
    a_claim_remembers_its_token,
    a_claim_resets_the_idle_time,
    a_claim_with_the_same_token_can_be_repeated,
    a_claim_with_the_same_token_takes_a_moved_entry_back,
    a_greater_token_claims_from_whichever_consumer,
    a_claim_takes_an_entry_that_is_pending_at_nobody,
    a_lower_token_changes_nothing,
    a_delayed_claim_loses_against_the_next_owner,
    a_delayed_claim_after_a_hand_back_changes_nothing,
    a_hand_back_leaves_the_entry_to_greater_tokens_only,
    a_hand_back_can_be_repeated,
    racing_claims_end_at_the_greatest_token,
    completed_entries_are_gone_for_good,
    whoever_has_the_entry_pending_the_token_decides,
    a_token_above_the_remembered_one_fits,
    no_token_fits_only_entries_that_were_never_claimed,
    an_owner_completes_an_entry_that_is_pending_at_nobody,
    results_are_positional,
    large_batches_are_answered_whole,
    // Failures
    a_crash_counts_a_failure_once,
    a_hand_back_counts_a_failure_only_if_it_says_so,
    a_failed_hand_back_starts_the_idle_time_anew,
    reasons_of_failures_are_kept,
    a_late_hand_back_takes_the_death_of_its_owner_back,
    a_late_hand_back_can_say_why_it_failed,
    an_owner_clears_the_failures_before_it,
    only_the_owner_clears_failures,
    // Quarantine
    quarantine_keeps_the_payload_and_the_reason,
    quarantine_can_be_repeated,
    who_has_failed_less_often_by_now_is_not_quarantined,
    quarantine_counts_failures_and_names_the_last_owner,
    quarantined_entries_are_listed_in_pages,
    a_released_entry_is_delivered_again_as_it_was,
    a_release_from_quarantine_can_be_repeated,
    releases_and_drops_are_positional,
    dropped_entries_are_gone_for_good,
    a_whole_quarantine_is_released_in_order,
]);
