//! Snapshots copied from one repository into another: only what the other does not have, read pack by pack, verified on
//! the way.
//!
//! Blobs keep their ids, for these are hashes of the contents: trees, and the ledgers of plugins, stay as they are. All
//! blobs are stored and listed before the first snapshot that needs them is written. A copy that is killed is taken up by
//! the next one where its last index file ended.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use backstay_core::{Id, ObjectKind};
use parking_lot::Mutex;

use crate::error::Error;
use crate::index::Location;
use crate::maintenance::used::{Root, UsedBlobs, collect};
use crate::maintenance::{MaintenanceProgress, for_each};
use crate::pack::BlobKind;
use crate::reader::{Reader, Result, decode_blob};
use crate::repository::Repository;
use crate::snapshot::Snapshot;
use crate::writer::{WriteOptions, WriteStats, Writer};

/// A gap between two wanted blobs that is read rather than asked around, in bytes.
const GAP: u64 = 256 << 10;
/// Bytes that one read brings at the most, unless a single blob is longer.
const LONGEST_READ: u64 = 16 << 20;
/// Threads that read at once at the most: each holds one read in memory.
const READERS: usize = 8;

/// What became of one snapshot.
#[derive(Clone, Debug)]
pub enum Copied {
    /// It was copied: its id here and there.
    New {
        /// Its id in the source.
        from: Id,
        /// Its id in the target.
        to: Id,
    },
    /// It was there already, as this snapshot of the target.
    Known {
        /// Its id in the source.
        from: Id,
        /// Its id in the target.
        to: Id,
    },
    /// It could not be copied.
    Failed {
        /// Its id in the source.
        from: Id,
        /// Why.
        error: Error,
    },
}

/// What came of it.
#[derive(Debug, Default)]
pub struct CopyReport {
    /// What became of each snapshot: first those that were there already, then the others in their order.
    pub snapshots: Vec<Copied>,
    /// What was stored in the target.
    pub written: WriteStats,
}

/// Whether the two repositories cut files alike: only then later backups into the target find what was copied.
#[must_use]
pub fn same_chunks(source: &Repository, target: &Repository) -> bool {
    use crate::chunker::ChunkerParams;
    match (source.chunker(), target.chunker()) {
        (ChunkerParams::Rabin(_), ChunkerParams::Rabin(_)) => {
            source.config().chunker_polynomial == target.config().chunker_polynomial
        }
        (ChunkerParams::FastCdc(_), ChunkerParams::FastCdc(_)) => source.key().parts() == target.key().parts(),
        _ => false,
    }
}

/// Copies these snapshots of `source` to `target`. Needs a shared lock on both.
///
/// # Errors
/// Both are one repository, [`Error::ReadOnlyVersion`] of the target, [`Error::Store`], interrupted. What cannot be read
/// in the source is in the report with the snapshots that need it; the others are copied.
pub fn copy(
    source: &Arc<Repository>,
    target: &Arc<Repository>,
    snapshots: Vec<(Id, Snapshot)>,
    options: WriteOptions,
    progress: &dyn MaintenanceProgress,
) -> Result<CopyReport> {
    if source.config().id == target.config().id {
        return Err(Error::Other("the repository to copy from and the one to copy to are the same".to_owned()));
    }
    let mut known: HashMap<Id, Vec<(Id, Snapshot)>> = HashMap::new();
    for (id, snapshot) in target.snapshots()? {
        for name in [snapshot.original, Some(id)].into_iter().flatten() {
            known.entry(name).or_default().push((id, snapshot.clone()));
        }
    }
    let mut report = CopyReport::default();
    let mut wanted = Vec::new();
    for (from, snapshot) in snapshots {
        let name = snapshot.original.unwrap_or(from);
        let there = known.get(&name).and_then(|list| list.iter().find(|(_, other)| similar(&snapshot, other)));
        match there {
            Some((to, _)) => report.snapshots.push(Copied::Known { from, to: *to }),
            None => wanted.push((from, snapshot)),
        }
    }
    if wanted.is_empty() {
        return Ok(report);
    }

    let reader = Arc::new(Reader::new(Arc::clone(source), Arc::new(source.load_index()?)));
    let index = Arc::new(target.load_index()?);
    let writer = Writer::new(Arc::clone(target), Arc::clone(&index), options)?;
    let (used, mut failed) = everything_used(&reader, &wanted, progress)?;
    // In the order in which they are needed first.
    let mut jobs: Vec<(Id, Vec<Wanted>)> = Vec::new();
    let mut numbers: HashMap<Id, usize> = HashMap::new();
    let mut missing = Vec::new();
    used.for_each(|kind, id| {
        // Asking the writer, not the index: it makes sure in the end that what is reused is still there.
        if !writer.knows(kind, id) {
            match reader.locate(kind, id) {
                Ok(location) => {
                    let number = *numbers.entry(location.pack).or_insert(jobs.len());
                    if number == jobs.len() {
                        jobs.push((location.pack, Vec::new()));
                    }
                    jobs[number].1.push(Wanted { kind, id: *id, location });
                }
                Err(error) => missing.push((kind, *id, error)),
            }
        }
    });
    drop(used);
    drop(numbers);
    progress.stage("packs to copy from", jobs.len() as u64);
    let broken = Mutex::new(missing);
    let threads = if source.in_turn() { 1 } else { source.store().calls_at_once().clamp(2, READERS) };
    for_each(&jobs, threads, progress, |(pack, blobs)| copy_from_pack(&reader, &writer, pack, blobs, &broken))?;
    drop(jobs);
    report.written = writer.finish()?;

    let broken = broken.into_inner();
    if !broken.is_empty() {
        let ids: HashSet<(BlobKind, Id)> = broken.iter().map(|(kind, id, _)| (*kind, *id)).collect();
        for (from, snapshot) in &wanted {
            if failed.contains_key(from) {
                continue;
            }
            let own = UsedBlobs::new();
            collect(&reader, [Root { snapshot: *from, tree: snapshot.tree }], &own, &())?;
            if let Some((kind, id)) = ids.iter().find(|(kind, id)| own.contains(*kind, id))
                && let Some((_, _, error)) = broken.iter().find(|(k, i, _)| (k, i) == (kind, id))
            {
                failed.insert(*from, error.clone());
            }
        }
    }
    for (from, mut snapshot) in wanted {
        if let Some(error) = failed.remove(&from) {
            report.snapshots.push(Copied::Failed { from, error });
            continue;
        }
        progress.go_on()?;
        // A parent means nothing in another repository; the first id says what it is a copy of.
        snapshot.parent = None;
        snapshot.original.get_or_insert(from);
        report.snapshots.push(Copied::New { from, to: target.save_snapshot(&snapshot)? });
    }
    Ok(report)
}

