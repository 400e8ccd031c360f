//! A backup: from its sources to a snapshot, and the verdict that the snapshot may claim.
//!
//! The order makes every moment safe: lock, index, contents and trees, index files, and only then the snapshot. A job
//! that ends before the snapshot leaves nothing that anybody can see. May use: core, repository.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use backstay_core::{
    End, Fatal, FileKind, Id, Job, Level, MessageLevel, Source, SourceInfo, Start, Tally, Time, Verdict,
};
use backstay_repository::assemble::{Assembler, Misfit};
use backstay_repository::error::Error;
use backstay_repository::index::Index;
use backstay_repository::lock::Lock;
use backstay_repository::pack::BlobKind;
use backstay_repository::reader::Reader;
use backstay_repository::repository::Repository;
use backstay_repository::snapshot::{PROGRAM_VERSION, Snapshot, SnapshotFilter, SnapshotTime, Summary};
use backstay_repository::tree::Node;
use backstay_repository::writer::{WriteOptions, Writer};
use parking_lot::Mutex;

use crate::ingest::{SourceIngest, SourceResult};
use crate::job::Listening;
use crate::ledger::{CONTENT_FILE, INTERNAL_DIRECTORY, LEDGER_FILE, LedgerHeader, LedgerWriter};
use crate::offers::{Desk, Offers, Turn};
use crate::reference::{chain, find_reference, is_of, start};
use crate::tree::{Observer, TreeError, TreeOptions, TreeReport, absolute, back_up_tree};

pub use backstay_repository::snapshot::PARTIAL_TAG;

/// Between two looks whether a job that waits for a lock is still wanted.
const LOCK_TURN: Duration = Duration::from_secs(1);

/// Which snapshot unchanged files are taken from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ParentChoice {
    /// The newest one of the same host and paths.
    #[default]
    Newest,
    /// None: everything is read.
    None,
    /// This one: `latest`, an id or a prefix of one.
    Named(String),
}

/// What a backup shall do.
#[derive(Debug)]
pub struct BackupOptions {
    /// Roots of file trees.
    pub paths: Vec<PathBuf>,
    /// How trees are walked.
    pub tree: TreeOptions,
    /// Name of this host in the snapshot.
    pub host: String,
    /// Name of the user in the snapshot.
    pub username: String,
    /// Tags of the snapshot.
    pub tags: Vec<String>,
    /// Time of the snapshot.
    pub time: Time,
    /// Which snapshot unchanged files are taken from.
    pub parent: ParentChoice,
    /// Write no snapshot if its tree equals the parent's.
    pub skip_if_unchanged: bool,
    /// Compute everything, store nothing.
    pub dry_run: bool,
    /// Keep a snapshot of a source that did not reach its end, tagged [`PARTIAL_TAG`].
    pub save_partial: bool,
    /// How long to wait for somebody else's lock.
    pub retry_lock: Option<Duration>,
    /// How blobs are written.
    pub write: WriteOptions,
}

/// What a backup came to.
#[derive(Clone, Debug, PartialEq)]
pub struct BackupReport {
    /// The snapshot, unless none was written.
    pub snapshot: Option<Id>,
    /// Its root tree, unless the job ended before it.
    pub tree: Option<Id>,
    /// The parent that unchanged files were taken from.
    pub parent: Option<Id>,
    /// What the snapshot may claim.
    pub verdict: Verdict,
    /// How many entries ended how, over all sources.
    pub tally: Tally,
    /// restic's figures.
    pub summary: Summary,
    /// The sources that can build on earlier jobs: their paths, and the level at which each ran.
    pub levels: Vec<(String, Level)>,
}

/// Backs up the trees of `options.paths` and everything that `sources` push.
///
/// # Errors
/// The repository's or the store's error, a source that could not start, or a job without anything to back up. No
/// snapshot was written then.
pub fn backup(
    repository: &Arc<Repository>,
    options: &BackupOptions,
    sources: &mut [Box<dyn Source>],
    job: &dyn Job,
    observer: &dyn Observer,
) -> Result<BackupReport, Error> {
    let result = run(repository, options, sources, job, observer);
    let verdict = match &result {
        Ok(report) => report.verdict.clone(),
        Err(error) => Verdict::Partial(error.to_string()),
    };
    for source in sources {
        source.finish(&verdict);
    }
    result
}

/// The highest job number that the repository's snapshots carry, 0 for none.
#[must_use]
pub fn highest_job_id(snapshots: &[(Id, Snapshot)]) -> u32 {
    snapshots.iter().filter_map(|(_, snapshot)| snapshot.backstay_job).max().unwrap_or(0)
}

