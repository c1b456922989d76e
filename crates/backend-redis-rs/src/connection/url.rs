//! What a URL says: how the owner is found, and as whom it is talked to. And what of a
//! URL may be shown.

use std::sync::Arc;

use redis_rs::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError};
use streamlease_core::{Error, ErrorKind, Result};

use super::access::{Access, Admission};
use super::address::Address;
use super::cluster::Nodes;
use super::connector::Connector;
use super::route::Route;
use super::sentinel::Sentinels;
use super::servers::Servers;
use crate::builder::Options;
use crate::tls;

const SINGLE: &str = "redis://user:password@host:6379/0";
const SENTINEL: &str = "redis-sentinel://user:password@host:26379,host:26379/mymaster/0";
const CLUSTER: &str = "redis-cluster://user:password@host:6379,host:6379";
const SENTINEL_PORT: u16 = 26379;
const NODE_PORT: u16 = 6379;

/// Reads a URL of any kind, with what the builder was told. No I/O.
pub(crate) fn read(url: &str, options: &Options) -> Result<Servers> {
    let endpoint = without_password(url);
    tls::refuse_without_its_feature(url, &endpoint)?;
    let url = Url::split(url, endpoint, options);
    match url.scheme {
        "redis-sentinel" | "rediss-sentinel" => {
            let (connector, sentinels) = url.sentinel()?;
            Ok(url.one(Route::Sentinel(Arc::new(sentinels)), connector))
        }
        "redis-cluster" | "rediss-cluster" => {
            url.refuse_credentials_of_sentinels()?;
            let (connector, nodes) = url.cluster()?;
            Ok(Servers::cluster(
                url.shown,
                connector,
                nodes,
                options.limits,
            ))
        }
        _ => {
            url.refuse_credentials_of_sentinels()?;
            let connector = url.connector(url.single(url.whole, SINGLE)?);
            Ok(url.one(Route::Name, connector))
        }
    }
}

/// `scheme://user:password@hosts/path?parameters#fragment`
struct Url<'a> {
    whole: &'a str,
    /// Without its password.
    shown: String,
    scheme: &'a str,
    /// With the `@` behind them.
    credentials: &'a str,
    hosts: &'a str,
    path: &'a str,
    /// Parameters and fragment, with what leads them in.
    rest: &'a str,
    options: &'a Options,
}

impl<'a> Url<'a> {
    fn split(whole: &'a str, shown: String, options: &'a Options) -> Self {
        let (scheme, after) = whole.split_once("://").unwrap_or(("", whole));
        let (before, rest) = after.split_at(after.find(['?', '#']).unwrap_or(after.len()));
        let at = before.rfind('@').map_or(0, |at| at + 1);
        let (credentials, place) = before.split_at(at);
        let (hosts, path) = place.split_at(place.find('/').unwrap_or(place.len()));
        Self {
            whole,
            shown,
            scheme,
            credentials,
            hosts,
            path,
            rest,
            options,
        }
    }

    fn connector(&self, template: ConnectionInfo) -> Connector {
        let Options {
            credentials, dial, ..
        } = self.options;
        Connector::new(template, credentials.clone(), dial.clone())
    }

    fn one(self, route: Route, connector: Connector) -> Servers {
        Servers::one(Access {
            route,
            connector,
            endpoint: self.shown,
            limits: self.options.limits,
            admission: Admission::default(),
        })
    }

    /// Why it is refused, and what would be right.
    fn refused(&self, why: &str, right: &str) -> Error {
        let shown = &self.shown;
        let tls = right.split_once("://").map_or("", |(scheme, _)| scheme);
        let tls = tls.replacen("redis", "rediss", 1);
        Error::config(format!(
            "redis URL {shown:?} is not usable ({why}); it looks like {right}, or {tls}:// for TLS"
        ))
    }

    /// The server of a URL of the client crate's.
    fn single(&self, url: &str, right: &str) -> Result<ConnectionInfo> {
        self.refuse_unknown_parameters(right)?;
        let bad = |err: RedisError| {
            let refused = self.refused(&err.to_string(), right);
            Error::with_source(ErrorKind::Config, refused.to_string(), err)
        };
        let info = url.into_connection_info().map_err(bad)?;
        let settings = info.redis_settings();
        let is_provided = self.options.credentials.is_some();
        if settings.password().is_some() && is_provided {
            let why = "it has credentials, and so has the builder";
            return Err(self.refused(why, right));
        }
        if settings.username().is_some() && settings.password().is_none() && !is_provided {
            // The client crate sends nothing then.
            let why = "a user without a password: the server would take you for its default \
                       user. Who has no password is let in with any";
            return Err(self.refused(why, right));
        }
        if self.options.dial.is_some() && Address::of(info.addr()).is_none() {
            return Err(self.refused("it names a file, to which nobody else can connect", right));
        }
        self.with_tls(info, right)
    }

