//! The one place where asynchronous code runs: a small tokio runtime for all remote stores of the process. Stores are
//! called from ordinary threads and wait here.

use std::future::Future;
use std::io;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::{Builder, Runtime};

/// The runtime, and the process whose threads it has: a fork leaves them behind. (Where Python forks, as in its
/// multiprocessing, the child may go on with stores of its own.)
static RUNTIME: Mutex<Option<(u32, &'static Runtime)>> = Mutex::new(None);

/// The runtime of the process: two threads that wait for the network. It is made on the first call and never ends.
///
/// # Errors
/// When the system gives no thread or no descriptor.
pub(crate) fn runtime() -> io::Result<&'static Runtime> {
    let process = std::process::id();
    let mut known = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((made_in, runtime)) = *known
        && made_in == process
    {
        return Ok(runtime);
    }
    let runtime = Builder::new_multi_thread().worker_threads(2).thread_name("store").enable_all().build()?;
    let runtime: &'static Runtime = Box::leak(Box::new(runtime));
    *known = Some((process, runtime));
    Ok(runtime)
}

/// Runs a future to its end on the calling thread, its input and output on the runtime's.
///
/// # Errors
/// As [`runtime`].
pub(crate) fn wait<F: Future>(future: F) -> io::Result<F::Output> {
    Ok(runtime()?.block_on(future))
}
