//! Version vectors, owned and read in place.
//!
//! The invariant: actors strictly ascend and no counter is 0. Vectors built here keep it; one that came from outside
//! is asked for it once, at the door ([`Entries::is_well_formed`]). Of one that breaks it, lookups give some answer
//! but never panic.

use rondel_proto::{
    id::{Actor, Dot},
    rkyv::Archived,
    wire,
};
use std::cmp::Ordering;

/// For each actor the number of its last dot that is contained or superseded.
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq, Hash, Default)]
pub struct VersionVector {
    entries: Vec<(Actor, u64)>,
}

/// What can be asked of a vector, whether it is owned or an archive read in place.
///
/// **Must**: `entry` answers for every index below `count`, in order of the actors.
pub trait Entries {
    /// How many actors it has.
    fn count(&self) -> usize;

    /// The actor and counter at an index below [`Entries::count`].
    fn entry(&self, index: usize) -> (Actor, u64);

    /// The number of an actor's last dot, or 0. Logarithmic.
    fn get(&self, actor: Actor) -> u64 {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = usize::midpoint(low, high);
            let (found, counter) = self.entry(middle);
            match found.cmp(&actor) {
                Ordering::Equal => return counter,
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        0
    }

    /// Whether the event of a dot is contained or superseded.
    fn covers(&self, dot: Dot) -> bool {
        self.get(dot.actor) >= dot.counter
    }

    /// Whether everything that `other` covers is covered here too. Linear.
    fn descends(&self, other: &impl Entries) -> bool
    where
        Self: Sized,
    {
        matches!(self.compare(other), Some(Ordering::Equal | Ordering::Greater))
    }

    /// How the two relate; `None` if they are concurrent. One pass over both.
    fn compare(&self, other: &impl Entries) -> Option<Ordering>
    where
        Self: Sized,
    {
        let (mut left, mut right) = (0, 0);
        let (mut more, mut less) = (false, false);
        while left < self.count() && right < other.count() {
            let ((ours, ours_n), (theirs, theirs_n)) = (self.entry(left), other.entry(right));
            match ours.cmp(&theirs) {
                Ordering::Equal => {
                    more |= ours_n > theirs_n;
                    less |= ours_n < theirs_n;
                    left += 1;
                    right += 1;
                }
                Ordering::Less => {
                    more = true;
                    left += 1;
                }
                Ordering::Greater => {
                    less = true;
                    right += 1;
                }
            }
        }
        more |= left < self.count();
        less |= right < other.count();
        match (more, less) {
            (false, false) => Some(Ordering::Equal),
            (true, false) => Some(Ordering::Greater),
            (false, true) => Some(Ordering::Less),
            (true, true) => None,
        }
    }

    /// Whether actors strictly ascend and no counter is 0: to be asked of every vector from outside.
    fn is_well_formed(&self) -> bool {
        let ascends = |index: usize| index == 0 || self.entry(index - 1).0 < self.entry(index).0;
        (0..self.count()).all(|index| ascends(index) && self.entry(index).1 > 0)
    }

    /// An owned copy.
    fn to_vector(&self) -> VersionVector {
        VersionVector { entries: (0..self.count()).map(|index| self.entry(index)).collect() }
    }
}

impl Entries for VersionVector {
    fn count(&self) -> usize {
        self.entries.len()
    }

    fn entry(&self, index: usize) -> (Actor, u64) {
        self.entries[index]
    }
}

impl Entries for Archived<VersionVector> {
    fn count(&self) -> usize {
        self.entries.len()
    }

    fn entry(&self, index: usize) -> (Actor, u64) {
        let entry = &self.entries[index];
        ((&entry.0).into(), entry.1.to_native())
    }
}

impl VersionVector {
    /// The vector that covers nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether it covers nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Its actors, ascending, with their counters.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Actor, u64)> {
        self.entries.iter().copied()
    }

    /// Makes it cover a dot, and with it every earlier dot of that actor.
    pub fn add(&mut self, dot: Dot) {
        if dot.counter == 0 {
            return;
        }
        match self.entries.binary_search_by_key(&dot.actor, |entry| entry.0) {
            Ok(index) => self.entries[index].1 = self.entries[index].1.max(dot.counter),
            Err(index) => self.entries.insert(index, (dot.actor, dot.counter)),
        }
    }

    /// Takes an actor out: only a fold may, under its licence (PROTOCOLS §1).
    pub fn remove(&mut self, actor: Actor) {
        self.entries.retain(|entry| entry.0 != actor);
    }

