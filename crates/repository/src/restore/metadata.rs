//! Putting owners, extended attributes, times and modes on restored objects, in that order (reference 22).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use backstay_core::{FileKind, Time};
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmod, chownat, fchmod,
    fchown, flistxattr, flistxattr_query, fremovexattr, fsetxattr, fstat, futimens, openat, removexattr, setxattr,
    utimensat,
};
use rustix::io::Errno;

use super::{Run, add};
use crate::tree::{NO_TIME, Node};

/// The metadata of one node, as small as they get: a restore keeps those of every file until it is written.
#[derive(Debug)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) atime: Time,
    pub(super) mtime: Time,
    xattrs: Option<Box<Xattrs>>,
}

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

const SET_ID_BITS: u32 = 0o6000;

impl Meta {
    pub(super) fn take(node: &mut Node) -> Self {
        let xattrs = std::mem::take(&mut node.xattrs);
        Self {
            mode: node.unix_mode() & 0o7777,
            uid: node.uid,
            gid: node.gid,
            atime: node.atime,
            mtime: node.mtime,
            xattrs: (!xattrs.is_empty()).then(|| Box::new(xattrs)),
        }
    }

    fn times(&self) -> Timestamps {
        let spec = |time: Time| {
            // A time that the snapshot does not know is left as it is.
            let nanoseconds = if time == NO_TIME { UTIME_OMIT } else { time.nanoseconds.into() };
            Timespec { tv_sec: time.seconds, tv_nsec: nanoseconds }
        };
        Timestamps { last_access: spec(self.atime), last_modification: spec(self.mtime) }
    }

    /// The mode to make a new file with, `single` being one that is written in one go. Where owner and attributes need no further step it is the final one, and no
    /// call is needed later; otherwise nobody else may open the file until it is whole.
    pub(super) fn creation_mode(&self, run: &Run<'_>, single: bool) -> Mode {
        let ours = self.uid == run.user && self.gid == run.group;
        if single && ours && self.xattrs.is_none() && self.mode & 0o7000 == 0 {
            Mode::from_raw_mode(self.mode & 0o777)
        } else {
            Mode::RUSR | Mode::WUSR
        }
    }
}

/// Collects the first thing that went wrong; the others are tried nevertheless.
#[derive(Default)]
struct Problem(Option<String>);

impl Problem {
    fn note(&mut self, what: impl FnOnce() -> String, result: rustix::io::Result<()>) {
        if let Err(error) = result
            && self.0.is_none()
        {
            self.0 = Some(format!("{}: {}", what(), std::io::Error::from(error)));
        }
    }

    fn end(self) -> Result<(), String> {
        self.0.map_or(Ok(()), Err)
    }
}

/// A refused change of owner is no error unless root asked for it.
fn owner_result(run: &Run<'_>, result: rustix::io::Result<()>) -> (rustix::io::Result<()>, bool) {
    match result {
        Err(Errno::PERM) if !run.root_user => {
            add(&run.counters.owners_refused, 1);
            (Ok(()), true)
        }
        result => (result, false),
    }
}

fn set_xattrs(run: &Run<'_>, meta: &Meta, problem: &mut Problem, set: impl Fn(&[u8], &[u8]) -> rustix::io::Result<()>) {
    for (name, value) in meta.xattrs.iter().flat_map(|xattrs| xattrs.iter()) {
        match set(name, value) {
            Err(Errno::OPNOTSUPP) => add(&run.counters.xattrs_unsupported, 1),
            result => {
                problem
                    .note(|| format!("extended attribute {:?} cannot be set", String::from_utf8_lossy(name)), result);
            }
        }
    }
}

