//! What a node can say of itself and of the others: for people, for the admin API, for tests.

use super::Node;
use crate::{
    liveness::Status,
    membership::gossip::Facts,
    store::{Admission, StoreStats},
    transport::PeerStats,
};
use rondel_proto::id::{Epoch, Lineage, NodeId};
use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

/// What is told of a member at whose address another run of it answers than the last one that gossip knows.
const OTHER_RUN: &str = "another run of it answers at its address than was seen last: its data directory was \
                           restored from an older copy, or another process runs on a copy of it. Stop both, and start \
                           the one whose data is to stay";

/// What state a node is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeState {
    /// It is reading what it knows.
    Starting,
    /// It waits for the other founding members.
    Forming {
        /// How many there are.
        present: usize,
        /// How many there must be.
        needed: usize,
    },
    /// It answers other members, and takes no requests yet: first it must know who else serves, or a write would be
    /// acknowledged by fewer nodes than there are.
    Meeting {
        /// How many members serve, as far as it knows; itself included.
        present: usize,
        /// How many it waits for; only for a few seconds.
        needed: usize,
    },
    /// It takes requests.
    Serving,
    /// It has withdrawn from service; somebody must act.
    Failed(String),
    /// It was told to stop.
    Stopped,
}

impl NodeState {
    /// Why the node takes no requests; nothing if it does.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Serving => None,
            Self::Starting => Some("it is starting".into()),
            Self::Forming { present, needed } => {
                Some(format!("the cluster is being formed: {present} of {needed} members have joined"))
            }
            Self::Meeting { present, needed } => {
                Some(format!("it has found {present} of the {needed} members that it waits for"))
            }
            Self::Failed(why) => Some(why.clone()),
            Self::Stopped => Some("it has been stopped".into()),
        }
    }

    /// Whether the node answers the requests of other members.
    #[must_use]
    pub fn answers_members(&self) -> bool {
        matches!(self, Self::Meeting { .. } | Self::Serving)
    }
}

/// How far a start has got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum StartPhase {
    /// It takes the data directory.
    #[default]
    Directory,
    /// It opens the store, which takes what its log holds into its tables.
    Store,
    /// It has asked to be let into its cluster.
    Joining {
        /// What came of the last attempt, if that was not enough.
        last: Option<String>,
    },
}

impl std::fmt::Display for StartPhase {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory => out.write_str("it opens its data directory"),
            Self::Store => out.write_str("it opens its store, and recovers what its log holds"),
            Self::Joining { last: None } => out.write_str("it asks to be let into its cluster"),
            Self::Joining { last: Some(last) } => write!(out, "it waits to be let into its cluster: {last}"),
        }
    }
}

/// What a member is to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberState {
    /// It answers and serves.
    Up,
    /// It did not answer somebody, and has not objected yet.
    Suspect,
    /// It does not answer, or does not serve.
    Down,
}

/// One member, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Where it listens for requests.
    pub addr: SocketAddr,
    /// Its zone.
    pub zone: String,
    /// What it is to this node.
    pub state: MemberState,
    /// Whether it answers slowly.
    pub slow: bool,
    /// How many slots it owns.
    pub slots: usize,
    /// The hints that it says it keeps for others.
    pub hints: u64,
    /// Whether it may still lack what it missed while it was down.
    pub behind: bool,
    /// The share of all positions at which its store has lost rows that have not come back yet, in millionths.
    pub lacking_ppm: u32,
    /// It leaves coordinating updates to others: it was restarted often lately, or its clock is off.
    pub reluctant: bool,
    /// Why somebody must act before it serves again, if that is so.
    pub trouble: Option<String>,
}

/// The store, as the node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreState {
    /// Whether it takes client writes.
    pub admission: Admission,
    /// Its figures.
    pub stats: StoreStats,
    /// Whether it has stopped after an error.
    pub failed: bool,
    /// The files that could not be read any more and lie beside the store's.
    pub set_aside: Vec<PathBuf>,
}

