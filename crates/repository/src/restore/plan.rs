//! Finding out what has to be written: trees are walked by several threads, directories, links and special files are
//! made on the way, and files are noted with the places of their blobs.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use backstay_core::{FileKind, Id};
use hashbrown::HashMap;
use parking_lot::{Condvar, Mutex};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, linkat, mknodat, openat, readlinkat, statat, symlinkat};
use rustix::io::{Errno, pread};

use super::contents::{finish_file, open_file};
use super::metadata::{Meta, apply, apply_special};
use super::target::{Directories, Handles, ROOT};
use super::{Benches, Overwrite, RestoreAction, Run, add};
use crate::error::Error;
use crate::index::Location;
use crate::pack::BlobKind;
use crate::reader::{Result, plain_length};
use crate::tree::Node;
use crate::walk::{INTERNAL, join};

/// No group of hard links.
const ALONE: u32 = u32::MAX;

/// A file that takes data.
pub(super) struct File {
    pub(super) directory: u32,
    group: u32,
    pub(super) name: Box<[u8]>,
    pub(super) meta: Meta,
    /// The length in bytes that it gets.
    pub(super) size: u64,
    /// How many pieces are written into it.
    pub(super) pieces: u32,
    /// How many of them are not written yet.
    pub(super) pending: AtomicU32,
    /// It does not exist before: gaps in it are zeros already.
    pub(super) fresh: bool,
    pub(super) failed: AtomicBool,
}

/// One place of one blob.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub(super) id: Id,
    /// Where it goes in the file, in bytes.
    pub(super) at: u64,
    pub(super) file: u32,
    /// Number of the pack in [`Plan::packs`].
    pub(super) pack: u32,
    pub(super) offset: u32,
    pub(super) length: u32,
    pub(super) uncompressed: Option<NonZeroU32>,
}

impl Piece {
    /// The length of the plain content in bytes.
    pub(super) fn plain_length(&self) -> u64 {
        plain_length(&Location { pack: Id::default(), offset: 0, length: self.length, uncompressed: self.uncompressed })
    }
}

/// Names of one object.
struct Group {
    directory: u32,
    name: Box<[u8]>,
    failed: AtomicBool,
}

struct Link {
    directory: u32,
    group: u32,
    name: Box<[u8]>,
    size: u64,
}

/// What the walk found.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) files: Vec<File>,
    pub(super) pieces: Vec<Piece>,
    pub(super) packs: Vec<Id>,
    pack_numbers: HashMap<Id, u32>,
    groups: Vec<Group>,
    group_numbers: HashMap<(u64, u64, Id), u32>,
    links: Vec<Link>,
}

impl Plan {
    fn pack(&mut self, id: Id) -> Result<u32> {
        let next = u32::try_from(self.packs.len()).map_err(|_| Error::Other("too many packs".to_owned()))?;
        Ok(*self.pack_numbers.entry(id).or_insert_with(|| {
            self.packs.push(id);
            next
        }))
    }

    /// Notes that a file failed, and with it every other name of it.
    pub(super) fn failed(&self, file: &File) {
        file.failed.store(true, Ordering::Release);
        self.group_failed(file.group);
    }

    fn group_failed(&self, group: u32) {
        if let Some(group) = self.groups.get(group as usize) {
            group.failed.store(true, Ordering::Release);
        }
    }
}

/// A directory that waits to be walked.
struct Task {
    directory: u32,
    path: Vec<u8>,
    nodes: Nodes,
}

enum Nodes {
    Tree(Id),
    Single(Box<Node>),
}

/// Tasks for several threads: the last one first, so that few wait.
struct Queue {
    state: Mutex<(Vec<Task>, usize)>,
    changed: Condvar,
}

impl Queue {
    fn take(&self, run: &Run<'_>) -> Option<Task> {
        let mut state = self.state.lock();
        loop {
            if run.stopping() {
                self.changed.notify_all();
                return None;
            }
            if let Some(task) = state.0.pop() {
                state.1 += 1;
                return Some(task);
            }
            if state.1 == 0 {
                return None;
            }
            self.changed.wait(&mut state);
        }
    }

