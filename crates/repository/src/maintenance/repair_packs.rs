//! Damaged packs: what can still be read of them goes into new packs, the rest is named, and the packs leave the
//! repository. A copy of each stays with whoever asked for this.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backstay_core::{Id, ObjectKind};

use crate::error::Error;
use crate::index::Index;
use crate::maintenance::MaintenanceProgress;
use crate::maintenance::pack_header::read_header;
use crate::maintenance::replace_index::write_index;
use crate::pack::{BlobKind, PackBlob};
use crate::reader::{Result, decode_blob};
use crate::repository::Repository;
use crate::writer::{WriteOptions, Writer};

/// A blob that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostBlob {
    /// The damaged pack.
    pub pack: Id,
    /// What it held.
    pub kind: BlobKind,
    /// Its id.
    pub id: Id,
    /// Why it cannot be read.
    pub reason: String,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct RepairPacksReport {
    /// Where the copies of the damaged packs are.
    pub copies: Vec<PathBuf>,
    /// Blobs that were read from them.
    pub salvaged: u64,
    /// Blobs that could not be read, and of which there is no other copy.
    pub lost: Vec<LostBlob>,
}

/// Takes these packs out of the repository and saves what can be read of them. Copies of the files are written into
/// `copies` first, as `pack-<id>`. Needs the exclusive lock.
///
/// # Errors
/// A pack that is not there, a copy that exists already or cannot be written, [`Error::ReadOnlyVersion`],
/// [`Error::Store`]. Nothing is deleted unless everything that could be read is stored again.
pub fn repair_packs(
    repository: &Arc<Repository>,
    packs: &[Id],
    copies: &Path,
    progress: &dyn MaintenanceProgress,
) -> Result<RepairPacksReport> {
    if repository.version() < 2 {
        return Err(Error::ReadOnlyVersion);
    }
    let mut damaged: Vec<Id> = packs.to_vec();
    damaged.sort_unstable();
    damaged.dedup();
    for pack in &damaged {
        if repository.store().size(ObjectKind::Pack, pack)?.is_none() {
            return Err(Error::Other(format!(
                "pack {pack} is not in the repository: \"backstay repair index\" takes it out of the index"
            )));
        }
    }
    let mut report = RepairPacksReport::default();
    for pack in &damaged {
        let bytes = repository.store().get(ObjectKind::Pack, pack, None)?;
        report.copies.push(keep_copy(copies, pack, &bytes)?);
    }

    // The index without these packs: what is listed in another one is there.
    let mut index = Index::default();
    let mut listed: BTreeMap<Id, Vec<PackBlob>> = BTreeMap::new();
    let mut obsolete = Vec::new();
    for (id, _) in repository.store().list(ObjectKind::Index)? {
        progress.go_on()?;
        let mut old = false;
        for (pack, blobs) in repository.load_index_file(&id)?.packs {
            if damaged.binary_search(&pack).is_ok() {
                listed.entry(pack).or_default().extend(blobs);
                old = true;
            } else {
                index.insert_pack(pack, blobs);
            }
        }
        if old {
            obsolete.push(id);
        }
    }
    let index = Arc::new(index);
    let writer = Writer::new(Arc::clone(repository), Arc::clone(&index), WriteOptions::default())?;
    progress.stage("damaged packs", damaged.len() as u64);
    let mut lost = Vec::new();
    let mut have: HashSet<(BlobKind, Id)> = HashSet::new();
    for (pack, copy) in damaged.iter().zip(&report.copies) {
        progress.go_on()?;
        let bytes =
            std::fs::read(copy).map_err(|error| Error::io(format!("{} cannot be read", copy.display()), error))?;
        let mut blobs = listed.remove(pack).unwrap_or_default();
        match read_header(repository, pack, bytes.len() as u64) {
            Ok(header) => blobs.extend(header),
            Err(error @ Error::Store(_)) => return Err(error),
            Err(_) if blobs.is_empty() => {
                progress.note(&format!("pack {pack} has no readable header and is in no index: nothing can be saved"));
            }
            Err(_) => {}
        }
        blobs.sort_unstable_by_key(|blob| (blob.offset, blob.id));
        blobs.dedup();
        for blob in &blobs {
            match salvage(repository, &bytes, blob) {
                Ok(plain) => {
                    writer.save(blob.kind, &plain)?;
                    have.insert((blob.kind, blob.id));
                    report.salvaged += 1;
                }
                Err(reason) => lost.push(LostBlob { pack: *pack, kind: blob.kind, id: blob.id, reason }),
            }
        }
        progress.advanced(1);
    }
    writer.finish()?;
    lost.retain(|blob| !have.contains(&(blob.kind, blob.id)) && !index.contains(blob.kind, &blob.id));
    report.lost = lost;

    let mut failure = None;
    let carried = obsolete
        .iter()
        .map_while(|id| repository.load_index_file(id).map_err(|error| failure = Some(error)).ok())
        .flat_map(|file| file.packs)
        .filter(|(pack, _)| damaged.binary_search(pack).is_err());
    write_index(repository, carried)?;
    if let Some(error) = failure {
        return Err(error);
    }
    progress.go_on()?;
    repository.store().delete_all(ObjectKind::Index, &obsolete)?;
    repository.store().delete_all(ObjectKind::Pack, &damaged)?;
    Ok(report)
}

fn keep_copy(folder: &Path, pack: &Id, bytes: &[u8]) -> Result<PathBuf> {
    let path = folder.join(format!("pack-{pack}"));
    let failed =
        |error| Error::io(format!("a copy of the damaged pack cannot be written to {}", path.display()), error);
    let mut file = File::create_new(&path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    Ok(path)
}

fn salvage(repository: &Repository, bytes: &[u8], blob: &PackBlob) -> Result<Vec<u8>, String> {
    let start = blob.offset as usize;
    let envelope = start
        .checked_add(blob.length as usize)
        .and_then(|end| bytes.get(start..end))
        .ok_or("the pack ends before it")?;
    let (mut scratch, mut plain) = (Vec::new(), Vec::new());
    decode_blob(repository.key(), envelope, blob.uncompressed, &blob.id, &mut scratch, &mut plain)?;
    Ok(plain)
}
