//! How far a call is, and whether anybody still waits for it: shared with the thread that watches.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::error::{Error, Result};

/// Watched by one thread, fed by those that work. Copies are of the same.
#[derive(Clone, Debug, Default)]
pub struct Control(Arc<State>);

#[derive(Debug, Default)]
struct State {
    cancelled: AtomicBool,
    done: AtomicU64,
    total: AtomicU64,
    doing: OnceLock<&'static str>,
}

impl Control {
    /// Asks the work to end soon; what it has written so far goes.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether the work shall end.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Relaxed)
    }

    /// Goes on, unless the work shall end.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// The work is of this kind, for people; the first that is said counts.
    pub(crate) fn begin(&self, what: &'static str) {
        let _ = self.0.doing.set(what);
    }

    /// What the work is, for people, if it takes long enough to be told.
    #[must_use]
    pub fn doing(&self) -> Option<&'static str> {
        self.0.doing.get().copied()
    }

    /// So many bytes are to be done; the most that is said counts.
    pub fn expect(&self, bytes: u64) {
        self.0.total.fetch_max(bytes, Ordering::Relaxed);
    }

    /// So many more bytes were done.
    pub fn advance(&self, bytes: u64) {
        self.0.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes done, and bytes to do where that is known (0 otherwise).
    #[must_use]
    pub fn position(&self) -> (u64, u64) {
        (self.0.done.load(Ordering::Relaxed), self.0.total.load(Ordering::Relaxed))
    }
}

/// Bytes on their way under a [`Control`]: counted, and cut off when the work shall end.
#[derive(Debug)]
pub(crate) struct Watched<'a, T> {
    inner: T,
    control: &'a Control,
}

impl<'a, T> Watched<'a, T> {
    pub(crate) fn new(inner: T, control: &'a Control) -> Self {
        Self { inner, control }
    }

    fn passed(&self, bytes: io::Result<usize>) -> io::Result<usize> {
        let bytes = bytes?;
        self.control.advance(bytes as u64);
        Ok(bytes)
    }

    fn going(&self) -> io::Result<()> {
        if self.control.is_cancelled() { Err(cancelled()) } else { Ok(()) }
    }
}

/// What an interrupted reader or writer answers. (Not `Interrupted`, which callers would try again.)
pub(crate) fn cancelled() -> io::Error {
    io::Error::other(Cancelled)
}

/// Whether an error is that.
pub(crate) fn is_cancelled(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Cancelled>)
}

#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
struct Cancelled;

impl<T: Read> Read for Watched<'_, T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.going()?;
        let read = self.inner.read(buffer);
        self.passed(read)
    }
}

impl<T: Write> Write for Watched<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.going()?;
        let written = self.inner.write(bytes);
        self.passed(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
