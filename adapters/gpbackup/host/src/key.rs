//! How objects are named (reference 7): by the timestamp of a backup and a file name.

use std::fmt;
use std::path::{Path, PathBuf};

pub use backstay_gpbackup_contract::Timestamp;

use crate::Failure;

/// The name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The backup that it is part of: the only unit of deletion.
    pub timestamp: Timestamp,
    name: String,
}

impl Key {
    /// A name of letters, digits and `._-`, which does not begin with a dot: plugins that are shell scripts quote nothing.
    ///
    /// # Errors
    /// [`Failure::Refused`] for any other.
    pub fn new(timestamp: Timestamp, name: &str) -> Result<Self, Failure> {
        let good = is_plain(name) && !name.contains('/') && !name.starts_with('.') && (1..=200).contains(&name.len());
        if good { Ok(Self { timestamp, name: name.to_owned() }) } else { Err(no_name(name)) }
    }

    /// The file name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its path below a data directory.
    #[must_use]
    pub fn path(&self, data: &Path) -> PathBuf {
        directory(data, &self.timestamp).join(&self.name)
    }
}

/// A backup's folder below a data directory: deletion finds it by the date, whatever that is.
#[must_use]
pub fn directory(data: &Path, timestamp: &Timestamp) -> PathBuf {
    data.join("backups").join(timestamp.date()).join(timestamp.as_str())
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.timestamp, self.name)
    }
}

fn no_name(name: &str) -> Failure {
    Failure::refused(format!("{name:?} is no name for an object: letters, digits and ._- are"))
}

/// Whether a text has only characters that no shell takes for its own.
pub(crate) fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._/-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_below_the_date_of_its_timestamp() {
        let key = Key::new(Timestamp::parse("95972435002754").unwrap(), "gpbackup_0_x.gz").unwrap();
        assert_eq!(key.path(Path::new("/d")), Path::new("/d/backups/95972435/95972435002754/gpbackup_0_x.gz"));
        assert_eq!(key.to_string(), "95972435002754/gpbackup_0_x.gz");
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["", ".", "..", ".x", "a/b", "a b", "a$b", "ä"] {
            assert!(Key::new(Timestamp::parse("20260101000000").unwrap(), name).is_err(), "{name}");
        }
    }
}
