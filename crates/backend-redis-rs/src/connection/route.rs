//! [`Route`]: the way to the server that owns a service now.
//!
//! A name is looked up by the system at each connect; sentinels are asked, and the nodes of
//! a cluster. What was found is good for one pool of connections: every doubt about it ends
//! that pool, and the next one asks anew.
//!
//! Not by the client crate's connections for clusters and Sentinel: those send again what
//! may have been executed, hold all requests up behind one that blocks, and stay with a
//! server that is silent. All keys of a service are on one server, so all that there is to
//! do is to find it.

use std::sync::Arc;

use redis_rs::aio::MultiplexedConnection;
use redis_rs::{ConnectionAddr, ConnectionInfo};
use streamlease_core::{Error, ErrorKind, Result};

use super::address::Address;
use super::cluster::Slot;
use super::connector::Connector;
use super::pool::Pool;
use super::sentinel::{self, Sentinels};
use crate::hello::Hello;

/// What those have said who were asked for the owner.
#[derive(Debug)]
pub(crate) struct Census {
    pub(crate) who: &'static str,
    pub(crate) asked: usize,
    /// Each other account once.
    pub(crate) owners: Vec<String>,
    pub(crate) errors: Vec<Error>,
}

impl Census {
    pub(super) fn of(who: &'static str) -> Self {
        Self {
            who,
            asked: 0,
            owners: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// `None`: whoever it was does not say.
    pub(super) fn count(&mut self, account: Result<Option<String>>) {
        self.asked += 1;
        match account {
            Ok(Some(owner)) if !self.owners.contains(&owner) => self.owners.push(owner),
            Ok(_) => {}
            Err(error) => self.errors.push(error),
        }
    }
}

/// How the owner is found.
pub(crate) enum Route {
    /// By its name.
    Name,
    /// Sentinels name it.
    Sentinel(Arc<Sentinels>),
    /// It has the slot in which the service's keys are.
    Cluster(Slot),
}

impl Route {
    /// Whether there is somebody to ask, who may say another one each time.
    pub(super) fn is_asked_for(&self) -> bool {
        !matches!(self, Self::Name)
    }

    /// What all those say who are asked for the owner; `None` if nobody is.
    pub(super) async fn census(&self) -> Option<Census> {
        match self {
            Self::Name => None,
            Self::Sentinel(sentinels) => Some(sentinels.census().await),
            Self::Cluster(slot) => Some(slot.census().await),
        }
    }

    /// The present owner.
    pub(super) async fn find(&self, connector: &Connector) -> Result<ConnectionInfo> {
        match self {
            Self::Name => Ok(connector.named()),
            Self::Sentinel(sentinels) => Ok(connector.at(&sentinels.primary().await?)),
            Self::Cluster(slot) => Ok(connector.at(&slot.owner().await?)),
        }
    }

    /// Whether what is at the other end is what was looked for, by its own account.
    pub(super) async fn check(
        &self,
        what: &str,
        connection: &mut MultiplexedConnection,
    ) -> Result<()> {
        let hello = match (self, Hello::of(what, connection).await) {
            // A server that is loading, or a proxy that knows no such command: what is asked
            // for next will tell.
            (Self::Name | Self::Cluster(_), Err(_)) => return Ok(()),
            (_, hello) => hello?,
        };
        if hello.mode.as_deref() == Some("sentinel") {
            return Err(Error::config(format!(
                "{what}: it is a sentinel, which keeps no streams; a URL that begins with \
                 redis-sentinel:// and ends with the name of the primary, as in \
                 redis-sentinel://host:26379/mymaster, asks it for the server"
            )));
        }
        match (self, hello.role.as_deref()) {
            (Self::Sentinel(_), Some(role)) if role != "master" => Err(Error::new(
                ErrorKind::Unavailable,
                format!("{what}: the sentinels name it the primary, but it is a {role}"),
            )),
            _ => Ok(()),
        }
    }

    /// That one did not answer, or not as the owner does.
    pub(super) fn doubt(&self, at: Option<ConnectionAddr>) {
        if let (Self::Cluster(slot), Some(node)) = (self, at.as_ref().and_then(Address::of)) {
            slot.doubt(node);
        }
    }

    /// Whether an error that a server there gave as its answer names the owner.
    pub(super) fn is_told(&self, code: &str, detail: &str, at: Option<ConnectionAddr>) -> bool {
        match (self, at.as_ref().and_then(Address::of)) {
            (Self::Cluster(slot), Some(by)) if code == "MOVED" => slot.moved(detail, &by),
            _ => false,
        }
    }

    /// Asks for as long as `pool` is used whether it still leads to the owner.
    pub(super) fn watch(&self, pool: &Arc<Pool>, owner: &ConnectionInfo) {
        if let Self::Sentinel(sentinels) = self {
            sentinel::watch(sentinels.clone(), pool, owner.addr());
        }
    }
}
