//! What the user sees: reports on standard output, errors on standard error, as text or as JSON.
//!
//! A report is one value that can be written either way. In JSON it is one line, so that every command can feed
//! another program; an error is `{"error": {"message", "advice"}}`.

use crate::failure::advice;
use clap::ValueEnum;
use serde::Serialize;
use serde_json::json;
use std::{
    fmt,
    io::{self, Write},
};

/// How to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Text,
    /// For programs: one JSON value per line
    Json,
}

/// Something that a command has to tell.
pub(crate) trait Report: Serialize {
    /// Writes it for people, each line ended.
    fn text(&self, out: &mut dyn Write) -> io::Result<()>;
}

/// Standard output and standard error in the user's format.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    /// Writes in this format.
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    /// Whether programs read this.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Writes a report to standard output.
    pub(crate) fn report(&self, report: &impl Report) -> io::Result<()> {
        self.write(report, &mut io::stdout().lock())
    }

    /// Tells people how things go, on standard error; programs are not told.
    pub(crate) fn note(&self, text: impl fmt::Display) {
        if !self.is_json() {
            // There is no one left to tell if standard error is closed.
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// Writes an error to standard error.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        let mut text = Vec::new();
        self.write_error(&message(error), advice(error), &mut text);
        let _ = io::stderr().lock().write_all(&text);
    }

    /// Writes an error of the command line itself to standard error.
    pub(crate) fn usage_error(&self, error: &clap::Error) {
        if !self.is_json() {
            let _ = error.print();
            return;
        }
        let text = error.render().to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let mut line = Vec::new();
        self.write_error(message, Some("run the command with --help"), &mut line);
        let _ = io::stderr().lock().write_all(&line);
    }

    fn write(&self, report: &impl Report, out: &mut dyn Write) -> io::Result<()> {
        match self.format {
            Format::Text => report.text(out)?,
            Format::Json => {
                serde_json::to_writer(&mut *out, report)?;
                writeln!(out)?;
            }
        }
        out.flush()
    }

    fn write_error(&self, message: &str, advice: Option<&str>, out: &mut Vec<u8>) {
        let written = match (self.format, advice) {
            (Format::Json, _) => {
                writeln!(out, "{}", json!({ "error": { "message": message, "advice": advice } }))
            }
            (Format::Text, Some(advice)) => writeln!(out, "error: {message}\n  what to do: {advice}"),
            (Format::Text, None) => writeln!(out, "error: {message}"),
        };
        debug_assert!(written.is_ok(), "a vector takes every byte");
    }
}

/// The error with its causes, each said once: many errors quote their cause themselves.
pub(crate) fn message(error: &anyhow::Error) -> String {
    let mut message = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if message.is_empty() {
            message = cause;
        } else if !message.contains(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    message
}

/// Rows under headings, in columns as wide as their widest cell; numbers belong to the right.
pub(crate) struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// No rows yet.
    pub(crate) fn new(headings: impl IntoIterator<Item = &'static str>) -> Self {
        Self { headings: headings.into_iter().collect(), rows: Vec::new() }
    }

    /// One more row, of as many cells as there are headings.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Writes the rows; nothing if there are none.
    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let widths = self.widths();
        let headings = self.headings.iter().map(|heading| (*heading).to_string()).collect::<Vec<_>>();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let cells = row.iter().zip(&widths).map(|(cell, width)| align(cell, *width)).collect::<Vec<_>>();
            writeln!(out, "{}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }

    fn widths(&self) -> Vec<usize> {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.max().unwrap_or(0).max(self.headings[column].chars().count())
        };
        (0..self.headings.len()).map(width).collect()
    }
}

fn align(cell: &str, width: usize) -> String {
    if cell.replace(',', "").parse::<f64>().is_ok() {
        format!("{cell:>width$}")
    } else {
        format!("{cell:<width$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::failure;

    #[derive(Serialize)]
    struct Sample {
        count: u8,
    }

    impl Report for Sample {
        fn text(&self, out: &mut dyn Write) -> io::Result<()> {
            writeln!(out, "{} things", self.count)
        }
    }

    fn written(format: Format) -> String {
        let mut out = Vec::new();
        Output::new(format).write(&Sample { count: 3 }, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_report_is_text_or_one_line_of_json() {
        assert_eq!(written(Format::Text), "3 things\n");
        assert_eq!(written(Format::Json), "{\"count\":3}\n");
    }

    #[test]
    fn an_error_carries_its_advice_in_both_formats() {
        let error = failure("no such node", "run `rondel status`");
        for (format, expected) in [
            (Format::Text, "error: no such node\n  what to do: run `rondel status`\n"),
            (Format::Json, "{\"error\":{\"message\":\"no such node\",\"advice\":\"run `rondel status`\"}}\n"),
        ] {
            let mut out = Vec::new();
            Output::new(format).write_error(&format!("{error:#}"), advice(&error), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn a_cause_that_an_error_quotes_itself_is_said_once() {
        let io = || io::Error::other("disk on fire");
        let quoted = anyhow::Error::from(io()).context("cannot open: disk on fire").context("cannot start");
        assert_eq!(message(&quoted), "cannot start: cannot open: disk on fire");
        assert_eq!(message(&anyhow::Error::from(io()).context("cannot open")), "cannot open: disk on fire");
    }

    #[test]
    fn a_table_aligns_words_left_and_numbers_right() {
        let mut table = Table::new(["name", "hints"]);
        table.row(["a".into(), "12".into()]);
        table.row(["longer".into(), "7".into()]);
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "name    hints\na          12\nlonger      7\n");
    }
}
