//! What the sequence decides: who is a member, who votes, who owns what, what is called what.
//!
//! A state is a value: the same state has the same bytes and so the same [`Root`] on every node. The root is a hash
//! over the hashes of the sections, so that two nodes can find out which section differs. This is also the durable
//! form; a field that is not used yet is here because adding one later would change every root.

use crate::ring::{Bits, Occupant, Placement};
use rondel_proto::{
    Wire,
    id::{Epoch, Lineage, NodeId, StoreId},
    wire,
};
use std::fmt;

/// So many last changes are remembered; an older one that is proposed again is not recognised (PROTOCOLS §3).
pub const RECENT_CHANGES_MAX: usize = 4096;
/// The most voters.
pub const VOTERS_MAX: usize = 5;

/// The hash of a state.
#[wire(crate = rondel_proto)]
#[derive(Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Root(pub [u8; 32]);

impl fmt::Display for Root {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

/// Names a change over all its retries: random, drawn by whoever wants it.
#[wire(crate = rondel_proto)]
#[derive(Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ChangeId(pub u128);

impl fmt::Display for ChangeId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:032x}", self.0)
    }
}

/// Where a member stands in its life.
///
/// The numbers are the archived bytes and are kept for ever.
#[wire(crate = rondel_proto)]
#[derive(Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum MemberStatus {
    /// Admitted, and not yet given anything.
    Joining = 0,
    /// A full member.
    Valid = 1,
    /// It hands over what it owns.
    Leaving = 2,
    /// It owns nothing any more and may be shut down.
    Exiting = 3,
    /// An operator says that it is down; it comes back through the gate of returning stores (PROTOCOLS §6).
    Down = 4,
}

impl fmt::Display for MemberStatus {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Joining => "joining",
            Self::Valid => "valid",
            Self::Leaving => "leaving",
            Self::Exiting => "exiting",
            Self::Down => "down",
        })
    }
}

/// A node that belongs to the cluster.
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// The store that it was admitted with.
    pub store: StoreId,
    /// What people call it; no two members have the same.
    pub name: String,
    /// Where it is asked, `host:port`.
    pub addr: String,
    /// Where bulk goes to, `host:port`.
    pub bulk_addr: String,
    /// BLAKE3 of its certificate: together they are its identity on the network.
    pub fingerprint: [u8; 32],
    /// How much it takes, in relation to the others.
    pub capacity: u32,
    /// What it shares its fate with.
    pub zone: String,
    /// Where it stands.
    pub status: MemberStatus,
}

impl Member {
    /// The node with its store, as owners and voters are named.
    #[must_use]
    pub fn occupant(&self) -> Occupant {
        Occupant { node: self.node, store: self.store }
    }

    /// What the two have in common that each member has for itself alone, if anything.
    #[must_use]
    pub fn shares_with(&self, other: &Self) -> Option<&'static str> {
        let shared = [
            ("node id", self.node == other.node),
            ("store id", self.store == other.store),
            ("name", self.name == other.name),
            ("certificate", self.fingerprint == other.fingerprint),
        ];
        shared.into_iter().find(|(_, same)| *same).map(|(what, _)| what)
    }
}

/// The members and what they own.
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub struct Topology {
    /// What people call the cluster.
    pub name: String,
    /// How many members it waits for before it serves.
    pub founders: u16,
    /// How many partitions its ring has.
    pub bits: Bits,
    /// How many slots each partition has.
    pub replicas: u8,
    /// The hash of the secret that a joining node has to know; none if nobody may join.
    pub join_secret: Option<[u8; 32]>,
    /// In the order of their ids.
    pub members: Vec<Member>,
    /// Who owns what; none until the cluster is formed.
    pub placement: Option<Placement>,
}

/// A change that is staged and not committed: its kind, and the archive of what that kind says.
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub struct Staged {
    /// Names it.
    pub change: ChangeId,
    /// Which kind of change, numbered for ever.
    pub kind: u16,
    /// The archive.
    pub body: Vec<u8>,
}

