//! The kernel's requests, handed to a [`View`].
//!
//! A few threads take requests. What only needs folders is answered by them; reading files goes to threads of its own, so
//! that a listing does not wait behind slow contents.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use backstay_core::{FileKind, Time};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request, Session, SessionACL,
};
use nix::mount::{MntFlags, umount2};
use parking_lot::Mutex;

use crate::view::{Attributes, File, OpenFolder, View, ViewError};

/// Threads that take requests and answer what only needs folders.
const LISTENERS: usize = 4;
/// Reads of files that wait for a thread; the kernel waits when there are more.
const WAITING_READS: usize = 256;
/// How long the kernel may keep what cannot change.
const FIXED: Duration = Duration::from_secs(3600);
/// How long the kernel may keep what can.
const PASSING: Duration = Duration::from_secs(1);

/// How the file system is mounted.
#[derive(Clone, Copy, Debug)]
pub struct MountOptions {
    /// Other users may look at it.
    pub allow_other: bool,
    /// With `allow_other`: the kernel checks owners and modes.
    pub default_permissions: bool,
    /// Threads that read files.
    pub readers: usize,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self { allow_other: false, default_permissions: true, readers: 8 }
    }
}

/// Why nothing was mounted, or not unmounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is no such folder, or it cannot be looked at.
    #[error("cannot mount on {}: {error}", path.display())]
    NoFolder {
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The mount point is something else.
    #[error("cannot mount on {}: it is not a folder", .0.display())]
    NotAFolder(PathBuf),
    /// The folder holds something, which would be hidden.
    #[error("cannot mount on {}: the folder is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// A file system is there whose process is gone.
    #[error("cannot mount on {}: a mount without a process is left there; remove it with \"fusermount3 -u\" or \"umount\"", .0.display())]
    Dead(PathBuf),
    /// The kernel has no FUSE, or it is not reachable.
    #[error("cannot mount: /dev/fuse {0}")]
    NoDevice(String),
    /// Only root can mount without the helper.
    #[error("cannot mount: fusermount3 is missing, which users other than root need (Debian's package fuse3)")]
    NoHelper,
    /// The system's settings do not let users show mounts to others.
    #[error("cannot mount: --allow-other needs the line \"user_allow_other\" in /etc/fuse.conf")]
    NotForOthers,
    /// Anything else.
    #[error("cannot mount on {}: {reason}", path.display())]
    Refused {
        /// The mount point.
        path: PathBuf,
        /// What the system, or the helper, said.
        reason: String,
    },
    /// Somebody has a file or a folder of it open.
    #[error("{} is in use", .0.display())]
    Busy(PathBuf),
    /// It could not be unmounted.
    #[error("cannot unmount {}: {reason}", path.display())]
    Stuck {
        /// The mount point.
        path: PathBuf,
        /// What the system, or the helper, said.
        reason: String,
    },
}

/// Looks whether something can be mounted on `path`: an empty folder, and a kernel with FUSE. Returns the absolute path.
///
/// # Errors
/// [`MountError`].
pub fn check(path: &Path) -> Result<PathBuf, MountError> {
    let no_folder = |error: io::Error| match error.raw_os_error() {
        Some(code) if code == Errno::ENOTCONN.code() => MountError::Dead(path.to_owned()),
        _ => MountError::NoFolder { path: path.to_owned(), error },
    };
    if !std::fs::metadata(path).map_err(no_folder)?.is_dir() {
        return Err(MountError::NotAFolder(path.to_owned()));
    }
    if std::fs::read_dir(path).map_err(no_folder)?.next().is_some() {
        return Err(MountError::NotEmpty(path.to_owned()));
    }
    let whole = path.canonicalize().map_err(no_folder)?;
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(MountError::NoDevice(
                "is missing: load the module (\"modprobe fuse\"), or give the container the device".to_owned(),
            ));
        }
        Err(error) => return Err(MountError::NoDevice(format!("cannot be opened: {error}"))),
    }
    let helper = || Command::new("fusermount3").arg("--version").output().is_ok();
    if !nix::unistd::geteuid().is_root() && !helper() {
        return Err(MountError::NoHelper);
    }
    Ok(whole)
}

