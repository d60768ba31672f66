//! The listener with a service in a map behind it, over real sockets.

use super::*;
use crate::{
    pb_client::{PbClient, PbError, TIMEOUT},
    rt,
};
use ::metrics::NoopRecorder;
use futures_util::stream;
use proptest::prelude::*;
use rondel_proto::riak::Coded;
use std::{collections::BTreeMap, sync::Mutex};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Notify,
};

/// Objects in a map. A get of `held` says that it has arrived and is answered when the test lets it go.
struct InMap {
    objects: Mutex<BTreeMap<Bytes, RpbContent>>,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    arrived: Notify,
    go: Notify,
}

impl PbService for InMap {
    fn server_info(&self) -> RpbGetServerInfoResp {
        RpbGetServerInfoResp { node: Some("in map".into()), server_version: Some("2.2.3".into()) }
    }

    async fn get(&self, request: RpbGetReq) -> Result<RpbGetResp, RiakError> {
        match &request.key[..] {
            b"" => return Err(RiakError::EmptyKey),
            b"held" => {
                self.gate.arrived.notify_one();
                self.gate.go.notified().await;
            }
            _ => {}
        }
        let content = self.objects.lock().unwrap().get(&request.key).cloned();
        Ok(RpbGetResp { content: content.into_iter().collect(), ..RpbGetResp::default() })
    }

    async fn put(&self, request: RpbPutReq) -> Result<RpbPutResp, RiakError> {
        let key = request.key.unwrap_or_else(|| "made".into());
        self.objects.lock().unwrap().insert(key, request.content);
        Ok(RpbPutResp::default())
    }

    async fn delete(&self, request: RpbDelReq) -> Result<(), RiakError> {
        self.objects.lock().unwrap().remove(&request.key);
        Ok(())
    }

    fn list_keys(&self, request: RpbListKeysReq) -> impl Stream<Item = Result<Vec<Bytes>, RiakError>> + Send {
        let keys: Vec<_> = self.objects.lock().unwrap().keys().map(|key| Ok(vec![key.clone()])).collect();
        let end = if request.bucket == "broken" { vec![Err(RiakError::Timeout)] } else { vec![Ok(vec![])] };
        stream::iter(keys.into_iter().chain(end))
    }

    fn list_buckets(&self, _: RpbListBucketsReq) -> impl Stream<Item = Result<Vec<Bytes>, RiakError>> + Send {
        stream::iter([Ok(vec!["one".into()]), Ok(vec![]), Ok(vec!["two".into()])])
    }

    async fn bucket_props(&self, request: RpbGetBucketReq) -> Result<RpbBucketProps, RiakError> {
        match request.r#type {
            Some(name) => Err(RiakError::NoBucketType(name.to_vec())),
            None => Ok(RpbBucketProps { n_val: Some(3), ..RpbBucketProps::default() }),
        }
    }

    async fn type_props(&self, _: RpbGetBucketTypeReq) -> Result<RpbBucketProps, RiakError> {
        Ok(RpbBucketProps { allow_mult: Some(true), ..RpbBucketProps::default() })
    }
}

/// A listener that a test talks to.
struct Fixture {
    address: String,
    gate: Arc<Gate>,
    stop: watch::Sender<bool>,
}

impl Fixture {
    async fn client(&self) -> PbClient {
        PbClient::connect(&self.address, TIMEOUT).await.unwrap()
    }

    async fn stream(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.unwrap()
    }

    /// Sends bytes and nothing after them, and gives back all that comes.
    async fn converse(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.stream().await;
        // The listener may have given up on the bytes before they are all sent.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    }
}

/// Far longer than a test takes: past this something waits for ever.
const TEST_MAX: Duration = Duration::from_secs(120);

/// Runs a test against a listener, and then stops the listener.
fn with_limits<F: Future<Output = Fixture>>(limits: PbLimits, test: impl FnOnce(Fixture) -> F) {
    rt::single_threaded().unwrap().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = watch::channel(false);
        let gate = Arc::new(Gate::default());
        let service = InMap { objects: Mutex::default(), gate: Arc::clone(&gate) };
        let metrics = PbMetrics::new(&NoopRecorder);
        let listening = serve(Env::production(), listener, service, limits, metrics, stopped);
        let testing = async {
            let fixture = test(Fixture { address, gate, stop }).await;
            fixture.stop.send_replace(true);
        };
        let both = async { tokio::join!(listening, testing) };
        Env::production().timeout(TEST_MAX, both).await.expect("the test ends, and the listener after it");
    });
}

