//! The Protocol Buffers listener: Riak's clients come in here.
//!
//! It owns the sockets; what requests mean is the business of a [`PbService`]. What a client can make it hold is
//! bounded: the number of connections, the length of a frame, the bytes of large frames over all connections, and the
//! time for which a connection may be idle, send one frame or leave answers unread.
//!
//! Reference: riak_api_pb_listener.erl, riak_api_pb_server.erl.

mod connection;
mod kv;
mod metrics;

pub(crate) use kv::KvService;
pub(crate) use metrics::PbMetrics;

use bytes::{Bytes, BytesMut};
use connection::Connection;
use futures_util::Stream;
use rondel_core::env::Env;
use rondel_proto::riak::{RiakError, messages::*, pbc};
use std::{future::Future, io, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};

/// After the operating system refused to accept (no more file descriptors, say), it is asked again after this.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);
/// Large frames are counted against [`PbLimits::frames_bytes_max`] in units of this.
const BUDGET_UNIT_BYTES: usize = 1 << 10;

/// What the requests of Riak's Protocol Buffers interface mean.
pub(crate) trait PbService: Send + Sync + 'static {
    /// Who answers.
    fn server_info(&self) -> RpbGetServerInfoResp;

    /// Reads an object.
    fn get(&self, request: RpbGetReq) -> impl Future<Output = Result<RpbGetResp, RiakError>> + Send;

    /// Writes an object.
    fn put(&self, request: RpbPutReq) -> impl Future<Output = Result<RpbPutResp, RiakError>> + Send;

    /// Deletes an object.
    fn delete(&self, request: RpbDelReq) -> impl Future<Output = Result<(), RiakError>> + Send;

    /// The keys of a bucket, batch by batch. An error is the last item.
    fn list_keys(&self, request: RpbListKeysReq) -> impl Stream<Item = Result<Vec<Bytes>, RiakError>> + Send;

    /// The buckets of a type that hold keys, batch by batch. An error is the last item.
    fn list_buckets(
        &self,
        request: RpbListBucketsReq,
    ) -> impl Stream<Item = Result<Vec<Bytes>, RiakError>> + Send;

    /// The properties of a bucket.
    fn bucket_props(
        &self,
        request: RpbGetBucketReq,
    ) -> impl Future<Output = Result<RpbBucketProps, RiakError>> + Send;

    /// The properties of a bucket type.
    fn type_props(
        &self,
        request: RpbGetBucketTypeReq,
    ) -> impl Future<Output = Result<RpbBucketProps, RiakError>> + Send;
}

/// What clients may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PbLimits {
    /// Connections at once; one more is told so and closed.
    pub(crate) connections_max: usize,
    /// The longest frame of a request, and so about the largest object.
    pub(crate) frame_bytes_max: usize,
    /// The bytes of large frames that are received or served at once; further ones wait. At least `frame_bytes_max`.
    pub(crate) frames_bytes_max: usize,
    /// A connection without a request for so long is closed.
    pub(crate) idle: Duration,
    /// One frame must arrive, and one answer be taken, within this.
    pub(crate) transfer: Duration,
}

impl Default for PbLimits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            frame_bytes_max: pbc::FRAME_BYTES_MAX,
            frames_bytes_max: 512 << 20,
            idle: Duration::from_secs(3600),
            transfer: Duration::from_secs(60),
        }
    }
}

/// What all connections share.
struct Shared<S> {
    env: Env,
    service: S,
    limits: PbLimits,
    metrics: PbMetrics,
    /// One permit for each [`BUDGET_UNIT_BYTES`] of large frames.
    budget: Arc<Semaphore>,
}

/// Serves clients until `stop` turns true (or its sender is gone), and then until all requests are answered.
/// Connections that wait for a request are closed at once.
pub(crate) async fn serve<S: PbService>(
    env: Env,
    listener: TcpListener,
    service: S,
    limits: PbLimits,
    metrics: PbMetrics,
    mut stop: watch::Receiver<bool>,
) {
    let budget =
        Arc::new(Semaphore::new(limits.frames_bytes_max.max(limits.frame_bytes_max) / BUDGET_UNIT_BYTES + 1));
    let shared = Arc::new(Shared { env, service, limits, metrics, budget });
    let places = Arc::new(Semaphore::new(limits.connections_max));
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|&stop| stop) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => welcome(&shared, &places, stream, stop.clone()),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a Protocol Buffers connection");
                shared.env.sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
    drop(listener);
    let all = u32::try_from(limits.connections_max).unwrap_or(u32::MAX);
    // The semaphore is never closed, so this only waits.
    let _ = places.acquire_many(all).await;
}

fn welcome<S: PbService>(
    shared: &Arc<Shared<S>>,
    places: &Arc<Semaphore>,
    stream: TcpStream,
    stop: watch::Receiver<bool>,
) {
    let Ok(place) = Arc::clone(places).try_acquire_owned() else {
        shared.metrics.connections_refused.increment(1);
        turn_away(&stream);
        return;
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a Protocol Buffers connection was lost before its first request");
        return;
    }
    let shared = Arc::clone(shared);
    shared.env.clone().spawn("pb connection", async move {
        shared.metrics.connections.increment(1);
        Connection::new(&shared, stream).run(stop).await;
        shared.metrics.connections.decrement(1);
        drop(place);
    });
}

/// Says why, as far as that goes without waiting for the client.
fn turn_away(stream: &TcpStream) {
    let mut out = BytesMut::new();
    pbc::put_error(&mut out, &RiakError::Other("too many connections".to_owned()));
    let _: io::Result<usize> = stream.try_write(&out);
}

#[cfg(test)]
mod tests;