    /// With the builder's certificates.
    fn with_tls(&self, info: ConnectionInfo, right: &str) -> Result<ConnectionInfo> {
        let has_certificates = self.options.ca.is_some() || self.options.client.is_some();
        if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            return match has_certificates {
                true => Err(self.refused("it has certificates and no TLS", right)),
                false => Ok(info),
            };
        }
        if self.options.dial.is_some() {
            let why = "nobody lays TLS over the connections that you dial: do it there, and \
                       leave it out of the URL";
            return Err(self.refused(why, right));
        }
        tls::prepare();
        tls::with_certificates(info, self.options)
    }

    fn refuse_credentials_of_sentinels(&self) -> Result<()> {
        match self.options.sentinel_credentials {
            Some(_) => Err(self.refused("it has no sentinels to log in to", SENTINEL)),
            None => Ok(()),
        }
    }

    /// The client crate ignores them: a time-out that nobody keeps, a database that is not used.
    fn refuse_unknown_parameters(&self, right: &str) -> Result<()> {
        let (parameters, fragment) = self.rest.split_once('#').unwrap_or((self.rest, ""));
        let known: &[&str] = match self.scheme {
            "unix" | "redis+unix" | "valkey+unix" => &["db", "user", "pass", "protocol"],
            _ => &["protocol"],
        };
        let parameters = parameters.trim_start_matches('?').split('&');
        for parameter in parameters.filter(|parameter| !parameter.is_empty()) {
            let name = parameter.split('=').next().unwrap_or_default();
            if !known.contains(&name) {
                let known = known.join(", ");
                let why = format!("it has a parameter {name:?}; there are: {known}");
                return Err(self.refused(&why, right));
            }
        }
        let has_tls = self.scheme.starts_with("rediss") || self.scheme == "valkeys";
        let is_known = fragment.is_empty() || (has_tls && fragment == "insecure");
        if !is_known {
            return Err(self.refused("there is nothing like it behind a #", right));
        }
        Ok(())
    }

    /// What is common to all of several hosts: the first one's URL, with this path.
    fn common(&self, path: &str, right: &str) -> Result<ConnectionInfo> {
        let tls = if self.scheme.starts_with("rediss") {
            "s"
        } else {
            ""
        };
        let first = self.hosts.split(',').next().unwrap_or_default();
        let (credentials, rest) = (self.credentials, self.rest);
        self.single(
            &format!("redis{tls}://{credentials}{first}{path}{rest}"),
            right,
        )
    }

    fn addresses(&self, port: u16, right: &str) -> Result<Vec<Address>> {
        let mut found: Vec<Address> = Vec::new();
        for host in self.hosts.split(',') {
            let bad = |why: String| self.refused(&format!("host {host:?}: {why}"), right);
            let info = format!("redis://{host}")
                .into_connection_info()
                .map_err(|err| bad(err.to_string()))?;
            let mut address = Address::of(info.addr()).ok_or_else(|| bad("no address".into()))?;
            let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
            if !has_port {
                address.port = port;
            }
            if !found.contains(&address) {
                found.push(address);
            }
        }
        Ok(found)
    }

    fn cluster(&self) -> Result<(Connector, Nodes)> {
        if !matches!(self.path.trim_matches('/'), "" | "0") {
            let why = "in a cluster there is no other database than 0";
            return Err(self.refused(why, CLUSTER));
        }
        let connector = self.connector(self.common("/", CLUSTER)?);
        let nodes = Nodes::new(self.addresses(NODE_PORT, CLUSTER)?, connector.clone());
        Ok((connector, nodes))
    }

    fn sentinel(&self) -> Result<(Connector, Sentinels)> {
        let mut path = self.path.trim_matches('/').split('/');
        let (name, db) = (path.next().unwrap_or_default(), path.next().unwrap_or("0"));
        if name.is_empty() {
            let why = "it does not say by which name the sentinels know the primary";
            return Err(self.refused(why, SENTINEL));
        }
        if path.next().is_some() || name.contains('%') {
            return Err(self.refused("behind the hosts come a name and a database", SENTINEL));
        }
        let template = self.common(&format!("/{db}"), SENTINEL)?;
        let sentinels = self.addresses(SENTINEL_PORT, SENTINEL)?;
        // The credentials of the URL are the server's.
        let settings = redis_rs::RedisConnectionInfo::default();
        let to_sentinels = template.clone().set_redis_settings(settings);
        let credentials = self.options.sentinel_credentials.clone();
        let asked_as = Connector::new(to_sentinels, credentials, self.options.dial.clone());
        let sentinels = Sentinels::new(name.to_owned(), sentinels, asked_as);
        Ok((self.connector(template), sentinels))
    }
}

