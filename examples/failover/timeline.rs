//! Prints who did what, and when.

use std::fmt::Display;
use std::sync::Arc;

use streamlease::{Runtime, Timestamp};

#[derive(Debug, Clone)]
pub(crate) struct Timeline {
    runtime: Arc<dyn Runtime>,
    start: Timestamp,
}

impl Timeline {
    pub(crate) fn new(runtime: Arc<dyn Runtime>) -> Self {
        let start = runtime.now();
        Self { runtime, start }
    }

    /// Something that `who` did.
    pub(crate) fn say(&self, who: &str, what: impl Display) {
        let time = self.runtime.now().saturating_since(self.start);
        println!("{:6.2} s  {who:<8}  {what}", time.as_secs_f64());
    }

    /// Something that was done to somebody.
    pub(crate) fn stage(&self, what: impl Display) {
        self.say("", format_args!("*** {what} ***"));
    }
}
