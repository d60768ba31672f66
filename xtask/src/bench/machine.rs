//! What figures were measured on, and with: without it they say little.

use super::{clock, process::labelled, spread::three_digits};
use crate::cargo::root;
use anyhow::{Context, bail};
use std::{
    fs::{self, File},
    io::{self, Seek as _, SeekFrom, Write as _},
    path::Path,
    process::Command,
    thread,
};

/// Syncs that are timed.
const SYNCS: usize = 201;
/// What each of them makes durable.
const SYNC_BYTES: usize = 4096;

/// A file as large as the memory, all hole: read, it fills whatever memory nobody uses.
///
/// So it is on a machine that has been up for a while. Of memory that is free, a virtual machine's host may have taken the
/// pages back: the first to touch one waits until it is there again (11 µs where this was written), and only what grows
/// pays for that.
pub(crate) struct PageCache(File);

impl PageCache {
    /// Makes the file in a folder, to be gone with this.
    ///
    /// # Errors
    /// The folder can't be written to, or this system has no `/proc`.
    pub(crate) fn new(folder: &Path) -> anyhow::Result<Self> {
        let file =
            tempfile::tempfile_in(folder).with_context(|| format!("cannot write to {}", folder.display()))?;
        file.set_len(memory_kib()? << 10).context("cannot make a file as large as the memory")?;
        Ok(Self(file))
    }

    /// Fills what has become free since.
    ///
    /// # Errors
    /// The file can't be read.
    pub(crate) fn fill(&mut self) -> anyhow::Result<()> {
        self.0.seek(SeekFrom::Start(0))?;
        io::copy(&mut io::BufReader::with_capacity(1 << 20, &self.0), &mut io::sink())
            .context("cannot read the hole")?;
        Ok(())
    }
}

fn read(path: &str) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

fn memory_kib() -> anyhow::Result<u64> {
    labelled(&read("/proc/meminfo")?, "MemTotal:").context("no MemTotal in /proc/meminfo")
}

/// The machine, in a line: processors, memory, kernel, and the disk under `folder`.
///
/// # Errors
/// The folder can't be written to, or this system has no `/proc`.
pub(crate) fn describe(folder: &Path) -> anyhow::Result<String> {
    let processors = thread::available_parallelism()?;
    let model = model(&read("/proc/cpuinfo")?).unwrap_or_else(|| "unknown processor".into());
    let memory_gib = memory_kib()?.div_ceil(1 << 20);
    let kernel = read("/proc/sys/kernel/osrelease")?;
    let folder = fs::canonicalize(folder).with_context(|| format!("cannot resolve {}", folder.display()))?;
    let disk = disk(&read("/proc/self/mounts")?, &folder).unwrap_or_else(|| "unknown disk".into());
    let sync_us = three_digits(sync_us(&folder)?);
    Ok(format!(
        "{processors} x {model}, {memory_gib} GiB, Linux {}, {disk}, median fdatasync of 4 KiB {sync_us} µs",
        kernel.trim()
    ))
}

/// The commit that the figures are of; `-dirty` if the tree differs from it.
pub(crate) fn commit() -> anyhow::Result<String> {
    let output = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"])
        .current_dir(root()?)
        .output()
        .context("cannot run git")?;
    if !output.status.success() {
        bail!("git does not know this commit: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Today, as the calendar of UTC has it.
pub(crate) fn today() -> String {
    date(clock::unix_time().as_secs() / 86_400)
}

/// The date so many days after 1970-01-01. [Hinnant, chrono-compatible low-level date algorithms, civil_from_days]
fn date(days: u64) -> String {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}

fn model(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The file system of a folder: that of the longest mount point above it, the last of several mounts there.
fn disk(mounts: &str, folder: &Path) -> Option<String> {
    let above = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (device, point, kind) = (fields.next()?, fields.next()?, fields.next()?);
        folder.starts_with(point).then_some((point.len(), device, kind))
    });
    let (_, device, kind) = above.max_by_key(|(length, ..)| *length)?;
    Some(format!("{kind} on {device}"))
}

/// What the disk alone takes for a small durable write that does not change the file's length.
fn sync_us(folder: &Path) -> anyhow::Result<f64> {
    let mut file =
        tempfile::tempfile_in(folder).with_context(|| format!("cannot write to {}", folder.display()))?;
    let mut took_us = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let began = clock::now();
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&[1; SYNC_BYTES])?;
        file.sync_data()?;
        took_us.push(began.elapsed().as_secs_f64() * 1e6);
    }
    took_us.sort_by(f64::total_cmp);
    Ok(took_us[SYNCS / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_dates() {
        let dates = [0, 59, 789, 11_016, 20_777, 47_540].map(date);
        assert_eq!(
            dates,
            ["1970-01-01", "1970-03-01", "1972-02-29", "2000-02-29", "2026-11-20", "2100-02-28"]
        );
    }

    #[test]
    fn the_disk_is_that_of_the_nearest_mount() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmp xfs rw 0 0\n/dev/c /tm btrfs rw 0 0\n";
        let of = |folder| disk(mounts, Path::new(folder)).unwrap();
        assert_eq!(
            (of("/tmp/x"), of("/home"), of("/tmpx")),
            ("xfs on /dev/b".into(), "ext4 on /dev/a".into(), "ext4 on /dev/a".into())
        );
        assert_eq!(disk("", Path::new("/")), None);
    }

    #[test]
    fn this_machine_describes_itself() {
        let text = describe(&std::env::temp_dir()).unwrap();
        assert!(text.contains(" GiB, Linux ") && text.contains("fdatasync of 4 KiB"), "{text}");
        assert_eq!(model("processor : 0\nmodel name\t: Fast CPU\n").as_deref(), Some("Fast CPU"));
    }
}
