//! What the clients of a run did and saw, as the checkers need it.

use rondel_kv::Need;
use std::{collections::BTreeSet, fmt, time::Duration};

/// A write of the run, by its number; values and tombstones carry it.
pub(crate) type WriteId = u32;

/// A key of the run, by its number.
pub(crate) type Key = u32;

/// A sibling as somebody saw it: which write it is of, and the name of the dot that it stands under.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seen {
    pub(crate) write: WriteId,
    pub(crate) dot: String,
}

/// One operation of a client.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) client: u32,
    /// The node that was asked.
    pub(crate) node: u32,
    pub(crate) key: Key,
    pub(crate) what: What,
    pub(crate) began: Duration,
    pub(crate) ended: Duration,
    pub(crate) outcome: Outcome,
    /// The nodes that can have had a part in it: datagrams went to and fro between them and the node that was asked.
    pub(crate) reached: BTreeSet<u32>,
}

#[derive(Debug, Clone)]
pub(crate) enum What {
    /// A value or a tombstone.
    Write {
        id: WriteId,
        deletes: bool,
        /// The siblings that its context was read with: what it supersedes.
        context: Vec<Seen>,
        /// On how many distinct nodes it was asked to be durable, for certain.
        copies: u8,
        /// By how many owners it was asked to be acknowledged.
        owners: u8,
        /// How many durable acknowledgements it waited for, if fewer than it may have waited for at all.
        durable: Option<Need>,
        /// Whether this is another try of a write that failed.
        again: bool,
    },
    Read {
        owners: u8,
    },
}

#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// Done as asked. What was seen: by a read, or by a write that gave back the object.
    Done(Option<Vec<Seen>>),
    /// Certainly not done.
    NotDone(String),
    /// Nobody knows.
    Unknown(String),
    /// An answer that nobody may get: bytes that are none of the run's values, a context that is said to be forged.
    Wrong(String),
}

impl Operation {
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.outcome, Outcome::Done(_))
    }

    /// What it saw, if it was answered.
    pub(crate) fn seen(&self) -> Option<&[Seen]> {
        match &self.outcome {
            Outcome::Done(seen) => seen.as_deref(),
            _ => None,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, node, key, began, ended, .. } = self;
        write!(out, "[{:>9.4}–{:>9.4}] ", began.as_secs_f64(), ended.as_secs_f64())?;
        write!(out, "client {client} at node {node}: ")?;
        match &self.what {
            What::Write { id, deletes, context, copies, owners, durable, again } => {
                let verb = if *deletes { "deletes" } else { "writes" };
                let again = if *again { " again" } else { "" };
                write!(out, "{verb} key {key} (write {id}{again}, {copies} copies, {owners} owners, ")?;
                if let Some(durable) = durable {
                    write!(out, "durable {durable:?}, ")?;
                }
                write!(out, "seen")?;
                writes(context, out)?;
                write!(out, ")")?;
            }
            What::Read { owners } => write!(out, "reads key {key} ({owners} owners)")?,
        }
        match &self.outcome {
            Outcome::Done(None) => write!(out, ": done"),
            Outcome::Done(Some(seen)) => {
                write!(out, ": done, found")?;
                writes(seen, out)
            }
            Outcome::NotDone(why) => write!(out, ": not done: {why}"),
            Outcome::Unknown(why) => write!(out, ": unknown: {why}"),
            Outcome::Wrong(what) => write!(out, ": wrong: {what}"),
        }
    }
}

fn writes(seen: &[Seen], out: &mut fmt::Formatter<'_>) -> fmt::Result {
    if seen.is_empty() {
        return write!(out, " nothing");
    }
    seen.iter().try_for_each(|seen| write!(out, " {}", seen.write))
}

/// The writes among siblings.
pub(crate) fn ids(seen: &[Seen]) -> BTreeSet<WriteId> {
    seen.iter().map(|seen| seen.write).collect()
}
