//! The service that is meant: its locks, and whether there is one by that name.

use streamlease::spi::Backend;
use streamlease::{BackendProvider, ErrorKind, LockScheme, RedisBackend, ServiceName};

use crate::output::{note, printable};

/// With the locks of the service's consumers.
pub(crate) async fn with_its_locks(
    redis: &RedisBackend,
    service: &ServiceName,
) -> streamlease::Result<RedisBackend> {
    let with = |scheme| redis.clone().with_lock_scheme(scheme);
    let recorded = redis.recorded_lock_scheme(service).await?;
    if let Some(scheme) = recorded {
        return Ok(with(scheme));
    }
    // A group without that record was made by consumers of the wire format. Without a group
    // nobody holds anything.
    Ok(with(match has_group(&redis.backend(service)?).await? {
        true => LockScheme::PerStream,
        false => LockScheme::Session,
    }))
}

async fn has_group(backend: &Backend) -> streamlease::Result<bool> {
    match backend.admin.consumers().await {
        Err(err) if err.kind() == ErrorKind::NotPrepared => Ok(false),
        consumers => consumers.map(|_| true),
    }
}

/// Tells on standard error if there is no such service: it may be a slip of the pen.
pub(crate) async fn note_if_unknown(redis: &RedisBackend, service: &ServiceName) {
    match is_known(redis, service).await {
        Ok(false) => say_unknown(service),
        Ok(true) => {}
        // Who may do what was asked need not have the rights to look.
        Err(err) => log::debug!("cannot see whether there is a service {service}: {err}"),
    }
}

async fn is_known(redis: &RedisBackend, service: &ServiceName) -> streamlease::Result<bool> {
    if redis.recorded_lock_scheme(service).await?.is_some() {
        return Ok(true);
    }
    let backend = redis.backend(service)?;
    let counts = backend.admin.counts().await?;
    let has_entries = counts.pending + counts.quarantined > 0 || counts.waiting != Some(0);
    Ok(has_entries || has_group(&backend).await?)
}

pub(crate) fn say_unknown(service: &ServiceName) {
    note(&format!(
        "there is no service {} here: nothing was announced for it, and nobody has worked on it",
        printable(service.as_str())
    ));
}
