//! Tries the decoders of rondel-proto on hostile bytes, each for a bounded time.
//!
//! Without options it needs nothing but this workspace: damaged copies of valid inputs, from a printed seed. With
//! `--coverage` the same laws run under cargo-fuzz (`proto/fuzz`), which finds its way deeper and needs a nightly
//! compiler. An input that breaks a law is kept in `proto/fuzz/artifacts`, and `--replay` tries it again.

use crate::cargo::{root, run as run_cargo};
use anyhow::{Context, bail};
use clap::Args;
use rondel_proto::fuzzing::{Inputs, TARGETS, Target};
use std::{
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Inputs between two looks at the clock.
const ROUND: usize = 256;

/// What to fuzz, and for how long.
#[derive(Args)]
pub(crate) struct Options {
    /// The target to run; all of them if none is given
    target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// The seed of the inputs; drawn and printed if none is given
    #[arg(long, conflicts_with = "coverage")]
    seed: Option<u64>,
    /// Try one kept input again
    #[arg(long, requires = "target", conflicts_with_all = ["coverage", "seed"])]
    replay: Option<PathBuf>,
    /// Run under cargo-fuzz, guided by coverage
    #[arg(long)]
    coverage: bool,
}

/// Fuzzes; the first broken law ends the run.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let chosen = choose(options.target.as_deref())?;
    if let (Some(path), [target]) = (&options.replay, &chosen[..]) {
        (target.run)(&fs::read(path).with_context(|| format!("can't read {}", path.display()))?);
        println!("{}: this input breaks no law", target.name);
        return Ok(());
    }
    if options.coverage {
        require_cargo_fuzz()?;
    }
    let seed = options.seed.map_or_else(draw_seed, Ok)?;
    for target in chosen {
        if options.coverage {
            run_engine(target, options.seconds)?
        } else {
            damage(target, seed, options.seconds)?
        }
    }
    Ok(())
}

fn choose(wanted: Option<&str>) -> anyhow::Result<Vec<Target>> {
    let Some(wanted) = wanted else { return Ok(TARGETS.to_vec()) };
    match TARGETS.iter().find(|target| target.name == wanted) {
        Some(target) => Ok(vec![*target]),
        None => {
            bail!(
                "there is no fuzz target `{wanted}`; the targets are {}",
                TARGETS.map(|target| target.name).join(", ")
            )
        }
    }
}

fn draw_seed() -> anyhow::Result<u64> {
    #[expect(clippy::disallowed_methods, reason = "a development task runs in the real world")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(now.as_secs())
}

fn damage(target: Target, seed: u64, seconds: u32) -> anyhow::Result<()> {
    println!("{}: {seconds} s from seed {seed}", target.name);
    #[expect(clippy::disallowed_methods, reason = "a development task runs in the real world")]
    let now = std::time::Instant::now;
    let end = now() + Duration::from_secs(seconds.into());
    let (mut inputs, mut tried) = (Inputs::new((target.seeds)(), seed), 0);
    while now() < end {
        for input in inputs.by_ref().take(ROUND) {
            if catch_unwind(|| (target.run)(&input)).is_err() {
                let kept = keep(&root()?, target.name, &input)?;
                bail!(
                    "{} breaks a law on {}; try it again with `cargo xtask fuzz {} --replay {}`",
                    target.name,
                    kept.display(),
                    target.name,
                    kept.display()
                );
            }
            tried += 1;
        }
    }
    println!("{}: {tried} inputs, no law broken", target.name);
    Ok(())
}

fn keep(root: &Path, target: &str, input: &[u8]) -> anyhow::Result<PathBuf> {
    let folder = root.join("proto/fuzz/artifacts").join(target);
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("broken-{}", blake3::hash(input).to_hex().get(..16).unwrap_or_default()));
    fs::write(&path, input)?;
    Ok(path)
}

fn run_engine(target: Target, seconds: u32) -> anyhow::Result<()> {
    let root = root()?;
    let mut command = Command::new("cargo");
    command.args(["+nightly", "fuzz", "run", "--fuzz-dir"]).arg(root.join("proto/fuzz")).arg(target.name);
    command.args(["--", &format!("-max_total_time={seconds}")]).current_dir(root);
    run_cargo(command)
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
            "--coverage needs a nightly compiler and cargo-fuzz: `rustup toolchain install nightly && cargo install cargo-fuzz`"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lawless(input: &[u8]) {
        assert!(input.len() < 40, "too long");
    }

    #[test]
    fn an_unknown_target_is_refused_with_the_known_ones() {
        assert_eq!(choose(Some("hello")).unwrap()[0].name, "hello");
        assert_eq!(choose(None).unwrap().len(), TARGETS.len());
        let error = choose(Some("helo")).unwrap_err().to_string();
        assert!(error.contains("`helo`") && error.contains("frame, hello"), "{error}");
    }

    #[test]
    fn an_input_that_breaks_a_law_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut inputs = Inputs::new(vec![vec![0; 20]], 1);
        let broken = inputs.find(|input| catch_unwind(|| lawless(input)).is_err()).expect("some are longer");
        let kept = keep(folder.path(), "frame", &broken).unwrap();
        assert_eq!(fs::read(kept).unwrap(), broken);
    }
}
