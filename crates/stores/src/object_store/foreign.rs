//! Objects that another program laid out in a bucket, by their paths: they are looked at, read and deleted, never written.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use backstay_core::{Retry, StoreError, StoreErrorKind};
use opendal::options::ReadOptions;
use opendal::{ErrorKind, Operator};

use super::{Failed, ObjectStore, Parts};

/// How often a call is made that fails for a while, and the pause after the first time; each next one is twice as long.
const ATTEMPTS: u32 = 6;
const PAUSE: Duration = Duration::from_millis(500);

/// The objects below a folder.
pub struct ForeignObjects {
    store: ObjectStore,
}

impl fmt::Debug for ForeignObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ForeignObjects").field(&self.store.parts.location).finish()
    }
}

impl ForeignObjects {
    pub(crate) fn new(parts: Parts) -> Self {
        Self { store: ObjectStore::new(parts) }
    }

    /// An object's size in bytes, or none if it is not there.
    ///
    /// # Errors
    /// [`StoreError`]; also when there is no bucket.
    pub fn size(&self, path: &str) -> Result<Option<u64>, StoreError> {
        let whole = self.path(path);
        let looked = again(|| {
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
        again(|| {
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
        let listed = again(|| {
            self.store.call("list", &whole, None, async |operator: Operator, _| {
                self.store.list_all(operator, &whole, true).await
            })
        })?;
        for (name, _) in &listed {
            let path = format!("{whole}{name}");
            again(|| {
                self.store.call("delete", &path, None, async |operator: Operator, _| {
                    operator.delete(&path).await.map_err(Failed::from)
                })
            })?;
        }
        Ok(listed.len())
    }

    fn path(&self, path: &str) -> String {
        format!("{}{path}", self.store.parts.folder)
    }
}

fn again<T>(work: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let mut pause = PAUSE;
    for _ in 1..ATTEMPTS {
        match work() {
            Err(error) if error.retry != Retry::Never => {
                let asked = if let Retry::Throttled(Some(wait)) = error.retry { wait } else { pause };
                std::thread::sleep(asked.max(pause));
                pause *= 2;
            }
            done => return done,
        }
    }
    work()
}
