//! The gate. Every step runs on every machine in the same way, cheapest first; the first that fails ends the run.

use crate::{
    cargo::{cargo, run_within},
    doc,
    ends::Ends,
    sim, test, tidy,
};
use std::{process::Command, time::Duration};

/// Seeds that the gate simulates. A thousand and the planted mistakes are run by hand.
const SIM_RUNS: u64 = 200;

/// Far more than any step takes on two busy processors where nothing is built yet: past this it hangs.
const STEP_MAX: Duration = Duration::from_mins(40);

/// Runs every check.
pub(crate) fn run() -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(steps())
}

async fn steps() -> anyhow::Result<()> {
    let mut ends = Ends::listen()?;
    let mut step = async |command: Command| run_within(command, STEP_MAX, &mut ends).await;
    step(cargo(["fmt", "--all", "--check"])?).await?;
    println!("\n$ cargo xtask tidy");
    tidy::run()?;
    step(cargo(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])?).await?;
    step(doc::command(&doc::Options::default())?).await?;
    step(test::command(&test::Options::default())?).await?;
    step(sim::command(&sim::Options::of_runs(SIM_RUNS))?).await?;
    println!("\nall checks passed");
    Ok(())
}
