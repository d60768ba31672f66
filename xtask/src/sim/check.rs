//! What must hold of a run: pure functions of what the clients saw and of what the nodes keep at the end.
//!
//! A write supersedes what its context was read with, and whatever that had superseded. So for each set of siblings
//! it is known which writes they stand for ([`Story::told_by`]), and every other acknowledged write must be beside
//! them.

use super::{
    history::{Key, Operation, Outcome, Seen, What, WriteId, ids},
    plan::Plan,
    run::Watch,
};
use rondel_core::testing::nemesis::{Fault, FaultKind};
use rondel_kv::Context;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

/// A promise that was not kept, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation(pub(crate) String);

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// What a node keeps a row as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    Owned,
    Stray,
    Hint,
    /// It can't be read, or only that it was there is known.
    Unreadable,
}

/// A row of a node at the end.
#[derive(Debug, Clone)]
pub(crate) struct FinalRow {
    pub(crate) node: u32,
    pub(crate) key: Key,
    pub(crate) kept: Kept,
    pub(crate) siblings: Vec<Seen>,
    pub(crate) context: Option<Context>,
}

/// All that is known of a run.
pub(crate) struct Evidence<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) operations: &'a [Operation],
    pub(crate) owners: &'a BTreeMap<Key, BTreeSet<u32>>,
    pub(crate) watch: &'a Watch,
    /// The nodes that stay out.
    pub(crate) out: &'a [u32],
    /// What was kept once the cluster had come to rest, before anything was read.
    pub(crate) handed_over: &'a [FinalRow],
    /// What was kept when every key had been read.
    pub(crate) rows: &'a [FinalRow],
}

/// Every check.
pub(crate) fn all(evidence: &Evidence<'_>) -> Vec<Violation> {
    let story = Story::of(evidence.operations);
    let checks: [fn(&Evidence<'_>, &Story<'_>) -> Vec<Violation>; 9] = [
        no_answer_is_wrong,
        nothing_is_invented,
        dots_are_unique,
        quorums_are_honest,
        quorums_overlap,
        hints_come_home,
        owners_are_equal,
        nothing_is_lost,
        siblings_are_maximal,
    ];
    checks.iter().flat_map(|check| check(evidence, &story)).collect()
}

/// The writes of a run and what each of them supersedes.
struct Story<'a> {
    writes: BTreeMap<WriteId, Write<'a>>,
}

struct Write<'a> {
    key: Key,
    context: &'a [Seen],
    copies: u8,
    owners: u8,
    began: Duration,
    /// When it was first acknowledged, and when that try began.
    acknowledged: Option<Duration>,
    tried: Duration,
    /// Whether it may have been done.
    possible: bool,
}

impl<'a> Story<'a> {
    fn of(operations: &'a [Operation]) -> Self {
        let mut writes: BTreeMap<WriteId, Write<'a>> = BTreeMap::new();
        for operation in operations {
            let What::Write { id, context, copies, owners, .. } = &operation.what else { continue };
            let write = writes.entry(*id).or_insert(Write {
                key: operation.key,
                context,
                copies: *copies,
                owners: *owners,
                began: operation.began,
                acknowledged: None,
                tried: operation.began,
                possible: false,
            });
            write.possible |= !matches!(operation.outcome, Outcome::NotDone(_));
            write.began = write.began.min(operation.began);
            if operation.is_done() && write.acknowledged.is_none() {
                write.acknowledged = Some(operation.ended);
                write.tried = operation.began;
            }
        }
        Self { writes }
    }

    /// Every write that these stand for: they themselves, and whatever they have superseded.
    fn told_by(&self, writes: impl IntoIterator<Item = WriteId>) -> BTreeSet<WriteId> {
        let mut told = BTreeSet::new();
        let mut open: Vec<WriteId> = writes.into_iter().collect();
        while let Some(id) = open.pop() {
            if told.insert(id) {
                let context = self.writes.get(&id).map_or(&[][..], |write| write.context);
                open.extend(context.iter().map(|seen| seen.write));
            }
        }
        told
    }

