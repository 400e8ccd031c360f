//! What plugins may do: the options, and what they come to for one worker: folders that are ready for it, arguments,
//! environment.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use backstay_bareos_protocol::Task;
use backstay_core::Fatal;
use backstay_worker::{Confinement, PluginUser, Sandbox};
use tempfile::TempDir;

use crate::definition::Module;
use crate::modules;
use crate::options::BareosOptions;

/// How plugins are confined.
#[derive(Clone, Debug, Default)]
pub struct ConfineOptions {
    /// Bytes of memory of its own that each process of a plugin may have.
    pub memory: Option<u64>,
    /// How long a plugin's whole job may take.
    pub time_limit: Option<Duration>,
    /// Who it runs as.
    pub user: Option<PluginUser>,
    /// Its sandbox.
    pub sandbox: Option<SandboxOptions>,
}

/// A sandbox: nothing is writable but the working folder, a temporary folder of its own and, in a restore, the target.
#[derive(Clone, Debug, Default)]
pub struct SandboxOptions {
    /// No sockets but Unix ones.
    pub no_network: bool,
    /// Nothing is readable but the system's folders, the interpreter's, the plugin's own, and `allow`.
    pub closed: bool,
    /// A kernel that cannot do all of it will do.
    pub partial: bool,
    /// Readable too, where it is closed.
    pub allow: Vec<PathBuf>,
    /// Writable too.
    pub allow_write: Vec<PathBuf>,
}

/// What a confined worker is started with. Its temporary folder goes when this is dropped: after the worker.
#[derive(Debug, Default)]
pub(crate) struct Room {
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(&'static str, OsString)>,
    temporary: Option<TempDir>,
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(folder) = self.temporary.take() {
            // A plugin may have made what only root can remove; nobody is left to tell.
            let _ = folder.close();
        }
    }
}

/// Makes the folders that a confined worker needs, with the right owner, and says how to start it.
pub(crate) fn prepare(options: &BareosOptions, task: Task, definitions: &[String]) -> Result<Room, Fatal> {
    let modules = definitions.iter().filter_map(|text| Module::of(text).ok()?.path).map(Into::into);
    prepare_for(options, task, modules.collect())
}

/// The same for plugins whose modules are in these folders.
pub(crate) fn prepare_for(options: &BareosOptions, task: Task, mut readable: Vec<PathBuf>) -> Result<Room, Fatal> {
    let confine = &options.confine;
    let mut room = Room::default();
    let mut confinement = Confinement { memory: confine.memory, user: confine.user.clone(), ..Confinement::default() };
    if confine.user.is_none() && confine.sandbox.is_none() {
        room.arguments = confinement.arguments();
        return Ok(room);
    }
    let refused = |what: &str, path: &Path, error: &io::Error| {
        Fatal(format!("cannot make the folder {} ({what}): {error}", path.display()))
    };
    let working = options.working();
    make(&working, confine.user.as_ref()).map_err(|error| refused("plugins work there", &working, &error))?;
    let helpers = modules::install(&options.state_directory)
        .and_then(|helpers| {
            if confine.user.is_some() { open_to_all(&options.state_directory, &helpers) } else { Ok(()) }
                .map(|()| helpers)
        })
        .map_err(|error| refused("plugins import from it", &options.state_directory, &error))?;
    let target = options.where_prefix.clone().filter(|_| task == Task::Restore);
    if let Some(target) = &target {
        make_target(target, confine.user.as_ref()).map_err(|error| refused("the target", target, &error))?;
    }
    readable.extend(options.plugin_path.iter().cloned());
    readable.push(helpers);
    // A folder that is not there is the import's business.
    readable.retain(|path| path.exists());
    if let Some(user) = &confine.user {
        confinement.must_read.clone_from(&readable);
        confinement.must_write.push(working.clone());
        room.environment.push(("HOME", user.home.clone().into()));
        for name in ["USER", "LOGNAME"] {
            room.environment.push((name, user.name.clone().into()));
        }
    }
    if let Some(sandbox) = &confine.sandbox {
        let temporary = tempfile::Builder::new()
            .prefix("backstay-plugin-")
            .tempdir()
            .and_then(|folder| own(folder.path(), confine.user.as_ref()).map(|()| folder))
            .map_err(|error| refused("temporary files of plugins", &std::env::temp_dir(), &error))?;
        for name in ["TMPDIR", "TMP", "TEMP"] {
            room.environment.push((name, temporary.path().into()));
        }
        let mut write = vec![working, temporary.path().to_owned()];
        write.extend(target);
        write.extend(sandbox.allow_write.iter().cloned());
        room.temporary = Some(temporary);
        if sandbox.closed {
            readable.extend(interpreter_folders(options.python.as_deref()));
            readable.extend([options.config_directory.clone()].into_iter().filter(|path| path.exists()));
            readable.extend(sandbox.allow.iter().cloned());
        } else {
            readable.clear();
        }
        confinement.sandbox = Some(Sandbox {
            no_network: sandbox.no_network,
            closed: sandbox.closed,
            partial: sandbox.partial,
            metadata: task == Task::Restore,
            read: readable,
            write,
        });
    }
    room.arguments = confinement.arguments();
    Ok(room)
}

