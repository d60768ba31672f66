//! What the admin listener tells of a node of core.

use super::admin::AdminService;
use crate::admin_api::{
    ClusterStatus, Connection, DOWN, Health, HintsFor, MemberStatus, NodeStatus, Status, StoreStatus,
};
use metrics_exporter_prometheus::PrometheusHandle;
use rondel_core::{
    node::{self, Cluster, MemberState, NodeState, StartPhase, StoreState},
    store::{Admission, StoreStats},
};
use rondel_proto::id::NodeId;
use std::sync::OnceLock;
use tokio::sync::watch;

/// A node, and the metrics that it reports.
pub(crate) struct NodeAdmin {
    phase: watch::Receiver<StartPhase>,
    cluster: OnceLock<Cluster>,
    metrics: PrometheusHandle,
}

impl NodeAdmin {
    /// Tells of a node that is being started.
    pub(crate) fn new(phase: watch::Receiver<StartPhase>, metrics: PrometheusHandle) -> Self {
        Self { phase, cluster: OnceLock::new(), metrics }
    }

    /// Tells of the node from now on.
    pub(crate) fn started(&self, cluster: Cluster) {
        // There is one start; a second node would be a mistake of this process, and the first one stays.
        let _ = self.cluster.set(cluster);
    }
}

impl AdminService for NodeAdmin {
    async fn status(&self) -> Result<Status, String> {
        match self.cluster.get() {
            Some(cluster) => Ok(status(&cluster.status())),
            None => Err(self.phase.borrow().to_string()),
        }
    }

    fn health(&self) -> Health {
        match self.cluster.get() {
            Some(cluster) => {
                let health = health(&cluster.state().borrow());
                Health { warnings: warnings(&cluster.status().store.stats), ..health }
            }
            None => starting(&self.phase.borrow()),
        }
    }

    fn metrics(&self) -> String {
        if let Some(cluster) = self.cluster.get() {
            cluster.refresh_metrics();
        }
        self.metrics.run_upkeep();
        self.metrics.render()
    }
}

fn starting(phase: &StartPhase) -> Health {
    let reason = Some(format!("it is starting: {phase}"));
    Health { serving: false, reason, withdrawn: false, warnings: Vec::new() }
}

fn health(state: &NodeState) -> Health {
    let reason = state.reason();
    let withdrawn = matches!(state, NodeState::Failed(_));
    Health { serving: reason.is_none(), reason, withdrawn, warnings: Vec::new() }
}

fn warnings(stats: &StoreStats) -> Vec<String> {
    let StoreStats { damaged_rows, gap_ppm, .. } = *stats;
    let damaged =
        format!("{damaged_rows} rows are damaged on disk; the log names them, and reading them repairs them");
    let lacking = format!(
        "a file of rows was lost; {:.2} % of the positions have yet to come back from the other nodes",
        gap_ppm as f64 / 1e4
    );
    let warnings = [(damaged_rows, damaged), (gap_ppm, lacking)];
    warnings.into_iter().filter(|(amount, _)| *amount > 0).map(|(_, text)| text).collect()
}

