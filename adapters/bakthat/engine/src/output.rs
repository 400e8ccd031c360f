//! A file that is there whole or not at all: written beside its place, then renamed.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use tempfile::TempPath;

use crate::error::{About, Result};

/// A file on its way to its place. Dropped before [`Output::finish`] it leaves nothing.
#[derive(Debug)]
pub struct Output {
    file: File,
    path: PathBuf,
    /// None: it is no regular file (a pipe, a device) and is written in its place.
    aside: Option<TempPath>,
    written: u64,
}

impl Output {
    /// Begins to write what shall stand at `path`, in the place of what is there. A link there stays one: its target is
    /// replaced.
    ///
    /// # Errors
    /// The system's.
    pub fn create(path: &Path) -> Result<Self> {
        let place = match std::fs::canonicalize(path) {
            Ok(place) => place,
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
            Err(error) => return Err(error).about(path),
        };
        let there = std::fs::metadata(&place).ok();
        if let Some(there) = &there
            && !there.is_file()
        {
            let file = File::options().write(true).open(&place).about(path)?;
            return Ok(Self { file, path: path.to_owned(), aside: None, written: 0 });
        }
        let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mode = there.map_or(0o666, |there| there.permissions().mode() & 0o7777);
        let aside = tempfile::Builder::new()
            .prefix(".bakthat-")
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(folder)
            .about(path)?;
        let (file, aside) = aside.into_parts();
        Ok(Self { file, path: place, aside: Some(aside), written: 0 })
    }

    /// Where it will stand.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What tells the file from every other: its device and its inode.
    pub(crate) fn identity(&self) -> Option<(u64, u64)> {
        rustix::fs::fstat(&self.file).ok().map(|stat| crate::walk::identity(&stat))
    }

    /// Waits until what was written would outlive a loss of power.
    ///
    /// # Errors
    /// The system's.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().about(&self.path)
    }

    /// Puts the whole file in its place and gives its length in bytes.
    ///
    /// # Errors
    /// The system's; then nothing is there.
    pub fn finish(self) -> Result<u64> {
        if let Some(aside) = self.aside {
            drop(self.file);
            aside.persist(&self.path).map_err(|error| error.error).about(&self.path)?;
        }
        Ok(self.written)
    }
}

/// Puts bytes in the place of a file at once, readable by its owner only. A link there stays one: its target is replaced.
///
/// # Errors
/// The system's; then what was there is there still.
pub fn replace_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let place = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut aside =
        tempfile::Builder::new().prefix(".bakthat-").tempfile_in(folder).map_err(refused_in(folder)).about(path)?;
    aside.write_all(bytes).about(path)?;
    aside.as_file().sync_all().about(path)?;
    aside.persist(&place).map(drop).map_err(|error| error.error).about(path)
}

/// Why there can be no temporary file in a folder: the system's own error where it tells, which does not name that file.
pub(crate) fn refused_in(folder: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |error| match access(folder, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => error,
        Err(number) => number.into(),
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finished_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        std::fs::write(&path, "old").unwrap();
        let mut output = Output::create(&path).unwrap();
        output.write_all(b"half").unwrap();
        drop(output);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_private_file_is_the_owners_and_a_link_to_it_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("file"), folder.path().join("link"));
        std::fs::write(&path, "old").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        replace_private(&link, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn what_is_finished_takes_the_place_and_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let mut output = Output::create(&path).unwrap();
        output.write_all(b"whole").unwrap();
        assert_eq!(output.finish().unwrap(), 5);
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
    }
}
