//! Whether the other side speaks TLS where we do. If not, nothing says so: a server without
//! it waits for the rest of what it takes for a command, and one with it hangs up.

use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use futures_lite::future;
use redis_rs::{ConnectionAddr, RedisError, RedisResult};
use streamlease_core::{Error, Result};

use super::address::Address;
use crate::error::from_redis;
use crate::{timer, tls};

/// How long a server may be silent to the first words of TLS before it is asked without.
/// Sentinels' answers are waited for a second, all in all.
const SILENCE: Duration = Duration::from_millis(500);
/// How long its answer to that may take.
const ANSWER_WITHIN: Duration = Duration::from_millis(800);

/// How often a server may hang up on TLS without having said why. One that refuses our
/// certificate tells us and hangs up at once: what we write may fail by that before what it
/// said is read.
const TRIES: usize = 3;

/// What is said to hear whether a server knows no TLS: it answers, perhaps with an error.
const PLAIN: &[u8] = b"PING\r\n";
/// And whether it knows TLS: a hello in which everything is missing. It answers with an alert.
const TLS: &[u8] = &[0x16, 3, 1, 0, 4, 1, 0, 0, 0];

/// What `connect` brings, or that it cannot work like that.
pub(super) async fn connect<T, F: Future<Output = RedisResult<T>>>(
    what: &str,
    to: &ConnectionAddr,
    connect: impl Fn() -> F,
) -> Result<T> {
    let has_tls = matches!(to, ConnectionAddr::TcpTls { .. });
    let mut tries = 0;
    loop {
        let found_out = async {
            timer::sleep(SILENCE).await;
            match has_tls && speaks_plain(to).await {
                true => Err(without_tls(what)),
                false => future::pending().await,
            }
        };
        let connected = async { Ok(connect().await) };
        let err = match future::or(connected, found_out).await? {
            Ok(connection) => return Ok(connection),
            Err(err) => err,
        };
        tries += 1;
        if !has_hung_up(&err) {
            return Err(from_redis(what, err));
        }
        if has_tls && speaks_plain(to).await {
            return Err(without_tls(what));
        }
        if !has_tls && speaks_tls(to).await {
            return Err(Error::config(format!(
                "{what}: that port speaks TLS, so the URL has to begin with rediss"
            )));
        }
        if !has_tls || tries >= TRIES {
            return Err(from_redis(what, err));
        }
    }
}

fn without_tls(what: &str) -> Error {
    Error::config(format!(
        "{what}: that port answers without TLS; the URL has to name the one for TLS, or to \
         begin with redis, without the second s"
    ))
}

/// In the middle, or with something that makes no sense to TLS. Not: it cannot be reached.
fn has_hung_up(err: &RedisError) -> bool {
    let text = err.to_string();
    let makes_no_sense = ["corrupt message", "wrong version number"]
        .iter()
        .any(|part| text.contains(part));
    let is_dropped = err.is_connection_dropped() && !err.is_connection_refusal();
    makes_no_sense || (is_dropped && tls::refusal(&text).is_none())
}

async fn speaks_plain(to: &ConnectionAddr) -> bool {
    let heard = heard(to, PLAIN).await;
    heard.is_some_and(|heard| matches!(heard, [b'+' | b'-', _]))
}

async fn speaks_tls(to: &ConnectionAddr) -> bool {
    let heard = heard(to, TLS).await;
    // An alert, or a hello, of any version.
    heard.is_some_and(|heard| matches!(heard, [0x15 | 0x16, 3]))
}

/// How the other side's answer begins. On a thread: that is the same for every executor, and
/// rare.
async fn heard(to: &ConnectionAddr, said: &'static [u8]) -> Option<[u8; 2]> {
    let address = Address::of(to)?;
    let (tell, heard) = async_channel::bounded(1);
    let ask = move || {
        // Nobody may wait for it any more.
        let _ = tell.try_send(answer(&address, said));
    };
    let thread = std::thread::Builder::new().name("streamlease-probe".to_owned());
    thread.spawn(ask).ok()?;
    heard.recv().await.ok()?.ok()
}

fn answer(to: &Address, said: &[u8]) -> io::Result<[u8; 2]> {
    let addresses = (to.host.as_str(), to.port).to_socket_addrs()?;
    let mut last = io::ErrorKind::NotFound.into();
    for address in addresses {
        match TcpStream::connect_timeout(&address, ANSWER_WITHIN) {
            Err(err) => last = err,
            Ok(mut stream) => {
                stream.set_read_timeout(Some(ANSWER_WITHIN))?;
                stream.write_all(said)?;
                let mut begin = [0; 2];
                stream.read_exact(&mut begin)?;
                return Ok(begin);
            }
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn hang_up() -> RedisError {
        io::Error::from(io::ErrorKind::BrokenPipe).into()
    }

    /// A connect that fails so often; the answer, and how often it was asked.
    fn connected(to: &ConnectionAddr, failures: usize, err: fn() -> RedisError) -> (bool, usize) {
        let asked = Cell::new(0);
        let connect = || {
            asked.set(asked.get() + 1);
            let result = if asked.get() <= failures {
                Err(err())
            } else {
                Ok(())
            };
            future::ready(result)
        };
        let answer = future::block_on(super::connect("connecting", to, connect));
        (answer.is_ok(), asked.get())
    }

    /// Nobody listens there, so that nothing is heard when it is asked what is spoken.
    fn closed_port(is_tls: bool) -> ConnectionAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let host = "127.0.0.1".to_owned();
        match is_tls {
            true => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            },
            false => ConnectionAddr::Tcp(host, port),
        }
    }

    #[test]
    fn a_server_that_hangs_up_on_tls_without_a_reason_is_asked_three_times() {
        let tls = closed_port(true);
        assert_eq!(connected(&tls, 0, hang_up), (true, 1));
        assert_eq!(connected(&tls, 2, hang_up), (true, 3));
        assert_eq!(connected(&tls, 3, hang_up), (false, 3));
        let says_why = || io::Error::other("received fatal alert: CertificateRequired").into();
        assert_eq!(connected(&tls, 1, says_why), (false, 1));
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused).into();
        assert_eq!(connected(&tls, 1, refused), (false, 1));
        assert_eq!(connected(&closed_port(false), 1, hang_up), (false, 1));
    }
}
