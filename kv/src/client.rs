//! The client: what an edge, or an embedding application, asks of the service.

use crate::{
    bucket::{DEFAULT_TYPE, Props},
    error::NameError,
    vnode::KvVnode,
};
use rondel_core::{
    Cluster,
    env::Env,
    proto::id::RequestId,
    request::{DEADLINE_DEFAULT, DEADLINE_MAX, ITEM_BYTES_MAX, Options, RequestError, Service},
};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

/// The largest object, with all its siblings: what fits into one message between nodes.
pub const OBJECT_BYTES_MAX: u64 = (ITEM_BYTES_MAX as u64) - (64 << 10);

/// What all requests of a client have in common.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// What objects may become.
    pub limits: Limits,
    /// The properties of the default bucket type. They are to be the same on all nodes.
    pub default_type: Props,
}

/// What objects may become by a put. Handoff and repair know no limits: what was acknowledged is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest object with all its siblings; at most [`OBJECT_BYTES_MAX`], which is also the default.
    pub object_bytes_max: u64,
    /// The most siblings. Default 100.
    pub siblings_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { object_bytes_max: OBJECT_BYTES_MAX, siblings_max: 100 }
    }
}

/// A client of the service, on a node of its cluster. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub(crate) service: Service<KvVnode>,
    pub(crate) env: Env,
    pub(crate) config: Arc<Config>,
}

impl fmt::Debug for Client {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Client").field("service", &self.service).field("config", &self.config).finish()
    }
}

impl Client {
    /// A client on this node.
    ///
    /// # Panics
    /// If the node was not given the service: `builder.service::<KvVnode>(…)`.
    #[must_use]
    pub fn new(cluster: &Cluster, config: Config) -> Self {
        Self { service: cluster.service(), env: cluster.env().clone(), config: Arc::new(config) }
    }

    /// The properties of a bucket type, with the n_val that this cluster has room for.
    ///
    /// # Errors
    /// [`NameError::UnknownType`]. There is only the default type so far.
    pub fn props(&self, kind: &[u8]) -> Result<Props, NameError> {
        if kind != DEFAULT_TYPE {
            return Err(NameError::UnknownType(kind.to_vec()));
        }
        let mut props = self.config.default_type.clone();
        // A node that does not serve yet says so when it is asked for more.
        if let Ok(replicas) = self.service.replicas() {
            props.n_val = props.n_val.min(replicas);
        }
        Ok(props)
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.env.unix_ms()
    }

    /// When a request that may take so long is of no more use.
    pub(crate) fn deadline(&self, timeout: Option<Duration>) -> Instant {
        self.env.now() + timeout.unwrap_or(DEADLINE_DEFAULT).min(DEADLINE_MAX)
    }

    /// How long that is from now.
    pub(crate) fn left(&self, deadline: Instant) -> Duration {
        deadline.saturating_duration_since(self.env.now())
    }

    pub(crate) fn new_request_id(&self) -> RequestId {
        RequestId(self.env.random_u128())
    }
}

/// Options of core for a request on a key with these properties.
pub(crate) fn options(props: &Props, timeout: Option<Duration>, strict: bool) -> Options {
    let defaults = Options::default();
    Options { n: Some(props.n_val), deadline: timeout.unwrap_or(defaults.deadline), strict, ..defaults }
}

/// Refuses a request's own n_val if the bucket has less.
pub(crate) fn n_val(asked: Option<u8>, props: &Props) -> Result<u8, RequestError> {
    match asked {
        Some(asked) if asked == 0 || asked > props.n_val => {
            Err(RequestError::Unsatisfiable { asked, n: props.n_val })
        }
        asked => Ok(asked.unwrap_or(props.n_val)),
    }
}
