//! Rondel's development tasks: one command for each thing that a developer or the CI machine does.
//!
//! `cargo xtask ci` is the gate, the same everywhere; `cargo xtask fix` is the only task that changes code.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool that talks to its user")]

mod bench;
mod cargo;
mod ci;
mod doc;
mod ends;
mod fix;
mod fuzz;
mod sim;
mod test;
mod tidy;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Rondel's development tasks", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// The gate: format, lints, tidy, documentation, tests, simulation
    Ci,
    /// Format, and apply what clippy can repair (the only task that changes code)
    Fix,
    /// Check the architecture's invariants and the house rules
    Tidy,
    /// Run every test of the workspace
    Test(test::Options),
    /// Build the documentation; a warning is an error
    Doc(doc::Options),
    /// Measure what an operation costs, on a cluster of real processes, and write it into docs/benchmarks.md
    Bench(bench::Options),
    /// Simulate clusters of the key-value store under faults
    Sim(sim::Options),
    /// Try the decoders on hostile bytes
    Fuzz(fuzz::Options),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Ci => ci::run(),
        Task::Fix => fix::run(),
        Task::Tidy => tidy::run(),
        Task::Test(options) => test::run(&options),
        Task::Doc(options) => doc::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Sim(options) => sim::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
