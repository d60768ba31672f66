//! The decided state as others ask it: who is that, what does he own, may he serve.
//!
//! A view is a value: whoever holds one sees one epoch, whole. A new state is a new view.

use crate::{
    ring::{Occupant, Partition, PartitionSlots, Placement, RingMember},
    sequence::{Member, MemberStatus, State},
};
use rondel_proto::id::{Epoch, NodeId, Position};
use std::{collections::BTreeMap, sync::Arc};

/// The decided state with its members at hand. Cheap to clone.
#[derive(Debug, Clone)]
pub struct View(Arc<Indexed>);

#[derive(Debug)]
struct Indexed {
    state: Arc<State>,
    by_node: BTreeMap<NodeId, usize>,
    by_fingerprint: BTreeMap<[u8; 32], usize>,
}

impl View {
    /// The view of a state.
    #[must_use]
    pub fn new(state: Arc<State>) -> Self {
        let members = || state.topology.members.iter().enumerate();
        Self(Arc::new(Indexed {
            by_node: members().map(|(at, member)| (member.node, at)).collect(),
            by_fingerprint: members().map(|(at, member)| (member.fingerprint, at)).collect(),
            state,
        }))
    }

    /// The state itself.
    #[must_use]
    pub fn state(&self) -> &Arc<State> {
        &self.0.state
    }

    /// Which entry led here.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.0.state.epoch
    }

    /// The members, in the order of their ids.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.0.state.topology.members
    }

    /// The member of an id.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members().get(*self.0.by_node.get(&node)?)
    }

    /// The member that shows this certificate: nobody else is trusted.
    #[must_use]
    pub fn member_of_certificate(&self, fingerprint: &[u8; 32]) -> Option<&Member> {
        self.members().get(*self.0.by_fingerprint.get(fingerprint)?)
    }

    /// Whether the cluster has been formed: before that nobody serves.
    #[must_use]
    pub fn is_formed(&self) -> bool {
        self.0.state.is_formed()
    }

    /// Whether a node with this store may serve: the cluster is formed, and the node is a member of it that has this
    /// store and has not been marked down or emptied.
    #[must_use]
    pub fn may_serve(&self, occupant: Occupant) -> bool {
        let serves = |member: &Member| {
            member.store == occupant.store
                && matches!(member.status, MemberStatus::Valid | MemberStatus::Leaving)
        };
        self.is_formed() && self.member(occupant.node).is_some_and(serves)
    }

    /// Who owns what, once the cluster is formed.
    #[must_use]
    pub fn placement(&self) -> Option<&Placement> {
        self.0.state.topology.placement.as_ref()
    }

    /// The slots of a partition, once the cluster is formed.
    #[must_use]
    pub fn slots(&self, partition: Partition) -> Option<&PartitionSlots> {
        self.placement()?.slots(partition)
    }

    /// The partition of a position and its slots, once the cluster is formed.
    #[must_use]
    pub fn at(&self, position: Position) -> Option<(Partition, &PartitionSlots)> {
        Some(self.placement()?.at(position))
    }

    /// The members as preference lists want them.
    pub fn ring_members(&self) -> impl Iterator<Item = RingMember<'_>> {
        self.members().iter().map(|member| RingMember {
            node: member.node,
            zone: &member.zone,
            may_stand_in: member.status == MemberStatus::Valid,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ring::SlotEntry,
        sequence::{
            ChangeId, Delta,
            state_tests::{genesis, member},
        },
    };
    use rondel_proto::id::{StoreId, Ver};

    fn formed() -> State {
        let state = genesis(1);
        let slots = vec![SlotEntry::stable(member(1).occupant()); 3];
        let partitions = vec![PartitionSlots { ver: Ver(1), slots }; 8];
        let form = Delta::Form(Placement { bits: state.topology.bits, partitions });
        state.next(ChangeId(5), &[form]).unwrap().1
    }

    #[test]
    fn members_are_found_by_id_and_by_certificate() {
        let view = View::new(Arc::new(formed()));
        assert_eq!(view.member(NodeId(1)).unwrap().name, "n1");
        assert_eq!(view.member_of_certificate(&[1; 32]).unwrap().name, "n1");
        assert!(view.member(NodeId(2)).is_none() && view.member_of_certificate(&[2; 32]).is_none());
    }

    #[test]
    fn a_node_serves_in_a_formed_cluster_with_the_store_it_was_admitted_with() {
        let occupant = member(1).occupant();
        assert!(!View::new(Arc::new(genesis(1))).may_serve(occupant), "not formed");
        let view = View::new(Arc::new(formed()));
        assert!(view.may_serve(occupant));
        assert!(!view.may_serve(Occupant { store: StoreId(3), ..occupant }), "another store");
        for status in [MemberStatus::Joining, MemberStatus::Exiting, MemberStatus::Down] {
            let mut state = formed();
            state.topology.members[0].status = status;
            assert!(!View::new(Arc::new(state)).may_serve(occupant), "{status}");
        }
    }

    #[test]
    fn slots_are_there_once_the_cluster_is_formed() {
        let position = Position(u64::MAX);
        assert!(View::new(Arc::new(genesis(1))).at(position).is_none());
        let view = View::new(Arc::new(formed()));
        let (partition, slots) = view.at(position).unwrap();
        assert_eq!((partition.index(), view.slots(partition)), (7, Some(slots)));
    }

    #[test]
    fn only_valid_members_stand_in() {
        let may = |state: State| View::new(Arc::new(state)).ring_members().next().unwrap().may_stand_in;
        assert!(may(formed()) && !may(genesis(1)));
    }
}
