//! What became of each entry, and of the whole job: nothing disappears silently.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why an entry could not be saved or restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct EntryError {
    /// The operating system's error number, where there is one.
    pub errno: Option<i32>,
    /// One line for people, with the name of what failed.
    pub message: String,
    /// The plugin's own traceback, whole, where there is one.
    pub traceback: Option<String>,
}

impl EntryError {
    /// An error with a message only.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { errno: None, message: message.into(), traceback: None }
    }

    /// What the operating system said about `what` (an operation and a name).
    #[must_use]
    pub fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        Self { errno: error.raw_os_error(), message: format!("{what}: {error}"), traceback: None }
    }
}

/// The one state in which an announced entry ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is in the snapshot, read in this job.
    Saved,
    /// It is in the snapshot, taken from the parent without being read.
    Unchanged,
    /// Left out, by the rule named.
    Skipped(String),
    /// It could not be saved.
    Failed(EntryError),
    /// The source's process died while the entry was open.
    Lost,
}

/// How many entries ended in each state. `announced` equals the sum of the others when a job ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Entries that a source announced.
    pub announced: u64,
    /// See [`Outcome::Saved`].
    pub saved: u64,
    /// See [`Outcome::Unchanged`].
    pub unchanged: u64,
    /// See [`Outcome::Skipped`].
    pub skipped: u64,
    /// See [`Outcome::Failed`].
    pub failed: u64,
    /// See [`Outcome::Lost`].
    pub lost: u64,
}

impl Tally {
    /// Counts one announced entry and its end.
    pub fn count(&mut self, outcome: &Outcome) {
        self.announced += 1;
        match outcome {
            Outcome::Saved => self.saved += 1,
            Outcome::Unchanged => self.unchanged += 1,
            Outcome::Skipped(_) => self.skipped += 1,
            Outcome::Failed(_) => self.failed += 1,
            Outcome::Lost => self.lost += 1,
        }
    }

    /// Adds another count to this one.
    pub fn add(&mut self, other: &Self) {
        self.announced += other.announced;
        self.saved += other.saved;
        self.unchanged += other.unchanged;
        self.skipped += other.skipped;
        self.failed += other.failed;
        self.lost += other.lost;
    }

    /// Whether every announced entry ended in exactly one state.
    #[must_use]
    pub fn balances(&self) -> bool {
        self.announced == self.saved + self.unchanged + self.skipped + self.failed + self.lost
    }
}

/// What a job may claim about its snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Every source was walked to its end and every entry is in the snapshot or was skipped by a rule.
    Complete,
    /// Every source was walked to its end; some entries failed.
    WithErrors,
    /// A source did not reach its end.
    Partial(String),
}
