//! The count of one operation, ask by ask.

use super::{Achieved, Quorum, Unmet};
use crate::{
    mutant::{Mutant, Mutants},
    ring::{ActiveList, Occupant, Seat, Serving},
};
use rondel_proto::id::NodeId;

/// The most messages that one operation may send: nodes are counted in 128 bits.
const ASKS_MAX: usize = 128;

/// One message to one node, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AskId(usize);

/// What has become of an ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskState {
    /// Not sent yet.
    Unsent,
    /// Sent; no answer yet.
    Sent,
    /// A write is in its memory. Whether it becomes durable there is to be seen.
    Accepted,
    /// It succeeded.
    Acked,
    /// It will not succeed.
    Failed,
}

/// A message to a node with the slots that it is about, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// The node.
    pub node: NodeId,
    /// The slots that it is addressed for as their owner (or as the next one).
    pub owned: u16,
    /// The slots that it is addressed for as a stand-in.
    pub stand_in: u16,
    /// What has become of it.
    pub state: AskState,
    /// As whom it is addressed, unless only as a stand-in.
    member: Option<Occupant>,
    /// The seats that it stands in for, one bit each.
    stands_for: u32,
}

/// How an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Neither enough nor hopeless.
    Waiting,
    /// Enough.
    Satisfied(Achieved),
    /// It can't become enough any more, whatever the open asks bring.
    Impossible(Unmet),
}

/// Counts the successes of one operation over the slots of an active list.
///
/// Every entry of the list is one ask. An ack counts for every seat of the occupant that was addressed, at whatever
/// `ver` it was given, since what matters is that its store has the item; and for the seats that this very ask stood
/// in for. What is only in memory counts for `need` alone. Nothing is impossible while something may still be hedged: a driver hedges first, then asks for the verdict.
#[derive(Debug, Clone)]
pub struct Tally {
    quorum: Quorum,
    seats: Vec<Seat>,
    asks: Vec<Ask>,
    /// Distinct nodes in the active list: more copies there can't be.
    nodes_listed: u8,
    mutants: Mutants,
}

impl Tally {
    /// The tally of an operation that goes to an active list; nothing is sent yet.
    ///
    /// # Errors
    /// [`Unmet`] if the list can't satisfy the quorum even if everybody answers; `have` is what the list could give.
    pub fn new(quorum: Quorum, list: &ActiveList) -> Result<Self, Unmet> {
        Self::with_mutants(quorum, list, Mutants::default())
    }

    /// As [`Tally::new`], with rules broken.
    pub(crate) fn with_mutants(quorum: Quorum, list: &ActiveList, mutants: Mutants) -> Result<Self, Unmet> {
        let mut tally = Self { quorum, seats: Vec::new(), asks: Vec::new(), nodes_listed: 0, mutants };
        tally.follow(list)?;
        Ok(tally)
    }

    /// Goes on with a newer list of the same partition, after somebody answered that ours was stale.
    ///
    /// Successes are kept as far as they cover seats of the new list. Asks are added, unsent, for whoever serves now
    /// and has neither succeeded nor an answer outstanding.
    ///
    /// # Errors
    /// [`Unmet`] if the new list can't satisfy the quorum any more; `have` is what it could give.
    pub fn follow(&mut self, list: &ActiveList) -> Result<(), Unmet> {
        let before = std::mem::replace(&mut self.seats, list.seats().to_vec());
        for ask in &mut self.asks {
            let stood = bits(ask.stands_for).map(|seat| before[seat]);
            ask.stands_for = stood.fold(0, |mask, seat| mask | mask_of(&self.seats, |other| *other == seat));
        }
        let fresh = asks_of(list);
        self.nodes_listed = count(&self.seats, &fresh, |_| true).nodes;
        for ask in fresh {
            if let Some(ask) = self.still_needed(ask).filter(|_| self.asks.len() < ASKS_MAX) {
                self.asks.push(ask);
            }
        }
        self.hopeless().map_or(Ok(()), Err)
    }

