//! Transport, lock manager and notifier of **streamlease** on Redis or Valkey (7.0 or
//! later), with the `redis` crate.
//!
//! [`RedisBackend::new`] (no I/O; the first call connects) or
//! [`RedisBackend::connect`] (an error if the server is not up) is all there is to
//! it; hand the result to `Client::builder(…).backend(…)` or
//! `Producer::new(service, &backend, runtime)`.
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
//! runs: inside a tokio runtime tokio is used, elsewhere smol.
//!
//! With both TLS features rustls is used. Its crypto provider is the one that the application
//! has installed, else `ring`, installed when a URL with TLS is read. It is the process's: an
//! application that wants another one installs it before.
//!
//! # Where the server is
//! | URL | the server |
//! |---|---|
//! | `redis://user:password@host:6379/0`, `unix:///path` | one, by its name |
//! | `redis-sentinel://user:password@host:26379,host:26379/mymaster/0` | the primary that most of these sentinels name |
//! | `redis-cluster://user:password@host:6379,host:6379` | for each service the node that has the slot of its keys, with session leases |
//!
//! `rediss://`, `rediss-sentinel://` and `rediss-cluster://` are the same over TLS. The
//! credentials are those of the server. In a user name or a password write `/` as `%2F`, `?` as
//! `%3F`, `#` as `%23`, `@` as `%40`, `:` as `%3A`, `&` as `%26`, `+` as `%2B` and `%` as `%25`. Sentinels are asked at each doubt, and once a second while what they named is
//! used: a primary that they have replaced answers, and acknowledges writes that will be
//! lost, for ten seconds. Of a cluster all nodes that are known are asked at once, at each
//! doubt: those of the URL, for ever, and those that they have named. What a server says
//! that it has not executed (`MOVED`, `ASK`, `TRYAGAIN`, `CLUSTERDOWN`, `READONLY`, …) is sent
//! again behind sentinels and on a cluster, for a second and a half at most. Nothing is that
//! may have been executed.
//!
//! What a URL cannot say is for [`RedisBackend::builder`].
//!
//! # Two kinds of locks
//! [`RedisBackend::with_lock_scheme`] chooses. **Per-stream locks** are what
//! `redis-stream-client-go` has on the wire, so that fleets may be mixed; a heartbeat
//! renews each lock. With **session leases** a consumer has one deadline for
//! everything it holds: a heartbeat is one script call for any number of streams, and
//! its reply tells who is dead. Their keys have no time to live, and nothing
//! waits for notifications of expired keys.
//!
//! A service keeps the kind with which its group was made, and refuses consumers
//! with the other one. A group without a record of it was made by a Go consumer,
//! and session leases refuse it too.
//!
//! After a restart of the server, which may have lost the last second of writes,
//! and after a forward step of its clock, session leases leave everything as it
//! is for one TTL: live owners send a heartbeat first, and until then nothing new is
//! acquired or taken over (ten seconds, if a TTL is longer). Restarts are told by the server's run id, steps of the
//! clock by consumers that knew the time before; a server that lost everything
//! by consumers that knew it before. If the first to call afterwards cannot know
//! (it has just started, or the step is less than half its TTL, and others have
//! shorter ones), it goes unnoticed: the leases of those who live run out at once,
//! and until they hear of it, at most for a TTL, tokens alone keep them out.
//!
//! # Keys
//! The load balancer stream (LBS), and with per-stream locks their keys too, are on the wire as the Go
//! library has them; what it does not know has keys of its own. For a service
//! `orders`:
//!
//! | key | what it is |
//! |---|---|
//! | `orders-input` | the LBS, a stream; field `lbs-input` |
//! | `orders-group` | its consumer group (a name, not a key) |
//! | `{orders-input}:scheme` | `per-stream` or `session` |
//! | `<data stream><MUTEX_KEY_SEP><entry id>` | per-stream locks: the lock of one assignment, with a time to live; the middle part is that literal text |
//! | `{orders-input}:lock:<data stream>` | per-stream locks: the lock of one data stream, with the same value and time to live |
//! | `{orders-input}:owners` | session leases: hash: data stream → its lease, as a lock's value |
//! | `{orders-input}:leases:<session>` | session leases: sorted set by name: data streams of one session |
//! | `{orders-input}:leases:<session>:marks` | session leases: hash: data stream → token of a lease to be released |
//! | `{orders-input}:sessions:details` | session leases: hash: TTL and latest acquire of each session |
//! | `{orders-input}:server` | session leases: hash: run id and clock of the server when last looked at, and until when the grace after a restart lasts (field `calm`) |
//! | `{orders-input}:tokens` | hash: entry id → greatest token, whether handed back, failures, their last reasons |
//! | `{orders-input}:counter` | the last token minted |
//! | `{orders-input}:sessions` | sorted set: session → deadline in ms of the server's clock |
//! | `{orders-input}:sessions:buried` | sorted set: removed sessions, for an hour: they must not come back |
//! | `{orders-input}:refused` | sorted set: data streams that somebody was refused → until when |
//! | `{orders-input}:sweep` | who has the turn to sweep |
//! | `{orders-input}:announced` | hash: data stream → its latest entry, for submits that ask what is absent |
//! | `{orders-input}:batch:<id>` | list: what became of a submitted batch, for 10 minutes |
//! | `{orders-input}:quarantine` | hash: entry id → reason, failures with their last reasons, who, when, raw fields |
//! | `{orders-input}:quarantine:index` | sorted set: the quarantine in the order of the LBS |
//! | `{orders-input}:released:<id>` | the new id of an entry that came back from the quarantine, for 10 minutes |
//! | `{orders-input}:paused` | while the service is paused: since when (ms), a colon, why |
//! | `{orders-input}:hints` | a pub/sub channel |
//! | `{orders-input}:probe` | expires at once, to see whether the server tells of it |
//!
//! The hashes of owners and of fencing records have one field with no name, a mark by
//! which heartbeats see that the key has vanished. Whatever key vanishes alone, no two own for
//! longer than after any lossy fault, nothing is stuck and nobody is refused; but it costs
//! leases, and with the LBS its announcements. So the server's `maxmemory-policy` should
//! be `noeviction` (a start warns of others). When memory is full then, only submitting
//! and releasing from the quarantine are refused.
//!
//! If the LBS key has a hash tag of its own (`a{eu}-input`), it stands in
//! front of the others as it is, without further braces.
//!
//! A lock's value is `<consumer>/<16 hex digits>/<token>/<entry id>/<attempt>`;
//! any other value is a foreign holder's name.
//!
//! A server in cluster mode is refused with per-stream locks: their keys lie in other
//! slots. With session leases all keys of a service are in one slot. Scripts that make up
//! keys declare one beside them that never exists (`{orders-input}:leases:`): so a node
//! refuses them before they begin while it has not all of the slot.
//!
//! # Connections
//! One for commands, one for each blocking fetch, listing or long submit under way (kept
//! for the next one, for half a minute) and one per subscription.
//!
//! Connecting, from the look-up of the name to the credentials, may take 8 s, goes on
//! when those who wait for it lose patience, and fails for all of them at once.
//! Answers are waited for 2 s; a connection that is silent while somebody gives
//! up on it is replaced earlier, and when the new one is answered, blocked reads and
//! subscriptions of the same time are given up too. An answer that says that the
//! server is not the one to talk to (`READONLY`, `MASTERDOWN`, `MOVED`,
//! `CLUSTERDOWN`, a read that a change of role ended; `LOADING`, `NOREPLICAS`,
//! `ASK`, `TRYAGAIN`, `NOAUTH` when they last for 2 s) makes all connections be given
//! up, and the owner be looked up anew: a name that leads to the primary is enough to
//! follow it.
//!
//! # Rights
//! [`RedisBackend::acl_rules`] says what an ACL user has to be granted, and the page
//! `docs/operations.md` shows it. A consumer looks at its start whether it has these rights,
//! and ends with a [`Denied`](streamlease_core::ErrorKind::Denied) error that names all that
//! are missing. `INFO`, `CONFIG` and the channels are made use of where they are granted:
//! without them restarts go unnoticed by session leases, and failover goes by deadlines alone.

