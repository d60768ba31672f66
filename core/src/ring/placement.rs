//! Who occupies which slot of which partition, as the decided sequence has it.
//!
//! The invariant: what a node may do for a slot follows from its [`SlotEntry`] alone, and only for the occupant's
//! (node, store id). A node with another store under the same name is nobody here: it is refilled, not trusted
//! (PROTOCOLS §4). These types rest on disk and travel between nodes inside the decided state.

use super::{Bits, Partition};
use rondel_proto::{
    id::{NodeId, Position, StoreId, Ver},
    wire,
};
use std::fmt;

/// The most slots that a partition may have: sets of slots travel as 16 bits.
pub const REPLICAS_MAX: usize = 16;

/// Who occupies a slot: a node with one store, not with whatever store it may come back with.
#[wire(crate = rondel_proto)]
#[derive(Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Occupant {
    /// The node.
    pub node: NodeId,
    /// Its store.
    pub store: StoreId,
}

impl fmt::Display for Occupant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} (store {})", self.node, self.store)
    }
}

/// How far the move of a slot has got.
///
/// The numbers are the archived bytes and are kept for ever. It is a plain enum on purpose: a release that meets a
/// phase that it does not know must refuse the whole state, since it can't say who may be written or read; the
/// validator does exactly that.
#[wire(crate = rondel_proto)]
#[derive(Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Phase {
    /// Written to and read from the owner; `next` is empty.
    Stable = 0,
    /// Written to both, read from the owner.
    Dual = 1,
    /// Written to both, read from `next`.
    Switch = 2,
    /// A `Switch` that was given up: written to both, read from the owner.
    Back = 3,
    /// The owner's store is gone: written to `next`, read from nobody.
    Fill = 4,
}

/// One slot of one partition.
#[wire(crate = rondel_proto)]
#[derive(Copy, PartialEq, Eq, Hash)]
pub struct SlotEntry {
    /// The owner; in `Fill` the one whose store is gone.
    pub owner: Occupant,
    /// Who takes the slot over; empty exactly when it is stable.
    pub next: Option<Occupant>,
    /// How far that has got.
    pub phase: Phase,
}

impl SlotEntry {
    /// A slot that is not moving.
    #[must_use]
    pub fn stable(owner: Occupant) -> Self {
        Self { owner, next: None, phase: Phase::Stable }
    }

    /// Who must hold a write before the slot has it: one occupant, or both of a move.
    pub fn write_set(&self) -> impl Iterator<Item = Occupant> + use<> {
        let owner = (self.phase != Phase::Fill).then_some(self.owner);
        let next = if self.phase == Phase::Stable { None } else { self.next };
        owner.into_iter().chain(next)
    }

    /// Who answers reads for the slot; nobody while it is being filled.
    #[must_use]
    pub fn read_node(&self) -> Option<Occupant> {
        match self.phase {
            Phase::Stable | Phase::Dual | Phase::Back => Some(self.owner),
            Phase::Switch => self.next,
            Phase::Fill => None,
        }
    }

    /// Who will have the slot when its move is over.
    #[must_use]
    pub fn destined(&self) -> Occupant {
        match self.phase {
            Phase::Stable | Phase::Back => self.owner,
            Phase::Dual | Phase::Switch | Phase::Fill => self.next.unwrap_or(self.owner),
        }
    }

    /// Whether nobody takes it over.
    #[must_use]
    pub fn is_stable(&self) -> bool {
        self.phase == Phase::Stable
    }

    /// Whether this occupant is written to for the slot.
    #[must_use]
    pub fn writes_to(&self, occupant: Occupant) -> bool {
        self.write_set().any(|member| member == occupant)
    }

    /// Whether this occupant answers reads for the slot.
    #[must_use]
    pub fn reads_from(&self, occupant: Occupant) -> bool {
        self.read_node() == Some(occupant)
    }
}

