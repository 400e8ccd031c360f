//! The Source port: whatever is backed up pushes entries with metadata and a byte stream.

use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};

use crate::entry::{Attr, Entry, Time};
use crate::job::Job;
use crate::verdict::{EntryError, Outcome, Verdict};

/// What a source says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// Name of the job that the source belongs to: an incremental one builds on a job of the same name.
    pub job_name: String,
    /// What it is asked to announce.
    pub level: Level,
    /// Numbers under which a walk of the host's file trees offers it files ([`Ingest::offered`]); mostly none.
    pub offers: Vec<u32>,
}

/// How much of what it has a source announces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Level {
    /// Everything.
    #[default]
    Full,
    /// What changed since the last full job.
    Differential,
    /// What changed since the last job of any level.
    Incremental,
}

/// A job that was saved, as later jobs and a restore have to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedJob {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// The level at which it ran.
    pub level: Level,
    /// When it began, by the clock of its host: what changes later belongs to the next job.
    pub started: Time,
    /// What starts its source.
    pub definitions: Vec<String>,
}

/// Something that a source keeps beside its entries, in order to have it back before the next job that builds on this
/// one, and before a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideObject {
    /// The adapter's number for what it is. Objects come back by ascending kind, then by ascending index.
    pub kind: i32,
    /// See `kind`.
    pub index: i32,
    /// Its name.
    pub name: Vec<u8>,
    /// What it is.
    pub bytes: Vec<u8>,
    /// What only the adapter understands.
    pub native: Vec<u8>,
    /// Number of the job that made it; the engine fills it in.
    pub job_id: u32,
}

/// What a source is told when it starts.
#[derive(Clone, Debug)]
pub struct Start {
    /// When the job began.
    pub time: Time,
    /// The level at which the source runs: the one that it asked for, or [`Level::Full`] where there is nothing to
    /// build on.
    pub level: Level,
    /// The job that this one builds on; none for a full one.
    pub reference: Option<SavedJob>,
    /// What the reference job kept beside its entries, in the order of [`SideObject`].
    pub objects: Vec<SideObject>,
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

/// A file that a walk of the host's file trees came to, offered to a source before it is saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Under which of [`SourceInfo::offers`].
    pub number: u32,
    /// What the walk found; its name is absolute, without a slash at the end.
    pub entry: Entry,
    /// Bytes that the file system stores for its contents.
    pub allocated: u64,
    /// The file system's preferred block size (`st_blksize`), in bytes.
    pub block_size: u32,
}

/// What a source that was offered a file makes of it, other than an entry of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Declined {
    /// The walk saves it.
    Passed,
    /// It is left out, by the rule named.
    Skipped(String),
    /// It is as the reference job has it from this source: it stays.
    Unchanged,
    /// It could not be saved.
    Failed(EntryError),
}

/// What a source writes into. Exactly one `end` for each `entry`: that is the verdict.
///
/// A source with [`SourceInfo::offers`] first asks for the files that it is offered, one by one: each is answered by
/// [`Ingest::decline`], or by an entry of the same name, announced and ended. The walk counts these, not the source.
pub trait Ingest {
    /// Waits for the next file that is offered; none when the walk is over.
    ///
    /// # Errors
    /// [`Stop`] when the job ends before that.
    fn offered(&mut self) -> Result<Option<Offer>, Stop> {
        Ok(None)
    }

    /// Answers the open offer without an entry.
    fn decline(&mut self, answer: Declined) {
        let _ = answer;
    }

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

    /// Counts an entry that the source announced and that is as the reference job has it: it stays.
    fn unchanged(&mut self, name: &[u8]);

    /// Keeps an object beside the entries. It counts as an announced entry that was saved.
    ///
    /// # Errors
    /// [`Stop`] when the engine cannot go on.
    fn side(&mut self, object: SideObject) -> Result<(), Stop>;

    /// The name is gone from this job on. `announced` says whether that counts as an entry of the source; otherwise it
    /// was found out by a look at what the reference job has.
    ///
    /// # Errors
    /// [`Stop`] when the engine cannot go on.
    fn deleted(&mut self, name: &[u8], announced: bool) -> Result<(), Stop>;

    /// Counts entries that a dead source had announced and nobody saw the end of. An open entry is closed as lost and
    /// is not part of `count`.
    fn lost(&mut self, count: u64);
}

/// Pushes entries. Runs on one thread of the job.
pub trait Source: Send {
    /// Says who it is.
    fn info(&self) -> SourceInfo;

    /// Told, before [`Source::run`], of each entry that the reference job has, in order: where a name comes twice, the
    /// later one counts.
    ///
    /// # Errors
    /// [`Fatal`] when there is no room for it.
    fn known(&mut self, entry: &Entry) -> Result<(), Fatal> {
        let _ = entry;
        Ok(())
    }

    /// Pushes everything into `out`.
    ///
    /// # Errors
    /// [`Fatal`] when the source could not even start.
    fn run(&mut self, job: &dyn Job, start: &Start, out: &mut dyn Ingest) -> Result<End, Fatal>;

    /// Tells what [`Source::run`] would announce, without reading any of it.
    ///
    /// # Errors
    /// [`Fatal`] when the source cannot do that, or could not start.
    fn estimate(&mut self, job: &dyn Job, start: &Start, out: &mut dyn FnMut(&Entry)) -> Result<End, Fatal> {
        let _ = (job, start, out);
        Err(Fatal(format!("{} cannot tell beforehand what it would save", self.info().path)))
    }

    /// Told the verdict when the snapshot is written, or will not be.
    fn finish(&mut self, verdict: &Verdict);
}
