//! Objects that another program laid out in a bucket, by their paths: they are looked at, read and deleted, never written.

use std::fmt;
use std::ops::Range;

use backstay_core::{Retry, StoreError, StoreErrorKind};
use opendal::options::ReadOptions;
use opendal::{ErrorKind, Operator};

use super::{Failed, ObjectStore, Parts};
use crate::retry::Retrying;

/// The objects below a folder.
pub struct ForeignObjects {
    store: ObjectStore,
    retrying: Retrying,
}

impl fmt::Debug for ForeignObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ForeignObjects").field(&self.store.parts.location).finish()
    }
}

impl ForeignObjects {
    pub(crate) fn new(parts: Parts, retrying: Retrying) -> Self {
        Self { store: ObjectStore::new(parts), retrying }
    }

    /// An object's size in bytes, or none if it is not there.
    ///
    /// # Errors
    /// [`StoreError`]; also when there is no bucket.
    pub fn size(&self, path: &str) -> Result<Option<u64>, StoreError> {
        let whole = self.path(path);
        let looked = self.again(|| {
            self.store.call("look at", &whole, None, async |operator: Operator, _| match operator.stat(&whole).await {
                Ok(there) => Ok(Some(there.content_length())),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error.into()),
            })
        })?;
        match looked {
            None => self.store.look_for_bucket().map(|()| None),
            found => Ok(found),
        }
    }

    /// Bytes of an object.
    ///
    /// # Errors
    /// [`StoreError`]; also when fewer came.
    pub fn read(&self, path: &str, range: &Range<u64>) -> Result<Vec<u8>, StoreError> {
        let whole = self.path(path);
        if range.is_empty() {
            return Ok(Vec::new());
        }
        self.again(|| {
            let bytes = self.store.call("read", &whole, None, async |operator: Operator, _| {
                let options = ReadOptions { range: range.clone().into(), ..ReadOptions::default() };
                Ok(operator.read_options(&whole, options).await?.to_vec())
            })?;
            if bytes.len() as u64 == range.end - range.start {
                return Ok(bytes);
            }
            let text = format!("{} bytes came instead of {range:?}", bytes.len());
            let error = StoreError::new(StoreErrorKind::Other, "read", self.store.shown(&whole), text);
            Err(StoreError { retry: Retry::Soon, ..error })
        })
    }

    /// Deletes everything below a folder and says how many objects there were.
    ///
    /// # Errors
    /// [`StoreError`]; some may be deleted then.
    pub fn delete_below(&self, folder: &str) -> Result<usize, StoreError> {
        let whole = format!("{}/", self.path(folder).trim_end_matches('/'));
        let listed = self.again(|| {
            self.store.call("list", &whole, None, async |operator: Operator, _| {
                self.store.list_all(operator, &whole, true).await
            })
        })?;
        for (name, _) in &listed {
            let path = format!("{whole}{name}");
            self.again(|| {
                self.store.call("delete", &path, None, async |operator: Operator, _| {
                    operator.delete(&path).await.map_err(Failed::from)
                })
            })?;
        }
        Ok(listed.len())
    }

    fn again<T>(&self, work: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.retrying.again(None, |_| work())
    }

    fn path(&self, path: &str) -> String {
        format!("{}{path}", self.store.parts.folder)
    }
}
