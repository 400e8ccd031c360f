//! What a callback runs for: the connection of this thread, and what it gave to `set_error`.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backstay_core::Client;
use backstay_nbdkit_host::log;

/// The plugin's name in messages.
pub const PLUGIN: &str = "python";

/// A connection as callbacks see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connected {
    /// Who is there.
    pub client: Client,
    /// The export that is open, as bytes; none outside `open` ... `close`.
    pub export: Option<Vec<u8>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Connected>>> = const { RefCell::new(None) };
    static ERROR: Cell<i32> = const { Cell::new(0) };
}

/// Runs a callback for a connection; what it gives to `set_error` counts from 0.
pub fn with<R>(connected: &Arc<Connected>, work: impl FnOnce() -> R) -> R {
    let before = CURRENT.replace(Some(Arc::clone(connected)));
    ERROR.set(0);
    let result = work();
    CURRENT.replace(before);
    result
}

/// The connection that this thread works for.
#[must_use]
pub fn current() -> Option<Arc<Connected>> {
    CURRENT.with_borrow(Clone::clone)
}

static EXPORT_ASKED: AtomicBool = AtomicBool::new(false);

/// The export that is open for this thread; from now on the script is one that asks.
#[must_use]
pub fn export() -> Option<Vec<u8>> {
    EXPORT_ASKED.store(true, Ordering::SeqCst);
    CURRENT.with_borrow(|current| current.as_ref()?.export.clone())
}

/// Whether the script has ever asked which export is open.
#[must_use]
pub fn export_was_asked_for() -> bool {
    EXPORT_ASKED.load(Ordering::SeqCst)
}

/// Remembers an errno for the callback of this thread.
pub fn set_error(errno: i32) {
    ERROR.set(errno);
}

/// What `set_error` was given last; 0 if nothing was.
#[must_use]
pub fn error() -> i32 {
    ERROR.get()
}

fn label() -> Option<(&'static str, u64)> {
    CURRENT.with_borrow(|current| current.as_ref().map(|connected| (PLUGIN, connected.client.number)))
}

/// Logs an error, with the number of the connection.
pub fn log_error(text: &str) {
    log::error(label(), text);
}

/// Logs a debug line, with the number of the connection.
pub fn log_debug(text: &str) {
    log::debug(label(), text);
}
