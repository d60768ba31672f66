//! Coordinating a write: one vnode runs the message, its item goes to every other replica in parallel with the
//! coordinator's own commit, and the acknowledgements are counted: durable ones, or what the replicas have in memory as
//! well where the request asks for fewer durable ones. A replica is then heard twice.
//!
//! A slot whose owner is down, refuses, disconnects or is slow gets a stand-in that keeps a hint (PROTOCOLS §2), also
//! after the client has its answer: what was acknowledged is on its way to every slot's place. There it has arrived
//! when it is durable, whatever the client waited for.

use super::options::RequestError;
use crate::{
    handoff::HintLedger,
    mutant::Mutant,
    node::{Admitted, Outgoing, Outlook, Shared},
    quorum::{Achieved, Ask, AskId, AskState, Quorum, Tally, Unmet, Verdict},
    reply::{Accepted, Failure, Outcome, ReplyTo},
    ring::{ActiveList, Use},
    store::RowKey,
    topology::Topology,
    vnode::{
        host::{absorb_body, core_message},
        job::{Executed, Job, Op},
    },
};
use bytes::Bytes;
use rondel_proto::{
    frame::{Head, flags},
    id::{Actor, NodeId, RequestId},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};

/// A replica that has not answered for this long is stood in for, whatever the budget for hedges says: a node that
/// hangs must not leave a write with one copy less than it will report.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a slot may take, at least, to get what was acknowledged, or a hint for it: longer than a replica's
/// patience, however short the client's was.
const REST_MIN: Duration = Duration::from_secs(5);

/// How long a client's write waits while the store's backlog is near its bound.
const SLOW_DOWN: Duration = Duration::from_millis(5);

/// A write, before anybody has seen it.
#[derive(Clone)]
pub(crate) struct WriteSpec {
    pub(crate) service: usize,
    pub(crate) at: RowKey,
    pub(crate) quorum: Quorum,
    pub(crate) deadline: Instant,
    pub(crate) request_id: RequestId,
    /// The coordinator may have run it before, and says what came of that instead of running it.
    pub(crate) retry: bool,
}

/// What a coordinated message came to.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    /// The archive of the message's reply; empty if the request had run before and its reply is forgotten.
    pub(crate) reply: Bytes,
    /// What it got.
    pub(crate) achieved: Achieved,
    /// How many copies of that are durable.
    pub(crate) durable: u8,
}

/// Runs a message on this node's vnode and replicates what it made of the item.
pub(crate) async fn coordinate(
    shared: &Arc<Shared>,
    topology: &Arc<Topology>,
    spec: WriteSpec,
    message: u16,
    body: Bytes,
) -> Result<Written, RequestError> {
    match shared.admits_writes(spec.service) {
        Ok(Admitted::Now) => {}
        Ok(Admitted::Later) => shared.env.sleep(SLOW_DOWN).await,
        Err(code) => return Err(RequestError::of(Failure::new(code))),
    }
    shared.hedges.earn();
    let mut replication = Replication::new(shared, topology, spec)?;
    let (early, executed) = oneshot::channel();
    let (stand_in, reply) = replication.take_own_part();
    let spec = &replication.spec;
    shared.host.submit(Job {
        service: spec.service,
        partition: replication.list.partition(),
        at: spec.at.clone(),
        op: Op::Coordinate {
            message,
            body,
            stand_in,
            retry: spec.retry,
            early: Box::new(move |executed| drop(early.send(executed))),
            lazy: !spec.quorum.waits_for_a_disk(),
        },
        request_id: spec.request_id,
        n: spec.quorum.n,
        deadline: spec.deadline,
        reply,
    });
    let executed = executed.await.map_err(|_| RequestError::NotServing("the lane has stopped".into()))?;
    let Executed { reply, item, again, mine } = executed.map_err(RequestError::of_update)?;
    let Some(item) = item else {
        return Ok(Written { reply, achieved: Achieved::default(), durable: 0 });
    };
    if again && shared.mutants.has(Mutant::AnswerRetryAtOnce) {
        return Ok(Written { reply, achieved: Achieved::default(), durable: 0 });
    }
    replication.send_to_others(&item, mine);
    let met = replication.until_met().await;
    let met = met.map(|achieved| (achieved, replication.durable_copies(achieved)));
    replication.finish_in_background();
    met.map(|(achieved, durable)| Written { reply, achieved, durable })
}

