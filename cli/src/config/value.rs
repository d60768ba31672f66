//! The kinds of configuration values, and how each is read from text.

use crate::logging::parse_filter;
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

/// What a key's value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A short name without spaces.
    Name,
    /// A path; relative to the working directory.
    Path,
    /// An IP address and a port.
    Address,
    /// An IP address.
    Host,
    /// Text that is never shown.
    Secret,
    /// A whole number.
    Count {
        /// The smallest.
        min: u64,
        /// The greatest.
        max: u64,
    },
    /// A whole number that is a power of two.
    PowerOfTwo {
        /// The smallest.
        min: u64,
        /// The greatest.
        max: u64,
    },
    /// An amount of memory or disk, such as `64MiB`.
    Bytes {
        /// The smallest.
        min: u64,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// What to log.
    Filter,
}

/// A value that fits its key's kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// Of a name, secret, choice or filter.
    Text(String),
    /// Of a path.
    Path(PathBuf),
    /// Of an address.
    Address(SocketAddr),
    /// Of a host.
    Host(IpAddr),
    /// Of a number; of an amount, in bytes.
    Number(u64),
}

/// Bytes that a name may have: it appears in logs, labels and tables.
const NAME_BYTES_MAX: usize = 64;

impl Kind {
    /// The value that `text` means.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence that begins with the key's name.
    pub(crate) fn parse(self, text: &str) -> Result<Value, String> {
        match self {
            Self::Name => parse_name(text),
            Self::Path if text.is_empty() => Err("is empty; give a path".into()),
            Self::Path => Ok(Value::Path(PathBuf::from(text))),
            Self::Address => match text.parse() {
                Ok(address) => Ok(Value::Address(address)),
                Err(_) => Err(format!(
                    "is `{text}`; give an IP address and a port, such as 127.0.0.1:8087 or [::1]:8087"
                )),
            },
            Self::Host => match text.parse() {
                Ok(host) => Ok(Value::Host(host)),
                Err(_) => Err(format!("is `{text}`; give an IP address, such as 192.0.2.7")),
            },
            Self::Secret => Ok(Value::Text(text.into())),
            Self::Count { min, max } => parse_number(text, min, max),
            Self::PowerOfTwo { min, max } => match parse_number(text, min, max)? {
                Value::Number(number) if !number.is_power_of_two() => {
                    Err(format!("is {number}; give a power of two from {min} to {max}"))
                }
                value => Ok(value),
            },
            Self::Bytes { min } => match parse_bytes(text) {
                Some(bytes) if bytes >= min => Ok(Value::Number(bytes)),
                _ => Err(format!("is `{text}`; give at least {min} bytes, such as 64MiB")),
            },
            Self::Choice(words) if words.contains(&text) => Ok(Value::Text(text.into())),
            Self::Choice(words) => Err(format!("is `{text}`; give one of {}", words.join(", "))),
            Self::Filter => match parse_filter(text) {
                Ok(_) => Ok(Value::Text(text.into())),
                Err(error) => Err(format!("is wrong: {error:#}")),
            },
        }
    }

    /// Whether a file may give it as a number, though it need not.
    pub(crate) fn may_be_number(self) -> bool {
        matches!(self, Self::Bytes { .. })
    }

    /// Whether a file gives it as a number rather than as a string.
    pub(crate) fn is_number(self) -> bool {
        matches!(self, Self::Count { .. } | Self::PowerOfTwo { .. })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => out.write_str("name"),
            Self::Path => out.write_str("path"),
            Self::Address => out.write_str("address:port"),
            Self::Host => out.write_str("address"),
            Self::Secret => out.write_str("secret text"),
            Self::Count { min, max } => write!(out, "number from {min} to {max}"),
            Self::PowerOfTwo { min, max } => write!(out, "power of two from {min} to {max}"),
            Self::Bytes { .. } => out.write_str("amount such as 64MiB"),
            Self::Choice(words) => out.write_str(&words.join(" | ")),
            Self::Filter => out.write_str("log level or list"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => out.write_str(text),
            Self::Path(path) => path.display().fmt(out),
            Self::Address(address) => address.fmt(out),
            Self::Host(host) => host.fmt(out),
            Self::Number(number) => number.fmt(out),
        }
    }
}

fn parse_name(text: &str) -> Result<Value, String> {
    let fits = |byte: u8| byte.is_ascii_graphic();
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.bytes().all(fits) {
        return Err(format!("is `{text}`; give 1 to {NAME_BYTES_MAX} visible ASCII characters"));
    }
    Ok(Value::Text(text.into()))
}

fn parse_number(text: &str, min: u64, max: u64) -> Result<Value, String> {
    match text.parse::<u64>() {
        Ok(number) if (min..=max).contains(&number) => Ok(Value::Number(number)),
        _ => Err(format!("is `{text}`; give a whole number from {min} to {max}")),
    }
}

fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic() || letter == ' ');
    let shift = match text[digits.len()..].trim() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_outside_its_kind_is_refused_with_what_to_give() {
        for (kind, text, told) in [
            (Kind::Address, "localhost", "an IP address and a port"),
            (Kind::Address, "127.0.0.1:70000", "an IP address and a port"),
            (Kind::Host, "127.0.0.1:80", "an IP address"),
            (Kind::Count { min: 1, max: 7 }, "0", "from 1 to 7"),
            (Kind::Count { min: 1, max: 7 }, "-1", "from 1 to 7"),
            (Kind::PowerOfTwo { min: 8, max: 64 }, "48", "a power of two from 8 to 64"),
            (Kind::Choice(&["text", "json"]), "yaml", "one of text, json"),
            (Kind::Bytes { min: 1024 }, "1", "at least 1024 bytes"),
            (Kind::Bytes { min: 1024 }, "64MB", "such as 64MiB"),
            (Kind::Bytes { min: 1024 }, "99999999999TiB", "such as 64MiB"),
            (Kind::Name, "two words", "visible ASCII"),
            (Kind::Path, "", "a path"),
        ] {
            let error = kind.parse(text).unwrap_err();
            assert!(error.contains(told), "{kind:?} {text}: {error}");
        }
    }

    #[test]
    fn a_value_of_its_kind_is_taken() {
        assert_eq!(Kind::Count { min: 1, max: 7 }.parse("7"), Ok(Value::Number(7)));
        assert_eq!(Kind::Bytes { min: 1 }.parse("64MiB"), Ok(Value::Number(64 << 20)));
        assert_eq!(Kind::Bytes { min: 1 }.parse("7"), Ok(Value::Number(7)));
        assert_eq!(Kind::Host.parse("::1").unwrap().to_string(), "::1");
        assert_eq!(Kind::Address.parse("[::1]:80").unwrap().to_string(), "[::1]:80");
    }
}
