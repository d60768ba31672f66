//! `rondel store`: the files of a node that does not run.

mod log;
mod verify;

use crate::{failure::Advise, output::Output, rt};
use anyhow::Context;
use clap::{Args, Subcommand};
use rondel_core::{
    env::Env,
    store::inspect::{InspectError, Inspection},
};
use std::path::PathBuf;

/// What to look at.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Show the records of the log that a start would read, oldest first
    Log(log::Options),
    /// Try every checksum of every file, and fail if one is wrong
    Verify(verify::Options),
}

/// Which store.
#[derive(Args, Debug)]
pub(crate) struct Target {
    /// The data directory of a node that does not run
    directory: PathBuf,
}

/// Runs the command.
pub(crate) fn run(command: Command, output: Output) -> anyhow::Result<()> {
    match command {
        Command::Log(options) => log::run(&options, output),
        Command::Verify(options) => verify::run(&options, output),
    }
}

impl Target {
    /// Takes the store, so that no node begins to run on it meanwhile. Nothing in it is changed.
    fn open(&self) -> anyhow::Result<Inspection> {
        let directory = std::path::absolute(&self.directory).context("cannot tell the working directory")?;
        let disk = rt::single_threaded()?.block_on(async { Env::production().disk() });
        advised(Inspection::open(disk, &directory))
    }
}

/// Adds what can be done about the error.
fn advised<T>(result: Result<T, InspectError>) -> anyhow::Result<T> {
    let advice = match &result {
        Ok(_) => "",
        Err(InspectError::NoStore { .. }) => {
            "name the directory that the node's configuration has as node.dir"
        }
        Err(InspectError::InUse { .. }) => "a store can be looked at only while no node runs on it",
        Err(InspectError::NoLog { .. }) => "`rondel store verify` tries its checksums",
        Err(InspectError::Io { .. }) => "see that this user may read and write the files",
    };
    result.advise(|| advice.into())
}
