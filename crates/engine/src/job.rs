//! The running job: its number, its log, whether it shall stop. May use: core.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use backstay_core::{CancelReason, Job, MessageLevel};
use parking_lot::Mutex;

/// Takes a message of a job: level, who speaks, text.
pub type MessageHandler = Box<dyn Fn(MessageLevel, &str, &str) + Send + Sync>;

/// How many messages of each level a job had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageCounts {
    /// See [`MessageLevel::Info`].
    pub info: u64,
    /// See [`MessageLevel::Warning`].
    pub warnings: u64,
    /// See [`MessageLevel::Error`].
    pub errors: u64,
    /// See [`MessageLevel::Fatal`].
    pub fatal: u64,
}

/// A job of this process.
pub struct JobControl {
    id: u32,
    counts: Mutex<MessageCounts>,
    handler: MessageHandler,
    cancelled: Mutex<Option<CancelReason>>,
    interrupted: Box<dyn Fn() -> bool + Send + Sync>,
}

impl std::fmt::Debug for JobControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobControl").field("id", &self.id).finish_non_exhaustive()
    }
}

impl JobControl {
    /// A job with this number. `handler` takes its messages, `interrupted` is asked whether a signal came.
    #[must_use]
    pub fn new(id: u32, handler: MessageHandler, interrupted: Box<dyn Fn() -> bool + Send + Sync>) -> Self {
        Self { id, counts: Mutex::default(), handler, cancelled: Mutex::new(None), interrupted }
    }

    /// How many messages came until now.
    pub fn counts(&self) -> MessageCounts {
        *self.counts.lock()
    }

    /// Asks the job to stop. The first reason stays.
    pub fn cancel(&self, reason: CancelReason) {
        self.cancelled.lock().get_or_insert(reason);
    }
}

impl Job for JobControl {
    fn id(&self) -> u32 {
        self.id
    }

    fn message(&self, level: MessageLevel, source: &str, text: &str) {
        {
            let mut counts = self.counts.lock();
            match level {
                MessageLevel::Debug => {}
                MessageLevel::Info => counts.info += 1,
                MessageLevel::Warning => counts.warnings += 1,
                MessageLevel::Error => counts.errors += 1,
                MessageLevel::Fatal => counts.fatal += 1,
            }
        }
        (self.handler)(level, source, text);
    }

    fn cancelled(&self) -> Option<CancelReason> {
        let reason = self.cancelled.lock().clone();
        reason.or_else(|| (self.interrupted)().then_some(CancelReason::Interrupted))
    }
}

/// Passes everything on to a job and counts what it is told, so that the engine can judge a source by its own words.
pub(crate) struct Listening<'a> {
    job: &'a dyn Job,
    errors: AtomicU64,
    /// The engine's own reason to stop.
    stop: Mutex<Option<String>>,
}

impl<'a> Listening<'a> {
    pub(crate) fn new(job: &'a dyn Job) -> Self {
        Self { job, errors: AtomicU64::new(0), stop: Mutex::new(None) }
    }

    /// Makes everybody stop who asks whether to.
    pub(crate) fn stop(&self, reason: String) {
        *self.stop.lock() = Some(reason);
    }

    /// Messages of level error or worse so far.
    pub(crate) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }
}

impl Job for Listening<'_> {
    fn id(&self) -> u32 {
        self.job.id()
    }

    fn message(&self, level: MessageLevel, source: &str, text: &str) {
        if level >= MessageLevel::Error {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        self.job.message(level, source, text);
    }

    fn cancelled(&self) -> Option<CancelReason> {
        self.job.cancelled().or_else(|| self.stop.lock().clone().map(CancelReason::Failed))
    }
}

/// Where this host keeps what outlives a job: `$XDG_STATE_HOME/backstay`, else `~/.local/state/backstay`, else
/// `/var/lib/backstay`.
#[must_use]
pub fn state_directory() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_STATE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| set("HOME").map(|home| home.join(".local/state")))
        .unwrap_or_else(|| PathBuf::from("/var/lib"))
        .join("backstay")
}

/// Takes the next job number: one more than the highest that this host has given and than `known`, the highest in the
/// repository. Two jobs that start at once get different numbers.
///
/// # Errors
/// The file `job-id` in `state` cannot be read or written.
pub fn next_job_id(state: &Path, known: u32) -> std::io::Result<u32> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state)?;
    let path = state.join("job-id");
    let mut file: File = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let given: u32 = text.trim().parse().unwrap_or(0);
    let id = given.max(known).saturating_add(1);
    file.rewind()?;
    file.set_len(0)?;
    write!(file, "{id}")?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_numbers_rise_above_the_host_and_the_repository() {
        let state = tempfile::tempdir().unwrap();
        let state = state.path().join("deep/backstay");
        assert_eq!(next_job_id(&state, 0).unwrap(), 1);
        assert_eq!(next_job_id(&state, 0).unwrap(), 2);
        assert_eq!(next_job_id(&state, 41).unwrap(), 42);
        assert_eq!(next_job_id(&state, 7).unwrap(), 43);
    }
}
