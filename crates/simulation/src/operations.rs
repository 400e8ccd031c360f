//! The operations, each as the command line does it: open the repository, lock it, call the library.

use std::path::Path;
use std::sync::{Arc, Mutex};

use backstay_core::{
    CancelReason, Id, Job, MessageLevel, ObjectKind, Outcome, Source, Store, StoreErrorKind, Tally, Time,
};
use backstay_engine::backup::{BackupOptions, BackupReport, ParentChoice, backup};
use backstay_engine::ledgers::EngineLedgers;
use backstay_engine::tree::{Change, Observer, TreeOptions};
use backstay_repository::check::{CheckOptions, ReadData, check};
use backstay_repository::error::Error;
use backstay_repository::keyfile::KdfParams;
use backstay_repository::lock::LockTimes;
use backstay_repository::maintenance::copy::{Copied, copy};
use backstay_repository::maintenance::forget::{ForgetOptions, KeepCount, Policy, forget};
use backstay_repository::maintenance::keys::{NewKey, add_key, change_password, remove_key};
use backstay_repository::maintenance::merge::{MergeOptions, merge};
use backstay_repository::maintenance::prune::{MaxUnused, PruneOptions, PruneReport, prune};
use backstay_repository::maintenance::repair_index::{RepairIndexOptions, repair_index};
use backstay_repository::maintenance::repair_packs::repair_packs;
use backstay_repository::maintenance::repair_snapshots::{RepairSnapshotsOptions, repair_snapshots};
use backstay_repository::maintenance::rewrite::{ChangeReport, Keep, RewriteOptions, rewrite};
use backstay_repository::maintenance::tag::{TagChange, change_tags};
use backstay_repository::repository::OpenOptions;
use backstay_repository::snapshot::Snapshot;
use backstay_repository::{InitOptions, Repository, WriteOptions};
use backstay_stores::faults::{FaultPoint, Verb};

use crate::bugs::Bug;
use crate::host::{HostSource, Script, Shared};
use crate::model;

const PASSWORD: &str = "simulation";
/// It is little work to try a password.
const KDF: KdfParams = KdfParams { log_n: 2, r: 1, p: 1 };

/// Where the operations work: an operation's own views of the stores, and the first keys of their repositories.
#[derive(Clone, Debug)]
pub struct Places {
    /// The repository that everybody uses.
    pub here: (Arc<dyn Store>, Id),
    /// The one that is copied to.
    pub there: (Arc<dyn Store>, Id),
}

/// What an operation is to do.
#[derive(Clone, Debug)]
pub enum Work {
    /// A backup of one host.
    Backup {
        /// The host's number.
        host: usize,
        /// What its source does.
        script: Script,
        /// What it did.
        expected: Shared,
        /// Whether the source has a ledger.
        ledger: bool,
        /// Keep what a dead source had announced.
        save_partial: bool,
        /// Write no snapshot that equals its parent.
        skip_if_unchanged: bool,
        /// The snapshot's time, which is also its name in the simulation.
        time: i64,
        /// Bytes in a pack.
        pack_size: usize,
    },
    /// Reads a snapshot.
    Read(Id),
    /// A check, of the packs' contents too or not, alone or beside others.
    Check {
        /// Every pack is read.
        read_data: bool,
        /// Under the exclusive lock.
        exclusive: bool,
    },
    /// Keeps so many of the newest snapshots of each host.
    Forget(u32),
    /// Gives back the room of what nobody needs.
    Prune {
        /// Percent of the room that may stay unused.
        max_unused: u32,
        /// Small packs are copied together.
        repack_small: bool,
        /// Bytes in a pack.
        pack_size: usize,
    },
    /// Removes stale locks.
    Unlock,
    /// Gives a snapshot another tag.
    Tag {
        /// The snapshot.
        target: Id,
        /// The tag, which no snapshot has.
        tag: String,
    },
    /// Makes a snapshot anew without some of its files.
    Rewrite {
        /// The snapshot.
        target: Id,
        /// What is left out.
        without: Vec<u8>,
        /// The old one goes.
        forget: bool,
        /// The new snapshot's time.
        time: i64,
    },
    /// Merges snapshots.
    Merge {
        /// The snapshots.
        targets: Vec<Id>,
        /// The old ones go.
        forget: bool,
        /// The new snapshot's time.
        time: i64,
    },
    /// Copies all snapshots to another repository.
    Copy {
        /// Bytes in a pack.
        pack_size: usize,
    },
    /// Makes an index right that is right.
    RepairIndex {
        /// The header of every pack is read.
        read_all_packs: bool,
    },
    /// Saves what is whole in a pack that is whole: the how manieth in the order of the store's list, modulo their number.
    RepairPacks(usize),
    /// Takes what cannot be read out of snapshots that can be read.
    RepairSnapshots {
        /// Changed ones go.
        forget: bool,
    },
    /// Changes who may open the repository.
    Key(KeyWork),
}

