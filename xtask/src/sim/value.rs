//! The values of a run: each write is named by its request, and every byte of its value follows from that, so that a
//! damaged one is told from one that nobody wrote.

use super::history::{Seen, WriteId};
use rondel_core::{env::Rng, proto::id::RequestId};
use rondel_kv::{Content, Fetched, Sibling};

/// The request of a write.
pub(crate) fn request(id: WriteId) -> RequestId {
    RequestId(u128::from(id))
}

/// The content of a write.
pub(crate) fn content(id: WriteId, deletes: bool) -> Content {
    if deletes {
        return Content::tombstone();
    }
    Content { value: value(id), ..Content::default() }
}

/// Whether the value of a write is small in any case.
pub(crate) fn is_small(id: WriteId) -> bool {
    id.is_multiple_of(2)
}

fn value(id: WriteId) -> Vec<u8> {
    let mut rng = Rng::from_seed(u64::from(id));
    let len = match rng.below(20) {
        _ if is_small(id) => rng.index(40),
        0 => 8_192 + rng.index(65_536),
        1..4 => 1_024,
        _ => rng.index(200),
    };
    let mut value = id.to_le_bytes().to_vec();
    value.extend((0..len).map(|_| rng.u64().to_le_bytes()[0]));
    value
}

/// Which write a sibling is of; or what is wrong with it.
fn write_of(sibling: &Sibling) -> Result<WriteId, String> {
    let id = WriteId::try_from(sibling.request().0)
        .map_err(|_| format!("a sibling of a request that nobody made, {:?}", sibling.request()))?;
    if sibling.content == content(id, sibling.is_deleted()) {
        Ok(id)
    } else {
        Err(format!("a value that says it is of write {id} and is not"))
    }
}

/// The siblings, as the checkers need them.
pub(crate) fn siblings(siblings: &[Sibling]) -> Result<Vec<Seen>, String> {
    siblings.iter().map(|sibling| Ok(Seen { write: write_of(sibling)?, dot: sibling.vtag() })).collect()
}

/// What a read found; nothing if there was nothing.
pub(crate) fn found(fetched: Option<&Fetched>) -> Result<Vec<Seen>, String> {
    fetched.map_or_else(|| Ok(Vec::new()), |fetched| siblings(&fetched.siblings))
}
