//! The Sink port: where a restore goes.

use std::os::fd::OwnedFd;

use crate::entry::{Attr, Entry};
use crate::job::Job;
use crate::source::{Fatal, SavedJob, SideObject};
use crate::verdict::{EntryError, Verdict};

/// What a sink did about an entry that it was given.
#[derive(Debug)]
pub enum Create {
    /// Nothing shall be written: counted as restored, by the sink's own decision.
    Skip,
    /// The object stands; it takes no data.
    Made,
    /// Give the data to [`Sink::write`].
    Bytes,
    /// Write the data to this descriptor yourself, then close it, then call [`Sink::close`].
    Fd(OwnedFd),
}

/// How an entry that was handed over whole came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is restored.
    Restored,
    /// The sink left it out.
    Skipped,
    /// It failed.
    Failed(EntryError),
}

/// Takes entries in the order in which they were backed up. Runs on one thread of the job.
///
/// For each entry: `create`; where it took data `write`, then `close`; `attr` for each attribute; `end`. Or, for a sink
/// that likes it: `hand_over`, and later `settle`, which tells how the oldest entry that was handed over came out. All
/// of them are settled before the next `create`.
pub trait Sink: Send {
    /// Before the first entry. `jobs` are those whose entries come, oldest first; `objects` what they kept beside their
    /// entries, in the order of [`SideObject`].
    ///
    /// # Errors
    /// [`Fatal`] when the sink cannot start.
    fn begin(&mut self, job: &dyn Job, jobs: &[SavedJob], objects: Vec<SideObject>) -> Result<(), Fatal>;

    /// The entries that follow were announced by the job at this place of `jobs`.
    fn of_job(&mut self, number: usize) {
        let _ = number;
    }

    /// Makes or opens the object.
    ///
    /// # Errors
    /// The entry fails, the restore goes on; [`Sink::end`] still follows.
    fn create(&mut self, entry: &Entry) -> Result<Create, EntryError>;

    /// Takes a small entry whole: all of its data, at most a few hundred kilobytes, and its attributes. The sink may
    /// work on several of them, in their order, before the first is settled. False: it does not take this one so, and
    /// nothing has happened.
    ///
    /// # Errors
    /// [`Fatal`] ends the restore.
    fn hand_over(&mut self, entry: &Entry, data: &[u8], attrs: &[Attr]) -> Result<bool, Fatal> {
        let _ = (entry, data, attrs);
        Ok(false)
    }

    /// Waits until the oldest entry that was handed over is done. None: there is none.
    ///
    /// # Errors
    /// [`Fatal`] ends the restore; the entry is not restored.
    fn settle(&mut self) -> Result<Option<Settled>, Fatal> {
        Ok(None)
    }

    /// Takes bytes that belong at the current position.
    ///
    /// # Errors
    /// The entry fails; [`Sink::close`] follows.
    fn write(&mut self, data: &[u8]) -> Result<(), EntryError>;

    /// Closes what [`Create::Bytes`] or [`Create::Fd`] opened. `written` says whether all data arrived.
    ///
    /// # Errors
    /// The entry fails.
    fn close(&mut self, entry: &Entry, written: bool) -> Result<(), EntryError>;

    /// Sets an attribute, after `close`.
    ///
    /// # Errors
    /// The attribute fails, the entry is counted as failed.
    fn attr(&mut self, entry: &Entry, attr: &Attr) -> Result<(), EntryError>;

    /// The entry is done. Returns what the sink found wrong with it only now: then it has failed.
    ///
    /// # Errors
    /// [`Fatal`] ends the restore.
    fn end(&mut self, entry: &Entry) -> Result<Option<EntryError>, Fatal>;

    /// No more entries: told the verdict so far.
    ///
    /// # Errors
    /// [`Fatal`] when what follows the last entry failed: then the restore is not whole.
    fn finish(&mut self, verdict: &Verdict) -> Result<(), Fatal>;
}
