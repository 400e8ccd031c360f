//! The Hook port: who is told when something happens in a job, and may veto it.

use crate::entry::Time;
use crate::source::Level;

/// What happens in a job, in the order in which it does. The first three and the last are the job's own; those between
/// are about where its data goes, or comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Event {
    /// The job has a number and a name.
    JobStart,
    /// It is set up: its repository is open.
    JobInit,
    /// Its work begins.
    JobRun,
    /// The side that stores is told of the job.
    StorageStart,
    /// The repository is reserved for it.
    Reserve,
    /// The repository is opened for it.
    Open,
    /// Data begins to flow.
    Transfer,
    /// No more data.
    Close,
    /// The side that stores is done with the job.
    StorageEnd,
    /// The job is over, well or not.
    JobEnd,
}

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// It saves.
    Backup,
    /// It restores.
    Restore,
}

/// How a job stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JobStatus {
    /// It has not begun to work.
    #[default]
    Created,
    /// It works.
    Running,
    /// It ended well.
    Good,
    /// It ended, and something was not as it should be.
    WithErrors,
    /// It did not reach its end.
    Failed,
    /// It was cancelled.
    Cancelled,
}

/// What hooks can read of a job. The figures are 0 until the job has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFacts {
    /// Its number.
    pub id: u32,
    /// Its name, the same for each run.
    pub name: String,
    /// What it does.
    pub kind: JobKind,
    /// How much of what it has is saved; none in a restore.
    pub level: Option<Level>,
    /// When it began.
    pub started: Time,
    /// How it stands.
    pub status: JobStatus,
    /// The repository's address, without what is secret in it.
    pub storage: String,
    /// Kind of the store that holds it.
    pub storage_kind: String,
    /// Whether the repository is reserved for the job.
    pub attached: bool,
    /// Entries that were saved or restored.
    pub files: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// Entries and messages that count as errors.
    pub errors: u64,
    /// Bytes a second.
    pub rate: u64,
    /// A name for where the data went, if a hook gave one: it means something to hooks only.
    pub volume: Option<String>,
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Go on.
    Go,
    /// Go on, but tell no other hook of this event.
    StopChain,
    /// This hook wants to hear no more.
    Unsubscribe,
    /// The job shall not go on, because of this.
    Veto(String),
    /// The hook failed, in a way that ends a job: the reason in one line. It was reported. The hook hears of what comes.
    Failed(String),
    /// The same, and the hook is no more: it died, or did not answer in time.
    Lost(String),
}

/// Somebody who is told. Calls come from the one thread that runs the job and return in bounded time.
pub trait Hook {
    /// What it is called in the job's log.
    fn name(&self) -> &str;

    /// Gets ready, before the first event.
    fn begin(&mut self, facts: &mut JobFacts) -> Answer;

    /// Whether it can hear of such an event.
    fn wants(&self, event: Event) -> bool;

    /// Tells it. What it may change of the job it changes in `facts`.
    fn call(&mut self, event: Event, facts: &mut JobFacts) -> Answer;
}
