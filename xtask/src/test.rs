//! Every test of the workspace, documentation examples included.

use crate::cargo::{cargo, run as run_cargo};
use clap::Args;
use std::process::Command;

/// What to test.
#[derive(Args, Default)]
pub(crate) struct Options {
    /// Passed to `cargo test`: a filter, `-p PACKAGE`, `-- --nocapture`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Runs the tests.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    run_cargo(command(options)?)
}

/// `cargo test`, over the whole workspace unless the rest names a package.
pub(crate) fn command(options: &Options) -> anyhow::Result<Command> {
    let mut command = cargo(["test", "--locked"])?;
    if !options.names_a_package() {
        command.arg("--workspace");
    }
    command.args(&options.rest);
    Ok(command)
}

impl Options {
    fn names_a_package(&self) -> bool {
        self.rest
            .iter()
            .take_while(|word| *word != "--")
            .any(|word| word.starts_with("-p") || word.starts_with("--package"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(words: &[&str]) -> Options {
        Options { rest: words.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn a_named_package_narrows_the_run() {
        assert!(options(&["-p", "rondel-core"]).names_a_package());
        assert!(options(&["--package=rondel"]).names_a_package());
    }

    #[test]
    fn a_filter_or_a_word_for_the_test_binary_does_not_narrow_the_run() {
        assert!(!options(&["ring::"]).names_a_package());
        assert!(!options(&["--", "-p"]).names_a_package());
    }
}
