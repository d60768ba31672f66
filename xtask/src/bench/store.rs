//! `cargo xtask bench store`: what one store takes and costs, beside a log that only appends and syncs.
//!
//! Every row is a process of its own: `core/benches/store`. The engines of one load run one after the other, the bare log
//! first, so that ratios are of the same minutes of this machine. A run of everything rewrites the table in
//! `docs/benchmarks.md`.

use super::{machine, process::Usage, spread::three_digits, table::replace_section};
use crate::cargo::{cargo, root};
use anyhow::{Context, bail, ensure};
use clap::Args;
use serde::Deserialize;
use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

const DOCUMENT: &str = "docs/benchmarks.md";
const SECTION: &str = "store benchmark";
/// As the bench calls them; the first is what the others are compared with.
const ENGINES: [(&str, &str); 4] =
    [("bare", "bare log"), ("log", "the store"), ("redb", "plain redb"), ("fjall", "fjall")];
const WRITERS: [u64; 2] = [1, 64];
const VALUE_BYTES: [u64; 2] = [1024, 100];
/// What is in the store that is killed and opened again.
const KILLED_BYTES: u64 = 1 << 30;
/// How long it goes on writing over that, so that its log is as full as it gets.
const KILLED_AFTER_SECONDS: u64 = 10;

/// What to measure.
#[derive(Args, Debug, Clone)]
pub(crate) struct Options {
    /// Seconds of a run; with other than 60, nothing is written to the documents
    #[arg(long, default_value_t = FULL_SECONDS, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// How many keys are written to
    #[arg(long, default_value_t = FULL_KEYS, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    keys: u64,
    /// Only the store of this name, and the bare log; nothing is written to the documents
    #[arg(long, value_name = "ENGINE")]
    only: Option<String>,
    /// Where the stores are meanwhile [default: target/bench]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

const FULL_SECONDS: u64 = 60;
const FULL_KEYS: u64 = 2_000_000;

/// Measures; prints the table, and writes it to the documents if everything was measured.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let program = build()?;
    let parent = options.dir.clone().map_or_else(|| Ok(root()?.join("target/bench")), anyhow::Ok)?;
    fs::create_dir_all(&parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let bench = Bench { program, parent };
    let mut text = String::new();
    let Options { seconds, keys, .. } = options;
    writeln!(
        text,
        "`cargo xtask bench store --seconds {seconds} --keys {keys}` on {}, commit {}.\n{}.\n{} random keys, {seconds} s each; every put is synced before it counts.\n",
        machine::today(),
        machine::commit()?,
        machine::describe(&bench.parent)?,
        three_digits(*keys as f64),
    )?;
    text.push_str(HEADINGS);
    let mut rows = Vec::new();
    for value_bytes in VALUE_BYTES {
        for writers in WRITERS {
            rows.extend(bench.load(options, writers, value_bytes, &mut text)?);
        }
    }
    let killed = bench.killed()?;
    writeln!(
        text,
        "\nKilled with 1 GiB of rows under writes: open again after {} ms, {} batches came from the log; {} MiB in memory before.",
        killed.opened.open_ms,
        killed.opened.batches,
        killed.resident_bytes >> 20
    )?;
    write_targets(&mut text, &rows, &killed)?;
    println!("\n{text}");
    if (*seconds, *keys, &options.only) == (FULL_SECONDS, FULL_KEYS, &None) {
        replace_section(&root()?.join(DOCUMENT), SECTION, &text)?;
        println!("written to {DOCUMENT}");
    }
    Ok(())
}

const HEADINGS: &str = "| value | writers | engine | puts/s | of the bare log | p50, µs | p99, µs | of the bare log | CPU, µs/put | bytes written per byte | memory, MiB |\n|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|\n";

/// What the bench prints of a run.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
struct Figures {
    ops_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_us: f64,
    amplification: f64,
    resident_bytes: u64,
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Row {
    engine: &'static str,
    writers: u64,
    value_bytes: u64,
    figures: Figures,
    bare: Figures,
}

impl Row {
    fn throughput_share(&self) -> f64 {
        self.figures.ops_per_s / self.bare.ops_per_s
    }

    fn p99_times(&self) -> f64 {
        self.figures.p99_us / self.bare.p99_us.max(1.0)
    }

