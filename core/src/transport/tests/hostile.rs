//! Peers that don't keep to the protocol: they lose their connection, and nobody else notices.

use super::*;
use crate::transport::{link, quic};
use bytes::{BufMut, BytesMut};
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use rondel_proto::frame::{FRAME_BYTES_MAX, FRAME_INLINE_BYTES_MAX, put_reply, put_request};

/// QUIC and TLS as they should be, and beyond that whatever the test writes.
struct Raw {
    env: Env,
    endpoint: Endpoint,
    identity: Identity,
    at: Peer,
}

impl Raw {
    fn start(node: u128) -> Self {
        let env = Env::production();
        let identity = identity(&env, node);
        let tls = Tls::new(env.clone(), &identity.certificate_der, &identity.key_pkcs8_der);
        let endpoint = quic::endpoint(&env, &config(), &tls, &identity.key_pkcs8_der).unwrap();
        let at = Peer {
            node: identity.node,
            addr: endpoint.local_addr().unwrap(),
            fingerprint: fingerprint(&identity.certificate_der),
        };
        Self { env, endpoint, identity, at }
    }

    fn hello(&self) -> Hello {
        let Identity { node, store, boot, nonce, .. } = self.identity;
        Hello { node, store, boot, nonce, ..hello() }
    }

    async fn dial(&self, to: &Node) -> Connection {
        let tls = Tls::new(self.env.clone(), &self.identity.certificate_der, &self.identity.key_pkcs8_der);
        let client = quic::client(&self.env, &config(), tls.client(to.at.fingerprint).unwrap());
        self.endpoint.connect_with(client, to.at.addr, "rondel").unwrap().await.unwrap()
    }

    /// Dials and greets as a good peer does.
    async fn greet(&self, to: &Node) -> (Connection, SendStream, RecvStream) {
        let connection = self.dial(to).await;
        let (mut sender, mut receiver) = connection.open_bi().await.unwrap();
        greeting::send_hello(&mut sender, &self.hello()).await.unwrap();
        greeting::receive_hello(&mut receiver).await.unwrap();
        (connection, sender, receiver)
    }
}

/// A good node, a raw member, and a good member that must not notice.
async fn company() -> (Node, Raw, Node) {
    let (good, raw, other) = (Node::start(1), Raw::start(2), Node::start(3));
    let peers = [good.at, raw.at, other.at];
    good.transport.set_peers(&peers);
    other.transport.set_peers(&peers);
    other.ask(good.at.node, head(ECHO), "before").await.unwrap();
    (good, raw, other)
}

fn code_of(error: &ConnectionError) -> u32 {
    match error {
        ConnectionError::ApplicationClosed(close) => u32::try_from(close.error_code.into_inner()).unwrap(),
        other => panic!("not closed by the peer: {other}"),
    }
}

#[tokio::test]
async fn what_is_no_hello_ends_the_connection() {
    let (good, raw, other) = company().await;
    let greeting = raw.hello().encode();
    let mut other_version = greeting.to_vec();
    other_version[4] = 2;
    let mut too_long = greeting.to_vec();
    too_long[11] = 0xFF;
    let imposter = Hello { node: other.at.node, ..raw.hello() }.encode();
    let cases = [
        b"GET / HTTP/1.1\r\nHost: rondel\r\n\r\n".to_vec(),
        greeting[..40].to_vec(),
        other_version,
        too_long,
        imposter.to_vec(),
    ];
    for bytes in cases {
        let connection = raw.dial(&good).await;
        let (mut sender, _receiver) = connection.open_bi().await.unwrap();
        sender.write_all(&bytes).await.unwrap();
        sender.finish().unwrap();
        assert_eq!(code_of(&connection.closed().await), close::HELLO, "{bytes:?}");
    }
    other.ask(good.at.node, head(ECHO), "after").await.unwrap();
}

#[tokio::test]
async fn whoever_says_nothing_is_not_waited_for() {
    let env = Env::production();
    let patience = TransportConfig { connect_timeout: Duration::from_millis(50), ..config() };
    let identity = identity(&env, 1);
    let good = Node::with(env, patience, identity, hello());
    let connection = Raw::start(2).dial(&good).await;
    let error = connection.closed().await;
    assert!(matches!(error, ConnectionError::ApplicationClosed(_)), "{error}");
}