/// Which part of a key chooses its place on the ring.
///
/// The numbers are the archived bytes and are kept for ever.
#[wire(crate = rondel_proto)]
#[derive(Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum KeyRouting {
    /// All of it.
    Whole = 0,
    /// Only the group that the service puts the key in.
    Group = 1,
    /// What stands in braces.
    Tag = 2,
    /// So many first bytes: [`PropertySet::routing_bytes`].
    Prefix = 3,
}

/// A named set of properties.
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub struct PropertySet {
    /// Its name.
    pub name: String,
    /// How many of a partition's slots hold what is under it.
    pub n_val: u8,
    /// Which part of its keys chooses their place.
    pub routing: KeyRouting,
    /// How many bytes [`KeyRouting::Prefix`] takes.
    pub routing_bytes: u16,
    /// Everything else, which only the service understands.
    pub properties: Vec<u8>,
}

/// Where a lineage came from that was founded because a majority of the voters was gone for good.
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub struct Ancestor {
    /// The lineage before.
    pub lineage: Lineage,
    /// The last epoch that the survivors knew.
    pub epoch: Epoch,
    /// The survivors.
    pub survivors: Vec<NodeId>,
}

/// Everything that is decided, after one entry of the sequence.
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub struct State {
    /// Which sequence. Sequences are never compared by epoch.
    pub lineage: Lineage,
    /// Which entry, from 1.
    pub epoch: Epoch,
    /// The root of the state before; zero for the first.
    pub parent: Root,
    /// The change that led here.
    pub change: ChangeId,
    /// Where the lineage came from, if not from `init`.
    pub ancestor: Option<Ancestor>,
    /// Who decides the next entry.
    pub voters: Vec<Occupant>,
    /// The members and what they own.
    pub topology: Topology,
    /// What is staged.
    pub staged: Vec<Staged>,
    /// The property sets, in the order of their names.
    pub catalog: Vec<PropertySet>,
    /// What may be written: nothing newer than every member reads.
    pub format: u32,
    /// The changes that led here, one per entry, the last [`RECENT_CHANGES_MAX`] of them, oldest first.
    pub recent_changes: Vec<ChangeId>,
}

impl State {
    /// The first state of a new cluster: one member, which is the voter.
    #[must_use]
    pub fn genesis(lineage: Lineage, change: ChangeId, format: u32, topology: Topology) -> Self {
        Self {
            lineage,
            epoch: Epoch(1),
            parent: Root::default(),
            change,
            ancestor: None,
            voters: topology.members.iter().map(Member::occupant).take(1).collect(),
            topology,
            staged: Vec::new(),
            catalog: Vec::new(),
            format,
            recent_changes: vec![change],
        }
    }

    /// The hash of this state. It takes time in proportion to the state.
    #[must_use]
    pub fn root(&self) -> Root {
        let mut hasher = blake3::Hasher::new_derive_key("rondel 1: decided state");
        hasher.update(&self.lineage.0.to_le_bytes()).update(&self.epoch.0.to_le_bytes());
        hasher.update(&self.parent.0).update(&self.change.0.to_le_bytes()).update(&self.format.to_le_bytes());
        for section in self.sections() {
            hasher.update(&section);
        }
        Root(hasher.finalize().into())
    }

    /// The hashes of the sections.
    fn sections(&self) -> [[u8; 32]; 6] {
        [
            section(&self.ancestor),
            section(&self.voters),
            section(&self.topology),
            section(&self.staged),
            section(&self.catalog),
            section(&self.recent_changes),
        ]
    }

    /// Whether the cluster has been formed: only then does it serve.
    #[must_use]
    pub fn is_formed(&self) -> bool {
        self.topology.placement.is_some()
    }

