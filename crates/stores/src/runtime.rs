//! The one place where asynchronous code runs: a small tokio runtime for all remote stores of the process. Stores are
//! called from ordinary threads and wait here.

use std::future::Future;
use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use tokio::runtime::{Builder, Runtime};

static RUNTIME: OnceLock<Runtime> = OnceLock::new();
static MAKING: Mutex<()> = Mutex::new(());

/// The runtime of the process: two threads that wait for the network. It is made on the first call.
///
/// # Errors
/// When the system gives no thread or no descriptor.
pub(crate) fn runtime() -> io::Result<&'static Runtime> {
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let _only_one_makes_it = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let runtime = Builder::new_multi_thread().worker_threads(2).thread_name("store").enable_all().build()?;
    Ok(RUNTIME.get_or_init(|| runtime))
}

/// Runs a future to its end on the calling thread, its input and output on the runtime's.
///
/// # Errors
/// As [`runtime`].
pub(crate) fn wait<F: Future>(future: F) -> io::Result<F::Output> {
    Ok(runtime()?.block_on(future))
}
