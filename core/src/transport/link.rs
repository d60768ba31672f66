//! A link: the connection that this node has dialled to one peer, from the first request to its loss.
//!
//! Each side dials for its own requests, so that two nodes never have to agree on one of two simultaneous
//! connections, and the state of a peer is known to exactly one task. A link lives once: requests may queue from
//! the moment it is made, are sent when the hellos have been exchanged, and are all answered `Disconnected` when it
//! ends, for whatever reason. The next request makes a new link.

use super::{
    budget::{Budget, Held},
    close,
    greeting::{CommonMessages, GreetingError, receive_hello, send_hello},
    in_flight::InFlight,
    lane::{FrameReader, Lane, Outgoing, ReadFailure, write_lane},
    peers::{Refusal, Traffic},
    quic,
    shared::Shared,
    tls::{self, Fingerprint},
};
use crate::{
    env::Env,
    membership::certificate::CERTIFICATE_NAME,
    reply::{Failure, FailureCode, ReplyTo},
};
use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream};
use rondel_proto::{
    frame::{
        FRAME_BYTES_MAX, FRAME_INLINE_BYTES_MAX, Frame, Head, KEY_BYTES_MAX, REQUEST_BYTES, put_request_head,
    },
    hello::Hello,
    id::NodeId,
};
use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// First byte of a stream that carries many requests.
pub(super) const STREAM_LANE: u8 = 1;
/// First byte of a stream that carries one request and its reply.
pub(super) const STREAM_OWN: u8 = 2;

/// How long a frame on a stream of its own may take from its first byte to its last.
pub(super) const LARGE_FRAME_TIMEOUT: Duration = Duration::from_secs(60);
/// Correlations of control requests have this bit, so that a reply says which table it belongs to.
const CONTROL_BIT: u64 = 1 << 63;
/// Control requests in flight to one peer, and their bytes.
const CONTROL_IN_FLIGHT_MAX: usize = 1024;
const CONTROL_QUEUE_BYTES_MAX: usize = 8 << 20;
/// QUIC sends what is ready on streams of a higher priority first.
const CONTROL_PRIORITY: i32 = 1;

/// Whom to dial.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    /// Who must answer; `None` if only its certificate is known.
    pub(super) node: Option<NodeId>,
    pub(super) addr: SocketAddr,
    pub(super) fingerprint: Fingerprint,
}

/// How a request travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// On one of the shared streams.
    Request,
    /// On the control stream, behind no request.
    Control,
}

/// A request in a queue.
struct Ask {
    correlation: u64,
    head: Head,
    key: Bytes,
    body: Bytes,
    deadline: Instant,
    _held: Held,
}

/// What is known once the hellos have been exchanged.
struct Up {
    connection: Connection,
    common: CommonMessages,
    boot: u64,
    nonce: u64,
    since: Instant,
}

/// One dialled connection.
pub(super) struct Link {
    env: Env,
    up: OnceLock<Up>,
    control: Lane<Ask>,
    lanes: Vec<Lane<Ask>>,
    large: Lane<Ask>,
    control_in_flight: InFlight,
    in_flight: InFlight,
    control_budget: Arc<Budget>,
    budget: Arc<Budget>,
    traffic: Arc<Traffic>,
    turn: AtomicU64,
    ended: AtomicBool,
}

impl Link {
    pub(super) fn new(shared: &Shared, traffic: Arc<Traffic>) -> Arc<Self> {
        let config = &shared.config;
        Arc::new(Self {
            env: shared.env.clone(),
            up: OnceLock::new(),
            control: Lane::new(),
            lanes: (0..config.request_streams.max(1)).map(|_| Lane::new()).collect(),
            large: Lane::new(),
            control_in_flight: InFlight::new(CONTROL_BIT, CONTROL_IN_FLIGHT_MAX),
            in_flight: InFlight::new(0, config.in_flight_max),
            control_budget: Budget::new(CONTROL_QUEUE_BYTES_MAX),
            budget: Budget::part_of(&shared.queued, config.queue_bytes_max),
            traffic,
            turn: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        })
    }

