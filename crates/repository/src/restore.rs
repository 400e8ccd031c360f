//! Restoring a tree of a snapshot to a directory.
//!
//! First the trees are walked, by several threads: directories are made, what exists already is looked at, and every
//! file's blobs are noted with their places. Then the packs are read, each needed range once, blobs are decrypted,
//! decompressed and verified once and written to every place that needs them. Hard links follow, then `verify` reads
//! everything back, and the directories' own metadata come last, the deepest first.
//!
//! Nothing in the target is followed: every name is opened relative to its directory's descriptor and without following
//! symbolic links, so that a link that somebody planted in the target leads nowhere.

mod contents;
mod metadata;
mod plan;
mod target;
mod verify;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use backstay_core::{FileKind, Id};
use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;
use serde::Serialize;

use crate::error::Error;
use crate::pattern::Patterns;
use crate::reader::{Reader, Result, processors, reading_threads};

/// What happens to a name that exists in the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// It becomes what the snapshot says; blobs that are right already are not written again.
    #[default]
    Always,
    /// A file of the same size and modification time keeps its contents without being read.
    IfChanged,
    /// It stays as it is.
    Never,
}

impl std::str::FromStr for Overwrite {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "always" => Ok(Self::Always),
            "if-changed" => Ok(Self::IfChanged),
            "never" => Ok(Self::Never),
            _ => Err(Error::Other(format!("{text:?} is no way to overwrite: always, if-changed and never are"))),
        }
    }
}

/// What to restore, and how.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// The directory that takes the contents of the tree. It is made where it does not exist.
    pub target: PathBuf,
    /// Restore only what these patterns match (see [`crate::pattern`]); empty: everything.
    pub include: Vec<String>,
    /// The same without regard to upper and lower case.
    pub iinclude: Vec<String>,
    /// Leave out what these patterns match.
    pub exclude: Vec<String>,
    /// The same without regard to upper and lower case.
    pub iexclude: Vec<String>,
    /// What happens to names that exist.
    pub overwrite: Overwrite,
    /// Remove from restored directories what the snapshot does not have.
    pub delete: bool,
    /// Read every restored file again and compare it with the snapshot.
    pub verify: bool,
    /// Change nothing, only say what would be done.
    pub dry_run: bool,
    /// Leave out `/.backstay` of a snapshot's root.
    pub skip_internal: bool,
    /// Number of threads that compute and write; none: one per processor, at least two. More of them read where each call
    /// waits for a network.
    pub threads: Option<usize>,
}

/// What was done about a name, for a verbose listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreAction {
    /// It was made or written.
    Restored,
    /// It was there as it should be.
    Unchanged,
    /// It exists and is kept: [`Overwrite::Never`].
    Kept,
    /// It was removed.
    Deleted,
}

/// Is told how a restore goes on; the calls come from several threads.
pub trait RestoreProgress: Sync {
    /// How much there is to do, once that is known: names and bytes.
    fn planned(&self, files: u64, bytes: u64) {
        let _ = (files, bytes);
    }
    /// That many more names and bytes are done (or skipped).
    fn advanced(&self, files: u64, bytes: u64) {
        let _ = (files, bytes);
    }
    /// What became of a name. The path starts with `/` at the restored tree.
    fn item(&self, action: RestoreAction, path: &[u8], size: u64) {
        let _ = (action, path, size);
    }
    /// A name could not be restored (whole).
    fn error(&self, path: &[u8], message: &str) {
        let _ = (path, message);
    }
    /// Whether the restore shall stop.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Nobody wants to know.
impl RestoreProgress for () {}

/// A name that was not restored, or not whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreFailure {
    /// Its path: starts with `/` at the restored tree, exact bytes.
    pub path: Vec<u8>,
    /// Why.
    pub message: String,
}

/// What a restore did (reference 19.2, `restore summary`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RestoreReport {
    /// Names that were chosen, directories too.
    pub total_files: u64,
    /// Names that were restored.
    pub files_restored: u64,
    /// Names that were right already or are kept.
    pub files_skipped: u64,
    /// Names that were removed.
    pub files_deleted: u64,
    /// Bytes of the chosen files.
    pub total_bytes: u64,
    /// Bytes that were written.
    pub bytes_restored: u64,
    /// Bytes that were there already.
    pub bytes_skipped: u64,
    /// Files that `verify` read and found right.
    #[serde(skip)]
    pub files_verified: u64,
    /// Names whose owner could not be set because the process is not root. Not an error.
    #[serde(skip)]
    pub owners_refused: u64,
    /// Extended attributes that the target's file system cannot hold. Not an error.
    #[serde(skip)]
    pub xattrs_unsupported: u64,
    /// What failed. Empty means: everything that was chosen is there, whole.
    #[serde(skip)]
    pub errors: Vec<RestoreFailure>,
}

