//! See `rondel_proto::fuzzing::hello`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rondel_proto::fuzzing::hello(bytes));
