//! How many hints this node keeps, by the slot that they are for: exact after each walk over the hint rows, and never
//! too low in between. Others read it to know whether a node that came back has what it missed (PROTOCOLS §2).

use crate::topology::Topology;
use rondel_proto::id::NodeId;
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// A slot of a partition, by their numbers.
pub(crate) type SlotOf = (u16, u8);

#[derive(Debug, Default)]
pub(crate) struct HintLedger(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Hints that the last walk left.
    left: BTreeMap<SlotOf, u64>,
    /// Hints written since that walk began.
    written: BTreeMap<SlotOf, u64>,
    /// Hints written since the walk that is under way began.
    written_in_walk: Option<BTreeMap<SlotOf, u64>>,
    /// Writes that have been answered and that these nodes have neither acknowledged nor a hint for.
    owed: BTreeMap<NodeId, u64>,
}

impl HintLedger {
    pub(crate) fn written(&self, slot: SlotOf) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.written.entry(slot).or_default() += 1;
        if let Some(in_walk) = &mut counts.written_in_walk {
            *in_walk.entry(slot).or_default() += 1;
        }
    }

    /// A write is on its way to these nodes, which are slow to take it: a hint may follow.
    pub(crate) fn owe(&self, nodes: &[NodeId]) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for node in nodes {
            *counts.owed.entry(*node).or_default() += 1;
        }
    }

    /// What [`HintLedger::owe`] noted has arrived, or has become a hint.
    pub(crate) fn settle(&self, nodes: &[NodeId]) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for node in nodes {
            let left = counts.owed.get(node).map_or(0, |owed| owed.saturating_sub(1));
            if left == 0 {
                counts.owed.remove(node);
            } else {
                counts.owed.insert(*node, left);
            }
        }
    }

    pub(crate) fn walk_begins(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).written_in_walk = Some(BTreeMap::new());
    }

    /// Takes what a walk left; what was written while it went on may or may not be among it, and counts on top.
    pub(crate) fn walk_ends(&self, left: BTreeMap<SlotOf, u64>) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.left = left;
        counts.written = counts.written_in_walk.take().unwrap_or_default();
    }

    /// A walk ended before its end: what was known stays known.
    pub(crate) fn walk_fails(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).written_in_walk = None;
    }

    /// Whether no hint is kept: none was left by the last walk, and none has been written since it began.
    pub(crate) fn is_empty(&self) -> bool {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.left.is_empty() && counts.written.is_empty()
    }

    /// The hints by the node that they are for, at least as many as there are.
    pub(crate) fn by_node(&self, topology: &Topology) -> BTreeMap<NodeId, u64> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut nodes = counts.owed.clone();
        for (&(partition, slot), count) in counts.left.iter().chain(&counts.written) {
            let slots = topology.placement().partitions.get(usize::from(partition));
            let entry = slots.and_then(|slots| slots.slots.get(usize::from(slot)));
            for member in entry.into_iter().flat_map(|entry| entry.write_set()) {
                *nodes.entry(member.node).or_default() += count;
            }
        }
        nodes
    }
}
