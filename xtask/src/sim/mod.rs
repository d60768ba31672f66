//! The key-value store under simulated faults: one seed with its trace, a sweep over many, the planted mistakes.
//!
//! A run is production code in virtual time ([`mod@run`]): a cluster, clients ([`client`]), a minute of faults drawn from
//! the seed ([`plan`]), healing, and then the checks ([`check`]). A seed that fails prints its faults and the command
//! that repeats it, and is run a second time: taking another course would be a fault of the simulator.

mod check;
mod client;
mod history;
mod log;
mod plan;
mod run;
mod sweep;
mod theme;
mod value;

use crate::cargo::{cargo, run as run_cargo};
use anyhow::{Context, bail};
use clap::Args;
use plan::Plan;
use rondel_core::mutant::{Mutant, Mutants};
use run::Report;
use std::{fs, panic, path::PathBuf, process::Command};

/// Seeds within which each planted mistake must be caught.
const MUTANT_RUNS: u64 = 100;

/// What to simulate.
#[derive(Args, Clone, Default)]
pub(crate) struct Options {
    /// One seed, with what happened in it
    #[arg(long, conflicts_with_all = ["runs", "mutants"])]
    seed: Option<u64>,
    /// Write every event of that seed to a file
    #[arg(long, requires = "seed")]
    log: Option<PathBuf>,
    /// Play these faults instead of those that the seed draws
    #[arg(long, requires = "seed")]
    schedule: Option<PathBuf>,
    /// Leave out faults for as long as the seed still fails
    #[arg(long, requires = "seed")]
    shrink: bool,
    /// Print every operation of the clients
    #[arg(long, requires = "seed")]
    operations: bool,
    /// So many seeds
    #[arg(long)]
    runs: Option<u64>,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Begin no more runs after so many seconds
    #[arg(long)]
    seconds: Option<u64>,
    /// Break one rule: the runs must notice
    #[arg(long)]
    mutant: Option<String>,
    /// Break each rule in turn; each must be noticed within 100 seeds
    #[arg(long)]
    mutants: bool,
    /// Simulate in this process, as it was built
    #[arg(long, hide = true)]
    here: bool,
}

impl Options {
    /// So many seeds from the first.
    pub(crate) fn of_runs(runs: u64) -> Self {
        Self { runs: Some(runs), ..Self::default() }
    }

    fn arguments(&self) -> Vec<String> {
        let mut out = Vec::new();
        let mut value = |name: &str, value: Option<String>| {
            out.extend(value.into_iter().flat_map(|value| [format!("--{name}"), value]));
        };
        value("seed", self.seed.map(|seed| seed.to_string()));
        value("log", self.log.as_ref().map(|path| path.display().to_string()));
        value("schedule", self.schedule.as_ref().map(|path| path.display().to_string()));
        value("runs", self.runs.map(|runs| runs.to_string()));
        value("from", (self.from > 0).then(|| self.from.to_string()));
        value("seconds", self.seconds.map(|seconds| seconds.to_string()));
        value("mutant", self.mutant.clone());
        let flags = [("shrink", self.shrink), ("operations", self.operations), ("mutants", self.mutants)];
        out.extend(flags.into_iter().filter(|(_, on)| *on).map(|(name, _)| format!("--{name}")));
        out
    }
}

/// Simulates; optimised, whichever way this task itself was built.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if !options.here {
        return run_cargo(command(options)?);
    }
    if options.seed.is_none() {
        // What a library panics at a rotten file is caught, and any other panic is in the report of its run.
        panic::set_hook(Box::new(|_| ()));
    }
    if options.mutants {
        return all_mutants();
    }
    let mutants = options.mutant.as_deref().map_or(Ok(Mutants::default()), mutants_of)?;
    match options.seed {
        Some(seed) => one(options, seed, mutants),
        None => many(options, mutants),
    }
}

/// This task, built as it simulates.
pub(crate) fn command(options: &Options) -> anyhow::Result<Command> {
    let mut command = cargo(["run", "--quiet", "--locked", "--profile", "sim", "--package", "xtask", "--"])?;
    command.args(["sim", "--here"]).args(options.arguments());
    Ok(command)
}

fn mutants_of(name: &str) -> anyhow::Result<Mutants> {
    let found = Mutant::ALL.iter().find(|(_, known)| *known == name);
    let (mutant, _) = found.with_context(|| {
        let names: Vec<_> = Mutant::ALL.iter().map(|(_, name)| *name).collect();
        format!("there is no mutant `{name}`; there are {}", names.join(", "))
    })?;
    Ok(Mutants::only(*mutant))
}

