//! A tar as a source of the engine: its members become the entries of a snapshot.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use backstay_core::{
    Data, DataError, End, Entry, EntryError, Fatal, FileKind, Ingest, Job, Source, SourceInfo, Start, Stat, Time,
    Verdict,
};
use tar::EntryType;

use crate::control::Control;
use crate::error::{Error, Result};
use crate::unpack::{Contents, Head, components, damaged, read};

/// The members of an archive that was found to be sound.
#[derive(Debug)]
pub(crate) struct TarSource {
    archive: PathBuf,
    /// What the snapshot's list of paths says.
    top: Vec<u8>,
    /// Of each file with several names its number, and how many further ones there are.
    links: HashMap<Vec<u8>, (u64, u64)>,
    control: Control,
}

impl TarSource {
    pub(crate) fn new(archive: &Path, contents: Contents, control: &Control) -> Self {
        let links = contents.links.into_iter().zip(1..).map(|((name, further), number)| (name, (number, further)));
        let top = contents.top.unwrap_or_default();
        Self { archive: archive.to_owned(), top, links: links.collect(), control: control.clone() }
    }

    fn put(&self, head: &Head, contents: &mut dyn Read, out: &mut dyn Ingest) -> Result<()> {
        let Some(mut entry) = entry(head)? else { return Ok(()) };
        self.number(&mut entry);
        let stopped = |stop: backstay_core::Stop| Error::Other(stop.0);
        let has_contents = entry.kind == FileKind::File && !entry.hard_link;
        out.entry(entry).map_err(stopped)?;
        if !has_contents {
            out.end(Ok(()));
            return Ok(());
        }
        let mut buffer = vec![0; 256 << 10];
        loop {
            let read = contents.read(&mut buffer).map_err(|error| damaged(&self.archive, error))?;
            if read == 0 {
                out.end(Ok(()));
                return Ok(());
            }
            match out.data(Data::Bytes(&buffer[..read])) {
                Ok(_) => {}
                Err(DataError::Stop(stop)) => {
                    out.end(Err(EntryError::new(stop.0.clone())));
                    return Err(stopped(stop));
                }
                Err(DataError::Read(error)) => {
                    let text = error.message.clone();
                    out.end(Err(error));
                    return Err(Error::Other(text));
                }
            }
        }
    }
}

impl TarSource {
    /// Gives the names of one file one number, and each the count of all.
    fn number(&self, entry: &mut Entry) {
        let first = if entry.hard_link { &entry.link } else { &entry.name };
        if let Some((number, further)) = self.links.get(first) {
            entry.stat.inode = *number;
            entry.stat.links = further + 1;
        }
    }
}

/// The entry that a member stands for; none for the folder itself.
fn entry(head: &Head) -> Result<Option<Entry>> {
    if head.name.is_empty() {
        return Ok(None);
    }
    let kind = match head.kind {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse | EntryType::Link => FileKind::File,
        EntryType::Directory => FileKind::Directory,
        EntryType::Symlink => FileKind::Symlink,
        EntryType::Char => FileKind::CharDevice,
        EntryType::Block => FileKind::BlockDevice,
        EntryType::Fifo => FileKind::Fifo,
        _ => {
            let name = String::from_utf8_lossy(&head.whole_name).into_owned();
            return Err(Error::Other(format!("the member {name:?} is of a kind that cannot be saved")));
        }
    };
    let hard_link = head.kind == EntryType::Link;
    let link = match kind {
        FileKind::Symlink => head.link.clone(),
        _ if hard_link => components(&head.link).join(&b'/'),
        _ => Vec::new(),
    };
    let mtime = Time {
        seconds: head.mtime.tv_sec,
        nanoseconds: u32::try_from(head.mtime.tv_nsec).unwrap_or(0).min(999_999_999),
    };
    let stat = Stat {
        mode: kind.type_bits() | head.mode,
        links: 1,
        uid: u32::try_from(head.uid).unwrap_or(u32::MAX),
        gid: u32::try_from(head.gid).unwrap_or(u32::MAX),
        rdev: rustix::fs::makedev(head.device.0, head.device.1),
        atime: mtime,
        mtime,
        ctime: mtime,
        ..Stat::default()
    };
    Ok(Some(Entry { name: head.name.join(&b'/'), kind, link, hard_link, stat, native: Vec::new() }))
}

impl Source for TarSource {
    fn info(&self) -> SourceInfo {
        let path = format!("/{}", String::from_utf8_lossy(&self.top));
        SourceInfo { name: "bakthat".to_owned(), path, ..SourceInfo::default() }
    }

    fn run(&mut self, _job: &dyn Job, _start: &Start, out: &mut dyn Ingest) -> std::result::Result<End, Fatal> {
        match read(&self.archive, &self.control, &mut |head, contents| self.put(head, contents, out)) {
            Ok(()) => Ok(End::Whole),
            Err(error) => Ok(End::Stopped(error.to_string())),
        }
    }

    fn finish(&mut self, _verdict: &Verdict) {}
}
