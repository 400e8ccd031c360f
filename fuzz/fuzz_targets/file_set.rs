#![no_main]
//! See `file_set` in `crates/fuzzing/src/targets.rs`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| backstay_fuzzing::run("file_set", data));
