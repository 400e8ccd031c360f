#![no_main]
//! See `key_file` in `crates/fuzzing/src/targets.rs`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| backstay_fuzzing::run("key_file", data));