/// All that the snapshots need; those with trees that cannot be read are told apart, with the reason.
fn everything_used(
    reader: &Reader,
    snapshots: &[(Id, Snapshot)],
    progress: &dyn MaintenanceProgress,
) -> Result<(UsedBlobs, HashMap<Id, Error>)> {
    let root = |(id, snapshot): &(Id, Snapshot)| Root { snapshot: *id, tree: snapshot.tree };
    let used = UsedBlobs::new();
    match collect(reader, snapshots.iter().map(root), &used, progress) {
        Ok(()) => return Ok((used, HashMap::new())),
        Err(Error::InSnapshot { .. }) => progress.go_on()?,
        Err(other) => return Err(other),
    }
    // Something is broken somewhere: find out where, and go on with the rest.
    let mut failed = HashMap::new();
    let mut sound = Vec::new();
    for one in snapshots {
        match collect(reader, [root(one)], &UsedBlobs::new(), progress) {
            Ok(()) => sound.push(root(one)),
            Err(error @ Error::InSnapshot { .. }) => {
                failed.insert(one.0, error);
            }
            Err(other) => return Err(other),
        }
    }
    let used = UsedBlobs::new();
    collect(reader, sound, &used, progress)?;
    Ok((used, failed))
}

struct Wanted {
    kind: BlobKind,
    id: Id,
    location: Location,
}

fn copy_from_pack(
    reader: &Reader,
    writer: &Writer,
    pack: &Id,
    blobs: &[Wanted],
    broken: &Mutex<Vec<(BlobKind, Id, Error)>>,
) -> Result<()> {
    let mut sorted: Vec<&Wanted> = blobs.iter().collect();
    sorted.sort_unstable_by_key(|blob| blob.location.offset);
    let end = |blob: &Wanted| u64::from(blob.location.offset) + u64::from(blob.location.length);
    let (mut scratch, mut plain) = (Vec::new(), Vec::new());
    let mut rest = &sorted[..];
    while let Some(first) = rest.first() {
        let start = u64::from(first.location.offset);
        let mut stop = end(first);
        let mut count = 1;
        for blob in &rest[1..] {
            let next = end(blob).max(stop);
            if u64::from(blob.location.offset) > stop + GAP || next - start > LONGEST_READ {
                break;
            }
            stop = next;
            count += 1;
        }
        let (together, later) = rest.split_at(count);
        rest = later;
        let bytes = reader.repository().store().get(ObjectKind::Pack, pack, Some(start..stop));
        for blob in together {
            let key = reader.repository().key();
            let from = usize::try_from(u64::from(blob.location.offset) - start).unwrap_or(usize::MAX);
            let envelope = bytes.as_ref().ok().and_then(|bytes| bytes.get(from..from + blob.location.length as usize));
            let whole = envelope.is_some_and(|envelope| {
                decode_blob(key, envelope, blob.location.uncompressed, &blob.id, &mut scratch, &mut plain).is_ok()
            });
            if !whole {
                // There may be another copy, and if there is none this says what is wrong.
                match reader.load(blob.kind, &blob.id) {
                    Ok(found) => plain = found,
                    Err(error) => {
                        broken.lock().push((blob.kind, blob.id, error));
                        continue;
                    }
                }
            }
            writer.save(blob.kind, &plain)?;
        }
    }
    Ok(())
}

/// As restic tells copies apart: everything but the parent and the first id must be the same.
fn similar(a: &Snapshot, b: &Snapshot) -> bool {
    let set = |words: &[String]| words.iter().cloned().collect::<HashSet<_>>();
    a.time.time() == b.time.time()
        && a.tree == b.tree
        && (&a.hostname, &a.username, a.uid, a.gid) == (&b.hostname, &b.username, b.uid, b.gid)
        && a.excludes == b.excludes
        && set(&a.paths) == set(&b.paths)
        && set(&a.tags) == set(&b.tags)
}
