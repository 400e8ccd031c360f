//! What can go wrong with a repository: one sentence for people, the cause's own text kept.

use std::io;
use std::sync::Arc;

use backstay_core::{Id, ObjectKind, StoreError, StoreErrorKind};

use crate::pack::BlobKind;

/// Why a repository did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// None of the repository's keys opens with this password.
    #[error("wrong password: none of the repository's keys opens with it")]
    WrongPassword,
    /// There is no `config` object at this place.
    #[error("there is no repository at {location}: check the location, or create one there with \"backstay init\"")]
    NoRepository {
        /// Where it was looked for.
        location: String,
    },
    /// A repository, or a part of one, is already there.
    #[error("{location} already holds a repository: it is left as it is")]
    Exists {
        /// Where it is.
        location: String,
    },
    /// The format version is none that is known.
    #[error("the repository has format version {0}: versions 1 and 2 are known")]
    UnsupportedVersion(u32),
    /// Version 1 is read, never written.
    #[error(
        "the repository has format version 1, which has no compression: it can be read, not written. Upgrade it with \
         \"restic migrate upgrade_repo_v2\""
    )]
    ReadOnlyVersion,
    /// A stored object does not hold what its name or its format promises.
    #[error("{kind} {id} is damaged: {reason}")]
    Damaged {
        /// What the object is.
        kind: ObjectKind,
        /// Its id, or the name it goes by.
        id: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A blob does not hold what its id promises.
    #[error("{kind} blob {id} in pack {pack} is damaged: {reason}")]
    DamagedBlob {
        /// What the blob holds.
        kind: BlobKind,
        /// Its id.
        id: Id,
        /// The pack that it was read from.
        pack: Id,
        /// What is wrong with it.
        reason: String,
    },
    /// Someone else holds a lock that does not go together with ours.
    #[error("{0}")]
    Locked(Box<crate::lock::Conflict>),
    /// The second step of a prune could not have the repository for itself.
    #[error("{0}. What was prepared is kept: running \"backstay prune\" again finishes it")]
    NotCommitted(Box<crate::lock::Conflict>),
    /// Our own lock could not be refreshed in time: others may take it for abandoned.
    #[error("the lock on the repository was lost: {0}. Nothing more is written")]
    LockLost(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No index file lists this blob.
    #[error("{kind} blob {id} is in no index: run \"backstay check\"")]
    BlobMissing {
        /// What the blob holds.
        kind: BlobKind,
        /// Its id.
        id: Id,
    },
    /// What a snapshot needs cannot be read.
    #[error("snapshot {}, {path:?}: {error}", snapshot.short())]
    InSnapshot {
        /// The snapshot.
        snapshot: Id,
        /// The place in it, as text.
        path: String,
        /// Why.
        #[source]
        error: Arc<Error>,
    },
    /// No snapshot is meant by this text.
    #[error("{0}")]
    NoSnapshot(String),
    /// Several snapshots are meant by this text.
    #[error("{0}")]
    Ambiguous(String),
    /// The operating system refused.
    #[error("{what}: {error}")]
    Io {
        /// What was attempted, with the name of its object.
        what: String,
        /// What the operating system said.
        error: Arc<io::Error>,
    },
    /// Anything else, as a sentence.
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// A stored object that does not hold what it should.
    #[must_use]
    pub fn damaged(kind: ObjectKind, id: &Id, reason: impl std::fmt::Display) -> Self {
        let id = if kind == ObjectKind::Config { "file".to_owned() } else { id.to_hex() };
        Self::Damaged { kind, id, reason: reason.to_string() }
    }

    /// Whether the store failed, so that nothing is known of what was asked for. An object that is not there is damage.
    #[must_use]
    pub fn is_store_failure(&self) -> bool {
        match self {
            Self::Store(error) => error.kind != StoreErrorKind::NotFound,
            Self::InSnapshot { error, .. } => error.is_store_failure(),
            _ => false,
        }
    }

    /// What the operating system said about `what`.
    #[must_use]
    pub fn io(what: impl Into<String>, error: io::Error) -> Self {
        Self::Io { what: what.into(), error: Arc::new(error) }
    }
}
