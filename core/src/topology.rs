//! The decided topology as requests need it: looked up per request, replaced whole when an entry is decided.

use crate::ring::{Occupant, Partition, PartitionSlots, Placement, PreferenceList, REPLICAS_MAX, RingMember};
use rondel_proto::id::{Epoch, Lineage, NodeId, Position, Ver};
use std::{collections::BTreeMap, net::SocketAddr};

/// A member as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The node and its store.
    pub occupant: Occupant,
    /// Its name, for people.
    pub name: String,
    /// Where it listens for requests.
    pub addr: SocketAddr,
    /// Where it listens for bulk transfers.
    pub bulk_addr: SocketAddr,
    /// BLAKE3 of its certificate.
    pub fingerprint: [u8; 32],
    /// Its zone; nodes of one zone fail together.
    pub zone: String,
    /// Whether it may hold data: neither joining nor leaving nor marked down.
    pub valid: bool,
}

/// One decided state, from one node's point of view.
#[derive(Debug, Clone)]
pub struct Topology {
    /// The line of decided states.
    pub lineage: Lineage,
    /// How many entries have been decided.
    pub epoch: Epoch,
    /// The hash of the decided state.
    pub root: [u8; 32],
    /// The cluster's name.
    pub cluster: String,
    /// The members, this node included.
    pub members: BTreeMap<NodeId, Member>,
    /// Who has which slot.
    placement: Placement,
    me: Occupant,
    my_slots: Vec<u16>,
    lists: Vec<PreferenceList>,
}

impl Topology {
    /// A state as the node with this store sees it.
    #[must_use]
    pub fn new(
        (lineage, epoch, root): (Lineage, Epoch, [u8; 32]),
        cluster: String,
        members: BTreeMap<NodeId, Member>,
        placement: Placement,
        me: Occupant,
    ) -> Self {
        let my_slots =
            placement.partitions.iter().map(|slots| slots.written_slots(me, REPLICAS_MAX)).collect();
        let ring_members: Vec<RingMember<'_>> = members
            .values()
            .map(|member| RingMember {
                node: member.occupant.node,
                zone: &member.zone,
                may_stand_in: member.valid,
            })
            .collect();
        let lists =
            placement.iter().map(|(at, slots)| PreferenceList::new(at, slots, &ring_members)).collect();
        Self { lineage, epoch, root, cluster, members, placement, me, my_slots, lists }
    }

    /// This node and its store.
    #[must_use]
    pub fn me(&self) -> Occupant {
        self.me
    }

    /// Who has which slot.
    #[must_use]
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// How many slots each partition has: the largest n_val there is.
    #[must_use]
    pub fn replicas(&self) -> u8 {
        u8::try_from(self.placement.replicas()).expect("a placement has at most 16 slots")
    }

    /// The partition of a position.
    #[must_use]
    pub fn partition(&self, position: Position) -> Partition {
        Partition::of(position, self.placement.bits)
    }

    /// The slots of a partition of this ring.
    ///
    /// # Panics
    /// If the partition is one of another ring.
    #[must_use]
    pub fn slots(&self, partition: Partition) -> &PartitionSlots {
        self.placement.slots(partition).expect("a partition of this ring")
    }

    /// A partition's slots with every fallback in order.
    ///
    /// # Panics
    /// If the partition is one of another ring.
    #[must_use]
    pub fn preference_list(&self, partition: Partition) -> &PreferenceList {
        &self.lists[usize::from(partition.index())]
    }

    /// How often the slots of a partition have changed.
    ///
    /// # Panics
    /// If the partition is one of another ring.
    #[must_use]
    pub fn ver(&self, partition: Partition) -> Ver {
        self.slots(partition).ver
    }

    /// The slots of a partition that this node is written to for, one bit each.
    #[must_use]
    pub fn my_slots(&self, partition: Partition) -> u16 {
        self.my_slots.get(usize::from(partition.index())).copied().unwrap_or(0)
    }
}