/// One item on its way to every slot of its key.
struct Replication {
    shared: Arc<Shared>,
    topology: Arc<Topology>,
    outlook: Outlook,
    spec: WriteSpec,
    list: ActiveList,
    tally: Tally,
    sent: Vec<Sent>,
    body: Bytes,
    failures: Vec<(NodeId, Failure)>,
    sender: mpsc::UnboundedSender<Answer>,
    answers: mpsc::UnboundedReceiver<Answer>,
}

/// An answered write that has not reached everybody counts among the hints after this long: who looks whether all is at
/// rest must not look between the answer and the hint.
const OWED_AFTER: Duration = Duration::from_millis(50);

/// The same for a write that nobody waits for: its replicas may let it rest in memory for half a second.
const LAZILY_OWED_AFTER: Duration = Duration::from_millis(600);

/// The nodes that a write still owes its item to, as the ledger knows them.
struct Owed {
    ledger: Arc<HintLedger>,
    nodes: Vec<NodeId>,
}

impl Owed {
    fn are(&mut self, nodes: Vec<NodeId>) {
        self.ledger.owe(&nodes);
        self.ledger.settle(&self.nodes);
        self.nodes = nodes;
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.ledger.settle(&self.nodes);
    }
}

/// An ask that is on its way.
#[derive(Debug, Clone, Copy)]
struct Sent {
    ask: AskId,
    at: Instant,
    /// It has answered, well or badly.
    answered: bool,
    /// Its slots have been given to stand-ins as well.
    hedged: bool,
}

/// Which of the sent, and what it answered; nothing yet if the item is only in its memory.
type Answer = (usize, Option<Outcome>);

impl Replication {
    fn new(shared: &Arc<Shared>, topology: &Arc<Topology>, spec: WriteSpec) -> Result<Self, RequestError> {
        let outlook = shared.outlook(shared.host.services[spec.service].code);
        let partition = topology.partition(spec.at.position);
        let preferences = topology.preference_list(partition);
        let n = usize::from(spec.quorum.n);
        let up = |node| outlook.up(node);
        let list = if spec.quorum.strict {
            preferences.strict(n, Use::Write, up)
        } else {
            preferences.active(n, Use::Write, up)
        };
        let tally = Tally::with_mutants(spec.quorum, &list, shared.mutants)
            .map_err(|unmet| RequestError::unmet(unmet, Vec::new()))?;
        let (sender, answers) = mpsc::unbounded_channel();
        Ok(Self {
            shared: shared.clone(),
            topology: topology.clone(),
            outlook,
            spec,
            list,
            tally,
            sent: Vec::new(),
            body: Bytes::new(),
            failures: Vec::new(),
            sender,
            answers,
        })
    }

    /// What this node serves itself: the slots that it stands in for, and where its durable answer goes.
    fn take_own_part(&mut self) -> (u16, ReplyTo) {
        let own = self.tally.unsent().find(|(_, ask)| ask.node == self.shared.me).map(|(id, ask)| (id, *ask));
        match own {
            Some((id, ask)) => (ask.stand_in, self.reply_to(id)),
            // Not in the list: the row is a copy beside the quorum, and nobody counts it.
            None => (0, ReplyTo::new(drop)),
        }
    }

    fn reply_to(&mut self, ask: AskId) -> ReplyTo {
        self.tally.sent(ask);
        let index = self.sent.len();
        self.sent.push(Sent { ask, at: self.shared.env.now(), answered: false, hedged: false });
        let accepted = self.spec.quorum.counts_memory().then(|| {
            let sender = self.sender.clone();
            Box::new(move || drop(sender.send((index, None)))) as Accepted
        });
        let sender = self.sender.clone();
        ReplyTo::new(move |outcome| drop(sender.send((index, Some(outcome))))).or_accepted(accepted)
    }

