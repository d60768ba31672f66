//! The control service: liveness, gossip and the decided sequence, on the control stream of each connection.
//!
//! Every node speaks it with every other, also before the cluster is formed. Its messages are those of the pure
//! machines; this file carries them, and nothing else.

use super::{
    MEETING_STEP, Node, NodeState,
    health::{GOSSIP_PERIOD, Wanted},
};
use crate::{
    liveness::{self, Ack, AckFor, Ping, PingFor},
    membership::gossip::{Delta, Digest},
    reply::{Failure, FailureCode, Outcome, ReplyTo},
    sequence::{Accept, Decided, Prepare, Request, StatePull},
    transport::PeerInfo,
    vnode::service_code,
};
use bytes::Bytes;
use rondel_proto::{
    Message, Msg, Wire,
    frame::Head,
    hello::Known,
    id::{NodeId, Position, RequestId, Ver},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// How long the answer to a control message is of use.
const CONTROL_DEADLINE: Duration = Duration::from_secs(2);

/// The number of the control service.
pub(super) fn control_code() -> u32 {
    service_code("rondel-control")
}

/// The control messages of this release, for the hello.
pub(super) fn known() -> Vec<Known> {
    let code = control_code();
    vec![
        Known::of::<Ping>(code),
        Known::of::<Ack>(code),
        Known::of::<PingFor>(code),
        Known::of::<AckFor>(code),
        Known::of::<Digest>(code),
        Known::of::<Delta>(code),
        Known::of::<Prepare>(code),
        Known::of::<Accept>(code),
        Known::of::<Decided>(code),
        Known::of::<StatePull>(code),
        Known::of::<crate::membership::forming::JoinRequest>(code),
    ]
}

pub(super) fn head<M: Message>(deadline: Duration) -> Head {
    Head {
        service: control_code(),
        message: M::ID,
        flags: 0,
        slots: 0,
        stand_in: 0,
        ver: Ver(0),
        position: Position(0),
        request_id: RequestId(0),
        deadline_us: u32::try_from(deadline.as_micros()).unwrap_or(u32::MAX),
    }
}

impl Node {
    /// Takes a control message of a member.
    pub(super) fn on_control(self: &Arc<Self>, from: &PeerInfo, message: u16, body: Bytes, reply: ReplyTo) {
        let outcome = match message {
            Ping::ID => self.on_liveness::<Ping>(from.node, body, liveness::Message::Ping),
            Ack::ID => self.on_liveness::<Ack>(from.node, body, liveness::Message::Ack),
            PingFor::ID => self.on_liveness::<PingFor>(from.node, body, liveness::Message::PingFor),
            AckFor::ID => self.on_liveness::<AckFor>(from.node, body, liveness::Message::AckFor),
            Digest::ID => owned::<Digest>(body).map(|digest| {
                let (answer, wanted) = self.health.on_digest(&self.shared, from.node, &digest);
                self.carry_out(wanted);
                answer.encode()
            }),
            Delta::ID => owned::<Delta>(body).map(|delta| {
                self.carry_out(self.health.on_delta(&self.shared, delta));
                Bytes::new()
            }),
            Prepare::ID | Accept::ID | Decided::ID | StatePull::ID => {
                let (node, from) = (self.clone(), from.node);
                self.shared.env.spawn("sequence-serve", async move {
                    reply.send(node.on_sequence(from, message, body).await);
                });
                return;
            }
            _ => Err(Failure::new(FailureCode::Unsupported)),
        };
        reply.send(outcome);
    }

    fn on_liveness<M: Message>(
        self: &Arc<Self>,
        from: NodeId,
        body: Bytes,
        wrap: impl FnOnce(M) -> liveness::Message,
    ) -> Outcome {
        let message = wrap(owned(body)?);
        self.carry_out(self.health.heard(&self.shared, from, message));
        Ok(().encode())
    }

    async fn on_sequence(self: &Arc<Self>, from: NodeId, message: u16, body: Bytes) -> Outcome {
        tracing::trace!(%from, message, "a message of the decided sequence");
        match message {
            Prepare::ID => self.sequence.serve(self, Request::Prepare(owned(body)?)).await,
            Accept::ID => self.sequence.serve(self, Request::Accept(owned(body)?)).await,
            Decided::ID => self.sequence.serve(self, Request::Decided(owned(body)?)).await,
            _ => self.sequence.serve_pull(&owned(body)?).await,
        }
    }

    /// Sends what the machines want sent, and fetches what a peer has that this node lacks.
    pub(super) fn carry_out(self: &Arc<Self>, wanted: Wanted) {
        for (to, message) in wanted.messages {
            self.send_liveness(to, message);
        }
        for node in wanted.clashes {
            self.on_clash(node);
        }
        if let Some(ahead) = wanted.behind {
            let node = self.clone();
            self.shared.env.spawn("sequence-pull", async move { node.sequence.pull(&node, ahead).await });
        }
    }

    fn send_liveness(self: &Arc<Self>, to: NodeId, message: liveness::Message) {
        match message {
            liveness::Message::Ping(ping) => self.tell(to, &ping),
            liveness::Message::Ack(ack) => self.tell(to, &ack),
            liveness::Message::PingFor(ping) => self.tell(to, &ping),
            liveness::Message::AckFor(ack) => self.tell(to, &ack),
        }
    }

    /// Sends a message whose answer says only that the peer is there.
    fn tell<M: Message>(self: &Arc<Self>, to: NodeId, message: &M) {
        let node = Arc::downgrade(self);
        let reply = ReplyTo::new(move |outcome| {
            let Some(node) = node.upgrade() else { return };
            if let Err(Failure { code: FailureCode::Disconnected | FailureCode::Unreachable, .. }) = outcome {
                let env = node.shared.env.clone();
                // Not from within the machine's own step: this may be called while it runs.
                env.spawn("unreachable", async move {
                    node.carry_out(node.health.unreachable(&node.shared, to));
                });
            }
        });
        self.shared.transport.control(to, head::<M>(CONTROL_DEADLINE), &[], message.encode(), reply);
    }

    /// Asks a peer on the control stream.
    pub(super) async fn ask<M: Message>(&self, to: NodeId, message: &M) -> Result<M::Reply, Failure> {
        let (sender, answer) = oneshot::channel();
        let reply = ReplyTo::new(|outcome| drop(sender.send(outcome)));
        self.shared.transport.control(to, head::<M>(CONTROL_DEADLINE), &[], message.encode(), reply);
        let body = answer.await.unwrap_or_else(|_| Err(Failure::new(FailureCode::Dropped)))?;
        owned::<M::Reply>(body)
    }

    /// Probes members for as long as the node runs.
    pub(super) async fn run_liveness(self: Arc<Self>) {
        loop {
            self.carry_out(self.health.tick(&self.shared));
            let until = self.health.deadline();
            // Every message that came meanwhile may have brought the deadline forward; look again soon.
            let soon = self.shared.env.now() + LIVENESS_STEP;
            self.shared.env.sleep_until(until.min(soon)).await;
        }
    }

    /// Exchanges facts with other members for as long as the node runs.
    pub(super) async fn run_gossip(self: Arc<Self>) {
        loop {
            self.health.set_own(self.own_facts());
            for (partner, digest) in self.health.gossip_partners() {
                let node = self.clone();
                self.shared.env.spawn("gossip", async move { node.gossip_with(partner, digest).await });
            }
            self.publish_metrics();
            let meeting = matches!(*self.shared.state.borrow(), NodeState::Meeting { .. });
            let period = if meeting { MEETING_STEP } else { GOSSIP_PERIOD };
            let _ = self.shared.env.timeout(period, self.shared.news.notified()).await;
        }
    }

    async fn gossip_with(self: &Arc<Self>, partner: NodeId, digest: Digest) {
        let (sent, sent_ms) = (self.shared.env.now(), self.shared.env.unix_ms());
        let Ok(answer) = self.ask(partner, &digest).await else { return };
        if self.shared.env.now() - sent < CLOCK_READ_MAX {
            let then_ms = u64::midpoint(sent_ms, self.shared.env.unix_ms());
            let ahead_ms = answer.clock_ms.wrapping_sub(then_ms).cast_signed();
            self.reluctance.peer_clock(partner, ahead_ms, self.shared.env.now());
        }
        self.carry_out(self.health.contact(&self.shared, partner));
        let (delta, mut wanted) = self.health.on_answer(&self.shared, answer);
        // What the partner has is fetched below.
        wanted.behind = wanted.behind.filter(|ahead| *ahead != partner);
        self.carry_out(wanted);
        if let Some(delta) = delta {
            self.tell(partner, &delta);
        }
        // Facts are news once; who could not fetch what they told of tries again.
        if self.health.is_ahead(&self.shared, partner) {
            self.sequence.pull(self, partner).await;
        }
    }
}

/// A clock that took longer to read says too little.
const CLOCK_READ_MAX: Duration = Duration::from_millis(500);
/// How long the failure detector may sleep at most.
const LIVENESS_STEP: Duration = Duration::from_millis(50);

fn owned<T: Wire>(body: Bytes) -> Result<T, Failure> {
    let msg = Msg::<T>::from_bytes(body).map_err(|bad| Failure::because(FailureCode::BadRequest, bad))?;
    Ok(msg.to_owned())
}
