//! [`Ledger`]: what handlers did, and whether they might.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, Weak};

use streamlease_core::{EntryId, FencingToken, Lease, StreamName};

use super::SimServers;
use super::servers::lock;

/// What handlers write to in a simulation, in place of the store that they
/// write to otherwise, and a check of what they do. Clones are the same ledger.
///
/// A handler [takes up](Self::take_up) its lease, does some [writes](Self::write),
/// [finishes](Self::finish) its work, completes the lease, and says so
/// ([`completed`](Self::completed)). What went wrong is in
/// [`violations`](Self::violations).
///
/// A handler that writes to a store of its own has the store tell the ledger what it did, in the
/// step in which it does it: [`was_read`](Self::was_read), [`was_written`](Self::was_written)
/// and [`was_finished`](Self::was_finished). The ledger then checks the store's fencing. Of
/// handlers that tell it nothing a trial asks only that they complete everything in time.
#[derive(Debug, Clone)]
pub struct Ledger {
    servers: SimServers,
    book: Arc<Mutex<Book>>,
}

#[derive(Debug, Default)]
struct Book {
    taken_up: Vec<Weak<Lease>>,
    tokens: BTreeSet<(StreamName, FencingToken)>,
    written: BTreeMap<StreamName, FencingToken>,
    finished: BTreeSet<EntryId>,
    completed: BTreeSet<EntryId>,
    /// Greatest token with which a store of the user's was read or written.
    seen: BTreeMap<StreamName, FencingToken>,
    /// Whether it is told when work is finished.
    knows_of_work: bool,
    violations: Vec<String>,
}

impl Ledger {
    /// An empty ledger for handlers on these servers.
    pub fn new(servers: &SimServers) -> Self {
        Self {
            servers: servers.clone(),
            book: Arc::default(),
        }
    }

    /// Work begins; once per lease. Nobody had its token before
    /// (unless the lock server lost writes and its clock was set back). If the run is
    /// durable so far ([`SimServers::lossy`]), then no other handler believes in
    /// this data stream, and this announcement was not completed before.
    pub fn take_up(&self, lease: &Arc<Lease>) {
        let durable = self.servers.lossy().is_empty();
        let book = &mut *lock(&self.book);
        book.knows_of_work = true;
        let others: Vec<_> = book.taken_up.iter().filter_map(Weak::upgrade).collect();
        book.taken_up = others.iter().map(Arc::downgrade).collect();
        if durable && lease.is_valid() {
            let same = |other: &&Arc<Lease>| other.stream() == lease.stream();
            let believed = others.iter().filter(same).find(|other| other.is_valid());
            if let Some(other) = believed {
                book.violate("believed twice", lease, format_args!("also by {other:?}"));
            }
            if book.completed.contains(&lease.entry()) {
                book.violate("worked on after its completion", lease, "");
            }
        }
        let is_new = book.tokens.insert((lease.stream().clone(), lease.token()));
        if !is_new && !self.servers.tokens_may_come_again() {
            book.violate("a token twice", lease, "");
        }
        book.taken_up.push(Arc::downgrade(lease));
    }

    /// Writes as to a store that checks tokens: refused (`false`) if one with a
    /// greater token has written for this data stream.
    #[must_use = "a refused write was not done"]
    pub fn write(&self, lease: &Lease) -> bool {
        lock(&self.book).write(lease)
    }

    /// Writes as to a store that takes everything. That a greater token had
    /// written before is a violation.
    pub fn write_unguarded(&self, lease: &Lease) {
        let book = &mut *lock(&self.book);
        if !book.write(lease) {
            let seen = book
                .written
                .get(lease.stream())
                .copied()
                .unwrap_or_default();
            book.violate("a stale write", lease, format_args!("after {seen} wrote"));
        }
    }

    /// The last [`write`](Self::write): the work is done, and the lease can be
    /// completed.
    #[must_use = "a refused write was not done"]
    pub fn finish(&self, lease: &Lease) -> bool {
        let book = &mut *lock(&self.book);
        let written = book.write(lease);
        if written {
            book.finished.insert(lease.entry());
        }
        written
    }

    /// The lease was completed, as the client said: its work must be finished.
    pub fn completed(&self, lease: &Lease) {
        let book = &mut *lock(&self.book);
        book.completed.insert(lease.entry());
        if !book.finished.contains(&lease.entry()) {
            book.violate("completed before its work was finished", lease, "");
        }
    }

    /// A store of your own has told an owner with this token where to go on.
    pub fn was_read(&self, stream: &StreamName, token: FencingToken) {
        lock(&self.book).see(stream, token);
    }

    /// A store of your own has taken a write of an owner with this token. That a later owner has
    /// read or written before is a violation: what that one does has this write not in it.
    pub fn was_written(&self, stream: &StreamName, token: FencingToken) {
        let book = &mut *lock(&self.book);
        let seen = book.see(stream, token);
        if token < seen {
            let what = format!("a stale write was taken: {stream} by {token}, {seen} was there");
            book.violations.push(what);
        }
    }

    /// A store of your own has taken the last write for this announcement: the work is done.
    pub fn was_finished(&self, stream: &StreamName, token: FencingToken, entry: EntryId) {
        self.was_written(stream, token);
        let book = &mut *lock(&self.book);
        book.knows_of_work = true;
        book.finished.insert(entry);
    }

    /// Whether it can tell what is finished from what is not.
    pub(super) fn knows_of_work(&self) -> bool {
        lock(&self.book).knows_of_work
    }

    /// Whether the work of this announcement was finished.
    pub fn is_finished(&self, entry: EntryId) -> bool {
        lock(&self.book).finished.contains(&entry)
    }

    /// What should not have happened.
    pub fn violations(&self) -> Vec<String> {
        lock(&self.book).violations.clone()
    }
}

impl Book {
    /// The greatest token there was.
    fn see(&mut self, stream: &StreamName, token: FencingToken) -> FencingToken {
        let seen = self.seen.entry(stream.clone()).or_default();
        *seen = token.max(*seen);
        *seen
    }

    fn write(&mut self, lease: &Lease) -> bool {
        self.knows_of_work = true;
        let greatest = self.written.entry(lease.stream().clone()).or_default();
        let written = lease.token() >= *greatest;
        *greatest = lease.token().max(*greatest);
        written
    }

    fn violate(&mut self, what: &str, lease: &Lease, more: impl std::fmt::Display) {
        self.violations.push(format!("{what}: {lease:?} {more}"));
    }
}