    /// What of an ask is not yet asked of the same node, or has failed there.
    fn still_needed(&self, mut ask: Ask) -> Option<Ask> {
        let alive = || self.asks.iter().filter(|it| it.node == ask.node && it.state != AskState::Failed);
        if alive().any(|other| other.member == ask.member) {
            (ask.owned, ask.member) = (0, None);
        }
        ask.stands_for &= !alive().fold(0, |mask, other| mask | other.stands_for);
        ask.stand_in &= bits(ask.stands_for).fold(0, |slots, seat| slots | 1 << self.seats[seat].slot);
        (ask.owned | ask.stand_in != 0).then_some(ask)
    }

    /// What the operation asks for.
    #[must_use]
    pub fn quorum(&self) -> Quorum {
        self.quorum
    }

    /// All asks.
    pub fn asks(&self) -> impl ExactSizeIterator<Item = (AskId, &Ask)> {
        self.asks.iter().enumerate().map(|(number, ask)| (AskId(number), ask))
    }

    /// The asks that are to be sent.
    pub fn unsent(&self) -> impl Iterator<Item = (AskId, &Ask)> {
        self.asks().filter(|(_, ask)| ask.state == AskState::Unsent)
    }

    /// One ask.
    ///
    /// # Panics
    /// If the number is of another tally.
    #[must_use]
    pub fn ask(&self, id: AskId) -> &Ask {
        &self.asks[id.0]
    }

    /// The ask is on its way.
    pub fn sent(&mut self, id: AskId) {
        self.change(id, AskState::Sent);
    }

    /// The ask is in the memory of its node, and can still be lost there.
    pub fn accepted(&mut self, id: AskId) {
        if matches!(self.asks[id.0].state, AskState::Unsent | AskState::Sent) {
            let lies = self.mutants.has(Mutant::CountMemoryAsDurable);
            self.change(id, if lies { AskState::Acked } else { AskState::Accepted });
        }
    }

    /// The ask succeeded: for a write, it is durable there.
    pub fn acked(&mut self, id: AskId) {
        self.change(id, AskState::Acked);
    }

    /// The ask will not succeed, and what was only in memory counts no more. An ack is never taken back.
    pub fn failed(&mut self, id: AskId) {
        self.change(id, AskState::Failed);
    }

    /// What this ask brings counts as that of a stand-in, for the same seats.
    pub(super) fn disown(&mut self, id: AskId) {
        let ask = &mut self.asks[id.0];
        if let Some(member) = ask.member.take() {
            ask.stands_for |= mask_of(&self.seats, |seat| seat.member == member);
            ask.stand_in |= std::mem::take(&mut ask.owned);
        }
    }

    /// Lets another node stand in for a slot that has not succeeded: what the slot still lacks may come from it too.
    /// Gives the new ask, unsent; nothing if the operation is strict or the slot has succeeded meanwhile.
    pub fn hedge(&mut self, slot: u8, node: NodeId) -> Option<AskId> {
        let filled = self.fillers(|ask| ask.state == AskState::Acked);
        let lacking = |at: &usize| self.seats[*at].slot == slot && filled[*at].all == 0;
        let stands_for = (0..self.seats.len()).filter(lacking).fold(0, |mask, at| mask | 1 << at);
        if self.quorum.strict || stands_for == 0 || self.asks.len() >= ASKS_MAX {
            return None;
        }
        let state = AskState::Unsent;
        self.asks.push(Ask { node, owned: 0, stand_in: 1 << slot, state, member: None, stands_for });
        Some(AskId(self.asks.len() - 1))
    }

    /// The slots that have not succeeded, one bit each: those that a write may hedge.
    #[must_use]
    pub fn open_slots(&self) -> u16 {
        let filled = self.fillers(|ask| ask.state == AskState::Acked);
        let open = self.seats.iter().zip(&filled).filter(|(_, filler)| filler.all == 0);
        open.fold(0, |slots, (seat, _)| slots | 1 << seat.slot)
    }

    /// The slots that only failed asks have served and no open one does, one bit each.
    #[must_use]
    pub fn lost_slots(&self) -> u16 {
        let hoped = self.fillers(|ask| ask.state != AskState::Failed);
        let lost = self.seats.iter().zip(&hoped).filter(|(_, filler)| filler.all == 0);
        lost.fold(0, |slots, (seat, _)| slots | 1 << seat.slot)
    }

