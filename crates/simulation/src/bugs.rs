//! Planted bugs: each breaks one of the invariants in a way that a program could, to prove that the simulation sees it.
//!
//! They are wrappers around the store or the source of an operation; the code under test stays as it is.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use backstay_core::{
    Attr, Data, DataError, End, Entry, EntryError, Fatal, Id, Ingest, Job, ObjectKind, Outcome, SideObject, Source,
    SourceInfo, Start, Stop, Store, StoreError, Verdict, Want,
};

/// A bug, and the invariant that it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Invariant 1: a snapshot is written before the index files that it needs.
    SnapshotBeforeIndex,
    /// Invariant 1: the store says that a pack is stored when it is not yet, and a killed process never stores it.
    PackPromised,
    /// Invariant 2: a prune does not look again at the snapshots before it deletes.
    NoSecondLook,
    /// Invariant 2: nobody sees the locks of others.
    LocksIgnored,
    /// Invariant 3: an entry that failed is dropped without a word.
    FailureDropped,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::SnapshotBeforeIndex, Self::PackPromised, Self::NoSecondLook, Self::LocksIgnored, Self::FailureDropped];

    /// The store with the bug in it.
    #[must_use]
    pub fn in_store(self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(BuggyStore { bug: self, inner: store, held_back: Mutex::default(), snapshots: Mutex::default() })
    }

    /// The source with the bug in what it is given to write into.
    #[must_use]
    pub fn in_source(self, source: Box<dyn Source>) -> Box<dyn Source> {
        if self == Self::FailureDropped { Box::new(DroppingSource(source)) } else { source }
    }
}

type Object = (ObjectKind, Id, Vec<u8>);

#[derive(Debug)]
struct BuggyStore {
    bug: Bug,
    inner: Arc<dyn Store>,
    held_back: Mutex<Vec<Object>>,
    snapshots: Mutex<Option<Vec<(Id, u64)>>>,
}

impl BuggyStore {
    fn hold_back(&self, kind: ObjectKind, id: &Id, body: &[u8]) {
        self.held_back.lock().unwrap_or_else(PoisonError::into_inner).push((kind, *id, body.to_vec()));
    }

    fn bring(&self) -> Result<(), StoreError> {
        let held = std::mem::take(&mut *self.held_back.lock().unwrap_or_else(PoisonError::into_inner));
        held.iter().try_for_each(|(kind, id, body)| self.inner.put(*kind, id, body))
    }
}

impl Store for BuggyStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn calls_at_once(&self) -> usize {
        self.inner.calls_at_once()
    }

    fn create(&self) -> Result<(), StoreError> {
        self.inner.create()
    }

    fn put(&self, kind: ObjectKind, id: &Id, body: &[u8]) -> Result<(), StoreError> {
        match (self.bug, kind) {
            (Bug::SnapshotBeforeIndex, ObjectKind::Index) | (Bug::PackPromised, ObjectKind::Pack) => {
                self.hold_back(kind, id, body);
                Ok(())
            }
            (Bug::SnapshotBeforeIndex | Bug::PackPromised, ObjectKind::Snapshot) => {
                self.inner.put(kind, id, body)?;
                self.bring()
            }
            _ => self.inner.put(kind, id, body),
        }
    }

    fn get(&self, kind: ObjectKind, id: &Id, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        self.inner.get(kind, id, range)
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<(Id, u64)>, StoreError> {
        match (self.bug, kind) {
            (Bug::LocksIgnored, ObjectKind::Lock) => Ok(Vec::new()),
            (Bug::NoSecondLook, ObjectKind::Snapshot) => {
                let mut seen = self.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
                match &*seen {
                    Some(list) => Ok(list.clone()),
                    None => Ok(seen.insert(self.inner.list(kind)?).clone()),
                }
            }
            _ => self.inner.list(kind),
        }
    }

    fn size(&self, kind: ObjectKind, id: &Id) -> Result<Option<u64>, StoreError> {
        self.inner.size(kind, id)
    }

    fn delete(&self, kind: ObjectKind, id: &Id) -> Result<(), StoreError> {
        self.inner.delete(kind, id)
    }
}

struct DroppingSource(Box<dyn Source>);

impl Source for DroppingSource {
    fn info(&self) -> SourceInfo {
        self.0.info()
    }

    fn run(&mut self, job: &dyn Job, start: &Start, out: &mut dyn Ingest) -> Result<End, Fatal> {
        self.0.run(job, start, &mut DroppingIngest { out, open: None, data: Vec::new() })
    }

    fn finish(&mut self, verdict: &Verdict) {
        self.0.finish(verdict);
    }
}

/// Passes an entry on when it is known that it did not fail.
struct DroppingIngest<'a> {
    out: &'a mut dyn Ingest,
    open: Option<Entry>,
    data: Vec<u8>,
}

impl Ingest for DroppingIngest<'_> {
    fn entry(&mut self, entry: Entry) -> Result<Want, Stop> {
        self.open = Some(entry);
        self.data.clear();
        Ok(Want::Data)
    }

    fn data(&mut self, data: Data<'_>) -> Result<u64, DataError> {
        match data {
            Data::Bytes(bytes) => {
                self.data.extend_from_slice(bytes);
                Ok(bytes.len() as u64)
            }
            other => self.out.data(other),
        }
    }

    fn attr(&mut self, attr: Attr) -> Result<(), Stop> {
        self.out.attr(attr)
    }

    fn end(&mut self, result: Result<(), EntryError>) -> Outcome {
        let Some(entry) = self.open.take() else { return self.out.end(result) };
        if let Err(error) = result {
            return Outcome::Failed(error);
        }
        let stopped = |text: String| Outcome::Failed(EntryError::new(text));
        if let Err(stop) = self.out.entry(entry) {
            return stopped(stop.0);
        }
        match self.out.data(Data::Bytes(&self.data)) {
            Ok(_) => self.out.end(Ok(())),
            Err(error) => stopped(error.to_string()),
        }
    }

    fn skipped(&mut self, name: &[u8], rule: &str) {
        self.out.skipped(name, rule);
    }

    fn unchanged(&mut self, name: &[u8]) {
        self.out.unchanged(name);
    }

    fn side(&mut self, object: SideObject) -> Result<(), Stop> {
        self.out.side(object)
    }

    fn deleted(&mut self, name: &[u8], announced: bool) -> Result<(), Stop> {
        self.out.deleted(name, announced)
    }

    fn lost(&mut self, count: u64) {
        self.out.lost(count);
    }
}