/// What happens to the keys.
#[derive(Clone, Debug)]
pub enum KeyWork {
    /// A key with a new password.
    Add(String),
    /// This key goes.
    Remove {
        /// Its id.
        key: Id,
        /// Its password.
        password: String,
    },
    /// This key gets another password.
    Passwd {
        /// Its id.
        key: Id,
        /// Its password.
        old: String,
        /// Its next one.
        new: String,
    },
}

impl Work {
    /// Its name in logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Backup { .. } => "backup",
            Self::Read(_) => "read",
            Self::Check { .. } => "check",
            Self::Forget(_) => "forget",
            Self::Prune { .. } => "prune",
            Self::Unlock => "unlock",
            Self::Tag { .. } => "tag",
            Self::Rewrite { .. } => "rewrite",
            Self::Merge { .. } => "merge",
            Self::Copy { .. } => "copy",
            Self::RepairIndex { .. } => "repair index",
            Self::RepairPacks(_) => "repair packs",
            Self::RepairSnapshots { .. } => "repair snapshots",
            Self::Key(KeyWork::Add(_)) => "key add",
            Self::Key(KeyWork::Remove { .. }) => "key remove",
            Self::Key(KeyWork::Passwd { .. }) => "key passwd",
        }
    }
}

impl Work {
    /// Whether the point lies on the way of this operation, and not on everybody's where it has some of its own.
    #[must_use]
    pub fn reaches(&self, point: &FaultPoint) -> bool {
        match (self, point.verb, point.kind) {
            (Self::Forget(_), verb, kind) => verb == Verb::Delete && kind == ObjectKind::Snapshot,
            (Self::Prune { .. }, verb, kind) => {
                verb == Verb::Delete && matches!(kind, ObjectKind::Index | ObjectKind::Pack)
            }
            (Self::RepairIndex { .. } | Self::RepairPacks(_), verb, kind) => {
                matches!(verb, Verb::Put | Verb::Delete) && matches!(kind, ObjectKind::Index | ObjectKind::Pack)
            }
            (Self::Tag { .. } | Self::Rewrite { .. } | Self::Merge { .. }, verb, kind) => {
                verb == Verb::Put || (verb == Verb::Delete && kind == ObjectKind::Snapshot)
            }
            (Self::Backup { .. }, Verb::Put, _) => true,
            (_, verb, kind) => verb != Verb::Put && verb != Verb::Delete || kind == ObjectKind::Lock,
        }
    }
}

/// What an operation came to.
#[derive(Clone, Debug)]
pub enum Done {
    /// A backup.
    Backup(Box<BackupReport>, Tally),
    /// Anything else, in words without ids.
    Words(String),
}

/// Why an operation did not come to its end.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// It said so itself.
    Refused(Error),
    /// It did what it must never do.
    Wrong(String),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// A job that nobody cancels.
#[derive(Debug)]
struct PlainJob;

impl Job for PlainJob {
    fn id(&self) -> u32 {
        1
    }
    fn message(&self, _level: MessageLevel, _source: &str, _text: &str) {}
    fn cancelled(&self) -> Option<CancelReason> {
        None
    }
}

