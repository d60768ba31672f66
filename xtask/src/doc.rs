//! The documentation, built so that a broken link or a missing page is an error.

use crate::cargo::{cargo, run as run_cargo};
use clap::Args;

/// How to build it.
#[derive(Args, Default)]
pub(crate) struct Options {
    /// Open it in a browser afterwards
    #[arg(long)]
    open: bool,
}

/// Builds the documentation of the workspace's packages, private items included.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let mut command = cargo(["doc", "--workspace", "--no-deps", "--locked"])?;
    command.env("RUSTDOCFLAGS", "-D warnings");
    if options.open {
        command.arg("--open");
    }
    run_cargo(command)
}
