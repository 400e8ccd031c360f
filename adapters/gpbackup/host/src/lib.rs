//! Drives any storage plugin of gpbackup: what gpbackup does around its plugins, without a database.
//!
//! Section numbers in this crate are those of the reference of gpbackup's storage plugins.
//!
//! * [`config`] reads the user's configuration file and writes the copy that plugins get; [`version`] reads what plugins say of
//!   themselves; [`key`] is how objects are named.
//! * [`process`] runs one command of a plugin and tells all that happened; [`plugin`] judges it: hooks in their order, objects in
//!   and out, deletion.
//! * [`bench`](mod@bench) tries a plugin out, check by check.

pub mod bench;
pub mod config;
pub mod key;
pub mod plugin;
pub mod process;
pub mod version;

pub use config::UserConfig;
pub use key::{Key, Timestamp};
pub use plugin::{Fingerprint, Plugin, Settings};

/// Why something failed, on one line.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration, or what was asked for, cannot be used.
    #[error("{0}")]
    Refused(String),
    /// A command of the plugin failed.
    #[error("{command}: {reason}{}", also(.said))]
    Plugin {
        /// The command's word and what it was about.
        command: String,
        /// What it did wrong.
        reason: String,
        /// What it wrote to standard error, on one line.
        said: String,
    },
    /// A process moved no byte and did not end until its time was over; it was ended.
    #[error("{command}: it took no byte, gave none and did not end for {seconds} seconds{}", also(.said))]
    Hung {
        /// The command's word and what it was about.
        command: String,
        /// How long.
        seconds: f32,
        /// What it wrote to standard error, on one line.
        said: String,
    },
    /// What was to be stored could not be read.
    #[error("cannot read what is to be stored: {0}")]
    Source(#[source] std::io::Error),
    /// What came could not be written.
    #[error("cannot write what was read: {0}")]
    Sink(#[source] std::io::Error),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

fn also(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("; it said: {text}") }
}

impl Failure {
    pub(crate) fn refused(text: impl Into<String>) -> Self {
        Self::Refused(text.into())
    }
}
