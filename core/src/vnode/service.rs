//! A service as the host and the lanes see it: without its types.

use super::{
    ctx::{Absorbed, Call, Ctx, DotSource, RowCell, merge},
    handle::{BoxError, Handler, Registry, ScanFn, Storage, Vnode, item_schema, service_code},
    host::core_message,
    state::Digest,
};
use crate::{
    reply::{Failure, FailureCode},
    ring::Partition,
    store::TableId,
};
use bytes::Bytes;
use rondel_proto::{
    Msg, Wire,
    id::{Actor, Position, RequestId},
    message::BadArchive,
};
use rustc_hash::FxHashMap;
use std::{marker::PhantomData, sync::Arc};

/// The rows of a service's items.
pub(crate) fn items_table(code: u32) -> TableId {
    TableId(code)
}

/// The hints that a node keeps for a service.
pub(crate) fn hints_table(code: u32) -> TableId {
    TableId(code | 1)
}

type OpenFn = Box<dyn Fn(Partition) -> Result<Box<dyn Seat>, BoxError> + Send + Sync>;

/// A service of a node: what the lanes need of it, with its types erased.
pub(crate) struct Service {
    pub(crate) name: &'static str,
    pub(crate) code: u32,
    pub(crate) storage: Storage,
    pub(crate) position: fn(&[u8]) -> Position,
    /// (message id, name, schema hash). Core's own messages carry items, so the item's schema is theirs.
    pub(crate) table: Vec<(u16, &'static str, u64)>,
    pub(crate) scans: FxHashMap<u16, ScanFn>,
    /// Merges an arriving item (second) into a held one (first).
    pub(crate) merge: fn(&Bytes, &Bytes) -> Result<Absorbed, BadArchive>,
    /// Whether bytes are an item of the service.
    pub(crate) check: fn(&Bytes) -> Result<(), BadArchive>,
    pub(crate) digest: fn(&[u8], &Bytes) -> Result<Digest, BadArchive>,
    pub(crate) has_request: fn(&Bytes, RequestId) -> bool,
    pub(crate) issued: fn(&Bytes, Actor) -> u64,
    open: OpenFn,
}

impl Service {
    pub(crate) fn new<V: Vnode>(config: V::Config, storage: Storage) -> Self {
        let registry = Registry::<V>::of_service();
        let mut table = registry.table;
        for (message, name) in core_message::ALL {
            table.push((message, name, item_schema::<V>()));
        }
        let handlers = Arc::new(registry.handlers);
        Self {
            name: V::NAME,
            code: service_code(V::NAME),
            storage,
            position: V::position,
            table,
            scans: registry.scans,
            merge: merge::<V>,
            check: |item| V::Item::check(item),
            digest: |key, item| Ok(V::digest(key, &Msg::from_bytes(item.clone())?)),
            has_request: |item, id| Msg::from_bytes(item.clone()).is_ok_and(|item| V::has_request(&item, id)),
            issued: |item, actor| Msg::from_bytes(item.clone()).map_or(0, |item| V::issued(&item, actor)),
            open: Box::new(move |partition| {
                let vnode = V::open(&config, partition)?;
                Ok(Box::new(Seated { vnode, handlers: handlers.clone() }))
            }),
        }
    }

    pub(crate) fn open(&self, partition: Partition) -> Result<Box<dyn Seat>, BoxError> {
        (self.open)(partition)
    }
}

/// A vnode on its lane, with its types erased.
pub(crate) trait Seat: Send {
    /// Runs a message's handler. What it put is in the cell if it answers `Ok`.
    fn run(
        &mut self,
        message: u16,
        body: Bytes,
        call: Call<'_>,
        cell: &mut RowCell,
        dots: &DotSource,
        coordinating: bool,
    ) -> Result<Bytes, Failure>;
}

struct Seated<V: Vnode> {
    vnode: V,
    handlers: Arc<FxHashMap<u16, Handler<V>>>,
}

impl<V: Vnode> Seat for Seated<V> {
    fn run(
        &mut self,
        message: u16,
        body: Bytes,
        mut call: Call<'_>,
        cell: &mut RowCell,
        dots: &DotSource,
        coordinating: bool,
    ) -> Result<Bytes, Failure> {
        let Some(handler) = self.handlers.get(&message) else {
            return Err(Failure::because(
                FailureCode::Unsupported,
                format_args!("{} has no message {message}", V::NAME),
            ));
        };
        call.write = handler.write;
        let mut ctx = Ctx { call: &call, cell, dots, coordinating, of: PhantomData };
        (handler.run)(&mut self.vnode, body, &mut ctx)
    }
}
