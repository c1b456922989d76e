//! [`Proxy`]: a TCP proxy between a client and a server that makes the network bad on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::refusals::{Refusals, Requests, refused_by_managed_services};

/// Forwards connections to one address, and delays, holds or cuts them as told.
///
/// Held bytes are not lost: as on a real network, they arrive after the healing,
/// even if the client has hung up meanwhile. So a request that its sender gave
/// up on is executed late.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    network: Arc<Network>,
}

#[derive(Debug)]
struct Network {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Where new connections lead.
    upstream: SocketAddr,
    /// How long a new connection takes before anything gets through.
    connect_delay: Duration,
    link: Link,
    hold_requests: bool,
    /// Hold requests from the next on that has this.
    hold_from: Option<Vec<u8>>,
    /// Silence connections on which a request has this.
    silence_from: Option<Vec<u8>>,
    hold_replies: bool,
    latency: Duration,
    cuts: Vec<Cut>,
    refusals: Refusals,
    /// What was refused so far.
    refused: BTreeSet<String>,
    connections: BTreeMap<u64, Connection>,
    accepted: u64,
    cut: u64,
    closed: bool,
}

/// What all connections share: until when the bytes under way occupy it.
#[derive(Debug, Default)]
struct Link {
    /// Bytes per second in each direction; `None` is no limit.
    rate: Option<u32>,
    requests_until: Option<Instant>,
    replies_until: Option<Instant>,
}

#[derive(Debug)]
struct Cut {
    request_has: Vec<u8>,
    reply_bytes: usize,
}

#[derive(Debug)]
struct Connection {
    client: TcpStream,
    server: Option<TcpStream>,
    /// After how many more bytes of reply it is cut.
    cut_after: Option<usize>,
    /// Carries nothing any more, and nobody is told.
    silenced: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Requests,
    Replies,
}

