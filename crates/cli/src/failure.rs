//! How a command ends when it does not end well: one clear line and the exit status that goes with it.

use std::io;

pub use backstay_core::told::{chain, one_line};

/// Why a command ends with a status other than 0. The statuses are restic's.
#[derive(Debug)]
pub enum Failure {
    /// Nothing came of it (status 1). The text is one line: what was wrong, and what to do where that is known.
    Fatal(String),
    /// The work was done, but some entries failed; each was reported already (status 3).
    WithErrors,
    /// The command ran to its end and its own report says that something is wrong (status 1).
    Reported,
    /// There is no repository at the place named (status 10).
    NoRepository(String),
    /// Somebody else holds a lock (status 11).
    Locked(String),
    /// No key of the repository opens with this password (status 12).
    WrongPassword(String),
    /// A person or the system asked the job to stop (status 130).
    Interrupted(String),
    /// Whoever read our standard output went away (status 141, as a shell reports a program ended by SIGPIPE).
    Pipe,
}

impl Failure {
    /// The exit status.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self {
            Self::Fatal(_) | Self::Reported => 1,
            Self::WithErrors => 3,
            Self::NoRepository(_) => 10,
            Self::Locked(_) => 11,
            Self::WrongPassword(_) => 12,
            Self::Interrupted(_) => 130,
            Self::Pipe => 141,
        }
    }

    /// What to print on standard error; none where everything was said already.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Fatal(text)
            | Self::NoRepository(text)
            | Self::Locked(text)
            | Self::WrongPassword(text)
            | Self::Interrupted(text) => Some(text),
            Self::WithErrors | Self::Reported | Self::Pipe => None,
        }
    }

    /// A fatal error with this text.
    #[must_use]
    pub fn fatal(text: impl Into<String>) -> Self {
        Self::Fatal(text.into())
    }
}

/// Writing to standard output is the only input or output that commands do themselves without a context of their own.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::Pipe
        } else {
            Self::Fatal(format!("cannot write to standard output: {error}"))
        }
    }
}
