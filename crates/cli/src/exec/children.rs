//! The processes below this one: those that it started, and those that are left to it.
//!
//! One thread waits for all of them. So it can do what an init does – whatever a
//! program leaves behind becomes a child of this process, and a dead child that
//! nobody waits for stays a zombie – and takes no exit status from anybody, as
//! nobody else waits. A running program costs no file descriptor.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, test_kill_process_group};
use signal_hook::consts::SIGCHLD;
use signal_hook::iterator::Signals;

use crate::Failure;

/// When everything is killed, a start that takes longer is not waited for: it hangs, on
/// a file system that does not answer.
const START_TAKES: Duration = Duration::from_millis(200);

/// Starts programs, and waits for whatever dies below this process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Children {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Never held while a program is started, which may take for ever.
    known: Mutex<Known>,
    /// A start has ended.
    started: Condvar,
}

#[derive(Debug, Default)]
struct Known {
    /// Started here and not dead yet, with who wants to know.
    awaited: HashMap<Pid, Sender<ExitStatus>>,
    /// Process groups that may have somebody in them.
    groups: HashSet<Pid>,
    /// Programs that are being started, and not known yet.
    starting: usize,
    /// Meanwhile something may have died that nobody has waited for.
    left_unreaped: bool,
    /// Everything was killed, and what comes later is killed, too.
    all_killed: bool,
}

/// A program that is being started. Dropped, that is over.
struct Starting<'a>(&'a Children);

impl Children {
    /// From now on this process waits for everything that dies below it. Once per process.
    pub(crate) fn adopt() -> Result<Self, Failure> {
        // Before the first look, so that no death is missed between the two.
        let mut deaths = Signals::new([SIGCHLD])
            .map_err(|err| Failure::other(format!("cannot listen to signals: {err}")))?;
        become_reaper();
        let children = Self::default();
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
        self.start(|| command.process_group(0).spawn())
    }

    fn start(&self, spawn: impl FnOnce() -> io::Result<Child>) -> io::Result<Program> {
        let starting = self.begin()?;
        let child = spawn()?;
        let leader = Pid::from_child(&child);
        let (tell, ended) = async_channel::bounded(1);
        let mut known = self.lock();
        known.awaited.insert(leader, tell);
        known.groups.insert(leader);
        if known.all_killed {
            let _ = kill_process_group(leader, Signal::KILL);
        }
        drop(known);
        drop(starting);
        Ok(Program {
            children: self.clone(),
            leader,
            ended,
            gone: false,
        })
    }

