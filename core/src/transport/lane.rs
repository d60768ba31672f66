//! A lane: one long-lived stream with many requests on it at once.
//!
//! Whoever has something to send puts it into the lane's queue and goes on. One task per lane takes all that has
//! gathered, encodes it into one buffer and hands that to QUIC in one write: the busier the node, the larger its
//! writes, without a timer. Reading is the mirror image: one buffer, frames cut out of it without copying.

use super::{lock, peers::Traffic};
use crate::env::Env;
use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, SendStream, WriteError};
use rondel_proto::frame::{Frame, FrameError, take_frame};
use std::{
    mem,
    sync::{Arc, Mutex},
    time::Instant,
};
use tokio::{io::AsyncReadExt as _, sync::Notify};

/// One write is not much longer than this.
const WRITE_BYTES: usize = 128 << 10;
/// Longer bodies are not copied into a write.
const COPY_BYTES_MAX: usize = 32 << 10;
/// What a receive buffer is allocated in. It bounds how much a small slice that somebody keeps can pin.
const READ_BYTES: usize = 32 << 10;
/// Room below which the receive buffer is renewed before a read.
const READ_ROOM_BYTES: usize = 4 << 10;

/// The queue of a stream.
pub(super) struct Lane<T> {
    queue: Mutex<Queue<T>>,
    bell: Notify,
}

struct Queue<T> {
    items: Vec<T>,
    open: bool,
}

impl<T> Lane<T> {
    pub(super) fn new() -> Self {
        Self { queue: Mutex::new(Queue { items: Vec::new(), open: true }), bell: Notify::new() }
    }

    /// Queues an item; dropped if the lane is closed.
    pub(super) fn push(&self, item: T) {
        let mut queue = lock(&self.queue);
        if !queue.open {
            return;
        }
        queue.items.push(item);
        let first = queue.items.len() == 1;
        drop(queue);
        if first {
            self.bell.notify_one();
        }
    }

    /// No further items; those that are queued are still taken.
    pub(super) fn close(&self) {
        lock(&self.queue).open = false;
        self.bell.notify_one();
    }

    /// Closes the lane and drops what is queued.
    pub(super) fn abandon(&self) {
        let mut queue = lock(&self.queue);
        queue.open = false;
        let items = mem::take(&mut queue.items);
        drop(queue);
        drop(items);
    }

    /// Moves all that is queued into `batch`, waiting for the first; false once the lane is closed and empty.
    pub(super) async fn drain(&self, batch: &mut Vec<T>) -> bool {
        loop {
            {
                let mut queue = lock(&self.queue);
                if !queue.items.is_empty() {
                    mem::swap(&mut queue.items, batch);
                    return true;
                }
                if !queue.open {
                    return false;
                }
            }
            self.bell.notified().await;
            // Whatever else can run goes first: what it has to send goes along.
            tokio::task::yield_now().await;
        }
    }
}

/// Bytes on their way to QUIC: short pieces gathered into one, long ones as they are.
///
/// Gathered, because QUIC keeps a list of what it was given until it is acknowledged, and walks it for every packet.
#[derive(Default)]
pub(super) struct Outgoing {
    gathered: BytesMut,
    chunks: Vec<Bytes>,
    bytes: usize,
}

impl Outgoing {
    /// Where to append what is short.
    pub(super) fn gather(&mut self) -> &mut BytesMut {
        &mut self.gathered
    }

    /// Appends an archive.
    pub(super) fn body(&mut self, body: &Bytes) {
        if body.len() <= COPY_BYTES_MAX {
            self.gathered.extend_from_slice(body);
            return;
        }
        self.cut();
        self.bytes += body.len();
        self.chunks.push(body.clone());
    }

    fn len(&self) -> usize {
        self.bytes + self.gathered.len()
    }

    fn cut(&mut self) {
        if !self.gathered.is_empty() {
            self.bytes += self.gathered.len();
            self.chunks.push(self.gathered.split().freeze());
        }
    }

    /// Hands everything to QUIC, waiting while it has too much.
    pub(super) async fn write(
        &mut self,
        stream: &mut SendStream,
        traffic: &Traffic,
    ) -> Result<(), WriteError> {
        self.cut();
        traffic.sent(mem::take(&mut self.bytes));
        stream.write_all_chunks(&mut self.chunks).await?;
        self.chunks.clear();
        Ok(())
    }
}

/// Writes what is queued until the lane is closed and empty. `encode` appends one item, or nothing. Items are
/// dropped when QUIC has taken their bytes.
pub(super) async fn write_lane<T>(
    env: &Env,
    lane: &Lane<T>,
    stream: &mut SendStream,
    traffic: &Traffic,
    mut encode: impl FnMut(&T, Instant, &mut Outgoing),
) -> Result<(), WriteError> {
    let mut batch = Vec::new();
    while lane.drain(&mut batch).await {
        let mut now = env.now();
        let mut out = Outgoing::default();
        for item in &batch {
            encode(item, now, &mut out);
            if out.len() >= WRITE_BYTES {
                out.write(stream, traffic).await?;
                now = env.now();
            }
        }
        out.write(stream, traffic).await?;
        batch.clear();
    }
    Ok(())
}

/// Why nothing more can be read from a stream.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadFailure {
    /// The stream or its connection has ended.
    #[error("the stream ended: {0}")]
    Ended(#[from] std::io::Error),
    /// The peer sends what is no frame.
    #[error("the peer does not keep to the protocol: {0}")]
    Frame(#[from] FrameError),
    /// The stream ended within a frame.
    #[error("the stream ended within a frame")]
    Cut,
}

/// Cuts frames out of a stream.
pub(super) struct FrameReader {
    stream: RecvStream,
    buffer: BytesMut,
    received: Instant,
    bytes_max: usize,
    traffic: Arc<Traffic>,
}

impl FrameReader {
    pub(super) fn new(env: &Env, stream: RecvStream, bytes_max: usize, traffic: Arc<Traffic>) -> Self {
        Self { stream, buffer: BytesMut::new(), received: env.now(), bytes_max, traffic }
    }

    /// When the bytes of the last frame had arrived.
    pub(super) fn received(&self) -> Instant {
        self.received
    }

    /// The next frame; `None` at the end of the stream.
    pub(super) async fn next(&mut self, env: &Env) -> Result<Option<Frame>, ReadFailure> {
        loop {
            if let Some(frame) = take_frame(&mut self.buffer, self.bytes_max)? {
                return Ok(Some(frame));
            }
            if !self.fill(env).await? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(ReadFailure::Cut) };
            }
        }
    }

    /// How long the next frame says it is, before room for it is made.
    pub(super) async fn announced(&mut self, env: &Env) -> Result<usize, ReadFailure> {
        loop {
            if let Some(prefix) = self.buffer.first_chunk::<4>() {
                let len = u32::from_le_bytes(*prefix) as usize;
                return if len <= self.bytes_max {
                    Ok(len)
                } else {
                    Err(FrameError::TooLong { len, max: self.bytes_max }.into())
                };
            }
            if !self.fill(env).await? {
                return Err(ReadFailure::Cut);
            }
        }
    }

    /// Reads what is there, waiting for the first byte; false at the end of the stream.
    async fn fill(&mut self, env: &Env) -> Result<bool, ReadFailure> {
        if self.buffer.capacity() - self.buffer.len() < READ_ROOM_BYTES {
            self.buffer.reserve(READ_BYTES);
        }
        let read = self.stream.read_buf(&mut self.buffer).await?;
        self.received = env.now();
        self.traffic.received(read);
        Ok(read > 0)
    }
}
