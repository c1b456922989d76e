//! The machine against made-up replies: each test is one interleaving.

mod control;
mod failure_reset;
mod fetching;
mod fresh;
mod harness;
mod ids;
mod late;
mod leasing;
mod manual;
mod orphans;
mod pause;
mod progress_timeout;
mod rank;
mod refusals;
mod session;
mod stranded;
