//! What a source, a sink or a hook can ask of the job that runs it.

use serde::{Deserialize, Serialize};

/// How loud a message of the job log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MessageLevel {
    /// For the plugin's author.
    Debug,
    /// For the record.
    Info,
    /// Something to look at; the job stays good.
    Warning,
    /// Something went wrong; the job goes on and ends with errors.
    Error,
    /// The job cannot go on.
    Fatal,
}

/// Why a job was asked to stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CancelReason {
    /// A person or the system asked for it (SIGINT, SIGTERM).
    Interrupted,
    /// A time limit passed; the text names it.
    TimeLimit(String),
    /// Another part of the job failed.
    Failed(String),
}

/// The running job.
pub trait Job: Sync + Send {
    /// Its number: rises from job to job on a host and in a repository.
    fn id(&self) -> u32;
    /// Writes a line into the job's log. `source` says who speaks.
    fn message(&self, level: MessageLevel, source: &str, text: &str);
    /// Whether the job was asked to stop, and why. Sources look at it between entries and between reads.
    fn cancelled(&self) -> Option<CancelReason>;
}