    fn markdown(&self, name: &str) -> String {
        let Self { writers, value_bytes, figures, .. } = self;
        let cells = [
            three_digits(figures.ops_per_s),
            format!("{} %", three_digits(100.0 * self.throughput_share())),
            three_digits(figures.p50_us),
            three_digits(figures.p99_us),
            format!("{} x", three_digits(self.p99_times())),
            three_digits(figures.cpu_us),
            three_digits(figures.amplification),
            three_digits(figures.resident_bytes as f64 / f64::from(1 << 20)),
        ];
        format!("| {value_bytes} | {writers} | {name} | {} |", cells.join(" | "))
    }
}

/// An opening after a kill.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Opened {
    open_ms: u64,
    batches: u64,
}

struct Killed {
    opened: Opened,
    /// What the store held in memory before.
    resident_bytes: u64,
}

struct Bench {
    program: PathBuf,
    parent: PathBuf,
}

impl Bench {
    /// One load on every engine that is asked for.
    fn load(
        &self,
        options: &Options,
        writers: u64,
        value_bytes: u64,
        text: &mut String,
    ) -> anyhow::Result<Vec<Row>> {
        let mut rows: Vec<Row> = Vec::new();
        for (engine, name) in ENGINES {
            if options.only.as_deref().is_some_and(|only| only != engine) && engine != ENGINES[0].0 {
                continue;
            }
            let folder = tempfile::tempdir_in(&self.parent)?;
            let words =
                [writers, value_bytes, options.seconds, options.keys].map(|number| number.to_string());
            let mut command = Command::new(&self.program);
            command.args(["run", engine]).args(words).arg(folder.path());
            let output = command.stderr(Stdio::inherit()).output()?;
            ensure!(output.status.success(), "the bench of {engine} failed: {}", output.status);
            let figures: Figures =
                serde_json::from_slice(&output.stdout).context("the bench's line makes no sense")?;
            let bare = rows.first().map_or(figures, |bare| bare.figures);
            let row = Row { engine, writers, value_bytes, figures, bare };
            println!("{}", row.markdown(name));
            writeln!(text, "{}", row.markdown(name))?;
            rows.push(row);
        }
        Ok(rows)
    }

