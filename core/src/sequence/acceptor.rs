//! The voter's side of one instance: what it has promised and accepted for the entry after its last.
//!
//! The invariant is Paxos's: after a promise nothing of a lower ballot is accepted, and both survive a crash,
//! because the [`Record`] is durable before the reply leaves. What was promised and accepted concerns the next entry
//! only; learning that entry clears it.

use super::{
    entry::Entry,
    learner::{Catchup, Chain, LearnError},
    message::{Accept, AcceptReply, Decided, DecidedReply, Prepare, PrepareReply, Refused},
    state::{Root, State},
};
use crate::ring::Occupant;
use rondel_proto::{
    id::{Epoch, Lineage, NodeId},
    wire,
};
use std::sync::Arc;

/// In whose name an entry is proposed. No two attempts have the same.
#[wire(crate = rondel_proto)]
#[derive(Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    /// Grows with every attempt of a proposer and past every ballot it has heard of.
    pub round: u64,
    /// Whose.
    pub node: NodeId,
    /// Which start of that node: after a restart it may not know its rounds.
    pub nonce: u64,
}

/// An entry that a voter has accepted.
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub struct Accepted {
    /// In whose name.
    pub ballot: Ballot,
    /// The entry.
    pub entry: Entry,
}

/// All that a node keeps of the sequence. It is durable before any reply that rests on it leaves.
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub struct Record {
    /// Whose it is: a node with a store.
    pub owner: Occupant,
    /// The last state learnt.
    pub state: State,
    /// Its root.
    pub root: Root,
    /// For the next entry: nothing below this is accepted.
    pub promised: Option<Ballot>,
    /// For the next entry: what was accepted last.
    pub accepted: Option<Accepted>,
}

impl Record {
    /// The record of a node that has just learnt this state.
    #[must_use]
    pub fn new(owner: Occupant, state: State) -> Self {
        Self { owner, root: state.root(), state, promised: None, accepted: None }
    }
}

/// A node's part in deciding entries. Replies may leave once [`Acceptor::record`] is durable, if it changed.
#[derive(Debug)]
pub(super) struct Acceptor {
    me: Occupant,
    chain: Chain,
    promised: Option<Ballot>,
    accepted: Option<Accepted>,
    changed: bool,
}

impl Acceptor {
    pub(super) fn new(record: Record) -> Self {
        let Record { owner, state, promised, accepted, .. } = record;
        Self { me: owner, chain: Chain::new(state), promised, accepted, changed: false }
    }

    pub(super) fn me(&self) -> Occupant {
        self.me
    }

    pub(super) fn chain(&self) -> &Chain {
        &self.chain
    }

    pub(super) fn promised(&self) -> Option<Ballot> {
        self.promised
    }

    /// The record to make durable before the next reply leaves, if it has changed since it was last taken.
    pub(super) fn take_changed(&mut self) -> Option<Record> {
        std::mem::take(&mut self.changed).then(|| Record {
            owner: self.me,
            state: State::clone(self.chain.state()),
            root: self.chain.root(),
            promised: self.promised,
            accepted: self.accepted.clone(),
        })
    }

    pub(super) fn prepare(&mut self, ask: &Prepare) -> PrepareReply {
        if let Err(refused) = self.may_vote(ask.lineage, ask.epoch, ask.parent) {
            return PrepareReply::Refused(refused);
        }
        if let Some(promised) = self.promised.filter(|promised| *promised >= ask.ballot) {
            return PrepareReply::Refused(Refused::Nack { epoch: ask.epoch, ballot: ask.ballot, promised });
        }
        (self.promised, self.changed) = (Some(ask.ballot), true);
        PrepareReply::Promise { epoch: ask.epoch, ballot: ask.ballot, accepted: self.accepted.clone() }
    }

