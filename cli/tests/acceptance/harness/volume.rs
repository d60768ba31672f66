//! A disk of its own for a folder, which can fail as real ones do.
//!
//! It is an image of ext4, mounted in the mount namespace of the processes that use it: it goes when they end, however
//! they end.

use std::{
    env,
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

/// Far more than a test writes; it takes what is written only.
const IMAGE_BYTES: u64 = 1 << 30;

/// An image, and the folder in whose place it stands.
pub(crate) struct Volume {
    image: PathBuf,
    at: PathBuf,
}

impl Volume {
    /// One that holds what a folder holds; none, with a word about it, if this user may not mount one.
    pub(crate) fn of(folder: &Path, image: PathBuf) -> Option<Self> {
        File::create(&image).unwrap().set_len(IMAGE_BYTES).unwrap();
        let volume = Self { image, at: folder.to_owned() };
        let mut make = Command::new("mkfs.ext4");
        make.args(["-q", "-d"]).arg(folder).arg(&volume.image);
        let possible = |command: &mut Command| command.output().is_ok_and(|tried| tried.status.success());
        if possible(&mut make) && possible(&mut volume.within(&Command::new("true"))) {
            return Some(volume);
        }
        skipped_without_mounts(
            "this user may not mount a disk image (mkfs.ext4, unshare --mount, mount -o loop)",
        );
        None
    }

    /// The same command, with the disk in place of the folder.
    pub(crate) fn within(&self, command: &Command) -> Command {
        let mut within = Command::new("unshare");
        within.args(["--mount", "sh", "-ec", "mount -o \"$1\" \"$2\" \"$3\"; shift 3; exec \"$@\"", "sh"]);
        within.arg(OPTIONS).args([&self.image, &self.at]).arg(command.get_program()).args(command.get_args());
        within
    }

    /// Lets the file system under a process find an error in itself, and take no more writes from then on.
    #[track_caller]
    pub(crate) fn turns_read_only(&self, process: u32) {
        let fail = "disk=$(findmnt --noheadings --output SOURCE \"$1\"); \
                    echo 'a test' > \"/sys/fs/ext4/${disk#/dev/}/trigger_fs_error\"; ! touch \"$1/touched\"";
        self.run(process, fail);
    }

    /// Checks the file system, which no process uses, and mounts it again.
    #[track_caller]
    pub(crate) fn is_repaired(&self, process: u32) {
        // 1: errors were found, and corrected.
        let repair = "umount \"$1\"; e2fsck -f -y \"$2\" || test $? = 1; mount -o \"$3\" \"$2\" \"$1\"";
        self.run(process, repair);
    }

    #[track_caller]
    fn run(&self, process: u32, script: &str) {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &process.to_string(), "sh", "-ec", script, "sh"]);
        let ran = command.args([&self.at, &self.image]).arg(OPTIONS).output().unwrap();
        assert!(ran.status.success(), "{ran:?}");
    }
}

/// As servers mount their disks.
const OPTIONS: &str = "loop,errors=remount-ro";

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
