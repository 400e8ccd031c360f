//! Loading single blobs and trees: every blob is authenticated, decompressed within its announced length and compared
//! with its id before anybody sees it.
//!
//! A small cache keeps the blobs that were asked for last; several threads that ask for the same blob at once load it once.
//! What will be wanted soon can be named beforehand ([`Reader::prefetch`], [`OrderedBlobs`]): then several threads load it.

mod ahead;
mod cache;
mod ordered;
mod tree_packs;

use std::num::NonZeroU32;
use std::sync::Arc;

use backstay_core::{FileKind, Id, ObjectKind, Store, StoreErrorKind};

pub use ordered::OrderedBlobs;

use ahead::Ahead;
use cache::Cache;
use tree_packs::TreePacks;

use crate::container::decompress_into;
use crate::crypto::{MasterKey, OVERHEAD};
use crate::error::Error;
use crate::index::{Index, Location};
use crate::pack::BlobKind;
use crate::repository::Repository;
use crate::tree::{Node, Tree};

/// A store that likes no more calls at once than this answers as fast as it is asked.
const NEAR: usize = 8;
/// Calls at once at the most.
const FAR: usize = 64;

/// What the reading modules return.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// How many bytes the cache holds unless told otherwise.
const CACHE_BYTES: usize = 32 << 20;

/// The length in bytes of a blob's plain content.
pub(crate) fn plain_length(location: &Location) -> u64 {
    location
        .uncompressed
        .map_or(u64::from(location.length).saturating_sub(OVERHEAD as u64), |length| length.get().into())
}

/// Opens, decompresses and verifies one blob into `plain`; `scratch` is overwritten. The error is a reason as in
/// [`Error::DamagedBlob`].
pub(crate) fn decode_blob(
    key: &MasterKey,
    envelope: &[u8],
    uncompressed: Option<NonZeroU32>,
    id: &Id,
    scratch: &mut Vec<u8>,
    plain: &mut Vec<u8>,
) -> Result<(), String> {
    let opened = |error| format!("it cannot be opened: {error}");
    match uncompressed {
        Some(length) => {
            key.open_into(envelope, scratch).map_err(opened)?;
            decompress_into(scratch, length.get() as usize, plain)
                .map_err(|error| format!("it cannot be decompressed: {error}"))?;
        }
        None => key.open_into(envelope, plain).map_err(opened)?,
    }
    let found = Id::of(plain);
    if found == *id { Ok(()) } else { Err(format!("its content has the id {found}")) }
}

/// The error for a blob that could not be read: it names pack and blob.
pub(crate) fn blob_error(kind: BlobKind, id: &Id, location: &Location, reason: impl Into<String>) -> Error {
    Error::DamagedBlob { kind, id: *id, pack: location.pack, reason: reason.into() }
}

/// How many threads compute: one per processor, at least two.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 16)
}

/// How many threads read from `store` with profit: one per processor, and more where each call waits for a network.
pub(crate) fn reading_threads(store: &dyn Store) -> usize {
    let calls = store.calls_at_once();
    if calls > NEAR { calls.clamp(processors(), FAR) } else { processors() }
}

/// Reads blobs of one repository by its index. Clones share everything; all threads may use it.
#[derive(Clone)]
pub struct Reader {
    shared: Arc<Shared>,
}

type Key = (BlobKind, Id);

struct Shared {
    repository: Arc<Repository>,
    index: Arc<Index>,
    cache: Cache<Key>,
    trees: TreePacks,
    ahead: Arc<Ahead>,
    /// Threads that load ahead; none: nothing is loaded before it is asked for.
    threads: usize,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("blobs", &self.index().len()).finish_non_exhaustive()
    }
}

