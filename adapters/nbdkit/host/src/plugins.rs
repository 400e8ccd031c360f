//! The plugins of our own, by name.

use std::ffi::OsStr;

use crate::plugin::Plugin;

/// Their names.
pub const NAMES: &[&str] = &[];

/// The plugin of a name.
#[must_use]
pub fn find(name: &OsStr) -> Option<Box<dyn Plugin>> {
    let _ = name;
    None
}

/// Why a plugin of another name is not to be had.
#[must_use]
pub fn unknown() -> String {
    let names: Vec<&str> = std::iter::once("python").chain(NAMES.iter().copied()).collect();
    format!("there are {}", names.join(", "))
}