fn run(
    repository: &Arc<Repository>,
    options: &BackupOptions,
    sources: &mut [Box<dyn Source>],
    job: &dyn Job,
    observer: &dyn Observer,
) -> Result<BackupReport, Error> {
    let job = &Listening::new(job);
    if options.paths.is_empty() && sources.is_empty() {
        return Err(Error::Other("nothing to back up: name a path, a plugin, --stdin or a command".to_owned()));
    }
    if options.dry_run {
        return run_locked(repository, options, sources, job, observer, || Ok(None));
    }
    if let Some(patience) = options.retry_lock {
        let lock = lock_patiently(repository, patience, job)?;
        return run_locked(repository, options, sources, job, observer, || Ok(Some(lock)));
    }
    // The fifth of a second after which a lock is known to hold is much of the time of a backup that finds nothing new. Its
    // work may begin meanwhile: until the lock holds nothing refers to what it stores, and should an exclusive lock have
    // come and gone in that time, the writer finds out at the end which of the packs that it relied on are gone.
    let lock = repository.begin_lock(false)?;
    if repository.in_turn() {
        return run_locked(repository, options, sources, job, observer, || lock.settle().map(Some));
    }
    std::thread::scope(|scope| {
        let settling = scope.spawn(|| {
            let result = lock.settle();
            if let Err(error) = &result {
                job.stop(error.to_string());
            }
            result
        });
        let settled = || match settling.join() {
            Ok(result) => result.map(Some),
            Err(panic) => std::panic::resume_unwind(panic),
        };
        run_locked(repository, options, sources, job, observer, settled)
    })
}

/// Takes a lock; waits for somebody else's as long as patience and the job last.
fn lock_patiently(repository: &Arc<Repository>, patience: Duration, job: &dyn Job) -> Result<Lock, Error> {
    let began = Instant::now();
    loop {
        let left = patience.saturating_sub(began.elapsed());
        match repository.lock(false, Some(left.min(LOCK_TURN))) {
            Err(Error::Locked(_)) if left > LOCK_TURN && job.cancelled().is_none() => {}
            done => return done,
        }
    }
}

/// The job with its lock, which `settled` waits for.
fn run_locked(
    repository: &Arc<Repository>,
    options: &BackupOptions,
    sources: &mut [Box<dyn Source>],
    job: &Listening<'_>,
    observer: &dyn Observer,
    settled: impl FnOnce() -> Result<Option<Lock>, Error>,
) -> Result<BackupReport, Error> {
    let started = now();
    let infos: Vec<SourceInfo> = sources.iter().map(|source| source.info()).collect();
    let paths = snapshot_paths(options, &infos)?;
    let parent = find_parent(repository, options, &paths, job)?;
    let index = Arc::new(repository.load_index()?);
    let write = WriteOptions { dry_run: options.dry_run, ..options.write.clone() };
    let writer = Writer::new(Arc::clone(repository), Arc::clone(&index), write)?;
    let context = Context { repository, options, index: &index, paths: &paths, writer: &writer, job, observer };
    let assembler = Mutex::new(Assembler::new());
    let Gathered { tally, tree: tree_report, results, levels, stopped } =
        gather(&context, &assembler, parent.as_ref(), sources, &infos, started)?;

    let lock = settled()?;
    debug_assert!(tally.balances(), "every announced entry ends in one state: {tally:?}");
    let mut summary = summarise(&tree_report, &results);
    let verdict = match stopped {
        Some(reason) => Verdict::Partial(reason),
        None if tally.failed > 0 || tally.lost > 0 || job.errors() > 0 || !tally.balances() => Verdict::WithErrors,
        None => Verdict::Complete,
    };
    let mut report = BackupReport {
        snapshot: None,
        tree: None,
        parent: parent.as_ref().map(|(id, _)| *id),
        verdict,
        tally,
        summary: summary.clone(),
        levels,
    };
    let partial = matches!(report.verdict, Verdict::Partial(_));
    if partial && !options.save_partial {
        // No snapshot, but the next backup finds what this one stored.
        let kept = lock.as_ref().map_or(Ok(()), Lock::check).and_then(|()| writer.finish());
        if let Err(error) = kept {
            let text = format!("what was stored until now cannot be used again: {error}");
            job.message(MessageLevel::Warning, "repository", &text);
        }
        return Ok(report);
    }
    let started_at = options.time;
    let root =
        assembler.into_inner().finish(&writer, |misfits| internal(&writer, results, misfits, started_at, job))?;
    report.tree = Some(root);
    let stats = writer.finish()?;
    summary.data_blobs = stats.data_blobs;
    summary.tree_blobs = stats.tree_blobs;
    summary.data_added = stats.added;
    summary.data_added_packed = stats.added_packed;
    summary.backup_start = started.into();
    summary.backup_end = SnapshotTime::now();
    report.summary = summary.clone();
    let same = parent.as_ref().is_some_and(|(_, snapshot)| snapshot.tree == root);
    if options.dry_run || (options.skip_if_unchanged && same) {
        return Ok(report);
    }
    if let Some(lock) = &lock {
        lock.check()?;
    }
    let mut tags = options.tags.clone();
    if partial {
        tags.push(PARTIAL_TAG.to_owned());
    }
    let snapshot = Snapshot {
        time: options.time.into(),
        parent: parent.map(|(id, _)| id),
        tree: root,
        paths,
        hostname: options.host.clone(),
        username: options.username.clone(),
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        excludes: options.tree.excludes.clone(),
        tags,
        program_version: PROGRAM_VERSION.to_owned(),
        summary: Some(summary),
        backstay_job: (job.id() > 0).then(|| job.id()),
        ..Snapshot::default()
    };
    report.snapshot = Some(repository.save_snapshot(&snapshot)?);
    Ok(report)
}

