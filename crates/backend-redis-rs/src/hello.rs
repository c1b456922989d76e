//! [`Hello`]: what a server says that it is, and what is refused because of it.

use redis_rs::aio::MultiplexedConnection;
use redis_rs::{Value, cmd};
use streamlease_core::{Error, ErrorKind, Result};

use crate::connection::Server;
use crate::decode;
use crate::error::from_server;

/// The answer to HELLO without arguments, which changes nothing and needs no rights.
/// Empty from a server that does not know it, or a proxy in front.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) server: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) mode: Option<String>,
    pub(crate) role: Option<String>,
}

impl Hello {
    /// What the server at the other end of `connection` is.
    pub(crate) async fn of(what: &str, connection: &mut MultiplexedConnection) -> Result<Self> {
        let reply = connection.send_packed_command(&cmd("HELLO")).await;
        match reply.map_err(|err| crate::error::from_redis(what, err)) {
            Ok(Value::ServerError(err)) => Self::unless_away(Err(from_server(what, &err))),
            reply => Self::unless_away(reply),
        }
    }

    /// What the server that commands are sent to is.
    pub(crate) async fn of_server(server: &Server) -> Result<Self> {
        Self::unless_away(server.command("asking for the mode", &cmd("HELLO")).await)
    }

    fn unless_away(reply: Result<Value>) -> Result<Self> {
        match reply {
            Err(err) if err.kind() != ErrorKind::Unavailable => Ok(Self::default()),
            reply => Self::read(reply?),
        }
    }

    fn read(reply: Value) -> Result<Self> {
        let mut hello = Self::default();
        for (name, value) in decode::pairs(reply)? {
            match &*decode::bytes(name)? {
                b"server" => hello.server = Some(decode::text(value)?),
                b"version" => hello.version = Some(decode::text(value)?),
                b"mode" => hello.mode = Some(decode::text(value)?),
                b"role" => hello.role = Some(decode::text(value)?),
                _ => {}
            }
        }
        Ok(hello)
    }
}

/// Says at start what would otherwise fail at each heartbeat, for ever: the wire format's
/// keys of locks lie in other slots than the LBS, and scripts work on both.
pub(crate) async fn refuse_per_stream_locks(server: &Server) -> Result<()> {
    if !is_cluster(server).await? {
        return Ok(());
    }
    Err(no_per_stream_locks(server.endpoint()))
}

/// What there is instead.
pub(crate) fn no_per_stream_locks(endpoint: &str) -> Error {
    Error::config(format!(
        "per-stream locks do not work with a server in cluster mode ({endpoint}): their keys \
         lie in other slots. Use session leases (`LockScheme::Session`), \
         or a server without cluster mode for fleets with Go consumers"
    ))
}

/// Whether the server is in cluster mode.
pub(crate) async fn is_cluster(server: &Server) -> Result<bool> {
    let hello = Hello::of_server(server).await?;
    Ok(hello.mode.as_deref() == Some("cluster"))
}