impl Proxy {
    /// A proxy on a free port of 127.0.0.1 to `upstream`, which need not be up yet.
    pub fn start(upstream: SocketAddr) -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binding a free port on 127.0.0.1");
        let addr = listener.local_addr().expect("the address just bound");
        let state = State {
            upstream,
            connect_delay: Duration::ZERO,
            link: Link::default(),
            hold_requests: false,
            hold_from: None,
            silence_from: None,
            hold_replies: false,
            latency: Duration::ZERO,
            cuts: Vec::new(),
            refusals: Refusals::default(),
            refused: BTreeSet::new(),
            connections: BTreeMap::new(),
            accepted: 0,
            cut: 0,
            closed: false,
        };
        let network = Arc::new(Network {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let accepting = network.clone();
        thread::spawn(move || accepting.accept(&listener));
        Self { addr, network }
    }

    /// A proxy that refuses all that managed services refuse.
    pub fn of_a_managed_service(upstream: SocketAddr) -> Self {
        let proxy = Self::start(upstream);
        for (command, error) in refused_by_managed_services() {
            proxy.refuse(command, error);
        }
        proxy
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The Redis URL through the proxy, database 0, no credentials.
    pub fn url(&self) -> String {
        format!("redis://{}/0", self.addr)
    }

    /// Delays every chunk in both directions by this; zero to stop that.
    pub fn set_latency(&self, latency: Duration) {
        self.network.lock().latency = latency;
    }

    /// Leads new connections to another server, as a name does after a failover.
    /// Those that are open stay with the one they have.
    pub fn set_target(&self, upstream: SocketAddr) {
        self.network.lock().upstream = upstream;
    }

    /// A new connection takes this long (a far region, TLS, a slow name server)
    /// before anything gets through; zero to stop that. An open one is as fast as ever.
    pub fn set_connect_delay(&self, delay: Duration) {
        self.network.lock().connect_delay = delay;
    }

    /// All connections together carry no more than so many bytes per second in
    /// each direction; `None` to stop that.
    pub fn set_rate(&self, bytes_per_second: Option<u32>) {
        self.network.lock().link = Link {
            rate: bytes_per_second,
            ..Link::default()
        };
    }

    /// The connections that are open now carry nothing any more, and nobody is
    /// told: the peer has vanished from them. New ones work.
    pub fn silence_open(&self) {
        let mut state = self.network.lock();
        for connection in state.connections.values_mut() {
            connection.silenced = true;
        }
    }

    /// Each connection carries nothing any more from the next request on that
    /// contains this. Others, and other new ones, work.
    pub fn silence_from(&self, request_has: impl AsRef<[u8]>) {
        self.network.lock().silence_from = Some(request_has.as_ref().to_vec());
    }

    /// The server answers this command with this error, on connections that are made from
    /// now on. Within scripts nothing is refused.
    pub fn refuse(&self, command: &str, error: &str) {
        self.network.lock().refusals.add(command, error);
    }

    /// The commands that were asked for and refused so far.
    pub fn refused(&self) -> BTreeSet<String> {
        self.network.lock().refused.clone()
    }

    /// Nothing gets through in either direction, and new connections hang,
    /// until [`heal`](Self::heal). Nobody is told.
    pub fn partition(&self) {
        let mut state = self.network.lock();
        (state.hold_requests, state.hold_replies) = (true, true);
    }

    /// Requests still arrive and are executed, but their replies do not get
    /// back until [`heal`](Self::heal).
    pub fn hold_replies(&self) {
        self.network.lock().hold_replies = true;
    }

    /// Requests do not arrive, until [`heal`](Self::heal).
    pub fn hold_requests(&self) {
        self.network.lock().hold_requests = true;
    }

    /// Requests do not arrive from the next one on that contains this, until
    /// [`heal`](Self::heal). So that one is executed late, and what led to it was not.
    pub fn hold_requests_from(&self, request_has: impl AsRef<[u8]>) {
        self.network.lock().hold_from = Some(request_has.as_ref().to_vec());
    }

    /// Ends every partition; what was held arrives now.
    pub fn heal(&self) {
        let mut state = self.network.lock();
        state.hold_from = None;
        (state.hold_requests, state.hold_replies) = (false, false);
        self.network.changed.notify_all();
    }

    /// Cuts every open connection at once; what is held on them is lost.
    pub fn cut_all(&self) {
        let mut state = self.network.lock();
        let connections = std::mem::take(&mut state.connections);
        state.cut += connections.len() as u64;
        for connection in connections.values() {
            connection.shutdown();
        }
        self.network.changed.notify_all();
    }

    /// Once: the connection on which the next request containing `request_has`
    /// is sent (an empty pattern fits every request) lets `reply_bytes` bytes of
    /// reply through and is cut instead of the next one. The request itself is
    /// executed. With 0, its reply is lost entirely.
    ///
    /// Several cuts may wait; each is used once, in the order given.
    pub fn cut_reply_to(&self, request_has: impl AsRef<[u8]>, reply_bytes: usize) {
        let cut = Cut {
            request_has: request_has.as_ref().to_vec(),
            reply_bytes,
        };
        self.network.lock().cuts.push(cut);
    }

    /// How many connections have been accepted so far.
    pub fn accepted(&self) -> u64 {
        self.network.lock().accepted
    }

    /// How many connections have been cut so far.
    pub fn cut(&self) -> u64 {
        self.network.lock().cut
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.network.lock().closed = true;
        self.cut_all();
        // Wakes the accepting thread, which then sees `closed`.
        let _ = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1));
    }
}