/// The slots of one partition.
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq, Hash)]
pub struct PartitionSlots {
    /// How often these slots have changed: requests carry it, and owners are fenced by it.
    pub ver: Ver,
    /// The slots in order; the occupant of slot `i` holds the items with `n_val > i`.
    pub slots: Vec<SlotEntry>,
}

impl PartitionSlots {
    /// The owners of the first `n` slots, in order; a node that owns several slots comes several times.
    pub fn owners(&self, n: usize) -> impl ExactSizeIterator<Item = Occupant> + DoubleEndedIterator {
        self.slots[..n.min(self.slots.len())].iter().map(|slot| slot.owner)
    }

    /// The slots among the first `n` that this occupant is written to for, one bit each.
    #[must_use]
    pub fn written_slots(&self, occupant: Occupant, n: usize) -> u16 {
        self.mask(n, |slot| slot.writes_to(occupant))
    }

    /// The slots among the first `n` that this occupant answers reads for, one bit each.
    #[must_use]
    pub fn read_slots(&self, occupant: Occupant, n: usize) -> u16 {
        self.mask(n, |slot| slot.reads_from(occupant))
    }

    /// Whether the occupant is written to for any slot: a row it holds for this partition is no stray copy.
    #[must_use]
    pub fn involves(&self, occupant: Occupant) -> bool {
        self.written_slots(occupant, REPLICAS_MAX) != 0
    }

    /// Whether no slot is moving.
    #[must_use]
    pub fn is_stable(&self) -> bool {
        self.slots.iter().all(SlotEntry::is_stable)
    }

    /// How many distinct nodes own the first `n` slots; fewer than `n` means under-replicated.
    #[must_use]
    pub fn distinct_owners(&self, n: usize) -> usize {
        let mut nodes: Vec<NodeId> = self.owners(n).map(|owner| owner.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes.len()
    }

    fn mask(&self, n: usize, holds: impl Fn(&SlotEntry) -> bool) -> u16 {
        let slots = self.slots.iter().take(n.min(REPLICAS_MAX)).enumerate();
        slots.filter(|(_, slot)| holds(slot)).fold(0, |mask, (index, _)| mask | 1 << index)
    }
}

/// The slots of every partition of the ring.
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq, Hash)]
pub struct Placement {
    /// How many partitions there are.
    pub bits: Bits,
    /// One per partition, in ring order.
    pub partitions: Vec<PartitionSlots>,
}

/// Why a placement from outside can't be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPlacement {
    /// The number of bits is out of bounds.
    #[error("a placement with {0} bits per partition number: 3 to 15 are possible")]
    Bits(u8),
    /// There are more or fewer partitions than the bits say.
    #[error("a placement for {expected} partitions lists {found}")]
    Partitions {
        /// `2^bits`.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// Partitions have no slot, too many, or not all equally many.
    #[error(
        "partition {partition} has {found} slots; every partition has the same number, 1 to {REPLICAS_MAX}"
    )]
    Slots {
        /// The first such partition.
        partition: usize,
        /// How many slots it has.
        found: usize,
    },
    /// `next` and `phase` contradict each other.
    #[error("slot {slot} of partition {partition} is in {phase:?} and its `next` does not fit that")]
    Next {
        /// The partition.
        partition: usize,
        /// The slot.
        slot: usize,
        /// Its phase.
        phase: Phase,
    },
}

/// A slot that one placement gives to somebody else than another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// The partition.
    pub partition: Partition,
    /// The slot.
    pub slot: u8,
    /// Who has it; nobody if the slot is new.
    pub from: Option<Occupant>,
    /// Who gets it; nobody if the slot goes away.
    pub to: Option<Occupant>,
}

