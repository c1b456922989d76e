//! The processes below this one: those that it started, and those that are left to it.
//!
//! One thread waits for all of them. So it can do what an init does – whatever a
//! program leaves behind becomes a child of this process, and a dead child that
//! nobody waits for stays a zombie – and takes no exit status from anybody, as
//! nobody else waits. A running program costs no file descriptor.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use async_channel::{Receiver, Sender};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, test_kill_process_group};
use signal_hook::consts::SIGCHLD;
use signal_hook::iterator::Signals;

use crate::Failure;

/// Starts programs, and waits for whatever dies below this process.
#[derive(Debug, Clone)]
pub(crate) struct Children {
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// Started here and not dead yet, with who wants to know.
    awaited: HashMap<Pid, Sender<ExitStatus>>,
    /// Process groups that may have somebody in them.
    groups: HashSet<Pid>,
}

impl Children {
    /// From now on this process waits for everything that dies below it. Once per process.
    pub(crate) fn adopt() -> Result<Self, Failure> {
        let known = Arc::new(Mutex::new(Known::default()));
        // Before the first look, so that no death is missed between the two.
        let mut deaths = Signals::new([SIGCHLD])
            .map_err(|err| Failure::other(format!("cannot listen to signals: {err}")))?;
        become_reaper();
        let children = Self { known };
        let waiting = children.clone();
        thread::Builder::new()
            .name("reaper".into())
            .spawn(move || {
                // What was there before: this process may be somebody's next `exec`.
                waiting.reap();
                for _ in deaths.forever() {
                    waiting.reap();
                }
            })
            .map_err(|err| Failure::other(format!("cannot start a thread: {err}")))?;
        Ok(children)
    }

    /// Starts a program in a process group of its own.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<Program> {
        command.process_group(0);
        // Held all the time: nobody may wait for a child that `spawn` itself waits for,
        // as it does if there is nothing to execute, or that is not entered yet.
        let mut known = self.lock();
        let child = command.spawn()?;
        let leader = Pid::from_child(&child);
        let (tell, ended) = async_channel::bounded(1);
        known.awaited.insert(leader, tell);
        known.groups.insert(leader);
        Ok(Program {
            children: self.clone(),
            leader,
            ended,
            gone: false,
        })
    }

    /// Kills every program, and what it has started.
    pub(crate) fn kill_all(&self) {
        for &group in &self.lock().groups {
            // An error means that nothing of the group is left.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    fn reap(&self) {
        let mut known = self.lock();
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    // What is not awaited was left behind by a program.
                    if let Some(tell) = known.awaited.remove(&pid) {
                        let _ = tell.try_send(ExitStatus::from_raw(status.as_raw()));
                    }
                }
                Err(Errno::INTR) => {}
                // Nobody has died, or there is nobody.
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Orphans below this process become its children, not those of some init. Elsewhere
/// than on Linux they do so only if it is the init.
fn become_reaper() {
    #[cfg(target_os = "linux")]
    if let Err(err) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
        log::debug!("cannot become the reaper of orphans: {err}");
    }
}

/// A program that was started, and its process group. Dropped, all of it is killed.
#[derive(Debug)]
pub(crate) struct Program {
    children: Children,
    leader: Pid,
    ended: Receiver<ExitStatus>,
    gone: bool,
}

impl Program {
    /// Its process id, which is its group's.
    pub(crate) fn id(&self) -> i32 {
        self.leader.as_raw_pid()
    }

    /// How the program itself ended, told once. Others of its group may go on.
    pub(crate) async fn exit(&self) -> ExitStatus {
        match self.ended.recv().await {
            Ok(status) => status,
            // The sender is kept until it is told.
            Err(_) => futures_lite::future::pending().await,
        }
    }

    /// Sends a signal to every process of the group.
    pub(crate) fn signal(&self, signal: Signal) {
        // The number may be somebody else's once nobody of the group is left.
        if !self.gone {
            let _ = kill_process_group(self.leader, signal);
        }
    }

    /// Whether nobody of the group is left. Who has died counts until somebody has
    /// waited for it: the program itself, so ask after its [`exit`](Self::exit).
    pub(crate) fn is_gone(&mut self) -> bool {
        if !self.gone && test_kill_process_group(self.leader) == Err(Errno::SRCH) {
            self.gone = true;
            self.children.lock().groups.remove(&self.leader);
        }
        self.gone
    }

    /// Whether those who are left have all died, and somebody out of reach does not
    /// wait for them. Reads all of `/proc`; `false` where there is none.
    pub(crate) fn only_zombies_are_left(&self) -> bool {
        let Ok(processes) = std::fs::read_dir("/proc") else {
            return false;
        };
        let group = self.leader.as_raw_pid().to_string();
        // State, parent and group come behind the name, which is in parentheses.
        let is_alive = |stat: String| {
            let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
            let mut fields = behind.split_ascii_whitespace();
            let (state, in_group) = (fields.next(), fields.nth(1));
            in_group == Some(&*group) && !matches!(state, Some("Z" | "X"))
        };
        !processes
            .filter_map(|process| std::fs::read_to_string(process.ok()?.path().join("stat")).ok())
            .any(is_alive)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if !self.is_gone() {
            self.signal(Signal::KILL);
            self.children.lock().groups.remove(&self.leader);
        }
    }
}
