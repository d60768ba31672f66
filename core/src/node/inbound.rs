//! Where requests of other nodes enter: told apart by service, refused here when they can't be served.

use super::{Node, control::control_code};
use crate::{
    handoff::refill::slice,
    membership::forming::JoinRequest,
    reply::{Failure, FailureCode, ReplyTo},
    request::{edge, scan},
    transport::{Clash, Inbound, PeerInfo, Standing},
    vnode::host::{RowRequest, core_message},
};
use bytes::Bytes;
use rondel_proto::{
    Message,
    frame::{Head, flags},
};
use std::{
    sync::{Arc, OnceLock, Weak},
    time::{Duration, Instant},
};

/// The door of a node: it exists before the node does, and refuses until then.
#[derive(Default)]
pub(super) struct Door(OnceLock<Weak<Node>>);

impl Door {
    pub(super) fn open_for(&self, node: &Arc<Node>) {
        // A second node behind one door would be a mistake of this crate; the first one stays.
        let _ = self.0.set(Arc::downgrade(node));
    }
}

impl Inbound for Door {
    fn request(
        &self,
        from: PeerInfo,
        head: Head,
        key: Bytes,
        body: Bytes,
        received: Instant,
        reply: ReplyTo,
    ) {
        let Some(node) = self.0.get().and_then(Weak::upgrade) else {
            reply.fail(FailureCode::NotServing);
            return;
        };
        let deadline = received + Duration::from_micros(u64::from(head.deadline_us));
        if head.service == control_code() {
            node.request_of_control(from, &head, body, reply);
        } else {
            // Rows keep their keys for long, and this one is a slice of a receive buffer.
            let key = Bytes::copy_from_slice(&key);
            node.request_of_service(head, RowRequest { head, key, body, deadline, reply });
        }
    }

    fn clash(&self, clash: Clash) {
        tracing::error!(
            addr = %clash.addr,
            "another process runs on a copy of this node's data directory: stop both, and start the one whose data is to \
             stay"
        );
        if let Some(node) = self.0.get().and_then(Weak::upgrade) {
            node.on_clash(node.shared.me);
        }
    }
}

impl Node {
    fn request_of_control(self: Arc<Self>, from: PeerInfo, head: &Head, body: Bytes, reply: ReplyTo) {
        if head.message == JoinRequest::ID {
            let env = self.shared.env.clone();
            env.spawn("join-serve", async move { reply.send(self.on_join(&from, body).await) });
        } else if from.standing == Standing::Member {
            self.on_control(&from, head.message, body, reply);
        } else {
            reply.fail(FailureCode::NotAllowed);
        }
    }

    fn request_of_service(self: Arc<Self>, head: Head, request: RowRequest) {
        let Some(topology) = self.shared.topology().filter(|_| self.answers_members()) else {
            let why = self.shared.state.borrow().reason().unwrap_or_default();
            request.reply.send(Err(Failure::because(FailureCode::NotServing, why)));
            return;
        };
        let Some(service) = self.shared.host.service(head.service) else {
            request.reply.fail(FailureCode::Unsupported);
            return;
        };
        let coordinate = head.flags & flags::COORDINATE != 0;
        if coordinate && let Err(why) = self.shared.topology_for_requests() {
            // It may know too few of the others to tell alone from among many.
            request.reply.send(Err(Failure::because(FailureCode::NotServing, why)));
            return;
        }
        let write = coordinate || head.message == core_message::ABSORB;
        if write && let Err(code) = self.shared.admits_writes(service) {
            request.reply.send(Err(Failure::new(code)));
            return;
        }
        let shared = self.shared.clone();
        let env = self.shared.env.clone();
        if coordinate {
            env.spawn("coordinate", edge::serve(shared, topology, service, request));
        } else if head.message == core_message::SCAN {
            env.spawn("scan-serve", async move {
                let RowRequest { head, key, body, reply, .. } = request;
                reply.send(scan::serve(&shared, &topology, service, &head, key, body).await);
            });
        } else if head.message == core_message::RANGE {
            env.spawn("range-serve", async move {
                let RowRequest { head, key, body, reply, .. } = request;
                reply.send(slice::serve(&shared, &topology, service, &head, key, body).await);
            });
        } else {
            self.shared.host.request(&topology, service, request);
        }
    }
}