/// Removes attributes that the snapshot does not have. Labels that the system itself puts on files stay.
fn remove_other_xattrs(fd: BorrowedFd<'_>, meta: &Meta, problem: &mut Problem) {
    let Ok(length) = flistxattr_query(fd) else { return };
    if length == 0 {
        return;
    }
    let mut names = vec![0_u8; length + 256];
    let Ok(length) = flistxattr(fd, names.as_mut_slice()) else { return };
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let wanted = meta.xattrs.iter().flat_map(|xattrs| xattrs.iter()).any(|(known, _)| known == name);
        if !wanted && !name.starts_with(b"security.") {
            match fremovexattr(fd, name) {
                Err(Errno::NODATA) => {}
                result => problem.note(
                    || format!("extended attribute {:?} cannot be removed", String::from_utf8_lossy(name)),
                    result,
                ),
            }
        }
    }
}

/// Puts `meta` on an open file or directory. `clean` removes attributes that the snapshot does not have: needed where
/// the object was there before, or inherits an access control list from its directory.
pub(super) fn apply(run: &Run<'_>, fd: BorrowedFd<'_>, meta: &Meta, clean: bool) -> Result<(), String> {
    let mut problem = Problem::default();
    let stat: Option<Stat> = fstat(fd).ok();
    let mut mode = meta.mode;
    let owned = stat.as_ref().is_some_and(|stat| stat.st_uid == meta.uid && stat.st_gid == meta.gid);
    if !owned {
        let result = fchown(fd, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)));
        let (result, refused) = owner_result(run, result);
        problem.note(|| "the owner cannot be set".to_owned(), result);
        // A program that runs as somebody else must not end up running as the wrong somebody.
        if refused {
            mode &= !SET_ID_BITS;
        }
    }
    if clean {
        remove_other_xattrs(fd, meta, &mut problem);
    }
    set_xattrs(run, meta, &mut problem, |name, value| fsetxattr(fd, name, value, XattrFlags::empty()));
    problem.note(|| "the times cannot be set".to_owned(), futimens(fd, &meta.times()));
    // A change of owner or of an access control list may have changed the mode: only an untouched one is known.
    let known = owned && !clean && meta.xattrs.is_none();
    if !known || stat.is_none_or(|stat| stat.st_mode & 0o7777 != mode) {
        problem.note(|| "the mode cannot be set".to_owned(), fchmod(fd, Mode::from_raw_mode(mode)));
    }
    problem.end()
}

/// Puts `meta` on a symbolic link, device, pipe or socket: objects that cannot simply be opened. `inherits_acl` says
/// that its directory gave it an access control list, which the snapshot does not know.
pub(super) fn apply_special(
    run: &Run<'_>,
    directory: BorrowedFd<'_>,
    name: &[u8],
    kind: FileKind,
    meta: &Meta,
    inherits_acl: bool,
) -> Result<(), String> {
    let mut problem = Problem::default();
    let owner = (Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)));
    let (result, refused) = owner_result(run, chownat(directory, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW));
    problem.note(|| "the owner cannot be set".to_owned(), result);
    let needs_path = kind != FileKind::Symlink || meta.xattrs.is_some();
    // What stands at the end of this path is the object itself, whatever happens to its name meanwhile.
    let handle = if needs_path {
        match openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Ok(handle) => Some(handle),
            Err(error) => {
                problem.note(|| "it cannot be opened".to_owned(), Err(error));
                None
            }
        }
    } else {
        None
    };
    let path = handle.as_ref().map(|handle| format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd()));
    if let Some(path) = &path {
        if inherits_acl && kind != FileKind::Symlink {
            match removexattr(path.as_str(), "system.posix_acl_access") {
                Err(Errno::NODATA) => {}
                result => problem.note(|| "the inherited access control list cannot be removed".to_owned(), result),
            }
        }
        set_xattrs(run, meta, &mut problem, |name, value| setxattr(path.as_str(), name, value, XattrFlags::empty()));
    }
    let result = utimensat(directory, name, &meta.times(), AtFlags::SYMLINK_NOFOLLOW);
    problem.note(|| "the times cannot be set".to_owned(), result);
    if kind != FileKind::Symlink
        && let Some(path) = &path
    {
        let mode = if refused { meta.mode & !SET_ID_BITS } else { meta.mode };
        problem.note(|| "the mode cannot be set".to_owned(), chmod(path.as_str(), Mode::from_raw_mode(mode)));
    }
    problem.end()
}
