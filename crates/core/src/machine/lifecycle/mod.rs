//! How the client as a whole fares: what cannot be reached, and how it ends.

pub(crate) mod drain;
pub(crate) mod outages;

use crate::{Error, ErrorKind};

/// What calls of a stopped client are told.
pub(crate) fn closed() -> Error {
    Error::new(
        ErrorKind::Closed,
        "the client is shut down; build a new one",
    )
}

/// A driver or backend that mixes up replies: treated as no answer.
pub(crate) fn wrong_reply(to: &str) -> Error {
    Error::new(
        ErrorKind::Protocol,
        format!("the reply does not belong to the call: {to}"),
    )
}
