//! Reading an item: the full item from the best replica, digests from as many others as must agree; more replicas
//! only when one fails, is slow, or disagrees (PROTOCOLS §2). What disagrees is repaired after the client has its
//! answer.
//!
//! Owners that were away, and that others keep writes for, can't say of a key that it is not there. Those others are asked
//! then, and the owners once more: what was delivered between two answers has left one place and is in the other.

use super::options::RequestError;
use crate::{
    mutant::Mutant,
    node::{Outgoing, Outlook, Shared},
    quorum::{Absence, Achieved, Answer, Ask, AskId, Quorum, ReadRule, ReadTally, ReadVerdict},
    reply::{Failure, Outcome, ReplyTo},
    ring::{ActiveList, Seat, Serving, Use},
    store::RowKey,
    topology::Topology,
    vnode::{
        Digest, fetch,
        host::{absorb_body, core_message},
    },
};
use bytes::{Buf, Bytes};
use rondel_proto::{
    frame::{Head, flags},
    id::{NodeId, RequestId},
};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// One read in so many completes the picture with digests of the owners that it did not need.
const COMPLETE_ONE_IN: u64 = 32;
/// How long the rest of a read may take after the client has its answer.
const REPAIR_WAIT: Duration = Duration::from_secs(5);

/// A read, before anybody has been asked.
#[derive(Clone)]
pub(crate) struct ReadSpec {
    pub(crate) service: usize,
    pub(crate) at: RowKey,
    pub(crate) quorum: Quorum,
    pub(crate) rule: ReadRule,
    pub(crate) deadline: Instant,
}

/// What a read found.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// The archive of the merged item; none if no replica that counts has one.
    pub(crate) item: Option<Bytes>,
    /// Who answered.
    pub(crate) achieved: Achieved,
}

pub(crate) async fn read(
    shared: &Arc<Shared>,
    topology: &Arc<Topology>,
    spec: ReadSpec,
) -> Result<Found, RequestError> {
    let mut reading = Reading::new(shared, topology, spec)?;
    let mut found = reading.run().await;
    if let Err(RequestError::Unmet { .. }) = found {
        let keepers = reading.keepers();
        if !keepers.is_empty() && reading.ask_keepers(&keepers).await {
            let again = Reading::new(shared, topology, reading.spec.clone())?;
            reading = Reading { merged: reading.merged, known: reading.known, consulted: keepers, ..again };
            found = reading.run().await;
        }
    }
    reading.repair_in_background();
    found
}

struct Reading {
    shared: Arc<Shared>,
    outlook: Outlook,
    spec: ReadSpec,
    list: ActiveList,
    tally: ReadTally,
    asked: Vec<Asked>,
    merged: Option<(Bytes, Digest)>,
    /// The digests of the items that have gone into `merged`.
    known: Vec<Digest>,
    failures: Vec<(NodeId, Failure)>,
    /// Those that kept hints for owners and have said what they hold of the key, which is in `merged`.
    consulted: BTreeSet<NodeId>,
    sender: mpsc::UnboundedSender<Incoming>,
    answers: mpsc::UnboundedReceiver<Incoming>,
}

struct Asked {
    /// Its number in the tally; none if it was asked only to complete the picture.
    ask: Option<AskId>,
    node: NodeId,
    owned: u16,
    at: Instant,
    /// An answer with the item is on its way.
    item_due: bool,
    state: State,
    /// It has had its time, and another was asked as well.
    hedged: bool,
    /// The tally knows what it holds: that has gone into the answer.
    counted: bool,
    /// Its store has lost rows there that have not all come back.
    in_gap: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Absent,
    Holds(Digest),
    Failed,
}

type Incoming = (usize, Outcome);