    fn begin(&self) -> io::Result<Starting<'_>> {
        let mut known = self.lock();
        if known.all_killed {
            return Err(io::Error::other("everything was told to end at once"));
        }
        known.starting += 1;
        Ok(Starting(self))
    }

    /// Kills every program, and what it has started. What is being started is waited
    /// for only briefly, and killed as soon as it is known. None can be started later.
    pub(crate) fn kill_all(&self) {
        let mut known = self.lock();
        known.all_killed = true;
        for &group in &known.groups {
            // An error means that nothing of the group is left.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let is_waited_for = |known: &mut Known| known.starting > 0;
        let started = &self.shared.started;
        drop(started.wait_timeout_while(known, START_TAKES, is_waited_for));
    }

    fn reap(&self) {
        Self::reap_within(&mut self.lock());
    }

    /// Nobody may wait for a child that `spawn` itself waits for, as it does if there is
    /// nothing to execute, or that is not known yet. So while anything is started, only
    /// those are waited for that are known: until then their numbers are nobody else's.
    fn reap_within(known: &mut Known) {
        known.left_unreaped = known.starting > 0;
        if known.left_unreaped {
            let leaders: Vec<Pid> = known.awaited.keys().copied().collect();
            for leader in leaders {
                wait_for(known, Some(leader));
            }
        } else {
            while wait_for(known, None) {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        let known = self.shared.known.lock();
        known.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells how somebody ended; `false` if nobody has, of all or of these.
fn wait_for(known: &mut Known, who: Option<Pid>) -> bool {
    loop {
        let ended = match who {
            Some(_) => rustix::process::waitpid(who, WaitOptions::NOHANG),
            // Not `waitpid`, which would take this process's own group.
            None => rustix::process::wait(WaitOptions::NOHANG),
        };
        match ended {
            Ok(Some((pid, status))) => {
                // What is not awaited was left behind by a program.
                if let Some(tell) = known.awaited.remove(&pid) {
                    let _ = tell.try_send(ExitStatus::from_raw(status.as_raw()));
                }
                return true;
            }
            Err(Errno::INTR) => {}
            // Nobody has died, or there is nobody.
            Ok(None) | Err(_) => return false,
        }
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        let mut known = self.0.lock();
        known.starting -= 1;
        if known.left_unreaped {
            // The signal has come and gone.
            Children::reap_within(&mut known);
        }
        self.0.shared.started.notify_all();
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// Nobody waits for what dies unless the test does.
    fn unwatched() -> (Children, MutexGuard<'static, ()>) {
        (Children::default(), crate::alone())
    }

    fn sleeping() -> io::Result<Child> {
        Command::new("sleep").arg("1000").process_group(0).spawn()
    }

    /// A child that has died, and that nobody has waited for.
    fn dead() -> io::Result<Child> {
        let child = Command::new("true").process_group(0).spawn()?;
        eventually(|| is_zombie(child.id()));
        Ok(child)
    }

    fn is_zombie(pid: u32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| stat.contains(") Z "))
    }

    fn eventually(mut is_so: impl FnMut() -> bool) {
        let give_up_at = Instant::now() + SOON;
        while !is_so() {
            assert!(Instant::now() < give_up_at, "not within {SOON:?}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// A start that hangs, as on a file system that does not answer, until told.
    fn hanging_start(children: &Children) -> (mpsc::Sender<()>, thread::JoinHandle<Program>) {
        let (entered, is_entered) = mpsc::channel();
        let (go_on, told) = mpsc::channel::<()>();
        let children = children.clone();
        let start = move || {
            children.start(|| {
                entered.send(()).unwrap();
                // An end without a word does as well.
                let _ = told.recv();
                sleeping()
            })
        };
        let starting = thread::spawn(move || start().unwrap());
        is_entered.recv_timeout(SOON).unwrap();
        (go_on, starting)
    }

    /// Runs this in another thread; whether it ends soon.
    fn ends(what: impl FnOnce() + Send + 'static) -> bool {
        let (end, ended) = mpsc::channel();
        thread::spawn(move || {
            what();
            let _ = end.send(());
        });
        ended.recv_timeout(Duration::from_secs(5)).is_ok()
    }

    #[test]
    fn a_start_that_hangs_keeps_nobody_from_killing_the_other_programs_and_hearing_of_their_end() {
        let (children, _alone) = unwatched();
        let other = children.start(sleeping).unwrap();
        let (go_on, hangs) = hanging_start(&children);
        let killing = children.clone();
        assert!(
            ends(move || killing.kill_all()),
            "killing waits for a start"
        );
        eventually(|| is_zombie(other.id().unsigned_abs()));
        let reaping = children.clone();
        assert!(ends(move || reaping.reap()), "reaping waits for a start");
        assert_eq!(other.ended.try_recv().unwrap().signal(), Some(9));
        drop(go_on);
        // It came too late to live on.
        let late = hangs.join().unwrap();
        let mut status = None;
        eventually(|| {
            children.reap();
            status = late.ended.try_recv().ok();
            status.is_some()
        });
        assert_eq!(status.unwrap().signal(), Some(9));
        assert!(children.start(sleeping).is_err());
    }

    #[test]
    fn nobody_waits_for_a_child_that_is_being_started_and_its_end_is_told_later() {
        let (children, _alone) = unwatched();
        let reaping = children.clone();
        let mut orphan = 0;
        let start = || {
            let child = dead()?;
            orphan = dead()?.id();
            // The signals of both deaths come while it is started.
            assert!(ends(move || reaping.reap()), "reaping waits for a start");
            assert!(is_zombie(child.id()), "somebody has waited for it");
            Ok(child)
        };
        let mut program = children.start(start).unwrap();
        // No further signal comes.
        let status = program.ended.try_recv().unwrap();
        assert!(status.success(), "{status}");
        assert!(program.is_gone());
        assert!(!is_zombie(orphan), "an orphan is not reaped");
        // What could not be started was waited for by whoever tried.
        let missing = children.start(|| Command::new("/nonexistent").process_group(0).spawn());
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
