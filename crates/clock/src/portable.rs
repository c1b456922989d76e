//! `std::time::Instant`, plus every step by which the wall clock ran ahead of it.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::divergence::Divergence;

static ORIGIN: OnceLock<Origin> = OnceLock::new();

struct Origin {
    monotonic: Instant,
    seen: Mutex<Divergence>,
}

pub(crate) fn start() {
    origin();
}

pub(crate) fn elapsed() -> Duration {
    let (monotonic, suspended) = observe();
    monotonic.saturating_add(suspended)
}

pub(crate) fn suspended() -> Duration {
    observe().1
}

fn observe() -> (Duration, Duration) {
    let origin = origin();
    let mut seen = origin.seen.lock().unwrap_or_else(PoisonError::into_inner);
    let (monotonic, wall) = (origin.monotonic.elapsed(), wall());
    (monotonic, seen.observe(monotonic, wall))
}

fn origin() -> &'static Origin {
    ORIGIN.get_or_init(|| {
        let monotonic = Instant::now();
        Origin {
            monotonic,
            seen: Mutex::new(Divergence::new(Duration::ZERO, wall())),
        }
    })
}

fn wall() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}
