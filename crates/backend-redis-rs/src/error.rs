//! From the server's and the client crate's errors to [`ErrorKind`].
//!
//! Server errors are classified by their code: the client crate's own advice calls
//! some passing conditions permanent (OOM, MISCONF) and some permanent ones a
//! reason to reconnect (wrong credentials).

use redis_rs::{ErrorKind as RedisKind, RedisError, ServerError};
use streamlease_core::{Error, ErrorKind};

use crate::tls;

/// A failed exchange: `what` says what was being done, and with which server.
pub(crate) fn from_redis(what: &str, err: RedisError) -> Error {
    let refusal = match err.code() {
        Some(_) => None,
        None => tls::refusal(&err.to_string()),
    };
    let kind = match (err.code(), refusal) {
        (Some(code), _) => kind_of(code, err.detail().unwrap_or_default()),
        (None, Some((kind, _))) => kind,
        (None, None) => match err.kind() {
            RedisKind::AuthenticationFailed => ErrorKind::Denied,
            RedisKind::Parse | RedisKind::UnexpectedReturnType => ErrorKind::Protocol,
            RedisKind::InvalidClientConfig => ErrorKind::Config,
            RedisKind::RESP3NotSupported => ErrorKind::Incompatible,
            _ => ErrorKind::Unavailable,
        },
    };
    let why = match (refusal, err.detail()) {
        _ if err.is_timeout() => "no answer in time".to_owned(),
        (Some((_, right)), _) => format!("{err}; {right}"),
        (_, Some(detail)) if is_too_old(detail) => format!("{TOO_OLD} ({err})"),
        (_, Some(detail)) if err.code() == Some(WRONG_TYPE) => wrong_type(detail),
        _ => without_place(&err.to_string()).to_owned(),
    };
    // Without the cause as a source: its text is all it has, and is here already.
    Error::new(kind, format!("{what}: {why}"))
}

/// An error reply of the server to one command.
pub(crate) fn from_server(what: &str, err: &ServerError) -> Error {
    let (code, detail) = (err.code(), err.details().unwrap_or_default());
    let why = match is_too_old(detail) {
        true => format!("{TOO_OLD} ({code} {detail})"),
        false if code == WRONG_TYPE => wrong_type(detail),
        false => format!("{code} {}", without_place(detail)),
    };
    Error::new(kind_of(code, detail), format!("{what}: {why}"))
}

const WRONG_TYPE: &str = "WRONGTYPE";

/// Which key it is a server does not say; a script of ours may.
fn wrong_type(detail: &str) -> String {
    let which = match detail.starts_with("Operation against") {
        true => "a key of the service has another type than it must have",
        false => without_place(detail),
    };
    format!(
        "{which} (WRONGTYPE): something else writes there. `streamlease doctor` names the key; \
         delete it, or give the service another name"
    )
}

/// A key is not what it must be, where no script says which.
pub(crate) fn of_wrong_type(what: &str, key: &str, must_be: &str) -> Error {
    let why = wrong_type(&format!("{key} is no {must_be}"));
    Error::new(ErrorKind::Incompatible, format!("{what}: {why}"))
}

/// Without where in a script it happened, which Redis puts behind it.
fn without_place(detail: &str) -> &str {
    match detail.rfind(" script: ") {
        Some(at) if detail[at..].contains(" on @user_script:") => &detail[..at],
        _ => detail,
    }
}

/// No answer within the time that one may take.
pub(crate) fn timed_out() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// A reply that makes no sense.
pub(crate) fn protocol(what: &str) -> Error {
    Error::new(
        ErrorKind::Protocol,
        format!("the server's reply is not what was expected: {what}"),
    )
}

/// Whether a server says with an error that it is not the one to talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum WrongServer {
    /// It is not ready, which passes; if it does not, its name may lead to another
    /// one by now.
    IfItLasts,
    /// Another one has its part.
    Certainly,
}

/// `None`: it is the right one, whatever it refuses.
pub(crate) fn wrong_server(code: &str, detail: &str) -> Option<WrongServer> {
    match meant(code, detail) {
        "READONLY" | "MASTERDOWN" | "MOVED" | "CLUSTERDOWN" => Some(WrongServer::Certainly),
        "UNBLOCKED" if is_role_change(detail) => Some(WrongServer::Certainly),
        "ERR" if is_foreign_slot(detail) => Some(WrongServer::Certainly),
        // NOAUTH: a connection that had logged in; a proxy may have changed what is behind it.
        "LOADING" | "NOREPLICAS" | "ASK" | "TRYAGAIN" | "NOAUTH" => Some(WrongServer::IfItLasts),
        _ => None,
    }
}

