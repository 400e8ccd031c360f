//! Which blobs snapshots use: every tree below their roots, each loaded once, and everything that the trees name.
//!
//! Made for millions of blobs: about 45 bytes each. The set is exact, and filled by many threads at once.

use std::sync::Arc;

use backstay_core::Id;
use hashbrown::HashTable;
use parking_lot::{Condvar, Mutex};

use super::{MaintenanceProgress, interrupted, on_threads};
use crate::error::Error;
use crate::pack::BlobKind;
use crate::reader::{Reader, Result};
use crate::walk::join;

/// The set is split so that threads seldom wait for each other, and so that it never doubles as a whole.
const SHARDS: usize = 64;

#[derive(Default)]
struct Shard {
    ids: Vec<Id>,
    table: HashTable<u32>,
}

/// Ids are hashes already; the first byte chooses the shard.
fn hash(id: &Id) -> u64 {
    let [_, a, b, c, d, e, f, g, h, ..] = id.0;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

impl Shard {
    fn contains(&self, id: &Id) -> bool {
        self.table.find(hash(id), |at| self.ids[*at as usize] == *id).is_some()
    }

    fn insert(&mut self, id: Id) -> bool {
        if self.contains(&id) {
            return false;
        }
        if self.ids.len() == self.ids.capacity() {
            // An eighth more, not twice as much: memory is what bounds this set.
            self.ids.reserve_exact(16 + self.ids.len() / 8);
        }
        // A shard of 4 thousand million ids does not fit any memory.
        let at = self.ids.len() as u32;
        self.ids.push(id);
        let ids = &self.ids;
        self.table.insert_unique(hash(&id), at, |at| hash(&ids[*at as usize]));
        true
    }
}

/// A set of blobs, each a kind and an id. Shared by threads.
pub struct UsedBlobs {
    trees: Vec<Mutex<Shard>>,
    data: Vec<Mutex<Shard>>,
}

impl Default for UsedBlobs {
    fn default() -> Self {
        let shards = || (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { trees: shards(), data: shards() }
    }
}

impl std::fmt::Debug for UsedBlobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UsedBlobs").field("blobs", &self.len()).finish_non_exhaustive()
    }
}

impl UsedBlobs {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn shards(&self, kind: BlobKind) -> &[Mutex<Shard>] {
        match kind {
            BlobKind::Data => &self.data,
            BlobKind::Tree => &self.trees,
        }
    }

    fn shard(&self, kind: BlobKind, id: &Id) -> &Mutex<Shard> {
        &self.shards(kind)[usize::from(id.0[0]) % SHARDS]
    }

    /// Adds a blob; whether it was not there yet.
    pub fn insert(&self, kind: BlobKind, id: Id) -> bool {
        self.shard(kind, &id).lock().insert(id)
    }

    /// Whether the blob is in the set.
    #[must_use]
    pub fn contains(&self, kind: BlobKind, id: &Id) -> bool {
        self.shard(kind, id).lock().contains(id)
    }

    /// How many blobs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.trees.iter().chain(&self.data).map(|shard| shard.lock().ids.len()).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All blobs of a kind, in no order.
    #[must_use]
    pub fn ids(&self, kind: BlobKind) -> Vec<Id> {
        self.shards(kind).iter().flat_map(|shard| shard.lock().ids.clone()).collect()
    }

    /// Calls `take` for each blob, in no order; the set must not be used meanwhile.
    pub fn for_each(&self, mut take: impl FnMut(BlobKind, &Id)) {
        for kind in [BlobKind::Tree, BlobKind::Data] {
            for shard in self.shards(kind) {
                shard.lock().ids.iter().for_each(|id| take(kind, id));
            }
        }
    }
}

/// Where a walk begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// The snapshot, for messages.
    pub snapshot: Id,
    /// Its tree.
    pub tree: Id,
}

struct Task {
    tree: Id,
    snapshot: Id,
    path: Vec<u8>,
}

#[derive(Default)]
struct State {
    waiting: Vec<Task>,
    busy: usize,
    error: Option<Error>,
}