    /// The member of an id.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.topology.members.iter().find(|member| member.node == node)
    }

    /// The properties of a name.
    #[must_use]
    pub fn properties(&self, name: &str) -> Option<&PropertySet> {
        let at = self.catalog.binary_search_by(|set| set.name.as_str().cmp(name)).ok()?;
        self.catalog.get(at)
    }

    /// Whether this occupant decides the next entry.
    #[must_use]
    pub fn is_voter(&self, occupant: Occupant) -> bool {
        self.voters.contains(&occupant)
    }

    /// Whether so many voters are a majority.
    #[must_use]
    pub fn is_majority(&self, voters: usize) -> bool {
        voters > self.voters.len() / 2
    }

    /// Whether the change has led here, as far as changes are remembered.
    #[must_use]
    pub fn has_change(&self, change: ChangeId) -> bool {
        self.recent_changes.contains(&change)
    }

    /// The change of an epoch up to this one, if it is still remembered.
    #[must_use]
    pub fn change_at(&self, epoch: Epoch) -> Option<ChangeId> {
        let back = usize::try_from(self.epoch.0.checked_sub(epoch.0)?).ok()?;
        self.recent_changes.iter().rev().nth(back).copied()
    }
}

fn section<T: Wire>(section: &T) -> [u8; 32] {
    blake3::hash(&section.encode()).into()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn member(number: u8) -> Member {
        Member {
            node: NodeId(u128::from(number)),
            store: StoreId(1000 + u128::from(number)),
            name: format!("n{number}"),
            addr: format!("10.0.0.{number}:7400"),
            bulk_addr: format!("10.0.0.{number}:7401"),
            fingerprint: [number; 32],
            capacity: 100,
            zone: "z".to_owned(),
            status: MemberStatus::Joining,
        }
    }

    pub(crate) fn genesis(founders: u16) -> State {
        let topology = Topology {
            name: "test".to_owned(),
            founders,
            bits: Bits::of_count(8).unwrap(),
            replicas: 3,
            join_secret: None,
            members: vec![member(1)],
            placement: None,
        };
        State::genesis(Lineage(7), ChangeId(1), 1, topology)
    }

    #[test]
    fn equal_states_have_equal_roots_and_every_section_counts() {
        let state = genesis(1);
        assert_eq!(state.root(), genesis(1).root());
        let changes: [fn(&mut State); 10] = [
            |state| state.lineage.0 += 1,
            |state| state.epoch.0 += 1,
            |state| state.parent.0[0] ^= 1,
            |state| state.change.0 += 1,
            |state| state.format += 1,
            |state| state.voters.clear(),
            |state| state.topology.members[0].zone.push('z'),
            |state| state.staged.push(Staged { change: ChangeId(1), kind: 1, body: vec![] }),
            |state| state.recent_changes.clear(),
            |state| {
                state.ancestor = Some(Ancestor { lineage: Lineage(1), epoch: Epoch(1), survivors: vec![] });
            },
        ];
        let mut roots = std::collections::BTreeSet::from([state.root()]);
        for change in changes {
            let mut changed = state.clone();
            change(&mut changed);
            assert!(roots.insert(changed.root()));
        }
    }

    #[test]
    fn the_root_of_a_state_never_changes_over_releases() {
        assert_eq!(
            genesis(3).root().to_string(),
            "49b6917e614181e63ff8b9d2572b3691f08a9af9a000e618f4a8b922b86595f1"
        );
    }

    #[test]
    fn a_copy_that_went_over_the_wire_has_the_same_root() {
        let state = genesis(3);
        let copy = rondel_proto::Msg::<State>::from_bytes(state.encode()).unwrap().to_owned();
        assert_eq!(copy.root(), state.root());
    }

    #[test]
    fn a_remembered_change_is_found_by_its_epoch() {
        let mut state = genesis(1);
        (state.epoch, state.recent_changes) = (Epoch(10), vec![ChangeId(8), ChangeId(9), ChangeId(10)]);
        let found: Vec<_> =
            (6..12).map(|epoch| state.change_at(Epoch(epoch)).map(|change| change.0)).collect();
        assert_eq!(found, [None, None, Some(8), Some(9), Some(10), None]);
    }
}
