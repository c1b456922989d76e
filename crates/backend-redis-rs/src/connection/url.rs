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
const ESCAPES: &str = "in a user name or a password write / as %2F, ? as %3F, # as %23, @ as %40, \
                       : as %3A, & as %26, + as %2B and % as %25";

/// Reads a URL of any kind, with what the builder was told. No I/O.
pub(crate) fn read(url: &str, options: &Options) -> Result<Servers> {
    let url = Url::split(url, options);
    tls::refuse_without_its_feature(url.scheme, &url.shown())?;
    match url.scheme {
        "redis-sentinel" | "rediss-sentinel" => {
            let (connector, sentinels) = url.sentinel()?;
            Ok(url.one(Route::Sentinel(Arc::new(sentinels)), connector))
        }
        "redis-cluster" | "rediss-cluster" => {
            url.refuse_credentials_of_sentinels()?;
            let (connector, nodes) = url.cluster()?;
            Ok(Servers::cluster(
                url.shown(),
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
    fn split(whole: &'a str, options: &'a Options) -> Self {
        let of_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        let (scheme, after) = match whole.split_once("://") {
            Some((scheme, after)) if scheme.chars().all(of_scheme) => (scheme, after),
            _ => ("", whole),
        };
        let (before, rest) = after.split_at(after.find(['?', '#']).unwrap_or(after.len()));
        let at = before.rfind('@').map_or(0, |at| at + 1);
        let (credentials, place) = before.split_at(at);
        let (hosts, path) = place.split_at(place.find('/').unwrap_or(place.len()));
        Self {
            whole,
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
            endpoint: self.shown(),
            limits: self.options.limits,
            admission: Admission::default(),
        })
    }

    /// For messages: the password, and all that may be a piece of one, left out.
    fn shown(&self) -> String {
        let shown = self.visible().unwrap_or_else(|| "***".to_owned());
        match self.scheme {
            "" => shown,
            scheme => format!("{scheme}://{shown}"),
        }
    }

    /// What may be shown of it; `None` if nobody can say where the password is. A `/`, `?` or `#`
    /// that should have been escaped makes its end look like a port, a path or a parameter.
    fn visible(&self) -> Option<String> {
        let Self {
            credentials,
            hosts,
            path,
            ..
        } = self;
        let has_names_in_path = self.is_file() || self.scheme.ends_with("-sentinel");
        let is_known = !self.rest.contains('@')
            && hosts.split(',').all(is_plain_host)
            && (has_names_in_path || path.trim_matches('/').chars().all(|c| c.is_ascii_digit()));
        if !is_known {
            return None;
        }
        let Some(credentials) = credentials.strip_suffix('@') else {
            return Some(format!("{hosts}{path}"));
        };
        Some(match credentials.split_once(':') {
            Some((user, password)) if !password.is_empty() && user.chars().all(is_of_name) => {
                format!("{user}:***@{hosts}{path}")
            }
            // Whoever forgot the colon, or misplaced it, meant a password.
            _ => format!("***@{hosts}{path}"),
        })
    }

    /// Whether what stands behind a `?` cannot be a password's end.
    fn has_surely_parameters(&self) -> bool {
        let may_hosts_be_credentials = self.credentials.is_empty() && self.hosts.contains(':');
        self.visible().is_some() && !may_hosts_be_credentials
    }

    fn is_file(&self) -> bool {
        matches!(self.scheme, "unix" | "redis+unix" | "valkey+unix")
    }

    /// What has no meaning where it stands, perhaps because of a password.
    fn unreadable(&self, why: &str, right: &str) -> Error {
        let has_password_in_rest = self.is_file() && !self.rest.is_empty();
        if self.credentials.is_empty() && self.visible().is_some() && !has_password_in_rest {
            return self.refused(why, right);
        }
        self.refused(&format!("{why}; {ESCAPES}"), right)
    }

    /// Why it is refused, and what would be right.
    fn refused(&self, why: &str, right: &str) -> Error {
        let shown = self.shown();
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
            // A quotation of a parameter.
            if err.detail().is_some() && !self.has_surely_parameters() {
                return self.unreadable("it cannot be read", right);
            }
            let refused = self.unreadable(&err.to_string(), right);
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
        let known: &[&str] = match self.is_file() {
            true => &["db", "user", "pass", "protocol"],
            false => &["protocol"],
        };
        let parameters = parameters.trim_start_matches('?').split('&');
        for parameter in parameters.filter(|parameter| !parameter.is_empty()) {
            let name = parameter.split('=').next().unwrap_or_default();
            if !known.contains(&name) {
                let known = known.join(", ");
                let which = match self.has_surely_parameters() {
                    // Of a file's password an & may be a part.
                    true if !self.is_file() => format!("a parameter {name:?}"),
                    _ => "an unknown parameter".to_owned(),
                };
                let why = format!("it has {which}; there are: {known}");
                return Err(self.unreadable(&why, right));
            }
        }
        let has_tls = self.scheme.starts_with("rediss") || self.scheme == "valkeys";
        let is_known = fragment.is_empty() || (has_tls && fragment == "insecure");
        if !is_known {
            let why = "behind a # there can be nothing but \"insecure\", with TLS";
            return Err(self.unreadable(why, right));
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
        let is_visible = self.visible().is_some();
        for (number, host) in (1..).zip(self.hosts.split(',')) {
            let bad = |why: String| match is_visible {
                true => self.unreadable(&format!("host {host:?}: {why}"), right),
                false => self.unreadable(&format!("host {number} cannot be read"), right),
            };
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
            return Err(self.unreadable(why, CLUSTER));
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
            return Err(self.unreadable(why, SENTINEL));
        }
        if path.next().is_some() || name.contains('%') {
            let why = "behind the hosts come a name and a database";
            return Err(self.unreadable(why, SENTINEL));
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

fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '.' | '-' | '_')
}

/// Whether this is nothing but a host, perhaps with a port.
fn is_plain_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        Some((name, port)) => {
            let of_address = |c: char| c.is_ascii_hexdigit() || matches!(c, ':' | '.');
            if !name.chars().all(of_address) {
                return false;
            }
            ("", port)
        }
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let has_port = match port.strip_prefix(':') {
        Some(number) => !number.is_empty() && number.chars().all(|c| c.is_ascii_digit()),
        None => port.is_empty(),
    };
    has_port && name.chars().all(is_of_name)
}

#[cfg(test)]
mod tests;
