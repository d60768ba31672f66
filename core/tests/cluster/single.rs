//! One node: what it acknowledges is there after a restart.

use crate::counter::{Add, Count, Total};
use rondel_core::{
    testing::{CrashMode, Shape, Sim, TestCluster, check_entry_laws},
    vnode::Storage,
};

#[test]
fn a_single_node_keeps_what_it_acknowledged_over_a_crash() {
    let sim = Sim::new(11);
    let cluster = TestCluster::new(&sim, Shape::of(1), |node| node.table::<Count>(Storage::Durable));
    sim.run_until(async {
        cluster.form().await;
        let counts = cluster.node(0).await.table::<Count>();
        assert_eq!(counts.update("k", Add { amount: 2 }).await.unwrap(), 2);
        assert_eq!(counts.update("k", Add { amount: 3 }).await.unwrap(), 5);
        assert_eq!(counts.get("k", Total).await.unwrap(), 5);
        assert_eq!(counts.get("other", Total).await.unwrap(), 0);
        cluster.crash(0, CrashMode::LoseAll);
        cluster.start(0);
        cluster.settle().await.unwrap();
        let counts = cluster.node(0).await.table::<Count>();
        assert_eq!(counts.get("k", Total).await.unwrap(), 5);
    });
}

#[test]
fn the_counter_of_these_tests_obeys_the_laws_of_an_entry() {
    check_entry_laws(&Count::samples());
}
