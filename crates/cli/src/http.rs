//! `work --http`: answers probes, and shows the metrics to Prometheus.
//!
//! On threads of its own: an executor that is blocked must not keep anybody from hearing of it.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use streamlease::metrics::{Metrics, buckets};
use streamlease::spi::readable;
use streamlease::{Client, Health};

use crate::Failure;

/// The longest that a request or an answer takes.
const LIMIT: Duration = Duration::from_secs(2);

/// The longest head of a request.
const MOST_BYTES: usize = 8_192;

/// The most connections at a time. For who comes then another one is closed.
const MOST_CONNECTIONS: usize = 16;

/// What was measured is summed up so often, also if nobody asks for it.
const UPKEEP: Duration = Duration::from_secs(5);

/// Listens already, and answers once there is a client to tell of.
#[derive(Debug)]
pub(crate) struct Http {
    listener: TcpListener,
    exporter: PrometheusHandle,
    recorder: Arc<Metrics>,
}

impl Http {
    pub(crate) fn listen(address: &str, service: &str) -> Result<Self, Failure> {
        let failed = |what: &str, err: &dyn std::fmt::Display| {
            Failure::other(format!("--http {address}: {what}: {err}"))
        };
        let listener = TcpListener::bind(address).map_err(|err| failed("cannot listen", &err))?;
        let exporter = install_exporter().map_err(|err| failed("cannot measure", &err))?;
        Ok(Self {
            listener,
            exporter,
            recorder: Metrics::of(service),
        })
    }

    pub(crate) fn recorder(&self) -> Arc<Metrics> {
        self.recorder.clone()
    }

    /// Answers until the process ends.
    pub(crate) fn serve(self, client: Client) -> io::Result<()> {
        let address = self.listener.local_addr()?;
        log::info!("probes and metrics are at http://{address}");
        let exporter = self.exporter.clone();
        let upkeep = move || {
            loop {
                thread::sleep(UPKEEP);
                exporter.run_upkeep();
            }
        };
        thread::Builder::new()
            .name("metrics".into())
            .spawn(upkeep)?;
        let accept = move || {
            let open = Arc::new(Open::default());
            for stream in self.listener.incoming() {
                let Ok(stream) = stream else {
                    // Too many open files, perhaps: not for ever.
                    thread::sleep(Duration::from_millis(100));
                    continue;
                };
                let connection = Connection::new(&open, stream);
                let (client, exporter) = (client.clone(), self.exporter.clone());
                // Without a thread it is closed at once.
                let _ = thread::Builder::new().name("http".into()).spawn(move || {
                    if let Err(err) = answer(&connection, &client, &exporter) {
                        log::debug!("a request over HTTP failed: {err}");
                    }
                });
            }
        };
        thread::Builder::new().name("http".into()).spawn(accept)?;
        Ok(())
    }
}

/// The connections that are open, oldest first.
#[derive(Default)]
struct Open(Mutex<Vec<Arc<Peer>>>);

struct Peer {
    stream: TcpStream,
    /// Its request is there, and is answered.
    has_asked: AtomicBool,
}

/// One of them. It is closed and its place is free again however that ends.
struct Connection {
    open: Arc<Open>,
    peer: Arc<Peer>,
}

impl Open {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Peer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// Whoever only holds connections must not keep a probe from its answer: if there are too
    /// many, the oldest that has not asked yet is closed, or else the oldest.
    fn new(open: &Arc<Open>, stream: TcpStream) -> Self {
        let peer = Arc::new(Peer {
            stream,
            has_asked: AtomicBool::new(false),
        });
        let mut all = open.lock();
        if all.len() >= MOST_CONNECTIONS {
            let is_silent = |peer: &Arc<Peer>| !peer.has_asked.load(Ordering::Relaxed);
            let oldest = all.iter().position(is_silent).unwrap_or(0);
            let closed = all.remove(oldest);
            // Its thread ends by that.
            let _ = closed.stream.shutdown(Shutdown::Both);
        }
        all.push(peer.clone());
        drop(all);
        Self {
            open: open.clone(),
            peer,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open
            .lock()
            .retain(|peer| !Arc::ptr_eq(peer, &self.peer));
    }
}

fn install_exporter() -> Result<PrometheusHandle, Box<dyn std::error::Error>> {
    let mut exporter = PrometheusBuilder::new();
    for (name, bounds) in buckets() {
        exporter = exporter.set_buckets_for_metric(Matcher::Full(name.to_owned()), bounds)?;
    }
    let recorder = exporter.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)?;
    Ok(handle)
}

