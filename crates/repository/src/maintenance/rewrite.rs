//! Snapshots written anew: without some of their files, with another host or time.
//!
//! A changed snapshot is a new one that remembers the old one's id as `original`. Trees that another program wrote in a
//! way of its own are refused: written again, they would lose what only that program understands.

use std::sync::Arc;

use backstay_core::{FileKind, Id, ObjectKind, Time};

use crate::error::Error;
use crate::maintenance::ledgers::{DroppedLedger, Guard, Ledgers};
use crate::maintenance::rewrite_tree::{Change, rewrite_tree};
use crate::maintenance::{MaintenanceProgress, replace_snapshot};
use crate::reader::{Reader, Result};
use crate::repository::Repository;
use crate::snapshot::{Snapshot, Summary};
use crate::tree::Node;
use crate::walk::INTERNAL;
use crate::writer::{WriteOptions, Writer};

pub use crate::maintenance::rewrite_tree::Keep;

/// Decides about the node at a path (`/srv/x`, exact bytes); whether it is a directory is told.
pub type KeepNode<'a> = &'a (dyn Fn(&[u8], bool) -> Keep + Sync);

/// What is changed.
#[derive(Clone, Copy, Default)]
pub struct RewriteOptions<'a> {
    /// Which nodes stay; none: all of them. What is in `/.backstay` is not asked about, except for that folder and the
    /// folders of the sources in it.
    pub keep: Option<KeepNode<'a>>,
    /// Another host.
    pub host: Option<&'a str>,
    /// Another time.
    pub time: Option<Time>,
    /// Count the files of snapshots that do not say how many they have.
    pub summary: bool,
    /// Delete the old snapshots; otherwise the new ones get a tag.
    pub forget: bool,
    /// Find out what would be done, and change nothing.
    pub dry_run: bool,
}

impl std::fmt::Debug for RewriteOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RewriteOptions").field("forget", &self.forget).field("dry_run", &self.dry_run).finish()
    }
}

/// A snapshot that was changed, or would be.
#[derive(Clone, Debug)]
pub struct ChangedSnapshot {
    /// Its id.
    pub old: Id,
    /// The new one's id; none if nothing was written.
    pub new: Option<Id>,
    /// Whether the old one was deleted.
    pub forgotten: bool,
    /// Ledgers that the new one does not have.
    pub dropped: Vec<DroppedLedger>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct ChangeReport {
    /// Snapshots that were changed, or would be.
    pub changed: Vec<ChangedSnapshot>,
    /// How many there was nothing to change about.
    pub unchanged: u64,
    /// Snapshots that could not be changed, and why.
    pub failed: Vec<(Id, Error)>,
}

/// A changed snapshot whose trees are on their way into the repository.
pub(crate) struct Pending {
    pub(crate) old: Id,
    pub(crate) snapshot: Snapshot,
    pub(crate) dropped: Vec<DroppedLedger>,
}

/// Writes these snapshots anew. Needs a shared lock, with `forget` the exclusive one.
///
/// # Errors
/// Nothing to do, [`Error::ReadOnlyVersion`], [`Error::Store`], interrupted. A snapshot that cannot be changed is in
/// the report, and keeps no other from being changed.
pub fn rewrite(
    repository: &Arc<Repository>,
    snapshots: Vec<(Id, Snapshot)>,
    options: &RewriteOptions<'_>,
    ledgers: &dyn Ledgers,
    progress: &dyn MaintenanceProgress,
) -> Result<ChangeReport> {
    if options.keep.is_none() && options.host.is_none() && options.time.is_none() && !options.summary {
        return Err(Error::Other("nothing to do: name what to leave out, or another host or time".to_owned()));
    }
    let (reader, writer) = start(repository, options.dry_run)?;
    let mut report = ChangeReport::default();
    let mut pending = Vec::new();
    progress.stage("snapshots", 0);
    for (old, snapshot) in snapshots {
        progress.go_on()?;
        match rewritten(&reader, &writer, &snapshot, options, ledgers, progress) {
            Ok(None) => report.unchanged += 1,
            Ok(Some((snapshot, dropped))) => pending.push(Pending { old, snapshot, dropped }),
            Err(error @ Error::Store(_)) => return Err(error),
            Err(error) => {
                progress.go_on()?;
                report.failed.push((old, error));
            }
        }
    }
    finish(
        repository,
        &writer,
        pending,
        &Ending { tag: "rewrite", forget: options.forget, dry_run: options.dry_run },
        progress,
        &mut report,
    )?;
    Ok(report)
}

/// The whole index, and a writer for new trees.
pub(crate) fn start(repository: &Arc<Repository>, dry_run: bool) -> Result<(Arc<Reader>, Arc<Writer>)> {
    let index = Arc::new(repository.load_index()?);
    let reader = Arc::new(Reader::new(Arc::clone(repository), Arc::clone(&index)));
    let writer = Writer::new(Arc::clone(repository), index, WriteOptions { dry_run, ..WriteOptions::default() })?;
    Ok((reader, writer))
}

/// How changed snapshots are stored.
pub(crate) struct Ending {
    /// For those whose old ones stay.
    pub(crate) tag: &'static str,
    pub(crate) forget: bool,
    pub(crate) dry_run: bool,
}

/// Stores the trees, then each changed snapshot, then deletes the old one if it goes.
pub(crate) fn finish(
    repository: &Repository,
    writer: &Writer,
    pending: Vec<Pending>,
    ending: &Ending,
    progress: &dyn MaintenanceProgress,
    report: &mut ChangeReport,
) -> Result<()> {
    writer.finish()?;
    for Pending { old, mut snapshot, dropped } in pending {
        let mut changed = ChangedSnapshot { old, new: None, forgotten: false, dropped };
        if !ending.dry_run {
            snapshot.original = Some(old);
            if ending.forget {
                changed.new = Some(replace_snapshot(repository, &old, &snapshot, progress)?);
                changed.forgotten = true;
            } else {
                if !snapshot.tags.iter().any(|tag| tag == ending.tag) {
                    snapshot.tags.push(ending.tag.to_owned());
                }
                progress.go_on()?;
                changed.new = Some(repository.save_snapshot(&snapshot)?);
            }
        }
        report.changed.push(changed);
    }
    Ok(())
}

/// The root's tree with its changed nodes, and `/.backstay` with the ledgers that survive.
pub(crate) fn close_root(
    writer: &Writer,
    old: &Id,
    mut nodes: Vec<Node>,
    mut changed: bool,
    guard: Guard,
) -> Result<(Id, Vec<DroppedLedger>)> {
    let before = guard.internal().cloned();
    let (internal, dropped) = guard.settle(writer)?;
    changed |= internal != before;
    nodes.extend(internal);
    let tree = if changed { writer.save_tree(&nodes)? } else { *old };
    Ok((tree, dropped))
}

/// The path of the folder that Backstay keeps for itself.
pub(crate) fn is_internal(path: &[u8]) -> bool {
    path.strip_prefix(b"/") == Some(INTERNAL)
}

struct Filter<'a> {
    keep: KeepNode<'a>,
    guard: Guard,
    files: u64,
    bytes: u64,
}

