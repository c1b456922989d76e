//! TLS: what it takes to speak it, and what its failures mean.

use redis_rs::ConnectionInfo;
#[cfg(all(feature = "tls-rustls", feature = "tls-native-tls"))]
use rustls::pki_types::CertificateDer;
use streamlease_core::{Error, ErrorKind, Result};

use crate::builder::Options;

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
const KEY: &str = "PRIVATE KEY-----";
/// What helps when the certificates that the system trusts cannot be read.
const SYSTEM: &str = "the environment variables SSL_CERT_FILE and SSL_CERT_DIR say where the \
                      certificates are that the system trusts; or give that of the server's \
                      authority (`ca`, --ca)";

/// The client crate's own words for it name no feature of ours.
pub(crate) fn refuse_without_its_feature(scheme: &str, endpoint: &str) -> Result<()> {
    let is_built_in = cfg!(any(feature = "tls-rustls", feature = "tls-native-tls"));
    refuse_unless(is_built_in, scheme, endpoint)
}

fn refuse_unless(is_built_in: bool, scheme: &str, endpoint: &str) -> Result<()> {
    let has_tls = scheme == "valkeys" || scheme.starts_with("rediss");
    if is_built_in || !has_tls {
        return Ok(());
    }
    Err(Error::config(format!(
        "redis URL {endpoint:?} asks for TLS, which this build leaves out; enable the feature \
         `tls-rustls` or `tls-native-tls`"
    )))
}

/// rustls panics at the first connection if the process has no crypto provider
/// of its choice: then ours is installed. A choice the application made stays.
pub(crate) fn prepare() {
    #[cfg(feature = "tls-rustls")]
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error means that somebody else was faster, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

/// `info` with the certificates that the builder was given.
pub(crate) fn with_certificates(info: ConnectionInfo, options: &Options) -> Result<ConnectionInfo> {
    let ca = options.ca.as_deref();
    let (certificate, key) = options.client.as_ref().map_or((None, None), |(one, two)| {
        (Some(one.as_slice()), Some(two.as_slice()))
    });
    // Some of it the client crate takes for "none", and tells nobody.
    for (what, pem, wanted) in [
        ("the CA", ca, CERTIFICATE),
        ("the client certificate", certificate, CERTIFICATE),
        ("the client's key", key, KEY),
    ] {
        if pem.is_some_and(|pem| !contains(pem, wanted)) {
            return Err(Error::config(format!(
                "{what} is not usable: it has no line with {wanted:?}, as PEM has"
            )));
        }
    }
    let trusted = match &options.ca {
        Some(ca) => Some(ca.clone()),
        None => of_the_system()?,
    };
    if trusted.is_none() && options.client.is_none() {
        return Ok(info);
    }
    built(info, trusted, options.client.clone())
}

fn contains(pem: &[u8], wanted: &str) -> bool {
    let wanted = wanted.as_bytes();
    pem.windows(wanted.len()).any(|part| part == wanted)
}

#[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
fn built(
    info: ConnectionInfo,
    root_cert: Option<Vec<u8>>,
    client: Option<(Vec<u8>, Vec<u8>)>,
) -> Result<ConnectionInfo> {
    let client_tls = client.map(|(client_cert, client_key)| redis_rs::ClientTlsConfig {
        client_cert,
        client_key,
    });
    let certificates = redis_rs::TlsCertificates {
        client_tls,
        root_cert,
    };
    let client = redis_rs::Client::build_with_tls(info, certificates)
        .map_err(|err| Error::config(format!("the certificates are not usable: {err}")))?;
    Ok(client.get_connection_info().clone())
}

/// Never called: a URL with TLS is refused before.
#[cfg(not(any(feature = "tls-rustls", feature = "tls-native-tls")))]
fn built(
    info: ConnectionInfo,
    _: Option<Vec<u8>>,
    _: Option<(Vec<u8>, Vec<u8>)>,
) -> Result<ConnectionInfo> {
    Ok(info)
}

/// What the system trusts, if the client crate does not look for it: with both libraries
/// built in it speaks rustls, and looks only without the other one.
#[cfg(all(feature = "tls-rustls", feature = "tls-native-tls"))]
fn of_the_system() -> Result<Option<Vec<u8>>> {
    let found = rustls_native_certs::load_native_certs();
    // One that rustls cannot read does not spoil the others.
    let is_usable = |certificate: &&CertificateDer<'static>| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add((*certificate).clone()).is_ok()
    };
    let usable = found.certs.iter().filter(is_usable);
    let usable: Vec<_> = usable
        .map(|certificate| pem::Pem::new("CERTIFICATE", certificate.to_vec()))
        .collect();
    if usable.is_empty() {
        let why = found.errors.first().map(ToString::to_string);
        return Err(Error::new(
            ErrorKind::Environment,
            format!(
                "the system trusts nobody ({}); {SYSTEM}",
                why.as_deref().unwrap_or("no certificates were found")
            ),
        ));
    }
    Ok(Some(pem::encode_many(&usable).into_bytes()))
}

#[cfg(not(all(feature = "tls-rustls", feature = "tls-native-tls")))]
fn of_the_system() -> Result<Option<Vec<u8>>> {
    Ok(None)
}

