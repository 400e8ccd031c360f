//! The plugins of our own, by name; and what they have in common.

mod file;
mod memory;
mod null;
mod pattern;

use std::ffi::OsStr;

use backstay_core::{Client, Disk, Export, OpenDisk, OpenError, ThreadModel};

use crate::plugin::Plugin;

/// Their names.
pub const NAMES: &[&str] = &["memory", "file", "null", "pattern"];

/// The plugin of a name.
#[must_use]
pub fn find(name: &OsStr) -> Option<Box<dyn Plugin>> {
    match name.to_str()? {
        "memory" => Some(Box::<memory::Memory>::default()),
        "file" => Some(Box::<file::File>::default()),
        "null" => Some(Box::<null::Null>::default()),
        "pattern" => Some(Box::<pattern::Pattern>::default()),
        _ => None,
    }
}

/// The parameters of a plugin of ours.
#[must_use]
pub fn parameters(name: &str) -> &'static [&'static str] {
    match name {
        "memory" => memory::PARAMETERS,
        "file" => file::PARAMETERS,
        "null" => null::PARAMETERS,
        "pattern" => pattern::PARAMETERS,
        _ => &[],
    }
}

/// Why a plugin of another name is not to be had.
#[must_use]
pub fn unknown() -> String {
    let names: Vec<&str> = std::iter::once("python").chain(NAMES.iter().copied()).collect();
    format!("there are {}", names.join(", "))
}

/// A disk that is the same under every name, and bears any number of calls.
struct Everywhere<F>(F);

impl<F: Fn(&Client) -> Result<Box<dyn OpenDisk>, OpenError> + Send + Sync> Disk for Everywhere<F> {
    fn threads(&self) -> ThreadModel {
        ThreadModel::Parallel
    }

    fn exports(&self, _client: &Client) -> Result<Vec<Export>, String> {
        Ok(vec![Export::default()])
    }

    fn identity(&self, _export: &[u8]) -> Vec<u8> {
        Vec::new()
    }

    fn open(&self, _export: &[u8], client: &Client) -> Result<Box<dyn OpenDisk>, OpenError> {
        (self.0)(client)
    }
}

/// Zeroes as they are sent: most come from memory that nobody has written.
static ZEROES: [u8; 256 << 10] = [0; 256 << 10];

/// So many zeroes.
pub(crate) fn zeroes(length: usize) -> backstay_core::ReadBytes {
    match ZEROES.get(..length) {
        Some(zeroes) => Box::new(zeroes),
        None => Box::new(vec![0; length]),
    }
}

/// Whether bytes are all zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(ZEROES.len()).all(|piece| piece == &ZEROES[..piece.len()])
}
