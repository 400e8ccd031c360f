//! The Source port: whatever is backed up pushes entries with metadata and a byte stream.

use std::os::fd::BorrowedFd;

use crate::entry::{Attr, Entry};
use crate::job::Job;
use crate::verdict::{EntryError, Outcome, Verdict};

/// What a source says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceInfo {
    /// Short name, used as a folder name in `/.backstay/<name>`: letters, digits, `-` and `_`.
    pub name: String,
    /// The path that stands for this source in the snapshot's list of paths; it starts with `/`.
    pub path: String,
    /// The adapter that can restore through the source again (`bareos-fd`). With it a ledger is written; without it
    /// (standard input, a command) the view is all there is.
    pub adapter: Option<&'static str>,
    /// What starts the source again (plugin definitions), stored word for word for the restore. They may hold secrets.
    pub definitions: Vec<String>,
}

/// The source, and so the job, cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fatal(pub String);

/// The engine cannot take any more: the store failed or the job was cancelled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Stop(pub String);

/// How a source ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything was announced.
    Whole,
    /// It stopped before its end, because of this.
    Stopped(String),
}

/// What the engine wants of an announced entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// Its data, its attributes, then [`Ingest::end`].
    Data,
}

/// A piece of the open entry's contents.
#[derive(Debug)]
pub enum Data<'a> {
    /// Read this descriptor with plain `read(2)` from where it stands to its end. Its flags and offset are not touched
    /// otherwise. The call returns only when the engine holds no copy of the descriptor.
    Fd(BorrowedFd<'a>),
    /// These bytes. They are copied out once before anything is computed from them.
    Bytes(&'a [u8]),
    /// This many zero bytes.
    Hole(u64),
}

/// Why data was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// Reading the descriptor failed; what came before is kept. The source ends the entry with a failure.
    #[error("{0}")]
    Read(EntryError),
    /// The engine cannot take any more.
    #[error("{0}")]
    Stop(Stop),
}

/// What a source writes into. Exactly one `end` for each `entry`: that is the verdict.
pub trait Ingest {
    /// Announces an entry. It is open until [`Ingest::end`].
    ///
    /// # Errors
    /// [`Stop`] when the engine cannot go on.
    fn entry(&mut self, entry: Entry) -> Result<Want, Stop>;

    /// Adds contents to the open entry; returns the number of bytes taken.
    ///
    /// # Errors
    /// See [`DataError`].
    fn data(&mut self, data: Data<'_>) -> Result<u64, DataError>;

    /// Adds an attribute to the open entry.
    ///
    /// # Errors
    /// [`Stop`] when the engine cannot go on.
    fn attr(&mut self, attr: Attr) -> Result<(), Stop>;

    /// Closes the open entry and says what became of it: `Err` keeps it out of the snapshot's view and counts it as
    /// failed.
    fn end(&mut self, result: Result<(), EntryError>) -> Outcome;

    /// Counts an entry that the source announced and left out by the rule named.
    fn skipped(&mut self, name: &[u8], rule: &str);

    /// Counts entries that a dead source had announced and nobody saw the end of. An open entry is closed as lost and
    /// is not part of `count`.
    fn lost(&mut self, count: u64);
}

/// Pushes entries. Runs on one thread of the job.
pub trait Source: Send {
    /// Says who it is.
    fn info(&self) -> SourceInfo;

    /// Pushes everything into `out`.
    ///
    /// # Errors
    /// [`Fatal`] when the source could not even start.
    fn run(&mut self, job: &dyn Job, out: &mut dyn Ingest) -> Result<End, Fatal>;

    /// Told the verdict when the snapshot is written, or will not be.
    fn finish(&mut self, verdict: &Verdict);
}