#[derive(Default)]
struct Counters {
    total_files: AtomicU64,
    total_bytes: AtomicU64,
    files_restored: AtomicU64,
    files_skipped: AtomicU64,
    files_deleted: AtomicU64,
    bytes_restored: AtomicU64,
    bytes_skipped: AtomicU64,
    files_verified: AtomicU64,
    owners_refused: AtomicU64,
    xattrs_unsupported: AtomicU64,
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

/// What patterns choose.
struct Filter {
    include: Patterns,
    exclude: Patterns,
}

impl Filter {
    /// Whether the name itself is restored, and whether a directory of that name is looked into.
    fn select(&self, path: &[u8]) -> (bool, bool) {
        if self.exclude.matches(path) {
            return (false, false);
        }
        if self.include.is_empty() || self.include.matches(path) {
            return (true, true);
        }
        (false, self.include.may_match_below(path))
    }
}

/// One restore while it runs: what all its threads share.
struct Run<'a> {
    reader: &'a Reader,
    options: &'a RestoreOptions,
    progress: &'a dyn RestoreProgress,
    filter: Filter,
    counters: Counters,
    errors: Mutex<Vec<RestoreFailure>>,
    stop: Mutex<Option<String>>,
    stopped: AtomicBool,
    root_user: bool,
    user: u32,
    group: u32,
}

impl Run<'_> {
    /// Notes that a name failed.
    fn fail(&self, path: &[u8], message: impl Into<String>) {
        let message = message.into();
        self.progress.error(path, &message);
        self.errors.lock().push(RestoreFailure { path: path.to_vec(), message });
    }

    /// Notes that a name failed; where the target cannot take anything any more, the restore stops.
    fn fail_io(&self, path: &[u8], what: &str, error: Errno) {
        self.fail(path, self.io_text(path, what, error));
    }

    /// What the operating system said; where the target cannot take anything any more, the restore stops.
    fn io_text(&self, path: &[u8], what: &str, error: Errno) -> String {
        let error_text = std::io::Error::from(error);
        if matches!(error, Errno::NOSPC | Errno::DQUOT | Errno::ROFS) {
            let shown = String::from_utf8_lossy(path).into_owned();
            self.stop(format!("the target is full or read-only: {what} {shown:?}: {error_text}"));
        }
        format!("{what}: {error_text}")
    }

    fn stop(&self, reason: String) {
        self.stop.lock().get_or_insert(reason);
        self.stopped.store(true, Ordering::Release);
    }

    /// Whether every thread shall come to its end.
    fn stopping(&self) -> bool {
        if self.stopped.load(Ordering::Acquire) {
            return true;
        }
        if self.progress.cancelled() {
            self.stop("it was interrupted".to_owned());
            return true;
        }
        false
    }

    fn check_stop(&self) -> Result<()> {
        if !self.stopping() {
            return Ok(());
        }
        let reason = self.stop.lock().clone().unwrap_or_default();
        let done = self.counters.files_restored.load(Ordering::Relaxed);
        let total = self.counters.total_files.load(Ordering::Relaxed);
        Err(Error::Other(format!("the restore stopped after {done} of at least {total} names: {reason}")))
    }

    /// Counts a name that is restored whole.
    fn restored(&self, path: &[u8], size: u64) {
        add(&self.counters.files_restored, 1);
        self.progress.advanced(1, 0);
        self.progress.item(RestoreAction::Restored, path, size);
    }

    /// Counts a name that stays as it is.
    fn skipped(&self, action: RestoreAction, path: &[u8], size: u64) {
        add(&self.counters.files_skipped, 1);
        add(&self.counters.bytes_skipped, size);
        self.progress.advanced(1, size);
        self.progress.item(action, path, size);
    }

    /// How many threads compute and write.
    fn workers(&self) -> usize {
        self.options.threads.unwrap_or_else(processors).max(1)
    }

    /// How many threads read from the store.
    fn readers(&self) -> usize {
        self.workers().max(reading_threads(&**self.reader.repository().store()))
    }

    /// Runs `work` on every thread and waits for all of them. A thread that panicked stops the restore.
    fn on_threads(&self, count: usize, work: impl Fn() + Sync) {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..count).map(|_| scope.spawn(&work)).collect();
            for thread in threads {
                if thread.join().is_err() {
                    self.stop("a thread of the restore failed; this is a defect of Backstay".to_owned());
                }
            }
        });
    }
}

/// What a thread needs while it computes and writes: buffers and open directories. There are as many as threads may do
/// that at once; the others read from the store meanwhile, or wait.
struct Benches<T> {
    free: Mutex<Vec<T>>,
    freed: Condvar,
}

