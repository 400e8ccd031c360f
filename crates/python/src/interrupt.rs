//! How a callback that blocks is interrupted: a signal to its thread, twice.
//!
//! The first signal does what a daemon's cancel does: system calls return EINTR. Python retries its own calls after
//! EINTR, so a second one makes `InterruptedError` rise in the callback.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyInterruptedError;
use pyo3::prelude::*;
use pyo3::types::PyCFunction;

/// Interrupts the thread that installed it.
#[derive(Clone, Debug)]
pub struct Interrupter {
    thread: libc::pthread_t,
    signal: i32,
    raise: Arc<AtomicBool>,
}

impl Interrupter {
    /// Installs the handler. To be called on the interpreter's main thread, which must live as long as the process.
    /// The signal is a real-time one that nothing else uses.
    ///
    /// # Errors
    /// What Python's `signal.signal` raises.
    pub fn install(py: Python<'_>) -> PyResult<Self> {
        let signal = libc::SIGRTMIN() + 7;
        let raise = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&raise);
        let handler = PyCFunction::new_closure(py, None, None, move |_arguments, _keywords| {
            if seen.swap(false, Ordering::SeqCst) {
                Err(PyInterruptedError::new_err((libc::EINTR, "the job was cancelled")))
            } else {
                Ok(())
            }
        })?;
        // The builtin module: `signal` would build its enumerations first. It installs without SA_RESTART.
        py.import("_signal")?.call_method1("signal", (signal, handler))?;
        // SAFETY: pthread_self has no preconditions.
        let thread = unsafe { libc::pthread_self() };
        Ok(Self { thread, signal, raise })
    }

    /// Makes a blocked system call return EINTR. Python code does not notice.
    ///
    /// # Errors
    /// What `pthread_kill` answers.
    pub fn nudge(&self) -> io::Result<()> {
        // SAFETY: the thread is the process's main thread by the contract of `install`, so its handle is valid; the
        // handler of the signal is installed, so it does not end the process.
        match unsafe { libc::pthread_kill(self.thread, self.signal) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Raises `InterruptedError` in the callback that runs, also out of a blocked system call.
    ///
    /// # Errors
    /// What `pthread_kill` answers.
    pub fn interrupt(&self) -> io::Result<()> {
        self.raise.store(true, Ordering::SeqCst);
        self.nudge()
    }

    /// Takes back an interruption that the callback did not see any more. To be called when a callback has returned.
    pub fn clear(&self) {
        self.raise.store(false, Ordering::SeqCst);
    }
}
