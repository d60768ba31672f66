//! Schedules drawn from a seed. Each draw enables a random subset of the kinds: a swarm of different mixes finds more
//! than one mix of everything, in which faults hide each other.

use super::{CrashMode, Fault, FaultKind, Schedule, Spoil};
use crate::env::Rng;
use std::time::Duration;

/// What schedules are drawn from.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// The cluster's nodes are numbered from 0 to this, exclusive.
    pub nodes: u32,
    /// All faults begin and end within this time.
    pub window: Duration,
    /// How many stores may be destroyed.
    pub destroyed_max: u32,
}

/// A family of faults that is enabled as one.
type Family = fn(&mut Rng, u32) -> FaultKind;

/// Families that leave every store what it is, each with its longest duration in milliseconds.
const HARMLESS: [(Family, u64); 13] = [
    (isolate, 15_000),
    (halves, 15_000),
    (one_way, 12_000),
    (bridge, 12_000),
    (flap, 15_000),
    (weather, 20_000),
    (|rng, nodes| FaultKind::Kill { node: one(rng, nodes) }, 15_000),
    (|rng, nodes| FaultKind::Crash { node: one(rng, nodes), mode: mode(rng) }, 12_000),
    (power_cut, 12_000),
    (|rng, _| FaultKind::Blackout { mode: mode(rng) }, 3_000),
    (|rng, nodes| FaultKind::Pause { node: one(rng, nodes) }, 20_000),
    (clock, 20_000),
    (disk, 8_000),
];

/// Families that destroy a store, with their longest duration in milliseconds.
const DESTRUCTIVE: [(Family, u64); 6] = [
    (|rng, node| FaultKind::WriteErrors { node, chance: 5 + small(rng, 200) }, 8_000),
    (|rng, node| FaultKind::Rot { node, bits: 1 + small(rng, 12) }, 10_000),
    (lose_file, 8_000),
    (|_, node| FaultKind::Wipe { node }, 8_000),
    (|_, node| FaultKind::RollBack { node }, 25_000),
    (|_, node| FaultKind::Copy { node }, 15_000),
];

impl Draw {
    /// A minute in which no store is destroyed.
    #[must_use]
    pub fn new(nodes: u32) -> Self {
        Self { nodes, window: Duration::from_secs(60), destroyed_max: 0 }
    }

    /// One schedule.
    #[must_use]
    pub fn schedule(&self, rng: &mut Rng) -> Schedule {
        let mut faults = Vec::new();
        let enabled = 0.15 + 0.05 * rng.below(11) as f64;
        for (family, longest_ms) in HARMLESS {
            if rng.chance(enabled) {
                for _ in 0..1 + rng.below(4) {
                    let kind = family(rng, self.nodes);
                    faults.push(self.timed(rng, kind, longest_ms));
                }
            }
        }
        let mut nodes: Vec<u32> = (0..self.nodes).collect();
        rng.shuffle(&mut nodes);
        for node in nodes.into_iter().take(self.destroyed_max as usize) {
            for _ in 0..1 + rng.below(2) {
                let (family, longest_ms) = DESTRUCTIVE[rng.index(DESTRUCTIVE.len())];
                let kind = family(rng, node);
                faults.push(self.timed(rng, kind, longest_ms));
            }
        }
        faults.sort_by_key(|fault| fault.at);
        Schedule(faults)
    }

    fn timed(&self, rng: &mut Rng, kind: FaultKind, longest_ms: u64) -> Fault {
        let window_ms = u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX);
        let at = rng.below(window_ms * 9 / 10);
        let lasts = (100 + rng.below(longest_ms)).min(window_ms - at);
        Fault { at: Duration::from_millis(at), lasts: Duration::from_millis(lasts), kind }
    }
}

fn small(rng: &mut Rng, bound: u32) -> u32 {
    u32::try_from(rng.below(u64::from(bound))).unwrap_or_default()
}

fn one(rng: &mut Rng, nodes: u32) -> u32 {
    small(rng, nodes)
}

