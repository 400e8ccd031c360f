//! What differs between two trees: changed paths with restic's modifiers, and what the change costs in blobs.

use std::cmp::Ordering;
use std::collections::HashSet;

use backstay_core::{FileKind, Id};
use serde::Serialize;

use crate::error::Error;
use crate::pack::BlobKind;
use crate::reader::{Reader, Result, Upcoming};
use crate::tree::Node;
use crate::walk::{INTERNAL, join};

/// What to look at.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiffOptions {
    /// Report nodes of which only the metadata differ (`U`).
    pub metadata: bool,
    /// Leave out `/.backstay`.
    pub skip_internal: bool,
}

/// One changed path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The path from the root, exact bytes; directories end with a slash.
    pub path: Vec<u8>,
    /// `+` added, `-` removed, `T` other type, `M` other contents, `U` other metadata, `TU` both, `M?` other contents
    /// although all metadata agree (the medium may have changed it).
    pub modifier: &'static str,
}

/// What was added or removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiffSide {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Everything else.
    pub others: u64,
    /// Blobs of file contents that only this side has.
    pub data_blobs: u64,
    /// Trees that only this side has.
    pub tree_blobs: u64,
    /// Length of those blobs before compression, in bytes.
    pub bytes: u64,
}

/// The sum of all changes (reference 19.2, `statistics`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiffStatistics {
    /// Files with other contents.
    pub changed_files: u64,
    /// What only the second tree has.
    pub added: DiffSide,
    /// What only the first tree has.
    pub removed: DiffSide,
}

impl DiffSide {
    fn count(&mut self, kind: FileKind) {
        match kind {
            FileKind::File => self.files += 1,
            FileKind::Directory => self.dirs += 1,
            _ => self.others += 1,
        }
    }
}

type Blobs = HashSet<(BlobKind, Id)>;

struct Comparison<'a> {
    reader: &'a Reader,
    options: DiffOptions,
    report: &'a mut dyn FnMut(Change),
    statistics: DiffStatistics,
    before: Blobs,
    after: Blobs,
    common: Blobs,
}

/// Compares the trees `before` and `after`, telling each changed path to `report` in the order of the paths.
///
/// # Errors
/// A tree could not be read, or a blob that only one side has is not in the index.
pub fn diff(
    reader: &Reader,
    before: &Id,
    after: &Id,
    options: DiffOptions,
    report: &mut dyn FnMut(Change),
) -> Result<DiffStatistics> {
    let mut comparison = Comparison {
        reader,
        options,
        report,
        statistics: DiffStatistics::default(),
        before: Blobs::from([(BlobKind::Tree, *before)]),
        after: Blobs::from([(BlobKind::Tree, *after)]),
        common: Blobs::new(),
    };
    if before != after {
        comparison.trees(b"", before, after)?;
    }
    comparison.finish()
}

/// The nodes of a tree by name: foreign trees may be out of order.
fn sorted(reader: &Reader, id: &Id) -> Result<Vec<Node>> {
    let mut nodes = reader.tree_once(id)?.nodes;
    nodes.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(nodes)
}

/// The subtrees of two sorted directories in the order in which a comparison visits them.
fn both_subtrees(old: &[Node], new: &[Node]) -> Upcoming {
    let mut nodes: Vec<&Node> = old.iter().chain(new).filter(|node| node.subtree.is_some()).collect();
    nodes.sort_by(|left, right| left.name.cmp(&right.name));
    Upcoming::new(nodes.iter().filter_map(|node| node.subtree).collect())
}

fn subtree(node: &Node, path: &[u8]) -> Result<Id> {
    node.subtree.ok_or_else(|| Error::Other(format!("directory {:?} has no tree", String::from_utf8_lossy(path))))
}

/// Whether everything but contents and name agrees.
fn same_metadata(one: &Node, other: &Node) -> bool {
    one.kind == other.kind
        && one.mode == other.mode
        && (one.mtime, one.atime, one.ctime) == (other.mtime, other.atime, other.ctime)
        && (one.uid, one.gid) == (other.uid, other.gid)
        && (&one.user, &one.group) == (&other.user, &other.group)
        && (one.inode, one.device_id) == (other.inode, other.device_id)
        && (one.size, one.links, one.device) == (other.size, other.links, other.device)
        && one.link_target == other.link_target
        && one.xattrs == other.xattrs
}

