//! What all connections of a server share.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use backstay_core::Disk;
use parking_lot::{Condvar, Mutex};

use crate::handshake::Terms;
use crate::server::budget::Budget;
use crate::server::gate::Gate;
use crate::server::line::Line;
use crate::server::session::Session;
use crate::server::stream;
use crate::server::watch::Watch;
use crate::tls::ServerCredentials;

/// How much a line of the log matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For whoever looks for a reason.
    Debug,
    /// Something that should not be.
    Error,
}

/// Takes lines of the log: how much it matters, the connection's number (0: none), the text.
pub type Log = Arc<dyn Fn(Level, u64, &str) + Send + Sync>;

/// How a server serves.
#[derive(Clone)]
pub struct Settings {
    /// What it offers before transmission.
    pub terms: Terms,
    /// What it encrypts with, if it offers that.
    pub credentials: Option<ServerCredentials>,
    /// How long a client may take from the greeting to transmission (`--timeout`); none: as long as it likes.
    pub handshake_limit: Option<Duration>,
    /// Nothing is ever written (`-r`).
    pub read_only: bool,
    /// Calls of one connection at a time, where the disk can bear any number (`-t`); at least 1.
    pub threads: usize,
    /// Bytes that all connections together may hold for requests and answers; at least 64 MiB.
    pub memory: u64,
    /// Where its lines go.
    pub log: Log,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            terms: Terms::default(),
            credentials: None,
            handshake_limit: None,
            read_only: false,
            threads: 16,
            memory: 1 << 30,
            log: Arc::new(|_, _, _| {}),
        }
    }
}

/// The state of a server.
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) settings: Settings,
    pub(crate) gate: Gate,
    pub(crate) budget: Budget,
    pub(crate) watch: Watch,
    lines: Mutex<HashMap<u64, Arc<Line>>>,
    left: Condvar,
    numbers: AtomicU64,
    ending: AtomicBool,
    /// Set at the end: whoever waits for connections sees it.
    pub(crate) stop: OwnedFd,
    began: Instant,
}

impl Shared {
    pub(crate) fn new(disk: Arc<dyn Disk>, settings: Settings, stop: OwnedFd) -> Self {
        Self {
            gate: Gate::new(disk.threads()),
            budget: Budget::new(settings.memory.max(u64::from(crate::codec::request::MAX_PAYLOAD))),
            watch: Watch::default(),
            lines: Mutex::default(),
            left: Condvar::new(),
            numbers: AtomicU64::new(0),
            ending: AtomicBool::new(false),
            stop,
            began: Instant::now(),
            disk,
            settings,
        }
    }

    /// Nanoseconds since the server began; never 0.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
    }

    pub(crate) fn log(&self, level: Level, connection: u64, text: &str) {
        (self.settings.log)(level, connection, text);
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// A number for the next connection, from 1.
    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A connection begins. One that comes too late finds its end at once.
    pub(crate) fn enter(&self, line: &Arc<Line>) {
        self.lines.lock().insert(line.number, Arc::clone(line));
        if self.is_ending() {
            line.stream.stop_reading();
        }
    }

    /// It is over.
    pub(crate) fn leave(&self, number: u64) {
        self.lines.lock().remove(&number);
        self.left.notify_all();
    }

    /// Asks everybody to end: no connection begins, none reads another request.
    pub(crate) fn end(&self) {
        if self.ending.swap(true, Ordering::SeqCst) {
            return;
        }
        stream::set(&self.stop);
        self.gate.end();
        self.budget.end();
        self.lines.lock().values().for_each(|line| line.stream.stop_reading());
    }

    /// Waits until all connections are over. Those whose client takes no answers for `grace` nanoseconds end without them.
    pub(crate) fn wait(&self, grace: u64) {
        let mut lines = self.lines.lock();
        while !lines.is_empty() {
            let pause = Duration::from_nanos(grace / 4).max(Duration::from_millis(10));
            if self.left.wait_for(&mut lines, pause).timed_out() {
                let now = self.now();
                lines.values().filter(|line| line.is_stuck(now, grace)).for_each(|line| line.close());
            }
        }
    }

    /// A session has begun to call the disk: it is watched.
    pub(crate) fn watch(&self, session: &Arc<Session>) {
        self.watch.add(session);
    }
}
