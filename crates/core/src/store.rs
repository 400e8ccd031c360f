//! The Store port: where repository objects live. Every object is written once, whole, and never changed.

use std::fmt;
use std::ops::Range;

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

/// What went wrong, for people: operation, object and the other side's own text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation} {object}: {text}")]
pub struct StoreError {
    /// What the program may decide by.
    pub kind: StoreErrorKind,
    /// What was attempted: "write", "read", "list", "delete".
    pub operation: &'static str,
    /// Which object, with its place.
    pub object: String,
    /// What the other side said.
    pub text: String,
}

/// A place for objects. All calls may come from several threads at once.
pub trait Store: Send + Sync + fmt::Debug {
    /// Where it is, for messages; never with a secret in it.
    fn location(&self) -> String;

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
}
