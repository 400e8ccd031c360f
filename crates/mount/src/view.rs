//! A repository as a file system without a kernel: inode numbers, look-ups, attributes, listings, reading.
//!
//! An inode number is a hash: of the folder's number and the name above and in the snapshots, of the snapshot and the
//! original's numbers for files with several names. So a number stays the same for as long as the view lives, nothing has
//! to be remembered for a name that nobody holds, and hard links share theirs. The table holds what somebody holds.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backstay_core::{FileKind, Id, StoreErrorKind, Time};
use backstay_repository::error::Error;
use backstay_repository::open_file::OpenFile;
use backstay_repository::reader::Reader;
use backstay_repository::repository::Repository;
use backstay_repository::snapshot::{Snapshot, SnapshotFilter, SnapshotTime};
use backstay_repository::tree::{NO_TIME, Node};
use backstay_repository::walk::INTERNAL;
use parking_lot::{Mutex, RwLock};

use crate::folders::{Folders, Nodes};
use crate::layout::{Folder, Item, Layout};

/// The inode number of the root.
pub const ROOT: u64 = 1;
/// Different complaints that are told; after so many the log has said enough.
const MAX_TOLD: usize = 10_000;

/// What is shown, and how.
#[derive(Clone, Debug)]
pub struct ViewOptions {
    /// Which snapshots.
    pub filter: SnapshotFilter,
    /// Under which names.
    pub layout: Layout,
    /// Show `/.backstay`.
    pub internal: bool,
    /// Root owns everything.
    pub owner_root: bool,
    /// How old the list of snapshots may get before a look at the folders above them brings a new one.
    pub refresh: Duration,
}

impl Default for ViewOptions {
    fn default() -> Self {
        Self {
            filter: SnapshotFilter::default(),
            layout: Layout::default(),
            internal: false,
            owner_root: false,
            refresh: Duration::from_secs(60),
        }
    }
}

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// There is nothing of that name or number.
    #[error("there is no such file")]
    NotFound,
    /// It is no folder.
    #[error("it is not a folder")]
    NotAFolder,
    /// It is a folder.
    #[error("it is a folder")]
    IsAFolder,
    /// It has no such attribute, or is not of the kind that can be asked so.
    #[error("it has no such attribute")]
    NoAttribute,
    /// It cannot be asked so.
    #[error("it is not of that kind")]
    Invalid,
    /// The repository could not be read; the log has the reason.
    #[error("it cannot be read")]
    Io,
}

/// What `stat` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Inode number.
    pub inode: u64,
    /// What it is.
    pub kind: FileKind,
    /// Permissions, setuid, setgid and sticky.
    pub mode: u16,
    /// Number of names; 1 for folders, whose subfolders are not counted.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Units of 512 bytes; holes do not count.
    pub blocks: u64,
    /// Device number of a device node.
    pub device: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of the contents.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// It lies in a snapshot and so never changes.
    pub fixed: bool,
}

/// A snapshot at one of its places.
#[derive(Debug)]
struct Root {
    inode: u64,
    /// The path of its folder, from the root of the view.
    path: String,
    tree: Id,
    time: Time,
}

/// What an inode number stands for.
#[derive(Clone, Debug)]
enum Place {
    /// A folder above the snapshots, by its path.
    Folder(String),
    /// A link to the latest snapshot: its folder's path and its name.
    Link(String, String),
    /// A snapshot's root.
    Snapshot(Arc<Root>),
    /// Something in a snapshot: the inode of its folder, the folder's tree, and the place in it.
    Node { root: Arc<Root>, parent: u64, tree: Id, at: u32 },
}

#[derive(Debug)]
struct Known {
    place: Place,
    /// How often it was handed out and not yet given back.
    count: u64,
}

#[derive(Debug)]
struct State {
    reader: Arc<Reader>,
    /// Every snapshot that there is, also those that are not shown.
    all: HashSet<Id>,
    /// Those that are shown, in the order of time.
    snapshots: Arc<Snapshots>,
    folders: Arc<Folder>,
}

