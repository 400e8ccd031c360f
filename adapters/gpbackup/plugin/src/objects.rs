//! Objects as files of snapshots: `/gpbackup/<timestamp>/<content>/<name>`, in snapshots with the tag `gpbackup:<timestamp>`.
//!
//! A storing command makes a snapshot of one file, so an object is there whole or not at all. Where a key was stored several
//! times, the newest snapshot's counts.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backstay_core::{FileKind, Id, ObjectKind, StoreErrorKind, Time};
use backstay_engine::ledgers::EngineLedgers;
use backstay_repository::error::Error;
use backstay_repository::index::Index;
use backstay_repository::lock::Lock;
use backstay_repository::maintenance::MaintenanceProgress;
use backstay_repository::maintenance::merge::{MergeOptions, merge};
use backstay_repository::open_file::OpenFile;
use backstay_repository::reader::Reader;
use backstay_repository::repository::Repository;
use backstay_repository::snapshot::Snapshot;
use backstay_repository::tree::Node;
use backstay_repository::walk::walk;
use rustix::event::PollFlags;

use crate::config::Config;
use crate::key::{Key, Timestamp, tag};
use crate::place::{Alone, Place, told};
use crate::session::{Line, Session};
use crate::together::Together;
use crate::{Failure, log};

/// An open repository with objects in it.
pub struct Objects {
    config: Config,
    repository: Arc<Repository>,
    known: Arc<Known>,
}

/// The index files, and what they say.
type ReadIndex = (Vec<Id>, Arc<Index>);

/// What was read of a repository: an agent reads only what is new.
#[derive(Default)]
pub(crate) struct Known {
    index: Together<Option<ReadIndex>, Error>,
    snapshots: Together<HashMap<Id, Snapshot>, Error>,
}

impl Known {
    /// The index as it is now.
    pub(crate) fn index(&self, repository: &Repository) -> Result<Arc<Index>, Error> {
        self.index.with(|index| {
            let listed = repository.store().list(ObjectKind::Index)?;
            let mut files: Vec<Id> = listed.into_iter().map(|(id, _)| id).collect();
            files.sort_unstable();
            if let Some((before, index)) = &*index
                && *before == files
            {
                return Ok(Arc::clone(index));
            }
            // A file that comes meanwhile may be in it already; the next look reads it again.
            let loaded = Arc::new(repository.load_index()?);
            *index = Some((files, Arc::clone(&loaded)));
            Ok(loaded)
        })
    }

    /// The snapshots of a backup, the newest first.
    fn snapshots(&self, repository: &Repository, timestamp: &Timestamp) -> Result<Vec<(Id, Snapshot)>, Error> {
        self.snapshots.with(|known| {
            for _ in 0..LISTINGS {
                if Self::read_snapshots(known, repository)? {
                    let these = known.iter().filter(|(_, snapshot)| is_ours(snapshot, Some(timestamp)));
                    return Ok(newest_first(these.map(|(id, snapshot)| (*id, snapshot.clone())).collect()));
                }
            }
            Err(Error::Other("the snapshots change faster than they can be read".to_owned()))
        })
    }

    /// Reads those that are new. False: one of them vanished before it was read. Then a newer one that was not listed has
    /// taken its place, and the older ones must not be taken for the newest.
    fn read_snapshots(known: &mut HashMap<Id, Snapshot>, repository: &Repository) -> Result<bool, Error> {
        let there = repository.snapshot_ids()?;
        let listed: HashSet<&Id> = there.iter().collect();
        known.retain(|id, _| listed.contains(id));
        if there.len() - known.len() > FEW {
            // Those that are damaged are looked at once more below.
            known.extend(repository.readable_snapshots()?.snapshots);
        }
        for id in there {
            if known.contains_key(&id) {
                continue;
            }
            match repository.load_snapshot(&id) {
                Ok(snapshot) => {
                    known.insert(id, snapshot);
                }
                Err(Error::Store(error)) if error.kind == StoreErrorKind::NotFound => return Ok(false),
                Err(error @ Error::Store(_)) => return Err(error),
                Err(error) => log::warning(&error.to_string()),
            }
        }
        Ok(true)
    }
}

/// How often the snapshots are listed at the most when some of them vanish before they were read.
const LISTINGS: usize = 20;
/// More new snapshots than this are read together.
const FEW: usize = 4;

/// A range of an object, in bytes; the end is not part of it.
pub type Range = (u64, u64);

struct Silent;

impl MaintenanceProgress for Silent {}

impl Objects {
    /// Opens the repository to store in it; makes it where the setup was never called.
    ///
    /// # Errors
    /// See [`Place::open_or_make`].
    pub fn to_write(config: Config) -> Result<Self, Failure> {
        let place = Place::new(config)?;
        let repository = place.open_or_make()?;
        Ok(Self { config: place.config, repository, known: Arc::default() })
    }

