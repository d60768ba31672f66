//! The gate. Every step runs on every machine in the same way, cheapest first; the first that fails ends the run.

use crate::{
    cargo::{cargo, run as run_cargo},
    doc, sim, test, tidy,
};

/// Seeds that the gate simulates. A thousand and the planted mistakes are run by hand.
const SIM_RUNS: u64 = 200;

/// Runs every check.
pub(crate) fn run() -> anyhow::Result<()> {
    run_cargo(cargo(["fmt", "--all", "--check"])?)?;
    println!("\n$ cargo xtask tidy");
    tidy::run()?;
    run_cargo(cargo(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])?)?;
    doc::run(&doc::Options::default())?;
    test::run(&test::Options::default())?;
    sim::run(&sim::Options::of_runs(SIM_RUNS))?;
    println!("\nall checks passed");
    Ok(())
}
