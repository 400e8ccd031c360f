//! The commit: looks at everything again, then deletes. Needs the exclusive lock.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use backstay_core::{Id, ObjectKind};

use super::plan::{Plan, collect_new, unfit};
use super::state::{IndexState, Stored, index_files};
use super::{MaintenanceProgress, PruneReport};
use crate::error::Error;
use crate::lock::Lock;
use crate::maintenance::replace_index::replace_index;
use crate::reader::{Reader, Result};

/// Packs that are deleted between two looks at the lock.
const DELETE_AT_ONCE: usize = 1000;

impl Plan {
    /// Deletes what the plan names and nobody needs now. `lock` is the exclusive lock, held.
    ///
    /// # Errors
    /// When the repository is not sound, and nothing was deleted then; [`Error::LockLost`]; [`Error::Store`]: at worst packs
    /// that no index file lists are left behind.
    pub fn commit(mut self, lock: &Lock, progress: &dyn MaintenanceProgress) -> Result<PruneReport> {
        let stored = Stored::list(&self.repository)?;
        self.refresh(&stored, progress)?;
        let going = self.going(&stored)?;
        self.replace_index(&going, &stored, lock)?;
        self.delete(going, &stored, lock, progress)?;
        Ok(self.report)
    }

    /// The index and the used blobs as they are now.
    fn refresh(&mut self, stored: &Stored, progress: &dyn MaintenanceProgress) -> Result<()> {
        let listed = self.repository.snapshot_ids()?;
        let files = index_files(&self.repository)?;
        let now: HashSet<&Id> = files.iter().collect();
        if self.state.files.keys().any(|file| !now.contains(file)) {
            // Somebody replaced index files: what is known is no longer true.
            self.state = IndexState::default();
        }
        let new: Vec<Id> = files.iter().filter(|file| !self.state.files.contains_key(*file)).copied().collect();
        self.state.load(&self.repository, &new, stored, progress)?;
        let index = Arc::new(std::mem::take(&mut self.state.index));
        let reader = Reader::new(Arc::clone(&self.repository), Arc::clone(&index));
        let without = &self.options.without_snapshots;
        let result = collect_new(&reader, &listed, without, &mut self.snapshots, &self.used, progress);
        drop(reader);
        self.state.index =
            Arc::into_inner(index).ok_or_else(|| Error::Other("the index is still in use".to_owned()))?;
        result
    }

    /// The packs that go: of those that the plan names, the ones whose used blobs all have a copy in a pack that stays and is
    /// as it should be.
    fn going(&mut self, stored: &Stored) -> Result<HashSet<Id>> {
        let index = &self.state.index;
        let mut sizes: HashMap<Id, u64> = index.packs().map(|(pack, summary)| (pack, summary.size)).collect();
        sizes.retain(|pack, size| stored.size(pack) == Some(*size));
        let mut going: HashSet<Id> = self.remove.iter().chain(&self.repack).copied().collect();
        going.retain(|pack| index.pack(pack).is_some());
        for pack in self.remove.iter().chain(&self.repack) {
            if !going.contains(pack) {
                continue;
            }
            let needed = index.pack_blobs(pack).into_iter().any(|blob| {
                self.used.contains(blob.kind, &blob.id)
                    && !index
                        .get_all(blob.kind, &blob.id)
                        .any(|place| !going.contains(&place.pack) && sizes.contains_key(&place.pack))
            });
            if needed {
                going.remove(pack);
                if !sizes.contains_key(pack) {
                    let size = index.pack(pack).map_or(0, |summary| summary.size);
                    return Err(unfit(pack, size, stored.size(pack)));
                }
                self.report.kept_back += 1;
            }
        }
        // What is listed, not stored, and needed by nobody leaves the index.
        for pack in &self.missing {
            let needed = stored.size(pack).is_some()
                || index.pack_blobs(pack).into_iter().any(|blob| {
                    self.used.contains(blob.kind, &blob.id)
                        && !index.get_all(blob.kind, &blob.id).any(|place| sizes.contains_key(&place.pack))
                });
            if needed && stored.size(pack).is_none() {
                let size = index.pack(pack).map_or(0, |summary| summary.size);
                return Err(unfit(pack, size, None));
            }
            if !needed && index.pack(pack).is_some() {
                going.insert(*pack);
            }
        }
        Ok(going)
    }

    /// Writes index files in the place of those that list a pack that goes, that hold marks, or that repeat each other.
    fn replace_index(&mut self, going: &HashSet<Id>, stored: &Stored, lock: &Lock) -> Result<()> {
        let mut listed: HashMap<Id, u32> = HashMap::new();
        for pack in self.state.files.values().flat_map(|file| &file.packs) {
            *listed.entry(*pack).or_default() += 1;
        }
        let merges = self.merges_index();
        let (mut obsolete, mut kept) = (Vec::new(), HashSet::new());
        for (id, file) in &self.state.files {
            let outdated = file.marks
                || file.packs.is_empty()
                || (merges && Self::is_small(file.blobs))
                || file.packs.iter().any(|pack| going.contains(pack) || listed.get(pack) > Some(&1));
            if outdated {
                obsolete.push((file.number, *id));
            } else {
                kept.extend(file.packs.iter().copied());
            }
        }
        obsolete.sort_unstable_by_key(|(number, _)| *number);
        let obsolete: Vec<Id> = obsolete.into_iter().map(|(_, id)| id).collect();
        let mut relisted: Vec<Id> =
            listed.into_keys().filter(|pack| !kept.contains(pack) && !going.contains(pack)).collect();
        // Packs that only a mark names, and that hold what is used, are packs like any other from now on.
        relisted.extend(self.state.marked.iter().filter(|pack| !going.contains(*pack)));
        stored.sort(&mut relisted);
        if obsolete.is_empty() && relisted.is_empty() {
            return Ok(());
        }
        lock.check()?;
        let index = &self.state.index;
        let packs = relisted.iter().map(|pack| (*pack, index.pack_blobs(pack)));
        let new = replace_index(&self.repository, packs, &obsolete)?;
        self.report.index_written = new.len() as u64;
        self.report.index_deleted = obsolete.len() as u64;
        Ok(())
    }

    /// Deletes the packs that go, and those that nothing listed when the plan was made and nothing lists now.
    fn delete(
        &mut self,
        going: HashSet<Id>,
        stored: &Stored,
        lock: &Lock,
        progress: &dyn MaintenanceProgress,
    ) -> Result<()> {
        let index = &self.state.index;
        let unlisted = self.unlisted.iter().filter(|pack| index.pack(pack).is_none()).copied();
        let mut packs: Vec<Id> = going.into_iter().chain(unlisted).filter(|pack| stored.size(pack).is_some()).collect();
        stored.sort(&mut packs);
        progress.stage("packs to delete", packs.len() as u64);
        for some in packs.chunks(DELETE_AT_ONCE) {
            if progress.cancelled() {
                return Err(super::super::interrupted());
            }
            lock.check()?;
            self.repository.store().delete_all(ObjectKind::Pack, some)?;
            self.report.deleted_packs += some.len() as u64;
            self.report.deleted_bytes += some.iter().filter_map(|pack| stored.size(pack)).sum::<u64>();
            progress.advanced(some.len() as u64);
        }
        Ok(())
    }
}