impl Comparison<'_> {
    fn hidden(&self, directory: &[u8], node: &Node) -> bool {
        self.options.skip_internal && directory.is_empty() && node.name == INTERNAL
    }

    fn changed(&mut self, path: &[u8], node: &Node, modifier: &'static str) {
        let mut path = path.to_vec();
        if node.kind == FileKind::Directory {
            path.push(b'/');
        }
        (self.report)(Change { path, modifier });
    }

    fn trees(&mut self, directory: &[u8], before: &Id, after: &Id) -> Result<()> {
        self.reader.prefetch(BlobKind::Tree, [after]);
        let (old, new) = (sorted(self.reader, before)?, sorted(self.reader, after)?);
        let mut upcoming = both_subtrees(&old, &new);
        let mut visited = 0;
        let (mut old, mut new) = (old.into_iter().peekable(), new.into_iter().peekable());
        loop {
            upcoming.visit(self.reader, visited);
            let order = match (old.peek(), new.peek()) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => old.name.cmp(&new.name),
            };
            let gone = if order == Ordering::Greater { None } else { old.next() };
            let come = if order == Ordering::Less { None } else { new.next() };
            let gone = gone.filter(|node| !self.hidden(directory, node));
            let come = come.filter(|node| !self.hidden(directory, node));
            visited += gone.iter().chain(&come).filter(|node| node.subtree.is_some()).count();
            match (gone, come) {
                (Some(gone), Some(come)) => self.pair(directory, &gone, &come)?,
                (Some(gone), None) => self.one_sided(directory, &gone, false)?,
                (None, Some(come)) => self.one_sided(directory, &come, true)?,
                (None, None) => {}
            }
        }
    }

    fn pair(&mut self, directory: &[u8], old: &Node, new: &Node) -> Result<()> {
        let path = join(directory, &old.name);
        insert_blobs(&mut self.before, old);
        insert_blobs(&mut self.after, new);
        let other_kind = old.kind != new.kind;
        if !other_kind && old.kind == FileKind::File && old.content != new.content {
            self.statistics.changed_files += 1;
            self.changed(&path, new, if same_metadata(old, new) { "M?" } else { "M" });
        } else {
            // As in restic, a directory whose tree differs counts as changed in its metadata.
            let other_metadata = self.options.metadata && !(same_metadata(old, new) && old.subtree == new.subtree);
            match (other_kind, other_metadata) {
                (true, true) => self.changed(&path, new, "TU"),
                (true, false) => self.changed(&path, new, "T"),
                (false, true) => self.changed(&path, new, "U"),
                (false, false) => {}
            }
        }
        match (old.kind == FileKind::Directory, new.kind == FileKind::Directory) {
            (true, true) => {
                let (before, after) = (subtree(old, &path)?, subtree(new, &path)?);
                if before == after { self.collect(&path, before) } else { self.trees(&path, &before, &after) }
            }
            (true, false) => self.contents(&path, old, false),
            (false, true) => self.contents(&path, new, true),
            (false, false) => Ok(()),
        }
    }

    fn one_sided(&mut self, directory: &[u8], node: &Node, added: bool) -> Result<()> {
        let path = join(directory, &node.name);
        self.changed(&path, node, if added { "+" } else { "-" });
        let (side, blobs) = if added {
            (&mut self.statistics.added, &mut self.after)
        } else {
            (&mut self.statistics.removed, &mut self.before)
        };
        side.count(node.kind);
        insert_blobs(blobs, node);
        if node.kind == FileKind::Directory { self.contents(&path, node, added) } else { Ok(()) }
    }

    fn contents(&mut self, path: &[u8], directory: &Node, added: bool) -> Result<()> {
        let nodes = sorted(self.reader, &subtree(directory, path)?)?;
        let mut upcoming = Upcoming::new(nodes.iter().filter_map(|node| node.subtree).collect());
        let mut visited = 0;
        for node in nodes {
            if node.subtree.is_some() {
                upcoming.visit(self.reader, visited);
                visited += 1;
            }
            self.one_sided(path, &node, added)?;
        }
        Ok(())
    }

    /// Remembers what both sides share: it is neither added nor removed, also where it occurs a second time.
    fn collect(&mut self, path: &[u8], tree: Id) -> Result<()> {
        if !self.common.insert((BlobKind::Tree, tree)) {
            return Ok(());
        }
        let nodes = self.reader.tree_once(&tree)?.nodes;
        let mut upcoming = Upcoming::new(nodes.iter().filter_map(|node| node.subtree).collect());
        let mut visited = 0;
        for node in nodes {
            if node.kind == FileKind::Directory {
                upcoming.visit(self.reader, visited);
                visited += 1;
                let path = join(path, &node.name);
                self.collect(&path, subtree(&node, &path)?)?;
            } else {
                insert_blobs(&mut self.common, &node);
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<DiffStatistics> {
        let sides = [
            (&self.before, &self.after, &mut self.statistics.removed),
            (&self.after, &self.before, &mut self.statistics.added),
        ];
        for (mine, other, side) in sides {
            for (kind, id) in mine.iter().filter(|blob| !other.contains(*blob) && !self.common.contains(*blob)) {
                match kind {
                    BlobKind::Data => side.data_blobs += 1,
                    BlobKind::Tree => side.tree_blobs += 1,
                }
                side.bytes += self.reader.blob_length(*kind, id)?;
            }
        }
        Ok(self.statistics)
    }
}

fn insert_blobs(blobs: &mut Blobs, node: &Node) {
    match node.kind {
        FileKind::File => blobs.extend(node.content.iter().flatten().map(|id| (BlobKind::Data, *id))),
        FileKind::Directory => blobs.extend(node.subtree.map(|id| (BlobKind::Tree, id))),
        _ => {}
    }
}
