//! A Backstay repository as a destination: each backup is a snapshot, tagged with its stored name. What bakthat hands out of
//! it is a tar of the snapshot, the same bytes every time.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use backstay_core::told::chain;
use backstay_core::{FileKind, Id, MessageLevel, ObjectKind, Outcome, Source, Time, Verdict};
use backstay_engine::backup::{BackupOptions, BackupReport, ParentChoice, backup};
use backstay_engine::job::JobControl;
use backstay_engine::tree::{Change, Observer, Pick, Selector, Treatment, TreeOptions};
use backstay_repository::IndexCache;
use backstay_repository::error::Error as RepositoryError;
use backstay_repository::lock::{Lock, host_name, user_name};
use backstay_repository::maintenance::MaintenanceProgress;
use backstay_repository::maintenance::prune::{PruneOptions, prune};
use backstay_repository::pack::BlobKind;
use backstay_repository::reader::{OrderedBlobs, Reader};
use backstay_repository::repository::{InitOptions, OpenOptions, Repository as Opened};
use backstay_repository::restore::{RestoreOptions, RestoreProgress, restore};
use backstay_repository::snapshot::Snapshot;
use backstay_repository::tree::{NO_TIME, Node};
use backstay_repository::walk::{Walk, WalkEntry, walk};
use backstay_repository::writer::WriteOptions;
use backstay_stores::StoreOptions;
use parking_lot::Mutex;
use rustix::fs::FileType;

use crate::control::{Control, Watched};
use crate::error::{About, Error, Result};
use crate::excludes::Excludes;
use crate::gzip::GzipWriter;
use crate::notices::notice;
use crate::output::Output;
use crate::tar::{Kind, Member, TarWriter};
use crate::tar_source::TarSource;
use crate::walk::Step;

/// What stands in front of a stored name in a snapshot's tags.
const TAG: &str = "bakthat:";
/// How long a store that is down is asked again.
const PATIENCE: Duration = Duration::from_secs(5 * 60);
/// Bytes of a pack: less than others take, since one fills while others are stored, and all of it in somebody else's process.
const PACK_SIZE: usize = 6 << 20;
/// Bytes of contents that are loaded before they are written,
const AHEAD: u64 = 16 << 20;
/// of not many more blobs,
const BLOBS_AHEAD: usize = 1024;
/// and so many entries.
const ENTRIES_AHEAD: usize = 4096;
/// How long somebody else's exclusive lock is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(10 * 60);
/// Between two looks whether it is gone.
const LOCK_PAUSE: Duration = Duration::from_millis(300);

/// A repository and the way to it.
#[derive(Debug)]
pub struct Repository {
    repository: Arc<Opened>,
}

/// What is saved, and how it is called.
#[derive(Debug)]
pub struct Saving<'a> {
    /// The name that the snapshot is found by.
    pub stored_name: &'a str,
    /// Further tags.
    pub tags: &'a [String],
    /// The host that the snapshot names; none: this one.
    pub host: Option<&'a str>,
    /// The time of the snapshot, in seconds since 1970.
    pub time: f64,
}

