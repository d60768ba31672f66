//! How many replicas a request asks for: a number, or a symbol that the bucket's n_val gives a meaning.
//!
//! The same values stand in Protocol Buffers fields (`r`, `w`, `pr`, `pw`, `dw`, `rw`, `node_confirms`), in HTTP
//! query parameters and on the command line; here they are read and written, and resolved against n_val.

use std::{fmt, str::FromStr};

const ONE: u32 = u32::MAX - 1;
const QUORUM: u32 = u32::MAX - 2;
const ALL: u32 = u32::MAX - 3;
const DEFAULT: u32 = u32::MAX - 4;

/// A quorum as a client asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QuorumArg {
    /// So many replicas; more than n_val is refused where it is resolved.
    Count(u32),
    /// One replica.
    One,
    /// More than half of n_val.
    Quorum,
    /// All n_val replicas.
    All,
    /// As the bucket's properties say.
    Default,
}

impl QuorumArg {
    /// From a field of a Protocol Buffers message. Every number has a meaning, be it an excessive count.
    #[must_use]
    pub fn from_wire(value: u32) -> Self {
        match value {
            ONE => Self::One,
            QUORUM => Self::Quorum,
            ALL => Self::All,
            DEFAULT => Self::Default,
            count => Self::Count(count),
        }
    }

    /// As a field of a Protocol Buffers message.
    #[must_use]
    pub fn to_wire(self) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::One => ONE,
            Self::Quorum => QUORUM,
            Self::All => ALL,
            Self::Default => DEFAULT,
        }
    }

    /// The number of replicas, for a bucket with `n_val` replicas; `None` if the bucket's properties decide.
    #[must_use]
    pub fn count(self, n_val: u32) -> Option<u32> {
        match self {
            Self::Count(count) => Some(count),
            Self::One => Some(1),
            Self::Quorum => Some(n_val / 2 + 1),
            Self::All => Some(n_val),
            Self::Default => None,
        }
    }
}

impl fmt::Display for QuorumArg {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(out),
            Self::One => out.write_str("one"),
            Self::Quorum => out.write_str("quorum"),
            Self::All => out.write_str("all"),
            Self::Default => out.write_str("default"),
        }
    }
}

/// A text that is no quorum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no quorum: a number, one, quorum, all or default is")]
pub struct BadQuorum(pub String);

impl FromStr for QuorumArg {
    type Err = BadQuorum;

    fn from_str(text: &str) -> Result<Self, BadQuorum> {
        match text {
            "one" => Ok(Self::One),
            "quorum" => Ok(Self::Quorum),
            "all" => Ok(Self::All),
            "default" => Ok(Self::Default),
            // Only what can't be taken for a symbol on the wire is a count.
            _ => match text.parse() {
                Ok(count) if count < DEFAULT => Ok(Self::Count(count)),
                _ => Err(BadQuorum(text.to_owned())),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn symbols_have_riaks_numbers() {
        let symbols = [
            (QuorumArg::One, 4_294_967_294),
            (QuorumArg::Quorum, 4_294_967_293),
            (QuorumArg::All, 4_294_967_292),
            (QuorumArg::Default, 4_294_967_291),
            (QuorumArg::Count(4_294_967_295), 4_294_967_295),
            (QuorumArg::Count(0), 0),
        ];
        for (symbol, number) in symbols {
            assert_eq!((symbol.to_wire(), QuorumArg::from_wire(number)), (number, symbol));
        }
    }

    #[test]
    fn a_quorum_is_more_than_half() {
        let of = |n_val| QuorumArg::Quorum.count(n_val);
        assert_eq!([of(1), of(2), of(3), of(4), of(5)], [Some(1), Some(2), Some(2), Some(3), Some(3)]);
        assert_eq!(QuorumArg::All.count(3), Some(3));
        assert_eq!(QuorumArg::Default.count(3), None);
    }

    #[test]
    fn what_is_neither_number_nor_symbol_is_refused() {
        for text in ["", "-1", "most", "4294967293", "2.0"] {
            assert!(text.parse::<QuorumArg>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn wire_and_text_give_back_what_was_written(value: u32) {
            let quorum = QuorumArg::from_wire(value);
            prop_assert_eq!(quorum.to_wire(), value);
            if value != u32::MAX {
                prop_assert_eq!(quorum.to_string().parse(), Ok(quorum));
            }
        }
    }
}
