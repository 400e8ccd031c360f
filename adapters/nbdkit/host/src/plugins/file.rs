//! The plugin `file`: a file or block device, or every file of a folder under its own name.

use std::ffi::OsStr;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backstay_core::{
    Client, Disk, DiskError, DiskInfo, Export, Extent, OpenDisk, OpenError, ReadBytes, RequestFlags, Support,
    ThreadModel,
};
use parking_lot::Mutex;
use rustix::fs::{Advice, FallocateFlags, FileType, Mode, OFlags, ResolveFlags, SeekFrom};
use rustix::io::Errno;

use super::Everywhere;
use crate::buffers;
use crate::plugin::{Plugin, Step};
use crate::process;
use crate::values::{Given, unknown};

/// Its name.
const NAME: &str = "file";
/// What it takes.
pub(super) const PARAMETERS: &[&str] = &["file", "dir", "fd", "dirfd", "cache", "fadvise"];

/// Bytes that were written and not yet put out of the system's cache, with `cache=none`.
const WRITTEN: u64 = 8 << 20;

/// What is served.
enum What {
    File(PathBuf),
    Folder(Arc<OwnedFd>),
    Descriptor(Arc<OwnedFd>),
}

/// How files are read and written.
#[derive(Clone, Copy)]
struct Manner {
    /// The system is to keep nothing of it.
    uncached: bool,
    advice: Advice,
}

/// The plugin.
pub(super) struct File {
    what: Option<What>,
    manner: Manner,
}

impl Default for File {
    fn default() -> Self {
        Self { what: None, manner: Manner { uncached: false, advice: Advice::Normal } }
    }
}

impl File {
    fn set(&mut self, what: What) -> Step<()> {
        match self.what.replace(what) {
            None => Ok(()),
            Some(_) => {
                Err("file: give one of file=PATH, dir=FOLDER, fd=NUMBER and dirfd=NUMBER, once".to_owned().into())
            }
        }
    }
}

impl Plugin for File {
    fn name(&self) -> &'static str {
        NAME
    }

    fn magic(&self) -> Option<&'static str> {
        Some("file")
    }

    fn help(&self) -> &'static str {
        "file=<FILE>           The file or block device to serve\n\
         dir=<FOLDER>          A folder: every file in it is an export\n\
         fd=<NUMBER>           An open descriptor to serve\n\
         dirfd=<NUMBER>        An open folder, as dir=\n\
         cache=default|none    Whether the system caches [default: default]\n\
         fadvise=normal|random|sequential\n                      How it will be read [default: normal]\n"
    }

    fn config(&mut self, key: &str, value: &OsStr) -> Step<()> {
        let given = Given { owner: NAME, key, value };
        match key {
            "file" => {
                // It must mean the same after the server has gone into the background.
                let path = given.path()?;
                let file = open_file(|flags| rustix::fs::open(&path, flags, Mode::empty()), false);
                file.map_err(|reason| given.wrong(reason))?;
                self.set(What::File(path))
            }
            "dir" => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let folder = rustix::fs::open(value, flags, Mode::empty()).map_err(|error| given.wrong(error))?;
                self.set(What::Folder(Arc::new(folder)))
            }
            "fd" => {
                let number = given.number(3, i32::MAX as u64)? as i32;
                let file = process::take_over(number).map_err(|error| given.wrong(error))?;
                kind(&file).map_err(|reason| given.wrong(reason))?;
                // Then the system writes at the end, wherever it is told to.
                if rustix::fs::fcntl_getfl(&file).map_err(|error| given.wrong(error))?.contains(OFlags::APPEND) {
                    return Err(given.wrong("the descriptor was opened to append"));
                }
                self.set(What::Descriptor(Arc::new(file)))
            }
            "dirfd" => {
                let number = given.number(3, i32::MAX as u64)? as i32;
                let folder = process::take_over(number).map_err(|error| given.wrong(error))?;
                let stat = rustix::fs::fstat(&folder).map_err(|error| given.wrong(error))?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    return Err(given.wrong("this is no folder"));
                }
                self.set(What::Folder(Arc::new(folder)))
            }
            "cache" => {
                self.manner.uncached = match given.text()? {
                    "none" => true,
                    "default" => false,
                    _ => return Err(given.wrong("there are default and none")),
                };
                Ok(())
            }
            "fadvise" => {
                self.manner.advice = match given.text()? {
                    "normal" => Advice::Normal,
                    "random" => Advice::Random,
                    "sequential" => Advice::Sequential,
                    _ => return Err(given.wrong("there are normal, random and sequential")),
                };
                Ok(())
            }
            _ => Err(unknown(NAME, key, PARAMETERS)),
        }
    }

    fn config_complete(&mut self) -> Step<()> {
        match self.what {
            Some(_) => Ok(()),
            None => {
                Err("file: nothing to serve: give file=PATH, dir=FOLDER, fd=NUMBER or dirfd=NUMBER".to_owned().into())
            }
        }
    }

    fn thread_model(&mut self) -> Step<ThreadModel> {
        Ok(ThreadModel::Parallel)
    }

    fn disk(&self) -> Step<Arc<dyn Disk>> {
        let manner = self.manner;
        Ok(match &self.what {
            None => return Err("file: nothing to serve".to_owned().into()),
            Some(What::Folder(folder)) => Arc::new(Folder { folder: Arc::clone(folder), manner }),
            Some(What::File(path)) => {
                let path = path.clone();
                Arc::new(Everywhere(move |client: &Client| {
                    let opened = open_file(|flags| rustix::fs::open(&path, flags, Mode::empty()), !client.read_only);
                    let (file, writable) = opened.map_err(|reason| refused(&path.display(), &reason))?;
                    Open::boxed(Arc::new(file), writable, manner).map_err(|reason| refused(&path.display(), &reason))
                }))
            }
            Some(What::Descriptor(file)) => {
                let file = Arc::clone(file);
                Arc::new(Everywhere(move |_: &Client| {
                    let failed = |error: Errno| refused(&"fd", &error);
                    let access = rustix::fs::fcntl_getfl(&file).map_err(failed)? & OFlags::RWMODE;
                    if access == OFlags::WRONLY {
                        return Err(refused(&"fd", &"the descriptor cannot be read"));
                    }
                    Open::boxed(Arc::clone(&file), access == OFlags::RDWR, manner)
                        .map_err(|reason| refused(&"fd", &reason))
                }))
            }
        })
    }

    fn dump(&mut self, print: &mut dyn FnMut(&str)) -> Step<()> {
        print("magic_config_key=file\nfile_falloc_fl_punch_hole=yes\nfile_falloc_fl_zero_range=yes\n");
        Ok(())
    }
}

