//! The documentation, built so that a broken link or a missing page is an error.

use crate::cargo::{cargo, run as run_cargo};
use clap::Args;
use std::process::Command;

/// How to build it.
#[derive(Args, Default)]
pub(crate) struct Options {
    /// Open it in a browser afterwards
    #[arg(long)]
    open: bool,
}

/// Builds the documentation.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    run_cargo(command(options)?)
}

/// Builds the documentation of the workspace's packages, private items included.
pub(crate) fn command(options: &Options) -> anyhow::Result<Command> {
    let mut command = cargo(["doc", "--workspace", "--no-deps", "--locked"])?;
    command.env("RUSTDOCFLAGS", "-D warnings");
    if options.open {
        command.arg("--open");
    }
    Ok(command)
}
