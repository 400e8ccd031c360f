//! Choosing: which packs go, which are copied first, which stay (the rules are those of restic's prune, reference 16.1).

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use backstay_core::Id;

use super::state::{IndexState, Stored, index_files};
use super::{PruneOptions, PruneReport, PruneStats};
use crate::error::Error;
use crate::index::Index;
use crate::maintenance::used::{Root, UsedBlobs, collect};
use crate::maintenance::{MaintenanceProgress, for_each};
use crate::pack::{BlobKind, FIXED_OVERHEAD, PackBlob};
use crate::reader::{Reader, Result};
use crate::repository::Repository;

/// So many packs that are small have to come together before they are merged without being asked.
const SMALL_PACKS: usize = 10;
/// An index file with fewer blobs is small...
const SMALL_INDEX: usize = 10_000;
/// ...and so many of them are merged.
const SMALL_INDEXES: usize = 16;

/// A blob by kind and id.
pub(super) type BlobKey = (BlobKind, Id);

/// What a prune is going to do.
#[derive(Debug)]
pub struct Plan {
    pub(super) repository: Arc<Repository>,
    pub(super) options: PruneOptions,
    pub(super) state: IndexState,
    pub(super) used: UsedBlobs,
    /// The snapshots whose blobs are in `used`.
    pub(super) snapshots: HashSet<Id>,
    /// Of several copies of a used blob, the pack with the one that stays.
    pub(super) homes: HashMap<BlobKey, Id>,
    /// Packs that go as they are.
    pub(super) remove: Vec<Id>,
    /// Packs that are copied, then go.
    pub(super) repack: Vec<Id>,
    /// Stored packs that nothing lists.
    pub(super) unlisted: Vec<Id>,
    /// Packs that are listed and not stored, and that nobody needs.
    pub(super) missing: Vec<Id>,
    pub(super) report: PruneReport,
}

#[derive(Clone, Copy, Debug, Default)]
struct PackInfo {
    /// Blobs of each sort, and their bytes.
    used: (u64, u64),
    duplicate: (u64, u64),
    unused: (u64, u64),
    data: bool,
    trees: bool,
    plain_trees: bool,
    plain_data: bool,
    marked: bool,
    /// It is not stored, or not with the size that the index says.
    unfit: bool,
}

impl PackInfo {
    fn mixed(&self) -> bool {
        self.data && self.trees
    }

    fn size(&self) -> u64 {
        self.used.1 + self.duplicate.1 + self.unused.1 + FIXED_OVERHEAD as u64
    }

    fn waste(&self) -> u64 {
        self.duplicate.1 + self.unused.1
    }

    fn blobs(&self) -> u64 {
        self.used.0 + self.duplicate.0 + self.unused.0
    }
}

fn add(sum: &mut (u64, u64), blob: &PackBlob) {
    sum.0 += 1;
    sum.1 += stored_length(blob);
}

/// Bytes of a blob with its entry in the header.
fn stored_length(blob: &PackBlob) -> u64 {
    u64::from(blob.length) + blob.header_len() as u64
}

pub(super) fn has_copies(index: &Index, kind: BlobKind, id: &Id) -> bool {
    index.get_all(kind, id).nth(1).is_some()
}

impl Plan {
    /// Looks at everything and chooses. Nothing is written. The caller holds a shared lock at least.
    ///
    /// # Errors
    /// When a snapshot or a tree cannot be read, a used blob is in no index, or a pack that is needed is missing or has the
    /// wrong size: then nothing may be deleted.
    pub fn make(
        repository: &Arc<Repository>,
        options: &PruneOptions,
        progress: &dyn MaintenanceProgress,
    ) -> Result<Self> {
        if repository.version() < 2 {
            return Err(Error::ReadOnlyVersion);
        }
        if !options.dry_run && !options.without_snapshots.is_empty() {
            return Err(Error::Other("only a dry run can look at snapshots as if they were gone".to_owned()));
        }
        // Backups go on while we look. What a snapshot needs is listed when the snapshot appears: snapshots first, then the
        // index, or a new one would look damaged. And a pack that appears is no pack that nothing lists: packs first too.
        let listed = repository.snapshot_ids()?;
        let stored = Stored::list(repository)?;
        let mut state = IndexState::default();
        state.load(repository, &index_files(repository)?, &stored, progress)?;
        let index = Arc::new(std::mem::take(&mut state.index));
        let reader = Reader::new(Arc::clone(repository), Arc::clone(&index));
        let used = UsedBlobs::new();
        let mut snapshots = HashSet::new();
        collect_new(&reader, &listed, &options.without_snapshots, &mut snapshots, &used, progress)?;
        drop(reader);
        state.index = Arc::into_inner(index).ok_or_else(|| Error::Other("the index is still in use".to_owned()))?;
        let mut plan = Self {
            repository: Arc::clone(repository),
            options: options.clone(),
            state,
            used,
            snapshots,
            homes: HashMap::new(),
            remove: Vec::new(),
            repack: Vec::new(),
            unlisted: Vec::new(),
            missing: Vec::new(),
            report: PruneReport::default(),
        };
        let packs = plan.survey(&stored);
        plan.choose(packs, &stored)?;
        Ok(plan)
    }