/// All that a node says of itself and of the others.
#[derive(Debug, Clone)]
pub struct NodeStatus {
    /// This node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: NodeState,
    /// The cluster's name; none until it is formed.
    pub cluster: Option<String>,
    /// The line of decided states.
    pub lineage: Option<Lineage>,
    /// How many entries have been decided, as far as this node knows.
    pub epoch: Option<Epoch>,
    /// How many partitions there are.
    pub partitions: usize,
    /// How many slots each has.
    pub replicas: u8,
    /// Partitions whose slots are on fewer distinct nodes than there are slots.
    pub under_replicated: usize,
    /// Every member, this node included.
    pub members: Vec<MemberStatus>,
    /// The hints that this node keeps, by the node that they are for.
    pub hints: Vec<(NodeId, u64)>,
    /// The store.
    pub store: StoreState,
    /// The connections to the other members.
    pub connections: Vec<PeerStats>,
}

impl Node {
    pub(super) fn status(&self) -> NodeStatus {
        let topology = self.shared.topology();
        let store = &self.shared.durable;
        let replicas = topology.as_ref().map_or(0, |topology| topology.replicas());
        let under = |topology: &crate::topology::Topology| {
            let n = usize::from(topology.replicas());
            topology.placement().iter().filter(|(_, slots)| slots.distinct_owners(n) < n).count()
        };
        NodeStatus {
            node: self.shared.me,
            name: self.name.clone(),
            state: self.shared.state.borrow().clone(),
            cluster: topology.as_ref().map(|topology| topology.cluster.clone()),
            lineage: topology.as_ref().map(|topology| topology.lineage),
            epoch: topology.as_ref().map(|topology| topology.epoch),
            partitions: topology.as_ref().map_or(0, |topology| topology.placement().partitions.len()),
            replicas,
            under_replicated: topology.as_deref().map_or(0, under),
            members: topology.as_deref().map(|topology| self.members(topology)).unwrap_or_default(),
            hints: topology
                .as_deref()
                .map(|topology| self.shared.hints.by_node(topology).into_iter().collect())
                .unwrap_or_default(),
            store: StoreState {
                admission: store.admission(),
                stats: store.stats(),
                failed: store.progress().borrow().failed.is_some(),
                set_aside: store.set_aside(),
            },
            connections: self.shared.transport.peer_stats(),
        }
    }

    fn members(&self, topology: &crate::topology::Topology) -> Vec<MemberStatus> {
        let (peers, statuses, facts) = (self.shared.peers(), self.health.statuses(), self.health.facts());
        let outlook = self.shared.outlook(0);
        let stats = self.shared.transport.peer_stats();
        let runs: BTreeMap<_, _> =
            stats.into_iter().filter_map(|peer| Some((peer.node, peer.run?))).collect();
        let of = |member: &crate::topology::Member| {
            let node = member.occupant.node;
            let itself = node == self.shared.me;
            let up =
                if itself { self.answers_members() } else { peers.get(&node).is_some_and(|peer| peer.up) };
            let suspect = statuses.get(&node) == Some(&Status::Suspect);
            let trouble = match facts.get(&node) {
                _ if itself => self.shared.withdrawn(),
                Some(facts) if !facts.withdrawn.is_empty() => Some(facts.withdrawn.clone()),
                Some(facts) if runs.get(&node).is_some_and(|run| is_passed(*run, facts)) => {
                    Some(OTHER_RUN.to_owned())
                }
                _ => None,
            };
            MemberStatus {
                node,
                name: member.name.clone(),
                addr: member.addr,
                zone: member.zone.clone(),
                state: match (up && trouble.is_none(), suspect) {
                    (true, false) => MemberState::Up,
                    (true, true) => MemberState::Suspect,
                    (false, _) => MemberState::Down,
                },
                slow: peers.get(&node).is_some_and(|peer| peer.demoted),
                slots: topology
                    .placement()
                    .written_by(member.occupant)
                    .map(|(_, slots)| slots.count_ones() as usize)
                    .sum(),
                hints: if itself {
                    self.shared.hints.by_node(topology).values().sum()
                } else {
                    facts.get(&node).map_or(0, |facts| facts.hints.iter().map(|(_, count)| count).sum())
                },
                behind: outlook.behind(node),
                lacking_ppm: match itself {
                    true => u32::try_from(self.shared.durable.stats().gap_ppm).unwrap_or(u32::MAX),
                    false => facts.get(&node).map_or(0, |facts| facts.lacking_ppm),
                },
                reluctant: outlook.reluctant(node),
                trouble,
            }
        };
        topology.members.values().map(of).collect()
    }

