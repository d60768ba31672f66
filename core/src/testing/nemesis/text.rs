//! Schedules as text: a line for each fault, `at` and `lasts` in milliseconds, then its kind and numbers.

use super::{CrashMode, Fault, FaultKind, Schedule, Spoil};
use std::{fmt, str::FromStr, time::Duration};

/// A line that is no fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no fault: expected `<at ms> +<lasts ms> <kind> <numbers>`, as a failing run prints it")]
pub struct BadSchedule(String);

impl fmt::Display for Schedule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|fault| writeln!(out, "{fault}"))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:>6} +{:<6} {}", self.at.as_millis(), self.lasts.as_millis(), self.kind)
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Isolate { node } => write!(out, "isolate {node}"),
            Self::Halves { left } => write!(out, "halves{}", Numbers(left)),
            Self::OneWay { from, to } => write!(out, "one-way {from} {to}"),
            Self::Bridge { node, left } => write!(out, "bridge {node}{}", Numbers(left)),
            Self::Flap { from, to, up_ms, down_ms } => write!(out, "flap {from} {to} {up_ms} {down_ms}"),
            Self::Weather { loss, doubled, late, late_ms } => {
                write!(out, "weather {loss} {doubled} {late} {late_ms}")
            }
            Self::Kill { node } => write!(out, "kill {node}"),
            Self::Crash { node, mode } => write!(out, "crash {node} {}", number_of(*mode)),
            Self::PowerCut { node, operations, mode } => {
                write!(out, "power-cut {node} {operations} {}", number_of(*mode))
            }
            Self::Blackout { mode } => write!(out, "blackout {}", number_of(*mode)),
            Self::Pause { node } => write!(out, "pause {node}"),
            Self::Clock { node, skew_ms } => write!(out, "clock {node} {skew_ms}"),
            Self::Full { node } => write!(out, "full {node}"),
            Self::Slow { node, factor } => write!(out, "slow {node} {factor}"),
            Self::ReadErrors { node, chance } => write!(out, "read-errors {node} {chance}"),
            Self::WriteErrors { node, chance } => write!(out, "write-errors {node} {chance}"),
            Self::Rot { node, bits } => write!(out, "rot {node} {bits}"),
            Self::RotItems { node, items } => write!(out, "rot-items {node} {items}"),
            Self::LoseFile { node, file, how } => {
                let how = Spoil::ALL.iter().position(|one| one == how).unwrap_or_default();
                write!(out, "lose-file {node} {file} {how}")
            }
            Self::Wipe { node } => write!(out, "wipe {node}"),
            Self::RollBack { node } => write!(out, "roll-back {node}"),
            Self::Copy { node } => write!(out, "copy {node}"),
        }
    }
}

struct Numbers<'a>(&'a [u32]);

impl fmt::Display for Numbers<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|number| write!(out, " {number}"))
    }
}

impl FromStr for Schedule {
    type Err = BadSchedule;