#[cfg(any(feature = "tokio", feature = "smol"))]
mod backend;
mod builder;
#[cfg(any(feature = "tokio", feature = "smol"))]
mod check;
#[cfg(any(feature = "tokio", feature = "smol"))]
mod connection;
mod credentials;
#[cfg(any(feature = "tokio", feature = "smol"))]
mod decode;
mod dial;
#[cfg(any(feature = "tokio", feature = "smol"))]
mod error;
#[cfg(any(feature = "tokio", feature = "smol"))]
mod eviction;
#[doc(hidden)]
#[cfg(all(any(test, fuzzing), any(feature = "tokio", feature = "smol")))]
pub mod fuzzing;
#[cfg(any(feature = "tokio", feature = "smol"))]
mod hello;
#[cfg(any(feature = "tokio", feature = "smol"))]
mod keys;
#[cfg(any(feature = "tokio", feature = "smol"))]
mod locks;
#[cfg(any(feature = "tokio", feature = "smol"))]
mod migrate;
#[cfg(any(feature = "tokio", feature = "smol"))]
mod notifier;
#[cfg(any(feature = "tokio", feature = "smol"))]
mod pages;
#[cfg(any(feature = "tokio", feature = "smol"))]
mod rights;
#[cfg(any(feature = "tokio", feature = "smol"))]
mod timer;
#[cfg(any(feature = "tokio", feature = "smol"))]
mod tls;
#[cfg(any(feature = "tokio", feature = "smol"))]
mod transport;
#[cfg(not(any(feature = "tokio", feature = "smol")))]
mod unsupported;

#[cfg(any(feature = "tokio", feature = "smol"))]
pub use backend::RedisBackend;
pub use builder::RedisBackendBuilder;
pub use credentials::{CredentialProvider, Credentials};
pub use dial::{Dial, Link};
#[cfg(not(any(feature = "tokio", feature = "smol")))]
pub use unsupported::RedisBackend;
