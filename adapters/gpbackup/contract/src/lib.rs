//! What both sides of gpbackup's storage plugins read alike: whoever drives a plugin, and the plugin.
//!
//! Section numbers in this crate are those of the reference of gpbackup's storage plugins.

pub mod file;
pub mod timestamp;

pub use file::ConfigFile;
pub use timestamp::Timestamp;
