//! Over TLS. `STREAMLEASE_COMMAND` has these tests run another build of the command, as
//! `tests/run.sh tls_features` does: what they expect is the same with either TLS library.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use streamlease_tests::{Authority, JsonProcess, RedisServer, Signal, Tls, eventually_blocking};

use crate::common::{SOON, command, stderr};

/// A server that asks for client certificates, and files with what is needed for it.
struct Secured {
    authority: Authority,
    server: RedisServer,
    dir: PathBuf,
}

impl Secured {
    fn start(name: &str) -> Self {
        let authority = Authority::new();
        let tls = Tls::of(&authority).asking_clients();
        let server = RedisServer::builder().tls(tls).start();
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("tls-{name}"));
        fs::create_dir_all(&dir).unwrap();
        let client = authority.client();
        for (name, text) in [
            ("ca.crt", &authority.pem()),
            ("client.crt", &client.pem),
            ("client.key", &client.key),
            ("strange.crt", &Authority::new().client().pem),
            ("no.crt", &"no certificate\n".to_owned()),
        ] {
            fs::write(dir.join(name), text).unwrap();
        }
        Self {
            authority,
            server,
            dir,
        }
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// Whom to trust, and what to show.
    fn files(&self) -> Vec<String> {
        let file = |name| self.file(name);
        let named = [
            ("--ca", "ca.crt"),
            ("--cert", "client.crt"),
            ("--key", "client.key"),
        ];
        named
            .into_iter()
            .flat_map(|(flag, name)| [flag.to_owned(), file(name)])
            .collect()
    }

    fn submit(&self, url: &str, more: &[String], environment: &[(&str, &str)]) -> Output {
        command()
            .args([
                "submit",
                "--redis",
                url,
                "--service",
                "s",
                "--timeout",
                "20s",
            ])
            .args(more)
            .arg("call-1")
            .envs(environment.iter().copied())
            .output()
            .unwrap()
    }

    /// It ends at once, with this code, and says what would be right.
    fn refuses(&self, url: &str, more: &[String], code: i32, right: &str) {
        let output = self.submit(url, more, &[]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(right), "{right}: {said}");
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn submit_work_and_inspect_go_over_tls_with_files() {
    let secured = Secured::start("all");
    let url = secured.server.tls_url();
    let files = secured.files();
    let output = secured.submit(&url, &files, &[]);
    assert!(output.status.success(), "{output:?}");
    for runtime in ["tokio", "smol"] {
        let mut worker = JsonProcess::spawn(
            command()
                .args(["work", "--json", "--redis", &url, "--service", "s"])
                .args(["--consumer", "a", "--ttl", "3s", "--runtime", runtime])
                .args(&files),
        );
        worker.wait_for("stream_added", SOON);
        worker.signal(Signal::TERM);
        assert!(worker.wait_exit(SOON).success(), "{}", worker.stderr());
    }
    let inspect = ["inspect", "--redis", &url, "--service", "s"];
    let output = command().args(inspect).args(&files).output().unwrap();
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("call-1"),
        "{output:?}"
    );
}

#[test]
fn the_environment_says_whom_the_system_trusts() {
    let secured = Secured::start("environment");
    let url = secured.server.tls_url();
    let (files, ca) = (secured.files(), secured.file("ca.crt"));
    let without_ca = &files[2..];
    let output = secured.submit(&url, without_ca, &[("SSL_CERT_FILE", &ca)]);
    assert!(output.status.success(), "{output:?}");
    let missing = secured.file("missing.crt");
    let output = secured.submit(&url, without_ca, &[("SSL_CERT_FILE", &missing)]);
    assert!(!output.status.success(), "{output:?}");
    assert!(stderr(&output).contains("SSL_CERT_FILE"), "{output:?}");
}

#[test]
fn what_is_wrong_with_tls_ends_the_command_with_what_would_be_right() {
    let secured = Secured::start("refused");
    let url = secured.server.tls_url();
    let files = secured.files();
    secured.refuses(&url, &files[2..], 1, "--ca");
    secured.refuses(&url, &files[..2], 1, "--cert and --key");
    let with = |index: usize, file: &str| {
        let mut files = files.clone();
        files[index] = secured.file(file);
        files
    };
    secured.refuses(&url, &with(1, "no.crt"), 2, "the CA");
    secured.refuses(&url, &with(1, "missing.crt"), 2, "missing.crt");
    secured.refuses(&url, &with(3, "strange.crt"), 2, "does not belong");
    let plain = format!("rediss://localhost:{}", secured.server.port());
    secured.refuses(&plain, &files, 2, "answers without TLS");
    let tls = format!("redis://localhost:{}", secured.server.tls_port());
    secured.refuses(&tls, &[], 2, "speaks TLS");
    secured.refuses(&tls, &files, 2, "no TLS");
    for (certificate, right) in [
        (secured.authority.expired_server(), "has expired"),
        (secured.authority.server_named(&["elsewhere"]), "the name"),
    ] {
        secured.server.show(&certificate);
        secured.refuses(&url, &files, 1, right);
    }
}

#[test]
fn doctor_finds_what_is_wrong_with_tls() {
    let secured = Secured::start("doctor");
    let url = secured.server.tls_url();
    let files = secured.files();
    let found = |url: &str, more: &[String]| {
        let args = ["doctor", "--redis", url, "--service", "s"];
        let output = command().args(args).args(more).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code().unwrap(), text)
    };
    let (exit, text) = found(&url, &files);
    assert_eq!(exit, 3, "only what a test's server lacks: {text}");
    assert!(
        text.contains("warnings: 1") && text.contains("persistence"),
        "{text}"
    );

    let plain = format!("rediss://localhost:{}", secured.server.port());
    for (url, files, code, right) in [
        (&url, &files[2..], "denied", "--ca"),
        (&url, &files[..2], "denied", "--cert and --key"),
        (&plain, &files[..], "settings", "answers without TLS"),
    ] {
        let (exit, text) = found(url, files);
        assert_eq!(exit, 1, "{text}");
        let line = text.lines().find(|line| line.starts_with("error"));
        let line = line.unwrap_or_else(|| panic!("{text}"));
        assert!(
            line.contains(code) && line.contains(right),
            "{code}, {right}: {text}"
        );
    }
    secured.server.show(&secured.authority.expired_server());
    let (exit, text) = found(&url, &files);
    assert!(exit == 1 && text.contains("has expired"), "{text}");
}

#[test]
fn a_worker_goes_on_when_an_expired_certificate_is_replaced() {
    let secured = Secured::start("expired");
    let url = secured.server.tls_url();
    let mut worker = JsonProcess::spawn(
        command()
            .args(["work", "--json", "--redis", &url, "--service", "s"])
            .args(["--consumer", "a", "--ttl", "1s"])
            .args(secured.files())
            .env("RUST_LOG", "info"),
    );
    worker.wait_for("started", SOON);
    secured.server.show(&secured.authority.expired_server());
    secured
        .server
        .run::<()>(&["CLIENT", "KILL", "TYPE", "normal"]);
    eventually_blocking("a warning", SOON, || {
        worker.stderr().contains("has expired")
    });
    secured.server.show(&secured.authority.server());
    let output = secured.submit(&url, &secured.files(), &[]);
    assert!(output.status.success(), "{output:?}");
    worker.wait_for("stream_added", SOON);
    worker.signal(Signal::TERM);
    assert!(worker.wait_exit(SOON).success(), "{}", worker.stderr());
}
