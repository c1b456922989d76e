//! `streamlease migrate`: the other kind of locks for an idle service.

use crate::Failure;
use crate::args::{MigrateArgs, RuntimeKind};
use crate::output::{note, printable};
use crate::runtime;
use crate::service::note_if_unknown;

pub(crate) fn run(args: MigrateArgs) -> Result<(), Failure> {
    runtime::block_on(RuntimeKind::Tokio, |_| async move {
        let backend = crate::connect(&args.target).await?;
        let service = &args.target.service;
        if backend.recorded_lock_scheme(service).await? == Some(args.to.scheme()) {
            let service = printable(service.as_str());
            note(&format!(
                "nothing to do: service {service} has these locks already"
            ));
        } else {
            note_if_unknown(&backend, service).await;
        }
        // A service that is busy is no mistake in the arguments.
        let migrated = backend.migrate(service, args.to.scheme());
        migrated
            .await
            .map_err(|err| Failure::other(err.to_string()))
    })
}
