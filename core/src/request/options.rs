//! What a request asks for: how many replicas, of which kind, by when; and what it got.

use crate::{
    quorum::Unmet,
    reply::{Failure, FailureCode},
};
use bytes::Bytes;
use rondel_proto::id::{NodeId, RequestId};
use std::time::Duration;

/// The deadline of a request that names none: Riak's.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(60);
/// The longest deadline of a request; a coordinator remembers requests for twice as long.
pub const DEADLINE_MAX: Duration = Duration::from_secs(60);

/// How many of n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Need {
    /// n/2 + 1.
    #[default]
    Quorum,
    /// All n.
    All,
    /// So many.
    Count(u8),
}

impl Need {
    /// The number, of `n`.
    #[must_use]
    pub fn of(self, n: u8) -> u8 {
        match self {
            Self::Quorum => n / 2 + 1,
            Self::All => n,
            Self::Count(count) => count,
        }
    }
}

/// What a request asks for. The defaults are Riak's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How many slots hold the key: at most the cluster's `replicas`. Default 3, or `replicas` if that is less.
    pub n: Option<u8>,
    /// How many slots must answer (R or W).
    pub need: Need,
    /// How many slots must be answered for by their owners (PR or PW).
    pub owners: Need,
    /// Updates: how many slots must have it durably (DW). Default: as many as `need`, so that every acknowledgement
    /// that counts is durable. With less than `need`, a replica counts for the rest as soon as it has the update in
    /// memory: what was acknowledged survives as long as fewer stores than this number are lost, and with 0 nothing is
    /// promised if replicas crash. Owners and distinct nodes that are asked for always have it durably. Every replica
    /// makes it durable, or is stood in for, in any case; this only says what the answer waits for.
    pub durable: Option<Need>,
    /// How many distinct nodes must answer (`node_confirms`), beyond what `need` implies.
    pub nodes: u8,
    /// Only owners: no stand-in is asked.
    pub strict: bool,
    /// Reads: fail as soon as n − need + 1 … replicas can't give an item (Riak's `basic_quorum`).
    pub basic_quorum: bool,
    /// Reads: a replica that has nothing counts as an answer.
    pub notfound_ok: bool,
    /// When the answer is of no more use, from now.
    pub deadline: Duration,
    /// The client's request, kept over its retries. Default: a new one.
    pub request_id: Option<RequestId>,
    /// Updates: when the coordinator was lost, ask another. Only for messages that do no harm twice; for any other,
    /// the lost coordinator alone is asked what came of it, until it answers or is known to be down.
    pub retry_elsewhere: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            n: None,
            need: Need::Quorum,
            owners: Need::Count(0),
            durable: None,
            nodes: 0,
            strict: false,
            basic_quorum: false,
            notfound_ok: true,
            deadline: DEADLINE_DEFAULT,
            request_id: None,
            retry_elsewhere: false,
        }
    }
}

/// Which requirement was not met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// R or W.
    Need,
    /// PR or PW.
    Owners,
    /// DW.
    Durable,
    /// `node_confirms`, or the distinct nodes that `need` implies.
    Nodes,
}

/// Why a request was not answered as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// More was asked for than there are slots. Nothing was done.
    #[error("{asked} of n_val {n} can't be met: ask for at most {n}")]
    Unsatisfiable {
        /// What was asked for.
        asked: u8,
        /// What there is.
        n: u8,
    },
    /// n is more than the cluster's `replicas`. Nothing was done.
    #[error("n_val {n} is more than the {replicas} replicas of this cluster: lower n_val")]
    TooFewReplicas {
        /// What was asked for.
        n: u8,
        /// What there is.
        replicas: u8,
    },
    /// Too few replicas answered, and no more will. An update may have reached some; it was not undone.
    #[error("only {have} of {need} {} answered{}", of_what(*requirement), because(failures))]
    Unmet {
        /// Which requirement.
        requirement: Requirement,
        /// How many it needs.
        need: u8,
        /// How many it has.
        have: u8,
        /// What the others said.
        failures: Vec<(NodeId, Failure)>,
    },
    /// The deadline passed first. An update may have reached some replicas; it was not undone.
    #[error("the deadline passed with {have} of {need} answers")]
    Timeout {
        /// How many answers were needed.
        need: u8,
        /// How many there were.
        have: u8,
    },
    /// The coordinator was lost: whether the update was done is unknown.
    #[error(
        "the coordinator was lost; whether the update was done is unknown: read the key before trying again"
    )]
    Unknown,
    /// The request had been done before, and has been made sure of again; its reply is no longer known.
    #[error("the request had been done before; its reply is no longer known")]
    Repeated,
    /// The application refused. Nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// This node does not serve: it has not joined, or its store has failed.
    #[error("this node does not serve requests: {0}")]
    NotServing(String),
    /// A scan: what one partition holds can't be given whole. The other partitions' rows are not touched by it.
    #[error("partition {partition} can't be answered for: {failure}")]
    Uncovered {
        /// Its number.
        partition: u16,
        /// Why not.
        failure: Failure,
    },
    /// The backlog of writes has reached its bound. Nothing was done.
    #[error("the node is overloaded: try again later, or with fewer requests at once")]
    Overloaded,
    /// The disk is full. Nothing was done.
    #[error("the disk of the node is full: make room, or write to another node")]
    NoRoom,
    /// The bytes of a peer's answer do not decode.
    #[error("a peer's answer does not decode: {0}")]
    BadAnswer(String),
    /// The key is too long. Nothing was done.
    #[error("a key of {len} bytes; at most {max} are allowed")]
    KeyTooLong {
        /// Its length.
        len: usize,
        /// What is allowed.
        max: usize,
    },
    /// The message is too large. Nothing was done.
    #[error("a message of {len} bytes; at most {max} are allowed")]
    TooLarge {
        /// Its length.
        len: usize,
        /// What is allowed.
        max: usize,
    },
}

