//! [`Server`]: the connections to the server that owns a service now.
//!
//! How that one is found is its [`Route`]'s affair, and as whom and over what it is talked
//! to the [`Connector`]'s.
//!
//! - One multiplexed connection for commands, made anew when it breaks or does
//!   not answer in time: a peer that vanished without a word would otherwise
//!   hold every command up until TCP gives up.
//! - Readers: connections for blocking fetches and for what is large, either way,
//!   since everything behind those on a connection waits for them. One serves one
//!   call at a time and is kept for the next; a call that fails or is dropped
//!   closes its own, so that the server abandons it too.
//! - One pub/sub connection per subscription.
//!
//! They are made on tasks of their own (`attempt`), lead to one address, and belong
//! together (`pool`): an answer on any of them that says that this is not the server to
//! talk to, as a demoted one gives for ever, makes all be given up, and the owner be looked
//! up anew. So does whoever was asked for the owner by naming another one.

mod access;
mod address;
mod attempt;
mod cluster;
mod connector;
mod dialed;
mod pool;
mod route;
mod script;
mod sentinel;
mod servers;
mod slot;
mod speech;
mod url;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis_rs::aio::{MultiplexedConnection, PubSubSink, PubSubStream};
use redis_rs::{Cmd, Pipeline, RedisError, Value, cmd};
use streamlease_core::{BoxFuture, Error, Result};

use self::access::Access;
use self::pool::Pool;
pub(crate) use self::route::Census;
use self::route::Route;
pub(crate) use self::script::{Call, Script, script};
pub(crate) use self::servers::Servers;
pub(crate) use self::slot::hash_tag;
pub(crate) use self::url::read as read_url;
use crate::error::{
    WrongServer, from_redis, from_server, has_done_nothing, is_put_off, protocol, timed_out,
    wrong_server,
};
use crate::timer;

/// How much longer than other answers one may take that is large, or is to something large;
/// or than its BLOCK a blocking read.
const LARGE_FACTOR: u32 = 5;
/// Connections younger than this are not given up because of an answer: who asks
/// again at once would connect again at once.
const YOUNG: Duration = Duration::from_millis(50);
/// For how long a server may say that it is not ready before the name is looked up
/// anew: it may have a successor.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries of a call that nobody has executed.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// Scripts sent in one go.
const PIPELINE: usize = 32;

/// The owner of a service. Reconnects by itself: a failed call's successor finds a new
/// connection.
pub(crate) struct Server {
    access: Arc<Access>,
    pool: Mutex<Arc<Pool>>,
}

/// Over which connection commands are sent.
#[derive(Debug, Clone, Copy)]
enum Over {
    /// The one for all commands.
    Shared,
    /// One that nobody else uses meanwhile.
    Own { block: Duration },
}

/// A command under way. Dropped unanswered – our caller may be less patient than
/// the response time-out – it may cast doubt on its connection.
struct Waiting<'a> {
    server: &'a Server,
    pool: &'a Arc<Pool>,
    sent: Instant,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.answered {
            self.pool.command_answered(self.sent);
            return;
        }
        self.pool.command_given_up(self.sent);
        if self.pool.is_doubtful() {
            self.server
                .doubt(self.pool, "it has been silent for too long");
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("endpoint", &self.access.endpoint)
            .finish_non_exhaustive()
    }
}

impl Server {
    fn new(access: Access) -> Self {
        Self {
            pool: Mutex::new(Pool::new(access.limits.connect, None)),
            access: Arc::new(access),
        }
    }

    /// The number of the database.
    pub(crate) fn db(&self) -> i64 {
        self.access.connector.db()
    }

    /// The URL without its password.
    pub(crate) fn endpoint(&self) -> &str {
        &self.access.endpoint
    }