    /// What was chosen.
    #[must_use]
    pub fn stats(&self) -> &PruneStats {
        &self.report.stats
    }

    /// What was done so far.
    #[must_use]
    pub fn report(&self) -> PruneReport {
        self.report
    }

    /// Whether there is anything to delete or to list anew.
    #[must_use]
    pub fn needs_commit(&self) -> bool {
        !self.remove.is_empty()
            || !self.repack.is_empty()
            || !self.unlisted.is_empty()
            || !self.missing.is_empty()
            || self.untidy_index()
    }

    /// Marks, packs in several files, or very many small files.
    fn untidy_index(&self) -> bool {
        let files = self.state.files.values();
        let listed: usize = files.clone().map(|file| file.packs.len()).sum();
        listed > self.state.listed().len() || files.clone().any(|file| file.marks) || self.merges_index()
    }

    /// Whether small index files are put together.
    pub(super) fn merges_index(&self) -> bool {
        self.state.files.values().filter(|file| file.blobs < SMALL_INDEX).count() >= SMALL_INDEXES
    }

    /// Whether an index file is small.
    pub(super) fn is_small(blobs: usize) -> bool {
        blobs < SMALL_INDEX
    }

    /// What is used in each pack. Of several copies of a used blob one gets a home: in a pack that is in order, and of those
    /// in the one with the smallest share of waste, so that copies which a killed prune made are used now.
    fn survey(&mut self, stored: &Stored) -> HashMap<Id, PackInfo> {
        let index = &self.state.index;
        let mut packs: HashMap<Id, PackInfo> = HashMap::new();
        let mut with_copies: HashSet<Id> = HashSet::new();
        for (pack, blob) in index.blobs() {
            let info = packs.entry(pack).or_default();
            let tree = blob.kind == BlobKind::Tree;
            info.trees |= tree;
            info.data |= !tree;
            info.plain_trees |= tree && blob.uncompressed.is_none();
            info.plain_data |= !tree && blob.uncompressed.is_none();
            if !self.used.contains(blob.kind, &blob.id) {
                add(&mut info.unused, &blob);
            } else if has_copies(index, blob.kind, &blob.id) {
                with_copies.insert(pack);
                add(&mut info.duplicate, &blob);
            } else {
                add(&mut info.used, &blob);
            }
        }
        for (pack, info) in &mut packs {
            info.marked = self.state.marked.contains(pack);
            info.unfit = stored.size(pack) != Some(info.size());
        }
        let mut order: Vec<(Id, PackInfo)> =
            with_copies.into_iter().filter_map(|pack| Some((pack, *packs.get(&pack)?))).collect();
        order.sort_by_key(|(pack, info)| {
            let share = info.unused.1 * 1000 / info.size().max(1);
            (info.unfit, info.marked, info.mixed() || info.plain_trees, share, Reverse(info.used.1), stored.order(pack))
        });
        for (pack, _) in order {
            let Some(info) = packs.get_mut(&pack) else { continue };
            info.duplicate = (0, 0);
            for blob in index.pack_blobs(&pack) {
                if !self.used.contains(blob.kind, &blob.id) || !has_copies(index, blob.kind, &blob.id) {
                    continue;
                }
                let key = (blob.kind, blob.id);
                let copies = if let Entry::Vacant(home) = self.homes.entry(key) {
                    home.insert(pack);
                    &mut info.used
                } else {
                    &mut info.duplicate
                };
                add(copies, &blob);
            }
        }
        packs
    }

