//! A caller: a connection that a peer has dialled to this node.
//!
//! Every request on it is judged at the door: a member of the cluster is passed on, a stranger only with the few
//! messages that strangers may send (the join), and a message that both sides know differently is refused. Bytes
//! that keep no protocol end the connection, and nothing else.

use super::{
    Clash, PeerInfo, Standing,
    budget::{Budget, Held},
    close,
    greeting::{CommonMessages, GreetingError, receive_hello, send_hello},
    lane::{FrameReader, Lane, Outgoing, write_lane},
    link::{LARGE_FRAME_TIMEOUT, STREAM_LANE, STREAM_OWN},
    lock,
    peers::{Refusal, Traffic},
    quic,
    shared::Shared,
    tls::{self, Fingerprint},
};
use crate::{
    membership::fingerprint,
    reply::{Accepted, Failure, FailureCode, Outcome, ReplyTo},
};
use bytes::Bytes;
use quinn::{Connection, Incoming, RecvStream, SendStream};
use rondel_proto::{
    frame::{
        COMMON_BYTES, FRAME_BYTES_MAX, FRAME_INLINE_BYTES_MAX, Frame, Head, REQUEST_BYTES, flags,
        put_accepted, put_failure, put_reply_head,
    },
    hello::Hello,
};
use rustls::pki_types::CertificateDer;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// What requests of one caller may hold until they are answered. At least one frame of any length fits.
const CREDIT_BYTES: usize = FRAME_BYTES_MAX + (1 << 20);
/// The same for the control stream, so that requests never hold up control.
const CONTROL_CREDIT_BYTES: usize = 4 << 20;
/// What a request costs besides its bytes.
const REQUEST_COST_BYTES: usize = 512;
/// Bytes of replies that may be queued to one caller.
const REPLY_BYTES_MAX: usize = FRAME_BYTES_MAX + (1 << 20);
/// Streams with many requests that one caller may open.
const LANES_MAX: usize = 16;
/// The longest detail of a failure that is sent.
const DETAIL_BYTES_MAX: usize = 4 << 10;
/// How long a stranger that asked for what it may not have is kept, so that the refusal reaches it.
const STRANGER_LINGER: Duration = Duration::from_secs(1);
/// How long a stranger may stay.
const STRANGER_STAY: Duration = Duration::from_secs(120);

/// Something in a queue for the caller.
struct Answer {
    correlation: u64,
    said: Said,
    _held: Option<Held>,
    _credit: Option<Credit>,
}

/// What is said of a request.
enum Said {
    /// The write is in memory. Its answer, which holds the request's credit, follows.
    Accepted,
    /// The answer.
    Outcome(Outcome),
}

/// One accepted connection.
pub(super) struct Caller {
    pub(super) id: u64,
    pub(super) info: PeerInfo,
    shared: Arc<Shared>,
    connection: Connection,
    common: CommonMessages,
    member: AtomicBool,
    dismissed: AtomicBool,
    credit: Semaphore,
    control_credit: Semaphore,
    budget: Arc<Budget>,
    traffic: Arc<Traffic>,
    lanes: Mutex<Vec<Arc<Lane<Answer>>>>,
    writing: AtomicUsize,
}

