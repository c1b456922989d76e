//! Which locks a service has on record, and giving it others.

use std::sync::LazyLock;

use redis_rs::cmd;
use streamlease_core::{
    BackendProvider, EntryId, Error, ErrorKind, LockId, LockScheme, LockState, Result, Scope,
    ServiceName,
};

use crate::RedisBackend;
use crate::connection::{Call, Script, Server, script};
use crate::decode;
use crate::error::protocol;
use crate::hello;
use crate::keys::Keys;
use crate::locks::scheme_name;

/// Pending entries looked at together.
const PAGE: usize = 250;

static MIGRATE: LazyLock<Script> = script!(
    beyond_full: "lib/base", "lib/locks",
    "locks/migrate"
);

impl RedisBackend {
    /// The locks that `service` has on record; `None` if it has no record: it has
    /// not been used yet, or its group was made by a Go consumer, and its locks
    /// are per stream.
    ///
    /// # Errors
    /// As any command's; [`Incompatible`](ErrorKind::Incompatible) for a record
    /// that this version does not know.
    pub async fn recorded_lock_scheme(&self, service: &ServiceName) -> Result<Option<LockScheme>> {
        let keys = Keys::new(service);
        let server = self.servers.of(&keys)?;
        let key = keys.scheme.clone();
        let mut get = cmd("GET");
        get.arg(&key);
        let what = format!("reading {key}");
        match server.command(&what, &get).await? {
            redis_rs::Value::Nil => scheme_by_its_keys(&server, keys).await,
            name => scheme_of(&key, &decode::text(name)?).map(Some),
        }
    }

    /// Gives an idle service these locks, whatever it had. Nothing that is
    /// announced or pending is touched: who starts afterwards takes it up.
    ///
    /// Stop all consumers first; producers may go on. Consumers of the Go library
    /// show only by the locks they hold, so one that holds nothing is not seen.
    /// Can be repeated.
    ///
    /// # Errors
    /// [`Busy`](ErrorKind::Busy): consumers are alive, or a stream is held; the message says how.
    pub async fn migrate(&self, service: &ServiceName, to: LockScheme) -> Result<()> {
        let keys = Keys::new(service);
        let server = self.servers.of(&keys)?;
        if to == LockScheme::PerStream {
            hello::refuse_per_stream_locks(&server).await?;
        }
        // In cluster mode nobody can have such locks, nor ask for them.
        if !hello::is_cluster(&server).await? {
            self.refuse_if_locked(service).await?;
        }
        let mut call = Call::new();
        call.key(&keys.sessions)
            .key(&keys.scheme)
            .key(&keys.owners)
            .key(&keys.details)
            .key(&keys.leases)
            .key(&keys.server);
        call.arg(scheme_name(to));
        let what = format!("migrating {}", keys.lbs);
        let reply = server.run_one(&what, &MIGRATE, call).await?;
        let (word, mut rest) = decode::outcome(reply)?;
        match &*word {
            "ok" => Ok(()),
            "busy" => {
                let living = decode::count(decode::next(&mut rest)?)?;
                let living = match living {
                    1 => "1 consumer is alive".to_owned(),
                    living => format!("{living} consumers are alive"),
                };
                Err(busy(service, &living))
            }
            _ => Err(protocol("an unknown outcome of a migration")),
        }
    }

    /// Looks for per-stream locks, Go consumers' too, of what is pending.
    async fn refuse_if_locked(&self, service: &ServiceName) -> Result<()> {
        let per_stream = self.clone().with_lock_scheme(LockScheme::PerStream);
        let backend = per_stream.backend(service)?;
        let mut after = Some(EntryId::MIN);
        while let Some(from) = after {
            let scope = Scope::All { after: from };
            let page = match backend.transport.list_pending(&scope, PAGE).await {
                // Nobody has used it yet.
                Err(err) if err.kind() == ErrorKind::NotPrepared => return Ok(()),
                page => page?,
            };
            after = page.next;
            let locks: Vec<LockId> = page
                .entries
                .into_iter()
                .filter_map(|pending| {
                    let (stream, entry) = (pending.content.ok()?.stream, pending.entry);
                    Some(LockId { stream, entry })
                })
                .collect();
            let states = backend.locks.inspect(&locks).await?;
            for (lock, state) in locks.iter().zip(states) {
                if let LockState::Held(held) = state {
                    let stream = &lock.stream;
                    return Err(busy(
                        service,
                        &format!("{stream} is held by {:?}", held.holder),
                    ));
                }
            }
        }
        Ok(())
    }
}

/// The record may have vanished; session leases show by what else they have.
async fn scheme_by_its_keys(server: &Server, keys: Keys) -> Result<Option<LockScheme>> {
    let what = format!("looking for {}", keys.scheme);
    let mut exists = cmd("EXISTS");
    exists.arg(&[keys.owners, keys.server, keys.details]);
    let found = decode::number(server.command(&what, &exists).await?)?;
    Ok((found > 0).then_some(LockScheme::Session))
}

fn busy(service: &ServiceName, how: &str) -> Error {
    let message = format!(
        "service {service} is busy ({how}); stop all its consumers, wait for their TTL and try again"
    );
    Error::new(ErrorKind::Busy, message)
}

fn scheme_of(key: &str, name: &str) -> Result<LockScheme> {
    [LockScheme::PerStream, LockScheme::Session]
        .into_iter()
        .find(|scheme| scheme_name(*scheme) == name)
        .ok_or_else(|| {
            let message = format!("{key} is {name:?}, which is no lock scheme this version knows");
            Error::new(ErrorKind::Incompatible, message)
        })
}
