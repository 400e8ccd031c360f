//! What a callback runs for: the connection of this thread, what it gave to `set_error`, and the server around it.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

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

type Asked = Box<dyn Fn() + Send>;

static SERVING: AtomicBool = AtomicBool::new(false);
static SINGLE: AtomicBool = AtomicBool::new(false);
static SHUTDOWN: AtomicBool = AtomicBool::new(false);
static STOP: OnceLock<Mutex<Asked>> = OnceLock::new();

/// Says that standard input and output are the client's (`-s`).
pub fn set_single() {
    SINGLE.store(true, Ordering::Relaxed);
}

/// Says that from now on standard input and output are not the user's.
pub fn set_serving() {
    SERVING.store(true, Ordering::Relaxed);
}

/// Whether a script may use standard input and output (reference 4.2, `stdio_safe`).
#[must_use]
pub fn stdio_safe() -> bool {
    !SERVING.load(Ordering::Relaxed) && !SINGLE.load(Ordering::Relaxed)
}

/// Says how the server is stopped; at once, if that was asked for before.
pub fn on_shutdown(stop: impl Fn() + Send + 'static) {
    // There is one server in a process: a second one would never be asked.
    let _ = STOP.set(Mutex::new(Box::new(stop)));
    if is_shut_down() {
        shutdown();
    }
}

/// Asks the server to stop.
pub fn shutdown() {
    {
        let _guard = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
        SHUTDOWN.store(true, Ordering::SeqCst);
    }
    WAKE.notify_all();
    if let Some(stop) = STOP.get() {
        stop.lock().unwrap_or_else(PoisonError::into_inner)();
    }
}

/// Whether the server was asked to stop.
#[must_use]
pub fn is_shut_down() -> bool {
    SHUTDOWN.load(Ordering::SeqCst)
}

static WAITING: Mutex<()> = Mutex::new(());
static WAKE: Condvar = Condvar::new();

/// Sleeps outside of a connection; less when the server is asked to stop.
pub fn sleep(time: Duration) {
    let guard = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    drop(WAKE.wait_timeout_while(guard, time, |()| !is_shut_down()));
}