fn refused(what: &dyn std::fmt::Display, reason: &dyn std::fmt::Display) -> OpenError {
    OpenError::Refused(format!("{NAME}: {what}: {reason}"))
}

/// Opens a file, to be written if that can be; whether it can. `open` gets the flags.
fn open_file(open: impl Fn(OFlags) -> Result<OwnedFd, Errno>, write: bool) -> Result<(OwnedFd, bool), String> {
    // A pipe would make whoever opens it wait.
    let flags = OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let opened = match write.then(|| open(OFlags::RDWR | flags)) {
        Some(Ok(file)) => Ok((file, true)),
        None | Some(Err(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::TXTBSY)) => {
            open(flags).map(|file| (file, false))
        }
        Some(Err(error)) => Err(error),
    };
    let (file, writable) = opened.map_err(|error| error.to_string())?;
    kind(&file)?;
    Ok((file, writable))
}

/// Whether it is a block device; why it is nothing that can be served.
fn kind(file: &OwnedFd) -> Result<bool, String> {
    let stat = rustix::fs::fstat(file).map_err(|error| error.to_string())?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(false),
        FileType::BlockDevice => Ok(true),
        _ => Err("this is neither a file nor a block device".to_owned()),
    }
}

/// A folder whose files are exports.
struct Folder {
    folder: Arc<OwnedFd>,
    manner: Manner,
}

impl Folder {
    /// Opens a file that stands directly in the folder, or that a link leads to which does not leave it.
    fn open(&self, name: &[u8], write: bool) -> Result<(OwnedFd, bool), String> {
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
            return Err("an export's name must be that of a file in the folder".to_owned());
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let open = |flags| match rustix::fs::openat2(&*self.folder, name, flags, Mode::empty(), resolve) {
            // An old kernel: then no link is followed at all.
            Err(Errno::NOSYS) => rustix::fs::openat(&*self.folder, name, flags | OFlags::NOFOLLOW, Mode::empty()),
            opened => opened,
        };
        open_file(open, write)
    }
}

impl Disk for Folder {
    fn threads(&self) -> ThreadModel {
        ThreadModel::Parallel
    }

