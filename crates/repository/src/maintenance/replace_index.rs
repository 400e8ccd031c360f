//! Putting new index files in the place of old ones: the new are all stored before the first old one goes.
//!
//! Killed in between, the repository has both, which does no harm: every pack that the old ones list is still there, for
//! packs are deleted after this.

use backstay_core::{Id, ObjectKind};

use crate::index::encode_index_file;
use crate::pack::PackBlob;
use crate::reader::Result;
use crate::repository::Repository;

/// Blobs in one index file, as restic does.
const BLOBS_PER_INDEX: usize = 50_000;

/// Writes index files that list `packs`, each pack with all its blobs, then deletes the index files `obsolete`. Returns the
/// new ones. The packs are taken one by one: memory holds those of one file.
///
/// Needs the exclusive lock: whoever reads the index meanwhile must not find half of it.
///
/// # Errors
/// [`crate::Error::Store`]: some new files may be stored, and unless all of them are, no old one is deleted.
pub fn replace_index(
    repository: &Repository,
    packs: impl IntoIterator<Item = (Id, Vec<PackBlob>)>,
    obsolete: &[Id],
) -> Result<Vec<Id>> {
    let new = write_index(repository, packs)?;
    repository.store().delete_all(ObjectKind::Index, obsolete)?;
    Ok(new)
}

/// Writes index files that list `packs`, and deletes nothing.
///
/// # Errors
/// [`crate::Error::Store`]: some of the files may be stored.
pub fn write_index(repository: &Repository, packs: impl IntoIterator<Item = (Id, Vec<PackBlob>)>) -> Result<Vec<Id>> {
    let mut new = Vec::new();
    let mut waiting: Vec<(Id, Vec<PackBlob>)> = Vec::new();
    let mut blobs = 0;
    for (pack, list) in packs {
        if list.is_empty() {
            continue;
        }
        blobs += list.len();
        waiting.push((pack, list));
        if blobs >= BLOBS_PER_INDEX {
            new.push(repository.save_unpacked(ObjectKind::Index, &encode_index_file(&waiting))?);
            waiting.clear();
            blobs = 0;
        }
    }
    if !waiting.is_empty() {
        new.push(repository.save_unpacked(ObjectKind::Index, &encode_index_file(&waiting))?);
    }
    Ok(new)
}
