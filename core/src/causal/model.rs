//! A randomised model of one key's copies under everything that may befall them (PROTOCOLS §1).
//!
//! Three owners and two nodes that may stand in each have a log of rows of which a crash keeps some prefix; writes
//! travel, are hinted, drained, moved and exchanged; rows rot, disks are wiped and rolled back. The truth is kept by
//! value, never by clocks: what was acknowledged, and what each writer had read. With the rules of this module nothing
//! acknowledged is lost and nothing overwritten comes back; with any one of them switched off, something is. So the
//! model can see what it is asked to rule out.
//!
//! Whatever destroys a copy happens only while the other stores durably hold all that was acknowledged: more is
//! outside the fault model.

use super::{
    Actor, Dot, Entries, Incarnation, IsHole, Issued, RowState, Siblings, VersionVector, mine_after_absorb,
    next_dot,
};
use fastrand::Rng;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

type Value = usize;

const STORES: usize = 5;

/// The rules that can be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// A row that is new to the store begins a birth.
    Birth,
    /// Every opening of a store has an incarnation of its own.
    Incarnation,
    /// `mine` goes with its row.
    MineDiesWithRow,
    /// `mine` is never taken from a sender.
    MineIsLocal,
    /// A write merges the client's context into the row.
    ContextIsMerged,
    /// A replica acks what is durable.
    AckAfterSync,
    /// A hint goes only if its row is still what was delivered.
    DrainCompares,
}

/// What may befall the stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Crash,
    Rot,
    Wipe,
    Drain,
    Move,
    Rollback,
}

const ALL_FAULTS: [Fault; 6] =
    [Fault::Crash, Fault::Rot, Fault::Wipe, Fault::Drain, Fault::Move, Fault::Rollback];

/// What must never happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Violation {
    /// An acknowledged value is gone, and so is everything whose writer had read it.
    Lost,
    /// A value is back beside one whose writer had read it.
    Resurrected,
    /// A dot was issued twice, or one that a vector covers already.
    Reissued,
    /// A sibling is not covered by its own vector.
    Uncovered,
}

/// What a prefix of a store's log replays to.
#[derive(Debug, Clone, Default)]
struct Image {
    row: Option<Siblings<Value>>,
    mine: Option<Actor>,
    hole: bool,
    /// The slots that the row is a hint for.
    hints: BTreeSet<usize>,
}

impl Image {
    fn state(&self) -> RowState<&VersionVector> {
        match &self.row {
            _ if self.hole => RowState::Hole,
            None => RowState::Absent,
            Some(row) => RowState::Present { mine: self.mine, vector: row.context() },
        }
    }
}

/// One opening of a store, and the log that survives it.
#[derive(Debug, Clone)]
struct Store {
    incarnation: Incarnation,
    counter: u64,
    log: Vec<Image>,
    /// The last image of the log that is durable.
    durable: usize,
    /// The writes to be acked once everything up to here is durable.
    waiting: Vec<usize>,
    snapshot: Option<Image>,
}

impl Store {
    fn now(&self) -> &Image {
        self.log.last().expect("a log begins with an image")
    }

    fn durable_image(&self) -> &Image {
        &self.log[self.durable]
    }

    fn push(&mut self, image: Image) {
        self.log.push(image);
    }
}

/// A write on its way to acknowledgement.
#[derive(Debug)]
struct Put {
    value: Value,
    coordinator: usize,
    incarnation: Incarnation,
    need: usize,
    acks: BTreeSet<usize>,
}

/// A row on its way to a store, perhaps as a hint for a slot.
#[derive(Debug, Clone)]
struct Sent {
    to: usize,
    row: Siblings<Value>,
    mine: Option<Actor>,
    put: usize,
    hint: Option<usize>,
}

/// What a client has read: the context, and all that it thereby may overwrite.
type Read = (VersionVector, BTreeSet<Value>);

