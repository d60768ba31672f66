//! How a node is set up.

use crate::{liveness, membership::JoinToken, mutant::Mutants, ring::Bits, store::StoreConfig};
use std::{net::SocketAddr, path::PathBuf};

/// Slots of each partition when a cluster is founded without a wish.
pub const REPLICAS_DEFAULT: u8 = 3;

/// How a node is set up. [`NodeConfig::new`] gives a node that founds a cluster of its own.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Where everything durable is kept; made if it is missing.
    pub data_dir: PathBuf,
    /// The node's name, for people. Unique in the cluster.
    pub name: String,
    /// Where it listens for other nodes' requests (UDP); port 0 takes any.
    pub listen: SocketAddr,
    /// Where it listens for bulk transfers (UDP); port 0 takes any.
    pub bulk_listen: SocketAddr,
    /// The address that other nodes reach `listen` at; `listen` itself if that is not given.
    pub advertise: Option<SocketAddr>,
    /// The address that other nodes reach `bulk_listen` at; `bulk_listen` itself if that is not given.
    pub bulk_advertise: Option<SocketAddr>,
    /// Nodes of one zone fail together: replicas are spread over zones.
    pub zone: String,
    /// How much of the data it takes, relative to other members.
    pub capacity: u32,
    /// What an empty data directory becomes a part of. A directory that belongs to a cluster stays with it.
    pub origin: Origin,
    /// Lanes that run the vnodes; at least 1.
    pub lanes: usize,
    /// The store.
    pub store: StoreConfig,
    /// The failure detector's timings.
    pub liveness: liveness::Config,
    /// Rules to break, in tests.
    pub mutants: Mutants,
}

/// What a node with an empty data directory becomes a part of.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A new cluster.
    Found(Founding),
    /// The cluster that gave this token.
    Join(JoinToken),
}

/// What a new cluster is to be.
#[derive(Debug, Clone)]
pub struct Founding {
    /// Its name, for people.
    pub cluster: String,
    /// How many members form it, this node included: it serves once all of them are there.
    pub founders: u16,
    /// How many partitions its ring has.
    pub bits: Bits,
    /// How many slots each partition has: the largest n_val.
    pub replicas: u8,
}

impl Default for Founding {
    fn default() -> Self {
        Self { cluster: "rondel".into(), founders: 1, bits: Bits::DEFAULT, replicas: REPLICAS_DEFAULT }
    }
}

impl NodeConfig {
    /// A node that founds a cluster of its own, on the loopback interface.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            data_dir: data_dir.into(),
            name: name.into(),
            listen: any,
            bulk_listen: any,
            advertise: None,
            bulk_advertise: None,
            zone: "default".into(),
            capacity: 100,
            origin: Origin::Found(Founding::default()),
            lanes: 1,
            store: StoreConfig::default(),
            liveness: liveness::Config::default(),
            mutants: Mutants::default(),
        }
    }
}
