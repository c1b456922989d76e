//! Running the command on the runtime that the user chose.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use streamlease::spi::BoxFuture;
use streamlease::{AsyncStdRuntime, Runtime, SmolRuntime, Timestamp, TokioRuntime};

use crate::Failure;
use crate::args::RuntimeKind;

/// Whichever runtime it is.
#[derive(Clone)]
pub(crate) struct AnyRuntime(Arc<dyn Runtime>);

/// Runs `main` to its end on a runtime of `kind`.
pub(crate) fn block_on<F>(
    kind: RuntimeKind,
    main: impl FnOnce(AnyRuntime) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    match kind {
        RuntimeKind::Tokio => {
            let tokio = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .map_err(|err| Failure::other(format!("cannot start tokio: {err}")))?;
            let runtime = TokioRuntime::from_handle(tokio.handle().clone());
            let result = tokio.block_on(main(AnyRuntime(Arc::new(runtime))));
            // What still runs is not worth waiting for.
            tokio.shutdown_background();
            result
        }
        RuntimeKind::AsyncStd => {
            async_std::task::block_on(main(AnyRuntime(Arc::new(AsyncStdRuntime::new()))))
        }
        RuntimeKind::Smol => smol::block_on(main(AnyRuntime(Arc::new(SmolRuntime::new())))),
    }
}

impl AnyRuntime {
    /// Resolves after `time`.
    pub(crate) async fn sleep(&self, time: Duration) {
        self.0.sleep_until(self.0.now() + time).await;
    }

    /// Starts a detached task.
    pub(crate) fn start(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(Box::pin(task));
    }
}

impl Runtime for AnyRuntime {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn suspended(&self) -> Duration {
        self.0.suspended()
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        self.0.sleep_until(deadline)
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.0.spawn(task);
    }
}

impl fmt::Debug for AnyRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Told;

    impl Runtime for Told {
        fn now(&self) -> Timestamp {
            Timestamp::from_origin(Duration::from_secs(60))
        }

        fn suspended(&self) -> Duration {
            Duration::from_secs(7)
        }

        fn sleep_until(&self, _: Timestamp) -> BoxFuture<'static, ()> {
            Box::pin(async {})
        }

        fn spawn(&self, _: BoxFuture<'static, ()>) {}
    }

    #[test]
    fn the_chosen_runtime_says_what_it_says() {
        let chosen = AnyRuntime(Arc::new(Told));
        assert_eq!(chosen.now(), Told.now());
        assert_eq!(chosen.suspended(), Told.suspended());
    }
}