impl Placement {
    /// Whether this can be a placement. To be asked once of every one that comes from a peer or a disk.
    ///
    /// # Errors
    /// [`BadPlacement`]: the first contradiction.
    pub fn check(&self) -> Result<(), BadPlacement> {
        if let Some(bits) = self.bits.out_of_bounds() {
            return Err(BadPlacement::Bits(bits));
        }
        let (expected, found) = (self.bits.count(), self.partitions.len());
        if expected != found {
            return Err(BadPlacement::Partitions { expected, found });
        }
        for (partition, slots) in self.partitions.iter().enumerate() {
            let found = slots.slots.len();
            if !(1..=REPLICAS_MAX).contains(&found) || found != self.replicas() {
                return Err(BadPlacement::Slots { partition, found });
            }
            let contradicts = |slot: &SlotEntry| slot.is_stable() == slot.next.is_some();
            if let Some(slot) = slots.slots.iter().position(contradicts) {
                return Err(BadPlacement::Next { partition, slot, phase: slots.slots[slot].phase });
            }
        }
        Ok(())
    }

    /// How many slots each partition has.
    #[must_use]
    pub fn replicas(&self) -> usize {
        self.partitions.first().map_or(0, |partition| partition.slots.len())
    }

    /// The slots of a partition, if it is one of this ring.
    #[must_use]
    pub fn slots(&self, partition: Partition) -> Option<&PartitionSlots> {
        if partition.bits() != self.bits {
            return None;
        }
        self.partitions.get(usize::from(partition.index()))
    }

    /// The partition of a position and its slots.
    ///
    /// # Panics
    /// If the placement has not passed [`Placement::check`] and lacks that partition.
    #[must_use]
    pub fn at(&self, position: Position) -> (Partition, &PartitionSlots) {
        let partition = Partition::of(position, self.bits);
        (partition, &self.partitions[usize::from(partition.index())])
    }

    /// Every partition with its slots, in ring order.
    pub fn iter(&self) -> impl Iterator<Item = (Partition, &PartitionSlots)> {
        self.bits.partitions().zip(&self.partitions)
    }

    /// The partitions that an occupant is written to for, with those slots, one bit each.
    pub fn written_by(&self, occupant: Occupant) -> impl Iterator<Item = (Partition, u16)> {
        let all = self.iter().map(move |(at, slots)| (at, slots.written_slots(occupant, REPLICAS_MAX)));
        all.filter(|(_, slots)| *slots != 0)
    }

    /// What must move for this placement to become `target`: slots whose destined occupants differ.
    ///
    /// Slots that one of the two lacks, because `replicas` changes, are in it with one side empty. Both must be of
    /// one ring; between rings of different sizes the result is empty.
    pub fn moves_to(&self, target: &Self) -> Vec<Move> {
        if self.bits != target.bits {
            return Vec::new();
        }
        let pairs = self.iter().zip(&target.partitions);
        pairs.flat_map(|((partition, from), to)| moves_of(partition, from, to)).collect()
    }
}

