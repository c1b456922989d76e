//! Waiting for a condition, with a bound, under any executor or none.

use std::time::{Duration, Instant};

use async_io::Timer;
use futures_lite::future;

/// Between two looks. A poll, not a synchronisation: what is waited for is the condition.
const STEP: Duration = Duration::from_millis(5);

/// Waits until `condition` is true; panics with `what` if it is not `within` that time.
///
/// The bound also holds if `condition` itself hangs.
pub async fn eventually(what: &str, within: Duration, mut condition: impl AsyncFnMut() -> bool) {
    wait_for(what, within, async || condition().await.then_some(())).await;
}

/// Waits until `probe` has found something, and returns it; panics with `what`
/// if that is not `within` that time.
pub async fn wait_for<T>(
    what: &str,
    within: Duration,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let look = async {
        loop {
            if let Some(found) = probe().await {
                return Some(found);
            }
            Timer::after(STEP).await;
        }
    };
    let give_up = async {
        Timer::after(within).await;
        None
    };
    future::or(look, give_up)
        .await
        .unwrap_or_else(|| panic!("not within {within:?}: {what}"))
}

/// [`eventually`] for plain tests.
#[track_caller]
pub fn eventually_blocking(what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
    wait_for_blocking(what, within, || condition().then_some(()));
}

/// [`wait_for`] for plain tests.
#[track_caller]
pub fn wait_for_blocking<T>(
    what: &str,
    within: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        std::thread::sleep(STEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_the_condition_and_no_longer() {
        let mut looks = 0;
        future::block_on(eventually(
            "three looks",
            Duration::from_secs(10),
            async || {
                looks += 1;
                looks == 3
            },
        ));
        assert_eq!(looks, 3);
    }

    #[test]
    #[should_panic(expected = "not within 50ms: a hanging probe")]
    fn the_bound_holds_even_if_the_probe_hangs() {
        future::block_on(eventually(
            "a hanging probe",
            Duration::from_millis(50),
            async || future::pending().await,
        ));
    }
}
