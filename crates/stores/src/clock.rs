//! Time as the decorators see it, so that their tests need not wait.

use std::fmt;
use std::time::{Duration, Instant};

/// A clock to read and to sleep by.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The time since some moment in the past that never changes.
    fn now(&self) -> Duration;

    /// Lets the calling thread sleep.
    fn sleep(&self, time: Duration);
}

/// The system's clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}
