//! A connection as everybody sees it who may end it: the server, the disk in a call, the thread that serves it.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use backstay_core::{Certificate, ServerControl};

use crate::server::output::write_slices;
use crate::server::shared::{Level, Shared};
use crate::server::stream::Stream;
use crate::tls::ServerCredentials;

/// Requests are served.
const OPEN: u8 = 0;
/// Requests fail until the client leaves.
const REFUSING: u8 = 1;
/// Nothing is read or written any more.
const CLOSED: u8 = 2;

/// Room for what arrives from a client that is silent, in bytes.
const QUIET: usize = 4 << 10;

/// How often a sleep looks whether it should go on.
const NAP: Duration = Duration::from_millis(20);

/// One connection.
pub(crate) struct Line {
    pub(crate) number: u64,
    pub(crate) stream: Stream,
    pub(crate) shared: Arc<Shared>,
    state: AtomicU8,
    /// Since when a thread waits for the client to take something, in nanoseconds of the server's clock; 0: none does.
    writing: AtomicU64,
}

impl Line {
    pub(crate) fn new(number: u64, stream: Stream, shared: Arc<Shared>) -> Self {
        Self { number, stream, shared, state: AtomicU8::new(OPEN), writing: AtomicU64::new(0) }
    }

    /// Nanoseconds since the server began; never 0.
    pub(crate) fn now(&self) -> u64 {
        self.shared.now()
    }

    /// Whether requests that have not begun are refused.
    pub(crate) fn is_refusing(&self) -> bool {
        self.state.load(Ordering::SeqCst) != OPEN || self.shared.is_ending()
    }

    /// Whether it is over.
    pub(crate) fn is_closed(&self) -> bool {
        self.state.load(Ordering::SeqCst) == CLOSED
    }

    /// Whether the client has taken no answers since `grace` nanoseconds.
    pub(crate) fn is_stuck(&self, now: u64, grace: u64) -> bool {
        let since = self.writing.load(Ordering::Relaxed);
        since > 0 && now.saturating_sub(since) > grace
    }

    /// Ends it without another byte.
    pub(crate) fn close(&self) {
        self.state.store(CLOSED, Ordering::SeqCst);
        self.stream.close();
    }

    /// Ends it in peace, unless it has ended.
    pub(crate) fn leave(&self) {
        if !self.is_closed() {
            self.stream.say_goodbye();
        }
        self.close();
    }

    /// Ends it because something failed that only it suffers from.
    pub(crate) fn fail(&self, error: &dyn std::fmt::Display) {
        if !self.is_closed() {
            self.shared.log(Level::Debug, self.number, &error.to_string());
        }
        self.close();
    }

    pub(crate) fn log(&self, level: Level, text: &str) {
        self.shared.log(level, self.number, text);
    }

    /// Encrypts it, as its server; `early` is what has arrived of that. The names in the client's certificate, if it was asked
    /// for one.
    pub(crate) fn encrypt(&self, credentials: &ServerCredentials, early: Vec<u8>) -> io::Result<Option<Certificate>> {
        let channel = self.stream.channel(credentials.session()?, early)?;
        loop {
            match channel.shake() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.is_in_the_way(false) => {}
                shaken => break shaken?,
            }
        }
        let certificate = channel.certificate();
        self.stream.encrypted(channel);
        Ok(certificate)
    }

    /// Appends what has arrived; see [`Stream::read`]. Waits however long the client is silent, unless others need the memory
    /// that is `held` for it.
    pub(crate) fn read(&self, buffer: &mut Vec<u8>, held: bool) -> io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.is_in_the_way(held) => {
                    // A client that has been silent for long gives back the room that it filled when it was not.
                    if buffer.is_empty() {
                        buffer.shrink_to(QUIET);
                    }
                }
                read => return read,
            }
        }
    }

    /// Writes all of it. A client that takes nothing for long is waited for, unless others need the memory. One thread at a
    /// time.
    pub(crate) fn write_all(&self, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        let written = write_slices(slices, |slices| self.write(slices));
        self.writing.store(0, Ordering::Relaxed);
        written
    }

    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.writing.store(self.now(), Ordering::Relaxed);
        loop {
            match self.stream.write(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.is_in_the_way(true) => {}
                written => return written,
            }
        }
    }

    fn is_in_the_way(&self, held: bool) -> bool {
        self.is_closed() || self.shared.is_ending() || (held && self.shared.budget.is_short())
    }
}

impl ServerControl for Line {
    fn shutdown(&self) {
        self.shared.end();
    }

    fn disconnect(&self, force: bool) {
        if force {
            self.close();
        } else {
            // One that is closed stays so.
            let _ = self.state.compare_exchange(OPEN, REFUSING, Ordering::SeqCst, Ordering::SeqCst);
        }
    }

    fn sleep(&self, time: Duration) -> bool {
        let end = Instant::now().checked_add(time);
        loop {
            if self.is_refusing() || self.stream.is_left() {
                return false;
            }
            let left = end.map_or(NAP, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(NAP));
        }
    }
}