    /// Marks as sent, and gives, the fewest unsent asks that would do if they and all that are on their way succeed;
    /// all that are left if that is not enough. Lower ranks come first.
    pub fn choose<R: Ord>(&mut self, rank: impl Fn(&Ask) -> R) -> Vec<AskId> {
        let mut chosen = Vec::new();
        while !self.would_do() {
            let Some(next) = self.best_unsent(&rank) else { return chosen };
            self.sent(next);
            chosen.push(next);
        }
        for at in (0..chosen.len()).rev() {
            self.asks[chosen[at].0].state = AskState::Unsent;
            if self.would_do() {
                chosen.remove(at);
            } else {
                self.sent(chosen[at]);
            }
        }
        chosen
    }

    /// Marks the best unsent ask as sent, whether it is needed or not: for hedging a read.
    pub fn choose_one<R: Ord>(&mut self, rank: impl Fn(&Ask) -> R) -> Option<AskId> {
        let next = self.best_unsent(&rank)?;
        self.sent(next);
        Some(next)
    }

    /// How the operation stands.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let (achieved, durable) = self.counted();
        if self.missing(achieved, durable).is_none() {
            return Verdict::Satisfied(achieved);
        }
        match self.hopeless() {
            Some(unmet) => Verdict::Impossible(unmet.having(achieved, durable)),
            None => Verdict::Waiting,
        }
    }

    /// What has succeeded so far, if only in memory.
    #[must_use]
    pub fn achieved(&self) -> Achieved {
        self.count(|ask| matches!(ask.state, AskState::Acked | AskState::Accepted))
    }

    /// What has succeeded so far and is there to stay.
    #[must_use]
    pub fn durable(&self) -> Achieved {
        self.count(|ask| ask.state == AskState::Acked)
    }

    /// What is missing now, if anything: for an operation whose time is up.
    #[must_use]
    pub fn shortfall(&self) -> Option<Unmet> {
        let (achieved, durable) = self.counted();
        self.missing(achieved, durable)
    }

    /// What has succeeded so far, and what of it is there to stay.
    fn counted(&self) -> (Achieved, Achieved) {
        let achieved = self.achieved();
        let some_in_memory = self.asks.iter().any(|ask| ask.state == AskState::Accepted);
        (achieved, if some_in_memory { self.durable() } else { achieved })
    }

    fn change(&mut self, id: AskId, state: AskState) {
        let ask = &mut self.asks[id.0];
        if ask.state != AskState::Acked {
            ask.state = state;
        }
    }

    fn best_unsent<R: Ord>(&self, rank: &impl Fn(&Ask) -> R) -> Option<AskId> {
        self.unsent().min_by_key(|(id, ask)| (rank(ask), *id)).map(|(id, _)| id)
    }

    fn would_do(&self) -> bool {
        let asked = self.count(|ask| !matches!(ask.state, AskState::Unsent | AskState::Failed));
        self.missing(asked, asked).is_none()
    }

    /// What will be missing whatever the open asks bring.
    fn hopeless(&self) -> Option<Unmet> {
        let hoped = self.count(|ask| ask.state != AskState::Failed);
        self.missing(hoped, hoped)
    }

    fn missing(&self, have: Achieved, durable: Achieved) -> Option<Unmet> {
        let Quorum { need, durable: durably, owners, nodes, .. } = self.quorum;
        let lacks = |have: Achieved, need: u8| have.slots < need || have.nodes < need.min(self.nodes_listed);
        if durable.owners < owners {
            Some(Unmet::Owners { need: owners, have: durable.owners })
        } else if durable.nodes < nodes {
            Some(Unmet::Nodes { need: nodes, have: durable.nodes })
        } else if lacks(have, need) {
            Some(Unmet::Slots { need, have: have.copies() })
        } else if lacks(durable, durably) {
            Some(Unmet::Durable { need: durably, have: durable.copies() })
        } else {
            None
        }
    }

    fn fillers(&self, counts: impl Fn(&Ask) -> bool) -> Vec<Filler> {
        fillers(&self.seats, &self.asks, counts)
    }

    fn count(&self, counts: impl Fn(&Ask) -> bool) -> Achieved {
        let mut achieved = count(&self.seats, &self.asks, counts);
        if self.mutants.has(Mutant::CountStandInAsOwner) {
            achieved.owners = achieved.slots;
        }
        achieved
    }
}