/// Why an incoming connection was not taken.
#[derive(Debug, thiserror::Error)]
enum AcceptError {
    #[error("{0}")]
    Connection(#[source] quinn::ConnectionError),
    #[error("it expected a node with another certificate at this address")]
    Certificate,
    #[error("the handshake left no certificate")]
    NoCertificate,
    #[error(transparent)]
    Greeting(#[from] GreetingError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("too many strangers are connected")]
    Crowded,
}

impl From<quinn::ConnectionError> for AcceptError {
    fn from(error: quinn::ConnectionError) -> Self {
        match &error {
            quinn::ConnectionError::ConnectionClosed(close)
                if close.error_code == tls::wrong_certificate() =>
            {
                Self::Certificate
            }
            _ => Self::Connection(error),
        }
    }
}

impl AcceptError {
    /// Whether the caller belongs to somebody else.
    fn is_distrust(&self) -> bool {
        matches!(self, Self::Certificate | Self::Refused(Refusal::Imposter { .. }))
    }
}

type Stream = (SendStream, RecvStream);

/// Takes an incoming connection and serves it until it ends.
pub(super) async fn accept(shared: Arc<Shared>, incoming: Incoming) {
    let addr = incoming.remote_address();
    let class = shared.config.class;
    shared.greeting.fetch_add(1, Ordering::Relaxed);
    let greeted = shared.env.timeout(shared.config.connect_timeout, greet(&shared, incoming)).await;
    shared.greeting.fetch_sub(1, Ordering::Relaxed);
    match greeted {
        Ok(Ok((caller, control))) => caller.serve(control).await,
        Ok(Err(error)) if error.is_distrust() && shared.may_warn() => tracing::warn!(
            class,
            %addr,
            %error,
            "somebody who does not belong here tried to connect: see which node that is, and of which cluster"
        ),
        Ok(Err(error)) => tracing::debug!(class, %addr, %error, "a connection was refused"),
        Err(_) => tracing::debug!(class, %addr, "a connection did not greet in time"),
    }
}

async fn greet(shared: &Arc<Shared>, incoming: Incoming) -> Result<(Arc<Caller>, Stream), AcceptError> {
    let connection = incoming.await?;
    let greeted = exchange(shared, &connection).await;
    if let Err(error) = &greeted {
        connection.close(close::HELLO.into(), error.to_string().as_bytes());
    }
    greeted
}

async fn exchange(
    shared: &Arc<Shared>,
    connection: &Connection,
) -> Result<(Arc<Caller>, Stream), AcceptError> {
    let fingerprint = certificate_of(connection).ok_or(AcceptError::NoCertificate)?;
    let (mut sender, mut receiver) = connection.accept_bi().await?;
    let theirs = receive_hello(&mut receiver).await?;
    let ours = shared.hello();
    let standing = match shared.judge_client(&ours, &theirs, &fingerprint) {
        Ok(standing) => standing,
        Err(refusal) => {
            if let Refusal::Clash(_) = refusal {
                let addr = connection.remote_address();
                shared.inbound.clash(Clash { addr, fingerprint, store: theirs.store, nonce: theirs.nonce });
            }
            return Err(refusal.into());
        }
    };
    let caller = Caller::new(shared, connection, &ours, &theirs, fingerprint, standing);
    if !shared.add_caller(&caller) {
        return Err(AcceptError::Crowded);
    }
    send_hello(&mut sender, &ours).await.inspect_err(|_| shared.remove_caller(&caller))?;
    Ok((caller, (sender, receiver)))
}

fn certificate_of(connection: &Connection) -> Option<Fingerprint> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    chain.first().map(|certificate| fingerprint(certificate))
}

impl Caller {
    fn new(
        shared: &Arc<Shared>,
        connection: &Connection,
        ours: &Hello,
        theirs: &Hello,
        fingerprint: Fingerprint,
        standing: Standing,
    ) -> Arc<Self> {
        let remote = shared.peers.get(theirs.node).filter(|_| standing == Standing::Member);
        if let Some(remote) = &remote {
            remote.alive(theirs.nonce);
            quic::widen(connection);
        }
        let info = PeerInfo {
            node: theirs.node,
            store: theirs.store,
            boot: theirs.boot,
            nonce: theirs.nonce,
            lineage: theirs.lineage,
            fingerprint,
            addr: connection.remote_address(),
            standing,
        };
        Arc::new(Self {
            id: shared.next_id(),
            info,
            shared: shared.clone(),
            connection: connection.clone(),
            common: CommonMessages::of(ours, theirs),
            member: AtomicBool::new(standing == Standing::Member),
            dismissed: AtomicBool::new(false),
            credit: Semaphore::new(CREDIT_BYTES),
            control_credit: Semaphore::new(CONTROL_CREDIT_BYTES),
            budget: Budget::part_of(&shared.replies_queued, REPLY_BYTES_MAX),
            traffic: remote.map(|remote| remote.traffic.clone()).unwrap_or_default(),
            lanes: Mutex::default(),
            writing: AtomicUsize::new(0),
        })
    }