    pub(super) fn accept(&mut self, ask: Accept) -> AcceptReply {
        let Accept { ballot, entry } = ask;
        let epoch = entry.epoch;
        if let Err(refused) = self.may_vote(entry.lineage, epoch, entry.parent) {
            return AcceptReply::Refused(refused);
        }
        if let Some(promised) = self.promised.filter(|promised| *promised > ballot) {
            return AcceptReply::Refused(Refused::Nack { epoch, ballot, promised });
        }
        self.promised = Some(ballot);
        self.accepted = Some(Accepted { ballot, entry });
        self.changed = true;
        AcceptReply::Accepted { epoch, ballot }
    }

    pub(super) fn decided(&mut self, decided: Decided) -> (DecidedReply, Result<bool, LearnError>) {
        let learnt = match decided.lineage == self.chain.state().lineage {
            true => self.learn(decided.catchup),
            false => Err(LearnError::WrongLineage),
        };
        let reply = match &learnt {
            Ok(_) => DecidedReply::Persisted { store: self.me.store, epoch: self.chain.epoch() },
            Err(LearnError::WrongLineage) => {
                DecidedReply::Refused(Refused::WrongLineage { lineage: self.chain.state().lineage })
            }
            Err(LearnError::Behind { have }) => DecidedReply::Refused(Refused::Behind { have: *have }),
            Err(LearnError::Fork { .. }) => DecidedReply::Refused(self.fork()),
            Err(LearnError::Refused(_)) => {
                DecidedReply::Refused(Refused::CannotFollow { have: self.chain.epoch() })
            }
        };
        (reply, learnt)
    }

    /// Takes what has been decided. What was promised and accepted concerned an entry that is decided now.
    pub(super) fn learn(&mut self, catchup: Catchup) -> Result<bool, LearnError> {
        let grown = self.chain.learn(catchup)?;
        if grown {
            self.forget_instance();
        }
        Ok(grown)
    }

    /// Takes an entry that this node itself saw decided, and the state that it made of ours.
    pub(super) fn advance(&mut self, entry: Entry, state: Arc<State>) {
        self.chain.advance(entry, state);
        self.forget_instance();
    }

    /// Says which state this node has at its last epoch: another one there is a fork.
    pub(super) fn fork(&self) -> Refused {
        Refused::Fork { epoch: self.chain.epoch(), root: self.chain.root() }
    }

    fn forget_instance(&mut self) {
        (self.promised, self.accepted, self.changed) = (None, None, true);
    }

