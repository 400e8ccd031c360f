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
    /// Why it must not be deleted at this time, in a few words; none: it may. That is what its key `delete` says, which
    /// rustic writes: `"Never"`, or `{"After":TIME}`. What cannot be read there protects for ever.
    #[must_use]
    pub fn protection(&self, now: Time) -> Option<String> {
        match self.extra.get("delete")? {
            Value::Null => None,
            Value::String(word) if word == "NotSet" => None,
            Value::String(word) if word == "Never" => Some("protected from deletion".to_owned()),
            Value::Object(rule) if rule.len() == 1 && rule.contains_key("After") => {
                let text = rule["After"].as_str().unwrap_or_default();
                // The name of a zone behind the time adds nothing to its offset.
                let bare = text.split_once('[').map_or(text, |(bare, _)| bare);
                match parse_time(bare) {
                    Some(end) if end < now => None,
                    Some(_) => Some(format!("protected from deletion until {bare}")),
                    None => Some(format!("protected from deletion until {text:?}, which is no time")),
                }
            }
            other => Some(format!("protected from deletion by the key \"delete\" with the unknown value {other}")),
        }
    }

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
    /// Keys of other programs, kept as they are.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gotext::to_json;

    fn text(snapshot: &Snapshot) -> String {
        String::from_utf8(to_json(snapshot).unwrap()).unwrap()
    }

    #[test]
    fn the_references_snapshot_is_written_and_read() {
        let json = r#"{"time":"2020-01-02T03:04:05.123456789Z","tree":"cb23b5e78945d9bf10e30ec39e287c773f2d7ef24d955ff85e55a729c192119a","paths":["/a.txt"],"hostname":"h","username":"u"}"#;
        let snapshot: Snapshot = serde_json::from_str(json).unwrap();
        assert_eq!(text(&snapshot), json);
    }

    #[test]
    fn a_number_of_another_program_stays_what_it_is() {
        let json = r#"{"time":"2020-01-02T03:04:05.123456789Z","tree":"cb23b5e78945d9bf10e30ec39e287c773f2d7ef24d955ff85e55a729c192119a","paths":["/a.txt"],"hostname":"h","username":"u","theirs":94902395.02020203}"#;
        let snapshot: Snapshot = serde_json::from_str(json).unwrap();
        assert_eq!(text(&snapshot), json);
    }

    #[test]
    fn keys_stand_in_restics_order() {
        let id = Id::of(b"x");
        let snapshot = Snapshot {
            time: Time { seconds: 1, nanoseconds: 0 }.into(),
            parent: Some(id),
            tree: id,
            hostname: "h".to_owned(),
            username: "u".to_owned(),
            uid: 1,
            gid: 2,
            excludes: vec!["*.o".to_owned()],
            tags: vec!["t<".to_owned()],
            original: Some(id),
            program_version: PROGRAM_VERSION.to_owned(),
            summary: Some(Summary { files_new: 3, ..Summary::default() }),
            backstay_job: Some(7),
            ..Snapshot::default()
        };
        assert_eq!(
            text(&snapshot),
            format!(
                concat!(
                    r#"{{"time":"1970-01-01T00:00:01Z","parent":"{0}","tree":"{0}","paths":[],"hostname":"h","#,
                    r#""username":"u","uid":1,"gid":2,"excludes":["*.o"],"tags":["t\u003c"],"original":"{0}","#,
                    r#""program_version":"backstay 0.1.0","summary":{{"backup_start":"0001-01-01T00:00:00Z","#,
                    r#""backup_end":"0001-01-01T00:00:00Z","files_new":3,"files_changed":0,"files_unmodified":0,"#,
                    r#""dirs_new":0,"dirs_changed":0,"dirs_unmodified":0,"data_blobs":0,"tree_blobs":0,"data_added":0,"#,
                    r#""data_added_packed":0,"total_files_processed":0,"total_bytes_processed":0}},"backstay_job":7}}"#
                ),
                id
            )
        );
    }

    #[test]
    fn empty_lists_are_left_out_but_paths_never_are() {
        let json = text(&Snapshot::default());
        assert!(json.ends_with(r#","paths":[]}"#), "{json}");
    }

    #[test]
    fn other_programs_keys_and_nulls_are_kept_or_taken_for_empty() {
        let id = Id::of(b"x");
        let json = format!(
            r#"{{"time":"2026-01-01T00:00:00.5+02:00","program_version":"rustic 0.11.4","parents":["{id}"],"tree":"{id}",
               "label":"l","paths":null,"hostname":null,"username":"","uid":0,"tags":null,"delete":"Never",
               "summary":{{"files_new":1,"command":"x"}}}}"#
        );
        let snapshot: Snapshot = serde_json::from_str(&json).unwrap();
        assert_eq!(snapshot.time.as_str(), "2026-01-01T00:00:00.5+02:00");
        assert_eq!(snapshot.time.time(), parse_time("2025-12-31T22:00:00.5Z").unwrap());
        assert!(snapshot.paths.is_empty() && snapshot.tags.is_empty() && snapshot.hostname.is_empty());
        assert_eq!(snapshot.summary.as_ref().unwrap().files_new, 1);
        assert_eq!(snapshot.extra["label"], "l");
        assert_eq!(snapshot.summary.as_ref().unwrap().extra["command"], "x");
        let again = text(&snapshot);
        assert!(again.contains("\"time\":\"2026-01-01T00:00:00.5+02:00\"") && again.contains("\"delete\":\"Never\""));
        assert!(again.contains("\"command\":\"x\""), "{again}");
        assert!(serde_json::from_str::<Snapshot>(&json.replace("2026-01-01T00:00:00.5+02:00", "yesterday")).is_err());
    }

    #[test]
    fn what_rustic_protects_is_protected_until_its_time() {
        let now = parse_time("2026-01-01T00:00:00Z").unwrap();
        let protection = |delete: &str| {
            let mut snapshot = Snapshot::default();
            snapshot.extra.insert("delete".to_owned(), serde_json::from_str(delete).unwrap());
            snapshot.protection(now)
        };
        assert_eq!(Snapshot::default().protection(now), None);
        for free in ["null", "\"NotSet\"", r#"{"After":"2025-12-31T23:59:59+00:00[UTC]"}"#] {
            assert_eq!(protection(free), None, "{free}");
        }
        assert_eq!(protection("\"Never\"").unwrap(), "protected from deletion");
        assert_eq!(
            protection(r#"{"After":"2026-01-01T01:30:00+01:00[Europe/Berlin]"}"#).unwrap(),
            "protected from deletion until 2026-01-01T01:30:00+01:00"
        );
        // What is not known yet may mean more than we think.
        for unknown in ["\"Sometimes\"", r#"{"After":"soon"}"#, r#"{"After":5}"#, r#"{"Before":"2020"}"#, "7", "true"] {
            assert!(protection(unknown).unwrap().starts_with("protected from deletion"), "{unknown}");
        }
    }

    #[test]
    fn filters_follow_restics_rules() {
        let snapshot = Snapshot {
            hostname: "h".to_owned(),
            tags: vec!["a".to_owned(), "b".to_owned()],
            paths: vec!["/x".to_owned(), "/y".to_owned()],
            ..Snapshot::default()
        };
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let filter = |hosts: &[&str], tags: &[&[&str]], paths: &[&str]| SnapshotFilter {
            hosts: words(hosts),
            tags: tags.iter().map(|list| words(list)).collect(),
            paths: words(paths),
        };
        assert!(filter(&[], &[], &[]).matches(&snapshot));
        assert!(filter(&["g", "h"], &[&["z"], &["a", "b"]], &["/y", "/x"]).matches(&snapshot));
        assert!(!filter(&["g"], &[], &[]).matches(&snapshot));
        assert!(!filter(&[], &[&["a", "z"]], &[]).matches(&snapshot));
        assert!(!filter(&[], &[], &["/x", "/z"]).matches(&snapshot));
        assert!(!filter(&[], &[&[]], &[]).matches(&snapshot));
        assert!(filter(&[], &[&[]], &[]).matches(&Snapshot::default()));
    }
}
