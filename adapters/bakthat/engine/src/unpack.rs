//! Unpacking an archive into a folder, and never anywhere else.
//!
//! The archive is read twice: first all of it, to know that it is whole and that each member stays in the folder; only then
//! is anything written. Every name is opened from the folder's descriptor on, and no link is followed, neither one that the
//! archive brings nor one that was there before. A link itself is kept with its target as it is.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, chownat, fchmod, fchown, futimens, linkat,
    mkdirat, mknodat, openat, readlinkat, renameat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use crate::control::Control;
use crate::error::{About, Error, Result};
use crate::gzip;
use crate::walk::shown;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Unpacks a tar, in gzip or plain, into `folder`, which is made where it is missing. What is in the way of a member is
/// replaced; a folder is not.
///
/// # Errors
/// [`Error::UnsafeMember`] or an archive that is not whole: nothing was written. The system's, with the path that it is
/// about: what was unpacked until then stays, each file of it whole. [`Error::Interrupted`], likewise.
pub fn unpack_archive(archive: &Path, folder: &Path, control: &Control) -> Result<()> {
    control.begin("Unpacking");
    // It is read twice.
    control.expect(2 * std::fs::metadata(archive).about(archive)?.len());
    verify(archive, control)?;
    std::fs::create_dir_all(folder).about(folder)?;
    let root = openat(CWD, folder, FOLDER - OFlags::NOFOLLOW, Mode::empty()).about(folder)?;
    let mut target = Target {
        folder,
        root,
        last: None,
        folders: BTreeMap::new(),
        owner: rustix::process::geteuid().is_root(),
        users: BTreeMap::new(),
        groups: BTreeMap::new(),
    };
    read(archive, control, &mut |member, contents| target.put(archive, member, contents))?;
    target.finish()
}

/// What an archive holds, as a first look at all of it shows.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// The first component of its first member's name.
    pub(crate) top: Option<Vec<u8>>,
    /// How many further names each file has that has any.
    pub(crate) links: BTreeMap<Vec<u8>, u64>,
}

/// Reads an archive to its end, to know that it is whole and that each member stays where it is unpacked.
pub(crate) fn verify(archive: &Path, control: &Control) -> Result<Contents> {
    let length = std::fs::metadata(archive).about(archive)?.len();
    let mut found = Contents::default();
    read(archive, control, &mut |member, contents| {
        found.top = found.top.take().or_else(|| member.name.first().cloned());
        check(archive, member)?;
        if member.kind == EntryType::Link {
            *found.links.entry(components(&member.link).join(&b'/')).or_default() += 1;
        }
        io::copy(contents, &mut io::sink()).map(drop).map_err(|error| damaged(archive, error))
    })?;
    if length == 0 {
        return Err(Error::Other(format!("{}: it is empty, and no archive", archive.display())));
    }
    Ok(found)
}

/// What of a member is needed.
pub(crate) struct Head {
    pub(crate) kind: EntryType,
    /// The components of its name.
    pub(crate) name: Vec<Vec<u8>>,
    pub(crate) whole_name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) mtime: Timespec,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) user: Vec<u8>,
    pub(crate) group: Vec<u8>,
    pub(crate) device: (u32, u32),
}

/// Gives each member of an archive with its contents, and reads on to the very end.
pub(crate) fn read(
    archive: &Path,
    control: &Control,
    visit: &mut dyn FnMut(&Head, &mut dyn Read) -> Result<()>,
) -> Result<()> {
    let mut file = BufReader::with_capacity(256 << 10, gzip::open(archive, control)?);
    let is_gzip = io::BufRead::fill_buf(&mut file).about(archive)?.starts_with(&[0x1f, 0x8b]);
    let mut bytes: Box<dyn Read + '_> = if is_gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    {
        let mut tar = Archive::new(&mut bytes);
        for entry in tar.entries().map_err(|error| damaged(archive, error))? {
            let mut entry = entry.map_err(|error| damaged(archive, error))?;
            if let Some(head) = head(archive, &mut entry)? {
                visit(&head, &mut entry)?;
            }
        }
    }
    // The sum of a gzip stands at its end.
    io::copy(&mut bytes, &mut io::sink()).map_err(|error| damaged(archive, error))?;
    Ok(())
}

pub(crate) fn damaged(archive: &Path, error: io::Error) -> Error {
    if crate::control::is_cancelled(&error) {
        return Error::Interrupted;
    }
    if error.raw_os_error().is_some() {
        return Error::file(archive, error);
    }
    // What the library shows of a head can be any bytes.
    let text: String = error.to_string().chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect();
    Error::Other(format!("{}: it is no tar archive, or it is damaged: {text}", archive.display()))
}

