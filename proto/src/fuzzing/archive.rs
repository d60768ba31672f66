//! The law of archives.

use crate::{
    Msg, Wire,
    id::{Actor, Dot, Epoch, Hlc, Incarnation, Lineage, NodeId, Position, RequestId, StoreId, Ver},
    wire,
};
use bytes::Bytes;
use std::collections::BTreeMap;

/// A type with everything in it that wire types are made of.
#[wire(crate = crate)]
#[derive(PartialEq)]
#[expect(missing_docs, reason = "the fields mean nothing")]
pub struct Sample {
    pub node: NodeId,
    pub store: StoreId,
    pub lineage: Lineage,
    pub request: RequestId,
    pub place: (Position, Ver, Epoch),
    pub clock: Hlc,
    pub dots: Vec<Dot>,
    pub root: [u8; 32],
    pub name: String,
    pub nested: Vec<Vec<u8>>,
    pub by_name: BTreeMap<String, Vec<(NodeId, u64)>>,
    pub boxed: Option<Box<String>>,
    pub choices: Vec<Choice>,
    pub small: (bool, char),
}

/// One of several.
#[wire(crate = crate)]
#[derive(PartialEq)]
#[expect(missing_docs, reason = "the variants mean nothing")]
pub enum Choice {
    Nothing,
    One(u64),
    Two { left: String, right: Option<Actor> },
}

/// The law for [`Sample`].
///
/// # Panics
/// If a law of archives is broken.
pub fn archive(bytes: &[u8]) {
    archive_of::<Sample>(bytes);
}

/// Bytes are refused, or they give a value whose archive gives the same archive again.
///
/// # Panics
/// If a law of archives is broken.
pub fn archive_of<T: Wire>(bytes: &[u8]) {
    let Ok(msg) = Msg::<T>::from_bytes(Bytes::copy_from_slice(bytes)) else { return };
    let again = Msg::new(&msg.to_owned());
    let checked = Msg::<T>::from_bytes(again.bytes().clone()).expect("our own archive is valid");
    assert_eq!(again.bytes(), Msg::new(&checked.to_owned()).bytes(), "one value has one archive");
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let actor = Actor { incarnation: Incarnation(1), birth: 2 };
    let full = Sample {
        node: NodeId(1),
        store: StoreId(2),
        lineage: Lineage(3),
        request: RequestId(4),
        place: (Position(5), Ver(6), Epoch(7)),
        clock: Hlc(8),
        dots: vec![Dot { actor, counter: 9 }; 3],
        root: [10; 32],
        name: "a name that is longer than what fits inline".into(),
        nested: vec![vec![1, 2, 3], Vec::new()],
        by_name: (0..20).map(|n| (format!("name {n}"), vec![(NodeId(n), 1)])).collect(),
        boxed: Some(Box::new("boxed".into())),
        choices: vec![
            Choice::Nothing,
            Choice::One(u64::MAX),
            Choice::Two { left: "left".into(), right: Some(actor) },
        ],
        small: (true, 'é'),
    };
    let empty = Sample {
        dots: Vec::new(),
        name: String::new(),
        nested: Vec::new(),
        by_name: BTreeMap::new(),
        boxed: None,
        choices: Vec::new(),
        ..full.clone()
    };
    vec![Vec::new(), full.encode().to_vec(), empty.encode().to_vec()]
}
