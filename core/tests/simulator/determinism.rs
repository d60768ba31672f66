//! The same seed takes the same course: in one process, and in another.

use crate::quic::{PORT, Tls, addr, call, echo};
use quinn::{Connection, Endpoint};
use rondel_core::{
    env::Env,
    testing::{CrashMode, Link, Sim, ip},
};
use std::{
    collections::BTreeMap, env, fmt::Write as _, io::Write as _, net::SocketAddr, process::Command,
    time::Duration,
};

const NODES: u32 = 5;

/// Names the seed to a process that only tells its hash.
const SEED_VARIABLE: &str = "RONDEL_SIMULATOR_SEED";

/// What a node does: answers, asks everyone now and then, and writes down what it hears.
async fn node(env: Env, endpoint: Endpoint, me: u32) {
    env.spawn("echo", echo(env.clone(), endpoint.clone()));
    let disk = env.disk();
    disk.create_dir_all("/data".as_ref()).unwrap();
    let file = disk.open("/data/log".as_ref(), true).unwrap();
    let mut rng = env.rng();
    let mut connections: BTreeMap<u32, Connection> = BTreeMap::new();
    loop {
        env.sleep(rng.between(Duration::from_millis(100), Duration::from_millis(300))).await;
        let peer = u32::try_from(rng.below(u64::from(NODES))).unwrap();
        if peer == me {
            continue;
        }
        let open = connections.get(&peer).filter(|connection| connection.close_reason().is_none()).cloned();
        let heard = env.timeout(Duration::from_secs(1), async {
            let connection = match open {
                Some(connection) => connection,
                None => endpoint.connect(addr(peer), "node").ok()?.await.ok()?,
            };
            let heard = call(&connection, &vec![1; rng.index(20_000)]).await;
            connections.insert(peer, connection);
            heard
        });
        if let Ok(Some(heard)) = heard.await {
            let file = file.clone();
            let written = env.block(move || {
                file.write_at(file.len()?, &heard[..heard.len().min(100)])?;
                file.sync()
            });
            let _ = written.await;
        }
    }
}

/// Kills, pauses, partitions and power cuts, chosen by the seed.
async fn nemesis(sim: &Sim, rounds: u32) {
    let mut rng = sim.rng("nemesis");
    for _ in 0..rounds {
        let victim = u32::try_from(rng.below(u64::from(NODES))).unwrap();
        match rng.below(4) {
            0 => sim.crash(victim, CrashMode::TornSectors),
            1 => sim.pause(victim),
            2 => sim.net().isolate(victim, 0..NODES),
            _ => sim.cut_power_after(victim, rng.below(5), CrashMode::Sectors),
        }
        sim.sleep(rng.between(Duration::from_millis(100), Duration::from_secs(4))).await;
        sim.net().heal();
        sim.resume(victim);
        if !sim.is_running(victim) {
            sim.restart(victim);
        }
        sim.sleep(Duration::from_secs(1)).await;
    }
}

fn cluster(seed: u64) -> Sim {
    let sim = Sim::new(seed);
    sim.net().set_links(Link { loss: 0.01, ..Link::default() });
    let tls = Tls::new();
    for me in 0..NODES {
        let tls = tls.clone();
        sim.start(me, move |env| {
            let endpoint = tls.endpoint(&env, SocketAddr::new(ip(me), PORT));
            node(env, endpoint, me)
        });
    }
    sim
}

/// The trace of a cluster under a nemesis. TLS keys differ in each run: the trace must not.
fn course(seed: u64) -> String {
    let sim = cluster(seed);
    sim.run_until(nemesis(&sim, 10));
    sim.trace_hash().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[test]
fn tasks_that_are_woken_together_run_in_an_order_that_follows_from_the_seed_alone() {
    let course = || {
        let sim = Sim::new(8);
        let env = sim.node_env(0);
        let news = tokio::sync::watch::Sender::new(0);
        for _ in 0..16 {
            let mut heard = news.subscribe();
            env.spawn("reader", async move { while heard.changed().await.is_ok() {} });
        }
        sim.run_until(async {
            for number in 1..20 {
                sim.sleep(Duration::from_millis(1)).await;
                news.send_replace(number);
            }
        });
        sim.trace_hash()
    };
    assert_eq!(course(), course());
}

#[test]
fn one_seed_is_one_course_and_two_seeds_are_two() {
    let first = course(1);
    assert_eq!(first, course(1));
    assert_ne!(first, course(2));
}

#[test]
fn a_fresh_process_takes_the_same_course() {
    if let Ok(seed) = env::var(SEED_VARIABLE) {
        writeln!(std::io::stdout(), "course={}", course(seed.parse().unwrap())).unwrap();
        return;
    }
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "determinism::a_fresh_process_takes_the_same_course", "--nocapture"])
        .env(SEED_VARIABLE, "11")
        .output()
        .unwrap();
    let output = String::from_utf8(child.stdout).unwrap();
    let expected = format!("course={}", course(11));
    assert!(output.contains(&expected), "expected {expected} in {output}");
}

/// Measures; run it by hand with `--release --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a check"]
#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "it measures real time, for people")]
fn simulated_seconds_per_second() {
    for nemeses in [false, true] {
        let sim = cluster(1);
        let start = std::time::Instant::now();
        if nemeses {
            sim.run_until(nemesis(&sim, 60))
        } else {
            sim.run_for(Duration::from_secs(180))
        }
        let rate = sim.elapsed().as_secs_f64() / start.elapsed().as_secs_f64();
        println!("{NODES} nodes, nemeses {nemeses}: {rate:.0} simulated seconds per second");
    }
}
