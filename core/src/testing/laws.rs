//! The laws of what merges, tried on items that you give: as many and as different ones as your test can make.
//!
//! Every transfer between replicas ends in a merge, in any order and more than once. An item whose merge breaks a law
//! makes replicas that differ for ever; these checks say which law, and on which items.

use crate::{
    table::{Entry, Keyed},
    vnode::{Digest, Merged, State},
};
use rondel_proto::Msg;

/// Tries the laws of [`State`] on every one, two and three of these items: they should be such as replicas of one key
/// can hold at once.
///
/// # Panics
/// With the law that is broken, in words, and the items that break it.
#[track_caller]
pub fn check_state_laws<V: State>(key: &[u8], items: &[V::Item]) {
    let laws = Laws::<V> { key, items: items.iter().map(Msg::new).collect() };
    let all = 0..laws.items.len();
    for a in all.clone() {
        laws.of_one(a);
        all.clone().for_each(|b| laws.of_two(a, b));
    }
    for a in all.clone() {
        for b in all.clone() {
            all.clone().for_each(|c| laws.of_three(a, b, c));
        }
    }
}

/// Tries the laws of [`Entry`] on every one, two and three of these entries of one key.
///
/// # Panics
/// As [`check_state_laws`].
#[track_caller]
pub fn check_entry_laws<E: Entry>(entries: &[E]) {
    check_state_laws::<Keyed<E>>(b"key", entries);
}

struct Laws<'a, V: State> {
    key: &'a [u8],
    items: Vec<Msg<V::Item>>,
}

