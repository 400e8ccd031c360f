//! What anything in a server process may ask of the server, or wants to know of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

type Asked = Box<dyn Fn() + Send>;

static SERVING: AtomicBool = AtomicBool::new(false);
static SINGLE: AtomicBool = AtomicBool::new(false);
static SHUTDOWN: AtomicBool = AtomicBool::new(false);
static STOP: OnceLock<Mutex<Asked>> = OnceLock::new();

/// Says that standard input and output are the client's (`-s`).
pub(crate) fn set_single() {
    SINGLE.store(true, Ordering::Relaxed);
}

/// Says that from now on standard input and output are not the user's.
pub(crate) fn set_serving() {
    SERVING.store(true, Ordering::Relaxed);
}

/// Whether a plugin may use standard input and output (reference 4.2, `stdio_safe`).
#[must_use]
pub fn stdio_safe() -> bool {
    !SERVING.load(Ordering::Relaxed) && !SINGLE.load(Ordering::Relaxed)
}

/// Says how the server is stopped; at once, if that was asked for before.
pub(crate) fn on_shutdown(stop: impl Fn() + Send + 'static) {
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
