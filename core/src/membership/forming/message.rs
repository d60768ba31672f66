//! What a node that wants to join and a member say to each other.

use crate::{
    membership::token::{JoinSecret, JoinToken},
    sequence::State,
};
use rondel_proto::{
    id::{Lineage, NodeId, StoreId},
    message, wire,
};

/// What a node says of itself.
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// Its store.
    pub store: StoreId,
    /// What people call it.
    pub name: String,
    /// Where it is asked, `host:port`.
    pub addr: String,
    /// Where bulk goes to, `host:port`.
    pub bulk_addr: String,
    /// How much it takes, in relation to the others.
    pub capacity: u32,
    /// What it shares its fate with.
    pub zone: String,
    /// The newest format that it reads.
    pub format_max: u32,
}

/// Asks to be let in. The node's key is proved by the connection that this comes on.
#[message(id = 48, reply = JoinReply, crate = rondel_proto)]
pub struct JoinRequest {
    /// The cluster.
    pub lineage: Lineage,
    /// The token's secret.
    pub secret: JoinSecret,
    /// Who asks.
    pub candidate: Candidate,
}

impl JoinRequest {
    /// What a node with this token asks.
    #[must_use]
    pub fn new(token: &JoinToken, candidate: Candidate) -> Self {
        Self { lineage: token.lineage(), secret: token.secret().clone(), candidate }
    }
}

/// The answer to a [`JoinRequest`].
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq)]
pub enum JoinReply {
    /// The node is a member; this is the state, for it to install.
    Admitted(Box<State>),
    /// It is not.
    Refused(JoinRefusal),
}

/// Why a node is not let in.
#[wire(crate = rondel_proto)]
#[derive(PartialEq, Eq, thiserror::Error)]
pub enum JoinRefusal {
    /// The token is of another cluster.
    #[error("the join token is for another cluster: print a new one on a member of this cluster")]
    WrongLineage,
    /// The secret is not the cluster's.
    #[error("the join token is not valid (any more): print a new one on a member of the cluster")]
    WrongSecret,
    /// The cluster is complete.
    #[error(
        "the cluster `{cluster}` has been formed with its {members} members, and adding nodes to a formed cluster is not \
         available in this release: form a new cluster with as many members as it is to have"
    )]
    Formed {
        /// What people call it.
        cluster: String,
        /// How many it has.
        members: u16,
    },
    /// All founders have come, and the ring is about to be given out.
    #[error("the cluster `{cluster}` waits for no more members: it has all {members}")]
    Full {
        /// What people call it.
        cluster: String,
        /// How many it has.
        members: u16,
    },
    /// Another member has something that must be its own.
    #[error(
        "the cluster has a member with the same {what} already (`{member}`): give this node another name, or an empty \
         data directory if it was copied from that member"
    )]
    Taken {
        /// What the two would share.
        what: String,
        /// The name of the one that exists.
        member: String,
    },
    /// The node is older than what the cluster writes.
    #[error("the cluster writes format {cluster} and this node reads up to {node}: upgrade the node")]
    TooOld {
        /// What the cluster writes.
        cluster: u32,
        /// What the node reads.
        node: u32,
    },
    /// What the node says of itself can't be.
    #[error("the node's {what} cannot be used: {why}")]
    BadCandidate {
        /// Of what.
        what: String,
        /// Why not.
        why: String,
    },
    /// The voters could not be reached in time.
    #[error("the cluster could not decide in time: the node may be a member or not; try again")]
    Undecided,
}
