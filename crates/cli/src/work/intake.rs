//! How many streams this command takes: fewer while it could not work on more.

use std::sync::{Mutex, PoisonError};

use streamlease::Client;
use streamlease::spi::counted;

#[derive(Debug)]
pub(crate) struct Intake {
    client: Client,
    limits: Mutex<Limits>,
}

/// Most streams held, by each who has a say.
#[derive(Debug)]
struct Limits {
    user: usize,
    output: usize,
    starts: usize,
}

impl Intake {
    pub(super) fn new(client: Client, capacity: usize) -> Self {
        let limits = Limits {
            user: capacity,
            output: usize::MAX,
            starts: usize::MAX,
        };
        Self {
            client,
            limits: Mutex::new(limits),
        }
    }

    /// Nobody would hear of further streams.
    pub(super) fn cannot_tell(&self) {
        self.change(|limits| limits.output = 0);
    }

    /// Standard output is read again.
    pub(super) fn told(&self) {
        self.change(|limits| limits.output = usize::MAX);
    }

    /// So many programs can be started, as far as is known; `None`: any number.
    pub(crate) fn limit_programs(&self, limit: Option<usize>) {
        self.change(|limits| limits.starts = limit.unwrap_or(usize::MAX));
    }

    fn change(&self, change: impl FnOnce(&mut Limits)) {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut limits);
        let capacity = limits.user.min(limits.output).min(limits.starts);
        // What the user gave was checked, and less of it is fine.
        if let Err(err) = self.client.set_capacity(capacity) {
            log::error!(
                "cannot take {}: {err}",
                counted(capacity, "stream", "streams")
            );
        }
    }
}
