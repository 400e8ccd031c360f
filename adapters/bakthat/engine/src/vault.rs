//! A vault of Amazon's Glacier: archives, and the jobs that bring them back.

use std::path::Path;

use backstay_core::StoreErrorKind;
use backstay_stores::StoreOptions;
use backstay_stores::named::{self, NamedError};

use crate::control::Control;
use crate::error::{Error, Result};
use crate::notices::notice;
use crate::objects::{PATIENCE, told};
use crate::output::Output;

pub use backstay_stores::named::{Job, VaultPlace, Wanted};

/// A vault.
#[derive(Debug)]
pub struct Vault(named::Vault);

fn plain(error: NamedError) -> Error {
    about(error, Path::new(""))
}

fn about(error: NamedError, path: &Path) -> Error {
    match error {
        NamedError::Store(error) if error.kind == StoreErrorKind::NotFound => Error::Missing(error.to_string()),
        other => told(other, path),
    }
}

impl Vault {
    /// Opens a vault; it is made where it is missing.
    ///
    /// # Errors
    /// An address that cannot be; the service's.
    pub fn open(place: &VaultPlace, control: &Control) -> Result<Self> {
        let options = StoreOptions { retry_time: PATIENCE, notice: Some(notice()), ..StoreOptions::default() };
        let vault = named::Vault::new(place, &options).map_err(Error::other)?;
        vault.ensure(control).map_err(plain)?;
        Ok(Self(vault))
    }

    /// Where it is, for people.
    #[must_use]
    pub fn location(&self) -> &str {
        self.0.location()
    }

    /// Stores a file and gives the archive's id; in parts of `part` bytes, or more where there would be too many.
    ///
    /// # Errors
    /// The service's, the file's. [`Error::Interrupted`].
    pub fn upload(&self, path: &Path, description: &str, part: u64, control: &Control) -> Result<String> {
        self.0.upload(path, description, part, control).map_err(|error| about(error, path))
    }

    /// Removes an archive.
    ///
    /// # Errors
    /// The service's; [`Error::Missing`].
    pub fn delete(&self, archive: &str, control: &Control) -> Result<()> {
        self.0.delete(archive, control).map_err(plain)
    }

    /// Asks for an archive or for the inventory, and says how that is going.
    ///
    /// # Errors
    /// The service's; [`Error::Missing`].
    pub fn start_job(&self, wanted: Wanted<'_>, control: &Control) -> Result<Job> {
        let id = self.0.start_job(wanted, control).map_err(plain)?;
        self.job(&id, control)
    }

    /// How a job is going.
    ///
    /// # Errors
    /// The service's; [`Error::Missing`] for a job that it has forgotten.
    pub fn job(&self, id: &str, control: &Control) -> Result<Job> {
        self.0.job(id, control).map_err(plain)
    }

    /// All jobs that the service knows.
    ///
    /// # Errors
    /// The service's.
    pub fn jobs(&self, control: &Control) -> Result<Vec<Job>> {
        self.0.jobs(control).map_err(plain)
    }

    /// What a job found: these bytes of it, from the first to the last, or all.
    ///
    /// # Errors
    /// The service's; the job is not done yet.
    pub fn output(&self, id: &str, range: Option<(u64, u64)>, control: &Control) -> Result<Vec<u8>> {
        self.0.output(id, range, control).map_err(plain)
    }

    /// Writes the archive that a job brought to a file, checked against its tree hash.
    ///
    /// # Errors
    /// The service's, the file's; what came is damaged; nothing is at `out` then. [`Error::Interrupted`].
    pub fn download(&self, job: &Job, out: &Path, control: &Control) -> Result<()> {
        control.expect(job.archive_size.unwrap_or(0));
        let mut output = Output::create(out)?;
        self.0.download(job, &mut output, control).map_err(|error| about(error, out))?;
        output.finish().map(drop)
    }
}