struct Cluster {
    broken: Option<Rule>,
    faults: Vec<Fault>,
    stores: Vec<Store>,
    /// Who owns each slot.
    owners: [usize; 3],
    net: Vec<Sent>,
    puts: Vec<Put>,
    /// For each value all values that its writer had read.
    overwrites: Vec<BTreeSet<Value>>,
    acknowledged: BTreeSet<Value>,
    reads: Vec<Read>,
    issued: BTreeSet<Dot>,
    incarnations: u64,
    violation: Option<Violation>,
}

impl Cluster {
    fn new(broken: Option<Rule>, faults: &[Fault]) -> Self {
        let store = |number: usize| Store {
            incarnation: Incarnation(number as u64),
            counter: 0,
            log: vec![Image::default()],
            durable: 0,
            waiting: Vec::new(),
            snapshot: None,
        };
        Self {
            broken,
            faults: faults.to_vec(),
            stores: (0..STORES).map(store).collect(),
            owners: [0, 1, 2],
            net: Vec::new(),
            puts: Vec::new(),
            overwrites: Vec::new(),
            acknowledged: BTreeSet::new(),
            reads: vec![Read::default()],
            issued: BTreeSet::new(),
            incarnations: STORES as u64,
            violation: None,
        }
    }

    fn run(mut self, steps: &[u64]) -> Option<Violation> {
        for &step in steps {
            self.step(&mut Rng::with_seed(step));
            if self.violation.is_some() {
                return self.violation;
            }
        }
        let merged = merge_all(self.stores.iter().filter_map(|store| store.now().row.as_ref()));
        let values: BTreeSet<Value> = merged.values().iter().map(|(_, value)| *value).collect();
        let overwritten: BTreeSet<Value> =
            values.iter().flat_map(|&value| &self.overwrites[value]).copied().collect();
        if !self.acknowledged.iter().all(|value| values.contains(value) || overwritten.contains(value)) {
            return Some(Violation::Lost);
        }
        (!values.is_disjoint(&overwritten)).then_some(Violation::Resurrected)
    }

    fn step(&mut self, rng: &mut Rng) {
        match rng.u8(..100) {
            0..24 => self.client_put(rng),
            24..50 => (0..rng.usize(1..4)).for_each(|_| self.deliver(rng)),
            50..58 => self.sync(rng.usize(..STORES)),
            58..70 => self.read(rng),
            70..75 => self.exchange(rng),
            _ => {
                let fault = rng.choice(self.faults.clone()).expect("there are faults");
                self.befall(fault, rng);
            }
        }
    }

    fn is_broken(&self, rule: Rule) -> bool {
        self.broken == Some(rule)
    }

    fn is_owner(&self, store: usize) -> bool {
        self.owners.contains(&store)
    }

    fn client_put(&mut self, rng: &mut Rng) {
        let at = if rng.u8(..100) < 72 { self.owners[rng.usize(..3)] } else { rng.usize(..STORES) };
        let read = if rng.bool() { Read::default() } else { rng.choice(self.reads.clone()).expect("one") };
        let hints = if self.is_owner(at) { BTreeSet::new() } else { BTreeSet::from([0, 1, 2]) };
        self.put(at, &read, hints, rng);
    }

