//! Bandwidth limits: how many bytes a second may go up and come down, over all calls of a store together.
//!
//! [`Bandwidth`] keeps the account. HTTP bodies and SFTP ask it for every piece they move (`transport.rs`, `sftp.rs`);
//! [`LimitedStore`] asks it for whole objects, for stores that move bytes by other means.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backstay_core::{Id, ObjectKind, Store, StoreError};

use crate::clock::{Clock, SystemClock};

/// The account of bytes in both directions.
#[derive(Debug)]
pub struct Bandwidth {
    up: Option<Direction>,
    down: Option<Direction>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct Direction {
    /// Bytes a second.
    rate: u64,
    /// The time at which everything that was let through will have been paid for.
    paid: Mutex<Duration>,
}

impl Direction {
    fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), paid: Mutex::new(Duration::ZERO) }
    }

    fn take(&self, bytes: usize, now: Duration) -> Duration {
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        // What was not used is gone: a quiet hour does not allow for a burst.
        *paid = (*paid).max(now) + cost;
        *paid - now
    }
}

impl Default for Bandwidth {
    fn default() -> Self {
        Self::new(None, None)
    }
}

impl Bandwidth {
    /// Limits in bytes a second, up and down; none is no limit.
    #[must_use]
    pub fn new(up: Option<u64>, down: Option<u64>) -> Self {
        Self::with_clock(up, down, Arc::new(SystemClock::default()))
    }

    /// The same by another clock.
    #[must_use]
    pub fn with_clock(up: Option<u64>, down: Option<u64>, clock: Arc<dyn Clock>) -> Self {
        Self { up: up.map(Direction::new), down: down.map(Direction::new), clock }
    }

    /// Whether there is any limit.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.up.is_some() || self.down.is_some()
    }

    /// Notes bytes that go up, and says how long to wait before the next ones.
    #[must_use]
    pub fn up(&self, bytes: usize) -> Duration {
        self.up.as_ref().map_or(Duration::ZERO, |direction| direction.take(bytes, self.clock.now()))
    }

    /// Notes bytes that came down, and says how long to wait before the next ones.
    #[must_use]
    pub fn down(&self, bytes: usize) -> Duration {
        self.down.as_ref().map_or(Duration::ZERO, |direction| direction.take(bytes, self.clock.now()))
    }

    /// Waits for so long.
    pub(crate) fn sleep(&self, time: Duration) {
        if !time.is_zero() {
            self.clock.sleep(time);
        }
    }
}

/// A store whose objects go through the account whole: the call waits until the object is paid for.
#[derive(Debug)]
pub struct LimitedStore {
    inner: Arc<dyn Store>,
    bandwidth: Arc<Bandwidth>,
}

impl LimitedStore {
    /// Limits this store.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, bandwidth: Arc<Bandwidth>) -> Self {
        Self { inner, bandwidth }
    }
}

impl Store for LimitedStore {
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
        let wait = self.bandwidth.up(body.len());
        self.bandwidth.sleep(wait);
        self.inner.put(kind, id, body)
    }

    fn get(&self, kind: ObjectKind, id: &Id, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        let bytes = self.inner.get(kind, id, range)?;
        let wait = self.bandwidth.down(bytes.len());
        self.bandwidth.sleep(wait);
        Ok(bytes)
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

    fn delete_all(&self, kind: ObjectKind, ids: &[Id]) -> Result<(), StoreError> {
        self.inner.delete_all(kind, ids)
    }
}

#[cfg(test)]
mod tests;