fn with_listener<F: Future<Output = Fixture>>(test: impl FnOnce(Fixture) -> F) {
    with_limits(PbLimits::default(), test);
}

fn get(key: &'static str) -> RpbGetReq {
    RpbGetReq { bucket: "b".into(), key: key.into(), ..RpbGetReq::default() }
}

fn put(key: &'static str, value: impl Into<Bytes>) -> RpbPutReq {
    let content = RpbContent { value: value.into(), ..RpbContent::default() };
    RpbPutReq { bucket: "b".into(), key: Some(key.into()), content, ..RpbPutReq::default() }
}

fn frame<M: Coded>(message: &M) -> Vec<u8> {
    let mut out = BytesMut::new();
    pbc::put(&mut out, message).unwrap();
    out.to_vec()
}

fn error_of(answer: &[u8]) -> String {
    let mut answer = BytesMut::from(answer);
    let frame = pbc::take_frame(&mut answer, 1 << 20).unwrap().expect("an answer");
    assert_eq!((frame.code, answer.len()), (0, 0), "one error, then the end");
    let error: RpbErrorResp = pbc::decode(frame.payload).unwrap();
    String::from_utf8(error.errmsg.to_vec()).unwrap()
}

#[test]
fn a_client_reads_what_it_wrote() {
    with_listener(|fixture| async move {
        let mut client = fixture.client().await;
        client.ping().await.unwrap();
        assert_eq!(client.server_info().await.unwrap().server_version.as_deref(), Some(&b"2.2.3"[..]));
        let large = vec![7; 1 << 20];
        client.put(&put("small", "value")).await.unwrap();
        client.put(&put("large", large.clone())).await.unwrap();
        assert_eq!(client.get(&get("small")).await.unwrap().content[0].value, "value");
        assert_eq!(client.get(&get("large")).await.unwrap().content[0].value, large);
        let delete = RpbDelReq { bucket: "b".into(), key: "large".into(), ..RpbDelReq::default() };
        client.delete(&delete).await.unwrap();
        assert_eq!(client.get(&get("large")).await.unwrap(), RpbGetResp::default());
        fixture
    });
}

#[test]
fn listings_end_and_the_connection_goes_on() {
    with_listener(|fixture| async move {
        let mut client = fixture.client().await;
        for key in ["a", "b", "c"] {
            client.put(&put(key, "")).await.unwrap();
        }
        let list =
            |bucket: &'static str| RpbListKeysReq { bucket: bucket.into(), ..RpbListKeysReq::default() };
        assert_eq!(client.list_keys(&list("b")).await.unwrap().collect().await.unwrap(), ["a", "b", "c"]);
        let broken = client.list_keys(&list("broken")).await.unwrap().collect().await;
        assert!(matches!(broken, Err(PbError::Server(text)) if text == "timeout"));
        for stream in [None, Some(false), Some(true)] {
            let list = RpbListBucketsReq { stream, ..RpbListBucketsReq::default() };
            assert_eq!(client.list_buckets(&list).await.unwrap().collect().await.unwrap(), ["one", "two"]);
        }
        fixture
    });
}

#[test]
fn listings_have_the_frames_that_clients_expect() {
    let buckets = |names: &[&'static str], done| {
        let buckets = names.iter().map(|&name| name.into()).collect();
        frame(&RpbListBucketsResp { buckets, done })
    };
    with_listener(|fixture| async move {
        let plain = fixture.converse(&frame(&RpbListBucketsReq::default())).await;
        assert_eq!(plain, buckets(&["one", "two"], None), "one frame, without done");
        let stream = RpbListBucketsReq { stream: Some(true), ..RpbListBucketsReq::default() };
        let streamed = fixture.converse(&frame(&stream)).await;
        let expected = [buckets(&["one"], None), buckets(&["two"], None), buckets(&[], Some(true))].concat();
        assert_eq!(streamed, expected, "no empty frame before the last");
        fixture
    });
}

