//! Archives: a file or a folder as a GNU tar, in gzip or plain.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;

use crate::control::{Control, Watched};
use crate::error::{About, Error, Result};
use crate::excludes::Excludes;
use crate::gzip::GzipWriter;
use crate::output::Output;
use crate::tar::{Failed, Kind, Member, TarWriter};
use crate::walk::{Found, Names, Step, identity, walk};

pub use crate::unpack::unpack_archive;

/// Contents up to this many bytes are read before their size is announced.
const SMALL: usize = 1 << 20;

/// How an archive is written.
#[derive(Debug)]
pub struct ArchiveOptions<'a> {
    /// Its first member's name, which all others begin with.
    pub arcname: &'a [u8],
    /// What is left out.
    pub excludes: &'a Excludes,
    /// In gzip.
    pub compress: bool,
}

/// Writes `source` and all below it as a tar to `out`; gives the length of the result in bytes. `excluded` is told the path
/// of each entry that a pattern leaves out, and of each socket, which no tar holds.
///
/// # Errors
/// The system's, with the file that it is about: nothing is at `out` then. [`Error::Interrupted`].
pub fn write_archive(
    source: &Path,
    out: &Path,
    options: &ArchiveOptions<'_>,
    control: &Control,
    excluded: &mut dyn FnMut(&[u8]),
) -> Result<u64> {
    control.begin("Archiving");
    let output = Output::create(out)?;
    let own = output.identity();
    let output = if options.compress {
        let writer = GzipWriter::new(output).about(out)?;
        write_members(source, writer, options, control, own, excluded, out)?.finish().about(out)?
    } else {
        let writer = io::BufWriter::with_capacity(256 << 10, output);
        let writer = write_members(source, writer, options, control, own, excluded, out)?;
        writer.into_inner().map_err(io::IntoInnerError::into_error).about(out)?
    };
    control.check()?;
    output.finish()
}

fn write_members<W: Write>(
    source: &Path,
    out: W,
    options: &ArchiveOptions<'_>,
    control: &Control,
    own: Option<(u64, u64)>,
    excluded: &mut dyn FnMut(&[u8]),
    target: &Path,
) -> Result<W> {
    let mut members = Members {
        tar: TarWriter::new(out),
        names: Names::default(),
        links: HashMap::new(),
        buffer: vec![0; SMALL],
        control,
        target,
    };
    walk(source, options.arcname, control, &mut |found| {
        if options.excludes.excludes(found.path.strip_suffix(b"/").unwrap_or(found.path)) {
            excluded(found.path);
            return Ok(Step::Past);
        }
        // The archive may lie in the folder itself: it is not its own member.
        if Some(identity(&found.stat)) == own {
            return Ok(Step::Past);
        }
        if found.kind() == FileType::Socket {
            excluded(found.path);
            return Ok(Step::Past);
        }
        members.add(found)?;
        Ok(Step::Into)
    })?;
    members.tar.finish().about(target)
}

/// The members that were written, and what the next ones need to know of them.
struct Members<'a, W> {
    tar: TarWriter<W>,
    names: Names,
    /// The first name of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
    control: &'a Control,
    target: &'a Path,
}

impl<W: Write> Members<'_, W> {
    fn add(&mut self, found: &Found<'_>) -> Result<()> {
        match found.kind() {
            FileType::RegularFile => self.file(found),
            FileType::Symlink => {
                let target = match readlinkat(found.folder, found.name, Vec::new()) {
                    Err(Errno::NOENT) => return Ok(()),
                    other => other.about(&found.shown())?,
                };
                self.head(found, Kind::Symlink, target.to_bytes(), 0)
            }
            FileType::Directory => self.head(found, Kind::Directory, b"", 0),
            FileType::Fifo => self.head(found, Kind::Fifo, b"", 0),
            FileType::CharacterDevice => self.head(found, Kind::CharDevice, b"", 0),
            FileType::BlockDevice => self.head(found, Kind::BlockDevice, b"", 0),
            FileType::Socket | FileType::Unknown => Ok(()),
        }
    }

    #[allow(clippy::unnecessary_cast)] // The types differ from processor to processor.
    fn head(&mut self, found: &Found<'_>, kind: Kind, link: &[u8], size: u64) -> Result<()> {
        let stat = &found.stat;
        let device = match kind {
            Kind::CharDevice | Kind::BlockDevice => (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
            _ => (0, 0),
        };
        let (user, group) = (self.names.user(stat.st_uid), self.names.group(stat.st_gid));
        let member = Member {
            kind,
            name: found.member,
            link,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            user: &user,
            group: &group,
            size,
            mtime: stat.st_mtime as i64,
            device,
        };
        self.tar.head(&member).about(self.target)
    }

    #[allow(clippy::unnecessary_cast)] // The types differ from processor to processor.
    fn file(&mut self, found: &Found<'_>) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        if found.stat.st_nlink as u64 > 1
            && let Some(first) = self.links.get(&identity(&found.stat)).cloned()
        {
            return self.head(found, Kind::HardLink, &first, 0);
        }
        let shown = found.shown();
        let fd = match openat(found.folder, found.name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            other => other.about(&shown)?,
        };
        let stat = rustix::fs::fstat(&fd).about(&shown)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::Other(format!("{}: it became something else while it was looked at", shown.display())));
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let found = &Found { stat, folder: found.folder, name: found.name, path: found.path, member: found.member };
        let mut file = Watched::new(File::from(fd), self.control);
        if size <= SMALL as u64 {
            // As long as it is now, whatever it was when it was opened.
            let mut held = std::mem::take(&mut self.buffer);
            let read = fill(&mut file, &mut held[..size as usize]).about(&shown);
            let done = read.and_then(|read| {
                self.head(found, Kind::File, b"", read as u64)?;
                self.tar.bytes(&held[..read]).and_then(|()| self.tar.pad()).about(self.target)
            });
            self.buffer = held;
            done?;
        } else {
            self.head(found, Kind::File, b"", size)?;
            let mut buffer = std::mem::take(&mut self.buffer);
            let done = self.tar.contents(&mut file, size, &mut buffer).map_err(|failed| self.failed(&shown, failed));
            self.buffer = buffer;
            done?;
        }
        if found.stat.st_nlink as u64 > 1 {
            self.links.insert(identity(&found.stat), found.member.to_vec());
        }
        Ok(())
    }

    fn failed(&self, shown: &Path, failed: Failed) -> Error {
        match failed {
            Failed::Short => Error::Other(format!("{}: it became shorter while it was read", shown.display())),
            Failed::Input(error) => Error::file(shown, error),
            Failed::Output(error) => Error::file(self.target, error),
        }
    }
}

/// Reads until the buffer is full or the input is at its end.
fn fill(input: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
