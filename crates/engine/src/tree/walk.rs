//! What becomes of each entry: several threads take entries from the stack of open directories, and the last entry of a
//! directory that comes to its end finishes the directory.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use backstay_core::{CancelReason, End, Entry, EntryError, FileKind, Id, Job, MessageLevel, Offer, Outcome};
use backstay_repository::error::Error;
use backstay_repository::pack::BlobKind;
use backstay_repository::reader::Reader;
use backstay_repository::tree::Node;
use backstay_repository::writer::Writer;
use parking_lot::{Condvar, Mutex};
use rustix::fs::{CWD, OFlags, SeekFrom};
use rustix::io::Errno;

use super::contents::{FileReader, Reading, SMALL};
use super::directory::{Claim, Directory, Opened, Place, Previous, Stack};
use super::links::Links;
use super::roots::Roots;
use super::selector::{Pick, Taken, Treatment, is_one_of};
use super::{Change, Observer, TreeError, TreeOptions, TreeReport, TreeResult};
use crate::excludes::{Excludes, Tag};
use crate::filesystem::{self, Attributed, FileStat, Listed, Names, XattrReader};

/// Readings of a small file that keeps changing.
const ATTEMPTS: usize = 3;

/// How long a file that another program holds a lease on (a Samba server's oplock) is waited for. The kernel breaks a
/// lease after 45 seconds unless it was told otherwise.
const LEASE_WAIT: Duration = Duration::from_secs(60);

/// Walks the roots on all cores.
pub(super) fn run(
    writer: &Arc<Writer>,
    parent: Option<(Arc<Reader>, Id)>,
    roots: &Roots,
    excludes: &Excludes,
    options: &TreeOptions,
    job: &dyn Job,
    observer: &dyn Observer,
) -> Result<TreeResult, TreeError> {
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    let threads = if writer.repository().in_turn() { 1 } else { processors };
    let walk = Walk {
        writer,
        parent,
        excludes,
        options,
        job,
        observer,
        nested: &roots.nested,
        plain: Treatment::default(),
        state: Mutex::new(State { stack: Stack::new(open_directories(), threads), active: 0 }),
        ready: Condvar::new(),
        stop: AtomicBool::new(false),
        stopped: Mutex::default(),
        links: Links::default(),
        top: Mutex::default(),
    };
    let mut worker = Worker::new(&walk);
    worker.start(roots)?;
    let report = std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads)
            .filter_map(|number| {
                // A thread that cannot be had is one that we do without.
                std::thread::Builder::new()
                    .name(format!("tree-{number}"))
                    .spawn_scoped(scope, || {
                        let mut worker = Worker::new(&walk);
                        worker.work();
                        worker.report
                    })
                    .ok()
            })
            .collect();
        worker.work();
        let mut report = worker.report;
        for helper in helpers {
            match helper.join() {
                Ok(other) => report.add(&other),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        report
    });
    let end = match walk.stopped.into_inner() {
        None => End::Whole,
        Some(Stopped::Cancelled(reason)) => End::Stopped(reason),
        Some(Stopped::Failed(error)) => return Err(error.into()),
    };
    let mut nodes = walk.top.into_inner();
    match &options.placed_as {
        Some(name) => {
            for (path, node) in &mut nodes {
                path.clone_from(name);
                node.name.clone_from(name);
            }
        }
        None => add_ancestors(&mut nodes, options),
    }
    debug_assert!(report.tally.balances());
    Ok(TreeResult { nodes, report, end })
}

/// Directories that may be open at once: an eighth of what the process may open, 256 at most.
fn open_directories() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(2048);
    usize::try_from(limit / 8).unwrap_or(256).clamp(4, 256)
}

/// Metadata of the directories above what was saved. One that cannot be looked at gets the Assembler's default.
fn add_ancestors(nodes: &mut Vec<(Vec<u8>, Node)>, options: &TreeOptions) {
    let mut above: BTreeSet<Vec<u8>> = BTreeSet::new();
    for (path, _) in nodes.iter() {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        above.extend(slashes.map(|(at, _)| path[..at].to_vec()));
    }
    let (mut names, mut xattrs) = (Names::default(), XattrReader::default());
    for path in above {
        let mut absolute = vec![b'/'];
        absolute.extend_from_slice(&path);
        let Ok(stat) = filesystem::stat_path(&absolute) else { continue };
        if stat.kind() != Some(FileKind::Directory) {
            continue;
        }
        let (attributes, _) = xattrs.read(Attributed::Path(&absolute), &absolute);
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(&path).to_vec();
        let mut node = node_of(&stat, name, FileKind::Directory, &mut names, options);
        node.xattrs = attributes;
        nodes.push((path, node));
    }
}

/// A node with everything that a `stat` tells.
fn node_of(stat: &FileStat, name: Vec<u8>, kind: FileKind, names: &mut Names, options: &TreeOptions) -> Node {
    let stat = &stat.stat;
    let has_links = !matches!(kind, FileKind::Directory | FileKind::Fifo | FileKind::Socket);
    let is_device = matches!(kind, FileKind::BlockDevice | FileKind::CharDevice);
    Node {
        name,
        mode: Node::go_mode_from_unix(stat.mode),
        mtime: stat.mtime,
        atime: if options.with_atime { stat.atime } else { stat.mtime },
        ctime: stat.ctime,
        uid: stat.uid,
        gid: stat.gid,
        user: names.user(stat.uid).to_owned(),
        group: names.group(stat.gid).to_owned(),
        inode: stat.inode,
        device_id: stat.device_id,
        links: if has_links { stat.links } else { 0 },
        device: if is_device { stat.rdev } else { 0 },
        ..Node::new(kind)
    }
}