#[test]
fn requests_in_one_piece_are_answered_in_order() {
    let expected = [
        frame(&RpbPutResp::default()),
        frame(&RpbGetResp { content: vec![put("k", "v").content], ..RpbGetResp::default() }),
        vec![0, 0, 0, 1, 2],
    ];
    with_listener(|fixture| async move {
        let requests = [frame(&put("k", "v")), frame(&get("k")), vec![0, 0, 0, 1, 1]].concat();
        assert_eq!(fixture.converse(&requests).await, expected.concat());
        fixture
    });
}

#[test]
fn a_request_arrives_however_it_is_cut() {
    with_listener(|fixture| async move {
        let mut stream = fixture.stream().await;
        stream.set_nodelay(true).unwrap();
        for byte in frame(&put("k", "v")) {
            stream.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [0, 0, 0, 1, 12]);
        fixture
    });
}

#[test]
fn a_request_that_cannot_be_served_leaves_the_connection_usable() {
    let refusals: [(&[u8], &str); 6] = [
        (&[0, 0, 0, 1, 35], "Unknown message code: 35"),
        (&[0, 0, 0, 2, 250, 7], "Unknown message code: 250"),
        (&[0, 0, 0, 1, 23], "RpbMapRedReq is not supported by this server"),
        (&[0, 0, 0, 1, 12], "RpbPutResp is not supported by this server"),
        (&[0, 0, 0, 1, 255], "Security not enabled; STARTTLS not allowed."),
        (&[0, 0, 0, 6, 9, 0x0A, 1, b'b', 0x12, 0], "Key cannot be zero-length"),
    ];
    with_listener(|fixture| async move {
        for (request, text) in refusals {
            let answer = fixture.converse(&[request, &[0, 0, 0, 1, 1]].concat()).await;
            let (error, pong) = answer.split_at(answer.len() - 5);
            assert_eq!((error_of(error), pong), (text.to_owned(), &[0, 0, 0, 1, 2][..]));
        }
        fixture
    });
}

#[test]
fn bytes_that_do_not_decode_end_the_connection() {
    let limits = PbLimits { frame_bytes_max: 1000, ..PbLimits::default() };
    let broken: [(&[u8], &str); 5] = [
        (&[0, 0, 0, 0], "no frame: a frame without a message code"),
        (&[0, 0, 4, 0, 11], "no frame: a frame of 1024 bytes, where 1000 are allowed"),
        (b"GET / HTTP/1.1\r\n\r\n", "no frame: a frame of 1195725856 bytes, where 1000 are allowed"),
        (&[0, 0, 0, 1, 11], "no message: RpbPutReq without its required field 1"),
        (&[0, 0, 0, 2, 9, 0xFF], "no message: malformed RpbGetReq"),
    ];
    with_limits(limits, |fixture| async move {
        for (bytes, reason) in broken {
            let answer = fixture.converse(bytes).await;
            let text = error_of(&answer);
            assert!(text.starts_with(&format!("Error processing incoming message: {reason}")), "{text}");
        }
        fixture
    });
}

#[test]
fn a_client_id_is_the_connections_own() {
    let of = |client_id: &'static [u8]| Bytes::from_static(client_id);
    with_listener(|fixture| async move {
        let set = frame(&RpbSetClientIdReq { client_id: of(b"a long client id") });
        let ask = [0, 0, 0, 1, 3];
        let expected = [
            frame(&RpbGetClientIdResp { client_id: of(&[0; 4]) }),
            vec![0, 0, 0, 1, 6],
            frame(&RpbGetClientIdResp { client_id: of(b"a long client id") }),
        ];
        assert_eq!(fixture.converse(&[&ask[..], &set, &ask].concat()).await, expected.concat());
        let oversized = RpbSetClientIdReq { client_id: vec![0; 2000].into() };
        assert_eq!(
            error_of(&fixture.converse(&frame(&oversized)).await),
            "a client id has at most 1024 bytes"
        );
        fixture
    });
}