impl<V: State> Laws<'_, V> {
    fn digest(&self, item: &Msg<V::Item>) -> Digest {
        V::digest(self.key, item)
    }

    fn merge(&self, held: &Msg<V::Item>, incoming: &Msg<V::Item>) -> Msg<V::Item> {
        match V::merge(held, incoming) {
            Merged::Held => held.clone(),
            Merged::Incoming => incoming.clone(),
            Merged::Both(item) => Msg::new(&item),
        }
    }

    #[track_caller]
    fn of_one(&self, a: usize) {
        let item = &self.items[a];
        let again = Msg::new(&item.to_owned());
        assert!(
            self.digest(item) == self.digest(&again),
            "an item must have one digest, however often it is encoded, but item {a} has two: {item:?}"
        );
        assert!(
            self.digest(&self.merge(item, item)) == self.digest(item),
            "merge must be idempotent, but item {a} merged with itself is another item: {item:?}"
        );
    }

    #[track_caller]
    fn of_two(&self, a: usize, b: usize) {
        let (first, second) = (&self.items[a], &self.items[b]);
        let both = self.merge(first, second);
        let digest = self.digest(&both);
        assert!(
            digest == self.digest(&self.merge(second, first)),
            "merge must be commutative, but items {a} and {b} make a difference in which order they are merged:\n\
             {first:?}\n{second:?}"
        );
        assert!(
            digest == self.digest(&self.merge(&both, second))
                && digest == self.digest(&self.merge(&both, first)),
            "an item that arrives again must change nothing, but the merge of items {a} and {b} is changed by one of \
             them:\n{first:?}\n{second:?}"
        );
        if self.digest(first) == self.digest(second) {
            assert!(
                digest == self.digest(first),
                "items with equal digests must mean the same, but merging {a} and {b}, whose digests are equal, gives \
                 another item:\n{first:?}\n{second:?}"
            );
        }
    }

    #[track_caller]
    fn of_three(&self, a: usize, b: usize, c: usize) {
        let [first, second, third] = [a, b, c].map(|at| &self.items[at]);
        let left = self.merge(&self.merge(first, second), third);
        let right = self.merge(first, &self.merge(second, third));
        assert!(
            self.digest(&left) == self.digest(&right),
            "merge must be associative, but the order in which items {a}, {b} and {c} arrive makes a difference:\n\
             {first:?}\n{second:?}\n{third:?}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vnode::Registry;
    use proptest::{collection::vec, prelude::*};
    use rondel_proto::wire;
    use std::panic::catch_unwind;

    /// Merges lists of numbers by a rule, right or wrong.
    struct By<const RULE: u8>;

    const UNION: u8 = 0;
    const APPEND: u8 = 1;
    const SUM: u8 = 2;
    const LATER: u8 = 3;
    const AVERAGE: u8 = 4;
    const BEATS: u8 = 5;

    fn merged<const RULE: u8>(held: &[u32], other: &[u32]) -> Vec<u32> {
        let sum = |numbers: &[u32]| numbers.iter().sum::<u32>();
        match RULE {
            APPEND => {
                let new = other.iter().filter(|number| !held.contains(number));
                held.iter().chain(new).copied().collect()
            }
            SUM => vec![sum(held) + sum(other)],
            LATER => other.to_vec(),
            AVERAGE => vec![(sum(held) + sum(other)).div_ceil(2)],
            // Rock, paper, scissors: each beats one other, so who is left depends on who met first.
            BEATS => {
                if (sum(held) + 1) % 3 == sum(other) % 3 {
                    other.to_vec()
                } else {
                    held.to_vec()
                }
            }
            _ => {
                let mut union = [held, other].concat();
                union.sort_unstable();
                union.dedup();
                union
            }
        }
    }

    impl<const RULE: u8> State for By<RULE> {
        type Item = Vec<u32>;

        fn merge(held: &Msg<Vec<u32>>, incoming: &Msg<Vec<u32>>) -> Merged<Vec<u32>> {
            Merged::Both(merged::<RULE>(&held.to_owned(), &incoming.to_owned()))
        }
    }

    fn broken<const RULE: u8>() -> String {
        let items = [vec![1], vec![2], vec![9]];
        let panic = catch_unwind(|| check_state_laws::<By<RULE>>(b"k", &items)).unwrap_err();
        panic.downcast_ref::<String>().unwrap().clone()
    }

    #[test]
    fn each_broken_law_is_named() {
        assert!(broken::<APPEND>().starts_with("merge must be commutative"), "{}", broken::<APPEND>());
        assert!(broken::<SUM>().starts_with("merge must be idempotent"), "{}", broken::<SUM>());
        assert!(broken::<LATER>().starts_with("merge must be commutative"), "{}", broken::<LATER>());
        assert!(broken::<AVERAGE>().starts_with("an item that arrives again"), "{}", broken::<AVERAGE>());
        assert!(broken::<BEATS>().starts_with("merge must be associative"), "{}", broken::<BEATS>());
    }

    #[wire(crate = rondel_proto)]
    #[derive(Default, PartialEq)]
    struct Highest {
        number: u32,
        merges: u32,
    }

    /// Keeps a cache in the entry: what merging gives depends on how often it was done.
    impl Entry for Highest {
        const NAME: &'static str = "highest";

        fn merge(&mut self, other: Self) {
            self.number = self.number.max(other.number);
            self.merges += 1;
        }

        fn messages(_: &mut Registry<Keyed<Self>>) {}
    }

    #[test]
    fn an_entry_with_a_cache_in_it_is_found_out() {
        let entries = [Highest { number: 1, merges: 0 }, Highest { number: 2, merges: 0 }];
        let panic = catch_unwind(|| check_entry_laws(&entries)).unwrap_err();
        assert!(panic.downcast_ref::<String>().unwrap().starts_with("merge must be idempotent"));
    }

    proptest! {
        #[test]
        fn a_lawful_merge_passes(sets in vec(vec(0..9_u32, 0..4), 1..5)) {
            let sorted: Vec<_> = sets.iter().map(|set| merged::<UNION>(set, &[])).collect();
            check_state_laws::<By<UNION>>(b"k", &sorted);
        }
    }
}
