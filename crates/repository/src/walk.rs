//! Going through a snapshot: every node with its path, a directory before what is in it, in the order of the trees.

use backstay_core::{FileKind, Id, Time};
use serde::Serialize;

use crate::error::Error;
use crate::gotext::write_time;
use crate::reader::{Reader, Upcoming};
use crate::tree::Node;

/// The folder at a snapshot's root where Backstay keeps what only Backstay reads (ledgers).
pub const INTERNAL: &[u8] = b".backstay";

/// One node and where it is.
#[derive(Clone, Debug)]
pub struct WalkEntry {
    /// The path from the root that was walked: starts with `/`, exact bytes.
    pub path: Vec<u8>,
    /// How many directories lie above it: 0 for nodes of the root.
    pub depth: usize,
    /// The id of the tree that holds the node.
    pub tree: Id,
    /// The node itself.
    pub node: Node,
}

/// A directory that could not be read. The walk goes on behind it.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", String::from_utf8_lossy(path))]
pub struct WalkError {
    /// The directory.
    pub path: Vec<u8>,
    /// Why.
    #[source]
    pub error: Error,
}

struct Level {
    path: Vec<u8>,
    tree: Id,
    nodes: std::vec::IntoIter<Node>,
    upcoming: Upcoming,
    /// How many of its directories were returned.
    directories: usize,
}

impl Level {
    fn new(path: Vec<u8>, tree: Id, nodes: Vec<Node>) -> Self {
        let directories = nodes.iter().filter(|node| node.kind == FileKind::Directory);
        // Those without a tree keep their number.
        let upcoming = Upcoming::new(directories.map(|node| node.subtree.unwrap_or_default()).collect());
        Self { path, tree, nodes: nodes.into_iter(), upcoming, directories: 0 }
    }
}

/// An iterator over everything below a tree. See [`walk`].
pub struct Walk<'a> {
    reader: &'a Reader,
    levels: Vec<Level>,
    /// The directory that was returned last and is entered by the next call.
    pending: Option<(Vec<u8>, Option<Id>)>,
    skip_internal: bool,
    /// Every directory so far was entered: those to come will be too.
    enters_all: bool,
}

/// Walks everything below the tree `root`, depth first. `skip_internal` leaves out `/.backstay`.
#[must_use]
pub fn walk<'a>(reader: &'a Reader, root: &Id, skip_internal: bool) -> Walk<'a> {
    Walk { reader, levels: Vec::new(), pending: Some((Vec::new(), Some(*root))), skip_internal, enters_all: true }
}

impl Walk<'_> {
    /// Does not enter the directory that was returned last.
    pub fn skip_directory(&mut self) {
        self.pending = None;
        self.enters_all = false;
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<WalkEntry, WalkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some((path, tree)) = self.pending.take() {
            if self.enters_all
                && let Some(level) = self.levels.last_mut()
            {
                level.upcoming.visit(self.reader, level.directories.saturating_sub(1));
            }
            let loaded = match tree {
                Some(id) => self.reader.tree_once(&id).map(|tree| (id, tree)),
                None => Err(Error::Other("the directory has no tree".to_owned())),
            };
            match loaded {
                Ok((tree, loaded)) => self.levels.push(Level::new(path, tree, loaded.nodes)),
                Err(error) => {
                    let path = if path.is_empty() { b"/".to_vec() } else { path };
                    return Some(Err(WalkError { path, error }));
                }
            }
        }
        loop {
            let depth = self.levels.len().checked_sub(1)?;
            let level = &mut self.levels[depth];
            let Some(node) = level.nodes.next() else {
                self.levels.pop();
                continue;
            };
            if node.kind == FileKind::Directory {
                level.directories += 1;
            }
            if self.skip_internal && depth == 0 && node.name == INTERNAL {
                continue;
            }
            let path = join(&level.path, &node.name);
            if node.kind == FileKind::Directory {
                self.pending = Some((path.clone(), node.subtree));
            }
            return Some(Ok(WalkEntry { path, depth, tree: level.tree, node }));
        }
    }
}

