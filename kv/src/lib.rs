//! Riak KV's semantics on `rondel-core`: objects with siblings under (bucket type, bucket, key).
//!
//! [`Client`] is what an edge talks to; [`KvVnode`] is what serves a partition. Both use only what core offers to any
//! application.
//!
//! What is promised: a put replaces what its context has seen and nothing else, so a put without a context never
//! overwrites; siblings are never dropped by a merge; a delete is a put of a tombstone. Last-write-wins is opt-in
//! ([`Props::allow_mult`]) and documented as lossy.
//!
//! ```no_run
//! # async fn run(env: rondel_core::env::Env) -> Result<(), Box<dyn std::error::Error>> {
//! use rondel_core::{Cluster, node::NodeConfig};
//! use rondel_kv::{Bucket, Client, Config, Content, GetOptions, KvVnode, PutOptions, VnodeConfig};
//!
//! let config = NodeConfig::new("data", "alpha");
//! let cluster = Cluster::builder(env, config).service::<KvVnode>(VnodeConfig::default()).start().await?;
//! cluster.serving().await?;
//! let client = Client::new(&cluster, Config::default());
//! let bucket = Bucket::new("people")?;
//! client.put(&bucket, Some(b"ada"), Content::text("countess"), PutOptions::default()).await?;
//! let fetched = client.get(&bucket, b"ada", GetOptions::default()).await?.expect("just written");
//! let newer = PutOptions { context: fetched.context.clone(), ..PutOptions::default() };
//! client.put(&bucket, Some(b"ada"), Content::text("mathematician"), newer).await?;
//! # Ok(()) }
//! ```

mod base62;
mod bucket;
mod client;
mod command;
mod content;
mod context;
mod delete;
mod error;
mod get;
mod list;
mod object;
mod put;
mod vnode;

pub use bucket::{Bucket, DEFAULT_TYPE, NAME_BYTES_MAX, Props};
pub use client::{Client, Config, Limits, OBJECT_BYTES_MAX};
pub use command::{Condition, List, Put, PutRefusal, PutReply};
pub use content::{Content, Link};
pub use context::{BadContext, Context};
pub use delete::{DeleteOptions, Deleted};
pub use error::{DeleteError, GetError, ListError, NameError, PutError};
pub use get::{Fetched, GetOptions};
pub use list::ListOptions;
pub use object::{Object, Sibling, view};
pub use put::{PutOptions, Stored};
pub use rondel_core::request::{Need, RequestError, Requirement};
pub use vnode::{KvVnode, VnodeConfig};
