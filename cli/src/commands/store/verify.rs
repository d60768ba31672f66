//! `rondel store verify`: whether every checksum is right.

use super::{Target, advised};
use crate::{
    failure::failure,
    output::{Output, Report},
};
use clap::Args;
use rondel_core::store::inspect::{FileKind, FileReport};
use serde::Serialize;
use std::io::{self, Write};

/// What to do if only files of rows are damaged.
const ROWS_ADVICE: &str = "start the node: what it can't read of its rows comes back from the other members; if it can't, \
                           it stays out and says so";
/// What to do if the log is damaged: what only it held can't be told.
const LOG_ADVICE: &str = "put the node's files back as they were when it last ran; if they are lost, keep the node down: \
                          the others serve without it and have what was acknowledged";

/// What to verify.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
}

/// Reports every file, and fails if one is damaged.
pub(crate) fn run(options: &Options, output: Output) -> anyhow::Result<()> {
    let store = options.target.open()?;
    let (mut damaged, mut log_is_damaged, mut closed) = (0_u64, false, Ok(()));
    advised(store.verify(|report| {
        damaged += u64::from(!report.is_sound());
        log_is_damaged |= !report.is_sound() && matches!(report.kind, FileKind::Log | FileKind::SpareLog);
        if closed.is_ok() {
            closed = output.report(&Line::of(&report));
        }
    }))?;
    closed?;
    if damaged > 0 {
        let what = match damaged {
            1 => "1 file of the store is damaged".to_owned(),
            more => format!("{more} files of the store are damaged"),
        };
        return Err(failure(what, if log_is_damaged { LOG_ADVICE } else { ROWS_ADVICE }));
    }
    Ok(())
}

/// One file.
#[derive(Serialize)]
struct Line {
    file: String,
    kind: &'static str,
    bytes: u64,
    checked: u64,
    sound: bool,
    findings: Vec<String>,
    more_findings: u64,
}

impl Line {
    fn of(report: &FileReport) -> Self {
        Self {
            file: report.path.display().to_string(),
            kind: match report.kind {
                FileKind::Log => "log",
                FileKind::SpareLog => "spare log",
                FileKind::Values => "values",
                FileKind::Rows => "rows",
            },
            bytes: report.bytes,
            checked: report.checked,
            sound: report.is_sound(),
            findings: report.findings.clone(),
            more_findings: report.more_findings,
        }
    }
}

impl Report for Line {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let state = if self.sound { "sound" } else { "DAMAGED" };
        let what = if self.kind == "rows" { "rows" } else { "records" };
        if self.kind == "values" && self.sound {
            // They are counted with their rows.
            return writeln!(out, "{}: sound, values of rows in {} bytes", self.file, self.bytes);
        }
        writeln!(
            out,
            "{}: {state}, {} {what} in {} bytes ({})",
            self.file, self.checked, self.bytes, self.kind
        )?;
        for finding in &self.findings {
            writeln!(out, "  {finding}")?;
        }
        if self.more_findings > 0 {
            writeln!(out, "  and {} more", self.more_findings)?;
        }
        Ok(())
    }
}
