//! What is particular to tokio: where the runtime comes from, and paused clocks.

use std::time::Duration;

use streamlease_core::{ErrorKind, Runtime};
use streamlease_runtime_tokio::TokioRuntime;

const HOUR: Duration = Duration::from_secs(3_600);

#[test]
fn outside_of_tokio_there_is_an_error_that_says_what_to_do() {
    let err = TokioRuntime::try_current().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Environment);
    assert!(err.to_string().contains("from_handle"), "{err}");
}

#[tokio::test(start_paused = true)]
async fn a_paused_clock_stands_still_and_can_be_advanced() {
    let runtime = TokioRuntime::try_current().unwrap();
    let start = runtime.now();
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(runtime.now(), start, "paused time went on");

    tokio::time::advance(HOUR).await;
    assert_eq!(runtime.now(), start + HOUR);
    // From a thread without a runtime as well: leases are asked anywhere.
    let elsewhere = runtime.clone();
    let now = std::thread::spawn(move || elsewhere.now()).join().unwrap();
    assert_eq!(now, start + HOUR);

    runtime.sleep_until(start + HOUR * 24).await;
    assert_eq!(runtime.now(), start + HOUR * 24);
}

#[tokio::test]
async fn two_handles_of_one_process_share_the_origin() {
    let first = TokioRuntime::new();
    let before = first.now();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let now = TokioRuntime::new().now();
    assert!(
        now >= before + Duration::from_millis(10),
        "{before:?}, then {now:?}"
    );
    assert!(now < before + HOUR);
}