fn shown(path: &[u8]) -> std::path::Display<'_> {
    Path::new(OsStr::from_bytes(path)).display()
}

/// Why the walk ends before its end.
#[derive(Debug)]
enum Stopped {
    Cancelled(String),
    Failed(Error),
}

#[derive(Debug)]
struct State {
    stack: Stack,
    /// Threads that deal with entries now: they may push more directories.
    active: usize,
}

/// What all threads of a walk share.
struct Walk<'a> {
    writer: &'a Arc<Writer>,
    parent: Option<(Arc<Reader>, Id)>,
    excludes: &'a Excludes,
    options: &'a TreeOptions,
    job: &'a dyn Job,
    observer: &'a dyn Observer,
    nested: &'a BTreeSet<Vec<u8>>,
    /// How everything is treated where there is no selector.
    plain: Treatment,
    state: Mutex<State>,
    ready: Condvar,
    stop: AtomicBool,
    stopped: Mutex<Option<Stopped>>,
    links: Links,
    top: Mutex<Vec<(Vec<u8>, Node)>>,
}

impl Walk<'_> {
    /// Waits for entries to deal with; none when the walk is at its end.
    fn next(&self) -> Option<(Claim, Active<'_>)> {
        let mut state = self.state.lock();
        loop {
            if let Some(claim) = state.stack.claim(self.stop.load(Ordering::Relaxed)) {
                state.active += 1;
                return Some((claim, Active { state: &self.state, ready: &self.ready }));
            }
            if state.active == 0 {
                return None;
            }
            self.ready.wait(&mut state);
        }
    }

    fn push(&self, directory: Arc<Directory>) {
        self.state.lock().stack.push(directory);
        self.ready.notify_all();
    }

    /// Whether to stop: asked between entries and between reads.
    fn stopping(&self) -> bool {
        if self.stop.load(Ordering::Relaxed) {
            return true;
        }
        let Some(reason) = self.job.cancelled() else { return false };
        let reason = match reason {
            CancelReason::Interrupted => "the job was interrupted".to_owned(),
            CancelReason::TimeLimit(limit) => format!("the time limit passed: {limit}"),
            CancelReason::Failed(other) => other,
        };
        self.stopped.lock().get_or_insert(Stopped::Cancelled(reason));
        self.stop.store(true, Ordering::Relaxed);
        true
    }

    /// The repository cannot take any more.
    fn fail(&self, error: Error) {
        let mut stopped = self.stopped.lock();
        if !matches!(*stopped, Some(Stopped::Failed(_))) {
            *stopped = Some(Stopped::Failed(error));
        }
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Asks the taker about an entry.
    fn ask(&self, number: u32, path: &[u8], kind: FileKind, link: Vec<u8>, stat: &FileStat) -> Taken {
        let Some(taker) = self.options.taker.as_ref().filter(|_| !self.stopping()) else { return Taken::Passed };
        let entry = Entry { name: path.to_vec(), kind, link, hard_link: false, stat: stat.stat, native: Vec::new() };
        taker.offer(Offer { number, entry, allocated: stat.allocated, block_size: stat.block_size })
    }

    fn failed(&self) -> bool {
        self.stop.load(Ordering::Relaxed) && matches!(*self.stopped.lock(), Some(Stopped::Failed(_)))
    }

    /// Whether a kind of entry must be looked at before it is opened.
    fn stat_first(&self, kind: FileKind) -> bool {
        let selected = self.options.selector.is_some();
        match kind {
            FileKind::File => {
                self.parent.is_some() || self.options.one_file_system || self.excludes.wants_size() || selected
            }
            FileKind::Directory => self.options.one_file_system || selected,
            _ => true,
        }
    }

    /// The parent snapshot's entries of a directory. Without them everything in it is read.
    fn previous(&self, path: &[u8], tree: Option<Id>) -> Previous {
        let (Some((reader, _)), Some(tree)) = (&self.parent, tree) else { return Previous::default() };
        match reader.tree_once(&tree) {
            Ok(tree) => Previous::new(tree.nodes),
            Err(error) => {
                let text = format!(
                    "{}: the parent snapshot's directory cannot be read ({error}); all of its files are read again",
                    shown(path)
                );
                self.job.message(MessageLevel::Warning, "tree", &text);
                Previous::default()
            }
        }
    }

    /// The same for a directory that the walk did not reach from above.
    fn previous_at(&self, path: &[u8]) -> Previous {
        let Some((reader, root)) = &self.parent else { return Previous::default() };
        if path.is_empty() {
            return self.previous(path, Some(*root));
        }
        match reader.node_at(root, path) {
            Ok(node) => self.previous(path, node.and_then(|node| node.subtree)),
            Err(error) => {
                let text =
                    format!("{}: the parent snapshot cannot be read ({error}); all files are read again", shown(path));
                self.job.message(MessageLevel::Warning, "tree", &text);
                Previous::default()
            }
        }
    }

    /// The parent's entries of a directory that holds roots with these names.
    fn previous_of(&self, place: &[u8], names: &[Vec<u8>]) -> Previous {
        let (Some(placed), Some(name)) = (&self.options.placed_as, names.first()) else {
            return self.previous_at(place);
        };
        let found = self.previous_at(b"").take(placed);
        Previous::new(found.into_iter().map(|node| Node { name: name.clone(), ..node }).collect())
    }

    /// Whether the contents that the parent has are what the file holds.
    fn unchanged(&self, previous: &Node, stat: &FileStat, treatment: &Treatment) -> bool {
        let stat = &stat.stat;
        let Some(content) = &previous.content else { return false };
        previous.size == stat.size
            && previous.mtime == stat.mtime
            && (self.options.ignore_ctime || treatment.ignore_ctime || previous.ctime == stat.ctime)
            && (self.options.ignore_inode || previous.inode == 0 || previous.inode == stat.inode)
            && content.iter().all(|id| self.writer.knows(BlobKind::Data, id))
    }
}