    /// Empty lines, and those that begin with `#`, say nothing.
    fn from_str(text: &str) -> Result<Self, BadSchedule> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Fault {
    type Err = BadSchedule;

    fn from_str(line: &str) -> Result<Self, BadSchedule> {
        parse(line).ok_or_else(|| BadSchedule(line.to_owned()))
    }
}

fn parse(line: &str) -> Option<Fault> {
    let mut words = line.split_whitespace();
    let at = Duration::from_millis(words.next()?.parse().ok()?);
    let lasts = Duration::from_millis(words.next()?.strip_prefix('+')?.parse().ok()?);
    let name = words.next()?;
    let numbers: Vec<i64> = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
    Some(Fault { at, lasts, kind: kind(name, &numbers)? })
}

fn kind(name: &str, numbers: &[i64]) -> Option<FaultKind> {
    let small = |number: i64| u32::try_from(number).ok();
    let nodes = |numbers: &[i64]| numbers.iter().map(|number| small(*number)).collect::<Option<Vec<_>>>();
    Some(match (name, numbers) {
        ("isolate", &[node]) => FaultKind::Isolate { node: small(node)? },
        ("halves", left) => FaultKind::Halves { left: nodes(left)? },
        ("one-way", &[from, to]) => FaultKind::OneWay { from: small(from)?, to: small(to)? },
        ("bridge", [node, left @ ..]) => FaultKind::Bridge { node: small(*node)?, left: nodes(left)? },
        ("flap", &[from, to, up, down]) if up + down > 0 => {
            FaultKind::Flap { from: small(from)?, to: small(to)?, up_ms: small(up)?, down_ms: small(down)? }
        }
        ("weather", &[loss, doubled, late, late_ms]) => FaultKind::Weather {
            loss: small(loss)?,
            doubled: small(doubled)?,
            late: small(late)?,
            late_ms: small(late_ms)?,
        },
        ("kill", &[node]) => FaultKind::Kill { node: small(node)? },
        ("crash", &[node, mode]) => FaultKind::Crash { node: small(node)?, mode: mode_of(mode)? },
        ("power-cut", &[node, operations, mode]) => FaultKind::PowerCut {
            node: small(node)?,
            operations: u64::try_from(operations).ok()?,
            mode: mode_of(mode)?,
        },
        ("blackout", &[mode]) => FaultKind::Blackout { mode: mode_of(mode)? },
        ("pause", &[node]) => FaultKind::Pause { node: small(node)? },
        ("clock", &[node, skew_ms]) => FaultKind::Clock { node: small(node)?, skew_ms },
        ("full", &[node]) => FaultKind::Full { node: small(node)? },
        ("slow", &[node, factor]) => FaultKind::Slow { node: small(node)?, factor: small(factor)? },
        ("read-errors", &[node, chance]) => {
            FaultKind::ReadErrors { node: small(node)?, chance: small(chance)? }
        }
        ("write-errors", &[node, chance]) => {
            FaultKind::WriteErrors { node: small(node)?, chance: small(chance)? }
        }
        ("rot", &[node, bits]) => FaultKind::Rot { node: small(node)?, bits: small(bits)? },
        ("rot-items", &[node, items]) => FaultKind::RotItems { node: small(node)?, items: small(items)? },
        ("lose-file", &[node, file, how]) => FaultKind::LoseFile {
            node: small(node)?,
            file: small(file)?,
            how: *Spoil::ALL.get(usize::try_from(how).ok()?)?,
        },
        ("wipe", &[node]) => FaultKind::Wipe { node: small(node)? },
        ("roll-back", &[node]) => FaultKind::RollBack { node: small(node)? },
        ("copy", &[node]) => FaultKind::Copy { node: small(node)? },
        _ => return None,
    })
}

/// A crash mode as its place in [`CrashMode::ALL`].
fn number_of(mode: CrashMode) -> usize {
    CrashMode::ALL.iter().position(|one| *one == mode).unwrap_or_default()
}

fn mode_of(number: i64) -> Option<CrashMode> {
    CrashMode::ALL.get(usize::try_from(number).ok()?).copied()
}

#[cfg(test)]
mod tests {
    use super::super::Draw;
    use super::*;
    use crate::env::Rng;

    #[test]
    fn what_is_printed_can_be_read_back() {
        for seed in 0..200 {
            let drawn = Draw::new(2 + u32::try_from(seed % 6).unwrap()).schedule(&mut Rng::from_seed(seed));
            assert_eq!(drawn.to_string().parse(), Ok(drawn));
        }
        for line in ["   100 +50     rot-items 2 9", "   100 +50     lose-file 2 1 2"] {
            assert_eq!(line.parse::<Fault>().map(|fault| fault.to_string()), Ok(line.to_owned()));
        }
    }

    #[test]
    fn a_line_that_is_no_fault_is_named() {
        let error = "10 +5 kill 1\n# a remark\n\n20 +5 killl 1".parse::<Schedule>().unwrap_err();
        assert_eq!(error, BadSchedule("20 +5 killl 1".into()));
        for line in [
            "",
            "5",
            "5 +5",
            "5 5 kill 1",
            "5 +5 kill -1",
            "5 +5 crash 1 9",
            "5 +5 lose-file 1 1 3",
            "5 +5 flap 1 2 0 0",
        ] {
            assert!(line.parse::<Fault>().is_err(), "{line}");
        }
    }
}
