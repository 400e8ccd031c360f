//! Who may call the disk when (reference 8).

use std::time::{Duration, Instant};

use backstay_core::ThreadModel;
use parking_lot::{Condvar, Mutex, MutexGuard};

/// For how long a connection calls the disk before it looks whether others wait for it.
const SLICE: Duration = Duration::from_micros(200);

/// Lets one connection in at a time, or one call.
#[derive(Debug)]
pub(crate) struct Gate {
    model: ThreadModel,
    call: Mutex<()>,
    line: Mutex<Line>,
    moved: Condvar,
}

/// Connections that wait, by numbers as at a counter.
#[derive(Debug, Default)]
struct Line {
    next: u64,
    serving: u64,
    over: bool,
}

/// The right to be the one connection.
pub(crate) struct Admission<'a>(&'a Gate);

/// The right of one thread to call the disk, taken when it needs it.
pub(crate) struct Turn<'a> {
    gate: &'a Gate,
    held: Option<(MutexGuard<'a, ()>, Instant)>,
}

impl Gate {
    pub(crate) fn new(model: ThreadModel) -> Self {
        Self { model, call: Mutex::new(()), line: Mutex::default(), moved: Condvar::new() }
    }

    /// Waits until this connection may begin; none: the server ends.
    pub(crate) fn admit(&self) -> Option<Admission<'_>> {
        let mut line = self.line.lock();
        let number = line.next;
        line.next += 1;
        if self.model == ThreadModel::SerializeConnections {
            self.moved.wait_while(&mut line, |line| !line.over && line.serving != number);
        }
        let over = line.over;
        drop(line);
        let admission = Admission(self);
        (!over).then_some(admission)
    }

    /// Whoever waits for admission goes away.
    pub(crate) fn end(&self) {
        self.line.lock().over = true;
        self.moved.notify_all();
    }

    /// A thread's turn, not taken yet.
    pub(crate) fn turn(&self) -> Turn<'_> {
        Turn { gate: self, held: None }
    }

    /// Calls the disk once.
    pub(crate) fn call<T>(&self, call: impl FnOnce() -> T) -> T {
        let mut turn = self.turn();
        turn.begin();
        let result = call();
        turn.end();
        result
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        self.0.line.lock().serving += 1;
        self.0.moved.notify_all();
    }
}

impl Turn<'_> {
    /// Waits until this thread may call the disk.
    pub(crate) fn begin(&mut self) {
        if self.gate.model != ThreadModel::SerializeAllRequests {
            return;
        }
        match &mut self.held {
            Some((guard, since)) if since.elapsed() >= SLICE => {
                MutexGuard::bump(guard);
                *since = Instant::now();
            }
            Some(_) => {}
            None => self.held = Some((self.gate.call.lock(), Instant::now())),
        }
    }

    /// Lets others call it; whoever waits longest is next.
    pub(crate) fn end(&mut self) {
        if let Some((guard, _)) = self.held.take() {
            MutexGuard::unlock_fair(guard);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.end();
    }
}
