//! What a seed draws: the cluster, its links, the faults, and what the clients do.

use rondel_core::{
    env::Rng,
    ring::Bits,
    testing::{
        Link, Shape,
        nemesis::{Draw, Schedule},
    },
};
use std::{fmt, time::Duration};

/// How long faults happen.
pub(crate) const FAULTS: Duration = Duration::from_secs(60);

/// One run, before it begins.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) shape: Shape,
    pub(crate) link: Link,
    pub(crate) clients: u32,
    pub(crate) keys_hot: u32,
    pub(crate) keys_cold: u32,
    /// How likely an operation is on a hot key.
    pub(crate) heat: f64,
    pub(crate) mix: Mix,
    /// A client waits up to so long between two operations.
    pub(crate) pause_max: Duration,
    /// Bytes of rows that a store keeps in memory: little makes it read its disk.
    pub(crate) cache_bytes: u64,
    pub(crate) schedule: Schedule,
}

/// How likely each operation is: what is left are reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mix {
    pub(crate) modify: f64,
    pub(crate) blind: f64,
    pub(crate) delete: f64,
}

impl Plan {
    /// What the seed draws.
    pub(crate) fn draw(seed: u64) -> Self {
        let mut rng = Rng::from_seed(seed ^ 0x51_3D_0F_AD);
        let nodes = 3 + small(&mut rng, 5);
        let bits = Bits::of_count(8 << rng.below(4)).unwrap_or(Bits::DEFAULT);
        let destroyed_max = match rng.below(10) {
            0..5 => 0,
            5..9 => 1,
            _ => 2,
        };
        let draw = Draw { nodes, window: FAULTS, destroyed_max };
        let schedule = draw.schedule(&mut rng);
        Self {
            seed,
            shape: Shape { nodes, bits, replicas: 3 },
            link: link(&mut rng),
            clients: 2 + small(&mut rng, 5),
            keys_hot: 1 + small(&mut rng, 5),
            keys_cold: 20 + small(&mut rng, 180),
            heat: 0.2 + 0.1 * rng.below(6) as f64,
            mix: Mix {
                modify: 0.1 + 0.05 * rng.below(6) as f64,
                blind: 0.05 + 0.05 * rng.below(5) as f64,
                delete: 0.02 * rng.below(6) as f64,
            },
            pause_max: Duration::from_millis(20 + rng.below(400)),
            cache_bytes: [0, 64 << 10, 64 << 20][rng.index(3)],
            schedule,
        }
    }

    pub(crate) fn keys(&self) -> u32 {
        self.keys_hot + self.keys_cold
    }
}

fn small(rng: &mut Rng, bound: u32) -> u32 {
    u32::try_from(rng.below(u64::from(bound))).unwrap_or_default()
}

fn link(rng: &mut Rng) -> Link {
    let wide = |min_ms, max_ms| Link {
        latency_min: Duration::from_millis(min_ms),
        latency_max: Duration::from_millis(max_ms),
        ..Link::default()
    };
    match rng.below(4) {
        0 => Link::perfect(),
        1 => wide(3, 12),
        _ => Link::default(),
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, shape, clients, keys_hot, keys_cold, .. } = self;
        write!(out, "seed {seed}: {} nodes, {} partitions, ", shape.nodes, shape.bits.count())?;
        write!(out, "{clients} clients, {keys_hot} hot and {keys_cold} cold keys, ")?;
        write!(out, "{} faults", self.schedule.0.len())
    }
}