/// Two different nodes, if there are two.
fn two(rng: &mut Rng, nodes: u32) -> (u32, u32) {
    let from = one(rng, nodes);
    (from, (from + 1 + small(rng, nodes.saturating_sub(1))) % nodes.max(1))
}

fn some(rng: &mut Rng, nodes: u32) -> Vec<u32> {
    (0..nodes).filter(|_| rng.chance(0.5)).collect()
}

fn mode(rng: &mut Rng) -> CrashMode {
    CrashMode::ALL[rng.index(CrashMode::ALL.len())]
}

fn isolate(rng: &mut Rng, nodes: u32) -> FaultKind {
    FaultKind::Isolate { node: one(rng, nodes) }
}

fn halves(rng: &mut Rng, nodes: u32) -> FaultKind {
    FaultKind::Halves { left: some(rng, nodes) }
}

fn one_way(rng: &mut Rng, nodes: u32) -> FaultKind {
    let (from, to) = two(rng, nodes);
    FaultKind::OneWay { from, to }
}

fn bridge(rng: &mut Rng, nodes: u32) -> FaultKind {
    FaultKind::Bridge { node: one(rng, nodes), left: some(rng, nodes) }
}

fn flap(rng: &mut Rng, nodes: u32) -> FaultKind {
    let (from, to) = two(rng, nodes);
    FaultKind::Flap { from, to, up_ms: 50 + small(rng, 2_000), down_ms: 50 + small(rng, 2_000) }
}

fn weather(rng: &mut Rng, _: u32) -> FaultKind {
    FaultKind::Weather {
        loss: small(rng, 150),
        doubled: small(rng, 100),
        late: small(rng, 200),
        late_ms: 10 + small(rng, 800),
    }
}

fn power_cut(rng: &mut Rng, nodes: u32) -> FaultKind {
    FaultKind::PowerCut { node: one(rng, nodes), operations: rng.below(200), mode: mode(rng) }
}

fn clock(rng: &mut Rng, nodes: u32) -> FaultKind {
    let ahead = i64::from(small(rng, 600_000));
    FaultKind::Clock { node: one(rng, nodes), skew_ms: if rng.chance(0.5) { ahead } else { -ahead } }
}

fn disk(rng: &mut Rng, nodes: u32) -> FaultKind {
    let node = one(rng, nodes);
    match rng.below(3) {
        0 => FaultKind::Full { node },
        1 => FaultKind::Slow { node, factor: 5 + small(rng, 100) },
        _ => FaultKind::ReadErrors { node, chance: 1 + small(rng, 50) },
    }
}

fn lose_file(rng: &mut Rng, node: u32) -> FaultKind {
    FaultKind::LoseFile { node, file: small(rng, 2), how: Spoil::ALL[rng.index(Spoil::ALL.len())] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_schedule_stays_within_its_window_and_the_fault_model() {
        for seed in 0..500 {
            let draw =
                Draw { destroyed_max: u32::try_from(seed % 3).unwrap(), ..Draw::new(3 + (seed % 5) as u32) };
            let schedule = draw.schedule(&mut Rng::from_seed(seed));
            assert!(schedule.destroys().len() <= draw.destroyed_max as usize);
            assert!(schedule.0.iter().all(|fault| fault.at + fault.lasts <= draw.window));
            assert!(schedule.0.is_sorted_by_key(|fault| fault.at));
        }
    }

    #[test]
    fn every_kind_is_drawn_and_no_mix_has_them_all() {
        let draw = Draw { destroyed_max: 1, ..Draw::new(5) };
        let mut all = BTreeSet::new();
        for seed in 0..300 {
            let schedule = draw.schedule(&mut Rng::from_seed(seed));
            let words = |fault: &Fault| fault.kind.to_string().split(' ').next().unwrap().to_owned();
            let kinds: BTreeSet<String> = schedule.0.iter().map(words).collect();
            assert!(kinds.len() < 18, "seed {seed}");
            all.extend(kinds);
        }
        assert_eq!(all.len(), 21, "{all:?}");
    }
}
