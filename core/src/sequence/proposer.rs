//! The proposer's side of one instance: an attempt to get one entry decided.
//!
//! An attempt counts promises, then acceptances of one entry, then stores that have persisted it. The invariant is
//! Paxos's: what it asks to accept is what the highest ballot among its promises has accepted, and something of its
//! own only if none has. An attempt is never continued under another ballot or on another state: a new one begins.

use super::{
    acceptor::{Accepted, Ballot},
    entry::{Delta, Entry},
    message::{Accept, Prepare},
    state::{ChangeId, Root, State},
};
use rondel_proto::id::{Epoch, NodeId, StoreId};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A change that somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// Names it over all its retries, on whatever node.
    pub change: ChangeId,
    /// What is to change.
    pub deltas: Vec<Delta>,
}

/// What an attempt is made for.
#[derive(Debug, Clone)]
pub(super) enum Goal {
    Write(Proposal),
    /// To know what had been decided when it began.
    Read(ChangeId),
}

impl Goal {
    pub(super) fn id(&self) -> ChangeId {
        match self {
            Self::Write(proposal) => proposal.change,
            Self::Read(id) => *id,
        }
    }
}

#[derive(Debug)]
enum Phase {
    Promising(BTreeMap<NodeId, Option<Accepted>>),
    Accepting { entry: Entry, after: Arc<State>, accepted_by: BTreeSet<NodeId> },
    Spreading { entry: Entry, after: Arc<State>, persisted_by: BTreeSet<NodeId> },
    Outbid,
}

#[derive(Debug)]
pub(super) struct Attempt {
    base: Arc<State>,
    parent: Root,
    ballot: Ballot,
    phase: Phase,
}

/// What a majority of promises says.
pub(super) enum Promised {
    /// This one may be decided already: it has to be finished.
    Finish(Accepted),
    /// Nothing has been decided beyond the attempt's base.
    Free,
}

impl Attempt {
    pub(super) fn new(base: Arc<State>, parent: Root, ballot: Ballot) -> Self {
        Self { base, parent, ballot, phase: Phase::Promising(BTreeMap::new()) }
    }

    /// The state that the entry follows.
    pub(super) fn base(&self) -> &Arc<State> {
        &self.base
    }

    /// The entry to decide.
    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.base.epoch.0 + 1)
    }

    pub(super) fn prepare(&self) -> Prepare {
        Prepare { lineage: self.base.lineage, epoch: self.epoch(), ballot: self.ballot, parent: self.parent }
    }

    /// What is being asked of voters, if it is to be accepted.
    pub(super) fn accept(&self) -> Option<Accept> {
        let Phase::Accepting { entry, .. } = &self.phase else { return None };
        Some(Accept { ballot: self.ballot, entry: entry.clone() })
    }

    pub(super) fn voters(&self) -> Vec<NodeId> {
        self.base.voters.iter().map(|voter| voter.node).collect()
    }

    pub(super) fn is_promising(&self) -> bool {
        matches!(self.phase, Phase::Promising(_))
    }

    /// Whether a voter still owes the answer that the phase waits for.
    pub(super) fn waits_for(&self, node: NodeId) -> bool {
        match &self.phase {
            Phase::Promising(promises) => !promises.contains_key(&node),
            Phase::Accepting { accepted_by, .. } => !accepted_by.contains(&node),
            Phase::Spreading { .. } | Phase::Outbid => false,
        }
    }

    /// Counts a promise; says what a majority of them says, once.
    pub(super) fn promise(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        ballot: Ballot,
        accepted: Option<Accepted>,
    ) -> Option<Promised> {
        if !self.concerns(from, epoch, ballot) {
            return None;
        }
        let Phase::Promising(promises) = &mut self.phase else { return None };
        promises.insert(from, accepted);
        if !self.base.is_majority(promises.len()) {
            return None;
        }
        let highest = promises.values().flatten().max_by_key(|accepted| accepted.ballot);
        Some(highest.cloned().map_or(Promised::Free, Promised::Finish))
    }

    /// From now on this entry is asked for, which leads to this state.
    pub(super) fn ask_for(&mut self, entry: Entry, after: State) {
        self.phase = Phase::Accepting { entry, after: Arc::new(after), accepted_by: BTreeSet::new() };
    }

    /// Counts an acceptance; gives the entry and its state once a majority of the voters has accepted it: decided.
    pub(super) fn accepted(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        ballot: Ballot,
    ) -> Option<(Entry, Arc<State>)> {
        if !self.concerns(from, epoch, ballot) {
            return None;
        }
        let Phase::Accepting { entry, after, accepted_by } = &mut self.phase else { return None };
        accepted_by.insert(from);
        if !self.base.is_majority(accepted_by.len()) {
            return None;
        }
        let decided = (entry.clone(), Arc::clone(after));
        let (entry, after) = decided.clone();
        self.phase = Phase::Spreading { entry, after, persisted_by: BTreeSet::new() };
        Some(decided)
    }

    /// Counts a store that has persisted what is decided; gives the change once a majority of the voters of the new
    /// state has: only then may the old voters be let go.
    pub(super) fn persisted(&mut self, from: NodeId, store: StoreId, epoch: Epoch) -> Option<ChangeId> {
        let wanted = self.epoch();
        let Phase::Spreading { entry, after, persisted_by } = &mut self.phase else { return None };
        let votes = after.voters.iter().any(|voter| (voter.node, voter.store) == (from, store));
        if votes && epoch >= wanted {
            persisted_by.insert(from);
        }
        after.is_majority(persisted_by.len()).then_some(entry.change)
    }

    /// The change that is decided and being spread, if later entries have been decided since: a majority has it.
    pub(super) fn overtaken(&self, epoch: Epoch) -> Option<ChangeId> {
        let Phase::Spreading { entry, .. } = &self.phase else { return None };
        (epoch > self.epoch()).then_some(entry.change)
    }

    /// Whether something is decided and not yet everywhere it has to be.
    pub(super) fn is_spreading(&self) -> bool {
        matches!(self.phase, Phase::Spreading { .. })
    }

    /// Whom to tell what has been decided: the voters before and after that have not said that they have it.
    pub(super) fn to_tell(&self) -> Vec<NodeId> {
        let Phase::Spreading { after, persisted_by, .. } = &self.phase else { return Vec::new() };
        let all: BTreeSet<NodeId> =
            self.base.voters.iter().chain(&after.voters).map(|voter| voter.node).collect();
        all.difference(persisted_by).copied().collect()
    }

    /// Takes a refusal in favour of a higher ballot; says whether the attempt is over by it.
    pub(super) fn outbid(&mut self, epoch: Epoch, ballot: Ballot, promised: Ballot) -> bool {
        let asks = matches!(self.phase, Phase::Promising(_) | Phase::Accepting { .. });
        let over = asks && epoch == self.epoch() && ballot == self.ballot && promised > ballot;
        if over {
            self.phase = Phase::Outbid;
        }
        over
    }

    fn concerns(&self, from: NodeId, epoch: Epoch, ballot: Ballot) -> bool {
        let votes = self.base.voters.iter().any(|voter| voter.node == from);
        votes && epoch == self.epoch() && ballot == self.ballot
    }
}
