//! The table layer: write one mergeable entry and what can be done to it; core writes the vnode.
//!
//! An [`Entry`] is the value of one key. It merges with any other entry of that key; that is all replication needs.
//! [`Update`]s run at one replica, which sends the entry to the others; a [`Read`] runs on the merge of a quorum.
//! A `Table<E>` is a [`Service`](crate::request::Service) of the vnode [`Keyed<E>`], so nobody hits a wall: the
//! vnode layer's requests work on it too.

use crate::ring::Partition;
use crate::vnode::{BoxError, Ctx, Handle, Held, Merged, Refusal, Registry, State, Vnode};
use rondel_proto::{Message, Msg, Wire, id::Actor};
use std::marker::PhantomData;

/// The value of one key, and how two of it merge.
pub trait Entry: Wire + Default + Clone {
    /// The table's name, on the wire and on disk for ever: `[a-z0-9-]`, at most 32 characters.
    const NAME: &'static str;

    /// Merges another entry of the same key into this one.
    ///
    /// **Must** be commutative, associative and idempotent, and equal results must be equal values: ordered maps, no
    /// caches. `testing::check_entry_laws` tries all of it.
    fn merge(&mut self, other: Self);

    /// How far the entry knows this actor: see [`State::issued`].
    fn issued(&self, actor: Actor) -> u64 {
        let _ = actor;
        0
    }

    /// Names every update: `on.on::<Increment>();`.
    fn messages(on: &mut Registry<Keyed<Self>>);
}

/// Changes an entry, at one replica.
#[diagnostic::on_unimplemented(
    message = "table `{E}` has no update `{Self}`",
    note = "implement `Update<{E}>` for `{Self}` and add `.on::<{Self}>()` to `fn messages`"
)]
pub trait Update<E: Entry>: Message {
    /// Changes the entry and gives the reply: this replica's view, not yet that of the others.
    ///
    /// # Errors
    /// [`Refusal`]: the entry stays as it was.
    fn update(update: &Msg<Self>, entry: &mut E, ctx: &mut Ctx<'_, E>) -> Result<Self::Reply, Refusal>;
}

/// Asks something of the merge of a quorum of replicas.
pub trait Read<E: Entry>: Send + 'static {
    /// The answer.
    type Reply;

    /// The answer for an entry; a key that was never written has the default one.
    fn read(self, entry: &E) -> Self::Reply;
}

/// The vnode of a table.
#[derive(Debug)]
pub struct Keyed<E>(PhantomData<fn() -> E>);

impl<E: Entry> State for Keyed<E> {
    type Item = E;

    fn merge(held: &Msg<E>, incoming: &Msg<E>) -> Merged<E> {
        let mut merged = held.to_owned();
        merged.merge(incoming.to_owned());
        let archive = merged.encode();
        if archive == *held.bytes() {
            Merged::Held
        } else if archive == *incoming.bytes() {
            Merged::Incoming
        } else {
            Merged::Both(merged)
        }
    }

    fn issued(item: &Msg<E>, actor: Actor) -> u64 {
        item.to_owned().issued(actor)
    }
}

impl<E: Entry> Vnode for Keyed<E> {
    const NAME: &'static str = E::NAME;
    type Config = ();

    fn open((): &(), _: Partition) -> Result<Self, BoxError> {
        Ok(Self(PhantomData))
    }

    fn messages(on: &mut Registry<Self>) {
        E::messages(on);
    }
}

impl<E: Entry, M: Update<E>> Handle<M> for Keyed<E> {
    fn handle(&mut self, message: &Msg<M>, ctx: &mut Ctx<'_, E>) -> Result<M::Reply, Refusal> {
        let mut entry = match ctx.held() {
            Held::Absent => E::default(),
            Held::Item(item) => item.to_owned(),
            Held::Unreadable => return Err(Refusal::Unreadable),
        };
        let reply = M::update(message, &mut entry, ctx)?;
        ctx.put(&entry);
        Ok(reply)
    }
}