impl Saving<'_> {
    fn options(&self) -> BackupOptions {
        BackupOptions {
            paths: Vec::new(),
            tree: TreeOptions::default(),
            host: self.host.map_or_else(host_name, str::to_owned),
            username: user_name(),
            tags: [vec![format!("{TAG}{}", self.stored_name)], self.tags.to_vec()].concat(),
            time: time(self.time),
            parent: ParentChoice::None,
            skip_if_unchanged: false,
            dry_run: false,
            save_partial: false,
            retry_lock: Some(LOCK_PATIENCE),
            write: WriteOptions { pack_size: PACK_SIZE, frugal: true, ..WriteOptions::default() },
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time within what clocks show")]
fn time(seconds: f64) -> Time {
    let whole = seconds.floor();
    Time { seconds: whole as i64, nanoseconds: (((seconds - whole) * 1e9) as u32).min(999_999_999) }
}

fn told(error: RepositoryError) -> Error {
    match error {
        RepositoryError::WrongPassword => Error::WrongPassword(error.to_string()),
        RepositoryError::Store(error) => Error::Store(error),
        RepositoryError::NoRepository { location } => Error::Missing(format!(
            "there is no repository at {location}: check the address; the first backup makes it"
        )),
        other => Error::Other(chain(&other)),
    }
}

impl Repository {
    /// Opens the repository at a location (as `backstay -r` takes it), and makes it first where there is none, if `create`.
    /// `options` are `service.key=value`, as `backstay -o` takes them.
    ///
    /// # Errors
    /// A location that is none, [`Error::WrongPassword`], the store's.
    pub fn open(location: &str, password: &[u8], create: bool, options: &[String], control: &Control) -> Result<Self> {
        let cancelled = control.clone();
        let options = StoreOptions {
            retry_time: PATIENCE,
            extended: options.to_vec(),
            notice: Some(notice()),
            cancelled: Some(Arc::new(move || cancelled.is_cancelled())),
            ..StoreOptions::default()
        };
        let store = backstay_stores::open(location, &options).map_err(Error::other)?;
        if create {
            let go_on = || !control.is_cancelled();
            let made = Opened::init_where_missing(&store, password, InitOptions::default(), &go_on);
            control.check()?;
            made.map_err(told)?;
        }
        let cache = IndexCache::usual_folder().map(IndexCache::new);
        let opened = Opened::open_with(store, password, &OpenOptions { cache, ..OpenOptions::default() });
        Ok(Self { repository: Arc::new(opened.map_err(told)?) })
    }

    /// Where it is, for people.
    #[must_use]
    pub fn location(&self) -> String {
        self.repository.store().location()
    }

    /// Saves a file or a folder as `/arcname`; what did not change since the newest backup of the same path is not read.
    /// Gives the length of its tar in bytes.
    ///
    /// # Errors
    /// Something could not be read (then there is no snapshot); the store's. [`Error::Interrupted`].
    pub fn backup(
        &self,
        source: &Path,
        arcname: &[u8],
        excludes: &Excludes,
        saving: &Saving<'_>,
        control: &Control,
        excluded: &(dyn Fn(&[u8]) + Sync),
    ) -> Result<u64> {
        control.begin("Saving");
        let given = source.as_os_str().as_bytes();
        let there = if given.ends_with(b"/") { std::fs::metadata(source) } else { std::fs::symlink_metadata(source) };
        there.about(source)?;
        // A slash at the end asks for what a link leads to.
        let root = match std::fs::symlink_metadata(PathBuf::from(OsString::from_vec(trimmed(given).to_vec()))) {
            Ok(link) if link.is_symlink() && given.ends_with(b"/") => std::fs::canonicalize(source).about(source)?,
            _ => source.to_owned(),
        };
        let root = backstay_engine::tree::absolute(&root).map_err(Error::other)?;
        let arcname = match arcname {
            b"" | b"." | b".." => root.file_name().map(OsStrExt::as_bytes).unwrap_or(b"root"),
            name => name,
        };
        if arcname.contains(&b'/') {
            return Err(Error::other("a name in a snapshot has no slash in it"));
        }
        let mut options = saving.options();
        options.paths = vec![root.clone()];
        options.parent = ParentChoice::Newest;
        options.tree.placed_as = Some(arcname.to_vec());
        let rules = Arc::new(Rules {
            excludes: excludes.clone(),
            root: root.clone().into_os_string().into_vec(),
            given: trimmed(given).to_vec(),
            treatment: Treatment::default(),
        });
        options.tree.selector = Some(Arc::<Rules>::clone(&rules));
        let told = |path: &[u8]| excluded(&rules.given(path));
        let observer = Watching { control, excluded: &told, failed: Mutex::default(), failures: AtomicU64::new(0) };
        let over = Control::default();
        std::thread::scope(|scope| {
            // How much there will be is found out beside the work, which does not wait for it.
            scope.spawn(|| {
                if let Ok(bytes) = measure(&root, &rules, &over) {
                    control.expect(bytes);
                }
            });
            let done = self.run(&options, &mut [], control, &observer);
            over.cancel();
            done
        })
    }

    /// Saves what a tar holds, in gzip or plain, as a snapshot; gives the length of its tar in bytes.
    ///
    /// # Errors
    /// The archive is damaged, or a member of it would leave the folder; the store's. [`Error::Interrupted`].
    pub fn backup_tar(&self, archive: &Path, saving: &Saving<'_>, control: &Control) -> Result<u64> {
        control.begin("Saving");
        // What counts are the archive's own bytes, which are read twice.
        control.expect(2 * std::fs::metadata(archive).about(archive)?.len());
        let uncounted = Control::default();
        // All of it is looked at first: a damaged one leaves no packs behind.
        let contents = crate::unpack::verify(archive, control)?;
        let source = TarSource::new(archive, contents, control);
        let observer =
            Watching { control: &uncounted, excluded: &|_| {}, failed: Mutex::default(), failures: AtomicU64::new(0) };
        let mut sources: [Box<dyn Source>; 1] = [Box::new(source)];
        self.run(&saving.options(), &mut sources, control, &observer)
    }

    fn run(
        &self,
        options: &BackupOptions,
        sources: &mut [Box<dyn Source>],
        control: &Control,
        observer: &Watching<'_>,
    ) -> Result<u64> {
        let asked = control.clone();
        let messages = Arc::new(Mutex::new(Vec::<String>::new()));
        let kept = Arc::clone(&messages);
        let handler = Box::new(move |level: MessageLevel, source: &str, text: &str| {
            if level >= MessageLevel::Error {
                kept.lock().push(format!("{source}: {text}"));
            }
        });
        let job = JobControl::new(0, handler, Box::new(move || asked.is_cancelled()));
        let report = backup(&self.repository, options, sources, &job, observer);
        control.check()?;
        let report = report.map_err(told)?;
        let BackupReport { verdict, snapshot, tree, .. } = report;
        match (verdict, snapshot, tree) {
            (Verdict::Complete, Some(_), Some(tree)) => self.tar_length(&tree),
            (Verdict::Partial(reason), ..) => Err(Error::Other(format!("nothing was saved: {reason}"))),
            (_, snapshot, _) => {
                // As a tar is not written either when a part of it cannot be read.
                if let Some(id) = snapshot {
                    self.forget(&[id], control)?;
                }
                let first = observer.failed.lock().take().or_else(|| messages.lock().first().cloned());
                let first = first.unwrap_or_else(|| "the backup had errors".to_owned());
                Err(Error::Other(match observer.failures.load(Ordering::Relaxed) {
                    0 | 1 => format!("nothing was saved: {first}"),
                    more => format!("nothing was saved: {first} (and {} more)", more - 1),
                }))
            }
        }
    }

    /// The snapshots of a stored name, the newest first.
    fn snapshots(&self, stored_name: &str) -> Result<Vec<(Id, Snapshot)>> {
        let tag = format!("{TAG}{stored_name}");
        let mut found = self.repository.readable_snapshots().map_err(told)?.snapshots;
        found.retain(|(_, snapshot)| snapshot.tags.contains(&tag) && !snapshot.is_partial());
        found.sort_by(|(a, left), (b, right)| (right.time.time(), b).cmp(&(left.time.time(), a)));
        Ok(found)
    }

    fn reader(&self) -> Result<Arc<Reader>> {
        let index = self.repository.load_index().map_err(told)?;
        Ok(Arc::new(Reader::new(Arc::clone(&self.repository), Arc::new(index))))
    }

    /// A lock that others may have beside us; waits for whoever needs the repository for itself.
    fn shared(&self, control: &Control) -> Result<Lock> {
        patiently(control, || self.repository.lock(false, None)).map_err(told)
    }

    /// Keeps others from tidying up what is being read. Where no lock can be left, as on a medium that is read only, nobody
    /// can tidy up either.
    fn reading(&self, control: &Control) -> Result<Option<Lock>> {
        match patiently(control, || self.repository.lock(false, None)) {
            Ok(lock) => Ok(Some(lock)),
            Err(RepositoryError::Store(_)) => Ok(None),
            Err(error) => Err(told(error)),
        }
    }

    fn tar_length(&self, tree: &Id) -> Result<u64> {
        tar_length(&*self.reader()?, tree, &Control::default())
    }

    /// The length in bytes of the tar of a stored name, if there is one.
    ///
    /// # Errors
    /// The repository's.
    pub fn size(&self, stored_name: &str) -> Result<Option<u64>> {
        let snapshots = self.snapshots(stored_name)?;
        snapshots.first().map(|(_, snapshot)| self.tar_length(&snapshot.tree)).transpose()
    }

    /// Writes the tar of a stored name in gzip to a file; false where there is none. The bytes are the same every time.
    ///
    /// # Errors
    /// The repository's, the file's; nothing is at `out` then. [`Error::Interrupted`].
    pub fn download(&self, stored_name: &str, out: &Path, control: &Control) -> Result<bool> {
        control.begin("Downloading");
        let _lock = self.reading(control)?;
        let snapshots = self.snapshots(stored_name)?;
        let Some((_, snapshot)) = snapshots.first() else { return Ok(false) };
        let reader = self.reader()?;
        control.expect(tar_length(&reader, &snapshot.tree, control)?);
        let output = Output::create(out)?;
        let mut writer = GzipWriter::new(output).about(out)?;
        write_tar(&reader, &snapshot.tree, &mut Watched::new(&mut writer, control), out, control)?;
        writer.finish().about(out)?.finish()?;
        Ok(true)
    }

    /// Restores a stored name into a folder; false where there is none.
    ///
    /// # Errors
    /// Something could not be restored: it is named, the rest is there. The repository's. [`Error::Interrupted`].
    pub fn restore(&self, stored_name: &str, folder: &Path, control: &Control) -> Result<bool> {
        control.begin("Restoring");
        let _lock = self.reading(control)?;
        let snapshots = self.snapshots(stored_name)?;
        let Some((_, snapshot)) = snapshots.first() else { return Ok(false) };
        let options = RestoreOptions { target: folder.to_owned(), skip_internal: true, ..RestoreOptions::default() };
        let report = restore(&*self.reader()?, &snapshot.tree, b"", &options, &Restoring(control));
        control.check()?;
        let report = report.map_err(told)?;
        let Some(first) = report.errors.first() else { return Ok(true) };
        let more = match report.errors.len() {
            1 => String::new(),
            count => format!(" (and {} more)", count - 1),
        };
        Err(Error::Other(format!(
            "{}: {}{more}",
            folder.join(String::from_utf8_lossy(&first.path).trim_start_matches('/')).display(),
            first.message
        )))
    }

    fn forget(&self, ids: &[Id], control: &Control) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let lock = self.shared(control)?;
        self.repository.store().delete_all(ObjectKind::Snapshot, ids).map_err(Error::Store)?;
        drop(lock);
        Ok(())
    }

    /// Forgets a stored name; that there is none is fine. The room comes back with [`Repository::prune`].
    ///
    /// # Errors
    /// The repository's.
    pub fn delete(&self, stored_name: &str, control: &Control) -> Result<()> {
        let ids: Vec<Id> = self.snapshots(stored_name)?.into_iter().map(|(id, _)| id).collect();
        self.forget(&ids, control)
    }

    /// The stored names, in order.
    ///
    /// # Errors
    /// The repository's.
    pub fn list(&self) -> Result<Vec<String>> {
        let found = self.repository.readable_snapshots().map_err(told)?.snapshots;
        let tags = found.iter().filter(|(_, snapshot)| !snapshot.is_partial()).flat_map(|(_, snapshot)| &snapshot.tags);
        let mut names: Vec<String> = tags.filter_map(|tag| tag.strip_prefix(TAG)).map(str::to_owned).collect();
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// Gives back the room of what was forgotten.
    ///
    /// # Errors
    /// Somebody else uses the repository; the repository's. [`Error::Interrupted`].
    pub fn prune(&self, control: &Control) -> Result<()> {
        let options = PruneOptions::default();
        let done = patiently(control, || prune(&self.repository, &options, &Pruning(control), &mut |_| {}));
        control.check()?;
        done.map(drop).map_err(told)
    }
}

/// Tries until nobody else's lock is in the way, or patience ends, or somebody gives up.
fn patiently<T>(
    control: &Control,
    work: impl Fn() -> std::result::Result<T, RepositoryError>,
) -> std::result::Result<T, RepositoryError> {
    let began = Instant::now();
    loop {
        match work() {
            Err(RepositoryError::Locked(_) | RepositoryError::NotCommitted(_))
                if began.elapsed() < LOCK_PATIENCE && !control.is_cancelled() =>
            {
                std::thread::sleep(LOCK_PAUSE);
            }
            done => return done,
        }
    }
}

fn trimmed(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(path.len().min(1), |at| at + 1);
    &path[..end]
}

/// Patterns set against the path as it was given, not the one that the engine walks.
#[derive(Debug)]
struct Rules {
    excludes: Excludes,
    root: Vec<u8>,
    given: Vec<u8>,
    treatment: Treatment,
}

impl Rules {
    /// A path below the root, as it begins with what was given.
    fn given(&self, path: &[u8]) -> Vec<u8> {
        let below = path.strip_prefix(self.root.as_slice()).unwrap_or(path);
        [self.given.as_slice(), below].concat()
    }
}

/// The bytes of all files that will be saved.
fn measure(root: &Path, rules: &Rules, control: &Control) -> Result<u64> {
    let mut bytes = 0;
    crate::walk::walk(root, b"", control, &mut |found| {
        if rules.excludes.excludes(&rules.given(found.path)) {
            return Ok(Step::Past);
        }
        if found.kind() == FileType::RegularFile {
            bytes += u64::try_from(found.stat.st_size).unwrap_or(0);
        }
        Ok(Step::Into)
    })?;
    Ok(bytes)
}

impl Selector for Rules {
    fn select(&self, path: &[u8], _is_directory: bool, above: u64) -> std::result::Result<Vec<Pick<'_>>, String> {
        let is_root = path == self.root;
        if !is_root && above == 0 {
            return Ok(Vec::new());
        }
        if self.excludes.excludes(&self.given(path)) {
            return Err("excluded".to_owned());
        }
        Ok(vec![Pick { set: 1, is_root, treatment: &self.treatment }])
    }
}

/// Passes on how far a backup is, and remembers what failed first.
struct Watching<'a> {
    control: &'a Control,
    excluded: &'a (dyn Fn(&[u8]) + Sync),
    failed: Mutex<Option<String>>,
    failures: AtomicU64,
}

