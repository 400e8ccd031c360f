//! Any storage plugin of gpbackup as the place of a repository: `-r gpbackup:CONFIG.yaml`.
//!
//! The contract of these plugins (reference 13) has streams in and out under a timestamp and a name, and the deletion of a whole
//! timestamp. It has no list, no look-up (a missing object costs the S3 plugin most of a minute), no ranges, and no deletion of one
//! object. So this crate keeps what it needs itself:
//!
//! * [`journal`](mod@journal), a file of this host, knows every object: its timestamp, name, size and checksum. [`record`] and [`state`] are its
//!   lines and what they say together. [`copies`] keeps copies of it behind the plugin, under names that can be computed
//!   ([`numbers`]), and makes it anew from them.
//! * A timestamp is a *generation*: a few objects of one kind that one process stores. It is never written to again, so its number is
//!   never used again either; not even after a failure, for then there can be a dead object under the key. What is deleted
//!   is garbage of its generation. When nothing, or no more than a quarter, of a generation is wanted, the rest is written into
//!   another one, a copy of the journal is stored, and the timestamp is deleted. Kinds that come and go at different times never share one.
//! * Locks are files of this host. Only one host may write to such a place, because nobody else sees its journal; its processes
//!   see each other's locks, and share the journal.
//! * [`driver`] runs the plugin; [`cache`] keeps objects of which ranges are wanted.
//!
//! What orders everything: an object is stored before the journal knows it; the journal knows of a deletion before a copy says
//! so; the copy is stored before the timestamp goes. Killed anywhere, at worst something lies behind the plugin that nobody needs.

pub mod cache;
pub mod copies;
pub mod driver;
pub mod journal;
pub mod numbers;
pub mod record;
pub mod state;
mod store;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backstay_core::Store;
use backstay_gpbackup_host::UserConfig;
use backstay_stores::{LocalStore, Notice, OpenError, Settings, StoreOptions};
use sha2::{Digest, Sha256};

use crate::driver::Driver;
use crate::journal::Journal;
use crate::numbers::{Class, Generation, Series};
use crate::state::PIECES;
use crate::store::PluginStore;

/// Room for objects of which ranges are read, in MiB.
const CACHE: u64 = 1024;
/// How long a plugin may move nothing, in seconds.
const PATIENCE: u64 = 600;

/// Opens the repository's place behind the plugin that a configuration names. The journal is kept in `state`, in a folder of
/// its own for each configuration file.
///
/// # Errors
/// [`OpenError`]: the configuration or an option is wrong, the state folder cannot be used, the journal cannot be rebuilt.
pub fn open(config: &Path, options: &StoreOptions, state: &Path) -> Result<Arc<dyn Store>, OpenError> {
    let service = |text: String| OpenError::Service(text);
    let mut settings = Settings::gather("gpbackup", &[], options)?;
    let connections = settings.connections(options, 4)?;
    let number = |text: Option<String>, name: &str, usual: u64| match text.map(|text| text.parse()) {
        None => Ok(usual),
        Some(Ok(number)) if number > 0 => Ok(number),
        Some(_) => Err(OpenError::Option(format!("gpbackup.{name} is a number of 1 or more"))),
    };
    let cache = number(settings.text("cache"), "cache", CACHE)?.saturating_mul(1 << 20);
    let patience = Duration::from_secs(number(settings.text("patience"), "patience", PATIENCE)?);
    let folder = settings.text("state").map(PathBuf::from);
    let rebuild = settings.text("rebuild").map(|text| from(&text)).transpose()?;
    settings.finish()?;
    let path = std::fs::canonicalize(config)
        .map_err(|error| service(format!("configuration {}: {error}", config.display())))?;
    let user = UserConfig::read(&path).map_err(|failure| service(failure.to_string()))?;
    let folder = match folder {
        Some(folder) => std::path::absolute(folder).map_err(|error| service(error.to_string()))?,
        None => state.join("gpbackup-store").join(name_of(&path)),
    };
    let journal = Journal::open(&folder).map_err(|error| service(error.to_string()))?;
    let notice: Notice = options.notice.clone().unwrap_or_else(|| Arc::new(|_| {}));
    let driver = journal
        .alone(|| Driver::new(user, &folder, connections, patience, Arc::clone(&notice)))
        .map_err(|error| service(error.to_string()))?
        .map_err(|error| service(format!("cannot use the folder {}: {error}", folder.display())))?;
    if let Some((series, number)) = rebuild {
        if journal.read(|loaded| loaded.is_some()).map_err(|error| service(error.to_string()))? {
            return Err(service(format!(
                "there is a journal already, {}: it is rebuilt only when it is gone",
                journal.path().display()
            )));
        }
        let found = copies::rebuild(&driver, &journal, series, number).map_err(service)?;
        notice(&found);
    }
    let location = format!("gpbackup:{}", path.display());
    let locks = LocalStore::new(folder.join("own"));
    Ok(store::shared(PluginStore::new(location, journal, driver, locks, cache)))
}

/// What a journal is rebuilt from: the number of the repository, or the timestamp of a copy.
fn from(text: &str) -> Result<(Series, u32), OpenError> {
    let series = text.get(..7).and_then(Series::parse);
    let generation = text.get(7..).filter(|rest| !rest.is_empty()).map(Generation::parse);
    match (series, generation) {
        (Some(series), None) => Ok((series, 0)),
        (Some(series), Some(Some(Generation { class: Class::Journal, number }))) => {
            Ok((series, number / PIECES * PIECES))
        }
        _ => Err(OpenError::Option(
            "gpbackup.rebuild is the number that was shown when the repository was made, seven digits, or the timestamp of a copy of \
             its journal"
                .to_owned(),
        )),
    }
}

/// A folder's name for a configuration file.
fn name_of(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let sum: [u8; 32] = Sha256::digest(path.as_os_str().as_bytes()).into();
    backstay_core::Id(sum).to_hex()[..16].to_owned()
}
