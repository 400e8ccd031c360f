#![no_main]
//! See `blob` in `crates/fuzzing/src/targets.rs`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| backstay_fuzzing::run("blob", data));