    pub(super) fn member(&self) -> bool {
        self.member.load(Ordering::Relaxed)
    }

    /// A stranger has been admitted to the cluster.
    pub(super) fn admit(&self) {
        self.member.store(true, Ordering::Relaxed);
        quic::widen(&self.connection);
    }

    pub(super) fn close(&self, code: u32, why: &str) {
        self.connection.close(code.into(), why.as_bytes());
    }

    /// Whether every request has been answered and the answers are with QUIC.
    pub(super) fn quiet(&self) -> bool {
        self.credit.available_permits() == CREDIT_BYTES
            && self.control_credit.available_permits() == CONTROL_CREDIT_BYTES
    }

    /// Whether every stream of answers has ended and been acknowledged.
    pub(super) fn flushed(&self) -> bool {
        self.writing.load(Ordering::Relaxed) == 0
    }

    /// Lets the streams end when their queues are empty.
    pub(super) fn finish(&self) {
        for lane in lock(&self.lanes).iter() {
            lane.close();
        }
    }

    /// Drops all answers, those that are queued and those to come.
    pub(super) fn abandon(&self) {
        for lane in lock(&self.lanes).iter() {
            lane.abandon();
        }
    }

    async fn serve(self: Arc<Self>, (sender, receiver): Stream) {
        let env = self.shared.env.clone();
        if !self.member() {
            let caller = self.clone();
            env.spawn("transport stranger", async move {
                caller.shared.env.sleep(STRANGER_STAY).await;
                if !caller.member() {
                    caller.close(close::NOT_ALLOWED, "strangers may not stay");
                }
            });
        }
        let caller = self.clone();
        env.spawn("transport control", async move { caller.serve_lane(sender, receiver, true).await });
        while let Ok((sender, receiver)) = self.connection.accept_bi().await {
            let caller = self.clone();
            env.spawn("transport stream", async move { caller.serve_stream(sender, receiver).await });
        }
        self.shared.remove_caller(&self);
    }

    async fn serve_stream(self: Arc<Self>, sender: SendStream, mut receiver: RecvStream) {
        let mut kind = [0];
        if receiver.read_exact(&mut kind).await.is_err() {
            return;
        }
        match kind[0] {
            STREAM_LANE if lock(&self.lanes).len() < LANES_MAX => {
                self.serve_lane(sender, receiver, false).await
            }
            STREAM_OWN if self.member() => {
                let served = self.serve_alone(sender, receiver);
                if let Err(why) = served.await {
                    self.close(close::FRAME, &why);
                }
            }
            STREAM_OWN => self.close(close::NOT_ALLOWED, "strangers send no large requests"),
            _ => self.close(close::FRAME, "a stream of no known kind, or one too many"),
        }
    }

