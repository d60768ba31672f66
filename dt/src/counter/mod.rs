//! A counter that goes up and down, and that every replica may count on at once.
//!
//! Each actor counts in a part of its own: how much it has counted up, and how much down. Only its actor changes
//! a part, and neither number ever falls, so of two copies of a part the one with the larger numbers is the later
//! one. Invariant: the parts are in the order of their actors, one for each.
//!
//! An actor is one birth of a row under one opening of a store (PROTOCOLS §1), never a node: a replica that comes
//! back without its row begins a new part, instead of counting on from a number that others already hold. Parts are
//! never folded together, so a counter grows by 32 bytes whenever a node that counts on it is restarted.
//!
//! Source: the PN-counter [CRDT §3.1.3]; Riak's `riak_dt_pncounter`, which has a part for each vnode.

mod client;

pub use client::{CountError, Counters};

use rondel_core::{
    message,
    proto::{Msg, id::Actor},
    table::{Entry, Keyed, Read, Update},
    vnode::{Ctx, Refusal, Registry},
    wire,
};

/// The value of one key.
#[wire]
#[derive(Default, PartialEq, Eq)]
pub struct Counter {
    parts: Vec<Part>,
}

/// What one actor has counted. Neither number ever falls.
#[wire]
#[derive(Copy, PartialEq, Eq)]
struct Part {
    actor: Actor,
    up: u64,
    down: u64,
}

/// Counts up. The reply is the coordinator's view, which may lack what others have counted meanwhile.
#[message(id = 1, reply = i128, write)]
#[derive(Copy, PartialEq, Eq)]
pub struct Increment {
    /// By how much.
    pub by: u64,
}

/// Counts down. The reply is as that of [`Increment`].
#[message(id = 2, reply = i128, write)]
#[derive(Copy, PartialEq, Eq)]
pub struct Decrement {
    /// By how much.
    pub by: u64,
}

/// What a counter stands at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value;

impl Counter {
    /// All that was counted up, less all that was counted down. Nothing overflows: parts are 64 bits wide.
    #[must_use]
    pub fn value(&self) -> i128 {
        self.parts.iter().map(|part| i128::from(part.up) - i128::from(part.down)).sum()
    }

    /// How many actors have counted: what the counter's size depends on.
    #[must_use]
    pub fn actors(&self) -> usize {
        self.parts.len()
    }

    /// Counts by one actor. If the actor can count no further in a direction, nothing changes.
    fn count(&mut self, actor: Actor, up: u64, down: u64) -> Result<i128, Refusal> {
        let part = self.part(actor);
        match (part.up.checked_add(up), part.down.checked_add(down)) {
            (Some(up), Some(down)) => *part = Part { actor, up, down },
            _ => return Err(Refusal::Because(FULL.into())),
        }
        Ok(self.value())
    }

    /// The part of an actor, new if it has none.
    fn part(&mut self, actor: Actor) -> &mut Part {
        let at = match self.parts.binary_search_by_key(&actor, |part| part.actor) {
            Ok(at) => at,
            Err(at) => {
                self.parts.insert(at, Part { actor, up: 0, down: 0 });
                at
            }
        };
        &mut self.parts[at]
    }
}

/// Counting on from the other end would lose what was counted, and stopping short would acknowledge what was not.
const FULL: &str = "one replica's part of this counter would exceed 64 bits: nothing was counted; count in smaller \
                    steps, or on several keys";

impl Entry for Counter {
    const NAME: &'static str = "counters";

    fn merge(&mut self, other: Self) {
        for Part { actor, up, down } in other.parts {
            let part = self.part(actor);
            *part = Part { actor, up: part.up.max(up), down: part.down.max(down) };
        }
    }

    fn issued(&self, actor: Actor) -> u64 {
        let part = self.parts.iter().find(|part| part.actor == actor);
        part.map_or(0, |part| part.up.saturating_add(part.down))
    }

    fn messages(on: &mut Registry<Keyed<Self>>) {
        on.on::<Increment>().on::<Decrement>();
    }
}

impl Update<Counter> for Increment {
    fn update(
        message: &Msg<Self>,
        counter: &mut Counter,
        ctx: &mut Ctx<'_, Counter>,
    ) -> Result<i128, Refusal> {
        counter.count(ctx.actor()?, message.by.to_native(), 0)
    }
}

impl Update<Counter> for Decrement {
    fn update(
        message: &Msg<Self>,
        counter: &mut Counter,
        ctx: &mut Ctx<'_, Counter>,
    ) -> Result<i128, Refusal> {
        counter.count(ctx.actor()?, 0, message.by.to_native())
    }
}

impl Read<Counter> for Value {
    type Reply = i128;

    fn read(self, counter: &Counter) -> i128 {
        counter.value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};
    use rondel_core::{
        proto::{Wire, id::Incarnation},
        testing::check_entry_laws,
    };