#[test]
fn properties_are_those_of_the_bucket_or_of_the_type() {
    with_listener(|fixture| async move {
        let mut client = fixture.client().await;
        let plain = RpbGetBucketReq { bucket: "b".into(), r#type: None };
        assert_eq!(client.bucket_props(&plain).await.unwrap().n_val, Some(3));
        let typed = RpbGetBucketReq { bucket: "b".into(), r#type: Some("t".into()) };
        let refused = client.bucket_props(&typed).await;
        assert!(matches!(refused, Err(PbError::Server(text)) if text == "No bucket-type named 't'"));
        let of_type = fixture.converse(&frame(&RpbGetBucketTypeReq { r#type: "t".into() })).await;
        let props = RpbBucketProps { allow_mult: Some(true), ..RpbBucketProps::default() };
        assert_eq!(of_type, frame(&RpbGetBucketResp { props }));
        fixture
    });
}

#[test]
fn one_connection_too_many_is_told_so() {
    with_limits(PbLimits { connections_max: 1, ..PbLimits::default() }, |fixture| async move {
        let mut first = fixture.client().await;
        first.ping().await.unwrap();
        let mut answer = Vec::new();
        fixture.stream().await.read_to_end(&mut answer).await.unwrap();
        assert_eq!(error_of(&answer), "too many connections");
        first.ping().await.expect("the first one is served on");
        drop(first);
        // The place is free when the listener has seen the end of the first connection.
        while fixture.client().await.ping().await.is_err() {}
        fixture
    });
}

#[test]
fn a_stopped_listener_finishes_what_it_has_begun() {
    with_listener(|fixture| async move {
        let (mut idle, mut busy) = (fixture.client().await, fixture.client().await);
        idle.ping().await.unwrap();
        let request = get("held");
        let answer = busy.get(&request);
        let rest = async {
            fixture.gate.arrived.notified().await;
            fixture.stop.send_replace(true);
            assert!(
                matches!(idle.ping().await, Err(PbError::Closed | PbError::Io(_))),
                "idle ones are closed"
            );
            fixture.gate.go.notify_one();
        };
        let (answer, ()) = tokio::join!(answer, rest);
        assert_eq!(answer.unwrap(), RpbGetResp::default());
        fixture
    });
}

#[test]
fn an_idle_connection_is_closed() {
    with_limits(PbLimits { idle: Duration::from_millis(1), ..PbLimits::default() }, |fixture| async move {
        let mut nothing = Vec::new();
        assert_eq!(fixture.stream().await.read_to_end(&mut nothing).await.unwrap(), 0);
        fixture
    });
}

#[test]
fn a_request_that_never_ends_is_cut() {
    with_limits(
        PbLimits { transfer: Duration::from_millis(1), ..PbLimits::default() },
        |fixture| async move {
            let mut stream = fixture.stream().await;
            stream.write_all(&[0, 0, 0, 9, 1]).await.unwrap();
            let mut nothing = Vec::new();
            assert_eq!(stream.read_to_end(&mut nothing).await.unwrap(), 0);
            fixture
        },
    );
}

#[test]
fn large_requests_take_turns_and_all_get_theirs() {
    let value_bytes = 1 << 20;
    let limits = PbLimits {
        frame_bytes_max: value_bytes + 1000,
        frames_bytes_max: value_bytes + 1000,
        ..PbLimits::default()
    };
    with_limits(limits, |fixture| async move {
        let put_many = async |key| {
            let mut client = fixture.client().await;
            for _ in 0..4 {
                client.put(&put(key, vec![1; value_bytes])).await.unwrap();
            }
        };
        tokio::join!(put_many("a"), put_many("b"), put_many("c"));
        fixture
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn hostile_bytes_harm_no_one_else(bytes in prop::collection::vec(any::<u8>(), 0..300), code: u8) {
        with_limits(PbLimits { frame_bytes_max: 200, ..PbLimits::default() }, |fixture| async move {
            let mut bystander = fixture.client().await;
            fixture.converse(&bytes).await;
            let len = u32::try_from(bytes.len() + 1).unwrap();
            fixture.converse(&[&len.to_be_bytes()[..], &[code], &bytes].concat()).await;
            bystander.ping().await.expect("the bystander is served");
            fixture
        });
    }
}
