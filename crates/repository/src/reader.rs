//! Loading single blobs and trees: every blob is authenticated, decompressed within its announced length and compared
//! with its id before anybody sees it.
//!
//! A small cache keeps the blobs that were asked for last; several threads that ask for the same blob at once load it once.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::Arc;

use backstay_core::{FileKind, Id, ObjectKind};
use hashbrown::HashMap;
use parking_lot::{Condvar, Mutex};

use crate::container::decompress_into;
use crate::crypto::{MasterKey, OVERHEAD};
use crate::error::Error;
use crate::index::{Index, Location};
use crate::pack::BlobKind;
use crate::repository::Repository;
use crate::tree::{Node, Tree};

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

/// Reads blobs of one repository by its index. Shared by all threads.
pub struct Reader {
    repository: Arc<Repository>,
    index: Arc<Index>,
    cache: Mutex<Cache>,
    loaded: Condvar,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("blobs", &self.index.len()).finish_non_exhaustive()
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
        Self { repository, index, cache: Mutex::new(Cache::new(bytes)), loaded: Condvar::new() }
    }

    /// The repository that is read.
    #[must_use]
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// The index that says where blobs are.
    #[must_use]
    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// Where a blob is stored.
    ///
    /// # Errors
    /// [`Error::BlobMissing`].
    pub fn locate(&self, kind: BlobKind, id: &Id) -> Result<Location> {
        self.index.get(kind, id).ok_or(Error::BlobMissing { kind, id: *id })
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
    /// [`Error::BlobMissing`], or [`Error::DamagedBlob`] naming pack and blob (also where the store failed).
    pub fn load(&self, kind: BlobKind, id: &Id) -> Result<Vec<u8>> {
        let mut first = None;
        for location in self.index.get_all(kind, id) {
            match self.load_at(kind, id, &location) {
                Ok(plain) => return Ok(plain),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or(Error::BlobMissing { kind, id: *id }))
    }

    fn load_at(&self, kind: BlobKind, id: &Id, location: &Location) -> Result<Vec<u8>> {
        let start = u64::from(location.offset);
        let range = start..start + u64::from(location.length);
        let damaged = |reason| blob_error(kind, id, location, reason);
        let envelope = self
            .repository
            .store()
            .get(ObjectKind::Pack, &location.pack, Some(range))
            .map_err(|error| damaged(error.to_string()))?;
        let (mut scratch, mut plain) = (Vec::new(), Vec::new());
        decode_blob(self.repository.key(), &envelope, location.uncompressed, id, &mut scratch, &mut plain)
            .map_err(damaged)?;
        Ok(plain)
    }

    /// Loads a blob, or takes it from the cache.
    ///
    /// # Errors
    /// As [`Reader::load`].
    pub fn blob(&self, kind: BlobKind, id: &Id) -> Result<Arc<Vec<u8>>> {
        let key = (kind, *id);
        {
            let mut cache = self.cache.lock();
            loop {
                if let Some(found) = cache.get(&key) {
                    return Ok(found);
                }
                if cache.loading.insert(key) {
                    break;
                }
                self.loaded.wait(&mut cache);
            }
        }
        let result = self.load(kind, id).map(Arc::new);
        let mut cache = self.cache.lock();
        cache.loading.remove(&key);
        if let Ok(plain) = &result {
            cache.put(key, plain);
        }
        drop(cache);
        self.loaded.notify_all();
        result
    }

    /// Loads and decodes a tree.
    ///
    /// # Errors
    /// As [`Reader::load`], and [`Error::DamagedBlob`] naming a tree that is not one.
    pub fn tree(&self, id: &Id) -> Result<Tree> {
        let json = self.blob(BlobKind::Tree, id)?;
        self.decode_tree(id, &json)
    }

    /// Loads and decodes a tree that nobody will ask for again: the cache keeps what it has.
    ///
    /// # Errors
    /// As [`Reader::tree`].
    pub fn tree_once(&self, id: &Id) -> Result<Tree> {
        let json = self.load(BlobKind::Tree, id)?;
        self.decode_tree(id, &json)
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

type Key = (BlobKind, Id);

/// What was used last, up to a number of bytes. Old entries leave by the time stamp of their last use.
struct Cache {
    entries: HashMap<Key, (Arc<Vec<u8>>, u64)>,
    by_use: std::collections::BTreeMap<u64, Key>,
    loading: HashSet<Key>,
    bytes: usize,
    limit: usize,
    clock: u64,
}

impl Cache {
    fn new(limit: usize) -> Self {
        Self {
            entries: HashMap::new(),
            by_use: std::collections::BTreeMap::new(),
            loading: HashSet::new(),
            bytes: 0,
            limit,
            clock: 0,
        }
    }

    fn get(&mut self, key: &Key) -> Option<Arc<Vec<u8>>> {
        let (plain, used) = self.entries.get_mut(key)?;
        self.by_use.remove(used);
        self.clock += 1;
        *used = self.clock;
        self.by_use.insert(self.clock, *key);
        Some(plain.clone())
    }

    fn put(&mut self, key: Key, plain: &Arc<Vec<u8>>) {
        // One blob must not throw out everything else.
        if plain.len() > self.limit / 2 || self.entries.contains_key(&key) {
            return;
        }
        self.clock += 1;
        self.bytes += plain.len();
        self.entries.insert(key, (plain.clone(), self.clock));
        self.by_use.insert(self.clock, key);
        while self.bytes > self.limit
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            if let Some((gone, _)) = self.entries.remove(&oldest) {
                self.bytes -= gone.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_keeps_what_was_used_last_and_stays_within_its_limit() {
        let mut cache = Cache::new(100);
        let key = |n: u8| (BlobKind::Data, Id([n; 32]));
        for n in 0..3 {
            cache.put(key(n), &Arc::new(vec![n; 40]));
            assert!(cache.get(&key(0)).is_some());
        }
        assert!(cache.get(&key(1)).is_none());
        assert!(cache.get(&key(2)).is_some());
        assert_eq!(cache.bytes, 80);
        cache.put(key(9), &Arc::new(vec![0; 51]));
        assert!(cache.get(&key(9)).is_none());
    }
}
