//! Who should occupy which slot: the placement that a plan aims at.
//!
//! In this order: no partition has a node twice while there are others, nor a zone twice while there are others;
//! every member has its share by capacity, to within one slot, of slot 0, of slots 0–1, and so on (so buckets of
//! every `n_val` are balanced); few slots change hands. Who stays keeps its slot number: a claim replaces occupants
//! and does not permute them (PROTOCOLS §2, DESIGN §4).
//!
//! Slots are filled one number at a time: [`shares`] says how many of slots 0 … `j` each member should have, and
//! [`layer`] gives out slot `j` of all partitions at the least cost. The first rule comes before the second, so a
//! zone with little capacity may still get a replica of everything. Same input, same result, on every node.

mod layer;
mod shares;

use super::{Bits, Occupant, PartitionSlots, Placement, REPLICAS_MAX, SlotEntry};
use layer::{Cost, Layer, Window};
use rondel_proto::id::{NodeId, StoreId, Ver};

/// A member that wants slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimant {
    /// The node.
    pub node: NodeId,
    /// Its store.
    pub store: StoreId,
    /// How much it takes, against the other members; 0 takes nothing.
    pub capacity: u32,
    /// Where it stands; members of one zone fail together.
    pub zone: String,
}

/// Why there is no placement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Nobody may own anything.
    #[error("no member with a capacity above 0: nobody can own a partition")]
    NoMembers,
    /// A number of replicas that partitions can't have.
    #[error("{0} replicas asked for; 1 to {REPLICAS_MAX} are possible")]
    Replicas(usize),
    /// A member comes twice.
    #[error("member {0} is listed twice")]
    Twice(NodeId),
    /// The placement before this one has another number of partitions.
    #[error("the ring has {previous} partitions and {wanted} are asked for: split it first")]
    OtherRing {
        /// How many there are.
        previous: usize,
        /// How many are asked for.
        wanted: usize,
    },
}

/// The placement that these members should have, every slot stable and with the `ver` it had before.
///
/// With fewer members than `replicas`, members own several slots of a partition. What differs from `previous` is to
/// be moved slot by slot: [`Placement::moves_to`] lists it. Takes time proportional to partitions × members, times
/// the slots that the balance makes move.
///
/// # Errors
/// [`ClaimError`]: there is no such placement.
pub fn claim(
    members: &[Claimant],
    bits: Bits,
    replicas: usize,
    previous: Option<&Placement>,
) -> Result<Placement, ClaimError> {
    let members = able(members)?;
    if !(1..=REPLICAS_MAX).contains(&replicas) {
        return Err(ClaimError::Replicas(replicas));
    }
    if let Some(previous) = previous.filter(|previous| previous.partitions.len() != bits.count()) {
        return Err(ClaimError::OtherRing { previous: previous.partitions.len(), wanted: bits.count() });
    }
    let mut table = Table::new(&members, bits, replicas, previous);
    for slot in 0..replicas {
        table.fill(slot);
    }
    Ok(table.into_placement(&members, bits, previous))
}

/// Those with capacity, in the order of their ids.
fn able(members: &[Claimant]) -> Result<Vec<&Claimant>, ClaimError> {
    let mut all: Vec<&Claimant> = members.iter().collect();
    all.sort_unstable_by_key(|member| member.node);
    if let Some(pair) = all.windows(2).find(|pair| pair[0].node == pair[1].node) {
        return Err(ClaimError::Twice(pair[0].node));
    }
    all.retain(|member| member.capacity > 0);
    if all.is_empty() { Err(ClaimError::NoMembers) } else { Ok(all) }
}

/// The claim as far as it has got; members and zones by number.
struct Table {
    capacities: Vec<u32>,
    zone_of: Vec<usize>,
    zones: usize,
    /// Per partition, who has its slots before the claim; `None` is somebody who is no claimant any more.
    before: Vec<Vec<Option<usize>>>,
    /// Per partition, who gets its slots, as far as they are filled.
    after: Vec<Vec<usize>>,
    /// How many slots each member has been given.
    given: Vec<u64>,
}

