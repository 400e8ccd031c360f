//! What every command that works on a repository starts with: its place, its password, its lock.

use std::sync::Arc;

use backstay_core::{Id, ObjectKind, Store};
use backstay_repository::error::Error;
use backstay_repository::repository::{OpenOptions, Repository};

use crate::args::GlobalOptions;
use crate::cache::index_cache;
use crate::failure::{Failure, chain};
use crate::output::Output;
use crate::{location, password, signals};

/// The global options and where the words go.
#[derive(Debug)]
pub struct Session {
    /// The options of every command.
    pub global: GlobalOptions,
    /// Where the words go.
    pub output: Arc<Output>,
}

impl Session {
    /// A session with these options.
    #[must_use]
    pub fn new(global: GlobalOptions, output: Output) -> Self {
        Self { global, output: Arc::new(output) }
    }

    /// The store of the repository that the options or the environment name.
    ///
    /// # Errors
    /// [`Failure::Fatal`] when none is named, or what is named is no address of a store.
    pub fn store(&self) -> Result<Arc<dyn Store>, Failure> {
        self.store_at(&location::address(&self.global)?)
    }

    /// The store at this address. When it makes us wait, the user is told.
    ///
    /// # Errors
    /// [`Failure::Fatal`] when this is no address of a store.
    pub fn store_at(&self, address: &str) -> Result<Arc<dyn Store>, Failure> {
        let output = Arc::clone(&self.output);
        location::store(address, &self.global, Arc::new(move |text| output.warning(text)))
    }

    /// Opens the repository. That there is one at all is looked at before the password is asked for.
    ///
    /// # Errors
    /// No repository, wrong password, or anything else that keeps it closed.
    pub fn open(&self) -> Result<Arc<Repository>, Failure> {
        let store = self.store()?;
        if store.size(ObjectKind::Config, &Id::default()).map_err(Error::from)?.is_none() {
            return Err(Error::NoRepository { location: store.location() }.into());
        }
        let password = password::password(&self.global, false)?;
        let key_hint = self.key_hint()?;
        let cache = index_cache(&self.global, &self.output);
        let options = OpenOptions { key_hint, cache, ..OpenOptions::default() };
        Ok(Arc::new(Repository::open_with(store, password.bytes(), &options)?))
    }

    /// Opens the repository for a command that only reads, with a shared lock unless `--no-lock` was given.
    ///
    /// # Errors
    /// As [`Session::open`], and [`Failure::Locked`].
    pub fn open_to_read(&self) -> Result<Arc<Repository>, Failure> {
        self.open_and_lock(false)
    }

    /// The same with an exclusive lock.
    ///
    /// # Errors
    /// As [`Session::open_to_read`].
    pub fn open_alone(&self) -> Result<Arc<Repository>, Failure> {
        self.open_and_lock(true)
    }

    fn key_hint(&self) -> Result<Option<String>, Failure> {
        if self.global.key_hint.is_some() {
            return Ok(self.global.key_hint.clone());
        }
        let ours = location::variable("BACKSTAY_KEY_HINT")?;
        if ours.is_some() { Ok(ours) } else { location::variable("RESTIC_KEY_HINT") }
    }

    fn open_and_lock(&self, exclusive: bool) -> Result<Arc<Repository>, Failure> {
        let repository = self.open()?;
        if !self.global.no_lock {
            signals::keep(repository.lock(exclusive, self.global.retry_lock)?);
        }
        Ok(repository)
    }

    /// Refuses `--no-lock` for a command that writes.
    ///
    /// # Errors
    /// [`Failure::Fatal`] when it was given.
    pub fn needs_lock(&self, command: &str) -> Result<(), Failure> {
        if self.global.no_lock {
            return Err(Failure::fatal(format!(
                "{command} writes into the repository: --no-lock is for commands that only read"
            )));
        }
        Ok(())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match &error {
            Error::NoRepository { .. } => Self::NoRepository(chain(&error)),
            Error::WrongPassword => Self::WrongPassword(chain(&error)),
            Error::Locked(_) | Error::NotCommitted(_) => Self::Locked(chain(&error)),
            _ => Self::Fatal(chain(&error)),
        }
    }
}