    /// Whether others than the server itself are asked where it is.
    pub(crate) fn is_asked_for(&self) -> bool {
        self.access.route.is_asked_for()
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.access.route, Route::Cluster(_))
    }

    /// What all those say who are asked for the owner; `None` if nobody is.
    pub(crate) async fn census(&self) -> Option<Census> {
        self.access.route.census().await
    }

    /// Asks for a sign of life, so that wrong settings show before anything starts.
    pub(crate) async fn ping(&self) -> Result<()> {
        self.command("connecting", &cmd("PING")).await.map(drop)
    }

    /// Sends one command.
    pub(crate) async fn command(&self, what: &str, command: &Cmd) -> Result<Value> {
        let reply = self.pipeline(what, &one(command.clone())).await?.pop();
        self.checked(what, reply.ok_or_else(|| protocol("no reply"))?)
    }

    /// Runs a script for each of `calls`, in order, and returns their replies.
    ///
    /// By hash; a server that does not know it (any more) is given the script,
    /// and only the calls that it did not run are repeated.
    pub(crate) async fn run(
        &self,
        what: &str,
        script: &Script,
        calls: &[Call],
    ) -> Result<Vec<Value>> {
        let mut replies = Vec::with_capacity(calls.len());
        for calls in calls.chunks(PIPELINE) {
            let send = async |pipeline| self.pipeline(what, &pipeline).await;
            let is_first = replies.is_empty();
            let ran = self.run_by(send, what, script, calls, &mut replies).await;
            ran.map_err(|err| unless(!is_first, err))?;
        }
        Ok(replies)
    }

    /// The same in one go, on a connection of its own: the calls or the replies are large.
    pub(crate) async fn run_large(
        &self,
        what: &str,
        script: &Script,
        calls: &[Call],
    ) -> Result<Vec<Value>> {
        let mut replies = Vec::with_capacity(calls.len());
        let send = async |pipeline| self.alone(what, &pipeline, Duration::ZERO).await;
        self.run_by(send, what, script, calls, &mut replies).await?;
        Ok(replies)
    }

    async fn run_by<F: Future<Output = Result<Vec<Value>>>>(
        &self,
        send: impl Fn(Pipeline) -> F,
        what: &str,
        script: &Script,
        calls: &[Call],
        replies: &mut Vec<Value>,
    ) -> Result<()> {
        let mut pipeline = Pipeline::new();
        for call in calls {
            pipeline.add_command(call.by_hash(script));
        }
        let answers = send(pipeline).await?;
        if answers.len() != calls.len() {
            return Err(protocol("replies are missing"));
        }
        let is_nothing_done = |answer: &Value| is_nothing_done(answer, script.looks_first);
        let mut was_any_done = !answers.iter().all(is_nothing_done);
        for (call, answer) in calls.iter().zip(answers) {
            let answer = match is_answer(&answer, "NOSCRIPT") {
                true => send(one(call.by_code(script)))
                    .await
                    .map_err(|err| unless(was_any_done, err))?
                    .pop(),
                false => Some(answer),
            };
            let answer = answer.ok_or_else(|| protocol("no reply"))?;
            was_any_done |= !is_nothing_done(&answer);
            let checked = self.checked(what, answer);
            replies.push(checked.map_err(|err| err.with_nothing_done(!was_any_done))?);
        }
        Ok(())
    }

    /// Runs a script once.
    pub(crate) async fn run_one(&self, what: &str, script: &Script, call: Call) -> Result<Value> {
        let reply = self
            .run(what, script, std::slice::from_ref(&call))
            .await?
            .pop();
        reply.ok_or_else(|| protocol("no reply"))
    }

    /// Sends one command on a connection of its own: its reply is large.
    pub(crate) async fn command_large(&self, what: &str, command: &Cmd) -> Result<Value> {
        let replies = self
            .alone(what, &one(command.clone()), Duration::ZERO)
            .await;
        let reply = replies?.pop();
        self.checked(what, reply.ok_or_else(|| protocol("no reply"))?)
    }

    /// Sends commands and returns their replies, errors among them.
    ///
    /// Never sends again what may have been executed: the caller has to know
    /// that it asks for the second time, to read an answer like "gone" rightly.
    pub(crate) async fn pipeline(&self, what: &str, pipeline: &Pipeline) -> Result<Vec<Value>> {
        self.until_taken(what, pipeline, Over::Shared).await
    }

    /// Where the owner is asked for, what a server says that it has not executed is sent
    /// again until somebody does: while a slot moves, or a replica takes over, the right
    /// answer is a moment away. A server with a name is waited for by who calls.
    async fn until_taken(&self, what: &str, pipeline: &Pipeline, over: Over) -> Result<Vec<Value>> {
        let mut replies = self.send(what, pipeline, over).await?;
        if !self.access.route.is_asked_for() || replies.len() != pipeline.len() {
            return Ok(replies);
        }
        // Together with an answer to the last try that is as long as callers wait.
        let insist = self.access.limits.answer * 3 / 4;
        let began = Instant::now();
        let mut pause = Duration::ZERO;
        loop {
            let put_off: Vec<usize> = (0..replies.len())
                .filter(|index| is_answer_put_off(&replies[*index]))
                .collect();
            if put_off.is_empty() || began.elapsed() + pause > insist {
                return Ok(replies);
            }
            let is_moved = |index: &usize| is_answer(&replies[*index], "MOVED");
            // Who has it was said already; if not for the first time, they do not agree yet.
            if !pause.is_zero() || !put_off.iter().all(is_moved) {
                pause = (pause * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
                timer::sleep(pause).await;
            } else {
                pause = SHORTEST_PAUSE / 2;
            }
            let mut again = Pipeline::new();
            for command in pipeline
                .cmd_iter()
                .enumerate()
                .filter_map(|(index, command)| put_off.contains(&index).then_some(command))
            {
                again.add_command(command.clone());
            }
            let was_any_done = put_off.len() < replies.len();
            let answers = self.send(what, &again, over).await;
            let answers = answers.map_err(|err| unless(was_any_done, err))?;
            if answers.len() != put_off.len() {
                return Err(protocol("replies are missing"));
            }
            for (index, answer) in put_off.into_iter().zip(answers) {
                replies[index] = answer;
            }
        }
    }

    async fn send(&self, what: &str, pipeline: &Pipeline, over: Over) -> Result<Vec<Value>> {
        match over {
            Over::Shared => self.send_shared(what, pipeline).await,
            Over::Own { block } => self.send_alone(what, pipeline, block).await,
        }
    }

    async fn send_shared(&self, what: &str, pipeline: &Pipeline) -> Result<Vec<Value>> {
        let connected = self.command_connection().await;
        // Nothing was sent.
        let (pool, mut connection) = connected.map_err(|err| err.with_nothing_done(true))?;
        let mut waiting = Waiting {
            server: self,
            pool: &pool,
            sent: Instant::now(),
            answered: false,
        };
        let exchange = async {
            let replies = connection.send_packed_commands(pipeline, 0, pipeline.len());
            Ok(replies.await)
        };
        match pool.unless_ended(exchange).await? {
            Ok(replies) => {
                waiting.answered = true;
                self.heed(&pool, &replies);
                Ok(replies)
            }
            Err(err) => {
                if err.is_io_error() || err.is_unrecoverable_error() {
                    self.doubt(&pool, "it broke");
                }
                Err(self.failed(what, err))
            }
        }
    }

    /// Sends commands on a connection of their own. The first may block for up to `block`.
    /// What was not answered is not sent again: what such a read took is in the pending
    /// list.
    pub(crate) async fn alone(
        &self,
        what: &str,
        pipeline: &Pipeline,
        block: Duration,
    ) -> Result<Vec<Value>> {
        self.until_taken(what, pipeline, Over::Own { block }).await
    }

    async fn send_alone(
        &self,
        what: &str,
        pipeline: &Pipeline,
        block: Duration,
    ) -> Result<Vec<Value>> {
        // No response time-out: it would have no exemption for a blocking read.
        let get = |pool: Arc<Pool>| async move {
            let connect = || self.connecting(pool.clone(), None);
            pool.readers.get(pool.limit(), connect).await
        };
        let connected = self.in_current_pool(get).await;
        let (pool, mut connection) = connected.map_err(|err| err.with_nothing_done(true))?;
        let exchange = async {
            let replies = connection.send_packed_commands(pipeline, 0, pipeline.len());
            match timer::within(
                block.saturating_add(self.access.limits.answer * LARGE_FACTOR),
                replies,
            )
            .await
            {
                Some(Ok(replies)) => Ok(replies),
                Some(Err(err)) => {
                    // A server that is demoted closes what blocks, and nothing else.
                    self.doubt(&pool, "another one broke");
                    Err(self.failed(what, err))
                }
                None => Err(self.failed(what, timed_out())),
            }
        };
        // On every way out but the last the connection is dropped, and so closed.
        match pool.unless_ended(exchange).await {
            Ok(replies) => {
                self.heed(&pool, &replies);
                if !pool.has_ended() {
                    pool.readers.put_back(connection);
                }
                Ok(replies)
            }
            Err(err) => {
                // What broke this one has hardly spared the idle ones.
                pool.readers.close_idle();
                Err(err)
            }
        }
    }

    /// A connection for subscriptions, with what it belongs to.
    pub(crate) async fn pubsub(&self) -> Result<(Lifetime, PubSubSink, PubSubStream)> {
        let get = |pool: Arc<Pool>| async move {
            let connect = || {
                let dial = |access: Arc<Access>, what: String, to| -> BoxFuture<'static, _> {
                    Box::pin(async move { access.connector.subscriptions(&what, &to).await })
                };
                let what = "connecting for notifications";
                self.access.clone().connect(pool.clone(), what, dial)
            };
            pool.subscriptions.get(pool.limit(), connect).await
        };
        let (pool, pubsub) = self.in_current_pool(get).await?;
        let (sink, stream) = pubsub.split();
        Ok((Lifetime(pool), sink, stream))
    }

    /// The command connection, made if there is none that works. Callers that
    /// come meanwhile wait for it instead of making their own.
    async fn command_connection(&self) -> Result<(Arc<Pool>, MultiplexedConnection)> {
        let get = |pool: Arc<Pool>| async move {
            let limit = Some(self.access.limits.answer);
            let attempt = pool.command(|| self.connecting(pool.clone(), limit));
            attempt.wait().await;
            attempt.share()
        };
        self.in_current_pool(get).await
    }

    /// A connection of the pool in use; of the next one, if that one ends meanwhile.
    async fn in_current_pool<T, F: Future<Output = Result<T>>>(
        &self,
        get: impl Fn(Arc<Pool>) -> F,
    ) -> Result<(Arc<Pool>, T)> {
        loop {
            let pool = self.pool();
            if pool.is_doubtful() {
                self.doubt(&pool, "it has been silent for too long");
                continue;
            }
            let ended = async {
                pool.ended().await;
                None
            };
            let got = async { Some(get(pool.clone()).await) };
            match futures_lite::future::or(got, ended).await {
                Some(Ok(got)) => return Ok((pool, got)),
                Some(Err(_)) if pool.has_ended() => {}
                Some(Err(err)) => return Err(err),
                None => {}
            }
        }
    }

    fn connecting(
        &self,
        pool: Arc<Pool>,
        response_timeout: Option<Duration>,
    ) -> impl Future<Output = Result<MultiplexedConnection>> + Send + 'static {
        let dial = move |access: Arc<Access>, what: String, to| -> BoxFuture<'static, _> {
            Box::pin(async move {
                let connector = &access.connector;
                let mut connection = connector.commands(&what, &to, response_timeout).await?;
                access.route.check(&what, &mut connection).await?;
                log::debug!("{what}: done");
                Ok(connection)
            })
        };
        self.access.clone().connect(pool, "connecting", dial)
    }

    /// The pool in use; a new one, if somebody has ended it.
    fn pool(&self) -> Arc<Pool> {
        let mut current = self.current();
        if current.has_ended() {
            *current = Pool::new(self.access.limits.connect, None);
        }
        current.clone()
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Arc<Pool>> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a new connection for commands, if this pool is still the one in use.
    fn doubt(&self, pool: &Arc<Pool>, why: &str) {
        let mut current = self.current();
        if Arc::ptr_eq(&current, pool) {
            log::debug!("dropping a connection to {}: {why}", self.endpoint());
            self.access.route.doubt(pool.address());
            *current = pool.successor();
        }
    }

    /// Looks whether a reply says that this is not the server to talk to.
    fn heed(&self, pool: &Arc<Pool>, replies: &[Value]) {
        let verdicts = replies.iter().filter_map(|reply| match reply {
            Value::ServerError(err) => {
                let (code, detail) = (err.code(), err.details().unwrap_or_default());
                wrong_server(code, detail).map(|verdict| (verdict, code, detail))
            }
            _ => None,
        });
        match verdicts.max_by_key(|(verdict, ..)| *verdict) {
            None => pool.answered(),
            Some((verdict, code, detail)) => self.leave(pool, verdict, code, detail),
        }
    }

    fn leave(&self, pool: &Arc<Pool>, verdict: WrongServer, code: &str, detail: &str) {
        let route = &self.access.route;
        let mut current = self.current();
        if !Arc::ptr_eq(&current, pool) {
            return;
        }
        let is_enough = match verdict {
            WrongServer::IfItLasts => pool.refused() >= PATIENCE,
            WrongServer::Certainly => {
                route.is_told(code, detail, pool.address()) || pool.age() >= YOUNG
            }
        };
        if is_enough {
            log::info!(
                "{} leads to a server that answers {code}: connecting anew",
                self.endpoint()
            );
            route.doubt(pool.address());
            *current = Pool::new(self.access.limits.connect, None);
            pool.end();
        }
    }

    /// The reply, unless it is an error.
    pub(crate) fn checked(&self, what: &str, reply: Value) -> Result<Value> {
        match reply {
            Value::ServerError(err) => {
                let error = from_server(&self.context(what), &err);
                if err.code() == "MOVED" && !self.access.route.is_asked_for() {
                    let hint = "it is a node of a cluster; a URL that begins with \
                                redis-cluster:// leads to the one that is meant";
                    return Err(Error::new(error.kind(), format!("{error}: {hint}")));
                }
                Err(error)
            }
            reply => Ok(reply),
        }
    }

    pub(crate) fn failed(&self, what: &str, err: RedisError) -> Error {
        from_redis(&self.context(what), err)
    }

    /// What an error reply on a subscription means for the other connections.
    pub(crate) fn heed_error(&self, lifetime: &Lifetime, err: &RedisError) {
        let detail = err.detail().unwrap_or_default();
        if let Some(code) = err.code()
            && let Some(verdict) = wrong_server(code, detail)
        {
            self.leave(&lifetime.0, verdict, code, detail);
        }
    }

    fn context(&self, what: &str) -> String {
        self.access.context(what)
    }
}

