//! Looking for files in snapshots: by name, path, time and length, by the SHA-256 of their contents, or by the blobs and
//! trees they are made of.

use std::collections::HashSet;
use std::io::Write;
use std::sync::Arc;

use backstay_core::{FileKind, Id, Time};
use hashbrown::HashMap;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::open_file::OpenFile;
use crate::pack::BlobKind;
use crate::pattern::Patterns;
use crate::reader::Reader;
use crate::reader::Result;
use crate::tree::Node;
use crate::walk::{WalkEntry, WalkError, permissions, time_text, walk};

/// What to look for in names.
#[derive(Clone, Debug, Default)]
pub struct FindOptions {
    /// Patterns as [`crate::pattern`] describes them: any one of them is enough.
    pub patterns: Patterns,
    /// Leave out what changed last before this time.
    pub oldest: Option<Time>,
    /// Leave out what changed last after this time.
    pub newest: Option<Time>,
    /// Only files of at least so many bytes.
    pub smallest: Option<u64>,
    /// Only files of at most so many bytes.
    pub largest: Option<u64>,
    /// Leave out `/.backstay`.
    pub skip_internal: bool,
}

impl FindOptions {
    /// Whether times and length of `node` are among those that are wanted.
    fn takes(&self, node: &Node) -> bool {
        self.oldest.is_none_or(|oldest| node.mtime >= oldest)
            && self.newest.is_none_or(|newest| node.mtime <= newest)
            && (self.smallest.is_none() && self.largest.is_none() || node.kind == FileKind::File)
            && self.smallest.is_none_or(|smallest| node.size >= smallest)
            && self.largest.is_none_or(|largest| node.size <= largest)
    }
}

/// What `find --json` prints for a node (reference 19.2).
#[derive(Clone, Debug, Serialize)]
pub struct FindMatch {
    /// The path from the root.
    pub path: String,
    /// See [`permissions`].
    pub permissions: String,
    /// See [`crate::tree::Node::type_name`].
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Go's mode bits.
    #[serde(skip_serializing_if = "is_zero_u32")]
    pub mode: u32,
    /// Last change of the contents.
    pub mtime: String,
    /// Last access.
    pub atime: String,
    /// Last change of the inode.
    pub ctime: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Owner's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Group's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Inode number.
    #[serde(skip_serializing_if = "is_zero")]
    pub inode: u64,
    /// Device that held it.
    #[serde(skip_serializing_if = "is_zero")]
    pub device_id: u64,
    /// Length in bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub size: u64,
    /// Number of hard links.
    #[serde(skip_serializing_if = "is_zero")]
    pub links: u64,
}

fn is_zero_u32(value: &u32) -> bool {
    *value == 0
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl FindMatch {
    /// Describes `node`, found at `path`.
    #[must_use]
    pub fn new(path: &[u8], node: &Node) -> Self {
        Self {
            path: String::from_utf8_lossy(path).into_owned(),
            permissions: permissions(node.mode),
            kind: node.type_name(),
            mode: node.mode,
            mtime: time_text(node.mtime),
            atime: time_text(node.atime),
            ctime: time_text(node.ctime),
            uid: node.uid,
            gid: node.gid,
            user: node.user.clone(),
            group: node.group.clone(),
            inode: node.inode,
            device_id: node.device_id,
            size: node.size,
            links: node.links,
        }
    }
}

/// Tells every node below the tree `root` that `options` describe to `found`, in the order of the trees. Directories
/// that could not be read are returned; the search goes on behind them.
pub fn find(reader: &Reader, root: &Id, options: &FindOptions, found: &mut dyn FnMut(&WalkEntry)) -> Vec<WalkError> {
    let mut errors = Vec::new();
    let mut steps = walk(reader, root, options.skip_internal);
    while let Some(step) = steps.next() {
        let entry = match step {
            Ok(entry) => entry,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        if options.patterns.matches(&entry.path) {
            if options.takes(&entry.node) {
                found(&entry);
            }
        } else if entry.node.kind == FileKind::Directory && !options.patterns.may_match_below(&entry.path) {
            steps.skip_directory();
        }
    }
    errors
}

/// A search for files by the SHA-256 of their whole contents.
///
/// A blob's id is the SHA-256 of the blob, so a file of one blob is known by its tree alone. Longer files are read: each
/// contents once, however many snapshots hold it. Bounds on the length ([`FindOptions::smallest`]) spare most of that.
#[derive(Debug, Default)]
pub struct ContentHashes {
    wanted: Vec<String>,
    /// The hash of what a list of blobs makes, by the hash of that list.
    known: HashMap<Id, Id>,
}

impl ContentHashes {
    /// Looks also for this hash, or for those that begin with it.
    ///
    /// # Errors
    /// `text` is not 1 to 64 hexadecimal digits.
    pub fn add(&mut self, text: &str) -> Result<()> {
        if text.is_empty() || text.len() > 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(Error::Other(format!("{text:?} is not a SHA-256, nor the beginning of one, in hexadecimal")));
        }
        self.wanted.push(text.to_ascii_lowercase());
        Ok(())
    }

    /// Tells every file below the tree `root` with such contents, and within the times and lengths of `options` (whose
    /// patterns do not count), to `found`. Directories and files that could not be read are returned.
    pub fn find(
        &mut self,
        reader: &Arc<Reader>,
        root: &Id,
        options: &FindOptions,
        found: &mut dyn FnMut(&WalkEntry),
    ) -> Vec<WalkError> {
        let mut errors = Vec::new();
        for step in walk(reader, root, options.skip_internal) {
            match step {
                Err(error) => errors.push(error),
                Ok(entry) if entry.node.kind == FileKind::File && options.takes(&entry.node) => {
                    match self.hash(reader, &entry.node) {
                        Ok(hash) => {
                            let hash = hash.to_hex();
                            if self.wanted.iter().any(|wanted| hash.starts_with(wanted)) {
                                found(&entry);
                            }
                        }
                        Err(error) => errors.push(WalkError { path: entry.path, error }),
                    }
                }
                Ok(_) => {}
            }
        }
        errors
    }

    fn hash(&mut self, reader: &Arc<Reader>, node: &Node) -> Result<Id> {
        if let Some([only]) = node.content.as_deref() {
            return Ok(*only);
        }
        let list: Vec<u8> = node.content.iter().flatten().flat_map(|id| id.0).collect();
        let list = Id::of(&list);
        if let Some(known) = self.known.get(&list) {
            return Ok(*known);
        }
        let mut hasher = Hasher(Sha256::new());
        OpenFile::new(Arc::clone(reader), node)?.copy_to(&mut hasher)?;
        let hash = Id(hasher.0.finalize().into());
        self.known.insert(list, hash);
        Ok(hash)
    }
}

/// A hash as something to write to.
struct Hasher(Sha256);

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The blobs and trees that a search by id is about.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    data: HashSet<Id>,
    trees: HashSet<Id>,
}