    fn put(&mut self, at: usize, (context, seen): &Read, hints: BTreeSet<usize>, rng: &mut Rng) {
        let Ok(Issued { dot, mine }) = self.issue(at, context) else { return };
        let mut image = self.stores[at].now().clone();
        let row = image.row.take().unwrap_or_default();
        if !self.issued.insert(dot) || row.context().covers(dot) || context.covers(dot) {
            self.violation = Some(Violation::Reissued);
            return;
        }
        let value = self.overwrites.len();
        self.overwrites.push(seen.clone());
        let row = self.written(row, context, dot, value);
        image.hints.extend(hints);
        self.stores[at].push(Image {
            row: Some(row.clone()),
            mine: Some(mine),
            hole: false,
            hints: image.hints,
        });
        let incarnation = self.stores[at].incarnation;
        let need = rng.choice([1, 2, 2, 3]).expect("one");
        self.puts.push(Put { value, coordinator: at, incarnation, need, acks: BTreeSet::new() });
        let put = self.puts.len() - 1;
        self.stores[at].waiting.push(put);
        for to in (0..STORES).filter(|&to| to != at) {
            let hint = (!self.is_owner(to)).then(|| rng.usize(..3));
            if rng.u8(..100) < if hint.is_some() { 20 } else { 80 } {
                self.net.push(Sent { to, row: row.clone(), mine: Some(mine), put, hint });
            }
        }
    }

    fn issue(&mut self, at: usize, context: &VersionVector) -> Result<Issued, IsHole> {
        let (keeps, copies) = (self.is_broken(Rule::MineDiesWithRow), self.is_broken(Rule::MineIsLocal));
        let without_births = self.is_broken(Rule::Birth);
        let store = &mut self.stores[at];
        let image = store.log.last().expect("a log begins with an image");
        let mut draw = || {
            store.counter += 1;
            store.counter
        };
        if image.hole && image.mine.is_none() {
            return Err(IsHole);
        }
        let used_again = match image.mine {
            _ if without_births => Some(Actor { incarnation: store.incarnation, birth: 0 }),
            Some(mine) if keeps && mine.incarnation == store.incarnation => Some(mine),
            Some(mine) if copies => Some(mine),
            _ => None,
        };
        match used_again {
            Some(mine) => Ok(Issued { dot: Dot { actor: mine, counter: draw() }, mine }),
            None => next_dot(&image.state(), context, store.incarnation, draw),
        }
    }

    fn written(
        &self,
        mut row: Siblings<Value>,
        context: &VersionVector,
        dot: Dot,
        value: Value,
    ) -> Siblings<Value> {
        if !self.is_broken(Rule::ContextIsMerged) {
            row.write(context, dot, value);
            return row;
        }
        let (mut vector, mut values) = row.into_parts();
        values.retain(|(other, _)| !context.covers(*other));
        values.push((dot, value));
        values.sort_unstable();
        vector.add(dot);
        Siblings::from_parts(vector, values).expect("every dot is covered")
    }

    fn deliver(&mut self, rng: &mut Rng) {
        if self.net.is_empty() {
            return;
        }
        let at = rng.usize(..self.net.len());
        // Messages are lost, delivered, and delivered again later.
        let sent = match rng.u8(..100) {
            0..12 => return drop(self.net.remove(at)),
            12..88 => self.net.remove(at),
            _ => self.net[at].clone(),
        };
        if sent.hint.is_none() && !self.is_owner(sent.to) {
            return;
        }
        self.absorb(sent.to, sent.row, sent.mine, sent.hint);
        if self.is_broken(Rule::AckAfterSync) {
            self.ack(sent.put, sent.to);
        } else {
            self.stores[sent.to].waiting.push(sent.put);
        }
        if rng.u8(..100) < 40 {
            self.sync(sent.to);
        }
    }

    fn absorb(&mut self, at: usize, row: Siblings<Value>, senders: Option<Actor>, hint: Option<usize>) {
        let mut image = self.stores[at].now().clone();
        let mut mine = mine_after_absorb(&image.state(), row.context()).mine;
        if self.is_broken(Rule::MineDiesWithRow) {
            mine = image.mine;
        }
        if self.is_broken(Rule::MineIsLocal) {
            mine = mine.or(senders);
        }
        let mut merged = image.row.take().unwrap_or_default();
        merged.merge(row);
        if merged.values().iter().any(|(dot, _)| !merged.context().covers(*dot)) {
            self.violation = Some(Violation::Uncovered);
        }
        image.hints.extend(hint);
        self.stores[at].push(Image { row: Some(merged), mine, hole: false, hints: image.hints });
    }

