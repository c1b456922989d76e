//! [`JsonProcess`]: a child process that prints one JSON object per line.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A running child (`streamlease work --json …`) whose events are collected as
/// they come. It is killed on drop.
///
/// The waiting methods block the calling thread; in async tests use them where
/// nothing else has to run on it (tokio: the multi-thread flavour).
#[derive(Debug)]
pub struct JsonProcess {
    child: Child,
    output: Arc<Output>,
    readers: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Output {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<Value>,
    not_json: Vec<String>,
    stderr: String,
    ended: bool,
}

impl JsonProcess {
    /// Starts `command` with its output captured and no input.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|err| panic!("cannot run {command:?}: {err}"));
        let output = Arc::new(Output::default());
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        let readers = vec![
            std::thread::spawn({
                let output = output.clone();
                move || output.collect_events(BufReader::new(stdout))
            }),
            std::thread::spawn({
                let output = output.clone();
                move || output.collect_stderr(stderr)
            }),
        ];
        Self {
            child,
            output,
            readers,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All events so far, oldest first.
    pub fn events(&self) -> Vec<Value> {
        self.output.lock().events.clone()
    }

    /// All events so far whose `event` is `kind`.
    pub fn events_of(&self, kind: &str) -> Vec<Value> {
        self.events()
            .into_iter()
            .filter(|event| event["event"] == kind)
            .collect()
    }

    /// Standard error so far.
    pub fn stderr(&self) -> String {
        self.output.lock().stderr.clone()
    }

    /// Lines on standard output that were not JSON.
    pub fn not_json(&self) -> Vec<String> {
        self.output.lock().not_json.clone()
    }

    /// Waits for the first event `kind`, one that came before included.
    #[track_caller]
    pub fn wait_for(&self, kind: &str, within: Duration) -> Value {
        self.wait_for_event(kind, within, |event| event["event"] == kind)
    }

    /// Waits until `n` events of `kind` have come, and returns them.
    #[track_caller]
    pub fn wait_for_count(&self, kind: &str, n: usize, within: Duration) -> Vec<Value> {
        self.wait_until(&format!("{n} × {kind}"), within, |events| {
            let found: Vec<_> = events
                .iter()
                .filter(|event| event["event"] == kind)
                .collect();
            (found.len() >= n).then(|| found.into_iter().cloned().collect())
        })
    }

    /// Waits for the first event that matches, one that came before included.
    ///
    /// # Panics
    /// If none came within that time, or standard output ended: with everything
    /// the process has said.
    #[track_caller]
    pub fn wait_for_event(
        &self,
        what: &str,
        within: Duration,
        matches: impl Fn(&Value) -> bool,
    ) -> Value {
        self.wait_until(what, within, |events| {
            events.iter().find(|event| matches(event)).cloned()
        })
    }

    /// Sends it a signal: `Signal::TERM`, `INT`, `KILL`, `STOP`, `CONT`.
    pub fn signal(&self, signal: Signal) {
        // The child is not reaped before `wait`, so the id is still its.
        let pid = i32::try_from(self.pid())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process id");
        kill_process(pid, signal).expect("signalling our own child");
    }

    /// How it has exited, or `None` while it runs. Send no signal afterwards.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("looking at our own child")
    }

    /// All events, once standard output has ended: everything it has ever said.
    #[track_caller]
    pub fn final_events(&self, within: Duration) -> Vec<Value> {
        let (state, timeout) = self
            .output
            .changed
            .wait_timeout_while(self.output.lock(), within, |state| !state.ended)
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        assert!(
            !timeout.timed_out(),
            "its output did not end within {within:?}"
        );
        state.events.clone()
    }

    /// Waits until it has exited by itself and all its output is here.
    #[track_caller]
    pub fn wait_exit(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        let status = loop {
            match self.child.try_wait().expect("waiting for our own child") {
                Some(status) => break status,
                None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                None => panic!("it did not exit within {within:?}\n{}", self.transcript()),
            }
        };
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        status
    }

    #[track_caller]
    fn wait_until<T>(
        &self,
        what: &str,
        within: Duration,
        found: impl Fn(&[Value]) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + within;
        let mut state = self.output.lock();
        loop {
            if let Some(found) = found(&state.events) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                let why = if state.ended {
                    "its output ended"
                } else {
                    "time is up"
                };
                drop(state);
                panic!(
                    "{why}, and no {what} within {within:?}\n{}",
                    self.transcript()
                );
            }
            state = self
                .output
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(|poisoned| poisoned.into_inner())
                .0;
        }
    }

    fn transcript(&self) -> String {
        let state = self.output.lock();
        let mut text = format!("process {} printed:\n", self.child.id());
        for event in &state.events {
            text.push_str(&format!("  {event}\n"));
        }
        for line in &state.not_json {
            text.push_str(&format!("  not JSON: {line}\n"));
        }
        text + "and on standard error:\n" + &state.stderr
    }
}

impl Drop for JsonProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Not joined: a grandchild may hold the pipes open.
    }
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn collect_events(&self, stdout: impl BufRead) {
        for line in stdout.lines().map_while(Result::ok) {
            let mut state = self.lock();
            match serde_json::from_str(&line) {
                Ok(event) => state.events.push(event),
                Err(_) => state.not_json.push(line),
            }
            self.changed.notify_all();
        }
        self.lock().ended = true;
        self.changed.notify_all();
    }

    fn collect_stderr(&self, mut stderr: impl Read) {
        let mut chunk = [0; 4096];
        while let Ok(n @ 1..) = stderr.read(&mut chunk) {
            self.lock()
                .stderr
                .push_str(&String::from_utf8_lossy(&chunk[..n]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> JsonProcess {
        JsonProcess::spawn(Command::new("sh").args(["-c", script]))
    }

    #[test]
    fn events_are_found_and_signals_arrive() {
        let mut child = shell(
            "trap 'echo \"{\\\"event\\\":\\\"bye\\\"}\"; exit 3' TERM; \
             echo careful >&2; echo '{\"event\":\"a\",\"n\":1}'; echo oops; echo '{\"event\":\"a\",\"n\":2}'; \
             while :; do sleep 0.02; done",
        );
        assert_eq!(child.wait_for("a", SOON)["n"], 1);
        assert_eq!(
            child.wait_for_event("the second", SOON, |event| event["n"] == 2)["event"],
            "a"
        );
        assert_eq!(child.wait_for_count("a", 2, SOON).len(), 2);
        child.signal(Signal::TERM);
        child.wait_for("bye", SOON);
        assert_eq!(child.final_events(SOON).len(), 3);
        assert_eq!(child.wait_exit(SOON).code(), Some(3));
        assert_eq!(child.exited().and_then(|status| status.code()), Some(3));
        assert_eq!(
            (child.not_json(), child.stderr()),
            (vec!["oops".into()], "careful\n".into())
        );
    }

    #[test]
    #[should_panic(expected = "its output ended, and no b")]
    fn an_event_that_cannot_come_any_more_is_not_waited_for() {
        shell("echo '{\"event\":\"a\"}'").wait_for("b", SOON);
    }
}
