//! A Redis that loses power may lose the end of its append-only file, and with it
//! a part of a transaction. Redis 7.0 then cuts the file behind the last whole
//! command, goes on behind it, and executes that half with the next start.

use std::path::PathBuf;

use streamlease_core::*;

use crate::support::{self, *};

fn append_only_file(server: &RedisServer) -> PathBuf {
    let (_, dir): (String, String) = server.run(&["CONFIG", "GET", "dir"]);
    let files = std::fs::read_dir(format!("{dir}/appendonlydir")).unwrap();
    files
        .map(|file| file.unwrap().path())
        .find(|path| path.to_string_lossy().ends_with(".incr.aof"))
        .unwrap()
}

/// Where the commands of the last transaction begin, `MULTI` first and `EXEC` last.
fn last_transaction(log: &[u8]) -> Vec<usize> {
    let find = |part: &[u8]| log.windows(part.len()).rposition(|found| found == part);
    let multi = find(b"*1\r\n$5\r\nMULTI\r\n").expect("a transaction");
    // Nothing that is written here has a line that begins so.
    let begins = |at: &usize| log[*at] == b'*' && log[at - 2..*at] == *b"\r\n";
    (multi..log.len()).filter(begins).collect()
}

/// Cuts the file in the middle of each command of what `last` did, and starts
/// twice. Nothing may be on the LBS that is neither pending nor to be delivered:
/// nobody would look for it.
async fn nothing_is_left_behind(last: impl AsyncFn(&Backend, EntryId)) {
    let mut cut = 1;
    loop {
        let mut server = keeping_all();
        let backend = backend(&server, "orders").await;
        backend.transport.prepare().await.unwrap();
        let entry = submitted(&backend, &batch(1, &["s"])).await.unwrap()[0];
        backend.transport.fetch(&fetch("a", 1, 0)).await.unwrap();
        let claim = [fenced(entry, 5)];
        let claimed = backend.transport.claim(&consumer("a"), &claim).await;
        assert!(matches!(claimed.unwrap()[0], ClaimOutcome::Claimed { .. }));
        last(&backend, entry).await;
        let file = append_only_file(&server);
        server.kill();
        let log = std::fs::read(&file).unwrap();
        let commands = last_transaction(&log);
        let Some(at) = commands.get(cut) else {
            assert!(cut > 2, "not a transaction of several commands");
            return;
        };
        std::fs::write(&file, &log[..at + 6]).unwrap();
        server.start_again();
        // Another transaction, whose end is then the end of the half one, too.
        let script = "redis.call('SET', 'k', 1) redis.call('SET', 'l', 1)";
        server.run::<()>(&["EVAL", script, "0"]);
        server.start_again();
        let there: Vec<redis_rs::Value> = server.run(&["XRANGE", "orders-input", "-", "+"]);
        let pending: redis_rs::Value =
            server.run(&["XPENDING", "orders-input", "orders-group", "-", "+", "10"]);
        let is_pending = format!("{pending:?}").contains(&entry.to_string());
        assert!(
            there.is_empty() || is_pending,
            "cut in command {cut} of {}",
            commands.len()
        );
        // And what is pending is found out to be gone, or is worked on again.
        let backend = support::backend(&server, "orders").await;
        let claimed = backend
            .transport
            .claim(&consumer("b"), &[fenced(entry, 6)])
            .await;
        let is_gone = claimed.unwrap()[0] == ClaimOutcome::Gone;
        assert_eq!(is_gone, there.is_empty());
        cut += 1;
    }
}

#[test]
fn half_a_completion_leaves_no_entry_that_nobody_looks_for() {
    on_tokio(|| {
        nothing_is_left_behind(async |backend, entry| {
            let done = [fenced(entry, 5)];
            let done = backend.transport.complete(&consumer("a"), &done).await;
            assert_eq!(done.unwrap(), [CompleteOutcome::Completed]);
        })
    });
}

#[test]
fn half_a_quarantine_leaves_no_entry_that_nobody_looks_for() {
    on_tokio(|| {
        nothing_is_left_behind(async |backend, entry| {
            let quarantine = Quarantine::new(entry, FencingToken(5), 0, "tired");
            let quarantined = backend
                .transport
                .quarantine(&consumer("a"), &[quarantine])
                .await;
            assert_eq!(quarantined.unwrap(), [QuarantineOutcome::Quarantined]);
        })
    });
}
