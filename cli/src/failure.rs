//! How a command fails: an error chain, with advice where there is something that the user can do.

use std::{error::Error, fmt};

/// An error with the next step for whoever reads it. It displays as the error that it wraps.
#[derive(Debug)]
pub(crate) struct Advised {
    advice: String,
    cause: anyhow::Error,
}

impl Advised {
    /// What to do.
    pub(crate) fn advice(&self) -> &str {
        &self.advice
    }
}

impl fmt::Display for Advised {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(out)
    }
}

impl Error for Advised {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.source()
    }
}

/// Adds advice to a result's error.
pub(crate) trait Advise<T> {
    /// Says what to do about the error.
    fn advise(self, advice: impl FnOnce() -> String) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> Advise<T> for Result<T, E> {
    fn advise(self, advice: impl FnOnce() -> String) -> anyhow::Result<T> {
        self.map_err(|error| Advised { advice: advice(), cause: error.into() }.into())
    }
}

/// An error made of a message and advice.
pub(crate) fn failure(message: impl fmt::Display, advice: impl Into<String>) -> anyhow::Error {
    Advised { advice: advice.into(), cause: anyhow::Error::msg(message.to_string()) }.into()
}

/// The advice that came with an error, at whatever depth.
pub(crate) fn advice(error: &anyhow::Error) -> Option<&str> {
    error.chain().find_map(|cause| cause.downcast_ref::<Advised>()).map(Advised::advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn advice_is_found_under_context_and_the_chain_reads_as_before() {
        let io = std::io::Error::other("disk on fire");
        let error = Err::<(), _>(io)
            .context("cannot write")
            .advise(|| "use another disk".into())
            .context("import failed")
            .unwrap_err();
        assert_eq!(format!("{error:#}"), "import failed: cannot write: disk on fire");
        assert_eq!(advice(&error), Some("use another disk"));
    }

    #[test]
    fn an_error_without_advice_has_none() {
        assert_eq!(advice(&anyhow::anyhow!("no")), None);
    }
}
