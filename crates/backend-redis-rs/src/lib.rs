//! Transport, lock manager and notifier of **streamlease** on one Redis or
//! Valkey server (7.0 or later), with the `redis` crate.
//!
//! [`RedisBackend::connect`] is all there is to it; hand the result to
//! `Client::builder(…).backend(…)` or `Producer::builder(…).backend(…)`.
//!
//! # Features
//! | feature | what it does |
//! |---|---|
//! | `tokio` | connections and timers on tokio |
//! | `smol` | connections and timers on smol's own threads: under smol, async-std or any other executor |
//! | `tls-rustls` | `rediss://` with rustls, for every runtime that is enabled |
//! | `tls-native-tls` | `rediss://` with the system's TLS, for every runtime that is enabled |
//!
//! None is on by default, any combination compiles, and at least one of the
//! first two is needed to connect. With both, each call decides by where it
//! runs: inside a tokio runtime tokio is used, elsewhere smol. With
//! `tls-rustls` the application may install a rustls crypto provider of its
//! choice before it connects; otherwise `ring` is installed. With both TLS
//! features the redis crate (1.8) uses rustls and leaves the system's root
//! certificates out, so that no server is trusted: enable one of them only.
//!
//! # Keys
//! Everything is on the wire as the Go library `redis-stream-client-go` has it,
//! so that fleets may be mixed; what it does not know has keys of its own. For a
//! service `orders`:
//!
//! | key | what it is |
//! |---|---|
//! | `orders-input` | the LBS, a stream; field `lbs-input` |
//! | `orders-group` | its consumer group (a name, not a key) |
//! | `<data stream><MUTEX_KEY_SEP><entry id>` | the lock of one assignment, with a time to live; the middle part is that literal text |
//! | `{orders-input}:lock:<data stream>` | the lock of one data stream, with the same value and time to live |
//! | `{orders-input}:tokens` | hash: entry id → greatest token, whether handed back, failures |
//! | `{orders-input}:counter` | the last token minted |
//! | `{orders-input}:sessions` | sorted set: session → deadline in ms of the server's clock |
//! | `{orders-input}:sessions:buried` | sorted set: sessions that must not come back, for an hour |
//! | `{orders-input}:refused` | sorted set: data streams that somebody was refused → until when |
//! | `{orders-input}:sweep` | who has the turn to sweep |
//! | `{orders-input}:batch:<id>` | list: entry ids of a submitted batch, for 10 minutes |
//! | `{orders-input}:quarantine` | hash: entry id → reason, failures, who, when, raw fields |
//! | `{orders-input}:quarantine:index` | sorted set: the quarantine in the order of the LBS |
//! | `{orders-input}:released:<id>` | the new id of an entry that came back from the quarantine, for 10 minutes |
//! | `{orders-input}:hints` | a pub/sub channel |
//! | `{orders-input}:probe` | expires at once, to see whether the server tells of it |
//!
//! If the LBS key has a hash tag of its own (`a{eu}-input`), it stands in
//! front of the others as it is, without further braces.
//!
//! A lock's value is `<consumer>/<16 hex digits>/<token>/<entry id>/<attempt>`;
//! any other value is a foreign holder's name.
//!
//! # Connections
//! One for commands, one per blocking fetch (kept for the next one) and one per
//! subscription. Each is made anew when it breaks; answers are waited for 2 s.
//!
//! # Rights
//! An ACL user needs `EVAL`, `EVALSHA`, `PING`, `SELECT`, `SUBSCRIBE`,
//! `PSUBSCRIBE`, `PUBLISH`, `SET`, `GET`, `MGET`, `DEL`, `EXISTS`, `PTTL`, `PEXPIRE`, `TIME`,
//! the stream commands and those on hashes, lists and sorted sets, on the keys above.
//! `CONFIG`, and the channels, are made use of where they are granted: without
//! them failover goes by deadlines alone.

#[cfg(any(feature = "tokio", feature = "smol"))]
mod backend;
#[cfg(any(feature = "tokio", feature = "smol"))]
mod connection;
#[cfg(any(feature = "tokio", feature = "smol"))]
mod decode;
#[cfg(any(feature = "tokio", feature = "smol"))]
mod error;
#[doc(hidden)]
#[cfg(all(any(test, fuzzing), any(feature = "tokio", feature = "smol")))]
pub mod fuzzing;
#[cfg(any(feature = "tokio", feature = "smol"))]
mod keys;
#[cfg(any(feature = "tokio", feature = "smol"))]
mod locks;
#[cfg(any(feature = "tokio", feature = "smol"))]
mod notifier;
#[cfg(any(feature = "tokio", feature = "smol"))]
mod timer;
#[cfg(any(feature = "tokio", feature = "smol"))]
mod transport;
#[cfg(not(any(feature = "tokio", feature = "smol")))]
mod unsupported;

#[cfg(any(feature = "tokio", feature = "smol"))]
pub use backend::RedisBackend;
#[cfg(not(any(feature = "tokio", feature = "smol")))]
pub use unsupported::RedisBackend;
