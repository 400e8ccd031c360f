//! Prune: gives back the room of what no snapshot needs, beside running backups.
//!
//! Two steps. [`Plan::make`] and [`Plan::copy`], under an ordinary shared lock while backups run, choose what goes, copy what
//! is worth keeping out of packs that are mostly unused, and list the copies in new index files. [`Plan::commit`], under the
//! exclusive lock and within seconds, looks at everything again, takes out of the plan what became used meanwhile, replaces
//! the index and only then deletes packs.
//!
//! The commit trusts nothing that the plan thinks. Its one rule: a pack goes only if every used blob in it has another copy
//! in a pack that is listed, stored with the right size, and stays. So a plan that is outdated in any way (a backup that
//! reused a blob, another prune that was quicker) costs room, never data.
//!
//! Killed anywhere: before the commit there are more copies than needed, which the next run finds and finishes with; in the
//! commit, index files that list a pack twice or packs that are listed nowhere, which the next run removes.
//!
//! rustic's deletion marks are read, never written: a marked pack counts as stored, so what is used and lives nowhere else is
//! listed again; otherwise it goes, as with restic, and the marks go with the index files that held them.

mod commit;
mod copy;
mod plan;
mod state;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use backstay_core::Id;
use serde::Serialize;

use super::MaintenanceProgress;
use crate::error::Error;
use crate::reader::Result;
use crate::repository::Repository;

pub use plan::Plan;

/// How much may stay although nothing uses it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MaxUnused {
    /// That many percent of the repository's size after the prune.
    Percent(f64),
    /// That many bytes.
    Bytes(u64),
    /// Any amount: nothing is copied for the sake of room.
    Unlimited,
}

impl Default for MaxUnused {
    fn default() -> Self {
        Self::Percent(5.0)
    }
}

impl MaxUnused {
    /// The bytes that may stay unused beside `used` bytes.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a size"
    )]
    fn bytes(self, used: u64) -> u64 {
        match self {
            Self::Unlimited => u64::MAX,
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) if percent >= 100.0 => u64::MAX,
            Self::Percent(percent) => (percent / (100.0 - percent) * used as f64) as u64,
        }
    }
}

impl FromStr for MaxUnused {
    type Err = Error;

    /// Reads `unlimited`, `x%` or a size such as `500M` (K, M, G and T are powers of 1024).
    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::Other(format!(
                "{text:?} is no limit: give \"unlimited\", a percentage such as 5% or a size such as 500M"
            ))
        };
        if text == "unlimited" {
            return Ok(Self::Unlimited);
        }
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.trim().parse().map_err(|_| bad())?;
            return if (0.0..=100.0).contains(&percent) { Ok(Self::Percent(percent)) } else { Err(bad()) };
        }
        let (digits, shift) = match text.as_bytes().last().map(u8::to_ascii_uppercase) {
            Some(b'K') => (&text[..text.len() - 1], 10),
            Some(b'M') => (&text[..text.len() - 1], 20),
            Some(b'G') => (&text[..text.len() - 1], 30),
            Some(b'T') => (&text[..text.len() - 1], 40),
            _ => (text, 0),
        };
        let size: u64 = digits.parse().map_err(|_| bad())?;
        size.checked_mul(1 << shift).map(Self::Bytes).ok_or_else(bad)
    }
}

/// How a prune is done. The defaults are restic's.
#[derive(Clone, Debug)]
pub struct PruneOptions {
    /// How much unused may stay.
    pub max_unused: MaxUnused,
    /// Bytes of packs that are copied at the most; none: no limit.
    pub max_repack_size: Option<u64>,
    /// Copy out of packs of trees only: those that others keep in their caches.
    pub repack_cacheable_only: bool,
    /// Merge packs that are smaller than 80 % of the pack size.
    pub repack_small: bool,
    /// Copy packs with blobs that are not compressed, and compress them.
    pub repack_uncompressed: bool,
    /// Choose only; nothing is copied or deleted.
    pub dry_run: bool,
    /// Snapshots that are looked at as if they were gone; for a dry run.
    pub without_snapshots: Vec<Id>,
    /// Bytes of blobs after which a new pack is closed.
    pub pack_size: usize,
    /// zstd level for what is compressed on the way.
    pub compression_level: i32,
    /// How long the commit waits for the exclusive lock.
    pub retry_lock: Option<Duration>,
}

impl Default for PruneOptions {
    fn default() -> Self {
        Self {
            max_unused: MaxUnused::default(),
            max_repack_size: None,
            repack_cacheable_only: false,
            repack_small: false,
            repack_uncompressed: false,
            dry_run: false,
            without_snapshots: Vec::new(),
            pack_size: 16 << 20,
            compression_level: 3,
            retry_lock: None,
        }
    }
}

