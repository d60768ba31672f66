//! What a node has learnt: the last state, and the entries that led there.
//!
//! The invariant: the chain only grows, each entry follows from the root before it, and a state of the same lineage
//! that does not contain ours is reported as a fork, never taken. The last entries are kept in memory for those
//! that lag a little; whoever lags more gets the whole state.

use super::{
    entry::{Entry, Refusal},
    state::{Root, State},
};
use rondel_proto::{id::Epoch, wire};
use std::{collections::VecDeque, sync::Arc};

/// So many last entries are kept to bring others up.
pub const CATCHUP_ENTRIES_MAX: usize = 256;

/// What brings a node up to what has been decided.
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub enum Catchup {
    /// The entries that it lacks, in order.
    Entries(Vec<Entry>),
    /// Everything.
    Snapshot {
        /// The state.
        state: Box<State>,
        /// Its root where it was taken.
        root: Root,
    },
}

/// Why nothing was learnt. The state is what it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LearnError {
    /// It is of another sequence.
    #[error("it belongs to another lineage")]
    WrongLineage,
    /// Entries before it are missing.
    #[error("entries are missing after {have}")]
    Behind {
        /// The last one that is there.
        have: Epoch,
    },
    /// Two histories of one lineage: one of them is not true. The node must stop.
    #[error(
        "the decided sequence has forked at epoch {epoch}: stop this node and find out which history is true"
    )]
    Fork {
        /// Where they differ, or a little later.
        epoch: Epoch,
    },
    /// This release cannot follow it.
    #[error("this release cannot follow the sequence: {0}")]
    Refused(Refusal),
}

/// The end of the sequence, as far as it is known here.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    state: Arc<State>,
    root: Root,
    /// Oldest first; the last one led to `state`.
    entries: VecDeque<Entry>,
}

impl Chain {
    pub(super) fn new(state: State) -> Self {
        Self { root: state.root(), state: Arc::new(state), entries: VecDeque::new() }
    }

    pub(super) fn state(&self) -> &Arc<State> {
        &self.state
    }

    pub(super) fn root(&self) -> Root {
        self.root
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.state.epoch
    }

    /// What someone lacks who has everything up to `have`.
    pub(super) fn since(&self, have: Epoch) -> Catchup {
        let lacks = usize::try_from(self.epoch().0.saturating_sub(have.0)).unwrap_or(usize::MAX);
        match self.entries.len().checked_sub(lacks) {
            Some(skipped) => Catchup::Entries(self.entries.iter().skip(skipped).cloned().collect()),
            None => Catchup::Snapshot { state: Box::new(State::clone(&self.state)), root: self.root },
        }
    }

    /// Takes what has been decided; says whether anything of it was new.
    pub(super) fn learn(&mut self, catchup: Catchup) -> Result<bool, LearnError> {
        match catchup {
            Catchup::Entries(entries) => {
                let mut after = self.clone();
                for entry in entries {
                    after.follow(entry)?;
                }
                let grown = after.epoch() > self.epoch();
                *self = after;
                Ok(grown)
            }
            Catchup::Snapshot { state, root } => self.replace(*state, root),
        }
    }

    fn follow(&mut self, entry: Entry) -> Result<(), LearnError> {
        if entry.lineage != self.state.lineage {
            return Err(LearnError::WrongLineage);
        }
        if entry.epoch <= self.epoch() {
            return self.compare(&entry);
        }
        let state = self.state.apply(&entry).map_err(|refusal| match refusal {
            Refusal::NotNext { have, .. } => LearnError::Behind { have },
            Refusal::OtherParent { epoch } | Refusal::OtherRoot { epoch } => LearnError::Fork { epoch },
            other => LearnError::Refused(other),
        })?;
        self.advance(entry, Arc::new(state));
        Ok(())
    }

    /// An entry that we have: it had better be the same.
    fn compare(&self, entry: &Entry) -> Result<(), LearnError> {
        let known = self.entries.iter().find(|known| known.epoch == entry.epoch);
        let same_root = known.is_none_or(|known| known.root == entry.root);
        let same_change = self.state.change_at(entry.epoch).is_none_or(|change| change == entry.change);
        match same_root && same_change {
            true => Ok(()),
            false => Err(LearnError::Fork { epoch: entry.epoch }),
        }
    }

    /// One entry on, to a state that follows from it.
    pub(super) fn advance(&mut self, entry: Entry, state: Arc<State>) {
        self.root = entry.root;
        self.state = state;
        self.entries.push_back(entry);
        if self.entries.len() > CATCHUP_ENTRIES_MAX {
            self.entries.pop_front();
        }
    }

