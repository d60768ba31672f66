//! The command line: what every command shares, and the list of commands. Each command's own flags are beside it.

use crate::{
    commands::{bench, config, dev, kv, start, status, store},
    output::Format,
};
use clap::{Parser, Subcommand};
use std::ffi::OsString;

/// A Dynamo-style cluster and its Riak-compatible store, in one binary.
#[derive(Parser, Debug)]
#[command(name = "rondel", version, max_term_width = 110, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    /// How to write reports and errors
    #[arg(long, global = true, value_enum, default_value_t, env = "RONDEL_FORMAT")]
    pub(crate) format: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run one node until it is told to stop
    Start(Box<start::Options>),
    /// Run a local cluster of real processes until Ctrl-C, or steer one that runs
    Dev(dev::Options),
    /// Show the cluster as one of its nodes sees it
    Status(status::Options),
    /// Read and write the key-value store
    #[command(subcommand)]
    Kv(kv::Command),
    /// Look at the files of a node that does not run
    #[command(subcommand)]
    Store(store::Command),
    /// Measure a cluster: throughput, latency and errors of gets and puts
    Bench(bench::BenchArgs),
    /// Check, show or describe the configuration of a node
    #[command(subcommand)]
    Config(config::Command),
}

/// The format that a command line asks for, found even if the rest of it does not parse.
pub(crate) fn format_of(words: &[OsString]) -> Format {
    let word = |index: usize| words.get(index).and_then(|word| word.to_str());
    let asked = (0..words.len()).find_map(|index| match word(index)? {
        "--format" => word(index + 1),
        other => other.strip_prefix("--format="),
    });
    match asked {
        Some("json") => Format::Json,
        Some(_) => Format::Text,
        None if std::env::var("RONDEL_FORMAT").is_ok_and(|format| format == "json") => Format::Json,
        None => Format::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_format_is_found_in_a_command_line_that_does_not_parse() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(format_of(&words("rondel --format json nonsense")), Format::Json);
        assert_eq!(format_of(&words("rondel nonsense --format=json")), Format::Json);
        assert_eq!(format_of(&words("rondel nonsense --format text")), Format::Text);
    }
}