fn one(options: &Options, seed: u64, mutants: Mutants) -> anyhow::Result<()> {
    let mut plan = Plan::draw(seed);
    if let Some(path) = &options.schedule {
        let text = fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
        plan.schedule = text.parse()?;
    }
    let writer = options.log.as_deref().map(log::to_file).transpose()?;
    println!("{plan}\n{}", plan.schedule);
    let timed = sweep::timed(&plan, mutants, writer);
    if options.operations {
        timed.report.operations.iter().for_each(|operation| println!("{operation}"));
    }
    println!("{}", timed.summary());
    if timed.report.violations.is_empty() {
        return Ok(());
    }
    explain(&plan, &timed.report, options);
    if mutants != Mutants::default() && !run::run(&plan, Mutants::default(), None).violations.is_empty() {
        println!("  and it fails without the mutant too");
    }
    if options.shrink {
        shrink(plan, mutants);
    }
    bail!("seed {seed} fails")
}

fn many(options: &Options, mutants: Mutants) -> anyhow::Result<()> {
    let runs = options.runs.unwrap_or(match options.seconds {
        Some(_) => u64::MAX,
        None => 100,
    });
    let limits = sweep::Limits { from: options.from, runs, seconds: options.seconds, failures_max: 5 };
    let swept = sweep::sweep(&limits, mutants, &|progress| println!("{progress}"));
    println!("{swept}");
    swept.costs().for_each(|cost| println!("{cost}"));
    if !swept.unsound.is_empty() {
        println!("and these fail without the mutant too, and do not count: {:?}", swept.unsound);
    }
    for (plan, report) in &swept.failed {
        explain(plan, report, options);
        let again = run::run(plan, mutants, None);
        if again.trace_hash != report.trace_hash {
            println!("  and it took another course the second time: the simulation is not deterministic");
        }
    }
    if swept.failed.is_empty() {
        return Ok(());
    }
    bail!("{} of {} seeds fail", swept.failed.len(), swept.runs)
}

fn all_mutants() -> anyhow::Result<()> {
    let mut missed = Vec::new();
    for (mutant, name) in Mutant::ALL {
        let limits = sweep::Limits { from: 0, runs: MUTANT_RUNS, seconds: None, failures_max: 1 };
        let swept = sweep::sweep(&limits, Mutants::only(mutant), &|_| ());
        match swept.failed.first() {
            Some((plan, report)) => {
                let what = report.violations.first().map(ToString::to_string).unwrap_or_default();
                println!("{name}: caught after {} seeds, by seed {}: {what}", swept.runs, plan.seed);
            }
            None => {
                println!(
                    "{name}: not caught within {} seeds; {:?} fail in any case",
                    swept.runs, swept.unsound
                );
                missed.push(name);
            }
        }
    }
    if missed.is_empty() {
        return Ok(());
    }
    bail!("not caught: {}", missed.join(", "))
}

fn explain(plan: &Plan, report: &Report, options: &Options) {
    println!("\n{plan}\n{}", plan.schedule);
    let first: Vec<_> = report.violations.iter().take(8).collect();
    first.iter().for_each(|violation| println!("  {violation}"));
    if report.violations.len() > first.len() {
        println!("  … and {} more", report.violations.len() - first.len());
    }
    let mutant = options.mutant.as_ref().map(|name| format!(" --mutant {name}")).unwrap_or_default();
    println!("  trace {}", blake3::Hash::from_bytes(report.trace_hash).to_hex());
    println!("  again: cargo xtask sim --seed {}{mutant} --log FILE", plan.seed);
}

/// Leaves out one fault after another for as long as the run still fails.
fn shrink(mut plan: Plan, mutants: Mutants) {
    let mut index = 0;
    while index < plan.schedule.0.len() {
        let shorter = Plan { schedule: plan.schedule.without(index), ..plan.clone() };
        if run::run(&shorter, mutants, None).violations.is_empty() {
            index += 1;
        } else {
            plan = shorter;
        }
    }
    println!("\nit still fails with only these faults:\n{}", plan.schedule);
    let report = run::run(&plan, mutants, None);
    report.violations.iter().take(8).for_each(|violation| println!("  {violation}"));
}
