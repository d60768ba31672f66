//! Forming a cluster: its founding members come together once, while it holds no data.
//!
//! The first node founds the lineage and is its voter ([`found`]); each other proves its key by the connection it
//! comes on and the token by the secret ([`admit`]), and becomes a member by an entry of its own. When the last one
//! is there, one entry gives them the ring and makes them full members ([`next_step`]); from then on the cluster
//! serves. Everything is a function of the decided state, so any member may do any of it, and a retry is harmless.

mod message;

pub use message::{Candidate, JoinRefusal, JoinReply, JoinRequest};

use super::token::{JoinToken, is_addr};
use crate::{
    ring::{Bits, ClaimError, Claimant, Occupant, REPLICAS_MAX, claim},
    sequence::{ChangeId, Delta, Member, MemberStatus, Proposal, Record, State, Topology},
};
use rondel_proto::id::Lineage;

/// What this release writes, and the newest that it reads.
pub const FORMAT: u32 = 1;
/// The most members that a cluster is founded with.
pub const FOUNDERS_MAX: u16 = 64;
/// The longest name of a node, a zone or a cluster.
pub const NAME_BYTES_MAX: usize = 64;

/// What a cluster is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founding {
    /// What people call it.
    pub name: String,
    /// How many members it waits for before it serves.
    pub founders: u16,
    /// How many partitions its ring has.
    pub bits: Bits,
    /// How many slots each partition has.
    pub replicas: u8,
    /// The hash of the secret that lets others join.
    pub join_secret: [u8; 32],
}

/// Why a cluster can't be founded like this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FoundError {
    /// A cluster has members.
    #[error("a cluster is founded with 1 to {FOUNDERS_MAX} members, not with {0}")]
    Founders(u16),
    /// Partitions have slots.
    #[error("a cluster keeps 1 to {REPLICAS_MAX} replicas, not {0}")]
    Replicas(u8),
    /// Something is called impossibly.
    #[error("the {what} cannot be used: {why}")]
    Bad {
        /// What.
        what: &'static str,
        /// Why not.
        why: &'static str,
    },
}

/// The first state of a cluster, whose first member and voter this node is. The lineage and the change are drawn at
/// random, once.
///
/// # Errors
/// [`FoundError`].
pub fn found(
    lineage: Lineage,
    change: ChangeId,
    founding: Founding,
    me: &Candidate,
    fingerprint: [u8; 32],
) -> Result<State, FoundError> {
    if !(1..=FOUNDERS_MAX).contains(&founding.founders) {
        return Err(FoundError::Founders(founding.founders));
    }
    if !(1..=REPLICAS_MAX).contains(&usize::from(founding.replicas)) {
        return Err(FoundError::Replicas(founding.replicas));
    }
    check_name(&founding.name).map_err(|why| FoundError::Bad { what: "cluster's name", why })?;
    check(me).map_err(|(what, why)| FoundError::Bad { what, why })?;
    let topology = Topology {
        name: founding.name,
        founders: founding.founders,
        bits: founding.bits,
        replicas: founding.replicas,
        join_secret: Some(founding.join_secret),
        members: vec![member(me, fingerprint)],
        placement: None,
    };
    Ok(State::genesis(lineage, change, FORMAT, topology))
}

/// What a member does about a request to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// Nothing: the node is a member already (its reply was lost, or it restarted). Send the state.
    AlreadyMember,
    /// Get this decided, then send the state.
    Decide(Vec<Delta>),
}

/// Judges a request to join, from a node whose certificate has this fingerprint.
///
/// # Errors
/// [`JoinRefusal`]: tell the node. Nothing is changed.
pub fn admit(state: &State, request: &JoinRequest, fingerprint: [u8; 32]) -> Result<Admission, JoinRefusal> {
    let (topology, candidate) = (&state.topology, &request.candidate);
    if request.lineage != state.lineage {
        return Err(JoinRefusal::WrongLineage);
    }
    if !topology.join_secret.is_some_and(|hash| request.secret.opens(&hash)) {
        return Err(JoinRefusal::WrongSecret);
    }
    let same = |known: &&Member| {
        (known.node, known.store, known.fingerprint) == (candidate.node, candidate.store, fingerprint)
    };
    if topology.members.iter().any(|known| same(&known)) {
        return Ok(Admission::AlreadyMember);
    }
    let (cluster, members) = (topology.name.clone(), topology.founders);
    if state.is_formed() {
        return Err(JoinRefusal::Formed { cluster, members });
    }
    if topology.members.len() >= usize::from(members) {
        return Err(JoinRefusal::Full { cluster, members });
    }
    if candidate.format_max < state.format {
        return Err(JoinRefusal::TooOld { cluster: state.format, node: candidate.format_max });
    }
    check(candidate)
        .map_err(|(what, why)| JoinRefusal::BadCandidate { what: what.to_owned(), why: why.to_owned() })?;
    let new = member(candidate, fingerprint);
    if let Some((what, known)) =
        topology.members.iter().find_map(|known| Some((known.shares_with(&new)?, known)))
    {
        return Err(JoinRefusal::Taken { what: what.to_owned(), member: known.name.clone() });
    }
    Ok(Admission::Decide(vec![Delta::AddMember(new)]))
}