impl Observer for Watching<'_> {
    fn entry(&self, path: &[u8], outcome: &Outcome, _kind: FileKind, _size: u64, _change: Change) {
        match outcome {
            Outcome::Skipped(_) => (self.excluded)(path),
            Outcome::Failed(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                self.failed.lock().get_or_insert_with(|| error.message.clone());
            }
            Outcome::Saved | Outcome::Unchanged | Outcome::Lost => {}
        }
    }

    fn bytes(&self, count: u64) {
        self.control.advance(count);
    }

    fn current(&self, _path: &[u8]) {}
}

struct Restoring<'a>(&'a Control);

impl RestoreProgress for Restoring<'_> {
    fn planned(&self, _files: u64, bytes: u64) {
        self.0.expect(bytes);
    }

    fn advanced(&self, _files: u64, bytes: u64) {
        self.0.advance(bytes);
    }

    fn cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

struct Pruning<'a>(&'a Control);

impl MaintenanceProgress for Pruning<'_> {
    fn cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// What one entry becomes in a tar.
struct Planned {
    name: Vec<u8>,
    node: Node,
    kind: Kind,
    /// The first name of a further name.
    first: Vec<u8>,
    size: u64,
}

/// The entries of a snapshot in order, as a tar holds them.
struct Plan<'a> {
    reader: &'a Reader,
    walk: Walk<'a>,
    /// The first name of each file that has several.
    links: HashMap<(u64, u64, Option<Id>), Vec<u8>>,
}