/// The components of a name, `.` and empty ones left out.
pub(crate) fn components(name: &[u8]) -> Vec<Vec<u8>> {
    name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").map(<[u8]>::to_vec).collect()
}

fn head<R: Read>(archive: &Path, entry: &mut Entry<'_, R>) -> Result<Option<Head>> {
    let bad = |error: io::Error| damaged(archive, error);
    let kind = entry.header().entry_type();
    if matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader | EntryType::GNULongName | EntryType::GNULongLink) {
        return Ok(None);
    }
    let mut mtime = Timespec { tv_sec: entry.header().mtime().map_err(bad)?.cast_signed(), tv_nsec: 0 };
    let (mut user, mut group) = (None, None);
    if let Some(records) = entry.pax_extensions().map_err(bad)? {
        for record in records {
            let record = record.map_err(bad)?;
            match record.key_bytes() {
                b"mtime" => mtime = pax_time(record.value_bytes()).unwrap_or(mtime),
                b"uname" => user = Some(record.value_bytes().to_vec()),
                b"gname" => group = Some(record.value_bytes().to_vec()),
                _ => {}
            }
        }
    }
    let whole_name = entry.path_bytes().into_owned();
    let header = entry.header();
    // What old archivers know as a folder by its slash.
    let kind = if kind == EntryType::Regular && whole_name.ends_with(b"/") { EntryType::Directory } else { kind };
    let number = |number: io::Result<Option<u32>>| number.ok().flatten().unwrap_or(0);
    Ok(Some(Head {
        kind,
        name: components(&whole_name),
        link: entry.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default(),
        mode: header.mode().map_err(bad)? & 0o7777,
        mtime,
        uid: header.uid().map_err(bad)?,
        gid: header.gid().map_err(bad)?,
        user: user.unwrap_or_else(|| header.username_bytes().unwrap_or_default().to_vec()),
        group: group.unwrap_or_else(|| header.groupname_bytes().unwrap_or_default().to_vec()),
        device: (number(header.device_major()), number(header.device_minor())),
        whole_name,
    }))
}

/// Seconds with a fraction.
fn pax_time(text: &[u8]) -> Option<Timespec> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let nanoseconds: i64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    if text.starts_with('-') && nanoseconds > 0 {
        return Some(Timespec { tv_sec: seconds - 1, tv_nsec: 1_000_000_000 - nanoseconds });
    }
    Some(Timespec { tv_sec: seconds, tv_nsec: nanoseconds })
}

/// Whether a member stays in the folder.
fn check(archive: &Path, member: &Head) -> Result<()> {
    let leaves = |name: &[u8]| name.starts_with(b"/") || name.split(|byte| *byte == b'/').any(|part| part == b"..");
    let name = String::from_utf8_lossy(&member.whole_name);
    if leaves(&member.whole_name) || member.whole_name.contains(&0) {
        return Err(Error::UnsafeMember(format!("{}: the member {name:?} would leave the folder", archive.display())));
    }
    if member.kind == EntryType::Link && leaves(&member.link) {
        return Err(Error::UnsafeMember(format!(
            "{}: the member {name:?} is a link to {:?}, outside the folder",
            archive.display(),
            String::from_utf8_lossy(&member.link)
        )));
    }
    Ok(())
}

/// The folder that is unpacked into.
struct Target<'a> {
    folder: &'a Path,
    root: OwnedFd,
    /// The folder that the last member went into.
    last: Option<(Vec<Vec<u8>>, OwnedFd)>,
    /// Folders among the members: their modes and times are set in the end.
    folders: BTreeMap<Vec<Vec<u8>>, (u32, Timespec)>,
    /// Whether owners can be set.
    owner: bool,
    users: BTreeMap<Vec<u8>, Option<u32>>,
    groups: BTreeMap<Vec<u8>, Option<u32>>,
}

