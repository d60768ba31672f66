//! What processes have used, as the kernel accounts for it in `/proc`.

use anyhow::Context;
use std::{fs, time::Duration};

/// The kernel's clock ticks in `/proc`: fixed at 100 a second on every architecture that Rondel is built for.
const TICK: Duration = Duration::from_millis(10);
/// The fields of `/proc/PID/stat` after the name in parentheses, counted from 0.
const UTIME: usize = 11;
const STIME: usize = 12;

/// What a process has used since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Time on a processor, in the program and in the kernel for it.
    pub(crate) cpu: Duration,
    /// Bytes that it gave the kernel to write. (What the kernel says it sent to the disk counts whole folios of the page
    /// cache, hundreds of KiB for a small append.)
    pub(crate) written_bytes: u64,
    /// What it holds in memory now.
    pub(crate) resident_bytes: u64,
}

impl Usage {
    /// Of a running process.
    ///
    /// # Errors
    /// It does not run, or belongs to somebody else.
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}: does the process run?"))
        };
        let cpu = cpu_in_stat(&read("stat")?).context("/proc/PID/stat is not as expected")?;
        let written_bytes = labelled(&read("io")?, "wchar:").context("no wchar in /proc/PID/io")?;
        let resident_kib = labelled(&read("status")?, "VmRSS:").context("no VmRSS in /proc/PID/status")?;
        Ok(Self { cpu, written_bytes, resident_bytes: resident_kib << 10 })
    }

    /// Of several processes together.
    ///
    /// # Errors
    /// As [`Usage::of`], of any of them.
    pub(crate) fn of_all(pids: &[u32]) -> anyhow::Result<Self> {
        pids.iter().try_fold(Self::default(), |sum, pid| {
            let Self { cpu, written_bytes, resident_bytes } = Self::of(*pid)?;
            Ok(Self {
                cpu: sum.cpu + cpu,
                written_bytes: sum.written_bytes + written_bytes,
                resident_bytes: sum.resident_bytes + resident_bytes,
            })
        })
    }
}

/// The time that all processors together have not been idle, since the machine's start.
///
/// # Errors
/// This system has no `/proc/stat`.
pub(crate) fn machine_busy() -> anyhow::Result<Duration> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    busy_in_stat(&text).context("/proc/stat is not as expected")
}

fn cpu_in_stat(stat: &str) -> Option<Duration> {
    // The name may hold spaces and parentheses itself.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let user = ticks(fields.nth(UTIME)?)?;
    let system = ticks(fields.nth(STIME - UTIME - 1)?)?;
    Some(user + system)
}

fn busy_in_stat(stat: &str) -> Option<Duration> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields = line.split_ascii_whitespace().map(ticks).collect::<Option<Vec<_>>>()?;
    let [user, nice, system, _idle, _waiting, interrupts, soft_interrupts, ..] = fields[..] else {
        return None;
    };
    Some(user + nice + system + interrupts + soft_interrupts)
}

fn ticks(field: &str) -> Option<Duration> {
    TICK.checked_mul(field.parse().ok()?)
}

/// The number in the line that begins with `label`.
pub(crate) fn labelled(text: &str, label: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(label))?;
    value.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "42 (a) b (c) R 1 42 42 0 -1 4194304 900 0 0 0 150 75 9 9 20 0 4 0 100 1000 200 184467 1";
        assert_eq!(cpu_in_stat(stat), Some(Duration::from_millis(2250)));
        for broken in ["", "42 (a) R 1 2", "42 (a) R 1 2 3 4 5 6 7 8 9 10 x y"] {
            assert_eq!(cpu_in_stat(broken), None, "{broken}");
        }
    }

    #[test]
    fn idle_processors_are_not_busy() {
        let stat = "cpu  100 20 30 9999 9999 4 5 7 0 0\ncpu0 1 1 1 1 1 1 1\n";
        assert_eq!(busy_in_stat(stat), Some(Duration::from_millis(1590)));
        assert_eq!(busy_in_stat("cpu0 1 2 3"), None);
        assert_eq!(busy_in_stat("cpu  1 2 3"), None);
    }

    #[test]
    fn a_labelled_line_gives_its_number() {
        assert_eq!(labelled("Name:\tx\nVmRSS:\t  1234 kB\n", "VmRSS:"), Some(1234));
        assert_eq!(labelled("rchar: 1\nwchar: 4096\n", "wchar:"), Some(4096));
        assert_eq!(labelled("VmRSS: none\n", "VmRSS:"), None);
    }

    #[test]
    fn this_process_has_used_something_and_one_that_is_none_has_not() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.resident_bytes > 0);
        assert!(machine_busy().unwrap() > Duration::ZERO);
        // Above the kernel's greatest id.
        assert!(Usage::of(u32::MAX).unwrap_err().to_string().contains("does the process run?"));
    }
}