    /// Every dot that these writes have superseded.
    fn superseded_by(&self, writes: impl IntoIterator<Item = WriteId>) -> BTreeSet<&'a str> {
        let told = self.told_by(writes);
        let contexts = told.iter().filter_map(|id| self.writes.get(id)).flat_map(|write| write.context);
        contexts.map(|seen| seen.dot.as_str()).collect()
    }
}

fn no_answer_is_wrong(evidence: &Evidence<'_>, _: &Story<'_>) -> Vec<Violation> {
    let wrong = evidence.operations.iter().filter(|operation| matches!(operation.outcome, Outcome::Wrong(_)));
    wrong.map(|operation| Violation(format!("nobody may be answered this: {operation}"))).collect()
}

/// Everything that anybody sees was written before, under that key, by a request that may have been done.
fn nothing_is_invented(evidence: &Evidence<'_>, story: &Story<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut see = |key: Key, seen: &[Seen], by: Duration, whence: &dyn fmt::Display| {
        for Seen { write: id, .. } in seen {
            let problem = match story.writes.get(id) {
                None => Some("nobody wrote it"),
                Some(write) if write.key != key => Some("it was written to another key"),
                Some(write) if write.began > by => Some("it was written only later"),
                Some(write) if !write.possible => Some("its writer was told that nothing was done"),
                Some(_) => None,
            };
            if let Some(problem) = problem {
                violations.push(Violation(format!("write {id} is found, but {problem}: {whence}")));
            }
        }
    };
    for operation in evidence.operations {
        see(operation.key, operation.seen().unwrap_or_default(), operation.ended, operation);
    }
    for row in evidence.rows {
        let whence = format!("key {} at node {} at the end", row.key, row.node);
        see(row.key, &row.siblings, Duration::MAX, &whence);
    }
    violations
}

/// A dot names one write, on whatever node and whenever it is seen.
fn dots_are_unique(evidence: &Evidence<'_>, _: &Story<'_>) -> Vec<Violation> {
    let mut writes: BTreeMap<(Key, &str), WriteId> = BTreeMap::new();
    let answers =
        evidence.operations.iter().map(|operation| (operation.key, operation.seen().unwrap_or_default()));
    let kept = evidence.rows.iter().map(|row| (row.key, row.siblings.as_slice()));
    let mut violations = Vec::new();
    for (key, seen) in answers.chain(kept) {
        for Seen { write, dot } in seen {
            let first = *writes.entry((key, dot)).or_insert(*write);
            if first != *write {
                let text = format!("dot {dot} was issued twice on key {key}: for writes {first} and {write}");
                violations.push(Violation(text));
            }
        }
    }
    violations.dedup();
    violations
}

/// Who claims so many owners can only have had them if so many served while the request ran, and could be heard.
fn quorums_are_honest(evidence: &Evidence<'_>, _: &Story<'_>) -> Vec<Violation> {
    let destroyed = evidence.plan.schedule.destroys();
    let mut violations = Vec::new();
    for operation in evidence.operations.iter().filter(|operation| operation.is_done()) {
        let claimed = match operation.what {
            What::Write { owners, .. } | What::Read { owners } => usize::from(owners),
        };
        let Some(owners) = evidence.owners.get(&operation.key) else { continue };
        let served = served_within(evidence.watch, operation.began, operation.ended);
        // A copy of a node is heard from elsewhere.
        let heard = |owner: &&u32| operation.reached.contains(owner) || destroyed.contains(owner);
        let possible = served.intersection(owners).filter(heard).count();
        if claimed > possible && !evidence.watch.is_empty() {
            let text = format!(
                "{claimed} owners are claimed to have answered while at most {possible} of {owners:?} could: \
                 {operation}"
            );
            violations.push(Violation(text));
        }
    }
    violations
}

/// The watch looks only now and then: what it notes may have been so for a moment.
const MARGIN: Duration = Duration::from_millis(20);

/// The nodes that served at some moment of a time, or a moment before or after it.
fn served_within(watch: &Watch, from: Duration, to: Duration) -> BTreeSet<u32> {
    let (from, to) = (from.saturating_sub(MARGIN), to + MARGIN);
    let ends = watch.iter().skip(1).map(|(at, _)| *at).chain([Duration::MAX]);
    let spans = watch.iter().zip(ends).filter(|((began, _), ended)| *began <= to && *ended >= from);
    spans.flat_map(|((_, serving), _)| serving.iter().copied()).collect()
}

