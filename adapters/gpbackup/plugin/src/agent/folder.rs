//! Where agents are found: a folder that only its owner may enter, and in it a name for each host and configuration.
//!
//! The name is a digest over everything that decides what an agent may do: the options, the password, the variables that hold
//! credentials, the version. So whoever has other credentials has another agent. Socket names can be read by everybody
//! (`/proc/net/unix`), so a secret number of the folder goes into the digest: nobody can try passwords on it.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use backstay_core::Id;
use backstay_engine::job::state_directory;
use backstay_repository::lock::host_name;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use serde::Serialize;

use crate::config::{Agent, Config};
use crate::place::password;
use crate::{Failure, log};

/// Variables of the environment from which stores take credentials and addresses: by how their names begin, and by name.
const PREFIXES: &[&str] =
    &["AWS_", "AZURE_", "GOOGLE_", "OS_", "ST_", "SWIFT_", "B2_", "WEBDAV_", "RESTIC_REST_", "BACKSTAY_REST_"];
const NAMES: &[&str] = &[
    "BACKSTAY_CACHE_DIR",
    "RESTIC_CACERT",
    "HOME",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_STATE_HOME",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "SSH_AUTH_SOCK",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
];
/// Those that an agent needs and that do not make it another one.
const INHERITED: &[&str] = &["PATH", "LANG", "LC_ALL", "TZ", "USER", "LOGNAME", "RUST_BACKTRACE"];
/// What an agent has left behind goes after this time.
const UNUSED: Duration = Duration::from_secs(7 * 24 * 3600);

/// The place of one agent.
#[derive(Debug)]
pub(crate) struct Seat {
    folder: PathBuf,
    handle: OwnedFd,
    name: String,
}

/// Everything that makes one agent differ from another.
#[derive(Serialize)]
struct Identity<'a> {
    salt: [u8; 32],
    config: &'a Config,
    password: &'a [u8],
    variables: Vec<(String, Vec<u8>)>,
    user: u32,
    version: &'a str,
}

impl Seat {
    /// The place of a configuration's agent, and the password that belongs to it. The folder is made where there is none.
    ///
    /// # Errors
    /// The password cannot be had; the folder cannot be used, or others may enter it.
    pub(crate) fn of(config: &Config) -> Result<(Self, Vec<u8>), Failure> {
        let folder = config.agent_folder();
        let handle = enter(&folder)?;
        let password = password(config)?;
        let identity = Identity {
            salt: salt(&folder)?,
            config,
            password: &password,
            variables: variables().filter(|(name, _)| is_credential(name)).collect(),
            user: rustix::process::geteuid().as_raw(),
            version: concat!(env!("CARGO_PKG_VERSION"), " conversation 2"),
        };
        let bytes = postcard::to_stdvec(&identity).map_err(|error| Failure::new(error.to_string()))?;
        let digest = Id::of(&bytes).to_string();
        // A home folder may be shared between hosts.
        let host: String = host_name().chars().filter(char::is_ascii_alphanumeric).take(24).collect();
        Ok((Self { folder, handle, name: format!("{host}-{}", &digest[..24]) }, password))
    }

    /// The places of all agents that left a socket in a folder.
    ///
    /// # Errors
    /// As [`Seat::named`]. A folder that is not there holds none.
    pub(crate) fn all(folder: &Path) -> Result<Vec<Self>, Failure> {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Failure::new(format!("the agents' folder {}: {error}", folder.display()))),
        };
        let names = entries.flatten().filter_map(|entry| {
            entry.file_name().to_str().and_then(|name| name.strip_suffix(".socket")).map(str::to_owned)
        });
        let mut names: Vec<String> = names.collect();
        names.sort();
        names.into_iter().map(|name| Self::named(folder.to_owned(), name)).collect()
    }

    /// The place with this name, for the agent itself.
    ///
    /// # Errors
    /// The folder cannot be used, or others may enter it.
    pub(crate) fn named(folder: PathBuf, name: String) -> Result<Self, Failure> {
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(Failure::new(format!("{name:?} is no agent's name")));
        }
        let handle = enter(&folder)?;
        Ok(Self { folder, handle, name })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A path of the socket that is short enough for an address, whatever the folder's is.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path("socket")
    }

    /// Where the agent makes its socket, before it has its name.
    pub(crate) fn new_socket(&self) -> PathBuf {
        self.path("new")
    }

    fn path(&self, kind: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{}.{kind}", self.handle.as_raw_fd(), self.name))
    }

    /// The agent itself is the one who holds this; none: another one does.
    ///
    /// # Errors
    /// The file cannot be made.
    pub(crate) fn take(&self) -> Result<Option<File>, Failure> {
        self.lock("alive")
    }

    /// Whoever holds this starts the agent; none: somebody does already.
    ///
    /// # Errors
    /// The file cannot be made.
    pub(crate) fn begin_start(&self) -> Result<Option<File>, Failure> {
        self.lock("start")
    }

    fn lock(&self, kind: &str) -> Result<Option<File>, Failure> {
        let wrong = |error: &dyn std::fmt::Display| {
            Failure::new(format!("cannot use {}/{}.{kind}: {error}", self.folder.display(), self.name))
        };
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(self.path(kind));
        let file = file.map_err(|error| wrong(&error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(wrong(&error)),
        }
    }

    /// Removes what agents of other configurations have left behind that nobody has used for a week.
    pub(crate) fn sweep(&self) {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            let changed = entry.metadata().and_then(|metadata| metadata.modified());
            let age = changed.ok().and_then(|time| SystemTime::now().duration_since(time).ok());
            let own = path.file_stem().is_some_and(|name| name == self.name.as_str());
            if own || age.is_none_or(|age| age < UNUSED) || path.extension().is_none_or(|kind| kind != "alive") {
                continue;
            }
            let Ok(file) = File::open(&path) else { continue };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                for kind in ["socket", "start", "alive"] {
                    // What is gone is gone.
                    let _ = std::fs::remove_file(path.with_extension(kind));
                }
            }
        }
    }
}

