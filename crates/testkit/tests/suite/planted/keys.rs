//! A `KeyLock` with bugs, and the `LockManager` that is made of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_lite::future;
use streamlease_core::{
    Error, ErrorKind, HeldKey, KeyAcquired, KeyHolder, KeyLock, KeyLockManager, LockManager,
    Result, Runtime, ServiceName, Timestamp,
};
use streamlease_testkit::conformance;
use streamlease_testkit::simulation::SimRuntime;

use super::{assert_right, planted, table};

planted! { Bug:
    Safety RepeatKeepsDeadline = "an acquire that is repeated does not set the TTL anew",
    Safety RepeatSetsHalf = "an acquire that is repeated sets half the TTL",
    Delay RepeatAdds = "an acquire that is repeated adds its TTL to what was left",
    Delay RepeatMintsAnew = "an acquire that is repeated gets another number",
    Delay RepeatIsHeld = "an acquire that is repeated is refused",
    Safety NumbersBeginAgain = "the number is counted in the key's row, which a release deletes",
    Safety NumbersBeginAgainOnExpiry = "the same, with rows that only expiry deletes",
    Safety NumbersStandStill = "a number is given twice",
    Safety NumbersFall = "numbers count down",
    Safety FloorIgnored = "the floor counts for nothing",
    Safety FloorReached = "a number may be as great as the floor",
    Safety FloorForgotten = "a number is greater than the floor; the next one counts on from before",
    Safety NumbersAreDoubles = "numbers are floating-point numbers",
    Safety RenewIgnoresNumber = "a renewal extends whatever number the key has",
    Safety RenewTakesLower = "a renewal extends keys with a lower number",
    Safety RenewCreates = "a renewal makes the key if it is not there",
    Safety RenewRevives = "a renewal extends a key whose time is over",
    Safety RenewSaysYes = "a renewal says of every key that it is there",
    Safety RenewDoesNothing = "a renewal says yes and extends nothing",
    Safety RenewSetsHalf = "a renewal sets half the TTL",
    Delay RenewAdds = "a renewal adds its TTL to what was left",
    Safety RenewForgetsNumber = "a renewal resets the number",
    Delay RenewSaysNo = "a renewal says of every key that it is lost",
    Safety RenewalsAreOfOneNumber = "a page of renewals goes by the number of its first key",
    Safety RenewalsStop = "a page of renewals ends at the first key that is lost",
    Safety RenewalsAreReversed = "the answers to a page of renewals come in the other order",
    Safety RenewalsSayYesToAll = "a page of renewals says yes to all if it does to one",
    Delay RenewalsFailTogether = "a page of renewals is an error if one of its keys is lost",
    Safety RenewalsForgetTheLast = "a page of renewals says yes to its last key and leaves it",
    Safety ReleaseIgnoresNumber = "a release deletes whatever number the key has",
    Safety ReleaseTakesLower = "a release with a greater number deletes the key, too",
    Safety ReleaseTakesGreater = "a release with a lower number deletes the key, too",
    Delay ReleaseDoesNothing = "a release says yes and deletes nothing",
    Delay ReleaseSaysNo = "a release deletes and says that there was nothing",
    Safety AcquireTakesHeld = "an acquire takes a key that is held",
    Safety AcquireIsTwoSteps = "an acquire looks in one step and writes in another",
    Safety AcquireGoesByConsumer = "an acquire of the same consumer counts as its repeat",
    Safety AcquireGoesBySession = "an acquire of the same session counts as its repeat, whatever the entry",
    Delay AcquireExtendsHeld = "an acquire that is refused extends the key",
    Delay AcquireIgnoresExpiry = "a key whose time is over is held until it is released",
    Delay AcquireOfHeldFails = "an acquire that is refused is an error",
    Safety TtlIsRoundedDown = "TTLs are whole seconds, rounded down",
    Allowed("the owner believes for less than its lock lasts; a take-over waits a moment longer")
        TtlIsRoundedUpALittle = "TTLs are multiples of 50 ms, rounded up",
    Delay TtlIsRoundedUp = "TTLs are whole seconds, rounded up",
    Safety TtlIsOneForAll = "every key gets the TTL of the first call",
    Safety TtlIsAtMostAMinute = "a TTL of over a minute is cut",
    Safety KeysAreCutAt64 = "keys are cut at 64 bytes",
    Safety KeysAreCutAt255 = "keys are cut at 255 bytes",
    Safety KeysAreCutAt1024 = "keys are cut at 1024 bytes",
    Safety KeysAreCutAt4096 = "keys are cut at 4096 bytes, the service's name and all",
    Safety KeysLoseTheirStart = "of a long key the last 255 bytes count",
    Safety KeysEndAtNul = "keys end at the first NUL",
    Safety KeysAreTrimmed = "white space at the end of a key does not count",
    Safety KeysAreTrimmedInFront = "white space at the start of a name does not count",
    Safety KeysFoldCase = "keys are compared without regard to case",
    Safety LongKeysFoldCase = "keys of over 200 bytes are hashed in lower case",
    Safety KeysFoldAccents = "é is e",
    Safety KeysAreAscii = "what is not ASCII is a question mark",
    Delay LongKeysFail = "keys of over 2000 bytes are an error",
    Delay InspectShowsTheDead = "a look shows keys whose time is over",
    Delay InspectSeesNobody = "a look sees every key free",
    Delay InspectExtends = "a look extends",
    Delay InspectKnowsNoTime = "a look says that no time is left",
    Delay HeldForNoTime = "who is refused is told that no time is left",
    Delay HeldByNobody = "who is refused is not told the value",
}