/// What the text of a failure says about the other side, or about us: the kind, and what
/// would be right. `None`: nothing that would not pass.
///
/// The text, because that is all that both TLS libraries have in common.
pub(crate) fn refusal(text: &str) -> Option<(ErrorKind, &'static str)> {
    let text = text.to_ascii_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    if has(&["invalid peer certificate", "certificate verify failed"]) {
        return Some((ErrorKind::Denied, of_server(has)));
    }
    if has(&["fatal alert", " alert "]) {
        // rustls writes `CertificateRequired`, OpenSSL `certificate required`.
        let alert = text.replace(' ', "");
        let right = of_client(|parts: &[&str]| parts.iter().any(|part| alert.contains(part)))?;
        return Some((ErrorKind::Denied, right));
    }
    if has(&["keymismatch", "key values mismatch"]) {
        let right = "the client's key does not belong to its certificate";
        return Some((ErrorKind::Config, right));
    }
    if has(&["failed to open file", "failed to read pem from file"]) {
        return Some((ErrorKind::Environment, SYSTEM));
    }
    None
}

/// What is wrong with the certificate of the server.
fn of_server(has: impl Fn(&[&str]) -> bool) -> &'static str {
    if has(&["expired"]) {
        "the server's certificate has expired, or the clock here is wrong: the server has to \
         show a new one"
    } else if has(&["not valid yet", "notvalidyet"]) {
        "the server's certificate is not valid yet, or the clock here is wrong"
    } else if has(&[
        "not valid for name",
        "notvalidforname",
        "hostname mismatch",
        "address mismatch",
    ]) {
        "the server's certificate has to have the name, or the address, by which it is \
         connected to: the URL's, or what sentinels and nodes of a cluster announce"
    } else {
        "no certificate that is trusted here has signed the server's: give that of its \
         authority (`ca`, --ca or SSL_CERT_FILE)"
    }
}

/// What the server has told us, before it hung up.
fn of_client(has: impl Fn(&[&str]) -> bool) -> Option<&'static str> {
    if has(&["certificaterequired"]) {
        Some(
            "the server asks for a client certificate: give one (`client_certificate`, --cert \
             and --key)",
        )
    } else if has(&["certificateexpired"]) {
        Some("the client certificate has expired")
    } else if has(&[
        "unknownca",
        "badcertificate",
        "certificateunknown",
        "certificaterevoked",
        "unsupportedcertificate",
        "accessdenied",
        "decrypterror",
    ]) {
        Some(
            "the server does not accept the client certificate: it has to be signed by an \
             authority that the server trusts (its `tls-ca-cert-file`)",
        )
    } else if has(&["handshakefailure", "insufficientsecurity"]) {
        Some(
            "the server has no cipher in common with this client, or asks for a client \
             certificate (`client_certificate`, --cert and --key)",
        )
    } else if has(&["protocolversion"]) {
        Some("the server has no version of TLS in common with this client (its `tls-protocols`)")
    } else if has(&["unrecognisedname", "unrecognizedname"]) {
        Some("nobody there has the name by which the server is connected to (SNI)")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_with_tls_is_refused_by_naming_the_feature_that_is_off() {
        for scheme in ["rediss", "valkeys", "rediss-sentinel", "rediss-cluster"] {
            let err = refuse_unless(false, scheme, "shown").unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Config);
            assert!(err.to_string().contains("`tls-rustls`"), "{err}");
            assert!(err.to_string().contains("shown"), "{err}");
            assert!(refuse_unless(true, scheme, "shown").is_ok());
        }
        assert!(refuse_unless(false, "redis", "shown").is_ok());
    }

    /// As OpenSSL says it; what rustls says is tested on real servers.
    #[test]
    fn the_systems_tls_is_understood_too() {
        for (text, right) in [
            (
                "error:0A000086:SSL routines:tls_post_process_server_certificate:certificate \
                 verify failed:../ssl/statem/statem_clnt.c:1889: (certificate has expired)",
                "has expired",
            ),
            ("certificate verify failed: (hostname mismatch)", "the name"),
            (
                "certificate verify failed: (unable to get local issuer certificate)",
                "that of its authority",
            ),
            (
                "error:0A00045C:SSL routines:ssl3_read_bytes:tlsv13 alert certificate \
                 required:../ssl/record/rec_layer_s3.c:1586:SSL alert number 116",
                "asks for a client certificate",
            ),
            (
                "error:0A000418:SSL routines:ssl3_read_bytes:tlsv1 alert unknown ca:x",
                "does not accept",
            ),
        ] {
            let (kind, said) = refusal(text).unwrap();
            assert_eq!(kind, ErrorKind::Denied, "{text}");
            assert!(said.contains(right), "{text}: {said}");
        }
        let (kind, _) = refusal("x509_check_private_key:key values mismatch").unwrap();
        assert_eq!(kind, ErrorKind::Config);
        for passing in [
            "Connection reset by peer",
            "received fatal alert: InternalError",
        ] {
            assert_eq!(refusal(passing), None, "{passing}");
        }
    }
}