impl Reading {
    fn new(shared: &Arc<Shared>, topology: &Arc<Topology>, spec: ReadSpec) -> Result<Self, RequestError> {
        let outlook = shared.outlook(shared.host.services[spec.service].code);
        let partition = topology.partition(spec.at.position);
        let preferences = topology.preference_list(partition);
        let n = usize::from(spec.quorum.n);
        let up = |node| outlook.up(node);
        let list = if spec.quorum.strict {
            preferences.strict(n, Use::Read, up)
        } else {
            preferences.active(n, Use::Read, up)
        };
        let tally = ReadTally::new(spec.quorum, spec.rule, &list)
            .map_err(|unmet| RequestError::unmet(unmet, Vec::new()))?;
        let (sender, answers) = mpsc::unbounded_channel();
        Ok(Self {
            shared: shared.clone(),
            outlook,
            spec,
            list,
            tally,
            asked: Vec::new(),
            merged: None,
            known: Vec::new(),
            failures: Vec::new(),
            consulted: BTreeSet::new(),
            sender,
            answers,
        })
    }

    async fn run(&mut self) -> Result<Found, RequestError> {
        let env = self.shared.env.clone();
        self.ask_enough();
        loop {
            self.ask_disagreeing_holders();
            match self.tally.verdict() {
                ReadVerdict::Found(achieved) if !self.awaits_item() => {
                    return Ok(Found { item: self.item(), achieved });
                }
                // Somebody holds something: "nothing" would be a lie as long as it may still come.
                ReadVerdict::NotFound if self.uncounted().next().is_none() => {
                    return Ok(Found { item: self.item(), achieved: self.tally.tally().achieved() });
                }
                ReadVerdict::Unmet(unmet) => {
                    return Err(RequestError::unmet(unmet, std::mem::take(&mut self.failures)));
                }
                ReadVerdict::Found(_) | ReadVerdict::NotFound | ReadVerdict::Waiting => {}
            }
            let wake = self.next_hedge().unwrap_or(self.spec.deadline).min(self.spec.deadline);
            match env.timeout_at(wake, self.answers.recv()).await {
                Ok(Some(answer)) => self.take(answer),
                Ok(None) => unreachable!("this struct keeps a sender"),
                Err(_) if env.now() >= self.spec.deadline => {
                    let (need, have) = (self.spec.quorum.need, self.tally.tally().achieved().copies());
                    return Err(RequestError::Timeout { need, have });
                }
                Err(_) => self.hedge_late(),
            }
        }
    }

    fn item(&self) -> Option<Bytes> {
        self.merged.as_ref().map(|(item, _)| item.clone())
    }

    /// Asks the smallest number of replicas that can meet the quorum: owners first, none of them behind, by score.
    fn ask_enough(&mut self) {
        let rank = Self::rank(&self.shared, &self.outlook);
        let chosen = self.tally.choose(rank);
        for ask in chosen {
            self.ask(ask);
        }
    }

    fn rank<'a>(shared: &'a Shared, outlook: &'a Outlook) -> impl Fn(&Ask) -> (bool, bool, bool, u64) + 'a {
        move |ask| {
            let node = ask.node;
            let cost = if node == shared.me { 0 } else { shared.score(node).cost() + 1 };
            (ask.owned == 0, outlook.behind(node) || outlook.lacking(node), outlook.demoted(node), cost)
        }
    }

    fn ask(&mut self, ask: AskId) {
        let Ask { node, owned, .. } = *self.tally.tally().ask(ask);
        let item_due =
            self.merged.is_none() && !self.asked.iter().any(|asked| asked.item_due && !asked.hedged);
        let at = self.shared.env.now();
        let asked = Asked {
            ask: Some(ask),
            node,
            owned,
            at,
            item_due,
            state: State::Waiting,
            hedged: false,
            counted: false,
            in_gap: false,
        };
        self.asked.push(asked);
        self.fetch(self.asked.len() - 1, item_due);
    }

    fn fetch(&self, index: usize, item: bool) {
        let Asked { node, owned, .. } = self.asked[index];
        let sender = self.sender.clone();
        let reply = ReplyTo::new(move |outcome| drop(sender.send((index, outcome))));
        self.send_fetch(node, owned, if item { 0 } else { flags::DIGEST }, reply);
    }