    fn send_to_others(&mut self, item: &Bytes, mine: Option<Actor>) {
        let mine = mine.filter(|_| self.shared.mutants.has(Mutant::AbsorbMine));
        self.body = absorb_body(self.spec.quorum.n, item, mine);
        let unsent: Vec<AskId> = self.tally.unsent().map(|(id, _)| id).collect();
        for ask in unsent {
            self.send(ask);
        }
    }

    fn send(&mut self, id: AskId) {
        let Ask { node, owned, stand_in, .. } = *self.tally.ask(id);
        let head = Head {
            service: self.shared.host.services[self.spec.service].code,
            message: core_message::ABSORB,
            flags: flags_of(self.spec.quorum),
            slots: owned,
            stand_in,
            ver: self.list.ver(),
            position: self.spec.at.position,
            request_id: self.spec.request_id,
            deadline_us: 0,
        };
        let (key, body) = (self.spec.at.key.clone(), self.body.clone());
        let message = Outgoing { head, key, body, deadline: self.spec.deadline };
        let reply = self.reply_to(id);
        self.shared.send(node, self.spec.service, message, reply);
    }

    /// Takes answers until enough replicas have the item, as durably as was asked for, or can't any more.
    async fn until_met(&mut self) -> Result<Achieved, RequestError> {
        let env = self.shared.env.clone();
        loop {
            match self.tally.verdict() {
                Verdict::Satisfied(achieved) => return Ok(achieved),
                Verdict::Impossible(unmet) => {
                    return Err(RequestError::unmet(unmet, std::mem::take(&mut self.failures)));
                }
                Verdict::Waiting => {}
            }
            let wake = self.next_hedge(true).unwrap_or(self.spec.deadline).min(self.spec.deadline);
            match env.timeout_at(wake, self.answers.recv()).await {
                Ok(Some(answer)) => self.take(answer),
                Ok(None) => unreachable!("this struct keeps a sender"),
                Err(_) if env.now() >= self.spec.deadline => return Err(self.out_of_time()),
                Err(_) => self.hedge_late(true),
            }
        }
    }

    /// How many copies of what was achieved are durable.
    fn durable_copies(&self, achieved: Achieved) -> u8 {
        if self.spec.quorum.counts_memory() { self.tally.durable().copies() } else { achieved.copies() }
    }

    fn out_of_time(&self) -> RequestError {
        let Quorum { need, durable, .. } = self.spec.quorum;
        match self.tally.shortfall() {
            Some(Unmet::Durable { need, have }) => RequestError::Timeout { need, have },
            _ => RequestError::Timeout { need: need.max(durable), have: self.tally.achieved().copies() },
        }
    }

    /// After the client has its answer: sees to it that every slot gets the item or a hint.
    fn finish_in_background(mut self) {
        if self.body.is_empty() || self.sent.iter().all(|sent| sent.answered) {
            return;
        }
        let env = self.shared.env.clone();
        self.shared.env.clone().spawn("write-rest", async move {
            let mut owed = Owed { ledger: self.shared.hints.clone(), nodes: Vec::new() };
            let waited = self.spec.quorum.waits_for_a_disk();
            let owed_from = env.now() + if waited { OWED_AFTER } else { LAZILY_OWED_AFTER };
            self.spec.deadline = self.spec.deadline.max(env.now() + REST_MIN);
            while self.sent.iter().any(|sent| !sent.answered) {
                let late = env.now() >= owed_from;
                if late {
                    owed.are(self.outstanding());
                }
                let look_again = if late { self.spec.deadline } else { owed_from };
                let wake = self.next_hedge(false).unwrap_or(self.spec.deadline).min(look_again);
                match env.timeout_at(wake, self.answers.recv()).await {
                    Ok(Some(answer)) => self.take(answer),
                    Ok(None) => return,
                    // Late, where this node stood still: what is still lacking gets its hint now.
                    Err(_) if env.now() >= self.spec.deadline => {
                        if self.outstanding().is_empty() {
                            return;
                        }
                        self.spec.deadline = env.now() + REST_MIN;
                        self.hedge_late(false);
                    }
                    Err(_) => self.hedge_late(false),
                }
            }
        });
    }

