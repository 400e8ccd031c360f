//! A repository that only grows: nothing is deleted but locks, which their owners must be able to take away again.

use std::ops::Range;
use std::sync::Arc;

use backstay_core::{Id, ObjectKind, Store, StoreError, StoreErrorKind};

use crate::layout;

/// A store that refuses deletions.
///
/// It keeps honest programs from mistakes. Against a thief of the credentials only the store itself can do so (object
/// lock, an append-only REST server).
#[derive(Debug)]
pub struct AppendOnlyStore {
    inner: Arc<dyn Store>,
}

impl AppendOnlyStore {
    /// Refuses deletions in this store.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner }
    }

    fn allowed(&self, kind: ObjectKind, id: Option<&Id>) -> Result<(), StoreError> {
        let Some(id) = id.filter(|_| kind != ObjectKind::Lock) else { return Ok(()) };
        let object = format!("{}/{}", self.inner.location().trim_end_matches('/'), layout::path(kind, id));
        Err(StoreError::new(
            StoreErrorKind::Denied,
            "delete",
            object,
            "nothing is deleted from a repository that was opened append-only: leave --append-only away",
        ))
    }
}

impl Store for AppendOnlyStore {
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
        self.inner.put(kind, id, body)
    }

    fn get(&self, kind: ObjectKind, id: &Id, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        self.inner.get(kind, id, range)
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<(Id, u64)>, StoreError> {
        self.inner.list(kind)
    }

    fn size(&self, kind: ObjectKind, id: &Id) -> Result<Option<u64>, StoreError> {
        self.inner.size(kind, id)
    }

    fn delete(&self, kind: ObjectKind, id: &Id) -> Result<(), StoreError> {
        self.allowed(kind, Some(id))?;
        self.inner.delete(kind, id)
    }

    fn delete_all(&self, kind: ObjectKind, ids: &[Id]) -> Result<(), StoreError> {
        self.allowed(kind, ids.first())?;
        self.inner.delete_all(kind, ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LocalStore;

    #[test]
    fn only_locks_are_deleted_and_everything_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = AppendOnlyStore::new(Arc::new(LocalStore::new(folder.path())));
        let id = Id::of(b"x");
        for kind in [ObjectKind::Pack, ObjectKind::Index, ObjectKind::Snapshot, ObjectKind::Key, ObjectKind::Lock] {
            store.put(kind, &id, b"x").unwrap();
            let alone = store.delete(kind, &id);
            let many = store.delete_all(kind, &[id]);
            if kind == ObjectKind::Lock {
                alone.unwrap();
                many.unwrap();
                assert_eq!(store.list(kind).unwrap(), []);
            } else {
                for error in [alone.unwrap_err(), many.unwrap_err()] {
                    assert_eq!(error.kind, StoreErrorKind::Denied);
                    assert!(error.to_string().contains("--append-only"), "{error}");
                }
                assert_eq!(store.list(kind).unwrap(), [(id, 1)], "{kind}");
                store.delete_all(kind, &[]).unwrap();
            }
        }
    }
}