/// Makes a private folder that is missing, for its user.
fn make(folder: &Path, user: Option<&PluginUser>) -> io::Result<()> {
    if folder.exists() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        // Parents are root's, and open enough to go through.
        let mode = if user.is_some() { 0o711 } else { 0o700 };
        DirBuilder::new().recursive(true).mode(mode).create(parent)?;
    }
    DirBuilder::new().mode(0o700).create(folder)?;
    own(folder, user)
}

/// A restore's target is made if it is not there, as without a confinement by the plugin.
fn make_target(folder: &Path, user: Option<&PluginUser>) -> io::Result<()> {
    if folder.exists() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    own(folder, user)
}

fn own(folder: &Path, user: Option<&PluginUser>) -> io::Result<()> {
    match user {
        Some(user) => std::os::unix::fs::chown(folder, Some(user.uid), Some(user.gid)),
        None => Ok(()),
    }
}

/// The helper modules hold nothing private. What else is in the state folder stays closed.
fn open_to_all(state: &Path, helpers: &Path) -> io::Result<()> {
    fs::set_permissions(state, Permissions::from_mode(0o711))?;
    fs::set_permissions(helpers, Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(helpers)? {
        fs::set_permissions(entry?.path(), Permissions::from_mode(0o644))?;
    }
    Ok(())
}

/// The virtual environment that is named, and the installation behind its interpreter.
fn interpreter_folders(python: Option<&Path>) -> Vec<PathBuf> {
    let Some(named) = python else { return Vec::new() };
    let program = if named.is_dir() { named.join("bin/python3") } else { named.to_owned() };
    let installation = |program: &Path| program.parent().and_then(Path::parent).map(Path::to_owned);
    let behind = program.canonicalize().ok();
    let mut folders: Vec<PathBuf> = [installation(&program), behind.as_deref().and_then(installation)]
        .into_iter()
        .flatten()
        .filter(|folder| folder.is_dir() && folder.parent().is_some())
        .collect();
    folders.dedup();
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(state: &Path) -> BareosOptions {
        let mut options = BareosOptions::new(state.join("state"));
        options.config_directory = state.join("no config");
        options.confine.sandbox = Some(SandboxOptions::default());
        options
    }

    fn after<'a>(room: &'a Room, name: &str) -> Vec<&'a Path> {
        let pairs = room.arguments.chunks(2);
        pairs.filter(|pair| pair[0] == name).map(|pair| Path::new(&pair[1])).collect()
    }

    #[test]
    fn a_sandbox_has_a_temporary_folder_that_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let room = prepare(&options(folder.path()), Task::Backup, &[]).unwrap();
        let (_, temporary) = room.environment.iter().find(|(name, _)| *name == "TMPDIR").unwrap().clone();
        assert_eq!(after(&room, "--allow-write"), [&folder.path().join("state/work"), Path::new(&temporary)]);
        assert!(after(&room, "--allow").is_empty() && after(&room, "--sandbox") == [Path::new("")]);
        fs::write(Path::new(&temporary).join("left"), "").unwrap();
        drop(room);
        assert!(!Path::new(&temporary).exists());
    }

    #[test]
    fn a_closed_sandbox_reads_the_plugins_folders_and_a_restore_writes_its_target() {
        let folder = tempfile::tempdir().unwrap();
        let mut options = options(folder.path());
        let target = folder.path().join("target");
        options.where_prefix = Some(target.clone());
        options.confine.sandbox =
            Some(SandboxOptions { closed: true, allow: vec!["/srv".into()], ..SandboxOptions::default() });
        let definition = format!("python3:module_name=m:module_path={}", folder.path().display());
        let room =
            prepare(&options, Task::Restore, &[definition, "python3:module_name=n:module_path=/no/where".into()])
                .unwrap();
        let read = after(&room, "--allow");
        assert!(read.contains(&folder.path()) && read.contains(&Path::new("/srv")), "{read:?}");
        assert!(!read.contains(&Path::new("/no/where")), "{read:?}");
        assert!(after(&room, "--allow-write").contains(&target.as_path()) && target.is_dir());
        assert_eq!(after(&room, "--sandbox"), [Path::new("closed,metadata")]);
    }

    #[test]
    fn without_a_confinement_nothing_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let mut options = options(folder.path());
        options.confine = ConfineOptions { memory: Some(5), ..ConfineOptions::default() };
        let room = prepare(&options, Task::Backup, &[]).unwrap();
        assert_eq!(room.arguments, ["--memory", "5"]);
        assert!(!folder.path().join("state").exists());
    }
}