#[derive(Debug)]
struct Table {
    bug: Option<Bug>,
    clock: Arc<dyn Runtime>,
    rows: Mutex<Rows>,
}

#[derive(Debug, Default)]
struct Rows {
    last: u64,
    /// With the numbers that stand in rows.
    last_of: BTreeMap<String, u64>,
    first_ttl: Option<Duration>,
    rows: BTreeMap<String, Row>,
}

#[derive(Debug, Clone)]
struct Row {
    value: String,
    number: u64,
    deadline: Timestamp,
}

impl Table {
    fn is(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the key is to this store.
    fn key(&self, key: &str) -> Result<String> {
        let cut = |at: usize| {
            let mut end = key.len().min(at);
            while !key.is_char_boundary(end) {
                end -= 1;
            }
            key[..end].to_owned()
        };
        Ok(match self.bug {
            Some(Bug::KeysAreCutAt64) => cut(64),
            Some(Bug::KeysAreCutAt255) => cut(255),
            Some(Bug::KeysAreCutAt1024) => cut(1_024),
            Some(Bug::KeysAreCutAt4096) => cut(4_096),
            Some(Bug::KeysLoseTheirStart) => {
                let mut start = key.len().saturating_sub(255);
                while !key.is_char_boundary(start) {
                    start += 1;
                }
                key[start..].to_owned()
            }
            Some(Bug::KeysEndAtNul) => key.split('\0').next().unwrap_or_default().to_owned(),
            Some(Bug::KeysAreTrimmed) => key.trim_end().to_owned(),
            Some(Bug::KeysAreTrimmedInFront) => key.replace("/ ", "/"),
            Some(Bug::KeysFoldCase) => key.to_lowercase(),
            Some(Bug::LongKeysFoldCase) if key.len() > 200 => key.to_lowercase(),
            Some(Bug::KeysFoldAccents) => key.replace('é', "e"),
            Some(Bug::KeysAreAscii) => key.replace(|c: char| !c.is_ascii(), "?"),
            Some(Bug::LongKeysFail) if key.len() > 2_000 => {
                return Err(Error::new(ErrorKind::Protocol, "the key is too long"));
            }
            _ => key.to_owned(),
        })
    }

    fn ttl(&self, rows: &mut Rows, ttl: Duration) -> Duration {
        let first = *rows.first_ttl.get_or_insert(ttl);
        match self.bug {
            Some(Bug::TtlIsRoundedDown) => Duration::from_secs(ttl.as_secs()),
            Some(Bug::TtlIsRoundedUp) => {
                Duration::from_secs(ttl.as_millis().div_ceil(1_000) as u64)
            }
            Some(Bug::TtlIsRoundedUpALittle) => {
                Duration::from_millis(ttl.as_millis().div_ceil(50) as u64 * 50)
            }
            Some(Bug::TtlIsOneForAll) => first,
            Some(Bug::TtlIsAtMostAMinute) => ttl.min(Duration::from_secs(60)),
            _ => ttl,
        }
    }

    fn drop_expired(&self, rows: &mut Rows, key: &str) {
        let is_over = |row: &Row| row.deadline <= self.clock.now();
        if rows.rows.get(key).is_some_and(is_over) {
            rows.rows.remove(key);
            if self.is(Bug::NumbersBeginAgainOnExpiry) {
                rows.last_of.remove(key);
            }
        }
    }

    fn mint(&self, rows: &mut Rows, key: &str, floor: u64) -> u64 {
        let floor = match self.bug {
            Some(Bug::FloorIgnored) => 0,
            Some(Bug::FloorReached) => floor.saturating_sub(1),
            _ => floor,
        };
        let last = match self.bug {
            Some(Bug::NumbersBeginAgain | Bug::NumbersBeginAgainOnExpiry) => {
                rows.last_of.entry(key.to_owned()).or_default()
            }
            _ => &mut rows.last,
        };
        match self.bug {
            Some(Bug::NumbersStandStill) => {
                *last = (*last).max(1).max(floor + 1);
                return *last;
            }
            Some(Bug::NumbersFall) => {
                *last += 1;
                return (1_u64 << 40).max(floor + 100_000) - *last;
            }
            Some(Bug::FloorForgotten) => {
                *last += 1;
                return (*last).max(floor + 1);
            }
            _ => {}
        }
        *last = (*last).max(floor) + 1;
        if self.is(Bug::NumbersAreDoubles) {
            *last = *last as f64 as u64;
        }
        *last
    }

    fn holder(&self, row: &Row) -> KeyHolder {
        KeyHolder {
            value: row.value.clone(),
            number: row.number,
            remaining: row.deadline.saturating_since(self.clock.now()),
        }
    }

    fn is_repeat(&self, had: &str, value: &str) -> bool {
        let part = |value: &str, parts: usize| {
            let first = value.rsplitn(parts, '/').last();
            first.map(ToOwned::to_owned)
        };
        match self.bug {
            // `<consumer>/<nonce>/<attempt>/<entry>`
            Some(Bug::AcquireGoesByConsumer) => part(had, 4) == part(value, 4),
            Some(Bug::AcquireGoesBySession) => part(had, 3) == part(value, 3),
            _ => had == value,
        }
    }
}

#[async_trait]
impl KeyLock for Table {
    async fn acquire(
        &self,
        key: &str,
        value: &str,
        ttl: Duration,
        floor: u64,
    ) -> Result<KeyAcquired> {
        let key = self.key(key)?;
        if self.is(Bug::AcquireIsTwoSteps) {
            let seen = {
                let mut rows = self.rows();
                self.drop_expired(&mut rows, &key);
                rows.rows.get(&key).cloned()
            };
            future::yield_now().await;
            match seen {
                Some(row) if row.value != value => {
                    return Ok(KeyAcquired::Held(self.holder(&row)));
                }
                Some(_) => {}
                None => drop(self.rows().rows.remove(&key)),
            }
        }
        let mut rows = self.rows();
        let ttl = self.ttl(&mut rows, ttl);
        let now = self.clock.now();
        if !self.is(Bug::AcquireIgnoresExpiry) {
            self.drop_expired(&mut rows, &key);
        }
        if self.is(Bug::AcquireTakesHeld) && rows.rows.get(&key).is_some_and(|r| r.value != value) {
            rows.rows.remove(&key);
        }
        if let Some(mut row) = rows.rows.get(&key).cloned() {
            if self.is_repeat(&row.value, value) && !self.is(Bug::RepeatIsHeld) {
                match self.bug {
                    Some(Bug::RepeatKeepsDeadline) => {}
                    Some(Bug::RepeatSetsHalf) => row.deadline = now + ttl / 2,
                    Some(Bug::RepeatAdds) => row.deadline = row.deadline + ttl,
                    Some(Bug::RepeatMintsAnew) => row.number = self.mint(&mut rows, &key, floor),
                    _ => row.deadline = now + ttl,
                }
                let number = row.number;
                rows.rows.insert(key, row);
                return Ok(KeyAcquired::Acquired(number));
            }
            if self.is(Bug::AcquireExtendsHeld) {
                row.deadline = now + ttl;
                rows.rows.insert(key, row.clone());
            }
            let mut holder = self.holder(&row);
            match self.bug {
                Some(Bug::AcquireOfHeldFails) => {
                    return Err(Error::new(ErrorKind::Protocol, "duplicate key"));
                }
                Some(Bug::HeldForNoTime) => holder.remaining = Duration::ZERO,
                Some(Bug::HeldByNobody) => holder.value.clear(),
                _ => {}
            }
            return Ok(KeyAcquired::Held(holder));
        }
        let number = self.mint(&mut rows, &key, floor);
        let row = Row {
            value: value.to_owned(),
            number,
            deadline: now + ttl,
        };
        rows.rows.insert(key, row);
        Ok(KeyAcquired::Acquired(number))
    }

