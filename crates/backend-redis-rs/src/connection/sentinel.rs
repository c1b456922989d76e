//! [`Sentinels`]: who is the primary, by the account of most of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_channel::Receiver;
use redis_rs::aio::MultiplexedConnection;
use redis_rs::{Cmd, ConnectionAddr, RedisError, Value, cmd};
use streamlease_core::{Error, ErrorKind, Result, printable};

use super::address::Address;
use super::connector::Connector;
use super::pool::Pool;
use super::route::Census;
use crate::error::{from_redis, from_server, timed_out};
use crate::{decode, timer};

/// How long a sentinel's answer may take, from connecting to it on. It is waited for only
/// if the others do not agree.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// How often they are asked while what they named is used. A primary that they replaced
/// answers, and acknowledges writes that will be lost, for up to ten seconds.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// The sentinels that watch over one primary.
pub(crate) struct Sentinels {
    /// The name under which they know it.
    primary: String,
    connector: Connector,
    sentinels: Vec<Sentinel>,
    /// Whether it has ever been named.
    was_named: AtomicBool,
}

struct Sentinel {
    address: Address,
    /// The connection to it, if the last question was answered.
    link: Mutex<Option<MultiplexedConnection>>,
}

impl Sentinels {
    /// `connector` knows as whom the sentinels are asked, which is not as whom the primary is.
    pub(crate) fn new(primary: String, addresses: Vec<Address>, connector: Connector) -> Self {
        let sentinels = addresses.into_iter().map(|address| Sentinel {
            address,
            link: Mutex::default(),
        });
        Self {
            primary,
            connector,
            sentinels: sentinels.collect(),
            was_named: AtomicBool::new(false),
        }
    }

    /// The primary by the account of more than half of those who answer. All are asked at
    /// once, and no more answers are waited for than it takes.
    pub(super) async fn primary(self: &Arc<Self>) -> Result<Address> {
        let answers = self.ask();
        let mut votes = Votes::default();
        while let Ok(answer) = answers.recv().await {
            votes.count(answer);
            if let Some(named) = votes.more_than_half_of(self.sentinels.len()) {
                return self.named(named);
            }
        }
        match votes.more_than_half_of(votes.answers) {
            Some(named) => self.named(named),
            None => Err(votes.nothing_agreed(&self.primary)),
        }
    }

    /// Whom more than half of all name: that no minority, cut off from the others, undoes
    /// what a majority has done.
    async fn agreed(self: &Arc<Self>) -> Option<Address> {
        let answers = self.ask();
        let mut votes = Votes::default();
        while let Ok(answer) = answers.recv().await {
            votes.count(answer);
            if let Some(named) = votes.more_than_half_of(self.sentinels.len()) {
                return named;
            }
        }
        None
    }

    /// What each of them says.
    pub(super) async fn census(self: &Arc<Self>) -> Census {
        let mut census = Census::of("sentinels");
        let answers = self.ask();
        while let Ok(answer) = answers.recv().await {
            let nobody = || "no primary of that name".to_owned();
            census.count(answer.map(|named| Some(named.map_or_else(nobody, |at| at.to_string()))));
        }
        census
    }

    fn named(&self, named: Option<Address>) -> Result<Address> {
        if let Some(address) = named {
            self.was_named.store(true, Ordering::Relaxed);
            return Ok(address);
        }
        // Once it was there, they may have been told to forget it for a moment only.
        let kind = match self.was_named.load(Ordering::Relaxed) {
            true => ErrorKind::Unavailable,
            false => ErrorKind::Config,
        };
        let message = format!(
            "the sentinels know no primary named {:?}; what they know is in \
             SENTINEL MASTERS, and upper and lower case differ",
            self.primary
        );
        Err(Error::new(kind, message))
    }

    /// One answer of each sentinel, as they come; `None`: it knows of no such primary.
    fn ask(self: &Arc<Self>) -> Receiver<Result<Option<Address>>> {
        let (tell, answers) = async_channel::unbounded();
        for index in 0..self.sentinels.len() {
            let (all, tell) = (self.clone(), tell.clone());
            timer::spawn(async move {
                let answer = timer::within(ANSWER_WITHIN, all.ask_one(index)).await;
                if answer.is_none() {
                    lock(&all.sentinels[index].link).take();
                }
                let late = || from_redis(&all.what(index), timed_out());
                // Nobody may wait for it any more.
                let _ = tell.try_send(answer.unwrap_or_else(|| Err(late())));
            });
        }
        answers
    }

    fn what(&self, index: usize) -> String {
        format!("asking the sentinel {}", self.sentinels[index].address)
    }

