//! A schedule happens: what each fault does when it begins and when it ends.
//!
//! Links and disks are made anew from all faults that are active, whenever one begins or ends, so faults may overlap
//! and end in any order. A node that several faults stop is started when the last of them ends.

use super::{Fault, FaultKind, Schedule};
use crate::{
    store::row::{Body, Row},
    testing::{CrashMode, DiskImage, Link, RowKind, TestCluster},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

/// Machines of copies have the numbers of their nodes plus this.
const COPIES: u32 = 1 << 16;
/// What a machine's calendar clock is ahead of virtual time, as [`Control`](crate::testing::Control) begins.
const CALENDAR: Duration = Duration::from_secs(1_800_000_000);
const ROOM: u64 = 1 << 40;

impl Schedule {
    /// Lets all of it happen to a cluster; ready when every fault has ended and every node has been started again.
    ///
    /// `link` is what the links are like when no fault changes them.
    pub async fn play(&self, cluster: &TestCluster, link: &Link) {
        let mut play = Play {
            cluster,
            link,
            faults: &self.0,
            active: BTreeSet::new(),
            images: BTreeMap::new(),
            began: cluster.control().elapsed(),
        };
        for (at, index, begins) in timeline(&self.0) {
            let now = cluster.control().elapsed() - play.began;
            cluster.control().sleep(at.saturating_sub(now)).await;
            if begins {
                play.begin(index).await;
            } else {
                play.end(index);
            }
        }
    }
}

/// When which fault begins or ends, in the order of time; of several at once the ends come first.
pub(super) fn timeline(faults: &[Fault]) -> Vec<(Duration, usize, bool)> {
    let begins = faults.iter().enumerate().map(|(index, fault)| (fault.at, index, true));
    let ends = faults.iter().enumerate().map(|(index, fault)| (fault.at + fault.lasts, index, false));
    let mut timeline: Vec<_> = begins.chain(ends).collect();
    // A fault of no length still begins before it ends.
    timeline
        .sort_by_key(|(at, index, begins)| (*at, *begins && faults[*index].lasts > Duration::ZERO, *index));
    timeline
}

struct Play<'a> {
    cluster: &'a TestCluster,
    link: &'a Link,
    faults: &'a [Fault],
    active: BTreeSet<usize>,
    images: BTreeMap<usize, DiskImage>,
    began: Duration,
}

