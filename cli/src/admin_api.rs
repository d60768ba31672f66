//! What the admin listener says, in its version 1: the types that the server writes and `rondel status` reads.
//!
//! Fields are only ever added; a reader ignores those that it does not know.

use crate::output::{Report, Table};
use indicatif::{HumanBytes, HumanCount};
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
    /// What the other nodes that were asked say of themselves; only `rondel status` asks more than one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) others: Vec<NodeStatus>,
    /// What came of asking the nodes that have not answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) unanswered: Vec<String>,
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
    /// Its process.
    pub(crate) pid: u32,
    /// Whether it serves.
    pub(crate) serving: bool,
    /// Why not, if it does not.
    pub(crate) reason: Option<String>,
    /// Its store.
    pub(crate) store: StoreStatus,
    /// The hints that it keeps, by the member that they wait for.
    pub(crate) hints: Vec<HintsFor>,
    /// Its connections to the other members.
    pub(crate) connections: Vec<Connection>,
}

/// Hints that wait for a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HintsFor {
    /// Its name, or its identity if it is no member any more.
    pub(crate) member: String,
    /// How many.
    pub(crate) hints: u64,
}

/// A connection to another member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Connection {
    /// Its name, or its identity if it is no member any more.
    pub(crate) member: String,
    /// Whether requests can be sent.
    pub(crate) connected: bool,
    /// The smoothed round-trip time.
    pub(crate) rtt_us: Option<u64>,
    /// Requests without an answer yet.
    pub(crate) in_flight: u64,
    /// Bytes sent since the node's start.
    pub(crate) sent_bytes: u64,
    /// Bytes received since the node's start.
    pub(crate) received_bytes: u64,
    /// Connections that were lost or could not be made.
    pub(crate) failures: u64,
}

/// A store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoreStatus {
    /// ok, slow (the disk does not keep up), full (of waiting writes), disk-full, failed.
    pub(crate) state: String,
    /// What its files occupy.
    pub(crate) file_bytes: u64,
    /// What waits for the disk.
    pub(crate) backlog_bytes: u64,
    /// Rows in memory for reading.
    pub(crate) cache_bytes: u64,
    /// Rows that the scrubber has found damaged on disk, as of its last round.
    #[serde(default)]
    pub(crate) damaged_rows: u64,
    /// The share of all positions at which rows were lost with a file and have not come back yet, in millionths.
    #[serde(default)]
    pub(crate) lacking_ppm: u64,
    /// Files that could not be read any more and lie beside the store's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) set_aside: Vec<String>,
}

/// The decided state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClusterStatus {
    /// What people call it; none until it is formed.
    pub(crate) name: Option<String>,
    /// The name of its history; none until it is formed.
    pub(crate) lineage: Option<String>,
    /// Entries decided, as far as the node knows.
    pub(crate) epoch: Option<u64>,
    /// Members that have joined.
    pub(crate) present: u64,
    /// Members that it is formed of; none once it is formed.
    pub(crate) needed: Option<u64>,
    /// Partitions of its ring.
    pub(crate) partitions: u64,
    /// Slots of each.
    pub(crate) replicas: u64,
    /// Partitions with fewer distinct owners than slots.
    pub(crate) partitions_under_replicated: u64,
    /// Hints that wait on any member, as far as they have said.
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
    /// up, suspect, [`DOWN`].
    pub(crate) state: String,
    /// Whether it answers slowly.
    pub(crate) slow: bool,
    /// Whether it may still lack what it missed while it was down.
    pub(crate) behind: bool,
    /// Whether it leaves coordinating updates to others: it was started often lately, or its clock is off.
    #[serde(default)]
    pub(crate) reluctant: bool,
    /// The share of all positions at which it has lost rows that have not come back yet, in millionths.
    #[serde(default)]
    pub(crate) lacking_ppm: u64,
    /// Slots that it owns.
    pub(crate) slots: u64,
    /// Hints that it keeps for others, as it has said last.
    pub(crate) hints_kept: u64,
    /// Why somebody must act before it serves again, if that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trouble: Option<String>,
}

/// The state of a member that does not answer, or does not serve.
pub(crate) const DOWN: &str = "down";

/// What is told of a reluctant member.
const RELUCTANT: &str = "leaves coordinating updates to others: it was started more than three times within an hour, or \
                         its clock is off. Wait a minute; if it stays so, set its clock (NTP)";

/// Whether the node serves: `GET /health`, with status 200 or 503.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Health {
    /// Whether it does.
    pub(crate) serving: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// Whether it has withdrawn for good: somebody must act before it serves again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) withdrawn: bool,
    /// What does not keep it from serving, and should be looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
}

