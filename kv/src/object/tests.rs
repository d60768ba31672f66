//! Objects as a key's copies hold them, against a model of events.

use super::*;
use crate::{content::tests::full, vnode::KvVnode};
use proptest::prelude::*;
use rondel_core::{
    causal::{Actor, Incarnation},
    testing::check_state_laws,
};
use std::collections::BTreeSet;

fn actor(number: u64) -> Actor {
    Actor { incarnation: Incarnation(number), birth: 1 }
}

fn dot(who: u64, counter: u64) -> Dot {
    Dot { actor: actor(who), counter }
}

fn sibling(dot: Dot, content: Content) -> Sibling {
    let number = u128::from(dot.actor.incarnation.0 << 32 | dot.counter);
    Sibling::new(dot, RequestId(number), Hlc(dot.counter << 16), content)
}

fn put(held: Option<&Msg<Object>>, context: &VersionVector, dot: Dot) -> Msg<Object> {
    let content = Content::text(format!("{dot:?}"));
    Msg::new(&Object::written(held, context, sibling(dot, content), true))
}

fn merged(held: &Msg<Object>, incoming: &Msg<Object>) -> Msg<Object> {
    match merge(held, incoming) {
        Merged::Held => held.clone(),
        Merged::Incoming => incoming.clone(),
        Merged::Both(both) => Msg::new(&both),
    }
}

/// A copy, and what it must hold: the writes that it knows of, and those that some write has superseded.
#[derive(Debug, Clone)]
struct Copy {
    object: Msg<Object>,
    seen: BTreeSet<Dot>,
    superseded: BTreeSet<Dot>,
}

impl Copy {
    fn new() -> Self {
        Self { object: Msg::new(&Object::default()), seen: BTreeSet::new(), superseded: BTreeSet::new() }
    }

    fn live(&self) -> Vec<Dot> {
        self.seen.difference(&self.superseded).copied().collect()
    }

    fn write(&mut self, read: Option<&Self>, dot: Dot) {
        let context = read.map(|read| Object::context(&read.object).vector).unwrap_or_default();
        self.object = put(Some(&self.object), &context, dot);
        if let Some(read) = read {
            self.superseded.extend(&read.seen);
            self.seen.extend(&read.seen);
        }
        self.seen.insert(dot);
    }

    fn absorb(&mut self, other: &Self) {
        self.object = merged(&self.object, &other.object);
        self.seen.extend(&other.seen);
        self.superseded.extend(&other.superseded);
    }
}

#[derive(Debug, Clone)]
enum Event {
    Write { replica: usize, read: Option<usize> },
    Read { replica: usize },
    Absorb { into: usize, from: usize },
}

const REPLICAS: usize = 3;

fn any_history() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        (0..REPLICAS, prop::option::of(0usize..12))
            .prop_map(|(replica, read)| Event::Write { replica, read }),
        (0..REPLICAS).prop_map(|replica| Event::Read { replica }),
        (0..REPLICAS, 0..REPLICAS).prop_map(|(into, from)| Event::Absorb { into, from }),
    ];
    prop::collection::vec(event, 1..30)
}

/// All the copies that there were in a history.
fn copies_of(history: &[Event]) -> Vec<Copy> {
    let mut replicas: [Copy; REPLICAS] = std::array::from_fn(|_| Copy::new());
    let (mut reads, mut copies, mut counter) = (Vec::new(), Vec::new(), 0);
    for event in history {
        match *event {
            Event::Write { replica, read } => {
                counter += 1;
                let read: Option<Copy> = read.and_then(|read| reads.get(read)).cloned();
                replicas[replica].write(read.as_ref(), dot(replica as u64, counter));
            }
            Event::Read { replica } => reads.push(replicas[replica].clone()),
            Event::Absorb { into, from } => {
                let from = replicas[from].clone();
                replicas[into].absorb(&from);
            }
        }
        copies.extend(replicas.clone());
    }
    copies
}

fn any_copies() -> impl Strategy<Value = [Copy; 3]> {
    (any_history(), any::<[prop::sample::Index; 3]>()).prop_map(|(history, places)| {
        let copies = copies_of(&history);
        places.map(|place| place.get(&copies).clone())
    })
}

