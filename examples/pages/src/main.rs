//! A program of a page, as its name says by which this process is called: `handlers_2` is the
//! second one on `docs/handlers.md` that doctests only compile. Its server is `$REDIS_URL`.
#![allow(
    warnings,
    clippy::all,
    clippy::expect_used,
    reason = "as the pages have it"
)]

use std::env;
use std::process::ExitCode;

include!(concat!(env!("OUT_DIR"), "/programs.rs"));

fn url() -> String {
    env::var("REDIS_URL").expect("the server")
}

fn main() -> ExitCode {
    start(&env::args().next().expect("a name"))
}
