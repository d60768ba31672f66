//! One client's connection: frames in, answers out, in order, one at a time.
//!
//! Whatever a client sends, the answer is a message or the end of the connection. A request that can't be served gets
//! Riak's error and the connection goes on; bytes that don't decode get Riak's error and the connection ends, since
//! nothing after them can be trusted. An answer leaves as soon as it is complete; requests that the client has sent in
//! the meantime wait in the socket and the buffer, of which at most one frame is held.

use super::{BUDGET_UNIT_BYTES, PbService, Shared};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use rondel_core::env::BoxFuture;
use rondel_proto::riak::{
    Code, Coded, RiakError,
    messages::*,
    pbc::{self, DecodeError, Frame, FrameError},
};
use std::{io, pin::pin, sync::Arc, time::Instant};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, watch},
};

/// What is read at once, and what an idle connection keeps.
const BUFFER_BYTES: usize = 16 << 10;
/// Larger frames are counted against the budget of all connections and leave no buffer behind.
const SMALL_FRAME_BYTES: usize = 256 << 10;
/// A stream of answers leaves in pieces of about this.
const OUT_BYTES: usize = 64 << 10;
/// The longest client id that is kept for a client.
const CLIENT_ID_BYTES_MAX: usize = 1 << 10;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("closed by the client")]
    Closed,
    #[error("the node is stopping")]
    Stopping,
    #[error("idle for too long")]
    Idle,
    #[error("the client took too long to send a request or to take an answer")]
    Slow,
    #[error("no frame: {0}")]
    BadFrame(#[from] FrameError),
    #[error("no message: {0}")]
    BadMessage(#[from] DecodeError),
    #[error("connection lost: {0}")]
    Lost(#[from] io::Error),
}

/// Why a request got no answer of its own kind.
enum Refusal {
    /// Tell the client; the connection goes on.
    Error(RiakError),
    /// The connection ends.
    End(End),
}

impl<E: Into<End>> From<E> for Refusal {
    fn from(end: E) -> Self {
        Self::End(end.into())
    }
}

impl From<RiakError> for Refusal {
    fn from(error: RiakError) -> Self {
        Self::Error(error)
    }
}

pub(super) struct Connection<'a, S> {
    shared: &'a Shared<S>,
    stream: TcpStream,
    received: BytesMut,
    out: BytesMut,
    client_id: Bytes,
    /// When the last answer was taken, or the first bytes of the request after it arrived.
    active: Instant,
    /// Wakes the connection now and then to look at the clock.
    alarm: BoxFuture,
}

impl<'a, S: PbService> Connection<'a, S> {
    pub(super) fn new(shared: &'a Shared<S>, stream: TcpStream) -> Self {
        let active = shared.env.now();
        let alarm = shared.env.sleep_until(active + shared.limits.transfer.min(shared.limits.idle));
        Self {
            shared,
            stream,
            received: BytesMut::new(),
            out: BytesMut::new(),
            client_id: Bytes::from_static(&[0; 4]),
            active,
            alarm,
        }
    }

    /// Serves the client until either side has had enough.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut stopping = pin!(async move {
            let _ = stop.wait_for(|&stop| stop).await;
        });
        let end = loop {
            if let Err(end) = self.serve_one(&mut stopping).await {
                break end;
            }
        };
        if let End::BadFrame(_) | End::BadMessage(_) | End::Slow = &end {
            self.shared.metrics.connections_broken.increment(1);
        }
        tracing::debug!(%end, "a Protocol Buffers connection has ended");
    }

    async fn serve_one(&mut self, stopping: &mut (impl Future<Output = ()> + Unpin)) -> Result<(), End> {
        let (frame, _budget) = match self.next_frame(stopping).await {
            Err(End::BadFrame(error)) => return self.part(error.into()).await,
            other => other?,
        };
        let (code, frame_bytes, began) = (frame.code, frame.payload.len(), self.active);
        let served = self.answer(frame).await;
        let ok = served.is_ok();
        match served {
            Ok(()) => {}
            Err(Refusal::Error(error)) => pbc::put_error(&mut self.out, &error),
            Err(Refusal::End(End::BadMessage(error))) => return self.part(error.into()).await,
            Err(Refusal::End(end)) => return Err(end),
        }
        self.flush().await?;
        self.active = self.shared.env.now();
        self.shared.metrics.answered(code, ok, self.active.saturating_duration_since(began));
        if frame_bytes > SMALL_FRAME_BYTES {
            self.received = BytesMut::from(&self.received[..]);
        }
        Ok(())
    }

    /// Tells the client what is wrong with its bytes, and ends.
    async fn part(&mut self, end: End) -> Result<(), End> {
        pbc::put_error(&mut self.out, &RiakError::Unprocessable(end.to_string()));
        self.flush().await?;
        Err(end)
    }

    /// The next whole frame, and its share of the budget if it is large.
    async fn next_frame(
        &mut self,
        stopping: &mut (impl Future<Output = ()> + Unpin),
    ) -> Result<(Frame, Option<OwnedSemaphorePermit>), End> {
        let mut budget = None;
        loop {
            if let Some(frame) = pbc::take_frame(&mut self.received, self.shared.limits.frame_bytes_max)? {
                return Ok((frame, budget));
            }
            if budget.is_none() {
                let claimed = pbc::claimed_bytes(&self.received).unwrap_or(0);
                budget = reserve_budget(self.shared, claimed).await?;
            }
            self.read(stopping).await?;
        }
    }

    /// Reads what has arrived, or ends: a connection that waits for its first byte may be told to stop.
    async fn read(&mut self, stopping: &mut (impl Future<Output = ()> + Unpin)) -> Result<(), End> {
        self.received.reserve(BUFFER_BYTES);
        let between_requests = self.received.is_empty();
        loop {
            tokio::select! {
                biased;
                read = self.stream.read_buf(&mut self.received) => {
                    if read? == 0 {
                        return Err(End::Closed);
                    }
                    if between_requests {
                        self.active = self.shared.env.now();
                    }
                    return Ok(());
                }
                () = &mut *stopping, if between_requests => return Err(End::Stopping),
                () = &mut self.alarm => {}
            }
            let limits = &self.shared.limits;
            let (limit, end) =
                if between_requests { (limits.idle, End::Idle) } else { (limits.transfer, End::Slow) };
            let now = self.shared.env.now();
            if now.saturating_duration_since(self.active) >= limit {
                return Err(end);
            }
            self.alarm = self.shared.env.sleep_until(now + limits.transfer.min(limits.idle));
        }
    }

    /// Appends the answer to a request.
    async fn answer(&mut self, frame: Frame) -> Result<(), Refusal> {
        let service = &self.shared.service;
        let payload = frame.payload;
        let code = Code::from_number(frame.code).ok_or(RiakError::UnknownCode(frame.code))?;
        match code {
            Code::RpbPingReq => self.put_empty(Code::RpbPingResp),
            Code::RpbGetServerInfoReq => self.put(&service.server_info())?,
            Code::RpbGetClientIdReq => self.put(&RpbGetClientIdResp { client_id: self.client_id.clone() })?,
            Code::RpbSetClientIdReq => self.set_client_id(&pbc::decode(payload)?)?,
            Code::RpbGetReq => self.put(&service.get(pbc::decode(payload)?).await?)?,
            Code::RpbPutReq => self.put(&service.put(pbc::decode(payload)?).await?)?,
            Code::RpbDelReq => {
                service.delete(pbc::decode(payload)?).await?;
                self.put_empty(Code::RpbDelResp);
            }
            Code::RpbListKeysReq => self.list_keys(pbc::decode(payload)?).await?,
            Code::RpbListBucketsReq => self.list_buckets(pbc::decode(payload)?).await?,
            Code::RpbGetBucketReq => {
                let props = service.bucket_props(pbc::decode(payload)?).await?;
                self.put(&RpbGetBucketResp { props })?;
            }
            Code::RpbGetBucketTypeReq => {
                let props = service.type_props(pbc::decode(payload)?).await?;
                self.put(&RpbGetBucketResp { props })?;
            }
            Code::RpbStartTls => return Err(RiakError::SecurityOff.into()),
            other => return Err(RiakError::NotSupported(other).into()),
        }
        Ok(())
    }

    fn set_client_id(&mut self, request: &RpbSetClientIdReq) -> Result<(), RiakError> {
        if request.client_id.len() > CLIENT_ID_BYTES_MAX {
            return Err(RiakError::Other(format!("a client id has at most {CLIENT_ID_BYTES_MAX} bytes")));
        }
        // A slice of the frame would keep the frame.
        self.client_id = Bytes::copy_from_slice(&request.client_id);
        self.put_empty(Code::RpbSetClientIdResp);
        Ok(())
    }

    async fn list_keys(&mut self, request: RpbListKeysReq) -> Result<(), Refusal> {
        let shared = self.shared;
        let mut batches = pin!(shared.service.list_keys(request));
        while let Some(keys) = batches.next().await.transpose()? {
            if !keys.is_empty() {
                self.put(&RpbListKeysResp { keys, done: None })?;
                self.flush_if_full().await?;
            }
        }
        self.put(&RpbListKeysResp { keys: Vec::new(), done: Some(true) })?;
        Ok(())
    }

    async fn list_buckets(&mut self, request: RpbListBucketsReq) -> Result<(), Refusal> {
        let shared = self.shared;
        let stream = request.stream();
        let mut batches = pin!(shared.service.list_buckets(request));
        let (mut all, mut all_bytes) = (Vec::new(), 0);
        while let Some(buckets) = batches.next().await.transpose()? {
            if stream && !buckets.is_empty() {
                self.put(&RpbListBucketsResp { buckets, done: None })?;
                self.flush_if_full().await?;
            } else {
                all_bytes += buckets.iter().map(Bytes::len).sum::<usize>();
                all.extend(buckets);
            }
            if all_bytes > shared.limits.frame_bytes_max {
                return Err(
                    RiakError::Other("too many buckets for one answer: ask for a stream".to_owned()).into()
                );
            }
        }
        self.put(&RpbListBucketsResp { buckets: all, done: stream.then_some(true) })?;
        Ok(())
    }

    fn put_empty(&mut self, code: Code) {
        pbc::put_empty(&mut self.out, code);
    }

    fn put<M: Coded>(&mut self, message: &M) -> Result<(), RiakError> {
        pbc::put(&mut self.out, message).map_err(|_| RiakError::TooLarge)
    }

    async fn flush_if_full(&mut self) -> Result<(), End> {
        if self.out.len() >= OUT_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Hands all answers to the client. Only a client that is slow to take them costs a timer.
    async fn flush(&mut self) -> Result<(), End> {
        let written = match self.stream.try_write(&self.out) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error.into()),
        };
        if written < self.out.len() {
            let rest = self.stream.write_all(&self.out[written..]);
            self.shared.env.timeout(self.shared.limits.transfer, rest).await.map_err(|_| End::Slow)??;
        }
        if self.out.capacity() > SMALL_FRAME_BYTES {
            self.out = BytesMut::new();
        } else {
            self.out.clear();
        }
        Ok(())
    }
}

/// Waits for a share of the budget if the frame that is arriving is large.
async fn reserve_budget<S>(shared: &Shared<S>, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, End> {
    if bytes <= SMALL_FRAME_BYTES {
        return Ok(None);
    }
    let units = u32::try_from(bytes.div_ceil(BUDGET_UNIT_BYTES)).unwrap_or(u32::MAX);
    let acquire = Arc::clone(&shared.budget).acquire_many_owned(units);
    let acquired = shared.env.timeout(shared.limits.transfer, acquire).await;
    // The semaphore is never closed: what ends the wait is time.
    acquired.ok().and_then(Result::ok).map(Some).ok_or(End::Slow)
}