/// A mounted view. It stays mounted until [`Mounted::unmount`], or until somebody else unmounts it.
#[derive(Debug)]
pub struct Mounted {
    path: PathBuf,
    ended: Receiver<io::Result<()>>,
    session: Option<JoinHandle<()>>,
}

/// Mounts a view on a folder that [`check`] looked at.
///
/// # Errors
/// [`MountError`].
pub fn mount(view: Arc<View>, path: &Path, options: MountOptions) -> Result<Mounted, MountError> {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("backstay".to_owned()), MountOption::RO];
    config.acl = SessionACL::Owner;
    if options.allow_other {
        config.acl = SessionACL::All;
        if options.default_permissions {
            config.mount_options.push(MountOption::DefaultPermissions);
        }
    }
    config.n_threads = Some(LISTENERS);
    let (reads, waiting) = crossbeam_channel::bounded::<Read>(WAITING_READS);
    let mut readers = Vec::new();
    for number in 0..options.readers.max(1) {
        let (view, waiting) = (Arc::clone(&view), waiting.clone());
        let reader = std::thread::Builder::new()
            .name(format!("mount-read-{number}"))
            .spawn(move || waiting.iter().for_each(|read| read.answer(&view)))
            .map_err(|error| MountError::Refused { path: path.to_owned(), reason: error.to_string() })?;
        readers.push(reader);
    }
    let kernel = Kernel { view, reads, files: Mutex::default(), folders: Mutex::default(), next: AtomicU64::new(1) };
    let session = Session::new(kernel, path, &config).map_err(|error| refused(path, &error))?;
    let (tell, ended) = crossbeam_channel::bounded(1);
    let session = std::thread::Builder::new()
        .name("mount".to_owned())
        .spawn(move || {
            let result = session.run();
            readers.into_iter().for_each(|reader| drop(reader.join()));
            let _ = tell.send(result);
        })
        .map_err(|error| MountError::Refused { path: path.to_owned(), reason: error.to_string() })?;
    Ok(Mounted { path: path.to_owned(), ended, session: Some(session) })
}

fn refused(path: &Path, error: &io::Error) -> MountError {
    let reason = error.to_string();
    if reason.contains("user_allow_other") {
        return MountError::NotForOthers;
    }
    MountError::Refused { path: path.to_owned(), reason: reason.trim().replace('\n', "; ") }
}

impl Mounted {
    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits up to `time` for the end, which comes with the unmounting; how it ended, when it did.
    pub fn wait(&mut self, time: Duration) -> Option<io::Result<()>> {
        let result = match self.ended.recv_timeout(time) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => return None,
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the mount's thread ended without a word")),
        };
        if let Some(session) = self.session.take() {
            let _ = session.join();
        }
        Some(result)
    }

    /// Unmounts it.
    ///
    /// # Errors
    /// [`MountError::Busy`] while somebody has something of it open; [`MountError::Stuck`].
    pub fn unmount(&self) -> Result<(), MountError> {
        unmount(&self.path, false)
    }
}

