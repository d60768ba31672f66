//! Who is up: SWIM with suspicion and refutation, and Lifeguard's doubt in oneself.
//!
//! [`Liveness`] is a pure machine: messages, reports and the time go in; messages to send and changes of status
//! come out of [`Liveness::poll`]; it wants [`Liveness::tick`] at [`Liveness::deadline`]. Who the members *are* is
//! decided elsewhere and told by [`Liveness::set_members`]: nothing here ever adds or removes one.
//!
//! How a silent member becomes a dead one: a direct probe gets no answer, then helpers get none either; it is
//! suspected, and the rumour spreads on other messages; whoever hears it probes for itself and confirms; the more
//! confirm, the sooner the suspicion ripens. A member that hears of its own suspicion raises its [`Generation`],
//! and the newer generation wins everywhere. The invariant: a member is dead here only after this node itself
//! failed to reach it, directly and through helpers.
//!
//! A node that was paused, or that misses answers it was due, doubts itself first: its timeouts stretch, and what
//! fell due in a pause proves nothing. Dead members are asked now and then whether they are back.
//!
//! # What to expect
//!
//! Measured in the virtual network of this module's tests, with the default [`Config`]:
//!
//! | what | how it comes out |
//! |---|---|
//! | one of three nodes is killed | dead to both others after 1.4 to 2.4 s, 1.8 s in the median (400 runs) |
//! | the same, and both lost their connections to it | always within 1.5 s |
//! | one message in five is lost, 3 to 9 nodes | no live node declared dead in 30 hours |
//! | the same with 2 nodes, where nobody can help or confirm | once in an hour |
//! | traffic | two messages per node and interval, whatever the size of the cluster |
//!
//! References: \[SWIM §3–4\], \[Lifeguard §IV\]. Differences: a rumour of death alone kills nobody; suspects are
//! probed all the time, with the accusation on every message to them; clients of the machine add evidence of their
//! own ([`Liveness::report_contact`], [`Liveness::report_unreachable`]).

mod config;
mod health;
mod machine;
mod message;
mod probe;
mod rumours;
mod slowness;
mod suspicion;
#[cfg(test)]
mod tests;

pub use config::Config;
pub use machine::Liveness;
pub use message::{Ack, AckFor, Claim, Generation, Message, Ping, PingFor, RUMOURS_PER_MESSAGE_MAX, Rumour};

use rondel_proto::id::NodeId;

/// What this node holds a member to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// It answers, as far as is known.
    Alive,
    /// It did not answer somebody, and has not objected yet. It may be asked, but it is better to ask another.
    Suspect,
    /// It does not answer. Others stand in for it.
    Dead,
}

/// What the machine wants done or known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send a message; it may get lost, and nobody waits for its delivery.
    Send {
        /// To this member.
        to: NodeId,
        /// The message.
        message: Message,
    },
    /// A member's status has changed.
    Changed {
        /// Whose.
        node: NodeId,
        /// What it is now.
        status: Status,
    },
    /// A member has become slow, or has ceased to be.
    Slow {
        /// Which.
        node: NodeId,
        /// What it is now.
        slow: bool,
    },
}
