//! Whole objects on the disk for a while: plugins read no ranges, and a reader wants many of one pack.
//!
//! The files have no names: whatever ends this process, nothing stays. The oldest go when there are too many bytes.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use backstay_core::{Id, ObjectKind};
use parking_lot::Mutex;

type Name = (ObjectKind, Id);

/// Bounded room for objects.
#[derive(Debug)]
pub struct Cache {
    most: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<Name, Entry>,
    bytes: u64,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    place: Arc<Mutex<Option<Arc<File>>>>,
    size: u64,
    used: u64,
}

impl Cache {
    /// Room for so many bytes. What is just being read can exceed it.
    #[must_use]
    pub fn new(most: u64) -> Self {
        Self { most, inner: Mutex::default() }
    }

    /// The file of an object. If there is none it is fetched, by one of those who want it at once.
    ///
    /// # Errors
    /// Those of `fetch`.
    pub fn get<E>(&self, name: Name, size: u64, fetch: impl FnOnce() -> Result<File, E>) -> Result<Arc<File>, E> {
        let place = {
            let mut inner = self.inner.lock();
            inner.clock += 1;
            let used = inner.clock;
            let entry = inner.entries.entry(name).or_insert_with(|| Entry { place: Arc::default(), size: 0, used });
            entry.used = used;
            Arc::clone(&entry.place)
        };
        let mut file = place.lock();
        if let Some(file) = file.as_ref() {
            return Ok(Arc::clone(file));
        }
        let fetched = match fetch() {
            Ok(fetched) => Arc::new(fetched),
            Err(error) => {
                drop(file);
                self.forget(&name);
                return Err(error);
            }
        };
        *file = Some(Arc::clone(&fetched));
        drop(file);
        let mut inner = self.inner.lock();
        let Inner { entries, bytes, .. } = &mut *inner;
        if let Some(entry) = entries.get_mut(&name).filter(|entry| Arc::ptr_eq(&entry.place, &place) && entry.size == 0)
        {
            entry.size = size;
            *bytes += size;
        }
        while *bytes > self.most {
            let others = entries.iter().filter(|(other, entry)| **other != name && entry.size > 0);
            let Some((&oldest, _)) = others.min_by_key(|(_, entry)| entry.used) else { break };
            *bytes -= entries.remove(&oldest).map_or(0, |entry| entry.size);
        }
        Ok(fetched)
    }

    /// The file of an object, if it is here.
    #[must_use]
    pub fn peek(&self, name: &Name) -> Option<Arc<File>> {
        let place = self.inner.lock().entries.get(name).map(|entry| Arc::clone(&entry.place))?;
        place.try_lock()?.clone()
    }

    /// Gives an object's room back.
    pub fn forget(&self, name: &Name) {
        let mut inner = self.inner.lock();
        let size = inner.entries.remove(name).map_or(0, |entry| entry.size);
        inner.bytes -= size;
    }
}

/// Bytes of a file.
///
/// # Errors
/// The file ends before, or cannot be read.
pub fn bytes(file: &File, start: u64, length: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, start)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn those_who_want_one_at_once_fetch_it_once_and_the_oldest_go() {
        let cache = Cache::new(10);
        let fetched = AtomicUsize::new(0);
        let get = |number: u8| {
            let fetch = || {
                fetched.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(std::time::Duration::from_millis(20));
                let mut file = tempfile::tempfile()?;
                file.write_all(&[number; 4])?;
                Ok::<_, std::io::Error>(file)
            };
            let file = cache.get((ObjectKind::Pack, Id([number; 32])), 4, fetch).unwrap();
            assert_eq!(bytes(&file, 1, 2).unwrap(), [number; 2]);
        };
        std::thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(|| get(1)))));
        assert_eq!(fetched.load(Ordering::SeqCst), 1);
        get(2);
        get(1);
        get(3);
        assert_eq!(fetched.load(Ordering::SeqCst), 3);
        assert!(cache.peek(&(ObjectKind::Pack, Id([2; 32]))).is_none(), "the oldest");
        assert!(cache.peek(&(ObjectKind::Pack, Id([1; 32]))).is_some());
        let failed = cache.get((ObjectKind::Pack, Id([4; 32])), 4, || Err("no"));
        assert_eq!(failed.unwrap_err(), "no");
        get(4);
    }
}
