//! The memory that all connections of a server may take for requests and answers, in bytes.

use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Bytes to give out. Whoever takes some gives them back, also when a connection breaks.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    taken: AtomicU64,
    waiting: AtomicUsize,
    over: AtomicBool,
    turn: Mutex<()>,
    given: Condvar,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit,
            taken: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            turn: Mutex::new(()),
            given: Condvar::new(),
        }
    }

    /// Takes bytes if they are there and nobody waits for some.
    pub(crate) fn try_take(&self, bytes: u64) -> bool {
        bytes == 0 || (self.waiting.load(Ordering::SeqCst) == 0 && self.grab(bytes))
    }

    fn grab(&self, bytes: u64) -> bool {
        let fits = |taken: u64| taken.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits).is_ok()
    }

    /// Takes bytes, no more than the limit; waits for them. Whether it got them: at the end nobody does.
    pub(crate) fn take(&self, bytes: u64) -> bool {
        if self.try_take(bytes) {
            return true;
        }
        let mut turn = self.turn.lock();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let taken = loop {
            if self.over.load(Ordering::SeqCst) {
                break false;
            }
            if self.grab(bytes.min(self.limit)) {
                break true;
            }
            self.given.wait(&mut turn);
        };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        taken
    }

    /// Gives bytes back.
    pub(crate) fn give(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        self.taken.fetch_sub(bytes, Ordering::SeqCst);
        if self.is_short() {
            drop(self.turn.lock());
            self.given.notify_all();
        }
    }

    /// Whether somebody waits.
    pub(crate) fn is_short(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Nobody waits any more.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        drop(self.turn.lock());
        self.given.notify_all();
    }
}
