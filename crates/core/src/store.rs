//! The Store port: where repository objects live. Every object is written once, whole, and never changed.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use crate::id::Id;

/// What an object is. Each kind has a folder of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    /// The one `config` object; its id is ignored.
    Config,
    /// A key file.
    Key,
    /// A lock file.
    Lock,
    /// A snapshot file.
    Snapshot,
    /// An index file.
    Index,
    /// A pack of blobs.
    Pack,
}

impl ObjectKind {
    /// The folder's name in restic's layout (`config` is a file of that name).
    #[must_use]
    pub fn directory(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Key => "keys",
            Self::Lock => "locks",
            Self::Snapshot => "snapshots",
            Self::Index => "index",
            Self::Pack => "data",
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Config => "config",
            Self::Key => "key",
            Self::Lock => "lock",
            Self::Snapshot => "snapshot",
            Self::Index => "index",
            Self::Pack => "pack",
        })
    }
}

/// What went wrong, for the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// There is no such object.
    NotFound,
    /// The object exists already.
    Exists,
    /// The store has no room left.
    Full,
    /// The store refuses us.
    Denied,
    /// Anything else.
    Other,
}

/// Whether the same call may succeed later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retry {
    /// It will fail again.
    #[default]
    Never,
    /// The other side or the way to it is disturbed: try again after a pause.
    Soon,
    /// The other side asks for fewer requests; the time is the one that it named.
    Throttled(Option<Duration>),
}

/// What went wrong, for people: operation, object and the other side's own text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation} {object}: {text}")]
pub struct StoreError {
    /// What the program may decide by.
    pub kind: StoreErrorKind,
    /// Whether to try again.
    pub retry: Retry,
    /// What was attempted: "write", "read", "list", "delete".
    pub operation: &'static str,
    /// Which object, with its place.
    pub object: String,
    /// What the other side said.
    pub text: String,
}

impl StoreError {
    /// An error that would come again.
    pub fn new(
        kind: StoreErrorKind,
        operation: &'static str,
        object: impl Into<String>,
        text: impl Into<String>,
    ) -> Self {
        Self { kind, retry: Retry::Never, operation, object: object.into(), text: text.into() }
    }
}

/// A place for objects. All calls may come from several threads at once.
pub trait Store: Send + Sync + fmt::Debug {
    /// Where it is, for messages; never with a secret in it.
    fn location(&self) -> String;

    /// How many calls at once this store works on with profit: a few on a local disk, many where each call waits for a
    /// network. A hint for those who have many calls to make; any number is allowed.
    fn calls_at_once(&self) -> usize {
        4
    }

    /// Makes the folders of an empty repository.
    ///
    /// # Errors
    /// [`StoreError`].
    fn create(&self) -> Result<(), StoreError>;

    /// Stores an object that is not there yet. `Ok` means durable, whole and visible.
    /// Storing the same content-named object twice is no error.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing is visible under the object's name.
    fn put(&self, kind: ObjectKind, id: &Id, body: &[u8]) -> Result<(), StoreError>;

    /// Reads an object, or the bytes of `range` of it (short ranges are an error).
    ///
    /// # Errors
    /// [`StoreError`].
    fn get(&self, kind: ObjectKind, id: &Id, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError>;

    /// Lists all objects of a kind with their sizes in bytes. Foreign names are left out; a missing folder is empty.
    ///
    /// # Errors
    /// [`StoreError`].
    fn list(&self, kind: ObjectKind) -> Result<Vec<(Id, u64)>, StoreError>;

    /// The object's size in bytes, or none if it is not there.
    ///
    /// # Errors
    /// [`StoreError`].
    fn size(&self, kind: ObjectKind, id: &Id) -> Result<Option<u64>, StoreError>;

    /// Deletes an object; one that is gone already is no error.
    ///
    /// # Errors
    /// [`StoreError`].
    fn delete(&self, kind: ObjectKind, id: &Id) -> Result<(), StoreError>;

    /// Deletes several objects of a kind; those that are gone already are no error. After an error some are deleted.
    ///
    /// # Errors
    /// [`StoreError`] of the first that could not be deleted.
    fn delete_all(&self, kind: ObjectKind, ids: &[Id]) -> Result<(), StoreError> {
        ids.iter().try_for_each(|id| self.delete(kind, id))
    }
}