/// Snapshots with their ids, in the order of time.
type Snapshots = Vec<(Id, Snapshot)>;

/// An extended attribute: its name and its value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// Takes what a person should know: a path in the view, and what is wrong with it.
pub type Log = Box<dyn Fn(&str, &str) + Send + Sync>;

/// The view. Shared by all threads.
pub struct View {
    repository: Arc<Repository>,
    options: ViewOptions,
    state: RwLock<State>,
    /// When the list of snapshots was read last; held by the one who reads it.
    refreshed: Mutex<Instant>,
    known: Mutex<HashMap<u64, Known>>,
    trees: Folders,
    /// The blob that a hole becomes, and its length.
    hole: (Id, u64),
    /// Attributes of what is not in a snapshot.
    started: Time,
    owner: (u32, u32),
    log: Log,
    told: Mutex<HashSet<u64>>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("options", &self.options).finish_non_exhaustive()
    }
}

fn hash(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    // 0 and 1 have a meaning.
    hasher.finish().max(2)
}

fn inside(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

impl View {
    /// Reads the index and the list of snapshots. Snapshots that cannot be read are told to `log` and not shown.
    ///
    /// # Errors
    /// The store's, or a damaged index.
    pub fn new(repository: Arc<Repository>, options: ViewOptions, log: Log) -> Result<Self, Error> {
        let index = Arc::new(repository.load_index()?);
        let reader = Arc::new(Reader::new(Arc::clone(&repository), index));
        let zeros = vec![0; repository.chunker().zero_chunk_len()];
        let state = State {
            reader,
            all: HashSet::new(),
            snapshots: Arc::default(),
            folders: Arc::new(options.layout.folders(&[])),
        };
        let owner =
            if options.owner_root { (0, 0) } else { (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw()) };
        let view = Self {
            repository,
            options,
            state: RwLock::new(state),
            refreshed: Mutex::new(Instant::now()),
            known: Mutex::new(HashMap::from([(ROOT, Known { place: Place::Folder(String::new()), count: 1 })])),
            trees: Folders::default(),
            hole: (Id::of(&zeros), zeros.len() as u64),
            started: (&SnapshotTime::now()).into(),
            owner,
            log,
            told: Mutex::default(),
        };
        view.read_snapshots(false)?;
        Ok(view)
    }

    /// Looks for new snapshots, and for such that are gone; returns whether anything changed.
    ///
    /// # Errors
    /// The store's, or a damaged index: what was shown before is shown still.
    pub fn refresh(&self) -> Result<bool, Error> {
        let mut refreshed = self.refreshed.lock();
        *refreshed = Instant::now();
        self.read_snapshots(true)
    }

    /// Brings a new list of snapshots when the one there is is too old, unless somebody is at it already.
    fn refresh_when_old(&self) {
        let Some(mut refreshed) = self.refreshed.try_lock() else { return };
        if refreshed.elapsed() < self.options.refresh {
            return;
        }
        *refreshed = Instant::now();
        if let Err(error) = self.read_snapshots(true) {
            self.tell("", &format!("the list of snapshots cannot be read again: {error}"));
        }
    }

    fn read_snapshots(&self, with_index: bool) -> Result<bool, Error> {
        let ids: HashSet<Id> = self.repository.snapshot_ids()?.into_iter().collect();
        let (before, known) = {
            let state = self.state.read();
            (Arc::clone(&state.snapshots), state.all.clone())
        };
        if ids == known {
            return Ok(false);
        }
        let mut shown: Vec<(Id, Snapshot)> = before.iter().filter(|(id, _)| ids.contains(id)).cloned().collect();
        let mut all = ids.clone();
        let mut new = Vec::new();
        if known.is_empty() {
            let found = self.repository.readable_snapshots()?;
            found.damaged.iter().for_each(|error| self.tell("", &error.to_string()));
            new = found.snapshots;
        } else {
            for id in ids.difference(&known) {
                match self.repository.load_snapshot(id) {
                    Ok(snapshot) => new.push((*id, snapshot)),
                    Err(Error::Store(error)) if error.kind == StoreErrorKind::NotFound => drop(all.remove(id)),
                    Err(error @ Error::Store(_)) => return Err(error),
                    Err(error) => self.tell("", &error.to_string()),
                }
            }
        }
        new.retain(|(_, snapshot)| self.options.filter.matches(snapshot));
        // What a new snapshot needs stands in index files that are new as well.
        let reader = if with_index && !new.is_empty() {
            let index = Arc::new(self.repository.load_index()?);
            Some(Arc::new(Reader::new(Arc::clone(&self.repository), index)))
        } else {
            None
        };
        let changed = !new.is_empty() || shown.len() < before.len();
        shown.append(&mut new);
        shown.sort_by(|(id_a, a), (id_b, b)| (a.time.time(), id_a).cmp(&(b.time.time(), id_b)));
        let folders = Arc::new(self.options.layout.folders(&shown));
        let mut state = self.state.write();
        if let Some(reader) = reader {
            state.reader = reader;
        }
        state.all = all;
        state.snapshots = Arc::new(shown);
        state.folders = folders;
        Ok(changed)
    }

    /// Tells something once.
    fn tell(&self, path: &str, message: &str) {
        let mut told = self.told.lock();
        if told.len() < MAX_TOLD && told.insert(hash((path, message))) {
            drop(told);
            (self.log)(path, message);
        }
    }

    fn reader(&self) -> Arc<Reader> {
        Arc::clone(&self.state.read().reader)
    }

    fn place(&self, inode: u64) -> Result<Place, ViewError> {
        Ok(self.known.lock().get(&inode).ok_or(ViewError::NotFound)?.place.clone())
    }

    /// Hands an inode out once more.
    fn hold(&self, inode: u64, place: Place) {
        self.known.lock().entry(inode).or_insert(Known { place, count: 0 }).count += 1;
    }

    /// Takes back `count` of the times that `inode` was handed out by [`View::look_up`] and [`View::hold_entry`].
    pub fn forget(&self, inode: u64, count: u64) {
        if inode == ROOT {
            return;
        }
        let mut known = self.known.lock();
        if let Some(one) = known.get_mut(&inode) {
            one.count = one.count.saturating_sub(count);
            if one.count == 0 {
                known.remove(&inode);
            }
        }
    }

    /// How many inodes are handed out.
    #[must_use]
    pub fn held(&self) -> usize {
        self.known.lock().len()
    }

    fn nodes(&self, tree: &Id, path: impl FnOnce() -> String) -> Result<Arc<Nodes>, ViewError> {
        self.trees.get(&self.reader(), tree).map_err(|error| {
            self.tell(&path(), &error.to_string());
            ViewError::Io
        })
    }

    /// The node at a place, with the folder that holds it.
    fn node(&self, inode: u64, tree: &Id, at: u32) -> Result<(Arc<Nodes>, usize), ViewError> {
        let nodes = self.nodes(tree, || self.path(inode))?;
        let at = at as usize;
        if at < nodes.nodes.len() { Ok((nodes, at)) } else { Err(ViewError::NotFound) }
    }

    /// The path of an inode in the view, as far as it can be told.
    fn path(&self, inode: u64) -> String {
        let mut names: Vec<String> = Vec::new();
        let mut next = inode;
        loop {
            match self.place(next) {
                Ok(Place::Node { parent, tree, at, .. }) => {
                    let kept = self.trees.get(&self.reader(), &tree).ok();
                    let node = kept.as_ref().and_then(|nodes| nodes.nodes.get(at as usize));
                    names.push(
                        node.map_or_else(|| "?".to_owned(), |node| String::from_utf8_lossy(&node.name).into_owned()),
                    );
                    next = parent;
                }
                Ok(Place::Snapshot(root)) => {
                    names.push(root.path.clone());
                    break;
                }
                Ok(Place::Folder(path)) => {
                    names.push(path);
                    break;
                }
                Ok(Place::Link(folder, name)) => {
                    names.push(inside(&folder, &name));
                    break;
                }
                Err(_) => {
                    names.push("?".to_owned());
                    break;
                }
            }
        }
        names.reverse();
        format!("/{}", names.join("/"))
    }

    /// The tree of a folder in a snapshot, and the snapshot.
    fn tree_of(&self, inode: u64, place: &Place) -> Result<(Arc<Root>, Id), ViewError> {
        match place {
            Place::Snapshot(root) => Ok((Arc::clone(root), root.tree)),
            Place::Node { root, tree, at, .. } => {
                let (nodes, at) = self.node(inode, tree, *at)?;
                let node = &nodes.nodes[at];
                if node.kind != FileKind::Directory {
                    return Err(ViewError::NotAFolder);
                }
                let subtree = node.subtree.ok_or_else(|| {
                    self.tell(&self.path(inode), "the folder has no tree");
                    ViewError::Io
                })?;
                Ok((Arc::clone(root), subtree))
            }
            Place::Folder(_) | Place::Link(..) => Err(ViewError::NotAFolder),
        }
    }

    /// The folder above the snapshots at this path.
    fn above(&self, path: &str) -> Result<(Arc<Folder>, Arc<Snapshots>), ViewError> {
        let state = self.state.read();
        let (folders, snapshots) = (Arc::clone(&state.folders), Arc::clone(&state.snapshots));
        if folders.at(path).is_some() { Ok((folders, snapshots)) } else { Err(ViewError::NotFound) }
    }

    /// What a name above the snapshots stands for.
    fn item(&self, parent: u64, path: &str, name: &str, item: &Item, snapshots: &[(Id, Snapshot)]) -> (u64, Place) {
        match item {
            Item::Folder(_) => (hash((parent, name)), Place::Folder(inside(path, name))),
            Item::Link(_) => (hash((parent, name, "link")), Place::Link(path.to_owned(), name.to_owned())),
            Item::Snapshot(number) => {
                let (id, snapshot) = &snapshots[*number];
                // A name can come to mean another snapshot; the number then changes with it.
                let inode = hash((parent, name, id.0));
                let root = Root { inode, path: inside(path, name), tree: snapshot.tree, time: snapshot.time.time() };
                (inode, Place::Snapshot(Arc::new(root)))
            }
        }
    }

    /// The number of a node in a folder.
    fn number(&self, root: &Root, parent: u64, node: &Node) -> u64 {
        if node.links > 1 && node.inode != 0 && node.kind != FileKind::Directory {
            // Programs have been seen to give one number to different files, and a file can change while it is saved.
            let first = node.content.as_ref().and_then(|content| content.first()).map(|id| id.0);
            return hash((root.inode, node.device_id, node.inode, node.kind as u8, node.size, first, node.mtime));
        }
        hash((parent, node.name.as_slice()))
    }

    fn node_attributes(&self, inode: u64, node: &Node) -> Attributes {
        let size = match node.kind {
            FileKind::File => node.size,
            FileKind::Symlink => node.link_target.len() as u64,
            _ => 0,
        };
        let holes = node.content.iter().flatten().filter(|id| **id == self.hole.0).count() as u64 * self.hole.1;
        let time = |time: Time| if time == NO_TIME { Time::default() } else { time };
        let (uid, gid) = if self.options.owner_root { (0, 0) } else { (node.uid, node.gid) };
        Attributes {
            inode,
            kind: node.kind,
            mode: (node.unix_mode() & 0o7777) as u16,
            links: if node.kind == FileKind::Directory { 1 } else { u32::try_from(node.links).unwrap_or(1).max(1) },
            uid,
            gid,
            size,
            blocks: size.saturating_sub(holes).div_ceil(512),
            device: node.device,
            atime: time(node.atime),
            mtime: time(node.mtime),
            ctime: time(node.ctime),
            fixed: true,
        }
    }

    /// The attributes of something that is not a node.
    fn plain(&self, inode: u64, kind: FileKind, mode: u16, size: u64, time: Time, fixed: bool) -> Attributes {
        let (uid, gid) = self.owner;
        Attributes {
            inode,
            kind,
            mode,
            links: 1,
            uid,
            gid,
            size,
            blocks: 0,
            device: 0,
            atime: time,
            mtime: time,
            ctime: time,
            fixed,
        }
    }

    fn place_attributes(&self, inode: u64, place: &Place) -> Result<Attributes, ViewError> {
        match place {
            Place::Folder(path) => {
                self.above(path)?;
                Ok(self.plain(inode, FileKind::Directory, 0o555, 0, self.started, false))
            }
            Place::Link(path, name) => {
                let target = self.target(path, name)?;
                Ok(self.plain(inode, FileKind::Symlink, 0o777, target.len() as u64, self.started, false))
            }
            Place::Snapshot(root) => Ok(self.plain(inode, FileKind::Directory, 0o555, 0, root.time, true)),
            Place::Node { tree, at, .. } => {
                let (nodes, at) = self.node(inode, tree, *at)?;
                Ok(self.node_attributes(inode, &nodes.nodes[at]))
            }
        }
    }

    fn target(&self, path: &str, name: &str) -> Result<String, ViewError> {
        let (folders, _) = self.above(path)?;
        match folders.at(path).and_then(|folder| folder.items.get(name)) {
            Some(Item::Link(target)) => Ok(target.clone()),
            _ => Err(ViewError::NotFound),
        }
    }

    /// Finds a name in a folder and hands its inode out: [`View::forget`] takes it back.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn look_up(&self, parent: u64, name: &[u8]) -> Result<Attributes, ViewError> {
        let place = self.place(parent)?;
        let (inode, place) = if let Place::Folder(path) = &place {
            self.refresh_when_old();
            let (folders, snapshots) = self.above(path)?;
            let name = std::str::from_utf8(name).map_err(|_| ViewError::NotFound)?;
            let item = folders.at(path).and_then(|folder| folder.items.get(name)).ok_or(ViewError::NotFound)?;
            self.item(parent, path, name, item, &snapshots)
        } else {
            let (root, tree) = self.tree_of(parent, &place)?;
            if self.hides(parent, &root, name) {
                return Err(ViewError::NotFound);
            }
            let nodes = self.nodes(&tree, || self.path(parent))?;
            let at = nodes.find(name).ok_or(ViewError::NotFound)?;
            let inode = self.number(&root, parent, &nodes.nodes[at as usize]);
            (inode, Place::Node { root, parent, tree, at })
        };
        let attributes = self.place_attributes(inode, &place)?;
        self.hold(inode, place);
        Ok(attributes)
    }

    /// Whether a name is what Backstay keeps for itself.
    fn hides(&self, folder: u64, root: &Root, name: &[u8]) -> bool {
        !self.options.internal && folder == root.inode && name == INTERNAL
    }

    /// What `stat` says of an inode.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn attributes(&self, inode: u64) -> Result<Attributes, ViewError> {
        self.place_attributes(inode, &self.place(inode)?)
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// [`ViewError`]; [`ViewError::Invalid`] for what is none.
    pub fn read_link(&self, inode: u64) -> Result<Vec<u8>, ViewError> {
        match self.place(inode)? {
            Place::Link(path, name) => Ok(self.target(&path, &name)?.into_bytes()),
            Place::Node { tree, at, .. } => {
                let (nodes, at) = self.node(inode, &tree, at)?;
                let node = &nodes.nodes[at];
                if node.kind == FileKind::Symlink { Ok(node.link_target.clone()) } else { Err(ViewError::Invalid) }
            }
            _ => Err(ViewError::Invalid),
        }
    }

    /// The extended attributes of an inode.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn xattrs(&self, inode: u64) -> Result<Vec<Xattr>, ViewError> {
        match self.place(inode)? {
            Place::Node { tree, at, .. } => {
                let (nodes, at) = self.node(inode, &tree, at)?;
                Ok(nodes.nodes[at].xattrs.clone())
            }
            _ => Ok(Vec::new()),
        }
    }

    /// One extended attribute of an inode.
    ///
    /// # Errors
    /// [`ViewError`]; [`ViewError::NoAttribute`] where it has none of that name.
    pub fn xattr(&self, inode: u64, name: &[u8]) -> Result<Vec<u8>, ViewError> {
        let Place::Node { tree, at, .. } = self.place(inode)? else { return Err(ViewError::NoAttribute) };
        let (nodes, at) = self.node(inode, &tree, at)?;
        let found = nodes.nodes[at].xattrs.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone()).ok_or(ViewError::NoAttribute)
    }

    /// Opens a folder: what it holds now, whatever comes.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn open_folder(&self, inode: u64) -> Result<OpenFolder, ViewError> {
        let place = self.place(inode)?;
        if let Place::Folder(path) = &place {
            self.refresh_when_old();
            let (folders, snapshots) = self.above(path)?;
            let folder = folders.at(path).ok_or(ViewError::NotFound)?;
            let names = folder.items.iter().map(|(name, item)| {
                let (inode, place) = self.item(inode, path, name, item, &snapshots);
                (name.clone(), inode, place)
            });
            let parent = match path.rsplit_once('/') {
                _ if path.is_empty() => ROOT,
                None => ROOT,
                Some((above, _)) => above.split('/').fold(ROOT, |parent, name| hash((parent, name))),
            };
            return Ok(OpenFolder { inode, parent, what: Listed::Above(names.collect()) });
        }
        let (root, tree) = self.tree_of(inode, &place)?;
        let nodes = self.nodes(&tree, || self.path(inode))?;
        let parent = if let Place::Node { parent, .. } = place { parent } else { ROOT };
        let hidden = nodes.find(INTERNAL).filter(|_| self.hides(inode, &root, INTERNAL)).map(|at| at as usize);
        Ok(OpenFolder { inode, parent, what: Listed::Inside { root, tree, nodes, hidden } })
    }

    /// Hands out the inode of an entry of an open folder: [`View::forget`] takes it back.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn hold_entry(&self, folder: &OpenFolder, at: usize) -> Result<Attributes, ViewError> {
        let (inode, place) = folder.place(self, at).ok_or(ViewError::NotFound)?;
        let attributes = match (&folder.what, &place) {
            (Listed::Inside { nodes, .. }, Place::Node { at, .. }) => {
                self.node_attributes(inode, &nodes.nodes[*at as usize])
            }
            _ => self.place_attributes(inode, &place)?,
        };
        self.hold(inode, place);
        Ok(attributes)
    }

    /// Opens a file.
    ///
    /// # Errors
    /// [`ViewError`]; [`ViewError::Io`] when a part of it is in no index.
    pub fn open_file(&self, inode: u64) -> Result<File, ViewError> {
        let place = self.place(inode)?;
        let Place::Node { tree, at, .. } = place else { return Err(ViewError::IsAFolder) };
        let (nodes, at) = self.node(inode, &tree, at)?;
        let node = &nodes.nodes[at];
        match node.kind {
            FileKind::File => {}
            FileKind::Directory => return Err(ViewError::IsAFolder),
            _ => return Err(ViewError::Invalid),
        }
        let path = self.path(inode);
        let holes = if node.content.iter().flatten().any(|id| *id == self.hole.0) {
            self.holes(node).unwrap_or_default()
        } else {
            Vec::new()
        };
        let file = OpenFile::new(self.reader(), node).map_err(|error| {
            self.tell(&path, &error.to_string());
            ViewError::Io
        })?;
        Ok(File { file, path, holes })
    }

    /// Where a file has holes: rising, not touching each other.
    fn holes(&self, node: &Node) -> Result<Vec<(u64, u64)>, Error> {
        let reader = self.reader();
        let mut holes: Vec<(u64, u64)> = Vec::new();
        let mut at = 0;
        for id in node.content.iter().flatten() {
            let length = if *id == self.hole.0 {
                match holes.last_mut() {
                    Some((_, end)) if *end == at => *end += self.hole.1,
                    _ => holes.push((at, at + self.hole.1)),
                }
                self.hole.1
            } else {
                reader.blob_length(backstay_repository::pack::BlobKind::Data, id)?
            };
            at += length;
        }
        Ok(holes)
    }

    /// Reads from an open file; fewer bytes than asked for only at its end.
    ///
    /// # Errors
    /// [`ViewError::Io`]: the log has the reason, once.
    pub fn read(&self, file: &File, offset: u64, length: usize) -> Result<Vec<u8>, ViewError> {
        let left = usize::try_from(file.file.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut buffer = vec![0; length.min(left)];
        match file.file.read_at(offset, &mut buffer) {
            Ok(count) => {
                buffer.truncate(count);
                Ok(buffer)
            }
            Err(error) => {
                self.tell(&file.path, &error.to_string());
                Err(ViewError::Io)
            }
        }
    }
}

