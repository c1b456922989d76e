//! The one error type, opaque, with a kind to act on.

use std::error::Error as StdError;
use std::fmt;

/// What streamlease's fallible calls return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An operation failed, or its outcome is unknown.
///
/// Expected outcomes (a lost race, an entry already gone) are never errors;
/// they are values. An error from a backend means *it may have happened*.
#[derive(thiserror::Error)]
#[error("{context}")]
pub struct Error {
    kind: ErrorKind,
    context: String,
    #[source]
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What class of problem an [`Error`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting or an argument is invalid; the message names it, its value and the bound.
    Config,
    /// The server cannot be reached, is loading, read-only, out of memory, or did not answer in time.
    Unavailable,
    /// The server refused for good: wrong credentials, missing rights.
    Denied,
    /// What is stored does not fit: wrong type of key, another lock scheme.
    Incompatible,
    /// The server answered something this library cannot make sense of.
    Protocol,
    /// The stream, or its group, is not there (any more); preparing it again helps.
    NotPrepared,
    /// The lease ran out while the call was in flight: it may or may not have happened.
    LeaseEnded,
    /// The client is shut down; nothing was done.
    Closed,
}

impl Error {
    /// An error of `kind` with a message that says what was wrong and what would be right.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into(),
            source: None,
        }
    }

    /// The same with the error that caused it.
    pub fn with_source(
        kind: ErrorKind,
        context: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self {
            kind,
            context: context.into(),
            source: Some(source.into()),
        }
    }

    /// A [`ErrorKind::Config`] error.
    pub fn config(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, context)
    }

    /// What class of problem this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether a server refused what it was asked: a call that worked before will
    /// work again when rights, keys or the server are put right.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self.kind, ErrorKind::Denied | ErrorKind::Incompatible)
    }

    /// Whether the same call may succeed later without anybody changing a setting.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::Unavailable | ErrorKind::Protocol | ErrorKind::NotPrepared
        )
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.context)?;
        let mut cause = self.source();
        while let Some(err) = cause {
            write!(f, ": {err}")?;
            cause = err.source();
        }
        Ok(())
    }
}
