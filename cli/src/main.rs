//! Rondel's one binary: a node, a local cluster, a client, a bench.
//!
//! It is the only part of the project that prints, reads the environment, listens for clients or ends the process. The
//! exit code is 0 if all went well, 1 if something failed, 2 if the command line was wrong.

#![forbid(unsafe_code)]

mod admin_api;
mod admin_client;
mod args;
mod commands;
mod config;
mod failure;
mod files;
mod logging;
mod output;
mod pb_client;
mod rt;
mod serve;
mod targets;

use args::{Arguments, format_of};
use clap::Parser;
use output::Output;
use std::{env, io, process::ExitCode};

/// A node lives on small messages that one thread allocates and another frees.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let words = env::args_os().collect::<Vec<_>>();
    let arguments = match Arguments::try_parse_from(&words) {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() => {
            Output::new(format_of(&words)).usage_error(&error);
            return ExitCode::from(2);
        }
        // Help and version are what was asked for; a closed standard output is no failure either.
        Err(help) => {
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    let output = Output::new(arguments.format);
    match commands::run(arguments.command, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error);
            ExitCode::FAILURE
        }
    }
}

/// Whether the reader of our output has seen enough, as `head` does.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    kind == Some(io::ErrorKind::BrokenPipe)
}