impl Shared {
    /// Loads a blob past the cache. Where several packs hold it, any whole copy will do.
    fn load(&self, kind: BlobKind, id: &Id) -> Result<Vec<u8>> {
        let mut first = None;
        for location in self.index.get_all(kind, id) {
            match self.load_at(kind, id, &location) {
                Ok(plain) => return Ok(plain),
                // What may be whole where the store fails is not lost.
                Err(error) if error.is_store_failure() => first = Some(error),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or(Error::BlobMissing { kind, id: *id }))
    }

    fn load_at(&self, kind: BlobKind, id: &Id, location: &Location) -> Result<Vec<u8>> {
        let store = &**self.repository.store();
        let decode = |envelope: &[u8]| {
            let (mut scratch, mut plain) = (Vec::new(), Vec::new());
            decode_blob(self.repository.key(), envelope, location.uncompressed, id, &mut scratch, &mut plain)
                .map(|()| plain)
        };
        let fetch = || {
            let start = u64::from(location.offset);
            let range = start..start + u64::from(location.length);
            store.get(ObjectKind::Pack, &location.pack, Some(range)).map(|envelope| decode(&envelope))
        };
        let decoded = match kind {
            BlobKind::Tree => self.trees.envelope(store, &self.index, location, decode),
            BlobKind::Data => fetch(),
        };
        // What came may have been spoiled on its way: one more look before it counts as damage, which can be for good.
        let decoded = match decoded {
            Ok(Err(reason)) => fetch().map(|again| again.map_err(|_| reason)),
            other => other,
        };
        let reason = match decoded {
            Ok(Ok(plain)) => return Ok(plain),
            Ok(Err(reason)) => reason,
            Err(error) if error.kind == StoreErrorKind::NotFound => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        Err(blob_error(kind, id, location, reason))
    }

    fn blob(&self, key: Key) -> Result<Arc<Vec<u8>>> {
        self.cache.get_or_load(key, || self.load(key.0, &key.1))
    }
}

impl Reader {
    /// A reader with a cache of 32 MiB.
    #[must_use]
    pub fn new(repository: Arc<Repository>, index: Arc<Index>) -> Self {
        Self::with_cache(repository, index, CACHE_BYTES)
    }

    /// A reader whose cache holds `bytes` bytes of plain blobs.
    #[must_use]
    pub fn with_cache(repository: Arc<Repository>, index: Arc<Index>, bytes: usize) -> Self {
        let threads = if repository.in_turn() { 0 } else { reading_threads(&**repository.store()) };
        let (cache, trees, ahead) = (Cache::new(bytes), TreePacks::new(), Arc::default());
        Self { shared: Arc::new(Shared { repository, index, cache, trees, ahead, threads }) }
    }

    /// The repository that is read.
    #[must_use]
    pub fn repository(&self) -> &Arc<Repository> {
        &self.shared.repository
    }

    /// The index that says where blobs are.
    #[must_use]
    pub fn index(&self) -> &Arc<Index> {
        &self.shared.index
    }

    /// Where a blob is stored.
    ///
    /// # Errors
    /// [`Error::BlobMissing`].
    pub fn locate(&self, kind: BlobKind, id: &Id) -> Result<Location> {
        self.shared.index.get(kind, id).ok_or(Error::BlobMissing { kind, id: *id })
    }

    /// The length of a blob's plain content in bytes.
    ///
    /// # Errors
    /// [`Error::BlobMissing`].
    pub fn blob_length(&self, kind: BlobKind, id: &Id) -> Result<u64> {
        Ok(plain_length(&self.locate(kind, id)?))
    }

    /// Loads a blob past the cache. Where several packs hold it, any whole copy will do.
    ///
    /// # Errors
    /// [`Error::BlobMissing`]; [`Error::DamagedBlob`] naming pack and blob, also where the pack is gone; [`Error::Store`]
    /// in the store's own words.
    pub fn load(&self, kind: BlobKind, id: &Id) -> Result<Vec<u8>> {
        self.shared.load(kind, id)
    }

    /// Loads a blob, or takes it from the cache.
    ///
    /// # Errors
    /// As [`Reader::load`].
    pub fn blob(&self, kind: BlobKind, id: &Id) -> Result<Arc<Vec<u8>>> {
        self.shared.blob((kind, *id))
    }

    /// Says which blobs will be asked for soon, in their order: other threads load them into the cache. Nobody has to
    /// know that they are there.
    pub fn prefetch<'a>(&self, kind: BlobKind, ids: impl IntoIterator<Item = &'a Id>) {
        let shared = &self.shared;
        let mut keys = ids.into_iter().map(|id| (kind, *id)).filter(|key| !shared.cache.knows(key)).peekable();
        if shared.threads > 0 && keys.peek().is_some() {
            Ahead::add(shared, keys);
        }
    }

    /// How many bytes of blobs may be asked for beforehand without driving each other out of the cache.
    #[must_use]
    pub fn prefetch_bytes(&self) -> u64 {
        self.shared.cache.limit() as u64 / 4
    }

    /// Loads and decodes a tree.
    ///
    /// # Errors
    /// As [`Reader::load`], and [`Error::DamagedBlob`] naming a tree that is not one.
    pub fn tree(&self, id: &Id) -> Result<Tree> {
        let json = self.blob(BlobKind::Tree, id)?;
        self.decode_tree(id, &json)
    }

    /// Loads and decodes a tree that nobody will ask for again: the cache keeps what it has, less this tree.
    ///
    /// # Errors
    /// As [`Reader::tree`].
    pub fn tree_once(&self, id: &Id) -> Result<Tree> {
        match self.shared.cache.take(&(BlobKind::Tree, *id)) {
            Some(json) => self.decode_tree(id, &json),
            None => self.decode_tree(id, &self.load(BlobKind::Tree, id)?),
        }
    }

    fn decode_tree(&self, id: &Id, json: &[u8]) -> Result<Tree> {
        Tree::decode(json).map_err(|error| match self.locate(BlobKind::Tree, id) {
            Ok(location) => blob_error(BlobKind::Tree, id, &location, format!("it is not a tree: {error}")),
            Err(missing) => missing,
        })
    }

    /// Finds the node at `path` below the tree `root`. Components are parted by `/`; empty ones do not count. The root
    /// itself has no node: none is returned for an empty path.
    ///
    /// # Errors
    /// As [`Reader::tree`].
    pub fn node_at(&self, root: &Id, path: &[u8]) -> Result<Option<Node>> {
        let mut tree = Some(*root);
        let mut found: Option<Node> = None;
        for component in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            let Some(id) = tree else { return Ok(None) };
            let Some(node) = self.tree(&id)?.nodes.into_iter().find(|node| node.name == component) else {
                return Ok(None);
            };
            tree = if node.kind == FileKind::Directory { node.subtree } else { None };
            found = Some(node);
        }
        Ok(found)
    }

