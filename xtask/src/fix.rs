//! Formats, and applies the repairs that clippy is sure of. The only task that changes code.

use crate::cargo::{cargo, run as run_cargo};

/// Changes the sources in place.
pub(crate) fn run() -> anyhow::Result<()> {
    run_cargo(cargo([
        "clippy",
        "--workspace",
        "--all-targets",
        "--fix",
        "--allow-dirty",
        "--allow-staged",
    ])?)?;
    run_cargo(cargo(["fmt", "--all"])?)
}
