//! What a handler is given: the key, its row, and, when it coordinates, dots.

use super::{
    handle::Refusal,
    state::{Held, Merged, State},
};
use crate::{
    mutant::{Mutant, Mutants},
    node::NodeClock,
    ring::Partition,
    store::{
        RowKey,
        row::{Body, Row, RowTag},
    },
};
use bytes::Bytes;
use rondel_proto::{
    Msg, Wire,
    id::{Actor, Dot, Hlc, Incarnation, NodeId, Position, RequestId},
    message::BadArchive,
};
use std::{
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// The counter of a store's incarnation: births and dots are drawn from it, in memory only (PROTOCOLS §1).
#[derive(Debug)]
pub(crate) struct DotSource {
    incarnation: Incarnation,
    counter: AtomicU64,
    clock: Arc<NodeClock>,
    mutants: Mutants,
}

impl DotSource {
    pub(crate) fn new(incarnation: Incarnation, clock: Arc<NodeClock>, mutants: Mutants) -> Self {
        Self { incarnation, counter: AtomicU64::new(0), clock, mutants }
    }

    fn next(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whether this incarnation bore the actor. Of an earlier one, others may rightly know more than its rows do: what was
    /// sent and not yet durable when the power went.
    pub(super) fn bore(&self, actor: Actor) -> bool {
        actor.incarnation == self.incarnation
    }

    /// The row's own actor if this incarnation bore it; else a new birth.
    fn actor(&self, mine: Option<Actor>) -> Actor {
        if self.mutants.has(Mutant::NoBirth) {
            return Actor { incarnation: self.incarnation, birth: 0 };
        }
        mine.filter(|actor| self.bore(*actor) || self.mutants.has(Mutant::AbsorbMine))
            .unwrap_or_else(|| Actor { incarnation: self.incarnation, birth: self.next() })
    }
}

/// The row of a request's key, as the lane sees it: decoded, and with what the request makes of it.
#[derive(Debug)]
pub(crate) struct RowCell {
    pub(crate) content: Content,
    /// What the handler put; becomes the row if it answers `Ok`.
    pub(crate) put: Option<Bytes>,
    pub(crate) actor: Option<Actor>,
}

/// A row as it was read.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    Absent,
    Row(Row),
    Unreadable,
}

impl Content {
    /// What the bytes of a row hold. Memory holds sound rows only, so the checksum of a trusted row is not tried again.
    pub(crate) fn of(at: &RowKey, bytes: Option<&Bytes>, trusted: bool) -> Self {
        let Some(bytes) = bytes else { return Self::Absent };
        let row = if trusted { Row::decode_sound(bytes) } else { Row::decode(at, bytes) };
        row.map_or(Self::Unreadable, Self::Row)
    }

    /// What it is where the store may lack rows: an absent one is unknown, and a hole until a copy arrives.
    pub(crate) fn where_rows_are_lacking(self) -> Self {
        match self {
            Self::Absent => Self::Row(Row { tag: RowTag::ITEM, n_val: 0, mine: None, body: Body::Hole }),
            known => known,
        }
    }
}

/// What a request says of itself, to the handler.
#[derive(Debug, Clone)]
pub(crate) struct Call<'a> {
    pub(crate) key: &'a Bytes,
    pub(crate) position: Position,
    pub(crate) partition: Partition,
    pub(crate) node: NodeId,
    pub(crate) request_id: RequestId,
    pub(crate) unix_ms: u64,
    /// How many slots hold the key.
    pub(crate) n: u8,
    pub(crate) write: bool,
}

/// What a handler is given. All of it concerns one key.
#[derive(Debug)]
pub struct Ctx<'a, I: Wire> {
    pub(crate) call: &'a Call<'a>,
    pub(crate) cell: &'a mut RowCell,
    pub(crate) dots: &'a DotSource,
    pub(crate) coordinating: bool,
    pub(crate) of: PhantomData<fn() -> I>,
}

