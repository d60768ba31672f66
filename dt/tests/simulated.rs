//! Counters on simulated clusters: what was acknowledged is counted once, and what is unknown at most once.

use rondel_core::{
    env::Rng,
    request::{Need, Options},
    testing::{CrashMode, Shape, Sim, TestCluster},
    vnode::Storage,
};
use rondel_dt::{CountError, Counter, Counters};
use std::{ops::RangeInclusive, time::Duration};

const KEYS: [&str; 4] = ["visits", "likes", "stock", "balance"];

fn counters_on(sim: &Sim, nodes: u32) -> TestCluster {
    TestCluster::new(sim, Shape::of(nodes), |node| node.table::<Counter>(Storage::Durable))
}

/// What the clients know of one counter.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    acknowledged: i128,
    /// What may have been counted besides, in each direction.
    perhaps_up: i128,
    perhaps_down: i128,
}

impl Known {
    fn note(&mut self, by: i128, outcome: &Result<i128, CountError>) {
        match outcome {
            Ok(_) => self.acknowledged += by,
            Err(CountError::NotCounted(_)) => {}
            Err(CountError::Unknown(_)) if by > 0 => self.perhaps_up += by,
            Err(CountError::Unknown(_)) => self.perhaps_down -= by,
        }
    }

    fn range(&self) -> RangeInclusive<i128> {
        self.acknowledged - self.perhaps_down..=self.acknowledged + self.perhaps_up
    }

    fn is_exact(&self) -> bool {
        self.perhaps_up == 0 && self.perhaps_down == 0
    }
}

/// Counts so many steps, up and down, each on one key through one of these nodes.
async fn count(counters: &[Counters], steps: usize, rng: &mut Rng, known: &mut [Known]) {
    for step in 0..steps {
        let counters = &counters[rng.index(counters.len())];
        let (at, by) = (step % KEYS.len(), rng.below(9) + 1);
        if rng.below(3) == 0 {
            let outcome = counters.decrement(KEYS[at], by).await;
            known[at].note(-i128::from(by), &outcome);
        } else {
            let outcome = counters.increment(KEYS[at], by).await;
            known[at].note(i128::from(by), &outcome);
        }
    }
}

async fn counters_of(cluster: &TestCluster, nodes: &[u32]) -> Vec<Counters> {
    let mut counters = Vec::new();
    for node in nodes {
        counters.push(Counters::of(&cluster.node(*node).await));
    }
    counters
}

/// The value of a counter, asked again where a read fails: a dial that began while its peer was away still fails those
/// that wait for it after the peer has returned.
async fn value_of(cluster: &TestCluster, counters: &Counters, key: &str) -> i128 {
    let mut last = None;
    for _ in 0..10 {
        match counters.value(key).await {
            Ok(value) => return value,
            Err(error) => last = Some(error),
        }
        cluster.control().sleep(Duration::from_secs(1)).await;
    }
    panic!("{key} can't be read on a cluster at rest: {last:?}");
}

/// Every node, asking every replica, finds what the clients know.
async fn check(cluster: &TestCluster, known: &[Known]) {
    for counters in counters_of(cluster, &cluster.nodes()).await {
        let counters = counters.with_options(Options { need: Need::All, ..Options::default() });
        for (key, known) in KEYS.iter().zip(known) {
            let value = value_of(cluster, &counters, key).await;
            assert!(known.range().contains(&value), "{key} stands at {value}; known is {known:?}");
        }
    }
}

#[test]
fn steps_through_all_nodes_are_counted_exactly_over_the_death_and_return_of_one() {
    for seed in 0..4 {
        let sim = Sim::new(seed);
        let cluster = counters_on(&sim, 3);
        sim.run_until(async {
            cluster.form().await;
            cluster.settle().await.unwrap();
            let (mut rng, mut known) = (sim.rng("steps"), [Known::default(); KEYS.len()]);
            count(&counters_of(&cluster, &[0, 1, 2]).await, 30, &mut rng, &mut known).await;
            cluster.kill(1);
            count(&counters_of(&cluster, &[0, 2]).await, 30, &mut rng, &mut known).await;
            cluster.start(1);
            cluster.node(1).await.serving().await.unwrap();
            count(&counters_of(&cluster, &[0, 1, 2]).await, 30, &mut rng, &mut known).await;
            assert!(known.iter().all(Known::is_exact), "every step was acknowledged: {known:?}");
            cluster.settle().await.unwrap();
            check(&cluster, &known).await;
        });
        assert_eq!(sim.panicked_work(), 0);
    }
}

/// Of five nodes, two own no slot of a given key, so a step through them is coordinated elsewhere: by a node that loses
/// its power in the middle of it.
#[test]
fn a_step_whose_coordinator_was_lost_is_unknown_and_counted_at_most_once() {
    let mut unknown = 0;
    for seed in 0..3 {
        let sim = Sim::new(seed);
        let cluster = counters_on(&sim, 5);
        let known = sim.run_until(async {
            cluster.form().await;
            cluster.settle().await.unwrap();
            let (mut rng, mut known) = (sim.rng("steps"), [Known::default(); KEYS.len()]);
            let short = Options { deadline: Duration::from_secs(5), ..Options::default() };
            let through = counters_of(&cluster, &[0]).await.remove(0).with_options(short);
            let power_cuts = async {
                for node in [1, 2, 3, 4, 1, 2, 3, 4] {
                    sim.sleep(Duration::from_millis(500)).await;
                    cluster.crash(node, CrashMode::LoseAll);
                    sim.sleep(Duration::from_millis(1500)).await;
                    cluster.start(node);
                    cluster.node(node).await.serving().await.unwrap();
                }
            };
            let (through, known_now) = ([through], &mut known);
            let clients = async {
                for _ in 0..40 {
                    count(&through, 20, &mut rng, known_now).await;
                    sim.sleep(Duration::from_millis(100)).await;
                }
            };
            tokio::join!(biased; power_cuts, clients);
            cluster.settle().await.unwrap();
            check(&cluster, &known).await;
            known
        });
        unknown += known.iter().filter(|known| !known.is_exact()).count();
        assert_eq!(sim.panicked_work(), 0);
    }
    assert!(unknown > 0, "some coordinator was lost in the middle of a step");
}
