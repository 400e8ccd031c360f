//! Changing a repository that others use: what deletes, replaces or mends objects, and the parts that this needs.
//!
//! Everything here follows one order (reference section 13): first the new objects, then the index files that list them,
//! then the deletion of old index files, last the deletion of old objects. Killed at any point, it leaves at worst objects
//! that nobody needs. Whoever calls holds the lock that the operation names.

pub mod copy;
pub mod forget;
pub mod keys;
pub mod ledgers;
pub mod merge;
pub mod objects;
pub mod pack_header;
pub mod prune;
pub mod repair_index;
pub mod repair_packs;
pub mod repair_snapshots;
pub mod replace_index;
pub mod rewrite;
mod rewrite_tree;
pub mod tag;
pub mod used;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use backstay_core::{Id, ObjectKind};
use parking_lot::Mutex;

use crate::error::Error;
use crate::reader::Result;
use crate::repository::Repository;
use crate::snapshot::Snapshot;

/// Is told how an operation goes on; the calls come from several threads.
pub trait MaintenanceProgress: Sync {
    /// A stage begins that has `total` steps (0: not known), as "index files", "trees" or "packs to copy".
    fn stage(&self, name: &str, total: u64) {
        let _ = (name, total);
    }
    /// That many more steps are done.
    fn advanced(&self, steps: u64) {
        let _ = steps;
    }
    /// Something that people may want to know, and that does no harm.
    fn note(&self, message: &str) {
        let _ = message;
    }
    /// Whether the operation shall stop as soon as it can in good order.
    fn cancelled(&self) -> bool {
        false
    }
    /// Asked before anything is replaced or deleted.
    ///
    /// # Errors
    /// Why the operation must end here: it was asked to stop, or its lock was lost.
    fn go_on(&self) -> Result<()> {
        if self.cancelled() { Err(interrupted()) } else { Ok(()) }
    }
}

/// Nobody wants to know.
impl MaintenanceProgress for () {}

/// The error of an operation that was asked to stop.
#[must_use]
pub fn interrupted() -> Error {
    Error::Other("interrupted".to_owned())
}

/// Runs `work` for every item on up to `threads` threads. Stops at the first error and returns it.
///
/// # Errors
/// The first error of `work`, or [`interrupted`].
pub fn for_each<T: Sync>(
    items: &[T],
    threads: usize,
    progress: &dyn MaintenanceProgress,
    work: impl Fn(&T) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let first = Mutex::new(None);
    on_threads(threads.min(items.len()), || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if failed.load(Ordering::Acquire) {
                return;
            }
            let result = if progress.cancelled() { Err(interrupted()) } else { work(item) };
            match result {
                Ok(()) => progress.advanced(1),
                Err(error) => {
                    first.lock().get_or_insert(error);
                    failed.store(true, Ordering::Release);
                }
            }
        }
    })?;
    first.into_inner().map_or(Ok(()), Err)
}

/// Runs `work` on that many threads at once (on this one if it is only one) and waits for all of them.
///
/// # Errors
/// When one of them died.
pub(crate) fn on_threads(threads: usize, work: impl Fn() + Sync) -> Result<()> {
    if threads <= 1 {
        work();
        return Ok(());
    }
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(&work)).collect();
        running.into_iter().try_for_each(|thread| {
            thread.join().map_err(|_| Error::Other("a thread died; this is a defect of Backstay".to_owned()))
        })
    })
}

/// Stores a changed snapshot, then deletes the one that it replaces. Returns the new id.
pub(crate) fn replace_snapshot(
    repository: &Repository,
    old: &Id,
    new: &Snapshot,
    progress: &dyn MaintenanceProgress,
) -> Result<Id> {
    let id = repository.save_snapshot(new)?;
    progress.go_on()?;
    repository.store().delete(ObjectKind::Snapshot, old)?;
    Ok(id)
}
