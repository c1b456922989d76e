//! [`Address`]: where a node is, as servers and URLs name it.

use std::fmt;

use redis_rs::ConnectionAddr;

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Address {
    /// Reads `host:port` as servers write it: an IPv6 address has no brackets there, or
    /// has them. The host may be missing.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Some(Self {
            host: host.to_owned(),
            port: port.parse().ok().filter(|port| *port != 0)?,
        })
    }

    pub(crate) fn of(addr: &ConnectionAddr) -> Option<Self> {
        match addr {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                Some(Self {
                    host: host.clone(),
                    port: *port,
                })
            }
            _ => None,
        }
    }

    /// This address, with TLS if that one has it.
    pub(super) fn reached_like(&self, other: &ConnectionAddr) -> ConnectionAddr {
        match other {
            ConnectionAddr::TcpTls {
                insecure,
                tls_params,
                ..
            } => ConnectionAddr::TcpTls {
                host: self.host.clone(),
                port: self.port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            _ => ConnectionAddr::Tcp(self.host.clone(), self.port),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_servers_and_people_write_them() {
        for (text, host, port) in [
            ("127.0.0.1:7700", "127.0.0.1", 7700),
            ("node-1.example:6379", "node-1.example", 6379),
            ("::1:6381", "::1", 6381),
            ("[::1]:6381", "::1", 6381),
            (":7700", "", 7700),
        ] {
            let address = Address::parse(text);
            assert_eq!(
                address,
                Some(Address {
                    host: host.into(),
                    port
                }),
                "{text}"
            );
        }
        for text in ["", "host", "host:", "host:0", "host:x", "host:65536"] {
            assert_eq!(Address::parse(text), None, "{text}");
        }
        let six = Address::parse("::1:6381").map(|address| address.to_string());
        assert_eq!(six.as_deref(), Some("[::1]:6381"));
    }
}
