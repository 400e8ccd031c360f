//! The directories of the target: made, opened and removed without ever following a symbolic link.
//!
//! A directory is known by its number; its parent always has a smaller one. Every thread keeps the descriptors that it
//! used last and opens others name by name from the target's own descriptor.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

use parking_lot::RwLock;
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, chmod, fchmod, fgetxattr_query, fstat, mkdirat, openat, statat, unlinkat,
};
use rustix::io::Errno;

use super::metadata::{Meta, apply};
use super::{Overwrite, RestoreAction, Run, add};
use crate::error::Error;
use crate::reader::Result;
use crate::walk::join;

/// The number of the target itself.
pub(super) const ROOT: u32 = 0;

/// How many descriptors of directories a thread keeps.
const KEPT: usize = 32;

struct Directory {
    parent: u32,
    name: Box<[u8]>,
    meta: Option<Box<Meta>>,
    /// It is chosen itself, not only passed through.
    chosen: bool,
    /// It is known to exist.
    made: bool,
    /// This restore made it: nothing can be in it that this restore did not put there.
    fresh: bool,
    /// Something was restored into it, or it is chosen: its metadata are set in the end.
    used: bool,
    /// What is made in it gets an access control list that the snapshot does not have.
    inherits_acl: bool,
}

/// All directories of a restore.
pub(super) struct Directories {
    list: RwLock<Vec<Directory>>,
    /// None when nothing is to be changed and the target does not exist.
    root: Option<OwnedFd>,
}

