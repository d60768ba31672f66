//! Siblings with explicit dots under one version vector: what a key's copies hold, and how two become one.
//!
//! The invariants: the vector covers every sibling's dot; dots strictly ascend. The merge keeps a sibling that both
//! copies have, or that one has and the other's vector does not cover: not covered means never seen, covered but
//! absent means superseded. It is commutative, associative, idempotent, and never forgets: it is what `absorb` needs.
//!
//! Applications with siblings of their own shape use [`kept`] on dots alone, also on archives read in place.
//! \[DVV §5\], with a whole vector per key in place of one per sibling.

use super::{Entries, VersionVector};
use rondel_proto::id::Dot;

/// Concurrent values of one key, and the vector of everything that they have seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Siblings<T> {
    vector: VersionVector,
    values: Vec<(Dot, T)>,
}

/// Which siblings outlast a merge, by their places in the two copies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kept {
    /// From the left copy; a sibling that both have is taken from here.
    pub left: Vec<usize>,
    /// From the right copy.
    pub right: Vec<usize>,
}

/// Whether a sibling outlasts a merge with a copy, given whether that copy has it too.
#[must_use]
pub fn survives(dot: Dot, other_has_it: bool, other: &impl Entries) -> bool {
    other_has_it || !other.covers(dot)
}

/// Which siblings of two copies outlast their merge. The dots of each copy must ascend.
#[must_use]
pub fn kept(left: (&impl Entries, &[Dot]), right: (&impl Entries, &[Dot])) -> Kept {
    let ((left_vector, left_dots), (right_vector, right_dots)) = (left, right);
    let has = |dots: &[Dot], dot: &Dot| dots.binary_search(dot).is_ok();
    let from_left = |(_, dot): &(usize, &Dot)| survives(**dot, has(right_dots, dot), right_vector);
    let from_right = |(_, dot): &(usize, &Dot)| !has(left_dots, dot) && survives(**dot, false, left_vector);
    Kept {
        left: left_dots.iter().enumerate().filter(from_left).map(|(place, _)| place).collect(),
        right: right_dots.iter().enumerate().filter(from_right).map(|(place, _)| place).collect(),
    }
}

impl<T> Siblings<T> {
    /// Of a key that nobody has written.
    #[must_use]
    pub fn new() -> Self {
        Self { vector: VersionVector::new(), values: Vec::new() }
    }

    /// From parts that were stored or received; `None` if they break an invariant.
    #[must_use]
    pub fn from_parts(vector: VersionVector, values: Vec<(Dot, T)>) -> Option<Self> {
        let ascends = values.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let covered = values.iter().all(|(dot, _)| dot.counter > 0 && vector.covers(*dot));
        (vector.is_well_formed() && ascends && covered).then_some(Self { vector, values })
    }

    /// The vector and the values, by dot.
    #[must_use]
    pub fn into_parts(self) -> (VersionVector, Vec<(Dot, T)>) {
        (self.vector, self.values)
    }

    /// What a reader has seen who has seen this: the context of its next write.
    #[must_use]
    pub fn context(&self) -> &VersionVector {
        &self.vector
    }

    /// The values, by dot.
    #[must_use]
    pub fn values(&self) -> &[(Dot, T)] {
        &self.values
    }

