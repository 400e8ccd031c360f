//! One directory of the walk, and the stack of those that still have entries to look at.
//!
//! The stack is worked from its top, so that the walk goes deep before it goes wide: what is in memory is bounded by the
//! depth of the tree and the size of its largest directories. Only the directories near the top keep a descriptor; one
//! that comes up again is reopened, from the nearest open directory above it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use backstay_repository::tree::Node;
use parking_lot::Mutex;
use rustix::fs::OFlags;

use crate::filesystem::{self, FileStat, Listed};

/// Where the finished directory goes.
#[derive(Debug)]
pub(super) enum Place {
    /// Its entries are roots (or it is `/`): they go to the Assembler, the directory itself does not.
    Top,
    /// It is an entry of another directory. Only a drop takes the link away.
    Below(Option<Arc<Directory>>),
}

/// What is known of a directory of the parent snapshot.
#[derive(Debug, Default)]
pub(super) struct Previous {
    nodes: Vec<Node>,
}

impl Previous {
    /// Nodes of any order: some programs do not sort.
    pub(super) fn new(mut nodes: Vec<Node>) -> Self {
        if !nodes.is_sorted_by(|a, b| a.name <= b.name) {
            nodes.sort_by(|a, b| a.name.cmp(&b.name));
        }
        Self { nodes }
    }

    /// The node of this name alone.
    pub(super) fn take(mut self, name: &[u8]) -> Option<Node> {
        let at = self.nodes.iter().position(|node| node.name == name)?;
        Some(self.nodes.swap_remove(at))
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<&Node> {
        let at = self.nodes.binary_search_by(|node| node.name.as_slice().cmp(name)).ok()?;
        self.nodes.get(at)
    }
}

/// A directory that is being walked.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) place: Place,
    /// Its name in the directory above; the absolute path (empty for `/`) at the top.
    pub(super) name: Vec<u8>,
    /// Device and inode, to know it again.
    pub(super) identity: (u64, u64),
    /// The device that `--one-file-system` stays on below; none where each entry is a root of its own.
    pub(super) device: Option<u64>,
    /// The rule by which everything but the file of that name is left out.
    pub(super) tag: Option<(Vec<u8>, String)>,
    /// The selector's sets that walk it.
    pub(super) selected: u64,
    /// The parent snapshot's entries.
    pub(super) previous: Previous,
    /// The parent snapshot's node of the directory itself.
    pub(super) previous_self: Option<Node>,
    /// Its own node, to be completed with `subtree`.
    pub(super) node: Mutex<Option<Node>>,
    /// What is missing from the node, if something is: it then counts as failed.
    pub(super) problem: Option<backstay_core::EntryError>,
    /// The number under which it is offered, and its `stat` for that.
    pub(super) offered: Option<(u32, FileStat)>,
    descriptor: Mutex<Option<Arc<OwnedFd>>>,
    /// Entries that nobody has looked at, last one first.
    entries: Mutex<Vec<Listed>>,
    /// Entries that have not come to their end.
    pending: AtomicUsize,
    nodes: Mutex<Vec<Node>>,
}

/// What [`Directory::new`] needs beside the defaults.
pub(super) struct Opened {
    pub(super) place: Place,
    pub(super) name: Vec<u8>,
    pub(super) identity: (u64, u64),
    pub(super) device: Option<u64>,
    pub(super) tag: Option<(Vec<u8>, String)>,
    pub(super) selected: u64,
    pub(super) previous: Previous,
    pub(super) previous_self: Option<Node>,
    pub(super) node: Option<Node>,
    pub(super) problem: Option<backstay_core::EntryError>,
    pub(super) offered: Option<(u32, FileStat)>,
    pub(super) descriptor: OwnedFd,
    pub(super) entries: Vec<Listed>,
}

impl Directory {
    pub(super) fn new(opened: Opened) -> Arc<Self> {
        let mut entries = opened.entries;
        // Files before directories, each in order of names; taken from the end.
        entries.sort_by_key(|entry| entry.kind == Some(backstay_core::FileKind::Directory));
        entries.reverse();
        Arc::new(Self {
            place: opened.place,
            name: opened.name,
            identity: opened.identity,
            device: opened.device,
            tag: opened.tag,
            selected: opened.selected,
            previous: opened.previous,
            previous_self: opened.previous_self,
            node: Mutex::new(opened.node),
            problem: opened.problem,
            offered: opened.offered,
            descriptor: Mutex::new(Some(Arc::new(opened.descriptor))),
            pending: AtomicUsize::new(entries.len()),
            entries: Mutex::new(entries),
            nodes: Mutex::default(),
        })
    }

    pub(super) fn above(&self) -> Option<&Arc<Self>> {
        match &self.place {
            Place::Top => None,
            Place::Below(above) => above.as_ref(),
        }
    }