    fn sync(&mut self, at: usize) {
        self.stores[at].durable = self.stores[at].log.len() - 1;
        for put in std::mem::take(&mut self.stores[at].waiting) {
            self.ack(put, at);
        }
    }

    fn ack(&mut self, put: usize, from: usize) {
        let put = &mut self.puts[put];
        if self.stores[put.coordinator].incarnation != put.incarnation {
            return;
        }
        put.acks.insert(from);
        if put.acks.len() >= put.need {
            self.acknowledged.insert(put.value);
        }
    }

    fn read(&mut self, rng: &mut Rng) {
        let first = rng.usize(..3);
        let asked = (0..rng.usize(1..3)).map(|next| self.owners[(first + next) % 3]);
        let rows: Vec<_> = asked.filter_map(|at| self.stores[at].now().row.as_ref()).collect();
        let merged = merge_all(rows.into_iter());
        let mut seen: BTreeSet<Value> = merged.values().iter().map(|(_, value)| *value).collect();
        seen.extend(seen.clone().iter().flat_map(|&value| &self.overwrites[value]));
        self.reads.push((merged.context().clone(), seen));
    }

    fn exchange(&mut self, rng: &mut Rng) {
        let first = rng.usize(..3);
        let (left, right) = (self.owners[first], self.owners[(first + rng.usize(1..3)) % 3]);
        for (from, to) in [(left, right), (right, left)] {
            self.hand_over(from, to);
        }
    }

    fn hand_over(&mut self, from: usize, to: usize) {
        let Image { row, mine, .. } = self.stores[from].now().clone();
        if let Some(row) = row {
            self.absorb(to, row, mine, None);
        }
    }

    /// Whether the other stores durably hold everything that was acknowledged.
    fn can_spare(&self, store: usize) -> bool {
        let others = (0..STORES).filter(|&other| other != store);
        let merged = merge_all(others.filter_map(|other| self.stores[other].durable_image().row.as_ref()));
        let mut held: BTreeSet<Value> = merged.values().iter().map(|(_, value)| *value).collect();
        held.extend(held.clone().iter().flat_map(|&value| &self.overwrites[value]));
        self.acknowledged.is_subset(&held)
    }

    fn befall(&mut self, fault: Fault, rng: &mut Rng) {
        let at = rng.usize(..STORES);
        match fault {
            Fault::Crash => {
                let durable = self.stores[at].durable;
                let survives = rng.usize(durable..self.stores[at].log.len());
                let image = self.stores[at].log[survives].clone();
                self.open(at, image);
            }
            Fault::Rot => {
                self.sync(at);
                if self.stores[at].now().row.is_some() && self.can_spare(at) {
                    let hints = self.stores[at].now().hints.clone();
                    self.forget(at, rng.bool(), hints);
                }
            }
            Fault::Wipe if self.can_spare(at) => self.open(at, Image::default()),
            Fault::Rollback => match self.stores[at].snapshot.take() {
                Some(image) if self.can_spare(at) => self.open(at, image),
                _ => self.stores[at].snapshot = Some(self.stores[at].durable_image().clone()),
            },
            Fault::Drain => self.drain(at, rng),
            Fault::Move => self.relocate(rng),
            Fault::Wipe => {}
        }
    }

    /// Opens a store on what its disk holds.
    fn open(&mut self, at: usize, image: Image) {
        let keeps = self.is_broken(Rule::Incarnation);
        let store = &mut self.stores[at];
        (store.log, store.durable) = (vec![image], 0);
        store.waiting.clear();
        if !keeps {
            self.incarnations += 1;
            (store.incarnation, store.counter) = (Incarnation(self.incarnations), 0);
        }
    }