impl Objects {
    /// Adds the data blob that `text` names: an id, or the beginning of ids of blobs in the index.
    ///
    /// # Errors
    /// `text` is not hexadecimal, or no blob begins with it.
    pub fn add_blob(&mut self, reader: &Reader, text: &str) -> Result<()> {
        Self::add(reader, text, BlobKind::Data, &mut self.data)
    }

    /// Adds the tree that `text` names; see [`Objects::add_blob`].
    ///
    /// # Errors
    /// As [`Objects::add_blob`].
    pub fn add_tree(&mut self, reader: &Reader, text: &str) -> Result<()> {
        Self::add(reader, text, BlobKind::Tree, &mut self.trees)
    }

    fn add(reader: &Reader, text: &str, kind: BlobKind, to: &mut HashSet<Id>) -> Result<()> {
        if let Ok(id) = text.parse() {
            to.insert(id);
            return Ok(());
        }
        let prefix = text.to_ascii_lowercase();
        let before = to.len();
        if !prefix.is_empty() && prefix.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            for (pack, ..) in reader.index().packs() {
                let blobs = reader.index().pack_blobs(&pack);
                to.extend(
                    blobs
                        .iter()
                        .filter(|blob| blob.kind == kind && blob.id.to_hex().starts_with(&prefix))
                        .map(|blob| blob.id),
                );
            }
        }
        if to.len() == before {
            return Err(Error::Other(format!("no {kind} blob has an id that begins with {text:?}")));
        }
        Ok(())
    }

    /// Adds every blob of the pack that `text` names: an id, or the beginning of just one.
    ///
    /// # Errors
    /// No pack of the index, or several of them, begin with `text`.
    pub fn add_pack(&mut self, reader: &Reader, text: &str) -> Result<()> {
        let prefix = text.to_ascii_lowercase();
        let mut packs = reader.index().packs().map(|(pack, ..)| pack).filter(|pack| pack.to_hex().starts_with(&prefix));
        let (Some(pack), None) = (packs.next(), packs.next()) else {
            return Err(Error::Other(format!("{text:?} is not the beginning of just one pack's id in the index")));
        };
        for blob in reader.index().pack_blobs(&pack) {
            match blob.kind {
                BlobKind::Data => self.data.insert(blob.id),
                BlobKind::Tree => self.trees.insert(blob.id),
            };
        }
        Ok(())
    }
}

/// Where an object is used (restic's `find --blob/--tree/--pack --json`).
#[derive(Clone, Debug, Serialize)]
pub struct ObjectMatch {
    /// `blob` or `tree`.
    pub object_type: &'static str,
    /// The object's id.
    pub id: Id,
    /// The file or directory it belongs to.
    pub path: String,
    /// The tree that holds that file or directory; the root is in none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_tree: Option<Id>,
}

/// Tells every use of `objects` below the tree `root` to `found`. Directories that could not be read are returned.
pub fn find_objects(
    reader: &Reader,
    root: &Id,
    objects: &Objects,
    found: &mut dyn FnMut(ObjectMatch),
) -> Vec<WalkError> {
    let mut errors = Vec::new();
    if objects.trees.contains(root) {
        found(ObjectMatch { object_type: "tree", id: *root, path: "/".to_owned(), parent_tree: None });
    }
    for step in walk(reader, root, false) {
        match step {
            Err(error) => errors.push(error),
            Ok(entry) => {
                let mut hit = |object_type, id| {
                    let path = String::from_utf8_lossy(&entry.path).into_owned();
                    found(ObjectMatch { object_type, id, path, parent_tree: Some(entry.tree) });
                };
                if let Some(tree) = entry.node.subtree.filter(|tree| objects.trees.contains(tree)) {
                    hit("tree", tree);
                }
                let mut told = HashSet::new();
                for id in entry.node.content.iter().flatten().filter(|id| objects.data.contains(*id)) {
                    if told.insert(*id) {
                        hit("blob", *id);
                    }
                }
            }
        }
    }
    errors
}
