//! A storage plugin of gpbackup and gprestore: what they store becomes files of snapshots.
//!
//! Section numbers in this crate are those of the reference of gpbackup's storage plugins.
//!
//! * [`arguments`] reads the command line, [`config`] the configuration file, [`key`] the names of objects; [`log`] is where
//!   administrators look.
//! * [`place`] opens the repository that the configuration names; `session` stores in it, [`objects`] finds and deletes.
//! * [`s3_options`] are those of gpbackup_s3_plugin; `older` reads the backups that it made.
//! * `encrypted` opens passwords that gpbackup_manager encrypted, by `pgp`.
//! * [`agent`] is the process that holds a repository open; `work` hands a command's work over to it, or does it here.
//!
//! Every storing command makes a snapshot of its own before it ends with status 0, so nothing depends on what is called
//! before or after it. Cleanup folds the snapshots of one host and timestamp into one, if it is called at all.

pub mod agent;
pub mod arguments;
pub mod config;
mod encrypted;
pub mod key;
pub mod log;
pub mod objects;
mod older;
mod pgp;
pub mod place;
pub mod s3_options;
mod session;
mod together;
mod work;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use backstay_core::told::one_line;

use arguments::{Command, Hook};
use config::Config;
use key::Key;
use objects::Objects;
use place::Place;

/// The version of the contract (reference 2).
pub const API_VERSION: &str = "0.5.0";
/// The program's name in messages and in `--version`.
pub const NAME: &str = "backstay_gpbackup_plugin";

/// Why a command failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// One line for people.
    #[error("{0}")]
    Told(String),
    /// The same: there is no such object, or no repository yet.
    #[error("{0}")]
    Missing(String),
    /// Whoever read the output has gone: that is no incident (reference 9.1).
    #[error("the reader has gone")]
    ReaderGone,
}

impl Failure {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self::Told(text.into())
    }
}

/// Runs the program with the arguments after its name. Errors are one line on standard error; on success nothing is written
/// there, ever (reference 1, fact 8).
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match Command::parse(arguments).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::ReaderGone) => ExitCode::FAILURE,
        Err(Failure::Told(text) | Failure::Missing(text)) => {
            log::error(&text);
            // Nobody is left to tell when standard error is gone.
            let _ = writeln!(std::io::stderr(), "{NAME}: {}", one_line(&text));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::ApiVersion => print(API_VERSION),
        Command::Version => print(&format!("{NAME} version {}", env!("CARGO_PKG_VERSION"))),
        Command::Help => print(arguments::USAGE.trim_end()),
        Command::Hook { hook, config, directory, scope } => {
            let config = read(&config)?;
            log::info(&format!("{} {} {}", hook.name(), directory.display(), scope.as_deref().unwrap_or_default()));
            config.tell_unknown();
            match hook {
                Hook::SetupBackup => Place::new(config)?.prepare(),
                Hook::SetupRestore => {
                    std::fs::create_dir_all(&directory)
                        .map_err(|error| Failure::new(format!("cannot make {}: {error}", directory.display())))?;
                    Place::new(config).map(drop)
                }
                Hook::CleanupBackup => match key::timestamp_of_directory(&directory) {
                    Some(timestamp) => objects::fold(&Place::new(config)?, &timestamp),
                    None => Ok(()),
                },
                Hook::CleanupRestore => Ok(()),
            }
        }
        Command::BackupFile { config, path } => work::backup_file(&read(&config)?, &path),
        Command::BackupData { config, key } => work::backup_data(&read(&config)?, &Key::of(&key)?),
        Command::RestoreFile { config, path } => {
            let config = read(&config)?;
            older::restore_file(&config, &path, work::restore_file(&config, &path))
        }
        Command::RestoreData { config, key } => {
            let (config, key) = (read(&config)?, Key::of(&key)?);
            older::restore_data(&config, &key, None, work::restore_data(&config, &key, None))
        }
        Command::RestoreSubset { config, key, offsets } => {
            let (key, ranges) = (Key::of(&key)?, objects::ranges(&offsets)?);
            let config = read(&config)?;
            older::restore_data(&config, &key, Some(&ranges), work::restore_data(&config, &key, Some(&ranges)))
        }
        Command::Agent { folder, name, idle, log } => {
            log.into_iter().for_each(log::into);
            agent::run_started(folder, name, idle)
        }
        Command::DeleteBackup { config, timestamp } => delete(&read(&config)?, &timestamp),
        Command::ListDirectory { config, path } => {
            let lines = Objects::to_read(read(&config)?)?.list(path.as_deref())?;
            lines.iter().try_for_each(|line| print(line))
        }
        Command::DeleteDirectory { config, path } => {
            let timestamp = key::timestamp_of_directory(&path).ok_or_else(|| {
                Failure::new(format!(
                    "{} is not the folder of one backup (backups/DATE/TIMESTAMP): nothing was deleted",
                    path.display()
                ))
            })?;
            delete(&read(&config)?, &timestamp)
        }
    }
}

/// Forgets a backup, whoever stored it.
fn delete(config: &Config, timestamp: &key::Timestamp) -> Result<(), Failure> {
    Objects::to_write(config.clone())?.delete(timestamp)?;
    older::delete(config, timestamp)
}

fn read(path: &Path) -> Result<Config, Failure> {
    let config = Config::read(path)?;
    config.log.iter().cloned().for_each(log::into);
    Ok(config)
}

fn print(line: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{line}").map_err(|_| Failure::ReaderGone)
}