/// Whether a server says with this that it has executed nothing, and that it, or another
/// one, will in a moment. Only what it says itself: within a script a command is refused
/// after others were executed.
pub(crate) fn is_put_off(code: &str) -> bool {
    matches!(
        code,
        "MOVED"
            | "ASK"
            | "TRYAGAIN"
            | "CLUSTERDOWN"
            | "LOADING"
            | "MASTERDOWN"
            | "READONLY"
            | "NOREPLICAS"
    )
}

/// Whether a server says with this that a script has written nothing: it was not begun, or
/// ended where it looks at its keys.
pub(crate) fn has_done_nothing(code: &str, detail: &str) -> bool {
    match code {
        // A page behind one that was refused says that it is lost. For want of memory a server
        // refuses only a script's first write.
        "BATCHLOST" | "NOSCRIPT" | "OOM" => true,
        "MISCONF" | "NOAUTH" | "NOPERM" => !detail.contains(" script: "),
        // Nobody has logged in.
        "ERR" => detail.contains("unauthenticated"),
        _ => is_put_off(code) && !detail.contains(" script: "),
    }
}

fn kind_of(code: &str, detail: &str) -> ErrorKind {
    match meant(code, detail) {
        "NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" => ErrorKind::Denied,
        // The server that ends a blocked read so is a replica now.
        "UNBLOCKED" if is_role_change(detail) => ErrorKind::Unavailable,
        // UNBLOCKED: the stream was deleted under a blocked read.
        "NOGROUP" | "UNBLOCKED" => ErrorKind::NotPrepared,
        "WRONGTYPE" | "CROSSSLOT" => ErrorKind::Incompatible,
        "LOADING" | "READONLY" | "OOM" | "MISCONF" | "BUSY" | "NOREPLICAS" | "MASTERDOWN"
        | "CLUSTERDOWN" | "TRYAGAIN" | "MOVED" | "ASK" | "UNKILLABLE" | "NOSCRIPT" => {
            ErrorKind::Unavailable
        }
        // Of submit.lua.
        "BATCHLOST" => ErrorKind::Unavailable,
        "ERR" => kind_of_text(detail),
        _ => ErrorKind::Protocol,
    }
}

/// The code that counts: servers, and what stands in front of them, hand on the error
/// of a command within a script as a text, "ERR … -READONLY You can't write …".
fn meant<'a>(code: &'a str, detail: &'a str) -> &'a str {
    const PASSED_ON: [&str; 10] = [
        "READONLY",
        "MASTERDOWN",
        "MOVED",
        "ASK",
        "CLUSTERDOWN",
        "LOADING",
        "NOREPLICAS",
        "OOM",
        "NOPERM",
        "MISCONF",
    ];
    if code != "ERR" {
        return code;
    }
    // What a server says that wants a password to a command of more than ten words, or with
    // a long one; then it hangs up.
    if detail.contains("unauthenticated") {
        return "NOAUTH";
    }
    let words = detail.split_whitespace();
    words
        .map(|word| word.trim_start_matches('-'))
        .find(|word| PASSED_ON.contains(word))
        .unwrap_or(code)
}

fn is_role_change(detail: &str) -> bool {
    detail
        .to_ascii_lowercase()
        .contains("instance state changed")
}

fn is_foreign_slot(detail: &str) -> bool {
    detail
        .to_ascii_lowercase()
        .contains("access a non local key")
}

const TOO_OLD: &str = "the server is too old; Redis 7.0 or later, or Valkey, is needed";

/// What Redis 6.2 says to the first line of scripts that run when its memory is full.
fn is_too_old(detail: &str) -> bool {
    detail.contains("Error compiling script") && detail.contains("unexpected symbol near '#'")
}

