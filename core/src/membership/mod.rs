//! Who belongs to a cluster: the identity of a data directory, the token that lets a node in, forming a cluster.

pub mod certificate;
pub mod data_dir;
pub mod forming;
pub mod gossip;
pub mod token;
pub mod view;

pub use certificate::{Certificate, fingerprint};
pub use data_dir::{DataDir, DataDirError};
pub use token::{JoinSecret, JoinToken};
pub use view::View;
