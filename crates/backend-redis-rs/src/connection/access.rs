//! [`Access`]: finding the owner and connecting to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use redis_rs::ConnectionInfo;
use streamlease_core::{BoxFuture, Error, ErrorKind, Result};

use super::attempt::{ANOTHER_AFTER, Attempt, connect};
use super::connector::Connector;
use super::pool::Pool;
use super::route::Route;
use crate::builder::Limits;
use crate::error::{from_redis, timed_out};

/// After a connect that took so long the owner is asked for once more.
const LATE: Duration = Duration::from_millis(100);

/// What it takes to connect.
pub(super) struct Access {
    pub(super) route: Route,
    pub(super) connector: Connector,
    /// The URL without its password, for messages.
    pub(super) endpoint: String,
    pub(super) limits: Limits,
    pub(super) admission: Admission,
}

/// Whether we are let in, as far as is known.
#[derive(Default)]
pub(super) struct Admission {
    /// Anything was ever connected.
    has_worked: AtomicBool,
    /// That we are not any more was said.
    is_told: AtomicBool,
}

impl Access {
    /// Finds the owner and connects to it, within the limit.
    pub(super) async fn connect<T: Send + 'static>(
        self: Arc<Self>,
        pool: Arc<Pool>,
        what: &'static str,
        dial: impl Fn(Arc<Self>, String, ConnectionInfo) -> BoxFuture<'static, Result<T>>
        + Clone
        + Send
        + 'static,
    ) -> Result<T> {
        let context = self.context(what);
        let another_after = match self.route.is_asked_for() {
            true => ANOTHER_AFTER / 2,
            false => ANOTHER_AFTER,
        };
        let limit = pool.limit();
        let access = self.clone();
        let once = move |again: bool| -> BoxFuture<'static, Result<T>> {
            if again {
                pool.doubt_owner();
            }
            Box::pin(self.clone().connect_once(pool.clone(), what, dial.clone()))
        };
        let connected = connect(limit, another_after, once).await;
        let connected = connected.unwrap_or_else(|| Err(from_redis(&context, timed_out())));
        access.admission.judge(connected)
    }

    async fn connect_once<T: Send>(
        self: Arc<Self>,
        pool: Arc<Pool>,
        what: &'static str,
        dial: impl Fn(Arc<Self>, String, ConnectionInfo) -> BoxFuture<'static, Result<T>>,
    ) -> Result<T> {
        let search = self.search(&pool);
        search.wait().await;
        let owner = search.share()?;
        match pool.lead_to(&owner) {
            Some(is_new) if is_new => self.route.watch(&pool, &owner),
            Some(_) => {}
            None => return Err(has_changed()),
        }
        let context = match self.route.is_asked_for() {
            true => self.context(&format!("{what} to {}", owner.addr())),
            false => self.context(what),
        };
        let (access, address) = (self.clone(), owner.addr().clone());
        let began = Instant::now();
        let connected = dial(self, context, owner).await;
        if connected.is_err() {
            access.route.doubt(Some(address));
            pool.forget_owner(&search);
        } else if access.route.is_asked_for() && began.elapsed() >= LATE {
            // It may have been frozen, and replaced meanwhile, and take itself for the owner.
            pool.doubt_owner();
            let search = access.search(&pool);
            search.wait().await;
            if pool.lead_to(&search.share()?).is_none() {
                return Err(has_changed());
            }
        }
        connected
    }

    /// The owner, or the search for it.
    fn search(self: &Arc<Self>, pool: &Pool) -> Arc<Attempt<ConnectionInfo>> {
        pool.owner(|| {
            let access = self.clone();
            async move { access.route.find(&access.connector).await }
        })
    }

    pub(super) fn context(&self, what: &str) -> String {
        format!("{what} ({})", self.endpoint)
    }
}

impl Admission {
    /// Passwords, certificates and addresses that were right once are so again: somebody is
    /// changing them. To those who connect, whatever for, that is an outage. A refusal is
    /// the end of a client whose call has not worked yet, and it may just have started.
    fn judge<T>(&self, connected: Result<T>) -> Result<T> {
        match connected {
            Ok(connection) => {
                self.has_worked.store(true, Ordering::Relaxed);
                self.is_told.store(false, Ordering::Relaxed);
                Ok(connection)
            }
            Err(err) if !err.is_retryable() && self.has_worked.load(Ordering::Relaxed) => {
                // Whoever tells of the outage may do so for what came before.
                if !self.is_told.swap(true, Ordering::Relaxed) {
                    log::warn!("let in before and refused now, trying again: {err}");
                }
                Err(Error::new(ErrorKind::Unavailable, err.to_string()))
            }
            failed => failed,
        }
    }
}

fn has_changed() -> Error {
    Error::new(ErrorKind::Unavailable, "the owner has changed")
}
