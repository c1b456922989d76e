//! `tests/run.sh` leaves the system's packages alone unless it is told otherwise, and
//! `tests/servers.sh` takes no server but those that are pinned.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::files::root;

/// A PATH of its own in which nothing is real that could change this machine:
/// each program only writes down that it was called.
struct Sandbox {
    bin: PathBuf,
    calls: PathBuf,
}

/// What one run said, and what it called.
struct Outcome {
    success: bool,
    said: String,
    calls: String,
}

impl Sandbox {
    /// Without `redis-server`, for the user with this id.
    fn new(name: &str, uid: u32) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&dir);
        let sandbox = Self {
            bin: dir.join("bin"),
            calls: dir.join("calls"),
        };
        fs::create_dir_all(&sandbox.bin).expect("a directory for programs");
        for real in ["bash", "dirname"] {
            symlink(which(real), sandbox.bin.join(real)).expect("a link");
        }
        for fake in ["apt-get", "sudo", "env", "tee", "chmod", "rm", "systemctl"] {
            sandbox.program(
                fake,
                &format!("echo \"{fake} $*\" >>'{}'", sandbox.calls.display()),
            );
        }
        sandbox.program("id", &format!("echo {uid}"));
        sandbox.program("uname", "echo Linux");
        sandbox
    }

    fn program(&self, name: &str, body: &str) {
        let path = self.bin.join(name);
        fs::write(&path, format!("#!{}\n{body}\n", which("bash").display())).expect("a program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a program");
    }

    /// `tests/run.sh` with these arguments, on a machine that says `CI` or not.
    fn run(&self, args: &[&str], ci: Option<&str>) -> Outcome {
        let script = root().join("tests/run.sh");
        let mut command = Command::new(which("bash"));
        command.arg(script).args(args).env_clear();
        command.env("PATH", &self.bin);
        command.env("TMPDIR", self.bin.with_file_name(""));
        if let Some(ci) = ci {
            command.env("CI", ci);
        }
        let output = command.output().expect("bash can be started");
        Outcome {
            success: output.status.success(),
            said: String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr),
            calls: fs::read_to_string(&self.calls).unwrap_or_default(),
        }
    }
}

fn which(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").expect("PATH is set");
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{program} is not in PATH"))
}

#[test]
fn what_is_missing_is_named_and_not_installed() {
    for (uid, ci) in [(1000, None), (0, None), (0, Some("")), (1000, Some("true"))] {
        for (step, package) in [
            ("redis_server", "redis-server"),
            ("tls_features", "libssl-dev"),
        ] {
            let sandbox = Sandbox::new("named", uid);
            let outcome = sandbox.run(&[step], ci);
            let Outcome { said, calls, .. } = &outcome;
            assert_eq!("", calls, "user {uid}, CI {ci:?}: {said}");
            assert!(!outcome.success, "{said}");
            assert!(said.contains(package), "{said}");
            assert!(said.contains("tests/run.sh --install"), "{said}");
        }
    }
}

#[test]
fn what_is_missing_is_installed_when_told_to() {
    for (uid, args, ci) in [
        (1000, &["--install", "redis_server"][..], None),
        (0, &["--install", "redis_server"], None),
        (0, &["redis_server"], Some("true")),
    ] {
        let sandbox = Sandbox::new("installed", uid);
        let Outcome { said, calls, .. } = sandbox.run(args, ci);
        assert!(
            calls.contains("apt-get install") && calls.contains("redis-server"),
            "user {uid}, {args:?}, CI {ci:?}: {said}\n{calls}"
        );
        assert_eq!(uid != 0, calls.contains("sudo apt-get"), "{calls}");
    }
}

/// Also what runs behind other steps, and tells of its end elsewhere.
#[test]
fn all_steps_that_fail_are_named_at_the_end() {
    let sandbox = Sandbox::new("all_fail", 1000);
    for real in ["cat", "grep", "mktemp", "nice"] {
        symlink(which(real), sandbox.bin.join(real)).expect("a link");
    }
    for there in ["redis-server", "postgres", "promtool"] {
        sandbox.program(there, "true");
    }
    sandbox.program("cargo", "exit 1");
    let Outcome { success, said, .. } = sandbox.run(&[], None);
    assert!(!success, "{said}");
    let (_, failed) = said
        .rsplit_once("these steps failed: ")
        .unwrap_or_else(|| panic!("it does not say what failed: {said}"));
    let failed: Vec<&str> = failed.split_whitespace().collect();
    for step in [
        "format", "lints", "features", "package", "doctests", "tests",
    ] {
        assert!(said.contains(&format!("=== {step} (")), "{step}: {said}");
        assert_eq!(
            1,
            failed.iter().filter(|one| **one == step).count(),
            "{step}: {said}"
        );
    }
}

/// `tests/servers.sh install` with an empty cache and this `python3`.
fn install_server(name: &str, python3: &str) -> Outcome {
    let sandbox = Sandbox::new(name, 0);
    sandbox.program("python3", python3);
    sandbox.program("uname", "echo Linux x86_64");
    for fake in ["env", "tee", "chmod", "rm"] {
        fs::remove_file(sandbox.bin.join(fake)).expect("a fake");
    }
    let script = root().join("tests/servers.sh");
    let real = std::env::var("PATH").expect("PATH is set");
    let output = Command::new(which("bash"))
        .arg(script)
        .args(["install", "redis-8.2"])
        .env("PATH", format!("{}:{real}", sandbox.bin.display()))
        .env("XDG_CACHE_HOME", sandbox.bin.with_file_name("cache"))
        .output()
        .expect("bash can be started");
    Outcome {
        success: output.status.success(),
        said: String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr),
        calls: String::new(),
    }
}

#[test]
fn a_server_that_cannot_be_had_is_skipped_with_the_reason() {
    let no_network = "[[ $* == *--version ]] || { echo 'no route to host'; exit 1; }";
    let Outcome { success, said, .. } = install_server("no_network", no_network);
    assert!(success, "{said}");
    assert!(said.starts_with("SKIPPED redis 8.2.3: "), "{said}");
    assert!(said.contains("no route to host"), "{said}");
}

#[test]
fn another_file_than_the_one_that_was_pinned_is_an_error() {
    let other = "while [ $# -gt 0 ]; do [ \"$1\" != -d ] || echo other >\"$2/wheel\"; shift; done";
    let Outcome { success, said, .. } = install_server("other_file", other);
    assert!(!success, "{said}");
    assert!(said.contains("is not the file that was pinned"), "{said}");
}

/// What is checked there is what everybody can run.
#[test]
fn workflows_call_this_script_and_nothing_else() {
    let dir = root().join(".github/workflows");
    let mut runs = 0;
    for file in fs::read_dir(dir).expect("there are workflows") {
        let path = file.expect("a file").path();
        let text = fs::read_to_string(&path).expect("a workflow");
        for line in text.lines().map(|line| line.trim_start_matches([' ', '-'])) {
            if let Some(command) = line.strip_prefix("run:") {
                assert_eq!(
                    "tests/run.sh --install",
                    command.trim(),
                    "{}",
                    path.display()
                );
                runs += 1;
            } else if let Some(action) = line.strip_prefix("uses:") {
                let action = action.trim();
                assert!(
                    action.starts_with("actions/checkout@"),
                    "{}",
                    path.display()
                );
            }
        }
    }
    assert!(runs > 0, "no workflow runs anything");
}
