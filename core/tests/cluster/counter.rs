//! A counter that merges: what each actor has counted.

use rondel_core::{
    message,
    proto::{
        Msg,
        id::{Actor, Incarnation},
    },
    table::{Entry, Keyed, Read, Update},
    vnode::{Ctx, Refusal, Registry},
    wire,
};

#[wire]
#[derive(Default, PartialEq)]
pub(crate) struct Count {
    by: Vec<(Actor, u64)>,
}

#[message(id = 1, reply = u64, write)]
pub(crate) struct Add {
    pub(crate) amount: u64,
}

pub(crate) struct Total;

impl Count {
    /// Counters as replicas of one key can hold them: two actors, each with its own count.
    pub(crate) fn samples() -> Vec<Self> {
        let actor = |birth| Actor { incarnation: Incarnation(7), birth };
        let by = |counts: &[(u64, u64)]| Self {
            by: counts.iter().map(|(birth, count)| (actor(*birth), *count)).collect(),
        };
        vec![by(&[]), by(&[(1, 5)]), by(&[(1, 6), (2, 1)]), by(&[(2, 3)]), by(&[(1, 2), (2, 3), (3, 9)])]
    }

    fn total(&self) -> u64 {
        self.by.iter().map(|(_, count)| count).sum()
    }
}

impl Entry for Count {
    const NAME: &'static str = "count";

    fn merge(&mut self, other: Self) {
        for (actor, count) in other.by {
            match self.by.binary_search_by_key(&actor, |(known, _)| *known) {
                Ok(at) => self.by[at].1 = self.by[at].1.max(count),
                Err(at) => self.by.insert(at, (actor, count)),
            }
        }
    }

    fn messages(on: &mut Registry<Keyed<Self>>) {
        on.on::<Add>();
    }
}

impl Update<Count> for Add {
    fn update(add: &Msg<Self>, count: &mut Count, ctx: &mut Ctx<'_, Count>) -> Result<u64, Refusal> {
        let actor = ctx.actor()?;
        let at = count.by.partition_point(|(known, _)| *known < actor);
        if count.by.get(at).is_none_or(|(known, _)| *known != actor) {
            count.by.insert(at, (actor, 0));
        }
        count.by[at].1 += add.amount.to_native();
        Ok(count.total())
    }
}

impl Read<Count> for Total {
    type Reply = u64;

    fn read(self, count: &Count) -> u64 {
        count.total()
    }
}
