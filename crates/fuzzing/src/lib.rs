//! Every decoder of bytes that others wrote, as a function that any bytes may be given to.
//!
//! What a store holds, what a plugin's process sends, what a user typed: none of it may make the program panic, hang, or
//! take memory without a bound; and what was decoded and encoded again is the same. Each target says the second with
//! assertions. [`mutate`] drives them in an ordinary test, cargo-fuzz (`fuzz/`, `scripts/fuzz`) for as long as one likes.

pub mod mutate;
mod targets;

/// One decoder.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, as `scripts/fuzz` takes it.
    pub name: &'static str,
    /// Decodes any bytes; panics when something does not hold that must.
    pub run: fn(&[u8]),
    /// Inputs to begin with: bytes that our own encoders write.
    pub corpus: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = targets::ALL;

/// Runs the target of this name; for the programs in `fuzz/`.
///
/// # Panics
/// There is none of this name, or the target found something.
pub fn run(name: &str, data: &[u8]) {
    match TARGETS.iter().find(|target| target.name == name) {
        Some(target) => (target.run)(data),
        None => panic!("there is no target {name}"),
    }
}