/// Numbers of blobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BlobCounts {
    /// Some snapshot needs them; each is counted once.
    pub used: u64,
    /// Further copies of used ones.
    pub duplicate: u64,
    /// No snapshot needs them.
    pub unused: u64,
    /// In packs that are deleted as a whole.
    pub remove: u64,
    /// In packs that are copied.
    pub repack: u64,
    /// Of those, not worth copying.
    pub repackrm: u64,
}

/// Sizes in bytes, blobs with their entries in the headers of packs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ByteCounts {
    /// Some snapshot needs them.
    pub used: u64,
    /// Further copies of used ones.
    pub duplicate: u64,
    /// No snapshot needs them.
    pub unused: u64,
    /// In packs that are deleted as a whole.
    pub remove: u64,
    /// In packs that are copied.
    pub repack: u64,
    /// Of those, not worth copying.
    pub repackrm: u64,
    /// Packs that no index file lists.
    pub unref: u64,
    /// In packs that stay and are not compressed throughout.
    pub uncompressed: u64,
}

/// Numbers of packs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PackCounts {
    /// All of their blobs are used.
    pub used: u64,
    /// None of their blobs is used.
    pub unused: u64,
    /// Some are.
    pub partly_used: u64,
    /// No index file lists them.
    pub unref: u64,
    /// They stay.
    pub keep: u64,
    /// What is used in them is copied, then they go.
    pub repack: u64,
    /// They go.
    pub remove: u64,
}

/// What a plan is about, in restic's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PruneStats {
    /// Numbers of blobs.
    pub blobs: BlobCounts,
    /// Sizes in bytes.
    pub bytes: ByteCounts,
    /// Numbers of packs.
    pub packfiles: PackCounts,
}

impl PruneStats {
    /// All blobs.
    #[must_use]
    pub fn total_blobs(&self) -> u64 {
        self.blobs.used + self.blobs.duplicate + self.blobs.unused
    }

    /// All bytes.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.bytes.used + self.bytes.duplicate + self.bytes.unused + self.bytes.unref
    }

    /// Bytes that the prune gives back.
    #[must_use]
    pub fn freed_bytes(&self) -> u64 {
        self.bytes.remove + self.bytes.repackrm + self.bytes.unref
    }

    /// Bytes that stay although nothing uses them.
    #[must_use]
    pub fn unused_after(&self) -> u64 {
        (self.bytes.unused + self.bytes.duplicate).saturating_sub(self.bytes.remove + self.bytes.repackrm)
    }
}

/// What a prune did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PruneReport {
    /// What was planned.
    #[serde(flatten)]
    pub stats: PruneStats,
    /// Bytes of blobs that were copied into new packs.
    pub copied_bytes: u64,
    /// Packs that were deleted.
    pub deleted_packs: u64,
    /// Their size in bytes.
    pub deleted_bytes: u64,
    /// Packs that were to go and stay, because what is in them was used again meanwhile.
    pub kept_back: u64,
    /// Index files that were written in the commit.
    pub index_written: u64,
    /// Index files that were deleted.
    pub index_deleted: u64,
}

/// Prunes: takes the shared lock for the preparation and the exclusive one for the commit, and gives both back. With
/// `dry_run` it only chooses; a lock for that is the caller's.
///
/// `planned` is told what was chosen, before anything is written.
///
/// # Errors
/// [`Error::Locked`]: another one is in the way; [`Error::NotCommitted`]: the preparation is done and kept, the exclusive lock
/// could not be had. [`Error::Damaged`], [`Error::InSnapshot`], [`Error::Other`]: the repository is not sound, and nothing
/// was deleted. [`Error::Store`].
pub fn prune(
    repository: &Arc<Repository>,
    options: &PruneOptions,
    progress: &dyn MaintenanceProgress,
    planned: &mut dyn FnMut(&PruneStats),
) -> Result<PruneReport> {
    if options.dry_run {
        let plan = Plan::make(repository, options, progress)?;
        planned(plan.stats());
        return Ok(PruneReport { stats: *plan.stats(), ..PruneReport::default() });
    }
    let shared = repository.lock(false, options.retry_lock)?;
    let mut plan = Plan::make(repository, options, progress)?;
    planned(plan.stats());
    plan.copy(progress)?;
    shared.check()?;
    drop(shared);
    if !plan.needs_commit() {
        return Ok(plan.report());
    }
    let alone = repository.lock(true, options.retry_lock).map_err(|error| match error {
        Error::Locked(conflict) => Error::NotCommitted(conflict),
        other => other,
    })?;
    plan.commit(&alone, progress)
}