    /// Queues a request and gives its deadline, or answers it at once and gives none.
    pub(super) fn ask(
        &self,
        class: Class,
        head: Head,
        key: &[u8],
        body: Bytes,
        reply: ReplyTo,
    ) -> Option<Instant> {
        let frame_bytes = REQUEST_BYTES + key.len() + body.len();
        if key.len() > KEY_BYTES_MAX || frame_bytes > FRAME_BYTES_MAX {
            reply.send(Err(Failure::because(
                FailureCode::NoRoom,
                "the request is longer than a frame may be",
            )));
            return None;
        }
        if self.up.get().is_some_and(|up| !up.common.contains(head.service, head.message)) {
            reply.send(Err(unsupported()));
            return None;
        }
        if head.deadline_us == 0 {
            reply.send(Err(Failure::new(FailureCode::Expired)));
            return None;
        }
        let (budget, in_flight, lane) = match class {
            Class::Control => (&self.control_budget, &self.control_in_flight, &self.control),
            Class::Request => (&self.budget, &self.in_flight, self.next_lane()),
        };
        let Some(held) = budget.take(frame_bytes) else {
            reply.send(Err(Failure::because(FailureCode::Overloaded, "too many bytes queued to this peer")));
            return None;
        };
        let deadline = self.env.now() + Duration::from_micros(head.deadline_us.into());
        let correlation = in_flight.insert(reply, deadline)?;
        let key = Bytes::copy_from_slice(key);
        let ask = Ask { correlation, head, key, body, deadline, _held: held };
        // If the link has ended since, its end has answered this request and the lane drops it.
        if frame_bytes > FRAME_INLINE_BYTES_MAX {
            self.large.push(ask)
        } else {
            lane.push(ask)
        }
        Some(deadline)
    }

    fn next_lane(&self) -> &Lane<Ask> {
        let lanes = self.lanes.len() as u64;
        let turn = usize::try_from(self.turn.fetch_add(1, Ordering::Relaxed) % lanes).unwrap_or(0);
        &self.lanes[turn]
    }

    /// Answers requests whose time is up; the next deadline.
    pub(super) fn expire(&self, now: Instant) -> Option<Instant> {
        let (control, requests) = (self.control_in_flight.expire(now), self.in_flight.expire(now));
        control.into_iter().chain(requests).min()
    }

    /// Ends the link: every request is answered `Disconnected`, or `Unreachable` if none can have left; the peer is told
    /// why.
    pub(super) fn end(&self, code: u32, why: &str) {
        // Before `up` is looked at: `run` sets `up` first and looks at this second, so one of the two closes.
        self.ended.store(true, Ordering::SeqCst);
        let lost = match self.up.get() {
            Some(up) => {
                up.connection.close(code.into(), why.as_bytes());
                FailureCode::Disconnected
            }
            None => FailureCode::Unreachable,
        };
        let failure = Failure::because(lost, why);
        self.control_in_flight.close(&failure);
        self.in_flight.close(&failure);
        for lane in self.lanes.iter().chain([&self.control, &self.large]) {
            lane.close();
        }
    }

    pub(super) fn ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    pub(super) fn connected(&self) -> bool {
        self.up.get().is_some() && !self.ended()
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        self.up.get().map(|up| up.connection.rtt())
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len() + self.control_in_flight.len()
    }

    /// The process at the other end, once it is known.
    pub(super) fn nonce(&self) -> Option<u64> {
        self.up.get().map(|up| up.nonce)
    }

    /// Which run of the node that is: the start's number and its nonce.
    pub(super) fn run(&self) -> Option<(u64, u64)> {
        self.up.get().map(|up| (up.boot, up.nonce))
    }

    /// How long the link has been up; zero before.
    pub(super) fn age(&self, now: Instant) -> Duration {
        self.up.get().map_or(Duration::ZERO, |up| now.saturating_duration_since(up.since))
    }

    fn answer(&self, correlation: u64, outcome: crate::reply::Outcome) {
        if let Some(reply) = self.table(correlation).take(correlation) {
            reply.send(outcome);
        }
    }

    fn table(&self, correlation: u64) -> &InFlight {
        if correlation & CONTROL_BIT == 0 { &self.in_flight } else { &self.control_in_flight }
    }

    /// Takes what a peer has sent; says whether it was the answer to its request.
    fn answered(&self, frame: Frame) -> Result<bool, &'static str> {
        match frame {
            Frame::Accepted { correlation } => {
                self.table(correlation).accepted(correlation);
                return Ok(false);
            }
            Frame::Reply { correlation, body } => self.answer(correlation, Ok(body)),
            Frame::Failure { correlation, code, detail } => {
                self.answer(correlation, Err(Failure { code: FailureCode::from_number(code), detail }));
            }
            Frame::Request { .. } => return Err("a request where replies belong"),
        }
        Ok(true)
    }

    /// Appends a request if it is still wanted and the peer knows it; says whether it did.
    fn encode(&self, ask: &Ask, now: Instant, out: &mut Outgoing) -> bool {
        let left = ask.deadline.saturating_duration_since(now).as_micros();
        if left == 0 {
            return false; // The sweep answers it.
        }
        if self.up.get().is_some_and(|up| !up.common.contains(ask.head.service, ask.head.message)) {
            self.answer(ask.correlation, Err(unsupported()));
            return false;
        }
        let head = Head { deadline_us: u32::try_from(left).unwrap_or(u32::MAX), ..ask.head };
        put_request_head(out.gather(), ask.correlation, &head, &ask.key, ask.body.len());
        out.body(&ask.body);
        true
    }
}

