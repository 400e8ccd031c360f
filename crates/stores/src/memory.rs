//! A store in memory, for tests and simulations: it forgets everything with the process.
//!
//! It is stricter than any real store: an object that was written never changes, and an attempt to write other bytes
//! under its name is an error, because content-named objects cannot differ. Lists come in the order of writing, so that
//! a run that is repeated with other random ids sees its objects in the same order.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backstay_core::{Id, ObjectKind, Store, StoreError, StoreErrorKind};

/// Objects in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    objects: Mutex<Objects>,
}

#[derive(Clone, Debug, Default)]
struct Objects {
    by_name: BTreeMap<(ObjectKind, Id), Object>,
    /// Objects that were ever written.
    written: u64,
}

#[derive(Clone, Debug)]
struct Object {
    /// The how manieth that was written.
    order: u64,
    body: Arc<[u8]>,
}

impl MemoryStore {
    /// A store of its own with the same objects, as if somebody had copied the place at this moment.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self { objects: Mutex::new(self.lock().clone()) }
    }

    /// Puts other bytes into an object's place, as a failing disk does. Whether there was such an object is returned.
    pub fn damage(&self, kind: ObjectKind, id: &Id, body: &[u8]) -> bool {
        match self.lock().by_name.get_mut(&name(kind, id)) {
            Some(object) => {
                object.body = body.into();
                true
            }
            None => false,
        }
    }

    /// All objects in the order in which they were written.
    #[must_use]
    pub fn objects(&self) -> Vec<(ObjectKind, Id)> {
        let objects = self.lock();
        let mut all: Vec<_> = objects.by_name.iter().map(|(name, object)| (object.order, *name)).collect();
        all.sort_unstable_by_key(|(order, _)| *order);
        all.into_iter().map(|(_, name)| name).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// There is one config, whatever id it is asked for with.
fn name(kind: ObjectKind, id: &Id) -> (ObjectKind, Id) {
    if kind == ObjectKind::Config { (kind, Id::default()) } else { (kind, *id) }
}

fn failed(kind: StoreErrorKind, operation: &'static str, object: (ObjectKind, &Id), text: &str) -> StoreError {
    StoreError::new(kind, operation, format!("memory:{}/{}", object.0.directory(), object.1), text)
}

impl Store for MemoryStore {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn create(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn put(&self, kind: ObjectKind, id: &Id, body: &[u8]) -> Result<(), StoreError> {
        let mut objects = self.lock();
        match objects.by_name.get(&name(kind, id)) {
            Some(there) if kind != ObjectKind::Config && *there.body == *body => Ok(()),
            Some(_) => Err(failed(StoreErrorKind::Exists, "write", (kind, id), "an object never changes")),
            None => {
                objects.written += 1;
                let order = objects.written;
                objects.by_name.insert(name(kind, id), Object { order, body: body.into() });
                Ok(())
            }
        }
    }

    fn get(&self, kind: ObjectKind, id: &Id, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        let found = self.lock().by_name.get(&name(kind, id)).map(|object| Arc::clone(&object.body));
        let body =
            found.ok_or_else(|| failed(StoreErrorKind::NotFound, "read", (kind, id), "there is no such object"))?;
        let Some(range) = range else { return Ok(body.to_vec()) };
        let part = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        part.and_then(|(start, end)| body.get(start..end)).map(<[u8]>::to_vec).ok_or_else(|| {
            let text = format!("bytes {range:?} of an object of {}", body.len());
            failed(StoreErrorKind::Other, "read", (kind, id), &text)
        })
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<(Id, u64)>, StoreError> {
        let objects = self.lock();
        let all = objects.by_name.range((kind, Id([0; 32]))..=(kind, Id([255; 32])));
        let mut all: Vec<_> = all.map(|((_, id), object)| (object.order, *id, object.body.len() as u64)).collect();
        all.sort_unstable_by_key(|(order, ..)| *order);
        Ok(all.into_iter().map(|(_, id, size)| (id, size)).collect())
    }

    fn size(&self, kind: ObjectKind, id: &Id) -> Result<Option<u64>, StoreError> {
        Ok(self.lock().by_name.get(&name(kind, id)).map(|object| object.body.len() as u64))
    }

    fn delete(&self, kind: ObjectKind, id: &Id) -> Result<(), StoreError> {
        self.lock().by_name.remove(&name(kind, id));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_like_every_store() {
        crate::testing::behaves(|| Arc::new(MemoryStore::default()));
    }

    #[test]
    fn an_object_never_changes() {
        let store = MemoryStore::default();
        let id = Id::of(b"one");
        store.put(ObjectKind::Pack, &id, b"one").unwrap();
        assert_eq!(store.put(ObjectKind::Pack, &id, b"two").unwrap_err().kind, StoreErrorKind::Exists);
        assert_eq!(store.get(ObjectKind::Pack, &id, None).unwrap(), b"one");
    }

    #[test]
    fn a_copy_goes_its_own_way() {
        let store = MemoryStore::default();
        store.put(ObjectKind::Lock, &Id::of(b"a"), b"a").unwrap();
        let copy = store.copy();
        copy.delete(ObjectKind::Lock, &Id::of(b"a")).unwrap();
        assert_eq!(store.objects(), [(ObjectKind::Lock, Id::of(b"a"))]);
        assert_eq!(copy.objects(), []);
    }

    #[test]
    fn lists_come_in_the_order_of_writing() {
        let store = MemoryStore::default();
        let ids: Vec<Id> = (0..50_u8).map(|number| Id::of(&[number])).collect();
        for id in &ids {
            store.put(ObjectKind::Index, id, b"x").unwrap();
        }
        let listed: Vec<Id> = store.list(ObjectKind::Index).unwrap().into_iter().map(|(id, _)| id).collect();
        assert_eq!(listed, ids);
    }
}
