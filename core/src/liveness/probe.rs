//! Probes under way, of our own and on behalf of others.

use rondel_proto::id::NodeId;
use std::{collections::BTreeSet, time::Instant};

/// One question to one member, first directly, then through helpers as well.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) sequence: u64,
    pub(super) stage: Stage,
    /// When the stage ends.
    pub(super) deadline: Instant,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// Only the member itself was asked.
    Direct,
    /// Helpers were asked too. Those that answer at all, if only that the member is silent, show that we are heard.
    Indirect {
        /// How many were asked.
        asked: usize,
        /// Who said that the member is silent.
        silent: BTreeSet<NodeId>,
    },
}

impl Probe {
    /// A helper reports that the member does not answer it.
    pub(super) fn silent_for(&mut self, helper: NodeId) {
        if let Stage::Indirect { silent, .. } = &mut self.stage {
            silent.insert(helper);
        }
    }

    /// How many steps of our own health the failure of this probe costs: one for each helper that we did not hear
    /// from, and one if there was nobody to vouch for us.
    pub(super) fn blame(&self) -> usize {
        match &self.stage {
            Stage::Indirect { asked, silent } if *asked > 0 => asked.saturating_sub(silent.len()),
            _ => 1,
        }
    }
}

/// A probe on behalf of another member.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) origin: NodeId,
    pub(super) origin_sequence: u64,
    pub(super) target: NodeId,
    /// When the origin is told that the target is silent.
    pub(super) deadline: Instant,
}
