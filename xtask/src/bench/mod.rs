//! `cargo xtask bench`: what an operation costs on this machine, and whether that is what it may.
//!
//! A cluster of real processes is driven by `rondel bench`; the nodes' processor time is the kernel's account of them,
//! so it says what an operation costs even where other work slows it down. Rounds run all loads one after the other, so
//! that a machine that grows slower or faster shows in the spread of every row rather than in the difference of two.
//! A run of everything rewrites the tables in `docs/benchmarks.md`.

mod client;
mod clock;
mod cluster;
mod machine;
mod measure;
mod process;
mod rows;
mod samples;
mod spread;
mod store;
mod table;

use crate::{
    cargo::{cargo, root, run as run_cargo},
    ends::Ends,
};
use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use client::Load;
use cluster::{Cluster, Plan, with_cluster};
use measure::{Figures, measure};
use rows::{Pace, ROWS, Row};
use spread::three_digits;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};
use table::{Results, replace_section};

/// How long a load runs before it is measured, in seconds.
const WARMUP: u32 = 2;
/// The document and its section.
const DOCUMENT: &str = "docs/benchmarks.md";
const SECTION: &str = "cluster benchmark";

/// What to measure, and how often.
#[derive(Args, Debug, Clone)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    part: Option<Part>,
    /// How often each load is run
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Seconds of a run
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// How many keys there are
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    keys: u64,
    /// Only the load of this name, or those whose names contain it; nothing is written to the documents
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Measure this binary instead of building one; nothing is written to the documents
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Set a key of every node's configuration; nothing is written to the documents
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Where the nodes keep their data meanwhile [default: target/bench]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The first of the ports that the nodes take
    #[arg(long, default_value_t = 18_900)]
    base_port: u16,
}

/// What else than a cluster can be measured.
#[derive(Subcommand, Debug, Clone)]
enum Part {
    /// One store alone, beside a bare log and other stores
    Store(store::Options),
}

/// Measures; prints the tables, and writes them to the documents if everything was measured as it is.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if let Some(Part::Store(options)) = &options.part {
        return store::run(options);
    }
    let rows = chosen(options.only.as_deref())?;
    let program = match &options.program {
        Some(program) => {
            fs::canonicalize(program).with_context(|| format!("there is no {}", program.display()))?
        }
        None => build()?,
    };
    let parent = match &options.dir {
        Some(dir) => dir.clone(),
        None => root()?.join("target/bench"),
    };
    fs::create_dir_all(&parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let machine = machine::describe(&parent)?;
    let mut page_cache = machine::PageCache::new(&parent)?;
    page_cache.fill()?;
    let plan =
        Plan { program, parent, nodes: 0, base_port: options.base_port, settings: options.set.clone() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = runtime.block_on(measure_all(options, &plan, &rows))?;
    let results = Results {
        command: options.command(),
        date: machine::today(),
        commit: machine::commit()?,
        machine,
        keys: options.keys,
        seconds: options.seconds,
        rows: rows.iter().map(|row| (row.name, measured[row.name].clone())).collect(),
    };
    let text = results.markdown();
    println!("\n{text}");
    if options.is_of_everything() {
        replace_section(&root()?.join(DOCUMENT), SECTION, &text)?;
        println!("written to {DOCUMENT}");
    }
    Ok(())
}

impl Options {
    /// Whether the figures stand for the program as it is built here.
    fn is_of_everything(&self) -> bool {
        self.only.is_none() && self.program.is_none() && self.set.is_empty()
    }

    /// The command that measures the same.
    fn command(&self) -> String {
        let Self { runs, seconds, keys, .. } = self;
        let mut command = format!("cargo xtask bench --runs {runs} --seconds {seconds} --keys {keys}");
        let named = [("only", self.only.as_deref().map(|only| format!("{only:?}")))];
        let set = self.set.iter().map(|set| ("set", Some(set.clone())));
        for (name, value) in named.into_iter().chain(set) {
            command.extend(value.map(|value| format!(" --{name} {value}")));
        }
        command
    }
}

/// The row of that name or those whose names contain the text, and those that they take their peak from.
fn chosen(text: Option<&str>) -> anyhow::Result<Vec<Row>> {
    let is_a_name = ROWS.iter().any(|row| Some(row.name) == text);
    let matches = |row: &Row, text| if is_a_name { row.name == text } else { row.name.contains(text) };
    let wanted = |row: &Row| text.is_none_or(|text| matches(row, text));
    let peaks = ROWS.iter().filter(|row| wanted(row)).filter_map(|row| match row.pace {
        Pace::HalfPeakOf(peak) => Some(peak),
        Pace::Closed => None,
    });
    let peaks = peaks.collect::<Vec<_>>();
    let rows = ROWS.into_iter().filter(|row| wanted(row) || peaks.contains(&row.name)).collect::<Vec<_>>();
    let names = ROWS.map(|row| row.name).join("\n  ");
    ensure!(!rows.is_empty(), "no load is called `{}`; there are:\n  {names}", text.unwrap_or_default());
    Ok(rows)
}

/// Builds the binary as it is released.
fn build() -> anyhow::Result<PathBuf> {
    run_cargo(cargo(["build", "--release", "--locked", "--package", "rondel"])?)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    Ok(target.unwrap_or(root()?.join("target")).join("release/rondel"))
}

/// Runs every row in every round. Clusters of different sizes do not run at the same time.
async fn measure_all(
    options: &Options,
    plan: &Plan,
    rows: &[Row],
) -> anyhow::Result<BTreeMap<&'static str, Vec<Figures>>> {
    let mut ends = Ends::listen()?;
    let mut measured = BTreeMap::<_, Vec<_>>::new();
    let mut sizes = rows.iter().map(|row| row.nodes).collect::<Vec<_>>();
    sizes.dedup();
    for nodes in sizes {
        let rows = rows.iter().copied().filter(|row| row.nodes == nodes).collect::<Vec<_>>();
        let plan = Plan { nodes, ..plan.clone() };
        let of_size = with_cluster(&plan, &mut ends, async |cluster| {
            measure_rounds(options, &plan.program, &cluster, &rows).await
        });
        for (name, figures) in of_size.await? {
            measured.entry(name).or_default().push(figures);
        }
    }
    Ok(measured)
}

