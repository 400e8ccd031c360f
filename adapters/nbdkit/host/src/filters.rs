//! The filters of our own, by name.

mod cache;
mod cow;
mod delay;
mod error;
mod log;
mod offset;
mod rate;
mod readahead;
mod truncate;

use std::ffi::OsStr;

use crate::filter::Filter;

/// Their names.
pub const NAMES: &[&str] = &["cache", "cow", "delay", "error", "log", "offset", "rate", "readahead", "truncate"];

/// The filter of a name.
#[must_use]
pub fn find(name: &OsStr) -> Option<Box<dyn Filter>> {
    match name.to_str()? {
        "cache" => Some(Box::<cache::Cache>::default()),
        "readahead" => Some(Box::<readahead::Readahead>::default()),
        "cow" => Some(Box::<cow::Cow>::default()),
        "delay" => Some(Box::<delay::Delay>::default()),
        "error" => Some(Box::<error::ErrorFilter>::default()),
        "log" => Some(Box::<log::Log>::default()),
        "rate" => Some(Box::<rate::Rate>::default()),
        "offset" => Some(Box::<offset::Offset>::default()),
        "truncate" => Some(Box::<truncate::Truncate>::default()),
        _ => None,
    }
}

/// The parameters of a filter of ours.
#[must_use]
pub fn parameters(name: &str) -> &'static [&'static str] {
    match name {
        "cache" => cache::PARAMETERS,
        "readahead" => readahead::PARAMETERS,
        "cow" => cow::PARAMETERS,
        "delay" => delay::PARAMETERS,
        "error" => error::PARAMETERS,
        "log" => log::PARAMETERS,
        "rate" => rate::PARAMETERS,
        "offset" => offset::PARAMETERS,
        "truncate" => truncate::PARAMETERS,
        _ => &[],
    }
}