/// Unmounts what is mounted on `path`; `force` takes the name away even from those who have something open.
///
/// # Errors
/// As [`Mounted::unmount`].
pub fn unmount(path: &Path, force: bool) -> Result<(), MountError> {
    let stuck = |reason: String| MountError::Stuck { path: path.to_owned(), reason };
    let flags = if force { MntFlags::MNT_DETACH } else { MntFlags::UMOUNT_NOFOLLOW };
    match umount2(path, flags) {
        // Nothing is mounted there any more.
        Ok(()) | Err(nix::errno::Errno::EINVAL) => return Ok(()),
        Err(nix::errno::Errno::EBUSY) => return Err(MountError::Busy(path.to_owned())),
        Err(nix::errno::Errno::EPERM) => {}
        Err(error) => return Err(stuck(error.to_string())),
    }
    let mut helper = Command::new("fusermount3");
    helper.arg("-u").args(force.then_some("-z")).arg("--").arg(path);
    let output = helper.output().map_err(|error| stuck(format!("fusermount3: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    if text.contains("busy") { Err(MountError::Busy(path.to_owned())) } else { Err(stuck(text)) }
}

/// A read of a file that waits for a thread.
struct Read {
    file: Arc<File>,
    offset: u64,
    length: usize,
    reply: ReplyData,
}

impl Read {
    fn answer(self, view: &View) {
        match view.read(&self.file, self.offset, self.length) {
            Ok(bytes) => self.reply.data(&bytes),
            Err(error) => self.reply.error(errno(error)),
        }
    }
}

/// What the kernel talks to.
struct Kernel {
    view: Arc<View>,
    reads: Sender<Read>,
    files: Mutex<HashMap<u64, Arc<File>>>,
    folders: Mutex<HashMap<u64, Arc<OpenFolder>>>,
    next: AtomicU64,
}

fn errno(error: ViewError) -> Errno {
    match error {
        ViewError::NotFound => Errno::ENOENT,
        ViewError::NotAFolder => Errno::ENOTDIR,
        ViewError::IsAFolder => Errno::EISDIR,
        ViewError::NoAttribute => Errno::ENODATA,
        ViewError::Invalid => Errno::EINVAL,
        ViewError::Io => Errno::EIO,
    }
}

fn kind(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::BlockDevice => FileType::BlockDevice,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
    }
}

fn time(time: Time) -> SystemTime {
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let second = if time.seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    second.and_then(|second| second.checked_add(Duration::from_nanos(time.nanoseconds.into()))).unwrap_or(UNIX_EPOCH)
}

/// The attributes as the kernel takes them, and how long it may keep them.
fn attributes(of: &Attributes) -> (Duration, FileAttr) {
    let attributes = FileAttr {
        ino: INodeNo(of.inode),
        size: of.size,
        blocks: of.blocks,
        atime: time(of.atime),
        mtime: time(of.mtime),
        ctime: time(of.ctime),
        crtime: UNIX_EPOCH,
        kind: kind(of.kind),
        perm: of.mode,
        nlink: of.links,
        uid: of.uid,
        gid: of.gid,
        // FUSE takes the low 32 bits of Linux's encoding, which hold 12 bits of major and 20 of minor number.
        rdev: (of.device & u64::from(u32::MAX)) as u32,
        blksize: 128 << 10,
        flags: 0,
    };
    (if of.fixed { FIXED } else { PASSING }, attributes)
}

impl Kernel {
    fn folder(&self, handle: FileHandle) -> Option<Arc<OpenFolder>> {
        self.folders.lock().get(&handle.0).cloned()
    }
}

impl Filesystem for Kernel {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted =
            InitFlags::FUSE_DO_READDIRPLUS | InitFlags::FUSE_READDIRPLUS_AUTO | InitFlags::FUSE_PARALLEL_DIROPS;
        let _ = config.add_capabilities(wanted & config.capabilities());
        // Nothing is ever written: small buffers.
        let _ = config.set_max_write(1 << 20);
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.view.look_up(parent.0, name.as_bytes()) {
            Ok(found) => {
                let (keep, attributes) = attributes(&found);
                reply.entry(&keep, &attributes, Generation(0));
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn forget(&self, _request: &Request, inode: INodeNo, count: u64) {
        self.view.forget(inode.0, count);
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.view.attributes(inode.0) {
            Ok(found) => {
                let (keep, attributes) = attributes(&found);
                reply.attr(&keep, &attributes);
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readlink(&self, _request: &Request, inode: INodeNo, reply: ReplyData) {
        match self.view.read_link(inode.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn open(&self, _request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.view.open_file(inode.0) {
            Ok(file) => {
                let handle = self.next.fetch_add(1, Ordering::Relaxed);
                self.files.lock().insert(handle, Arc::new(file));
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(file) = self.files.lock().get(&handle.0).cloned() else {
            reply.error(Errno::EBADF);
            return;
        };
        if let Err(refused) = self.reads.send(Read { file, offset, length: size as usize, reply }) {
            refused.into_inner().reply.error(Errno::EIO);
        }
    }

    fn release(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.files.lock().remove(&handle.0);
        reply.ok();
    }

    fn opendir(&self, _request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.view.open_folder(inode.0) {
            Ok(folder) => {
                let keep = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
                let flags = if folder.is_fixed() { keep } else { FopenFlags::empty() };
                let handle = self.next.fetch_add(1, Ordering::Relaxed);
                self.folders.lock().insert(handle, Arc::new(folder));
                reply.opened(FileHandle(handle), flags);
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdir(&self, _request: &Request, _inode: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let Some(folder) = self.folder(handle) else {
            reply.error(Errno::EBADF);
            return;
        };
        // An entry's offset is where the next one stands: the folder itself, its parent, then what it holds.
        for (at, name, inode) in [(0, ".", folder.inode()), (1, "..", folder.parent())] {
            if offset <= at && reply.add(INodeNo(inode), at + 1, FileType::Directory, name) {
                reply.ok();
                return;
            }
        }
        for at in offset.max(2).. {
            let entry = usize::try_from(at - 2).ok().and_then(|at| folder.entry(&self.view, at));
            let Some(entry) = entry else { break };
            if reply.add(INodeNo(entry.inode), at + 1, kind(entry.kind), OsStr::from_bytes(entry.name)) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let Some(folder) = self.folder(handle) else {
            reply.error(Errno::EBADF);
            return;
        };
        for (at, name, inode) in [(0, ".", folder.inode()), (1, "..", folder.parent())] {
            // The kernel takes neither look-up nor attributes from these two.
            let attributes = FileAttr { ino: INodeNo(inode), ..dots() };
            if offset <= at && reply.add(INodeNo(inode), at + 1, name, &PASSING, &attributes, Generation(0)) {
                reply.ok();
                return;
            }
        }
        for at in offset.max(2).. {
            let Ok(place) = usize::try_from(at - 2) else { break };
            let Some(entry) = folder.entry(&self.view, place) else { break };
            // Each entry is also a look-up, which the kernel gives back one day.
            let Ok(found) = self.view.hold_entry(&folder, place) else { continue };
            let (keep, attributes) = attributes(&found);
            let name = OsStr::from_bytes(entry.name);
            if reply.add(INodeNo(entry.inode), at + 1, name, &keep, &attributes, Generation(0)) {
                self.view.forget(entry.inode, 1);
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.folders.lock().remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, 4096, 255, 4096);
    }

    fn getxattr(&self, _request: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.view.xattr(inode.0, name.as_bytes()) {
            Ok(value) => sized(&value, size, reply),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn listxattr(&self, _request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        match self.view.xattrs(inode.0) {
            Ok(list) => {
                let mut names = Vec::new();
                for (name, _) in list {
                    names.extend_from_slice(&name);
                    names.push(0);
                }
                sized(&names, size, reply);
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn lseek(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let Some(file) = self.files.lock().get(&handle.0).cloned() else {
            reply.error(Errno::EBADF);
            return;
        };
        // Linux's SEEK_DATA and SEEK_HOLE; the kernel does the others itself.
        let place = match (u64::try_from(offset), whence) {
            (Ok(offset), 3) => file.next_data(offset),
            (Ok(offset), 4) => file.next_hole(offset),
            (Err(_), 3 | 4) => None,
            _ => {
                reply.error(Errno::EINVAL);
                return;
            }
        };
        match place.and_then(|place| i64::try_from(place).ok()) {
            Some(place) => reply.offset(place),
            None => reply.error(Errno::ENXIO),
        }
    }
}

/// Answers with an attribute's length, or with its bytes where they fit.
fn sized(bytes: &[u8], size: u32, reply: ReplyXattr) {
    match u32::try_from(bytes.len()) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(bytes),
        _ => reply.error(Errno::ERANGE),
    }
}

/// Attributes for the two names that need none.
fn dots() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::Directory,
        perm: 0o555,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_reach_the_kernel() {
        let at = |seconds, nanoseconds| time(Time { seconds, nanoseconds });
        assert_eq!(at(-1, 500_000_000), UNIX_EPOCH - Duration::from_millis(500));
        assert_eq!(at(5, 7), UNIX_EPOCH + Duration::new(5, 7));
        assert_eq!(at(i64::MIN, 0), at(i64::MIN, 0), "whatever it is, nothing panics");
    }

    #[test]
    fn only_an_empty_folder_is_mounted_on() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(check(&file), Err(MountError::NotAFolder(_))));
        assert!(matches!(check(home.path()), Err(MountError::NotEmpty(_))));
        assert!(matches!(check(&home.path().join("missing")), Err(MountError::NoFolder { .. })));
    }
}
