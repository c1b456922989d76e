use super::*;

#[test]
fn messages_show_the_url_without_its_password() {
    for (url, shown) in [
        ("redis://localhost:6379/1", "redis://localhost:6379/1"),
        ("redis://:secret@h:1", "redis://:***@h:1"),
        ("redis://me:sec@ret@h:1/2", "redis://me:***@h:1/2"),
        (
            "unix:///run/redis.sock?db=1&pass=secret",
            "unix:///run/redis.sock",
        ),
        ("me:secret@h", "me:***@h"),
        ("redis://secret@h:1", "redis://***@h:1"),
        ("secret@h", "***@h"),
        ("redis://:secret", "redis://***"),
        ("redis://me:secret/0", "redis://***"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("redis-cluster://a:1,b,[::1]", "redis-cluster://a:1,b,[::1]"),
        ("redis://:sec#ret@h:1", "redis://***"),
        ("redis://me:?secret", "redis://***"),
        ("redis://me:1/secret", "redis://***"),
        ("redis://me:sec@ret/secret", "redis://***"),
        ("redis://secret:@h", "redis://***@h"),
        ("redis://sec@ret:x@h", "redis://***@h"),
        ("me:sec://ret@h", "me:***@h"),
        ("redis://me:sec@re?t@h:1/2", "redis://***"),
        ("unix:///run/redis.sock?pass=sec@ret", "unix://***"),
    ] {
        assert_eq!(Url::split(url, &Options::default()).shown(), shown);
    }
}

fn read(url: &str) -> Result<Servers> {
    super::read(url, &Options::default())
}

fn refusal(url: &str) -> String {
    let err = read(url).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Config, "{url}");
    let shown = format!("{err:?} {err}");
    assert!(!shown.contains("secret"), "{shown}");
    err.to_string()
}

#[test]
fn what_the_client_crate_ignores_in_a_url_is_refused() {
    for (url, why) in [
        ("redis://user@h", "a user without a password"),
        ("redis://user:@h", "a user without a password"),
        (
            "redis-sentinel://user@h/mymaster",
            "a user without a password",
        ),
        ("unix:///s?user=me", "a user without a password"),
        ("redis://h?db=3", "\"db\""),
        ("redis://:secret@h/1?timeout=5", "\"timeout\""),
        ("redis-sentinel://h/mymaster?protocol=3&x", "\"x\""),
        ("redis://h#insecure", "behind a #"),
    ] {
        let refusal = refusal(url);
        assert!(refusal.contains(why), "{url}: {refusal}");
        assert!(refusal.contains(":password@host"), "{url}: {refusal}");
    }
    for url in [
        "redis://:password@h",
        "redis://h?protocol=resp3",
        "unix:///s?db=2&user=u&pass=p%40&protocol=3",
    ] {
        assert!(read(url).is_ok(), "{url}");
    }
}

#[test]
fn a_url_of_sentinels_names_them_the_primary_and_its_database() {
    let server = read("redis-sentinel://me:secret@a,b:1,[::1],a/mymaster/3").unwrap();
    let server = server.any();
    assert_eq!(server.db(), 3);
    let Route::Sentinel(sentinels) = &server.access.route else {
        panic!("another route")
    };
    assert_eq!(
        sentinels.to_string(),
        "mymaster at a:26379, b:1, [::1]:26379"
    );
    for (url, why) in [
        ("redis-sentinel://:secret@a,b", "by which name"),
        ("redis-sentinel://a/", "by which name"),
        ("redis-sentinel:///mymaster", "host"),
        ("redis-sentinel://a,,b/mymaster", "host \"\""),
        ("redis-sentinel://a,b:x/mymaster", "host 2"),
        ("redis-sentinel://a/mymaster/x", "database"),
        ("redis-sentinel://a/mymaster/0/1", "a name and a database"),
    ] {
        let refusal = refusal(url);
        assert!(refusal.contains(why), "{url}: {refusal}");
        assert!(refusal.contains("mymaster/0"), "{url}: {refusal}");
    }
}

#[test]
fn a_url_of_a_cluster_names_nodes_and_no_database() {
    for url in ["redis-cluster://me:secret@a,b:1/", "redis-cluster://a/0"] {
        assert!(read(url).unwrap().is_cluster(), "{url}");
    }
    for (url, why) in [
        ("redis-cluster://:secret@a/1", "no other database than 0"),
        ("redis-cluster://", "host"),
        ("redis-cluster://a,b:x", "host 2"),
        ("redis-cluster://me@a", "a user without a password"),
    ] {
        let refusal = refusal(url);
        assert!(refusal.contains(why), "{url}: {refusal}");
        assert!(refusal.contains("host:6379,host:6379"), "{url}: {refusal}");
    }
}

#[test]
fn a_bad_url_is_refused_with_what_would_be_right() {
    for url in [
        "",
        "localhost",
        "http://localhost",
        "redis://",
        "redis://h/x",
        "redis://:secret@h:port",
    ] {
        let err = read(url).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Config, "{url}");
        let shown = format!("{err:?} {err}");
        assert!(
            shown.contains("redis://user:password@host:6379/0"),
            "{shown}"
        );
        assert!(!shown.contains("secret"), "{shown}");
    }
}

