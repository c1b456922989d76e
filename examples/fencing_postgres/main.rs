//! Fencing in PostgreSQL: a worker keeps there how far it got, the next owner goes on from there,
//! and a stale owner changes nothing.
//!
//! ```text
//! cargo run --example fencing_postgres -- "host=localhost user=me dbname=test"
//! cargo test --example fencing_postgres     # on a PostgreSQL of its own
//! ```
//!
//! [`BEGIN`] puts the token down and says where to go on, in one statement. [`SAVE`] writes only
//! while the token is still there. Data of your own goes into the same transaction, after it:
//! the statement locks the row, and so no later owner begins before this one has committed.

use std::sync::Arc;
use std::time::Duration;

use streamlease::{Client, Info, Lease, MemoryBackend, Producer, Run, TokioRuntime};
use tokio::sync::Mutex;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{NoTls, Row};

const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS progress (
        stream text COLLATE \"C\" PRIMARY KEY,
        token bigint NOT NULL,
        position bigint NOT NULL
    )";

/// $1: the data stream, $2: the owner's token. No row if a later owner has been there.
const BEGIN: &str = "
    INSERT INTO progress (stream, token, position) VALUES ($1, $2, 0)
    ON CONFLICT (stream) DO UPDATE SET token = EXCLUDED.token
        WHERE progress.token <= EXCLUDED.token
    RETURNING position";

