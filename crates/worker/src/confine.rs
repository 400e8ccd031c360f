//! How a worker is confined: what memory it gets, which user it is, and a sandbox of Landlock and seccomp.
//!
//! The host says it in the worker's arguments ([`Confinement::arguments`]); the worker does it to itself
//! ([`Confinement::apply`]) while it is still our own code with one thread, before any foreign code is loaded. Everything
//! is inherited by whatever the worker starts, and nothing of it can be taken back.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetStatus, Scope, make_bitflags,
};
use rustix::fs::Access as May;
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, Gid, Uid};

use crate::user::PluginUser;

mod calls;

/// Address space beyond the memory limit: what is mapped and not the process's own data, such as libraries and files.
const MAPPED: u64 = 1 << 30;
/// Less than this does not even start an interpreter.
pub const LEAST_MEMORY: u64 = 64 << 20;
/// What every program needs to read, where a sandbox does not let it read everything.
const SYSTEM: [&str; 9] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/proc", "/sys"];
/// Devices that hold nothing and may be used by everybody.
const DEVICES: [&str; 6] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

/// What root can do in a sandbox beside owning its files. Much of the rest would open it: who may look at every process's
/// memory, for one, is not asked whether a sandbox lies between.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::IPC_LOCK);

/// What a worker may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confinement {
    /// Bytes of memory of its own that each of its processes may have.
    pub memory: Option<u64>,
    /// Who it is.
    pub user: Option<PluginUser>,
    /// Its sandbox.
    pub sandbox: Option<Sandbox>,
    /// Folders that it has to be able to read, with that user.
    pub must_read: Vec<PathBuf>,
    /// Folders that it has to be able to write.
    pub must_write: Vec<PathBuf>,
}

/// A sandbox. Without any of the parts: everything that its user may read is readable, nothing is writable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// No sockets but Unix ones.
    pub no_network: bool,
    /// Only the system's folders and [`Sandbox::read`] are readable.
    pub closed: bool,
    /// A kernel that cannot do all of it will do.
    pub partial: bool,
    /// Modes, owners, times and attributes of files may be changed: a restore has to. Landlock does not know these calls, so
    /// they are allowed everywhere or nowhere.
    pub metadata: bool,
    /// What is readable, and runnable, in a closed sandbox.
    pub read: Vec<PathBuf>,
    /// What is writable: files, or folders with everything below.
    pub write: Vec<PathBuf>,
}

/// Why a worker could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// A limit was refused.
    #[error("cannot limit the memory to {0} bytes: {1}")]
    Memory(u64, io::Error),
    /// The change of the user was refused.
    #[error("cannot become user {0}: {1}")]
    User(String, io::Error),
    /// A capability could not be given up.
    #[error("cannot give up the rights of root that plugins shall not have: {0}")]
    Capabilities(io::Error),
    /// A folder is closed to it.
    #[error("user {user} cannot {what} {path}: {error}; it and the folders above it have to be open to that user")]
    Closed {
        /// Who.
        user: String,
        /// "read" or "write to".
        what: &'static str,
        /// The folder.
        path: String,
        /// What the kernel says.
        error: io::Error,
    },
    /// A path that the sandbox shall allow is not there.
    #[error("the sandbox cannot allow {0}: {1}")]
    Path(String, String),
    /// No Landlock.
    #[error(
        "this kernel has no Landlock ({0}), which a sandbox needs: Linux 5.13 or newer with \"landlock\" among its lsm="
    )]
    NoLandlock(&'static str),
    /// An old Landlock.
    #[error("this kernel's Landlock (ABI {0}) cannot keep a plugin from {1}: --sandbox=partial takes what it can do")]
    Partial(i32, String),
    /// Landlock refused.
    #[error("the sandbox could not be built: {0}")]
    Landlock(String),
    /// Seccomp refused.
    #[error("the sandbox's system call filter could not be set: {0}")]
    Seccomp(String),
}

/// What an old Landlock leaves open.
fn missing(abi: i32) -> Vec<&'static str> {
    let mut missing = Vec::new();
    if abi < 5 {
        missing.push("control calls on devices that it can read");
    }
    if abi < 6 {
        missing.push("signals to other processes of its user");
        missing.push("abstract Unix sockets of other processes");
    }
    missing
}

