//! The filters of our own, by name.

mod cow;
mod delay;
mod error;
mod offset;
mod truncate;

use std::ffi::OsStr;

use crate::filter::Filter;

/// Their names.
pub const NAMES: &[&str] = &["cow", "delay", "error", "offset", "truncate"];

/// The filter of a name.
#[must_use]
pub fn find(name: &OsStr) -> Option<Box<dyn Filter>> {
    match name.to_str()? {
        "cow" => Some(Box::<cow::Cow>::default()),
        "delay" => Some(Box::<delay::Delay>::default()),
        "error" => Some(Box::<error::ErrorFilter>::default()),
        "offset" => Some(Box::<offset::Offset>::default()),
        "truncate" => Some(Box::<truncate::Truncate>::default()),
        _ => None,
    }
}

/// The parameters of a filter of ours.
#[must_use]
pub fn parameters(name: &str) -> &'static [&'static str] {
    match name {
        "cow" => cow::PARAMETERS,
        "delay" => delay::PARAMETERS,
        "error" => error::PARAMETERS,
        "offset" => offset::PARAMETERS,
        "truncate" => truncate::PARAMETERS,
        _ => &[],
    }
}
