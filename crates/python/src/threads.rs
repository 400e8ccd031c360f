//! One Python thread state for each thread, for life.
//!
//! A thread that attaches for a callback and detaches after it gets a state that is made and dropped each time, which costs
//! ten times what the callback costs. Here the first attachment keeps the state until the thread ends.

use std::sync::{PoisonError, RwLock};

use pyo3::ffi;
use pyo3::prelude::*;

/// Whether the interpreter has ended, or is about to: nothing may attach from then on.
static ENDED: RwLock<bool> = RwLock::new(false);

/// The hold of a thread on its state.
struct Kept {
    first: ffi::PyGILState_STATE,
}

thread_local! {
    static KEPT: Kept = Kept::new();
}

impl Kept {
    fn new() -> Self {
        // SAFETY: the interpreter runs (`attach` is called between start and end only). The state that this makes has a
        // count of one that only `drop` gives back, so what attaches later finds it; the thread is detached again.
        unsafe {
            let first = ffi::PyGILState_Ensure();
            if matches!(first, ffi::PyGILState_STATE::PyGILState_UNLOCKED) {
                ffi::PyEval_SaveThread();
            }
            Self { first }
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let ended = ENDED.read().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: it may be asked at any time. A script that calls `sys.exit` ends the interpreter behind our back.
        let running = unsafe { ffi::Py_IsInitialized() } != 0;
        if *ended || !running || matches!(self.first, ffi::PyGILState_STATE::PyGILState_LOCKED) {
            return;
        }
        // SAFETY: the interpreter cannot end while `ended` is held. The second count is given back without detaching, the
        // first one then deletes the state and detaches.
        unsafe {
            let _ = ffi::PyGILState_Ensure();
            ffi::PyGILState_Release(ffi::PyGILState_STATE::PyGILState_LOCKED);
            ffi::PyGILState_Release(self.first);
        }
    }
}

/// Runs `work` attached to the interpreter, with the state that this thread keeps. The interpreter must have been started
/// and not yet ended.
pub fn attach<R>(work: impl FnOnce(Python<'_>) -> R) -> R {
    // A thread that is ending has none to keep any more; pyo3 then makes one for the moment.
    let _ = KEPT.try_with(|_| ());
    Python::attach(work)
}

/// Whether the interpreter has ended.
#[must_use]
pub fn has_ended() -> bool {
    *ENDED.read().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the interpreter: waits for threads of Python's own that are no daemons, runs `atexit` handlers, flushes the standard
/// streams. To be called on the thread that started it, detached, when no other thread will attach any more. Answers
/// whether all streams could be flushed.
#[must_use]
pub fn finalize() -> bool {
    *ENDED.write().unwrap_or_else(PoisonError::into_inner) = true;
    // SAFETY: the caller is the main thread and nothing attaches any more. The attachment is not given back: there is
    // nothing left that it could be given back to.
    unsafe {
        let _ = ffi::PyGILState_Ensure();
        ffi::Py_FinalizeEx() == 0
    }
}
