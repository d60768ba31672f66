//! A disk of its own for a folder, which can fail as real ones do.
//!
//! It is an image of ext4, mounted in the mount namespace of the processes that use it: it goes when they end, however
//! they end. That takes a user who may mount, and a kernel that lets a file system fail: another image shows beforehand
//! whether it is possible.

use super::{Running, eventually};
use std::{
    env,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

/// Far more than a test writes; it takes what is written only.
const IMAGE_BYTES: u64 = 1 << 30;
/// Room for a file system with a journal, as the image of a test is one.
const TRIAL_BYTES: u64 = 64 << 20;
/// As servers mount their disks.
const OPTIONS: &str = "loop,errors=remount-ro";

/// An image, and the folder in whose place it stands.
pub(crate) struct Volume {
    image: PathBuf,
    at: PathBuf,
}

impl Volume {
    /// One that holds what a folder holds; none, with a word about it, if it could not do here all that it is for.
    pub(crate) fn of(folder: &Path, image: PathBuf) -> Option<Self> {
        if let Err(why) = Self::is_possible() {
            skipped_without_mounts(&format!("no disk can be mounted, fail and be repaired here: {why}"));
            return None;
        }
        Some(Self::made(folder, image, IMAGE_BYTES).unwrap())
    }

    /// Does with an image of its own all that a test may do; what failed, if anything did.
    fn is_possible() -> Result<(), String> {
        let scratch = tempfile::tempdir().unwrap();
        let at = scratch.path().join("at");
        fs::create_dir(&at).unwrap();
        let volume = Self::made(&at, scratch.path().join("image"), TRIAL_BYTES)?;
        ran("unshare --mount, mount -o loop", &volume.within(&Command::new("true")))?;
        let mut user = Command::new("sh");
        user.args(["-c", "echo mounted; exec cat"]);
        let mut user = Running::spawn(&mut volume.within(&user));
        eventually("a mounted image", || {
            assert!(user.runs(), "{}", user.err());
            user.out().ends_with('\n').then_some(())
        });
        volume.takes_a_write(user.pid())?;
        volume.turns_read_only(user.pid())?;
        volume.is_repaired(user.pid())?;
        volume.takes_a_write(user.pid())
    }

    fn made(folder: &Path, image: PathBuf, bytes: u64) -> Result<Self, String> {
        File::create(&image).unwrap().set_len(bytes).unwrap();
        ran("mkfs.ext4", Command::new("mkfs.ext4").args(["-q", "-d"]).arg(folder).arg(&image))?;
        Ok(Self { image, at: folder.to_owned() })
    }

    /// The same command, with the disk in place of the folder.
    pub(crate) fn within(&self, command: &Command) -> Command {
        let mut within = Command::new("unshare");
        let mount = "timeout \"$1\" mount -o \"$2\" \"$3\" \"$4\"; shift 4; exec \"$@\"";
        within.args(["--mount", "sh", "-ec", mount, "sh", COMMAND_SECONDS, OPTIONS]);
        within.args([&self.image, &self.at]).arg(command.get_program()).args(command.get_args());
        within
    }

    /// Lets the file system under a process find an error in itself, and take no more writes from then on.
    ///
    /// # Errors
    /// What failed, and what it printed.
    pub(crate) fn turns_read_only(&self, process: u32) -> Result<(), String> {
        let disk = self.run(process, "findmnt", "findmnt --noheadings --output SOURCE \"$1\"")?;
        let disk = disk.trim().trim_start_matches("/dev/");
        let fail = format!("echo 'a test' > '/sys/fs/ext4/{disk}/trigger_fs_error'");
        self.run(process, "trigger_fs_error", &fail)?;
        match self.takes_a_write(process) {
            Err(why) if why.contains("Read-only file system") => Ok(()),
            other => Err(format!("after trigger_fs_error the disk is not read-only: {other:?}")),
        }
    }

    /// Checks the file system, which no process uses, and mounts it again.
    ///
    /// # Errors
    /// What failed, and what it printed.
    pub(crate) fn is_repaired(&self, process: u32) -> Result<(), String> {
        self.run(process, "umount", "umount \"$1\"")?;
        // 1: errors were found, and corrected.
        self.run(process, "e2fsck", "e2fsck -f -y \"$2\" || test $? = 1")?;
        self.run(process, "mount after e2fsck", "mount -o \"$3\" \"$2\" \"$1\"")?;
        Ok(())
    }

    fn takes_a_write(&self, process: u32) -> Result<(), String> {
        self.run(process, "a write", "touch \"$1/touched\"").map(drop)
    }

    fn run(&self, process: u32, what: &str, script: &str) -> Result<String, String> {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &process.to_string(), "sh", "-ec", script, "sh"]);
        ran(what, command.args([&self.at, &self.image]).arg(OPTIONS))
    }
}

/// How long a command of the system may take, which may wait for a disk for ever; `timeout` ends it with code 124.
const COMMAND_SECONDS: &str = "60";

/// What a command of the system prints, in English.
///
/// # Errors
/// What failed, and what it printed.
pub(crate) fn ran(what: &str, command: &Command) -> Result<String, String> {
    // The shell says it if there is no such command.
    let mut bounded = Command::new("sh");
    bounded.args(["-c", "exec timeout -k 5 \"$@\"", "sh", COMMAND_SECONDS]).arg(command.get_program());
    let ended = Running::spawn(bounded.args(command.get_args()).env("LC_ALL", "C")).ended();
    if ended.code == Some(0) { Ok(ended.out) } else { Err(format!("{what}: {ended:?}")) }
}

/// Says that a test is skipped because this user may not mount what it needs.
///
/// # Panics
/// If `RONDEL_TEST_MOUNTS` is `required`.
#[track_caller]
pub(crate) fn skipped_without_mounts(why: &str) {
    assert_ne!(env::var("RONDEL_TEST_MOUNTS").as_deref(), Ok("required"), "{why}");
    let thread = thread::current();
    // What a macro prints is not shown of a test that passes.
    let line = format!("SKIPPED {}: {why}\n", thread.name().unwrap_or_default());
    io::stderr().write_all(line.as_bytes()).unwrap();
}
