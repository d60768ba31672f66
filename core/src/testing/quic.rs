//! quinn on the simulator: its timers, tasks, sockets and randomness. The only file that knows its traits.

use super::{
    World,
    clock::Sleep,
    lock,
    net::{self, Datagram, End},
    process::Process,
    trace::Event,
};
use crate::env::Rng;
use quinn::{
    AsyncTimer, AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use quinn_proto::{ConnectionId, ConnectionIdGenerator};
use ring::hmac;
use std::{
    fmt,
    future::Future,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

/// Datagrams that a sender may hand over at once, as with segmentation offload.
const SEGMENTS_MAX: usize = 8;

/// A process as quinn's runtime.
pub(super) struct Runtime {
    pub(super) world: Arc<World>,
    pub(super) process: Arc<Process>,
}

impl fmt::Debug for Runtime {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Runtime").field("process", &self.process).finish_non_exhaustive()
    }
}

impl quinn::Runtime for Runtime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(Timer(self.world.sleep_until(at)))
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.world.spawn("quic", Some(&self.process), task);
    }

    fn wrap_udp_socket(&self, _socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "a simulated node has no real sockets: bind through its Env",
        ))
    }

    fn now(&self) -> Instant {
        self.world.clock.now()
    }
}

#[derive(Debug)]
struct Timer(Sleep);

impl AsyncTimer for Timer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        self.0.reset(at);
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// QUIC settings that draw nothing from the operating system.
pub(super) fn endpoint_config(mut entropy: impl FnMut(&mut [u8])) -> quinn::EndpointConfig {
    let (mut reset_key, mut seed, mut ids) = ([0; 64], [0; 32], [0; 8]);
    entropy(&mut reset_key);
    entropy(&mut seed);
    entropy(&mut ids);
    let ids = u64::from_le_bytes(ids);
    let mut config = quinn::EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &reset_key)));
    config.rng_seed(Some(seed)).cid_generator(move || Box::new(SeededIds(Rng::from_seed(ids))));
    config
}

/// Connection ids from a seeded stream.
struct SeededIds(Rng);

impl ConnectionIdGenerator for SeededIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.0.u64().to_le_bytes())
    }

    fn cid_len(&self) -> usize {
        size_of::<u64>()
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// A datagram socket of a process.
pub(super) struct Socket {
    world: Arc<World>,
    process: Arc<Process>,
    /// The address that was bound, with its real port.
    local: SocketAddr,
    end: End,
    number: u64,
}

impl Socket {
    pub(super) fn bind(world: &Arc<World>, process: &Arc<Process>, addr: SocketAddr) -> io::Result<Self> {
        let node = process.machine.node;
        if !process.is_alive() {
            return Err(io::Error::other("the process has been killed"));
        }
        let ip = addr.ip().to_canonical();
        if !ip.is_unspecified() && !ip.is_loopback() && net::node_of(ip) != Some(node) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let (number, port) = lock(&world.network).bind(process, addr.port())?;
        world.record(&Event::Bind { node, port });
        let local = SocketAddr::new(addr.ip(), port);
        Ok(Self { world: world.clone(), process: process.clone(), local, end: (node, port), number })
    }

    /// The address that receivers see.
    fn source(&self, to: IpAddr) -> SocketAddr {
        let ip =
            if to.to_canonical().is_loopback() { Ipv4Addr::LOCALHOST.into() } else { net::ip(self.end.0) };
        SocketAddr::new(ip, self.end.1)
    }

    /// An address as a socket of this family sees it.
    fn seen(&self, addr: SocketAddr) -> SocketAddr {
        match addr.ip() {
            IpAddr::V4(ip) if self.local.is_ipv6() => {
                SocketAddr::new(ip.to_ipv6_mapped().into(), addr.port())
            }
            _ => addr,
        }
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if !self.process.is_alive() {
            return Ok(());
        }
        let from = self.source(transmit.destination.ip());
        let segment_bytes = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for segment in transmit.contents.chunks(segment_bytes) {
            let datagram = Datagram { from, bytes: segment.to_vec(), ecn: transmit.ecn };
            self.world.send(self.end, transmit.destination, &datagram);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut network = lock(&self.world.network);
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            let Some(datagram) = network.take(self.end, self.number) else { break };
            let len = datagram.bytes.len().min(buffer.len());
            buffer[..len].copy_from_slice(&datagram.bytes[..len]);
            let addr = self.seen(datagram.from);
            let dst_ip = Some(self.seen(SocketAddr::new(net::ip(self.end.0), 0)).ip());
            *meta = RecvMeta { addr, len, stride: len, ecn: datagram.ecn, dst_ip };
            count += 1;
        }
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        let replaced = network.wait(self.end, self.number, cx.waker());
        drop(network);
        drop(replaced);
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn max_transmit_segments(&self) -> usize {
        SEGMENTS_MAX
    }

    fn may_fragment(&self) -> bool {
        // Otherwise quinn would not look for the largest datagram that a path carries.
        false
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let waiting = lock(&self.world.network).close(self.end, self.number);
        drop(waiting);
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Socket").field("local", &self.local).finish_non_exhaustive()
    }
}

/// The simulated network never pushes back.
#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
