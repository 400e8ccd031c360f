//! Whole files as objects: in a bucket of an S3 store, a container of Swift, or a folder.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use backstay_stores::StoreOptions;
use backstay_stores::named::{NamedError, NamedObjects, Watch};

use crate::control::{Control, Watched};
use crate::error::{About, Error, Result};
use crate::gzip::copy;
use crate::notices::notice;
use crate::output::Output;

pub use backstay_stores::Secret;
pub use backstay_stores::named::{Returning, S3Place, SwiftPlace};

/// How long a disturbed store is asked again. Backups run by night.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// A place for objects under names of their own.
#[derive(Debug)]
pub enum Objects {
    /// A bucket or a container.
    Remote {
        /// The way to it.
        objects: Box<NamedObjects>,
        /// The storage class of uploads that name none.
        class: Option<String>,
    },
    /// A folder: each object is a file in it.
    Folder(PathBuf),
}

impl Watch for Control {
    fn cancelled(&self) -> bool {
        self.is_cancelled()
    }

    fn moved(&self, bytes: u64) {
        self.advance(bytes);
    }
}

pub(crate) fn told(error: NamedError, path: &Path) -> Error {
    match error {
        NamedError::Store(error) => Error::Store(error),
        NamedError::File(error) => Error::file(path, error),
        NamedError::Interrupted => Error::Interrupted,
    }
}

fn plain(error: NamedError) -> Error {
    told(error, Path::new(""))
}

fn options(insecure: bool) -> StoreOptions {
    StoreOptions { retry_time: PATIENCE, insecure_tls: insecure, notice: Some(notice()), ..StoreOptions::default() }
}

impl Objects {
    /// A bucket of an S3 store.
    ///
    /// # Errors
    /// An address that cannot be.
    pub fn s3(place: &S3Place, class: Option<String>) -> Result<Self> {
        let objects = NamedObjects::s3(place, &options(false)).map_err(Error::other)?;
        Ok(Self::Remote { objects: Box::new(objects), class })
    }

    /// A container of Swift; logs in. With `insecure` any certificate will do.
    ///
    /// # Errors
    /// An address that cannot be; a login that fails.
    pub fn swift(place: &SwiftPlace, insecure: bool) -> Result<Self> {
        let objects = NamedObjects::swift(place, &options(insecure)).map_err(Error::other)?;
        Ok(Self::Remote { objects: Box::new(objects), class: None })
    }

    /// A folder, which need not be there yet.
    #[must_use]
    pub fn folder(path: &Path) -> Self {
        Self::Folder(path.to_owned())
    }

    /// Where it is, for people.
    #[must_use]
    pub fn location(&self) -> String {
        match self {
            Self::Remote { objects, .. } => objects.location().to_owned(),
            Self::Folder(folder) => folder.display().to_string(),
        }
    }

    /// The file of an object. A name that leads elsewhere is none.
    fn file(folder: &Path, name: &str) -> Result<PathBuf> {
        let parts = || name.split('/');
        let hidden = |part: &str| part.starts_with(".bakthat-");
        if name.is_empty() || name.contains('\0') || parts().any(|part| matches!(part, "" | "." | "..") || hidden(part))
        {
            return Err(Error::Other(format!("{name:?} cannot be the name of an object in a folder")));
        }
        Ok(folder.join(OsStr::new(name)))
    }

    /// Makes the bucket, the container or the folder where it is missing.
    ///
    /// # Errors
    /// The destination's.
    pub fn ensure(&self, control: &Control) -> Result<()> {
        match self {
            Self::Remote { objects, .. } => objects.ensure(control).map_err(plain),
            Self::Folder(folder) => std::fs::create_dir_all(folder).about(folder),
        }
    }

    /// Stores a file under a name, in the place of what is there; nothing of it is seen before it is whole.
    ///
    /// # Errors
    /// The destination's; the file's. [`Error::Interrupted`].
    pub fn upload(&self, name: &str, path: &Path, class: Option<&str>, control: &Control) -> Result<()> {
        control.begin("Uploading");
        match self {
            Self::Remote { objects, class: usual } => {
                control.expect(std::fs::metadata(path).about(path)?.len());
                objects.upload(name, path, class.or(usual.as_deref()), control).map_err(|error| told(error, path))
            }
            Self::Folder(folder) => {
                let mut input = crate::gzip::open(path, control)?;
                let out = Self::file(folder, name)?;
                if let Some(folder) = out.parent() {
                    std::fs::create_dir_all(folder).about(folder)?;
                }
                let mut output = Output::create(&out)?;
                copy(&mut input, path, &mut output, &out)?;
                output.sync()?;
                output.finish().map(drop)
            }
        }
    }

    /// Stores bytes under a name, in the place of what is there.
    ///
    /// # Errors
    /// The destination's.
    pub fn put(&self, name: &str, bytes: &[u8], control: &Control) -> Result<()> {
        match self {
            Self::Remote { objects, class } => {
                objects.put(name, bytes.to_vec(), class.as_deref(), control).map_err(plain)
            }
            Self::Folder(folder) => {
                let out = Self::file(folder, name)?;
                if let Some(folder) = out.parent() {
                    std::fs::create_dir_all(folder).about(folder)?;
                }
                let mut output = Output::create(&out)?;
                output.write_all(bytes).about(&out)?;
                output.sync()?;
                output.finish().map(drop)
            }
        }
    }