/// Whether a node served at every moment of a time, and a moment more on both sides.
fn served_throughout(watch: &Watch, node: u32, from: Duration, to: Duration) -> bool {
    let ends = watch.iter().skip(1).map(|(at, _)| *at).chain([Duration::MAX]);
    let within = |began, ended| began <= to + MARGIN && ended >= from.saturating_sub(MARGIN);
    let mut spans = watch.iter().zip(ends).filter(|((began, _), ended)| within(*began, *ended));
    spans.all(|((_, serving), _)| serving.contains(&node))
}

/// A read that was answered by an owner that had acknowledged a write tells of that write: where the owners of both
/// are more than there are.
fn quorums_overlap(evidence: &Evidence<'_>, story: &Story<'_>) -> Vec<Violation> {
    let Some(destroyed) = overlooked(evidence.plan) else { return Vec::new() };
    let mut violations = Vec::new();
    for read in evidence.operations {
        let (What::Read { owners }, Some(seen)) = (&read.what, read.seen()) else { continue };
        let enough = (evidence.plan.shape.replicas + 1).saturating_sub(*owners).max(destroyed);
        let mut told = None;
        let before = story.writes.iter().filter(|(_, write)| {
            write.key == read.key
                && *owners > 0
                && write.owners >= enough
                && write.acknowledged.is_some_and(|at| at < read.began)
        });
        for (id, write) in before {
            if !told.get_or_insert_with(|| story.told_by(ids(seen))).contains(id) {
                violations.push(Violation(format!(
                    "write {id} was acknowledged by {} owners, but {owners} of them miss it: {read}",
                    write.owners
                )));
            }
        }
    }
    violations
}

/// By how many owners a write must have been acknowledged so that what befell their stores hides it from nobody; none
/// if nothing is certain.
///
/// An item that rots in one place, or is lost with a file, is there in another, and nobody is told that there is none.
/// Where all nodes own all keys, every copy of an item has all that was acknowledged by all owners, so what fills the gap
/// has it too.
fn overlooked(plan: &Plan) -> Option<u8> {
    let destroying = || plan.schedule.0.iter().filter(|fault| fault.kind.destroys().is_some());
    let is_of_items =
        |fault: &Fault| matches!(fault.kind, FaultKind::RotItems { .. } | FaultKind::LoseFile { .. });
    let only_items = destroying().all(is_of_items);
    match destroying().next() {
        None => Some(0),
        Some(_) if only_items && all_own_all(plan) => Some(plan.shape.replicas),
        Some(_) => None,
    }
}

fn all_own_all(plan: &Plan) -> bool {
    plan.shape.nodes == u32::from(plan.shape.replicas)
}

/// So long after its acknowledgement, every place that lacks a write has a hint that says so.
const REST: Duration = Duration::from_secs(10);

/// Once all is at rest every owner has every acknowledged write, read or unread: it was told of it at once, or by a
/// hint. Not if the coordinator may have been stopped with the rest of the write still to be done.
fn hints_come_home(evidence: &Evidence<'_>, story: &Story<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    if !evidence.plan.schedule.destroys().is_empty() || evidence.handed_over.is_empty() {
        return violations;
    }
    // A coordinator that stands still goes on later.
    let pauses =
        evidence.plan.schedule.0.iter().filter(|fault| matches!(fault.kind, FaultKind::Pause { .. }));
    let rest = REST + pauses.map(|fault| fault.lasts).sum::<Duration>();
    let mut held: BTreeMap<(Key, u32), BTreeSet<WriteId>> = BTreeMap::new();
    for row in evidence.handed_over.iter().filter(|row| row.kept == Kept::Owned) {
        held.insert((row.key, row.node), story.told_by(ids(&row.siblings)));
    }
    for (id, write) in &story.writes {
        let Some(at) = write.acknowledged else { continue };
        // Whoever was asked may have left it to another.
        let through = |node| served_throughout(evidence.watch, node, write.tried, at + rest);
        if !(0..evidence.plan.shape.nodes).all(through) {
            continue;
        }
        for owner in evidence.owners.get(&write.key).into_iter().flatten() {
            if !held.get(&(write.key, *owner)).is_some_and(|held| held.contains(id)) {
                let key = write.key;
                violations.push(Violation(format!(
                    "write {id} of key {key} was acknowledged, and has not come to node {owner}, though all is at rest"
                )));
            }
        }
    }
    violations
}

