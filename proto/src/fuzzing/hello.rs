//! The law of the hello.

use crate::{
    hello::{HELLO_BYTES_MAX, Hello, Known, PREFIX_BYTES},
    id::{Epoch, Lineage, NodeId, StoreId},
};

/// Bytes are refused, or they give a hello that reads back unchanged.
///
/// # Panics
/// If a law of the decoder is broken.
pub fn hello(bytes: &[u8]) {
    let Some((prefix, body)) = bytes.split_first_chunk::<PREFIX_BYTES>() else { return };
    let Ok(len) = Hello::body_len(*prefix) else { return };
    assert!(len <= HELLO_BYTES_MAX, "no more is ever waited for");
    let Ok(hello) = Hello::decode(body.get(..len).unwrap_or(body)) else { return };
    let again = hello.encode();
    assert_eq!(
        Hello::decode(&again[PREFIX_BYTES..]),
        Ok(hello),
        "what was read can be written and read again"
    );
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let known = |message| Known { service: 9, message, schema: u64::MAX / 3 };
    let hello = Hello {
        node: NodeId(1),
        store: StoreId(2),
        boot: 3,
        nonce: 4,
        lineage: Lineage(5),
        epoch: Epoch(6),
        root: [7; 32],
        format: 8,
        messages: (0..50).map(known).collect(),
    };
    vec![Vec::new(), hello.encode().to_vec(), Hello::default().encode().to_vec()]
}