/// What a job works with from its beginning to its end.
struct Context<'a> {
    repository: &'a Arc<Repository>,
    options: &'a BackupOptions,
    index: &'a Arc<Index>,
    paths: &'a [String],
    writer: &'a Arc<Writer>,
    job: &'a Listening<'a>,
    observer: &'a dyn Observer,
}

/// What the walk and the sources came to.
#[derive(Default)]
struct Gathered<'i> {
    tally: Tally,
    tree: TreeReport,
    results: Vec<(&'i SourceInfo, SourceResult)>,
    levels: Vec<(String, Level)>,
    /// Why not everything was announced.
    stopped: Option<String>,
}

/// A source that is ready to run.
struct Ready<'a> {
    source: &'a mut dyn Source,
    start: Start,
    ingest: SourceIngest<'a>,
}

impl Ready<'_> {
    fn run(mut self, job: &dyn Job) -> Result<(SourceResult, End), Error> {
        let end = self.source.run(job, &self.start, &mut self.ingest);
        let result = self.ingest.finish()?;
        Ok((result, end.map_err(fatal)?))
    }
}

/// Runs the walk and then, one after the other, the sources; those that are offered files of the walk run beside it until
/// it is over.
fn gather<'a, 'i>(
    context: &Context<'a>,
    assembler: &'a Mutex<Assembler>,
    parent: Option<&(Id, Snapshot)>,
    sources: &'a mut [Box<dyn Source>],
    infos: &'i [SourceInfo],
    started: Time,
) -> Result<Gathered<'i>, Error> {
    enum Waiting<'scope, 'a> {
        Source(&'a mut dyn Source),
        Beside(ScopedJoinHandle<'scope, Result<(SourceResult, End), Error>>, Turn),
    }
    let Context { options, job, .. } = *context;
    let roots = roots(options)?;
    let mut gathered = Gathered::default();
    let walking = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let mut desk = Desk::default();
        let mut waiting = Vec::new();
        for (source, info) in sources.iter_mut().zip(infos) {
            let offers = if roots.is_empty() { None } else { desk.open(info) };
            let Some((offers, turn)) = offers else {
                waiting.push(Waiting::Source(&mut **source));
                continue;
            };
            let offered = Some((offers, roots.as_slice()));
            let (ready, level) = context.ready(assembler, &mut **source, info, started, offered)?;
            gathered.levels.extend(level);
            let run = || {
                let result = ready.run(job);
                let reason = match &result {
                    Ok((_, End::Whole)) => None,
                    Ok((_, End::Stopped(reason))) => Some(reason.clone()),
                    Err(error) => Some(error.to_string()),
                };
                // There is nobody left whom the walk could ask.
                if let Some(reason) = reason.filter(|_| walking.load(Ordering::SeqCst)) {
                    job.stop(reason);
                }
                result
            };
            let handle = std::thread::Builder::new().name(info.name.clone()).spawn_scoped(scope, run);
            let handle = handle.map_err(|error| Error::Other(format!("a thread cannot be started: {error}")))?;
            waiting.push(Waiting::Beside(handle, turn));
        }
        if !options.paths.is_empty() {
            assembler.lock().resume(0);
            walk(context, assembler, parent, desk, &mut gathered)?;
        }
        walking.store(false, Ordering::SeqCst);
        for (waiting, info) in waiting.into_iter().zip(infos) {
            let (result, end) = match waiting {
                Waiting::Source(_) if gathered.stopped.is_some() => continue,
                Waiting::Source(source) => {
                    let (ready, level) = context.ready(assembler, source, info, started, None)?;
                    gathered.levels.extend(level);
                    ready.run(job)?
                }
                Waiting::Beside(handle, turn) => {
                    // Without its turn it ends, as a source of a job that was stopped.
                    if gathered.stopped.is_none() {
                        turn.come();
                    } else {
                        drop(turn);
                    }
                    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?
                }
            };
            gathered.tally.add(&result.tally);
            if let End::Stopped(reason) = end {
                gathered.stopped.get_or_insert(reason);
            }
            gathered.results.push((info, result));
        }
        Ok(gathered)
    })
}

