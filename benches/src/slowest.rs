//! The longest that one command or script kept a server from everything else.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use redis::Value;
use streamlease_tests::RedisServer;

/// What takes less is not written down by the server (µs).
const NOTED: u64 = 1_000;
/// What the scripts of the backend begin with, as far as they share it.
const HEADS: [&[&str]; 7] = [
    &[],
    &["record"],
    &["lock"],
    &["lock", "token"],
    &["lock", "around"],
    &["lock", "sessions_head"],
    &["lock", "sessions_head", "token"],
];

/// A server of a cell's own, which notes what blocks it for long.
pub fn server() -> RedisServer {
    RedisServer::builder()
        .config("notify-keyspace-events \"Kx\"")
        .config(format!("slowlog-log-slower-than {NOTED}"))
        // All of them: the slowest must not be pushed out by later ones.
        .config("slowlog-max-len 100000")
        .start()
}

/// Forgets what was noted so far: the bench's own doing.
pub fn forget_slow_calls(server: &RedisServer) {
    server.run::<()>(&["SLOWLOG", "RESET"]);
}

/// The slowest call since the start of a server of [`server`], in ms of the wall
/// clock, by name; and how many took over 2 ms. As two cells of a table.
pub fn slowest_call(server: &RedisServer) -> [String; 2] {
    let entries: Vec<(u64, u64, u64, Vec<Value>)> = {
        let rows: Vec<Vec<Value>> = server.run(&["SLOWLOG", "GET", "-1"]);
        let rows = rows.into_iter().map(|mut row| {
            row.truncate(4);
            redis::from_redis_value(Value::Array(row)).unwrap()
        });
        rows.collect()
    };
    let over = entries.iter().filter(|entry| entry.2 > 2_000).count();
    let slowest = entries.iter().max_by_key(|entry| entry.2);
    let slowest = match slowest {
        None => format!("< {}", NOTED / 1_000),
        Some((_, _, micros, words)) => {
            format!("{:.1} ({})", *micros as f64 / 1e3, name_of(words))
        }
    };
    [slowest, over.to_string()]
}

/// The command, or the script that EVALSHA names by its hash.
fn name_of(words: &[Value]) -> String {
    let text = |n: usize| -> String {
        let word = words.get(n).cloned().unwrap_or(Value::Nil);
        redis::from_redis_value(word).unwrap_or_default()
    };
    match text(0).to_ascii_lowercase().as_str() {
        "evalsha" => scripts().remove(&text(1)).unwrap_or_else(|| text(1)),
        // As a server is told of a script; the rest is cut off.
        "eval" => "a new script".to_owned(),
        command => command.to_owned(),
    }
}

/// The backend's scripts by hash.
fn scripts() -> BTreeMap<String, String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/backend-redis-rs/src/scripts");
    let read = |name: &str| fs::read_to_string(dir.join(name).with_extension("lua")).unwrap();
    let mut scripts = BTreeMap::new();
    for file in fs::read_dir(&dir).unwrap() {
        let name = file.unwrap().path().with_extension("");
        let name = name.file_name().unwrap().to_str().unwrap().to_owned();
        let own = read(&name);
        for head in HEADS {
            let code: String = head.iter().map(|part| read(part)).collect();
            let hash = redis::Script::new(&(code + &own)).get_hash().to_owned();
            scripts.insert(hash, name.clone());
        }
    }
    scripts
}
