//! Runs cargo in the workspace's root, showing what is run; a failing command is an error that names it.

use anyhow::{Context, bail};
use std::{env, ffi::OsString, path::PathBuf, process::Command};

/// The workspace's root folder.
pub(crate) fn root() -> anyhow::Result<PathBuf> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(PathBuf::from).context("xtask's folder has no parent")
}

/// `cargo` with these arguments, by the same toolchain that runs this task.
pub(crate) fn cargo<const N: usize>(arguments: [&str; N]) -> anyhow::Result<Command> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.args(arguments).current_dir(root()?);
    Ok(command)
}

/// Shows the command, runs it, and fails if it fails.
pub(crate) fn run(mut command: Command) -> anyhow::Result<()> {
    let shown = show(&command);
    println!("\n$ {shown}");
    let status = command.status().with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

fn show(command: &Command) -> String {
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| {
            Some(format!("{}={:?} ", name.to_string_lossy(), value?.to_string_lossy()))
        })
        .collect::<String>();
    let arguments = command.get_args().map(|word| format!(" {}", word.to_string_lossy())).collect::<String>();
    format!("{variables}cargo{arguments}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_is_an_error_that_names_it() {
        let error = run(cargo(["no-such-subcommand-of-cargo"]).unwrap()).unwrap_err();
        assert!(error.to_string().contains("cargo no-such-subcommand-of-cargo"), "{error}");
    }

    #[test]
    fn the_root_is_the_folder_of_the_workspace() {
        let manifest = std::fs::read_to_string(root().unwrap().join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[workspace]"));
    }
}