/// `url` for messages: the password, and parameters that might hold one, left out.
fn without_password(url: &str) -> String {
    let (scheme, rest) = url
        .split_once("://")
        .map_or(("", url), |(scheme, rest)| (scheme, rest));
    let (rest, parameters) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    let shown = match rest.rsplit_once('@') {
        // Perhaps a password that should have been escaped: where it ends nobody can say.
        _ if parameters.contains('@') => "***".to_owned(),
        Some((credentials, host)) => match credentials.split_once(':') {
            Some((user, _)) => format!("{user}:***@{host}"),
            // Whoever forgot the colon meant a password.
            None => format!("***@{host}"),
        },
        // What stands where a port should may be a password without its host.
        None if !ports_are_numbers(rest) => "***".to_owned(),
        None => rest.to_owned(),
    };
    if scheme.is_empty() {
        shown
    } else {
        format!("{scheme}://{shown}")
    }
}

/// Whether there is nothing but numbers behind the colons of these hosts.
fn ports_are_numbers(hosts: &str) -> bool {
    let hosts = hosts.split('/').next().unwrap_or_default();
    hosts.split(',').all(|host| {
        let port = host.rsplit(']').next().unwrap_or_default();
        let port = port.split_once(':').map_or("", |(_, port)| port);
        port.chars().all(|c| c.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("redis://secret@h:1", "redis://***@h:1"),
            ("secret@h", "***@h"),
            ("redis://:secret", "redis://***"),
            ("redis://me:secret/0", "redis://***"),
            ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
            ("redis-cluster://a:1,b,[::1]", "redis-cluster://a:1,b,[::1]"),
            ("redis://:sec#ret@h:1", "redis://***"),
            ("redis://me:sec@re?t@h:1/2", "redis://***"),
            ("unix:///run/redis.sock?pass=sec@ret", "unix://***"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }

    fn read(url: &str) -> Result<Servers> {
        super::read(url, &Options::default())
    }

    fn refusal(url: &str) -> String {
        let err = read(url).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Config, "{url}");
        let shown = format!("{err:?} {err}");
        assert!(!shown.contains("secret"), "{shown}");
        err.to_string()
    }

    #[test]
    fn what_the_client_crate_ignores_in_a_url_is_refused() {
        for (url, why) in [
            ("redis://user@h", "a user without a password"),
            ("redis://user:@h", "a user without a password"),
            (
                "redis-sentinel://user@h/mymaster",
                "a user without a password",
            ),
            ("unix:///s?user=me", "a user without a password"),
            ("redis://h?db=3", "\"db\""),
            ("redis://:secret@h/1?timeout=5", "\"timeout\""),
            ("redis-sentinel://h/mymaster?protocol=3&x", "\"x\""),
            ("redis://h#insecure", "behind a #"),
        ] {
            let refusal = refusal(url);
            assert!(refusal.contains(why), "{url}: {refusal}");
            assert!(refusal.contains(":password@host"), "{url}: {refusal}");
        }
        for url in [
            "redis://:password@h",
            "redis://h?protocol=resp3",
            "unix:///s?db=2&user=u&pass=p%40&protocol=3",
        ] {
            assert!(read(url).is_ok(), "{url}");
        }
    }

    #[test]
    fn a_url_of_sentinels_names_them_the_primary_and_its_database() {
        let server = read("redis-sentinel://me:secret@a,b:1,[::1],a/mymaster/3").unwrap();
        let server = server.any();
        assert_eq!(server.db(), 3);
        let Route::Sentinel(sentinels) = &server.access.route else {
            panic!("another route")
        };
        assert_eq!(
            sentinels.to_string(),
            "mymaster at a:26379, b:1, [::1]:26379"
        );
        for (url, why) in [
            ("redis-sentinel://:secret@a,b", "by which name"),
            ("redis-sentinel://a/", "by which name"),
            ("redis-sentinel:///mymaster", "host"),
            ("redis-sentinel://a,,b/mymaster", "host \"\""),
            ("redis-sentinel://a,b:x/mymaster", "host \"b:x\""),
            ("redis-sentinel://a/mymaster/x", "database"),
            ("redis-sentinel://a/mymaster/0/1", "a name and a database"),
        ] {
            let refusal = refusal(url);
            assert!(refusal.contains(why), "{url}: {refusal}");
            assert!(refusal.contains("mymaster/0"), "{url}: {refusal}");
        }
    }

    #[test]
    fn a_url_of_a_cluster_names_nodes_and_no_database() {
        for url in ["redis-cluster://me:secret@a,b:1/", "redis-cluster://a/0"] {
            assert!(read(url).unwrap().is_cluster(), "{url}");
        }
        for (url, why) in [
            ("redis-cluster://:secret@a/1", "no other database than 0"),
            ("redis-cluster://", "host"),
            ("redis-cluster://a,b:x", "host \"b:x\""),
            ("redis-cluster://me@a", "a user without a password"),
        ] {
            let refusal = refusal(url);
            assert!(refusal.contains(why), "{url}: {refusal}");
            assert!(refusal.contains("host:6379,host:6379"), "{url}: {refusal}");
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
            let err = read(url).unwrap_err();
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
