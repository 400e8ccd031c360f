#![no_main]
//! See `index_file` in `crates/fuzzing/src/targets.rs`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| backstay_fuzzing::run("index_file", data));
