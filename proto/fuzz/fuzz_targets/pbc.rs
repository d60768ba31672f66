//! See `rondel_proto::fuzzing::pbc`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rondel_proto::fuzzing::pbc(bytes));