proptest! {
    #[test]
    fn a_copy_holds_exactly_the_writes_that_nothing_has_superseded(history in any_history()) {
        for copy in copies_of(&history) {
            prop_assert_eq!(dots(&copy.object), copy.live());
            prop_assert!(copy.seen.iter().all(|dot| copy.object.vector.covers(*dot)));
            prop_assert!(copy.object.vector.is_well_formed());
        }
    }

    #[test]
    fn merging_is_a_join([a, b, c] in any_copies()) {
        let [a, b, c] = [a.object, b.object, c.object];
        let ab = merged(&a, &b);
        prop_assert_eq!(&merged(&b, &a).to_owned(), &ab.to_owned(), "commutative");
        prop_assert_eq!(merged(&ab, &c).to_owned(), merged(&a, &merged(&b, &c)).to_owned(), "associative");
        prop_assert!(matches!(merge(&a, &a.clone()), Merged::Held), "idempotent");
        prop_assert!(matches!(merge(&ab, &a), Merged::Held), "inflationary: what was merged adds nothing");
        prop_assert!(matches!(merge(&ab, &b), Merged::Held));
        let known = merge(&a, &ab);
        prop_assert!(matches!(known, Merged::Incoming | Merged::Held), "no value is copied to learn a later copy");
    }

    #[test]
    fn copies_have_one_digest_exactly_if_they_mean_the_same([a, b, _] in any_copies()) {
        let same = a.object.to_owned() == b.object.to_owned();
        prop_assert_eq!(digest(b"k", &a.object) == digest(b"k", &b.object), same);
        prop_assert_ne!(digest(b"k", &a.object), digest(b"l", &a.object));
    }

    #[test]
    fn the_size_is_never_understated(history in any_history(), value in 0usize..2_000) {
        for copy in copies_of(&history) {
            let content = Content { value: vec![7; value], ..full() };
            let written = sibling(dot(9, 1_000), content);
            let object = Object::written(Some(&copy.object), &VersionVector::new(), written, true);
            prop_assert!(object.bytes() >= object.encode().len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn cores_laws_hold_for_the_copies_of_a_key(history in any_history()) {
        let items: Vec<Object> =
            copies_of(&history).iter().step_by(3).take(16).map(|copy| copy.object.to_owned()).collect();
        check_state_laws::<KvVnode>(b"key", &items);
    }
}

#[test]
fn a_blind_write_makes_a_sibling_and_a_write_with_context_replaces_what_was_read() {
    let first = put(None, &VersionVector::new(), dot(1, 1));
    let two = put(Some(&first), &VersionVector::new(), dot(1, 2));
    assert_eq!(dots(&two), [dot(1, 1), dot(1, 2)]);
    let read = Object::context(&two).vector;
    let three = put(Some(&two), &VersionVector::new(), dot(1, 3));
    let resolved = put(Some(&three), &read, dot(1, 4));
    assert_eq!(dots(&resolved), [dot(1, 3), dot(1, 4)]);
}

#[test]
fn where_siblings_are_not_kept_a_write_replaces_all_and_supersedes_it() {
    let first = put(None, &VersionVector::new(), dot(1, 1));
    let second = sibling(dot(2, 1), Content::text("b"));
    let second = Msg::new(&Object::written(Some(&first), &VersionVector::new(), second, false));
    assert_eq!(dots(&second), [dot(2, 1)]);
    assert!(matches!(merge(&first, &second), Merged::Incoming));
}

#[test]
fn siblings_of_one_request_are_shown_once_and_the_context_covers_both() {
    let content = || Content::text("same");
    let one = Sibling::new(dot(1, 1), RequestId(7), Hlc(1), content());
    let two = Sibling::new(dot(2, 1), RequestId(7), Hlc(2), content());
    let other = Sibling::new(dot(3, 1), RequestId(8), Hlc(3), content());
    let vector = [one.dot, two.dot, other.dot].map(|dot| (dot.actor, dot.counter)).into_iter().collect();
    let object = Msg::new(&Object { vector, siblings: vec![one.clone(), two.clone(), other.clone()] });
    assert_eq!(view(&object, 0), [one.clone(), other.clone()]);
    assert!([&one, &two, &other].iter().all(|sibling| Object::context(&object).vector.covers(sibling.dot)));
    assert_eq!(view_newest(&object, 0), [other]);
    assert!(has_request(&object, RequestId(7)) && !has_request(&object, RequestId(9)));
}

#[test]
fn an_expired_value_reads_as_a_tombstone_and_its_digest_stays() {
    let content = Content { expires_at_ms: Some(1_000), ..Content::text("brief") };
    let object = Object::written(None, &VersionVector::new(), sibling(dot(1, 1), content.clone()), true);
    let object = Msg::new(&object);
    assert_eq!(view(&object, 999)[0].content, content);
    assert!(!reads_as_deleted(&object, 999, true));
    assert_eq!(view(&object, 1_000)[0].content, Content::tombstone());
    assert!(reads_as_deleted(&object, 1_000, true) && reads_as_deleted(&object, 1_000, false));
}

#[test]
fn last_modified_follows_the_clock_of_the_write() {
    let at = |hlc| Sibling::new(dot(1, 1), RequestId(1), Hlc(hlc), Content::default()).last_modified_us();
    assert_eq!(at(1_700_000_000_123 << 16), 1_700_000_000_123_000);
    assert_eq!(at(1_700_000_000_123 << 16 | 7), 1_700_000_000_123_007);
    assert_eq!(at(1_700_000_000_123 << 16 | 0xFFFF), 1_700_000_000_123_999);
    assert!(at(u64::MAX) > at(0), "the end of time is no panic");
}

#[test]
fn an_object_on_disk_is_read_for_ever() {
    let object = Object {
        vector: [(actor(1), 5), (actor(2), 3)].into_iter().collect(),
        siblings: vec![
            Sibling::new(dot(1, 5), RequestId(0xA1), Hlc(0xB1), full()),
            Sibling::new(dot(2, 3), RequestId(0xA2), Hlc(0xB2), Content::tombstone()),
        ],
    };
    let digits: Vec<u8> = include_str!("golden.hex").bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    let golden: bytes::Bytes = digits.chunks(2).map(byte).collect();
    assert_eq!(Msg::<Object>::from_bytes(golden.clone()).unwrap().to_owned(), object);
    assert_eq!(
        object.encode(),
        golden,
        "what is written now is read by the release that wrote the golden one"
    );
    assert_eq!(digest(b"key", &Msg::new(&object)).0, 16_284_796_653_504_735_503);
    assert_eq!(object.siblings[0].vtag(), "uSrJfqVaXATZJavhyCM3x");
}