    async fn renew(&self, key: &str, number: u64, ttl: Duration) -> Result<bool> {
        let key = self.key(key)?;
        let mut rows = self.rows();
        let ttl = self.ttl(&mut rows, ttl);
        let now = self.clock.now();
        if !self.is(Bug::RenewRevives) {
            self.drop_expired(&mut rows, &key);
        }
        if self.is(Bug::RenewCreates) && !rows.rows.contains_key(&key) {
            let row = Row {
                value: "?".into(),
                number,
                deadline: now + ttl,
            };
            rows.rows.insert(key.clone(), row);
        }
        let fits = |had: u64| match self.bug {
            Some(Bug::RenewIgnoresNumber) => true,
            Some(Bug::RenewTakesLower) => had <= number,
            _ => had == number,
        };
        let row = rows.rows.get_mut(&key).filter(|row| fits(row.number));
        let held = row.is_some();
        if let Some(row) = row {
            match self.bug {
                Some(Bug::RenewDoesNothing) => {}
                Some(Bug::RenewSetsHalf) => row.deadline = now + ttl / 2,
                Some(Bug::RenewAdds) => row.deadline = row.deadline + ttl,
                _ => row.deadline = now + ttl,
            }
            if self.is(Bug::RenewForgetsNumber) {
                row.number = 0;
            }
        }
        Ok(match self.bug {
            Some(Bug::RenewSaysYes) => true,
            Some(Bug::RenewSaysNo) => false,
            _ => held,
        })
    }