/// One unsent ask per entry of the list.
fn asks_of(list: &ActiveList) -> Vec<Ask> {
    let serves = |node, seat: &Seat| {
        seat.member.node == node && list.entry(node).is_some_and(|entry| entry.owned >> seat.slot & 1 == 1)
    };
    let ask = |entry: &Serving| {
        let stands_for =
            |seat: &Seat| entry.stand_in >> seat.slot & 1 == 1 && !serves(seat.member.node, seat);
        Ask {
            node: entry.node,
            owned: entry.owned,
            stand_in: entry.stand_in,
            state: AskState::Unsent,
            member: list.seats().iter().find(|seat| serves(entry.node, seat)).map(|seat| seat.member),
            stands_for: mask_of(list.seats(), stands_for),
        }
    };
    list.entries().iter().map(ask).collect()
}

/// Who fills each seat, if exactly these asks succeed.
fn fillers(seats: &[Seat], asks: &[Ask], counts: impl Fn(&Ask) -> bool) -> Vec<Filler> {
    let mut fillers = vec![Filler::default(); seats.len()];
    for ask in asks.iter().filter(|ask| counts(ask)) {
        let node = asks.iter().position(|other| other.node == ask.node).expect("it is one of them");
        for (at, seat) in seats.iter().enumerate() {
            let in_person = ask.member == Some(seat.member);
            fillers[at].in_person |= in_person;
            if in_person || ask.stands_for >> at & 1 == 1 {
                fillers[at].all |= 1 << node;
            }
        }
    }
    fillers
}

/// What exactly these asks achieve if they succeed.
fn count(seats: &[Seat], asks: &[Ask], counts: impl Fn(&Ask) -> bool) -> Achieved {
    let fillers = fillers(seats, asks, counts);
    let (mut achieved, mut nodes, mut sides) = (Achieved::default(), 0, Vec::new());
    let mut first = 0;
    for slot in seats.chunk_by(|left, right| left.slot == right.slot) {
        let filled = &fillers[first..first + slot.len()];
        first += slot.len();
        if filled.iter().any(|seat| seat.all == 0) {
            continue;
        }
        achieved.slots += 1;
        achieved.owners += u8::from(filled.iter().all(|seat| seat.in_person));
        match filled {
            [owner, next] => sides.push((owner.all, next.all)),
            _ => nodes |= filled[0].all,
        }
    }
    achieved.nodes = u8::try_from(fewest(nodes, &sides)).expect("at most 128 asks");
    achieved
}

fn mask_of(seats: &[Seat], holds: impl Fn(&Seat) -> bool) -> u32 {
    let seats = seats.iter().enumerate().filter(|(_, seat)| holds(seat));
    seats.fold(0, |mask, (at, _)| mask | 1 << at)
}

impl Unmet {
    /// The same shortfall, told with other counts.
    fn having(self, have: Achieved, durable: Achieved) -> Self {
        match self {
            Self::Owners { need, .. } => Self::Owners { need, have: durable.owners },
            Self::Nodes { need, .. } => Self::Nodes { need, have: durable.nodes },
            Self::Durable { need, .. } => Self::Durable { need, have: durable.copies() },
            Self::Slots { need, .. } => Self::Slots { need, have: have.copies() },
        }
    }
}

/// The nodes that fill a seat, by the number of their first ask.
#[derive(Debug, Clone, Copy, Default)]
struct Filler {
    all: u128,
    in_person: bool,
}

/// How many nodes there are at least when of each pair one side goes away.
///
/// A move ends with the copies of one side; which one, nobody knows yet. More nodes on a side never make it fewer.
fn fewest(nodes: u128, sides: &[(u128, u128)]) -> u32 {
    match sides {
        [] => nodes.count_ones(),
        [(left, right), rest @ ..] if left & !nodes == 0 || right & !nodes == 0 => fewest(nodes, rest),
        [(left, right), rest @ ..] => fewest(nodes | left, rest).min(fewest(nodes | right, rest)),
    }
}

fn bits(mask: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |at| mask >> at & 1 == 1)
}
