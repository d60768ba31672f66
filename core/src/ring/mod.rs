//! Where things are: positions, partitions, who owns which slot, and who stands in.
//!
//! A key hashes to a [`Position`]; the top bits of a position name its [`Partition`]; a partition has numbered slots,
//! and the decided [`Placement`] says who occupies each. [`claim()`] computes a placement from the members;
//! [`PreferenceList`] turns a partition's slots and what is known of liveness into the nodes that a request goes to.
//!
//! All of it is pure: the same arguments give the same result on every node (DESIGN §4, PROTOCOLS §2, §4, §5).

mod claim;
mod partition;
mod placement;
mod position;
mod preference_list;

pub use claim::{ClaimError, Claimant, claim};
pub use partition::{Bits, BitsError, Partition};
pub use placement::{
    BadPlacement, Move, Occupant, PartitionSlots, Phase, Placement, REPLICAS_MAX, SlotEntry,
};
pub use position::position_of;
pub use preference_list::{ActiveList, PreferenceList, RingMember, Seat, Serving, Use};
pub use rondel_proto::id::Position;
