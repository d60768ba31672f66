//! Founding a cluster, joining one that is being formed, and letting others in.

use super::{Node, NodeConfig, NodeState, StartPhase, config::Founding};
use crate::{
    durable::{Durable, DurableError},
    env::{Env, WorkLost},
    membership::{
        DataDir, JoinSecret, JoinToken,
        forming::{
            self, Admission, Candidate, FORMAT, FoundError, InstallError, JoinRefusal, JoinReply, JoinRequest,
        },
        token::{Door, TokenError},
    },
    reply::{Failure, FailureCode, Outcome},
    ring::{ClaimError, Occupant},
    sequence::{ChangeId, Delta, Proposal, Record, State},
    transport::{PeerInfo, Transport},
};
use bytes::Bytes;
use rondel_proto::{Msg, Wire, id::Lineage};
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::watch;

/// How long a node that wants to join waits for an answer, and between two attempts.
const JOIN_DEADLINE: Duration = Duration::from_secs(30);
const JOIN_RETRY: Duration = Duration::from_millis(500);
/// How often a join is tried before the node gives up.
const JOIN_ATTEMPTS_MAX: u32 = 120;
/// The founder's file with the secret of its token.
const SECRET: &str = "join-secret";

/// Why a cluster could not be founded or joined.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The cluster can't be as it was asked for.
    #[error(transparent)]
    Found(#[from] FoundError),
    /// The ring can't be given out.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The token can't be made.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The member at the door said no.
    #[error("the cluster does not let this node in: {0}")]
    Refused(JoinRefusal),
    /// Nobody answered.
    #[error("no member answered at {doors}: see that one of them runs and can be reached; last: {last}")]
    NoAnswer {
        /// Where.
        doors: String,
        /// What the last attempt came to.
        last: String,
    },
    /// What the member sent can't be installed.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// The founder's secret can't be kept.
    #[error("the join token can't be kept in the data directory: {0}")]
    Keep(#[from] DurableError),
    /// Blocking work was lost: the process is ending.
    #[error(transparent)]
    Lost(#[from] WorkLost),
}

/// Where other nodes reach this one.
pub(super) struct Addresses {
    addr: SocketAddr,
    bulk_addr: SocketAddr,
}

impl Addresses {
    pub(super) fn of(config: &NodeConfig, transport: &Transport, bulk: &Transport) -> Self {
        Self {
            addr: config.advertise.unwrap_or_else(|| transport.local_addr()),
            bulk_addr: config.bulk_advertise.unwrap_or_else(|| bulk.local_addr()),
        }
    }
}

fn candidate(config: &NodeConfig, data: &DataDir, at: &Addresses) -> Candidate {
    Candidate {
        node: data.node(),
        store: data.store(),
        name: config.name.clone(),
        addr: at.addr.to_string(),
        bulk_addr: at.bulk_addr.to_string(),
        capacity: config.capacity,
        zone: config.zone.clone(),
        format_max: FORMAT,
    }
}

/// The first state of a cluster that this node founds; formed at once if nobody else is to come.
pub(super) async fn found(
    env: &Env,
    config: &NodeConfig,
    founding: &Founding,
    data: &Arc<DataDir>,
    at: &Addresses,
) -> Result<State, JoinError> {
    let secret = keep_secret(env, data).await?;
    let founding = forming::Founding {
        name: founding.cluster.clone(),
        founders: founding.founders,
        bits: founding.bits,
        replicas: founding.replicas,
        join_secret: secret.hash(),
    };
    let (lineage, change) = (Lineage(env.random_u128()), ChangeId(env.random_u128()));
    let me = candidate(config, data, at);
    Ok(forming::found(lineage, change, founding, &me, data.certificate().fingerprint())?)
}

fn secret_path(data: &DataDir) -> PathBuf {
    data.path().join(SECRET)
}

/// Draws the secret that lets founding members in and keeps it; an interrupted founding finds the one it drew.
async fn keep_secret(env: &Env, data: &Arc<DataDir>) -> Result<JoinSecret, JoinError> {
    let (inner, data) = (env.clone(), data.clone());
    let kept = move || {
        let path = secret_path(&data);
        if let Some((_, secret)) = Durable::<JoinSecret>::open(data.disk(), &path)? {
            return Ok(secret);
        }
        let secret = JoinSecret::draw(&inner);
        Durable::create(data.disk(), &path, &secret)?;
        Ok::<_, DurableError>(secret)
    };
    Ok(env.block(kept).await??)
}

/// The text that lets founding members in; none on a node that did not found its cluster, or once it is formed.
pub(super) async fn token_of(
    env: &Env,
    data: &Arc<DataDir>,
    state: &State,
) -> Result<Option<String>, JoinError> {
    let member = state.member(data.node());
    let Some(member) = member.filter(|_| !state.is_formed()) else { return Ok(None) };
    let door = Door { addr: member.addr.clone(), fingerprint: member.fingerprint };
    let data = data.clone();
    let kept = env.block(move || Durable::<JoinSecret>::open(data.disk(), &secret_path(&data))).await??;
    let Some((_, secret)) = kept else { return Ok(None) };
    Ok(Some(JoinToken::new(state.lineage, secret, vec![door])?.to_text()))
}

/// Knocks at the token's doors until one of them lets this node in.
pub(super) async fn join(
    env: &Env,
    config: &NodeConfig,
    token: &JoinToken,
    data: &DataDir,
    at: &Addresses,
    transport: &Transport,
    phase: &watch::Sender<StartPhase>,
) -> Result<Record, JoinError> {
    phase.send_replace(StartPhase::Joining { last: None });
    let request = JoinRequest::new(token, candidate(config, data, at)).encode();
    let mut last = String::from("no address in the token");
    for _ in 0..JOIN_ATTEMPTS_MAX {
        for door in token.doors() {
            match knock(door, &request, transport).await {
                Ok(JoinReply::Admitted(state)) => {
                    let me = Occupant { node: data.node(), store: data.store() };
                    return Ok(forming::install(*state, token, me, data.certificate().fingerprint())?);
                }
                Ok(JoinReply::Refused(JoinRefusal::Undecided)) => last = JoinRefusal::Undecided.to_string(),
                Ok(JoinReply::Refused(refusal)) => return Err(JoinError::Refused(refusal)),
                Err(why) => {
                    // Once for each reason: there are many attempts, and somebody may be waiting in front of them.
                    if why != last {
                        tracing::warn!(addr = %door.addr, why, "the cluster does not answer; trying again");
                    }
                    last = why;
                }
            }
        }
        phase.send_replace(StartPhase::Joining { last: Some(last.clone()) });
        env.sleep(JOIN_RETRY).await;
    }
    let doors = token.doors().iter().map(|door| door.addr.as_str()).collect::<Vec<_>>().join(", ");
    Err(JoinError::NoAnswer { doors, last })
}

async fn knock(door: &Door, request: &Bytes, transport: &Transport) -> Result<JoinReply, String> {
    let addr: SocketAddr =
        door.addr.parse().map_err(|_| format!("`{}` is no IP address and port", door.addr))?;
    let head = super::control::head::<JoinRequest>(JOIN_DEADLINE);
    let outcome = transport.join_request(addr, door.fingerprint, head, &[], request.clone()).await;
    let body = outcome.map_err(|failure| failure.to_string())?;
    let reply = Msg::<JoinReply>::from_bytes(body).map_err(|bad| bad.to_string())?;
    Ok(reply.to_owned())
}

impl Node {
    /// Answers a node that wants to join.
    pub(super) async fn on_join(self: &Arc<Self>, from: &PeerInfo, body: Bytes) -> Outcome {
        let request = Msg::<JoinRequest>::from_bytes(body)
            .map_err(|bad| Failure::because(FailureCode::BadRequest, bad))?
            .to_owned();
        let reply = match self.let_in(from, &request).await {
            Ok(state) => JoinReply::Admitted(Box::new(State::clone(&state))),
            Err(refusal) => JoinReply::Refused(refusal),
        };
        Ok(reply.encode())
    }

    async fn let_in(
        self: &Arc<Self>,
        from: &PeerInfo,
        request: &JoinRequest,
    ) -> Result<Arc<State>, JoinRefusal> {
        let state = self.sequence.state().await;
        if let Admission::Decide(deltas) = forming::admit(&state, request, from.fingerprint)? {
            let change = ChangeId(self.shared.random_u128());
            if let Err(error) = self.sequence.change(self, change, deltas).await {
                tracing::warn!(node = %request.candidate.node, %error, "a node could not be let in");
                return Err(JoinRefusal::Undecided);
            }
            tracing::info!(node = %request.candidate.node, name = request.candidate.name, "a founding member has joined");
        }
        Ok(self.sequence.state().await)
    }

    /// Goes on with forming the cluster, as far as the state is ready for it.
    pub(super) fn go_on_forming(self: &Arc<Self>, state: &State) {
        let present = state.topology.members.len();
        let needed = usize::from(state.topology.founders);
        self.shared.state.send_if_modified(|own| {
            let forming = NodeState::Forming { present, needed };
            let changed = matches!(own, NodeState::Starting | NodeState::Forming { .. }) && *own != forming;
            if changed {
                *own = forming;
            }
            changed
        });
        match forming::next_step(state) {
            Ok(Some(Proposal { change, deltas })) if state.is_voter(self.occupant()) => {
                self.decide(change, deltas)
            }
            Ok(_) => {}
            Err(error) => self.fail(&format!("the ring can't be given out: {error}")),
        }
    }

    fn decide(self: &Arc<Self>, change: ChangeId, deltas: Vec<Delta>) {
        let node = self.clone();
        self.shared.env.spawn("form", async move {
            if let Err(error) = node.sequence.change(&node, change, deltas).await {
                tracing::warn!(%error, "the cluster is not formed yet");
            }
        });
    }
}
