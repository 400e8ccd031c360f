//! A file or a folder with all that is below it, in the order of names, a folder before what is in it. Nothing but the
//! start is looked up by its whole path, and no link is followed on the way.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;

use crate::control::Control;
use crate::error::{About, Error, Result};

/// How many folders above the current one stay open.
const OPEN: usize = 64;

/// Something that the walk came to.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    /// The folder that it is in, and its name there.
    pub(crate) folder: BorrowedFd<'a>,
    pub(crate) name: &'a CStr,
    /// How the walk came to it, from the path that was given.
    pub(crate) path: &'a [u8],
    /// Its name in the archive.
    pub(crate) member: &'a [u8],
    pub(crate) stat: Stat,
}

impl Found<'_> {
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    pub(crate) fn shown(&self) -> PathBuf {
        shown(self.path)
    }
}

/// What becomes of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Into,
    Past,
}

pub(crate) fn shown(path: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(path))
}

/// A folder on the way down.
struct Level {
    fd: Option<OwnedFd>,
    identity: (u64, u64),
    names: std::vec::IntoIter<CString>,
    path: Vec<u8>,
    member: Vec<u8>,
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

#[allow(clippy::unnecessary_cast)] // The types differ from processor to processor.
pub(crate) fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev as u64, stat.st_ino as u64)
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    [path, b"/", name].concat()
}

fn open_folder(folder: BorrowedFd<'_>, name: &CStr, path: Vec<u8>, member: Vec<u8>) -> Result<Level> {
    let at = shown(&path);
    let fd = openat(folder, name, FOLDER, Mode::empty()).about(&at)?;
    let stat = rustix::fs::fstat(&fd).about(&at)?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&fd).about(&at)? {
        let entry = entry.about(&at)?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort_unstable();
    Ok(Level { fd: Some(fd), identity: identity(&stat), names: names.into_iter(), path, member })
}

/// Walks `source`, whose name in the archive is `member`, and calls `visit` for each entry. What is gone before it could
/// be looked at is passed over: it might as well have gone before the walk.
pub(crate) fn walk(
    source: &Path,
    member: &[u8],
    control: &Control,
    visit: &mut dyn FnMut(&Found<'_>) -> Result<Step>,
) -> Result<()> {
    let path = source.as_os_str().as_bytes();
    let name = CString::new(path).map_err(|_| Error::other("a path holds a zero byte"))?;
    let stat = statat(CWD, &*name, AtFlags::SYMLINK_NOFOLLOW).about(source)?;
    let top = Found { folder: CWD, name: &name, path, member, stat };
    let mut stack: Vec<Level> = Vec::new();
    if visit(&top)? == Step::Into && top.kind() == FileType::Directory {
        stack.push(open_folder(CWD, &name, path.to_vec(), member.to_vec())?);
    }
    while let Some(level) = stack.last_mut() {
        control.check()?;
        let Some(name) = level.names.next() else {
            let below = stack.pop();
            if let (Some(above), Some(below)) = (stack.last_mut(), below) {
                reopen(above, &below)?;
            }
            continue;
        };
        let Some(folder) = level.fd.as_ref().map(AsFd::as_fd) else { continue };
        let path = join(&level.path, name.to_bytes());
        let member = join(&level.member, name.to_bytes());
        let stat = match statat(folder, &*name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            other => other.about(&shown(&path))?,
        };
        let found = Found { folder, name: &name, path: &path, member: &member, stat };
        if visit(&found)? != Step::Into || found.kind() != FileType::Directory {
            continue;
        }
        let below = open_folder(folder, &name, path, member)?;
        stack.push(below);
        if let Some(far) = stack.len().checked_sub(OPEN + 1) {
            stack[far].fd = None;
        }
    }
    Ok(())
}

/// Opens a folder again that was closed on the way down, from the one below it.
fn reopen(above: &mut Level, below: &Level) -> Result<()> {
    if above.fd.is_some() {
        return Ok(());
    }
    let at = shown(&above.path);
    let Some(from) = &below.fd else { return Ok(()) };
    let fd = openat(from, c"..", FOLDER, Mode::empty()).about(&at)?;
    let stat = rustix::fs::fstat(&fd).about(&at)?;
    if identity(&stat) != above.identity {
        return Err(Error::Other(format!("{}: it was moved while it was being read", at.display())));
    }
    above.fd = Some(fd);
    Ok(())
}

/// The names of users and groups, each looked up once.
#[derive(Debug, Default)]
pub(crate) struct Names {
    users: HashMap<u32, Vec<u8>>,
    groups: HashMap<u32, Vec<u8>>,
}

impl Names {
    pub(crate) fn user(&mut self, uid: u32) -> Vec<u8> {
        let look = || uzers::get_user_by_uid(uid).map(|user| user.name().as_bytes().to_vec()).unwrap_or_default();
        self.users.entry(uid).or_insert_with(look).clone()
    }

    pub(crate) fn group(&mut self, gid: u32) -> Vec<u8> {
        let look = || uzers::get_group_by_gid(gid).map(|group| group.name().as_bytes().to_vec()).unwrap_or_default();
        self.groups.entry(gid).or_insert_with(look).clone()
    }
}