    /// The row is gone, by whatever road, durably.
    fn forget(&mut self, at: usize, hole: bool, hints: BTreeSet<usize>) {
        let mine = self.stores[at].now().mine.filter(|_| self.is_broken(Rule::MineDiesWithRow));
        self.stores[at].push(Image { row: None, mine, hole, hints });
        self.sync(at);
    }

    /// A stand-in delivers its row to the owner of one slot that it has a hint for.
    fn drain(&mut self, at: usize, rng: &mut Rng) {
        let image = self.stores[at].now().clone();
        let (Some(slot), Some(sent)) = (rng.choice(image.hints), image.row) else { return };
        let owner = self.owners[slot];
        if owner == at {
            return;
        }
        self.hand_over(at, owner);
        if rng.u8(..100) < 40 {
            // A write at the stand-in races with the delivery.
            self.put(at, &Read::default(), BTreeSet::from([slot]), rng);
            if rng.bool() {
                self.sync(at);
            }
        }
        self.sync(owner);
        let mut image = self.stores[at].now().clone();
        if image.row.as_ref() != Some(&sent) && !self.is_broken(Rule::DrainCompares) {
            return;
        }
        image.hints.remove(&slot);
        if image.hints.is_empty() && !self.is_owner(at) {
            return self.forget(at, false, BTreeSet::new());
        }
        self.stores[at].push(image);
        self.sync(at);
    }

    /// A slot moves from its owner to a node that owns none.
    fn relocate(&mut self, rng: &mut Rng) {
        let slot = rng.usize(..3);
        let (from, others) = (self.owners[slot], (0..STORES).filter(|&at| !self.is_owner(at)));
        let to = rng.choice(others.collect::<Vec<_>>()).expect("two nodes own nothing");
        if self.stores[from].now().hole {
            return;
        }
        self.hand_over(from, to);
        self.sync(to);
        self.sync(from);
        self.owners[slot] = to;
        if self.stores[from].now().hints.is_empty() {
            self.forget(from, false, BTreeSet::new());
        }
    }
}

fn merge_all<'a>(rows: impl Iterator<Item = &'a Siblings<Value>>) -> Siblings<Value> {
    rows.fold(Siblings::new(), |mut merged, row| {
        merged.merge(row.clone());
        merged
    })
}

/// What goes wrong in this many runs of 40 steps, by kind.
fn violations(broken: Option<Rule>, faults: &[Fault], runs: u64) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for seed in 0..runs {
        let mut rng = Rng::with_seed(seed);
        let steps: Vec<u64> = (0..rng.usize(6..40)).map(|_| rng.u64(..)).collect();
        if let Some(violation) = Cluster::new(broken, faults).run(&steps) {
            *found.entry(format!("{violation:?}")).or_default() += 1;
        }
    }
    found
}

#[test]
fn each_rule_switched_off_loses_something() {
    let table: [(Rule, &[Fault]); 7] = [
        (Rule::Birth, &[Fault::Drain, Fault::Rot]),
        (Rule::Incarnation, &[Fault::Crash]),
        (Rule::MineDiesWithRow, &[Fault::Drain, Fault::Rot]),
        (Rule::MineIsLocal, &[Fault::Drain, Fault::Move]),
        (Rule::ContextIsMerged, &[Fault::Crash]),
        (Rule::AckAfterSync, &[Fault::Crash]),
        (Rule::DrainCompares, &[Fault::Drain]),
    ];
    for (rule, faults) in table {
        let found = violations(Some(rule), faults, 4_000);
        assert!(!found.is_empty(), "{rule:?} switched off makes no difference: the model is blind");
        let kept = violations(None, faults, 4_000);
        assert!(kept.is_empty(), "{faults:?} with all rules: {kept:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn nothing_acknowledged_is_lost_and_nothing_overwritten_returns(
        steps in prop::collection::vec(any::<u64>(), 0..60),
    ) {
        prop_assert_eq!(Cluster::new(None, &ALL_FAULTS).run(&steps), None);
    }
}
