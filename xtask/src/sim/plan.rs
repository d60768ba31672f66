//! What a seed draws: the cluster, its links, the faults, and what the clients do.

use super::theme;
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
    /// How long the hot keys are the same. After that others are, so that at the end most keys are as some minute of
    /// trouble left them, and not as a later write has mended them.
    pub(crate) heat_lasts: Duration,
    /// Keys that are written without a context, time and again: every write stays, until there are too many of them.
    pub(crate) journals: u32,
    /// How likely an operation is on one of those.
    pub(crate) journal_share: f64,
    /// So many nodes have clients of their own.
    pub(crate) homes: u32,
    /// How likely a client asks its own node rather than any.
    pub(crate) loyalty: f64,
    /// How likely an operation asks for nothing but a quorum.
    pub(crate) plain: f64,
    /// How likely a write asks for all owners, and a read for one: the read tells of the write.
    pub(crate) one_for_all: f64,
    /// How likely a write is content with fewer durable copies than it waits for.
    pub(crate) few_durable: f64,
    /// A client waits up to so long between two operations.
    pub(crate) pause_max: Duration,
    /// Bytes of rows that a store keeps in memory: little makes it read its disk.
    pub(crate) cache_bytes: u64,
    /// Bytes of rows from which on a store moves them into its tables, and of a segment of its log.
    pub(crate) backlog_bytes: u64,
    pub(crate) segment_bytes: u64,
    /// A value of so many bytes or more stays in the log, whose segments are cleared away once so many bytes of them are
    /// garbage.
    pub(crate) value_bytes_min: usize,
    pub(crate) garbage_bytes_min: u64,
    /// Bytes of pages that its tables keep in memory.
    pub(crate) page_cache_bytes: usize,
    pub(crate) schedule: Schedule,
    /// What the trouble is about, if it is about anything.
    pub(crate) theme: &'static str,
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
        let mut plan = Self {
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
            heat_lasts: [FAULTS, secs(4), secs(8), secs(15)][rng.index(4)],
            journals: [0, 2, 4][rng.index(3)],
            journal_share: 0.05 + 0.05 * rng.below(4) as f64,
            loyalty: [0.0, 0.0, 0.5, 0.9][rng.index(4)],
            backlog_bytes: [128 << 20, 1 << 20, 256 << 10][rng.index(3)],
            segment_bytes: [32 << 20, 256 << 10][rng.index(2)],
            value_bytes_min: 64,
            garbage_bytes_min: 256 << 20,
            page_cache_bytes: 1 << 20,
            theme: "",
            homes: nodes,
            one_for_all: [0.0, 0.0, 0.3][rng.index(3)],
            plain: [0.0, 0.0, 0.5, 0.9][rng.index(4)],
            few_durable: 0.0,
        };
        let mut of_values = Rng::from_seed(seed ^ 0x7A_1E_5E_75);
        plan.value_bytes_min = [64, 64, 300, usize::MAX][of_values.index(4)];
        plan.garbage_bytes_min = [256 << 20, 256 << 10, 32 << 10][of_values.index(3)];
        theme::add(&mut plan, &mut rng);
        plan.few_durable = plan.few_durable.max([0.0, 0.0, 0.4][rng.index(3)]);
        plan
    }

    /// How many sets of hot keys there are, one after the other.
    pub(crate) fn heats(&self) -> u32 {
        let lasts_ms = self.heat_lasts.as_millis().max(1);
        u32::try_from(FAULTS.as_millis().div_ceil(lasts_ms)).unwrap_or(1)
    }

    /// One of the keys of a set of hot keys. The cold ones come after the first set.
    pub(crate) fn hot_key(&self, heat: u32, number: u32) -> u32 {
        match heat {
            0 => number,
            later => later * self.keys_hot + self.keys_cold + number,
        }
    }

    /// One of the keys that are only added to.
    pub(crate) fn journal_key(&self, number: u32) -> u32 {
        self.keys_hot * self.heats() + self.keys_cold + number
    }

    pub(crate) fn keys(&self) -> u32 {
        self.journal_key(self.journals)
    }
}

pub(super) fn small(rng: &mut Rng, bound: u32) -> u32 {
    u32::try_from(rng.below(u64::from(bound))).unwrap_or_default()
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
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
        write!(out, "{} faults", self.schedule.0.len())?;
        if self.theme.is_empty() { Ok(()) } else { write!(out, ": {}", self.theme) }
    }
}
