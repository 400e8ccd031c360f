//! Which snapshot is meant, and which place in it: `SNAPSHOT[:PATH]` and the filters for `latest`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use backstay_core::Id;
use backstay_repository::reader::Reader;
use backstay_repository::repository::{ReadableSnapshots, Repository};
use backstay_repository::snapshot::{Snapshot, SnapshotFilter};

use crate::args::SnapshotFilterOptions;
use crate::failure::Failure;

/// A snapshot, and a place in it.
#[derive(Debug)]
pub struct Selected {
    /// The snapshot's id.
    pub id: Id,
    /// The snapshot.
    pub snapshot: Snapshot,
    /// What stood after the colon: exact bytes, empty if nothing stood there.
    pub path: Vec<u8>,
}

impl SnapshotFilterOptions {
    /// The filter that these options describe.
    #[must_use]
    pub fn filter(&self) -> SnapshotFilter {
        SnapshotFilter {
            hosts: self.hosts.clone(),
            tags: self.tags.iter().map(|list| split_tags(list)).collect(),
            paths: self.paths.clone(),
        }
    }
}

/// The tags of a list with commas; blanks around them do not count.
#[must_use]
pub fn split_tags(list: &str) -> Vec<String> {
    list.split(',').map(|tag| tag.trim().to_owned()).filter(|tag| !tag.is_empty()).collect()
}

/// Splits `SNAPSHOT[:PATH]` at its first colon.
#[must_use]
pub fn split(text: &OsStr) -> (&[u8], &[u8]) {
    let bytes = text.as_bytes();
    match bytes.iter().position(|byte| *byte == b':') {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, b""),
    }
}

/// Finds what `SNAPSHOT[:PATH]` names.
///
/// # Errors
/// When there is no such snapshot, or the beginning of an id fits several.
pub fn select(repository: &Repository, text: &OsStr, filter: &SnapshotFilterOptions) -> Result<Selected, Failure> {
    let (name, path) = split(text);
    let name = std::str::from_utf8(name)
        .map_err(|_| Failure::fatal(format!("\"{}\" is not the name of a snapshot", name.escape_ascii())))?;
    let (id, snapshot) = repository.snapshot(name, &filter.filter())?;
    Ok(Selected { id, snapshot, path: path.to_vec() })
}

/// The snapshots that are named, or all of them that the filter lets through, in the order of time.
///
/// # Errors
/// When one that was named is not there, or one cannot be read.
pub fn snapshots(
    repository: &Repository,
    names: &[String],
    filter: &SnapshotFilterOptions,
) -> Result<Vec<(Id, Snapshot)>, Failure> {
    let filter = filter.filter();
    if names.is_empty() {
        return Ok(repository.snapshots()?.into_iter().filter(|(_, snapshot)| filter.matches(snapshot)).collect());
    }
    Ok(names.iter().map(|name| repository.snapshot(name, &filter)).collect::<Result<_, _>>()?)
}

/// The same, but those that cannot be read keep nobody from the others: why is told beside them.
///
/// # Errors
/// When one that was named is not there or cannot be read, or the store fails.
pub fn readable(
    repository: &Repository,
    names: &[String],
    filter: &SnapshotFilterOptions,
) -> Result<ReadableSnapshots, Failure> {
    if names.is_empty() {
        let filter = filter.filter();
        let mut found = repository.readable_snapshots()?;
        found.snapshots.retain(|(_, snapshot)| filter.matches(snapshot));
        return Ok(found);
    }
    let mut list = snapshots(repository, names, filter)?;
    let mut seen = std::collections::HashSet::new();
    list.retain(|(id, _)| seen.insert(*id));
    Ok(ReadableSnapshots { snapshots: list, damaged: Vec::new() })
}

/// A reader with the whole index.
///
/// # Errors
/// When the index cannot be read.
pub fn reader(repository: &Arc<Repository>) -> Result<Arc<Reader>, Failure> {
    let index = Arc::new(repository.load_index()?);
    Ok(Arc::new(Reader::new(Arc::clone(repository), index)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_colon_ends_the_snapshots_name() {
        assert_eq!(split(OsStr::new("latest:/a:b")), (&b"latest"[..], &b"/a:b"[..]));
        assert_eq!(split(OsStr::new("1a2b")), (&b"1a2b"[..], &b""[..]));
        assert_eq!(split_tags(" a, b,,c"), ["a", "b", "c"]);
    }
}
