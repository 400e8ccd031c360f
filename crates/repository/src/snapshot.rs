//! Snapshots: which tree was saved, when, from where (reference section 11).

use std::cmp::Ordering;
use std::fmt;

use backstay_core::{Id, Time};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::gotext::{parse_time, write_time};
use crate::tree::NO_TIME;

/// The text that our snapshots carry as `program_version`.
pub const PROGRAM_VERSION: &str = concat!("backstay ", env!("CARGO_PKG_VERSION"));
/// The tag of a snapshot whose source did not reach its end. Such a snapshot is never `latest`.
pub const PARTIAL_TAG: &str = "backstay-partial";

/// A point in time as a snapshot has it: the text of whoever wrote it is kept, offset and all.
#[derive(Clone, PartialEq, Eq)]
pub struct SnapshotTime {
    time: Time,
    text: String,
}

impl SnapshotTime {
    /// The point in time.
    #[must_use]
    pub fn time(&self) -> Time {
        self.time
    }

    /// The text in the file, RFC 3339.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The time now.
    #[must_use]
    pub fn now() -> Self {
        now().into()
    }
}

impl Default for SnapshotTime {
    fn default() -> Self {
        NO_TIME.into()
    }
}

impl From<Time> for SnapshotTime {
    fn from(time: Time) -> Self {
        let mut text = Vec::with_capacity(30);
        write_time(time, &mut text);
        Self { time, text: String::from_utf8_lossy(&text).into_owned() }
    }
}

impl From<&SnapshotTime> for Time {
    fn from(time: &SnapshotTime) -> Self {
        time.time
    }
}

impl PartialEq<Time> for SnapshotTime {
    fn eq(&self, other: &Time) -> bool {
        self.time == *other
    }
}

impl PartialOrd<Time> for SnapshotTime {
    fn partial_cmp(&self, other: &Time) -> Option<Ordering> {
        self.time.partial_cmp(other)
    }
}

impl PartialOrd for SnapshotTime {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SnapshotTime {
    fn cmp(&self, other: &Self) -> Ordering {
        self.time.cmp(&other.time).then_with(|| self.text.cmp(&other.text))
    }
}

impl fmt::Display for SnapshotTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SnapshotTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for SnapshotTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for SnapshotTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match parse_time(&text) {
            Some(time) => Ok(Self { time, text }),
            None => Err(serde::de::Error::custom(format_args!("\"{text}\" is not a time"))),
        }
    }
}

/// The time now.
pub(crate) fn now() -> Time {
    match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
        Ok(since) => {
            Time { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanoseconds: since.subsec_nanos() }
        }
        // A clock before 1970 is wrong in any case.
        Err(_) => Time::default(),
    }
}

/// `null` and a missing key are the same as an empty value.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A snapshot's contents. Its id is not in it: it is the name of the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When the backup began.
    pub time: SnapshotTime,
    /// The snapshot that unchanged files were taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Id>,
    /// The root's tree.
    pub tree: Id,
    /// What was backed up: absolute paths.
    #[serde(default, deserialize_with = "or_default")]
    pub paths: Vec<String>,
    /// The host's name.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// The user's name.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// The user's number.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "is_zero")]
    pub uid: u32,
    /// The group's number.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "is_zero")]
    pub gid: u32,
    /// The patterns of what was left out.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub excludes: Vec<String>,
    /// Tags; no commas in them.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The first id of a snapshot that was changed later on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<Id>,
    /// The program that wrote it.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub program_version: String,
    /// What the backup did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// The number of the job that wrote it. Other programs ignore it, and drop it when they rewrite the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backstay_job: Option<u32>,
    /// Keys of other programs, kept as they are.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Snapshot {
    /// Whether its source did not reach its end.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.tags.iter().any(|tag| tag == PARTIAL_TAG)
    }
}

/// What a backup did, in restic's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// When it began.
    pub backup_start: SnapshotTime,
    /// When it ended.
    pub backup_end: SnapshotTime,
    /// Files that the parent does not have.
    pub files_new: u64,
    /// Files that differ from the parent's.
    pub files_changed: u64,
    /// Files taken from the parent.
    pub files_unmodified: u64,
    /// Directories that the parent does not have.
    pub dirs_new: u64,
    /// Directories that differ from the parent's.
    pub dirs_changed: u64,
    /// Directories that are as in the parent.
    pub dirs_unmodified: u64,
    /// New data blobs.
    pub data_blobs: u64,
    /// New tree blobs.
    pub tree_blobs: u64,
    /// Bytes of the new blobs before compression.
    pub data_added: u64,
    /// Bytes of the new blobs as stored.
    pub data_added_packed: u64,
    /// All files.
    pub total_files_processed: u64,
    /// Bytes of all files.
    pub total_bytes_processed: u64,
}

/// Which snapshots are meant. Empty lists let everything through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotFilter {
    /// Of one of these hosts.
    pub hosts: Vec<String>,
    /// With all tags of one of these lists. An empty list of tags means: without any tag.
    pub tags: Vec<Vec<String>>,
    /// Of all these paths (and maybe others).
    pub paths: Vec<String>,
}

impl SnapshotFilter {
    /// Whether the snapshot is meant.
    #[must_use]
    pub fn matches(&self, snapshot: &Snapshot) -> bool {
        let host = self.hosts.is_empty() || self.hosts.contains(&snapshot.hostname);
        let tags = self.tags.is_empty()
            || self.tags.iter().any(|list| {
                if list.is_empty() {
                    snapshot.tags.is_empty()
                } else {
                    list.iter().all(|tag| snapshot.tags.contains(tag))
                }
            });
        host && tags && self.paths.iter().all(|path| snapshot.paths.contains(path))
    }
}