/// Replies of the general code, which only their text tells apart.
fn kind_of_text(detail: &str) -> ErrorKind {
    if is_too_old(detail) {
        return ErrorKind::Incompatible;
    }
    let detail = detail.to_ascii_lowercase();
    if detail.contains("no such key") || detail.contains("requires the key to exist") {
        ErrorKind::NotPrepared
    } else if detail.contains("user executing the script can't")
        || detail.contains("acl failure in script")
    {
        // From within a script no server has a code of its own for it: Redis 7, and
        // Redis 8 and Valkey 8.
        ErrorKind::Denied
    } else if detail.contains("max number of clients") || is_foreign_slot(&detail) {
        ErrorKind::Unavailable
    } else if detail.contains("unknown command") || detail.contains("unknown subcommand") {
        ErrorKind::Incompatible
    } else if detail.contains("db index is out of range")
        || detail.contains("invalid db index")
        || detail.contains("select is not allowed in cluster mode")
    {
        ErrorKind::Config
    } else {
        ErrorKind::Protocol
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_names_a_script_by_its_hash() {
        let place = " script: 514b4234d50d272b, on @user_script:36.";
        let said = "Operation against a key holding the wrong kind of value";
        let wrong = wrong_type(&format!("{said}{place}"));
        assert!(wrong.starts_with("a key of the service"), "{wrong}");
        let named = wrong_type(&format!("{{s-input}}:announced is no hash{place}"));
        assert!(
            named.starts_with("{s-input}:announced is no hash (WRONGTYPE)"),
            "{named}"
        );
        assert_eq!(without_place(&format!("it is so{place}")), "it is so");
        assert_eq!(without_place("a script: x"), "a script: x");
    }

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
            ("MOVED", "3300 127.0.0.1:7700", ErrorKind::Unavailable),
            ("ASK", "3300 127.0.0.1:7700", ErrorKind::Unavailable),
            (
                "ERR",
                "Attempted to access a non local key in a cluster node script: x",
                ErrorKind::Unavailable,
            ),
            (
                "UNBLOCKED",
                "force unblock from blocking operation, instance state changed (master -> replica?)",
                ErrorKind::Unavailable,
            ),
            (
                "UNBLOCKED",
                "the stream key no longer exists",
                ErrorKind::NotPrepared,
            ),
            (
                "ERR",
                "ACL failure in script: User u has no permissions to run the 'x' command",
                ErrorKind::Denied,
            ),
            (
                "ERR",
                "The user executing the script can't run this command or subcommand",
                ErrorKind::Denied,
            ),
            (
                "ERR",
                "The user executing the script can't access at least one of the keys mentioned \
                 in the command arguments",
                ErrorKind::Denied,
            ),
            (
                "ERR",
                "The user executing the script can't publish to the channel mentioned in the \
                 command",
                ErrorKind::Denied,
            ),
            (
                "ERR",
                "ACL failure in script: No permissions to access a key",
                ErrorKind::Denied,
            ),
            (
                "ERR",
                "ACL failure in script: No permissions to access a channel",
                ErrorKind::Denied,
            ),
            (
                "ERR",
                "Error running script (call to f_1): @user_script:3: -READONLY You can't write \
                 against a read only replica.",
                ErrorKind::Unavailable,
            ),
            (
                "ERR",
                "Protocol error: unauthenticated multibulk length",
                ErrorKind::Denied,
            ),
            ("BATCHLOST", "", ErrorKind::Unavailable),
            ("WHATEVER", "", ErrorKind::Protocol),
        ] {
            let err = redis_rs::make_extension_error(code.into(), Some(detail.into()));
            assert_eq!(from_redis("x", err).kind(), kind, "{code} {detail}");
        }
    }

    #[test]
    fn what_only_a_wrong_server_says_is_told_from_what_any_may_refuse() {
        use WrongServer::*;
        for (code, detail, verdict) in [
            (
                "READONLY",
                "You can't write against a read only replica.",
                Some(Certainly),
            ),
            (
                "ERR",
                "Error running script: -READONLY You can't write",
                Some(Certainly),
            ),
            ("MASTERDOWN", "Link with MASTER is down", Some(Certainly)),
            ("MOVED", "1 127.0.0.1:1", Some(Certainly)),
            ("CLUSTERDOWN", "Hash slot not served", Some(Certainly)),
            (
                "ERR",
                "Script attempted to access a non local key in a cluster node",
                Some(Certainly),
            ),
            (
                "UNBLOCKED",
                "force unblock from blocking operation, instance state changed (master -> replica?)",
                Some(Certainly),
            ),
            ("UNBLOCKED", "the stream key no longer exists", None),
            (
                "LOADING",
                "Redis is loading the dataset in memory",
                Some(IfItLasts),
            ),
            (
                "NOREPLICAS",
                "Not enough good replicas to write.",
                Some(IfItLasts),
            ),
            ("NOAUTH", "Authentication required.", Some(IfItLasts)),
            ("OOM", "command not allowed", None),
            ("NOPERM", "", None),
            ("NOGROUP", "", None),
            ("ERR", "unknown command", None),
        ] {
            assert_eq!(wrong_server(code, detail), verdict, "{code} {detail}");
        }
    }

    #[test]
    fn a_server_that_is_too_old_is_told_from_a_broken_script() {
        let detail =
            "Error compiling script (new function): user_script:1: unexpected symbol near '#'";
        let err = redis_rs::make_extension_error("ERR".into(), Some(detail.into()));
        let err = from_redis("opening a session", err);
        assert_eq!(err.kind(), ErrorKind::Incompatible);
        assert!(err.to_string().contains("Redis 7.0 or later"), "{err}");
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