    async fn ask_one(&self, index: usize) -> Result<Option<Address>> {
        let (what, sentinel) = (self.what(index), &self.sentinels[index]);
        let mut question = cmd("SENTINEL");
        question
            .arg("GET-MASTER-ADDR-BY-NAME")
            .arg(self.primary.as_str());
        // A link that broke while nobody looked is no answer.
        let kept = lock(&sentinel.link).take();
        if let Some(link) = kept
            && let Ok(reply) = self.ask_over(link, index, &question).await
        {
            return read(&what, reply);
        }
        let to = self.connector.at(&sentinel.address);
        let link = self.connector.commands(&what, &to, None).await?;
        let reply = self.ask_over(link, index, &question).await;
        read(&what, reply.map_err(|err| from_redis(&what, err))?)
    }

    async fn ask_over(
        &self,
        mut link: MultiplexedConnection,
        index: usize,
        question: &Cmd,
    ) -> std::result::Result<Value, RedisError> {
        let reply = link.send_packed_command(question).await?;
        *lock(&self.sentinels[index].link) = Some(link);
        Ok(reply)
    }
}

impl std::fmt::Display for Sentinels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let addresses = self
            .sentinels
            .iter()
            .map(|sentinel| sentinel.address.to_string());
        let addresses = addresses.collect::<Vec<_>>().join(", ");
        write!(f, "{} at {addresses}", self.primary)
    }
}

fn read(what: &str, reply: Value) -> Result<Option<Address>> {
    match reply {
        Value::Nil => Ok(None),
        Value::ServerError(err) => Err(match from_server(what, &err) {
            err if err.kind() == ErrorKind::Incompatible => Error::config(format!(
                "{err}; it is no sentinel: sentinels listen on ports of their own, by default \
                 26379, and a server without them is redis://host:6379/0"
            )),
            err => err,
        }),
        reply => {
            let mut parts = decode::list(reply)?.into_iter();
            let host = decode::text(decode::next(&mut parts)?)?;
            let port = decode::text(decode::next(&mut parts)?)?;
            let address = Address::parse(&format!("{host}:{port}"));
            let odd = || crate::error::protocol("a sentinel's address without a port");
            address.ok_or_else(odd).map(Some)
        }
    }
}

/// What was answered so far.
#[derive(Default)]
struct Votes {
    answers: usize,
    by_address: BTreeMap<Option<String>, (usize, Option<Address>)>,
    errors: Vec<Error>,
}

impl Votes {
    fn count(&mut self, answer: Result<Option<Address>>) {
        match answer {
            Ok(named) => {
                self.answers += 1;
                let key = named.as_ref().map(Address::to_string);
                self.by_address.entry(key).or_insert((0, named)).0 += 1;
            }
            Err(err) => self.errors.push(err),
        }
    }

    fn more_than_half_of(&self, all: usize) -> Option<Option<Address>> {
        let mut candidates = self.by_address.values();
        let winner = candidates.find(|(votes, _)| 2 * votes > all);
        winner.map(|(_, named)| named.clone())
    }

    fn nothing_agreed(mut self, primary: &str) -> Error {
        if self.by_address.is_empty() {
            // What will not pass says more than that another one is away.
            let telling = self.errors.iter().position(|err| !err.is_retryable());
            let index = telling.unwrap_or(0);
            if index < self.errors.len() {
                return self.errors.swap_remove(index);
            }
            return Error::config("no sentinel is given");
        }
        let named = self.by_address.iter().map(|(address, (votes, _))| {
            let address = address.as_deref().unwrap_or("none");
            format!("{address} ({votes})")
        });
        let named = named.collect::<Vec<_>>().join(", ");
        Error::new(
            ErrorKind::Unavailable,
            format!("the sentinels do not agree on who is the primary {primary:?}: {named}"),
        )
    }
}

/// Ends `pool` when the sentinels name another one than it leads to, although its
/// connections work.
pub(super) fn watch(sentinels: Arc<Sentinels>, pool: &Arc<Pool>, owner: &ConnectionAddr) {
    let (Some(owner), pool) = (Address::of(owner), Arc::downgrade(pool)) else {
        return;
    };
    let in_use = |pool: &Weak<Pool>| pool.upgrade().filter(|pool| !pool.has_ended());
    timer::spawn(async move {
        loop {
            timer::sleep(ASK_EVERY).await;
            if in_use(&pool).is_none() {
                return;
            }
            let Some(named) = sentinels.agreed().await else {
                continue;
            };
            if named != owner
                && let Some(pool) = in_use(&pool)
            {
                let (named, owner) = (printable(&named), printable(&owner));
                log::info!(
                    "the sentinels name {named} the primary {:?}, no longer {owner}: \
                     connecting there",
                    sentinels.primary
                );
                pool.end();
            }
        }
    });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
