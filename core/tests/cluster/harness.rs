//! Starts nodes in simulation and finds their handles again after a restart.

use crate::counter::Count;
use rondel_core::{
    Cluster,
    membership::JoinToken,
    node::{Founding, NodeConfig, Origin},
    testing::{Control, ip},
    vnode::Storage,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

#[derive(Clone)]
pub(crate) struct Nodes {
    pub(crate) control: Control,
    handles: Arc<Mutex<BTreeMap<u32, Cluster>>>,
}

impl Nodes {
    pub(crate) fn new(control: Control) -> Self {
        Self { control, handles: Arc::default() }
    }

    /// Starts a node that founds a cluster, or joins one.
    pub(crate) fn start(&self, node: u32, origin: Origin) {
        let handles = self.handles.clone();
        self.control.start(node, move |env| {
            let mut config = NodeConfig::new("/data", format!("node-{node}"));
            config.listen = (ip(node), 7000).into();
            config.bulk_listen = (ip(node), 7001).into();
            config.origin = origin.clone();
            let handles = handles.clone();
            async move {
                let cluster =
                    Cluster::builder(env, config).table::<Count>(Storage::Durable).start().await.unwrap();
                handles.lock().unwrap().insert(node, cluster);
            }
        });
    }

    /// Forms a cluster of so many nodes and waits until all of them serve.
    pub(crate) async fn form(&self, nodes: u32) {
        self.start(
            0,
            Origin::Found(Founding { founders: u16::try_from(nodes).unwrap(), ..Founding::default() }),
        );
        let token = loop {
            if let Some(token) = self.node(0).await.join_token() {
                break token.parse::<JoinToken>().unwrap();
            }
            self.control.sleep(Duration::from_millis(20)).await;
        };
        for node in 1..nodes {
            self.start(node, Origin::Join(token.clone()));
        }
        for node in 0..nodes {
            self.node(node).await.serving().await.unwrap();
        }
    }

    /// The running handle of a node, once it has started.
    pub(crate) async fn node(&self, node: u32) -> Cluster {
        loop {
            if let Some(cluster) = self.handles.lock().unwrap().get(&node).cloned() {
                return cluster;
            }
            self.control.sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(&self, node: u32) {
        self.handles.lock().unwrap().remove(&node);
        self.control.kill(node);
    }

    pub(crate) fn restart(&self, node: u32) {
        self.handles.lock().unwrap().remove(&node);
        self.control.restart(node);
    }

    /// Drops all handles: nothing of a node may outlive the simulation.
    pub(crate) fn clear(&self) {
        self.handles.lock().unwrap().clear();
    }
}