    /// The occupants of the slots for which nobody has answered yet that was not given up for another.
    fn outstanding(&self) -> Vec<NodeId> {
        let waiting = self.sent.iter().filter(|sent| !sent.answered && !sent.hedged);
        let slots = waiting.fold(0, |slots, sent| {
            let ask = self.tally.ask(sent.ask);
            slots | ask.owned | ask.stand_in
        });
        let seats = self.list.seats().iter().filter(|seat| slots >> seat.slot & 1 == 1);
        seats.map(|seat| seat.member.node).collect()
    }

    fn take(&mut self, (index, outcome): Answer) {
        let ask = self.sent[index].ask;
        self.sent[index].answered |= outcome.is_some();
        match outcome {
            None => self.tally.accepted(ask),
            Some(Ok(_)) => self.tally.acked(ask),
            Some(Err(failure)) => {
                self.failures.push((self.tally.ask(ask).node, failure));
                self.tally.failed(ask);
                if !self.sent[index].hedged {
                    self.stand_in_for(index);
                }
            }
        }
    }

    /// When the next unanswered replica has had its time.
    fn next_hedge(&self, needed: bool) -> Option<Instant> {
        if self.spec.quorum.strict {
            return None;
        }
        let waiting = self.sent.iter().filter(|sent| !sent.answered && !sent.hedged);
        waiting.map(|sent| sent.at + self.patience(sent.ask, needed)).min()
    }

    /// How long an ask may stay unanswered before it is hedged: the peer's own measure while the client waits for it and
    /// the budget lasts.
    fn patience(&self, ask: AskId, needed: bool) -> Duration {
        let Ask { node, state, .. } = *self.tally.ask(ask);
        // What it has in memory counts already, where that is what the client waits for.
        let counts = || matches!(self.tally.shortfall(), Some(Unmet::Slots { .. }));
        let needed = needed && !(state == AskState::Accepted && counts());
        if needed && node != self.shared.me && self.shared.hedges.left() {
            self.shared.score(node).hedge_delay()
        } else {
            PATIENCE
        }
    }

    fn hedge_late(&mut self, needed: bool) {
        let now = self.shared.env.now();
        for index in 0..self.sent.len() {
            let Sent { ask, at, answered, hedged } = self.sent[index];
            if !answered && !hedged && at + self.patience(ask, needed) <= now {
                self.shared.hedges.spend();
                self.stand_in_for(index);
            }
        }
    }

    /// Gives the slots of a node that failed or is slow to their next fallbacks.
    fn stand_in_for(&mut self, index: usize) {
        self.sent[index].hedged = true;
        if self.body.is_empty() {
            return;
        }
        let ask = *self.tally.ask(self.sent[index].ask);
        let slots = ask.owned | ask.stand_in;
        for slot in (0..16u8).filter(|slot| slots >> slot & 1 == 1) {
            let asks = self.tally.asks().filter(|(_, ask)| (ask.owned | ask.stand_in) >> slot & 1 == 1);
            let excluding: Vec<NodeId> = asks.map(|(_, ask)| ask.node).collect();
            let preferences = self.topology.preference_list(self.list.partition());
            let next = preferences.next_fallback(&self.list, slot, &excluding, |node| self.outlook.up(node));
            let Some(ask) = next.and_then(|next| self.tally.hedge(slot, next)) else { continue };
            self.shared.metrics.hedged_writes.increment(1);
            self.send(ask);
        }
    }
}

/// What the replicas are told of what is waited for.
fn flags_of(quorum: Quorum) -> u8 {
    let accept = if quorum.counts_memory() { flags::ACCEPT } else { 0 };
    let lazy = if quorum.waits_for_a_disk() { 0 } else { flags::LAZY };
    accept | lazy
}
