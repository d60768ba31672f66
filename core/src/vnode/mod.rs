//! The plug-in point: what an application writes, and what runs it.
//!
//! An application writes a [`Vnode`]: what one partition of a service does on one node. It says how two items of a
//! key merge ([`State`]) and handles messages ([`Handle`]). Everything else is core's: where keys live, which nodes
//! are asked, how many must answer, hints for nodes that are down, repair, durability. The table layer
//! ([`crate::table`]) is shorter still.
//!
//! A node's host finds the vnode of a request and hands the request to the lane that owns it.

mod ctx;
pub(crate) mod fetch;
mod handle;
pub(crate) mod host;
pub(crate) mod job;
pub(crate) mod lane;
mod parked;
pub(crate) mod service;
mod state;
mod window;

pub use ctx::Ctx;
pub(crate) use ctx::{Absorbed, DotSource};
pub(crate) use handle::service_code;
pub use handle::{BoxError, Handle, Refusal, Registry, Scan, Storage, Vnode};
pub(crate) use service::Service;
pub use state::{Digest, Held, Merged, State, Stateless};
