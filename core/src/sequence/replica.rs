//! A node's part in the sequence, whole: it votes, learns, and gets entries decided.
//!
//! Requests and replies go in, [`Effect`]s come out, to be carried out in order: a [`Effect::Persist`] is durable
//! before anything after it happens and before the reply leaves. What the node says to itself never leaves this file.
//! Time is the driver's: it calls [`Replica::retry`] a random while after [`Report::Outbid`] and whenever an attempt
//! takes too long; retrying is always safe.

use super::{
    acceptor::{Acceptor, Ballot, Record},
    learner::{Catchup, LearnError},
    message::{
        AcceptReply, Decided, DecidedReply, PrepareReply, Refused, Reply, Request, StatePull, StatePullReply,
    },
    proposer::{Attempt, Goal, Promised, Proposal},
    state::{ChangeId, State},
};
use crate::ring::Occupant;
use rondel_proto::id::{Epoch, NodeId};
use std::{collections::VecDeque, sync::Arc};

/// So many goals wait for their turn; more are refused.
const GOALS_MAX: usize = 64;

/// What the driver has to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make this durable before going on. If that fails the replica must not be used any more.
    Persist(Box<Record>),
    /// Ask another node; its reply comes back through [`Replica::on_reply`], or never.
    Send {
        /// Whom.
        to: NodeId,
        /// What.
        request: Request,
    },
    /// Somebody may want to know.
    Report(Report),
}

/// What has come of things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// There is a new state: [`Replica::state`].
    Learnt(Epoch),
    /// The change has taken place, for good; not later than in this epoch.
    Decided {
        /// Which.
        change: ChangeId,
        /// The epoch.
        epoch: Epoch,
    },
    /// The change can't take place in the state as it is. Nothing was changed.
    Refused {
        /// Which.
        change: ChangeId,
        /// Why.
        why: super::Refusal,
    },
    /// The state holds all that had been decided when the read began.
    Read {
        /// Which read.
        id: ChangeId,
        /// The epoch.
        epoch: Epoch,
    },
    /// Another proposer is at it: retry after a random while.
    Outbid,
    /// The node must not take part any more. An alarm.
    Stopped(LearnError),
}

/// Too many changes wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{GOALS_MAX} changes of the cluster wait already: try again later")]
pub struct Busy;

/// A node's part in the sequence.
#[derive(Debug)]
pub struct Replica {
    acceptor: Acceptor,
    start_nonce: u64,
    round: u64,
    /// The first one is being worked at.
    goals: VecDeque<Goal>,
    attempt: Option<Attempt>,
    stopped: Option<LearnError>,
    /// What the node asks of itself.
    loopback: VecDeque<Request>,
}

impl Replica {
    /// The part of a node that holds this record, which is durable. The nonce is drawn anew at every start.
    #[must_use]
    pub fn new(record: Record, start_nonce: u64) -> Self {
        Self {
            acceptor: Acceptor::new(record),
            start_nonce,
            round: 0,
            goals: VecDeque::new(),
            attempt: None,
            stopped: None,
            loopback: VecDeque::new(),
        }
    }

    /// The last state that the node has learnt.
    #[must_use]
    pub fn state(&self) -> &Arc<State> {
        self.acceptor.chain().state()
    }

    /// The root of that state.
    #[must_use]
    pub fn root(&self) -> super::Root {
        self.acceptor.chain().root()
    }

    /// Who takes part here.
    #[must_use]
    pub fn me(&self) -> Occupant {
        self.acceptor.me()
    }

    /// Begins to get a change decided. [`Report::Decided`] or [`Report::Refused`] ends it; it survives everything but
    /// a restart, after which it may be proposed again, here or elsewhere, under the same id.
    ///
    /// # Errors
    /// `Busy`: too many wait; nothing has begun.
    pub fn propose(&mut self, proposal: Proposal) -> Result<Vec<Effect>, Busy> {
        self.begin(Goal::Write(proposal))
    }

    /// Begins to find out what has been decided by now. [`Report::Read`] ends it.
    ///
    /// # Errors
    /// `Busy`: too many wait; nothing has begun.
    pub fn read(&mut self, id: ChangeId) -> Result<Vec<Effect>, Busy> {
        self.begin(Goal::Read(id))
    }

