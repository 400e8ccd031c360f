//! How objects are named (reference 7): by the timestamp of a backup and a file name.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::Failure;

/// Fourteen digits. They need not be a date (reference 1, fact 6).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(String);

impl Timestamp {
    /// Takes fourteen digits.
    ///
    /// # Errors
    /// [`Failure::Refused`] for anything else.
    pub fn new(text: &str) -> Result<Self, Failure> {
        if text.len() == 14 && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self(text.to_owned()));
        }
        Err(Failure::refused(format!("{text:?} is no timestamp of 14 digits")))
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its backup's folder below a data directory: the first eight digits are the date, for deletion finds it by them.
    #[must_use]
    pub fn directory(&self, data: &Path) -> PathBuf {
        data.join("backups").join(self.0.get(..8).unwrap_or_default()).join(&self.0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

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
        self.timestamp.directory(data).join(&self.name)
    }
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
        let key = Key::new(Timestamp::new("95972435002754").unwrap(), "gpbackup_0_x.gz").unwrap();
        assert_eq!(key.path(Path::new("/d")), Path::new("/d/backups/95972435/95972435002754/gpbackup_0_x.gz"));
        assert_eq!(key.to_string(), "95972435002754/gpbackup_0_x.gz");
    }

    #[test]
    fn other_timestamps_and_names_are_refused() {
        for text in ["", "2026", "2026010100000", "202601010000000", "2026010100000x", "٢٠٢٦٠١٠١٠٠٠٠٠٠"] {
            assert!(Timestamp::new(text).is_err(), "{text}");
        }
        for name in ["", ".", "..", ".x", "a/b", "a b", "a$b", "ä"] {
            assert!(Key::new(Timestamp::new("20260101000000").unwrap(), name).is_err(), "{name}");
        }
    }
}