impl Status {
    /// Takes in what another node of the same cluster says of itself: it knows best.
    pub(crate) fn take_in(&mut self, other: &Self) {
        if other.cluster.lineage != self.cluster.lineage {
            return;
        }
        if let Some(member) = self.members.iter_mut().find(|member| member.id == other.node.id) {
            member.hints_kept = other.node.hints.iter().map(|kept| kept.hints).sum();
            if let Some(own) = other.members.iter().find(|own| own.id == other.node.id) {
                member.state.clone_from(&own.state);
                member.reluctant = own.reluctant;
                member.trouble.clone_from(&own.trouble);
            }
        }
        self.cluster.hints_outstanding = self.members.iter().map(|member| member.hints_kept).sum();
        self.others.push(other.node.clone());
        self.others.sort_by(|a, b| a.name.cmp(&b.name));
    }
}

impl Status {
    /// Takes in that a member's process does not run, which the others may find out later.
    pub(crate) fn does_not_run(&mut self, name: &str) {
        if let Some(member) = self.members.iter_mut().find(|member| member.name == name) {
            DOWN.clone_into(&mut member.state);
        }
    }
}

impl Report for Status {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.cluster.text(out)?;
        writeln!(out)?;
        let mut table = Table::new(["NODE", "STATE", "SLOTS", "HINTS KEPT", "ZONE", "ADDRESS"]);
        for member in &self.members {
            let asked = if member.id == self.node.id { "*" } else { "" };
            table.row([
                format!("{}{asked}", member.name),
                member.shown_state(),
                member.slots.to_string(),
                HumanCount(member.hints_kept).to_string(),
                member.zone.clone(),
                member.address.clone(),
            ]);
        }
        table.write(out)?;
        if !self.members.is_empty() {
            writeln!(out, "* as this node sees it")?;
        }
        writeln!(out)?;
        for member in self.members.iter().filter(|member| member.is_reluctant()) {
            writeln!(out, "{} {RELUCTANT}", member.name)?;
        }
        let speaking = || std::iter::once(&self.node).chain(&self.others);
        speaking().try_for_each(|node| node.text(out))?;
        for member in self.members.iter().filter(|member| speaking().all(|node| node.id != member.id)) {
            if let Some(trouble) = &member.trouble {
                writeln!(out, "{} does not serve: {trouble}", member.name)?;
            }
        }
        self.unanswered.iter().try_for_each(|what| writeln!(out, "{what}"))
    }
}

impl MemberStatus {
    fn shown_state(&self) -> String {
        if self.state == DOWN {
            return self.state.clone();
        }
        let besides = [
            (self.slow, ", slow"),
            (self.behind, ", behind"),
            (self.reluctant, ", reluctant"),
            (self.lacking_ppm > 0, ", refilling"),
        ];
        let besides = besides.into_iter().filter_map(|(holds, what)| holds.then_some(what));
        format!("{}{}", self.state, besides.collect::<String>())
    }

    /// Whether it could coordinate and leaves that to others.
    fn is_reluctant(&self) -> bool {
        self.reluctant && self.state != DOWN
    }
}

impl NodeStatus {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { name, store, .. } = self;
        writeln!(out, "{name}: store {}, {} on disk", store.state, HumanBytes(store.file_bytes))?;
        if store.lacking_ppm > 0 {
            let percent = store.lacking_ppm as f64 / 1e4;
            writeln!(out, "{name} refills {percent:.2} % of its positions from the other nodes")?;
        }
        for file in &store.set_aside {
            writeln!(out, "{name} has set aside a damaged file: {file}")?;
        }
        for kept in &self.hints {
            writeln!(out, "{name} keeps {} for {}", hints(kept.hints), kept.member)?;
        }
        match &self.reason {
            Some(reason) if !self.serving => writeln!(out, "{name} does not serve: {reason}"),
            _ => Ok(()),
        }
    }
}

impl ClusterStatus {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { present, partitions, replicas, .. } = self;
        if let Some(needed) = self.needed {
            return writeln!(out, "the cluster is being formed: {present} of {needed} members have joined");
        }
        let (Some(name), Some(epoch)) = (&self.name, self.epoch) else {
            return writeln!(out, "the node is in no cluster yet");
        };
        writeln!(
            out,
            "cluster {name}: {present} members, {partitions} partitions x {replicas} copies, epoch {epoch}"
        )?;
        if self.partitions_under_replicated > 0 {
            let few = self.partitions_under_replicated;
            writeln!(out, "under-replicated: {few} partitions have fewer owners than copies")?;
        }
        match self.hints_outstanding {
            0 => writeln!(out, "no hints outstanding"),
            outstanding => writeln!(out, "{} outstanding", hints(outstanding)),
        }
    }
}

