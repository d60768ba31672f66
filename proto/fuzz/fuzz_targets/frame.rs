//! See `rondel_proto::fuzzing::frame`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rondel_proto::fuzzing::frame(bytes));
