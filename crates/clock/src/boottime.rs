//! `CLOCK_BOOTTIME`, and its distance from `CLOCK_MONOTONIC`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

struct Origin {
    boottime: Duration,
    /// Never less than how far the two clocks were apart at the origin.
    apart: Duration,
}

static ORIGIN: OnceLock<Origin> = OnceLock::new();
/// The most that was ever seen, in nanoseconds, so that readers never see less.
static SUSPENDED: AtomicU64 = AtomicU64::new(0);

pub(crate) fn start() {
    origin();
}

pub(crate) fn elapsed() -> Duration {
    let origin = origin().boottime;
    read(ClockId::Boottime).saturating_sub(origin)
}

pub(crate) fn suspended() -> Duration {
    let apart = origin().apart;
    // The clocks cannot be read at the same time. Monotonic last, and at the
    // origin first: being interrupted in between then shows as less than was
    // suspended, and never as time that later has to be taken back.
    let boottime = read(ClockId::Boottime);
    let monotonic = read(ClockId::Monotonic);
    let now = boottime.saturating_sub(monotonic).saturating_sub(apart);
    let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(SUSPENDED.fetch_max(now, Ordering::Relaxed).max(now))
}

fn origin() -> &'static Origin {
    ORIGIN.get_or_init(|| {
        // The best of a few: an interruption here would hide as much of every
        // later suspension.
        let apart = (0..5)
            .map(|_| {
                let monotonic = read(ClockId::Monotonic);
                read(ClockId::Boottime).saturating_sub(monotonic)
            })
            .min()
            .unwrap_or_default();
        Origin {
            boottime: read(ClockId::Boottime),
            apart,
        }
    })
}

fn read(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    // Both clocks start at or after zero when the machine boots.
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}
