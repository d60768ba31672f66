//! The figures as Markdown, and where they stand in the documents.

use super::{
    client::{CONNECTIONS, Latency, VALUE_BYTES},
    measure::Figures,
    rows::{TARGETS, Target},
    spread::{Spread, three_digits},
};
use anyhow::Context;
use std::{fmt::Write as _, fs, path::Path};

/// Everything that was measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Results {
    /// The command that repeats it.
    pub(crate) command: String,
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) machine: String,
    pub(crate) keys: u64,
    pub(crate) seconds: u32,
    /// The runs of each row, by its name, in order.
    pub(crate) rows: Vec<(&'static str, Vec<Figures>)>,
}

const HEADINGS: [&str; 9] = [
    "load",
    "ops/s",
    "nodes' CPU, µs/op",
    "client's CPU, µs/op",
    "p50, ms",
    "p99, ms",
    "p99.9, ms",
    "written, KiB/op",
    "memory, MiB/node",
];

impl Results {
    /// As Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("a string takes every character");
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let runs = self.rows.iter().map(|(_, runs)| runs.len()).max().unwrap_or_default();
        writeln!(out, "`{}` on {}, commit {}.", self.command, self.date, self.commit)?;
        writeln!(out, "{}.", self.machine)?;
        writeln!(
            out,
            "{CONNECTIONS} connections, {VALUE_BYTES} bytes, {} keys, N = 3, R = W = 2; {runs} runs of {} s: median (least–greatest).",
            three_digits(self.keys as f64),
            self.seconds
        )?;
        if let Some(others) = Spread::of(self.all_runs().map(|run| 100.0 * run.others_share)) {
            writeln!(out, "Other work took {others} % of the processors meanwhile.")?;
        }
        writeln!(out, "\n| {} |", HEADINGS.join(" | "))?;
        writeln!(out, "|---|{}", "---:|".repeat(HEADINGS.len() - 1))?;
        for (name, runs) in &self.rows {
            writeln!(out, "| {name} | {} |", cells(runs).join(" | "))?;
        }
        self.write_targets(out)?;
        self.write_faults(out)
    }

    fn write_targets(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\n| load | what | at most | measured | |\n|---|---|---:|---:|---|")?;
        for target in &TARGETS {
            let Target { row, figure, at_most } = target;
            let runs = self.rows.iter().find(|(name, _)| name == row).map(|(_, runs)| &runs[..]);
            let Some(verdict) = target.judge(runs.unwrap_or_default()) else { continue };
            let met = if verdict.met { "met" } else { "**not met**" };
            writeln!(out, "| {row} | {} | {at_most} | {} | {met} |", figure.name(), verdict.measured)?;
        }
        Ok(())
    }

    fn write_faults(&self, out: &mut String) -> std::fmt::Result {
        let mut first = true;
        for (name, runs) in &self.rows {
            for (text, count) in runs.iter().flat_map(|run| &run.faults) {
                if std::mem::take(&mut first) {
                    writeln!(out, "\nWhat went wrong:\n")?;
                }
                writeln!(out, "* {name}: {count} x {text}")?;
            }
        }
        Ok(())
    }

    fn all_runs(&self) -> impl Iterator<Item = &Figures> {
        self.rows.iter().flat_map(|(_, runs)| runs)
    }
}

fn cells(runs: &[Figures]) -> Vec<String> {
    let of = |figure: &dyn Fn(&Figures) -> f64| show(Spread::of(runs.iter().map(figure)));
    // Gets before puts, where both were asked for.
    let kinds = runs.iter().map(|run| run.latency_ms.len()).max().unwrap_or_default();
    let latency = |figure: &dyn Fn(&Latency) -> f64| {
        let kind =
            |kind: usize| Spread::of(runs.iter().filter_map(|run| run.latency_ms.get(kind).map(figure)));
        (0..kinds).map(|index| show(kind(index))).collect::<Vec<_>>().join(", ")
    };
    vec![
        of(&|run| run.ops_per_s),
        of(&|run| run.nodes_cpu_us),
        of(&|run| run.client_cpu_us),
        latency(&|latency| latency.p50),
        latency(&|latency| latency.p99),
        latency(&|latency| latency.p99_9),
        of(&|run| run.written_bytes / 1024.0),
        of(&|run| run.resident_bytes / f64::from(1 << 20)),
    ]
}