/// The folder of agents where a configuration names none.
#[must_use]
pub fn usual_folder() -> PathBuf {
    state_directory().join("agents")
}

impl Config {
    /// The folder of its agent.
    #[must_use]
    pub fn agent_folder(&self) -> PathBuf {
        match &self.agent {
            Agent::Folder(folder) => folder.clone(),
            Agent::On | Agent::Off => usual_folder(),
        }
    }
}

fn variables() -> impl Iterator<Item = (String, Vec<u8>)> {
    let mut all: Vec<(String, Vec<u8>)> =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_vec()))).collect();
    all.sort();
    all.into_iter()
}

/// Passwords of repositories are none of them: what was found for one is in the digest as it is.
fn is_credential(name: &str) -> bool {
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The environment that an agent is started with: what makes it this one, and what any program needs.
pub(crate) fn environment() -> impl Iterator<Item = (String, OsString)> {
    variables()
        .filter(|(name, _)| is_credential(name) || INHERITED.contains(&name.as_str()))
        .map(|(name, value)| (name, OsString::from_vec(value)))
}

/// Opens the folder, and makes sure that nobody else may enter it.
fn enter(folder: &Path) -> Result<OwnedFd, Failure> {
    let wrong =
        |reason: &dyn std::fmt::Display| Failure::new(format!("the agent's folder {}: {reason}", folder.display()));
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| wrong(&error))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::open(folder, flags, Mode::empty()).map_err(|error| wrong(&error))?;
    let stat = rustix::fs::fstat(&handle).map_err(|error| wrong(&error))?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(wrong(&"it belongs to somebody else"));
    }
    if stat.st_mode & 0o077 != 0 {
        return Err(wrong(&"others may enter it (its mode must be 0700)"));
    }
    Ok(handle)
}

/// The folder's secret number; made once, and then the same for everybody.
fn salt(folder: &Path) -> Result<[u8; 32], Failure> {
    let path = folder.join("salt");
    let wrong = |error: &dyn std::fmt::Display| Failure::new(format!("cannot use {}: {error}", path.display()));
    let read = || -> std::io::Result<[u8; 32]> {
        let mut salt = [0; 32];
        File::open(&path)?.read_exact(&mut salt)?;
        Ok(salt)
    };
    match read() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        result => return result.map_err(|error| wrong(&error)),
    }
    let mut fresh = [0; 32];
    getrandom::fill(&mut fresh).map_err(|error| wrong(&error))?;
    let unfinished = folder.join(format!("salt.{}", std::process::id()));
    let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished);
    let linked = made
        .and_then(|mut file| file.write_all(&fresh).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::hard_link(&unfinished, &path));
    if let Err(error) = std::fs::remove_file(&unfinished) {
        log::warning(&format!("{}: {error}", unfinished.display()));
    }
    match linked {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(wrong(&error)),
        // Where somebody else was first, his counts.
        _ => read().map_err(|error| wrong(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stores_take_from_the_environment_reaches_the_agent_and_passwords_do_not() {
        for name in [
            "AWS_SESSION_TOKEN",
            "AZURE_ACCOUNT_KEY",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "OS_AUTH_URL",
            "ST_KEY",
            "WEBDAV_PASSWORD",
            "RESTIC_REST_PASSWORD",
            "BACKSTAY_REST_PASSWORD",
            "HOME",
            "https_proxy",
        ] {
            assert!(is_credential(name), "{name}");
        }
        for name in ["BACKSTAY_PASSWORD", "BACKSTAY_PASSWORD_FILE", "PGPASSWORD", "PATH", "LD_PRELOAD"] {
            assert!(!is_credential(name), "{name}");
        }
    }
}
