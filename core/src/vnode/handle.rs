//! What a builder writes: [`Vnode`] and one [`Handle`] per message.
//!
//! Handlers are synchronous. Core runs them on lanes, one at a time per vnode, with the row of the key at hand; what
//! a handler writes joins the lane's batch, and its reply leaves when the batch is durable. So group commit spans
//! all vnodes of a node without a line of code in the vnode.

use super::{ctx::Ctx, state::State};
use crate::{reply::Failure, reply::FailureCode, ring::Partition, store::RowKey};
use bytes::Bytes;
use rondel_proto::{Message, Msg, Schema, Wire, id::Position, schema};
use rustc_hash::FxHashMap;
use std::fmt;

/// Any error of an application.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where a service keeps its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Storage {
    /// In the node's store: an acknowledged write is on disk.
    #[default]
    Durable,
    /// In memory: an acknowledged write survives as long as one node that took it runs.
    Memory,
}

/// The part of a service that serves one partition on one node. Made when it is first needed, never entered by two
/// threads at once.
pub trait Vnode: State + Sized {
    /// The service's name, on the wire for ever: `[a-z0-9-]`, at most 32 characters.
    const NAME: &'static str;
    /// Where its rows are kept.
    const STORAGE: Storage = Storage::Durable;
    /// What every vnode of the service is given when it is made.
    type Config: Clone + Send + Sync + 'static;

    /// Makes the vnode of a partition. It is made anew after a handler panicked.
    ///
    /// # Errors
    /// Whatever the application reports; requests for the partition are answered with it, and the next one tries again.
    fn open(config: &Self::Config, partition: Partition) -> Result<Self, BoxError>;

    /// Names every message that the service handles.
    fn messages(on: &mut Registry<Self>);

    /// Where a key stands on the ring. The default hashes the whole key; an application that wants some keys together
    /// hashes less of it. Never changed once data is stored.
    #[must_use]
    fn position(key: &[u8]) -> Position {
        crate::ring::position_of(&[key])
    }
}

/// Handles one message. An error leaves the row as it was.
#[diagnostic::on_unimplemented(
    message = "vnode `{Self}` does not handle `{M}`",
    note = "implement `Handle<{M}>` for `{Self}` and add `.on::<{M}>()` to `fn messages`"
)]
pub trait Handle<M: Message>: Vnode {
    /// The reply. What it put into the row of the key is kept only if it answers `Ok`.
    ///
    /// **Must** not wait, read clocks or draw random numbers other than the context's: a lane serves many vnodes, and
    /// a simulation must run the same way twice. Only a message declared `write` may put.
    ///
    /// # Errors
    /// [`Refusal`], which reaches the caller as it is; nothing was changed.
    fn handle(&mut self, message: &Msg<M>, ctx: &mut Ctx<'_, Self::Item>) -> Result<M::Reply, Refusal>;
}

/// Why a handler does not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The application's reason, for the caller.
    #[error("{0}")]
    Because(String),
    /// The row of the key can't be read on this replica.
    #[error("the row is damaged on this replica")]
    Unreadable,
    /// The message needs a dot and must be sent with `update`.
    #[error("this message must be sent with `update`, which makes one replica its coordinator")]
    NotCoordinating,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Because(reason) => Self::because(FailureCode::Refused, reason),
            Refusal::Unreadable => Self::new(FailureCode::Corrupt),
            Refusal::NotCoordinating => Self::because(FailureCode::Refused, refusal),
        }
    }
}

/// A question asked of every item of a service, answered replica by replica on slices of rows.
pub trait Scan<V: Vnode>: Message {
    /// The answer for one item; `None` leaves it out. Pure.
    fn row(query: &Msg<Self>, key: &[u8], item: &Msg<V::Item>) -> Option<Self::Reply>;
}

pub(crate) type HandleFn<V> = fn(&mut V, Bytes, &mut Ctx<'_, <V as State>::Item>) -> Result<Bytes, Failure>;
pub(crate) type ScanFn = fn(&Bytes, &RowKey, &Bytes) -> Result<Option<Bytes>, Failure>;

/// The messages of a service.
pub struct Registry<V: State> {
    pub(crate) handlers: FxHashMap<u16, Handler<V>>,
    pub(crate) scans: FxHashMap<u16, ScanFn>,
    /// (id, name, schema of message and reply), in the order of their ids once sorted.
    pub(crate) table: Vec<(u16, &'static str, u64)>,
}

pub(crate) struct Handler<V: State> {
    pub(crate) write: bool,
    pub(crate) run: HandleFn<V>,
}

impl<V: State> fmt::Debug for Registry<V> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(&self.table).finish()
    }
}

impl<V: Vnode> Registry<V> {
    pub(crate) fn of_service() -> Self {
        let mut registry =
            Self { handlers: FxHashMap::default(), scans: FxHashMap::default(), table: Vec::new() };
        V::messages(&mut registry);
        registry.table.sort_unstable();
        registry
    }

    /// Adds a message.
    ///
    /// # Panics
    /// If another message of the service has the same number: a mistake that the first start shows.
    pub fn on<M: Message>(&mut self) -> &mut Self
    where
        V: Handle<M>,
    {
        self.enter::<M>();
        let handler = Handler { write: M::WRITE, run: run_handler::<V, M> };
        self.handlers.insert(M::ID, handler);
        self
    }

    /// Adds a scan.
    ///
    /// # Panics
    /// As [`Registry::on`].
    pub fn scan<Q: Scan<V>>(&mut self) -> &mut Self {
        self.enter::<Q>();
        self.scans.insert(Q::ID, run_scan::<V, Q>);
        self
    }

    fn enter<M: Message>(&mut self) {
        if let Some((_, other, _)) = self.table.iter().find(|(id, _, _)| *id == M::ID) {
            panic!(
                "messages `{}` and `{other}` of service `{}` have the same number {}",
                M::NAME,
                V::NAME,
                M::ID
            );
        }
        self.table.push((M::ID, M::NAME, schema::mix(M::HASH, M::Reply::HASH)));
    }
}

fn run_handler<V: Handle<M>, M: Message>(
    vnode: &mut V,
    body: Bytes,
    ctx: &mut Ctx<'_, V::Item>,
) -> Result<Bytes, Failure> {
    let message = Msg::<M>::from_bytes(body).map_err(|bad| Failure::because(FailureCode::BadRequest, bad))?;
    Ok(vnode.handle(&message, ctx)?.encode())
}

fn run_scan<V: Vnode, Q: Scan<V>>(
    query: &Bytes,
    at: &RowKey,
    item: &Bytes,
) -> Result<Option<Bytes>, Failure> {
    let query =
        Msg::<Q>::from_bytes(query.clone()).map_err(|bad| Failure::because(FailureCode::BadRequest, bad))?;
    let item = Msg::<V::Item>::from_bytes(item.clone())
        .map_err(|bad| Failure::because(FailureCode::Corrupt, bad))?;
    Ok(Q::row(&query, &at.key, &item).map(|reply| reply.encode()))
}

/// The number of a service on the wire and in the store: FNV of its name, with room below for its tables.
pub(crate) fn service_code(name: &str) -> u32 {
    let hash = schema::hash_str(name);
    let folded = u32::try_from((hash >> 32) ^ (hash & 0xFFFF_FFFF)).expect("folded to 32 bits");
    folded & !0xF
}

/// The hash of an item's layout, for the handshake.
pub(crate) fn item_schema<V: State>() -> u64 {
    <V::Item as Schema>::HASH
}
