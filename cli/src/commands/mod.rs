//! The subcommands, one file or folder each.

pub(crate) mod bench;
pub(crate) mod config;
pub(crate) mod dev;
pub(crate) mod kv;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod store;

use crate::{args::Command, output::Output};

/// Runs what the user asked for.
pub(crate) fn run(command: Command, output: Output) -> anyhow::Result<()> {
    match command {
        Command::Bench(args) => bench::run(args, output),
        Command::Config(command) => config::run(command, output),
        Command::Dev(options) => dev::run(options, output),
        Command::Kv(command) => kv::run(command, output),
        Command::Start(options) => start::run(&options),
        Command::Status(options) => status::run(&options, output),
        Command::Store(command) => store::run(command, output),
    }
}