    /// The tree of the directory at `path` below the tree `root`; the root's own for an empty path.
    ///
    /// # Errors
    /// As [`Reader::tree`]; a path that does not exist or is no directory is an error that names it.
    pub fn tree_at(&self, root: &Id, path: &[u8]) -> Result<Id> {
        if path.iter().all(|byte| *byte == b'/') {
            return Ok(*root);
        }
        let shown = String::from_utf8_lossy(path);
        match self.node_at(root, path)? {
            None => Err(Error::Other(format!("path {shown:?} is not in the snapshot"))),
            Some(Node { kind: FileKind::Directory, subtree: Some(tree), .. }) => Ok(tree),
            Some(Node { kind: FileKind::Directory, .. }) => {
                Err(Error::Other(format!("directory {shown:?} has no tree in the snapshot")))
            }
            Some(_) => Err(Error::Other(format!("path {shown:?} is not a directory in the snapshot"))),
        }
    }
}

/// Trees that are visited one after the other: those ahead are prefetched, a few at a time.
#[derive(Default)]
pub(crate) struct Upcoming {
    trees: Vec<Id>,
    hinted: usize,
}

impl Upcoming {
    /// How many trees ahead.
    const AHEAD: usize = 32;

    pub(crate) fn new(trees: Vec<Id>) -> Self {
        Self { trees, hinted: 0 }
    }

    /// The walk is about to visit the tree with this number, counted from 0.
    pub(crate) fn visit(&mut self, reader: &Reader, number: usize) {
        let until = self.trees.len().min(number + 1 + Self::AHEAD);
        // Not one by one: half as many must be missing.
        if self.hinted < until && (self.hinted <= number + Self::AHEAD / 2 || until == self.trees.len()) {
            reader.prefetch(BlobKind::Tree, &self.trees[self.hinted.max(number + 1).min(until)..until]);
            self.hinted = until;
        }
    }
}