/// The owners that differ, or can't read their rows, or lack them.
pub(crate) fn unequal(
    rows: &[FinalRow],
    owners: &BTreeMap<Key, BTreeSet<u32>>,
    out: &[u32],
) -> BTreeMap<Key, String> {
    let mut unequal = BTreeMap::new();
    let mut by_key: BTreeMap<Key, Vec<&FinalRow>> = BTreeMap::new();
    for row in rows {
        match row.kept {
            Kept::Owned => by_key.entry(row.key).or_default().push(row),
            Kept::Unreadable => {
                unequal.insert(row.key, format!("node {} can't read its row", row.node));
            }
            Kept::Stray | Kept::Hint => (),
        }
    }
    for (key, rows) in by_key {
        let expected = owners.get(&key).into_iter().flatten().filter(|owner| !out.contains(owner)).count();
        let meaning = |row: &FinalRow| (row.siblings.clone(), row.context.clone());
        let differs = rows.iter().any(|row| {
            let ((siblings, context), (others, other)) = (meaning(row), meaning(rows[0]));
            siblings != others || !same(context.as_ref(), other.as_ref())
        });
        if differs || rows.len() != expected {
            let held = rows.iter().map(|row| format!("node {}: {:?}", row.node, ids(&row.siblings)));
            unequal.insert(key, format!("{expected} owners: {}", held.collect::<Vec<_>>().join(", ")));
        }
    }
    unequal
}

fn same(one: Option<&Context>, other: Option<&Context>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.has_seen_the_same(other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

fn owners_are_equal(evidence: &Evidence<'_>, _: &Story<'_>) -> Vec<Violation> {
    let unequal = unequal(evidence.rows, evidence.owners, evidence.out);
    let violation = |(key, how)| Violation(format!("the owners of key {key} differ after healing: {how}"));
    unequal.into_iter().map(violation).collect()
}

/// The siblings of each key at the end, wherever they are kept.
fn finally(evidence: &Evidence<'_>) -> BTreeMap<Key, Vec<Seen>> {
    let mut siblings: BTreeMap<Key, BTreeSet<Seen>> = BTreeMap::new();
    for row in evidence.rows {
        siblings.entry(row.key).or_default().extend(row.siblings.iter().cloned());
    }
    siblings.into_iter().map(|(key, seen)| (key, seen.into_iter().collect())).collect()
}

/// Every acknowledged write is there, or a write that had seen it; unless more stores were destroyed than it was
/// asked to be on.
fn nothing_is_lost(evidence: &Evidence<'_>, story: &Story<'_>) -> Vec<Violation> {
    let destroyed = evidence.plan.schedule.destroys().len();
    let finally = finally(evidence);
    let mut told: BTreeMap<Key, BTreeSet<WriteId>> = BTreeMap::new();
    let mut violations = Vec::new();
    for (id, write) in story.writes.iter().filter(|(_, write)| write.acknowledged.is_some()) {
        if usize::from(write.copies) <= destroyed {
            continue;
        }
        let siblings = finally.get(&write.key).map_or(&[][..], Vec::as_slice);
        let told = told.entry(write.key).or_insert_with(|| story.told_by(ids(siblings)));
        if !told.contains(id) {
            violations.push(Violation(format!(
                "write {id} of key {} was acknowledged and is lost: what is left there is {:?}",
                write.key,
                ids(siblings)
            )));
        }
    }
    violations
}

/// No sibling is left that another one of them has superseded.
fn siblings_are_maximal(evidence: &Evidence<'_>, story: &Story<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for row in evidence.rows.iter().filter(|row| row.kept == Kept::Owned) {
        let superseded = story.superseded_by(ids(&row.siblings));
        for sibling in row.siblings.iter().filter(|sibling| superseded.contains(sibling.dot.as_str())) {
            violations.push(Violation(format!(
                "write {} of key {} is still there at node {} beside what superseded it: {:?}",
                sibling.write,
                row.key,
                row.node,
                ids(&row.siblings)
            )));
        }
    }
    violations
}
