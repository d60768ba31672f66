//! What a seed draws: the cluster, its links, the faults, and what the clients do.

use rondel_core::{
    env::Rng,
    ring::Bits,
    testing::{
        CrashMode, Link, Shape,
        nemesis::{Draw, Fault, FaultKind, Schedule},
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
    /// How likely a client asks its own node rather than any.
    pub(crate) loyalty: f64,
    /// A client waits up to so long between two operations.
    pub(crate) pause_max: Duration,
    /// Bytes of rows that a store keeps in memory: little makes it read its disk.
    pub(crate) cache_bytes: u64,
    /// Bytes of rows from which on a store moves them into its tables, and of a segment of its log.
    pub(crate) backlog_bytes: u64,
    pub(crate) segment_bytes: u64,
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
        };
        plan.schedule.0.extend(theme(&mut rng, &plan));
        plan.schedule.0.sort_by_key(|fault| fault.at);
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

/// Faults that mean little one by one, and that a draw of one by one rarely brings together.
fn theme(rng: &mut Rng, plan: &Plan) -> Vec<Fault> {
    let nodes = plan.shape.nodes;
    let node = small(rng, nodes);
    // Where all nodes own all keys, a read of one owner that had a write tells of it, whatever rots elsewhere.
    let rots = plan.schedule.destroys().is_empty() && nodes == 3 && rng.chance(0.5);
    let mut faults = match rng.below(8) {
        0..3 => secluded(rng, node),
        3 => slow_and_dark(rng, nodes),
        4 => in_and_out(rng, nodes),
        _ => Vec::new(),
    };
    if rots {
        let rotting = |at| fault(at, 100, FaultKind::RotItems { node, items: 10 });
        faults.extend((1..8).map(|time| rotting(time * 6_000 + rng.below(3_000))));
    }
    faults
}

/// One node stands alone again and again, and in between gives back what it took.
fn secluded(rng: &mut Rng, node: u32) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut at = rng.below(4_000);
    while at < 48_000 {
        // It takes some seconds to give up all others, and some more to hand back what they lack.
        let alone = 9_000 + rng.below(4_000);
        faults.push(fault(at, alone, FaultKind::Isolate { node }));
        at += alone + 6_000 + rng.below(3_000);
    }
    faults
}

/// All disks are slow, and while syncs are under way the power goes everywhere.
fn slow_and_dark(rng: &mut Rng, nodes: u32) -> Vec<Fault> {
    let factor = 20 + small(rng, 100);
    let mut faults = Vec::new();
    for time in 0..4 {
        let at = time * 14_000 + rng.below(3_000);
        faults.extend((0..nodes).map(|node| fault(at, 9_000, FaultKind::Slow { node, factor })));
        let mode = CrashMode::ALL[rng.index(CrashMode::ALL.len())];
        faults.push(fault(at + 1_000 + rng.below(7_000), 500, FaultKind::Blackout { mode }));
    }
    faults
}

/// Nodes are gone for a moment, one after the other.
fn in_and_out(rng: &mut Rng, nodes: u32) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut at = rng.below(3_000);
    while at < 55_000 {
        let gone = 200 + rng.below(2_500);
        faults.push(fault(at, gone, FaultKind::Kill { node: small(rng, nodes) }));
        at += gone + rng.below(4_000);
    }
    faults
}

fn fault(at_ms: u64, lasts_ms: u64, kind: FaultKind) -> Fault {
    Fault { at: Duration::from_millis(at_ms), lasts: Duration::from_millis(lasts_ms), kind }
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
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
