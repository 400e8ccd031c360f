//! The repository that the configuration names: its store, its password, its local copy of the index.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use backstay_core::told::chain;
use backstay_core::{Id, ObjectKind, Store};
use backstay_engine::job::state_directory;
use backstay_repository::IndexCache;
use backstay_repository::error::Error;
use backstay_repository::password as file;
use backstay_repository::repository::{InitOptions, OpenOptions, Repository};
use backstay_stores::StoreOptions;
use rustix::fs::{FlockOperation, flock};

use crate::config::{Cache, Config, Password};
use crate::{Failure, log};

/// How long a store that is down is tried, in all: gpbackup's own messages come after this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Where the objects lie, not opened yet.
pub struct Place {
    /// What the configuration says.
    pub config: Config,
    store: Arc<dyn Store>,
    password: Option<Vec<u8>>,
}

/// An error with its causes.
pub(crate) fn told(error: &dyn std::error::Error) -> Failure {
    Failure::new(chain(error))
}

impl Place {
    /// The store at the address of the configuration.
    ///
    /// # Errors
    /// It is no address, or the credentials do not fit.
    pub fn new(config: Config) -> Result<Self, Failure> {
        let options = StoreOptions {
            retry_time: PATIENCE,
            limit_upload: config.limit_upload,
            limit_download: config.limit_download,
            connections: config.connections,
            extended: config.store_options.clone(),
            notice: Some(Arc::new(|text: &str| log::warning(text))),
            ..StoreOptions::default()
        };
        let options = match &config.s3 {
            Some(s3) if config.is_beside => s3.dress(options),
            _ => options,
        };
        let store = backstay_stores::open(&config.repository, &options).map_err(|error| told(&error))?;
        Ok(Self { config, store, password: None })
    }

    /// With a password that is known already.
    pub(crate) fn with_password(mut self, password: Vec<u8>) -> Self {
        self.password = Some(password);
        self
    }

    /// Makes the repository if there is none, and checks the password.
    ///
    /// # Errors
    /// The store or the password.
    pub fn prepare(&self) -> Result<(), Failure> {
        self.open_or_make().map(drop)
    }

    /// Whether there is a repository.
    ///
    /// # Errors
    /// The store's.
    pub fn exists(&self) -> Result<bool, Failure> {
        let size = self.store.size(ObjectKind::Config, &Id::default()).map_err(|error| told(&Error::from(error)))?;
        Ok(size.is_some())
    }

    /// Opens the repository.
    ///
    /// # Errors
    /// There is none, the password is wrong, the store's.
    pub fn open(&self) -> Result<Arc<Repository>, Failure> {
        if !self.exists()? {
            return Err(Failure::Missing(chain(&Error::NoRepository { location: self.store.location() })));
        }
        let options = OpenOptions { cache: self.cache(), ..OpenOptions::default() };
        let password = self.password()?;
        let opened = Repository::open_with(Arc::clone(&self.store), &password, &options);
        opened.map(Arc::new).map_err(|error| told(&error))
    }

    /// Opens it, or makes it first. Of several processes that find none, one makes it and the others open that.
    ///
    /// # Errors
    /// As [`Place::open`].
    pub fn open_or_make(&self) -> Result<Arc<Repository>, Failure> {
        if self.exists()? {
            return self.open();
        }
        // Hundreds of processes of a host may be here at once.
        let _alone = Alone::begin("init");
        let made = Repository::init_where_missing(&self.store, &self.password()?, InitOptions::default(), &|| true);
        if made.map_err(|error| told(&error))? {
            log::info(&format!("made a repository at {}", self.store.location()));
        }
        self.open()
    }

    fn cache(&self) -> Option<IndexCache> {
        let folder = match &self.config.cache {
            Cache::Off => return None,
            Cache::Folder(folder) => folder.clone(),
            Cache::Usual => IndexCache::usual_folder()?,
        };
        Some(IndexCache::new(folder).telling(log::warning))
    }

    fn password(&self) -> Result<Vec<u8>, Failure> {
        self.password.clone().map_or_else(|| password(&self.config), Ok)
    }
}

/// The password that a configuration means.
///
/// # Errors
/// It names none, or one that cannot be had.
pub(crate) fn password(config: &Config) -> Result<Vec<u8>, Failure> {
    let password = match &config.password {
        Some(Password::Value(text)) => text.clone().into_bytes(),
        Some(Password::File(path)) => from_file(path)?,
        Some(Password::Command(text)) => from_command(text)?,
        Some(Password::Variable(name)) => variable(name)
            .ok_or_else(|| Failure::new(format!("the variable {name} (option password_env) is not set")))?,
        None => match (variable("BACKSTAY_PASSWORD"), variable("BACKSTAY_PASSWORD_FILE")) {
            (Some(text), _) => text,
            (None, Some(path)) => from_file(&PathBuf::from(String::from_utf8_lossy(&path).into_owned()))?,
            (None, None) => {
                return Err(Failure::new(
                    "no password: give one of the options password_file, password_command, password_env, password",
                ));
            }
        },
    };
    if password.is_empty() {
        return Err(Failure::new("the password is empty"));
    }
    Ok(password)
}

/// The right to do something that one process of a host does at a time. Two at once do each other no harm: one of them has
/// worked in vain. So an account that may write nowhere goes without.
pub(crate) struct Alone(#[allow(dead_code)] Option<File>);

impl Alone {
    /// Waits for it.
    pub(crate) fn begin(what: &str) -> Self {
        let folder = state_directory().join("gpbackup");
        let path = folder.join(format!("{what}.lock"));
        let lock = || -> std::io::Result<File> {
            std::fs::create_dir_all(&folder)?;
            let file = File::options().create(true).append(true).open(&path)?;
            flock(&file, FlockOperation::LockExclusive)?;
            Ok(file)
        };
        Self(lock().inspect_err(|error| log::warning(&format!("cannot use {}: {error}", path.display()))).ok())
    }
}

fn variable(name: &str) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt;
    std::env::var_os(name).map(OsStringExt::into_vec).filter(|text| !text.is_empty())
}

fn from_file(path: &Path) -> Result<Vec<u8>, Failure> {
    file::from_file(path).map_err(Failure::new)
}

/// Runs a command without a shell. Its text can hold a secret and is not repeated.
fn from_command(text: &str) -> Result<Vec<u8>, Failure> {
    let wrong = |reason: String| Failure::new(format!("the option password_command: {reason}"));
    let words = backstay_stores::words::split(text).map_err(|reason| wrong(reason.to_string()))?;
    let Some((program, arguments)) = words.split_first() else { return Err(wrong("it is empty".to_owned())) };
    // Standard input is the database's data.
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| wrong(format!("cannot run {program}: {error}")))?;
    if !output.status.success() {
        return Err(wrong(format!("{program} ended with {}", output.status)));
    }
    Ok(file::trimmed(&output.stdout))
}