    /// Tries again: with a higher ballot, or by telling those who have not said that they know.
    pub fn retry(&mut self) -> Vec<Effect> {
        let mut out = Vec::new();
        match &self.attempt {
            Some(attempt) if attempt.is_spreading() => self.tell(&mut out),
            _ => self.start_attempt(&mut out),
        }
        self.settle(&mut out);
        out
    }

    /// Takes a request of another node. The reply may leave when the effects have been carried out.
    pub fn on_request(&mut self, request: Request) -> (Vec<Effect>, Reply) {
        let mut out = Vec::new();
        let reply = self.serve(request, &mut out);
        self.settle(&mut out);
        (out, reply)
    }

    /// Takes the reply of another node to what was sent.
    pub fn on_reply(&mut self, from: NodeId, reply: Reply) -> Vec<Effect> {
        let mut out = Vec::new();
        self.take_reply(from, reply, &mut out);
        self.settle(&mut out);
        out
    }

    /// What to ask a node that has heard of more.
    #[must_use]
    pub fn pull(&self) -> StatePull {
        let state = self.state();
        StatePull { lineage: state.lineage, epoch: state.epoch }
    }

    /// Answers a pull.
    #[must_use]
    pub fn on_pull(&self, pull: &StatePull) -> StatePullReply {
        let lineage = self.state().lineage;
        match pull.lineage == lineage {
            true => StatePullReply::Catchup(self.acceptor.chain().since(pull.epoch)),
            false => StatePullReply::WrongLineage { lineage },
        }
    }

    /// Takes what a pull has brought.
    pub fn learn(&mut self, catchup: Catchup) -> Vec<Effect> {
        let mut out = Vec::new();
        if self.stopped.is_none() {
            let learnt = self.acceptor.learn(catchup);
            self.after_learning(learnt, &mut out);
        }
        self.settle(&mut out);
        out
    }

    fn begin(&mut self, goal: Goal) -> Result<Vec<Effect>, Busy> {
        if self.goals.len() >= GOALS_MAX {
            return Err(Busy);
        }
        self.goals.push_back(goal);
        let mut out = Vec::new();
        if self.attempt.is_none() {
            self.start_attempt(&mut out);
        }
        self.settle(&mut out);
        Ok(out)
    }

    /// A new attempt at the first goal, on the state as it is, with a ballot above all that are known.
    fn start_attempt(&mut self, out: &mut Vec<Effect>) {
        self.attempt = None;
        if self.goals.is_empty() || self.stopped.is_some() {
            return;
        }
        let heard = self.acceptor.promised().map_or(0, |ballot| ballot.round);
        self.round = self.round.max(heard) + 1;
        let ballot = Ballot { round: self.round, node: self.me().node, nonce: self.start_nonce };
        let attempt = Attempt::new(Arc::clone(self.state()), self.root(), ballot);
        let prepare = Request::Prepare(attempt.prepare());
        for voter in attempt.voters() {
            self.send(voter, prepare.clone(), out);
        }
        self.attempt = Some(attempt);
    }

    fn finish(&mut self, report: Report, out: &mut Vec<Effect>) {
        self.goals.pop_front();
        out.push(Effect::Report(report));
        self.start_attempt(out);
    }

    fn send(&mut self, to: NodeId, request: Request, out: &mut Vec<Effect>) {
        match to == self.me().node {
            true => self.loopback.push_back(request),
            false => out.push(Effect::Send { to, request }),
        }
    }

    /// Answers what the node has asked of itself, until it asks no more.
    fn settle(&mut self, out: &mut Vec<Effect>) {
        while let Some(request) = self.loopback.pop_front() {
            let reply = self.serve(request, out);
            self.take_reply(self.me().node, reply, out);
        }
    }