    /// A whole state. Its remembered changes have to contain ours: there is one per epoch.
    fn replace(&mut self, state: State, root: Root) -> Result<bool, LearnError> {
        if state.lineage != self.state.lineage {
            return Err(LearnError::WrongLineage);
        }
        if state.root() != root {
            return Err(LearnError::Refused(Refusal::OtherRoot { epoch: state.epoch }));
        }
        if let Some(placement) = &state.topology.placement {
            placement.check().map_err(|error| LearnError::Refused(error.into()))?;
        }
        let (older, newer) =
            if state.epoch < self.epoch() { (&state, &*self.state) } else { (&*self.state, &state) };
        let contains = newer.change_at(older.epoch).is_none_or(|change| change == older.change);
        let same = state.epoch != self.epoch() || root == self.root;
        let follows = state.epoch.0 != self.epoch().0 + 1 || state.parent == self.root;
        if !(contains && same && follows) {
            return Err(LearnError::Fork { epoch: older.epoch });
        }
        let grown = state.epoch > self.epoch();
        if grown {
            *self = Self { root, state: Arc::new(state), entries: VecDeque::new() };
        }
        Ok(grown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequence::{ChangeId, Delta, state::tests::genesis};

    fn grown(mut chain: Chain, entries: u64, salt: u128) -> Chain {
        for _ in 0..entries {
            let change = ChangeId(u128::from(chain.epoch().0) + salt);
            let (entry, state) = chain.state.next(change, &[Delta::SetJoinSecret(None)]).unwrap();
            chain.advance(entry, Arc::new(state));
        }
        chain
    }

    fn start() -> Chain {
        Chain::new(genesis(1))
    }

    #[test]
    fn who_lags_a_little_gets_entries_and_who_lags_much_the_state() {
        let ahead = grown(start(), 300, 10);
        for (have, whole) in [(1, true), (44, true), (45, false), (300, false), (301, false), (400, false)] {
            let catchup = ahead.since(Epoch(have));
            assert_eq!(matches!(catchup, Catchup::Snapshot { .. }), whole, "{have}");
            let mut behind = grown(start(), have.min(301) - 1, 10);
            assert_eq!(behind.learn(catchup), Ok(have < 301));
            assert_eq!((behind.epoch(), behind.root()), (ahead.epoch(), ahead.root()));
        }
    }

    #[test]
    fn a_gap_is_not_jumped() {
        let ahead = grown(start(), 5, 10);
        assert_eq!(start().learn(ahead.since(Epoch(3))), Err(LearnError::Behind { have: Epoch(1) }));
    }

    #[test]
    fn another_history_of_the_lineage_is_a_fork_in_every_form() {
        let ours = grown(start(), 4, 10);
        let theirs = grown(start(), 3, 5000);
        let longer = grown(theirs.clone(), 3, 5000);
        let snapshot =
            |chain: &Chain| Catchup::Snapshot { state: Box::new((*chain.state).clone()), root: chain.root };
        let all = [theirs.since(Epoch(1)), longer.since(Epoch(5)), snapshot(&theirs), snapshot(&longer)];
        for (case, catchup) in all.into_iter().enumerate() {
            let mut chain = ours.clone();
            assert!(matches!(chain.learn(catchup), Err(LearnError::Fork { .. })), "case {case}");
            assert_eq!(chain.root(), ours.root());
        }
    }

    #[test]
    fn an_older_state_of_the_same_history_changes_nothing() {
        let ours = grown(start(), 4, 10);
        let mut chain = ours.clone();
        assert_eq!(
            chain.learn(Catchup::Snapshot { state: Box::new(genesis(1)), root: genesis(1).root() }),
            Ok(false)
        );
        assert_eq!(chain.root(), ours.root());
    }

    #[test]
    fn another_lineage_is_never_taken_however_long_it_is() {
        let mut other = genesis(1);
        other.lineage.0 += 1;
        let other = grown(Chain::new(other), 9, 10);
        for catchup in [other.since(Epoch(1)), other.since(Epoch(0))] {
            assert_eq!(start().learn(catchup), Err(LearnError::WrongLineage));
        }
    }

    #[test]
    fn a_state_that_hashes_to_something_else_here_is_refused() {
        let ahead = grown(start(), 2, 10);
        let catchup = Catchup::Snapshot { state: Box::new((*ahead.state).clone()), root: Root([1; 32]) };
        assert!(matches!(start().learn(catchup), Err(LearnError::Refused(_))));
    }
}