    /// Serves a stream with many requests until it ends.
    async fn serve_lane(self: Arc<Self>, sender: SendStream, receiver: RecvStream, control: bool) {
        let lane = Arc::new(Lane::new());
        lock(&self.lanes).push(lane.clone());
        self.spawn_writer(&lane, sender);
        let env = &self.shared.env;
        let mut frames = FrameReader::new(env, receiver, FRAME_INLINE_BYTES_MAX, self.traffic.clone());
        let end = loop {
            match frames.next(env).await {
                Ok(Some(frame)) => {
                    let credit = self.take_credit(frame_bytes(&frame), control).await;
                    if let Err(why) = self.dispatch(frame, frames.received(), credit, &lane, false) {
                        break Err(why.to_owned());
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error.to_string()),
            }
        };
        lane.close();
        if let Err(why) = end {
            self.close(close::FRAME, &why);
        }
    }

    /// Serves a stream with one request.
    async fn serve_alone(self: &Arc<Self>, sender: SendStream, receiver: RecvStream) -> Result<(), String> {
        let env = &self.shared.env;
        let mut frames = FrameReader::new(env, receiver, FRAME_BYTES_MAX, self.traffic.clone());
        let arrive = async {
            let len = frames.announced(env).await.map_err(|error| error.to_string())?;
            let credit = self.take_credit(len, false).await;
            match frames.next(env).await.map_err(|error| error.to_string())? {
                Some(frame) => Ok((frame, frames.received(), credit)),
                None => Err("a stream of its own without a request".to_owned()),
            }
        };
        let Ok(arrived) = env.timeout(LARGE_FRAME_TIMEOUT, arrive).await else {
            return Ok(()); // Dropping the stream tells the peer; its deadline has passed long ago.
        };
        let (frame, received, credit) = arrived?;
        let lane = Arc::new(Lane::new());
        self.spawn_writer(&lane, sender);
        self.dispatch(frame, received, credit, &lane, true).map_err(str::to_owned)
    }

    fn spawn_writer(self: &Arc<Self>, lane: &Arc<Lane<Answer>>, mut sender: SendStream) {
        let (caller, lane) = (self.clone(), lane.clone());
        self.writing.fetch_add(1, Ordering::Relaxed);
        self.shared.env.spawn("transport answer", async move {
            let encode =
                |answer: &Answer, _, out: &mut Outgoing| put_answer(out, answer.correlation, &answer.said);
            let written = write_lane(&caller.shared.env, &lane, &mut sender, &caller.traffic, encode).await;
            if written.is_ok() && sender.finish().is_ok() {
                // Until the peer has it all, or the connection ends: both are an end.
                let _ = sender.stopped().await;
            }
            lane.abandon();
            caller.writing.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Waits until `bytes` more may be held for this caller, and for all of them together.
    async fn take_credit(self: &Arc<Self>, bytes: usize, control: bool) -> Credit {
        let cost = u32::try_from(bytes + REQUEST_COST_BYTES).unwrap_or(u32::MAX);
        let own = if control { &self.control_credit } else { &self.credit };
        own.acquire_many(cost).await.expect("never closed").forget();
        let mut credit = Credit { caller: self.clone(), cost, whole: false, control };
        if !control {
            self.shared.request_credit.acquire_many(cost).await.expect("never closed").forget();
            credit.whole = true;
        }
        credit
    }

    fn dispatch(
        self: &Arc<Self>,
        frame: Frame,
        received: Instant,
        credit: Credit,
        lane: &Arc<Lane<Answer>>,
        alone: bool,
    ) -> Result<(), &'static str> {
        let Frame::Request { correlation, head, key, body } = frame else {
            return Err("a reply where requests belong");
        };
        let accepted = (head.flags & flags::ACCEPT != 0).then(|| accepted_on(lane, correlation));
        let lane = lane.clone();
        let reply = ReplyTo::new(move |outcome| {
            credit.caller.clone().answer(&lane, correlation, outcome, credit, alone)
        });
        let reply = reply.or_accepted(accepted);
        if let Err(code) = self.judge(&head) {
            reply.fail(code);
            return Ok(());
        }
        let standing = if self.member() { Standing::Member } else { Standing::Stranger };
        self.shared.inbound.request(PeerInfo { standing, ..self.info }, head, key, body, received, reply);
        Ok(())
    }

    fn judge(self: &Arc<Self>, head: &Head) -> Result<(), FailureCode> {
        if self.shared.closing() {
            return Err(FailureCode::NotServing);
        }
        if !self.member() && !self.shared.config.strangers_may.contains(&(head.service, head.message)) {
            self.dismiss();
            return Err(FailureCode::NotAllowed);
        }
        if !self.common.contains(head.service, head.message) {
            return Err(FailureCode::Unsupported);
        }
        Ok(())
    }

    fn dismiss(self: &Arc<Self>) {
        if self.dismissed.swap(true, Ordering::Relaxed) {
            return;
        }
        let caller = self.clone();
        self.shared.env.spawn("transport dismiss", async move {
            caller.shared.env.sleep(STRANGER_LINGER).await;
            if !caller.member() {
                caller.close(close::NOT_ALLOWED, "this node knows no member with this certificate");
            }
        });
    }

    fn answer(
        self: Arc<Self>,
        lane: &Arc<Lane<Answer>>,
        correlation: u64,
        mut outcome: Outcome,
        credit: Credit,
        alone: bool,
    ) {
        let mut bytes = answer_bytes(&outcome);
        let mut held = None;
        if outcome.is_ok() {
            if bytes > FRAME_BYTES_MAX {
                outcome = unsent("the reply is longer than a frame may be");
            } else {
                held = self.budget.take(bytes);
                if held.is_none() {
                    outcome = unsent("too many bytes of replies queued");
                }
            }
            bytes = answer_bytes(&outcome);
        }
        let answer = Answer { correlation, said: Said::Outcome(outcome), _held: held, _credit: Some(credit) };
        if alone {
            lane.push(answer);
            lane.close();
        } else if bytes <= FRAME_INLINE_BYTES_MAX {
            lane.push(answer);
        } else {
            let shared = self.shared.clone();
            shared.env.spawn("transport large answer", async move { self.answer_alone(answer).await });
        }
    }

    /// Sends a large reply on a stream of its own. QUIC's limit on streams is the back-pressure.
    async fn answer_alone(&self, answer: Answer) {
        let Ok(mut sender) = self.connection.open_uni().await else { return };
        let mut out = Outgoing::default();
        put_answer(&mut out, answer.correlation, &answer.said);
        // An error means that the connection has ended: nobody waits any more.
        if out.write(&mut sender, &self.traffic).await.is_ok() && sender.finish().is_ok() {
            let _ = sender.stopped().await;
        }
    }
}

/// Says on a stream that a write is in memory. At most one of these is queued for each request that holds credit.
fn accepted_on(lane: &Arc<Lane<Answer>>, correlation: u64) -> Accepted {
    let lane = lane.clone();
    Box::new(move || lane.push(Answer { correlation, said: Said::Accepted, _held: None, _credit: None }))
}

fn frame_bytes(frame: &Frame) -> usize {
    match frame {
        Frame::Request { key, body, .. } => REQUEST_BYTES + key.len() + body.len(),
        Frame::Reply { body, .. } => COMMON_BYTES + body.len(),
        Frame::Failure { detail, .. } => COMMON_BYTES + detail.len(),
        Frame::Accepted { .. } => COMMON_BYTES,
    }
}

/// What is answered where the true answer can't be sent. The request may have been done: no code that says otherwise.
fn unsent(why: &str) -> Outcome {
    Err(Failure::because(FailureCode::Dropped, why))
}

fn answer_bytes(outcome: &Outcome) -> usize {
    COMMON_BYTES
        + outcome.as_ref().map_or_else(|failure| failure.detail.len().min(DETAIL_BYTES_MAX), Bytes::len)
}

fn put_answer(out: &mut Outgoing, correlation: u64, said: &Said) {
    match said {
        Said::Accepted => put_accepted(out.gather(), correlation),
        Said::Outcome(Ok(body)) => {
            put_reply_head(out.gather(), correlation, body.len());
            out.body(body);
        }
        Said::Outcome(Err(Failure { code, detail })) => {
            put_failure(
                out.gather(),
                correlation,
                code.number(),
                &detail[..detail.len().min(DETAIL_BYTES_MAX)],
            );
        }
    }
}

/// Bytes held for a request until its answer is with QUIC.
struct Credit {
    caller: Arc<Caller>,
    cost: u32,
    whole: bool,
    control: bool,
}

impl Drop for Credit {
    fn drop(&mut self) {
        let cost = self.cost as usize;
        let own = if self.control { &self.caller.control_credit } else { &self.caller.credit };
        own.add_permits(cost);
        if self.whole {
            self.caller.shared.request_credit.add_permits(cost);
        }
    }
}
