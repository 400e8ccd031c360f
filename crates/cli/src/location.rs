//! Which repository is meant: the option, else the environment, else nothing; and the store there.

use std::path::Path;
use std::sync::Arc;

use backstay_core::Store;
use backstay_engine::job::state_directory;
use backstay_stores::{Notice, StoreOptions};

use crate::args::GlobalOptions;
use crate::failure::{Failure, chain};
use crate::signals;

/// A variable of the environment as text; one that is empty counts as not set.
///
/// # Errors
/// [`Failure::Fatal`] when it is set to something that is not UTF-8; its value is not repeated.
pub fn variable(name: &str) -> Result<Option<String>, Failure> {
    match std::env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(Failure::fatal(format!("{name} is not valid UTF-8"))),
    }
}

/// The address of the repository that the options or the environment name. It can hold a password: it is not for messages.
///
/// # Errors
/// [`Failure::Fatal`] when none is named.
pub fn address(options: &GlobalOptions) -> Result<String, Failure> {
    name(options)?.ok_or_else(|| {
        Failure::fatal(
            "which repository? Name its folder or address with --repo or in the variable BACKSTAY_REPOSITORY",
        )
    })
}

/// The store at this address, as the options want it. `notice` hears when the store makes us wait.
///
/// # Errors
/// [`Failure::Fatal`] when this is no address, or an option or the credentials do not fit; the address is not repeated.
pub fn store(address: &str, options: &GlobalOptions, notice: Notice) -> Result<Arc<dyn Store>, Failure> {
    let store = &options.store;
    let options = StoreOptions {
        retry_time: store.retry_time,
        limit_upload: store.limit_upload.map(|kib| kib.saturating_mul(1024)),
        limit_download: store.limit_download.map(|kib| kib.saturating_mul(1024)),
        connections: store.connections,
        append_only: store.append_only,
        certificates: store.cacert.clone(),
        client_certificate: store.tls_client_cert.clone(),
        insecure_tls: store.insecure_tls,
        extended: store.option.clone(),
        notice: Some(notice),
        cancelled: Some(Arc::new(signals::interrupted)),
        gpbackup: Some(Arc::new(|config, options| backstay_gpbackup_store::open(config, options, &state_directory()))),
        ..StoreOptions::default()
    };
    backstay_stores::open(address, &options).map_err(|error| Failure::Fatal(chain(&error)))
}

fn name(options: &GlobalOptions) -> Result<Option<String>, Failure> {
    if let Some(path) = &options.repo {
        return Ok(Some(path.clone()));
    }
    if let Some(file) = &options.repository_file {
        return from_file(file).map(Some);
    }
    for family in ["BACKSTAY", "RESTIC"] {
        if let Some(path) = variable(&format!("{family}_REPOSITORY"))? {
            return Ok(Some(path));
        }
        if let Some(file) = variable(&format!("{family}_REPOSITORY_FILE"))? {
            return from_file(Path::new(&file)).map(Some);
        }
    }
    Ok(None)
}

/// The address of the repository to copy from: the option, else `BACKSTAY_FROM_*`, else `RESTIC_FROM_*`.
///
/// # Errors
/// [`Failure::Fatal`] when none is named.
pub fn from_address(repo: Option<&str>, file: Option<&Path>) -> Result<String, Failure> {
    if let Some(repo) = repo {
        return Ok(repo.to_owned());
    }
    if let Some(file) = file {
        return from_file(file);
    }
    for family in ["BACKSTAY", "RESTIC"] {
        if let Some(repo) = variable(&format!("{family}_FROM_REPOSITORY"))? {
            return Ok(repo);
        }
        if let Some(file) = variable(&format!("{family}_FROM_REPOSITORY_FILE"))? {
            return from_file(Path::new(&file));
        }
    }
    Err(Failure::fatal(
        "which repository to copy from? Name it with --from-repo or in the variable BACKSTAY_FROM_REPOSITORY",
    ))
}

fn from_file(file: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::fatal(format!("cannot read the repository file {}: {error}", file.display())))?;
    let text = text.trim();
    if text.is_empty() {
        return Err(Failure::fatal(format!("the repository file {} is empty", file.display())));
    }
    Ok(text.to_owned())
}