/// A name in a directory; the directory's path has no slash at its end.
pub(crate) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
    path.extend_from_slice(directory);
    path.push(b'/');
    path.extend_from_slice(name);
    path
}

/// A mode as restic prints it: Go's letters for type and special bits, then `rwxrwxrwx` (`mode` holds Go's bits).
#[must_use]
pub fn permissions(mode: u32) -> String {
    const LETTERS: &[u8] = b"dalTLDpSugct?";
    let mut text = String::with_capacity(10);
    for (bit, letter) in (19..32).rev().zip(LETTERS) {
        if mode & 1 << bit != 0 {
            text.push(char::from(*letter));
        }
    }
    if text.is_empty() {
        text.push('-');
    }
    for (bit, letter) in (0..9).rev().zip("rwxrwxrwx".chars()) {
        text.push(if mode & 1 << bit != 0 { letter } else { '-' });
    }
    text
}

/// A time as the format writes it: RFC 3339 in UTC, the fraction without trailing zeros.
#[must_use]
pub fn time_text(time: Time) -> String {
    let mut text = Vec::with_capacity(30);
    write_time(time, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

/// What `ls --json` prints for a node (reference 19.2).
#[derive(Clone, Debug, Serialize)]
pub struct ListedNode {
    /// The name; bytes that are not text are shown as U+FFFD.
    pub name: String,
    /// See [`Node::type_name`].
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The path from the root.
    pub path: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes; files only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Go's mode bits.
    #[serde(skip_serializing_if = "is_zero_u32")]
    pub mode: u32,
    /// See [`permissions`].
    pub permissions: String,
    /// Last change of the contents.
    pub mtime: String,
    /// Last access.
    pub atime: String,
    /// Last change of the inode.
    pub ctime: String,
    /// Inode number.
    #[serde(skip_serializing_if = "is_zero")]
    pub inode: u64,
    /// Always `node`.
    pub message_type: &'static str,
    /// Always `node`.
    pub struct_type: &'static str,
}

fn is_zero_u32(value: &u32) -> bool {
    *value == 0
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl From<&WalkEntry> for ListedNode {
    fn from(entry: &WalkEntry) -> Self {
        let node = &entry.node;
        Self {
            name: String::from_utf8_lossy(&node.name).into_owned(),
            kind: node.type_name(),
            path: String::from_utf8_lossy(&entry.path).into_owned(),
            uid: node.uid,
            gid: node.gid,
            size: (node.kind == FileKind::File).then_some(node.size),
            mode: node.mode,
            permissions: permissions(node.mode),
            mtime: time_text(node.mtime),
            atime: time_text(node.atime),
            ctime: time_text(node.ctime),
            inode: node.inode,
            message_type: "node",
            struct_type: "node",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_read_like_those_of_restic() {
        assert_eq!(permissions(0o644), "-rw-r--r--");
        assert_eq!(permissions(2_147_484_141), "drwxr-xr-x");
        assert_eq!(permissions(134_218_239), "Lrwxrwxrwx");
        assert_eq!(permissions(8_389_101), "urwxr-xr-x");
        assert_eq!(permissions(2_148_532_735), "dtrwxrwxrwx");
        assert_eq!(permissions(69_206_436), "Dcrw-r--r--");
        assert_eq!(permissions(33_554_852), "prw-r--r--");
    }

    #[test]
    fn times_are_written_in_utc_without_trailing_zeros() {
        assert_eq!(time_text(Time { seconds: 0, nanoseconds: 500_000_000 }), "1970-01-01T00:00:00.5Z");
        assert_eq!(time_text(Time { seconds: -2_147_483_648, nanoseconds: 0 }), "1901-12-13T20:45:52Z");
    }
}
