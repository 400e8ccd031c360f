//! Several snapshots made into one that holds what any of them holds.
//!
//! Where two of them have something else at one path, the one that was modified last stands in the new snapshot, as with
//! rustic's `merge`; between equal times the later snapshot's. Folders are merged: what is in them comes from all.

use std::sync::Arc;

use backstay_core::{FileKind, Id, ObjectKind, Time};

use crate::error::Error;
use crate::lock::{host_name, user_name};
use crate::maintenance::MaintenanceProgress;
use crate::maintenance::forget::protected;
use crate::maintenance::ledgers::{DroppedLedger, Guard, Ledgers};
use crate::maintenance::rewrite::start;
use crate::pack::BlobKind;
use crate::reader::{Reader, Result};
use crate::repository::Repository;
use crate::snapshot::{PROGRAM_VERSION, Snapshot, SnapshotTime, Summary};
use crate::tree::{Node, Tree};
use crate::walk::{INTERNAL, join};
use crate::writer::Writer;

/// Folders inside each other at the most.
const DEEPEST: usize = 2000;

/// How snapshots are merged.
#[derive(Clone, Copy, Debug, Default)]
pub struct MergeOptions {
    /// Delete the snapshots that were merged. Needs the exclusive lock.
    pub forget: bool,
    /// Find out what would be done, and change nothing.
    pub dry_run: bool,
    /// The new snapshot's time; none: now.
    pub time: Option<Time>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct MergeReport {
    /// The new snapshot; none in a dry run.
    pub new: Option<Id>,
    /// Ledgers that the new one does not have.
    pub dropped: Vec<DroppedLedger>,
    /// What the new snapshot holds.
    pub summary: Summary,
}

/// Merges these snapshots, at least two and none of them partial, into a new one.
///
/// # Errors
/// Fewer than two, a partial one, one that is to be forgotten and protected, a tree that cannot be read or written again without losing information.
pub fn merge(
    repository: &Arc<Repository>,
    mut snapshots: Vec<(Id, Snapshot)>,
    options: MergeOptions,
    ledgers: &dyn Ledgers,
    progress: &dyn MaintenanceProgress,
) -> Result<MergeReport> {
    if snapshots.len() < 2 {
        return Err(Error::Other("a merge takes two snapshots or more".to_owned()));
    }
    if let Some((id, _)) = snapshots.iter().find(|(_, snapshot)| snapshot.is_partial()) {
        return Err(Error::Other(format!("snapshot {} is partial: what is merged must be whole", id.short())));
    }
    if options.forget
        && let Some(error) = snapshots.iter().find_map(|(id, snapshot)| protected(id, snapshot))
    {
        return Err(error);
    }
    let (reader, writer) = start(repository, options.dry_run)?;
    snapshots.sort_by(|(a, left), (b, right)| (left.time.time(), a).cmp(&(right.time.time(), b)));
    let begun = SnapshotTime::now();
    let mut guard = Guard::none();
    // The newest snapshot's ledger of each source.
    for (_, snapshot) in snapshots.iter().rev() {
        guard.add(&reader, &snapshot.tree, ledgers)?;
    }
    let mut merge = Merge { reader: &reader, writer: &writer, guard, progress, summary: Summary::default() };
    let trees: Vec<Id> = snapshots.iter().map(|(_, snapshot)| snapshot.tree).collect();
    let mut nodes = merge.level(&[], &trees, 0)?;
    let Merge { guard, mut summary, .. } = merge;
    let (internal, dropped) = guard.settle(&writer)?;
    nodes.extend(internal);
    let tree = writer.save_tree(&nodes)?;
    let written = writer.finish()?;
    summary.backup_start = begun.clone();
    summary.backup_end = SnapshotTime::now();
    summary.tree_blobs = written.tree_blobs;
    summary.data_added = written.added;
    summary.data_added_packed = written.added_packed;
    let mut report = MergeReport { new: None, dropped, summary: summary.clone() };
    if options.dry_run {
        return Ok(report);
    }
    let unique = |mut words: Vec<String>| {
        words.sort();
        words.dedup();
        words
    };
    let hosts = unique(snapshots.iter().map(|(_, snapshot)| snapshot.hostname.clone()).collect());
    let new = Snapshot {
        time: options.time.map_or(begun, SnapshotTime::from),
        tree,
        paths: unique(snapshots.iter().flat_map(|(_, snapshot)| snapshot.paths.clone()).collect()),
        hostname: if let [host] = &hosts[..] { host.clone() } else { host_name() },
        username: user_name(),
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        tags: unique(snapshots.iter().flat_map(|(_, snapshot)| snapshot.tags.clone()).collect()),
        program_version: PROGRAM_VERSION.to_owned(),
        summary: Some(summary),
        ..Snapshot::default()
    };
    progress.go_on()?;
    report.new = Some(repository.save_snapshot(&new)?);
    if options.forget {
        progress.go_on()?;
        let old: Vec<Id> = snapshots.into_iter().map(|(id, _)| id).collect();
        repository.store().delete_all(ObjectKind::Snapshot, &old)?;
    }
    Ok(report)
}

struct Merge<'a> {
    reader: &'a Arc<Reader>,
    writer: &'a Writer,
    guard: Guard,
    progress: &'a dyn MaintenanceProgress,
    summary: Summary,
}