/// Adds to `used` everything that the snapshots `roots` need: their trees, and the data blobs of their files. A tree that is
/// in the set already is not read again: the set must only hold trees that an earlier call has gone through to the end.
///
/// Works on as many threads as the store likes calls at once. "trees" is the stage that `progress` hears of.
///
/// # Errors
/// [`Error::InSnapshot`] with the first snapshot and path where a tree cannot be read, or a blob is in no index. The set is
/// of no use then.
pub fn collect(
    reader: &Reader,
    roots: impl IntoIterator<Item = Root>,
    used: &UsedBlobs,
    progress: &dyn MaintenanceProgress,
) -> Result<()> {
    let state = Mutex::new(State::default());
    let changed = Condvar::new();
    for Root { snapshot, tree } in roots {
        let task = Task { tree, snapshot, path: Vec::new() };
        if tree.is_null() {
            return Err(task.error(Error::Other("it has no tree".to_owned())));
        }
        if used.insert(BlobKind::Tree, tree) {
            state.lock().waiting.push(task);
        }
    }
    let waiting = state.lock().waiting.len();
    if waiting == 0 {
        return Ok(());
    }
    progress.stage("trees", 0);
    let threads = reader.repository().store().calls_at_once().clamp(1, 64);
    on_threads(threads, || {
        loop {
            let task = {
                let mut state = state.lock();
                loop {
                    if state.error.is_some() {
                        return;
                    }
                    if let Some(task) = state.waiting.pop() {
                        state.busy += 1;
                        break task;
                    }
                    if state.busy == 0 {
                        return;
                    }
                    changed.wait(&mut state);
                }
            };
            let found = if progress.cancelled() { Err(interrupted()) } else { task.read(reader, used) };
            let mut state = state.lock();
            state.busy -= 1;
            match found {
                Ok(found) => state.waiting.extend(found),
                Err(error) => {
                    state.error.get_or_insert(error);
                }
            }
            drop(state);
            changed.notify_all();
            progress.advanced(1);
        }
    })?;
    state.into_inner().error.map_or(Ok(()), Err)
}

impl Task {
    fn error(&self, error: Error) -> Error {
        Self::error_at(self.snapshot, &self.path, error)
    }

    fn error_at(snapshot: Id, path: &[u8], error: Error) -> Error {
        let path = if path.is_empty() { "/".to_owned() } else { String::from_utf8_lossy(path).into_owned() };
        Error::InSnapshot { snapshot, path, error: Arc::new(error) }
    }

    /// Adds what the tree names, and returns the trees that nobody has read yet.
    fn read(&self, reader: &Reader, used: &UsedBlobs) -> Result<Vec<Self>> {
        let tree = reader.tree_once(&self.tree).map_err(|error| self.error(error))?;
        let mut below = Vec::new();
        for node in tree.nodes {
            for id in node.content.iter().flatten() {
                if used.insert(BlobKind::Data, *id) && !reader.index().contains(BlobKind::Data, id) {
                    let missing = Error::BlobMissing { kind: BlobKind::Data, id: *id };
                    return Err(Self::error_at(self.snapshot, &join(&self.path, &node.name), missing));
                }
            }
            let Some(tree) = node.subtree else { continue };
            if used.insert(BlobKind::Tree, tree) {
                below.push(Self { tree, snapshot: self.snapshot, path: join(&self.path, &node.name) });
            }
        }
        Ok(below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_in_the_set_once_and_by_its_kind() {
        let used = UsedBlobs::new();
        for number in 0..10_000_u32 {
            assert!(used.insert(BlobKind::Data, Id::of(&number.to_le_bytes())));
        }
        for number in 0..10_000_u32 {
            let id = Id::of(&number.to_le_bytes());
            assert!(!used.insert(BlobKind::Data, id));
            assert!(used.contains(BlobKind::Data, &id) && !used.contains(BlobKind::Tree, &id));
        }
        assert!(used.insert(BlobKind::Tree, Id::of(&7_u32.to_le_bytes())));
        assert_eq!((used.len(), used.ids(BlobKind::Tree).len()), (10_001, 1));
        let mut seen = 0;
        used.for_each(|kind, id| {
            assert!(used_twice(kind, id));
            seen += 1;
        });
        assert_eq!(seen, 10_001);
    }

    fn used_twice(kind: BlobKind, id: &Id) -> bool {
        kind == BlobKind::Data || *id == Id::of(&7_u32.to_le_bytes())
    }
}