/// $3: the new position. No row if a later owner has been there.
const SAVE: &str = "
    UPDATE progress SET position = $3 WHERE stream = $1 AND token = $2
    RETURNING position";

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn connect(config: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(config, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// A connection for all handlers, which is made anew when it is closed. A pool would do, too.
struct Store {
    config: String,
    connection: Mutex<Arc<tokio_postgres::Client>>,
}

impl Store {
    async fn new(config: &str) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            config: config.into(),
            connection: Mutex::new(Arc::new(connect(config).await?)),
        })
    }

    async fn connection(&self) -> Result<Arc<tokio_postgres::Client>, tokio_postgres::Error> {
        let mut connection = self.connection.lock().await;
        if connection.is_closed() {
            *connection = Arc::new(connect(&self.config).await?);
        }
        Ok(connection.clone())
    }

    /// The rows that one statement has returned. Waits while the database is away: that is no
    /// failure of a stream, for it would be the same with each. [`BEGIN`] and [`SAVE`] may come
    /// again after an error that says nothing of whether they were executed.
    async fn ask(
        &self,
        statement: &str,
        with: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        loop {
            let asked = async { self.connection().await?.query(statement, with).await };
            match asked.await {
                Err(error) if is_outage(&error) => eprintln!("the database is away: {error}"),
                answered => return answered,
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// No answer, or one that has nothing to do with the statement: no connection (class 08), too
/// little memory or too many connections (53), a shutdown or a failover (57).
fn is_outage(error: &tokio_postgres::Error) -> bool {
    let code = error.code().map(SqlState::code);
    code.is_none_or(|code| {
        ["08", "53", "57"]
            .iter()
            .any(|class| code.starts_with(class))
    })
}

const NAMES: [&str; 2] = ["call-1", "call-2"];

/// How much work there is in a stream.
const PARTS: i64 = 5;

/// The handler. Its first step is the token.
async fn handle(db: &Store, lease: &Lease) -> Result<(), Failure> {
    let (stream, token) = (lease.stream().as_str(), lease.token().as_i64());
    let begun = db.ask(BEGIN, &[&stream, &token]).await?;
    let mut position: i64 = begun.first().ok_or("fenced: a later owner goes on")?.get(0);
    while position < PARTS {
        println!("{stream}, part {position}, with token {token}");
        tokio::time::sleep(Duration::from_millis(100)).await; // the work
        position += 1;
        let saved = db.ask(SAVE, &[&stream, &token, &position]).await?;
        saved.first().ok_or("fenced: a later owner goes on")?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let config = std::env::args().nth(1);
    work(&config.unwrap_or_else(|| "host=localhost user=postgres".into())).await
}

/// Announces two streams, and works until both are done. Streams and leases are in memory here.
async fn work(config: &str) -> Result<(), Failure> {
    let db = Arc::new(Store::new(config).await?);
    db.connection().await?.batch_execute(TABLE).await?;
    let backend = MemoryBackend::new(TokioRuntime::new());
    let producer = Producer::new("fenced", &backend, TokioRuntime::new())?;
    for name in NAMES {
        producer.submit(name, Info::NONE).await?;
    }
    let client = Client::builder("fenced")
        .consumer("worker-1")
        .backend(backend);
    let (client, events) = client.runtime(TokioRuntime::new()).start()?;
    let (done, all_done) = async_channel::bounded::<()>(2);
    let until = Run::until(async move {
        for _ in 0..2 {
            let _ = all_done.recv().await;
        }
    });
    let run = client.run(events, until, move |lease, _stopping| {
        let (db, done) = (db.clone(), done.clone());
        async move {
            handle(&db, &lease).await?;
            let _ = done.send(()).await;
            Ok::<_, Failure>(())
        }
    });
    Ok(run.await?)
}

#[cfg(test)]
mod tests {
    use streamlease_tests::{PostgresServer, wait_for};

    use super::*;

    async fn begin(db: &tokio_postgres::Client, token: i64) -> Option<i64> {
        let row = db.query_opt(BEGIN, &[&"s", &token]).await.unwrap();
        row.map(|row| row.get(0))
    }

    async fn save(db: &tokio_postgres::Client, token: i64, position: i64) -> bool {
        db.execute(SAVE, &[&"s", &token, &position]).await.unwrap() == 1
    }

    async fn position(db: &tokio_postgres::Client) -> i64 {
        let row = db
            .query_one("SELECT position FROM progress WHERE stream = 's'", &[])
            .await;
        row.unwrap().get(0)
    }

    #[test]
    fn the_page_and_the_documentation_of_a_lease_show_these_statements() {
        let words = |text: &str| {
            let text = text.replace("IF NOT EXISTS ", "").replace("///", "");
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let page = words(include_str!("../../docs/fencing.md"));
        for statement in [TABLE, BEGIN, SAVE] {
            assert!(page.contains(&words(statement)), "{statement}");
        }
        let lease = words(include_str!("../../crates/core/src/lease.rs"));
        assert!(lease.contains(&words(BEGIN)));
    }

    /// One server for all, for a server takes two seconds to make.
    #[tokio::test(flavor = "multi_thread")]
    async fn the_recipe_holds_on_a_real_server_and_the_one_that_reads_first_does_not() {
        let server = PostgresServer::start();
        let a = connect(&server.url()).await.unwrap();
        let b = connect(&server.url()).await.unwrap();
        a.batch_execute(TABLE).await.unwrap();
        a_later_owner_goes_on_and_the_one_before_changes_nothing(&a, &b).await;
        a_later_owner_waits_for_a_transaction_that_has_begun(&a, &b).await;
        who_reads_before_its_token_is_down_loses_what_is_written_meanwhile(&a, &b).await;
        racing_owners_end_at_the_greatest_token(&server).await;
        the_program_works_and_outlives_its_connection(&server, &a).await;
    }

    async fn a_later_owner_goes_on_and_the_one_before_changes_nothing(
        a: &tokio_postgres::Client,
        b: &tokio_postgres::Client,
    ) {
        // Tokens of another width, and more than a floating-point number tells apart.
        for (token, next) in [
            (9, 10),
            (1_800_000_000_000_000_001, 1_800_000_000_000_000_002),
        ] {
            a.batch_execute("TRUNCATE progress").await.unwrap();
            assert_eq!(begin(a, token).await, Some(0));
            assert_eq!(begin(a, token).await, Some(0), "its answer was lost");
            assert!(save(a, token, 1).await && save(a, token, 2).await);
            assert_eq!(begin(b, next).await, Some(2));
            assert!(!save(a, token, 3).await, "a stale owner wrote");
            assert_eq!(begin(a, token).await, None);
            assert!(save(b, next, 3).await);
            assert_eq!(position(a).await, 3);
        }
    }

    async fn a_later_owner_waits_for_a_transaction_that_has_begun(
        a: &tokio_postgres::Client,
        b: &tokio_postgres::Client,
    ) {
        a.batch_execute("TRUNCATE progress").await.unwrap();
        begin(a, 5).await;
        a.batch_execute("BEGIN").await.unwrap();
        assert!(save(a, 5, 1).await);
        let later = begin(b, 6);
        tokio::pin!(later);
        let soon = tokio::time::timeout(Duration::from_millis(100), &mut later).await;
        assert!(soon.is_err(), "it has not seen what is being written");
        a.batch_execute("COMMIT").await.unwrap();
        assert_eq!(later.await, Some(1));
    }

    async fn who_reads_before_its_token_is_down_loses_what_is_written_meanwhile(
        a: &tokio_postgres::Client,
        b: &tokio_postgres::Client,
    ) {
        a.batch_execute("TRUNCATE progress").await.unwrap();
        begin(a, 5).await;
        let read = position(b).await;
        assert!(
            save(a, 5, 1).await,
            "nobody has told the store of a later owner"
        );
        assert_ne!(position(b).await, read, "the recipe would have read this");
        assert_eq!(begin(b, 6).await, Some(1));
    }

    /// Twenty owners at once, each on a connection of its own: positions never go back.
    async fn racing_owners_end_at_the_greatest_token(server: &PostgresServer) {
        let db = connect(&server.url()).await.unwrap();
        db.batch_execute("TRUNCATE progress").await.unwrap();
        let owners = (1..=20_i64).map(|token| {
            let url = server.url();
            tokio::spawn(async move {
                let db = connect(&url).await.unwrap();
                let Some(mut position) = begin(&db, token).await else {
                    return 0;
                };
                let mut taken = 0;
                for _ in 0..20 {
                    position += 1;
                    if !save(&db, token, position).await {
                        break;
                    }
                    taken += 1;
                }
                taken
            })
        });
        let mut taken = 0;
        for owner in owners.collect::<Vec<_>>() {
            taken += owner.await.unwrap();
        }
        assert_eq!(
            position(&db).await,
            taken,
            "each write went on from the one before"
        );
        assert_eq!(begin(&db, 19).await, None);
        assert_eq!(begin(&db, 20).await, Some(taken));
    }

    async fn first_owners(db: &tokio_postgres::Client, at: &str) -> Option<Vec<i64>> {
        let in_order = format!(
            "SELECT token FROM progress WHERE stream LIKE 'call-%' AND {at} ORDER BY stream"
        );
        let rows = db.query(&in_order, &[]).await.unwrap();
        let tokens: Vec<_> = rows.iter().map(|row| row.get(0)).collect();
        (tokens.len() == NAMES.len()).then_some(tokens)
    }

    /// Its connection is closed in the middle: each stream is completed by its first owner.
    async fn the_program_works_and_outlives_its_connection(
        server: &PostgresServer,
        db: &tokio_postgres::Client,
    ) {
        let url = server.url();
        let working = tokio::spawn(async move { work(&url).await });
        let limit = Duration::from_secs(20);
        let under_way = async || first_owners(db, "position BETWEEN 1 AND 3").await;
        let first = wait_for("both are under way", limit, under_way).await;
        let end_all = "
            SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        let ended: i64 = db.query_one(end_all, &[]).await.unwrap().get(0);
        assert!(ended > 0);
        working.await.unwrap().unwrap();
        assert_eq!(first_owners(db, "position = 5").await, Some(first));
    }
}