    fn exports(&self, _client: &Client) -> Result<Vec<Export>, String> {
        let failed = |error: Errno| format!("{NAME}: dir: {error}");
        let mut exports = Vec::new();
        for entry in rustix::fs::Dir::read_from(&*self.folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            // What cannot be opened is not offered.
            if matches!(entry.file_type(), FileType::Directory | FileType::Fifo | FileType::Socket)
                || self.open(name, false).is_err()
            {
                continue;
            }
            exports.push(Export { name: name.to_vec(), description: None });
        }
        exports.sort_by(|one, another| one.name.cmp(&another.name));
        Ok(exports)
    }

    fn default_export(&self, _client: &Client) -> Option<Vec<u8>> {
        None
    }

    /// The file itself: it may have several names.
    fn identity(&self, export: &[u8]) -> Vec<u8> {
        let stat = self.open(export, false).ok().and_then(|(file, _)| rustix::fs::fstat(file).ok());
        stat.map_or_else(|| export.to_vec(), |stat| format!("{}:{}", stat.st_dev, stat.st_ino).into_bytes())
    }

    fn open(&self, export: &[u8], client: &Client) -> Result<Box<dyn OpenDisk>, OpenError> {
        let name = OsStr::from_bytes(export).display();
        let (file, writable) = self.open(export, !client.read_only).map_err(|reason| refused(&name, &reason))?;
        Open::boxed(Arc::new(file), writable, self.manner).map_err(|reason| refused(&name, &reason))
    }
}

struct Open {
    file: Arc<OwnedFd>,
    info: DiskInfo,
    manner: Manner,
    /// Zero ranges are asked for no more once the file system said that it has none.
    cannot_zero: AtomicBool,
    cannot_punch: AtomicBool,
    /// What was written lately and is still in the system's cache.
    written: Mutex<(u64, Vec<(u64, u64)>)>,
}

fn system(error: Errno) -> DiskError {
    DiskError(error.raw_os_error())
}

impl Open {
    fn boxed(file: Arc<OwnedFd>, writable: bool, manner: Manner) -> Result<Box<dyn OpenDisk>, String> {
        let size = if kind(&file)? {
            rustix::fs::seek(&file, SeekFrom::End(0))
        } else {
            rustix::fs::fstat(&file).map(|stat| stat.st_size as u64)
        };
        let size = size.map_err(|error| error.to_string())?;
        if manner.advice != Advice::Normal {
            // It is a hint.
            let _ = rustix::fs::fadvise(&file, 0, None, manner.advice);
        }
        let info = DiskInfo {
            size,
            can_write: writable,
            can_flush: true,
            is_rotational: false,
            can_trim: true,
            can_zero: true,
            can_fast_zero: true,
            // A file that has no holes to seek in says so at once.
            can_extents: rustix::fs::seek(&file, SeekFrom::Hole(0)).is_ok(),
            can_multi_conn: true,
            fua: Support::Native,
            cache: Support::Native,
        };
        Ok(Box::new(Self {
            file,
            info,
            manner,
            cannot_zero: AtomicBool::new(false),
            cannot_punch: AtomicBool::new(false),
            written: Mutex::default(),
        }))
    }

    /// The system may put these bytes out of its cache.
    fn let_go(&self, offset: u64, length: u64) {
        // It is a hint.
        let _ = rustix::fs::fadvise(&self.file, offset, NonZeroU64::new(length), Advice::DontNeed);
    }

    /// With `cache=none`: what was written goes to the disk from time to time, and then out of the cache.
    fn wrote(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        let ranges = {
            let mut written = self.written.lock();
            written.0 += length;
            written.1.push((offset, length));
            if written.0 < WRITTEN && written.1.len() < 1024 {
                return Ok(());
            }
            std::mem::take(&mut *written).1
        };
        rustix::fs::fdatasync(&self.file).map_err(system)?;
        ranges.iter().for_each(|(offset, length)| self.let_go(*offset, *length));
        Ok(())
    }

    fn settle(&self, flags: RequestFlags) -> Result<(), DiskError> {
        if flags.fua { self.flush() } else { Ok(()) }
    }

    /// Asks for a range to be changed; whether the file system could, which it is asked until it once could not.
    fn allocate(&self, mode: FallocateFlags, cannot: &AtomicBool, offset: u64, length: u64) -> Result<bool, DiskError> {
        if cannot.load(Ordering::Relaxed) {
            return Ok(false);
        }
        loop {
            match rustix::fs::fallocate(&self.file, mode, offset, length) {
                Ok(()) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NODEV | Errno::NOSYS) => {
                    cannot.store(true, Ordering::Relaxed);
                    return Ok(false);
                }
                // A device wants whole blocks: this range only.
                Err(Errno::INVAL) => return Ok(false),
                Err(error) => return Err(system(error)),
            }
        }
    }
}

