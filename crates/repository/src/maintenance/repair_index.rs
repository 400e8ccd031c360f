//! The index made right again: every stored pack is listed once, as its own header says; nothing else is.
//!
//! Index files that are right stay as they are, with whatever rustic has marked in them. A pack that is stored and whose
//! header cannot be read keeps the entries that it has: they are all that `repair packs` has to go by.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use backstay_core::{Id, ObjectKind};
use parking_lot::Mutex;

use crate::error::Error;
use crate::maintenance::pack_header::read_header;
use crate::maintenance::replace_index::write_index;
use crate::maintenance::{MaintenanceProgress, for_each};
use crate::pack::{PackBlob, encode_header, pack_size};
use crate::reader::Result;
use crate::repository::Repository;

/// Packs whose headers are in memory at once.
const BATCH: usize = 1000;

/// How an index is repaired.
#[derive(Clone, Copy, Debug, Default)]
pub struct RepairIndexOptions {
    /// Read the header of every pack, also of those that the index lists without a contradiction.
    pub read_all_packs: bool,
}

/// What was wrong and what was done.
#[derive(Clone, Debug, Default)]
pub struct RepairIndexReport {
    /// Index files that could not be read, with the reason; they are gone.
    pub damaged_files: Vec<(Id, String)>,
    /// Packs that no index file listed.
    pub added: Vec<Id>,
    /// Packs that were listed wrongly.
    pub corrected: Vec<Id>,
    /// Packs that were listed and are not stored.
    pub missing: Vec<Id>,
    /// Packs without a readable header, with the reason. Those that were listed still are: `repair packs` is for them.
    pub unreadable: Vec<(Id, String)>,
    /// Index files that were written.
    pub files_written: usize,
    /// Index files that were deleted.
    pub files_deleted: usize,
}

impl RepairIndexReport {
    /// Whether anything was changed.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.files_written + self.files_deleted > 0
    }
}

/// What the index files say about one pack.
#[derive(Default)]
struct Listed {
    /// The files that list it, by their numbers.
    files: Vec<u32>,
    /// What stands for its blobs; none where two files disagree.
    digest: Option<Id>,
    size: u64,
    /// From the first byte on, without a gap.
    whole: bool,
}

struct Files {
    ids: Vec<Id>,
    packs: HashMap<Id, Listed>,
    marked: Vec<(u32, Id)>,
    damaged: HashMap<u32, String>,
}

