//! The identifiers that nodes exchange. Each is a type of its own: none can stand in for another.

use crate::wire;
use std::fmt;

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident($inner:ty), $width:literal) => {
        $(#[$doc])*
        #[wire(crate = crate)]
        #[derive(Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[rkyv(derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash))]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, concat!("{:0", $width, "x}"), self.0)
            }
        }
    };
}

identifier! {
    /// A node, for life; its name, address and certificate are attributes.
    NodeId(u128), 32
}
identifier! {
    /// A store: made when a data directory is formatted, and kept in it.
    StoreId(u128), 32
}
identifier! {
    /// A line of decided states; `cluster recover` starts a new one.
    Lineage(u128), 32
}
identifier! {
    /// One opening of a store, drawn at every open and held in memory only.
    Incarnation(u64), 16
}
identifier! {
    /// A request of a client, kept over its retries.
    RequestId(u128), 32
}
identifier! {
    /// A place on the ring: the first 8 bytes, big-endian, of BLAKE3 over a service's routing bytes.
    Position(u64), 16
}
identifier! {
    /// How many entries of the decided sequence have been decided.
    Epoch(u64), 1
}
identifier! {
    /// How often the slots of one partition have changed.
    Ver(u32), 1
}
identifier! {
    /// A hybrid logical clock: milliseconds since 1970 in the upper 48 bits, a counter in the lower 16.
    Hlc(u64), 16
}

/// Who issues dots: a birth of a row under one incarnation of a store (PROTOCOLS §1).
#[wire(crate = crate)]
#[derive(Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[rkyv(derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash))]
pub struct Actor {
    /// The opening of the store that issued it.
    pub incarnation: Incarnation,
    /// Which birth of a row under that incarnation.
    pub birth: u64,
}

impl fmt::Display for Actor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.incarnation, self.birth)
    }
}

/// One event: the `counter`-th of `actor`. Never issued twice.
#[wire(crate = crate)]
#[derive(Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[rkyv(derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash))]
pub struct Dot {
    /// Who issued it.
    pub actor: Actor,
    /// Its number, from 1, growing with every dot of the store's incarnation.
    pub counter: u64,
}

macro_rules! from_view {
    ($($name:ident)*) => { $(
        impl From<&rkyv::Archived<$name>> for $name {
            fn from(view: &rkyv::Archived<$name>) -> Self {
                Self(view.0.to_native())
            }
        }
    )* };
}
from_view!(NodeId StoreId Lineage Incarnation RequestId Position Epoch Ver Hlc);

impl From<&rkyv::Archived<Actor>> for Actor {
    fn from(view: &rkyv::Archived<Actor>) -> Self {
        Self { incarnation: (&view.incarnation).into(), birth: view.birth.to_native() }
    }
}

impl From<&rkyv::Archived<Dot>> for Dot {
    fn from(view: &rkyv::Archived<Dot>) -> Self {
        Self { actor: (&view.actor).into(), counter: view.counter.to_native() }
    }
}
