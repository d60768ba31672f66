//! Structured logs on standard error, as text or JSON lines.

use crate::output::Format;
use anyhow::{Context, ensure};
use std::io::{self, IsTerminal};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// Sends this process's logs to standard error.
///
/// # Errors
/// The filter does not parse, or logging was set up before.
pub(crate) fn start(format: Format, filter: &str) -> anyhow::Result<()> {
    let filter = parse_filter(filter)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match format {
        Format::Text => builder.with_ansi(io::stderr().is_terminal()).with_target(false).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}

/// A filter such as `info` or `info,rondel_core::transport=debug`.
///
/// # Errors
/// It does not parse.
pub(crate) fn parse_filter(filter: &str) -> anyhow::Result<EnvFilter> {
    let wrong = || {
        format!(
            "`{filter}` is not a log level (error, warn, info, debug, trace) or a list such as `info,rondel_core=debug`"
        )
    };
    // A misspelt level would be taken for the name of a module, and nothing would be logged.
    let is_level = |part: &str| !part.is_empty() && part.parse::<LevelFilter>().is_ok();
    let is_told = |part: &str| part.contains(['=', '[']) || is_level(part.trim());
    ensure!(filter.split(',').all(is_told), wrong());
    EnvFilter::builder().parse(filter).with_context(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_lists_are_filters_and_nonsense_is_not() {
        assert!(parse_filter("info").is_ok());
        assert!(parse_filter("warn,rondel_core=debug").is_ok());
        for wrong in ["rondel_core=loud", "inf", "info,rondel_core", ""] {
            let error = parse_filter(wrong).unwrap_err().to_string();
            assert!(error.contains(&format!("`{wrong}`")), "{error}");
        }
    }
}