/// A thread deals with entries as long as this lives, also if it panics: the others must not wait for it for ever.
struct Active<'a> {
    state: &'a Mutex<State>,
    ready: &'a Condvar,
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        state.active -= 1;
        if state.active == 0 {
            self.ready.notify_all();
        }
    }
}

/// What became of an entry, for its directory.
enum Step {
    /// It is in the view.
    Node(Box<Node>),
    /// It is not.
    Nothing,
    /// A directory that settles with the one above when it is finished.
    Later,
    /// It is no longer what it was taken for: look again.
    Replaced,
}

/// One thread of a walk.
struct Worker<'a> {
    walk: &'a Walk<'a>,
    report: TreeReport,
    names: Names,
    xattrs: XattrReader,
    buffer: Vec<u8>,
}

impl<'a> Worker<'a> {
    fn new(walk: &'a Walk<'a>) -> Self {
        Self {
            walk,
            report: TreeReport::default(),
            names: Names::default(),
            xattrs: XattrReader::default(),
            buffer: Vec::new(),
        }
    }

    fn work(&mut self) {
        while let Some((claim, _active)) = self.walk.next() {
            self.handle(claim);
        }
    }

    /// Puts the directories that hold the roots on the stack. Roots that are not there fail at once.
    fn start(&mut self, roots: &Roots) -> Result<(), TreeError> {
        let mut there = roots.whole_system;
        let mut missing = Vec::new();
        let mut tops = Vec::new();
        for (place, names) in &roots.places {
            let opened =
                filesystem::open_place(place).and_then(|opened| Ok((filesystem::stat_of(opened.as_fd())?, opened)));
            let mut entries = Vec::new();
            for name in names {
                let mut path = place.clone();
                path.push(b'/');
                path.extend_from_slice(name);
                let found = match &opened {
                    Ok((_, descriptor)) => filesystem::stat_at(descriptor.as_fd(), name),
                    Err(error) => Err(io::Error::from(Errno::from_io_error(error).unwrap_or(Errno::IO))),
                };
                match found {
                    Ok(_) => entries.push(Listed { name: name.clone(), kind: None }),
                    Err(error) => missing.push((path, error)),
                }
            }
            if let Ok((stat, descriptor)) = opened
                && !entries.is_empty()
            {
                there = true;
                let previous = self.walk.previous_of(place, names);
                tops.push(Directory::new(top(place.clone(), &stat, previous, descriptor, entries)));
            }
        }
        for path in &roots.nested {
            let slash = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            let found = filesystem::open_place(&path[..slash])
                .and_then(|place| filesystem::stat_at(place.as_fd(), &path[slash + 1..]));
            if let Err(error) = found {
                missing.push((path.clone(), error));
            }
        }
        if !there {
            return Err(TreeError::NothingThere(nothing_there(&missing)));
        }
        for (path, error) in missing {
            let message = format!("{}: {error}", shown(&path));
            self.failed(&path, None, EntryError { errno: error.raw_os_error(), message, traceback: None });
        }
        if roots.whole_system {
            tops.push(self.whole_system()?);
        }
        for top in tops.into_iter().rev() {
            self.walk.push(top);
        }
        Ok(())
    }

    fn whole_system(&mut self) -> Result<Arc<Directory>, TreeError> {
        let unreadable = |error: io::Error| TreeError::NothingThere(format!("/: {error}"));
        let descriptor = filesystem::open_at(CWD, b"/", OFlags::DIRECTORY).map_err(unreadable)?;
        let stat = filesystem::stat_of(descriptor.as_fd()).map_err(unreadable)?;
        let mut entries = filesystem::list(descriptor.as_fd(), &mut self.buffer).map_err(unreadable)?;
        let tag = self.tag(descriptor.as_fd(), &entries);
        let mut selected = 0;
        if let Some(selector) = &self.walk.options.selector {
            if let Ok(picks) = selector.select(b"/", true, 0) {
                selected = self.walked_by(&picks, descriptor.as_fd(), b"/", false);
            }
            if selected == 0 {
                entries = next_names(self.walk.nested, b"");
            }
        }
        let previous = self.walk.previous_at(b"");
        let device = Some(stat.stat.device_id);
        let opened = top(Vec::new(), &stat, previous, descriptor, entries);
        Ok(Directory::new(Opened { device, tag, selected, ..opened }))
    }