impl Network {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            let mut state = self.lock();
            if state.closed {
                return;
            }
            let Ok(client) = client else { continue };
            let Ok(handle) = client.try_clone() else {
                continue;
            };
            state.accepted += 1;
            let id = state.accepted;
            let connection = Connection {
                client: handle,
                server: None,
                cut_after: None,
                silenced: false,
            };
            state.connections.insert(id, connection);
            let network = self.clone();
            thread::spawn(move || {
                // However it ended: for both sides the connection is over.
                let _ = network.carry(id, client);
                network.remove(id, false);
            });
        }
    }

    /// Carries one connection until its client's side ends.
    fn carry(self: &Arc<Self>, id: u64, client: TcpStream) -> io::Result<()> {
        let (delay, upstream) = {
            let state = self.lock();
            (state.connect_delay, state.upstream)
        };
        if !delay.is_zero() {
            thread::sleep(delay);
        }
        // A SYN does not get through a partition either.
        if !self.pass(id, Direction::Requests) {
            return Ok(());
        }
        let server = TcpStream::connect_timeout(&upstream, Duration::from_secs(5))?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
        }
        match self.lock().connections.get_mut(&id) {
            Some(connection) => connection.server = Some(server.try_clone()?),
            None => return Ok(()),
        }
        let replies = thread::spawn({
            let network = self.clone();
            let (server, client) = (server.try_clone()?, client.try_clone()?);
            move || network.pump(id, Direction::Replies, server, client)
        });
        let sent = self.pump(id, Direction::Requests, client, server);
        let answered = replies.join().unwrap_or(Ok(()));
        sent.and(answered)
    }

    fn pump(
        &self,
        id: u64,
        direction: Direction,
        mut from: TcpStream,
        mut to: TcpStream,
    ) -> io::Result<()> {
        let mut chunk = [0; 16 * 1024];
        let refusals = self.lock().refusals.clone();
        let mut requests = Requests::default();
        loop {
            let n = match from.read(&mut chunk) {
                Ok(n) => n,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                // A reset on one side is the end of both.
                Err(err) => {
                    self.remove(id, false);
                    return Err(err);
                }
            };
            if direction == Direction::Requests {
                self.begin_hold(id, &chunk[..n]);
            }
            self.occupy(direction, n);
            if !self.pass(id, direction) {
                return Ok(());
            }
            if n == 0 {
                let _ = to.shutdown(Shutdown::Write);
                if direction == Direction::Replies {
                    // The server hung up: the client's next read shall end, too.
                    self.remove(id, false);
                }
                return Ok(());
            }
            let let_through = match direction {
                Direction::Requests => {
                    self.arm_cut(id, &chunk[..n]);
                    n
                }
                Direction::Replies => self.spend(id, n),
            };
            if direction == Direction::Requests && !refusals.is_empty() {
                let (passed, refused) = requests.pass(&chunk[..n], &refusals);
                self.lock().refused.extend(refused);
                to.write_all(&passed)?;
            } else {
                to.write_all(&chunk[..let_through])?;
            }
            if let_through < n {
                self.remove(id, true);
                return Ok(());
            }
        }
    }

    /// Waits until the link has carried so many bytes.
    fn occupy(&self, direction: Direction, bytes: usize) {
        let until = {
            let link = &mut self.lock().link;
            let Some(rate) = link.rate else { return };
            let until = match direction {
                Direction::Requests => &mut link.requests_until,
                Direction::Replies => &mut link.replies_until,
            };
            let time = Duration::from_secs_f64(bytes as f64 / f64::from(rate));
            let begins = until.map_or_else(Instant::now, |until| until.max(Instant::now()));
            *until.insert(begins + time)
        };
        thread::sleep(until.saturating_duration_since(Instant::now()));
    }

    /// Waits out latency and partitions; `false` if the connection has ended meanwhile.
    fn pass(&self, id: u64, direction: Direction) -> bool {
        let latency = self.lock().latency;
        if !latency.is_zero() {
            thread::sleep(latency);
        }
        let state = self.lock();
        let state = self
            .changed
            .wait_while(state, |state| {
                let held = match direction {
                    Direction::Requests => state.hold_requests,
                    Direction::Replies => state.hold_replies,
                };
                let connection = state.connections.get(&id);
                connection.is_some_and(|connection| held || connection.silenced)
            })
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        state.connections.contains_key(&id)
    }

    fn begin_hold(&self, id: u64, request: &[u8]) {
        let mut state = self.lock();
        let begins = |pattern: &Vec<u8>| contains(request, pattern);
        if state.hold_from.as_ref().is_some_and(begins) {
            state.hold_from = None;
            state.hold_requests = true;
        }
        if state.silence_from.as_ref().is_some_and(begins)
            && let Some(connection) = state.connections.get_mut(&id)
        {
            connection.silenced = true;
        }
    }

    fn arm_cut(&self, id: u64, request: &[u8]) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(cut) = state
            .cuts
            .iter()
            .position(|cut| contains(request, &cut.request_has))
        else {
            return;
        };
        if let Some(connection) = state.connections.get_mut(&id) {
            connection.cut_after = Some(state.cuts.remove(cut).reply_bytes);
        }
    }

    /// How many of `n` bytes of reply still get through.
    fn spend(&self, id: u64, n: usize) -> usize {
        let mut state = self.lock();
        match state
            .connections
            .get_mut(&id)
            .and_then(|connection| connection.cut_after.as_mut())
        {
            Some(left) => {
                let let_through = n.min(*left);
                *left -= let_through;
                let_through
            }
            None => n,
        }
    }

    fn remove(&self, id: u64, cut: bool) {
        let mut state = self.lock();
        if let Some(connection) = state.connections.remove(&id) {
            state.cut += u64::from(cut);
            connection.shutdown();
        }
        self.changed.notify_all();
    }
}

