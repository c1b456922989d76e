//! [`PostgresLock`]: keys with a time to live in a table of PostgreSQL.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use streamlease::spi::{HeldKey, KeyAcquired, KeyHolder, KeyLock};
use streamlease::{Error, ErrorKind, Result};
use tokio::sync::Mutex;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row, Statement};

type Param<'a> = &'a (dyn ToSql + Sync);

/// A row stays when its key is released or has expired, so that the next number is greater. The
/// clock of the server keeps numbers growing where a row was removed. The key may be long and have
/// any characters, which no index and no `text` takes: so `bytea`, found by its hash. Not
/// `UNLOGGED`: a server that crashes would forget who holds what.
const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS streamlease_locks (
        id bytea PRIMARY KEY,
        key bytea NOT NULL,
        value text NOT NULL,
        number bigint NOT NULL,
        expires timestamptz NOT NULL
    ) WITH (fillfactor = 50)";

/// Deletes what nobody has held for a day, some at a time and passing over what is in use: who
/// waits for it waits a moment only.
const TIDY: &str = "
    DELETE FROM streamlease_locks WHERE id IN (
        SELECT id FROM streamlease_locks WHERE expires < clock_timestamp() - interval '1 day'
        LIMIT 10000 FOR UPDATE SKIP LOCKED
    )";

/// After so many releases it is done again. Each name that is new makes one row, and sooner or
/// later one release: so it deletes faster than rows come.
pub(crate) const TIDY_EVERY: u64 = 1_000;

/// One step: whoever comes second waits for the row and then looks again. With the same value it
/// is a repeat: the same number, and the whole time to live from now. `clock_timestamp()`, because
/// `now()` is the time at which the transaction began.
const ACQUIRE: &str = "
    INSERT INTO streamlease_locks AS had (id, key, value, number, expires)
    VALUES (
        sha256($1), $1, $2,
        greatest($4::bigint + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint),
        clock_timestamp() + $3 * interval '1 microsecond'
    )
    ON CONFLICT (id) DO UPDATE SET
        value = EXCLUDED.value,
        number = CASE
            WHEN had.value = EXCLUDED.value AND had.expires > clock_timestamp() THEN had.number
            ELSE greatest(EXCLUDED.number, had.number + 1)
        END,
        expires = EXCLUDED.expires
    WHERE had.value = EXCLUDED.value OR had.expires <= clock_timestamp()
    RETURNING number";

/// All of a page in one transaction, locked in one order, so that two pages do not wait for each
/// other. Returns the keys that are there with their number.
const RENEW: &str = "
    WITH held AS (
        SELECT had.id FROM streamlease_locks AS had
        JOIN unnest($1::bytea[], $2::bigint[]) AS named (key, number)
            ON had.id = sha256(named.key) AND had.number = named.number
        WHERE had.expires > clock_timestamp()
        ORDER BY had.id FOR UPDATE OF had
    )
    UPDATE streamlease_locks AS had
    SET expires = clock_timestamp() + $3 * interval '1 microsecond'
    FROM held WHERE had.id = held.id AND had.expires > clock_timestamp()
    RETURNING had.key";

const RELEASE: &str = "
    UPDATE streamlease_locks SET expires = clock_timestamp(), value = ''
    WHERE id = sha256($1) AND number = $2 AND expires > clock_timestamp()";

const INSPECT: &str = "
    SELECT value, number,
        (extract(epoch FROM expires - clock_timestamp()) * 1000000)::bigint AS left_us
    FROM streamlease_locks WHERE id = sha256($1) AND expires > clock_timestamp()";

/// Two connections, so that no renewal waits for a page of acquires.
pub(crate) struct PostgresLock {
    config: String,
    renewals: Mutex<Option<Arc<Connection>>>,
    others: Mutex<Option<Arc<Connection>>>,
    releases: AtomicU64,
}

struct Connection {
    client: Client,
    acquire: Statement,
    renew: Statement,
    release: Statement,
    inspect: Statement,
}

impl PostgresLock {
    /// Does not connect yet: the server may come later.
    pub(crate) fn new(config: &str) -> Self {
        Self {
            config: config.to_owned(),
            renewals: Mutex::default(),
            others: Mutex::default(),
            releases: AtomicU64::new(0),
        }
    }

    /// Makes the table; once, before the first client starts.
    pub(crate) async fn prepare(&self) -> Result<()> {
        let client = self.connect().await.map_err(unknown)?;
        let made = client.batch_execute(TABLE).await;
        made.map_err(unknown)
    }