impl<'a> Plan<'a> {
    fn new(reader: &'a Reader, root: &Id) -> Self {
        Self { reader, walk: walk(reader, root, true), links: HashMap::new() }
    }

    fn next(&mut self) -> Result<Option<Planned>> {
        loop {
            let Some(entry) = self.walk.next() else { return Ok(None) };
            let WalkEntry { mut path, node, .. } = entry.map_err(Error::other)?;
            let kind = match node.kind {
                FileKind::File => Kind::File,
                FileKind::Directory => Kind::Directory,
                FileKind::Symlink => Kind::Symlink,
                FileKind::BlockDevice => Kind::BlockDevice,
                FileKind::CharDevice => Kind::CharDevice,
                FileKind::Fifo => Kind::Fifo,
                // No tar holds one.
                FileKind::Socket => continue,
            };
            path.remove(0);
            let mut planned = Planned { name: path, node, kind, first: Vec::new(), size: 0 };
            if kind == Kind::File && !self.is_further(&mut planned) {
                for id in planned.node.content.iter().flatten() {
                    planned.size += self.reader.blob_length(BlobKind::Data, id).map_err(told)?;
                }
            }
            return Ok(Some(planned));
        }
    }

    /// Whether a file is a further name of one that was there before.
    fn is_further(&mut self, planned: &mut Planned) -> bool {
        let node = &planned.node;
        if node.links < 2 || node.inode == 0 {
            return false;
        }
        // Programs have been seen to give one inode number to different files.
        let first = node.content.as_ref().and_then(|content| content.first().copied());
        match self.links.entry((node.device_id, node.inode, first)) {
            Entry::Occupied(known) => {
                planned.first.clone_from(known.get());
                planned.kind = Kind::HardLink;
                true
            }
            Entry::Vacant(new) => {
                new.insert(planned.name.clone());
                false
            }
        }
    }
}

