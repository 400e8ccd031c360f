//! Snapshots without what cannot be read any more: files lose the parts that are gone, directories whose trees are gone
//! become empty, as restic's `repair snapshots` does it. The old snapshot stays unless it is to be forgotten.

use std::collections::HashMap;
use std::sync::Arc;

use backstay_core::{FileKind, Id, ObjectKind};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::Error;
use crate::maintenance::MaintenanceProgress;
use crate::maintenance::forget::protected;
use crate::maintenance::ledgers::{Guard, Ledgers};
use crate::maintenance::rewrite::{
    ChangeReport, ChangedSnapshot, Ending, Pending, close_root, finish, forget_empty, is_internal, start,
};
use crate::maintenance::rewrite_tree::{Change, Keep, rewrite_tree};
use crate::pack::BlobKind;
use crate::reader::{Reader, Result};
use crate::repository::Repository;
use crate::snapshot::Snapshot;
use crate::tree::{Node, Tree};

/// How snapshots are repaired.
#[derive(Clone, Copy, Debug, Default)]
pub struct RepairSnapshotsOptions {
    /// Delete the broken snapshots; otherwise the new ones get the tag `repaired`.
    pub forget: bool,
    /// Find out what would be done, and change nothing.
    pub dry_run: bool,
}

/// Repairs these snapshots as far as they need it. Needs the exclusive lock, and an index that is right.
///
/// # Errors
/// The index lists packs that are not there, [`Error::ReadOnlyVersion`], [`Error::Store`], interrupted. A snapshot of
/// which nothing is left is in the report: its root cannot be read.
pub fn repair_snapshots(
    repository: &Arc<Repository>,
    snapshots: Vec<(Id, Snapshot)>,
    options: RepairSnapshotsOptions,
    ledgers: &dyn Ledgers,
    progress: &dyn MaintenanceProgress,
) -> Result<ChangeReport> {
    let RepairSnapshotsOptions { forget, dry_run } = options;
    let (reader, writer) = start(repository, dry_run)?;
    let stored: HashMap<Id, u64> = repository.store().list(ObjectKind::Pack)?.into_iter().collect();
    for (pack, summary) in reader.index().packs() {
        let command = match stored.get(&pack) {
            None => "index\"".to_owned(),
            Some(size) if *size != summary.size => format!("index\", then \"backstay repair packs {pack}\""),
            Some(_) => continue,
        };
        return Err(Error::Other(format!(
            "pack {pack} is not as the index says: run \"backstay repair {command} first"
        )));
    }
    let mut report = ChangeReport::default();
    let mut pending = Vec::new();
    progress.stage("snapshots", 0);
    for (old, snapshot) in snapshots {
        progress.go_on()?;
        let guard = Guard::of(&reader, &snapshot.tree, ledgers)?;
        let mut repair = Repair { reader: &reader, guard, snapshot: old.short(), progress };
        let root = match rewrite_tree(&reader, &writer, &snapshot.tree, &mut repair, progress) {
            Ok(root) => root,
            Err(error @ Error::Store(_)) => return Err(error),
            Err(error) => {
                progress.go_on()?;
                if forget && let Some(error) = protected(&old, &snapshot) {
                    report.failed.push((old, error));
                    continue;
                }
                if forget && !dry_run {
                    forget_empty(repository, &old, progress)?;
                }
                if forget {
                    progress.note(&format!("snapshot {}: nothing of it is left: {error}", old.short()));
                    let dropped = Vec::new();
                    report.changed.push(ChangedSnapshot { old, new: None, forgotten: !dry_run, dropped });
                } else {
                    report.failed.push((old, error));
                }
                continue;
            }
        };
        let (tree, dropped) = close_root(&writer, &snapshot.tree, root.nodes, root.changed, repair.guard)?;
        if tree == snapshot.tree {
            report.unchanged += 1;
        } else {
            pending.push(Pending { old, snapshot: Snapshot { tree, ..snapshot }, dropped });
        }
    }
    finish(repository, &writer, pending, &Ending { tag: "repaired", forget, dry_run }, progress, &mut report)?;
    Ok(report)
}

struct Repair<'a> {
    reader: &'a Reader,
    guard: Guard,
    snapshot: String,
    progress: &'a dyn MaintenanceProgress,
}

impl Repair<'_> {
    fn note(&self, path: &[u8], what: &str) {
        let path = if path.is_empty() { "/".into() } else { String::from_utf8_lossy(path) };
        self.progress.note(&format!("snapshot {}: {path:?}: {what}", self.snapshot));
    }
}

impl Change for Repair<'_> {
    fn node(&mut self, path: &[u8], node: &mut Node) -> Result<Keep> {
        if is_internal(path) {
            return Ok(Keep::Aside);
        }
        if node.kind == FileKind::File {
            let (mut content, mut size) = (Vec::new(), 0);
            let before = node.content.take().unwrap_or_default();
            for id in &before {
                if let Ok(length) = self.reader.blob_length(BlobKind::Data, id) {
                    content.push(*id);
                    size += length;
                }
            }
            if content.len() < before.len() {
                self.note(path, &format!("{} of its {} parts are gone", before.len() - content.len(), before.len()));
            } else if size != node.size {
                self.note(path, "its size was wrong");
            }
            node.content = Some(content);
            node.size = size;
        }
        Ok(Keep::Yes)
    }

    fn unreadable(&mut self, path: &[u8], json: Option<&[u8]>, error: Error) -> Result<Vec<Node>> {
        match json.and_then(readable_nodes) {
            Some((nodes, lost)) => {
                self.note(path, &format!("{lost} of its entries cannot be read and are left out"));
                Ok(nodes)
            }
            None if path.is_empty() => Err(error),
            None => {
                self.note(path, &format!("the directory cannot be read and is empty now ({error})"));
                Ok(Vec::new())
            }
        }
    }

    fn exact(&self) -> bool {
        false
    }

    fn kept(&mut self, node: &Node) {
        self.guard.kept(node);
    }
}

/// The nodes of a tree that can be read one by one, and how many cannot.
fn readable_nodes(json: &[u8]) -> Option<(Vec<Node>, usize)> {
    #[derive(Deserialize)]
    struct Raw<'a> {
        #[serde(borrow)]
        nodes: Vec<&'a RawValue>,
    }
    let raw: Raw<'_> = serde_json::from_slice(json).ok()?;
    let mut nodes: Vec<Node> = Vec::new();
    let all = raw.nodes.len();
    for node in raw.nodes {
        if let Ok(tree) = Tree::decode(format!("{{\"nodes\":[{}]}}", node.get()).as_bytes()) {
            nodes.extend(tree.nodes);
        }
    }
    let lost = all - nodes.len();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes.dedup_by(|a, b| a.name == b.name);
    Some((nodes, lost))
}
