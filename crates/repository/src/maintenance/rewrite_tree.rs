//! Trees written anew with some of their nodes changed or left out. Directories without a change keep their trees.

use backstay_core::{FileKind, Id, ObjectKind, StoreErrorKind};

use crate::error::Error;
use crate::maintenance::MaintenanceProgress;
use crate::pack::BlobKind;
use crate::reader::{Reader, Result, blob_error, decode_blob};
use crate::tree::{Node, Tree};
use crate::walk::join;
use crate::writer::Writer;

/// What becomes of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It stays.
    Yes,
    /// A directory: it stays if something in it does.
    IfNotEmpty,
    /// It goes, with everything below it.
    No,
    /// It is left out without counting as a change: whoever asked puts something in its place.
    Aside,
}

/// Decides about nodes. Directories are asked about before what is in them.
pub(crate) trait Change {
    /// What becomes of the node at `path`; it may be changed.
    fn node(&mut self, path: &[u8], node: &mut Node) -> Result<Keep>;
    /// What stands in the place of a directory that cannot be read; an error ends the whole.
    fn unreadable(&mut self, path: &[u8], json: Option<&[u8]>, error: Error) -> Result<Vec<Node>>;
    /// Whether trees must come out as they were written, byte for byte, if nothing in them changes.
    fn exact(&self) -> bool;
    /// A node that stays as it is now: a file's contents are kept.
    fn kept(&mut self, node: &Node);
}

struct Level {
    path: Vec<u8>,
    /// None where the tree could not be read and must be written anew.
    id: Option<Id>,
    nodes: std::vec::IntoIter<Node>,
    kept: Vec<Node>,
    /// The directory that this is, and whether it goes when it becomes empty.
    directory: Option<(Node, Keep)>,
}

/// A root tree that was gone through.
pub(crate) struct Rewritten {
    /// Its nodes, except those that were put aside.
    pub(crate) nodes: Vec<Node>,
    /// Whether anything changed.
    pub(crate) changed: bool,
}

/// Goes through everything below the tree `root` and writes the trees of the directories that change. The root's own
/// tree is left to the caller.
pub(crate) fn rewrite_tree(
    reader: &Reader,
    writer: &Writer,
    root: &Id,
    change: &mut dyn Change,
    progress: &dyn MaintenanceProgress,
) -> Result<Rewritten> {
    let mut levels = vec![load(reader, &[], Some(*root), None, change)?];
    loop {
        let Some(level) = levels.last_mut() else { return Err(Error::Other("a walk lost its way".to_owned())) };
        if let Some(mut node) = level.nodes.next() {
            let path = join(&level.path, &node.name);
            let before = node.clone();
            let keep = change.node(&path, &mut node)?;
            if keep == Keep::Aside {
                continue;
            }
            if keep == Keep::No {
                level.id = None;
                continue;
            }
            if node != before {
                level.id = None;
            }
            if node.kind == FileKind::Directory {
                progress.go_on()?;
                let tree = node.subtree;
                let below = load(reader, &path, tree, Some((node, keep)), change)?;
                levels.push(below);
            } else {
                change.kept(&node);
                level.kept.push(node);
            }
            continue;
        }
        let Some(done) = levels.pop() else { continue };
        progress.advanced(1);
        let (Some(above), Some((mut node, keep))) = (levels.last_mut(), done.directory) else {
            return Ok(Rewritten { nodes: done.kept, changed: done.id.is_none() });
        };
        if keep == Keep::IfNotEmpty && done.kept.is_empty() {
            above.id = None;
            continue;
        }
        let tree = match done.id {
            Some(id) => id,
            None => writer.save_tree(&done.kept)?,
        };
        if node.subtree != Some(tree) {
            node.subtree = Some(tree);
            above.id = None;
        }
        above.kept.push(node);
    }
}

fn load(
    reader: &Reader,
    path: &[u8],
    tree: Option<Id>,
    directory: Option<(Node, Keep)>,
    change: &mut dyn Change,
) -> Result<Level> {
    let level = |id, nodes: Vec<Node>| {
        let kept = Vec::with_capacity(nodes.len());
        Level { path: path.to_vec(), id, nodes: nodes.into_iter(), kept, directory }
    };
    let Some(id) = tree else {
        let nodes = change.unreadable(path, None, Error::Other("the directory has no tree".to_owned()))?;
        return Ok(level(None, nodes));
    };
    let json = match load_tree(reader, &id)? {
        Ok(json) => json,
        Err(error) => {
            let nodes = change.unreadable(path, None, error)?;
            return Ok(level(None, nodes));
        }
    };
    let tree = match Tree::decode(&json) {
        Ok(tree) => tree,
        Err(error) => {
            let error = Error::Other(format!("tree {id}: {error}"));
            let nodes = change.unreadable(path, Some(&json), error)?;
            return Ok(level(None, nodes));
        }
    };
    let ordered = tree.nodes.windows(2).all(|pair| pair[0].name < pair[1].name);
    if change.exact() {
        if !ordered || tree.encode() != json {
            let shown = if path.is_empty() { "/".into() } else { String::from_utf8_lossy(path) };
            return Err(Error::Other(format!(
                "the tree of \"{shown}\" cannot be written again without losing information: another program wrote it \
                 in a way of its own"
            )));
        }
    } else if !ordered {
        let mut nodes = tree.nodes;
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        nodes.dedup_by(|a, b| a.name == b.name);
        return Ok(level(None, nodes));
    }
    Ok(level(Some(id), tree.nodes))
}

/// The bytes of a tree, or why they are gone. A store that fails is another matter: what it cannot give now is not lost.
fn load_tree(reader: &Reader, id: &Id) -> Result<Result<Vec<u8>>> {
    let repository = reader.repository();
    let mut first = None;
    for location in reader.index().get_all(BlobKind::Tree, id) {
        let start = u64::from(location.offset);
        let range = start..start + u64::from(location.length);
        let reason = match repository.store().get(ObjectKind::Pack, &location.pack, Some(range)) {
            Ok(envelope) => {
                let (mut scratch, mut plain) = (Vec::new(), Vec::new());
                match decode_blob(repository.key(), &envelope, location.uncompressed, id, &mut scratch, &mut plain) {
                    Ok(()) => return Ok(Ok(plain)),
                    Err(reason) => reason,
                }
            }
            Err(error) if error.kind == StoreErrorKind::NotFound => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        first.get_or_insert(blob_error(BlobKind::Tree, id, &location, reason));
    }
    Ok(Err(first.unwrap_or(Error::BlobMissing { kind: BlobKind::Tree, id: *id })))
}
