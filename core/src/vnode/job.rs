//! What the host puts into a lane's mailbox.

use super::{service::Service, state::Digest};
use crate::{
    reply::{Failure, ReplyTo},
    ring::Partition,
    store::RowKey,
};
use bytes::Bytes;
use rondel_proto::id::{Actor, RequestId};
use std::time::Instant;

/// One thing to do on one row.
pub(crate) struct Job {
    /// Index of the service on this node.
    pub(crate) service: usize,
    pub(crate) partition: Partition,
    pub(crate) at: RowKey,
    pub(crate) op: Op,
    pub(crate) request_id: RequestId,
    /// The n_val class of the key.
    pub(crate) n: u8,
    /// Not done once this has passed.
    pub(crate) deadline: Instant,
    /// Answers when what it was told is durable.
    pub(crate) reply: ReplyTo,
}

/// What a coordinator's vnode made of a message, before it is durable.
#[derive(Debug, Clone)]
pub(crate) struct Executed {
    /// The archive of the message's reply.
    pub(crate) reply: Bytes,
    /// The item that the other replicas must get; `None` if nothing was put.
    pub(crate) item: Option<Bytes>,
    /// Who this replica is for the row; never sent, but by a mutant.
    pub(crate) mine: Option<Actor>,
    /// The request had run before: `reply` is empty unless this coordinator remembers it.
    pub(crate) again: bool,
}

/// Takes what a coordinator's vnode made of a message.
pub(crate) type Early = Box<dyn FnOnce(Result<Executed, Failure>) + Send>;

pub(crate) enum Op {
    /// Run a handler.
    Message { message: u16, body: Bytes },
    /// Run a handler as the coordinator; the item goes out through `early`, at once. A retry runs nothing: it only
    /// takes up again what is known to have run. If lazy, nobody waits for the disk.
    Coordinate { message: u16, body: Bytes, stand_in: u16, retry: bool, early: Early, lazy: bool },
    /// Merge an item in, and keep hints for the slots stood in for. Answers the row's digest. If lazy, nobody waits for
    /// the disk.
    Absorb { item: Bytes, stand_in: u16, mine: Option<Actor>, lazy: bool },
    /// The item, or its digest.
    Fetch { digest: bool },
    /// Write a row that memory holds anew: what the disk has of it is damaged. Answers whether it was written.
    Rewrite,
    /// Remove a hint row if it still has this value. Answers whether it had.
    RemoveHint { expected: Bytes },
    /// Remove an item row if it still has this digest and no hint names its key. Answers whether it was removed.
    RemoveStray { digest: Digest, hints: Vec<RowKey> },
}

impl Job {
    /// The rows that must be known before it can run: its own first.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &RowKey> {
        let more: &[RowKey] = match &self.op {
            Op::RemoveStray { hints, .. } => hints,
            _ => &[],
        };
        std::iter::once(&self.at).chain(more)
    }

    /// Answers with a failure; nothing was done.
    pub(crate) fn fail(self, failure: Failure) {
        if let Op::Coordinate { early, .. } = self.op {
            early(Err(failure.clone()));
        }
        self.reply.send(Err(failure));
    }
}

/// The hint rows that could name the key of an item row.
pub(crate) fn hint_rows(service: &Service, at: &RowKey, replicas: u8) -> Vec<RowKey> {
    (0..replicas).map(|slot| super::lane::hint_key(service.code, at, slot)).collect()
}