impl Play<'_> {
    async fn begin(&mut self, index: usize) {
        let (cluster, kind) = (self.cluster, &self.faults[index].kind);
        let control = cluster.control();
        control.note(&format!("begins: {}", self.faults[index]));
        self.active.insert(index);
        match kind {
            FaultKind::Kill { node } => cluster.kill(*node),
            FaultKind::Crash { node, mode } => cluster.crash(*node, *mode),
            FaultKind::PowerCut { node, operations, mode } => {
                control.cut_power_after(*node, *operations, *mode);
            }
            FaultKind::Blackout { mode } => {
                cluster.nodes().into_iter().for_each(|node| cluster.crash(node, *mode));
            }
            FaultKind::Pause { node } => cluster.pause(*node),
            FaultKind::Clock { node, skew_ms } => self.set_clock(*node, *skew_ms),
            FaultKind::Rot { node, bits } => {
                // Nothing is stored yet: then nothing rots. What rots at once lies together, in one file.
                if let Some((file, _)) = control.disk(*node).flip_bit_where(is_of_store) {
                    for _ in 1..*bits {
                        let _ = control.disk(*node).flip_bit_where(|path| path == file);
                    }
                }
            }
            FaultKind::RotItems { node, items } => self.rot_items(*node, *items, index).await,
            FaultKind::LoseFile { node, file, how } => {
                cluster.kill(*node);
                let name = format!("rows-{file:03}.redb");
                let _ = control.disk(*node).spoil(*how, |path| path.ends_with(&name));
            }
            FaultKind::Wipe { node } => cluster.wipe(*node),
            FaultKind::RollBack { node } => {
                self.images.insert(index, control.disk(*node).snapshot());
            }
            FaultKind::Copy { node } => {
                control.disk(COPIES + node).restore(&control.disk(*node).snapshot());
                cluster.start_copy(COPIES + node, *node);
            }
            _ => self.renew_links_and_disks(),
        }
    }

    fn end(&mut self, index: usize) {
        let (cluster, kind) = (self.cluster, &self.faults[index].kind);
        let control = cluster.control();
        control.note(&format!("ends: {}", self.faults[index]));
        self.active.remove(&index);
        self.renew_links_and_disks();
        match kind {
            // The cut may not have come yet; it does now.
            FaultKind::PowerCut { node, mode, .. } => cluster.crash(*node, *mode),
            // After a failed sync nobody knows which pages are on the platter; a power cycle makes it plain.
            FaultKind::WriteErrors { node, .. } => cluster.crash(*node, CrashMode::LoseAll),
            FaultKind::Pause { node } if !self.is_paused(*node) => cluster.resume(*node),
            FaultKind::Clock { node, .. } => self.set_clock(*node, 0),
            FaultKind::RollBack { node } => {
                cluster.kill(*node);
                if let Some(image) = self.images.remove(&index) {
                    control.disk(*node).restore(&image);
                }
            }
            FaultKind::Rot { node, .. } => cluster.kill(*node),
            FaultKind::Copy { node } => cluster.kill(COPIES + node),
            _ => (),
        }
        match kind {
            FaultKind::Blackout { .. } => cluster.nodes().into_iter().for_each(|node| self.bring_back(node)),
            kind => kind.stops().into_iter().for_each(|node| self.bring_back(node)),
        }
    }

    /// Lets so many of a node's items rot, as far as they are in its tables.
    async fn rot_items(&self, node: u32, items: u32, index: usize) {
        let control = self.cluster.control();
        // A node that stands still or is down is not asked for what it keeps, and nothing of it rots.
        if self.is_paused(node) {
            return;
        }
        let mut rows = self.cluster.rows(node).await.unwrap_or_default();
        control.rng(&format!("rot {index}")).shuffle(&mut rows);
        let mut rotten = 0;
        for row in rows {
            let RowKind::Item { row: Ok(Row { body: Body::Item(item), .. }), .. } = row.kind else {
                continue;
            };
            rotten += u32::from(control.disk(node).flip_bits_of(&item, is_of_tables) > 0);
            if rotten == items {
                return;
            }
        }
    }

    /// Starts a node that does not run or has withdrawn, unless another fault still holds it down.
    fn bring_back(&self, node: u32) {
        let held = self.active().any(|kind| {
            let stopped = match kind {
                FaultKind::Blackout { .. } => true,
                FaultKind::Kill { node: of }
                | FaultKind::Crash { node: of, .. }
                | FaultKind::LoseFile { node: of, .. }
                | FaultKind::Wipe { node: of } => *of == node,
                _ => false,
            };
            stopped && !self.cluster.control().is_running(node)
        });
        let down = !self.cluster.control().is_running(node) || self.cluster.refusal(node).is_some();
        if down && !held {
            self.cluster.restart(node);
            if self.is_paused(node) {
                self.cluster.pause(node);
            }
        }
    }

    fn active(&self) -> impl Iterator<Item = &FaultKind> {
        self.active.iter().map(|index| &self.faults[*index].kind)
    }

    fn is_paused(&self, node: u32) -> bool {
        self.active().any(|kind| *kind == FaultKind::Pause { node })
    }

    fn set_clock(&self, node: u32, skew_ms: i64) {
        let control = self.cluster.control();
        let right = CALENDAR + control.elapsed();
        let skew = Duration::from_millis(skew_ms.unsigned_abs());
        let time = if skew_ms < 0 { right.saturating_sub(skew) } else { right + skew };
        control.set_unix_time(node, time);
    }

    fn renew_links_and_disks(&self) {
        self.renew_disks();
        let net = self.cluster.control().net();
        let mut link = self.link.clone();
        net.heal();
        for kind in self.active() {
            match kind {
                FaultKind::Isolate { node } => net.isolate(*node, self.cluster.nodes()),
                FaultKind::Halves { left } => net.partition(&[left, &self.others(left)]),
                FaultKind::OneWay { from, to } => net.cut(*from, *to),
                FaultKind::Bridge { node, left } => {
                    let left: Vec<u32> = left.iter().copied().filter(|one| one != node).collect();
                    let right: Vec<u32> = self.others(&left).into_iter().filter(|one| one != node).collect();
                    net.partition(&[&left, &right]);
                }
                FaultKind::Flap { from, to, up_ms, down_ms } => {
                    let [up, down] = [up_ms, down_ms].map(|ms| Duration::from_millis(u64::from(*ms)));
                    net.flap(*from, *to, up, down);
                    net.flap(*to, *from, up, down);
                }
                FaultKind::Weather { loss, doubled, late, late_ms } => {
                    link.loss = link.loss.max(thousandths(*loss));
                    link.duplication = link.duplication.max(thousandths(*doubled));
                    link.spike_chance = link.spike_chance.max(thousandths(*late));
                    link.spike_max = link.spike_max.max(Duration::from_millis(u64::from(*late_ms)));
                }
                _ => (),
            }
        }
        net.set_links(link);
    }

    fn others(&self, left: &[u32]) -> Vec<u32> {
        self.cluster.nodes().into_iter().filter(|node| !left.contains(node)).collect()
    }

    fn renew_disks(&self) {
        for node in self.cluster.nodes() {
            let disk = self.cluster.control().disk(node);
            let (mut full, mut slowness, mut reads, mut writes) = (false, 1.0_f64, 0.0_f64, 0.0_f64);
            for kind in self.active() {
                match kind {
                    FaultKind::Full { node: of } if *of == node => full = true,
                    FaultKind::Slow { node: of, factor } if *of == node => {
                        slowness = slowness.max(f64::from(*factor));
                    }
                    FaultKind::ReadErrors { node: of, chance } if *of == node => {
                        reads = reads.max(thousandths(*chance));
                    }
                    FaultKind::WriteErrors { node: of, chance } if *of == node => {
                        writes = writes.max(thousandths(*chance));
                    }
                    _ => (),
                }
            }
            disk.set_capacity(if full { 0 } else { ROOM });
            disk.set_slowness(slowness);
            disk.set_read_error_chance(reads);
            disk.set_write_error_chance(writes);
        }
    }
}