/// How long a connection is to be used: until others show that it leads to the
/// wrong server, or to none.
pub(crate) struct Lifetime(Arc<Pool>);

impl Lifetime {
    /// Waits for its end.
    pub(crate) async fn ended(&self) {
        self.0.ended().await;
    }
}

/// The error, which says that nothing was done only unless something was before.
pub(crate) fn unless(was_any_done: bool, err: Error) -> Error {
    let is_certain = err.is_nothing_done() && !was_any_done;
    err.with_nothing_done(is_certain)
}

/// Whether this reply to a script of ours says that it has written nothing. Of a key of another
/// type that is certain only if the script looks at each key first.
fn is_nothing_done(reply: &Value, looks_first: bool) -> bool {
    match reply {
        Value::ServerError(err) if err.code() == "WRONGTYPE" => looks_first,
        Value::ServerError(err) => has_done_nothing(err.code(), err.details().unwrap_or_default()),
        _ => false,
    }
}

fn is_answer_put_off(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(err) if is_put_off(err.code()))
}

fn is_answer(reply: &Value, code: &str) -> bool {
    matches!(reply, Value::ServerError(err) if err.code() == code)
}

fn one(command: Cmd) -> Pipeline {
    let mut pipeline = Pipeline::new();
    pipeline.add_command(command);
    pipeline
}
