//! Three nodes: a write goes on while one is down, and the one that was down gets what it missed.

use crate::{
    counter::{Add, Count, Total},
    harness::Nodes,
};
use rondel_core::{request::Need, testing::Sim};
use std::time::Duration;

#[test]
fn a_node_that_was_down_gets_what_it_missed_as_soon_as_it_returns() {
    let sim = Sim::new(3);
    let nodes = Nodes::new(sim.control());
    sim.run_until(async {
        nodes.form(3).await;
        let counts = nodes.node(0).await.table::<Count>();
        for _ in 0..3 {
            counts.update("before", Add { amount: 1 }).await.unwrap();
        }
        nodes.kill(2);
        for key in 0..20 {
            counts.update(format!("during-{key}"), Add { amount: 7 }).await.unwrap();
        }
        assert_eq!(counts.get("before", Total).await.unwrap(), 3);
        nodes.control.sleep(Duration::from_secs(10)).await;
        let hints: u64 = nodes.node(0).await.status().hints.iter().map(|(_, count)| count).sum();
        let more: u64 = nodes.node(1).await.status().hints.iter().map(|(_, count)| count).sum();
        // The last write before the kill may have been on its way to the third node.
        assert!(
            (20..=21).contains(&(hints + more)),
            "one hint for each write of the time: {hints} and {more}"
        );
        nodes.restart(2);
        let third = nodes.node(2).await;
        third.serving().await.unwrap();
        for _ in 0..200 {
            let left: u64 = nodes.node(0).await.status().hints.iter().map(|(_, count)| count).sum::<u64>()
                + nodes.node(1).await.status().hints.iter().map(|(_, count)| count).sum::<u64>();
            if left == 0 {
                break;
            }
            nodes.control.sleep(Duration::from_millis(100)).await;
        }
        nodes.kill(0);
        nodes.kill(1);
        nodes.control.sleep(Duration::from_secs(10)).await;
        let alone = third.table::<Count>();
        for key in 0..20 {
            let total = alone.get(format!("during-{key}"), Total).need(Need::Count(1)).await.unwrap();
            assert_eq!(total, 7, "key {key}");
        }
        nodes.clear();
    });
    assert_eq!(sim.panicked_work(), 0);
}
