//! Servers in cluster mode, where per-stream locks cannot be had: the wire format's
//! keys of locks lie in other slots than the LBS, and scripts work on both.

use redis_rs::cmd;
use streamlease_core::{Error, ErrorKind, Result};

use crate::connection::Server;
use crate::decode;

/// Says at start what would otherwise fail at each heartbeat, for ever.
pub(crate) async fn refuse_per_stream_locks(server: &Server) -> Result<()> {
    if !is_cluster(server).await? {
        return Ok(());
    }
    Err(Error::config(format!(
        "per-stream locks do not work with a server in cluster mode ({}): their keys lie in \
         other slots. Use session leases (`LockScheme::Session`), \
         or a server without cluster mode for fleets with Go consumers",
        server.endpoint()
    )))
}

/// HELLO without arguments changes nothing, and needs no rights. A server that does not
/// know it, or a proxy in front, is taken for none.
pub(crate) async fn is_cluster(server: &Server) -> Result<bool> {
    let reply = match server.command("asking for the mode", &cmd("HELLO")).await {
        Err(err) if err.kind() != ErrorKind::Unavailable => return Ok(false),
        reply => reply?,
    };
    let mode = decode::pairs(reply)?.into_iter().find_map(|(name, value)| {
        let is_mode = decode::bytes(name).is_ok_and(|name| name == b"mode");
        is_mode.then(|| decode::bytes(value))
    });
    Ok(matches!(mode, Some(Ok(mode)) if mode == b"cluster"))
}
