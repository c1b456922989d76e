//! The thread that starts programs.
//!
//! A start waits until there is something to execute, and may hang: on a file system that
//! does not answer. A thread of the executor that waited for it could not renew, and could
//! not end the other programs before their leases do.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use async_channel::Receiver;

use crate::Failure;

/// Runs one start after the other. More at once would be no faster, and each would be a
/// process more where their number is limited.
#[derive(Debug, Clone)]
pub(super) struct Starter(Sender<Start>);

type Start = Box<dyn FnOnce() + Send>;

impl Starter {
    pub(super) fn new() -> Result<Self, Failure> {
        let (starts, to_do) = channel::<Start>();
        thread::Builder::new()
            .name("starter".into())
            .spawn(move || {
                for start in to_do {
                    // It is told of as a start without a result.
                    let _ = panic::catch_unwind(AssertUnwindSafe(start));
                }
            })
            .map_err(|err| Failure::other(format!("cannot start a thread: {err}")))?;
        Ok(Self(starts))
    }

    /// Has `start` run when its turn comes.
    pub(super) fn begin<T: Send + 'static>(
        &self,
        start: impl FnOnce() -> T + Send + 'static,
    ) -> Begun<T> {
        let (tell, told) = async_channel::bounded(1);
        let taken = Arc::new(AtomicBool::new(false));
        let is_taken = taken.clone();
        // Where that fails nobody will ever tell.
        let _ = self.0.send(Box::new(move || {
            if !is_taken.swap(true, Ordering::AcqRel) && !tell.is_closed() {
                let _ = tell.try_send(start());
            }
        }));
        Begun { taken, told }
    }
}

/// A start that waits for its turn, or is under way. Dropped, it is not run any more, or
/// what it returns is dropped.
#[derive(Debug)]
pub(super) struct Begun<T> {
    /// By the thread, which runs it, or by who does not want it any more.
    taken: Arc<AtomicBool>,
    told: Receiver<T>,
}

impl<T> Begun<T> {
    /// What came of it; `None` if it panicked.
    pub(super) async fn result(&self) -> Option<T> {
        self.told.recv().await.ok()
    }

    /// Whether it had not been begun, and will not be.
    pub(super) fn withdraw(&self) -> bool {
        !self.taken.swap(true, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    /// As a program that is killed when it is dropped.
    struct Started(Arc<AtomicBool>);

    impl Drop for Started {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }

    #[test]
    fn a_start_that_hangs_holds_no_executor_and_what_comes_of_it_too_late_is_dropped() {
        let starter = Starter::new().unwrap();
        let is_dropped = Arc::new(AtomicBool::new(false));
        let (go_on, told) = mpsc::channel::<()>();
        let started = Started(is_dropped.clone());
        let (enter, entered) = mpsc::channel::<()>();
        let hangs = starter.begin(move || {
            enter.send(()).unwrap();
            let _ = told.recv();
            started
        });
        entered.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(block_on(poll_once(hangs.result())).is_none());
        assert!(!hangs.withdraw(), "it is under way");
        let withdrawn = starter.begin(|| panic!("nobody wants this any more"));
        assert!(withdrawn.withdraw());
        // Its lease is lost, say.
        drop(hangs);
        assert!(!is_dropped.load(Ordering::Acquire));
        drop(go_on);
        // They go one after the other.
        assert_eq!(block_on(starter.begin(|| 7).result()), Some(7));
        let give_up_at = Instant::now() + Duration::from_secs(20);
        while !is_dropped.load(Ordering::Acquire) {
            assert!(Instant::now() < give_up_at, "it lives on");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_start_that_panics_is_one_that_failed() {
        let starter = Starter::new().unwrap();
        let panics = starter.begin(|| -> u8 { panic!("on purpose") });
        assert_eq!(block_on(panics.result()), None);
        assert_eq!(block_on(starter.begin(|| 7).result()), Some(7));
    }
}