    /// Fills a store, kills it while it writes, and opens it again.
    fn killed(&self) -> anyhow::Result<Killed> {
        let folder = tempfile::tempdir_in(&self.parent)?;
        let mut child = Writing(self.command(["fill", &KILLED_BYTES.to_string()], folder.path()).spawn()?);
        let mut line = String::new();
        let stdout = child.0.stdout.take().context("the bench has no output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line.contains("filled"), "the bench did not fill the store");
        std::thread::park_timeout(std::time::Duration::from_secs(KILLED_AFTER_SECONDS));
        let resident_bytes = Usage::of(child.0.id())?.resident_bytes;
        drop(child);
        let output = self.command(["open"], folder.path()).output()?;
        ensure!(output.status.success(), "the killed store does not open: {}", output.status);
        Ok(Killed { opened: serde_json::from_slice(&output.stdout)?, resident_bytes })
    }

    fn command<const N: usize>(&self, words: [&str; N], folder: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).arg(folder).stdout(Stdio::piped());
        command
    }
}

/// A process that does not outlive this.
struct Writing(Child);

impl Drop for Writing {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The bench, built as it is measured.
fn build() -> anyhow::Result<PathBuf> {
    let mut command = cargo([
        "bench",
        "--locked",
        "--package",
        "rondel-core",
        "--bench",
        "store",
        "--no-run",
        "--message-format",
        "json-render-diagnostics",
    ])?;
    let output = command.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    ensure!(output.status.success(), "the bench does not build");
    executable(&String::from_utf8_lossy(&output.stdout)).context("cargo does not say where the bench is")
}

/// The program named `store` among what cargo says it has built.
fn executable(messages: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let of_bench = |message: &serde_json::Value| message["target"]["name"] == "store";
    let mut paths =
        messages.filter(of_bench).filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    paths.next_back()
}

/// What the issue of the store bounds: a name, the bound, what was measured, and whether that is within it.
fn write_targets(text: &mut String, rows: &[Row], killed: &Killed) -> anyhow::Result<()> {
    writeln!(text, "\n| load | what | bound | measured | |\n|---|---|---:|---:|---|")?;
    let of_store = |value_bytes| {
        let wanted = move |row: &&Row| (row.engine, row.writers, row.value_bytes) == ("log", 64, value_bytes);
        rows.iter().find(wanted)
    };
    let mut judged = Vec::new();
    for value_bytes in VALUE_BYTES {
        let Some(row) = of_store(value_bytes) else { continue };
        let load = format!("64 writers, {value_bytes} bytes");
        let share = 100.0 * row.throughput_share();
        judged.push((load.clone(), "share of the bare log's throughput, %", "≥ 50", share, share >= 50.0));
        judged.push((
            load.clone(),
            "p99, times the bare log's",
            "≤ 5",
            row.p99_times(),
            row.p99_times() <= 5.0,
        ));
        if value_bytes == 1024 {
            let amplification = row.figures.amplification;
            judged.push((load, "bytes written per byte", "≤ 4", amplification, amplification <= 4.0));
        }
    }
    let (opened, memory) = (killed.opened.open_ms as f64, (killed.resident_bytes >> 20) as f64);
    judged.push(("1 GiB, killed".into(), "open again, ms", "≤ 2,000", opened, opened <= 2000.0));
    judged.push(("1,000,000 x 1 KiB".into(), "memory, MiB", "≤ 512", memory, memory <= 512.0));
    for (load, what, bound, measured, met) in judged {
        let met = if met { "met" } else { "**not met**" };
        writeln!(text, "| {load} | {what} | {bound} | {} | {met} |", three_digits(measured))?;
    }
    if rows.is_empty() {
        bail!("nothing was measured");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIGURES: Figures = Figures {
        ops_per_s: 1000.0,
        p50_us: 100.0,
        p99_us: 900.0,
        cpu_us: 3.0,
        amplification: 1.0,
        resident_bytes: 5 << 20,
    };

    fn row(value_bytes: u64, figures: Figures) -> Row {
        Row { engine: "log", writers: 64, value_bytes, figures, bare: FIGURES }
    }

    fn targets(rows: &[Row], open_ms: u64) -> String {
        let mut text = String::new();
        let killed = Killed { opened: Opened { open_ms, batches: 7 }, resident_bytes: 400 << 20 };
        write_targets(&mut text, rows, &killed).unwrap();
        text
    }

    #[test]
    fn each_bound_is_judged_by_itself() {
        let half = Figures { ops_per_s: 500.0, p99_us: 4500.0, amplification: 4.0, ..FIGURES };
        assert!(!targets(&[row(1024, half), row(100, half)], 2000).contains("not met"));
        for (figures, open_ms) in [
            (Figures { ops_per_s: 499.0, ..half }, 2000),
            (Figures { p99_us: 4501.0, ..half }, 2000),
            (Figures { amplification: 4.01, ..half }, 2000),
            (half, 2001),
        ] {
            assert_eq!(targets(&[row(1024, figures), row(100, half)], open_ms).matches("not met").count(), 1);
        }
    }

    #[test]
    fn a_row_shows_its_share_of_the_bare_log() {
        let row = row(100, Figures { ops_per_s: 620.0, p99_us: 1800.0, ..FIGURES });
        let text = row.markdown("the store");
        assert!(text.contains("| 62.0 % |") && text.contains("| 2.00 x |"), "{text}");
    }

    #[test]
    fn the_program_is_found_among_what_cargo_says() {
        let messages = concat!(
            "{\"target\":{\"name\":\"other\"},\"executable\":\"/a\"}\n",
            "not json\n",
            "{\"target\":{\"name\":\"store\"},\"executable\":null}\n",
            "{\"target\":{\"name\":\"store\"},\"executable\":\"/b\"}\n",
        );
        assert_eq!(executable(messages), Some(PathBuf::from("/b")));
        assert_eq!(executable("{}"), None);
    }

    #[test]
    fn the_document_has_a_place_for_the_table() {
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("benchmarks.md");
        fs::copy(root().unwrap().join(DOCUMENT), &copy).unwrap();
        replace_section(&copy, SECTION, "figures").unwrap();
        assert!(fs::read_to_string(copy).unwrap().contains("figures"));
    }
}
