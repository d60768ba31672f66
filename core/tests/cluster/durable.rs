//! How durable what an update waits for is: memory answers at once and promises nothing, a durable answer is kept.

#![expect(clippy::unwrap_used, reason = "in a test, what must be there must be there")]

use crate::counter::{Add, Count, Total};
use rondel_core::{
    mutant::{Mutant, Mutants},
    proto::id::RequestId,
    request::{Need, RequestError, Service},
    store::StoreConfig,
    table::Keyed,
    testing::{CrashMode, Shape, Sim, TestCluster},
    vnode::Storage,
};
use std::time::Duration;

const KEY: &str = "k";
const ALL: [u32; 3] = [0, 1, 2];
/// A sync takes at least two seconds.
const SLOW: f64 = 25_000.0;
/// Less than that, and longer than the network needs.
const SOON: Duration = Duration::from_millis(500);

fn cluster(sim: &Sim, broken: Option<Mutant>) -> TestCluster {
    let mutants = broken.map_or_else(Mutants::default, Mutants::only);
    TestCluster::with_config(
        sim,
        Shape::of(3),
        |node| node.table::<Count>(Storage::Durable),
        move |_, config| config.mutants = mutants,
    )
}

/// The counters at a node, once those of earlier updates are durable and the disks of these nodes are slow.
async fn counters(cluster: &TestCluster, node: u32, slow: &[u32]) -> Service<Keyed<Count>> {
    let counts = cluster.node(node).await.table::<Count>();
    counts.update("warm", Add { amount: 1 }).need(Need::All).await.unwrap();
    cluster.control().sleep(Duration::from_secs(5)).await;
    slow.iter().for_each(|node| cluster.control().disk(*node).set_slowness(SLOW));
    counts
}

/// Gives all disks a sync to do that takes long: what comes after it waits in memory.
async fn keep_disks_busy(cluster: &TestCluster, counts: &Service<Keyed<Count>>) {
    let counts = counts.clone();
    cluster.control().spawn("busy", async move {
        // Whether it is done before the power goes is all the same.
        let _ = counts.update("warm", Add { amount: 1 }).need(Need::All).await;
    });
    cluster.control().sleep(Duration::from_millis(100)).await;
}

/// How long an update takes.
async fn time<T>(
    cluster: &TestCluster,
    update: impl IntoFuture<Output = Result<T, RequestError>>,
) -> Duration {
    let began = cluster.control().elapsed();
    update.await.unwrap();
    cluster.control().elapsed() - began
}

/// The power goes everywhere at this moment. What is left when all are back?
async fn left_after_a_blackout(cluster: &TestCluster) -> u64 {
    for node in ALL {
        cluster.crash(node, CrashMode::LoseAll);
        cluster.control().disk(node).set_slowness(1.0);
    }
    ALL.iter().for_each(|node| cluster.start(*node));
    cluster.settle().await.unwrap();
    let counts = cluster.node(0).await.table::<Count>();
    counts.get(KEY, Total).need(Need::All).await.unwrap()
}

#[test]
fn an_update_that_asks_for_memory_alone_waits_for_no_disk_and_can_be_lost() {
    let sim = Sim::new(71);
    let cluster = cluster(&sim, None);
    sim.run_until(async {
        cluster.form().await;
        let counts = counters(&cluster, 0, &ALL).await;
        keep_disks_busy(&cluster, &counts).await;
        let update = counts.update(KEY, Add { amount: 5 }).need(Need::All).durable(Need::Count(0));
        assert!(time(&cluster, update).await < SOON);
        assert_eq!(left_after_a_blackout(&cluster).await, 0);
    });
    assert_eq!(sim.panicked_work(), 0);
}

#[test]
fn what_nobody_waits_for_is_in_memory_alone_for_a_bounded_time() {
    let within = StoreConfig::default().lazy_sync_within;
    for (later, left) in [(Duration::ZERO, 0), (within / 2, 0), (within + Duration::from_millis(100), 5)] {
        let sim = Sim::new(72);
        let cluster = cluster(&sim, None);
        sim.run_until(async {
            cluster.form().await;
            let counts = counters(&cluster, 0, &[]).await;
            counts.update(KEY, Add { amount: 5 }).need(Need::All).durable(Need::Count(0)).await.unwrap();
            cluster.control().sleep(later).await;
            assert_eq!(left_after_a_blackout(&cluster).await, left, "{later:?} later");
        });
        assert_eq!(sim.panicked_work(), 0);
    }
}

#[test]
fn what_nobody_waits_for_becomes_durable_with_what_somebody_waits_for() {
    let sim = Sim::new(79);
    let cluster = cluster(&sim, None);
    sim.run_until(async {
        cluster.form().await;
        let counts = counters(&cluster, 0, &[]).await;
        counts.update(KEY, Add { amount: 5 }).need(Need::All).durable(Need::Count(0)).await.unwrap();
        counts.update("other", Add { amount: 1 }).need(Need::All).await.unwrap();
        assert_eq!(left_after_a_blackout(&cluster).await, 5);
    });
    assert_eq!(sim.panicked_work(), 0);
}