    /// An object's bytes, if there is one.
    ///
    /// # Errors
    /// The destination's.
    pub fn get(&self, name: &str, control: &Control) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        let there = self.read(name, &mut bytes, Path::new(""), control)?;
        Ok(there.then_some(bytes))
    }

    /// Writes an object to a file; false where there is none: then `out` stays as it is.
    ///
    /// # Errors
    /// The destination's, the file's; nothing is at `out` then. [`Error::Interrupted`].
    pub fn download(&self, name: &str, out: &Path, control: &Control) -> Result<bool> {
        control.begin("Downloading");
        let mut output = Output::create(out)?;
        if !self.read(name, &mut output, out, control)? {
            return Ok(false);
        }
        output.finish()?;
        Ok(true)
    }

    fn read(&self, name: &str, out: &mut (dyn Write + Send), path: &Path, control: &Control) -> Result<bool> {
        match self {
            Self::Remote { objects, .. } => {
                let mut length = |length| control.expect(length);
                objects.download(name, out, &mut length, control).map_err(|error| told(error, path))
            }
            Self::Folder(folder) => {
                let from = Self::file(folder, name)?;
                let file = match File::open(&from) {
                    Err(error) if is_missing(&error) => return Ok(false),
                    other => other.about(&from)?,
                };
                let metadata = file.metadata().about(&from)?;
                if metadata.is_dir() {
                    return Ok(false);
                }
                control.expect(metadata.len());
                copy(&mut Watched::new(file, control), &from, out, path)?;
                Ok(true)
            }
        }
    }

    /// An object's length in bytes, if there is one.
    ///
    /// # Errors
    /// The destination's.
    pub fn size(&self, name: &str, control: &Control) -> Result<Option<u64>> {
        match self {
            Self::Remote { objects, .. } => objects.size(name, control).map_err(plain),
            Self::Folder(folder) => {
                let path = Self::file(folder, name)?;
                match std::fs::metadata(&path) {
                    Err(error) if is_missing(&error) => Ok(None),
                    other => Ok(Some(other.about(&path)?).filter(std::fs::Metadata::is_file).map(|file| file.len())),
                }
            }
        }
    }

    /// When an object was stored, as HTTP writes dates, if there is one.
    ///
    /// # Errors
    /// The destination's.
    pub fn last_modified(&self, name: &str, control: &Control) -> Result<Option<String>> {
        match self {
            Self::Remote { objects, .. } => objects.last_modified(name, control).map_err(plain),
            Self::Folder(folder) => {
                let path = Self::file(folder, name)?;
                match std::fs::metadata(&path).and_then(|file| file.modified()) {
                    Err(error) if is_missing(&error) => Ok(None),
                    other => {
                        let time = jiff::Timestamp::try_from(other.about(&path)?).map_err(Error::other)?;
                        Ok(Some(time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()))
                    }
                }
            }
        }
    }

    /// Lets others read an object or not, by one of S3's own lists of rights (`private`, `public-read`).
    ///
    /// # Errors
    /// The destination's; it has no such lists.
    pub fn set_acl(&self, name: &str, acl: &str, control: &Control) -> Result<()> {
        match self {
            Self::Remote { objects, .. } => objects.set_acl(name, acl, control).map_err(plain),
            Self::Folder(_) => Err(Error::other("rights of an object are there for S3 only")),
        }
    }

    /// Removes an object; that there is none is fine.
    ///
    /// # Errors
    /// The destination's.
    pub fn delete(&self, name: &str, control: &Control) -> Result<()> {
        match self {
            Self::Remote { objects, .. } => objects.delete(name, control).map_err(plain),
            Self::Folder(folder) => {
                let path = Self::file(folder, name)?;
                match std::fs::remove_file(&path) {
                    Err(error) if is_missing(&error) => Ok(()),
                    other => other.about(&path),
                }
            }
        }
    }

    /// The names of all objects, in order.
    ///
    /// # Errors
    /// The destination's.
    pub fn list(&self, control: &Control) -> Result<Vec<String>> {
        match self {
            Self::Remote { objects, .. } => objects.list(control).map_err(plain),
            Self::Folder(folder) => {
                let mut names = Vec::new();
                let mut folders = vec![folder.clone()];
                while let Some(next) = folders.pop() {
                    let entries = match std::fs::read_dir(&next) {
                        Err(error) if is_missing(&error) => continue,
                        other => other.about(&next)?,
                    };
                    for entry in entries {
                        let entry = entry.about(&next)?;
                        let kind = entry.file_type().about(&next)?;
                        let path = entry.path();
                        if kind.is_dir() {
                            folders.push(path);
                        } else if !entry.file_name().as_bytes().starts_with(b".bakthat-") {
                            let name = path.strip_prefix(folder).unwrap_or(&path).to_owned();
                            names.push(String::from_utf8_lossy(&name.into_os_string().into_vec()).into_owned());
                        }
                    }
                }
                names.sort_unstable();
                Ok(names)
            }
        }
    }

    /// An address by which anybody may do one thing (`GET`, `HEAD`, `PUT`, `DELETE`) with an object, for so many seconds.
    ///
    /// # Errors
    /// The destination has no such addresses, or not for so long.
    pub fn presign(&self, name: &str, seconds: u64, method: &str) -> Result<String> {
        match self {
            Self::Remote { objects, .. } => objects.presign(name, seconds, method).map_err(plain),
            Self::Folder(_) => Err(Error::other("a folder has no addresses that others could use")),
        }
    }

    /// Asks for an object to come back from an archive class, and says how that is going.
    ///
    /// # Errors
    /// The destination's; it has no archive.
    pub fn restore_request(&self, name: &str, days: u32, control: &Control) -> Result<Returning> {
        match self {
            Self::Remote { objects, .. } => objects.restore_request(name, days, control).map_err(plain),
            Self::Folder(_) => Err(Error::other("a folder has no archive to ask anything back from")),
        }
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
