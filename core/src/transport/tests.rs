//! Two and more transports on loopback, in the real world.

use super::*;
use crate::reply::Outcome;
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
            HOLD => self.held.send(reply).unwrap(),
            GROW => {
                let len = u32::from_le_bytes(body[..4].try_into().unwrap());
                reply.send(Ok(Bytes::from(vec![9; len as usize])));
            }
            _ => reply.send(Ok(body)),
        }
    }

    fn clash(&self, clash: Clash) {
        self.clashes.send(clash).unwrap();
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
    let SelfSigned { certificate_der, key_pkcs8_der } = SelfSigned::generate(env);
    Identity {
        node: NodeId(node),
        store: StoreId(node),
        boot: 1,
        nonce: env.random_u64(),
        certificate_der,
        key_pkcs8_der,
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

    async fn ask(&self, to: NodeId, head: Head, body: impl Into<Bytes>) -> Outcome {
        self.send(to, head, body).await.unwrap()
    }
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

#[tokio::test]
async fn a_request_arrives_whole_and_its_reply_comes_back() {
    let (one, two) = pair();
    assert_eq!(one.ask(two.at.node, head(ECHO), "hello").await.unwrap(), "hello");
    let (from, seen, key, body) = two.seen.recv().unwrap();
    assert_eq!((from.node, from.standing), (one.at.node, Standing::Member));
    assert_eq!((from.nonce, from.fingerprint), (one.identity.nonce, one.at.fingerprint));
    assert!(seen.deadline_us <= LONG && seen.deadline_us > LONG / 2);
    assert_eq!(Head { deadline_us: LONG, ..seen }, head(ECHO));
    assert_eq!((&key[..], &body[..]), (&b"key"[..], &b"hello"[..]));
    // The other way round, on a connection of its own.
    assert_eq!(two.ask(one.at.node, head(ECHO), "back").await.unwrap(), "back");
    let stats = one.transport.peer_stats();
    assert_eq!(
        (stats.len(), stats[0].node, stats[0].connected, stats[0].in_flight),
        (1, two.at.node, true, 0)
    );
    assert!(stats[0].sent_bytes > 50 && stats[0].received_bytes > 20 && stats[0].rtt.is_some());
}

#[tokio::test]
async fn many_requests_share_a_connection_and_each_gets_its_own_answer() {
    let (one, two) = pair();
    let asked: Vec<_> = (0..5000_u32)
        .map(|number| one.send(two.at.node, head(ECHO), number.to_le_bytes().to_vec()))
        .collect();
    for (number, outcome) in asked.into_iter().enumerate() {
        assert_eq!(outcome.await.unwrap().unwrap()[..], u32::try_from(number).unwrap().to_le_bytes());
    }
    assert_eq!(lock(&two.transport.0.shared.callers).len(), 1);
}

#[tokio::test]
async fn long_frames_travel_beside_the_shared_streams() {
    let (one, two) = pair();
    let long = Bytes::from((0..3_000_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect::<Vec<_>>());
    assert_eq!(one.ask(two.at.node, head(ECHO), long.clone()).await.unwrap(), long);
    let grown = one.ask(two.at.node, head(GROW), 2_000_000_u32.to_le_bytes().to_vec()).await.unwrap();
    assert_eq!((grown.len(), grown[0]), (2_000_000, 9));
    for len in [65_481_usize, 65_482, 65_483, 65_536, 70_000] {
        let body = Bytes::from(vec![1; len]);
        assert_eq!(one.ask(two.at.node, head(ECHO), body.clone()).await.unwrap(), body);
    }
    let too_long = Bytes::from(vec![0; FRAME_BYTES_MAX]);
    assert_eq!(code(one.ask(two.at.node, head(ECHO), too_long).await), FailureCode::NoRoom);
    let grown = one.ask(two.at.node, head(GROW), (64_u32 << 20).to_le_bytes().to_vec()).await;
    assert_eq!(code(grown), FailureCode::Refused);
}

#[tokio::test]
async fn control_is_answered_while_requests_are_not() {
    let (one, mut two) = pair();
    let held = one.send(two.at.node, head(HOLD), "");
    let (reply, outcome) = asked();
    one.transport.control(two.at.node, head(ECHO), b"", Bytes::from_static(b"alive"), reply);
    assert_eq!(outcome.await.unwrap().unwrap(), "alive");
    two.held.recv().await.unwrap().fail(FailureCode::NotReady);
    assert_eq!(code(held.await.unwrap()), FailureCode::NotReady);
}

#[tokio::test]
async fn a_failure_keeps_its_code_and_detail_and_a_dropped_reply_says_so() {
    let (one, mut two) = pair();
    let (stale, dropped) = (one.send(two.at.node, head(HOLD), ""), one.send(two.at.node, head(HOLD), ""));
    let (first, second) = (two.held.recv().await.unwrap(), two.held.recv().await.unwrap());
    let failure = Failure { code: FailureCode::Stale, detail: Bytes::from_static(&[1, 0, 0, 0]) };
    first.send(Err(failure.clone()));
    drop(second);
    let mut outcomes = [stale.await.unwrap().unwrap_err(), dropped.await.unwrap().unwrap_err()];
    outcomes.sort_by_key(|failure| failure.code.number());
    assert_eq!(outcomes, [failure, Failure::new(FailureCode::Dropped)]);
}

#[tokio::test]
async fn a_deadline_is_met_without_the_peer() {
    let (one, mut two) = pair();
    let short = Head { deadline_us: 30_000, ..head(HOLD) };
    assert_eq!(code(one.ask(two.at.node, short, "").await), FailureCode::Expired);
    two.held.recv().await.unwrap().send(Ok(Bytes::from_static(b"too late")));
    assert_eq!(one.ask(two.at.node, head(ECHO), "still up").await.unwrap(), "still up");
    // A large one as well.
    assert_eq!(code(one.ask(two.at.node, short, vec![0; 100_000]).await), FailureCode::Expired);
}

#[tokio::test]
async fn nobody_is_asked_who_is_no_member() {
    let (one, two) = (Node::start(1), Node::start(2));
    assert_eq!(code(one.ask(two.at.node, head(ECHO), "").await), FailureCode::Disconnected);
    one.transport.set_peers(&[two.at]);
    // One knows two, but two does not know one.
    assert_eq!(code(one.ask(two.at.node, head(ECHO), "").await), FailureCode::NotAllowed);
    assert!(two.seen.try_recv().is_err());
    let held = one.send(two.at.node, head(HOLD), "");
    assert_eq!(code(held.await.unwrap()), FailureCode::NotAllowed);
}

#[tokio::test]
async fn a_stranger_may_join_and_becomes_a_member_on_the_same_connection() {
    let (one, two) = (Node::start(1), Node::start(2));
    one.transport.set_peers(&[two.at]);
    assert_eq!(one.ask(two.at.node, head(JOIN), "let me in").await.unwrap(), "let me in");
    assert_eq!(two.seen.recv().unwrap().0.standing, Standing::Stranger);
    two.transport.set_peers(&[one.at]);
    assert_eq!(one.ask(two.at.node, head(ECHO), "").await.unwrap(), "");
    assert_eq!(two.seen.recv().unwrap().0.standing, Standing::Member);
    assert_eq!(lock(&two.transport.0.shared.callers).len(), 1);
}

#[tokio::test]
async fn a_join_request_reaches_whoever_holds_the_pinned_certificate_only() {
    let (one, two) = (Node::start(1), Node::start(2));
    let join = |fingerprint| {
        one.transport.join_request(two.at.addr, fingerprint, head(JOIN), b"", Bytes::from_static(b"token"))
    };
    assert_eq!(join(two.at.fingerprint).await.unwrap(), "token");
    assert_eq!(code(join(one.at.fingerprint).await), FailureCode::Disconnected);
    let other = one.transport.join_request(two.at.addr, two.at.fingerprint, head(ECHO), b"", Bytes::new());
    assert_eq!(code(other.await), FailureCode::NotAllowed);
}

#[tokio::test]
async fn a_peer_with_another_certificate_or_name_is_not_talked_to() {
    let (one, two) = (Node::start(1), Node::start(2));
    two.transport.set_peers(&[one.at]);
    one.transport.set_peers(&[Peer { fingerprint: [1; 32], ..two.at }]);
    assert_eq!(code(one.ask(two.at.node, head(ECHO), "").await), FailureCode::Disconnected);
    one.transport.set_peers(&[Peer { node: NodeId(3), ..two.at }]);
    let failure = one.ask(NodeId(3), head(ECHO), "").await.unwrap_err();
    assert!(failure.to_string().contains("listens where node"), "{failure}");
    one.transport.set_peers(&[two.at]);
    one.ask(two.at.node, head(ECHO), "").await.unwrap();
}

#[tokio::test]
async fn a_removed_peer_is_cut_off_on_both_sides() {
    let (one, mut two) = pair();
    let held = one.send(two.at.node, head(HOLD), "");
    two.held.recv().await.unwrap();
    let held_again = one.send(two.at.node, head(HOLD), "");
    let kept = two.held.recv().await.unwrap();
    assert_eq!(code(held.await.unwrap()), FailureCode::Dropped);
    two.transport.set_peers(&[]);
    assert_eq!(code(held_again.await.unwrap()), FailureCode::Disconnected);
    kept.send(Ok(Bytes::new()));
    one.transport.set_peers(&[]);
    assert_eq!(code(one.ask(two.at.node, head(ECHO), "").await), FailureCode::Disconnected);
}

#[tokio::test]
async fn removing_a_peer_answers_what_it_has_not() {
    let (one, mut two) = pair();
    let held = one.send(two.at.node, head(HOLD), "");
    let _kept = two.held.recv().await.unwrap();
    one.transport.set_peers(&[one.at]);
    assert_eq!(code(held.await.unwrap()), FailureCode::Disconnected);
}

#[tokio::test]
async fn a_closed_peer_answers_what_it_has_and_its_asker_knows_at_once() {
    let (one, mut two) = pair();
    let answered = one.send(two.at.node, head(HOLD), "");
    let waiting = two.held.recv().await.unwrap();
    let (transport, env) = (two.transport.clone(), two.env.clone());
    let (done, closed) = oneshot::channel();
    env.spawn("test close", async move {
        transport.close(Duration::from_secs(60)).await;
        done.send(()).unwrap();
    });
    // While it drains, it takes nothing new and still answers the old.
    while one.ask(two.at.node, head(ECHO), "").await.is_ok() {}
    assert_eq!(code(one.ask(two.at.node, head(ECHO), "").await), FailureCode::NotServing);
    waiting.send(Ok(Bytes::from_static(b"last words")));
    assert_eq!(answered.await.unwrap().unwrap(), "last words");
    closed.await.unwrap();
    assert_eq!(code(one.ask(two.at.node, head(ECHO), "").await), FailureCode::Disconnected);
}

#[test]
fn a_restarted_peer_is_known_at_once() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (ours, theirs) = (runtime(), runtime());
    let one = ours.block_on(async { Node::start(1) });
    let mut two = theirs.block_on(async { Node::start(2) });
    one.transport.set_peers(&[two.at]);
    two.transport.set_peers(&[one.at]);
    let held = one.send(two.at.node, head(HOLD), "");
    let kept = theirs.block_on(two.held.recv()).unwrap();
    // All of its tasks end at once and without a word, as a killed process does.
    drop(theirs);
    let (at, identity) = (two.at, Identity { nonce: two.identity.nonce + 1, ..two.identity.clone() });
    drop((two, kept));
    ours.block_on(async move {
        let bind = TransportConfig { bind: at.addr, ..config() };
        let again = Node::with(Env::production(), bind, identity, hello());
        again.transport.set_peers(&[one.at, at]);
        again.ask(one.at.node, head(ECHO), "").await.unwrap();
        assert_eq!(code(held.await.unwrap()), FailureCode::Disconnected);
        assert_eq!(one.ask(at.node, head(ECHO), "again").await.unwrap(), "again");
    });
}

#[tokio::test]
async fn a_full_table_and_a_full_queue_refuse_at_once() {
    let env = Env::production();
    let small = TransportConfig { in_flight_max: 2, queue_bytes_max: 1000, ..config() };
    let identity = identity(&env, 1);
    let one = Node::with(env, small, identity, hello());
    let mut two = Node::start(2);
    one.transport.set_peers(&[two.at]);
    two.transport.set_peers(&[one.at]);
    let held = [one.send(two.at.node, head(HOLD), ""), one.send(two.at.node, head(HOLD), "")];
    assert_eq!(code(one.ask(two.at.node, head(ECHO), "").await), FailureCode::Overloaded);
    for outcome in held {
        two.held.recv().await.unwrap().send(Ok(Bytes::new()));
        outcome.await.unwrap().unwrap();
    }
    // What is in the queue counts until it is written; nothing can be before this task waits.
    let first = one.send(two.at.node, head(ECHO), vec![0; 700]);
    assert_eq!(code(one.ask(two.at.node, head(ECHO), vec![0; 700]).await), FailureCode::Overloaded);
    first.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_message_with_another_schema_is_not_sent() {
    let (one, two) = (Node::start(1), Node::start(2));
    let mut other = hello();
    other.messages.iter_mut().find(|known| known.message == CHANGED).unwrap().schema = 2;
    two.transport.set_hello(other);
    one.transport.set_peers(&[two.at]);
    two.transport.set_peers(&[one.at]);
    // Before the hello is known, and after.
    assert_eq!(code(one.ask(two.at.node, head(CHANGED), "").await), FailureCode::Unsupported);
    assert_eq!(code(one.ask(two.at.node, head(CHANGED), "").await), FailureCode::Unsupported);
    one.ask(two.at.node, head(ECHO), "").await.unwrap();
    assert_eq!(two.seen.recv().unwrap().1.message, ECHO);
    assert!(two.seen.try_recv().is_err());
}

#[tokio::test]
async fn a_node_of_another_lineage_is_a_stranger() {
    let (one, two) = pair();
    one.ask(two.at.node, head(ECHO), "").await.unwrap();
    let of = |lineage| Hello { lineage: Lineage(lineage), ..hello() };
    two.transport.set_hello(of(2));
    one.transport.set_hello(of(1));
    let failure = one.ask(two.at.node, head(ECHO), "").await.unwrap_err();
    assert_eq!(failure.code, FailureCode::Disconnected);
    one.transport.set_hello(of(2));
    one.transport.set_peers(&[]);
    one.transport.set_peers(&[two.at]);
    one.ask(two.at.node, head(ECHO), "").await.unwrap();
}

#[tokio::test]
async fn two_processes_with_one_name_are_told_of_each_other() {
    let (one, mut two) = pair();
    let env = Env::production();
    let copy = Identity { nonce: two.identity.nonce + 1, ..two.identity.clone() };
    let copy = Node::with(env, config(), copy, hello());
    // By the certificate's fingerprint the copy is whom it expects; by its name it is itself.
    let joined = copy.transport.join_request(two.at.addr, two.at.fingerprint, head(JOIN), b"", Bytes::new());
    assert_eq!(code(joined.await), FailureCode::Disconnected);
    assert_eq!(two.clashes.recv().await.unwrap().nonce, copy.identity.nonce);
    // A node that dials itself is refused too, without alarm.
    let itself = two.transport.join_request(two.at.addr, two.at.fingerprint, head(JOIN), b"", Bytes::new());
    assert_eq!(code(itself.await), FailureCode::Disconnected);
    assert!(two.clashes.try_recv().is_err());
    one.ask(two.at.node, head(ECHO), "").await.unwrap();
}