impl Confinement {
    /// The arguments that tell a worker of it.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut add = |name: &str, value: &OsStr| arguments.extend([OsString::from(name), value.to_owned()]);
        if let Some(memory) = self.memory {
            add("--memory", memory.to_string().as_ref());
        }
        if let Some(user) = &self.user {
            add("--user", user.word().as_ref());
        }
        if let Some(sandbox) = &self.sandbox {
            let parts = [
                (sandbox.no_network, "no-network"),
                (sandbox.closed, "closed"),
                (sandbox.partial, "partial"),
                (sandbox.metadata, "metadata"),
            ];
            let parts: Vec<&str> = parts.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
            add("--sandbox", parts.join(",").as_ref());
            for path in &sandbox.read {
                add("--allow", path.as_ref());
            }
            for path in &sandbox.write {
                add("--allow-write", path.as_ref());
            }
        }
        for path in &self.must_read {
            add("--must-read", path.as_ref());
        }
        for path in &self.must_write {
            add("--must-write", path.as_ref());
        }
        arguments
    }

    /// Whether `name` is one of the arguments; then it is taken up with its `value`.
    ///
    /// # Errors
    /// One line for a value that cannot be.
    pub fn take(&mut self, name: &str, value: impl FnOnce() -> Option<OsString>) -> Result<bool, String> {
        if !["--memory", "--user", "--sandbox", "--allow", "--allow-write", "--must-read", "--must-write"]
            .contains(&name)
        {
            return Ok(false);
        }
        let value = value().ok_or_else(|| format!("{name} needs a value"))?;
        let text = value.to_string_lossy();
        let wrong = || format!("{name} cannot be {text}");
        match name {
            "--memory" => self.memory = Some(text.parse().map_err(|_| wrong())?),
            "--user" => self.user = Some(PluginUser::of_word(&text).ok_or_else(wrong)?),
            "--sandbox" => {
                let sandbox = self.sandbox.get_or_insert_default();
                for part in text.split(',').filter(|part| !part.is_empty()) {
                    match part {
                        "no-network" => sandbox.no_network = true,
                        "closed" => sandbox.closed = true,
                        "partial" => sandbox.partial = true,
                        "metadata" => sandbox.metadata = true,
                        _ => return Err(wrong()),
                    }
                }
            }
            "--allow" => self.sandbox.get_or_insert_default().read.push(value.into()),
            "--allow-write" => self.sandbox.get_or_insert_default().write.push(value.into()),
            "--must-read" => self.must_read.push(value.into()),
            _ => self.must_write.push(value.into()),
        }
        Ok(true)
    }

    /// Confines this process, which has one thread. What cannot be done as asked is an error, and then the process must not
    /// go on; what a partial sandbox leaves open comes back as texts.
    ///
    /// # Errors
    /// See [`ConfineError`].
    pub fn apply(&self) -> Result<Vec<&'static str>, ConfineError> {
        if let Some(memory) = self.memory {
            limit_memory(memory).map_err(|error| ConfineError::Memory(memory, error))?;
        }
        let kept = match (&self.sandbox, self.memory) {
            (Some(_), _) => KEPT,
            // Who has it can raise the limit again.
            (None, Some(_)) => CapabilitySet::all().difference(CapabilitySet::SYS_RESOURCE),
            (None, None) => CapabilitySet::all(),
        };
        give_up_all_but(kept).map_err(ConfineError::Capabilities)?;
        if let Some(user) = &self.user {
            become_user(user).map_err(|error| ConfineError::User(user.name.clone(), error))?;
        }
        self.look()?;
        match &self.sandbox {
            Some(sandbox) => sandbox.enter(),
            None => Ok(Vec::new()),
        }
    }

    /// Tells a folder that is closed to this user before a plugin meets it in some worse way.
    fn look(&self) -> Result<(), ConfineError> {
        let user = self.user.as_ref().map_or_else(|| rustix::process::geteuid().to_string(), |user| user.name.clone());
        let reading = self.must_read.iter().map(|path| (path, "read", May::READ_OK));
        let writing = self.must_write.iter().map(|path| (path, "write to", May::WRITE_OK | May::READ_OK));
        for (path, what, may) in reading.chain(writing) {
            if let Err(error) = rustix::fs::access(path, may | May::EXEC_OK) {
                let path = path.display().to_string();
                return Err(ConfineError::Closed { user, what, path, error: error.into() });
            }
        }
        Ok(())
    }
}

/// Memory that is a process's own, and address space, which also bounds shared memory and mapped files.
fn limit_memory(bytes: u64) -> io::Result<()> {
    for (resource, bytes) in [(Resource::Data, bytes), (Resource::As, bytes.saturating_add(MAPPED))] {
        let limit = rustix::process::getrlimit(resource).maximum.map_or(bytes, |most| most.min(bytes));
        rustix::process::setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?;
    }
    Ok(())
}

/// Gives up capabilities for good: programs that are started as root do not get them back.
fn give_up_all_but(kept: CapabilitySet) -> io::Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    if kept.contains(sets.permitted) {
        return Ok(());
    }
    if sets.effective.contains(CapabilitySet::SETPCAP) {
        let each = (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit));
        for gone in each.filter(|one| sets.permitted.contains(*one) && !kept.contains(*one)) {
            rustix::thread::remove_capability_from_bounding_set(gone)?;
        }
    }
    sets.effective &= kept;
    sets.permitted &= kept;
    sets.inheritable &= kept;
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Becomes the user for good: real, effective and saved, with exactly its groups.
fn become_user(user: &PluginUser) -> io::Result<()> {
    let groups: Vec<Gid> = user.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    // The change of the user took both away: dying with the host, and owning its own entries in /proc.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)?;
    Ok(())
}