/// Counts what it is told, apart from the engine's own count.
#[derive(Debug, Default)]
struct Told(Mutex<Tally>);

impl Observer for Told {
    fn entry(&self, _path: &[u8], outcome: &Outcome, _kind: backstay_core::FileKind, _size: u64, _change: Change) {
        if let Ok(mut tally) = self.0.lock() {
            tally.count(outcome);
        }
    }
    fn bytes(&self, _count: u64) {}
    fn current(&self, _path: &[u8]) {}
}

fn lock_times() -> LockTimes {
    LockTimes { settle: std::time::Duration::ZERO, ..LockTimes::default() }
}

/// Makes a repository, and returns its first key, which nobody removes.
///
/// # Errors
/// The library's.
pub fn init(store: Arc<dyn Store>) -> Result<Id, Error> {
    let options = InitOptions { kdf: KDF, ..InitOptions::default() };
    Repository::init(store, PASSWORD.as_bytes(), options).map(|repository| repository.key_id())
}

/// Opens a repository as a process of its own does, with its first key.
///
/// # Errors
/// The library's.
pub fn open(store: Arc<dyn Store>, key: &Id) -> Result<Arc<Repository>, Error> {
    open_with(store, PASSWORD, Some(key))
}

/// The same with another password, and the key that it is tried with first.
///
/// # Errors
/// The library's.
pub fn open_with(store: Arc<dyn Store>, password: &str, key: Option<&Id>) -> Result<Arc<Repository>, Error> {
    // Which key is tried first must not depend on how the ids are sorted: they differ in each run.
    let key_hint = key.map(Id::to_hex);
    let options = OpenOptions { lock_times: lock_times(), in_turn: true, key_hint, ..OpenOptions::default() };
    Repository::open_with(store, password.as_bytes(), &options).map(Arc::new)
}

/// The name of a simulated host.
#[must_use]
pub fn host_name(host: usize) -> String {
    format!("host-{host}")
}

