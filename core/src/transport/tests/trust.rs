//! Who may talk to whom.

use super::*;

#[tokio::test]
async fn nobody_is_asked_who_is_no_member() {
    let (one, two) = (Node::start(1), Node::start(2));
    assert_eq!(code(one.ask(two.at.node, head(ECHO), "").await), FailureCode::Unreachable);
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
    assert_eq!(two.seen.try_recv().unwrap().0.standing, Standing::Stranger);
    two.transport.set_peers(&[one.at]);
    assert_eq!(one.ask(two.at.node, head(ECHO), "").await.unwrap(), "");
    assert_eq!(two.seen.try_recv().unwrap().0.standing, Standing::Member);
    assert_eq!(lock(&two.transport.0.shared.callers).len(), 1);
}

#[tokio::test]
async fn a_join_request_reaches_whoever_holds_the_pinned_certificate_only() {
    let (one, two) = (Node::start(1), Node::start(2));
    let join = |fingerprint| {
        one.transport.join_request(two.at.addr, fingerprint, head(JOIN), b"", Bytes::from_static(b"token"))
    };
    assert_eq!(join(two.at.fingerprint).await.unwrap(), "token");
    assert_eq!(code(join(one.at.fingerprint).await), FailureCode::Unreachable);
    let other = one.transport.join_request(two.at.addr, two.at.fingerprint, head(ECHO), b"", Bytes::new());
    assert_eq!(code(other.await), FailureCode::NotAllowed);
}

#[tokio::test]
async fn a_peer_with_another_certificate_or_name_is_not_talked_to() {
    let (one, two) = (Node::start(1), Node::start(2));
    two.transport.set_peers(&[one.at]);
    one.transport.set_peers(&[Peer { fingerprint: [1; 32], ..two.at }]);
    assert_eq!(code(one.ask(two.at.node, head(ECHO), "").await), FailureCode::Unreachable);
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
    two.held().await;
    let held_again = one.send(two.at.node, head(HOLD), "");
    let kept = two.held().await;
    assert_eq!(code(held.await.unwrap()), FailureCode::Dropped);
    two.transport.set_peers(&[]);
    assert_eq!(code(held_again.await.unwrap()), FailureCode::Disconnected);
    kept.send(Ok(Bytes::new()));
    one.transport.set_peers(&[]);
    assert_eq!(code(one.ask(two.at.node, head(ECHO), "").await), FailureCode::Unreachable);
}

#[tokio::test]
async fn removing_a_peer_answers_what_it_has_not() {
    let (one, mut two) = pair();
    let held = one.send(two.at.node, head(HOLD), "");
    let _kept = two.held().await;
    one.transport.set_peers(&[one.at]);
    assert_eq!(code(held.await.unwrap()), FailureCode::Disconnected);
}

#[tokio::test]
async fn a_node_of_another_lineage_is_a_stranger() {
    let (one, two) = pair();
    one.ask(two.at.node, head(ECHO), "").await.unwrap();
    let of = |lineage| Hello { lineage: Lineage(lineage), ..hello() };
    two.transport.set_hello(of(2));
    one.transport.set_hello(of(2));
    one.ask(two.at.node, head(ECHO), "").await.unwrap();
    one.transport.set_hello(of(1));
    let failure = one.ask(two.at.node, head(ECHO), "").await.unwrap_err();
    assert_eq!(failure.code, FailureCode::Unreachable);
    one.transport.set_hello(of(2));
    one.transport.set_peers(&[]);
    one.transport.set_peers(&[two.at]);
    one.ask(two.at.node, head(ECHO), "").await.unwrap();
}

#[tokio::test]
async fn a_cluster_that_has_just_been_formed_keeps_its_connections() {
    let (one, mut two) = pair();
    let held = one.send(two.at.node, head(HOLD), "");
    let kept = two.held().await;
    for node in [&one, &two] {
        node.transport.set_hello(Hello { lineage: Lineage(1), ..hello() });
        node.transport.set_peers(&[one.at, two.at]);
    }
    kept.send(Ok(Bytes::from_static(b"done")));
    assert_eq!(held.await.unwrap().unwrap(), "done");
}

#[tokio::test]
async fn two_processes_with_one_name_are_told_of_each_other() {
    let (one, mut two) = pair();
    let env = Env::production();
    let copy = Identity { nonce: two.identity.nonce + 1, ..two.identity.clone() };
    let copy = Node::with(env, config(), copy, hello());
    // By the certificate's fingerprint the copy is whom it expects; by its name it is itself.
    let joined = copy.transport.join_request(two.at.addr, two.at.fingerprint, head(JOIN), b"", Bytes::new());
    assert_eq!(code(joined.await), FailureCode::Unreachable);
    assert_eq!(awaited(&copy.env, two.clashes.recv()).await.nonce, copy.identity.nonce);
    // A node that dials itself is refused too, without alarm.
    let itself = two.transport.join_request(two.at.addr, two.at.fingerprint, head(JOIN), b"", Bytes::new());
    assert_eq!(code(itself.await), FailureCode::Unreachable);
    assert!(two.clashes.try_recv().is_err());
    one.ask(two.at.node, head(ECHO), "").await.unwrap();
}

#[tokio::test]
async fn a_node_changes_its_certificate_without_a_restart() {
    let (one, mut two) = pair();
    one.ask(two.at.node, head(ECHO), "old").await.unwrap();
    two.ask(one.at.node, head(ECHO), "old").await.unwrap();
    let held = one.send(two.at.node, head(HOLD), "");
    let _kept = two.held().await;
    let fresh = identity(&one.env, 1);
    one.transport.set_certificate(&fresh.certificate_der, &fresh.key_pkcs8_der).unwrap();
    one.transport.set_certificate(&fresh.certificate_der, b"no key").unwrap_err();
    let renewed = Peer { fingerprint: fingerprint(&fresh.certificate_der), ..one.at };
    two.transport.set_peers(&[renewed, two.at]);
    // What was made with the old certificate ends; both sides connect anew with the new one.
    assert_eq!(code(held.await.unwrap()), FailureCode::Disconnected);
    two.ask(one.at.node, head(ECHO), "new").await.unwrap();
    one.ask(two.at.node, head(ECHO), "new").await.unwrap();
    assert_eq!(two.seen.try_iter().last().unwrap().0.fingerprint, renewed.fingerprint);
}