    /// Which of the packs stay, are copied, or go.
    fn choose(&mut self, packs: HashMap<Id, PackInfo>, stored: &Stored) -> Result<()> {
        let options = &self.options;
        let stats = &mut self.report.stats;
        for (id, size) in stored.iter() {
            if !packs.contains_key(id) {
                self.unlisted.push(*id);
                stats.packfiles.unref += 1;
                stats.bytes.unref += size;
            }
        }
        let large_enough =
            (if options.repack_small { options.pack_size / 5 * 4 } else { options.pack_size / 25 }) as u64;
        let mut candidates: Vec<(Id, PackInfo)> = Vec::new();
        let mut small: Vec<(Id, PackInfo)> = Vec::new();
        for (id, info) in packs {
            stats.blobs.used += info.used.0;
            stats.blobs.duplicate += info.duplicate.0;
            stats.blobs.unused += info.unused.0;
            let overhead = FIXED_OVERHEAD as u64;
            stats.bytes.duplicate += info.duplicate.1;
            if info.used.0 == 0 {
                // Its header goes with it.
                stats.bytes.unused += info.unused.1 + overhead;
                stats.packfiles.unused += 1;
                stats.packfiles.remove += 1;
                stats.blobs.remove += info.blobs();
                stats.bytes.remove += info.size();
                if stored.size(&id).is_some() {
                    self.remove.push(id);
                } else {
                    self.missing.push(id);
                }
                continue;
            }
            stats.bytes.used += info.used.1 + overhead;
            stats.bytes.unused += info.unused.1;
            if info.unfit {
                return Err(unfit(&id, info.size(), stored.size(&id)));
            }
            if info.waste() == 0 {
                stats.packfiles.used += 1;
            } else {
                stats.packfiles.partly_used += 1;
            }
            let plain = info.plain_trees || info.plain_data;
            if plain {
                stats.bytes.uncompressed += info.size();
            }
            let compress = must_compress(&info, options);
            if options.repack_cacheable_only && info.data && !info.trees {
                stats.packfiles.keep += 1;
            } else if info.waste() == 0 && !info.mixed() && !compress {
                if info.size() >= large_enough {
                    stats.packfiles.keep += 1;
                } else {
                    small.push((id, info));
                }
            } else {
                candidates.push((id, info));
            }
        }
        if small.len() < SMALL_PACKS {
            stats.packfiles.keep += small.len() as u64;
        } else {
            candidates.append(&mut small);
        }
        let limit = options.max_unused.bytes(stats.bytes.used);
        candidates.sort_by(|(id_a, a), (id_b, b)| {
            let first = |info: &PackInfo| (info.trees, options.repack_small && info.size() < large_enough);
            let ratio = |one: &PackInfo, other: &PackInfo| u128::from(one.waste()) * u128::from(other.used.1);
            first(b)
                .cmp(&first(a))
                .then_with(|| ratio(b, a).cmp(&ratio(a, b)))
                .then_with(|| stored.order(id_a).cmp(&stored.order(id_b)))
        });
        for (id, info) in candidates {
            let left = stats.bytes.unused + stats.bytes.duplicate - stats.bytes.remove - stats.bytes.repackrm;
            let too_much = options.max_repack_size.is_some_and(|most| stats.bytes.repack + info.size() > most);
            let needed = info.trees || must_compress(&info, options);
            let tolerated = left <= limit && info.size() >= large_enough;
            if too_much || (tolerated && !needed) {
                stats.packfiles.keep += 1;
                continue;
            }
            self.repack.push(id);
            stats.packfiles.repack += 1;
            stats.blobs.repack += info.blobs();
            stats.bytes.repack += info.size();
            stats.blobs.repackrm += info.unused.0 + info.duplicate.0;
            stats.bytes.repackrm += info.waste();
            if info.plain_trees || info.plain_data {
                stats.bytes.uncompressed -= info.size();
            }
        }
        for list in [&mut self.remove, &mut self.repack, &mut self.unlisted, &mut self.missing] {
            stored.sort(list);
        }
        Ok(())
    }
}

/// Plain trees are always compressed, plain data when that is asked for.
fn must_compress(info: &PackInfo, options: &PruneOptions) -> bool {
    info.plain_trees || (options.repack_uncompressed && info.plain_data)
}

/// A pack that is needed and not as it should be.
pub(super) fn unfit(pack: &Id, expected: u64, found: Option<u64>) -> Error {
    let what = match found {
        None => "is not stored".to_owned(),
        Some(size) => format!("is {size} bytes long and should be {expected}"),
    };
    Error::Other(format!(
        "pack {pack} holds what snapshots need, and {what}: nothing was deleted. Run \"backstay check\" to see what is \
         damaged, and \"backstay repair index\" if the pack cannot be brought back"
    ))
}

/// Adds what those of the `listed` snapshots use that are not in `known` yet, and makes them known.
pub(super) fn collect_new(
    reader: &Reader,
    listed: &[Id],
    without: &[Id],
    known: &mut HashSet<Id>,
    used: &UsedBlobs,
    progress: &dyn MaintenanceProgress,
) -> Result<()> {
    let repository = reader.repository();
    let new: Vec<Id> = listed.iter().copied().filter(|id| !known.contains(id) && !without.contains(id)).collect();
    progress.stage("snapshots", new.len() as u64);
    let roots = parking_lot::Mutex::new(Vec::with_capacity(new.len()));
    let threads = repository.store().calls_at_once().clamp(1, 16);
    let numbered: Vec<(usize, Id)> = new.iter().copied().enumerate().collect();
    for_each(&numbered, threads, progress, |(at, id)| {
        let snapshot = repository.load_snapshot(id).map_err(|error| match error {
            Error::Damaged { .. } => Error::Other(format!(
                "{error}: what it needs is not known, so nothing was deleted. If you can do without it, remove it with \
                 \"backstay forget {}\"",
                id.short()
            )),
            other => other,
        })?;
        roots.lock().push((*at, Root { snapshot: *id, tree: snapshot.tree }));
        Ok(())
    })?;
    let mut roots = roots.into_inner();
    roots.sort_unstable_by_key(|(at, _)| *at);
    collect(reader, roots.into_iter().map(|(_, root)| root), used, progress)?;
    known.extend(new);
    Ok(())
}
