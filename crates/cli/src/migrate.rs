//! `streamlease migrate`: the other kind of locks for an idle service.

use crate::Failure;
use crate::args::{MigrateArgs, RuntimeKind};
use crate::runtime;

pub(crate) fn run(args: MigrateArgs) -> Result<(), Failure> {
    runtime::block_on(RuntimeKind::Tokio, |_| async move {
        let backend = crate::connect(&args.target).await?;
        // A service that is busy is no mistake in the arguments.
        let migrated = backend.migrate(&args.target.service, args.to.scheme());
        migrated
            .await
            .map_err(|err| Failure::other(err.to_string()))
    })
}