/// Walks the trees and puts what is found into the assembler.
fn walk(
    context: &Context<'_>,
    assembler: &Mutex<Assembler>,
    parent: Option<&(Id, Snapshot)>,
    desk: Desk,
    gathered: &mut Gathered<'_>,
) -> Result<(), Error> {
    let Context { repository, options, index, writer, job, observer, .. } = *context;
    let from =
        parent.map(|(_, snapshot)| (Arc::new(Reader::new(Arc::clone(repository), Arc::clone(index))), snapshot.tree));
    let tree = TreeOptions { taker: Some(Arc::new(desk)), ..options.tree.clone() };
    let result = back_up_tree(writer, from, &options.paths, &tree, job, observer).map_err(|error| match error {
        TreeError::Repository(error) => error,
        other => Error::Other(other.to_string()),
    })?;
    let mut assembler = assembler.lock();
    for (path, node) in result.nodes {
        assembler.add(&path, node)?;
    }
    gathered.tally.add(&result.report.tally);
    if let End::Stopped(reason) = result.end {
        gathered.stopped = Some(reason);
    }
    gathered.tree = result.report;
    Ok(())
}

/// The roots of the walk, absolute and without a slash at the end.
fn roots(options: &BackupOptions) -> Result<Vec<Vec<u8>>, Error> {
    let root = |path: &PathBuf| {
        let path = absolute(path).map_err(|error| Error::Other(error.to_string()))?;
        let bytes = path.as_os_str().as_bytes();
        Ok(bytes.strip_suffix(b"/").unwrap_or(bytes).to_vec())
    };
    options.paths.iter().map(root).collect()
}

