//! A directory in restic's layout (reference section 2).
//!
//! An object is written to a temporary file in its own directory, made durable, then renamed: it is there whole or not
//! at all, whatever is killed when. What killed runs leave behind (`...-tmp-...`) is never listed.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use backstay_core::{Id, ObjectKind, Retry, Store, StoreError, StoreErrorKind};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::layout;

/// A repository in a local directory.
#[derive(Debug)]
pub struct LocalStore {
    root: PathBuf,
    connections: usize,
    modes: OnceLock<Modes>,
}

#[derive(Clone, Copy, Debug)]
struct Modes {
    file: u32,
    directory: u32,
}

const PRIVATE: Modes = Modes { file: 0o400, directory: 0o700 };
const GROUP: Modes = Modes { file: 0o440, directory: 0o750 };

impl LocalStore {
    /// The store in this directory. Nothing is looked at yet.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), connections: 4, modes: OnceLock::new() }
    }

    /// The same, with another answer to how many calls at once are worth making.
    #[must_use]
    pub fn with_connections(mut self, connections: usize) -> Self {
        self.connections = connections.max(1);
        self
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn directory(&self, kind: ObjectKind, id: &Id) -> PathBuf {
        match kind {
            ObjectKind::Config => self.root.clone(),
            ObjectKind::Pack => self.root.join(kind.directory()).join(&id.to_hex()[..2]),
            _ => self.root.join(kind.directory()),
        }
    }

    fn path(&self, kind: ObjectKind, id: &Id) -> PathBuf {
        match kind {
            ObjectKind::Config => self.root.join(kind.directory()),
            _ => self.directory(kind, id).join(id.to_hex()),
        }
    }

    /// A repository whose `config` the group may read stays readable for the group.
    fn modes(&self) -> Modes {
        if let Some(modes) = self.modes.get() {
            return *modes;
        }
        match fs::metadata(self.root.join(ObjectKind::Config.directory())) {
            Ok(config) => *self.modes.get_or_init(|| if config.mode() & 0o040 != 0 { GROUP } else { PRIVATE }),
            Err(_) => PRIVATE,
        }
    }

    /// Makes a directory and those above it, and their names durable.
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        match fs::DirBuilder::new().mode(self.modes().directory).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).ok_or(error)?;
                self.make_directory(parent)?;
                return self.make_directory(path);
            }
            Err(error) => return Err(error),
        }
        match path.parent() {
            Some(parent) => sync_directory(if parent.as_os_str().is_empty() { Path::new(".") } else { parent }),
            None => Ok(()),
        }
    }

    fn write(&self, directory: &Path, path: &Path, body: &[u8], replace: bool) -> io::Result<()> {
        let mode = self.modes().file;
        let (mut file, temporary) = match create_temporary(path, mode) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.make_directory(directory)?;
                create_temporary(path, mode)?
            }
            other => other?,
        };
        let written = (|| {
            file.write_all(body)?;
            // The mode at creation went through the umask.
            file.set_permissions(Permissions::from_mode(mode))?;
            file.sync_all()?;
            if replace { fs::rename(&temporary, path) } else { rename_to_new(&temporary, path) }
        })();
        drop(file);
        if let Err(error) = written {
            // The error that counts is the first one.
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        sync_directory(directory)
    }
}

/// A new file beside the object's place.
fn create_temporary(path: &Path, mode: u32) -> io::Result<(File, PathBuf)> {
    loop {
        let number = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
        let mut name = path.as_os_str().to_owned();
        name.push(format!("-tmp-{number:016x}"));
        let temporary = PathBuf::from(name);
        match OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary) {
            Ok(file) => return Ok((file, temporary)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// Renames unless the name is taken, also on file systems that have no such operation.
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        Err(error) => Err(error.into()),
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match File::open(path)?.sync_all() {
        // Some network file systems cannot do it, and do without.
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::INVAL | Errno::NOTSUP)) => Ok(()),
        other => other,
    }
}

/// What an error of the operating system means for the program.
fn error_kind(error: &io::Error) -> StoreErrorKind {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR) => StoreErrorKind::NotFound,
        Some(Errno::EXIST) => StoreErrorKind::Exists,
        Some(Errno::NOSPC | Errno::DQUOT) => StoreErrorKind::Full,
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => StoreErrorKind::Denied,
        _ => StoreErrorKind::Other,
    }
}

fn failed(operation: &'static str, path: &Path, error: &io::Error) -> StoreError {
    let retry = match Errno::from_io_error(error) {
        // Network file systems say so.
        Some(Errno::INTR | Errno::AGAIN | Errno::TIMEDOUT | Errno::STALE) => Retry::Soon,
        _ => Retry::Never,
    };
    let error = StoreError::new(error_kind(error), operation, path.display().to_string(), error.to_string());
    StoreError { retry, ..error }
}