fn of_what(requirement: Requirement) -> &'static str {
    match requirement {
        Requirement::Need => "replicas",
        Requirement::Owners => "owners",
        Requirement::Durable => "durable replicas",
        Requirement::Nodes => "nodes",
    }
}

fn because(failures: &[(NodeId, Failure)]) -> String {
    let each = failures.iter().map(|(node, failure)| format!("node {node}: {failure}"));
    match each.collect::<Vec<_>>().join("; ") {
        none if none.is_empty() => none,
        all => format!(" ({all})"),
    }
}

impl Requirement {
    const ALL: [Self; 4] = [Self::Need, Self::Owners, Self::Durable, Self::Nodes];

    fn number(self) -> u8 {
        match self {
            Self::Need => 0,
            Self::Owners => 1,
            Self::Durable => 2,
            Self::Nodes => 3,
        }
    }
}

impl RequestError {
    /// For an `update`: whether it is certain that nothing was done and that nothing will be, so that asking again does
    /// no harm even where doing it twice would. Where this is false the update may have been done, in part or in full.
    #[must_use]
    pub fn nothing_was_done(&self) -> bool {
        match self {
            Self::Unsatisfiable { .. }
            | Self::TooFewReplicas { .. }
            | Self::Refused(_)
            | Self::NotServing(_)
            | Self::Uncovered { .. }
            | Self::Overloaded
            | Self::NoRoom
            | Self::KeyTooLong { .. }
            | Self::TooLarge { .. } => true,
            Self::Unmet { .. }
            | Self::Timeout { .. }
            | Self::Unknown
            | Self::Repeated
            | Self::BadAnswer(_) => false,
        }
    }

    pub(crate) fn unmet(unmet: Unmet, failures: Vec<(NodeId, Failure)>) -> Self {
        let (requirement, need, have) = match unmet {
            Unmet::Slots { need, have } => (Requirement::Need, need, have),
            Unmet::Owners { need, have } => (Requirement::Owners, need, have),
            Unmet::Durable { need, have } => (Requirement::Durable, need, have),
            Unmet::Nodes { need, have } => (Requirement::Nodes, need, have),
        };
        Self::Unmet { requirement, need, have, failures }
    }

    /// What a failure of a node means for a request that depends on it alone.
    pub(crate) fn of(failure: Failure) -> Self {
        match (failure.code, failure.detail.as_ref()) {
            (FailureCode::Overloaded, _) => Self::Overloaded,
            (FailureCode::NoRoom, _) => Self::NoRoom,
            (FailureCode::Refused, detail) => Self::Refused(String::from_utf8_lossy(detail).into_owned()),
            (FailureCode::Expired, _) => Self::Timeout { need: 1, have: 0 },
            (FailureCode::Repeated, _) => Self::Repeated,
            (FailureCode::TimedOut, &[need, have]) => Self::Timeout { need, have },
            (FailureCode::Unmet, &[which, need, have]) => {
                let requirement =
                    Requirement::ALL.get(usize::from(which)).copied().unwrap_or(Requirement::Need);
                Self::Unmet { requirement, need, have, failures: Vec::new() }
            }
            _ => Self::NotServing(failure.to_string()),
        }
    }

    /// What a coordinator's failure means for an update: whether it was done may be unknown.
    pub(crate) fn of_update(failure: Failure) -> Self {
        if failure.code.leaves_unknown() { Self::Unknown } else { Self::of(failure) }
    }

    /// The error as a coordinator tells it to the edge.
    pub(crate) fn into_failure(self) -> Failure {
        let with = |code, detail: &[u8]| Failure { code, detail: Bytes::copy_from_slice(detail) };
        match self {
            Self::Overloaded => Failure::new(FailureCode::Overloaded),
            Self::NoRoom => Failure::new(FailureCode::NoRoom),
            Self::Repeated => Failure::new(FailureCode::Repeated),
            Self::Timeout { need, have } => with(FailureCode::TimedOut, &[need, have]),
            Self::Unmet { requirement, need, have, .. } => {
                with(FailureCode::Unmet, &[requirement.number(), need, have])
            }
            Self::Refused(reason) => Failure::because(FailureCode::Refused, reason),
            Self::Unknown | Self::BadAnswer(_) => Failure::new(FailureCode::Unknown),
            other => Failure::because(FailureCode::NotServing, other),
        }
    }
}