fn show(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "–".to_owned(), |spread| spread.to_string())
}

/// Replaces what stands between the marks of a section in a document.
///
/// # Errors
/// The document can't be read or written, or lacks the marks.
pub(crate) fn replace_section(path: &Path, section: &str, text: &str) -> anyhow::Result<()> {
    let shown = path.display();
    let document = fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    let document = replaced(&document, section, text).with_context(|| {
        format!("{shown} lacks the lines `{}` and `{}`", mark("begin", section), mark("end", section))
    })?;
    fs::write(path, document).with_context(|| format!("cannot write {shown}"))
}

fn replaced(document: &str, section: &str, text: &str) -> Option<String> {
    let (before, rest) = document.split_once(&mark("begin", section))?;
    let (_, after) = rest.split_once(&mark("end", section))?;
    let (begin, end) = (mark("begin", section), mark("end", section));
    Some(format!("{before}{begin}\n\n{}\n\n{end}{after}", text.trim()))
}

fn mark(which: &str, section: &str) -> String {
    format!("<!-- {which} {section} -->")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(cpu_us: f64) -> Figures {
        let latency = |p50| Latency { p50, p99: 2.0, p99_9: 30.0 };
        Figures {
            ops_per_s: 1000.0,
            latency_ms: vec![latency(1.0), latency(5.0)],
            nodes_cpu_us: cpu_us,
            written_bytes: 2048.0,
            others_share: 0.5,
            ..Figures::default()
        }
    }

    fn results(rows: Vec<(&'static str, Vec<Figures>)>) -> Results {
        Results {
            command: "cargo xtask bench".into(),
            date: "2026-01-01".into(),
            commit: "abc".into(),
            machine: "2 x CPU".into(),
            keys: 10_000,
            seconds: 10,
            rows,
        }
    }

    #[test]
    fn a_row_shows_median_and_spread_and_its_target_the_verdict() {
        let text = results(vec![("3 nodes, get", vec![run(50.0), run(70.0), run(55.0)])]).markdown();
        assert!(text.contains("| 3 nodes, get | 1,000 (1,000–1,000) | 55.0 (50.0–70.0) |"), "{text}");
        assert!(text.contains("| 1.00 (1.00–1.00), 5.00 (5.00–5.00) |"), "gets, then puts: {text}");
        assert!(text.contains("| 60 | 55.0 (50.0–70.0) | met |"), "{text}");
        assert!(
            text.contains("3 runs of 10 s") && text.contains("Other work took 50.0 (50.0–50.0) %"),
            "{text}"
        );
        assert!(!text.contains("1 node, get") && !text.contains("went wrong"), "{text}");
    }

    #[test]
    fn what_went_wrong_is_told() {
        let mut faulty = run(50.0);
        faulty.faults.insert("timeout".into(), 7);
        let text = results(vec![("3 nodes, get", vec![faulty])]).markdown();
        assert!(text.contains("* 3 nodes, get: 7 x timeout") && text.contains("**not met**"), "{text}");
    }

    #[test]
    fn only_the_section_is_replaced() {
        let document = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n<!-- begin y -->\n<!-- end y -->\n";
        let once = replaced(document, "x", "new\n").unwrap();
        assert_eq!(
            once,
            "a\n<!-- begin x -->\n\nnew\n\n<!-- end x -->\nb\n<!-- begin y -->\n<!-- end y -->\n"
        );
        assert_eq!(replaced(&once, "x", "new").unwrap(), once);
        assert_eq!(replaced(document, "z", "new"), None);
    }
}