    fn serve(&mut self, request: Request, out: &mut Vec<Effect>) -> Reply {
        if self.stopped.is_some() {
            return self.refuse_for_good(&request);
        }
        let reply = match request {
            Request::Prepare(prepare) => Reply::Prepare(self.acceptor.prepare(&prepare)),
            Request::Accept(accept) => Reply::Accept(self.acceptor.accept(accept)),
            Request::Decided(decided) => {
                let (reply, learnt) = self.acceptor.decided(decided);
                self.after_learning(learnt, out);
                Reply::Decided(reply)
            }
        };
        self.persist(out);
        reply
    }

    fn refuse_for_good(&self, request: &Request) -> Reply {
        let refused = self.acceptor.fork();
        match request {
            Request::Prepare(_) => Reply::Prepare(PrepareReply::Refused(refused)),
            Request::Accept(_) => Reply::Accept(AcceptReply::Refused(refused)),
            Request::Decided(_) => Reply::Decided(DecidedReply::Refused(refused)),
        }
    }

    fn persist(&mut self, out: &mut Vec<Effect>) {
        if let Some(record) = self.acceptor.take_changed() {
            out.push(Effect::Persist(Box::new(record)));
        }
    }

    fn take_reply(&mut self, from: NodeId, reply: Reply, out: &mut Vec<Effect>) {
        match reply {
            Reply::Prepare(PrepareReply::Promise { epoch, ballot, accepted }) => {
                let promised = self.attempt.as_mut().and_then(|it| it.promise(from, epoch, ballot, accepted));
                if let Some(promised) = promised {
                    self.choose(promised, out);
                }
            }
            Reply::Accept(AcceptReply::Accepted { epoch, ballot }) => {
                let decided = self.attempt.as_mut().and_then(|it| it.accepted(from, epoch, ballot));
                if let Some((entry, after)) = decided {
                    self.acceptor.advance(entry, after);
                    self.persist(out);
                    out.push(Effect::Report(Report::Learnt(self.state().epoch)));
                    self.tell(out);
                    self.count_persisted(self.me(), self.state().epoch, out);
                }
            }
            Reply::Decided(DecidedReply::Persisted { store, epoch }) => {
                self.count_persisted(Occupant { node: from, store }, epoch, out);
                self.ask_again(from, epoch, out);
            }
            Reply::Prepare(PrepareReply::Refused(refused))
            | Reply::Accept(AcceptReply::Refused(refused))
            | Reply::Decided(DecidedReply::Refused(refused)) => self.refused(from, refused, out),
        }
    }

    /// A majority has promised: finish what one of them has accepted, or else propose.
    fn choose(&mut self, promised: Promised, out: &mut Vec<Effect>) {
        let (Some(goal), Some(attempt)) = (self.goals.front(), &self.attempt) else { return };
        let base = Arc::clone(attempt.base());
        let next = match (promised, goal) {
            (Promised::Finish(accepted), _) => match base.apply(&accepted.entry) {
                Ok(after) => (accepted.entry, after),
                Err(refusal) => return self.stop(LearnError::Refused(refusal), out),
            },
            (Promised::Free, Goal::Read(id)) => {
                return self.finish(Report::Read { id: *id, epoch: base.epoch }, out);
            }
            (Promised::Free, Goal::Write(Proposal { change, .. })) if base.has_change(*change) => {
                // Each promise says that its voter has persisted the base, and so this change.
                return self.finish(Report::Decided { change: *change, epoch: base.epoch }, out);
            }
            (Promised::Free, Goal::Write(Proposal { change, deltas })) => match base.next(*change, deltas) {
                Ok(next) => next,
                Err(why) => return self.finish(Report::Refused { change: *change, why }, out),
            },
        };
        self.ask_for(next, out);
    }

    fn ask_for(&mut self, (entry, after): (super::Entry, State), out: &mut Vec<Effect>) {
        let Some(attempt) = &mut self.attempt else { return };
        attempt.ask_for(entry, after);
        let (voters, accept) = (attempt.voters(), attempt.accept());
        for voter in voters {
            let Some(accept) = accept.clone() else { continue };
            self.send(voter, Request::Accept(accept), out);
        }
    }

