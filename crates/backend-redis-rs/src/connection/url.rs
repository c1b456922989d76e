//! What a URL needs before it is used, and what of it may be shown.

use streamlease_core::{Error, Result};

/// The client crate's own words for it name no feature of ours.
pub(super) fn refuse_tls_without_its_feature(url: &str, endpoint: &str) -> Result<()> {
    let built_in = cfg!(any(feature = "tls-rustls", feature = "tls-native-tls"));
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    if built_in || !matches!(scheme, "rediss" | "valkeys") {
        return Ok(());
    }
    Err(Error::config(format!(
        "redis URL {endpoint:?} asks for TLS, which this build leaves out; enable the feature \
         `tls-rustls` or `tls-native-tls`"
    )))
}

/// rustls panics at the first connection if the process has no crypto provider
/// of its choice: then ours is installed. A choice the application made stays.
pub(super) fn prepare_tls() {
    #[cfg(feature = "tls-rustls")]
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error means that somebody else was faster, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

/// `url` for messages: the password, and parameters that might hold one, left out.
pub(super) fn without_password(url: &str) -> String {
    let (scheme, rest) = url
        .split_once("://")
        .map_or(("", url), |(scheme, rest)| (scheme, rest));
    let (rest, parameters) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    let shown = match rest.rsplit_once('@') {
        // Perhaps a password that should have been escaped: where it ends nobody can say.
        _ if parameters.contains('@') => "***".to_owned(),
        Some((credentials, host)) => {
            let user = credentials.split(':').next().unwrap_or_default();
            format!("{user}:***@{host}")
        }
        None => rest.to_owned(),
    };
    if scheme.is_empty() {
        shown
    } else {
        format!("{scheme}://{shown}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Server;
    use streamlease_core::ErrorKind;

    #[test]
    fn messages_show_the_url_without_its_password() {
        for (url, shown) in [
            ("redis://localhost:6379/1", "redis://localhost:6379/1"),
            ("redis://:secret@h:1", "redis://:***@h:1"),
            ("redis://me:sec@ret@h:1/2", "redis://me:***@h:1/2"),
            (
                "unix:///run/redis.sock?db=1&pass=secret",
                "unix:///run/redis.sock",
            ),
            ("me:secret@h", "me:***@h"),
            ("redis://:sec#ret@h:1", "redis://***"),
            ("redis://me:sec@re?t@h:1/2", "redis://***"),
            ("unix:///run/redis.sock?pass=sec@ret", "unix://***"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }

    #[cfg(not(any(feature = "tls-rustls", feature = "tls-native-tls")))]
    #[test]
    fn a_url_with_tls_is_refused_by_naming_the_feature_that_is_off() {
        for url in ["rediss://:secret@h:1", "valkeys://h"] {
            let err = Server::new(url).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Config);
            assert!(err.to_string().contains("`tls-rustls`"), "{err}");
            assert!(!err.to_string().contains("secret"), "{err}");
        }
    }

    #[test]
    fn a_bad_url_is_refused_with_what_would_be_right() {
        for url in [
            "",
            "localhost",
            "http://localhost",
            "redis://",
            "redis://h/x",
            "redis://:secret@h:port",
        ] {
            let err = Server::new(url).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Config, "{url}");
            let shown = format!("{err:?} {err}");
            assert!(
                shown.contains("redis://user:password@host:6379/0"),
                "{shown}"
            );
            assert!(!shown.contains("secret"), "{shown}");
        }
    }
}