/// Does the work.
///
/// # Errors
/// [`Trouble`].
pub fn run(work: Work, places: Places, bug: Option<Bug>) -> Result<Done, Trouble> {
    let Places { here: (store, key), there } = places;
    let store = bug.map_or(Arc::clone(&store), |bug| bug.in_store(store));
    let repository = open(Arc::clone(&store), &key)?;
    match work {
        Work::Backup { host, script, expected, ledger, save_partial, skip_if_unchanged, time, pack_size } => {
            let options = BackupOptions {
                paths: Vec::new(),
                tree: TreeOptions::default(),
                host: host_name(host),
                username: "simulation".to_owned(),
                tags: Vec::new(),
                time: point(time),
                parent: ParentChoice::Newest,
                skip_if_unchanged,
                dry_run: false,
                save_partial,
                retry_lock: None,
                write: WriteOptions { pack_size, threads: 1, ..WriteOptions::default() },
            };
            let source: Box<dyn Source> = Box::new(HostSource::new(script, expected, ledger));
            let source = match bug {
                Some(bug) => bug.in_source(source),
                None => source,
            };
            let told = Told::default();
            let report = backup(&repository, &options, &mut [source], &PlainJob, &told)?;
            let told = told.0.into_inner().map_err(|_| Trouble::Wrong("an observer panicked".to_owned()))?;
            Ok(Done::Backup(Box::new(report), told))
        }
        Work::Read(id) => read(&repository, &id),
        Work::Check { read_data, exclusive } => {
            let _lock = repository.lock(exclusive, None)?;
            let read_data = if read_data { ReadData::All } else { ReadData::None };
            let report = check(&repository, CheckOptions { read_data, threads: Some(1) }, &())?;
            match report.errors.first() {
                None => Ok(Done::Words("sound".to_owned())),
                Some(error) => Err(Trouble::Wrong(format!("check found: {error}"))),
            }
        }
        Work::Forget(keep) => {
            let _lock = repository.lock(true, None)?;
            let policy = Policy { last: KeepCount::Newest(keep), ..Policy::default() };
            let report = forget(&repository, &ForgetOptions { policy, ..ForgetOptions::default() }, &())?;
            match report.failed.into_iter().next() {
                None => Ok(Done::Words(format!("{} forgotten", report.removed.len()))),
                Some((_, error)) => Err(error.into()),
            }
        }
        Work::Prune { max_unused, repack_small, pack_size } => {
            let options = PruneOptions {
                max_unused: MaxUnused::Percent(max_unused.into()),
                repack_small,
                pack_size,
                ..PruneOptions::default()
            };
            let report = prune(&repository, &options, &(), &mut |_| {})?;
            let PruneReport { copied_bytes, deleted_packs, kept_back, .. } = report;
            let copied = if copied_bytes > 0 { "copied, " } else { "" };
            Ok(Done::Words(format!("{copied}{deleted_packs} packs deleted, {kept_back} kept back")))
        }
        Work::Unlock => {
            let mut removed = 0;
            for (id, info) in repository.locks()? {
                if info.is_stale() {
                    repository.store().delete(ObjectKind::Lock, &id).map_err(Error::from)?;
                    removed += 1;
                }
            }
            Ok(Done::Words(format!("{removed} locks removed")))
        }
        Work::Tag { target, tag } => {
            let _lock = repository.lock(true, None)?;
            let Some(list) = load(&repository, &[target])? else { return Ok(gone()) };
            let change = TagChange { add: vec![tag], ..TagChange::default() };
            let count = change_tags(&repository, list, &change, &(), &mut |_, _| {})?;
            Ok(Done::Words(format!("{count} tagged")))
        }
        Work::Rewrite { target, without, forget, time } => {
            let _lock = repository.lock(forget, None)?;
            let Some(list) = load(&repository, &[target])? else { return Ok(gone()) };
            let keep = |path: &[u8], _: bool| if path == without { Keep::No } else { Keep::Yes };
            let time = Some(point(time));
            let options = RewriteOptions { keep: Some(&keep), time, forget, ..RewriteOptions::default() };
            changes(rewrite(&repository, list, &options, &EngineLedgers, &())?)
        }
        Work::Merge { targets, forget, time } => {
            let _lock = repository.lock(forget, None)?;
            let Some(list) = load(&repository, &targets)? else { return Ok(gone()) };
            let options = MergeOptions { forget, time: Some(point(time)), ..MergeOptions::default() };
            let report = merge(&repository, list, options, &EngineLedgers, &())?;
            let files = report.summary.total_files_processed;
            Ok(Done::Words(format!("{files} files, {} ledgers dropped", report.dropped.len())))
        }
        Work::Copy { pack_size } => {
            let target = open(there.0, &there.1)?;
            let _there = target.lock(false, None)?;
            let _here = repository.lock(false, None)?;
            let list = repository.snapshots()?;
            let options = WriteOptions { pack_size, threads: 1, ..WriteOptions::default() };
            let report = copy(&repository, &target, list, options, &())?;
            let (mut new, mut known) = (0, 0);
            for one in report.snapshots {
                match one {
                    Copied::New { .. } => new += 1,
                    Copied::Known { .. } => known += 1,
                    Copied::Failed { error, .. } => return Err(error.into()),
                }
            }
            Ok(Done::Words(format!("{new} copied, {known} known")))
        }
        Work::RepairIndex { read_all_packs } => {
            let _lock = repository.lock(true, None)?;
            let report = repair_index(&repository, RepairIndexOptions { read_all_packs }, &())?;
            match report.unreadable.first() {
                None => Ok(Done::Words(format!("{} packs added", report.added.len()))),
                Some((pack, reason)) => Err(Trouble::Wrong(format!("pack {pack} is unreadable: {reason}"))),
            }
        }
        Work::RepairPacks(which) => repair_pack(&repository, which),
        Work::RepairSnapshots { forget } => {
            let _lock = repository.lock(true, None)?;
            let list = repository.snapshots()?;
            let options = RepairSnapshotsOptions { forget, dry_run: false };
            let report = repair_snapshots(&repository, list, options, &EngineLedgers, &())?;
            match report.changed.first() {
                None => changes(report),
                Some(one) => Err(Trouble::Wrong(format!("snapshot {} was sound and was changed", one.old))),
            }
        }
        Work::Key(work) => change_keys(work, &repository, store),
    }
}