    /// Tells the voters before and after what has been decided.
    fn tell(&mut self, out: &mut Vec<Effect>) {
        let Some(attempt) = &self.attempt else { return };
        let me = self.me().node;
        let before = attempt.base().epoch;
        for node in attempt.to_tell().into_iter().filter(|node| *node != me) {
            self.catch_up(node, before, out);
        }
    }

    fn catch_up(&mut self, node: NodeId, have: Epoch, out: &mut Vec<Effect>) {
        let decided = Decided { lineage: self.state().lineage, catchup: self.acceptor.chain().since(have) };
        self.send(node, Request::Decided(decided), out);
    }

    fn count_persisted(&mut self, by: Occupant, epoch: Epoch, out: &mut Vec<Effect>) {
        let change = self.attempt.as_mut().and_then(|attempt| attempt.persisted(by.node, by.store, epoch));
        if let Some(change) = change {
            self.after_spreading(change, out);
        }
    }

    fn after_spreading(&mut self, change: ChangeId, out: &mut Vec<Effect>) {
        let Some(epoch) = self.attempt.as_ref().map(Attempt::epoch) else { return };
        match self.goals.front() {
            Some(Goal::Write(proposal)) if proposal.change == change => {
                self.finish(Report::Decided { change, epoch }, out);
            }
            _ => self.start_attempt(out),
        }
    }

    /// A voter that lagged has caught up: it gets the request that it could not answer once more.
    fn ask_again(&mut self, voter: NodeId, epoch: Epoch, out: &mut Vec<Effect>) {
        let Some(attempt) = &self.attempt else { return };
        if epoch != attempt.base().epoch || !attempt.waits_for(voter) {
            return;
        }
        let request = match attempt.accept() {
            Some(accept) => Request::Accept(accept),
            None if attempt.is_promising() => Request::Prepare(attempt.prepare()),
            None => return,
        };
        self.send(voter, request, out);
    }

    fn refused(&mut self, from: NodeId, refused: Refused, out: &mut Vec<Effect>) {
        match refused {
            Refused::Nack { epoch, ballot, promised } => {
                self.round = self.round.max(promised.round);
                if self.attempt.as_mut().is_some_and(|attempt| attempt.outbid(epoch, ballot, promised)) {
                    out.push(Effect::Report(Report::Outbid));
                }
            }
            Refused::Decided(catchup) if self.stopped.is_none() => {
                let learnt = self.acceptor.learn(catchup);
                self.after_learning(learnt, out);
            }
            Refused::Behind { have } if have < self.state().epoch => self.catch_up(from, have, out),
            Refused::Fork { epoch, root } if epoch == self.state().epoch && root != self.root() => {
                self.stop(LearnError::Fork { epoch }, out);
            }
            // It answers nothing that could count. The others decide, or the attempt is retried.
            Refused::Decided(_)
            | Refused::Behind { .. }
            | Refused::Fork { .. }
            | Refused::WrongLineage { .. }
            | Refused::NotVoter
            | Refused::CannotFollow { .. } => {}
        }
    }

    /// The state may have grown: then the attempt stands on an old one, or has been overtaken by success.
    fn after_learning(&mut self, learnt: Result<bool, LearnError>, out: &mut Vec<Effect>) {
        match learnt {
            Ok(true) => {
                self.persist(out);
                let epoch = self.state().epoch;
                out.push(Effect::Report(Report::Learnt(epoch)));
                let Some(attempt) = &self.attempt else { return };
                match attempt.overtaken(epoch) {
                    Some(change) => self.after_spreading(change, out),
                    None => self.start_attempt(out),
                }
            }
            Ok(false) | Err(LearnError::WrongLineage | LearnError::Behind { .. }) => {}
            Err(error @ (LearnError::Fork { .. } | LearnError::Refused(_))) => self.stop(error, out),
        }
    }

    fn stop(&mut self, error: LearnError, out: &mut Vec<Effect>) {
        self.attempt = None;
        self.goals.clear();
        self.stopped = Some(error.clone());
        out.push(Effect::Report(Report::Stopped(error)));
    }

    /// The goal that is being worked at.
    #[must_use]
    pub fn working_at(&self) -> Option<ChangeId> {
        self.goals.front().map(Goal::id)
    }
}
