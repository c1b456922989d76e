//! From the server's and the client crate's errors to [`ErrorKind`].
//!
//! Server errors are judged by their code: the client crate's own advice calls
//! some passing conditions permanent (OOM, MISCONF) and some permanent ones a
//! reason to reconnect (wrong credentials).

use redis_rs::{ErrorKind as RedisKind, RedisError, ServerError};
use streamlease_core::{Error, ErrorKind};

/// A failed exchange: `what` says what was being done, and with which server.
pub(crate) fn from_redis(what: &str, err: RedisError) -> Error {
    let kind = match err.code() {
        Some(code) => kind_of(code, err.detail().unwrap_or_default()),
        None => match err.kind() {
            RedisKind::AuthenticationFailed => ErrorKind::Denied,
            RedisKind::Parse | RedisKind::UnexpectedReturnType => ErrorKind::Protocol,
            RedisKind::InvalidClientConfig => ErrorKind::Config,
            RedisKind::RESP3NotSupported => ErrorKind::Incompatible,
            _ => ErrorKind::Unavailable,
        },
    };
    let why = match kind {
        _ if err.is_timeout() => "no answer in time".to_owned(),
        _ => err.to_string(),
    };
    // Without the cause as a source: its text is all it has, and is here already.
    Error::new(kind, format!("{what}: {why}"))
}

/// An error reply of the server to one command.
pub(crate) fn from_server(what: &str, err: &ServerError) -> Error {
    let (code, detail) = (err.code(), err.details().unwrap_or_default());
    Error::new(kind_of(code, detail), format!("{what}: {code} {detail}"))
}

/// A reply that makes no sense.
pub(crate) fn protocol(what: &str) -> Error {
    Error::new(
        ErrorKind::Protocol,
        format!("the server's reply is not what was expected: {what}"),
    )
}

fn kind_of(code: &str, detail: &str) -> ErrorKind {
    match code {
        "NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" => ErrorKind::Denied,
        // UNBLOCKED: the stream was deleted under a blocked read.
        "NOGROUP" | "UNBLOCKED" => ErrorKind::NotPrepared,
        "WRONGTYPE" | "MOVED" | "ASK" | "CROSSSLOT" => ErrorKind::Incompatible,
        "LOADING" | "READONLY" | "OOM" | "MISCONF" | "BUSY" | "NOREPLICAS" | "MASTERDOWN"
        | "CLUSTERDOWN" | "TRYAGAIN" | "UNKILLABLE" | "NOSCRIPT" => ErrorKind::Unavailable,
        "ERR" => kind_of_text(detail),
        _ => ErrorKind::Protocol,
    }
}

/// Replies of the general code, which only their text tells apart.
fn kind_of_text(detail: &str) -> ErrorKind {
    let detail = detail.to_ascii_lowercase();
    if detail.contains("no such key") || detail.contains("requires the key to exist") {
        ErrorKind::NotPrepared
    } else if detail.contains("user executing the script can't") {
        // From within a script Redis 7.0 has no code of its own for it.
        ErrorKind::Denied
    } else if detail.contains("max number of clients") {
        ErrorKind::Unavailable
    } else if detail.contains("unknown command") || detail.contains("unknown subcommand") {
        ErrorKind::Incompatible
    } else if detail.contains("db index is out of range") || detail.contains("invalid db index") {
        ErrorKind::Config
    } else {
        ErrorKind::Protocol
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_the_kind_that_says_what_helps() {
        for (code, detail, kind) in [
            ("NOGROUP", "No such key", ErrorKind::NotPrepared),
            ("UNBLOCKED", "", ErrorKind::NotPrepared),
            ("ERR", "no such key", ErrorKind::NotPrepared),
            ("NOPERM", "", ErrorKind::Denied),
            ("NOAUTH", "", ErrorKind::Denied),
            ("WRONGPASS", "", ErrorKind::Denied),
            ("WRONGTYPE", "", ErrorKind::Incompatible),
            ("OOM", "", ErrorKind::Unavailable),
            ("MISCONF", "", ErrorKind::Unavailable),
            ("LOADING", "", ErrorKind::Unavailable),
            ("READONLY", "", ErrorKind::Unavailable),
            (
                "ERR",
                "max number of clients reached",
                ErrorKind::Unavailable,
            ),
            (
                "ERR",
                "unknown command 'XREADGROUP'",
                ErrorKind::Incompatible,
            ),
            ("ERR", "DB index is out of range", ErrorKind::Config),
            ("ERR", "something else", ErrorKind::Protocol),
            ("WHATEVER", "", ErrorKind::Protocol),
        ] {
            let err = redis_rs::make_extension_error(code.into(), Some(detail.into()));
            assert_eq!(from_redis("x", err).kind(), kind, "{code} {detail}");
        }
    }

    #[test]
    fn io_errors_and_time_outs_are_waited_out() {
        for kind in [
            std::io::ErrorKind::TimedOut,
            std::io::ErrorKind::ConnectionRefused,
            std::io::ErrorKind::BrokenPipe,
        ] {
            let err = from_redis("reading", RedisError::from(std::io::Error::from(kind)));
            assert_eq!(err.kind(), ErrorKind::Unavailable);
            assert!(err.to_string().starts_with("reading: "), "{err}");
        }
    }
}