/// Loads snapshots; none if one of them was forgotten since it was chosen.
fn load(repository: &Repository, ids: &[Id]) -> Result<Option<Vec<(Id, Snapshot)>>, Error> {
    let mut list = Vec::new();
    for id in ids {
        match repository.load_snapshot(id) {
            Ok(snapshot) => list.push((*id, snapshot)),
            Err(Error::Store(error)) if error.kind == StoreErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(list))
}

fn gone() -> Done {
    Done::Words("a snapshot is gone".to_owned())
}

fn point(seconds: i64) -> Time {
    Time { seconds, nanoseconds: 0 }
}

/// What a change of several snapshots came to; none of them may have failed.
fn changes(report: ChangeReport) -> Result<Done, Trouble> {
    let ChangeReport { changed, unchanged, failed } = report;
    match failed.into_iter().next() {
        Some((_, error)) => Err(error.into()),
        None => {
            let dropped: usize = changed.iter().map(|one| one.dropped.len()).sum();
            Ok(Done::Words(format!("{} changed, {unchanged} not, {dropped} ledgers dropped", changed.len())))
        }
    }
}

fn change_keys(work: KeyWork, repository: &Arc<Repository>, store: Arc<dyn Store>) -> Result<Done, Trouble> {
    let new = NewKey { kdf: KDF, ..NewKey::default() };
    let words = match work {
        KeyWork::Add(password) => {
            let _lock = repository.lock(false, None)?;
            add_key(repository, password.as_bytes(), &new)?;
            "a key added"
        }
        KeyWork::Remove { key, .. } => {
            let _lock = repository.lock(true, None)?;
            remove_key(repository, &key.to_hex())?;
            "a key removed"
        }
        KeyWork::Passwd { key, old, new: password } => {
            let repository = open_with(store, &old, Some(&key))?;
            let _lock = repository.lock(true, None)?;
            change_password(&repository, password.as_bytes(), &new)?;
            "a password changed"
        }
    };
    Ok(Done::Words(words.to_owned()))
}

fn repair_pack(repository: &Arc<Repository>, which: usize) -> Result<Done, Trouble> {
    let _lock = repository.lock(true, None)?;
    let packs = repository.store().list(ObjectKind::Pack).map_err(Error::from)?;
    let Some((pack, _)) = which.checked_rem(packs.len()).and_then(|at| packs.get(at)) else {
        return Ok(Done::Words("no pack".to_owned()));
    };
    // A place of its own for the copy that it keeps; in memory where there is one.
    let base = Path::new("/dev/shm");
    let base = if base.is_dir() { base.to_owned() } else { std::env::temp_dir() };
    let folder = base.join(format!("backstay-simulation-{}-{}", std::process::id(), pack.to_hex()));
    std::fs::create_dir(&folder).map_err(|error| Error::io("no place for a copy", error))?;
    let result = repair_packs(repository, &[*pack], &folder, &());
    std::fs::remove_dir_all(&folder).map_err(|error| Error::io("the copy cannot be removed", error))?;
    let report = result?;
    match report.lost.first() {
        None => Ok(Done::Words(format!("{} blobs saved", report.salvaged))),
        Some(lost) => Err(Trouble::Wrong(format!("blob {} was lost: {}", lost.id, lost.reason))),
    }
}

/// Reads one snapshot whole and compares it with what it must be, as a restore does under its lock.
fn read(repository: &Arc<Repository>, id: &Id) -> Result<Done, Trouble> {
    let _lock = repository.lock(false, None)?;
    let Some(list) = load(repository, &[*id])? else { return Ok(gone()) };
    let [(_, snapshot)] = &list[..] else { return Ok(gone()) };
    let index = Arc::new(repository.load_index()?);
    let contents = model::read(repository, &index, snapshot)?;
    Ok(Done::Words(format!("{} files read", contents.files.len())))
}