impl Sandbox {
    fn enter(&self) -> Result<Vec<&'static str>, ConfineError> {
        let refused = |error: &dyn std::fmt::Display| ConfineError::Landlock(error.to_string());
        let mut rules = Ruleset::default()
            .handle_access(AccessFs::from_all(ABI::V5))
            .and_then(|rules| rules.scope(Scope::from_all(ABI::V6)))
            .and_then(Ruleset::create)
            .map_err(|error| refused(&error))?;
        let read = AccessFs::from_read(ABI::V5);
        // No device files: a plugin of root's could make one and write to the disk below everything.
        let write = make_bitflags!(AccessFs::{
            WriteFile | RemoveDir | RemoveFile | MakeDir | MakeReg | MakeSock | MakeFifo | MakeSym | Refer | Truncate
        });
        for device in DEVICES {
            rules = allow_if_there(rules, device, read | AccessFs::WriteFile | AccessFs::IoctlDev)?;
        }
        if self.closed {
            for folder in SYSTEM {
                rules = allow_if_there(rules, folder, read)?;
            }
            for path in &self.read {
                rules = allow(rules, path, read)?;
            }
        } else {
            rules = allow(rules, Path::new("/"), read)?;
        }
        for path in &self.write {
            rules = allow(rules, path, read | write)?;
        }
        let status = rules.restrict_self().map_err(|error| refused(&error))?;
        let abi = match status.landlock {
            LandlockStatus::Available { effective_abi, .. } => effective_abi as i32,
            LandlockStatus::NotEnabled => return Err(ConfineError::NoLandlock("it is switched off")),
            LandlockStatus::NotImplemented => return Err(ConfineError::NoLandlock("it is not built in")),
        };
        if status.ruleset == RulesetStatus::NotEnforced || !status.no_new_privs {
            return Err(ConfineError::Landlock("the kernel did not enforce it".to_owned()));
        }
        let missing = missing(abi);
        if !missing.is_empty() && !self.partial {
            return Err(ConfineError::Partial(abi, missing.join(", ")));
        }
        calls::refuse(self, abi).map_err(ConfineError::Seccomp)?;
        Ok(missing)
    }
}

fn allow_if_there(
    rules: RulesetCreated,
    path: &str,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, ConfineError> {
    if Path::new(path).exists() { allow(rules, Path::new(path), access) } else { Ok(rules) }
}

fn allow(rules: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> Result<RulesetCreated, ConfineError> {
    let refused = |error: &dyn std::fmt::Display| ConfineError::Path(path.display().to_string(), error.to_string());
    let place = PathFd::new(path).map_err(|error| match std::error::Error::source(&error) {
        Some(cause) => refused(&cause),
        None => refused(&error),
    })?;
    let stat = rustix::fs::fstat(place.as_fd()).map_err(|error| refused(&error))?;
    let folder = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
    let access = if folder { access } else { access & AccessFs::from_file(ABI::V5) };
    rules.add_rule(PathBeneath::new(place, access)).map_err(|error| refused(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confinement_survives_the_command_line() {
        let whole = Confinement {
            memory: Some(1 << 30),
            user: PluginUser::of_word("me:5:6:6,7"),
            sandbox: Some(Sandbox {
                no_network: true,
                closed: true,
                partial: true,
                metadata: true,
                read: vec!["/a b".into(), "/c".into()],
                write: vec!["/d".into()],
            }),
            must_read: vec!["/e".into()],
            must_write: vec!["/f".into(), "/g".into()],
        };
        let bare = Confinement { sandbox: Some(Sandbox::default()), ..Confinement::default() };
        for confinement in [whole, bare, Confinement::default()] {
            let mut arguments = confinement.arguments().into_iter();
            let mut read = Confinement::default();
            while let Some(name) = arguments.next() {
                assert_eq!(read.take(name.to_str().unwrap(), || arguments.next()), Ok(true));
            }
            assert_eq!(read, confinement);
        }
    }

    #[test]
    fn what_is_no_confinement_is_refused() {
        let mut read = Confinement::default();
        assert_eq!(read.take("--other", || None), Ok(false));
        assert_eq!(read.take("--memory", || None), Err("--memory needs a value".to_owned()));
        for (name, value) in [("--memory", "much"), ("--user", "me"), ("--sandbox", "closed,open")] {
            assert_eq!(read.take(name, || Some(value.into())), Err(format!("{name} cannot be {value}")));
        }
    }

    #[test]
    fn an_old_kernel_is_told_by_what_it_leaves_open() {
        assert_eq!(missing(1).len(), 3);
        assert_eq!(missing(5).len(), 2);
        assert!(missing(6).is_empty());
        let said = ConfineError::Partial(5, missing(5).join(", ")).to_string();
        assert!(said.contains("ABI 5") && said.contains("signals") && said.contains("--sandbox=partial"), "{said}");
    }
}
