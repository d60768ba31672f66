//! Timings of the failure detector.

use std::time::Duration;

/// Timings of the failure detector. With the defaults a killed node of a small cluster is declared dead about two
/// seconds later, and within the first of them it is suspected.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// How often the next member is probed, in random turns. Default 500 ms.
    pub probe_interval: Duration,
    /// How long a probe waits for a direct answer, and then again for one by way of the helpers. Default 200 ms.
    pub probe_timeout: Duration,
    /// How many other members are asked to probe a silent one. Default 3.
    pub helpers: usize,
    /// How long a confirmed suspicion lasts in a cluster of up to ten members; it grows with the logarithm of the
    /// number of members. Default 1 s.
    pub suspicion_min: Duration,
    /// How much longer a suspicion lasts that nobody confirms. Default 2.
    pub suspicion_factor: u32,
    /// How many further accusers bring a suspicion down to its minimum. Default 3.
    pub confirmations: usize,
    /// How often one of the dead members is asked whether it is back. Default 1 s.
    pub dead_probe_interval: Duration,
    /// By how many steps this node's own intervals and timeouts may stretch while its own health is in doubt; each
    /// step adds one more of their length. Default 8.
    pub health_max: u32,
    /// How often a rumour is passed on, times the logarithm (base 2) of the number of members. Default 3.
    pub rumour_factor: u32,
    /// A member is slow when its smoothed latency is this many times the median of the others'. It stops being so
    /// at half of that. Default 4.
    pub slow_factor: u32,
    /// A member with a smoothed latency below this is never slow. Default 20 ms.
    pub slow_floor: Duration,
    /// How long a latency counts after its last report. Default 10 s.
    pub slow_memory: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            probe_interval: Duration::from_millis(500),
            probe_timeout: Duration::from_millis(200),
            helpers: 3,
            suspicion_min: Duration::from_secs(1),
            suspicion_factor: 2,
            confirmations: 3,
            dead_probe_interval: Duration::from_secs(1),
            health_max: 8,
            rumour_factor: 3,
            slow_factor: 4,
            slow_floor: Duration::from_millis(20),
            slow_memory: Duration::from_secs(10),
        }
    }
}
