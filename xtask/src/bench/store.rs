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
    fmt::{self, Write as _},
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

const DOCUMENT: &str = "docs/benchmarks.md";
pub(crate) const SECTION: &str = "store benchmark";
/// As the bench calls it: what the others are compared with.
const BARE: &str = "bare";
/// The number of store files that nobody has changed: what is bounded.
const FILES: u32 = 16;
const WRITERS: [u64; 2] = [1, 64];
const VALUE_BYTES: [u64; 2] = [1024, 100];
/// Rows of 1 KiB in the store that is killed and opened again.
const KILLED_ROWS: u64 = 1_000_000;
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
    /// Only the store of this name (log, redb or fjall), and the bare log; nothing is written to the documents
    #[arg(long, value_name = "ENGINE")]
    only: Option<String>,
    /// In how many files the store keeps its rows: it is measured with each of these; with other than 16, 1 and 64,
    /// nothing is written to the documents
    #[arg(long, value_name = "NUMBER", value_delimiter = ',', default_values_t = FULL_FILES,
          value_parser = clap::value_parser!(u32).range(1..=256))]
    files: Vec<u32>,
    /// Where the stores are meanwhile [default: target/bench]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

const FULL_SECONDS: u64 = 60;
const FULL_KEYS: u64 = 2_000_000;
const FULL_FILES: [u32; 3] = [FILES, 1, 64];

impl Options {
    /// What is measured, the bare log first.
    fn engines(&self) -> Vec<Engine> {
        let store = self.files.iter().map(|files| Engine::Store { files: *files });
        let all = [Engine::Bare].into_iter().chain(store).chain([Engine::Redb, Engine::Fjall]);
        all.filter(|engine| *engine == Engine::Bare || self.has(*engine)).collect()
    }

    fn has(&self, engine: Engine) -> bool {
        self.only.as_deref().is_none_or(|only| only == engine.kind())
    }

    fn is_full(&self) -> bool {
        (self.seconds, self.keys, &*self.files) == (FULL_SECONDS, FULL_KEYS, &FULL_FILES)
            && self.only.is_none()
    }
}

/// Something that takes puts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    Bare,
    Store { files: u32 },
    Redb,
    Fjall,
}

impl Engine {
    /// What it is called, whatever the number of its files.
    fn kind(self) -> &'static str {
        match self {
            Self::Bare => BARE,
            Self::Store { .. } => "log",
            Self::Redb => "redb",
            Self::Fjall => "fjall",
        }
    }

    /// As the bench calls it.
    fn word(self) -> String {
        match self {
            Self::Store { files } => format!("log{files}"),
            other => other.kind().to_owned(),
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bare => out.write_str("bare log"),
            Self::Store { files: FILES } => out.write_str("the store"),
            Self::Store { files: 1 } => out.write_str("the store, 1 file"),
            Self::Store { files } => write!(out, "the store, {files} files"),
            Self::Redb => out.write_str("plain redb"),
            Self::Fjall => out.write_str("fjall"),
        }
    }
}

/// Measures; prints the table, and writes it to the documents if everything was measured.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let program = build()?;
    let parent = options.dir.clone().map_or_else(|| Ok(root()?.join("target/bench")), anyhow::Ok)?;
    fs::create_dir_all(&parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let mut bench = Bench { program, page_cache: machine::PageCache::new(&parent)?, parent };
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
    text.push_str(KILLED_HEADINGS);
    let mut all_killed = Vec::new();
    for engine in options.engines().into_iter().filter(|engine| matches!(engine, Engine::Store { .. })) {
        let killed = bench.killed(engine)?;
        println!("{}", killed.markdown());
        writeln!(text, "{}", killed.markdown())?;
        all_killed.push(killed);
    }
    write_targets(&mut text, &rows, &all_killed)?;
    println!("\n{text}");
    if options.is_full() {
        replace_section(&root()?.join(DOCUMENT), SECTION, &text)?;
        println!("written to {DOCUMENT}");
    }
    Ok(())
}

const HEADINGS: &str = "| value | writers | engine | puts/s | of the bare log | p50, µs | p99, µs | of the bare log | CPU, µs/put | bytes written per byte | memory, MiB |\n|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|\n";
const KILLED_HEADINGS: &str = "\nKilled while it writes over 1,000,000 x 1 KiB, and opened again:\n\n| engine | open again, ms | batches from the log | memory before, MiB |\n|---|---:|---:|---:|\n";

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
    engine: Engine,
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

    fn markdown(&self) -> String {
        let Self { engine, writers, value_bytes, figures, .. } = self;
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
        format!("| {value_bytes} | {writers} | {engine} | {} |", cells.join(" | "))
    }
}

/// An opening after a kill.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Opened {
    open_ms: u64,
    batches: u64,
}

struct Killed {
    engine: Engine,
    opened: Opened,
    /// What the store held in memory before.
    resident_bytes: u64,
}

