//! Suites that check the contracts of streamlease's traits, one named
//! behaviour at a time.
//!
//! | Trait | Suite | Macro |
//! |---|---|---|
//! | [`Transport`](streamlease_core::Transport) | [`transport`] | [`transport_conformance!`](crate::transport_conformance) |
//! | [`LockManager`](streamlease_core::LockManager) | [`lock_manager`] | [`lock_manager_conformance!`](crate::lock_manager_conformance) |
//! | [`Notifier`](streamlease_core::Notifier) | [`notifier`] | [`notifier_conformance!`](crate::notifier_conformance) |
//! | [`Runtime`] | [`runtime`] | [`runtime_conformance!`](crate::runtime_conformance) |
//!
//! Each macro takes the name of a function of yours and makes one `#[test]`
//! per behaviour that calls it, so that a failure has the behaviour's name:
//!
//! ```
//! # mod doctest {
//! use std::sync::Arc;
//! use streamlease_testkit::conformance::Behaviour;
//! use streamlease_testkit::simulation::SimRuntime;
//!
//! fn check(behaviour: Behaviour<()>) {
//!     let sim = SimRuntime::new(1);
//!     sim.block_on(behaviour.run(Arc::new(sim.clone()), ()));
//! }
//!
//! streamlease_testkit::runtime_conformance!(check);
//! # }
//! ```
//!
//! Your function makes a **fresh service** for each behaviour (nothing that an
//! earlier one left may be in it), runs the behaviour on a runtime, and cleans
//! up. Each suite also has a `run_all`, for those who want one test.
//!
//! The suites run on virtual time and on real servers: they take time from the
//! runtime only, wait for conditions with a bound, and let a deadline pass only
//! where its passing is what they check. On a real server a suite takes a few
//! tens of seconds if its behaviours run one after the other.

mod support;

pub mod lock_manager;
pub mod notifier;
pub mod runtime;
pub mod transport;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use streamlease_core::{BoxFuture, Runtime};

/// One behaviour that a contract promises, to be run on a fresh service `S`.
pub struct Behaviour<S> {
    name: &'static str,
    run: fn(Arc<dyn Runtime>, S) -> BoxFuture<'static, ()>,
    skipped: fn(&S) -> Option<&'static str>,
}

impl<S> Behaviour<S> {
    /// Longest time one behaviour may take.
    pub const BOUND: Duration = Duration::from_secs(120);

    #[doc(hidden)]
    pub const fn new(
        name: &'static str,
        run: fn(Arc<dyn Runtime>, S) -> BoxFuture<'static, ()>,
    ) -> Self {
        let skipped = |_: &S| None;
        Self { name, run, skipped }
    }

    #[doc(hidden)]
    #[must_use]
    pub const fn unless(mut self, skipped: fn(&S) -> Option<&'static str>) -> Self {
        self.skipped = skipped;
        self
    }

    /// Its name, as its function and its test have it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Why it says nothing about this service, if so: what it checks is not there. `run`
    /// prints that and returns.
    pub fn skipped(&self, service: &S) -> Option<&'static str> {
        (self.skipped)(service)
    }

    /// Checks it, unless it is [skipped](Self::skipped).
    ///
    /// # Panics
    /// When the service does not behave so, or takes over [`BOUND`](Self::BOUND).
    pub async fn run(&self, runtime: Arc<dyn Runtime>, service: S) {
        if let Some(why) = self.skipped(&service) {
            println!("skipped: {why} ({})", self.name);
            return;
        }
        let check = (self.run)(runtime.clone(), service);
        support::within(&*runtime, self.name, Self::BOUND, check).await;
    }
}

impl<S> Clone for Behaviour<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Behaviour<S> {}

impl<S> fmt::Debug for Behaviour<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Behaviour").field(&self.name).finish()
    }
}

/// Lists the behaviours of a file, each an `async fn(Arc<dyn Runtime>, Service)` in it. Where
/// one does not concern every service, `if` names a function that says of which it is skipped.
/// Makes `BEHAVIOURS`, and a macro with a test for each, which the suite's macro is made
/// of. The first token must be a dollar sign, for the macro that this macro makes.
macro_rules! behaviours {
    ($d:tt $tests:ident!, $module:ident: $service:ty, [$($name:ident $(if $has:ident)?,)*]) => {
        pub(crate) const BEHAVIOURS: &[$crate::conformance::Behaviour<$service>] = &[
            $($crate::conformance::Behaviour::new(
                stringify!($name),
                |runtime, service| ::std::boxed::Box::pin($name(runtime, service)),
            )$(.unless(super::$has))?,)*
        ];

        #[doc(hidden)]
        #[macro_export]
        macro_rules! $tests {
            ($d run:path) => {
                $(
                    #[test]
                    fn $name() {
                        $d run($crate::conformance::Behaviour::new(
                            stringify!($name),
                            |runtime, service| ::std::boxed::Box::pin(
                                $crate::conformance::$module::$name(runtime, service),
                            ),
                        )$(.unless($crate::conformance::$module::$has))?);
                    }
                )*
            };
        }
    };
}

/// Makes of the files that have behaviours what every suite has: `behaviours`, `run_all`,
/// and the macro with a test for each.
macro_rules! suite {
    ($d:tt $suite:ident!, $module:ident: $service:ty, [$($part:ident: $tests:ident!),* $(,)?]) => {
        /// Every behaviour of the suite.
        pub fn behaviours() -> ::std::vec::Vec<$crate::conformance::Behaviour<$service>> {
            [$($part::BEHAVIOURS),*].concat()
        }

        /// Checks every behaviour, one after the other, each on a fresh service.
        /// Prints the name of each, so that the last one is the one that failed.
        ///
        /// # Panics
        /// At the first behaviour that is not as it should be.
        pub async fn run_all<F, Fut>(runtime: ::std::sync::Arc<dyn ::streamlease_core::Runtime>, fresh: F)
        where
            F: Fn() -> Fut,
            Fut: ::std::future::Future<Output = $service>,
        {
            for behaviour in behaviours() {
                println!("conformance: {}::{}", stringify!($module), behaviour.name());
                behaviour.run(runtime.clone(), fresh().await).await;
            }
        }

        #[doc = concat!("One `#[test]` per behaviour of the suite [`conformance::", stringify!($module),
            "`](crate::conformance::", stringify!($module), ").")]
        ///
        /// Takes the path of a function that gets a
        /// [`Behaviour`](crate::conformance::Behaviour) and runs it; see
        /// [`conformance`](crate::conformance).
        #[macro_export]
        macro_rules! $suite {
            ($d run:path) => {
                $($crate::$tests!($d run);)*
            };
        }
    };
}

use {behaviours, suite};
