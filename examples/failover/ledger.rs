//! A fenced store: what the workers write to.
//!
//! No lock can stop an owner that was frozen in the middle of a write. The store
//! can: it remembers the greatest fencing token it has seen for a stream and
//! refuses lower ones. In SQL that is one more condition in the `UPDATE`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use streamlease::{FencingToken, StreamName};

/// So many parts has a call.
pub(crate) const PARTS: usize = 12;

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    accounts: Mutex<BTreeMap<StreamName, Account>>,
}

#[derive(Debug, Default)]
struct Account {
    greatest: FencingToken,
    /// Each part with the token it was written with.
    parts: Vec<(usize, FencingToken)>,
}

/// A later owner has been here.
#[derive(Debug)]
pub(crate) struct Refused;

impl Ledger {
    /// Shuts earlier owners out, and tells how many parts are there already.
    pub(crate) fn open(&self, call: &StreamName, token: FencingToken) -> Result<usize, Refused> {
        Ok(self.fenced(&mut self.lock(), call, token)?.parts.len())
    }

    pub(crate) fn write(
        &self,
        call: &StreamName,
        token: FencingToken,
        part: usize,
    ) -> Result<(), Refused> {
        let mut accounts = self.lock();
        self.fenced(&mut accounts, call, token)?
            .parts
            .push((part, token));
        Ok(())
    }

    /// Whether each part was written once, in order, and by owners one after the other.
    pub(crate) fn is_in_order(&self, call: &str) -> bool {
        let accounts = self.lock();
        let Some((_, account)) = accounts.iter().find(|(name, _)| name.as_str() == call) else {
            return false;
        };
        let numbers = account.parts.iter().map(|(part, _)| *part);
        numbers.eq(0..PARTS) && account.parts.is_sorted_by_key(|(_, token)| *token)
    }

    fn fenced<'a>(
        &self,
        accounts: &'a mut BTreeMap<StreamName, Account>,
        call: &StreamName,
        token: FencingToken,
    ) -> Result<&'a mut Account, Refused> {
        let account = accounts.entry(call.clone()).or_default();
        if token < account.greatest {
            return Err(Refused);
        }
        account.greatest = token;
        Ok(account)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<StreamName, Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
