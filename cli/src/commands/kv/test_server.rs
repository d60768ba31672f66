//! A store in a map that speaks the Protocol Buffers interface: what the client commands are tested against.

use crate::rt;
use bytes::{Bytes, BytesMut};
use rondel_proto::riak::{
    Code,
    messages::{
        RpbContent, RpbErrorResp, RpbGetReq, RpbGetResp, RpbListKeysReq, RpbListKeysResp, RpbPutReq,
        RpbPutResp,
    },
    pbc,
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard},
    thread::JoinHandle,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

type OnPut = Box<dyn Fn(u64) -> ControlFlow<&'static str> + Send>;

#[derive(Default)]
struct Contents {
    objects: BTreeMap<(Bytes, Bytes), (u64, Vec<RpbContent>)>,
    puts: u64,
    on_put: Option<OnPut>,
    answers_to_lose: u64,
}

/// The server; it ends when it is dropped.
pub(super) struct TestServer {
    address: SocketAddr,
    contents: Arc<Mutex<Contents>>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TestServer {
    /// Serves from a thread of its own.
    pub(super) fn start_in_background() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let contents = Arc::<Mutex<Contents>>::default();
        let (end, ended) = oneshot::channel();
        let served = Arc::clone(&contents);
        let thread = rt::thread("test server", move || {
            rt::single_threaded().unwrap().block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    biased;
                    _ = ended => {}
                    () = serve(listener, served) => {}
                }
            });
        });
        Self { address, contents, end: Some(end), thread: Some(thread.unwrap()) }
    }

    /// As [`TestServer::start_in_background`], from within a runtime.
    pub(super) async fn start() -> Self {
        Self::start_in_background()
    }

    /// An address where nobody listens.
    pub(super) async fn dead_address() -> String {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
    }

    /// Where it listens.
    pub(super) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Refuses the puts, counted from 1, for which `rule` says so.
    pub(super) fn on_put(&self, rule: impl Fn(u64) -> ControlFlow<&'static str> + Send + 'static) {
        self.lock().on_put = Some(Box::new(rule));
    }

    /// Does the next puts and closes the connection instead of answering.
    pub(super) fn lose_answers_of_puts(&self, count: u64) {
        self.lock().answers_to_lose = count;
    }

    /// Puts an object there, with its siblings.
    pub(super) fn store(&self, bucket: &'static str, key: &'static str, values: &[&'static str]) {
        let contents =
            values.iter().map(|value| RpbContent { value: (*value).into(), ..RpbContent::default() });
        self.lock().objects.insert((bucket.into(), key.into()), (1, contents.collect()));
    }

    /// How many objects there are.
    pub(super) fn count(&self) -> usize {
        self.lock().objects.len()
    }

    /// The siblings of an object.
    pub(super) fn values(&self, bucket: &'static str, key: &'static str) -> Vec<String> {
        let contents = self.lock();
        let (_, siblings) = &contents.objects[&(bucket.into(), key.into())];
        siblings.iter().map(|content| String::from_utf8(content.value.to_vec()).unwrap()).collect()
    }

    /// How many siblings the object with the most has.
    pub(super) fn siblings_max(&self) -> usize {
        self.lock().objects.values().map(|(_, siblings)| siblings.len()).max().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let joined = thread.join();
            assert!(joined.is_ok() || std::thread::panicking(), "the test server panicked");
        }
    }
}

async fn serve(listener: TcpListener, contents: Arc<Mutex<Contents>>) {
    let mut connections = futures_util::stream::FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = futures_util::StreamExt::next(&mut connections) => {}
            accepted = listener.accept() => connections.push(converse(accepted.unwrap().0, &contents)),
        }
    }
}

async fn converse(mut stream: TcpStream, contents: &Mutex<Contents>) {
    let (mut received, mut out) = (BytesMut::new(), BytesMut::new());
    while stream.read_buf(&mut received).await.is_ok_and(|bytes| bytes > 0) {
        while let Some(frame) = pbc::take_frame(&mut received, 1 << 20).unwrap() {
            if answer(&frame, &mut contents.lock().unwrap(), &mut out).is_break() {
                return;
            }
        }
        if stream.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
    }
}

/// Breaks if the answer is to be lost.
fn answer(frame: &pbc::Frame, contents: &mut Contents, out: &mut BytesMut) -> ControlFlow<()> {
    match Code::from_number(frame.code) {
        Some(Code::RpbPingReq) => pbc::put_empty(out, Code::RpbPingResp),
        Some(Code::RpbGetReq) => {
            pbc::put(out, &get(contents, &pbc::decode(frame.payload.clone()).unwrap())).unwrap()
        }
        Some(Code::RpbListKeysReq) => list(contents, &pbc::decode(frame.payload.clone()).unwrap(), out),
        Some(Code::RpbPutReq) => return put(contents, pbc::decode(frame.payload.clone()).unwrap(), out),
        other => panic!("{other:?}"),
    }
    ControlFlow::Continue(())
}

fn get(contents: &Contents, request: &RpbGetReq) -> RpbGetResp {
    match contents.objects.get(&(request.bucket.clone(), request.key.clone())) {
        Some((version, siblings)) => RpbGetResp {
            content: siblings.clone(),
            vclock: Some(Bytes::copy_from_slice(&version.to_be_bytes())),
            unchanged: None,
        },
        None => RpbGetResp::default(),
    }
}

fn list(contents: &Contents, request: &RpbListKeysReq, out: &mut BytesMut) {
    let keys =
        contents.objects.keys().filter(|(bucket, _)| *bucket == request.bucket).map(|(_, key)| key.clone());
    pbc::put(out, &RpbListKeysResp { keys: keys.collect(), done: None }).unwrap();
    pbc::put(out, &RpbListKeysResp { keys: Vec::new(), done: Some(true) }).unwrap();
}

/// A put replaces what its context has seen, and else adds a sibling.
fn put(contents: &mut Contents, request: RpbPutReq, out: &mut BytesMut) -> ControlFlow<()> {
    contents.puts += 1;
    if let Some(ControlFlow::Break(refusal)) = contents.on_put.as_ref().map(|rule| rule(contents.puts)) {
        pbc::put(out, &RpbErrorResp { errmsg: refusal.into(), errcode: 0 }).unwrap();
        return ControlFlow::Continue(());
    }
    let (version, siblings) = contents.objects.entry((request.bucket, request.key.unwrap())).or_default();
    if request.vclock.as_deref() == Some(&version.to_be_bytes()[..]) {
        siblings.clear();
    }
    *version += 1;
    siblings.push(request.content);
    let heads = RpbPutResp { content: siblings.clone(), ..RpbPutResp::default() };
    if contents.answers_to_lose > 0 {
        contents.answers_to_lose -= 1;
        return ControlFlow::Break(());
    }
    match request.return_head {
        Some(true) => pbc::put(out, &heads).unwrap(),
        _ => pbc::put_empty(out, Code::RpbPutResp),
    }
    ControlFlow::Continue(())
}
