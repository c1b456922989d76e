//! Runs with outages only: servers and networks are away, for any time, machines are
//! suspended, and all of it comes back. No process crashes or stands still, and no
//! handler fails. Then nothing is ever quarantined, and no failure stays on record.
//!
//! A failing seed replays with `SEEDS=<seed> cargo test -p streamlease-testkit --test suite outages::`.

use std::time::Duration;

use streamlease_core::{
    BackendProvider, Client, EntryId, Event, Info, LockScheme, Producer, Runtime, Scope,
    ServiceName, Transport,
};
use streamlease_testkit::simulation::Network;
use streamlease_testkit::simulation::fleet::{SimBackend, SimServers};
use streamlease_testkit::simulation::{SimHandle, SimRuntime};

const TTL: Duration = Duration::from_secs(2);
const STREAMS: usize = 12;
/// Fewer than the failures that quarantine an entry: who is away for long is counted until it
/// comes back, once for each entry.
const CLIENTS: usize = 4;
const OUTAGES: usize = 25;

/// A client that takes what there is and holds it.
async fn consumer(sim: &SimRuntime, servers: &SimServers, nth: usize) -> (SimHandle, SimBackend) {
    let (process, backend) = (sim.handle(), servers.backend());
    let (client, mut events) = Client::builder("orders")
        .consumer(format!("c{nth}"))
        .backend(backend.clone())
        .runtime(process.clone())
        .ttl(TTL)
        .seed(sim.random(u64::MAX))
        .start()
        .expect("valid settings");
    client.started().await.expect("no outage yet");
    let serve = async move {
        let mut leases = Vec::new();
        while let Some(event) = events.next().await {
            match event {
                Event::StreamAdded(lease) => leases.push(lease),
                Event::StreamDisowned(lost) => {
                    leases.retain(|lease| lease.token() != lost.token());
                }
                _ => {}
            }
        }
        drop(client);
    };
    process.spawn(Box::pin(serve));
    (process, backend)
}

fn inject(sim: &SimRuntime, servers: &SimServers, fleet: &[(SimHandle, SimBackend)]) {
    let length = TTL / 10 * (1 + sim.random(60) as u32);
    let (process, backend) = &fleet[sim.random(fleet.len() as u64) as usize];
    match sim.random(8) {
        0 | 1 => servers.take_lbs_down(length),
        2 => servers.restart_locks(Duration::ZERO, length),
        3 => {
            servers.take_lbs_down(length);
            servers.restart_locks(Duration::ZERO, length);
        }
        4 => backend.lose_requests(length),
        5 => backend.lose_replies(length),
        6 => backend.demote(length),
        _ => process.stop_clock(length),
    }
}

async fn failures(lbs: &dyn Transport) -> Vec<u32> {
    let after = EntryId::MIN;
    let page = lbs.list_pending(&Scope::All { after }, 1_000).await;
    let page = page.expect("everything is healed").entries;
    page.iter().map(|pending| pending.failures).collect()
}

fn run(seed: u64, scheme: LockScheme) {
    let sim = SimRuntime::new(seed);
    let servers = SimServers::new(&sim, "orders", scheme);
    servers.set_network(Network::default());
    let pass = async |time| sim.sleep_until(sim.now() + time).await;
    sim.block_on(async {
        let observer = servers.backend();
        let mut fleet = Vec::new();
        for nth in 0..CLIENTS {
            fleet.push(consumer(&sim, &servers, nth).await);
        }
        let producer = Producer::new("orders", &observer, sim.handle()).expect("a valid name");
        for nth in 0..STREAMS {
            let submitted = producer.submit(format!("s{nth}"), Info::NONE).await;
            submitted.expect("no outage yet");
        }
        pass(TTL).await;
        for _ in 0..OUTAGES {
            inject(&sim, &servers, &fleet);
            pass(TTL / 10 * sim.random(60) as u32).await;
            assert!(servers.quarantined().is_empty(), "seed {seed}, {scheme:?}");
        }
        // All are over within six TTLs; then everybody comes back.
        pass(TTL * 12).await;
        assert!(servers.quarantined().is_empty(), "seed {seed}, {scheme:?}");
        let service = ServiceName::new("orders").expect("a valid name");
        let lbs = observer.backend(&service).expect("its service").transport;
        let failures = failures(&*lbs).await;
        assert_eq!(failures, [0; STREAMS], "seed {seed}, {scheme:?}");
    });
}

#[test]
fn outages_alone_quarantine_nothing_and_leave_no_failure_on_record() {
    let seeds = std::env::var("SEEDS").unwrap_or_else(|_| "1..=12".into());
    let number = |text: &str| text.trim_start_matches('=').parse().expect("a seed");
    let (from, to) = seeds.split_once("..").unwrap_or((&seeds, &seeds));
    for seed in number(from)..=number(to) {
        for scheme in [LockScheme::Session, LockScheme::PerStream] {
            run(seed, scheme);
        }
    }
}
