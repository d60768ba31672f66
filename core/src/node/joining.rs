//! (being written)
use super::{FORMAT, Founding, Node, NodeConfig};
use crate::{
    env::Env,
    membership::DataDir,
    reply::{Failure, FailureCode, Outcome},
    ring::{Claimant, claim},
    sequence::{ChangeId, Member, MemberStatus, State, Topology},
    transport::{PeerInfo, Transport},
};
use bytes::Bytes;
use rondel_proto::id::Lineage;
use std::{net::SocketAddr, sync::Arc};
/// x
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct JoinError;
pub(super) struct Address {
    addr: SocketAddr,
    bulk: SocketAddr,
}
impl Address {
    pub(super) fn of(config: &NodeConfig, transport: &Transport, bulk: &Transport) -> Self {
        Self {
            addr: config.advertise.unwrap_or(transport.local_addr()),
            bulk: config.bulk_advertise.unwrap_or(bulk.local_addr()),
        }
    }
}
pub(super) fn token_of(_: &DataDir, _: &State) -> Result<Option<String>, JoinError> {
    Ok(None)
}
pub(super) fn found(
    env: &Env,
    config: &NodeConfig,
    f: &Founding,
    data: &DataDir,
    at: &Address,
) -> Result<(State, Option<String>), JoinError> {
    let member = Member {
        node: data.node(),
        store: data.store(),
        name: config.name.clone(),
        addr: at.addr.to_string(),
        bulk_addr: at.bulk.to_string(),
        fingerprint: data.certificate().fingerprint(),
        capacity: config.capacity,
        zone: config.zone.clone(),
        status: MemberStatus::Valid,
    };
    let c = Claimant {
        node: data.node(),
        store: data.store(),
        capacity: config.capacity,
        zone: config.zone.clone(),
    };
    let placement = claim(&[c], f.bits, f.replicas.into(), None).map_err(|_| JoinError)?;
    let topology = Topology {
        name: f.cluster.clone(),
        founders: f.founders,
        bits: f.bits,
        replicas: f.replicas,
        join_secret: None,
        members: vec![member],
        placement: Some(placement),
    };
    Ok((State::genesis(Lineage(env.random_u128()), ChangeId(env.random_u128()), FORMAT, topology), None))
}
pub(super) async fn join(
    _: &Env,
    _: &NodeConfig,
    _: &crate::membership::JoinToken,
    _: &DataDir,
    _: &Address,
    _: &Transport,
) -> Result<State, JoinError> {
    Err(JoinError)
}
impl Node {
    pub(super) async fn on_join(self: &Arc<Self>, _: &PeerInfo, _: Bytes) -> Outcome {
        Err(Failure::new(FailureCode::Unsupported))
    }
}
