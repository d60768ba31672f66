//! How much may be on its way to a peer.
//!
//! CUBIC, as everywhere, but never below a floor. CUBIC is made for long ways: a few datagrams lost by chance, or overtaken
//! by others, leave a window of two, which takes seconds to grow again however short the way is; meanwhile requests that
//! the network would carry at once wait for acknowledgements. The floor is a window of fixed size, as eRPC's session
//! credits are (Kalia, Kaminsky, Andersen: Datacenter RPCs can be general and fast, NSDI 2019). What is in flight is
//! bounded all the same, and where nothing is acknowledged at all nothing but probes is sent, ever more seldom.

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;
use std::{any::Any, sync::Arc, time::Instant};

/// Makes CUBIC with a floor, in bytes.
pub(super) struct FlooredCubic {
    pub(super) floor_bytes: u64,
    pub(super) cubic: Arc<CubicConfig>,
}

impl ControllerFactory for FlooredCubic {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let cubic = Arc::clone(&self.cubic).build(now, current_mtu);
        Box::new(Floored { floor_bytes: self.floor_bytes, cubic })
    }
}

struct Floored {
    floor_bytes: u64,
    cubic: Box<dyn Controller>,
}

impl Controller for Floored {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.cubic.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent: bool, lost_bytes: u64) {
        self.cubic.on_congestion_event(now, sent, is_persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.cubic.window().max(self.floor_bytes)
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.cubic.metrics();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { floor_bytes: self.floor_bytes, cubic: self.cubic.clone_box() })
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window().max(self.floor_bytes)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
