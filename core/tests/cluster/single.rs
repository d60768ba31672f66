//! One node: what it acknowledges is there after a restart.

use crate::counter::{Add, Count, Total};
use rondel_core::{
    Cluster,
    node::NodeConfig,
    testing::{CrashMode, Sim},
    vnode::Storage,
};
use std::sync::{Arc, Mutex};

#[test]
fn a_single_node_keeps_what_it_acknowledged_over_a_crash() {
    let sim = Sim::new(11);
    let node: Arc<Mutex<Option<Cluster>>> = Arc::default();
    let slot = node.clone();
    sim.start(0, move |env| {
        let slot = slot.clone();
        async move {
            let mut config = NodeConfig::new("/data", "alpha");
            config.listen = (rondel_core::testing::ip(0), 7000).into();
            config.bulk_listen = (rondel_core::testing::ip(0), 7001).into();
            let cluster =
                Cluster::builder(env, config).table::<Count>(Storage::Durable).start().await.unwrap();
            *slot.lock().unwrap() = Some(cluster);
        }
    });
    let control = sim.control();
    sim.run_until(async {
        let take = || async {
            loop {
                if let Some(cluster) = node.lock().unwrap().clone() {
                    return cluster;
                }
                control.sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        let cluster = take().await;
        cluster.serving().await.unwrap();
        let counts = cluster.table::<Count>();
        assert_eq!(counts.update("k", Add { amount: 2 }).await.unwrap(), 2);
        assert_eq!(counts.update("k", Add { amount: 3 }).await.unwrap(), 5);
        assert_eq!(counts.get("k", Total).await.unwrap(), 5);
        assert_eq!(counts.get("other", Total).await.unwrap(), 0);
        drop((cluster, counts));
        *node.lock().unwrap() = None;
        control.crash(0, CrashMode::LoseAll);
        control.restart(0);
        let cluster = take().await;
        cluster.serving().await.unwrap();
        assert_eq!(cluster.table::<Count>().get("k", Total).await.unwrap(), 5);
        *node.lock().unwrap() = None;
    });
}