    fn handle(&mut self, claim: Claim) {
        let Claim { directory, descriptor, entries } = claim;
        let mut settled = 0;
        let mut nodes = Vec::with_capacity(entries.len());
        let mut path = Vec::new();
        directory.path(&mut path);
        let base = path.len();
        let descriptor = match descriptor {
            Some(descriptor) => Ok(descriptor),
            None => directory.open(),
        };
        for entry in entries {
            // What nobody looked at before the walk stopped was never announced.
            if self.walk.stopping() {
                settled += 1;
                continue;
            }
            path.truncate(base);
            path.push(b'/');
            path.extend_from_slice(&entry.name);
            let step = match &descriptor {
                Ok(descriptor) => self.entry(&directory, descriptor.as_fd(), entry, &path),
                Err(error) => Ok(self.io_failed(&path, entry.kind, "reach", error)),
            };
            match step {
                Ok(Step::Node(node)) => {
                    nodes.push(*node);
                    settled += 1;
                }
                Ok(Step::Nothing | Step::Replaced) => settled += 1,
                Ok(Step::Later) => {}
                Err(error) => {
                    let lost = EntryError::new(format!("{}: {error}", shown(&path)));
                    self.end(&path, &Outcome::Failed(lost), FileKind::File, 0, Change::New);
                    self.walk.fail(error);
                    settled += 1;
                }
            }
        }
        drop(descriptor);
        if directory.settle(settled, &mut nodes) {
            self.finish(directory);
        }
    }

    /// Decides about one entry.
    fn entry(
        &mut self,
        directory: &Arc<Directory>,
        descriptor: BorrowedFd<'_>,
        listed: Listed,
        path: &[u8],
    ) -> Result<Step, Error> {
        /// Looks at an entry that is replaced each time.
        const LOOKS: usize = 4;
        let walk = self.walk;
        let Listed { name, kind: mut known } = listed;
        let mut stat = None;
        if let Some(rule) = walk.excludes.by_pattern(path) {
            let kind = known.or_else(|| filesystem::stat_at(descriptor, &name).ok().and_then(|stat| stat.kind()));
            return Ok(self.skipped(path, kind, rule.to_owned()));
        }
        if let Some((keep, rule)) = &directory.tag
            && *keep != name
        {
            return Ok(self.skipped(path, known, rule.clone()));
        }
        for _ in 0..LOOKS {
            if known.is_none_or(|kind| walk.stat_first(kind)) {
                match filesystem::stat_at(descriptor, &name) {
                    Ok(found) => {
                        known = found.kind();
                        stat = Some(found);
                    }
                    Err(error) => return Ok(self.io_failed(path, known, "look at", &error)),
                }
            }
            let Some(kind) = known else {
                return Ok(self.failed(path, None, EntryError::new(format!("{}: its type is not known", shown(path)))));
            };
            let is_directory = kind == FileKind::Directory;
            if let Some(rule) = walk.excludes.by_ignore_file(path, is_directory, directory.is_top()) {
                return Ok(self.skipped(path, Some(kind), rule));
            }
            if let Some(found) = &stat {
                let elsewhere = directory.device.is_some_and(|device| device != found.stat.device_id);
                if walk.options.one_file_system && elsewhere && !is_directory && !walk.nested.contains(path) {
                    return Ok(self.skipped(path, Some(kind), "--one-file-system".to_owned()));
                }
                if kind == FileKind::File
                    && let Some(rule) = walk.excludes.by_size(found.stat.size)
                {
                    return Ok(self.skipped(path, Some(kind), rule));
                }
            }
            let picks = match self.select(directory, descriptor, &name, path, kind, stat.as_ref()) {
                Ok(picks) => picks,
                Err(rule) => return Ok(self.skipped(path, Some(kind), rule)),
            };
            let treatment = picks.first().map_or(&walk.plain, |pick| pick.treatment);
            if let Some(stat) = &stat
                && let Some(step) = self.offer(directory, descriptor, &name, path, stat, treatment)
            {
                return Ok(step);
            }
            let step = match kind {
                FileKind::File => self.file(directory, descriptor, &name, path, stat, treatment)?,
                FileKind::Directory => self.directory(directory, descriptor, &name, path, stat, &picks)?,
                _ => self.special(directory, descriptor, &name, path, stat, treatment),
            };
            if !matches!(step, Step::Replaced) {
                return Ok(step);
            }
            (known, stat) = (None, None);
        }
        let error = EntryError::new(format!(
            "{}: it is not what its directory says it is, or it was replaced each time it was looked at",
            shown(path)
        ));
        Ok(self.failed(path, known, error))
    }

