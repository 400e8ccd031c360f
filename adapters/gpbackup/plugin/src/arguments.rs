//! The command line (reference 4, 5): exact words, exact numbers of arguments.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::Failure;
use crate::key::Timestamp;

/// What the program says of itself.
pub const USAGE: &str = "\
Usage: backstay_gpbackup_plugin COMMAND [ARGUMENTS...]

A storage plugin for gpbackup and gprestore (--plugin-config), which call it by themselves.

Commands:
  plugin_api_version, --version
  setup_plugin_for_backup, setup_plugin_for_restore,
  cleanup_plugin_for_backup, cleanup_plugin_for_restore CONFIG DIRECTORY [SCOPE [CONTENT]]
  backup_file, restore_file CONFIG PATH
  backup_data, restore_data CONFIG KEY        from standard input, to standard output
  restore_data_subset CONFIG KEY OFFSETS
  delete_backup CONFIG TIMESTAMP
  list_directory CONFIG [PATH]
  delete_directory CONFIG PATH
";

/// The four hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are those of the commands
pub enum Hook {
    SetupBackup,
    SetupRestore,
    CleanupBackup,
    CleanupRestore,
}

impl Hook {
    fn of(word: &str) -> Option<Self> {
        [Self::SetupBackup, Self::SetupRestore, Self::CleanupBackup, Self::CleanupRestore]
            .into_iter()
            .find(|hook| hook.name() == word)
    }

    /// Its word on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SetupBackup => "setup_plugin_for_backup",
            Self::SetupRestore => "setup_plugin_for_restore",
            Self::CleanupBackup => "cleanup_plugin_for_backup",
            Self::CleanupRestore => "cleanup_plugin_for_restore",
        }
    }
}

/// A command with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are the arguments, by the names of the contract
pub enum Command {
    ApiVersion,
    Version,
    Help,
    Hook { hook: Hook, config: PathBuf, directory: PathBuf, scope: Option<String> },
    BackupFile { config: PathBuf, path: PathBuf },
    RestoreFile { config: PathBuf, path: PathBuf },
    BackupData { config: PathBuf, key: PathBuf },
    RestoreData { config: PathBuf, key: PathBuf },
    RestoreSubset { config: PathBuf, key: PathBuf, offsets: PathBuf },
    DeleteBackup { config: PathBuf, timestamp: Timestamp },
    ListDirectory { config: PathBuf, path: Option<PathBuf> },
    DeleteDirectory { config: PathBuf, path: PathBuf },
    Agent { folder: PathBuf, name: String, idle: u64, log: Option<PathBuf> },
}

impl Command {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// One line that names the command and what it takes.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, Failure> {
        let mut arguments = arguments.into_iter();
        let word = arguments.next().unwrap_or_default();
        let word = word.to_string_lossy();
        let rest: Vec<OsString> = arguments.collect();
        let rest = Rest { word: &word, words: &rest };
        match &*word {
            "plugin_api_version" => rest.exactly(0, "nothing").map(|()| Self::ApiVersion),
            "--version" => rest.exactly(0, "nothing").map(|()| Self::Version),
            "help" | "--help" | "-h" => Ok(Self::Help),
            "backup_file" => rest.two("PATH").map(|(config, path)| Self::BackupFile { config, path }),
            "restore_file" => rest.two("PATH").map(|(config, path)| Self::RestoreFile { config, path }),
            "backup_data" => rest.two("KEY").map(|(config, key)| Self::BackupData { config, key }),
            "restore_data" => rest.two("KEY").map(|(config, key)| Self::RestoreData { config, key }),
            "restore_data_subset" => {
                rest.exactly(3, "CONFIG KEY OFFSETS")?;
                Ok(Self::RestoreSubset { config: rest.path(0), key: rest.path(1), offsets: rest.path(2) })
            }
            "delete_backup" => {
                let (config, timestamp) = rest.two("TIMESTAMP")?;
                let timestamp = Timestamp::parse(&timestamp.to_string_lossy()).ok_or_else(|| {
                    Failure::new(format!("delete_backup: {timestamp:?} is no timestamp of 14 digits"))
                })?;
                Ok(Self::DeleteBackup { config, timestamp })
            }
            "list_directory" => {
                rest.between(1, 2, "CONFIG [PATH]")?;
                Ok(Self::ListDirectory { config: rest.path(0), path: rest.words.get(1).map(PathBuf::from) })
            }
            "delete_directory" => rest.two("PATH").map(|(config, path)| Self::DeleteDirectory { config, path }),
            // What another command of ours starts.
            "agent" => {
                rest.between(3, 4, "FOLDER NAME SECONDS [LOG]")?;
                let idle = rest.words[2].to_str().and_then(|text| text.parse().ok());
                let idle = idle.ok_or_else(|| Failure::new("agent: the time is a number of seconds"))?;
                let name = rest.words[1].to_string_lossy().into_owned();
                Ok(Self::Agent { folder: rest.path(0), name, idle, log: rest.words.get(3).map(PathBuf::from) })
            }
            "" => Err(Failure::new("which command? Try \"backstay_gpbackup_plugin help\"")),
            word => match Hook::of(word) {
                Some(hook) => {
                    // Older hosts give fewer of them (reference 2).
                    rest.between(2, 4, "CONFIG DIRECTORY [SCOPE [CONTENT]]")?;
                    let scope = rest.words.get(2).map(|scope| scope.to_string_lossy().into_owned());
                    Ok(Self::Hook { hook, config: rest.path(0), directory: rest.path(1), scope })
                }
                None => Err(Failure::new(format!("unknown command {word:?}"))),
            },
        }
    }
}

/// What follows the command's word.
struct Rest<'a> {
    word: &'a str,
    words: &'a [OsString],
}

impl Rest<'_> {
    fn between(&self, least: usize, most: usize, takes: &str) -> Result<(), Failure> {
        if (least..=most).contains(&self.words.len()) {
            return Ok(());
        }
        Err(Failure::new(format!("{} takes {takes}, and got {} arguments", self.word, self.words.len())))
    }

    fn exactly(&self, count: usize, takes: &str) -> Result<(), Failure> {
        self.between(count, count, takes)
    }

    fn two(&self, second: &str) -> Result<(PathBuf, PathBuf), Failure> {
        self.exactly(2, &format!("CONFIG {second}"))?;
        Ok((self.path(0), self.path(1)))
    }

    fn path(&self, number: usize) -> PathBuf {
        self.words.get(number).map(PathBuf::from).unwrap_or_default()
    }
}