impl<I: Wire> Ctx<'_, I> {
    /// The key within the service.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        self.call.key
    }

    /// Where it stands on the ring.
    #[must_use]
    pub fn position(&self) -> Position {
        self.call.position
    }

    /// The partition that holds it.
    #[must_use]
    pub fn partition(&self) -> Partition {
        self.call.partition
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.call.node
    }

    /// The client's request, the same over its retries.
    #[must_use]
    pub fn request_id(&self) -> RequestId {
        self.call.request_id
    }

    /// Milliseconds since 1970 by this node's clock. For expiry and display; never for order between nodes.
    #[must_use]
    pub fn unix_ms(&self) -> u64 {
        self.call.unix_ms
    }

    /// How many slots hold the key.
    #[must_use]
    pub fn n(&self) -> u8 {
        self.call.n
    }

    /// What this replica holds for the key, including what this handler has put.
    #[must_use]
    pub fn held(&self) -> Held<I> {
        if let Some(put) = &self.cell.put {
            return read_item(put.clone());
        }
        match &self.cell.content {
            Content::Absent => Held::Absent,
            Content::Unreadable => Held::Unreadable,
            Content::Row(Row { body: Body::Item(item), .. }) => read_item(item.clone()),
            Content::Row(_) => Held::Unreadable,
        }
    }

    /// Makes this the item of the key.
    ///
    /// # Panics
    /// If the message is not declared `write`: a mistake in the application, shown by its first test.
    pub fn put(&mut self, item: &I) {
        assert!(self.call.write, "only a message declared `write` may put");
        self.cell.put = Some(item.encode());
    }

    /// Who this replica is in version vectors of this key. Only for messages sent with `update`.
    ///
    /// # Errors
    /// [`Refusal::NotCoordinating`] otherwise; [`Refusal::Unreadable`] if the row can't be read: a replica that does
    /// not know what it has issued on a key may not issue more.
    pub fn actor(&mut self) -> Result<Actor, Refusal> {
        if !self.coordinating {
            return Err(Refusal::NotCoordinating);
        }
        if let Some(actor) = self.cell.actor {
            return Ok(actor);
        }
        let mine = match &self.cell.content {
            Content::Unreadable => return Err(Refusal::Unreadable),
            Content::Row(Row { body: Body::Hole, .. }) => return Err(Refusal::Unreadable),
            Content::Row(row) => row.mine,
            Content::Absent => None,
        };
        let actor = self.dots.actor(mine);
        self.cell.actor = Some(actor);
        Ok(actor)
    }

    /// The next dot of this replica for this key. Never issued twice.
    ///
    /// # Errors
    /// As [`Ctx::actor`].
    pub fn dot(&mut self) -> Result<Dot, Refusal> {
        let actor = self.actor()?;
        Ok(Dot { actor, counter: self.dots.next() })
    }

    /// A time of the hybrid logical clock, later than `seen` and than every time this node gave before.
    #[must_use]
    pub fn hlc(&self, seen: Hlc) -> Hlc {
        self.dots.clock.next(self.call.unix_ms, seen)
    }
}

fn read_item<I: Wire>(bytes: Bytes) -> Held<I> {
    Msg::from_bytes(bytes).map_or(Held::Unreadable, Held::Item)
}

/// Merges an arriving item into the one that is held: the one end of every transfer between replicas. A held item
/// that does not decode gives way.
pub(crate) fn merge<V: State>(held: &Bytes, incoming: &Bytes) -> Result<Absorbed, BadArchive> {
    if held == incoming {
        return Ok(Absorbed::Unchanged);
    }
    let incoming = Msg::<V::Item>::from_bytes(incoming.clone())?;
    let Ok(held) = Msg::<V::Item>::from_bytes(held.clone()) else {
        return Ok(Absorbed::Changed(incoming.bytes().clone()));
    };
    Ok(match V::merge(&held, &incoming) {
        Merged::Held => Absorbed::Unchanged,
        Merged::Incoming => Absorbed::Changed(incoming.bytes().clone()),
        Merged::Both(item) => Absorbed::Changed(item.encode()),
    })
}

/// What an arriving item made of the one that was held.
#[derive(Debug)]
pub(crate) enum Absorbed {
    /// It was known.
    Unchanged,
    /// This is the item now.
    Changed(Bytes),
}