    fn add(&self, tasks: Vec<Task>) {
        self.state.lock().0.extend(tasks);
        self.changed.notify_all();
    }

    fn done(&self) {
        self.state.lock().1 -= 1;
        self.changed.notify_all();
    }
}

/// Walks the tree `base` (or the one node `single`) and returns what is left to be written.
pub(super) fn make(
    run: &Run<'_>,
    directories: &Directories,
    base: Option<Id>,
    single: Option<Node>,
    at_root: bool,
) -> Result<Plan> {
    let nodes = match (base, single) {
        (_, Some(node)) => Nodes::Single(Box::new(node)),
        (Some(tree), None) => {
            // A root that cannot be read fails everything: that is no matter of one entry.
            run.reader.load(BlobKind::Tree, &tree)?;
            Nodes::Tree(tree)
        }
        (None, None) => return Ok(Plan::default()),
    };
    let queue = Queue {
        state: Mutex::new((vec![Task { directory: ROOT, path: Vec::new(), nodes }], 0)),
        changed: Condvar::new(),
    };
    let plan = Mutex::new(Plan::default());
    let planners = Benches::new(run.workers(), || {
        let handles = Handles::new(run, directories);
        Planner { run, directories, handles, plan: &plan, buffer: Vec::new() }
    });
    run.on_threads(run.readers(), || {
        while let Some(task) = queue.take(run) {
            let skip_internal = run.options.skip_internal && at_root && task.directory == ROOT;
            let nodes = match task.nodes {
                Nodes::Single(node) => Ok(vec![*node]),
                Nodes::Tree(tree) => run.reader.tree_once(&tree).map(|tree| tree.nodes),
            };
            let mut planner = planners.take();
            let found = planner.work(|planner| planner.directory(task.directory, &task.path, nodes, skip_internal));
            drop(planner);
            queue.add(found.unwrap_or_default());
            queue.done();
        }
    });
    drop(planners);
    Ok(plan.into_inner())
}

/// What is to be done about a file's contents.
enum Contents {
    /// It does not exist, or has been removed.
    Fresh,
    /// It exists and is right.
    Right,
    /// It exists; these blobs are right already.
    InPlace(Vec<bool>),
}

/// What stands at a name.
enum Found {
    Nothing,
    Something(Box<rustix::fs::Stat>),
}

/// Why a name may not be made; none for names that may.
fn bad_name(name: &[u8]) -> Option<&'static str> {
    match name {
        b"" => Some("its name is empty"),
        b"." | b".." => Some("its name would lead to another directory"),
        _ if name.contains(&b'/') => Some("its name contains a slash"),
        _ if name.contains(&0) => Some("its name contains a zero byte"),
        _ => None,
    }
}

/// What one directory adds to the plan.
#[derive(Default)]
struct Batch {
    files: Vec<(File, Vec<NewPiece>)>,
}

struct NewPiece {
    id: Id,
    at: u64,
    location: Location,
}

struct Planner<'a> {
    run: &'a Run<'a>,
    directories: &'a Directories,
    handles: Handles<'a>,
    plan: &'a Mutex<Plan>,
    buffer: Vec<u8>,
}