impl Change for Filter<'_> {
    fn node(&mut self, path: &[u8], node: &mut Node) -> Result<Keep> {
        if is_internal(path) {
            return Ok(Keep::Aside);
        }
        Ok((self.keep)(path, node.kind == FileKind::Directory))
    }

    fn unreadable(&mut self, path: &[u8], _: Option<&[u8]>, error: Error) -> Result<Vec<Node>> {
        let path = if path.is_empty() { "/".into() } else { String::from_utf8_lossy(path) };
        Err(Error::Other(format!("\"{path}\" cannot be read: {error}")))
    }

    fn exact(&self) -> bool {
        true
    }

    fn kept(&mut self, node: &Node) {
        self.guard.kept(node);
        if node.kind == FileKind::File {
            self.files += 1;
            self.bytes += node.size;
        }
    }
}

fn rewritten(
    reader: &Arc<Reader>,
    writer: &Writer,
    snapshot: &Snapshot,
    options: &RewriteOptions<'_>,
    ledgers: &dyn Ledgers,
    progress: &dyn MaintenanceProgress,
) -> Result<Option<(Snapshot, Vec<DroppedLedger>)>> {
    let mut new = snapshot.clone();
    let mut dropped = Vec::new();
    let everything = |_: &[u8], _: bool| Keep::Yes;
    let count = options.summary && snapshot.summary.is_none();
    if options.keep.is_some() || count {
        let keep = options.keep.unwrap_or(&everything);
        let mut guard = Guard::of(reader, &snapshot.tree, ledgers)?;
        guard.retain(|source| {
            let folder = [b"/", INTERNAL].concat();
            let path = [&folder[..], b"/", source].concat();
            keep(&folder, true) != Keep::No && keep(&path, true) != Keep::No
        });
        let mut filter = Filter { keep, guard, files: 0, bytes: 0 };
        let root = rewrite_tree(reader, writer, &snapshot.tree, &mut filter, progress)?;
        let Filter { guard, files, bytes, .. } = filter;
        (new.tree, dropped) = close_root(writer, &snapshot.tree, root.nodes, root.changed, guard)?;
        if new.tree != snapshot.tree || count {
            let summary = new.summary.get_or_insert_with(Summary::default);
            summary.total_files_processed = files;
            summary.total_bytes_processed = bytes;
        }
    }
    if let Some(host) = options.host {
        host.clone_into(&mut new.hostname);
    }
    if let Some(time) = options.time {
        new.time = time.into();
    }
    Ok((new != *snapshot).then_some((new, dropped)))
}

/// Deletes a snapshot that nothing is left of.
pub(crate) fn forget_empty(repository: &Repository, id: &Id, progress: &dyn MaintenanceProgress) -> Result<()> {
    progress.go_on()?;
    Ok(repository.store().delete(ObjectKind::Snapshot, id)?)
}