/// Status and body.
type Answer = (&'static str, String);

fn answer(connection: &Connection, client: &Client, exporter: &PrometheusHandle) -> io::Result<()> {
    let mut stream = &connection.peer.stream;
    stream.set_write_timeout(Some(LIMIT))?;
    let request = request(stream)?;
    connection.peer.has_asked.store(true, Ordering::Relaxed);
    let is_head = matches!(&request, Some((method, _)) if method == "HEAD");
    let (status, body) = match request {
        Some((method, target)) if is_head || method == "GET" => {
            page(path(&target), client, exporter)
        }
        Some(_) => ("405 Method Not Allowed", "only GET and HEAD\n".to_owned()),
        None => ("400 Bad Request", "this is no request\n".to_owned()),
    };
    // HEAD is told how long the body is that GET gets.
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    match is_head {
        true => Ok(()),
        false => stream.write_all(body.as_bytes()),
    }
}

/// Method and target; `None` if it is not HTTP, or too long.
fn request(mut stream: &TcpStream) -> io::Result<Option<(String, String)>> {
    let deadline = Instant::now() + LIMIT;
    let mut head = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || head.len() > MOST_BYTES {
            return Ok(None);
        }
        stream.set_read_timeout(Some(left))?;
        let mut bytes = [0; 1_024];
        let read = stream.read(&mut bytes)?;
        if read == 0 {
            return Ok(None);
        }
        head.extend_from_slice(&bytes[..read]);
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&head) {
            Ok(httparse::Status::Partial) => {}
            Ok(httparse::Status::Complete(_)) => {
                let (method, target) = (request.method, request.path);
                return Ok(method
                    .zip(target)
                    .map(|(method, target)| (method.to_owned(), target.to_owned())));
            }
            Err(_) => return Ok(None),
        }
    }
}

/// The path of a target, which proxies give with scheme and host in front.
fn path(target: &str) -> &str {
    let is_scheme = |scheme: &str| {
        ["http", "https"]
            .iter()
            .any(|known| scheme.eq_ignore_ascii_case(known))
    };
    let path = match target.split_once("://") {
        Some((scheme, rest)) if is_scheme(scheme) => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => target,
    };
    path.split(['?', '#']).next().unwrap_or(path)
}

fn page(path: &str, client: &Client, exporter: &PrometheusHandle) -> Answer {
    let health = client.health();
    let status = |is_well: bool| match is_well {
        true => "200 OK",
        false => "503 Service Unavailable",
    };
    match path {
        "/livez" => (status(health.is_live()), told(&health)),
        "/readyz" => (status(health.is_ready()), told(&health)),
        "/metrics" => ("200 OK", exporter.render()),
        _ => (
            "404 Not Found",
            "there are /livez, /readyz and /metrics\n".to_owned(),
        ),
    }
}

/// Why it is as it is, for who looks by hand.
fn told(health: &Health) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &dyn std::fmt::Debug| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name}: {value:?}");
    };
    line("live", &health.is_live());
    line("ready", &health.is_ready());
    line("session_alive", &health.session_alive);
    let times = [
        ("unreachable_for", health.unreachable_for),
        ("last_heartbeat", health.last_heartbeat),
        ("margin", health.margin),
        ("believed_for", health.believed_for),
    ];
    for (name, time) in times {
        if let Some(time) = time {
            line(name, &format_args!("{}", readable(time)));
        }
    }
    line("late_by", &format_args!("{}", readable(health.late_by)));
    line("held", &health.held);
    line("capacity", &health.capacity);
    if let Some(members) = health.members {
        line("members", &members);
    }
    line("ending", &health.ending);
    line("paused", &health.paused);
    text
}
