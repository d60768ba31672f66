//! Faults as data: a [`Schedule`] says what befalls a cluster, when and for how long.
//!
//! A schedule is drawn from a seed, printed when a run fails, read back to replay it, and made shorter by leaving
//! faults out: each begins and ends on its own, so any subset of a schedule is a schedule. [`Schedule::play`] lets it
//! happen to a [`TestCluster`](super::TestCluster); what several faults do to one link, disk or node at once is the sum of them.
//!
//! The fault model is that of PROTOCOLS: [`Schedule::destroys`] names the nodes whose stores a schedule may destroy,
//! so that a checker knows which writes must survive.

mod draw;
mod play;
mod text;

pub use draw::Draw;
pub use text::BadSchedule;

use super::{CrashMode, Spoil};
use std::{collections::BTreeSet, time::Duration};

/// What befalls a cluster, in the order of time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Schedule(pub Vec<Fault>);

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// When it begins, from the beginning of the schedule.
    pub at: Duration,
    /// How long until it ends: links mend, disks recover, nodes are started again.
    pub lasts: Duration,
    /// What it is.
    pub kind: FaultKind,
}

/// A kind of fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// A node is cut off from all others.
    Isolate {
        /// The node.
        node: u32,
    },
    /// These nodes are cut off from all others.
    Halves {
        /// One side.
        left: Vec<u32>,
    },
    /// One direction of one link is cut.
    OneWay {
        /// Who is not heard any more.
        from: u32,
        /// Who does not hear it.
        to: u32,
    },
    /// Two sides that only one node can talk to.
    Bridge {
        /// The node between.
        node: u32,
        /// One side.
        left: Vec<u32>,
    },
    /// Both directions of a link are up and down by turns.
    Flap {
        /// One end.
        from: u32,
        /// The other end.
        to: u32,
        /// How long it is up.
        up_ms: u32,
        /// How long it is down.
        down_ms: u32,
    },
    /// Datagrams are lost, doubled, late.
    Weather {
        /// Lost, in thousandths.
        loss: u32,
        /// Doubled, in thousandths.
        doubled: u32,
        /// Late, in thousandths.
        late: u32,
        /// By how much at most.
        late_ms: u32,
    },
    /// A node is killed; what it wrote stays.
    Kill {
        /// The node.
        node: u32,
    },
    /// The power of a node goes.
    Crash {
        /// The node.
        node: u32,
        /// What is left of the unsynced.
        mode: CrashMode,
    },
    /// The power of a node goes in the middle of its work.
    PowerCut {
        /// The node.
        node: u32,
        /// After so many more changes of its disk.
        operations: u64,
        /// What is left of the unsynced.
        mode: CrashMode,
    },
    /// The power of all nodes goes at once.
    Blackout {
        /// What is left of the unsynced.
        mode: CrashMode,
    },
    /// A node stands still, as if stopped with SIGSTOP.
    Pause {
        /// The node.
        node: u32,
    },
    /// The calendar clock of a node is wrong.
    Clock {
        /// The node.
        node: u32,
        /// By how much it is ahead, or behind.
        skew_ms: i64,
    },
    /// The disk of a node has no room.
    Full {
        /// The node.
        node: u32,
    },
    /// The disk of a node is slow.
    Slow {
        /// The node.
        node: u32,
        /// How many times slower than usual.
        factor: u32,
    },
    /// Reads of a node's disk fail now and then.
    ReadErrors {
        /// The node.
        node: u32,
        /// How many, in thousandths.
        chance: u32,
    },
    /// Writes to a node's disk fail now and then. What it holds is in doubt from then on.
    WriteErrors {
        /// The node.
        node: u32,
        /// How many, in thousandths.
        chance: u32,
    },
    /// Bits of a node's store rot. It is started again at the end.
    Rot {
        /// The node.
        node: u32,
        /// How many bits.
        bits: u32,
    },
    /// Items rot in the tables of a node: what was stored of them does not read any more.
    RotItems {
        /// The node.
        node: u32,
        /// How many items.
        items: u32,
    },
    /// A node is killed and loses one of the files that its rows are kept in.
    LoseFile {
        /// The node.
        node: u32,
        /// The number of the file; nothing happens if there is none.
        file: u32,
        /// How.
        how: Spoil,
    },
    /// A node loses its disk, and is started again on an empty one.
    Wipe {
        /// The node.
        node: u32,
    },
    /// At the end a node gets back the disk that it had at the beginning.
    RollBack {
        /// The node.
        node: u32,
    },
    /// A copy of a node's disk is started on another machine, and stopped at the end.
    Copy {
        /// The node.
        node: u32,
    },
}

impl FaultKind {
    /// The node whose store may not hold any more what it has acknowledged.
    #[must_use]
    pub fn destroys(&self) -> Option<u32> {
        match self {
            Self::WriteErrors { node, .. }
            | Self::Rot { node, .. }
            | Self::RotItems { node, .. }
            | Self::LoseFile { node, .. }
            | Self::Wipe { node }
            | Self::RollBack { node }
            | Self::Copy { node } => Some(*node),
            _ => None,
        }
    }

    /// The node that does not run, or not as before, when it ends.
    fn stops(&self) -> Option<u32> {
        match self {
            Self::Kill { node }
            | Self::Crash { node, .. }
            | Self::PowerCut { node, .. }
            | Self::Full { node }
            | Self::ReadErrors { node, .. }
            | Self::WriteErrors { node, .. }
            | Self::Rot { node, .. }
            | Self::LoseFile { node, .. }
            | Self::Wipe { node }
            | Self::RollBack { node }
            | Self::Copy { node } => Some(*node),
            _ => None,
        }
    }
}

impl Schedule {
    /// The nodes whose stores may be destroyed.
    #[must_use]
    pub fn destroys(&self) -> BTreeSet<u32> {
        self.0.iter().filter_map(|fault| fault.kind.destroys()).collect()
    }

    /// The nodes whose disks are empty in the end. One that is rolled back after it was wiped has its old disk again,
    /// unless that was empty, too.
    #[must_use]
    pub fn empties(&self) -> BTreeSet<u32> {
        let (mut empty, mut images) = (BTreeSet::new(), BTreeSet::new());
        for (_, index, begins) in play::timeline(&self.0) {
            match (&self.0[index].kind, begins) {
                (FaultKind::Wipe { node }, true) => drop(empty.insert(*node)),
                (FaultKind::RollBack { node }, true) if empty.contains(node) => drop(images.insert(index)),
                (FaultKind::RollBack { node }, false) if images.contains(&index) => drop(empty.insert(*node)),
                (FaultKind::RollBack { node }, false) => drop(empty.remove(node)),
                _ => {}
            }
        }
        empty
    }

    /// The schedule without one of its faults.
    #[must_use]
    pub fn without(&self, index: usize) -> Self {
        let mut rest = self.clone();
        rest.0.remove(index);
        rest
    }
}
