//! What serves a partition: puts, run by one coordinator at a time, and listings. Reads of items are core's.
//!
//! The rule that it keeps: a put supersedes what the client's context covers and nothing else; its dot is new; its
//! time is later than everything that the client or this replica has seen. A put that is refused changes nothing.

use crate::{
    bucket,
    command::{ArchivedPut, Condition, List, Put, PutRefusal, PutReply},
    object::{self, Object, Sibling},
};
use rondel_core::{
    causal::{Entries, Hlc},
    mutant::{Mutant, Mutants},
    proto::{
        Msg, Wire,
        id::{Actor, Position, RequestId},
    },
    ring::Partition,
    vnode::{BoxError, Ctx, Digest, Handle, Held, Merged, Refusal, Registry, Scan, State, Vnode},
};

/// How far a client's context may move this node's clock: clocks of different nodes differ by less, and nobody may
/// turn them to the end of time.
const CONTEXT_AHEAD_MS_MAX: u64 = 24 * 3600 * 1000;
/// Objects and siblings beyond these are written, and logged.
const OBJECT_BYTES_WARN: usize = 5 << 20;
const SIBLINGS_WARN: usize = 25;

/// The service's vnode.
#[derive(Debug)]
pub struct KvVnode {
    mutants: Mutants,
}

/// What every vnode is given.
#[derive(Debug, Clone, Copy, Default)]
pub struct VnodeConfig {
    /// Rules to break, in tests.
    pub mutants: Mutants,
}

impl State for KvVnode {
    type Item = Object;

    fn merge(held: &Msg<Object>, incoming: &Msg<Object>) -> Merged<Object> {
        object::merge(held, incoming)
    }

    fn digest(key: &[u8], item: &Msg<Object>) -> Digest {
        object::digest(key, item)
    }

    fn issued(item: &Msg<Object>, actor: Actor) -> u64 {
        item.vector.get(actor)
    }

    fn has_request(item: &Msg<Object>, request: RequestId) -> bool {
        object::has_request(item, request)
    }
}

impl Vnode for KvVnode {
    const NAME: &'static str = "kv";
    type Config = VnodeConfig;

    fn open(config: &VnodeConfig, _: Partition) -> Result<Self, BoxError> {
        Ok(Self { mutants: config.mutants })
    }

    fn messages(on: &mut Registry<Self>) {
        on.on::<Put>().scan::<List>();
    }

    fn position(key: &[u8]) -> Position {
        bucket::position(key)
    }
}

impl Handle<Put> for KvVnode {
    fn handle(&mut self, put: &Msg<Put>, ctx: &mut Ctx<'_, Object>) -> Result<PutReply, Refusal> {
        let held = match ctx.held() {
            Held::Absent => None,
            Held::Item(item) => Some(item),
            Held::Unreadable => return Err(Refusal::Unreadable),
        };
        let allow_mult = put.allow_mult;
        if let Err(refusal) = check_condition(put, held.as_ref(), ctx.unix_ms()) {
            return Ok(PutReply::Refused(refusal));
        }
        let dot = ctx.dot()?;
        if put.context.covers(dot) || held.as_ref().is_some_and(|held| held.vector.covers(dot)) {
            return Ok(PutReply::Refused(PutRefusal::ContextAhead));
        }
        let seen = bounded((&put.seen).into(), ctx.unix_ms());
        let hlc = ctx.hlc(held.as_ref().map_or(seen, |held| seen.max(object::latest(held))));
        let sibling = Sibling::new(dot, ctx.request_id(), hlc, Wire::decode(&put.content));
        let keep_siblings = allow_mult && !self.mutants.has(Mutant::DropSibling);
        let object = Object::written(held.as_ref(), &put.context, sibling, keep_siblings);
        if let Err(refusal) = check_limits(put, &object) {
            return Ok(PutReply::Refused(refusal));
        }
        ctx.put(&object);
        Ok(if put.return_body { PutReply::Object(object) } else { PutReply::Done })
    }
}

fn bounded(seen: Hlc, unix_ms: u64) -> Hlc {
    seen.min(Hlc(unix_ms.saturating_add(CONTEXT_AHEAD_MS_MAX).saturating_mul(1 << 16)))
}

fn check_condition(put: &ArchivedPut, held: Option<&Msg<Object>>, now_ms: u64) -> Result<(), PutRefusal> {
    let live = held.filter(|held| !object::reads_as_deleted(held, now_ms, put.allow_mult));
    match (Condition::decode(&put.condition), live) {
        (Condition::Absent, Some(_)) => Err(PutRefusal::MatchFound),
        // This replica may lag behind the quorum that found an object; it may not know of more.
        (Condition::Unchanged, _) if held.is_some_and(|held| !put.context.descends(&held.vector)) => {
            Err(PutRefusal::Modified)
        }
        _ => Ok(()),
    }
}

fn check_limits(put: &ArchivedPut, object: &Object) -> Result<(), PutRefusal> {
    let (bytes, siblings) = (object.bytes(), object.siblings.len());
    if bytes as u64 > put.object_bytes_max.to_native() {
        return Err(PutRefusal::TooLarge(bytes as u64));
    }
    if siblings as u64 > u64::from(put.siblings_max.to_native()) {
        return Err(PutRefusal::TooManySiblings);
    }
    if bytes > OBJECT_BYTES_WARN || siblings > SIBLINGS_WARN {
        tracing::warn!(
            bytes,
            siblings,
            "an object has grown large: resolve its siblings, or split its value"
        );
    }
    Ok(())
}

impl Scan<KvVnode> for List {
    fn row(query: &Msg<Self>, key: &[u8], item: &Msg<Object>) -> Option<()> {
        let wanted = key.starts_with(&query.prefix);
        let now_ms = query.now_ms.to_native();
        (wanted && !object::reads_as_deleted(item, now_ms, query.allow_mult)).then_some(())
    }
}