impl Planner<'_> {
    fn directory(&mut self, number: u32, path: &[u8], nodes: Result<Vec<Node>>, skip_internal: bool) -> Vec<Task> {
        let run = self.run;
        let make = !run.options.dry_run && (self.directories.chosen(number));
        let here = match self.handles.get(number, make) {
            Ok(here) => here,
            Err(error) => {
                run.fail_io(path, "the directory and what is in it cannot be made", error);
                return Vec::new();
            }
        };
        let mut nodes = match nodes {
            Ok(nodes) => nodes,
            Err(error) => {
                run.fail(path, format!("nothing in this directory is restored: {error}"));
                return Vec::new();
            }
        };
        // What is in a directory that this restore made needs no second look.
        let old = here.filter(|_| !self.directories.fresh(number));
        let mut names: HashSet<&[u8]> = HashSet::new();
        let ordered = nodes.windows(2).all(|pair| pair[0].name < pair[1].name);
        let doubles: Vec<bool> = nodes.iter().map(|node| !ordered && !names.insert(&node.name)).collect();
        if run.options.delete
            && let Some(fd) = &old
        {
            names.extend(nodes.iter().map(|node| node.name.as_slice()));
            self.handles.delete_others(fd.as_fd(), path, &names);
        }
        drop(names);
        let mut tasks = Vec::new();
        let mut batch = Batch::default();
        for (node, double) in nodes.iter_mut().zip(doubles) {
            if run.stopping() {
                break;
            }
            if skip_internal && node.name == INTERNAL {
                continue;
            }
            let path = join(path, &node.name);
            if let Some(reason) = bad_name(&node.name).or(double.then_some("its directory has the same name twice")) {
                run.fail(&path, reason);
                continue;
            }
            let (chosen, descend) = run.filter.select(&path);
            if chosen {
                add(&run.counters.total_files, 1);
            }
            match node.kind {
                FileKind::Directory if descend => tasks.extend(self.subdirectory(number, path, node, chosen)),
                FileKind::File if chosen => self.file(number, old.as_ref(), &path, node, &mut batch),
                kind if chosen && kind != FileKind::Directory => self.special(number, old.as_ref(), &path, node),
                _ => {}
            }
        }
        if let Err(error) = self.keep(batch) {
            run.stop(error.to_string());
        }
        tasks
    }

    fn subdirectory(&mut self, parent: u32, path: Vec<u8>, node: &mut Node, chosen: bool) -> Option<Task> {
        let Some(tree) = node.subtree.filter(|tree| !tree.is_null()) else {
            self.run.fail(&path, "the directory has no tree in the snapshot");
            return None;
        };
        let meta = Meta::take(node);
        match self.directories.add(parent, &node.name, meta, chosen) {
            Ok(directory) => {
                if self.run.options.dry_run && chosen {
                    self.run.restored(&path, 0);
                }
                Some(Task { directory, path, nodes: Nodes::Tree(tree) })
            }
            Err(error) => {
                self.run.stop(error.to_string());
                None
            }
        }
    }

    /// Looks at a name in a directory that existed before.
    fn look(&self, old: Option<&Arc<OwnedFd>>, path: &[u8], name: &[u8]) -> Option<Found> {
        let Some(fd) = old else { return Some(Found::Nothing) };
        match statat(&**fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(Found::Something(Box::new(stat))),
            Err(Errno::NOENT) => Some(Found::Nothing),
            Err(error) => {
                self.run.fail_io(path, "it cannot be looked at", error);
                None
            }
        }
    }

    fn clear(&mut self, fd: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> bool {
        if self.run.options.dry_run {
            return true;
        }
        if self.handles.remove(fd, name, path, self.run.options.delete) {
            return true;
        }
        // An exclude pattern kept something in a directory that has to go: the removal itself was no error.
        if statat(fd, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
            && !self.run.errors.lock().iter().any(|failure| failure.path == path)
        {
            self.run.fail(path, "a directory is in the way and something in it is excluded");
        }
        false
    }

    fn file(&mut self, directory: u32, old: Option<&Arc<OwnedFd>>, path: &[u8], node: &mut Node, batch: &mut Batch) {
        let run = self.run;
        let Some(content) = node.content.take() else {
            return run.fail(path, "the file has no list of contents in the snapshot");
        };
        let mut pieces = Vec::with_capacity(content.len());
        let mut size = 0_u64;
        for id in &content {
            match run.reader.locate(BlobKind::Data, id) {
                Ok(location) => {
                    pieces.push(NewPiece { id: *id, at: size, location });
                    size += plain_length(&location);
                }
                Err(error) => return run.fail(path, error.to_string()),
            }
        }
        add(&run.counters.total_bytes, size);
        let Some(found) = self.look(old, path, &node.name) else { return };
        if run.options.overwrite == Overwrite::Never && matches!(found, Found::Something(_)) {
            return run.skipped(RestoreAction::Kept, path, size);
        }
        let name: Box<[u8]> = node.name.as_slice().into();
        let mut group = ALONE;
        if node.links > 1 && node.inode != 0 && !run.options.dry_run {
            match self.join_group(directory, &name, node, &content, size) {
                Some(number) => group = number,
                None => return,
            }
        }
        let contents = match (found, old) {
            (Found::Something(stat), Some(fd)) => self.compare(fd, &stat, path, node, &pieces, size),
            _ => Some(Contents::Fresh),
        };
        let Some(contents) = contents else {
            return self.plan.lock().group_failed(group);
        };
        let meta = Meta::take(node);
        if run.options.dry_run {
            return match contents {
                Contents::Right => run.skipped(RestoreAction::Unchanged, path, size),
                _ => run.restored(path, size),
            };
        }
        let fresh = matches!(contents, Contents::Fresh);
        let file = |pieces: usize, meta| File {
            directory,
            group,
            name,
            meta,
            size,
            pieces: u32::try_from(pieces).unwrap_or(u32::MAX),
            pending: AtomicU32::new(u32::try_from(pieces).unwrap_or(u32::MAX)),
            fresh,
            failed: AtomicBool::new(false),
        };
        match contents {
            Contents::Right => {
                if !self.touch(old, &node.name, path, &meta) {
                    self.plan.lock().group_failed(group);
                    return;
                }
                return run.skipped(RestoreAction::Unchanged, path, size);
            }
            Contents::InPlace(right) => {
                let mut flags = right.into_iter();
                pieces.retain(|piece| {
                    let keep = !flags.next().unwrap_or(false);
                    if !keep {
                        let length = plain_length(&piece.location);
                        add(&run.counters.bytes_skipped, length);
                        run.progress.advanced(0, length);
                    }
                    keep
                });
            }
            Contents::Fresh => {}
        }
        let file = file(pieces.len(), meta);
        if pieces.is_empty() {
            // Nothing to wait for: an empty file, or one that is only too long.
            let done = open_file(run, &mut self.handles, &file)
                .map_err(|error| run.io_text(path, "it cannot be made", error))
                .and_then(|fd| finish_file(run, self.directories, &file, fd.as_fd()));
            match done {
                Ok(()) => run.restored(path, size),
                Err(message) => {
                    run.fail(path, message);
                    self.plan.lock().group_failed(group);
                }
            }
            return;
        }
        batch.files.push((file, pieces));
    }

    /// The number of the group that the file begins; none when it is a further name of one.
    fn join_group(&mut self, directory: u32, name: &[u8], node: &Node, content: &[Id], size: u64) -> Option<u32> {
        // Two names that were read at different times may hold different contents: then they are two files.
        let bytes: Vec<u8> = content.iter().flat_map(|id| id.0).collect();
        let key = (node.device_id, node.inode, Id::of(&bytes));
        let mut plan = self.plan.lock();
        if let Some(group) = plan.group_numbers.get(&key).copied() {
            plan.links.push(Link { directory, group, name: name.into(), size });
            return None;
        }
        let number = u32::try_from(plan.groups.len()).unwrap_or(ALONE);
        plan.groups.push(Group { directory, name: name.into(), failed: AtomicBool::new(false) });
        plan.group_numbers.insert(key, number);
        Some(number)
    }

    /// Finds out what of an existing name can stay; removes it when nothing can. None: it failed.
    fn compare(
        &mut self,
        fd: &Arc<OwnedFd>,
        stat: &rustix::fs::Stat,
        path: &[u8],
        node: &Node,
        pieces: &[NewPiece],
        size: u64,
    ) -> Option<Contents> {
        let run = self.run;
        let fresh = |planner: &mut Self| planner.clear(fd.as_fd(), &node.name, path).then_some(Contents::Fresh);
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return fresh(self);
        }
        let length = u64::try_from(stat.st_size).unwrap_or(0);
        let same_time = stat.st_mtime == node.mtime.seconds
            && u32::try_from(stat.st_mtime_nsec).is_ok_and(|nanoseconds: u32| nanoseconds == node.mtime.nanoseconds);
        if run.options.overwrite == Overwrite::IfChanged && same_time && length == node.size {
            return Some(Contents::Right);
        }
        let access = if run.options.dry_run { OFlags::RDONLY } else { OFlags::RDWR };
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // A program that runs, or a file that may not be written, can be replaced but not changed.
        let Ok(file) = openat(&**fd, &*node.name, flags, Mode::empty()) else { return fresh(self) };
        let mut right = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let wanted = plain_length(&piece.location);
            right.push(piece.at + wanted <= length && self.holds(&file, piece, wanted));
        }
        if right.iter().all(|right| *right) && length == size {
            return Some(Contents::Right);
        }
        // Other names of the file that stands there must keep its contents.
        if stat.st_nlink > 1 {
            return fresh(self);
        }
        Some(Contents::InPlace(right))
    }

    /// Whether the blob stands in the file already.
    fn holds(&mut self, file: &OwnedFd, piece: &NewPiece, length: u64) -> bool {
        let Ok(length) = usize::try_from(length) else { return false };
        self.buffer.resize(length, 0);
        let mut done = 0;
        while done < length {
            match pread(file, &mut self.buffer[done..], piece.at + done as u64) {
                Ok(0) => return false,
                Ok(read) => done += read,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        Id::of(&self.buffer) == piece.id
    }

    /// Sets the metadata of a file whose contents are right.
    fn touch(&mut self, old: Option<&Arc<OwnedFd>>, name: &[u8], path: &[u8], meta: &Meta) -> bool {
        let Some(directory) = old else { return true };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let result = match openat(&**directory, name, flags, Mode::empty()) {
            Ok(file) => apply(self.run, file.as_fd(), meta, true),
            Err(error) => Err(format!("its metadata cannot be set: {}", std::io::Error::from(error))),
        };
        result.map_err(|message| self.run.fail(path, message)).is_ok()
    }

    /// Makes a symbolic link, device, pipe or socket.
    fn special(&mut self, directory: u32, old: Option<&Arc<OwnedFd>>, path: &[u8], node: &mut Node) {
        let run = self.run;
        let Some(found) = self.look(old, path, &node.name) else { return };
        let acl = self.directories.inherits_acl(directory);
        if let (Found::Something(stat), Some(fd)) = (found, old) {
            if run.options.overwrite == Overwrite::Never {
                return run.skipped(RestoreAction::Kept, path, 0);
            }
            let same = node.kind == FileKind::Symlink
                && FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
                && readlinkat(&**fd, &*node.name, Vec::new())
                    .is_ok_and(|target| target.to_bytes() == node.link_target.as_slice());
            if same {
                if !run.options.dry_run {
                    let meta = Meta::take(node);
                    if let Err(message) = apply_special(run, fd.as_fd(), &node.name, node.kind, &meta, acl) {
                        return run.fail(path, message);
                    }
                }
                return run.skipped(RestoreAction::Unchanged, path, 0);
            }
            if !self.clear(fd.as_fd(), &node.name, path) {
                return;
            }
        }
        if run.options.dry_run {
            return run.restored(path, 0);
        }
        let fd = match self.handles.make(directory) {
            Ok(fd) => fd,
            Err(error) => return run.fail_io(path, "its directory cannot be made", error),
        };
        let node_type = match node.kind {
            FileKind::BlockDevice => FileType::BlockDevice,
            FileKind::CharDevice => FileType::CharacterDevice,
            FileKind::Fifo => FileType::Fifo,
            FileKind::Socket => FileType::Socket,
            FileKind::Symlink | FileKind::File | FileKind::Directory => FileType::Symlink,
        };
        let made = if node_type == FileType::Symlink {
            if node.link_target.is_empty() {
                return run.fail(path, "the symbolic link has no target in the snapshot");
            }
            symlinkat(node.link_target.as_slice(), &*fd, &*node.name)
        } else {
            let device = match node.kind {
                FileKind::BlockDevice | FileKind::CharDevice => node.device,
                _ => 0,
            };
            mknodat(&*fd, &*node.name, node_type, Mode::RUSR | Mode::WUSR, device)
        };
        if let Err(error) = made {
            return run.fail_io(path, "it cannot be made", error);
        }
        let meta = Meta::take(node);
        // Its directory may have been made only now.
        let acl = self.directories.inherits_acl(directory);
        match apply_special(run, fd.as_fd(), &node.name, node.kind, &meta, acl) {
            Ok(()) => run.restored(path, 0),
            Err(message) => run.fail(path, message),
        }
    }

    /// Moves what a directory added to the plan.
    fn keep(&mut self, batch: Batch) -> Result<()> {
        if batch.files.is_empty() {
            return Ok(());
        }
        let mut plan = self.plan.lock();
        for (file, pieces) in batch.files {
            let number = u32::try_from(plan.files.len()).map_err(|_| Error::Other("too many files".to_owned()))?;
            for piece in pieces {
                let Location { pack, offset, length, uncompressed } = piece.location;
                let pack = plan.pack(pack)?;
                plan.pieces.push(Piece {
                    id: piece.id,
                    at: piece.at,
                    file: number,
                    pack,
                    offset,
                    length,
                    uncompressed,
                });
            }
            plan.files.push(file);
        }
        Ok(())
    }
}

/// Makes the further names of files that have several.
pub(super) fn make_links(run: &Run<'_>, directories: &Directories, plan: &Plan) {
    let mut handles = Handles::new(run, directories);
    for link in &plan.links {
        if run.stopping() {
            return;
        }
        let path = directories.path_of(link.directory, &link.name);
        let Some(group) = plan.groups.get(link.group as usize) else { continue };
        let first = directories.path_of(group.directory, &group.name);
        if group.failed.load(Ordering::Acquire) {
            run.fail(&path, format!("it is another name of {:?}, which failed", String::from_utf8_lossy(&first)));
            continue;
        }
        match make_link(run, &mut handles, link, group, &path) {
            Ok(true) => run.restored(&path, link.size),
            Ok(false) => run.skipped(RestoreAction::Unchanged, &path, link.size),
            Err(Some(error)) => run.fail_io(&path, "the hard link cannot be made", error),
            Err(None) => {}
        }
    }
}

/// Returns whether a link had to be made; no error number means that the failure is noted already.
fn make_link(
    run: &Run<'_>,
    handles: &mut Handles<'_>,
    link: &Link,
    group: &Group,
    path: &[u8],
) -> std::result::Result<bool, Option<Errno>> {
    let from = handles.make(group.directory)?;
    let to = handles.make(link.directory)?;
    for _ in 0..2 {
        match linkat(&*from, &*group.name, &*to, &*link.name, AtFlags::empty()) {
            Ok(()) => return Ok(true),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(Some(error)),
        }
        let first = statat(&*from, &*group.name, AtFlags::SYMLINK_NOFOLLOW)?;
        let here = statat(&*to, &*link.name, AtFlags::SYMLINK_NOFOLLOW)?;
        if (first.st_dev, first.st_ino) == (here.st_dev, here.st_ino) {
            return Ok(false);
        }
        if !handles.remove(to.as_fd(), &link.name, path, run.options.delete) {
            return Err(None);
        }
    }
    Err(Some(Errno::EXIST))
}