impl Target<'_> {
    fn shown(&self, name: &[Vec<u8>]) -> PathBuf {
        self.folder.join(shown(&name.join(&b'/')))
    }

    /// Opens the folder of these names, and makes what is missing.
    fn open(&self, archive: &Path, names: &[Vec<u8>]) -> Result<OwnedFd> {
        // Mostly it lies in the one before, or is it.
        let (start, known) = match &self.last {
            Some((last, fd)) if names.starts_with(last) => (fd, last.len()),
            _ => (&self.root, 0),
        };
        let mut fd = start.try_clone().about(self.folder)?;
        for (at, name) in names.iter().enumerate().skip(known) {
            let shown = || self.shown(&names[..=at]);
            let name = text(name)?;
            fd = match openat(&fd, &*name, FOLDER, Mode::empty()) {
                Ok(next) => next,
                Err(Errno::NOENT) => {
                    mkdirat(&fd, &*name, Mode::from_raw_mode(0o777)).about(&shown())?;
                    openat(&fd, &*name, FOLDER, Mode::empty()).about(&shown())?
                }
                Err(Errno::LOOP | Errno::NOTDIR) if is_link(fd.as_fd(), &name) => {
                    return Err(Error::UnsafeMember(format!(
                        "{}: a member would go through the link {}",
                        archive.display(),
                        shown().display()
                    )));
                }
                Err(error) => return Err(error).about(&shown()),
            };
        }
        Ok(fd)
    }

    fn put(&mut self, archive: &Path, member: &Head, contents: &mut dyn Read) -> Result<()> {
        let Some((last, above)) = member.name.split_last() else {
            // The folder itself.
            return Ok(());
        };
        if self.last.as_ref().is_none_or(|(names, _)| names != above) {
            self.last = Some((above.to_vec(), self.open(archive, above)?));
        }
        let Some((_, folder)) = &self.last else { return Ok(()) };
        let folder = folder.try_clone().about(self.folder)?;
        let at = self.shown(&member.name);
        let name = text(last)?;
        let owner = self.owner_of(member);
        match member.kind {
            EntryType::Directory => {
                match mkdirat(&folder, &*name, Mode::from_raw_mode(0o700)) {
                    Ok(()) => {}
                    Err(Errno::EXIST) => {
                        let there = statat(&folder, &*name, AtFlags::SYMLINK_NOFOLLOW).about(&at)?;
                        if FileType::from_raw_mode(there.st_mode) == FileType::Symlink {
                            return Err(Error::UnsafeMember(format!(
                                "{}: there is a link in the place of the folder {}",
                                archive.display(),
                                at.display()
                            )));
                        }
                        if FileType::from_raw_mode(there.st_mode) != FileType::Directory {
                            return Err(Errno::EXIST).about(&at);
                        }
                    }
                    Err(error) => return Err(error).about(&at),
                }
                if let Some((uid, gid)) = owner {
                    chownat(&folder, &*name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).about(&at)?;
                }
                self.folders.insert(member.name.clone(), (member.mode, member.mtime));
                Ok(())
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let mut aside = Aside::new(folder.as_fd());
                let file = aside.file().about(&at)?;
                write_out(archive, &at, contents, &file)?;
                if let Some((uid, gid)) = owner {
                    fchown(&file, Some(uid), Some(gid)).about(&at)?;
                }
                fchmod(&file, Mode::from_raw_mode(member.mode)).about(&at)?;
                let times = Timestamps { last_access: member.mtime, last_modification: member.mtime };
                futimens(&file, &times).about(&at)?;
                aside.into_place(&name).about(&at)
            }
            EntryType::Symlink => {
                let mut aside = Aside::new(folder.as_fd());
                let link = text(&member.link)?;
                aside.make(|own| symlinkat(&*link, folder.as_fd(), own)).about(&at)?;
                self.dress(&folder, &aside, member, owner).about(&at)?;
                aside.into_place(&name).about(&at)
            }
            EntryType::Link => {
                let target = components(&member.link);
                let Some((target_name, target_above)) = target.split_last() else {
                    return Err(Errno::NOENT).about(&at);
                };
                let target_folder = self.open(archive, target_above)?;
                let target_name = text(target_name)?;
                if target == member.name {
                    return Ok(());
                }
                let mut aside = Aside::new(folder.as_fd());
                aside
                    .make(|own| linkat(&target_folder, &*target_name, folder.as_fd(), own, AtFlags::empty()))
                    .about(&at)?;
                aside.into_place(&name).about(&at)
            }
            EntryType::Fifo | EntryType::Char | EntryType::Block => {
                let kind = match member.kind {
                    EntryType::Char => FileType::CharacterDevice,
                    EntryType::Block => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let device = rustix::fs::makedev(member.device.0, member.device.1);
                let mut aside = Aside::new(folder.as_fd());
                let mode = Mode::from_raw_mode(member.mode);
                aside.make(|own| mknodat(folder.as_fd(), own, kind, mode, device)).about(&at)?;
                self.dress(&folder, &aside, member, owner).about(&at)?;
                rustix::fs::chmodat(&folder, &*aside.name, mode, AtFlags::empty())
                    .or_else(|error| if kind == FileType::Fifo { Err(error) } else { Ok(()) })
                    .about(&at)?;
                aside.into_place(&name).about(&at)
            }
            _ => Err(Error::Other(format!(
                "{}: the member {:?} is of a kind that cannot be unpacked",
                archive.display(),
                String::from_utf8_lossy(&member.whole_name)
            ))),
        }
    }

    /// Owner and times of what is no regular file.
    fn dress(
        &self,
        folder: &OwnedFd,
        aside: &Aside<'_>,
        member: &Head,
        owner: Option<(Uid, Gid)>,
    ) -> rustix::io::Result<()> {
        if let Some((uid, gid)) = owner {
            chownat(folder, &*aside.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        let times = Timestamps { last_access: member.mtime, last_modification: member.mtime };
        utimensat(folder, &*aside.name, &times, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// The owner to set: by name where this machine knows the name, by number otherwise.
    fn owner_of(&mut self, member: &Head) -> Option<(Uid, Gid)> {
        if !self.owner {
            return None;
        }
        let look = |name: &[u8]| std::str::from_utf8(name).ok().filter(|name| !name.is_empty()).map(str::to_owned);
        let user = self.users.entry(member.user.clone()).or_insert_with(|| {
            look(&member.user).and_then(|name| uzers::get_user_by_name(&name)).map(|user| user.uid())
        });
        let uid = user.or_else(|| u32::try_from(member.uid).ok()).unwrap_or(0);
        let group = self.groups.entry(member.group.clone()).or_insert_with(|| {
            look(&member.group).and_then(|name| uzers::get_group_by_name(&name)).map(|group| group.gid())
        });
        let gid = group.or_else(|| u32::try_from(member.gid).ok()).unwrap_or(0);
        Some((Uid::from_raw(uid), Gid::from_raw(gid)))
    }

    /// Sets modes and times of the folders, the deepest first.
    fn finish(self) -> Result<()> {
        for (name, (mode, mtime)) in self.folders.iter().rev() {
            let at = self.shown(name);
            let fd = self.open(&at, name)?;
            let times = Timestamps { last_access: *mtime, last_modification: *mtime };
            futimens(&fd, &times).about(&at)?;
            fchmod(&fd, Mode::from_raw_mode(*mode)).about(&at)?;
        }
        Ok(())
    }
}

fn is_link(folder: BorrowedFd<'_>, name: &CString) -> bool {
    readlinkat(folder, &**name, Vec::new()).is_ok()
}

fn text(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| Error::other("a name holds a zero byte"))
}

fn write_out(archive: &Path, at: &Path, contents: &mut dyn Read, mut file: &File) -> Result<()> {
    let mut buffer = [0; 64 << 10];
    loop {
        let read = contents.read(&mut buffer).map_err(|error| damaged(archive, error))?;
        if read == 0 {
            return Ok(());
        }
        file.write_all(&buffer[..read]).about(at)?;
    }
}

/// Something under a name of its own, until it is whole.
struct Aside<'a> {
    folder: BorrowedFd<'a>,
    name: CString,
    there: bool,
}

impl<'a> Aside<'a> {
    fn new(folder: BorrowedFd<'a>) -> Self {
        Self { folder, name: CString::default(), there: false }
    }

    /// Makes it under a name that is free.
    fn make<T>(&mut self, make: impl Fn(&std::ffi::CStr) -> rustix::io::Result<T>) -> rustix::io::Result<T> {
        loop {
            let random = getrandom::u64().map_err(|_| Errno::IO)?;
            self.name = CString::new(format!(".bakthat-{random:016x}")).map_err(|_| Errno::INVAL)?;
            match make(&self.name) {
                Err(Errno::EXIST) => {}
                other => {
                    self.there = other.is_ok();
                    return other;
                }
            }
        }
    }

    fn file(&mut self) -> rustix::io::Result<File> {
        let folder = self.folder;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.make(|name| openat(folder, name, flags, Mode::from_raw_mode(0o600))).map(File::from)
    }

    fn into_place(mut self, name: &CString) -> rustix::io::Result<()> {
        renameat(self.folder, &*self.name, self.folder, &**name)?;
        self.there = false;
        // Two names of one file are not renamed into one.
        let _ = unlinkat(self.folder, &*self.name, AtFlags::empty());
        Ok(())
    }
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        if self.there {
            // The error that counts is the one that brought us here.
            let _ = unlinkat(self.folder, &*self.name, AtFlags::empty());
        }
    }
}