/// What has to be decided next for the cluster to be formed, if it is time. Every member comes to the same, under the
/// same id, so it takes place once.
///
/// # Errors
/// [`ClaimError`] if there is no placement for these members; not after [`found`] and [`admit`].
pub fn next_step(state: &State) -> Result<Option<Proposal>, ClaimError> {
    let topology = &state.topology;
    if state.is_formed() || topology.members.len() != usize::from(topology.founders) {
        return Ok(None);
    }
    let claimants: Vec<Claimant> = topology.members.iter().map(claimant).collect();
    let placement = claim(&claimants, topology.bits, usize::from(topology.replicas), None)?;
    let mut id = [0; 16];
    let mut hasher = blake3::Hasher::new_derive_key("rondel 1: the change that forms a cluster");
    hasher.update(&state.lineage.0.to_le_bytes()).finalize_xof().fill(&mut id);
    Ok(Some(Proposal { change: ChangeId(u128::from_le_bytes(id)), deltas: vec![Delta::Form(placement)] }))
}

/// Why a node does not install the state that it was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    /// It was let into another cluster than it asked for.
    #[error(
        "the member at that address belongs to the cluster {found}, and the join token is for {expected}"
    )]
    OtherLineage {
        /// Of the token.
        expected: Lineage,
        /// Of the state.
        found: Lineage,
    },
    /// It is not in the state.
    #[error("the state that the cluster sent does not have this node as a member: try again")]
    NotAMember,
    /// The state can't be.
    #[error("the state that the cluster sent is not possible: {0}")]
    Impossible(String),
}

/// The record that a node installs when it has been let in. It takes no part before that is durable.
///
/// # Errors
/// [`InstallError`]; nothing is installed.
pub fn install(
    state: State,
    token: &JoinToken,
    me: Occupant,
    fingerprint: [u8; 32],
) -> Result<Record, InstallError> {
    if state.lineage != token.lineage() {
        return Err(InstallError::OtherLineage { expected: token.lineage(), found: state.lineage });
    }
    let is_me = |member: &Member| member.occupant() == me && member.fingerprint == fingerprint;
    if !state.topology.members.iter().any(is_me) {
        return Err(InstallError::NotAMember);
    }
    if let Some(Err(error)) = state.topology.placement.as_ref().map(crate::ring::Placement::check) {
        return Err(InstallError::Impossible(error.to_string()));
    }
    Ok(Record::new(me, state))
}

fn member(candidate: &Candidate, fingerprint: [u8; 32]) -> Member {
    let Candidate { node, store, name, addr, bulk_addr, capacity, zone, .. } = candidate.clone();
    Member { node, store, name, addr, bulk_addr, fingerprint, capacity, zone, status: MemberStatus::Joining }
}

fn claimant(member: &Member) -> Claimant {
    Claimant { node: member.node, store: member.store, capacity: member.capacity, zone: member.zone.clone() }
}

fn check(candidate: &Candidate) -> Result<(), (&'static str, &'static str)> {
    check_name(&candidate.name).map_err(|why| ("name", why))?;
    check_name(&candidate.zone).map_err(|why| ("zone", why))?;
    for (what, addr) in [("address", &candidate.addr), ("bulk address", &candidate.bulk_addr)] {
        if !is_addr(addr) {
            return Err((what, "`host:port` is expected"));
        }
    }
    match candidate.capacity {
        0 => Err(("capacity", "a founding member takes part of the ring: 1 at least")),
        _ => Ok(()),
    }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err("it has 1 to 64 bytes");
    }
    match name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        true => Err("it has no white space and no control characters"),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests;