fn thousandths(number: u32) -> f64 {
    f64::from(number) / 1000.0
}

/// Whether a file is one of a node's store: the log's are in a directory of their own.
fn is_of_store(path: &Path) -> bool {
    path.iter().any(|part| part.to_string_lossy().starts_with("store"))
}

fn is_of_tables(path: &Path) -> bool {
    is_of_store(path) && !path.iter().any(|part| part == "log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_begins_before_it_ends_and_ends_come_first() {
        let fault = |at, lasts| Fault {
            at: Duration::from_millis(at),
            lasts: Duration::from_millis(lasts),
            kind: FaultKind::Kill { node: 0 },
        };
        let order = timeline(&[fault(0, 10), fault(10, 0), fault(10, 5)]);
        let order: Vec<_> = order.into_iter().map(|(_, index, begins)| (index, begins)).collect();
        assert_eq!(order, [(0, true), (0, false), (1, true), (1, false), (2, true), (2, false)]);
    }

    #[test]
    fn a_disk_is_empty_in_the_end_unless_what_it_had_comes_back() {
        let fault =
            |at, lasts, kind| Fault { at: Duration::from_secs(at), lasts: Duration::from_secs(lasts), kind };
        let (wipe, roll_back) = (FaultKind::Wipe { node: 0 }, FaultKind::RollBack { node: 0 });
        let empties = |faults: &[Fault]| !Schedule(faults.to_vec()).empties().is_empty();
        assert!(empties(&[fault(1, 1, wipe.clone())]));
        assert!(!empties(&[fault(0, 9, roll_back.clone()), fault(1, 1, wipe.clone())]));
        assert!(empties(&[fault(0, 2, roll_back.clone()), fault(5, 1, wipe.clone())]));
        assert!(empties(&[fault(1, 1, wipe), fault(3, 9, roll_back)]), "what comes back is as empty");
    }
}
