//! The machine against made-up replies: each test is one interleaving.

mod rig;
mod session;