    /// What the selector says of an entry; nothing where there is none, and of a directory that is only passed on the way
    /// to roots inside it.
    fn select(
        &self,
        directory: &Directory,
        descriptor: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        kind: FileKind,
        stat: Option<&FileStat>,
    ) -> Result<Vec<Pick<'a>>, String> {
        let walk = self.walk;
        let Some(selector) = &walk.options.selector else { return Ok(Vec::new()) };
        let selected = selector.select(path, kind == FileKind::Directory, directory.selected);
        let result = selected.and_then(|mut picks| {
            if let Some(stat) = stat.filter(|_| kind == FileKind::File) {
                let fits =
                    |pick: &Pick<'_>| pick.treatment.sizes.as_ref().is_none_or(|sizes| sizes.contains(&stat.stat.size));
                picks.retain(fits);
                if picks.is_empty() {
                    return Err("Size".to_owned());
                }
            }
            if picks.iter().any(|pick| pick.treatment.honor_nodump) && filesystem::has_nodump(descriptor, name) {
                picks.retain(|pick| !pick.treatment.honor_nodump);
                if picks.is_empty() {
                    return Err("Honor Nodump Flag".to_owned());
                }
            }
            Ok(picks)
        });
        match result {
            Err(_) if kind == FileKind::Directory && leads_to_roots(walk.nested, path) => Ok(Vec::new()),
            other => other,
        }
    }

    /// The sets among `picks` that walk a directory which they selected; `elsewhere`: it is on another file system than the
    /// directory that it is in.
    fn walked_by(&self, picks: &[Pick<'_>], descriptor: BorrowedFd<'_>, path: &[u8], elsewhere: bool) -> u64 {
        let mut sets = 0;
        for Pick { set, is_root, treatment } in picks {
            let enters = *is_root || (treatment.recurse && !(elsewhere && treatment.one_file_system));
            if !enters {
                continue;
            }
            if !treatment.file_systems.is_empty() && (*is_root || elsewhere) {
                let known = rustix::fs::fstatfs(descriptor);
                if !known.is_ok_and(|found| is_one_of(&found, &treatment.file_systems)) {
                    let text = format!("{}: it is not walked: its file system is none that is listed", shown(path));
                    self.walk.job.message(MessageLevel::Warning, "tree", &text);
                    continue;
                }
            }
            sets |= set;
        }
        sets
    }

    /// Offers what is no directory to the taker; none if the walk saves it.
    fn offer(
        &mut self,
        directory: &Directory,
        descriptor: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        stat: &FileStat,
        treatment: &Treatment,
    ) -> Option<Step> {
        let number = treatment.offered?;
        let kind = stat.kind().filter(|kind| !matches!(kind, FileKind::Directory | FileKind::Socket))?;
        let link = match kind {
            // What is no link any more is the walk's to find out.
            FileKind::Symlink => rustix::fs::readlinkat(descriptor, name, Vec::new()).ok()?.into_bytes(),
            _ => Vec::new(),
        };
        Some(match self.walk.ask(number, path, kind, link.clone(), stat) {
            Taken::Passed => return None,
            Taken::Skipped(rule) => self.skipped(path, Some(kind), rule),
            Taken::Failed(error) => self.failed(path, Some(kind), error),
            Taken::Kept { content, xattrs, outcome } => {
                let mut node = node_of(stat, name.to_vec(), kind, &mut self.names, self.walk.options);
                if !treatment.hard_links {
                    node.links = node.links.min(1);
                }
                node.link_target = link;
                node.xattrs = xattrs;
                if kind == FileKind::File {
                    node.size = content.size;
                    node.content = Some(content.ids);
                }
                self.saved(path, node, directory.previous.get(name), outcome, None)
            }
        })
    }

    /// A regular file: taken from the parent, from another name of it, or read.
    fn file(
        &mut self,
        directory: &Directory,
        descriptor: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        stat: Option<FileStat>,
        treatment: &Treatment,
    ) -> Result<Step, Error> {
        let walk = self.walk;
        let previous = directory.previous.get(name).filter(|node| node.kind == FileKind::File);
        if let Some(stat) = &stat {
            let known = match previous {
                Some(node) if walk.unchanged(node, stat, treatment) => {
                    Some((node.content.clone().unwrap_or_default(), node.size, Outcome::Unchanged))
                }
                _ => walk.links.take(stat).map(|(content, size)| (content, size, Outcome::Saved)),
            };
            if let Some((content, size, outcome)) = known {
                let object = Attributed::Named(descriptor, name);
                let (mut node, problem) = self.node(stat, name, FileKind::File, object, path, treatment);
                node.content = Some(content);
                node.size = size;
                walk.observer.bytes(size);
                return Ok(self.saved(path, node, previous, outcome, problem));
            }
        }
        walk.observer.current(path);
        let file = match self.open_file(descriptor, name) {
            Ok(file) => file,
            Err(error) => return Ok(self.not_opened(path, FileKind::File, &error)),
        };
        let mut before = match filesystem::stat_of(file.as_fd()) {
            Ok(before) => before,
            Err(error) => return Ok(self.io_failed(path, Some(FileKind::File), "look at", &error)),
        };
        if before.kind() != Some(FileKind::File) {
            return Ok(Step::Replaced);
        }
        let object = Attributed::Open(file.as_fd());
        if stat.is_none()
            && let Some((content, size)) = walk.links.take(&before)
        {
            let (mut node, problem) = self.node(&before, name, FileKind::File, object, path, treatment);
            node.content = Some(content);
            node.size = size;
            walk.observer.bytes(size);
            return Ok(self.saved(path, node, previous, Outcome::Saved, problem));
        }
        let mut attempt = 1;
        let (content, size, changed) = loop {
            let (content, size) = match self.read(file.as_fd(), &before)? {
                Reading::Done { content, size } => (content, size),
                Reading::Failed(error) => return Ok(self.io_failed(path, Some(FileKind::File), "read", &error)),
                Reading::Cancelled => {
                    let error = EntryError::new(format!("{}: the job was stopped while it was read", shown(path)));
                    return Ok(self.failed(path, Some(FileKind::File), error));
                }
            };
            let after = match filesystem::stat_of(file.as_fd()) {
                Ok(after) => after,
                Err(error) => return Ok(self.io_failed(path, Some(FileKind::File), "look at", &error)),
            };
            if before.same_contents(&after) {
                break (content, size, false);
            }
            // A short file is worth another try; of a long one, the bytes read are kept.
            let again = attempt < ATTEMPTS && after.stat.size <= SMALL as u64 && size <= SMALL as u64;
            if !again || rustix::fs::seek(&file, SeekFrom::Start(0)).is_err() {
                break (content, size, true);
            }
            before = after;
            attempt += 1;
        };
        let (mut node, mut problem) = self.node(&before, name, FileKind::File, object, path, treatment);
        if changed {
            let text = format!("{}: it changed while it was read; it is saved as it was read", shown(path));
            problem = Some(EntryError::new(text));
        } else {
            walk.links.put(&before, &content, size);
        }
        node.content = Some(content);
        node.size = size;
        Ok(self.saved(path, node, previous, Outcome::Saved, problem))
    }

    fn read(&mut self, file: BorrowedFd<'_>, stat: &FileStat) -> Result<Reading, Error> {
        let walk = self.walk;
        let mut reader = FileReader {
            writer: walk.writer,
            progress: &|count| walk.observer.bytes(count),
            cancelled: &|| walk.stopping(),
            bytes_read: 0,
        };
        let reading = reader.read(file, stat, &mut self.buffer);
        self.report.bytes_read += reader.bytes_read;
        reading
    }

    /// Opens a file without waiting for a writer of the pipe that may have taken its place.
    fn open_file(&self, descriptor: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
        let started = Instant::now();
        loop {
            match filesystem::open_at(descriptor, name, OFlags::NONBLOCK) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && started.elapsed() < LEASE_WAIT => {
                    if self.walk.stopping() {
                        return Err(error);
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                other => return other,
            }
        }
    }

    /// A directory: opened, listed and put on the stack.
    fn directory(
        &mut self,
        above: &Arc<Directory>,
        descriptor: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        stat: Option<FileStat>,
        picks: &[Pick<'_>],
    ) -> Result<Step, Error> {
        const KIND: FileKind = FileKind::Directory;
        let walk = self.walk;
        // On another file system only the way to roots that are inside it is walked.
        let mut device = above.device;
        let mut through = None;
        if walk.options.one_file_system
            && let Some(stat) = &stat
            && device.is_some_and(|device| device != stat.stat.device_id)
        {
            if walk.nested.contains(path) { device = None } else { through = Some(next_names(walk.nested, path)) }
        }
        let mut picks = picks.to_vec();
        let mut selected = 0;
        if walk.options.selector.is_some() {
            let looked = match filesystem::open_at(descriptor, name, OFlags::DIRECTORY | OFlags::PATH) {
                Ok(looked) => looked,
                Err(error) => return Ok(self.not_opened(path, KIND, &error)),
            };
            let mut rule = None;
            picks.retain(|pick| {
                let mut names = pick.treatment.leave_out_holding.iter();
                let holds = names.find(|name| filesystem::stat_at(looked.as_fd(), name).is_ok());
                rule = rule.take().or(holds);
                holds.is_none()
            });
            if let Some(rule) = rule
                && picks.is_empty()
                && !leads_to_roots(walk.nested, path)
            {
                let rule = format!("Exclude Dir Containing = \"{}\"", String::from_utf8_lossy(rule));
                return Ok(self.skipped(path, Some(KIND), rule));
            }
            let elsewhere = stat.is_some_and(|stat| stat.stat.device_id != above.identity.0);
            selected = self.walked_by(&picks, looked.as_fd(), path, elsewhere);
            if selected == 0 {
                through = Some(next_names(walk.nested, path));
            }
        }
        let treatment = picks.first().map_or(&walk.plain, |pick| pick.treatment);
        let flags = if through.is_some() { OFlags::DIRECTORY | OFlags::PATH } else { OFlags::DIRECTORY };
        let opened = match filesystem::open_at(descriptor, name, flags) {
            Ok(opened) => opened,
            Err(error) => return Ok(self.not_opened(path, KIND, &error)),
        };
        let stat = match filesystem::stat_of(opened.as_fd()) {
            Ok(stat) => stat,
            Err(error) => return Ok(self.io_failed(path, Some(KIND), "look at", &error)),
        };
        let (entries, tag, object) = match through {
            Some(names) => (names, None, Attributed::Named(descriptor, name)),
            None => match filesystem::list(opened.as_fd(), &mut self.buffer) {
                Ok(entries) => {
                    let tag = self.tag(opened.as_fd(), &entries);
                    (entries, tag, Attributed::Open(opened.as_fd()))
                }
                Err(error) => return Ok(self.io_failed(path, Some(KIND), "list", &error)),
            },
        };
        let (node, problem) = self.node(&stat, name, KIND, object, path, treatment);
        let previous_self = above.previous.get(name).filter(|node| node.kind == KIND).cloned();
        let directory = Directory::new(Opened {
            place: Place::Below(Some(Arc::clone(above))),
            name: name.to_vec(),
            identity: (stat.stat.device_id, stat.stat.inode),
            device: Some(device.unwrap_or(stat.stat.device_id)),
            tag,
            selected,
            previous: walk.previous(path, previous_self.as_ref().and_then(|node| node.subtree)),
            previous_self,
            node: Some(node),
            problem,
            offered: treatment.offered.map(|number| (number, stat)),
            descriptor: opened,
            entries,
        });
        if directory.is_empty() {
            self.finish(directory);
        } else {
            walk.push(directory);
        }
        Ok(Step::Later)
    }

    /// The first tag file in a listing that marks the directory, and its rule.
    fn tag(&self, directory: BorrowedFd<'_>, entries: &[Listed]) -> Option<(Vec<u8>, String)> {
        let holds = |tag: &Tag| -> bool {
            if entries.binary_search_by(|entry| entry.name.as_slice().cmp(&tag.name)).is_err() {
                return false;
            }
            if tag.header.is_empty() {
                return true;
            }
            // A tag that cannot be read marks nothing: then too much is saved, not too little.
            let Ok(file) = filesystem::open_at(directory, &tag.name, OFlags::NONBLOCK) else { return false };
            let regular = filesystem::stat_of(file.as_fd()).is_ok_and(|stat| stat.kind() == Some(FileKind::File));
            let mut header = vec![0; tag.header.len()];
            regular && filesystem::read_full(&file, &mut header).0 == header.len() && header == tag.header
        };
        let tag = self.walk.excludes.tags().iter().find(|tag| holds(tag))?;
        Some((tag.name.clone(), tag.rule.clone()))
    }

    /// A symbolic link, a pipe, a socket or a device.
    fn special(
        &mut self,
        directory: &Directory,
        descriptor: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        stat: Option<FileStat>,
        treatment: &Treatment,
    ) -> Step {
        let Some(stat) = stat else { return Step::Replaced };
        let Some(kind) = stat.kind() else { return Step::Replaced };
        let mut target = Vec::new();
        if kind == FileKind::Symlink {
            match rustix::fs::readlinkat(descriptor, name, Vec::new()) {
                Ok(text) => target = text.into_bytes(),
                Err(Errno::INVAL) => return Step::Replaced,
                Err(error) => return self.io_failed(path, Some(kind), "read the link", &error.into()),
            }
        }
        let (mut node, problem) = self.node(&stat, name, kind, Attributed::Named(descriptor, name), path, treatment);
        node.link_target = target;
        let previous = directory.previous.get(name);
        self.saved(path, node, previous, Outcome::Saved, problem)
    }

    /// A node of what a `stat` and the extended attributes tell, and what could not be read.
    fn node(
        &mut self,
        stat: &FileStat,
        name: &[u8],
        kind: FileKind,
        object: Attributed<'_>,
        path: &[u8],
        treatment: &Treatment,
    ) -> (Node, Option<EntryError>) {
        let mut node = node_of(stat, name.to_vec(), kind, &mut self.names, self.walk.options);
        if !treatment.hard_links {
            node.links = node.links.min(1);
        }
        if !treatment.acls && !treatment.xattrs {
            return (node, None);
        }
        let (mut xattrs, problem) = self.xattrs.read(object, path);
        xattrs.retain(|(name, _)| treatment.keeps(name));
        let problem = problem.filter(|problem| problem.name == "list" || treatment.keeps(problem.name.as_bytes()));
        node.xattrs = xattrs;
        let problem = problem.map(|problem| EntryError {
            errno: problem.error.raw_os_error(),
            message: format!("{}: saved without {problem}", shown(path)),
            traceback: None,
        });
        (node, problem)
    }

    /// All entries of a directory have come to their end: stores its tree, and goes on with the directory above if this
    /// was its last entry.
    fn finish(&mut self, mut directory: Arc<Directory>) {
        let walk = self.walk;
        let mut path = Vec::new();
        loop {
            let nodes = directory.take_nodes();
            directory.path(&mut path);
            let Some(above) = directory.above().map(Arc::clone) else {
                let below = nodes.into_iter().map(|node| {
                    let mut whole = path.get(1..).unwrap_or_default().to_vec();
                    if !whole.is_empty() {
                        whole.push(b'/');
                    }
                    whole.extend_from_slice(&node.name);
                    (whole, node)
                });
                walk.top.lock().extend(below);
                return;
            };
            let mut finished = Vec::new();
            if let Some(node) = directory.node.lock().take()
                && !walk.failed()
            {
                match self.finished(&directory, &path, node, &nodes) {
                    Ok(Step::Node(node)) => finished.push(*node),
                    Ok(_) => {}
                    Err(error) => {
                        let lost = EntryError::new(format!("{}: {error}", shown(&path)));
                        self.end(&path, &Outcome::Failed(lost), FileKind::Directory, 0, Change::New);
                        walk.fail(error);
                    }
                }
            }
            if !above.settle(1, &mut finished) {
                return;
            }
            directory = above;
        }
    }

    /// Stores the tree of a directory, and says what becomes of the directory itself.
    fn finished(&mut self, directory: &Directory, path: &[u8], mut node: Node, nodes: &[Node]) -> Result<Step, Error> {
        let mut problem = directory.problem.clone();
        let mut outcome = Outcome::Saved;
        if let Some((number, stat)) = &directory.offered {
            match self.walk.ask(*number, path, FileKind::Directory, Vec::new(), stat) {
                Taken::Passed => {}
                Taken::Skipped(rule) if nodes.is_empty() => return Ok(self.skipped(path, Some(node.kind), rule)),
                Taken::Skipped(rule) => outcome = Outcome::Skipped(rule),
                Taken::Failed(error) => problem = Some(error),
                Taken::Kept { xattrs, outcome: ended, .. } => {
                    (node.xattrs, outcome, problem) = (xattrs, ended, None);
                }
            }
        }
        node.subtree = Some(self.walk.writer.save_tree(nodes)?);
        Ok(self.saved(path, node, directory.previous_self.as_ref(), outcome, problem))
    }

    /// Counts and tells an entry that is in the view.
    fn saved(
        &mut self,
        path: &[u8],
        node: Node,
        previous: Option<&Node>,
        outcome: Outcome,
        problem: Option<EntryError>,
    ) -> Step {
        let change = match previous {
            None => Change::New,
            Some(previous) if *previous == node => Change::Unmodified,
            Some(_) => Change::Changed,
        };
        let report = &mut self.report;
        match (node.kind, change) {
            (FileKind::File, Change::New) => report.files_new += 1,
            (FileKind::File, Change::Changed) => report.files_changed += 1,
            (FileKind::File, Change::Unmodified) => report.files_unmodified += 1,
            (FileKind::Directory, Change::New) => report.dirs_new += 1,
            (FileKind::Directory, Change::Changed) => report.dirs_changed += 1,
            (FileKind::Directory, Change::Unmodified) => report.dirs_unmodified += 1,
            _ => {}
        }
        report.bytes += node.size;
        let outcome = problem.map_or(outcome, Outcome::Failed);
        self.end(path, &outcome, node.kind, node.size, change);
        Step::Node(Box::new(node))
    }

    fn skipped(&mut self, path: &[u8], kind: Option<FileKind>, rule: String) -> Step {
        self.end(path, &Outcome::Skipped(rule), kind.unwrap_or(FileKind::File), 0, Change::New);
        Step::Nothing
    }

    fn failed(&mut self, path: &[u8], kind: Option<FileKind>, error: EntryError) -> Step {
        self.end(path, &Outcome::Failed(error), kind.unwrap_or(FileKind::File), 0, Change::New);
        Step::Nothing
    }

    /// An entry that could not be opened, unless it was replaced by one of another kind.
    fn not_opened(&mut self, path: &[u8], kind: FileKind, error: &io::Error) -> Step {
        let errno = Errno::from_io_error(error);
        if matches!(errno, Some(Errno::LOOP | Errno::NOTDIR | Errno::NXIO)) {
            return Step::Replaced;
        }
        self.io_failed(path, Some(kind), "open", error)
    }

    /// What the system said about an entry, in one line.
    fn io_failed(&mut self, path: &[u8], kind: Option<FileKind>, action: &str, error: &io::Error) -> Step {
        let message = match Errno::from_io_error(error) {
            Some(Errno::NOENT) => format!("{}: it vanished before it could be saved: {error}", shown(path)),
            _ => format!("{}: cannot {action} it: {error}", shown(path)),
        };
        self.failed(path, kind, EntryError { errno: error.raw_os_error(), message, traceback: None })
    }

    fn end(&mut self, path: &[u8], outcome: &Outcome, kind: FileKind, size: u64, change: Change) {
        self.report.tally.count(outcome);
        self.walk.observer.entry(path, outcome, kind, size, change);
    }
}

/// A directory that holds roots.
fn top(path: Vec<u8>, stat: &FileStat, previous: Previous, descriptor: OwnedFd, entries: Vec<Listed>) -> Opened {
    Opened {
        place: Place::Top,
        name: path,
        identity: (stat.stat.device_id, stat.stat.inode),
        device: None,
        tag: None,
        selected: 0,
        previous,
        previous_self: None,
        node: None,
        problem: None,
        offered: None,
        descriptor,
        entries,
    }
}

/// Whether there are roots inside `path`.
fn leads_to_roots(nested: &BTreeSet<Vec<u8>>, path: &[u8]) -> bool {
    let mut below = path.to_vec();
    below.push(b'/');
    nested.range(below.clone()..).next().is_some_and(|root| root.starts_with(&below))
}

/// The names in `path` that lead to roots inside it.
fn next_names(nested: &BTreeSet<Vec<u8>>, path: &[u8]) -> Vec<Listed> {
    let names: BTreeSet<&[u8]> = nested
        .iter()
        .filter_map(|root| root.strip_prefix(path)?.strip_prefix(b"/"))
        .filter_map(|rest| rest.split(|byte| *byte == b'/').next())
        .collect();
    names.into_iter().map(|name| Listed { name: name.to_vec(), kind: None }).collect()
}

fn nothing_there(missing: &[(Vec<u8>, io::Error)]) -> String {
    match missing {
        [] => "no path was given: nothing to back up".to_owned(),
        [(path, error)] => format!("{}: {error}; nothing to back up", shown(path)),
        [(path, error), rest @ ..] => {
            format!("{}: {error}; and {} more cannot be found either; nothing to back up", shown(path), rest.len())
        }
    }
}