    /// Whether nobody has written the key: no value and nothing superseded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.vector.is_empty()
    }

    /// Writes a value for somebody who has seen `context`: what that covers goes, what it does not stays beside it.
    ///
    /// The dot must be new: covered neither here nor by the context.
    pub fn write(&mut self, context: &impl Entries, dot: Dot, value: T) {
        debug_assert!(!self.vector.covers(dot) && !context.covers(dot), "dot {dot:?} was issued before");
        self.supersede(context);
        self.vector.add(dot);
        let place = self.values.partition_point(|(other, _)| *other < dot);
        self.values.insert(place, (dot, value));
    }

    /// Removes what somebody who has seen `context` has seen, and puts nothing in its place.
    pub fn supersede(&mut self, context: &impl Entries) {
        self.values.retain(|(dot, _)| !context.covers(*dot));
        self.vector.merge(context);
    }

    /// Takes over another copy. Gives whether that changed anything.
    pub fn merge(&mut self, other: Self) -> bool {
        let dots = |values: &[(Dot, T)]| values.iter().map(|(dot, _)| *dot).collect::<Vec<_>>();
        let (ours, theirs) = (dots(&self.values), dots(&other.values));
        let kept = kept((&self.vector, &ours), (&other.vector, &theirs));
        if kept.left.len() == ours.len() && kept.right.is_empty() && self.vector.descends(&other.vector) {
            return false;
        }
        let left = pick(std::mem::take(&mut self.values), &kept.left);
        self.values = left.chain(pick(other.values, &kept.right)).collect();
        self.values.sort_unstable_by_key(|(dot, _)| *dot);
        self.vector.merge(&other.vector);
        true
    }
}

fn pick<T>(values: Vec<T>, places: &[usize]) -> impl Iterator<Item = T> {
    values.into_iter().enumerate().filter(|(place, _)| places.binary_search(place).is_ok()).map(|(_, it)| it)
}

#[cfg(test)]
mod tests {
    use super::{super::version_vector::tests::actor, *};
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// A copy and what it must equal: every event that it has seen, and those of them that nothing has superseded.
    #[derive(Debug, Clone, PartialEq, Default)]
    struct Reference {
        seen: BTreeSet<Dot>,
        superseded: BTreeSet<Dot>,
    }

    impl Reference {
        fn live(&self) -> BTreeSet<Dot> {
            &self.seen - &self.superseded
        }
    }

    /// Replicas that write, with the context of what they or others have read, and take over each other's copies.
    #[derive(Debug, Clone)]
    enum Event {
        Write { replica: usize, context: Option<usize> },
        Remove { replica: usize, context: usize },
        Read { replica: usize },
        Merge { into: usize, from: usize },
        Forget { replica: usize },
    }