/// The ids and sizes of the objects in a directory. A missing directory is empty, foreign names are left out.
fn list_directory(path: &Path, list: &mut Vec<(Id, u64)>) -> Result<(), StoreError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("list", path, &error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| failed("list", path, &error))?;
        let Some(id) = entry.file_name().to_str().and_then(layout::id) else { continue };
        match entry.metadata() {
            Ok(metadata) if metadata.is_file() => list.push((id, metadata.len())),
            Ok(_) => {}
            // Deleted since the directory was read.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed("list", &entry.path(), &error)),
        }
    }
    Ok(())
}

impl Store for LocalStore {
    fn location(&self) -> String {
        self.root.display().to_string()
    }

    fn calls_at_once(&self) -> usize {
        self.connections
    }

    fn create(&self) -> Result<(), StoreError> {
        let packs = self.root.join(ObjectKind::Pack.directory());
        let flat = [ObjectKind::Key, ObjectKind::Lock, ObjectKind::Snapshot, ObjectKind::Index]
            .map(|kind| self.root.join(kind.directory()));
        let numbered = (0..=255_u8).map(|number| packs.join(format!("{number:02x}")));
        for path in flat.into_iter().chain(std::iter::once(packs.clone())) {
            self.make_directory(&path).map_err(|error| failed("create", &path, &error))?;
        }
        // One sync for all of them.
        for path in numbered {
            match fs::DirBuilder::new().mode(self.modes().directory).create(&path) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed("create", &path, &error)),
                _ => {}
            }
        }
        sync_directory(&packs).map_err(|error| failed("create", &packs, &error))
    }

    fn put(&self, kind: ObjectKind, id: &Id, body: &[u8]) -> Result<(), StoreError> {
        let path = self.path(kind, id);
        let content_named = kind != ObjectKind::Config;
        if content_named {
            match fs::metadata(&path) {
                // The same name means the same bytes. A file of another size is broken: this one takes its place.
                Ok(metadata) if metadata.is_file() && metadata.len() == body.len() as u64 => return Ok(()),
                _ => {}
            }
        }
        self.write(&self.directory(kind, id), &path, body, content_named)
            .map_err(|error| failed("write", &path, &error))
    }

    fn get(&self, kind: ObjectKind, id: &Id, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        let path = self.path(kind, id);
        let read = || {
            let Some(range) = range else { return fs::read(&path) };
            let length = range.end.checked_sub(range.start).and_then(|length| usize::try_from(length).ok());
            let length = length.ok_or_else(|| io::Error::other(format!("{range:?} is not a range of bytes")))?;
            let mut bytes = vec![0; length];
            File::open(&path)?.read_exact_at(&mut bytes, range.start).map_err(|error| {
                if error.kind() == ErrorKind::UnexpectedEof {
                    io::Error::other(format!("the file ends before byte {}", range.end))
                } else {
                    error
                }
            })?;
            Ok(bytes)
        };
        read().map_err(|error| failed("read", &path, &error))
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<(Id, u64)>, StoreError> {
        let mut list = Vec::new();
        let directory = self.root.join(kind.directory());
        match kind {
            ObjectKind::Config => list.extend(self.size(kind, &Id::default())?.map(|size| (Id::default(), size))),
            ObjectKind::Pack => {
                for number in 0..=255_u8 {
                    list_directory(&directory.join(format!("{number:02x}")), &mut list)?;
                }
            }
            _ => list_directory(&directory, &mut list)?,
        }
        Ok(list)
    }

    fn size(&self, kind: ObjectKind, id: &Id) -> Result<Option<u64>, StoreError> {
        let path = self.path(kind, id);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => Ok(Some(metadata.len())),
            Ok(_) => Ok(None),
            Err(error) => match failed("look at", &path, &error) {
                StoreError { kind: StoreErrorKind::NotFound, .. } => Ok(None),
                error => Err(error),
            },
        }
    }

    fn delete(&self, kind: ObjectKind, id: &Id) -> Result<(), StoreError> {
        let path = self.path(kind, id);
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed("delete", &path, &error)),
        }
    }

    /// What is deleted together is gone for good together: each folder is made durable once, at the end.
    fn delete_all(&self, kind: ObjectKind, ids: &[Id]) -> Result<(), StoreError> {
        let mut touched = BTreeSet::new();
        let mut deleted = Ok(());
        for id in ids {
            deleted = self.delete(kind, id);
            if deleted.is_err() {
                break;
            }
            touched.insert(self.directory(kind, id));
        }
        for directory in touched {
            match sync_directory(&directory) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return deleted.and(Err(failed("delete in", &directory, &error)));
                }
                _ => {}
            }
        }
        deleted
    }
}

#[cfg(test)]
mod tests;
