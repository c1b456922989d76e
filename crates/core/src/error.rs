//! The one error type, opaque, with a kind to act on.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use crate::printable;

/// What streamlease's fallible calls return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An operation failed, or its outcome is unknown.
///
/// Expected outcomes (a lost race, an entry already gone) are never errors;
/// they are values. An error from a backend means *it may have happened*.
///
/// A clone is the same error, with the same [source](StdError::source): one failure may be
/// the answer to many calls.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    context: Arc<str>,
    nothing_done: bool,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// What class of problem an [`Error`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting or an argument is invalid; the message names it, its value and the bound.
    Config,
    /// Something is in use now, or a limit of simultaneous calls is reached. Repeat the
    /// call later; the message says what has to be over first.
    Busy,
    /// The process's environment lacks something: an executor, random numbers, a file, or
    /// a feature of the build.
    Environment,
    /// The server cannot be reached, is loading, read-only, out of memory, or did not answer in time.
    Unavailable,
    /// The server refused the call, or is not trusted: wrong credentials, missing rights,
    /// certificates that will not do. Repeating it does not help until somebody changes them.
    Denied,
    /// What is stored does not fit: a key has the wrong type, or the service has another
    /// lock scheme.
    Incompatible,
    /// The server answered something this library cannot make sense of.
    Protocol,
    /// The load balancer stream (LBS) or its group does not exist. A client prepares it again.
    NotPrepared,
    /// The lease expired while the call was in flight. Whether the call was executed is unknown.
    LeaseEnded,
    /// The client is shut down; nothing was done.
    Closed,
}

impl Error {
    /// An error of `kind`. The message says what was wrong, and what would be right.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into().into(),
            nothing_done: false,
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
            context: context.into().into(),
            nothing_done: false,
            source: Some(source.into().into()),
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

    /// The same, and whether it is certain that nothing of the call was executed: for
    /// backends, if the call was not sent, or a server has said so.
    #[must_use]
    pub fn with_nothing_done(mut self, is_certain: bool) -> Self {
        self.nothing_done = is_certain;
        self
    }

    /// Whether it is certain that nothing of the call was executed. If not, it may have
    /// happened.
    pub fn is_nothing_done(&self) -> bool {
        self.nothing_done
    }

    /// Whether a server refused the call. A call that worked before works again when rights,
    /// keys or the server are corrected.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self.kind, ErrorKind::Denied | ErrorKind::Incompatible)
    }

    /// Whether the same call may succeed later although nobody changes a setting.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::Unavailable | ErrorKind::Busy | ErrorKind::Protocol | ErrorKind::NotPrepared
        )
    }
}

// By hand, so that the source is the error that was given and not the `Arc` around it:
// whoever looks for a type of their own finds it.
impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = self.source.as_deref()?;
        Some(source)
    }
}

/// On one line: what it says may be a name, or the text of a server.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", printable(&self.context))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)?;
        let mut cause = self.source();
        while let Some(err) = cause {
            write!(f, ": {}", printable(err))?;
            cause = err.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_whatever_it_is_about() {
        let cause = std::io::Error::other("said\nWARN forged \u{1b}[31m");
        let error = Error::with_source(ErrorKind::Protocol, "about a\nb", cause);
        assert_eq!(error.to_string(), "about a\\nb");
        let shown = "Protocol: about a\\nb: said\\nWARN forged \\u{1b}[31m";
        assert_eq!(format!("{error:?}"), shown);
    }

    #[test]
    fn a_clone_has_the_kind_the_message_and_the_very_source() {
        let cause = std::io::Error::new(std::io::ErrorKind::TimedOut, "no route");
        let error = Error::with_source(ErrorKind::Unavailable, "connecting", cause);
        let clone = error.clone();
        drop(error);
        assert_eq!(clone.kind(), ErrorKind::Unavailable);
        assert_eq!(format!("{clone}"), "connecting");
        assert_eq!(format!("{clone:?}"), "Unavailable: connecting: no route");
        let source = clone.source().and_then(|cause| cause.downcast_ref());
        let source: &std::io::Error = source.expect("the type that was given");
        assert_eq!(source.kind(), std::io::ErrorKind::TimedOut);
    }
}
