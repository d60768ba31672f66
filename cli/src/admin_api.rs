//! What the admin listener says, in its version 1: the types that the server writes and `rondel status` reads.
//!
//! Fields are only ever added; a reader ignores those that it does not know.

use crate::output::{Report, Table};
use serde::{Deserialize, Serialize};
use std::io::{self, Write};

/// The cluster as one node sees it: `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Who says so.
    pub(crate) node: NodeStatus,
    /// The cluster as a whole.
    pub(crate) cluster: ClusterStatus,
    /// Its members, by name.
    pub(crate) members: Vec<MemberStatus>,
}

/// The node that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeStatus {
    /// Its identity, for ever.
    pub(crate) id: String,
    /// Its name.
    pub(crate) name: String,
    /// Its release.
    pub(crate) release: String,
    /// Whether it serves.
    pub(crate) serving: bool,
    /// Why not, if it does not.
    pub(crate) reason: Option<String>,
}

/// The decided state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClusterStatus {
    /// What people call it.
    pub(crate) name: String,
    /// The name of its history.
    pub(crate) lineage: String,
    /// Entries decided.
    pub(crate) epoch: u64,
    /// Whether all founders are there.
    pub(crate) formed: bool,
    /// How many members it is formed of.
    pub(crate) founders: u64,
    /// Partitions of its ring.
    pub(crate) partitions: u64,
    /// Slots of each.
    pub(crate) replicas: u64,
    /// Partitions with fewer distinct owners than slots.
    pub(crate) partitions_under_replicated: u64,
    /// Partitions of which some owner is not up.
    pub(crate) partitions_with_owner_down: u64,
    /// Hints that wait anywhere, as far as the members that are up say.
    pub(crate) hints_outstanding: u64,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberStatus {
    /// Its identity.
    pub(crate) id: String,
    /// Its name.
    pub(crate) name: String,
    /// Where others reach it.
    pub(crate) address: String,
    /// Its zone.
    pub(crate) zone: String,
    /// What was decided of it: joining, valid, leaving, exiting, down.
    pub(crate) status: String,
    /// What liveness says of it: up, suspect, down.
    pub(crate) liveness: String,
    /// Slots that it owns.
    pub(crate) slots: u64,
    /// Hints that it keeps for others; none if it has said nothing.
    pub(crate) hints_kept: Option<u64>,
    /// Hints that others keep for it.
    pub(crate) hints_awaited: u64,
    /// What it says of its store: ok, full, failed; none if it has said nothing.
    pub(crate) store: Option<String>,
    /// The last entry that it has said to know.
    pub(crate) epoch: Option<u64>,
}

/// Whether the node serves: `GET /health`, with status 200 or 503.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Health {
    /// Whether it does.
    pub(crate) serving: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

impl Report for Status {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.cluster.text(self.members.len(), out)?;
        writeln!(out)?;
        let mut table = Table::new([
            "NODE",
            "STATUS",
            "LIVENESS",
            "STORE",
            "SLOTS",
            "HINTS KEPT",
            "HINTS AWAITED",
            "ZONE",
            "ADDRESS",
        ]);
        let unknown = || "?".to_owned();
        for member in &self.members {
            let asked = if member.id == self.node.id { "*" } else { "" };
            table.row([
                format!("{}{asked}", member.name),
                member.status.clone(),
                member.liveness.clone(),
                member.store.clone().unwrap_or_else(unknown),
                member.slots.to_string(),
                member.hints_kept.map_or_else(unknown, |hints| hints.to_string()),
                member.hints_awaited.to_string(),
                member.zone.clone(),
                member.address.clone(),
            ]);
        }
        table.write(out)?;
        match &self.node.reason {
            Some(reason) if !self.node.serving => {
                writeln!(out, "\n{} does not serve: {reason}", self.node.name)
            }
            _ => writeln!(out, "\n* as {} sees it", self.node.name),
        }
    }
}

impl ClusterStatus {
    fn text(&self, members: usize, out: &mut dyn Write) -> io::Result<()> {
        let Self { name, epoch, partitions, replicas, founders, .. } = self;
        if !self.formed {
            return writeln!(
                out,
                "cluster {name} is being formed: {members} of {founders} members have joined"
            );
        }
        writeln!(
            out,
            "cluster {name}: {members} members, {partitions} partitions x {replicas} copies, epoch {epoch}"
        )?;
        if self.partitions_under_replicated > 0 {
            let few = self.partitions_under_replicated;
            writeln!(
                out,
                "under-replicated: {few} partitions have fewer owners than copies; add nodes to spread them"
            )?;
        }
        if self.partitions_with_owner_down > 0 {
            writeln!(
                out,
                "degraded: {} partitions have an owner that is not up",
                self.partitions_with_owner_down
            )?;
        }
        match self.hints_outstanding {
            0 => writeln!(out, "no hints outstanding"),
            hints => writeln!(out, "{hints} hints outstanding"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> Status {
        let member = |name: &str, hints: Option<u64>| MemberStatus {
            id: format!("id of {name}"),
            name: name.into(),
            address: "127.0.0.1:8099".into(),
            zone: "default".into(),
            status: "valid".into(),
            liveness: if hints.is_some() { "up".into() } else { "down".into() },
            slots: 64,
            hints_kept: hints,
            hints_awaited: 0,
            store: hints.map(|_| "ok".into()),
            epoch: hints.map(|_| 4),
        };
        Status {
            node: NodeStatus {
                id: "id of node1".into(),
                name: "node1".into(),
                release: "0.1.0".into(),
                serving: true,
                reason: None,
            },
            cluster: ClusterStatus {
                name: "rondel".into(),
                lineage: "l".into(),
                epoch: 4,
                formed: true,
                founders: 2,
                partitions: 64,
                replicas: 3,
                partitions_under_replicated: 64,
                partitions_with_owner_down: 64,
                hints_outstanding: 12,
            },
            members: vec![member("node1", Some(12)), member("node2", None)],
        }
    }

    fn text(status: &Status) -> String {
        let mut out = Vec::new();
        status.text(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_text_tells_what_is_wrong_and_who_was_asked() {
        let text = text(&sample());
        assert!(text.starts_with(
            "cluster rondel: 2 members, 64 partitions x 3 copies, epoch 4\nunder-replicated: 64"
        ));
        assert!(text.contains("degraded: 64 partitions") && text.contains("12 hints outstanding"));
        assert!(text.contains("\nnode1*  valid   up        ok        64          12"), "{text}");
        assert!(text.contains("\nnode2   valid   down      ?         64  ?"), "{text}");
    }

    #[test]
    fn a_cluster_that_is_being_formed_says_whom_it_waits_for() {
        let mut status = sample();
        status.cluster.formed = false;
        status.cluster.founders = 3;
        assert!(text(&status).starts_with("cluster rondel is being formed: 2 of 3 members have joined\n"));
    }

    #[test]
    fn a_reader_ignores_fields_that_it_does_not_know() {
        let mut json = serde_json::to_value(sample()).unwrap();
        json["cluster"]["mood"] = "fine".into();
        assert_eq!(serde_json::from_value::<Status>(json).unwrap(), sample());
    }
}