    fn any_history() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            4 => (0usize..3, prop::option::of(0usize..4))
                .prop_map(|(replica, context)| Event::Write { replica, context }),
            1 => (0usize..3, 0usize..4).prop_map(|(replica, context)| Event::Remove { replica, context }),
            3 => (0usize..3).prop_map(|replica| Event::Read { replica }),
            4 => (0usize..3, 0usize..3).prop_map(|(into, from)| Event::Merge { into, from }),
            1 => (0usize..3).prop_map(|replica| Event::Forget { replica }),
        ];
        prop::collection::vec(event, 0..24)
    }

    type Copy = (Siblings<u64>, Reference);

    /// Every copy that existed at some moment of a history, with its reference.
    fn copies_of(history: &[Event]) -> Vec<Copy> {
        let mut replicas = vec![(Siblings::new(), Reference::default()); 3];
        let mut reads: Vec<Copy> = Vec::new();
        let mut births = [0, 1, 2];
        let mut copies = replicas.clone();
        for (number, event) in (1u64..).zip(history) {
            match *event {
                Event::Write { replica, context } => {
                    let read = context.and_then(|at| reads.get(at).cloned()).unwrap_or_default();
                    let dot = Dot { actor: actor(births[replica]), counter: number };
                    let (siblings, reference) = &mut replicas[replica];
                    siblings.write(read.0.context(), dot, number);
                    reference.superseded.extend(&read.1.seen);
                    reference.seen.extend(&read.1.seen);
                    reference.seen.insert(dot);
                }
                Event::Remove { replica, context } => {
                    let read = reads.get(context).cloned().unwrap_or_default();
                    let (siblings, reference) = &mut replicas[replica];
                    siblings.supersede(read.0.context());
                    reference.superseded.extend(&read.1.seen);
                    reference.seen.extend(&read.1.seen);
                }
                Event::Read { replica } => reads.push(replicas[replica].clone()),
                Event::Merge { into, from } => {
                    let (siblings, reference) = replicas[from].clone();
                    let before = replicas[into].clone();
                    let changed = replicas[into].0.merge(siblings);
                    assert_eq!(changed, replicas[into].0 != before.0);
                    replicas[into].1.seen.extend(&reference.seen);
                    replicas[into].1.superseded.extend(&reference.superseded);
                }
                Event::Forget { replica } => {
                    replicas[replica] = Default::default();
                    births[replica] += 3;
                }
            }
            copies.extend(replicas.clone());
        }
        copies
    }

    fn merged(mut left: Siblings<u64>, right: &Siblings<u64>) -> Siblings<u64> {
        left.merge(right.clone());
        left
    }

    /// A history, and three of the copies that it made.
    fn any_copies() -> impl Strategy<Value = [Siblings<u64>; 3]> {
        (any_history(), any::<[prop::sample::Index; 3]>()).prop_map(|(history, places)| {
            let copies = copies_of(&history);
            places.map(|place| place.get(&copies).0.clone())
        })
    }

    proptest! {
        #[test]
        fn a_copy_holds_exactly_what_it_has_seen_and_nothing_has_superseded(history in any_history()) {
            for (siblings, reference) in copies_of(&history) {
                let live: BTreeSet<Dot> = siblings.values().iter().map(|(dot, _)| *dot).collect();
                prop_assert_eq!(live, reference.live());
                prop_assert!(reference.seen.iter().all(|dot| siblings.context().covers(*dot)));
                let mut last = BTreeMap::new();
                reference.seen.iter().for_each(|dot| { last.insert(dot.actor, dot.counter); });
                let vector: VersionVector = last.into_iter().collect();
                prop_assert_eq!(siblings.context(), &vector);
                let (vector, values) = siblings.clone().into_parts();
                prop_assert_eq!(Siblings::from_parts(vector, values), Some(siblings));
            }
        }

        #[test]
        fn merging_is_a_join([a, b, c] in any_copies()) {
            let ab = merged(a.clone(), &b);
            prop_assert_eq!(&merged(b.clone(), &a), &ab, "commutative");
            prop_assert_eq!(merged(ab.clone(), &c), merged(a.clone(), &merged(b.clone(), &c)), "associative");
            prop_assert_eq!(&merged(a.clone(), &a), &a, "idempotent");
            prop_assert_eq!(&merged(ab.clone(), &a), &ab, "inflationary: what was merged adds nothing");
            prop_assert_eq!(&merged(ab.clone(), &b), &ab);
            prop_assert!(ab.context().descends(a.context()) && ab.context().descends(b.context()));
        }
    }

    #[test]
    fn a_blind_write_makes_a_sibling_and_one_with_context_replaces_what_was_read() {
        let dot = |counter| Dot { actor: actor(1), counter };
        let mut copy = Siblings::new();
        copy.write(&VersionVector::new(), dot(1), "a");
        copy.write(&VersionVector::new(), dot(2), "b");
        assert_eq!(copy.values(), [(dot(1), "a"), (dot(2), "b")]);
        let read = copy.context().clone();
        copy.write(&VersionVector::new(), dot(3), "c");
        copy.write(&read, dot(4), "d");
        assert_eq!(copy.values(), [(dot(3), "c"), (dot(4), "d")]);
    }

    #[test]
    fn parts_that_break_an_invariant_are_refused() {
        let dot = |counter| Dot { actor: actor(1), counter };
        let vector = |counter| VersionVector::from_iter([(actor(1), counter)]);
        assert!(Siblings::from_parts(vector(2), vec![(dot(1), ()), (dot(2), ())]).is_some());
        assert!(Siblings::from_parts(vector(1), vec![(dot(2), ())]).is_none(), "not covered");
        assert!(Siblings::from_parts(vector(2), vec![(dot(2), ()), (dot(1), ())]).is_none(), "not in order");
        assert!(Siblings::from_parts(vector(2), vec![(dot(1), ()), (dot(1), ())]).is_none(), "twice");
        assert!(Siblings::from_parts(vector(2), vec![(dot(0), ())]).is_none(), "no event has the number 0");
    }
}
