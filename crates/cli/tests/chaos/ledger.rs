//! [`Ledger`]: the resource that tokens protect, and the witness of the test.
//!
//! It is fenced as any store of a user's would be: it remembers the greatest
//! token of each data stream and refuses lower ones. That alone lets nothing
//! stale in; whether it keeps the *rightful* owners in is what the checks ask.
//!
//! At the end of a piece of work it also looks at the LBS: the entry must be there
//! still, for nobody but this owner may complete it, and it has not yet; and the LBS
//! must remember its token, which no delayed claim may lower.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use redis::Value;

use crate::SERVICE;

#[derive(Debug)]
pub(crate) struct Ledger {
    addr: SocketAddr,
    books: Arc<Mutex<Books>>,
}

#[derive(Debug, Default)]
pub(crate) struct Books {
    streams: BTreeMap<String, Stream>,
    pub(crate) entries: BTreeMap<String, Entry>,
    pub(crate) accepted: u64,
    /// Refused: (what, entry, token).
    pub(crate) refused: Vec<(String, String, u64)>,
    /// How often the LBS was looked at and answered.
    pub(crate) looks: u64,
    /// What must not happen whatever the faults.
    pub(crate) violations: Vec<String>,
    /// All that was asked and answered, for whoever has to find out.
    pub(crate) log: Vec<(Instant, String)>,
}

#[derive(Debug, Default)]
struct Stream {
    greatest: u64,
    tokens: BTreeSet<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// The tokens of those who began on it.
    pub(crate) begun: BTreeSet<u64>,
    pub(crate) parts: u64,
    pub(crate) finished_by: Option<u64>,
}

impl Ledger {
    /// `redis`: where the LBS is, if what is gone from it was completed or quarantined.
    pub(crate) fn start(redis: Option<String>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let books = Arc::new(Mutex::new(Books::default()));
        let serving = Arc::downgrade(&books);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Some(books) = serving.upgrade() else {
                    return;
                };
                let redis = redis.clone();
                thread::spawn(move || serve(client, &books, redis.as_deref()));
            }
        });
        Self { addr, books }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // The listening thread sees that the books are closed at its next client.
        self.books = Arc::default();
        let _ = TcpStream::connect(self.addr);
    }
}

fn serve(mut client: TcpStream, books: &Mutex<Books>, redis: Option<&str>) {
    let Ok(reading) = client.try_clone() else {
        return;
    };
    for line in BufReader::new(reading).lines().map_while(Result::ok) {
        let open = || books.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = open().answer(&line);
        // The owner cannot complete before it hears that the end is written.
        if let (Some(redis), [what, stream, entry, token]) =
            (redis, &line.split(' ').collect::<Vec<_>>()[..])
            && (*what, &*answer) == ("finish", "ok")
            && let Ok(found) = look(redis, entry)
        {
            open().looked(stream, entry, token, &found);
        }
        if client.write_all(format!("{answer}\n").as_bytes()).is_err() {
            // It was killed meanwhile; what it wrote stands.
            return;
        }
    }
}

/// An entry on the LBS.
#[derive(Debug, Default)]
struct Found {
    is_there: bool,
    is_quarantined: bool,
    /// As text: the token that the LBS remembers, and what else it does.
    record: Option<String>,
}

/// An error if Redis does not say.
fn look(redis: &str, entry: &str) -> redis::RedisResult<Found> {
    const SOON: Duration = Duration::from_millis(300);
    let mut redis = redis::Client::open(redis)?.get_connection_with_timeout(SOON)?;
    redis.set_read_timeout(Some(SOON))?;
    let lbs = format!("{SERVICE}-input");
    let (found, is_quarantined, record): (Vec<Value>, bool, Option<String>) = redis::pipe()
        .atomic()
        .cmd("XRANGE")
        .arg(&[&lbs, entry, entry])
        .cmd("HEXISTS")
        .arg(&[&format!("{{{lbs}}}:quarantine"), entry])
        .cmd("HGET")
        .arg(&[&format!("{{{lbs}}}:tokens"), entry])
        .query(&mut redis)?;
    Ok(Found {
        is_there: !found.is_empty(),
        is_quarantined,
        record,
    })
}

impl Books {
    /// What was found on the LBS when the owner with this token had finished.
    fn looked(&mut self, stream: &str, entry: &str, token: &str, found: &Found) {
        self.looks += 1;
        let Ok(token) = token.parse::<u64>() else {
            return;
        };
        // A later owner may have completed it while Redis was asked, or quarantined it.
        let greatest = self.streams.get(stream).map(|fence| fence.greatest);
        if greatest != Some(token) || found.is_quarantined {
            return;
        }
        let label = format!("stream={stream} entry={entry} token={token}");
        let remembered = found.record.as_ref().and_then(|r| r.split(':').next());
        let remembered: Option<u64> = remembered.and_then(|digits| digits.parse().ok());
        if !found.is_there {
            let violation = format!("gone from the LBS under its owner: {label}");
            self.violations.push(violation);
        } else if remembered.is_none_or(|remembered| remembered < token) {
            let violation =
                format!("the LBS has forgotten its owner, and remembers {remembered:?}: {label}");
            self.violations.push(violation);
        }
    }

    fn answer(&mut self, request: &str) -> String {
        let answer = self.decide(request);
        let line = format!("{request}: {answer}");
        self.log.push((Instant::now(), line));
        answer
    }

    fn decide(&mut self, request: &str) -> String {
        let words: Vec<&str> = request.split(' ').collect();
        let [what, stream, entry, token, ref more @ ..] = words[..] else {
            return self.nonsense(request);
        };
        let Ok(token) = token.parse::<u64>() else {
            return self.nonsense(request);
        };
        let fence = self.streams.entry(stream.to_owned()).or_default();
        if token < fence.greatest {
            self.refused.push((what.into(), entry.into(), token));
            return format!("refused {}", fence.greatest);
        }
        fence.greatest = token;
        let first = fence.tokens.insert(token);
        self.accepted += 1;
        let account = self.entries.entry(entry.to_owned()).or_default();
        match (what, more) {
            ("begin", []) => {
                if !first {
                    self.violations.push(format!(
                        "two leases have the same token: stream={stream} entry={entry} token={token}"
                    ));
                }
                account.begun.insert(token);
                format!("ok {} {}", account.parts, account.begun.len())
            }
            ("part", [part]) => {
                if part.parse() != Ok(account.parts) {
                    self.violations.push(format!(
                        "part {part} follows {} parts: stream={stream} entry={entry} token={token}",
                        account.parts
                    ));
                }
                account.parts += 1;
                "ok".into()
            }
            ("finish", []) => {
                account.finished_by = Some(token);
                "ok".into()
            }
            _ => self.nonsense(request),
        }
    }

    fn nonsense(&mut self, request: &str) -> String {
        self.violations
            .push(format!("the ledger was asked {request:?}"));
        "what?".into()
    }
}
