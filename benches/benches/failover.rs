//! How long streams are without an owner after theirs was killed with SIGKILL:
//! from the signal to `StreamAdded` at a survivor.
//!
//! `cargo bench -p streamlease-benches --bench failover [-- --smoke] [-- --json FILE]`
//!
//! The victim is this program once more, as a process of its own; the survivors
//! are clients in this one. Beside it, from the same run: the algorithm of the
//! Go library ([`wire`](streamlease_benches::wire)), which hears of a dead owner
//! from expiry events alone; what it has not found after 60 s counts as never.
fn main() -> std::io::Result<()> {
    streamlease_benches::takeover::bench("failover", streamlease_tests::Signal::KILL)
}
