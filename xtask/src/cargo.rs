//! Runs cargo in the workspace's root, showing what is run; a failing command is an error that names it.

use crate::ends::Ends;
use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use std::{
    env,
    ffi::OsString,
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

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
    judge(&shown, command.status().with_context(|| format!("cannot start `{shown}`"))?)
}

/// As [`run`]; but if the command has not ended `within` this time, or the user ends it before, it is killed with all
/// that it has started, and has failed.
pub(crate) async fn run_within(command: Command, within: Duration, ends: &mut Ends) -> anyhow::Result<()> {
    let shown = show(&command);
    println!("\n$ {shown}");
    let mut command = tokio::process::Command::from(command);
    // A group is killed as a whole. Of this one the terminal knows nothing: Ctrl-C comes here alone, and whoever read
    // the terminal would be stopped.
    command.process_group(0).stdin(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("cannot start `{shown}`"))?;
    let group = child.id().context("a process that has just started has an id")?;
    let group = Pid::from_raw(i32::try_from(group).context("a process id beyond the system's range")?);
    #[expect(clippy::disallowed_methods, reason = "a development task runs in the real world")]
    let too_late = tokio::time::sleep(within);
    let why = tokio::select! {
        ended = child.wait() => return judge(&shown, ended.context("cannot await it")?),
        () = too_late => format!("did not end within {within:?}, which is all the time it is given"),
        () = ends.next() => "was ended by the user".to_owned(),
    };
    killpg(group, Signal::SIGKILL).with_context(|| format!("`{shown}` {why}, and can't be killed"))?;
    child.wait().await.context("cannot await what was killed")?;
    bail!("`{shown}` {why}")
}

fn judge(shown: &str, status: ExitStatus) -> anyhow::Result<()> {
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
    use std::{
        io::Read as _,
        os::{fd::OwnedFd, unix::net::UnixStream},
    };

    /// Runs a script within a time; whether none of its processes is left.
    fn run_script(script: &str, within: Duration) -> (anyhow::Result<()>, bool) {
        let (mut held_by_none, held) = UnixStream::pair().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(OwnedFd::from(held));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let done =
            runtime.block_on(async { run_within(command, within, &mut Ends::listen().unwrap()).await });
        held_by_none.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let all_ended = held_by_none.read(&mut [0]).is_ok_and(|bytes| bytes == 0);
        (done, all_ended)
    }

    #[test]
    fn a_command_that_hangs_is_killed_with_all_that_it_has_started_and_named_with_its_time() {
        let (done, all_ended) = run_script("sleep 600 & sleep 600", Duration::from_millis(100));
        let error = done.unwrap_err().to_string();
        assert!(error.contains("sleep 600 & sleep 600") && error.contains("100ms"), "{error}");
        assert!(all_ended);
    }

    #[test]
    fn a_command_that_ends_in_time_has_done_well_or_failed_as_it_says() {
        let within = Duration::from_secs(600);
        run_script("exit 0", within).0.unwrap();
        let error = run_script("exit 3", within).0.unwrap_err().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
    }

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