impl Connection {
    fn shutdown(&self) {
        // Errors mean that it is closed already.
        let _ = self.client.shutdown(Shutdown::Both);
        if let Some(server) = &self.server {
            let _ = server.shutdown(Shutdown::Both);
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    needle.is_empty()
        || haystack
            .windows(needle.len())
            .any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RedisServer, eventually_blocking};

    const SOON: Duration = Duration::from_secs(10);

    fn connect(proxy: &Proxy) -> redis::Connection {
        let client = redis::Client::open(proxy.url()).unwrap();
        let connection = client.get_connection_with_timeout(SOON).unwrap();
        connection.set_read_timeout(Some(SOON)).unwrap();
        connection
    }

    fn incr(connection: &mut redis::Connection) -> redis::RedisResult<i64> {
        redis::cmd("INCR").arg("n").query(connection)
    }

    fn count(server: &RedisServer) -> i64 {
        redis::cmd("GET")
            .arg("n")
            .query::<Option<i64>>(&mut server.connection())
            .unwrap()
            .unwrap_or(0)
    }

    #[test]
    fn a_cut_reply_is_lost_though_the_request_was_executed() {
        let server = RedisServer::start();
        let proxy = Proxy::start(server.addr());
        let (mut hit, mut spared) = (connect(&proxy), connect(&proxy));
        proxy.cut_reply_to("SET", 2);
        proxy.cut_reply_to("INCR", 0);
        assert!(incr(&mut hit).is_err());
        assert_eq!(count(&server), 1);
        assert_eq!(incr(&mut spared).unwrap(), 2, "a cut is used once");
        let cut_in_the_middle = redis::cmd("SET").arg("k").arg("v").exec(&mut spared);
        assert!(cut_in_the_middle.is_err(), "two bytes are no reply");
        assert_eq!((proxy.cut(), proxy.accepted()), (2, 2));
        assert_eq!(incr(&mut connect(&proxy)).unwrap(), 3);
    }

    #[test]
    fn a_partition_holds_and_a_request_given_up_is_executed_late() {
        let server = RedisServer::start();
        let proxy = Proxy::start(server.addr());
        let mut connection = connect(&proxy);
        connection
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        proxy.partition();
        assert!(incr(&mut connection).is_err());
        drop(connection);
        assert_eq!(count(&server), 0, "nothing gets through");
        proxy.heal();
        eventually_blocking("the late INCR", SOON, || count(&server) == 1);
        assert_eq!(incr(&mut connect(&proxy)).unwrap(), 2);
    }

    #[test]
    fn requests_are_held_from_the_one_that_is_named() {
        let server = RedisServer::start();
        let proxy = Proxy::start(server.addr());
        let (mut first, mut second) = (connect(&proxy), connect(&proxy));
        proxy.hold_requests_from("INCR");
        let other = redis::cmd("SET").arg("k").arg("v").exec(&mut first);
        assert!(other.is_ok(), "another is not held");
        let asking = thread::spawn(move || incr(&mut first));
        eventually_blocking("the hold", SOON, || proxy.network.lock().hold_requests);
        second
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        assert!(incr(&mut second).is_err(), "nor does anything after it");
        assert_eq!(count(&server), 0);
        proxy.heal();
        asking.join().unwrap().unwrap();
        eventually_blocking("the late INCR", SOON, || count(&server) == 2);
    }

    #[test]
    fn held_replies_do_not_keep_requests_from_being_executed() {
        let server = RedisServer::start();
        let proxy = Proxy::start(server.addr());
        let mut connection = connect(&proxy);
        proxy.hold_replies();
        let asking = thread::spawn(move || incr(&mut connection));
        eventually_blocking("the INCR", SOON, || count(&server) == 1);
        assert!(!asking.is_finished());
        proxy.heal();
        assert_eq!(asking.join().unwrap().unwrap(), 1);
    }

    #[test]
    fn latency_delays_and_cutting_all_ends_every_connection() {
        let server = RedisServer::start();
        let proxy = Proxy::start(server.addr());
        let mut connection = connect(&proxy);
        proxy.set_latency(Duration::from_millis(50));
        let asked = std::time::Instant::now();
        incr(&mut connection).unwrap();
        assert!(
            asked.elapsed() >= Duration::from_millis(100),
            "{:?}",
            asked.elapsed()
        );
        proxy.set_latency(Duration::ZERO);
        proxy.cut_all();
        assert!(incr(&mut connection).is_err());
        assert_eq!(count(&server), 1);
    }

    #[test]
    fn what_is_refused_is_answered_in_order_with_the_error() {
        let server = RedisServer::start();
        let proxy = Proxy::start(server.addr());
        proxy.refuse("config", "ERR unknown command 'CONFIG'");
        proxy.refuse("CLIENT", "NOPERM this user has no permissions");
        let mut connection = connect(&proxy);
        let long = "x".repeat(100_000);
        let mut pipeline = redis::pipe();
        pipeline.cmd("INCR").arg("n");
        pipeline.cmd("CONFIG").arg("GET").arg("maxmemory");
        pipeline.cmd("ECHO").arg(&long);
        pipeline.cmd("client").arg("LIST");
        pipeline.ignore_errors();
        type Four = (i64, redis::RedisResult<()>, String, redis::RedisResult<()>);
        let (n, config, echo, client): Four = pipeline.query(&mut connection).unwrap();
        assert_eq!((n, echo), (1, long));
        let config = config.unwrap_err();
        assert_eq!(
            (config.code(), config.detail()),
            (Some("ERR"), Some("unknown command 'CONFIG'"))
        );
        assert_eq!(client.unwrap_err().code(), Some("NOPERM"));
        assert!(proxy.refused().iter().eq(["CLIENT", "CONFIG"]));
    }

    #[test]
    fn new_connections_lead_to_another_server_and_open_ones_stay() {
        let (old, new) = (RedisServer::start(), RedisServer::start());
        let proxy = Proxy::start(old.addr());
        let mut kept = connect(&proxy);
        proxy.set_target(new.addr());
        incr(&mut connect(&proxy)).unwrap();
        assert_eq!(incr(&mut kept).unwrap(), 1);
        assert_eq!((count(&old), count(&new)), (1, 1));
    }

    #[test]
    fn a_connection_takes_long_to_make_and_is_as_fast_as_ever_then() {
        const DELAY: Duration = Duration::from_millis(200);
        let server = RedisServer::start();
        let proxy = Proxy::start(server.addr());
        let mut open = connect(&proxy);
        proxy.set_connect_delay(DELAY);
        let asked = Instant::now();
        incr(&mut connect(&proxy)).unwrap();
        assert!(asked.elapsed() >= DELAY, "{:?}", asked.elapsed());
        // A hundred with that delay in each would take 20 s.
        let asked = Instant::now();
        for _ in 0..100 {
            incr(&mut open).unwrap();
        }
        assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
        proxy.set_connect_delay(Duration::ZERO);
        incr(&mut connect(&proxy)).unwrap();
    }

    #[test]
    fn all_connections_together_carry_no_more_than_the_rate() {
        let server = RedisServer::start();
        let proxy = Proxy::start(server.addr());
        let mut connections = [connect(&proxy), connect(&proxy)];
        let value = "x".repeat(100_000);
        proxy.set_rate(Some(1_000_000));
        let asked = Instant::now();
        thread::scope(|scope| {
            for connection in &mut connections {
                scope.spawn(|| redis::cmd("SET").arg("k").arg(&value).exec(connection));
            }
        });
        let took = asked.elapsed();
        assert!(took >= Duration::from_millis(200), "{took:?}");
        let asked = Instant::now();
        let got: String = redis::cmd("GET")
            .arg("k")
            .query(&mut connections[0])
            .unwrap();
        let took = asked.elapsed();
        assert_eq!(got, value);
        assert!(took >= Duration::from_millis(100), "{took:?}");
    }

    #[test]
    fn a_dead_server_is_noticed_and_comes_back() {
        let mut server = RedisServer::start();
        let proxy = Proxy::start(server.addr());
        let mut connection = connect(&proxy);
        server.kill();
        assert!(incr(&mut connection).is_err());
        server.start_again();
        assert_eq!(incr(&mut connect(&proxy)).unwrap(), 1);
    }

    #[test]
    fn what_was_open_goes_silent_and_what_is_new_does_not() {
        let server = RedisServer::start();
        let proxy = Proxy::start(server.addr());
        let mut open = connect(&proxy);
        open.set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        proxy.silence_open();
        assert!(incr(&mut open).is_err());
        let answer = incr(&mut connect(&proxy));
        assert_eq!(answer.unwrap(), 1, "the silent one's is held");
    }
}