    /// `slots` are those that the node is asked as the owner of; with none, it is asked for whatever it holds.
    fn send_fetch(&self, node: NodeId, slots: u16, flags: u8, reply: ReplyTo) {
        let head = Head {
            service: self.shared.host.services[self.spec.service].code,
            message: core_message::FETCH,
            flags,
            slots,
            stand_in: 0,
            ver: self.list.ver(),
            position: self.spec.at.position,
            request_id: RequestId::default(),
            deadline_us: 0,
        };
        let key = self.spec.at.key.clone();
        let message = Outgoing { head, key, body: Bytes::new(), deadline: self.spec.deadline };
        self.shared.send(node, self.spec.service, message, reply);
    }

    /// Fetches what replicas hold that has not gone into the answer and is not on its way.
    fn ask_disagreeing_holders(&mut self) {
        while let Some(wanted) = self.disagreeing_holder() {
            self.ask_item(wanted);
        }
    }

    fn disagreeing_holder(&self) -> Option<usize> {
        let on_its_way = |digest| {
            let due = |other: &Asked| other.item_due && !other.hedged && other.state == State::Holds(digest);
            self.asked.iter().any(due)
        };
        if self.first_item_due() {
            return None;
        }
        let mut uncounted = self.uncounted().filter(|(index, _)| !self.asked[*index].item_due);
        uncounted.find(|(_, digest)| !on_its_way(*digest)).map(|(index, _)| index)
    }

    /// The replicas that hold something which has not gone into the answer.
    fn uncounted(&self) -> impl Iterator<Item = (usize, Digest)> {
        self.asked.iter().enumerate().filter_map(|(index, asked)| match asked.state {
            State::Holds(digest) if !asked.counted => Some((index, digest)),
            _ => None,
        })
    }

    /// Counts the replicas whose item, or one with the same digest, has gone into the answer. A replica that only said
    /// that it holds something else has not answered yet: it may have to be done without.
    fn count_holders(&mut self) {
        let blind = self.merged.is_some() && self.shared.mutants.has(Mutant::IgnoreDigests);
        for asked in &mut self.asked {
            let State::Holds(digest) = asked.state else { continue };
            if !asked.counted && (blind || self.known.contains(&digest)) {
                asked.counted = true;
                if let Some(ask) = asked.ask {
                    let answer = if asked.in_gap { Answer::FoundInGap } else { Answer::Found };
                    self.tally.answered(ask, answer);
                }
            }
        }
    }

    /// The item of a replica that has not said anything yet: probably what the others hold.
    fn first_item_due(&self) -> bool {
        self.asked.iter().any(|asked| asked.item_due && asked.state == State::Waiting && !asked.hedged)
    }

    /// An item that disagrees is on its way, and has not had its time yet.
    fn awaits_item(&self) -> bool {
        self.uncounted().any(|(index, _)| !self.asked[index].hedged)
    }

    fn ask_item(&mut self, index: usize) {
        self.asked[index].item_due = true;
        self.asked[index].at = self.shared.env.now();
        self.asked[index].hedged = false;
        self.fetch(index, true);
    }

    fn take(&mut self, (index, outcome): Incoming) {
        let node = self.asked[index].node;
        let in_gap = matches!(&outcome, Ok(body) if is_in_gap(body));
        self.asked[index].in_gap |= in_gap;
        let (state, was_due) = match self.understand(outcome) {
            Ok(understood) => understood,
            Err(failure) => {
                self.failures.push((node, failure));
                (State::Failed, true)
            }
        };
        let asked = &mut self.asked[index];
        asked.item_due &= !was_due;
        asked.state = state;
        let answer = match state {
            State::Absent => Some(Answer::NotFound(self.absence(node))),
            State::Failed => Some(Answer::Failed),
            State::Holds(_) | State::Waiting => None,
        };
        if let (Some(ask), Some(answer)) = (self.asked[index].ask, answer) {
            self.tally.answered(ask, answer);
        }
        self.count_holders();
        self.ask_enough();
    }

    /// "Nothing" from a replica that was down is no answer while another owner is up, even if that was down too: it may
    /// be the one that took the write alone.
    fn absence(&self, node: NodeId) -> Absence {
        let another = |seat: &Seat| seat.member.node != node && self.outlook.up(seat.member.node);
        if !self.outlook.behind(node) || !self.list.seats().iter().any(another) {
            return Absence::Sure;
        }
        let said = |keeper| self.consulted.contains(&keeper);
        if self.keepers_for(node).all(said) { Absence::Unsure } else { Absence::Lacking }
    }