impl OpenDisk for Open {
    fn info(&self) -> &DiskInfo {
        &self.info
    }

    fn read(&self, offset: u64, length: usize) -> Result<ReadBytes, DiskError> {
        let mut bytes = buffers::empty(length);
        buffers::append(&self.file, offset, length, &mut bytes).map_err(system)?;
        if bytes.len() < length {
            return Err(DiskError(libc::EIO));
        }
        if self.manner.uncached {
            self.let_go(offset, length as u64);
        }
        Ok(buffers::filled(bytes))
    }

    fn write(&self, offset: u64, mut data: &[u8], flags: RequestFlags) -> Result<(), DiskError> {
        let (mut place, length) = (offset, data.len() as u64);
        while !data.is_empty() {
            match rustix::io::pwrite(&self.file, data, place) {
                Ok(0) => return Err(DiskError(libc::EIO)),
                Ok(written) => {
                    data = &data[written..];
                    place += written as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(system(error)),
            }
        }
        if self.manner.uncached {
            self.wrote(offset, length)?;
        }
        self.settle(flags)
    }

    fn flush(&self) -> Result<(), DiskError> {
        rustix::fs::fdatasync(&self.file).map_err(system)
    }

    fn trim(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        // A file system that has no holes keeps what was there, which a trim allows.
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.allocate(hole, &self.cannot_punch, offset, length)?;
        self.settle(flags)
    }

    fn zero(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let zero = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        let done = (flags.may_trim && self.allocate(hole, &self.cannot_punch, offset, length)?)
            || self.allocate(zero, &self.cannot_zero, offset, length)?
            // Without zero ranges: a hole, and room for it again.
            || (self.allocate(hole, &self.cannot_punch, offset, length)?
                && self.allocate(FallocateFlags::KEEP_SIZE, &AtomicBool::new(false), offset, length)?);
        if done { self.settle(flags) } else { Err(DiskError(libc::EOPNOTSUPP)) }
    }

    fn cache(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        rustix::fs::fadvise(&self.file, offset, NonZeroU64::new(length), Advice::WillNeed).map_err(system)
    }

    fn extents(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<Vec<Extent>, DiskError> {
        let end = offset + length;
        let mut extents = Vec::new();
        let mut at = offset;
        while at < end {
            let data = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
                Ok(data) => data.min(end),
                // No data follows.
                Err(Errno::NXIO) => end,
                Err(error) => return Err(system(error)),
            };
            if data > at {
                extents.push(Extent { offset: at, length: data - at, hole: true, zero: true });
            }
            if flags.one && data > at {
                break;
            }
            if data < end {
                let hole = rustix::fs::seek(&self.file, SeekFrom::Hole(data)).map_err(system)?.clamp(data + 1, end);
                extents.push(Extent { offset: data, length: hole - data, hole: false, zero: false });
                at = hole;
            } else {
                at = end;
            }
            if flags.one {
                break;
            }
        }
        Ok(extents)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::{acts, agree, content, noise, open_plugin, refusal};

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn text(path: &std::path::Path) -> &str {
        path.to_str().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_file_holds_what_was_written(acts in acts(), uncached in any::<bool>()) {
            let folder = folder();
            let path = folder.path().join("disk");
            let mut bytes = noise(3, 300_001);
            bytes[100_000..200_000].fill(0);
            std::fs::write(&path, &bytes).unwrap();
            let cache = if uncached { "none" } else { "default" };
            let disk = open_plugin(File::default(), &[("file", text(&path)), ("cache", cache)]).unwrap();
            agree(&*disk, &mut bytes, &acts);
            prop_assert!(std::fs::read(&path).unwrap() == bytes);
        }
    }

    #[test]
    fn holes_of_a_file_are_extents() {
        let folder = folder();
        let path = folder.path().join("disk");
        std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
        let disk = open_plugin(File::default(), &[("file", text(&path))]).unwrap();
        let flags = RequestFlags::default();
        disk.write(512 << 10, &[1; 4096], flags).unwrap();
        let extents = disk.extents(0, 1 << 20, flags).unwrap();
        let shape: Vec<_> = extents.iter().map(|extent| (extent.offset, extent.length, extent.hole)).collect();
        assert_eq!(shape, [(0, 512 << 10, true), (512 << 10, 4096, false), (516 << 10, 508 << 10, true)]);
        assert_eq!(disk.extents(4096, 1 << 19, RequestFlags { one: true, ..flags }).unwrap().len(), 1);
    }

    #[test]
    fn files_of_a_folder_are_exports_and_nothing_outside_of_it_is() {
        let folder = folder();
        let inner = folder.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        std::fs::create_dir(inner.join("deeper")).unwrap();
        std::fs::write(folder.path().join("secret"), "secret").unwrap();
        std::fs::write(inner.join("b"), "bb").unwrap();
        std::fs::write(inner.join("a"), "aaa").unwrap();
        symlink("a", inner.join("link")).unwrap();
        symlink("../secret", inner.join("up")).unwrap();
        symlink(folder.path().join("secret"), inner.join("away")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, inner.join("pipe"), Mode::RUSR).unwrap();
        let open = std::os::fd::IntoRawFd::into_raw_fd(std::fs::File::open(&inner).unwrap()).to_string();
        for (key, value) in [("dir", text(&inner)), ("dirfd", &open)] {
            let mut plugin = File::default();
            plugin.config(key, value.as_ref()).unwrap();
            plugin.config_complete().unwrap();
            holds_its_files_only(&*plugin.disk().unwrap());
        }
    }

    fn holds_its_files_only(disk: &dyn Disk) {
        let client = Client::default();
        let names: Vec<_> = disk.exports(&client).unwrap().into_iter().map(|export| export.name).collect();
        assert_eq!(names, [b"a".to_vec(), b"b".to_vec(), b"link".to_vec()]);
        assert_eq!(disk.default_export(&client), None);
        assert_eq!(content(&*disk.open(b"link", &client).unwrap()), b"aaa");
        for name in ["", ".", "..", "up", "away", "../secret", "deeper", "deeper/../a", "pipe", "none", "a\0"] {
            assert!(disk.open(name.as_bytes(), &client).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_descriptor_is_served_as_it_was_opened() {
        let folder = folder();
        let path = folder.path().join("disk");
        std::fs::write(&path, [5; 4096]).unwrap();
        let file = std::os::fd::IntoRawFd::into_raw_fd(std::fs::File::open(&path).unwrap());
        let disk = open_plugin(File::default(), &[("fd", &file.to_string())]).unwrap();
        assert!(!disk.info().can_write);
        assert_eq!(content(&*disk), [5; 4096]);
    }

    #[test]
    fn a_client_that_only_reads_cannot_write() {
        let folder = folder();
        let path = folder.path().join("disk");
        std::fs::write(&path, [5; 4096]).unwrap();
        let mut plugin = File::default();
        plugin.config("file", path.as_ref()).unwrap();
        let client = Client { read_only: true, ..Client::default() };
        let disk = plugin.disk().unwrap().open(b"any", &client).unwrap();
        assert!(!disk.info().can_write);
        assert!(disk.write(0, b"x", RequestFlags::default()).is_err());
    }

    #[test]
    fn a_file_that_shrank_is_an_error_where_nothing_is_left() {
        let folder = folder();
        let path = folder.path().join("disk");
        std::fs::write(&path, [5; 4096]).unwrap();
        let disk = open_plugin(File::default(), &[("file", text(&path))]).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
        assert!(disk.read(0, 100).is_ok());
        assert_eq!(disk.read(0, 101).err(), Some(DiskError(libc::EIO)));
    }

    #[test]
    fn wrong_parameters_are_refused() {
        let folder = folder();
        let path = folder.path().join("disk");
        std::fs::write(&path, "").unwrap();
        let (file, dir) = (text(&path), text(folder.path()));
        let refused = |parameters: &[(&str, &str)]| refusal(open_plugin(File::default(), parameters));
        assert!(refused(&[]).contains("file=PATH"));
        assert!(refused(&[("file", "/nonexistent")]).starts_with("file: file=/nonexistent: "));
        assert!(refused(&[("file", dir)]).contains("neither a file nor a block device"));
        assert!(refused(&[("dir", file)]).contains("directory"), "{}", refused(&[("dir", file)]));
        assert!(refused(&[("file", file), ("dir", dir)]).contains("one of"));
        assert!(refused(&[("fd", "2")]).contains("from 3"));
        assert!(refused(&[("dirfd", "98765")]).starts_with("file: dirfd=98765: "));
        assert!(refused(&[("fd", "98765")]).starts_with("file: fd=98765: "));
        assert!(refused(&[("file", file), ("cache", "some")]).contains("default and none"));
        assert!(refused(&[("file", file), ("fadvise", "some")]).contains("sequential"));
        assert!(refused(&[("rdelay", "1")]).contains("'rdelay'"));
    }
}