#[test]
fn updates_that_wait_for_no_disk_share_its_syncs() {
    let sim = Sim::new(80);
    let cluster = cluster(&sim, None);
    sim.run_until(async {
        cluster.form().await;
        let counts = counters(&cluster, 0, &[]).await;
        let syncs = || ALL.map(|node| cluster.control().disk(node).syncs());
        let taken = async |durable| {
            let before = syncs();
            for _ in 0..50 {
                counts.update(KEY, Add { amount: 1 }).need(Need::All).durable(durable).await.unwrap();
            }
            cluster.control().sleep(Duration::from_secs(2)).await;
            syncs().into_iter().zip(before).map(|(after, before)| after - before).collect::<Vec<_>>()
        };
        let lazily = taken(Need::Count(0)).await;
        assert!(lazily.iter().all(|syncs| *syncs <= 10), "{lazily:?}");
        let kept = ALL.map(|node| cluster.running(node).unwrap().status().hints.len());
        assert_eq!(kept, [0; 3], "nobody took a replica for one that hangs");
        let durably = taken(Need::All).await;
        assert!(durably.iter().all(|syncs| *syncs >= 50), "{durably:?}");
    });
    assert_eq!(sim.panicked_work(), 0);
}

#[test]
fn one_durable_copy_is_waited_for_and_kept_wherever_the_slow_disks_are() {
    for slow in [[1, 2], [0, 2], [0, 1]] {
        let sim = Sim::new(73);
        let cluster = cluster(&sim, None);
        sim.run_until(async {
            cluster.form().await;
            let counts = counters(&cluster, 0, &slow).await;
            let update = counts.update(KEY, Add { amount: 5 }).need(Need::All).durable(Need::Count(1));
            assert!(time(&cluster, update).await < SOON, "slow: {slow:?}");
            assert_eq!(left_after_a_blackout(&cluster).await, 5);
        });
        assert_eq!(sim.panicked_work(), 0);
    }
}

#[test]
fn an_update_that_does_not_say_waits_for_as_many_disks_as_replicas() {
    let sim = Sim::new(74);
    let cluster = cluster(&sim, None);
    sim.run_until(async {
        cluster.form().await;
        let counts = counters(&cluster, 0, &[1, 2]).await;
        // A hedge would have nobody to go to.
        assert!(time(&cluster, counts.update(KEY, Add { amount: 5 })).await > SOON);
        assert_eq!(left_after_a_blackout(&cluster).await, 5);
    });
    assert_eq!(sim.panicked_work(), 0);
}

/// All have it in memory, and the power goes as soon as one is said to have it on its disk.
async fn a_blackout_follows_the_first_durable_copy(cluster: TestCluster) -> u64 {
    let counts = counters(&cluster, 0, &ALL).await;
    keep_disks_busy(&cluster, &counts).await;
    let update = counts.update(KEY, Add { amount: 5 }).need(Need::Quorum).durable(Need::Count(1));
    update.deadline(Duration::from_secs(60)).await.unwrap();
    left_after_a_blackout(&cluster).await
}

#[test]
fn what_is_in_memory_is_not_counted_as_durable() {
    let left = [None, Some(Mutant::CountMemoryAsDurable)].map(|broken| {
        let sim = Sim::new(75);
        let cluster = cluster(&sim, broken);
        let left = sim.run_until(async {
            cluster.form().await;
            a_blackout_follows_the_first_durable_copy(cluster.clone()).await
        });
        assert_eq!(sim.panicked_work(), 0);
        left
    });
    assert_eq!(left, [5, 0]);
}

#[test]
fn a_retry_waits_for_what_it_asks_for_itself() {
    let sim = Sim::new(76);
    let cluster = cluster(&sim, None);
    sim.run_until(async {
        cluster.form().await;
        let counts = counters(&cluster, 0, &ALL).await;
        let update = || counts.update(KEY, Add { amount: 5 }).request_id(RequestId(9)).need(Need::All);
        assert!(time(&cluster, update().durable(Need::Count(0))).await < SOON);
        assert!(
            time(&cluster, update()).await > SOON,
            "it is in memory everywhere, and that is not asked for now"
        );
        assert_eq!(left_after_a_blackout(&cluster).await, 5, "it was counted once, and is there");
    });
    assert_eq!(sim.panicked_work(), 0);
}

#[test]
fn a_store_that_fails_after_its_word_for_memory_is_no_durable_copy() {
    let sim = Sim::new(77);
    let cluster = cluster(&sim, None);
    sim.run_until(async {
        cluster.form().await;
        let counts = counters(&cluster, 0, &[]).await;
        ALL.iter().for_each(|node| cluster.control().disk(*node).set_write_error_chance(1.0));
        let update = counts.update(KEY, Add { amount: 5 }).strict().durable(Need::Count(1));
        let error = update.deadline(Duration::from_secs(3)).await.unwrap_err();
        assert!(!error.nothing_was_done(), "nobody can say that: {error}");
        assert!(matches!(error, RequestError::Unmet { have: 0, .. }), "{error}");
    });
}

#[test]
fn more_durable_copies_than_answers_may_be_asked_for_but_not_more_than_there_are() {
    let sim = Sim::new(78);
    let cluster = cluster(&sim, None);
    sim.run_until(async {
        cluster.form().await;
        let counts = counters(&cluster, 0, &[1, 2]).await;
        let update = || counts.update(KEY, Add { amount: 5 }).need(Need::Count(1));
        assert!(time(&cluster, update()).await < SOON);
        assert!(time(&cluster, update().durable(Need::All)).await > SOON);
        let refused = update().durable(Need::Count(4)).await.unwrap_err();
        assert_eq!(refused, RequestError::Unsatisfiable { asked: 4, n: 3 });
    });
}