impl<T> Benches<T> {
    fn new(count: usize, make: impl Fn() -> T) -> Self {
        Self { free: Mutex::new((0..count).map(|_| make()).collect()), freed: Condvar::new() }
    }

    /// Waits for a free one.
    fn take(&self) -> Bench<'_, T> {
        let mut free = self.free.lock();
        loop {
            if let Some(bench) = free.pop() {
                return Bench { benches: self, bench: Some(bench) };
            }
            self.freed.wait(&mut free);
        }
    }
}

/// A bench in use.
struct Bench<'a, T> {
    benches: &'a Benches<T>,
    bench: Option<T>,
}

impl<T> Bench<'_, T> {
    fn work<R>(&mut self, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.bench.as_mut().map(work)
    }
}

impl<T> Drop for Bench<'_, T> {
    /// Also after a panic: others wait for it.
    fn drop(&mut self) {
        self.benches.free.lock().extend(self.bench.take());
        self.benches.freed.notify_one();
    }
}

/// Restores the contents of the directory at `subpath` of the tree `root` into the target directory. A `subpath` that is
/// no directory is restored under its own name. An empty one means everything.
///
/// A name that fails is in the report and the rest is restored; whoever calls must not claim success unless
/// [`RestoreReport::errors`] is empty. A file that failed keeps no modification time of the snapshot, so that a second
/// restore does not take it for whole.
///
/// # Errors
/// Patterns that are none, a target that cannot be made or has no room left, a root tree that cannot be read, and
/// [`RestoreProgress::cancelled`]: then nothing is claimed to be whole.
pub fn restore(
    reader: &Reader,
    root: &Id,
    subpath: &[u8],
    options: &RestoreOptions,
    progress: &dyn RestoreProgress,
) -> Result<RestoreReport> {
    let pattern = |error: crate::pattern::PatternError| Error::Other(error.to_string());
    let filter = Filter {
        include: Patterns::new(&options.include, &options.iinclude).map_err(pattern)?,
        exclude: Patterns::new(&options.exclude, &options.iexclude).map_err(pattern)?,
    };
    let (base, single) = start(reader, root, subpath)?;
    if options.delete
        && filter.include.is_empty()
        && std::fs::canonicalize(&options.target).is_ok_and(|at| at.parent().is_none())
    {
        return Err(Error::Other(
            "deleting in the root directory needs an include pattern that says what may go".to_owned(),
        ));
    }
    let run = Run {
        reader,
        options,
        progress,
        filter,
        counters: Counters::default(),
        errors: Mutex::default(),
        stop: Mutex::default(),
        stopped: AtomicBool::new(false),
        root_user: rustix::process::geteuid().is_root(),
        user: rustix::process::geteuid().as_raw(),
        group: rustix::process::getegid().as_raw(),
    };
    let directories = target::Directories::open(&run)?;
    let at_root = subpath.iter().all(|byte| *byte == b'/');
    let plan = plan::make(&run, &directories, base, single, at_root)?;
    run.check_stop()?;
    let (files, bytes) = (&run.counters.total_files, &run.counters.total_bytes);
    progress.planned(files.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed));
    if !options.dry_run {
        let mut plan = plan;
        contents::write(&run, &directories, &mut plan);
        run.check_stop()?;
        plan::make_links(&run, &directories, &plan);
        run.check_stop()?;
        if options.verify {
            verify::verify(&run, &directories, &mut plan);
            run.check_stop()?;
        }
        directories.finish(&run);
        run.check_stop()?;
    }
    let mut errors = run.errors.into_inner();
    errors.sort_by(|one, other| one.path.cmp(&other.path));
    let counters = &run.counters;
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Ok(RestoreReport {
        total_files: get(&counters.total_files),
        files_restored: get(&counters.files_restored),
        files_skipped: get(&counters.files_skipped),
        files_deleted: get(&counters.files_deleted),
        total_bytes: get(&counters.total_bytes),
        bytes_restored: get(&counters.bytes_restored),
        bytes_skipped: get(&counters.bytes_skipped),
        files_verified: get(&counters.files_verified),
        owners_refused: get(&counters.owners_refused),
        xattrs_unsupported: get(&counters.xattrs_unsupported),
        errors,
    })
}

/// The tree whose contents are restored, or the one node that is.
fn start(reader: &Reader, root: &Id, subpath: &[u8]) -> Result<(Option<Id>, Option<crate::tree::Node>)> {
    if subpath.iter().all(|byte| *byte == b'/') {
        return Ok((Some(*root), None));
    }
    match reader.node_at(root, subpath)? {
        Some(node) if node.kind != FileKind::Directory => Ok((None, Some(node))),
        _ => Ok((Some(reader.tree_at(root, subpath)?), None)),
    }
}
