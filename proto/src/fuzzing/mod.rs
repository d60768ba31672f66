//! The laws of the decoders, each as a function that holds for every byte string, and inputs to try them on.
//!
//! A decoder never panics, gives the same whatever the chunks that bytes arrive in, and what it accepts it can
//! write again and read back unchanged. The functions here panic where a law is broken. They are driven by the
//! fuzzing engine (`proto/fuzz`), by `cargo xtask fuzz` with [`Inputs`], which needs no engine, and by this
//! repository's tests. Feature `fuzzing`; nothing of this is in a release.

mod archive;
mod chunks;
mod frame;
mod hello;
mod inputs;
mod pbc;

pub use archive::{Choice, Sample, archive, archive_of};
pub use frame::frame;
pub use hello::hello;
pub use inputs::Inputs;
pub use pbc::pbc;

/// A decoder, its law, and valid bytes to begin with.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name of the fuzz target.
    pub name: &'static str,
    /// Panics if the law does not hold for these bytes.
    pub run: fn(&[u8]),
    /// Valid inputs, from which others are made.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All decoders of this crate.
pub const TARGETS: [Target; 4] = [
    Target { name: "archive", run: archive::archive, seeds: archive::seeds },
    Target { name: "frame", run: frame::frame, seeds: frame::seeds },
    Target { name: "hello", run: hello::hello, seeds: hello::seeds },
    Target { name: "pbc", run: pbc::pbc, seeds: pbc::seeds },
];
