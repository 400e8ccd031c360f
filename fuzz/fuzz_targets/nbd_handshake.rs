#![no_main]
//! See `nbd_handshake` in `crates/fuzzing/src/targets.rs`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| backstay_fuzzing::run("nbd_handshake", data));