    /// Who keeps hints for an owner and owns nothing of the key itself. A hint is written with its item, which an owner
    /// keeps: owners that have nothing keep no hint of it.
    fn keepers_for(&self, owner: NodeId) -> impl Iterator<Item = NodeId> {
        let owns = |keeper| self.list.seats().iter().any(|seat| seat.member.node == keeper);
        self.outlook.keepers(owner).filter(move |keeper| !owns(*keeper))
    }

    /// Who may have what owners lack that say that they have nothing.
    fn keepers(&self) -> BTreeSet<NodeId> {
        let denied = self.asked.iter().filter(|asked| asked.state == State::Absent);
        let lacking = denied.filter(|asked| self.absence(asked.node) == Absence::Lacking);
        lacking.flat_map(|asked| self.keepers_for(asked.node)).collect()
    }

    /// Takes in what those hold that keep hints for owners; whether all of them have said it. One that is down has not: what
    /// it keeps may be all that there is.
    async fn ask_keepers(&mut self, keepers: &BTreeSet<NodeId>) -> bool {
        let (sender, mut answers) = mpsc::unbounded_channel();
        for keeper in keepers {
            let sender = sender.clone();
            self.send_fetch(*keeper, 0, 0, ReplyTo::new(move |outcome| drop(sender.send(outcome))));
        }
        let env = self.shared.env.clone();
        for _ in keepers {
            let answer = env.timeout_at(self.spec.deadline, answers.recv()).await;
            let Ok(Some(outcome)) = answer else { return false };
            if self.understand(outcome).is_err() {
                return false;
            }
        }
        true
    }

    /// What an answer says, and whether it is the one with the item.
    fn understand(&mut self, outcome: Outcome) -> Result<(State, bool), Failure> {
        let mut body = outcome?;
        let bad = |what: &str| Failure::because(crate::reply::FailureCode::BadRequest, what);
        if body.is_empty() {
            return Err(bad("an empty answer to a fetch"));
        }
        match body.get_u8() {
            fetch::ABSENT => Ok((State::Absent, true)),
            fetch::ITEM | fetch::ITEM_IN_GAP => Ok((State::Holds(self.merge(body)?), true)),
            fetch::DIGEST | fetch::DIGEST_IN_GAP if body.len() == 8 => {
                Ok((State::Holds(Digest(body.get_u64_le())), false))
            }
            _ => Err(bad("an answer to a fetch that is neither item nor digest")),
        }
    }

    fn merge(&mut self, item: Bytes) -> Result<Digest, Failure> {
        let service = &self.shared.host.services[self.spec.service];
        let bad = |bad| Failure::because(crate::reply::FailureCode::Corrupt, bad);
        let digest = (service.digest)(&self.spec.at.key, &item).map_err(bad)?;
        let merged = match self.merged.take() {
            None => (item, digest),
            Some((held, of)) => match (service.merge)(&held, &item).map_err(bad)? {
                crate::vnode::Absorbed::Unchanged => (held, of),
                crate::vnode::Absorbed::Changed(merged) => {
                    let of = (service.digest)(&self.spec.at.key, &merged).map_err(bad)?;
                    (merged, of)
                }
            },
        };
        self.known.push(digest);
        self.merged = Some(merged);
        Ok(digest)
    }

    fn next_hedge(&self) -> Option<Instant> {
        let slow = self.asked.iter().filter(|asked| asked.is_due() && !asked.hedged);
        slow.map(|asked| asked.at + self.shared.score(asked.node).hedge_delay()).min()
    }

    /// Asks one more replica for each that has had its time.
    fn hedge_late(&mut self) {
        let now = self.shared.env.now();
        for index in 0..self.asked.len() {
            let asked = &self.asked[index];
            let late = asked.at + self.shared.score(asked.node).hedge_delay() <= now;
            if !asked.is_due() || asked.hedged || !late {
                continue;
            }
            self.asked[index].hedged = true;
            let rank = Self::rank(&self.shared, &self.outlook);
            if let Some(ask) = self.tally.choose_one(rank) {
                self.ask(ask);
            }
        }
    }