fn moves_of(partition: Partition, from: &PartitionSlots, to: &PartitionSlots) -> Vec<Move> {
    let destined =
        |slots: &PartitionSlots, slot: u8| slots.slots.get(usize::from(slot)).map(SlotEntry::destined);
    (0..=u8::MAX)
        .take(from.slots.len().max(to.slots.len()))
        .map(|slot| Move { partition, slot, from: destined(from, slot), to: destined(to, slot) })
        .filter(|change| change.from != change.to)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rondel_proto::Wire;

    fn occupant(number: u8) -> Occupant {
        Occupant { node: NodeId(u128::from(number)), store: StoreId(u128::from(number) + 100) }
    }

    fn entry(phase: Phase) -> SlotEntry {
        let next = (phase != Phase::Stable).then(|| occupant(2));
        SlotEntry { owner: occupant(1), next, phase }
    }

    fn eight(slots: &[SlotEntry]) -> Placement {
        let partition = PartitionSlots { ver: Ver(1), slots: slots.to_vec() };
        Placement { bits: Bits::of_count(8).unwrap(), partitions: vec![partition; 8] }
    }

    #[test]
    fn each_phase_has_the_write_set_and_the_read_node_of_the_protocol() {
        let table: [(Phase, &[u8], Option<u8>, u8); 5] = [
            (Phase::Stable, &[1], Some(1), 1),
            (Phase::Dual, &[1, 2], Some(1), 2),
            (Phase::Switch, &[1, 2], Some(2), 2),
            (Phase::Back, &[1, 2], Some(1), 1),
            (Phase::Fill, &[2], None, 2),
        ];
        for (phase, writes, reads, destined) in table {
            let slot = entry(phase);
            let expected: Vec<Occupant> = writes.iter().copied().map(occupant).collect();
            assert_eq!(slot.write_set().collect::<Vec<_>>(), expected, "{phase:?}");
            assert_eq!(slot.read_node(), reads.map(occupant), "{phase:?}");
            assert_eq!(slot.destined(), occupant(destined), "{phase:?}");
        }
    }

    #[test]
    fn the_archived_byte_of_a_phase_is_its_number() {
        for (phase, byte) in
            [(Phase::Stable, 0), (Phase::Dual, 1), (Phase::Switch, 2), (Phase::Back, 3), (Phase::Fill, 4)]
        {
            assert_eq!(phase.encode().as_ref(), [byte]);
        }
        assert!(Phase::check(&[5]).is_err(), "an unknown phase is refused, not guessed");
    }

    #[test]
    fn another_store_of_the_same_node_is_nobody() {
        let slot = entry(Phase::Stable);
        let imposter = Occupant { store: StoreId(7), ..occupant(1) };
        assert!(slot.writes_to(occupant(1)) && slot.reads_from(occupant(1)));
        assert!(!slot.writes_to(imposter) && !slot.reads_from(imposter));
    }

    #[test]
    fn masks_name_the_slots_of_an_occupant() {
        let slots = [entry(Phase::Switch), SlotEntry::stable(occupant(3)), SlotEntry::stable(occupant(2))];
        let partition = PartitionSlots { ver: Ver(0), slots: slots.to_vec() };
        assert_eq!(partition.written_slots(occupant(2), 3), 0b101);
        assert_eq!(partition.written_slots(occupant(2), 2), 0b001);
        assert_eq!(partition.read_slots(occupant(1), 3), 0);
        assert_eq!(partition.read_slots(occupant(3), 3), 0b010);
        assert!(partition.involves(occupant(1)) && !partition.involves(occupant(4)));
        assert_eq!(partition.distinct_owners(3), 3);
    }

    #[test]
    fn contradictions_are_found_before_use() {
        let good = eight(&[entry(Phase::Dual)]);
        assert_eq!(good.check(), Ok(()));
        let mut short = good.clone();
        short.partitions.pop();
        assert_eq!(short.check(), Err(BadPlacement::Partitions { expected: 8, found: 7 }));
        let mut uneven = good.clone();
        uneven.partitions[3].slots.push(entry(Phase::Stable));
        assert_eq!(uneven.check(), Err(BadPlacement::Slots { partition: 3, found: 2 }));
        let mut idle = good.clone();
        idle.partitions[7].slots[0].next = None;
        assert_eq!(idle.check(), Err(BadPlacement::Next { partition: 7, slot: 0, phase: Phase::Dual }));
        assert!(eight(&[]).check().is_err());
    }

    #[test]
    fn moves_are_the_slots_whose_destination_differs() {
        let from = eight(&[entry(Phase::Dual), SlotEntry::stable(occupant(3))]);
        let same = eight(&[SlotEntry::stable(occupant(2)), SlotEntry::stable(occupant(3))]);
        assert_eq!(from.moves_to(&same), []);
        let grown = eight(&[
            SlotEntry::stable(occupant(1)),
            SlotEntry::stable(occupant(3)),
            SlotEntry::stable(occupant(4)),
        ]);
        let moves = from.moves_to(&grown);
        assert_eq!(moves.len(), 16);
        assert_eq!((moves[0].slot, moves[0].from, moves[0].to), (0, Some(occupant(2)), Some(occupant(1))));
        assert_eq!((moves[1].slot, moves[1].from, moves[1].to), (2, None, Some(occupant(4))));
    }
}
