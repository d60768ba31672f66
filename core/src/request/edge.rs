//! Finding a coordinator for an update: this node if it owns a slot of the key, else an owner that is up, else, when
//! no owner is, a stand-in. A coordinator that refused before it did anything is followed by the next, with the same
//! request id; one that was lost is followed only where the message does no harm twice. Where it does, the lost
//! coordinator itself is asked what came of the request as soon as it can be reached (PROTOCOLS §7): the same process
//! knows, any other answers that it does not.

use super::{
    options::RequestError,
    write::{self, WriteSpec, Written},
};
use crate::{
    node::{Outgoing, RECONNECT_PAUSE, Shared},
    quorum::{Achieved, Quorum},
    reply::{FailureCode, ReplyTo},
    ring::{Serving, Use},
    topology::Topology,
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use rondel_proto::{
    frame::{Head, flags},
    id::NodeId,
};
use std::{sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// How long a remote coordinator may be silent before another is asked as well.
const COORDINATOR_PATIENCE: Duration = Duration::from_secs(1);
/// What precedes the message's archive in a coordinated request.
const QUORUM_BYTES: usize = 6;
/// What precedes the reply's archive in its answer.
const ACHIEVED_BYTES: usize = 4;

/// Has a message coordinated by the best node for it.
pub(crate) async fn update(
    shared: &Arc<Shared>,
    topology: &Arc<Topology>,
    spec: WriteSpec,
    message: u16,
    body: Bytes,
    retry_elsewhere: bool,
) -> Result<Written, RequestError> {
    let mut last = RequestError::NotServing("no node that could coordinate the write is up".into());
    let mut unknown = false;
    for node in coordinators(shared, topology, &spec) {
        let outcome = if node == shared.me {
            write::coordinate(shared, topology, spec.clone(), message, body.clone()).await
        } else {
            ask(shared, topology, node, &spec, message, &body, retry_elsewhere).await
        };
        let error = match outcome {
            // It put nothing; a lost coordinator may have.
            Ok(written) if unknown && written.achieved == Achieved::default() => RequestError::Unknown,
            Ok(written) => return Ok(written),
            Err(error) => error,
        };
        let go_on = next_may_help(&error, retry_elsewhere) && shared.env.now() < spec.deadline;
        unknown |= error == RequestError::Unknown;
        last = error;
        if !go_on {
            break;
        }
    }
    // What a lost coordinator may have done is not undone by the refusal of the next.
    Err(if unknown && last.nothing_was_done() { RequestError::Unknown } else { last })
}

fn coordinators(shared: &Arc<Shared>, topology: &Arc<Topology>, spec: &WriteSpec) -> Vec<NodeId> {
    let outlook = shared.outlook(shared.host.services[spec.service].code);
    let preferences = topology.preference_list(topology.partition(spec.at.position));
    let list = preferences.active(usize::from(spec.quorum.n), Use::Write, |node| outlook.up(node));
    let mut entries: Vec<Serving> = list.entries().to_vec();
    entries.sort_by_key(|entry| {
        let node = entry.node;
        let unwilling = outlook.reluctant(node) || outlook.lacking(node);
        (entry.owned == 0, unwilling, node != shared.me, outlook.demoted(node))
    });
    entries.into_iter().map(|entry| entry.node).collect()
}

/// Whether nothing was done, so that another coordinator may be asked; or it does no harm to ask.
fn next_may_help(error: &RequestError, retry_elsewhere: bool) -> bool {
    match error {
        RequestError::NotServing(_) | RequestError::Overloaded | RequestError::NoRoom => true,
        RequestError::Unknown => retry_elsewhere,
        _ => false,
    }
}

async fn ask(
    shared: &Arc<Shared>,
    topology: &Arc<Topology>,
    node: NodeId,
    spec: &WriteSpec,
    message: u16,
    body: &Bytes,
    retry_elsewhere: bool,
) -> Result<Written, RequestError> {
    let Quorum { n, need, durable, owners, nodes, strict } = spec.quorum;
    let mut framed = BytesMut::with_capacity(QUORUM_BYTES + body.len());
    framed.put_slice(&[n, need, durable, owners, nodes, u8::from(strict)]);
    framed.put_slice(body);
    let head = Head {
        service: shared.host.services[spec.service].code,
        message,
        flags: flags::COORDINATE,
        slots: 0,
        stand_in: 0,
        ver: topology.ver(topology.partition(spec.at.position)),
        position: spec.at.position,
        request_id: spec.request_id,
        deadline_us: 0,
    };
    let mut outgoing =
        Outgoing { head, key: spec.at.key.clone(), body: framed.freeze(), deadline: spec.deadline };
    let until = match retry_elsewhere {
        true => spec.deadline.min(shared.env.now() + COORDINATOR_PATIENCE),
        false => spec.deadline,
    };
    loop {
        let (sender, answer) = oneshot::channel();
        let reply = ReplyTo::new(|outcome| drop(sender.send(outcome)));
        shared.send(node, spec.service, outgoing.clone(), reply);
        let failure = match shared.env.timeout_at(until, answer).await {
            Ok(Ok(Ok(body))) => return parse_written(body),
            Ok(Ok(Err(failure))) => failure,
            Ok(Err(_)) | Err(_) => return Err(RequestError::Unknown),
        };
        let is_retry = outgoing.head.flags & flags::RETRY != 0;
        let lost = failure.code == FailureCode::Disconnected
            || (is_retry && failure.code == FailureCode::Unreachable);
        let may_return = shared.outlook(head.service).up(node) && shared.env.now() + RECONNECT_PAUSE < until;
        if retry_elsewhere || !lost || !may_return {
            let error = RequestError::of_update(failure);
            // To be refused an answer about the first time says nothing about that.
            return Err(if is_retry && error.nothing_was_done() { RequestError::Unknown } else { error });
        }
        shared.env.sleep(RECONNECT_PAUSE).await;
        outgoing.head.flags |= flags::RETRY;
    }
}

fn parse_written(mut body: Bytes) -> Result<Written, RequestError> {
    let &[slots, nodes, owners, durable, ..] = body.as_ref() else {
        return Err(RequestError::BadAnswer("a coordinator's answer is too short".into()));
    };
    body.advance(ACHIEVED_BYTES);
    Ok(Written { reply: body, achieved: Achieved { slots, nodes, owners }, durable })
}

/// Coordinates a message that another node's edge has sent here.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    topology: Arc<Topology>,
    service: usize,
    request: crate::vnode::host::RowRequest,
) {
    let crate::vnode::host::RowRequest { head, key, mut body, deadline, reply } = request;
    let &[n, need, durable, owners, nodes, strict, ..] = body.as_ref() else {
        reply.fail(FailureCode::BadRequest);
        return;
    };
    if n == 0 || n > topology.replicas() {
        reply.fail(FailureCode::BadRequest);
        return;
    }
    body.advance(QUORUM_BYTES);
    let spec = WriteSpec {
        service,
        at: shared.host.row(service, head.position, key),
        quorum: Quorum { n, need, durable, owners, nodes, strict: strict != 0 },
        deadline,
        request_id: head.request_id,
        retry: head.flags & flags::RETRY != 0,
    };
    let outcome = write::coordinate(&shared, &topology, spec, head.message, body).await;
    reply.send(outcome.map_err(RequestError::into_failure).map(|written| {
        let Achieved { slots, nodes, owners } = written.achieved;
        let mut out = BytesMut::with_capacity(ACHIEVED_BYTES + written.reply.len());
        out.put_slice(&[slots, nodes, owners, written.durable]);
        out.put_slice(&written.reply);
        out.freeze()
    }));
}