fn status(status: &node::NodeStatus) -> Status {
    let name_of = |node: NodeId| {
        let member = status.members.iter().find(|member| member.node == node);
        member.map_or_else(|| node.to_string(), |member| member.name.clone())
    };
    let (present, needed) = match status.state {
        NodeState::Forming { present, needed } => (present, Some(needed as u64)),
        _ => (status.members.len(), None),
    };
    let Health { serving, reason, .. } = health(&status.state);
    Status {
        node: NodeStatus {
            id: status.node.to_string(),
            name: status.name.clone(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            serving,
            reason,
            store: store(&status.store),
            hints: status
                .hints
                .iter()
                .map(|(node, hints)| HintsFor { member: name_of(*node), hints: *hints })
                .collect(),
            connections: status
                .connections
                .iter()
                .map(|peer| Connection {
                    member: name_of(peer.node),
                    connected: peer.connected,
                    rtt_us: peer.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
                    in_flight: peer.in_flight as u64,
                    sent_bytes: peer.sent_bytes,
                    received_bytes: peer.received_bytes,
                    failures: peer.failures,
                })
                .collect(),
        },
        cluster: ClusterStatus {
            name: status.cluster.clone(),
            lineage: status.lineage.map(|lineage| lineage.to_string()),
            epoch: status.epoch.map(|epoch| epoch.0),
            present: present as u64,
            needed,
            partitions: status.partitions as u64,
            replicas: status.replicas.into(),
            partitions_under_replicated: status.under_replicated as u64,
            hints_outstanding: status.members.iter().map(|member| member.hints).sum(),
        },
        members: members(&status.members),
        others: Vec::new(),
        unanswered: Vec::new(),
    }
}

fn members(members: &[node::MemberStatus]) -> Vec<MemberStatus> {
    let mut members = members.iter().map(member).collect::<Vec<_>>();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    members
}

fn member(member: &node::MemberStatus) -> MemberStatus {
    let state = match member.state {
        MemberState::Up => "up",
        MemberState::Suspect => "suspect",
        MemberState::Down => DOWN,
    };
    MemberStatus {
        id: member.node.to_string(),
        name: member.name.clone(),
        address: member.addr.to_string(),
        zone: member.zone.clone(),
        state: state.to_owned(),
        slow: member.slow,
        behind: member.behind,
        reluctant: member.reluctant,
        lacking_ppm: member.lacking_ppm.into(),
        slots: member.slots as u64,
        hints_kept: member.hints,
        trouble: member.trouble.clone(),
    }
}

fn store(store: &StoreState) -> StoreStatus {
    let state = match store.admission {
        _ if store.failed => "failed",
        Admission::Open => "ok",
        Admission::Slow => "slow",
        Admission::Full => "full",
        Admission::DiskFull => "disk-full",
    };
    StoreStatus {
        state: state.to_owned(),
        file_bytes: store.stats.file_bytes + store.stats.log_bytes + store.stats.kept_bytes,
        backlog_bytes: store.stats.backlog_bytes,
        cache_bytes: store.stats.cache_bytes,
        damaged_rows: store.stats.damaged_rows,
        lacking_ppm: store.stats.gap_ppm,
        set_aside: store.set_aside.iter().map(|path| path.display().to_string()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_starting_says_how_far_it_is() {
        let last = Some("nobody answers".to_owned());
        let health = starting(&StartPhase::Joining { last });
        assert_eq!((health.serving, health.withdrawn), (false, false), "it has only to wait");
        assert_eq!(
            health.reason.unwrap(),
            "it is starting: it waits to be let into its cluster: nobody answers"
        );
    }

    #[test]
    fn damaged_rows_and_lost_files_are_warnings() {
        assert_eq!(warnings(&StoreStats::default()), Vec::<String>::new());
        let damaged = warnings(&StoreStats { damaged_rows: 3, ..StoreStats::default() });
        assert!(damaged[0].starts_with("3 rows are damaged"), "{damaged:?}");
        let lacking = warnings(&StoreStats { gap_ppm: 500_000, ..StoreStats::default() });
        assert!(lacking[0].contains("50.00 % of the positions"), "{lacking:?}");
    }

    #[test]
    fn only_a_serving_node_is_healthy_and_the_others_say_why() {
        assert_eq!(
            health(&NodeState::Serving),
            Health { serving: true, reason: None, withdrawn: false, warnings: Vec::new() }
        );
        let forming = health(&NodeState::Forming { present: 1, needed: 3 });
        assert!(!forming.withdrawn, "it has only to wait");
        assert_eq!(forming.reason.unwrap(), "the cluster is being formed: 1 of 3 members have joined");
        let failed = health(&NodeState::Failed("the store has stopped".into()));
        assert_eq!((failed.serving, failed.reason.as_deref()), (false, Some("the store has stopped")));
        assert!(failed.withdrawn);
    }
}
