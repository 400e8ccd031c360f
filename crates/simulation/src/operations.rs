//! The operations, each as the command line does it: open the repository, lock it, call the library.

use std::sync::{Arc, Mutex};

use backstay_core::{CancelReason, Id, Job, MessageLevel, ObjectKind, Outcome, Source, Store, Tally, Time};
use backstay_engine::backup::{BackupOptions, BackupReport, ParentChoice, backup};
use backstay_engine::tree::{Change, Observer, TreeOptions};
use backstay_repository::check::{CheckOptions, ReadData, check};
use backstay_repository::error::Error;
use backstay_repository::keyfile::KdfParams;
use backstay_repository::lock::LockTimes;
use backstay_repository::maintenance::forget::{ForgetOptions, KeepCount, Policy, forget};
use backstay_repository::maintenance::prune::{MaxUnused, PruneOptions, PruneReport, prune};
use backstay_repository::repository::OpenOptions;
use backstay_repository::{InitOptions, Repository, WriteOptions};
use backstay_stores::faults::{FaultPoint, Verb};

use crate::bugs::Bug;
use crate::host::{HostSource, Script, Shared};
use crate::model;

const PASSWORD: &[u8] = b"simulation";

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
    /// Reads a snapshot: the how manieth in the order of the store's list, modulo their number.
    Read(usize),
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

/// Makes the repository.
///
/// # Errors
/// The library's.
pub fn init(store: Arc<dyn Store>) -> Result<(), Error> {
    let options = InitOptions { kdf: KdfParams { log_n: 2, r: 1, p: 1 }, ..InitOptions::default() };
    Repository::init(store, PASSWORD, options).map(|_| ())
}

/// Opens the repository as a process of its own does.
///
/// # Errors
/// The library's.
pub fn open(store: Arc<dyn Store>) -> Result<Arc<Repository>, Error> {
    let options = OpenOptions { lock_times: lock_times(), in_turn: true, ..OpenOptions::default() };
    Repository::open_with(store, PASSWORD, &options).map(Arc::new)
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
pub fn run(work: Work, store: Arc<dyn Store>, bug: Option<Bug>) -> Result<Done, Trouble> {
    let store = bug.map_or(Arc::clone(&store), |bug| bug.in_store(store));
    let repository = open(store)?;
    match work {
        Work::Backup { host, script, expected, ledger, save_partial, skip_if_unchanged, time, pack_size } => {
            let options = BackupOptions {
                paths: Vec::new(),
                tree: TreeOptions::default(),
                host: host_name(host),
                username: "simulation".to_owned(),
                tags: Vec::new(),
                time: Time { seconds: time, nanoseconds: 0 },
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
        Work::Read(which) => read(&repository, which),
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
    }
}

/// Reads one snapshot whole and compares it with what it must be, as a restore does under its lock.
fn read(repository: &Arc<Repository>, which: usize) -> Result<Done, Trouble> {
    let _lock = repository.lock(false, None)?;
    let ids: Vec<Id> = repository.snapshot_ids()?;
    let Some(id) = which.checked_rem(ids.len()).and_then(|at| ids.get(at)) else {
        return Ok(Done::Words("no snapshot".to_owned()));
    };
    let snapshot = repository.load_snapshot(id)?;
    let index = Arc::new(repository.load_index()?);
    let contents = model::read(repository, &index, &snapshot)?;
    Ok(Done::Words(format!("{} files read", contents.files.len())))
}