/// An open folder: its entries have places that do not change.
#[derive(Debug)]
pub struct OpenFolder {
    inode: u64,
    parent: u64,
    what: Listed,
}

#[derive(Debug)]
enum Listed {
    Above(Vec<(String, u64, Place)>),
    Inside { root: Arc<Root>, tree: Id, nodes: Arc<Nodes>, hidden: Option<usize> },
}

/// One entry of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Its inode number.
    pub inode: u64,
    /// What it is.
    pub kind: FileKind,
}

impl OpenFolder {
    /// Its own inode number.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// The inode number of the folder that holds it; the root's for the root and for snapshots.
    #[must_use]
    pub fn parent(&self) -> u64 {
        self.parent
    }

    /// Whether it can never change.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        matches!(self.what, Listed::Inside { .. })
    }

    /// How many entries it has.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.what {
            Listed::Above(items) => items.len(),
            Listed::Inside { nodes, hidden, .. } => nodes.nodes.len() - usize::from(hidden.is_some()),
        }
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The place among the nodes of an entry.
    fn real(&self, at: usize) -> usize {
        match &self.what {
            Listed::Inside { hidden: Some(hidden), .. } if at >= *hidden => at + 1,
            _ => at,
        }
    }

    /// The entry at a place.
    #[must_use]
    pub fn entry<'a>(&'a self, view: &View, at: usize) -> Option<Entry<'a>> {
        match &self.what {
            Listed::Above(items) => items.get(at).map(|(name, inode, place)| {
                let kind = if matches!(place, Place::Link(..)) { FileKind::Symlink } else { FileKind::Directory };
                Entry { name: name.as_bytes(), inode: *inode, kind }
            }),
            Listed::Inside { root, nodes, .. } => nodes.nodes.get(self.real(at)).map(|node| Entry {
                name: &node.name,
                inode: view.number(root, self.inode, node),
                kind: node.kind,
            }),
        }
    }

    fn place(&self, view: &View, at: usize) -> Option<(u64, Place)> {
        match &self.what {
            Listed::Above(items) => items.get(at).map(|(_, inode, place)| (*inode, place.clone())),
            Listed::Inside { root, tree, nodes, .. } => {
                let at = self.real(at);
                let node = nodes.nodes.get(at)?;
                let inode = view.number(root, self.inode, node);
                let at = u32::try_from(at).ok()?;
                Some((inode, Place::Node { root: Arc::clone(root), parent: self.inode, tree: *tree, at }))
            }
        }
    }
}

/// An open file.
#[derive(Debug)]
pub struct File {
    file: OpenFile,
    path: String,
    holes: Vec<(u64, u64)>,
}

impl File {
    /// Its length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.file.size()
    }

    /// The next place at or behind `offset` that is in a hole (the file's end counts as one); none behind the end.
    #[must_use]
    pub fn next_hole(&self, offset: u64) -> Option<u64> {
        if offset >= self.size() {
            return None;
        }
        let hole = self.holes.iter().find(|(_, end)| *end > offset);
        Some(hole.map_or(self.size(), |(start, _)| offset.max(*start)))
    }

    /// The next place at or behind `offset` that holds data; none where only a hole, or nothing, follows.
    #[must_use]
    pub fn next_data(&self, offset: u64) -> Option<u64> {
        let at =
            self.holes.iter().find(|(start, end)| (*start..*end).contains(&offset)).map_or(offset, |(_, end)| *end);
        (at < self.size()).then_some(at)
    }
}