async fn measure_rounds(
    options: &Options,
    program: &Path,
    cluster: &Cluster,
    rows: &[Row],
) -> anyhow::Result<Vec<(&'static str, Figures)>> {
    let load = Load {
        read_share: 0.0,
        rate: None,
        warmup: WARMUP,
        seconds: options.seconds,
        keys: options.keys,
        seed: 0,
    };
    // Fills the store: gets come first.
    measure(program, cluster, Load { seconds: 1, ..load }).await.context("the keys can't be written")?;
    let mut measured = Vec::new();
    for round in 1..=options.runs {
        let mut peaks = BTreeMap::new();
        for row in rows {
            let rate = match row.pace {
                Pace::Closed => None,
                Pace::HalfPeakOf(peak) => peaks.get(peak).map(|ops_per_s| ops_per_s / 2.0),
            };
            let load = Load { read_share: row.read_share, rate, seed: round.into(), ..load };
            let figures = measure(program, cluster, load).await.with_context(|| row.name)?;
            show(row, round, &figures);
            peaks.insert(row.name, figures.ops_per_s);
            measured.push((row.name, figures));
        }
    }
    Ok(measured)
}

fn show(row: &Row, round: u32, figures: &Figures) {
    let [ops, nodes, client] =
        [figures.ops_per_s, figures.nodes_cpu_us, figures.client_cpu_us].map(three_digits);
    let p99_9 =
        figures.latency_ms.iter().map(|latency| three_digits(latency.p99_9)).collect::<Vec<_>>().join(", ");
    let others = three_digits(100.0 * figures.others_share);
    println!(
        "{round} {:<31} {ops:>7} ops/s, {nodes:>6} + {client} µs/op, p99.9 {p99_9} ms, other work {others} %",
        row.name
    );
    for (text, count) in &figures.faults {
        println!("  {count} x {text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(words: &[&str]) -> Options {
        Line::parse_from(std::iter::once("bench").chain(words.iter().copied())).options
    }

    #[test]
    fn a_row_at_half_the_peak_brings_the_row_that_finds_it() {
        let names = |text| chosen(Some(text)).unwrap().iter().map(|row| row.name).collect::<Vec<_>>();
        assert_eq!(names("put, half"), ["3 nodes, put", "3 nodes, put, half the peak"]);
        assert_eq!(names("3 nodes, get"), ["3 nodes, get"], "a whole name is of that row alone");
        assert_eq!(chosen(None).unwrap(), ROWS);
        assert!(chosen(Some("scan")).unwrap_err().to_string().contains("1 node, get"));
    }

    #[test]
    fn only_a_run_of_everything_goes_into_the_documents_and_its_command_repeats_it() {
        let all = options(&["--runs", "5"]);
        assert!(all.is_of_everything());
        assert_eq!(all.command(), "cargo xtask bench --runs 5 --seconds 10 --keys 10000");
        for words in [["--only", "put"], ["--program", "x"], ["--set", "a=b"]] {
            assert!(!options(&words).is_of_everything());
        }
        let part = options(&["--only", "1 node", "--set", "a=b"]).command();
        assert!(part.ends_with(r#"--only "1 node" --set a=b"#), "{part}");
    }

    #[test]
    fn the_document_has_a_place_for_each_table() {
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("benchmarks.md");
        fs::copy(root().unwrap().join(DOCUMENT), &copy).unwrap();
        for (section, figures) in [(SECTION, "a cluster's figures"), (store::SECTION, "a store's figures")] {
            replace_section(&copy, section, figures).unwrap();
            assert!(fs::read_to_string(&copy).unwrap().contains(figures));
        }
    }
}