    pub(super) fn publish_metrics(&self) {
        let metrics = &self.shared.metrics;
        let stats = self.shared.durable.stats();
        let peers = self.shared.peers();
        let connected = self.shared.transport.peer_stats().iter().filter(|peer| peer.connected).count();
        metrics.peers_up.set(peers.values().filter(|peer| peer.up).count() as f64);
        metrics.clock_behind_seconds.set(self.reluctance.clock_behind_ms() as f64 / 1000.0);
        metrics.peers_connected.set(connected as f64);
        metrics.mailbox_jobs.set(self.shared.host.queued() as f64);
        if let Some(topology) = self.shared.topology() {
            metrics.members.set(topology.members.len() as f64);
            metrics.epoch.set(topology.epoch.0 as f64);
            metrics.hints_kept.set(self.shared.hints.by_node(&topology).values().sum::<u64>() as f64);
        }
        metrics.store_backlog_bytes.set(stats.backlog_bytes as f64);
        metrics.store_frozen_bytes.set(stats.frozen_bytes as f64);
        metrics.store_log_bytes.set(stats.log_bytes as f64);
        metrics.store_kept_log_bytes.set(stats.kept_bytes as f64);
        metrics.store_live_value_bytes.set(stats.value_bytes as f64);
        metrics.store_collected_segments.absolute(stats.collected_segments);
        metrics.store_opening_seconds.set(stats.opening.as_secs_f64());
        metrics.store_recovered_batches.set(stats.recovered_batches as f64);
        metrics.store_cache_bytes.set(stats.cache_bytes as f64);
        metrics.store_file_bytes.set(stats.file_bytes as f64);
        metrics.store_commits.absolute(stats.commits);
        metrics.store_batches.absolute(stats.batches);
        metrics.store_applied_bytes.absolute(stats.applied_bytes);
        metrics.store_written_bytes.absolute(stats.written_bytes);
        metrics.store_table_written_bytes.absolute(stats.table_written_bytes);
        metrics.store_hits.absolute(stats.hits);
        metrics.store_cache_hits.absolute(stats.cache_hits);
        metrics.store_misses.absolute(stats.misses);
        metrics.store_filter_bytes.set(stats.filter_bytes as f64);
        metrics.store_gap_ratio.set(stats.gap_ppm as f64 / 1e6);
        metrics.store_denied.absolute(stats.denied);
        metrics.store_vain_reads.absolute(stats.vain_reads);
        metrics.store_compactions.absolute(stats.compactions);
        metrics.store_scrub_rounds.absolute(stats.scrub_rounds);
        metrics.store_scrubbed_rows.absolute(stats.scrubbed_rows);
        metrics.store_scrubbed_bytes.absolute(stats.scrubbed_bytes);
        metrics.store_damaged_rows.set(stats.damaged_rows as f64);
        metrics.store_compacted_bytes.absolute(stats.compacted_bytes);
        let failed = self.shared.durable.progress().borrow().failed.is_some();
        metrics.store_failed.set(f64::from(u8::from(failed)));
    }
}

/// Whether a run is over, as far as gossip knows, or is one of two that go by the same number.
fn is_passed((boot, nonce): (u64, u64), facts: &Facts) -> bool {
    boot <= facts.boot && (boot, nonce) != (facts.boot, facts.nonce)
}