fn hints(count: u64) -> String {
    format!("{} hint{}", HumanCount(count), if count == 1 { "" } else { "s" })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> Status {
        let member = |name: &str, state: &str, hints| MemberStatus {
            id: format!("id of {name}"),
            name: name.into(),
            address: "127.0.0.1:8099".into(),
            zone: "default".into(),
            state: state.into(),
            slow: false,
            behind: false,
            reluctant: false,
            lacking_ppm: 0,
            slots: 64,
            hints_kept: hints,
            trouble: None,
        };
        Status {
            node: NodeStatus {
                id: "id of node1".into(),
                name: "node1".into(),
                release: "0.1.0".into(),
                pid: 7,
                serving: true,
                reason: None,
                store: StoreStatus {
                    state: "ok".into(),
                    file_bytes: 4096,
                    backlog_bytes: 0,
                    cache_bytes: 0,
                    damaged_rows: 0,
                    lacking_ppm: 0,
                    set_aside: Vec::new(),
                },
                hints: vec![HintsFor { member: "node2".into(), hints: 12 }],
                connections: Vec::new(),
            },
            cluster: ClusterStatus {
                name: Some("rondel".into()),
                lineage: Some("l".into()),
                epoch: Some(4),
                present: 2,
                needed: None,
                partitions: 64,
                replicas: 3,
                partitions_under_replicated: 64,
                hints_outstanding: 12,
            },
            members: vec![member("node1", "up", 12), member("node2", "down", 0)],
            others: Vec::new(),
            unanswered: Vec::new(),
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
        assert!(text.contains("\n12 hints outstanding\n"), "{text}");
        assert!(text.contains("\nnode1*  up        64          12  default"), "{text}");
        assert!(text.contains("\nnode2   down      64           0  default"), "{text}");
        assert!(text.contains("node1 keeps 12 hints for node2"), "{text}");
    }

    #[test]
    fn a_member_that_is_slow_behind_or_reluctant_is_shown_as_that_while_it_is_up() {
        let mut status = sample();
        for member in &mut status.members {
            (member.slow, member.behind, member.reluctant) = (true, true, true);
        }
        let text = text(&status);
        assert!(text.contains("\nnode1*  up, slow, behind, reluctant  "), "{text}");
        assert!(text.contains("\nnode1 leaves coordinating updates to others: "), "{text}");
        assert!(text.contains("\nnode2   down  ") && !text.contains("node2 leaves coordinating"), "{text}");
    }

    #[test]
    fn a_store_that_is_refilled_says_how_much_is_left_and_where_the_damaged_file_is() {
        let mut status = sample();
        status.members[0].lacking_ppm = 62_500;
        status.node.store.lacking_ppm = 62_500;
        status.node.store.set_aside = vec!["/data/store/rows-003.redb.damaged".into()];
        let text = text(&status);
        assert!(text.contains("\nnode1*  up, refilling"), "{text}");
        assert!(text.contains("node1 refills 6.25 % of its positions"), "{text}");
        assert!(
            text.contains("node1 has set aside a damaged file: /data/store/rows-003.redb.damaged"),
            "{text}"
        );
    }

    #[test]
    fn a_cluster_that_is_being_formed_says_whom_it_waits_for() {
        let mut status = sample();
        status.cluster.needed = Some(3);
        status.node.serving = false;
        status.node.reason = Some("it waits for the other founders".into());
        let text = text(&status);
        assert!(text.starts_with("the cluster is being formed: 2 of 3 members have joined\n"), "{text}");
        assert!(text.ends_with("node1 does not serve: it waits for the other founders\n"), "{text}");
    }

    #[test]
    fn what_a_node_says_of_its_own_hints_counts_more_than_hearsay() {
        let (mut asked, mut other) = (sample(), sample());
        other.node.id = "id of node2".into();
        other.node.hints = vec![HintsFor { member: "node1".into(), hints: 5 }];
        asked.take_in(&other);
        assert_eq!((asked.members[1].hints_kept, asked.cluster.hints_outstanding), (5, 17));
        other.cluster.lineage = Some("another".into());
        other.node.hints.clear();
        asked.take_in(&other);
        assert_eq!(asked.cluster.hints_outstanding, 17);
    }

    #[test]
    fn whoever_answers_speaks_for_itself_and_the_others_are_told_of() {
        let (mut asked, mut other) = (sample(), sample());
        other.node.id = "id of node2".into();
        other.node.name = "node2".into();
        other.node.store.state = "disk-full".into();
        other.members[1].trouble = Some("its disk is on fire".into());
        other.members[1].reluctant = true;
        asked.members[1].trouble = Some("hearsay".into());
        let mut third = asked.members[1].clone();
        (third.id, third.name) = ("id of node3".into(), "node3".into());
        asked.members.push(third);
        asked.take_in(&other);
        assert_eq!(asked.members[1].trouble.as_deref(), Some("its disk is on fire"));
        assert!(asked.members[1].reluctant, "it knows best");
        let text = text(&asked);
        assert!(text.contains("node1: store ok") && text.contains("node2: store disk-full"), "{text}");
        assert!(
            text.contains("node3 does not serve: hearsay") && !text.contains("node2 does not serve"),
            "{text}"
        );
    }

    #[test]
    fn a_reader_ignores_fields_that_it_does_not_know() {
        let mut json = serde_json::to_value(sample()).unwrap();
        json["cluster"]["mood"] = "fine".into();
        assert_eq!(serde_json::from_value::<Status>(json).unwrap(), sample());
    }
}
