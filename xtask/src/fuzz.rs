//! Runs the fuzz targets of `proto/fuzz`, one per decoder, each for a bounded time.
//!
//! They need a nightly compiler and cargo-fuzz, so they are not part of the gate.

use crate::cargo::{root, run as run_cargo};
use anyhow::{Context, bail};
use clap::Args;
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

/// What to fuzz, and for how long.
#[derive(Args)]
pub(crate) struct Options {
    /// The target to run; all of them if none is given
    target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Fuzzes; the first crash ends the run.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let fuzz = root()?.join("proto/fuzz");
    let known = targets(&fuzz)?;
    let chosen = choose(&known, options.target.as_deref())?;
    require_cargo_fuzz()?;
    for target in chosen {
        let mut command = Command::new("cargo");
        command.args(["+nightly", "fuzz", "run", "--fuzz-dir"]).arg(&fuzz).arg(target);
        command.args(["--", &format!("-max_total_time={}", options.seconds)]).current_dir(root()?);
        run_cargo(command)?;
    }
    Ok(())
}

fn targets(fuzz: &Path) -> anyhow::Result<Vec<String>> {
    let folder = fuzz.join("fuzz_targets");
    let mut names = Vec::new();
    for entry in
        fs::read_dir(&folder).with_context(|| format!("there are no fuzz targets in {}", folder.display()))?
    {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

fn choose<'a>(known: &'a [String], wanted: Option<&str>) -> anyhow::Result<Vec<&'a str>> {
    let Some(wanted) = wanted else { return Ok(known.iter().map(String::as_str).collect()) };
    match known.iter().find(|name| *name == wanted) {
        Some(name) => Ok(vec![name]),
        None => bail!("there is no fuzz target `{wanted}`; the targets are {}", known.join(", ")),
    }
}

fn require_cargo_fuzz() -> anyhow::Result<()> {
    let found = Command::new("cargo")
        .args(["+nightly", "fuzz", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        bail!(
            "fuzzing needs a nightly compiler and cargo-fuzz: `rustup toolchain install nightly && cargo install cargo-fuzz`"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_files_of_the_folder_in_order() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("fuzz_targets")).unwrap();
        for name in ["hello.rs", "frame.rs", "notes.md"] {
            fs::write(folder.path().join("fuzz_targets").join(name), "").unwrap();
        }
        assert_eq!(targets(folder.path()).unwrap(), ["frame", "hello"]);
    }

    #[test]
    fn an_unknown_target_is_refused_with_the_known_ones() {
        let known = ["frame".to_string(), "hello".to_string()];
        assert_eq!(choose(&known, Some("hello")).unwrap(), ["hello"]);
        let error = choose(&known, Some("helo")).unwrap_err().to_string();
        assert!(error.contains("`helo`") && error.contains("frame, hello"), "{error}");
    }
}
