#![no_main]
//! See `pack_header` in `crates/fuzzing/src/targets.rs`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| backstay_fuzzing::run("pack_header", data));
