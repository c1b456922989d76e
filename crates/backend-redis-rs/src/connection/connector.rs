//! [`Connector`]: how connections are made, wherever they lead.

use std::time::Duration;

use redis_rs::aio::{MultiplexedConnection, PubSub};
use redis_rs::{AsyncConnectionConfig, Client, ConnectionInfo};
use streamlease_core::Result;

use super::address::Address;
use crate::error::from_redis;

/// The one place that knows as whom, and over what, a server is talked to.
#[derive(Clone)]
pub(crate) struct Connector {
    /// Database, credentials, protocol and TLS. Its address is that of a single server,
    /// or stands in for those that are found.
    template: ConnectionInfo,
}

impl Connector {
    pub(crate) fn new(template: ConnectionInfo) -> Self {
        // Off by default in the client crate; it costs a third of the latency.
        let tcp = template.tcp_settings().clone().set_nodelay(true);
        Self {
            template: template.set_tcp_settings(tcp),
        }
    }

    pub(crate) fn db(&self) -> i64 {
        self.template.redis_settings().db()
    }

    /// The server of the URL.
    pub(crate) fn named(&self) -> ConnectionInfo {
        self.template.clone()
    }

    /// Another one, talked to in the same way.
    pub(crate) fn at(&self, address: &Address) -> ConnectionInfo {
        let addr = address.reached_like(self.template.addr());
        self.template.clone().set_addr(addr)
    }

    /// A connection for commands. `what` says what for, and with which server.
    pub(crate) async fn commands(
        &self,
        what: &str,
        to: &ConnectionInfo,
        response_timeout: Option<Duration>,
    ) -> Result<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            // Ours covers all of it.
            .set_connection_timeout(None)
            .set_response_timeout(response_timeout);
        let connect = async {
            let client = Client::open(to.clone())?;
            client
                .get_multiplexed_async_connection_with_config(&config)
                .await
        };
        connect.await.map_err(|err| from_redis(what, err))
    }

    /// A connection for subscriptions.
    pub(crate) async fn subscriptions(&self, what: &str, to: &ConnectionInfo) -> Result<PubSub> {
        let connect = async { Client::open(to.clone())?.get_async_pubsub().await };
        connect.await.map_err(|err| from_redis(what, err))
    }
}