impl Table {
    fn new(members: &[&Claimant], bits: Bits, replicas: usize, previous: Option<&Placement>) -> Self {
        let mut names: Vec<&str> = members.iter().map(|member| member.zone.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let zone_of = members.iter().map(|member| names.partition_point(|name| *name < member.zone.as_str()));
        let number = |node: NodeId| members.binary_search_by_key(&node, |member| member.node).ok();
        let row = |slots: &PartitionSlots| {
            slots.slots.iter().take(replicas).map(|slot| number(slot.destined().node)).collect()
        };
        let before = previous.map(|previous| previous.partitions.iter().map(row).collect());
        Self {
            capacities: members.iter().map(|member| member.capacity).collect(),
            zone_of: zone_of.collect(),
            zones: names.len(),
            before: before.unwrap_or_else(|| vec![Vec::new(); bits.count()]),
            after: vec![Vec::with_capacity(replicas); bits.count()],
            given: vec![0; members.len()],
        }
    }

    /// Gives out one slot of every partition; all lower slots have been.
    fn fill(&mut self, slot: usize) {
        let limits = shares::Limits::of(slot + 1, &self.zone_of, self.zones);
        let partitions = self.after.len();
        let shares = shares::shares(&self.capacities, &self.zone_of, &limits, slot + 1, partitions);
        let windows: Vec<Window> =
            shares.iter().zip(&self.given).map(|(share, &given)| share.window_above(given)).collect();
        let costs = |partition: usize, member: usize| self.cost(slot, &limits, partition, member);
        let mut layer = Layer::new(slot, partitions, windows, costs);
        layer.settle();
        let assignment = layer.into_assignment();
        for (row, member) in self.after.iter_mut().zip(assignment) {
            row.push(member);
            self.given[member] += 1;
        }
    }

    /// What it costs to give `member` this slot of this partition, given the lower slots.
    fn cost(&self, slot: usize, limits: &shares::Limits, partition: usize, member: usize) -> Cost {
        let after = &self.after[partition];
        let zone = self.zone_of[member];
        let cost = self.cost_of_change(slot, limits, partition, member);
        if after.iter().filter(|&&other| other == member).count() >= limits.per_node {
            cost.sharing_node()
        } else if after.iter().filter(|&&other| self.zone_of[other] == zone).count() >= limits.per_zone {
            cost.sharing_zone()
        } else {
            cost
        }
    }

    fn cost_of_change(&self, slot: usize, limits: &shares::Limits, partition: usize, member: usize) -> Cost {
        let before = &self.before[partition];
        let holder = before.get(slot).copied().flatten();
        if holder == Some(member) {
            return Cost::KEEPS;
        }
        let times = |who: usize| before.iter().filter(|&&other| other == Some(who)).count();
        // Those who have later slots keep them only if the lower slots leave them, and their zones, room.
        let later = before.iter().skip(slot + 1).flatten();
        let neighbours = later.filter(|&&other| self.zone_of[other] == self.zone_of[member]).count();
        let disturbs = times(member) > 0 || neighbours >= limits.per_zone;
        // Where somebody has several slots, it is one of these that should change hands.
        let doubled = |other: &usize| times(*other) > 1;
        let wrong_one =
            holder.is_some_and(|holder| !doubled(&holder)) && before.iter().skip(slot).flatten().any(doubled);
        Cost::moves(disturbs, wrong_one)
    }

    fn into_placement(self, members: &[&Claimant], bits: Bits, previous: Option<&Placement>) -> Placement {
        let occupant = |number: usize| Occupant { node: members[number].node, store: members[number].store };
        let slots = |row: &Vec<usize>| row.iter().map(|&it| SlotEntry::stable(occupant(it))).collect();
        let ver = |at: usize| previous.map_or(Ver(0), |previous| previous.partitions[at].ver);
        let rows = self.after.iter().enumerate();
        let partitions = rows.map(|(at, row)| PartitionSlots { ver: ver(at), slots: slots(row) });
        Placement { bits, partitions: partitions.collect() }
    }
}

#[cfg(test)]
mod tests;
