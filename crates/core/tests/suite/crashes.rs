//! Processes that die again and again: which of their streams goes into quarantine for it.
//! On the memory backend, under virtual time, with both lock schemes.

use std::collections::BTreeSet;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_lite::future;
use streamlease_core::{Done, QuarantineAdmin, Run, Runtime, Timestamp};
use streamlease_testkit::simulation::{SimHandle, SimRuntime};

use crate::common::Fleet;

const INNOCENT: u32 = 200;

/// What handlers tell the test.
#[derive(Debug)]
enum Said {
    Began(String),
    /// The stream that kills has begun on this worker.
    Kills(usize),
}

/// Both lock schemes, with workers that come back under their names and under others.
fn everywhere<F: Future<Output = ()>>(seeds: u64, scenario: impl Fn(Fleet, bool) -> F) {
    for seed in 1..=seeds {
        for (session_leases, same_name) in
            [(true, true), (true, false), (false, true), (false, false)]
        {
            let sim = SimRuntime::new(seed);
            let fleet = Fleet::new(sim.clone(), session_leases);
            sim.block_on(scenario(fleet, same_name));
        }
    }
}

struct Story {
    fleet: Fleet,
    say: Sender<Said>,
    heard: Receiver<Said>,
    workers: Vec<SimHandle>,
    starts: u32,
    deaths: u32,
}

impl Story {
    async fn begin(fleet: Fleet, workers: usize) -> Self {
        let (say, heard) = async_channel::unbounded();
        let mut story = Self {
            workers: Vec::new(),
            fleet,
            say,
            heard,
            starts: 0,
            deaths: 0,
        };
        for n in 0..workers {
            let process = story.start(n, &format!("w{n}"));
            story.workers.push(process);
        }
        story
    }

    /// A worker's process; its handlers never end.
    fn start(&mut self, n: usize, name: &str) -> SimHandle {
        let process = self.fleet.sim.handle();
        let builder = self.fleet.builder(name).runtime(process.clone());
        let (client, events) = builder.start().unwrap();
        let (say, clock) = (self.say.clone(), process.clone());
        process.spawn(Box::pin(async move {
            let handler = |lease: std::sync::Arc<streamlease_core::Lease>, _| {
                let (say, clock) = (say.clone(), clock.clone());
                async move {
                    let name = lease.stream().to_string();
                    let kills = name == "kills";
                    say.send(Said::Began(name)).await.unwrap();
                    if kills {
                        clock
                            .sleep_until(clock.now() + Duration::from_millis(50))
                            .await;
                        say.send(Said::Kills(n)).await.unwrap();
                    }
                    future::pending::<Done>().await
                }
            };
            client.run(events, Run::forever(), handler).await.unwrap();
        }));
        self.starts += 1;
        process
    }

    /// Kills a worker. Another one comes a second later.
    async fn kill(&mut self, n: usize, same_name: bool) {
        self.workers[n].kill();
        self.deaths += 1;
        self.fleet.sleep(Duration::from_secs(1)).await;
        let name = match same_name {
            true => format!("w{n}"),
            false => format!("w{n}-{}", self.starts),
        };
        self.workers[n] = self.start(n, &name);
    }

    async fn submit(&self) {
        let names = (0..INNOCENT).map(|n| format!("s{n}"));
        let producer = self.fleet.producer();
        for name in names {
            producer
                .submit(&name, streamlease_core::Info::NONE)
                .await
                .unwrap();
        }
    }

    async fn next(&self, until: Timestamp) -> Option<Said> {
        let heard = async { self.heard.recv().await.ok() };
        let too_late = async {
            self.fleet.sim.sleep_until(until).await;
            None
        };
        future::or(heard, too_late).await
    }

    async fn quarantined(&self) -> Vec<String> {
        let admin = QuarantineAdmin::new("orders", &self.fleet.backend).unwrap();
        let all = admin.all().await.unwrap();
        let name = |of: &streamlease_core::Quarantined| of.content().unwrap().stream.to_string();
        all.iter().map(name).collect()
    }
}

/// Three workers at work on many streams, and one stream that kills whoever begins it.
#[test]
fn a_stream_that_kills_goes_into_quarantine_alone_after_seven_deaths_at_most() {
    everywhere(3, |fleet, same_name| async move {
        let mut story = Story::begin(fleet, 3).await;
        story.submit().await;
        story.fleet.sleep(Duration::from_secs(10)).await;
        story.fleet.submit(&["kills"]).await;
        let end = story.fleet.sim.now() + Duration::from_secs(120);
        while let Some(said) = story.next(end).await {
            if let Said::Kills(n) = said {
                story.kill(n, same_name).await;
            }
        }
        assert_eq!(story.quarantined().await, ["kills"]);
        assert!((5..=7).contains(&story.deaths), "{} deaths", story.deaths);
        assert_eq!(story.fleet.left().await.len(), INNOCENT as usize);
    });
}