    /// Opens the repository to read from it.
    ///
    /// # Errors
    /// See [`Place::open`].
    pub fn to_read(config: Config) -> Result<Self, Failure> {
        let place = Place::new(config)?;
        let repository = place.open()?;
        Ok(Self { config: place.config, repository, known: Arc::default() })
    }

    pub(crate) fn of(config: Config, repository: Arc<Repository>, known: Arc<Known>) -> Self {
        Self { config, repository, known }
    }

    /// Stores what comes from a descriptor until its end. It is durable when this returns.
    ///
    /// # Errors
    /// It could not be read or stored; then nothing of it can be seen.
    pub(crate) fn store(&self, key: &Key, input: BorrowedFd<'_>) -> Result<(), Failure> {
        let session = Session::begin(&self.config, &self.repository, &self.known)?;
        let object = session.receive(key, input, Line::Own).inspect_err(|_| session.keep())?;
        session.commit(&[(&object, Line::Own)]).map(drop)
    }

    fn snapshots(&self, timestamp: &Timestamp) -> Result<Vec<(Id, Snapshot)>, Failure> {
        self.known.snapshots(&self.repository, timestamp).map_err(|error| told(&error))
    }

    fn reader(&self) -> Result<Arc<Reader>, Failure> {
        let index = self.known.index(&self.repository).map_err(|error| told(&error))?;
        Ok(Arc::new(Reader::new(Arc::clone(&self.repository), index)))
    }

    /// Finds an object.
    ///
    /// # Errors
    /// There is none; the store's.
    pub(crate) fn find(&self, key: &Key) -> Result<Object, Failure> {
        let path = format!("/{}", key.path());
        // A snapshot of one object says which; a folded one holds many.
        let holds = |snapshot: &Snapshot| snapshot.paths.is_empty() || snapshot.paths.contains(&path);
        let mut before = None;
        loop {
            let snapshots = self.snapshots(&key.timestamp)?;
            let reader = self.reader()?;
            for (_, snapshot) in snapshots.iter().filter(|(_, snapshot)| holds(snapshot)) {
                if let Some(node) = node_at(&reader, snapshot, &path)? {
                    let file = OpenFile::new(reader, &node).map_err(|error| told(&error))?;
                    return Ok(Object { path: key.path(), file });
                }
            }
            // Between the list and the reading a cleanup may have put one snapshot in the place of several.
            let seen: Vec<Id> = snapshots.into_iter().map(|(id, _)| id).collect();
            if before.replace(seen.clone()) == Some(seen) {
                return Err(Failure::Missing(format!("there is no object {}", key.path())));
            }
        }
    }

    /// Forgets all objects of a backup; that there are none is fine. The room comes back with `backstay prune`.
    ///
    /// # Errors
    /// The store's.
    pub fn delete(&self, timestamp: &Timestamp) -> Result<(), Failure> {
        let lock = self.repository.lock(false, None).map_err(|error| told(&error))?;
        // A fold that runs on this host would write it anew.
        let _folding = Alone::begin(&timestamp.to_string());
        let ids: Vec<Id> = self.snapshots(timestamp)?.into_iter().map(|(id, _)| id).collect();
        let deleted = self.repository.store().delete_all(ObjectKind::Snapshot, &ids);
        deleted.map_err(|error| told(&Error::from(error)))?;
        log::info(&format!("forgot {} snapshots of backup {timestamp}", ids.len()));
        drop(lock);
        Ok(())
    }

    /// A line for each object, with its size in bytes: of all backups, or below `path` (`backups/DATE/TIMESTAMP` at the end of
    /// it names one).
    ///
    /// # Errors
    /// The path names no backup; the store's.
    pub fn list(&self, path: Option<&Path>) -> Result<Vec<String>, Failure> {
        let only = match path {
            None => None,
            Some(path) => {
                let text = path.to_string_lossy();
                let timestamp = crate::key::timestamp_of_directory(path).or_else(|| Timestamp::parse(&text));
                Some(timestamp.ok_or_else(|| Failure::new(format!("{text} names no backup: backups/DATE/TIMESTAMP")))?)
            }
        };
        let reader = self.reader()?;
        let found = self.repository.readable_snapshots().map_err(|error| told(&error))?;
        let mut objects = BTreeMap::new();
        // The oldest first: a newer one with the same name takes its place.
        for (_, snapshot) in found.snapshots.iter().filter(|(_, snapshot)| is_ours(snapshot, only.as_ref())) {
            for entry in walk(&reader, &snapshot.tree, true) {
                let entry = entry.map_err(|error| told(&error))?;
                if entry.node.kind == FileKind::File {
                    objects.insert(String::from_utf8_lossy(&entry.path).into_owned(), entry.node.size);
                }
            }
        }
        Ok(objects.into_iter().map(|(name, size)| format!("{name} {size}")).collect())
    }
}