    fn actor(number: u64) -> Actor {
        Actor { incarnation: Incarnation(number / 2), birth: number % 2 }
    }

    /// What happens to the copies of one key.
    #[derive(Debug, Clone)]
    enum Step {
        Count {
            replica: usize,
            up: u64,
            down: u64,
        },
        Absorb {
            from: usize,
            to: usize,
        },
        /// The replica loses its row, and is another actor from then on.
        Forget {
            replica: usize,
        },
    }

    const REPLICAS: usize = 3;

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let replica = 0..REPLICAS;
        let amounts = (0..1000_u64, 0..1000_u64);
        vec(
            prop_oneof![
                4 => (replica.clone(), amounts).prop_map(|(replica, (up, down))| Step::Count { replica, up, down }),
                4 => (replica.clone(), replica.clone()).prop_map(|(from, to)| Step::Absorb { from, to }),
                1 => replica.prop_map(|replica| Step::Forget { replica }),
            ],
            0..40,
        )
    }

    /// Runs the steps; gives every copy that there was, and what of it all was counted somewhere.
    fn run(steps: &[Step]) -> (Vec<Counter>, [Counter; REPLICAS]) {
        let mut replicas: [Counter; REPLICAS] = Default::default();
        let mut actors = [0, 1, 2];
        let mut copies = Vec::new();
        for step in steps {
            match *step {
                Step::Count { replica, up, down } => {
                    replicas[replica].count(actor(actors[replica]), up, down).unwrap();
                    copies.push(replicas[replica].clone());
                }
                Step::Absorb { from, to } => {
                    let incoming = replicas[from].clone();
                    replicas[to].merge(incoming);
                    copies.push(replicas[to].clone());
                }
                Step::Forget { replica } => {
                    replicas[replica] = Counter::default();
                    actors[replica] += u64::try_from(REPLICAS).unwrap();
                }
            }
        }
        (copies, replicas)
    }

    fn merged(copies: &[Counter]) -> Counter {
        copies.iter().fold(Counter::default(), |mut all, copy| {
            all.merge(copy.clone());
            all
        })
    }

    /// Whether a counter holds all that another holds.
    fn holds(counter: &Counter, other: &Counter) -> bool {
        other.parts.iter().all(|part| {
            let held = counter.parts.iter().find(|held| held.actor == part.actor);
            held.is_some_and(|held| held.up >= part.up && held.down >= part.down)
        })
    }

    proptest! {
        #[test]
        fn copies_merge_commutatively_associatively_idempotently(steps in steps()) {
            let (copies, _) = run(&steps);
            check_entry_laws(&copies[copies.len().saturating_sub(6)..]);
        }

        #[test]
        fn no_step_and_no_merge_takes_anything_away(steps in steps()) {
            for length in 1..=steps.len() {
                let (_, before) = run(&steps[..length - 1]);
                let (_, after) = run(&steps[..length]);
                let forgotten = match steps[length - 1] {
                    Step::Forget { replica } => Some(replica),
                    _ => None,
                };
                for replica in (0..REPLICAS).filter(|replica| Some(*replica) != forgotten) {
                    prop_assert!(holds(&after[replica], &before[replica]));
                }
            }
        }

        #[test]
        fn the_merge_of_all_copies_is_all_that_was_counted(steps in steps()) {
            let counted: i128 = steps.iter().map(|step| match step {
                Step::Count { up, down, .. } => i128::from(*up) - i128::from(*down),
                _ => 0,
            }).sum();
            let (copies, _) = run(&steps);
            prop_assert_eq!(merged(&copies).value(), counted);
        }

        #[test]
        fn equal_counters_have_equal_archives_whatever_the_order_of_merging(steps in steps()) {
            let (mut copies, _) = run(&steps);
            let forwards = merged(&copies);
            copies.reverse();
            prop_assert_eq!(merged(&copies).encode(), forwards.encode());
        }
    }

    #[test]
    fn a_part_that_is_full_refuses_and_stays_as_it_was() {
        let mut counter = Counter::default();
        assert_eq!(counter.count(actor(0), u64::MAX, 0), Ok(i128::from(u64::MAX)));
        let before = counter.clone();
        assert!(matches!(counter.count(actor(0), 1, 0), Err(Refusal::Because(_))));
        assert_eq!(counter, before);
        assert_eq!(counter.count(actor(0), 0, 7), Ok(i128::from(u64::MAX) - 7));
        assert_eq!(counter.count(actor(1), u64::MAX, 0), Ok(2 * i128::from(u64::MAX) - 7));
    }

    #[test]
    fn a_counter_may_fall_below_zero() {
        let mut counter = Counter::default();
        assert_eq!(counter.count(actor(0), 0, u64::MAX), Ok(-i128::from(u64::MAX)));
        assert_eq!(counter.actors(), 1);
    }
}
