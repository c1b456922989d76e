//! The suite for [`Transport`](streamlease_core::Transport), `Submitter` and `Admin`.
//!
//! Give each behaviour a [`Backend`] of a service that has never been
//! used: nothing announced, no group.

mod absent;
mod counts;
mod delivery;
mod failures;
mod fencing;
mod harness;
mod keys;
mod listing;
mod pauses;
mod quarantine;

use streamlease_core::Backend;

use super::suite;

pub use absent::*;
pub use counts::*;
pub use delivery::*;
pub use failures::*;
pub use fencing::*;
pub use keys::*;
pub use listing::*;
pub use pauses::*;
pub use quarantine::*;

suite!($ transport_conformance!, transport: Backend, [
    absent: transport_absent!,
    counts: transport_counts!,
    delivery: transport_delivery!,
    failures: transport_failures!,
    fencing: transport_fencing!,
    keys: transport_keys!,
    listing: transport_listing!,
    pauses: transport_pauses!,
    quarantine: transport_quarantine!,
]);
