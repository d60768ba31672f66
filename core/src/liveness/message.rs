//! What failure detectors say to each other: four small messages, each one-way, each with a few rumours on it.
//!
//! Every message carries its sender's [`Generation`], which is first-hand evidence, and at most
//! [`RUMOURS_PER_MESSAGE_MAX`] rumours; a receiver reads no more than that, however many arrive.

use rondel_proto::{id::NodeId, message, wire};

/// The most rumours that one message carries, and the most that a receiver reads.
pub const RUMOURS_PER_MESSAGE_MAX: usize = 16;

/// How often a node has refuted its own death; only the node itself raises it. The higher one is the newer claim.
#[wire(crate = rondel_proto)]
#[derive(Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation that refutes this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// What is claimed of a node. The order is that of precedence within one generation.
///
/// The numbers are the archived bytes and are kept for ever.
#[wire(crate = rondel_proto)]
#[derive(Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Claim {
    /// It answers. Only the node itself starts this claim.
    Alive = 0,
    /// Somebody got no answer from it.
    Suspect = 1,
    /// It was suspected for long enough and did not object.
    Dead = 2,
}

/// A claim on its way through the cluster.
#[wire(crate = rondel_proto)]
#[derive(Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rumour {
    /// Whom it is about.
    pub node: NodeId,
    /// Who claims it at first hand: distinct accusers shorten a suspicion.
    pub by: NodeId,
    /// Which generation of `node` it is about.
    pub generation: Generation,
    /// What it claims.
    pub claim: Claim,
}

/// Are you there? Answered by [`Ack`].
#[message(id = 16, crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub struct Ping {
    /// Names the answer.
    pub sequence: u64,
    /// The sender's own.
    pub generation: Generation,
    /// What the receiver is accused of comes first.
    pub rumours: Vec<Rumour>,
}

/// I am.
#[message(id = 17, crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub struct Ack {
    /// That of the [`Ping`].
    pub sequence: u64,
    /// The sender's own.
    pub generation: Generation,
    /// As in [`Ping`].
    pub rumours: Vec<Rumour>,
}

/// Is `target` there? I can't reach it. Answered by [`AckFor`].
#[message(id = 18, crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub struct PingFor {
    /// Names the answer.
    pub sequence: u64,
    /// Whom to ask.
    pub target: NodeId,
    /// The sender's own.
    pub generation: Generation,
    /// As in [`Ping`], and what the target is accused of.
    pub rumours: Vec<Rumour>,
}

/// What became of a [`PingFor`].
#[message(id = 19, crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub struct AckFor {
    /// That of the [`PingFor`].
    pub sequence: u64,
    /// Who was asked.
    pub target: NodeId,
    /// The target's generation if it answered; none says that the helper is well and the target silent.
    pub answered: Option<Generation>,
    /// The sender's own.
    pub generation: Generation,
    /// As in [`Ping`].
    pub rumours: Vec<Rumour>,
}

/// Any of the four. It never travels itself: each message keeps a number of its own on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// See [`Ping`].
    Ping(Ping),
    /// See [`Ack`].
    Ack(Ack),
    /// See [`PingFor`].
    PingFor(PingFor),
    /// See [`AckFor`].
    AckFor(AckFor),
}

impl Message {
    pub(super) fn generation(&self) -> Generation {
        match self {
            Self::Ping(Ping { generation, .. })
            | Self::Ack(Ack { generation, .. })
            | Self::PingFor(PingFor { generation, .. })
            | Self::AckFor(AckFor { generation, .. }) => *generation,
        }
    }

    pub(super) fn rumours(&self) -> &[Rumour] {
        match self {
            Self::Ping(Ping { rumours, .. })
            | Self::Ack(Ack { rumours, .. })
            | Self::PingFor(PingFor { rumours, .. })
            | Self::AckFor(AckFor { rumours, .. }) => &rumours[..rumours.len().min(RUMOURS_PER_MESSAGE_MAX)],
        }
    }
}