/// Whether it is a snapshot of a backup: of this one, or of any.
fn is_ours(snapshot: &Snapshot, only: Option<&Timestamp>) -> bool {
    let tag = only.map(tag);
    snapshot.tags.iter().any(|have| tag.as_ref().map_or(have.starts_with("gpbackup:"), |tag| have == tag))
        && !snapshot.is_partial()
}

fn newest_first(mut snapshots: Vec<(Id, Snapshot)>) -> Vec<(Id, Snapshot)> {
    snapshots.sort_by(|(a, left), (b, right)| (right.time.time(), b).cmp(&(left.time.time(), a)));
    snapshots
}

fn node_at(reader: &Arc<Reader>, snapshot: &Snapshot, path: &str) -> Result<Option<Node>, Failure> {
    reader.node_at(&snapshot.tree, path.as_bytes()).map_err(|error| told(&error))
}

/// The ranges in a file: how many, then a start and an end for each (reference 9.6).
///
/// # Errors
/// It cannot be read, or is not that.
pub fn ranges(path: &PathBuf) -> Result<Vec<Range>, Failure> {
    let wrong = |reason: &str| Failure::new(format!("the offsets file {}: {reason}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error.to_string()))?;
    parse_ranges(&text).ok_or_else(|| wrong("it is not a number of ranges and then their starts and ends"))
}

fn parse_ranges(text: &str) -> Option<Vec<Range>> {
    let numbers: Vec<u64> = text.split_whitespace().map(|word| word.parse().ok()).collect::<Option<_>>()?;
    let (count, bounds) = numbers.split_first()?;
    let ranges: Vec<Range> = bounds.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    let right = bounds.len() as u64 == count.checked_mul(2)? && ranges.iter().all(|(start, end)| start <= end);
    right.then_some(ranges)
}

/// An object that was found.
pub(crate) struct Object {
    path: String,
    file: OpenFile,
}

impl Object {
    /// Makes sure that ranges are within it.
    ///
    /// # Errors
    /// One is not.
    pub(crate) fn check(&self, ranges: &[Range]) -> Result<(), Failure> {
        match ranges.iter().find(|(_, end)| *end > self.file.size()) {
            Some((start, end)) => Err(Failure::new(format!(
                "the range {start} to {end} ends behind {} with its {} bytes",
                self.path,
                self.file.size()
            ))),
            None => Ok(()),
        }
    }

    /// Writes it, or ranges of it one behind the other; no more than `ahead` bytes wait in memory to be written.
    ///
    /// # Errors
    /// It is damaged: what was written until then is right, and ends short.
    pub(crate) fn write(&self, ranges: Option<&[Range]>, mut out: Output<'_>, ahead: u64) -> Result<(), Failure> {
        let written = match ranges {
            None => self.file.copy_ahead(&mut out, ahead).map(drop),
            Some(ranges) => ranges.iter().try_for_each(|range| self.write_range(*range, &mut out)),
        };
        out.settle(written)
    }

    fn write_range(&self, (start, end): Range, out: &mut Output<'_>) -> Result<(), Error> {
        const PIECE: u64 = 1 << 20;
        let mut buffer = Vec::new();
        let mut offset = start;
        while offset < end {
            buffer.resize((end - offset).min(PIECE) as usize, 0);
            let read = self.file.read_at(offset, &mut buffer)?;
            out.write_all(&buffer[..read]).map_err(|error| Error::Other(error.to_string()))?;
            offset += buffer.len() as u64;
        }
        Ok(())
    }
}

/// Standard output, past the library's buffer, or what stands for it; remembers whether its reader went.
pub(crate) struct Output<'a> {
    file: File,
    line: Line<'a>,
    failed: Option<Failure>,
}

impl<'a> Output<'a> {
    pub(crate) fn new(file: File, line: Line<'a>) -> Self {
        Self { file, line, failed: None }
    }

    /// What became of the copy: a reader that has enough is no error to tell.
    fn settle(self, copied: Result<(), Error>) -> Result<(), Failure> {
        match self.failed {
            Some(failure) => Err(failure),
            None => copied.map_err(|error| told(&error)),
        }
    }
}

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Whoever has gone is noticed between two pieces.
        let piece = &bytes[..bytes.len().min(64 << 10)];
        if let Err(failure) = self.line.wait(self.file.as_fd(), PollFlags::OUT) {
            self.failed = Some(failure);
            return Err(io::Error::other("whoever asked for it has gone"));
        }
        self.file.write(piece).map_err(|error| match error.kind() {
            // Whoever else has the descriptor may have made it non-blocking: it is waited for and tried again.
            io::ErrorKind::WouldBlock => io::ErrorKind::Interrupted.into(),
            kind => {
                if kind == io::ErrorKind::BrokenPipe {
                    self.failed = Some(Failure::ReaderGone);
                } else if kind != io::ErrorKind::Interrupted {
                    self.failed = Some(Failure::new(format!("cannot write what was asked for: {error}")));
                }
                error
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes one snapshot of all that this host has stored of a backup. The new one is there before the old ones go.
///
/// # Errors
/// The store's. A backup that was deleted, or never was, is nothing to fold.
pub(crate) fn fold(place: &Place, timestamp: &Timestamp) -> Result<(), Failure> {
    if !place.exists()? {
        return Ok(());
    }
    let objects = Objects::of(place.config.clone(), place.open()?, Arc::default());
    let _folding = Alone::begin(&timestamp.to_string());
    let lock = objects.repository.lock(false, None).map_err(|error| told(&error))?;
    let host = objects.config.host();
    let mut parts = objects.snapshots(timestamp)?;
    parts.retain(|(_, snapshot)| snapshot.hostname == host);
    let count = fold_parts(&objects.repository, parts, &lock).map_err(|error| told(&error))?;
    if count > 1 {
        log::info(&format!("made one snapshot of {count} of backup {timestamp}"));
    }
    Ok(())
}

/// Makes one snapshot of several, and returns how many there were; fewer than two stay as they are.
fn fold_parts(repository: &Arc<Repository>, parts: Vec<(Id, Snapshot)>, lock: &Lock) -> Result<usize, Error> {
    if parts.len() < 2 {
        return Ok(parts.len());
    }
    let ids: Vec<Id> = parts.iter().map(|(id, _)| *id).collect();
    let count = ids.len();
    // It is as old as the newest of them: what anybody stores meanwhile is newer.
    let options =
        MergeOptions { time: parts.iter().map(|(_, snapshot)| snapshot.time.time()).max(), ..MergeOptions::default() };
    let report = merge(repository, parts, options, &EngineLedgers, &Silent)?;
    lock.check()?;
    let store = repository.store();
    // Somebody else may be deleting the backup, and then it stays deleted; or he has folded it too.
    let there: HashSet<Id> = store.list(ObjectKind::Snapshot)?.into_iter().map(|(id, _)| id).collect();
    let touched = !ids.iter().all(|id| there.contains(id));
    let gone: Vec<Id> = if touched { report.new.into_iter().collect() } else { ids };
    store.delete_all(ObjectKind::Snapshot, &gone)?;
    Ok(count)
}

/// A backup of a host whose cleanup never came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folded {
    /// The host.
    pub host: String,
    /// Which backup.
    pub timestamp: String,
    /// How many snapshots became one.
    pub snapshots: usize,
}

/// Makes one snapshot for each host and backup whose cleanup never came, and of which nothing was stored after `before`.
///
/// # Errors
/// The repository's or the store's. What was folded until then stays so.
pub fn fold_left(repository: &Arc<Repository>, before: Time) -> Result<Vec<Folded>, Error> {
    let found = repository.readable_snapshots()?;
    let mut backups: BTreeMap<(String, Timestamp), Vec<(Id, Snapshot)>> = BTreeMap::new();
    for (id, snapshot) in found.snapshots {
        let timestamp = snapshot.tags.iter().find_map(|tag| Timestamp::parse(tag.strip_prefix("gpbackup:")?));
        if let Some(timestamp) = timestamp.filter(|_| !snapshot.is_partial()) {
            backups.entry((snapshot.hostname.clone(), timestamp)).or_default().push((id, snapshot));
        }
    }
    backups.retain(|_, parts| parts.len() > 1 && parts.iter().all(|(_, snapshot)| snapshot.time.time() < before));
    if backups.is_empty() {
        return Ok(Vec::new());
    }
    let lock = repository.lock(false, None)?;
    let mut folded = Vec::new();
    for ((host, timestamp), parts) in backups {
        let snapshots = fold_parts(repository, newest_first(parts), &lock)?;
        folded.push(Folded { host, timestamp: timestamp.to_string(), snapshots });
    }
    Ok(folded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_a_count_and_pairs() {
        assert_eq!(parse_ranges("2 1000 152000 453000 904000"), Some(vec![(1000, 152_000), (453_000, 904_000)]));
        assert_eq!(parse_ranges("1 5 5\n"), Some(vec![(5, 5)]));
        assert_eq!(parse_ranges("0"), Some(vec![]));
        for text in ["", "x", "1", "1 2", "2 1 2", "1 2 1", "1 1 2 3", "-1", "18446744073709551615 1 2"] {
            assert_eq!(parse_ranges(text), None, "{text}");
        }
    }
}