impl<'a> Context<'a> {
    /// Finds what a source builds on and tells it of that; also the level at which it will run, if it has one.
    fn ready(
        &self,
        assembler: &'a Mutex<Assembler>,
        source: &'a mut dyn Source,
        info: &SourceInfo,
        started: Time,
        offered: Option<(Offers, &'a [Vec<u8>])>,
    ) -> Result<(Ready<'a>, Option<(String, Level)>), Error> {
        let Self { repository, options, index, paths, writer, job, observer } = *self;
        let mut reference = find_reference(repository, options, index, paths, info, job)?;
        // Never later than it was: what changes from then on is for the next job.
        let start = start(options.time.min(started), info, reference.as_ref());
        let ledger = match info.adapter {
            Some(adapter) => {
                let header = LedgerHeader {
                    source: info.name.clone(),
                    adapter: adapter.to_owned(),
                    jobs: chain(reference.as_ref(), &start, info, job.id()),
                };
                Some(LedgerWriter::new(writer.content(), header)?)
            }
            None => None,
        };
        let level = ledger.is_some().then(|| (info.path.clone(), start.level));
        assembler.lock().next_source();
        let mut ingest = SourceIngest::new(writer, assembler, job, observer, ledger);
        if let Some((offers, roots)) = offered {
            ingest = ingest.offered(offers, roots);
        }
        if let Some(reference) = &mut reference {
            ingest.carry(reference, source)?;
        }
        Ok((Ready { source, start, ingest }, level))
    }
}

pub(crate) fn fatal(error: Fatal) -> Error {
    Error::Other(error.0)
}

/// The time now.
#[must_use]
pub fn now() -> Time {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Time { seconds: i64::try_from(since.as_secs()).unwrap_or(0), nanoseconds: since.subsec_nanos() }
}

pub(crate) fn snapshot_paths(options: &BackupOptions, infos: &[SourceInfo]) -> Result<Vec<String>, Error> {
    let mut paths = Vec::new();
    for path in &options.paths {
        let path = absolute(path).map_err(|error| Error::Other(error.to_string()))?;
        paths.push(path.to_string_lossy().into_owned());
    }
    paths.extend(infos.iter().map(|info| info.path.clone()));
    paths.sort();
    paths.dedup();
    Ok(paths)
}

fn find_parent(
    repository: &Repository,
    options: &BackupOptions,
    paths: &[String],
    job: &dyn Job,
) -> Result<Option<(Id, Snapshot)>, Error> {
    match &options.parent {
        ParentChoice::None => Ok(None),
        ParentChoice::Named(name) => repository.snapshot(name, &SnapshotFilter::default()).map(Some),
        ParentChoice::Newest => {
            let found = repository.readable_snapshots()?;
            for error in found.damaged {
                job.message(MessageLevel::Warning, "repository", &error.to_string());
            }
            Ok(found.snapshots.into_iter().rev().find(|(_, snapshot)| is_of(snapshot, options, paths)))
        }
    }
}

fn summarise(tree: &TreeReport, results: &[(&SourceInfo, SourceResult)]) -> Summary {
    let mut summary = Summary {
        files_new: tree.files_new,
        files_changed: tree.files_changed,
        files_unmodified: tree.files_unmodified,
        dirs_new: tree.dirs_new,
        dirs_changed: tree.dirs_changed,
        dirs_unmodified: tree.dirs_unmodified,
        total_files_processed: tree.files_new + tree.files_changed + tree.files_unmodified,
        total_bytes_processed: tree.bytes,
        ..Summary::default()
    };
    for (_, result) in results {
        summary.files_new += result.files;
        summary.dirs_new += result.directories;
        summary.files_unmodified += result.tally.unchanged;
        summary.total_files_processed += result.files + result.tally.unchanged;
        summary.total_bytes_processed += result.bytes;
    }
    summary
}

/// The folder `/.backstay`: a folder for each source that has a ledger. Readable by its owner only, since definitions
/// can hold passwords.
fn internal(
    writer: &Arc<Writer>,
    results: Vec<(&SourceInfo, SourceResult)>,
    misfits: Vec<Misfit>,
    time: Time,
    job: &dyn Job,
) -> Result<Option<Node>, Error> {
    for misfit in &misfits {
        let path = String::from_utf8_lossy(&misfit.path);
        if let Some(reason) = misfit.reason {
            job.message(MessageLevel::Warning, "view", &format!("{path} is not in the snapshot's view: {reason}"));
        }
    }
    let mut astray: Vec<Id> = misfits.into_iter().flat_map(|misfit| misfit.content).collect();
    let mut folders = Vec::new();
    for (info, result) in results {
        let Some(ledger) = result.ledger else { continue };
        let mut files = vec![private_file(LEDGER_FILE, ledger.ids, ledger.size, time)];
        let mut kept = result.unseen;
        kept.append(&mut astray);
        if !kept.is_empty() {
            kept.sort_unstable();
            kept.dedup();
            let size = kept.iter().map(|id| {
                writer.length(BlobKind::Data, id).ok_or(Error::BlobMissing { kind: BlobKind::Data, id: *id })
            });
            let size = size.sum::<Result<u64, Error>>()?;
            files.push(private_file(CONTENT_FILE, kept, size, time));
        }
        let subtree = writer.save_tree(&files)?;
        folders.push(private_directory(&info.name, subtree, time));
    }
    if folders.is_empty() {
        return match astray.first() {
            None => Ok(None),
            Some(_) => Err(Error::Other("two sources gave the same path: nothing was saved".to_owned())),
        };
    }
    let subtree = writer.save_tree(&folders)?;
    Ok(Some(private_directory(INTERNAL_DIRECTORY, subtree, time)))
}

fn private(kind: FileKind, name: &str, mode: u32, time: Time) -> Node {
    let mut node = Node::new(kind);
    node.name = name.as_bytes().to_vec();
    node.mode = Node::go_mode_from_unix(mode);
    node.mtime = time;
    node.atime = time;
    node.ctime = time;
    node.uid = rustix::process::getuid().as_raw();
    node.gid = rustix::process::getgid().as_raw();
    node
}

fn private_directory(name: &str, subtree: Id, time: Time) -> Node {
    let mut node = private(FileKind::Directory, name, 0o040_700, time);
    node.subtree = Some(subtree);
    node
}

fn private_file(name: &str, ids: Vec<Id>, size: u64, time: Time) -> Node {
    let mut node = private(FileKind::File, name, 0o100_600, time);
    node.links = 1;
    node.size = size;
    node.content = Some(ids);
    node
}

impl BackupReport {
    /// Whether anything was written that a user may rely on.
    #[must_use]
    pub fn exit_status(&self) -> i32 {
        match self.verdict {
            Verdict::Complete => 0,
            Verdict::WithErrors => 3,
            Verdict::Partial(_) => 1,
        }
    }
}