    /// Makes it cover everything that `other` covers: the least upper bound. Linear.
    pub fn merge(&mut self, other: &impl Entries) {
        let ours = std::mem::take(&mut self.entries);
        self.entries.reserve(ours.len().max(other.count()));
        let mut ours = ours.into_iter().peekable();
        for index in 0..other.count() {
            let (actor, mut counter) = other.entry(index);
            while let Some(entry) = ours.next_if(|entry| entry.0 < actor) {
                self.entries.push(entry);
            }
            if let Some(entry) = ours.next_if(|entry| entry.0 == actor) {
                counter = counter.max(entry.1);
            }
            self.entries.push((actor, counter));
        }
        self.entries.extend(ours);
    }
}

impl FromIterator<(Actor, u64)> for VersionVector {
    /// The vector that covers all of these, in whatever order they come.
    fn from_iter<I: IntoIterator<Item = (Actor, u64)>>(entries: I) -> Self {
        let mut vector = Self::new();
        for (actor, counter) in entries {
            vector.add(Dot { actor, counter });
        }
        vector
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use rondel_proto::{Msg, id::Incarnation};
    use std::collections::BTreeSet;

    pub(crate) fn actor(number: u64) -> Actor {
        Actor { incarnation: Incarnation(number / 2), birth: number % 2 }
    }

    pub(crate) fn any_vector() -> impl Strategy<Value = VersionVector> {
        prop::collection::vec((0u64..6, 0u64..5), 0..6)
            .prop_map(|entries| entries.into_iter().map(|(who, n)| (actor(who), n)).collect())
    }

    /// What a vector stands for: all the events that it covers.
    fn events(vector: &VersionVector) -> BTreeSet<(Actor, u64)> {
        vector.iter().flat_map(|(actor, n)| (1..=n).map(move |counter| (actor, counter))).collect()
    }

    fn merged(mut left: VersionVector, right: &VersionVector) -> VersionVector {
        left.merge(right);
        left
    }

    #[test]
    fn archives_that_break_the_order_are_found() {
        let good: VersionVector = [(actor(3), 2), (actor(1), 1)].into_iter().collect();
        assert!(Msg::new(&good).is_well_formed());
        let twice = VersionVector { entries: vec![(actor(1), 1), (actor(1), 2)] };
        let falls = VersionVector { entries: vec![(actor(2), 1), (actor(1), 2)] };
        let zero = VersionVector { entries: vec![(actor(1), 0)] };
        for bad in [twice, falls, zero] {
            assert!(!Msg::new(&bad).is_well_formed());
        }
    }

    proptest! {
        #[test]
        fn a_vector_is_the_set_of_events_that_it_covers(left in any_vector(), right in any_vector()) {
            let (ours, theirs) = (events(&left), events(&right));
            let union = merged(left.clone(), &right);
            prop_assert!(union.is_well_formed());
            prop_assert_eq!(events(&union), &ours | &theirs);
            prop_assert_eq!(left.descends(&right), ours.is_superset(&theirs));
            let expected = match (ours.is_superset(&theirs), theirs.is_superset(&ours)) {
                (true, true) => Some(Ordering::Equal),
                (true, false) => Some(Ordering::Greater),
                (false, true) => Some(Ordering::Less),
                (false, false) => None,
            };
            prop_assert_eq!(left.compare(&right), expected);
            for (who, counter) in (0..6).flat_map(|who| (1..6).map(move |n| (actor(who), n))) {
                prop_assert_eq!(left.covers(Dot { actor: who, counter }), ours.contains(&(who, counter)));
            }
        }

        #[test]
        fn an_archive_answers_like_its_vector(left in any_vector(), right in any_vector()) {
            let (left_view, right_view) = (Msg::new(&left), Msg::new(&right));
            prop_assert_eq!(left_view.compare(&*right_view), left.compare(&right));
            prop_assert_eq!(left_view.descends(&right), left.descends(&right));
            prop_assert_eq!(left_view.to_vector(), left.clone());
            let mut merged_in_place = left.clone();
            merged_in_place.merge(&*right_view);
            prop_assert_eq!(merged_in_place, merged(left.clone(), &right));
            for who in (0..6).map(actor) {
                prop_assert_eq!(left_view.get(who), left.get(who));
            }
        }

        #[test]
        fn merging_is_a_join(a in any_vector(), b in any_vector(), c in any_vector()) {
            let ab = merged(a.clone(), &b);
            prop_assert_eq!(&merged(b.clone(), &a), &ab, "commutative");
            prop_assert_eq!(merged(ab.clone(), &c), merged(a.clone(), &merged(b.clone(), &c)), "associative");
            prop_assert_eq!(merged(a.clone(), &a), a.clone(), "idempotent");
            prop_assert!(ab.descends(&a) && ab.descends(&b), "inflationary");
        }
    }
}
