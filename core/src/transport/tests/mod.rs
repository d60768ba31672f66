//! Two and more transports, on loopback in the real world and in the simulator.

mod hostile;
mod requests;
mod simulated;
mod trust;

use super::*;
use crate::membership::{Certificate, fingerprint};
use rondel_proto::{
    hello::Known,
    id::{Position, RequestId, Ver},
};
use std::sync::mpsc;
use tokio::sync::{mpsc as channel, oneshot};

const SERVICE: u32 = 7;
const ECHO: u16 = 1;
const HOLD: u16 = 2;
const GROW: u16 = 3;
const JOIN: u16 = 4;
const CHANGED: u16 = 5;
/// Far longer than any test takes.
const LONG: u32 = 60_000_000;

/// Answers by message: `ECHO` at once, `HOLD` when the test says so, `GROW` with as many bytes as the body says.
struct Service {
    seen: Mutex<mpsc::Sender<(PeerInfo, Head, Bytes, Bytes)>>,
    held: channel::UnboundedSender<ReplyTo>,
    clashes: channel::UnboundedSender<Clash>,
}

impl Inbound for Service {
    fn request(
        &self,
        from: PeerInfo,
        head: Head,
        key: Bytes,
        body: Bytes,
        _received: Instant,
        reply: ReplyTo,
    ) {
        // Most tests don't look.
        let _ = lock(&self.seen).send((from, head, key, body.clone()));
        match head.message {
            HOLD => drop(self.held.send(reply)),
            GROW => {
                let len = u32::from_le_bytes(body[..4].try_into().unwrap());
                reply.send(Ok(Bytes::from(vec![9; len as usize])));
            }
            _ => reply.send(Ok(body)),
        }
    }

    fn clash(&self, clash: Clash) {
        let _ = self.clashes.send(clash);
    }
}

struct Node {
    env: Env,
    transport: Transport,
    at: Peer,
    identity: Identity,
    seen: mpsc::Receiver<(PeerInfo, Head, Bytes, Bytes)>,
    held: channel::UnboundedReceiver<ReplyTo>,
    clashes: channel::UnboundedReceiver<Clash>,
}

fn identity(env: &Env, node: u128) -> Identity {
    let mut seed = [0; 32];
    env.entropy(&mut seed);
    let certificate = Certificate::self_signed(&seed, NodeId(node));
    Identity {
        node: NodeId(node),
        store: StoreId(node),
        boot: 1,
        nonce: env.random_u64(),
        certificate_der: certificate.der().to_vec(),
        key_pkcs8_der: certificate.key_pkcs8().to_vec(),
    }
}

fn hello() -> Hello {
    let known = |message| Known { service: SERVICE, message, schema: 1 };
    Hello { messages: [ECHO, HOLD, GROW, JOIN, CHANGED].map(known).to_vec(), ..Hello::default() }
}

fn config() -> TransportConfig {
    TransportConfig {
        strangers_may: vec![(SERVICE, JOIN)],
        ..TransportConfig::new("127.0.0.1:0".parse().unwrap())
    }
}

impl Node {
    fn start(node: u128) -> Self {
        let env = Env::production();
        let identity = identity(&env, node);
        Self::with(env, config(), identity, hello())
    }

    fn with(env: Env, config: TransportConfig, identity: Identity, hello: Hello) -> Self {
        let (seen_sender, seen) = mpsc::channel();
        let (held_sender, held) = channel::unbounded_channel();
        let (clash_sender, clashes) = channel::unbounded_channel();
        let service = Service { seen: Mutex::new(seen_sender), held: held_sender, clashes: clash_sender };
        let transport =
            Transport::start(env.clone(), config, identity.clone(), hello, Arc::new(service)).unwrap();
        let fingerprint = fingerprint(&identity.certificate_der);
        let at = Peer { node: identity.node, addr: transport.local_addr(), fingerprint };
        Self { env, transport, at, identity, seen, held, clashes }
    }

    fn send(&self, to: NodeId, head: Head, body: impl Into<Bytes>) -> oneshot::Receiver<Outcome> {
        let (reply, outcome) = asked();
        self.transport.request(to, head, b"key", body.into(), reply);
        outcome
    }

    /// The next `HOLD` that waits for its answer.
    async fn held(&mut self) -> ReplyTo {
        awaited(&self.env, self.held.recv()).await
    }

    async fn ask(&self, to: NodeId, head: Head, body: impl Into<Bytes>) -> Outcome {
        self.send(to, head, body).await.unwrap()
    }
}

/// What has not come when a request's deadline has passed does not come.
async fn awaited<T>(env: &Env, next: impl Future<Output = Option<T>>) -> T {
    let come = env.timeout(Duration::from_micros(LONG.into()), next).await;
    come.expect("it has come in time").unwrap()
}

fn asked() -> (ReplyTo, oneshot::Receiver<Outcome>) {
    let (sender, outcome) = oneshot::channel();
    (ReplyTo::new(move |outcome| drop(sender.send(outcome))), outcome)
}

fn head(message: u16) -> Head {
    Head {
        service: SERVICE,
        message,
        flags: 3,
        slots: 5,
        stand_in: 2,
        ver: Ver(9),
        position: Position(u64::MAX - 1),
        request_id: RequestId(77),
        deadline_us: LONG,
    }
}

/// Two members that know each other.
fn pair() -> (Node, Node) {
    let nodes = (Node::start(1), Node::start(2));
    let peers = [nodes.0.at, nodes.1.at];
    nodes.0.transport.set_peers(&peers);
    nodes.1.transport.set_peers(&peers);
    nodes
}

fn code(outcome: Outcome) -> FailureCode {
    outcome.unwrap_err().code
}
