//! What was used last, up to a number of bytes; and what some thread is loading just now.

use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::{Condvar, Mutex};

/// A cache that several threads share. Those who ask for the same thing at once load it once.
pub(super) struct Cache<K> {
    state: Mutex<State<K>>,
    loaded: Condvar,
}

/// Old entries leave by the time stamp of their last use.
struct State<K> {
    entries: HashMap<K, (Arc<Vec<u8>>, u64)>,
    by_use: BTreeMap<u64, K>,
    loading: HashSet<K>,
    bytes: usize,
    limit: usize,
    clock: u64,
}

impl<K: Copy + Eq + Hash> Cache<K> {
    /// A cache of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        let state = State {
            entries: HashMap::new(),
            by_use: BTreeMap::new(),
            loading: HashSet::new(),
            bytes: 0,
            limit,
            clock: 0,
        };
        Self { state: Mutex::new(state), loaded: Condvar::new() }
    }

    /// How many bytes it holds at the most.
    pub(super) fn limit(&self) -> usize {
        self.state.lock().limit
    }

    /// Takes what is cached, or loads it. Whoever asks while another thread loads waits for that one.
    pub(super) fn get_or_load<E>(&self, key: K, load: impl FnOnce() -> Result<Vec<u8>, E>) -> Result<Arc<Vec<u8>>, E> {
        {
            let mut state = self.state.lock();
            loop {
                if let Some(found) = state.get(&key) {
                    return Ok(found);
                }
                if state.loading.insert(key) {
                    break;
                }
                self.loaded.wait(&mut state);
            }
        }
        // Also where `load` panics, nobody may wait for it.
        let loading = Loading { cache: self, key };
        let result = load().map(Arc::new);
        if let Ok(bytes) = &result {
            self.state.lock().put(key, bytes);
        }
        drop(loading);
        result
    }

    /// Takes out what is cached, or being loaded just now.
    pub(super) fn take(&self, key: &K) -> Option<Arc<Vec<u8>>> {
        let mut state = self.state.lock();
        while state.loading.contains(key) {
            self.loaded.wait(&mut state);
        }
        state.remove(key)
    }

    /// Whether it is here, or on its way.
    pub(super) fn knows(&self, key: &K) -> bool {
        let state = self.state.lock();
        state.entries.contains_key(key) || state.loading.contains(key)
    }
}

struct Loading<'a, K: Copy + Eq + Hash> {
    cache: &'a Cache<K>,
    key: K,
}

impl<K: Copy + Eq + Hash> Drop for Loading<'_, K> {
    fn drop(&mut self) {
        self.cache.state.lock().loading.remove(&self.key);
        self.cache.loaded.notify_all();
    }
}

impl<K: Copy + Eq + Hash> State<K> {
    fn get(&mut self, key: &K) -> Option<Arc<Vec<u8>>> {
        let (plain, used) = self.entries.get_mut(key)?;
        self.by_use.remove(used);
        self.clock += 1;
        *used = self.clock;
        self.by_use.insert(self.clock, *key);
        Some(plain.clone())
    }

    fn remove(&mut self, key: &K) -> Option<Arc<Vec<u8>>> {
        let (plain, used) = self.entries.remove(key)?;
        self.by_use.remove(&used);
        self.bytes -= plain.len();
        Some(plain)
    }

    fn put(&mut self, key: K, plain: &Arc<Vec<u8>>) {
        // One entry must not throw out everything else.
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
        let cache = Cache::new(100);
        let put = |n: u8, length| cache.get_or_load(n, || Ok::<_, ()>(vec![n; length])).unwrap();
        let has = |n: u8| cache.get_or_load(n, || Err(())).is_ok();
        for n in 0..3 {
            put(n, 40);
            assert!(has(0));
        }
        assert!(!has(1));
        assert!(has(2));
        assert_eq!(cache.state.lock().bytes, 80);
        put(9, 51);
        assert!(!has(9));
    }

    #[test]
    fn who_waits_for_a_load_that_failed_loads_itself() {
        let cache = Cache::new(100);
        std::thread::scope(|scope| {
            let (cache, (begun, has_begun)) = (&cache, std::sync::mpsc::channel());
            scope.spawn(move || {
                let failed = cache.get_or_load(1, || {
                    begun.send(()).unwrap();
                    Err::<Vec<u8>, _>("no")
                });
                assert_eq!(failed, Err("no"));
            });
            has_begun.recv().unwrap();
            assert_eq!(*cache.get_or_load(1, || Ok::<_, &str>(vec![7])).unwrap(), [7]);
        });
        assert!(cache.state.lock().loading.is_empty());
    }
}
