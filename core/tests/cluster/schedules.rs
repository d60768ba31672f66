//! What a node forgets, it does not count over: schedules on which increments are lost as soon as one rule of who issues
//! under which name is broken.

#![expect(clippy::unwrap_used, reason = "in a test, what must be there must be there")]

use crate::counter::{Add, Count, Total};
use rondel_core::{
    mutant::{Mutant, Mutants},
    request::{Need, RequestError},
    ring::position_of,
    testing::{CrashMode, Shape, Sim, TestCluster},
    vnode::Storage,
};
use std::{cell::Cell, time::Duration};

const KEY: &str = "k";
/// Longer than it takes to give up a node that is not heard.
const GIVEN_UP: Duration = Duration::from_secs(12);

/// The total that a schedule leaves, with all rules or with one of them broken.
fn total<F: Future<Output = ()>>(
    nodes: u32,
    broken: Option<Mutant>,
    schedule: impl Fn(TestCluster) -> F,
) -> u64 {
    let sim = Sim::new(61);
    let mutants = broken.map_or_else(Mutants::default, Mutants::only);
    let cluster = TestCluster::with_config(
        &sim,
        Shape::of(nodes),
        |node| node.table::<Count>(Storage::Durable),
        move |_, config| config.mutants = mutants,
    );
    let total = sim.run_until(async {
        cluster.form().await;
        schedule(cluster.clone()).await;
        cluster.settle().await.unwrap();
        let counts = cluster.node(0).await.table::<Count>();
        counts.get(KEY, Total).need(Need::All).await.unwrap()
    });
    assert_eq!(sim.panicked_work(), 0);
    total
}

async fn add(cluster: &TestCluster, node: u32, amount: u64) {
    cluster.node(node).await.table::<Count>().update(KEY, Add { amount }).await.unwrap();
}

/// A node that owns no slot of the key counts alone, hands its copy back, forgets it, and counts again.
async fn a_stand_in_drains_and_counts(cluster: TestCluster) {
    let outsider = cluster.outsiders_of(position_of(&[KEY.as_bytes()]))[0];
    for amount in [5, 7] {
        cluster.isolate(outsider);
        cluster.control().sleep(GIVEN_UP).await;
        add(&cluster, outsider, amount).await;
        cluster.heal();
        cluster.settle().await.unwrap();
    }
}

#[test]
fn a_stand_in_that_has_handed_back_its_count_begins_another() {
    assert_eq!(total(4, None, a_stand_in_drains_and_counts), 12);
    assert_eq!(total(4, Some(Mutant::NoBirth), a_stand_in_drains_and_counts), 7, "the switch works");
    assert_eq!(total(4, Some(Mutant::KeepMine), a_stand_in_drains_and_counts), 7, "the switch works");
}

/// The others have made a step durable that the coordinator itself has only sent when its power goes.
async fn a_coordinator_forgets_its_step(cluster: TestCluster) {
    cluster.control().disk(0).set_ignore_sync(true);
    add(&cluster, 0, 5).await;
    cluster.crash(0, CrashMode::LoseAll);
    cluster.control().disk(0).set_ignore_sync(false);
    cluster.control().sleep(GIVEN_UP).await;
    // Nobody tells it of what it has lost before it counts again.
    cluster.partition(&[&[0], &[1, 2]]);
    cluster.start(0);
    cluster.node(0).await.serving().await.unwrap();
    cluster.control().sleep(GIVEN_UP).await;
    add(&cluster, 0, 7).await;
    cluster.heal();
}

#[test]
fn a_coordinator_that_has_lost_a_step_counts_under_another_name() {
    assert_eq!(total(3, None, a_coordinator_forgets_its_step), 12);
    let broken = total(3, Some(Mutant::KeepIncarnation), a_coordinator_forgets_its_step);
    assert_eq!(broken, 7, "the switch works");
}

/// The coordinator counts, but its answer is lost with the connection; then it can be reached again, as the process
/// that it was or as another. Gives what the client is told, and the total.
fn an_answer_is_lost(restart: bool, broken: Option<Mutant>) -> (Result<u64, RequestError>, u64) {
    let told = Cell::new(None);
    let total = total(4, broken, |cluster| {
        let told = &told;
        async move {
            // By then everybody has a connection to everybody.
            cluster.control().sleep(GIVEN_UP).await;
            let position = position_of(&[KEY.as_bytes()]);
            let (coordinator, outsider) = (cluster.owners_of(position)[0], cluster.outsiders_of(position)[0]);
            let (control, counts) = (cluster.control(), cluster.node(outsider).await.table::<Count>());
            control.net().cut(coordinator, outsider);
            let loss = async {
                control.sleep(Duration::from_secs(1)).await;
                if restart {
                    cluster.restart(coordinator);
                    cluster.node(coordinator).await.serving().await.unwrap();
                }
                // Longer than a connection lives without a word.
                control.sleep(Duration::from_secs(6)).await;
                control.net().mend(coordinator, outsider);
            };
            let (outcome, ()) = tokio::join!(biased; counts.update(KEY, Add { amount: 5 }), loss);
            told.set(Some(outcome));
        }
    });
    (told.take().unwrap(), total)
}

#[test]
fn a_step_whose_answer_was_lost_is_answered_by_the_process_that_took_it_and_by_no_other() {
    assert_eq!(an_answer_is_lost(false, None), (Ok(5), 5));
    assert_eq!(an_answer_is_lost(true, None), (Err(RequestError::Unknown), 5));
    let broken = an_answer_is_lost(true, Some(Mutant::RunForgottenRetry));
    assert_eq!(broken, (Ok(10), 10), "the switch works");
}