    /// The gates that a prepare and an accept have in common.
    fn may_vote(&self, lineage: Lineage, epoch: Epoch, parent: Root) -> Result<(), Refused> {
        let state = self.chain.state();
        if lineage != state.lineage {
            return Err(Refused::WrongLineage { lineage: state.lineage });
        }
        if epoch <= state.epoch {
            return Err(Refused::Decided(self.chain.since(Epoch(epoch.0.saturating_sub(1)))));
        }
        if epoch.0 > state.epoch.0 + 1 {
            return Err(Refused::Behind { have: state.epoch });
        }
        if parent != self.chain.root() {
            return Err(self.fork());
        }
        match state.is_voter(self.me) {
            true => Ok(()),
            false => Err(Refused::NotVoter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequence::{ChangeId, state::tests::genesis};
    use rondel_proto::id::StoreId;

    fn acceptor() -> Acceptor {
        let state = genesis(1);
        Acceptor::new(Record::new(state.voters[0], state))
    }

    fn ballot(round: u64) -> Ballot {
        Ballot { round, node: NodeId(9), nonce: 1 }
    }

    fn prepare(of: &Acceptor, round: u64) -> Prepare {
        Prepare { lineage: Lineage(7), epoch: Epoch(2), ballot: ballot(round), parent: of.chain.root() }
    }

    fn accept(of: &Acceptor, round: u64) -> Accept {
        let (entry, _) = of.chain.state().next(ChangeId(u128::from(round) + 50), &[]).unwrap();
        Accept { ballot: ballot(round), entry }
    }

    #[test]
    fn a_promise_shuts_out_everything_below_it() {
        let mut voter = acceptor();
        assert!(matches!(voter.prepare(&prepare(&voter, 5)), PrepareReply::Promise { accepted: None, .. }));
        for round in [4, 5] {
            let reply = voter.prepare(&prepare(&voter, round));
            assert!(
                matches!(reply, PrepareReply::Refused(Refused::Nack { promised, .. }) if promised == ballot(5))
            );
        }
        let low = accept(&voter, 4);
        assert!(matches!(voter.accept(low), AcceptReply::Refused(Refused::Nack { .. })));
        let own = accept(&voter, 5);
        assert!(matches!(voter.accept(own), AcceptReply::Accepted { .. }));
    }

    #[test]
    fn a_later_promise_tells_what_was_accepted_even_after_a_restart() {
        let mut voter = acceptor();
        let value = accept(&voter, 3);
        voter.accept(value.clone());
        let mut again = Acceptor::new(voter.take_changed().unwrap());
        let reply = again.prepare(&prepare(&again, 4));
        let PrepareReply::Promise { accepted: Some(accepted), .. } = reply else { panic!("{reply:?}") };
        assert_eq!(accepted, Accepted { ballot: ballot(3), entry: value.entry });
        assert_eq!(again.promised(), Some(ballot(4)));
    }

    #[test]
    fn every_vote_changes_the_record_and_no_refusal_does() {
        let mut voter = acceptor();
        voter.prepare(&prepare(&voter, 5));
        assert!(voter.take_changed().is_some());
        voter.prepare(&prepare(&voter, 4));
        let low = accept(&voter, 4);
        voter.accept(low);
        assert!(voter.take_changed().is_none());
    }

    #[test]
    fn a_voter_with_another_store_does_not_vote() {
        let mut record = Record::new(genesis(1).voters[0], genesis(1));
        record.owner.store = StoreId(4);
        let mut wiped = Acceptor::new(record);
        assert_eq!(wiped.prepare(&prepare(&wiped, 1)), PrepareReply::Refused(Refused::NotVoter));
        let value = accept(&wiped, 1);
        assert_eq!(wiped.accept(value), AcceptReply::Refused(Refused::NotVoter));
        assert!(wiped.take_changed().is_none());
    }

    #[test]
    fn another_lineage_epoch_or_parent_gets_no_vote() {
        let mut voter = acceptor();
        let good = prepare(&voter, 1);
        let refused = |voter: &mut Acceptor, ask: &Prepare| match voter.prepare(ask) {
            PrepareReply::Refused(refused) => refused,
            other => panic!("{other:?}"),
        };
        let ask = Prepare { lineage: Lineage(8), ..good.clone() };
        assert_eq!(refused(&mut voter, &ask), Refused::WrongLineage { lineage: Lineage(7) });
        let ask = Prepare { epoch: Epoch(3), ..good.clone() };
        assert_eq!(refused(&mut voter, &ask), Refused::Behind { have: Epoch(1) });
        let ask = Prepare { parent: Root([3; 32]), ..good.clone() };
        assert!(matches!(refused(&mut voter, &ask), Refused::Fork { epoch: Epoch(1), .. }));
        let ask = Prepare { epoch: Epoch(1), ..good };
        assert!(matches!(refused(&mut voter, &ask), Refused::Decided(_)));
    }

    #[test]
    fn learning_an_entry_ends_its_instance() {
        let mut voter = acceptor();
        let value = accept(&voter, 3);
        voter.accept(value.clone());
        let decided = Decided { lineage: Lineage(7), catchup: Catchup::Entries(vec![value.entry]) };
        let (reply, learnt) = voter.decided(decided);
        assert_eq!(learnt, Ok(true));
        assert!(matches!(reply, DecidedReply::Persisted { epoch: Epoch(2), .. }));
        let record = voter.take_changed().unwrap();
        assert_eq!((record.promised, record.accepted, record.state.epoch), (None, None, Epoch(2)));
    }
}
