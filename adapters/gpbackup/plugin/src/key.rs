//! The names of objects (reference 7): of whatever path is given only `backups/DATE/TIMESTAMP/NAME` counts, because what
//! stands before it differs between backup and restore.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

pub use backstay_gpbackup_contract::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Failure;

/// The folder of every backup.
const BACKUPS: &str = "backups";
/// The folder, in a snapshot, of what belongs to no segment.
const COORDINATOR: &str = "-1";

/// The tag of a backup's snapshots.
#[must_use]
pub fn tag(timestamp: &Timestamp) -> String {
    format!("gpbackup:{timestamp}")
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Which backup it belongs to.
    pub timestamp: Timestamp,
    /// Its name within it.
    pub name: String,
}

impl Key {
    /// The object that a path means.
    ///
    /// # Errors
    /// One line: the path is relative, ends in a slash, has `..` in it, or no timestamp of 14 digits.
    pub fn of(path: &Path) -> Result<Self, Failure> {
        let wrong = |reason: &str| Failure::new(format!("the key {} {reason}", path.display()));
        if !path.is_absolute() {
            return Err(wrong("is not an absolute path"));
        }
        if path.as_os_str().as_bytes().ends_with(b"/") || path.components().any(|part| part == Component::ParentDir) {
            return Err(wrong("is no plain path of a file"));
        }
        let parts: Vec<&str> = path
            .components()
            .filter(|part| matches!(part, Component::Normal(_)))
            .map(|part| part.as_os_str().to_str())
            .collect::<Option<_>>()
            .ok_or_else(|| wrong("is not UTF-8"))?;
        let Some((name, folders)) = parts.split_last() else { return Err(wrong("names nothing")) };
        let timestamp = match folders {
            [.., BACKUPS, date, timestamp] if timestamp.starts_with(date) && date.len() == 8 => {
                Timestamp::parse(timestamp)
            }
            // A manager may know no more than the file's name, which then has the timestamp in it (reference 7.3).
            _ => timestamp_in(name),
        };
        match timestamp {
            Some(timestamp) => Ok(Self { timestamp, name: (*name).to_owned() }),
            None => Err(wrong("has no backups/DATE/TIMESTAMP/NAME at its end")),
        }
    }

    /// Its path in snapshots, without a slash at the front.
    #[must_use]
    pub fn path(&self) -> String {
        format!("gpbackup/{}/{}/{}", self.timestamp, self.content(), self.name)
    }

    /// The segment whose object it is, by its name (reference 7.2).
    fn content(&self) -> &str {
        let rest = self.name.strip_prefix("gpbackup_").unwrap_or_default();
        match rest.split_once('_') {
            Some((content, rest)) if rest.starts_with(self.timestamp.as_str()) && is_number(content) => content,
            _ => COORDINATOR,
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.len() <= 9 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A run of exactly fourteen digits in a file's name.
fn timestamp_in(name: &str) -> Option<Timestamp> {
    name.split(|letter: char| !letter.is_ascii_digit()).find_map(Timestamp::parse)
}

/// The timestamp of a backup's folder, `.../backups/DATE/TIMESTAMP`.
#[must_use]
pub fn timestamp_of_directory(directory: &Path) -> Option<Timestamp> {
    let mut parts = directory.components().rev().map(|part| part.as_os_str().to_str());
    let (timestamp, date, backups) = (parts.next()??, parts.next()??, parts.next()??);
    (backups == BACKUPS && date.len() == 8 && timestamp.starts_with(date)).then(|| Timestamp::parse(timestamp))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> Option<(String, String)> {
        Key::of(Path::new(path)).ok().map(|key| (key.timestamp.to_string(), key.path()))
    }

    #[test]
    fn only_the_end_of_a_path_counts() {
        let timestamp = "95972435002754";
        let expect =
            |name: &str, content: &str| Some((timestamp.to_owned(), format!("gpbackup/{timestamp}/{content}/{name}")));
        for root in ["/data/a/gpseg0", "", "/srv/backups/20200101/x"] {
            let path = |name: &str| format!("{root}/backups/95972435/{timestamp}/{name}");
            for (name, content) in [
                (format!("gpbackup_4_{timestamp}.gz"), "4"),
                (format!("gpbackup_0_{timestamp}_16385"), "0"),
                (format!("gpbackup_12_{timestamp}_toc.yaml"), "12"),
                (format!("gpbackup_{timestamp}_report"), "-1"),
                (format!("testfile_{timestamp}.txt"), "-1"),
            ] {
                assert_eq!(of(&path(&name)), expect(&name, content), "{name}");
            }
        }
        // What a manager asks for.
        let report = format!("gpbackup_{timestamp}_report");
        assert_eq!(of(&format!("/anywhere/{report}")), expect(&report, "-1"));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for path in [
            "backups/20240101/20240101000000/x",
            "/x",
            "/",
            "/backups/20240101/20240101000000/",
            "/backups/20240101/20240101000000/../x",
            "/backups/20240102/20240101000000/x",
            "/backups/20240101/2024010100000/x",
            "/a/b/c/d/e",
        ] {
            assert_eq!(of(path), None, "{path}");
        }
    }

    #[test]
    fn a_folder_has_its_timestamp() {
        let of = |path: &str| timestamp_of_directory(Path::new(path)).map(|timestamp| timestamp.to_string());
        assert_eq!(of("/data/gpseg3/backups/20240131/20240131120000").as_deref(), Some("20240131120000"));
        assert_eq!(of("/data/gpseg3/backups/20240131/20240131120000/").as_deref(), Some("20240131120000"));
        for path in ["/backups/20240131", "/backups/20240130/20240131120000", "/x/20240131/20240131120000", "/", ""] {
            assert_eq!(of(path), None, "{path}");
        }
    }
}
