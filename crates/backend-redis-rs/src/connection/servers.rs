//! [`Servers`]: what a URL leads to, for any number of services.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use streamlease_core::{Error, Result};

use super::Server;
use super::access::{Access, Admission};
use super::cluster::{Nodes, Slot};
use super::connector::Connector;
use super::route::Route;
use super::slot::slot_of;
use crate::builder::Limits;
use crate::keys::Keys;

/// One server for all services; in a cluster one for each slot that a service is in.
pub(crate) struct Servers {
    endpoint: String,
    to: To,
}

enum To {
    One(Arc<Server>),
    Cluster {
        connector: Box<Connector>,
        nodes: Arc<Nodes>,
        limits: Limits,
        by_slot: Mutex<BTreeMap<u16, Weak<Server>>>,
    },
}

impl Servers {
    pub(super) fn one(access: Access) -> Self {
        Self {
            endpoint: access.endpoint.clone(),
            to: To::One(Arc::new(Server::new(access))),
        }
    }

    pub(super) fn cluster(
        endpoint: String,
        connector: Connector,
        nodes: Nodes,
        limits: Limits,
    ) -> Self {
        Self {
            endpoint,
            to: To::Cluster {
                connector: Box::new(connector),
                nodes: Arc::new(nodes),
                limits,
                by_slot: Mutex::default(),
            },
        }
    }

    /// The URL without its password.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.to, To::Cluster { .. })
    }

    /// The one that has these keys.
    pub(crate) fn of(&self, keys: &Keys) -> Result<Arc<Server>> {
        if !self.is_cluster() {
            return Ok(self.any());
        }
        let slot = slot_of(&keys.lbs);
        if slot != slot_of(&keys.tokens) {
            return Err(Error::config(format!(
                "the name of the service makes {:?} and {:?} lie in different slots of the \
                 cluster; leave out its braces, or have them enclose something",
                keys.lbs, keys.tokens
            )));
        }
        Ok(self.of_slot(slot))
    }

    /// Any, for what is about none of the services.
    pub(crate) fn any(&self) -> Arc<Server> {
        self.of_slot(0)
    }

    fn of_slot(&self, slot: u16) -> Arc<Server> {
        match &self.to {
            To::One(server) => server.clone(),
            To::Cluster {
                connector,
                nodes,
                limits,
                by_slot,
            } => {
                let mut by_slot = by_slot.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(server) = by_slot.get(&slot).and_then(Weak::upgrade) {
                    return server;
                }
                by_slot.retain(|_, server| server.strong_count() > 0);
                let server = Arc::new(Server::new(Access {
                    route: Route::Cluster(Slot::new(slot, nodes.clone())),
                    connector: (**connector).clone(),
                    endpoint: self.endpoint.clone(),
                    limits: *limits,
                    admission: Admission::default(),
                }));
                by_slot.insert(slot, Arc::downgrade(&server));
                server
            }
        }
    }
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Servers")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}