fn has_default_acl(fd: BorrowedFd<'_>) -> bool {
    fgetxattr_query(fd, "system.posix_acl_default").is_ok()
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

impl Directories {
    /// Opens the target, making it where it does not exist.
    pub(super) fn open(run: &Run<'_>) -> Result<Self> {
        let target = &run.options.target;
        let failed = |error: &std::io::Error| Error::Other(format!("target directory {}: {error}", target.display()));
        let mut fresh = !target.exists();
        if fresh && !run.options.dry_run {
            let mut builder = std::fs::DirBuilder::new();
            builder.recursive(true).mode(0o700).create(target).map_err(|error| failed(&error))?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = match rustix::fs::open(target, flags, Mode::empty()) {
            Ok(root) => Some(root),
            Err(Errno::NOENT) if run.options.dry_run => {
                fresh = true;
                None
            }
            Err(error) => return Err(failed(&error.into())),
        };
        let inherits_acl = root.as_ref().is_some_and(|root| has_default_acl(root.as_fd()));
        let made = root.is_some();
        let name = Box::default();
        let top = Directory { parent: ROOT, name, meta: None, chosen: false, made, fresh, used: false, inherits_acl };
        Ok(Self { list: RwLock::new(vec![top]), root })
    }

    /// Adds a directory and returns its number.
    pub(super) fn add(&self, parent: u32, name: &[u8], meta: Meta, chosen: bool) -> Result<u32> {
        let mut list = self.list.write();
        let number = u32::try_from(list.len()).map_err(|_| Error::Other("too many directories".to_owned()))?;
        list.push(Directory {
            parent,
            name: name.into(),
            meta: Some(Box::new(meta)),
            chosen,
            made: false,
            fresh: false,
            used: false,
            inherits_acl: false,
        });
        Ok(number)
    }

    /// The path of a directory from the target: nothing for the target itself, otherwise with a leading slash.
    pub(super) fn path(&self, number: u32) -> Vec<u8> {
        let list = self.list.read();
        let mut names = Vec::new();
        let mut at = number;
        while at != ROOT {
            let directory = &list[at as usize];
            names.push(&directory.name);
            at = directory.parent;
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        path
    }

    /// The path of a name in a directory.
    pub(super) fn path_of(&self, directory: u32, name: &[u8]) -> Vec<u8> {
        join(&self.path(directory), name)
    }

    /// Whether the directory is chosen itself.
    pub(super) fn chosen(&self, number: u32) -> bool {
        self.list.read()[number as usize].chosen
    }

    /// Whether nothing can be in the directory that this restore did not put there.
    pub(super) fn fresh(&self, number: u32) -> bool {
        let list = self.list.read();
        let directory = &list[number as usize];
        directory.fresh || !directory.made
    }

    /// Whether what is made in the directory gets an access control list of its own.
    pub(super) fn inherits_acl(&self, number: u32) -> bool {
        self.list.read()[number as usize].inherits_acl
    }

    /// Sets the metadata of all directories, the deepest first: nothing touches them afterwards.
    pub(super) fn finish(&self, run: &Run<'_>) {
        let last = self.list.read().len();
        let mut handles = Handles::new(run, self);
        for number in (1..last).rev() {
            if run.stopping() {
                return;
            }
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            let (meta, clean, chosen) = {
                let mut list = self.list.write();
                let directory = &mut list[number as usize];
                if !directory.used {
                    continue;
                }
                (directory.meta.take(), !directory.fresh || directory.inherits_acl, directory.chosen)
            };
            let Some(meta) = meta else { continue };
            let result = match handles.get(number, false) {
                Ok(Some(fd)) => apply(run, fd.as_fd().as_fd(), &meta, clean),
                Ok(None) => Err("the directory is gone".to_owned()),
                Err(error) => Err(std::io::Error::from(error).to_string()),
            };
            let path = self.path(number);
            match result {
                Ok(()) if chosen => run.restored(&path, 0),
                Ok(()) => {}
                Err(message) => run.fail(&path, message),
            }
        }
    }
}

/// The descriptors of directories that one thread uses.
pub(super) struct Handles<'a> {
    run: &'a Run<'a>,
    directories: &'a Directories,
    open: HashMap<u32, (Arc<OwnedFd>, u64)>,
    clock: u64,
}

impl<'a> Handles<'a> {
    pub(super) fn new(run: &'a Run<'a>, directories: &'a Directories) -> Self {
        Self { run, directories, open: HashMap::new(), clock: 0 }
    }

    /// The descriptor of a directory that has to exist: it is made where it does not.
    pub(super) fn make(&mut self, number: u32) -> rustix::io::Result<Arc<OwnedFd>> {
        self.get(number, true)?.ok_or(Errno::NOENT)
    }

    /// The descriptor of a directory; none when it does not exist and `make` is not given.
    pub(super) fn get(&mut self, number: u32, make: bool) -> rustix::io::Result<Option<Arc<OwnedFd>>> {
        self.clock += 1;
        let known = self.open.get_mut(&number).map(|(fd, used)| {
            *used = self.clock;
            fd.clone()
        });
        if let Some(fd) = known
            && (!make || number == ROOT || self.directories.list.read()[number as usize].used)
        {
            return Ok(Some(fd));
        }
        let fd = if number == ROOT {
            match &self.directories.root {
                Some(root) => Some(rustix::io::fcntl_dupfd_cloexec(root, 3)?),
                None => None,
            }
        } else {
            self.open(number, make)?
        };
        let Some(fd) = fd.map(Arc::new) else { return Ok(None) };
        if self.open.len() >= KEPT
            && let Some(oldest) = self.open.iter().min_by_key(|(_, (_, used))| *used).map(|(number, _)| *number)
        {
            self.open.remove(&oldest);
        }
        self.open.insert(number, (fd.clone(), self.clock));
        Ok(Some(fd))
    }

    fn open(&mut self, number: u32, make: bool) -> rustix::io::Result<Option<OwnedFd>> {
        let (parent, name, made) = {
            let list = self.directories.list.read();
            let directory = &list[number as usize];
            (directory.parent, directory.name.clone(), directory.made)
        };
        let Some(parent_fd) = self.get(parent, make)? else { return Ok(None) };
        let mut fresh = false;
        if make && !made {
            fresh = match mkdirat(&*parent_fd, &*name, Mode::RWXU) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(error) => return Err(error),
            };
        }
        let opened = match openat(&*parent_fd, &*name, directory_flags(), Mode::empty()) {
            Err(Errno::NOENT) if !make => return Ok(None),
            // Something else has the name: a file, or a link that must not be followed.
            Err(Errno::NOTDIR | Errno::LOOP) if !made => {
                if !make {
                    return Ok(None);
                }
                if self.run.options.overwrite == Overwrite::Never {
                    return Err(Errno::EXIST);
                }
                unlinkat(&*parent_fd, &*name, AtFlags::empty())?;
                mkdirat(&*parent_fd, &*name, Mode::RWXU)?;
                fresh = true;
                openat(&*parent_fd, &*name, directory_flags(), Mode::empty())?
            }
            Err(Errno::ACCESS) if make && !self.run.root_user => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let handle = openat(&*parent_fd, &*name, flags, Mode::empty())?;
                chmod(format!("/proc/self/fd/{}", handle.as_raw_fd()), Mode::RWXU)?;
                openat(&*parent_fd, &*name, directory_flags(), Mode::empty())?
            }
            result => result?,
        };
        if !made && !fresh && make && !self.run.root_user {
            let mode = fstat(&opened)?.st_mode & 0o7777;
            if mode & 0o700 != 0o700 {
                fchmod(&opened, Mode::from_raw_mode(mode | 0o700))?;
            }
        }
        let acl = !made && !fresh && has_default_acl(opened.as_fd());
        let mut list = self.directories.list.write();
        let inherited = fresh && list[parent as usize].inherits_acl;
        let directory = &mut list[number as usize];
        // Another thread may have made it a moment ago: what it noted stays.
        if !directory.made {
            directory.made = true;
            directory.fresh = fresh;
        }
        directory.inherits_acl |= acl || inherited;
        directory.used |= make;
        Ok(Some(opened))
    }

    /// Removes whatever has the name; a directory only when it is empty, or `recursive` allows it. Returns whether the
    /// name is free now: an exclude pattern may keep something in a directory.
    pub(super) fn remove(&mut self, directory: BorrowedFd<'_>, name: &[u8], path: &[u8], recursive: bool) -> bool {
        match self.try_remove(directory, name, path, recursive) {
            Ok(gone) => gone,
            Err(error) => {
                self.run.fail_io(path, "what is in the way cannot be removed", error);
                false
            }
        }
    }

    fn try_remove(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        recursive: bool,
    ) -> rustix::io::Result<bool> {
        let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(true),
            stat => stat?,
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            unlinkat(directory, name, AtFlags::empty())?;
            return Ok(true);
        }
        if recursive {
            let inner = openat(directory, name, directory_flags(), Mode::empty())?;
            let mut all = true;
            for entry in names(&inner)? {
                let below = join(path, &entry);
                all &= !self.run.filter.exclude.matches(&below) && self.remove(inner.as_fd(), &entry, &below, true);
            }
            if !all {
                return Ok(false);
            }
        }
        unlinkat(directory, name, AtFlags::REMOVEDIR)?;
        Ok(true)
    }

    /// Removes what the snapshot does not have from a directory that existed before.
    pub(super) fn delete_others(&mut self, fd: BorrowedFd<'_>, path: &[u8], known: &std::collections::HashSet<&[u8]>) {
        let found = match names(fd) {
            Ok(found) => found,
            Err(error) => return self.run.fail_io(path, "the directory cannot be listed", error),
        };
        for name in found.iter().filter(|name| !known.contains(name.as_slice())) {
            let path = join(path, name);
            if !self.run.filter.select(&path).0 || self.run.stopping() {
                continue;
            }
            if self.run.options.dry_run || self.remove(fd, name, &path, true) {
                add(&self.run.counters.files_deleted, 1);
                self.run.progress.item(RestoreAction::Deleted, &path, 0);
            }
        }
    }
}

/// The names in a directory.
fn names(fd: impl AsFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(fd)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}