/// Whatever killed them all twice is over.
#[test]
fn thousands_of_streams_whose_workers_all_died_twice_are_back_within_half_a_minute() {
    const MANY: usize = 2_000;
    everywhere(1, |fleet, same_name| async move {
        let mut story = Story::begin(fleet, 3).await;
        let names = (0..MANY).map(|n| format!("s{n}"));
        story.fleet.producer().submit_all(names).await.unwrap();
        for _ in 0..2 {
            let end = story.fleet.sim.now() + Duration::from_secs(20);
            let mut began = BTreeSet::new();
            while began.len() < MANY {
                match story.next(end).await {
                    Some(Said::Began(name)) => began.insert(name),
                    other => panic!("{} began, then {other:?}", began.len()),
                };
            }
            for n in 0..3 {
                story.workers[n].kill();
            }
            for n in 0..3 {
                story.kill(n, same_name).await;
            }
        }
        let end = story.fleet.sim.now() + Duration::from_secs(30);
        let mut began = BTreeSet::new();
        while began.len() < MANY {
            match story.next(end).await {
                Some(Said::Began(name)) => began.insert(name),
                other => panic!("{} began, then {other:?}", began.len()),
            };
        }
        assert_eq!(story.quarantined().await, [""; 0]);
    });
}

/// A sole worker that is killed every five seconds, by nothing that it works on.
#[test]
fn a_worker_that_is_killed_every_five_seconds_puts_nothing_into_quarantine() {
    everywhere(1, |fleet, same_name| async move {
        let mut story = Story::begin(fleet, 1).await;
        story.submit().await;
        let end = story.fleet.sim.now() + Duration::from_secs(600);
        while story.fleet.sim.now() < end {
            let killed = story.fleet.sim.now() + Duration::from_secs(5);
            let mut began = BTreeSet::new();
            while let Some(said) = story.next(killed).await {
                if let Said::Began(name) = said {
                    began.insert(name);
                }
            }
            // Nor is anything held back: each life works on all of them.
            assert_eq!(began.len(), INNOCENT as usize, "life {}", story.starts);
            story.kill(0, same_name).await;
        }
        assert_eq!(story.quarantined().await, [""; 0]);
        assert!(story.deaths >= 100, "{} deaths", story.deaths);
    });
}

/// A worker dies a second after each start, of nothing that it works on: too soon for its death
/// to be forgotten. How many of 200 streams are in quarantine after each minute.
async fn crash_loop(fleet: Fleet, same_name: bool, workers: usize, minutes: u64) -> Vec<usize> {
    let mut story = Story::begin(fleet, workers).await;
    story.submit().await;
    let begin = story.fleet.sim.now();
    let mut parked = Vec::new();
    for minute in 1..=minutes {
        while story.fleet.sim.now() < begin + Duration::from_secs(60 * minute) {
            story.fleet.sleep(Duration::from_secs(1)).await;
            story.kill(0, same_name).await;
            if story.deaths == 10 {
                // Nothing happens within seconds.
                assert_eq!(story.quarantined().await, [""; 0]);
            }
        }
        parked.push(story.quarantined().await.len());
    }
    assert!(
        u64::from(story.deaths) >= minutes * 29,
        "{} deaths",
        story.deaths
    );
    parked
}

/// Alone it looks as if each stream that it tries alone had killed it. So the quarantine takes
/// one after the other, and leaves time to see it.
#[test]
fn a_sole_worker_in_a_crash_loop_puts_a_stream_into_quarantine_every_four_seconds_at_most() {
    let sim = SimRuntime::new(1);
    let fleet = Fleet::new(sim.clone(), true);
    let parked = sim.block_on(crash_loop(fleet, true, 1, 10));
    let mut before = 0;
    for &now in &parked {
        assert!(now - before <= 15, "{parked:?}");
        before = now;
    }
}

/// The other one shows that they do no harm.
#[test]
fn beside_a_healthy_worker_a_crash_loop_puts_few_streams_into_quarantine_and_soon_none() {
    everywhere(1, |fleet, same_name| async move {
        let parked = crash_loop(fleet, same_name, 2, 3).await;
        assert!(parked[1] <= 10, "{parked:?}");
        assert_eq!(parked[1], parked[2], "{parked:?}");
    });
}
