//! What SIGINT and SIGTERM do: a job is asked to stop and ends in good order; a command that only reads gives up its
//! lock and ends; a second signal ends at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use backstay_repository::lock::Lock;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::Failure;

/// Whether a signal arrived.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Whether the running command looks at [`interrupted`] itself.
static PATIENT: AtomicBool = AtomicBool::new(false);
/// Locks of commands that only read: the thread that waits for signals gives them up before it ends the process.
static LOCKS: Mutex<Vec<Lock>> = Mutex::new(Vec::new());

/// What is done before a second signal ends the process.
static LAST: Mutex<Option<Box<dyn FnOnce() + Send>>> = Mutex::new(None);

/// Starts to listen. Called once, before the command runs; `json` shapes the last line.
///
/// # Errors
/// [`Failure::Fatal`] when the system refuses the handler.
pub fn listen(json: bool) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|error| Failure::fatal(format!("cannot listen for signals: {error}")))?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for _ in signals.forever() {
                let again = INTERRUPTED.swap(true, Ordering::SeqCst);
                if !again && PATIENT.load(Ordering::SeqCst) {
                    continue;
                }
                if !again {
                    release_locks();
                }
                let last = LAST.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(last) = last {
                    last();
                }
                let _ = crate::password::restore_terminal();
                let end = Failure::Interrupted(
                    if again { "interrupted again: ended at once" } else { "interrupted" }.to_owned(),
                );
                crate::output::Output::new(json, false, 0, true).failure(&end);
                std::process::exit(i32::from(end.status()));
            }
        })
        .map_err(|error| Failure::fatal(format!("cannot start the signal thread: {error}")))?;
    Ok(())
}

/// From now on the command looks at [`interrupted`] itself and ends in good order after the first signal.
pub fn be_patient() {
    PATIENT.store(true, Ordering::SeqCst);
}

/// Has this done before a second signal ends the process: what must not be left behind in any case.
pub fn before_forced_end(last: impl FnOnce() + Send + 'static) {
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(last));
}

/// Whether a signal arrived.
#[must_use]
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Keeps a lock for the rest of the process.
pub(crate) fn keep(lock: Lock) {
    LOCKS.lock().unwrap_or_else(PoisonError::into_inner).push(lock);
}

/// Makes sure that all locks that were kept are still ours.
///
/// # Errors
/// [`backstay_repository::Error::LockLost`].
pub(crate) fn check_locks() -> Result<(), backstay_repository::Error> {
    LOCKS.lock().unwrap_or_else(PoisonError::into_inner).iter().try_for_each(Lock::check)
}

/// Gives up all locks that were kept.
pub(crate) fn release_locks() {
    let locks = std::mem::take(&mut *LOCKS.lock().unwrap_or_else(PoisonError::into_inner));
    drop(locks);
}