    /// Brings the owners that are behind what was found up to it, once the client has its answer.
    fn repair_in_background(mut self) {
        let complete = self.shared.random_below(COMPLETE_ONE_IN) == 0;
        let waiting = self.asked.iter().any(|asked| asked.state == State::Waiting);
        let disagree = self.stale_owners().next().is_some();
        let anything_to_do = complete || disagree || (waiting && self.merged.is_some());
        if !anything_to_do {
            return;
        }
        let env = self.shared.env.clone();
        env.clone().spawn("read-repair", async move {
            if complete || disagree {
                self.ask_all_owners();
            }
            let until = env.now() + REPAIR_WAIT;
            while self.asked.iter().any(Asked::is_due) {
                match env.timeout_at(until, self.answers.recv()).await {
                    Ok(Some((index, outcome))) => self.take_late(index, outcome),
                    Ok(None) | Err(_) => break,
                }
                if let Some(wanted) = self.unknown_holder() {
                    self.ask_item(wanted);
                }
            }
            self.repair();
        });
    }

    fn ask_all_owners(&mut self) {
        let entries: Vec<Serving> = self.list.entries().to_vec();
        for Serving { node, owned, .. } in entries {
            if owned == 0 || self.asked.iter().any(|asked| asked.node == node) {
                continue;
            }
            let at = self.shared.env.now();
            self.asked.push(Asked {
                ask: None,
                node,
                owned,
                at,
                item_due: false,
                state: State::Waiting,
                hedged: false,
                counted: false,
                in_gap: false,
            });
            self.fetch(self.asked.len() - 1, false);
        }
    }

    fn take_late(&mut self, index: usize, outcome: Outcome) {
        let (state, was_due) = self.understand(outcome).unwrap_or((State::Failed, true));
        self.asked[index].state = state;
        self.asked[index].item_due &= !was_due;
    }

    fn unknown_holder(&self) -> Option<usize> {
        self.asked.iter().position(|asked| match asked.state {
            State::Holds(digest) => !self.known.contains(&digest) && !asked.item_due,
            _ => false,
        })
    }

    fn stale_owners(&self) -> impl Iterator<Item = (NodeId, u16)> {
        let newest = self.merged.as_ref().map(|(_, digest)| *digest);
        let stale = move |asked: &&Asked| match (asked.state, newest) {
            (_, None) | (State::Waiting, _) => false,
            (State::Holds(digest), Some(newest)) => digest != newest,
            (State::Absent | State::Failed, Some(_)) => true,
        };
        let owners = self.asked.iter().filter(|asked| asked.owned != 0);
        owners.filter(stale).map(|asked| (asked.node, asked.owned))
    }

    fn repair(&self) {
        let Some((item, _)) = &self.merged else { return };
        let body = absorb_body(self.spec.quorum.n, item, None);
        for (node, slots) in self.stale_owners() {
            let head = Head {
                service: self.shared.host.services[self.spec.service].code,
                message: core_message::ABSORB,
                flags: flags::REPAIR,
                slots,
                stand_in: 0,
                ver: self.list.ver(),
                position: self.spec.at.position,
                request_id: RequestId::default(),
                deadline_us: 0,
            };
            let deadline = self.shared.env.now() + REPAIR_WAIT;
            let message = Outgoing { head, key: self.spec.at.key.clone(), body: body.clone(), deadline };
            self.shared.metrics.read_repairs.increment(1);
            self.shared.send(node, self.spec.service, message, ReplyTo::new(drop));
        }
    }
}

/// Whether a replica says of its answer that it may hold less than it acknowledged.
fn is_in_gap(answer: &Bytes) -> bool {
    matches!(answer.first(), Some(&(fetch::ITEM_IN_GAP | fetch::DIGEST_IN_GAP)))
}

impl Asked {
    fn is_due(&self) -> bool {
        self.state == State::Waiting || self.item_due
    }
}
