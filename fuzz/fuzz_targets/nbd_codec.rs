#![no_main]
//! See `nbd_codec` in `crates/fuzzing/src/targets.rs`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| backstay_fuzzing::run("nbd_codec", data));