/// With each of what a URL has a meaning for, at the start, in the middle and at the end. No
/// four characters of them are in a message for another reason.
const PASSWORDS: &[&str] = &[
    "?Zq7wXk9v",
    "Zq7w?Xk9v",
    "Zq7wXk9v?",
    "#Zq7wXk9v",
    "Zq7w#Xk9v",
    "Zq7wXk9v#",
    "/Zq7wXk9v",
    "Zq7w/Xk9v",
    "Zq7wXk9v/",
    "@Zq7wXk9v",
    "Zq7w@Xk9v",
    "Zq7wXk9v@",
    ":Zq7wXk9v",
    "Zq7w:Xk9v",
    "Zq7wXk9v:",
    "%Zq7wXk9v",
    "Zq7w%Xk9v",
    "Zq7wXk9v%",
    "%ffZq7wXk9v",
    "Zq7w%4Xk9v",
    "9182/7364",
    "9182?7364",
    "9182#7364",
    "9182,7364",
    "9182:7364",
    "9182@7364",
    "9182?Zq7w=Xk9v",
    "9182/Zq7w?Xk9v",
    "Zq7w?protocol=3&Xk9v",
    "Zq7w?protocol=Xk9v",
    "Zq7w#insecure",
    "9182#insecure",
    "Zq7w://Xk9v",
    "Zq7w,Xk9v",
    "Zq7w/Xk9v/9182",
    "Zq7w@Xk9v/9182",
    "Zq7w@Xk9v?9182",
    "Zq7w@Xk9v#9182",
    "Zq7w@Xk9v:9182",
    "[Zq7w]Xk9v",
    "Zq7w Xk9v",
    "Zq7w\\Xk9v",
    "/?#@:%Zq7w",
    "@@@@Zq7wXk9v",
    "????Zq7wXk9v",
];

/// URLs in which somebody has put `password` as it is.
fn urls_with(password: &str) -> Vec<String> {
    let mut urls = Vec::new();
    for user in ["", "u"] {
        for (scheme, place) in [
            ("redis", "127.0.0.1/"),
            ("redis", "127.0.0.1:6379"),
            ("redis", "127.0.0.1:6379/3?protocol=3"),
            ("valkey", "127.0.0.1"),
            ("rediss", "127.0.0.1/"),
            ("valkeys", "127.0.0.1:6379/0#insecure"),
            ("redis-sentinel", "a,b:26379/mymaster"),
            ("redis-sentinel", "a/mymaster/0"),
            ("rediss-sentinel", "a,b/mymaster/0?protocol=2"),
            ("redis-cluster", "a,b:6379"),
            ("rediss-cluster", "a/0"),
            ("http", "127.0.0.1"),
        ] {
            urls.push(format!("{scheme}://{user}:{password}@{place}"));
        }
        // Without its host. What looks like one in spite of that has to be shown.
        if !password.contains('@') && !password.starts_with("9182") {
            for scheme in ["redis", "redis-cluster"] {
                urls.push(format!("{scheme}://{user}:{password}"));
            }
        }
        urls.push(format!("{user}:{password}@127.0.0.1"));
    }
    // Without its colon. One of its own makes a user of what is before it.
    if !password.contains(':') || password.contains('@') {
        urls.push(format!("redis://{password}@127.0.0.1/"));
    }
    urls.push(format!("unix:///run/s?user=u&pass={password}"));
    urls.push(format!("redis+unix:///run/s?pass={password}&db=1"));
    urls
}

#[test]
fn no_message_shows_a_piece_of_a_password_that_was_not_escaped() {
    let mut shows = Vec::new();
    for password in PASSWORDS {
        let letters: Vec<char> = password.chars().collect();
        for url in urls_with(password) {
            let shown = match read(&url) {
                Ok(servers) => format!("{servers:?} {}", servers.endpoint()),
                Err(err) => format!("{err} {err:?}"),
            };
            let piece = letters
                .windows(4)
                .map(|piece| piece.iter().collect::<String>());
            // What the message says itself.
            let own = |piece: &str| "protocol".contains(piece) || "insecure".contains(piece);
            if let Some(piece) = piece
                .into_iter()
                .find(|piece| !own(piece) && shown.contains(piece))
            {
                shows.push(format!("{piece} of {url}: {shown}"));
            }
        }
    }
    assert!(
        shows.is_empty(),
        "{} of:\n{}",
        shows.len(),
        shows.join("\n")
    );
}

#[test]
fn a_password_that_was_not_escaped_is_read_as_meant_or_refused_with_what_to_write() {
    for password in PASSWORDS {
        for user in ["", "u"] {
            for (scheme, place) in [
                ("redis", "127.0.0.1:6379/0"),
                ("redis-sentinel", "a,b/mymaster"),
                ("redis-cluster", "a,b"),
            ] {
                let url = format!("{scheme}://{user}:{password}@{place}");
                match read(&url) {
                    Ok(servers) => assert_eq!(password_of(servers), *password, "{url}"),
                    Err(err) => assert!(
                        err.to_string()
                            .contains("/ as %2F, ? as %3F, # as %23, @ as %40"),
                        "{url}: {err}"
                    ),
                }
            }
        }
    }
}

#[test]
fn a_password_that_was_escaped_is_read_whatever_is_in_it() {
    for password in PASSWORDS {
        let escaped: String = password
            .bytes()
            .map(|byte| format!("%{byte:02X}"))
            .collect();
        for (scheme, place) in [
            ("redis", "127.0.0.1"),
            ("redis-sentinel", "a,b/mymaster"),
            ("redis-cluster", "a,b"),
        ] {
            let servers = read(&format!("{scheme}://u:{escaped}@{place}")).unwrap();
            assert_eq!(password_of(servers), *password);
        }
        let url = format!("unix:///run/s?user=u&pass={escaped}");
        assert_eq!(password_of(read(&url).unwrap()), *password);
    }
}

fn password_of(servers: Servers) -> String {
    let server = servers.any().access.connector.named();
    server.redis_settings().password().unwrap().to_owned()
}
