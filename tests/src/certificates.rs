//! [`Authority`]: certificates of one test's own, good ones and bad ones.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};

/// What test servers are called.
const HERE: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A certificate authority that nobody else knows.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// What is shown to others.
    pub pem: String,
    /// What is not.
    pub key: String,
}

impl Authority {
    /// Another one each time.
    #[allow(clippy::new_without_default)] // Each is another one.
    pub fn new() -> Self {
        let mut params = named("the tests' authority", &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, new_key());
        Self {
            issuer: issuer.expect("signing with a key of our own"),
        }
    }

    /// What to trust.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// For `localhost`, `127.0.0.1` and `::1`.
    pub fn server(&self) -> Certificate {
        self.sign(named("server", &HERE))
    }

    /// For these names and addresses only.
    pub fn server_named(&self, names: &[&str]) -> Certificate {
        self.sign(named("server", names))
    }

    /// As [`server`](Self::server), long ago.
    pub fn expired_server(&self) -> Certificate {
        self.sign(expired(named("server", &HERE)))
    }

    /// What a client shows.
    pub fn client(&self) -> Certificate {
        self.sign(named("client", &[]))
    }

    /// As [`client`](Self::client), long ago.
    pub fn expired_client(&self) -> Certificate {
        self.sign(expired(named("client", &[])))
    }

    fn sign(&self, mut params: CertificateParams) -> Certificate {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Replicas and nodes of a cluster are clients of each other.
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let key = new_key();
        let signed = params.signed_by(&key, &self.issuer);
        Certificate {
            pem: signed.expect("signing with a key of our own").pem(),
            key: key.serialize_pem(),
        }
    }
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("random numbers for a key")
}

fn named(name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names in ASCII");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn expired(mut params: CertificateParams) -> CertificateParams {
    params.not_before = date_time_ymd(2001, 1, 1);
    params.not_after = date_time_ymd(2002, 1, 1);
    params
}
