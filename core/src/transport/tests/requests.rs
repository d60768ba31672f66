//! Requests and what becomes of them.

use super::*;
use rondel_proto::frame::{FRAME_BYTES_MAX, flags};

#[tokio::test]
async fn a_request_arrives_whole_and_its_reply_comes_back() {
    let (one, two) = pair();
    assert_eq!(one.ask(two.at.node, head(ECHO), "hello").await.unwrap(), "hello");
    let (from, seen, key, body) = two.seen.try_recv().unwrap();
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
    assert_eq!(code(grown), FailureCode::Dropped);
}

#[tokio::test]
async fn that_a_write_is_in_memory_is_heard_before_its_answer_and_only_by_who_asks() {
    let (one, mut two) = pair();
    // On a shared stream, and on one of its own.
    for body in [10, 100_000] {
        for asks in [false, true] {
            let (told, mut hears) = oneshot::channel();
            let (reply, outcome) = asked();
            let reply = reply.or_accepted(Some(Box::new(move || told.send(()).unwrap())));
            let flags = if asks { flags::ACCEPT } else { 0 };
            let head = Head { flags, ..head(HOLD) };
            one.transport.request(two.at.node, head, b"key", Bytes::from(vec![1; body]), reply);
            let mut held = two.held().await;
            held.accept();
            if asks {
                (&mut hears).await.unwrap();
            }
            held.accept();
            held.send(Ok(Bytes::from_static(b"durable")));
            assert_eq!(outcome.await.unwrap().unwrap(), "durable");
            assert!(hears.try_recv().is_err(), "it was told once, or not at all");
        }
    }
}

#[tokio::test]
async fn control_is_answered_while_requests_are_not() {
    let (one, mut two) = pair();
    let held = one.send(two.at.node, head(HOLD), "");
    let (reply, outcome) = asked();
    one.transport.control(two.at.node, head(ECHO), b"", Bytes::from_static(b"alive"), reply);
    assert_eq!(outcome.await.unwrap().unwrap(), "alive");
    two.held().await.fail(FailureCode::NotReady);
    assert_eq!(code(held.await.unwrap()), FailureCode::NotReady);
}

#[tokio::test]
async fn a_failure_keeps_its_code_and_detail_and_a_dropped_reply_says_so() {
    let (one, mut two) = pair();
    let (stale, dropped) = (one.send(two.at.node, head(HOLD), ""), one.send(two.at.node, head(HOLD), ""));
    let (first, second) = (two.held().await, two.held().await);
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
    two.held().await.send(Ok(Bytes::from_static(b"too late")));
    assert_eq!(one.ask(two.at.node, head(ECHO), "still up").await.unwrap(), "still up");
    // A large one as well.
    assert_eq!(code(one.ask(two.at.node, short, vec![0; 100_000]).await), FailureCode::Expired);
}

#[tokio::test]
async fn a_closed_peer_answers_what_it_has_and_its_asker_knows_at_once() {
    let (one, mut two) = pair();
    let answered = one.send(two.at.node, head(HOLD), "");
    let waiting = two.held().await;
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
    assert_eq!(code(one.ask(two.at.node, head(ECHO), "").await), FailureCode::Unreachable);
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
    let kept = theirs.block_on(two.held());
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
        two.held().await.send(Ok(Bytes::new()));
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
    assert_eq!(two.seen.try_recv().unwrap().1.message, ECHO);
    assert!(two.seen.try_recv().is_err());
}

#[tokio::test]
async fn a_node_that_learns_a_message_speaks_it_at_once() {
    let (one, two) = (Node::start(1), Node::start(2));
    one.transport.set_peers(&[two.at]);
    two.transport.set_peers(&[one.at]);
    let mut fewer = hello();
    fewer.messages.retain(|known| known.message != CHANGED);
    two.transport.set_hello(fewer);
    assert_eq!(code(one.ask(two.at.node, head(CHANGED), "").await), FailureCode::Unsupported);
    two.transport.set_hello(hello());
    // The connection ends, and the next one knows better.
    two.ask(one.at.node, head(ECHO), "").await.unwrap();
    one.ask(two.at.node, head(CHANGED), "").await.unwrap();
}
