//! The gate. Every step runs on every machine in the same way, cheapest first; the first that fails ends the run.

use crate::{
    cargo::{cargo, run as run_cargo},
    doc, test, tidy,
};

/// Runs every check.
pub(crate) fn run() -> anyhow::Result<()> {
    run_cargo(cargo(["fmt", "--all", "--check"])?)?;
    println!("\n$ cargo xtask tidy");
    tidy::run()?;
    run_cargo(cargo(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])?)?;
    doc::run(&doc::Options::default())?;
    test::run(&test::Options::default())?;
    println!("\nall checks passed");
    Ok(())
}
