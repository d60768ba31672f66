//! Troubles of a kind: faults that mean little one by one and that a draw of one by one rarely brings together, with
//! clients that notice them. Half of all seeds have one.

use super::plan::{Mix, Plan, small};
use rondel_core::{
    env::Rng,
    testing::{
        CrashMode, Spoil,
        nemesis::{Fault, FaultKind},
    },
};
use std::time::Duration;

/// Adds a theme to what a seed has drawn, or none.
pub(super) fn add(plan: &mut Plan, rng: &mut Rng) {
    let (theme, happens): (_, fn(&mut Plan, &mut Rng)) = match rng.below(13) {
        0 | 1 => ("a node stands alone again and again", secluded),
        2 => ("the power goes while disks are slow", slow_and_dark),
        3 | 4 => ("one slow node does not hear another", deaf),
        5 => ("items rot", items_rotting),
        6 => ("files of rows are lost", files_lost),
        _ => return,
    };
    plan.theme = theme;
    happens(plan, rng);
    plan.schedule.0.sort_by_key(|fault| fault.at);
}

/// A node that has many clients of its own stands alone again and again, and in between gives back what it took. It
/// owns little of that: the cluster is larger than the number of copies. Nothing else keeps it from giving it back.
fn secluded(plan: &mut Plan, rng: &mut Rng) {
    plan.schedule.0.clear();
    plan.shape.nodes = plan.shape.nodes.max(5);
    plan.clients = plan.clients.max(4);
    (plan.loyalty, plan.plain) = (0.9, 0.9);
    (plan.journals, plan.journal_share) = (24, 0.7);
    plan.pause_max = plan.pause_max.min(Duration::from_millis(150));
    let node = small(rng, 2);
    let mut at = rng.below(3_000);
    while at < 46_000 {
        // It takes some seconds to give up all others, and some more to hand back what they lack.
        let alone = 10_000 + rng.below(3_000);
        plan.schedule.0.push(fault(at, alone, FaultKind::Isolate { node }));
        at += alone + 7_000 + rng.below(2_000);
    }
}

/// All disks are slow, and while syncs are under way the power goes everywhere. What is only in memory is gone then.
fn slow_and_dark(plan: &mut Plan, rng: &mut Rng) {
    plan.few_durable = 0.7;
    plan.mix.blind = plan.mix.blind.max(0.4);
    plan.pause_max = plan.pause_max.min(Duration::from_millis(100));
    for time in 0..4 {
        let at = time * 14_000 + rng.below(3_000);
        slow_disks(plan, at, 9_000, 150 + small(rng, 300));
        let mode = CrashMode::ALL[rng.index(CrashMode::ALL.len())];
        plan.schedule.0.push(fault(at + 2_000 + rng.below(6_000), 500, FaultKind::Blackout { mode }));
    }
}

/// Three nodes, of which one does not hear the first and has a slow disk: what the first writes comes by way of the third,
/// which is at it for long while more is written. Nothing else mends what is left out: no key is written for long, or
/// read.
fn deaf(plan: &mut Plan, rng: &mut Rng) {
    alone(plan);
    plan.heat_lasts = Duration::from_secs(2);
    (plan.heat, plan.plain, plan.journals) = (0.9, 0.9, 0);
    (plan.loyalty, plan.homes) = (0.8, 1);
    plan.mix = Mix { modify: 0.05, blind: 0.9, delete: 0.0 };
    plan.pause_max = plan.pause_max.min(Duration::from_millis(100));
    for time in 0..3 {
        let (at, lasts) = (time * 19_000 + 500, 14_000 + rng.below(4_000));
        let to = 1 + small(rng, 2);
        plan.schedule.0.push(fault(at, lasts, FaultKind::OneWay { from: 0, to }));
        let slow = FaultKind::Slow { node: to, factor: 500 + small(rng, 1_000) };
        plan.schedule.0.push(fault(at, lasts, slow));
    }
}

/// Three nodes that read their disks, and items that rot on one of them. All own all keys: so every copy of an item has
/// what all owners had, and a single one tells of it, whatever rots elsewhere.
fn items_rotting(plan: &mut Plan, rng: &mut Rng) {
    alone(plan);
    (plan.cache_bytes, plan.page_cache_bytes, plan.backlog_bytes) = (0, 0, 256 << 10);
    // Where items are found that are to rot.
    plan.value_bytes_min = usize::MAX;
    plan.one_for_all = 0.6;
    let node = small(rng, 3);
    let rot = |at| fault(at, 100, FaultKind::RotItems { node, items: 8 });
    plan.schedule.0.extend((1..12).map(|time| rot(time * 4_500 + rng.below(3_000))));
    // What the disk knows and memory does not: what was there at the last start.
    plan.schedule.0.extend((1..6).map(|time| fault(time * 10_000, 300, FaultKind::Kill { node })));
}

/// Three nodes that own all keys, one of which loses files of rows again and again. Then it hears nobody who could give it
/// back what it had, and its own clients ask it; now and then another node is down meanwhile.
fn files_lost(plan: &mut Plan, rng: &mut Rng) {
    alone(plan);
    (plan.backlog_bytes, plan.segment_bytes) = (256 << 10, 256 << 10);
    (plan.loyalty, plan.homes, plan.one_for_all) = (0.9, 3, 0.6);
    let node = small(rng, 3);
    for time in 0..4 {
        let at = 2_000 + time * 14_000 + rng.below(1_000);
        // Once more before: what the log has of a file is there at once.
        plan.schedule.0.push(fault(at, 300, FaultKind::Kill { node }));
        let how = Spoil::ALL[rng.index(Spoil::ALL.len())];
        plan.schedule.0.push(fault(at + 1_000, 300, FaultKind::LoseFile { node, file: small(rng, 2), how }));
        // It waits some seconds for the others before it serves without them.
        plan.schedule.0.push(fault(at + 1_200, 10_000, FaultKind::Isolate { node }));
        if rng.chance(0.3) {
            let other = (node + 1 + small(rng, 2)) % 3;
            plan.schedule.0.push(fault(at + rng.below(12_000), 2_000, FaultKind::Kill { node: other }));
        }
    }
}

/// A small cluster whose only troubles are those of its theme.
fn alone(plan: &mut Plan) {
    plan.shape.nodes = 3;
    plan.schedule.0.clear();
}

fn slow_disks(plan: &mut Plan, at_ms: u64, lasts_ms: u64, factor: u32) {
    let slow = |node| fault(at_ms, lasts_ms, FaultKind::Slow { node, factor });
    plan.schedule.0.extend((0..plan.shape.nodes).map(slow));
}

fn fault(at_ms: u64, lasts_ms: u64, kind: FaultKind) -> Fault {
    Fault { at: Duration::from_millis(at_ms), lasts: Duration::from_millis(lasts_ms), kind }
}