#[tokio::test]
async fn what_is_no_request_ends_the_connection() {
    let (good, raw, other) = company().await;
    let frame = |len: u32, kind: u8, rest: usize| {
        let mut bytes = BytesMut::new();
        bytes.put_u8(link::STREAM_LANE);
        bytes.put_u32_le(len);
        bytes.put_u8(kind);
        bytes.put_bytes(0, rest);
        bytes
    };
    let mut reply = BytesMut::from(&[link::STREAM_LANE][..]);
    put_reply(&mut reply, 1, b"nobody asked");
    let mut own_too_long = BytesMut::from(&[link::STREAM_OWN][..]);
    own_too_long.put_u32_le(u32::try_from(FRAME_BYTES_MAX + 1).unwrap());
    let mut own_cut = BytesMut::from(&[link::STREAM_OWN][..]);
    own_cut.put_u32_le(1000);
    own_cut.put_u8(1);
    let mut own_reply = BytesMut::from(&[link::STREAM_OWN][..]);
    put_reply(&mut own_reply, 1, b"nobody asked");
    let mut key_beyond = BytesMut::from(&[link::STREAM_LANE][..]);
    put_request(&mut key_beyond, 1, &head(ECHO), b"key", b"");
    let at = key_beyond.len() - 5;
    key_beyond[at] = 200;
    let cases = [
        BytesMut::from(&b"\x09garbage"[..]),
        frame(u32::try_from(FRAME_INLINE_BYTES_MAX + 1).unwrap(), 1, 0),
        frame(3, 1, 2),
        frame(20, 1, 19),
        frame(20, 77, 19),
        reply,
        key_beyond,
        own_too_long,
        own_cut,
        own_reply,
    ];
    for bytes in cases {
        let (connection, _control, _replies) = raw.greet(&good).await;
        let (mut sender, _receiver) = connection.open_bi().await.unwrap();
        sender.write_all(&bytes).await.unwrap();
        sender.finish().unwrap();
        assert_eq!(code_of(&connection.closed().await), close::FRAME, "{bytes:?}");
    }
    other.ask(good.at.node, head(ECHO), "after").await.unwrap();
    assert!(good.seen.try_iter().all(|(from, ..)| from.node == other.at.node));
}

#[tokio::test]
async fn a_stranger_sends_nothing_large_and_is_shown_out() {
    let good = Node::start(1);
    let (connection, _control, _replies) = Raw::start(2).greet(&good).await;
    let (mut sender, _receiver) = connection.open_bi().await.unwrap();
    sender.write_all(&[link::STREAM_OWN]).await.unwrap();
    assert_eq!(code_of(&connection.closed().await), close::NOT_ALLOWED);
}

#[tokio::test]
async fn a_peer_that_answers_with_garbage_is_disconnected() {
    let (good, raw, _other) = company().await;
    let (endpoint, greeting) = (raw.endpoint.clone(), raw.hello());
    let (say, mut answers) = channel::unbounded_channel::<(bool, BytesMut)>();
    raw.env.spawn("raw server", async move {
        while let Some((greets, answer)) = answers.recv().await {
            let connection = endpoint.accept().await.unwrap().await.unwrap();
            let (mut sender, mut receiver) = connection.accept_bi().await.unwrap();
            greeting::receive_hello(&mut receiver).await.unwrap();
            if greets {
                greeting::send_hello(&mut sender, &greeting).await.unwrap();
            }
            // On the control stream: it is there in any case.
            sender.write_all(&answer).await.unwrap();
            connection.closed().await;
        }
    });
    let mut request = BytesMut::new();
    put_request(&mut request, 0, &head(ECHO), b"", b"");
    let garbage = BytesMut::from(&[9; 40][..]);
    for (greets, answer) in [(false, garbage.clone()), (true, garbage), (true, request)] {
        say.send((greets, answer)).unwrap();
        // A new membership each time, so that no wait stands between.
        good.transport.set_peers(&[]);
        good.transport.set_peers(&[raw.at]);
        let expected = if greets { FailureCode::Disconnected } else { FailureCode::Unreachable };
        assert_eq!(code(good.ask(raw.at.node, head(ECHO), "").await), expected);
    }
}

#[tokio::test]
async fn an_answer_that_nobody_waits_for_is_ignored() {
    let (good, raw, _other) = company().await;
    let (endpoint, greeting) = (raw.endpoint.clone(), raw.hello());
    raw.env.spawn("raw server", async move {
        let connection = endpoint.accept().await.unwrap().await.unwrap();
        let (mut sender, mut receiver) = connection.accept_bi().await.unwrap();
        greeting::receive_hello(&mut receiver).await.unwrap();
        greeting::send_hello(&mut sender, &greeting).await.unwrap();
        let mut bytes = BytesMut::new();
        for correlation in [77, 1 << 63 | 77, 0] {
            put_reply(&mut bytes, correlation, b"for the first");
        }
        sender.write_all(&bytes).await.unwrap();
        connection.closed().await;
    });
    assert_eq!(good.ask(raw.at.node, head(ECHO), "").await.unwrap(), "for the first");
}
