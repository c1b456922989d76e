//! [`Connector`]: how connections are made, wherever they lead.

use std::sync::Arc;
use std::time::Duration;

use redis_rs::aio::{MultiplexedConnection, PubSub};
use redis_rs::{AsyncConnectionConfig, Client, ConnectionInfo, RedisResult};
use streamlease_core::{Error, Result};

use super::address::Address;
use super::dialed::Dialed;
use super::speech;
use crate::error::from_redis;
use crate::{CredentialProvider, Dial, timer};

/// The one place that knows as whom, and over what, a server is talked to.
#[derive(Clone)]
pub(crate) struct Connector {
    /// Database, protocol and TLS, and credentials if nobody provides them. Its address is
    /// that of a single server, or stands in for those that are found.
    template: ConnectionInfo,
    credentials: Option<Arc<dyn CredentialProvider>>,
    dial: Option<Arc<dyn Dial>>,
}

impl Connector {
    pub(crate) fn new(
        template: ConnectionInfo,
        credentials: Option<Arc<dyn CredentialProvider>>,
        dial: Option<Arc<dyn Dial>>,
    ) -> Self {
        // Off by default in the client crate; it costs a third of the latency.
        let tcp = template.tcp_settings().clone().set_nodelay(true);
        Self {
            template: template.set_tcp_settings(tcp),
            credentials,
            dial,
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
        let to = self.logging_in(what, to).await?;
        let config = AsyncConnectionConfig::new()
            // Ours covers all of it.
            .set_connection_timeout(None)
            .set_response_timeout(response_timeout);
        let Some(link) = self.dialed(&to).await else {
            let addr = to.addr().clone();
            let connect = || async {
                let client = Client::open(to.clone())?;
                client
                    .get_multiplexed_async_connection_with_config(&config)
                    .await
            };
            return speech::connect(what, &addr, connect).await;
        };
        let connect = async {
            let settings = to.redis_settings();
            MultiplexedConnection::new_with_config(settings, link?, config).await
        };
        let (connection, driver) = connect.await.map_err(|err| from_redis(what, err))?;
        // It ends with the last clone of the connection.
        timer::spawn(driver);
        Ok(connection)
    }

    /// A connection for subscriptions.
    pub(crate) async fn subscriptions(&self, what: &str, to: &ConnectionInfo) -> Result<PubSub> {
        let to = self.logging_in(what, to).await?;
        let Some(link) = self.dialed(&to).await else {
            let addr = to.addr().clone();
            let connect = || async { Client::open(to.clone())?.get_async_pubsub().await };
            return speech::connect(what, &addr, connect).await;
        };
        let connect = async { PubSub::new(to.redis_settings(), link?).await };
        connect.await.map_err(|err| from_redis(what, err))
    }

    /// With the credentials of this moment.
    async fn logging_in(&self, what: &str, to: &ConnectionInfo) -> Result<ConnectionInfo> {
        let Some(provider) = &self.credentials else {
            return Ok(to.clone());
        };
        let credentials = provider.credentials().await.map_err(|err| {
            Error::with_source(err.kind(), format!("{what}: no credentials: {err}"), err)
        })?;
        let (user, password) = credentials.into_parts();
        let mut settings = to.redis_settings().clone().set_password(password);
        if let Some(user) = user {
            settings = settings.set_username(user);
        }
        Ok(to.clone().set_redis_settings(settings))
    }

    /// The application's own link, if it makes them.
    async fn dialed(&self, to: &ConnectionInfo) -> Option<RedisResult<Dialed>> {
        let dial = self.dial.as_ref()?;
        // A URL without a host is refused with it.
        let address = Address::of(to.addr())?;
        let link = dial.dial(&address.host, address.port).await;
        Some(link.map(Dialed).map_err(Into::into))
    }
}
