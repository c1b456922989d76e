//! The longest that one command or script kept a server from everything else.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use redis::Value;
use streamlease_tests::RedisServer;

/// What takes less is not written down by the server (µs).
const NOTED: u64 = 1_000;

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

/// The backend's scripts by hash: of which files each is made is read where it is made.
fn scripts() -> BTreeMap<String, String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/backend-redis-rs/src");
    let lua = |name: &str| fs::read_to_string(dir.join(format!("scripts/{name}.lua"))).unwrap();
    let mut scripts = BTreeMap::new();
    for source in sources(&dir) {
        for list in source.split(" script!(").skip(1) {
            let list = list.split(')').next().unwrap();
            let parts: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
            let mut code = if list.starts_with("beyond_full") {
                "#!lua flags=allow-oom\n".to_owned()
            } else {
                String::new()
            };
            code.extend(parts.iter().map(|part| lua(part)));
            let hash = redis::Script::new(&code).get_hash().to_owned();
            scripts.insert(hash, (*parts.last().unwrap()).to_owned());
        }
    }
    scripts
}

/// All Rust sources below a directory.
fn sources(dir: &Path) -> Vec<String> {
    let paths = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut sources = Vec::new();
    for path in paths {
        if path.is_dir() {
            sources.append(&mut self::sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(fs::read_to_string(path).unwrap());
        }
    }
    sources
}