    pub(super) fn is_top(&self) -> bool {
        matches!(self.place, Place::Top)
    }

    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.load(Ordering::Acquire) == 0
    }

    /// Writes its absolute path to `out` (nothing for `/`).
    pub(super) fn path(&self, out: &mut Vec<u8>) {
        out.clear();
        let mut names = vec![self.name.as_slice()];
        let mut here = self;
        while let Some(above) = here.above() {
            names.push(&above.name);
            here = above;
        }
        for (depth, name) in names.into_iter().rev().enumerate() {
            if depth > 0 {
                out.push(b'/');
            }
            out.extend_from_slice(name);
        }
    }

    /// Takes the results of `count` entries; true if those were the last.
    pub(super) fn settle(&self, count: usize, nodes: &mut Vec<Node>) -> bool {
        if !nodes.is_empty() {
            self.nodes.lock().append(nodes);
        }
        count > 0 && self.pending.fetch_sub(count, Ordering::AcqRel) == count
    }

    /// The nodes of all entries, in the order of a tree.
    pub(super) fn take_nodes(&self) -> Vec<Node> {
        let mut nodes = std::mem::take(&mut *self.nodes.lock());
        nodes.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        nodes
    }

    /// A descriptor of it; opened again if it was closed to save descriptors.
    pub(super) fn open(self: &Arc<Self>) -> io::Result<Arc<OwnedFd>> {
        /// Directories above that keep the descriptor they were passed with: they come next.
        const KEEP: usize = 64;
        if let Some(descriptor) = &*self.descriptor.lock() {
            return Ok(Arc::clone(descriptor));
        }
        let mut closed = vec![self];
        let mut base = None;
        while let Some(above) = closed[closed.len() - 1].above() {
            if let Some(descriptor) = &*above.descriptor.lock() {
                base = Some(Arc::clone(descriptor));
                break;
            }
            closed.push(above);
        }
        let mut left = closed.len();
        while let Some(directory) = closed.pop() {
            left -= 1;
            let opened = match &base {
                Some(base) => filesystem::open_at(base.as_fd(), &directory.name, OFlags::DIRECTORY)?,
                None => filesystem::open_place(&directory.name)?,
            };
            let stat = filesystem::stat_of(opened.as_fd())?.stat;
            if (stat.device_id, stat.inode) != directory.identity {
                return Err(io::Error::other("the directory was replaced while it was walked"));
            }
            let opened = Arc::new(opened);
            if left < KEEP && !directory.entries.lock().is_empty() {
                *directory.descriptor.lock() = Some(Arc::clone(&opened));
            }
            base = Some(opened);
        }
        base.ok_or_else(|| io::Error::other("the directory cannot be found again"))
    }

    fn close(&self) {
        *self.descriptor.lock() = None;
    }
}

impl Drop for Directory {
    /// Lets go of a long chain of directories without a call for each inside the other.
    fn drop(&mut self) {
        let mut above = match &mut self.place {
            Place::Below(above) => above.take(),
            Place::Top => None,
        };
        while let Some(mut directory) = above.and_then(Arc::into_inner) {
            above = match &mut directory.place {
                Place::Below(above) => above.take(),
                Place::Top => None,
            };
        }
    }
}

/// Entries of one directory for one thread to deal with.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) directory: Arc<Directory>,
    /// Where it is open already.
    pub(super) descriptor: Option<Arc<OwnedFd>>,
    pub(super) entries: Vec<Listed>,
}

/// Directories with entries that nobody has looked at.
#[derive(Debug)]
pub(super) struct Stack {
    directories: Vec<Arc<Directory>>,
    /// How many of them, from the top, keep a descriptor.
    window: usize,
    threads: usize,
}

impl Stack {
    /// `window` is the number of directories that may be open at once.
    pub(super) fn new(window: usize, threads: usize) -> Self {
        Self { directories: Vec::new(), window: window.max(1), threads }
    }

    pub(super) fn push(&mut self, directory: Arc<Directory>) {
        self.directories.push(directory);
        if let Some(deep) = self.directories.len().checked_sub(self.window + 1) {
            self.directories[deep].close();
        }
    }

    /// The next entries to deal with: one directory, or several other entries. With `all`, everything that is left of
    /// one directory.
    pub(super) fn claim(&mut self, all: bool) -> Option<Claim> {
        /// Entries taken at once at most: few enough that all threads end at about the same time.
        const BATCH: usize = 32;
        loop {
            let directory = self.directories.last()?;
            let mut entries = directory.entries.lock();
            let is_directory = |entry: &Listed| entry.kind == Some(backstay_core::FileKind::Directory);
            let count = match entries.last() {
                None => 0,
                Some(_) if all => entries.len(),
                Some(last) if is_directory(last) => 1,
                Some(_) => {
                    let most = (entries.len() / (2 * self.threads)).clamp(1, BATCH);
                    entries.iter().rev().take(most).take_while(|entry| !is_directory(entry)).count()
                }
            };
            let rest = entries.len() - count;
            let mut taken = entries.split_off(rest);
            drop(entries);
            taken.reverse();
            let directory = Arc::clone(directory);
            let descriptor = if rest == 0 {
                self.directories.pop();
                directory.descriptor.lock().take()
            } else {
                directory.descriptor.lock().clone()
            };
            if !taken.is_empty() {
                return Some(Claim { directory, descriptor, entries: taken });
            }
        }
    }
}