impl Killed {
    fn markdown(&self) -> String {
        let Self { engine, opened: Opened { open_ms, batches }, resident_bytes } = self;
        let batches = three_digits(*batches as f64);
        format!("| {engine} | {open_ms} | {batches} | {} |", resident_bytes >> 20)
    }
}

struct Bench {
    program: PathBuf,
    page_cache: machine::PageCache,
    parent: PathBuf,
}

impl Bench {
    /// One load on every engine that is asked for.
    fn load(
        &mut self,
        options: &Options,
        writers: u64,
        value_bytes: u64,
        text: &mut String,
    ) -> anyhow::Result<Vec<Row>> {
        let mut rows: Vec<Row> = Vec::new();
        for engine in options.engines() {
            let folder = tempfile::tempdir_in(&self.parent)?;
            let words =
                [writers, value_bytes, options.seconds, options.keys].map(|number| number.to_string());
            let mut command = Command::new(&self.program);
            command.args(["run", &engine.word()]).args(words).arg(folder.path());
            self.page_cache.fill()?;
            let output = command.stderr(Stdio::inherit()).output()?;
            ensure!(output.status.success(), "the bench of {engine} failed: {}", output.status);
            let figures: Figures =
                serde_json::from_slice(&output.stdout).context("the bench's line makes no sense")?;
            let bare = rows.first().map_or(figures, |bare| bare.figures);
            let row = Row { engine, writers, value_bytes, figures, bare };
            println!("{}", row.markdown());
            writeln!(text, "{}", row.markdown())?;
            rows.push(row);
        }
        Ok(rows)
    }

    /// Fills a store, kills it while it writes, and opens it again.
    fn killed(&self, engine: Engine) -> anyhow::Result<Killed> {
        let folder = tempfile::tempdir_in(&self.parent)?;
        let words = ["fill", &engine.word(), &KILLED_ROWS.to_string()];
        let mut child = Writing(self.command(words, folder.path()).spawn()?);
        let mut line = String::new();
        let stdout = child.0.stdout.take().context("the bench has no output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line.contains("filled"), "the bench did not fill the store");
        std::thread::park_timeout(std::time::Duration::from_secs(KILLED_AFTER_SECONDS));
        let resident_bytes = Usage::of(child.0.id())?.resident_bytes;
        drop(child);
        let output = self.command(["open"], folder.path()).output()?;
        ensure!(output.status.success(), "the killed store does not open: {}", output.status);
        Ok(Killed { engine, opened: serde_json::from_slice(&output.stdout)?, resident_bytes })
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
fn write_targets(text: &mut String, rows: &[Row], killed: &[Killed]) -> anyhow::Result<()> {
    writeln!(text, "\n| load | what | bound | measured | |\n|---|---|---:|---:|---|")?;
    let store = Engine::Store { files: FILES };
    let of_store = |value_bytes| {
        let wanted = move |row: &&Row| (row.engine, row.writers, row.value_bytes) == (store, 64, value_bytes);
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
    if let Some(killed) = killed.iter().find(|killed| killed.engine == store) {
        let (opened, memory) = (killed.opened.open_ms as f64, (killed.resident_bytes >> 20) as f64);
        let load = || "1,000,000 x 1 KiB".to_owned();
        judged.push((format!("{}, killed", load()), "open again, ms", "≤ 2,000", opened, opened <= 2000.0));
        judged.push((load(), "memory, MiB", "≤ 512", memory, memory <= 512.0));
    }
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
        Row { engine: Engine::Store { files: FILES }, writers: 64, value_bytes, figures, bare: FIGURES }
    }

    fn options(words: &[&str]) -> Options {
        #[derive(clap::Parser)]
        struct Words {
            #[command(flatten)]
            options: Options,
        }
        <Words as clap::Parser>::parse_from([&["bench"], words].concat()).options
    }

    #[test]
    fn the_store_is_measured_with_each_number_of_files() {
        let names = |words: &[&str]| {
            options(words).engines().into_iter().map(|engine| engine.to_string()).collect::<Vec<_>>()
        };
        let all =
            ["bare log", "the store", "the store, 1 file", "the store, 64 files", "plain redb", "fjall"];
        assert_eq!(names(&[]), all);
        assert!(options(&[]).is_full());
        assert_eq!(
            names(&["--only", "log", "--files", "4,1"]),
            ["bare log", "the store, 4 files", "the store, 1 file"]
        );
        for words in [["--only", "log"], ["--files", "1"], ["--seconds", "5"]] {
            assert!(!options(&words).is_full(), "{words:?}");
        }
    }

    fn targets(rows: &[Row], open_ms: u64) -> String {
        let mut text = String::new();
        let killed = |engine, open_ms| {
            let opened = Opened { open_ms, batches: 7 };
            Killed { engine, opened, resident_bytes: 400 << 20 }
        };
        let other = killed(Engine::Store { files: 64 }, 5000);
        write_targets(&mut text, rows, &[other, killed(Engine::Store { files: FILES }, open_ms)]).unwrap();
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
        let text = row.markdown();
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
}