    async fn renew_many(&self, keys: &[HeldKey], ttl: Duration) -> Result<Vec<bool>> {
        let mut answers = Vec::new();
        for (nth, held) in keys.iter().enumerate() {
            let number = match self.bug {
                Some(Bug::RenewalsAreOfOneNumber) => keys[0].number,
                _ => held.number,
            };
            if self.is(Bug::RenewalsForgetTheLast) && nth + 1 == keys.len() {
                answers.push(true);
                break;
            }
            let renewed = self.renew(&held.key, number, ttl).await?;
            if !renewed && self.is(Bug::RenewalsFailTogether) {
                return Err(Error::new(ErrorKind::Protocol, "one is lost"));
            }
            answers.push(renewed);
            if !renewed && self.is(Bug::RenewalsStop) {
                answers.resize(keys.len(), true);
                break;
            }
        }
        match self.bug {
            Some(Bug::RenewalsAreReversed) => answers.reverse(),
            Some(Bug::RenewalsSayYesToAll) if answers.contains(&true) => answers.fill(true),
            _ => {}
        }
        Ok(answers)
    }

    async fn release(&self, key: &str, number: u64) -> Result<bool> {
        let key = self.key(key)?;
        let mut rows = self.rows();
        self.drop_expired(&mut rows, &key);
        let fits = |had: u64| match self.bug {
            Some(Bug::ReleaseIgnoresNumber) => true,
            Some(Bug::ReleaseTakesLower) => had <= number,
            Some(Bug::ReleaseTakesGreater) => had >= number,
            _ => had == number,
        };
        let held = rows.rows.get(&key).is_some_and(|row| fits(row.number));
        if held && !self.is(Bug::ReleaseDoesNothing) {
            rows.rows.remove(&key);
            if self.is(Bug::NumbersBeginAgain) {
                rows.last_of.remove(&key);
            }
        }
        Ok(held && !self.is(Bug::ReleaseSaysNo))
    }

    async fn inspect(&self, key: &str) -> Result<Option<KeyHolder>> {
        let key = self.key(key)?;
        let mut rows = self.rows();
        if !self.is(Bug::InspectShowsTheDead) && !self.is(Bug::RenewRevives) {
            self.drop_expired(&mut rows, &key);
        }
        let now = self.clock.now();
        if let Some(row) = rows
            .rows
            .get_mut(&key)
            .filter(|_| self.is(Bug::InspectExtends))
        {
            row.deadline = now + Duration::from_secs(600);
        }
        let revives = self.is(Bug::RenewRevives);
        let row = rows
            .rows
            .get(&key)
            .filter(|row| !revives || row.deadline > now);
        let mut holder = row.map(|row| self.holder(row));
        match self.bug {
            Some(Bug::InspectSeesNobody) => holder = None,
            Some(Bug::InspectKnowsNoTime) => {
                holder = holder.map(|holder| KeyHolder {
                    remaining: Duration::ZERO,
                    ..holder
                });
            }
            _ => {}
        }
        Ok(holder)
    }
}

fn locks(sim: &SimRuntime, bug: Option<Bug>) -> Arc<dyn LockManager> {
    let table = Table {
        bug,
        clock: Arc::new(sim.clone()),
        rows: Mutex::default(),
    };
    let service = ServiceName::new("orders").expect("a valid name");
    Arc::new(KeyLockManager::new(&service, Arc::new(table)))
}

#[test]
fn what_is_wrong_with_plain_keys_is_found() {
    let behaviours = conformance::lock_manager::behaviours();
    assert_right(&table("KeyLock", &behaviours, locks, Bug::ALL));
}
