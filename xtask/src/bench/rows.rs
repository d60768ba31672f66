//! Which loads are measured, and what their figures must reach.

use super::{measure::Figures, spread::Spread};

/// One load on one cluster.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Row {
    /// How it is called in the table and chosen on the command line.
    pub(crate) name: &'static str,
    /// How many nodes there are.
    pub(crate) nodes: u16,
    /// The share of gets.
    pub(crate) read_share: f64,
    pub(crate) pace: Pace,
}

/// How fast requests come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    /// Every connection is always busy: this finds the peak.
    Closed,
    /// At fixed times, half as many as the row of that name answered in the same round.
    HalfPeakOf(&'static str),
}

/// In the order in which a round runs them.
pub(crate) const ROWS: [Row; 7] = [
    Row { name: "3 nodes, get", nodes: 3, read_share: 1.0, pace: Pace::Closed },
    Row { name: "3 nodes, put", nodes: 3, read_share: 0.0, pace: Pace::Closed },
    Row { name: "3 nodes, half gets, half puts", nodes: 3, read_share: 0.5, pace: Pace::Closed },
    Row {
        name: "3 nodes, get, half the peak",
        nodes: 3,
        read_share: 1.0,
        pace: Pace::HalfPeakOf("3 nodes, get"),
    },
    Row {
        name: "3 nodes, put, half the peak",
        nodes: 3,
        read_share: 0.0,
        pace: Pace::HalfPeakOf("3 nodes, put"),
    },
    Row { name: "1 node, get", nodes: 1, read_share: 1.0, pace: Pace::Closed },
    Row { name: "1 node, put", nodes: 1, read_share: 0.0, pace: Pace::Closed },
];

/// A bound for the median of a figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Target {
    /// The row.
    pub(crate) row: &'static str,
    pub(crate) figure: Figure,
    pub(crate) at_most: f64,
}

/// What is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figure {
    NodesCpuUs,
    P99_9Ms,
}

/// What the first version is to reach.
pub(crate) const TARGETS: [Target; 5] = [
    Target { row: "3 nodes, get", figure: Figure::NodesCpuUs, at_most: 60.0 },
    Target { row: "3 nodes, put", figure: Figure::NodesCpuUs, at_most: 250.0 },
    Target { row: "1 node, get", figure: Figure::NodesCpuUs, at_most: 20.0 },
    Target { row: "3 nodes, get, half the peak", figure: Figure::P99_9Ms, at_most: 20.0 },
    Target { row: "3 nodes, put, half the peak", figure: Figure::P99_9Ms, at_most: 60.0 },
];

impl Figure {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NodesCpuUs => "CPU of all nodes, µs per operation",
            Self::P99_9Ms => "p99.9, ms",
        }
    }

    fn of(self, figures: &Figures) -> Option<f64> {
        match self {
            Self::NodesCpuUs => Some(figures.nodes_cpu_us),
            Self::P99_9Ms => figures.latency_ms.iter().map(|latency| latency.p99_9).reduce(f64::max),
        }
    }
}

/// How the runs of a target's row stand to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) measured: Spread,
    /// The median is within the bound, and every run was without faults.
    pub(crate) met: bool,
}

impl Target {
    /// None without runs.
    pub(crate) fn judge(&self, runs: &[Figures]) -> Option<Verdict> {
        let measured = Spread::of(runs.iter().filter_map(|run| self.figure.of(run)))?;
        let met = measured.median <= self.at_most && runs.iter().all(|run| run.faults.is_empty());
        Some(Verdict { measured, met })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::client::Latency;

    fn run(cpu_us: f64, p99_9: f64) -> Figures {
        let latency_ms =
            vec![Latency { p50: 1.0, p99: 2.0, p99_9 }, Latency { p50: 1.0, p99: 2.0, p99_9: 3.0 }];
        Figures { nodes_cpu_us: cpu_us, latency_ms, ..Figures::default() }
    }

    #[test]
    fn every_target_and_every_rate_is_of_a_row() {
        let place = |name: &str| ROWS.iter().position(|row| row.name == name).expect("a row");
        for target in TARGETS {
            place(target.row);
        }
        for (index, row) in ROWS.iter().enumerate() {
            if let Pace::HalfPeakOf(peak) = row.pace {
                let peak = place(peak);
                assert!(
                    peak < index && ROWS[peak].pace == Pace::Closed,
                    "{row:?}: the peak is measured before"
                );
                assert_eq!((ROWS[peak].nodes, ROWS[peak].read_share), (row.nodes, row.read_share));
            }
        }
    }

    #[test]
    fn the_median_decides_and_a_fault_spoils_it() {
        let target = Target { row: "r", figure: Figure::NodesCpuUs, at_most: 60.0 };
        assert_eq!(target.judge(&[]), None);
        let runs = [run(61.0, 1.0), run(59.0, 1.0), run(60.0, 1.0)];
        assert!(target.judge(&runs).unwrap().met);
        assert!(!target.judge(&runs[..1]).unwrap().met);
        let mut faulty = runs.to_vec();
        faulty[1].faults.insert("timeout".to_owned(), 1);
        assert!(!target.judge(&faulty).unwrap().met);
    }

    #[test]
    fn the_slower_kind_of_request_counts() {
        let target = Target { row: "r", figure: Figure::P99_9Ms, at_most: 20.0 };
        assert_eq!(target.judge(&[run(1.0, 2.0)]).unwrap().measured.median, 3.0);
        assert_eq!(
            target.judge(&[run(1.0, 20.5)]).unwrap(),
            Verdict { measured: Spread { median: 20.5, min: 20.5, max: 20.5 }, met: false }
        );
    }
}
