//! Whatever bytes come from outside, the decoders give a value or an error.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use rondel_proto::{
    Msg, Wire,
    frame::{
        FRAME_INLINE_BYTES_MAX, Frame, Head, put_accepted, put_failure, put_reply, put_request, take_frame,
    },
    fuzzing::{Inputs, Sample, TARGETS, Target},
    hello::{Hello, PREFIX_BYTES},
    id::{Actor, Dot, Incarnation, NodeId, Position, RequestId, Ver},
};

const ROUNDS: usize = 3000;

fn target(name: &str) -> Target {
    *TARGETS.iter().find(|target| target.name == name).expect("a target of this name")
}

fn survives_damage(name: &str) {
    let target = target(name);
    for input in Inputs::new((target.seeds)(), 1).take(ROUNDS) {
        (target.run)(&input);
    }
}

#[test]
fn damaged_frames_break_no_law() {
    survives_damage("frame");
}

#[test]
fn damaged_archives_break_no_law() {
    survives_damage("archive");
}

#[test]
fn damaged_hellos_break_no_law() {
    survives_damage("hello");
}

#[test]
fn damaged_messages_of_riak_clients_break_no_law() {
    survives_damage("pbc");
}

#[test]
fn the_valid_inputs_are_valid() {
    for seed in (target("hello").seeds)().into_iter().filter(|seed| !seed.is_empty()) {
        Hello::decode(&seed[PREFIX_BYTES..]).expect("a hello");
    }
    for seed in (target("archive").seeds)().into_iter().filter(|seed| !seed.is_empty()) {
        Msg::<Sample>::from_bytes(Bytes::from(seed)).expect("an archive");
    }
    for seed in (target("frame").seeds)().into_iter().filter(|seed| !seed.is_empty()) {
        let mut buffer = BytesMut::from(&seed[1..]);
        assert!(take_frame(&mut buffer, FRAME_INLINE_BYTES_MAX).expect("a frame").is_some());
    }
}

#[test]
fn every_fuzz_target_has_its_file_and_every_file_its_target() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/fuzz_targets");
    let files = std::fs::read_dir(folder).expect("the fuzz targets");
    let mut names: Vec<String> =
        files.map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    assert_eq!(names, TARGETS.map(|target| target.name));
}

#[test]
fn identifiers_are_archived_as_little_endian_numbers_without_padding() {
    assert_eq!(NodeId(1).encode()[..], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(Ver(0x0102_0304).encode()[..], [4, 3, 2, 1]);
    let dot = Dot { actor: Actor { incarnation: Incarnation(1), birth: 2 }, counter: 3 };
    assert_eq!(dot.encode()[..], [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
}

fn head() -> impl Strategy<Value = Head> {
    let numbers = (any::<u32>(), any::<u16>(), any::<u8>(), any::<u16>(), any::<u16>());
    let ids = (any::<u32>(), any::<u64>(), any::<u128>(), any::<u32>());
    (numbers, ids).prop_map(
        |((service, message, flags, slots, stand_in), (ver, position, request, deadline_us))| {
            let (ver, position, request_id) = (Ver(ver), Position(position), RequestId(request));
            Head { service, message, flags, slots, stand_in, ver, position, request_id, deadline_us }
        },
    )
}

fn some_bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        (any::<u64>(), head(), some_bytes(), some_bytes())
            .prop_map(|(correlation, head, key, body)| Frame::Request { correlation, head, key, body }),
        (any::<u64>(), some_bytes()).prop_map(|(correlation, body)| Frame::Reply { correlation, body }),
        (any::<u64>(), any::<u16>(), some_bytes()).prop_map(|(correlation, code, detail)| Frame::Failure {
            correlation,
            code,
            detail
        }),
        any::<u64>().prop_map(|correlation| Frame::Accepted { correlation }),
    ]
}

fn put(out: &mut BytesMut, frame: &Frame) {
    match frame {
        Frame::Request { correlation, head, key, body } => put_request(out, *correlation, head, key, body),
        Frame::Reply { correlation, body } => put_reply(out, *correlation, body),
        Frame::Failure { correlation, code, detail } => put_failure(out, *correlation, *code, detail),
        Frame::Accepted { correlation } => put_accepted(out, *correlation),
    }
}

proptest! {
    #[test]
    fn frames_arrive_as_they_were_sent_in_whatever_chunks(
        frames in prop::collection::vec(frame(), 1..8),
        chunks in prop::collection::vec(1_usize..300, 1..20),
    ) {
        let mut sent = BytesMut::new();
        frames.iter().for_each(|frame| put(&mut sent, frame));
        let (mut buffer, mut received, mut lengths) = (BytesMut::new(), Vec::new(), chunks.iter().cycle());
        while !sent.is_empty() {
            let len = lengths.next().copied().unwrap().min(sent.len());
            buffer.extend_from_slice(&sent.split_to(len));
            while let Some(frame) = take_frame(&mut buffer, FRAME_INLINE_BYTES_MAX).unwrap() {
                received.push(frame);
            }
        }
        prop_assert_eq!(received, frames);
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn no_bytes_at_all_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        for target in TARGETS {
            (target.run)(&bytes);
        }
    }

    #[test]
    fn any_sixteen_bytes_are_a_node(bytes in any::<[u8; 16]>()) {
        let msg = Msg::<NodeId>::from_bytes(Bytes::copy_from_slice(&bytes)).unwrap();
        prop_assert_eq!(NodeId::from(&*msg), NodeId(u128::from_le_bytes(bytes)));
        prop_assert!(Msg::<NodeId>::from_bytes(Bytes::copy_from_slice(&bytes[1..])).is_err());
    }
}