fn unsupported() -> Failure {
    Failure::because(
        FailureCode::Unsupported,
        "this peer runs a release that knows this message differently or not",
    )
}

/// Why a peer could not be reached.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("no connection within the time allowed")]
    Slow,
    #[error("this node's own certificate: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the address can't be dialled: {0}")]
    Connect(#[from] quinn::ConnectError),
    #[error("{0}")]
    Connection(#[source] quinn::ConnectionError),
    #[error("whoever answers there has another certificate than the node that is looked for")]
    Certificate,
    #[error(transparent)]
    Greeting(#[from] GreetingError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the connection was lost: {0}")]
    Write(#[from] quinn::WriteError),
}

impl From<quinn::ConnectionError> for DialError {
    fn from(error: quinn::ConnectionError) -> Self {
        match &error {
            quinn::ConnectionError::TransportError(failed) if failed.code == tls::wrong_certificate() => {
                Self::Certificate
            }
            _ => Self::Connection(error),
        }
    }
}

impl DialError {
    /// Whether somebody answers, and is not who should.
    fn is_distrust(&self) -> bool {
        matches!(self, Self::Certificate | Self::Refused(_))
    }
}

/// A link in the hands of the task that serves it. It ends with that task, also if the task is dropped with its node:
/// whoever waits for an answer keeps the node that keeps the link.
pub(super) struct Driven(pub(super) Arc<Link>);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.end(close::NORMAL, "its node has ended");
    }
}

/// How a link has ended.
pub(super) struct Ended {
    pub(super) why: String,
    /// Somebody answered who is not whom this node looks for: it will not get better by itself.
    pub(super) distrust: bool,
}

type Stream = (SendStream, RecvStream);

/// Dials and serves a link until it ends.
pub(super) async fn run(shared: &Arc<Shared>, link: &Arc<Link>, target: Target) -> Ended {
    let dialled = shared.env.timeout(shared.config.connect_timeout, dial(shared, link, target)).await;
    let mut distrust = false;
    let why = match dialled.unwrap_or(Err(DialError::Slow)) {
        Ok((connection, _)) if link.ended() => {
            connection.close(close::NORMAL.into(), b"no longer wanted");
            "no longer wanted".to_owned()
        }
        Ok((connection, streams)) => {
            for (index, stream) in streams.into_iter().enumerate() {
                spawn_lane(link, &connection, index, stream);
            }
            shared.env.spawn("transport large", send_large(link.clone(), connection.clone()));
            receive_large(shared, link, &connection).await
        }
        Err(error) => {
            distrust = error.is_distrust();
            error.to_string()
        }
    };
    let (class, addr) = (shared.config.class, target.addr);
    if link.up.get().is_some() {
        tracing::info!(class, %addr, why, "a connection has ended");
    } else {
        tracing::debug!(class, %addr, why, "a connection could not be made");
    }
    link.end(close::NORMAL, &why);
    Ended { why, distrust }
}

async fn dial(shared: &Shared, link: &Link, target: Target) -> Result<(Connection, Vec<Stream>), DialError> {
    let tls = shared.tls().client(target.fingerprint)?;
    let client = quic::client(&shared.env, &shared.config, tls);
    let connection = shared.endpoint.connect_with(client, target.addr, CERTIFICATE_NAME)?.await?;
    let greeted = greet(shared, &connection, target).await;
    let (control, common, theirs) = match greeted {
        Ok(greeted) => greeted,
        Err(error) => {
            connection.close(close::HELLO.into(), error.to_string().as_bytes());
            return Err(error);
        }
    };
    let mut streams = vec![control];
    for _ in &link.lanes {
        let (mut sender, receiver) = connection.open_bi().await?;
        sender.write_all(&[STREAM_LANE]).await?;
        streams.push((sender, receiver));
    }
    let (boot, nonce) = (theirs.boot, theirs.nonce);
    let up = Up { connection: connection.clone(), common, boot, nonce, since: shared.env.now() };
    // A link is dialled once, so nothing has been set before.
    let _ = link.up.set(up);
    Ok((connection, streams))
}

async fn greet(
    shared: &Shared,
    connection: &Connection,
    target: Target,
) -> Result<(Stream, CommonMessages, Hello), DialError> {
    let ours = shared.hello();
    let (mut sender, mut receiver) = connection.open_bi().await?;
    // The stream is made by dialling and only its priority can fail: if it is closed already, which shows below.
    let _ = sender.set_priority(CONTROL_PRIORITY);
    send_hello(&mut sender, &ours).await?;
    let theirs: Hello = receive_hello(&mut receiver).await?;
    shared.judge_server(&ours, &theirs, target)?;
    let common = CommonMessages::of(&ours, &theirs);
    Ok(((sender, receiver), common, theirs))
}

/// Starts the two tasks of a stream; stream 0 is the control stream.
fn spawn_lane(link: &Arc<Link>, connection: &Connection, index: usize, (mut sender, receiver): Stream) {
    let writer = link.clone();
    link.env.clone().spawn("transport write", async move {
        let lane = if index == 0 { &writer.control } else { &writer.lanes[index - 1] };
        let encode = |ask: &Ask, now: Instant, out: &mut Outgoing| {
            writer.encode(ask, now, out);
        };
        let written = write_lane(&writer.env, lane, &mut sender, &writer.traffic, encode).await;
        if let Err(error) = written {
            // Whether the connection has ended or only this stream: requests on it would never be answered.
            writer.end(close::NORMAL, &error.to_string());
        }
    });
    let (link, connection) = (link.clone(), connection.clone());
    link.env.clone().spawn("transport read", async move {
        let frames = FrameReader::new(&link.env, receiver, FRAME_INLINE_BYTES_MAX, link.traffic.clone());
        let why = read_replies(&link, frames).await;
        connection.close(close::FRAME.into(), why.as_bytes());
        link.end(close::FRAME, &why);
    });
}

async fn read_replies(link: &Link, mut frames: FrameReader) -> String {
    loop {
        match frames.next(&link.env).await {
            Ok(Some(frame)) => {
                if let Err(why) = link.answered(frame) {
                    return why.to_owned();
                }
            }
            Ok(None) => return "the peer closes this connection".to_owned(),
            Err(error) => return error.to_string(),
        }
    }
}

/// Sends each large request on a stream of its own. QUIC's limit on streams is the back-pressure.
async fn send_large(link: Arc<Link>, connection: Connection) {
    let mut batch = Vec::new();
    while link.large.drain(&mut batch).await {
        for ask in batch.drain(..) {
            let Ok(stream) = connection.open_bi().await else { return };
            link.env.clone().spawn("transport large request", ask_alone(link.clone(), stream, ask));
        }
    }
}

async fn ask_alone(link: Arc<Link>, (mut sender, receiver): Stream, ask: Ask) {
    let exchange = async {
        let mut out = Outgoing::default();
        out.gather().extend_from_slice(&[STREAM_OWN]);
        if !link.encode(&ask, link.env.now(), &mut out) {
            return Ok(());
        }
        out.write(&mut sender, &link.traffic).await.map_err(|error| error.to_string())?;
        sender.finish().map_err(|error| error.to_string())?;
        let mut frames = FrameReader::new(&link.env, receiver, FRAME_BYTES_MAX, link.traffic.clone());
        loop {
            match frames.next(&link.env).await.map_err(|error| error.to_string())? {
                Some(frame) => {
                    if link.answered(frame)? {
                        return Ok(());
                    }
                }
                None => return Err("the peer ended the stream without a reply".to_owned()),
            }
        }
    };
    if let Ok(Err(why)) = link.env.timeout_at(ask.deadline, exchange).await {
        link.answer(ask.correlation, Err(Failure::because(FailureCode::Disconnected, why)));
    }
    // If the time was up or the exchange failed: don't send the rest. Otherwise the stream has ended already.
    let _ = sender.reset(close::NORMAL.into());
}

/// Receives large replies, each on a stream of its own, until the connection ends; says why it did.
async fn receive_large(shared: &Arc<Shared>, link: &Arc<Link>, connection: &Connection) -> String {
    loop {
        let stream = match connection.accept_uni().await {
            Ok(stream) => stream,
            Err(error) => return error.to_string(),
        };
        let (shared, link, connection) = (shared.clone(), link.clone(), connection.clone());
        link.env.clone().spawn("transport large reply", async move {
            let received =
                shared.env.timeout(LARGE_FRAME_TIMEOUT, receive_alone(&shared, &link, stream)).await;
            if let Err(why) = received.unwrap_or(Err("a large reply did not arrive in time".to_owned())) {
                connection.close(close::FRAME.into(), why.as_bytes());
            }
        });
    }
}

async fn receive_alone(shared: &Shared, link: &Link, stream: RecvStream) -> Result<(), String> {
    let mut frames = FrameReader::new(&link.env, stream, FRAME_BYTES_MAX, link.traffic.clone());
    let say = |error: ReadFailure| error.to_string();
    let len = frames.announced(&link.env).await.map_err(say)?;
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    let Ok(_credit) = shared.reply_credit.acquire_many(len).await else { return Ok(()) };
    match frames.next(&link.env).await.map_err(say)? {
        Some(frame) if !matches!(frame, Frame::Accepted { .. }) => {
            link.answered(frame).map(drop).map_err(str::to_owned)
        }
        _ => Err("a stream of its own without a reply".to_owned()),
    }
}