    async fn connect(&self) -> std::result::Result<Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.config, NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// The connection, or a new one if it has ended. Who asks has a bound on its time: core gives
    /// up on calls that are not answered, and calls again.
    async fn connection(&self, of: &Mutex<Option<Arc<Connection>>>) -> Result<Arc<Connection>> {
        let mut current = of.lock().await;
        if let Some(connection) = current.as_ref().filter(|c| !c.client.is_closed()) {
            return Ok(connection.clone());
        }
        let client = self.connect().await.map_err(unknown)?;
        let new = async {
            Ok(Connection {
                acquire: client.prepare(ACQUIRE).await?,
                renew: client.prepare(RENEW).await?,
                release: client.prepare(RELEASE).await?,
                inspect: client.prepare(INSPECT).await?,
                client,
            })
        };
        let new = Arc::new(new.await.map_err(unknown)?);
        *current = Some(new.clone());
        Ok(new)
    }
}

#[async_trait]
impl KeyLock for PostgresLock {
    async fn acquire(
        &self,
        key: &str,
        value: &str,
        ttl: Duration,
        floor: u64,
    ) -> Result<KeyAcquired> {
        let db = self.connection(&self.others).await?;
        let (key, floor, ttl) = (key.as_bytes(), bigint(floor)?, micros(ttl));
        loop {
            let asked = [&key as Param, &value, &ttl, &floor];
            let made = db.client.query_opt(&db.acquire, &asked).await;
            if let Some(made) = made.map_err(unknown)? {
                return Ok(KeyAcquired::Acquired(number(&made)?));
            }
            let found = db.client.query_opt(&db.inspect, &[&key]).await;
            if let Some(found) = found.map_err(unknown)? {
                return Ok(KeyAcquired::Held(holder(&found)?));
            }
            // It was released in between.
        }
    }

    async fn renew(&self, key: &str, number: u64, ttl: Duration) -> Result<bool> {
        let key = key.to_owned();
        let renewed = self.renew_many(&[HeldKey { key, number }], ttl).await?;
        Ok(renewed == [true])
    }

    async fn renew_many(&self, keys: &[HeldKey], ttl: Duration) -> Result<Vec<bool>> {
        let db = self.connection(&self.renewals).await?;
        let names: Vec<&[u8]> = keys.iter().map(|held| held.key.as_bytes()).collect();
        let numbers: Result<Vec<i64>> = keys.iter().map(|held| bigint(held.number)).collect();
        let (numbers, ttl) = (numbers?, micros(ttl));
        let asked = [&names as Param, &numbers, &ttl];
        let rows = db.client.query(&db.renew, &asked).await;
        let rows = rows.map_err(unknown)?;
        let renewed: HashSet<&[u8]> = rows.iter().map(|row| row.get(0)).collect();
        Ok(names.iter().map(|name| renewed.contains(name)).collect())
    }

    async fn release(&self, key: &str, number: u64) -> Result<bool> {
        let db = self.connection(&self.others).await?;
        let (key, number) = (key.as_bytes(), bigint(number)?);
        let released = db.client.execute(&db.release, &[&key, &number]).await;
        let released = released.map_err(unknown)? == 1;
        let releases = self.releases.fetch_add(1, Ordering::Relaxed) + 1;
        if releases.is_multiple_of(TIDY_EVERY)
            && let Err(error) = db.client.execute(TIDY, &[]).await
        {
            // The lock is released all the same. The next time will do.
            log::warn!("old locks could not be deleted: {error}");
        }
        Ok(released)
    }

    async fn inspect(&self, key: &str) -> Result<Option<KeyHolder>> {
        let db = self.connection(&self.others).await?;
        let found = db.client.query_opt(&db.inspect, &[&key.as_bytes()]).await;
        let found = found.map_err(unknown)?;
        found.map(|row| holder(&row)).transpose()
    }
}

impl fmt::Debug for PostgresLock {
    // Without the configuration, which may have a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresLock").finish_non_exhaustive()
    }
}

fn holder(row: &Row) -> Result<KeyHolder> {
    let left: i64 = row.get("left_us");
    Ok(KeyHolder {
        value: row.get("value"),
        number: number(row)?,
        remaining: Duration::from_micros(u64::try_from(left).unwrap_or(0)),
    })
}

/// Rounded up: a lock that ends before its owner's belief has two owners.
fn micros(ttl: Duration) -> f64 {
    ttl.as_nanos().div_ceil(1_000) as f64
}

fn bigint(number: u64) -> Result<i64> {
    let no_token = |_| Error::new(ErrorKind::Incompatible, format!("{number} is no token"));
    i64::try_from(number).map_err(no_token)
}

fn number(row: &Row) -> Result<u64> {
    let number: i64 = row.get("number");
    let no_token = |_| Error::new(ErrorKind::Incompatible, format!("{number} is no token"));
    u64::try_from(number).map_err(no_token)
}

/// It may have happened, now or later.
fn unknown(error: tokio_postgres::Error) -> Error {
    let what = error
        .as_db_error()
        .map_or_else(|| error.to_string(), ToString::to_string);
    Error::new(ErrorKind::Unavailable, format!("PostgreSQL: {what}"))
}