impl Merge<'_> {
    /// The nodes of the directory at `path`, out of its trees in the snapshots, the oldest snapshot's first.
    fn level(&mut self, path: &[u8], trees: &[Id], depth: usize) -> Result<Vec<Node>> {
        self.progress.go_on()?;
        if depth > DEEPEST {
            return Err(Error::Other(format!("folders inside each other more than {DEEPEST} deep cannot be merged")));
        }
        let mut all: Vec<(usize, Node)> = Vec::new();
        let mut seen: Vec<Id> = Vec::new();
        for (number, id) in trees.iter().enumerate().rev() {
            if seen.contains(id) {
                continue;
            }
            seen.push(*id);
            all.extend(self.load(path, id)?.into_iter().map(|node| (number, node)));
        }
        all.retain(|(_, node)| !path.is_empty() || node.name != INTERNAL);
        // For each name: the one modified last, then the one of the newest snapshot, first.
        all.sort_by(|(a, left), (b, right)| {
            left.name.cmp(&right.name).then(right.mtime.cmp(&left.mtime)).then(b.cmp(a))
        });
        let mut merged: Vec<Node> = Vec::new();
        for group in all.chunk_by(|(_, left), (_, right)| left.name == right.name) {
            let [(_, first), ..] = group else { continue };
            let mut node = first.clone();
            if node.kind == FileKind::Directory {
                // Oldest first again, so that the newest wins where times are equal below.
                let mut below: Vec<(usize, Id)> = group
                    .iter()
                    .filter(|(_, node)| node.kind == FileKind::Directory)
                    .filter_map(|(number, node)| Some((*number, node.subtree?)))
                    .collect();
                below.sort_unstable_by_key(|(number, _)| *number);
                let below: Vec<Id> = below.into_iter().map(|(_, tree)| tree).collect();
                let nodes = self.level(&join(path, &node.name), &below, depth + 1)?;
                node.subtree = Some(self.writer.save_tree(&nodes)?);
            } else {
                self.guard.kept(&node);
                if node.kind == FileKind::File {
                    self.summary.total_files_processed += 1;
                    self.summary.total_bytes_processed += node.size;
                }
            }
            merged.push(node);
        }
        self.progress.advanced(1);
        Ok(merged)
    }

    fn load(&self, path: &[u8], id: &Id) -> Result<Vec<Node>> {
        let json = self.reader.load(BlobKind::Tree, id)?;
        let tree = Tree::decode(&json).map_err(|error| Error::Other(format!("tree {id}: {error}")))?;
        let ordered = tree.nodes.windows(2).all(|pair| pair[0].name < pair[1].name);
        if !ordered || tree.encode() != json {
            let shown = if path.is_empty() { "/".into() } else { String::from_utf8_lossy(path) };
            return Err(Error::Other(format!(
                "the tree of \"{shown}\" cannot be written again without losing information: another program wrote it \
                 in a way of its own"
            )));
        }
        Ok(tree.nodes)
    }
}
