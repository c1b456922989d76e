//! How long streams are without an owner after theirs was told to go with
//! SIGTERM: see `failover`, which differs in the signal alone.
//!
//! `cargo bench -p streamlease-benches --bench handoff [-- --smoke] [-- --json FILE]`
//!
//! The Go library has no such thing (its `Done()` deletes what is unfinished),
//! so what stands beside it is `failover`.
fn main() -> std::io::Result<()> {
    streamlease_benches::takeover::bench("handoff", streamlease_tests::Signal::TERM)
}
