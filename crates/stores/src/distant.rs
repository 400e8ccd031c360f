//! A store behind a slow network, for tests: every read takes a while, and the reads are counted.
//!
//! It shows what no test of time could: how many calls some work needs, and how many of them are on their way at once.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backstay_core::{Id, ObjectKind, Store, StoreError};

/// What was read from a [`DistantStore`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Calls that read packs.
    pub packs: usize,
    /// Bytes of packs that they read.
    pub pack_bytes: usize,
    /// How many of them were on their way at once at the most.
    pub at_once: usize,
}

/// A store whose reads take `latency` longer and are counted.
#[derive(Debug)]
pub struct DistantStore {
    inner: Arc<dyn Store>,
    latency: Duration,
    calls_at_once: usize,
    packs: AtomicUsize,
    pack_bytes: AtomicUsize,
    under_way: AtomicUsize,
    at_once: AtomicUsize,
}

impl DistantStore {
    /// Puts `inner` far away. `calls_at_once` is what [`Store::calls_at_once`] answers.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, latency: Duration, calls_at_once: usize) -> Self {
        let zero = || AtomicUsize::new(0);
        Self { inner, latency, calls_at_once, packs: zero(), pack_bytes: zero(), under_way: zero(), at_once: zero() }
    }

    /// What was read since the last call; counting starts again.
    pub fn take_reads(&self) -> Reads {
        Reads {
            packs: self.packs.swap(0, Ordering::SeqCst),
            pack_bytes: self.pack_bytes.swap(0, Ordering::SeqCst),
            at_once: self.at_once.swap(0, Ordering::SeqCst),
        }
    }
}

impl Store for DistantStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn calls_at_once(&self) -> usize {
        self.calls_at_once
    }

    fn create(&self) -> Result<(), StoreError> {
        self.inner.create()
    }

    fn put(&self, kind: ObjectKind, id: &Id, body: &[u8]) -> Result<(), StoreError> {
        self.inner.put(kind, id, body)
    }

    fn get(&self, kind: ObjectKind, id: &Id, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        if kind != ObjectKind::Pack {
            return self.inner.get(kind, id, range);
        }
        self.packs.fetch_add(1, Ordering::SeqCst);
        let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.at_once.fetch_max(under_way, Ordering::SeqCst);
        std::thread::sleep(self.latency);
        let result = self.inner.get(kind, id, range);
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        self.pack_bytes.fetch_add(result.as_ref().map_or(0, Vec::len), Ordering::SeqCst);
        result
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<(Id, u64)>, StoreError> {
        self.inner.list(kind)
    }

    fn size(&self, kind: ObjectKind, id: &Id) -> Result<Option<u64>, StoreError> {
        self.inner.size(kind, id)
    }

    fn delete(&self, kind: ObjectKind, id: &Id) -> Result<(), StoreError> {
        self.inner.delete(kind, id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStore;

    #[test]
    fn it_behaves_as_every_store() {
        crate::testing::behaves(|| {
            Arc::new(DistantStore::new(Arc::new(MemoryStore::default()), Duration::from_micros(1), 16))
        });
    }
}
