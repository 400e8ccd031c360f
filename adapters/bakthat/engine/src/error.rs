//! What goes wrong, in one clear line each.

use std::io;
use std::path::{Path, PathBuf};

use backstay_core::StoreError;

use crate::control::is_cancelled;

/// What a call gives.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system said so, about this file.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The password is not the one that this was encrypted with.
    #[error("{0}")]
    WrongPassword(String),
    /// A member of an archive would land outside the folder.
    #[error("{0}")]
    UnsafeMember(String),
    /// Somebody asked for an end.
    #[error("interrupted")]
    Interrupted,
    /// The destination said so.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was named is not there.
    #[error("{0}")]
    Missing(String),
    /// A server did not answer.
    #[error("{0}")]
    NoAnswer(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// The system's error about a file.
    pub(crate) fn file(path: &Path, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        if is_cancelled(&error) {
            return Self::Interrupted;
        }
        // Errors of our own and of libraries have no number: their text says it all.
        Self::File { path: path.to_owned(), error }
    }

    /// Any other.
    pub(crate) fn other(text: impl std::fmt::Display) -> Self {
        Self::Other(text.to_string())
    }
}

/// To say which file an error is about.
pub(crate) trait About<T> {
    /// The same with the file.
    fn about(self, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> About<T> for std::result::Result<T, E> {
    fn about(self, path: &Path) -> Result<T> {
        self.map_err(|error| Error::file(path, error))
    }
}