/// Repairs the index. Needs the exclusive lock.
///
/// # Errors
/// [`Error::ReadOnlyVersion`], [`Error::Store`], interrupted: then new index files may stand beside the old ones.
pub fn repair_index(
    repository: &Arc<Repository>,
    options: RepairIndexOptions,
    progress: &dyn MaintenanceProgress,
) -> Result<RepairIndexReport> {
    if repository.version() < 2 {
        return Err(Error::ReadOnlyVersion);
    }
    let listed = repository.store().list(ObjectKind::Pack)?;
    // Everything goes by the order of the store's lists, not by that of the ids.
    let order: HashMap<Id, usize> = listed.iter().enumerate().map(|(number, (id, _))| (*id, number)).collect();
    let place = |pack: &Id| order.get(pack).copied().unwrap_or(usize::MAX);
    let stored: HashMap<Id, u64> = listed.into_iter().collect();
    let files = read_files(repository, progress)?;
    let mut report = RepairIndexReport::default();
    for (number, reason) in &files.damaged {
        let id = files.ids[*number as usize];
        progress.note(&format!("index {id} is damaged ({reason}): it is made anew"));
        report.damaged_files.push((id, reason.clone()));
    }

    // Which packs have to be read, and which index files cannot stay.
    let mut obsolete: HashSet<u32> = files.damaged.keys().copied().collect();
    let mut read: HashSet<Id> = HashSet::new();
    for (pack, listed) in &files.packs {
        let sound = match stored.get(pack) {
            None => {
                report.missing.push(*pack);
                progress.note(&format!("pack {pack} is listed and not stored: it is taken out of the index"));
                false
            }
            Some(size) => {
                let sound = listed.digest.is_some() && listed.whole && listed.size == *size;
                if !sound {
                    report.corrected.push(*pack);
                    progress.note(&format!("pack {pack} is listed wrongly: its header is read"));
                }
                if !sound || options.read_all_packs {
                    read.insert(*pack);
                }
                sound
            }
        };
        if options.read_all_packs || !sound {
            obsolete.extend(&listed.files);
        } else {
            // One list of a pack is enough.
            obsolete.extend(listed.files.iter().skip(1));
        }
    }
    if options.read_all_packs {
        obsolete.extend(0..u32::try_from(files.ids.len()).unwrap_or(u32::MAX));
    }
    let waiting: HashSet<Id> =
        files.marked.iter().filter(|(file, _)| !obsolete.contains(file)).map(|(_, pack)| *pack).collect();
    for pack in stored.keys() {
        if !files.packs.contains_key(pack) && !waiting.contains(pack) {
            read.insert(*pack);
            report.added.push(*pack);
        }
    }

    let mut new = Vec::new();
    let was_read = read.clone();
    let mut read: Vec<(Id, u64)> = read.into_iter().filter_map(|pack| Some((pack, *stored.get(&pack)?))).collect();
    read.sort_unstable_by_key(|(pack, _)| place(pack));
    progress.stage("packs to read", read.len() as u64);
    let mut unreadable: HashSet<Id> = HashSet::new();
    for batch in read.chunks(BATCH) {
        let found: Mutex<Vec<(Id, Vec<PackBlob>)>> = Mutex::default();
        let failed: Mutex<Vec<(Id, String)>> = Mutex::default();
        for_each(batch, repository.store().calls_at_once(), progress, |(pack, size)| {
            match read_header(repository, pack, *size) {
                Ok(blobs) => found.lock().push((*pack, blobs)),
                Err(Error::Damaged { reason, .. }) => failed.lock().push((*pack, reason)),
                Err(other) => return Err(other),
            }
            Ok(())
        })?;
        for (pack, reason) in failed.into_inner() {
            unreadable.insert(pack);
            report.unreadable.push((pack, reason));
        }
        let mut found = found.into_inner();
        found.sort_unstable_by_key(|(pack, _)| place(pack));
        new.extend(write_index(repository, found)?);
    }
    report.added.retain(|pack| !unreadable.contains(pack));
    report.corrected.retain(|pack| !unreadable.contains(pack));

    // What the other index files said and was right.
    let keep = |pack: &Id| match files.packs.get(pack) {
        _ if unreadable.contains(pack) => true,
        Some(listed) if !was_read.contains(pack) => {
            stored.contains_key(pack) && listed.files.iter().all(|file| obsolete.contains(file))
        }
        _ => false,
    };
    let mut old: Vec<u32> = obsolete.iter().copied().collect();
    old.sort_unstable();
    let mut done = HashSet::new();
    let mut failure = None;
    let readable = old.iter().filter(|file| !files.damaged.contains_key(file)).map(|file| files.ids[*file as usize]);
    let carried = readable
        .map_while(|id| repository.load_index_file(&id).map_err(|error| failure = Some(error)).ok())
        .flat_map(|file| file.packs)
        .filter(|(pack, _)| keep(pack) && done.insert(*pack));
    new.extend(write_index(repository, carried)?);
    if let Some(error) = failure {
        return Err(error);
    }
    progress.go_on()?;
    let old: Vec<Id> = old.into_iter().map(|file| files.ids[file as usize]).filter(|id| !new.contains(id)).collect();
    repository.store().delete_all(ObjectKind::Index, &old)?;
    report.files_written = new.len();
    report.files_deleted = old.len();
    for list in [&mut report.added, &mut report.corrected, &mut report.missing] {
        list.sort_unstable();
    }
    Ok(report)
}

/// Looks into every index file and remembers what is needed to judge it, not what it lists.
fn read_files(repository: &Arc<Repository>, progress: &dyn MaintenanceProgress) -> Result<Files> {
    let ids: Vec<Id> = repository.store().list(ObjectKind::Index)?.into_iter().map(|(id, _)| id).collect();
    progress.stage("index files", ids.len() as u64);
    let found =
        Mutex::new(Files { ids: ids.clone(), packs: HashMap::new(), marked: Vec::new(), damaged: HashMap::new() });
    let numbered: Vec<(u32, Id)> = (0..).zip(ids).collect();
    for_each(&numbered, repository.store().calls_at_once(), progress, |(number, id)| {
        let file = match repository.load_index_file(id) {
            Ok(file) => file,
            Err(Error::Damaged { reason, .. }) => {
                found.lock().damaged.insert(*number, reason);
                return Ok(());
            }
            Err(other) => return Err(other),
        };
        let mut found = found.lock();
        found.marked.extend(file.marked.into_iter().map(|pack| (*number, pack)));
        for (pack, mut blobs) in file.packs {
            blobs.sort_unstable_by_key(|blob| blob.offset);
            let digest = Id::of(&encode_header(&blobs));
            let mut end = 0_u64;
            let whole = !blobs.is_empty()
                && blobs.iter().all(|blob| {
                    let follows = u64::from(blob.offset) == end;
                    end += u64::from(blob.length);
                    follows
                });
            let listed = found.packs.entry(pack).or_default();
            if listed.files.is_empty() {
                *listed = Listed { files: vec![*number], digest: Some(digest), size: pack_size(&blobs), whole };
            } else {
                if listed.digest != Some(digest) {
                    listed.digest = None;
                }
                listed.files.push(*number);
            }
        }
        Ok(())
    })?;
    let mut found = found.into_inner();
    for listed in found.packs.values_mut() {
        listed.files.sort_unstable();
    }
    Ok(found)
}
