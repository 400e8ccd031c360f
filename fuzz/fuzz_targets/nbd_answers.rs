#![no_main]
//! See `nbd_answers` in `crates/fuzzing/src/targets.rs`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| backstay_fuzzing::run("nbd_answers", data));