/// The length of a snapshot's tar in bytes.
fn tar_length(reader: &Reader, root: &Id, control: &Control) -> Result<u64> {
    let mut tar = TarWriter::new(io::sink());
    let mut plan = Plan::new(reader, root);
    while let Some(planned) = plan.next()? {
        control.check()?;
        tar.head(&member(&planned)).map_err(Error::other)?;
        tar.count(planned.size);
    }
    Ok(tar.length())
}

/// Writes the tar of a snapshot to `out`, which is to become `path`.
fn write_tar(reader: &Reader, root: &Id, out: &mut dyn Write, path: &Path, control: &Control) -> Result<()> {
    let mut tar = TarWriter::new(out);
    let mut plan = Plan::new(reader, root);
    // Contents are loaded ahead, those of many small files together.
    let mut blobs = OrderedBlobs::new(reader, AHEAD);
    let mut planned = VecDeque::new();
    let mut more = true;
    loop {
        control.check()?;
        while more && blobs.waiting() < BLOBS_AHEAD && planned.len() < ENTRIES_AHEAD {
            match plan.next()? {
                Some(next) => {
                    if next.kind == Kind::File {
                        blobs.announce(BlobKind::Data, next.node.content.as_deref().unwrap_or_default());
                    }
                    planned.push_back(next);
                }
                None => more = false,
            }
        }
        let Some(next) = planned.pop_front() else { break };
        tar.head(&member(&next)).about(path)?;
        if next.kind == Kind::File {
            for _ in next.node.content.iter().flatten() {
                let blob = blobs.take().ok_or_else(|| Error::other("a blob that was asked for did not come"))?;
                tar.bytes(&blob.map_err(told)?).about(path)?;
            }
            tar.pad().about(path)?;
        }
    }
    tar.finish().map(drop).about(path)
}

fn member(planned: &Planned) -> Member<'_> {
    let Planned { name, node, kind, first, size } = planned;
    let device = match kind {
        Kind::CharDevice | Kind::BlockDevice => (rustix::fs::major(node.device), rustix::fs::minor(node.device)),
        _ => (0, 0),
    };
    Member {
        kind: *kind,
        name,
        link: if *kind == Kind::HardLink { first } else { &node.link_target },
        mode: node.unix_mode(),
        uid: node.uid,
        gid: node.gid,
        user: node.user.as_bytes(),
        group: node.group.as_bytes(),
        size: *size,
        mtime: if node.mtime == NO_TIME { 0 } else { node.mtime.seconds },
        device,
    }
}
