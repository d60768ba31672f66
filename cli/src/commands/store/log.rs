//! `rondel store log`: what a start would read from the log.

use super::{Target, advised};
use crate::output::{Output, Report};
use base64::{Engine, prelude::BASE64_STANDARD};
use clap::Args;
use rondel_core::store::{
    RowKey,
    inspect::{LogRecord, LogSummary, Recorded},
};
use serde::Serialize;
use std::{
    io::{self, Write},
    ops::ControlFlow,
    path::Path,
};

/// What to show.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// The first batch to show
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many records to show at most
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    limit: u64,
}

/// Shows the records, one line each, and in the end what they amount to.
pub(crate) fn run(options: &Options, output: Output) -> anyhow::Result<()> {
    let store = options.target.open()?;
    let (mut left, mut failed) = (options.limit, None);
    let summary = store.log(|record| {
        if record.number < options.from {
            return ControlFlow::Continue(());
        }
        let Some(still) = left.checked_sub(1) else { return ControlFlow::Break(()) };
        left = still;
        match output.report(&Line::of(&record)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    if let Some(error) = failed {
        return Err(error.into());
    }
    let summary = advised(summary)?;
    if left > 0 {
        output.report(&End::of(&summary))?;
    }
    Ok(())
}

/// One record.
#[derive(Serialize)]
struct Line {
    lsn: u64,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<String>,
    /// As text, other bytes escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    durable: Option<u64>,
    segment: String,
    offset: u64,
}

impl Line {
    fn of(record: &LogRecord) -> Self {
        let (kind, at, value_bytes, durable) = match &record.recorded {
            Recorded::Put { at, value_bytes } => ("put", at.as_ref(), Some(*value_bytes), None),
            Recorded::Removed { at } => ("removed", at.as_ref(), None, None),
            Recorded::Sealed { durable } => ("seal", None, None, Some(*durable)),
        };
        Self {
            lsn: record.number,
            kind,
            table: at.map(|at| at.table.0),
            position: at.map(|at| at.position.to_string()),
            key: at.map(key_text),
            key_base64: at.map(|at| BASE64_STANDARD.encode(&at.key)),
            value_bytes,
            durable,
            segment: name(&record.segment),
            offset: record.offset,
        }
    }
}

impl Report for Line {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        write!(out, "{:>12} {:<7} {}+{}", self.lsn, self.kind, self.segment, self.offset)?;
        if let (Some(table), Some(position), Some(key)) = (self.table, &self.position, &self.key) {
            write!(out, " {table:08x}/{position}/{key}")?;
        }
        if let Some(bytes) = self.value_bytes {
            write!(out, " = {bytes} bytes")?;
        }
        if let Some(durable) = self.durable {
            write!(out, " durable up to {durable}")?;
        }
        writeln!(out)
    }
}

/// What the log amounts to.
#[derive(Serialize)]
struct End {
    end: Summary,
}

#[derive(Serialize)]
struct Summary {
    segments: u64,
    records: u64,
    last: Option<u64>,
    segment: Option<String>,
    offset: Option<u64>,
    lost_from: Option<u64>,
    lost_durable: Option<u64>,
}

impl End {
    fn of(summary: &LogSummary) -> Self {
        Self {
            end: Summary {
                segments: summary.segments,
                records: summary.records,
                last: summary.last,
                segment: summary.end.as_ref().map(|(path, _)| name(path)),
                offset: summary.end.as_ref().map(|(_, offset)| *offset),
                lost_from: summary.loss.map(|loss| loss.from),
                lost_durable: summary.loss.map(|loss| loss.durable),
            },
        }
    }
}

impl Report for End {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Summary { segments, records, last, segment, offset, lost_from, lost_durable } = &self.end;
        write!(out, "{records} records in {segments} segments")?;
        if let (Some(last), Some(segment), Some(offset)) = (last, segment, offset) {
            write!(out, "; the last whole batch is {last}, before {segment}+{offset}")?;
        }
        writeln!(out)?;
        if let (Some(from), Some(durable)) = (lost_from, lost_durable) {
            writeln!(
                out,
                "batches from {from} on were acknowledged, up to {durable} at least, and can't be read"
            )?;
        }
        Ok(())
    }
}

fn key_text(at: &RowKey) -> String {
    at.key.escape_ascii().to_string()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
