//! Trying again: only what a store calls temporary or throttled (`trouble.rs` has the table), with growing pauses and chance
//! in them, for a limited time. The user is told once that the store makes us wait.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backstay_core::{Id, ObjectKind, Retry, Store, StoreError, StoreErrorKind};

use crate::clock::{Clock, SystemClock};
use crate::options::{Cancelled, Notice};
use crate::trouble::FIRST_ANSWER_TIME;

/// The first pause; each next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// No pause of ours is longer. The store may ask for a longer one.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// So often in a pause it is asked whether anybody still wants to wait.
const LOOK: Duration = Duration::from_millis(50);
/// The user is not told again for this long.
const QUIET: Duration = Duration::from_secs(300);

/// A store that is asked again.
pub struct RetryStore {
    inner: Arc<dyn Store>,
    retrying: Retrying,
    cancelled: Option<Cancelled>,
}

/// How often, and for how long, somebody is asked again.
pub(crate) struct Retrying {
    total: Duration,
    notice: Option<Notice>,
    clock: Arc<dyn Clock>,
    /// Whether the store has ever answered. Until then the address may be wrong, and nobody likes to wait for that.
    answered: Arc<AtomicBool>,
    told: Mutex<Option<Duration>>,
}

impl fmt::Debug for RetryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryStore")
            .field("inner", &self.inner)
            .field("total", &self.retrying.total)
            .finish_non_exhaustive()
    }
}

impl RetryStore {
    /// Asks this store again for up to this long a call; zero is once.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, total: Duration, notice: Option<Notice>) -> Self {
        Self { inner, retrying: Retrying::new(total, notice), cancelled: None }
    }

    /// The same by another clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.retrying.clock = clock;
        self
    }

    /// The same for somebody who may lose patience: then a pause ends at once, and there is no further one.
    #[must_use]
    pub fn with_cancelled(mut self, cancelled: Cancelled) -> Self {
        self.cancelled = Some(cancelled);
        self
    }

    /// The same with a sign that whoever speaks to the store raises at its first answer, whatever that says.
    #[must_use]
    pub fn with_answered(mut self, answered: Arc<AtomicBool>) -> Self {
        self.retrying.answered = answered;
        self
    }

    fn again<T>(&self, work: impl Fn(u32) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.retrying.again(self.cancelled.as_deref(), work)
    }
}

impl Retrying {
    pub(crate) fn new(total: Duration, notice: Option<Notice>) -> Self {
        Self {
            total,
            notice,
            clock: Arc::new(SystemClock::default()),
            answered: Arc::default(),
            told: Mutex::default(),
        }
    }

    /// Calls until it works, or fails for good, or the time is over, or nobody wants to wait any longer. `work` is told
    /// which attempt it is, from 0.
    pub(crate) fn again<T>(
        &self,
        cancelled: Option<&(dyn Fn() -> bool + Send + Sync)>,
        work: impl Fn(u32) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let start = self.clock.now();
        let mut attempt = 0;
        let mut pause = FIRST_PAUSE;
        loop {
            let mut error = match work(attempt) {
                Ok(value) => {
                    self.answered.store(true, Ordering::Relaxed);
                    return Ok(value);
                }
                Err(error) => error,
            };
            let asked = match error.retry {
                Retry::Never => {
                    self.answered.store(true, Ordering::Relaxed);
                    return Err(error);
                }
                Retry::Soon => None,
                Retry::Throttled(wait) => {
                    self.answered.store(true, Ordering::Relaxed);
                    Some(wait.unwrap_or(pause * 2))
                }
            };
            attempt += 1;
            let limit =
                if self.answered.load(Ordering::Relaxed) { self.total } else { self.total.min(FIRST_ANSWER_TIME) };
            let wait = asked.map_or_else(|| shaken(pause), |asked| asked.max(shaken(pause)));
            let spent = self.clock.now().saturating_sub(start);
            if spent + wait > limit {
                if attempt > 1 {
                    error.text = format!("{}; tried {attempt} times in {} s", error.text, spent.as_secs());
                }
                error.retry = Retry::Never;
                return Err(error);
            }
            if attempt > 1 {
                self.tell(&error, limit);
            }
            if !self.wait(wait, cancelled) {
                error.text = format!("{}; interrupted before attempt {}", error.text, attempt + 1);
                error.retry = Retry::Never;
                return Err(error);
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Waits that long; false as soon as nobody wants to wait any longer.
    fn wait(&self, time: Duration, cancelled: Option<&(dyn Fn() -> bool + Send + Sync)>) -> bool {
        let Some(cancelled) = cancelled else {
            self.clock.sleep(time);
            return true;
        };
        let end = self.clock.now() + time;
        loop {
            if cancelled() {
                return false;
            }
            let left = end.saturating_sub(self.clock.now());
            if left.is_zero() {
                return true;
            }
            self.clock.sleep(left.min(LOOK));
        }
    }

    fn tell(&self, error: &StoreError, limit: Duration) {
        let Some(notice) = &self.notice else { return };
        let now = self.clock.now();
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.is_some_and(|then| now.saturating_sub(then) < QUIET) {
                return;
            }
            *told = Some(now);
        }
        notice(&format!("{error}; trying again for up to {} s", limit.as_secs()));
    }
}

/// Between half of the time and all of it, so that many who were turned away do not come back together.
fn shaken(time: Duration) -> Duration {
    // Without chance all come at once, which is no reason to fail.
    let chance = getrandom::u32().unwrap_or(u32::MAX);
    time.mul_f64(0.5 + 0.5 * f64::from(chance) / f64::from(u32::MAX))
}

impl Store for RetryStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn calls_at_once(&self) -> usize {
        self.inner.calls_at_once()
    }

    fn create(&self) -> Result<(), StoreError> {
        self.again(|_| self.inner.create())
    }

    fn put(&self, kind: ObjectKind, id: &Id, body: &[u8]) -> Result<(), StoreError> {
        self.again(|attempt| match self.inner.put(kind, id, body) {
            // An earlier attempt may have been carried out although its answer was lost: then this is our own object.
            Err(error) if attempt > 0 && error.kind == StoreErrorKind::Exists => match self.inner.get(kind, id, None) {
                Ok(there) if there == body => Ok(()),
                Ok(_) => Err(error),
                Err(other) if other.retry == Retry::Never => Err(error),
                Err(other) => Err(other),
            },
            other => other,
        })
    }

    fn get(&self, kind: ObjectKind, id: &Id, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        self.again(|_| self.inner.get(kind, id, range.clone()))
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<(Id, u64)>, StoreError> {
        self.again(|_| self.inner.list(kind))
    }

    fn size(&self, kind: ObjectKind, id: &Id) -> Result<Option<u64>, StoreError> {
        self.again(|_| self.inner.size(kind, id))
    }

    fn delete(&self, kind: ObjectKind, id: &Id) -> Result<(), StoreError> {
        self.again(|_| self.inner.delete(kind, id))
    }

    fn delete_all(&self, kind: ObjectKind, ids: &[Id]) -> Result<(), StoreError> {
        self.again(|_| self.inner.delete_all(kind, ids))
    }
}

#[cfg(test)]
mod tests;
