//! Who belongs to a cluster: the identity of a data directory, the token that lets a node in, forming a cluster.

pub mod certificate;
pub mod data_dir;
pub mod gossip;

pub use certificate::{Certificate, fingerprint};
pub use data_dir::{DataDir, DataDirError};

/// x
#[derive(Debug, Clone)]
pub struct Token;
#[rondel_proto::message(id = 48, crate = rondel_proto)]
/// x
pub struct JoinRequest {
    x: u8,
}
