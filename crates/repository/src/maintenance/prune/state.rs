//! What is in the repository now: every index file with the packs that it lists, and what is stored.

use std::collections::{HashMap, HashSet};

use backstay_core::{Id, ObjectKind};
use parking_lot::Mutex;

use crate::index::Index;
use crate::maintenance::pack_header::read_header;
use crate::maintenance::{MaintenanceProgress, for_each};
use crate::reader::Result;
use crate::repository::Repository;

/// One index file.
#[derive(Debug, Default)]
pub(super) struct IndexFileInfo {
    pub(super) packs: Vec<Id>,
    pub(super) blobs: usize,
    /// It holds marks of rustic.
    pub(super) marks: bool,
    /// The how manieth it was.
    pub(super) number: usize,
}

/// All index files, and what they say together.
#[derive(Debug, Default)]
pub(super) struct IndexState {
    pub(super) index: Index,
    pub(super) files: HashMap<Id, IndexFileInfo>,
    /// Packs that only rustic's marks name; their blobs, read from their headers, are in the index too.
    pub(super) marked: HashSet<Id>,
    /// All marks, as they were read.
    marks: HashSet<Id>,
}

/// All stored packs: their sizes in bytes, and the order in which the store lists them. Everything is done in that order,
/// never in one that a hash table made up, so that a run can be gone through again.
#[derive(Debug, Default)]
pub(super) struct Stored {
    packs: HashMap<Id, (u64, usize)>,
}

impl Stored {
    pub(super) fn list(repository: &Repository) -> Result<Self> {
        let listed = repository.store().list(ObjectKind::Pack)?;
        Ok(Self { packs: listed.into_iter().enumerate().map(|(at, (id, size))| (id, (size, at))).collect() })
    }

    /// The size in bytes, if the pack is stored.
    pub(super) fn size(&self, pack: &Id) -> Option<u64> {
        self.packs.get(pack).map(|(size, _)| *size)
    }

    /// What packs are sorted by; those that are not stored come last.
    pub(super) fn order(&self, pack: &Id) -> (usize, Id) {
        (self.packs.get(pack).map_or(usize::MAX, |(_, at)| *at), *pack)
    }

    pub(super) fn sort(&self, packs: &mut [Id]) {
        packs.sort_unstable_by_key(|pack| self.order(pack));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Id, u64)> {
        self.packs.iter().map(|(id, (size, _))| (id, *size))
    }
}

impl IndexState {
    /// Loads these index files beside what is there already.
    pub(super) fn load(
        &mut self,
        repository: &Repository,
        files: &[Id],
        stored: &Stored,
        progress: &dyn MaintenanceProgress,
    ) -> Result<()> {
        progress.stage("index files", files.len() as u64);
        let threads = repository.store().calls_at_once().clamp(1, 16);
        let numbered: Vec<(usize, Id)> = files.iter().copied().enumerate().collect();
        let before = self.files.len();
        let shared = Mutex::new(&mut *self);
        for_each(&numbered, threads, progress, |(at, id)| {
            let file = repository.load_index_file(id)?;
            let mut info =
                IndexFileInfo { marks: !file.marked.is_empty(), number: before + at, ..IndexFileInfo::default() };
            let mut state = shared.lock();
            for (pack, blobs) in file.packs {
                if !blobs.is_empty() {
                    info.packs.push(pack);
                    info.blobs += blobs.len();
                    state.index.insert_pack(pack, blobs);
                }
            }
            state.marks.extend(file.marked);
            state.files.insert(*id, info);
            Ok(())
        })?;
        let listed: HashSet<Id> = self.files.values().flat_map(|file| &file.packs).copied().collect();
        self.marked.retain(|pack| !listed.contains(pack));
        let threads = repository.store().calls_at_once().clamp(1, 16);
        let mut new: Vec<(Id, u64)> = self
            .marks
            .iter()
            .filter(|pack| !listed.contains(*pack) && !self.marked.contains(*pack))
            .filter_map(|pack| Some((*pack, stored.size(pack)?)))
            .collect();
        new.sort_unstable_by_key(|(pack, _)| stored.order(pack));
        let shared = Mutex::new(&mut *self);
        for_each(&new, threads, &(), |(pack, size)| {
            match read_header(repository, pack, *size) {
                Ok(blobs) => {
                    let mut state = shared.lock();
                    state.index.insert_pack(*pack, blobs);
                    state.marked.insert(*pack);
                }
                // Whoever needs what was in it is told that it is in no index.
                Err(crate::Error::Damaged { .. }) => {
                    progress.note(&format!("pack {pack} is marked for deletion, and cannot be read"));
                }
                Err(error) => return Err(error),
            }
            Ok(())
        })
    }

    /// Packs that an index file lists.
    pub(super) fn listed(&self) -> HashSet<Id> {
        self.files.values().flat_map(|file| &file.packs).copied().collect()
    }
}

/// The ids of all index files.
pub(super) fn index_files(repository: &Repository) -> Result<Vec<Id>> {
    Ok(repository.store().list(ObjectKind::Index)?.into_iter().map(|(id, _)| id).collect())
}
