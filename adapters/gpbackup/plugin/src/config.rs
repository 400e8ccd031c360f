//! The configuration file (reference 3), as the user wrote it and as gpbackup rewrites it.

use std::path::{Path, PathBuf};

use backstay_gpbackup_contract::ConfigFile;
use serde::{Deserialize, Serialize};

use crate::s3_options::S3Options;
use crate::{Failure, encrypted, log};

/// What gpbackup adds, and options that gpbackup itself looks at (reference 3.2).
const FOREIGN: &[&str] = &[
    "pgport",
    "backup_plugin_version",
    "restore_subset",
    "password_encryption",
    "replication",
    "remote_password_encryption",
    crate::NAME,
];

/// How much is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // the names are those of the option's values
pub enum Compression {
    #[default]
    Auto,
    Off,
    Max,
}

/// Where the password stands; at most one of these is given.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Password {
    /// In the configuration itself.
    Value(String),
    /// In a file.
    File(PathBuf),
    /// In what a command prints; it runs without a shell.
    Command(String),
    /// In a variable of the environment.
    Variable(String),
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

/// The options, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The repository's address. It can hold a password: it is not for messages.
    pub repository: String,
    /// Where its password is; none: the variables `BACKSTAY_PASSWORD` and `BACKSTAY_PASSWORD_FILE` are looked at.
    pub password: Option<Password>,
    /// How much is compressed.
    pub compression: Compression,
    /// Bytes a second to the store.
    pub limit_upload: Option<u64>,
    /// Bytes a second from the store.
    pub limit_download: Option<u64>,
    /// Calls to the store at once.
    pub connections: Option<usize>,
    /// Tags of the snapshots, beside the one of the backup.
    pub tags: Vec<String>,
    /// The host's name in snapshots; none: this host's.
    pub host: Option<String>,
    /// The folder for local copies of the index.
    pub cache: Cache,
    /// Options of one kind of store, as `-o` gives them to `backstay`.
    pub store_options: Vec<String>,
    /// Where gpbackup_s3_plugin keeps its backups.
    pub s3: Option<S3Options>,
    /// Whether the repository is in the same bucket, by these options.
    pub is_beside: bool,
    /// Whether an agent does the work.
    pub agent: Agent,
    /// Seconds after which an agent ends that nobody needs.
    pub agent_idle: u64,
    /// The folder for logs; none: `gpAdminLogs` in the account's home.
    pub log: Option<PathBuf>,
    unknown: Vec<String>,
}

/// Whether an agent does the work, and where its socket lies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Agent {
    /// In the usual folder.
    #[default]
    On,
    /// Every command does its own work.
    Off,
    /// In this folder.
    Folder(PathBuf),
}

/// Where local copies of the index are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cache {
    /// In the user's cache folder.
    #[default]
    Usual,
    /// Nowhere.
    Off,
    /// In this folder.
    Folder(PathBuf),
}

impl Config {
    /// Reads a file and checks it.
    ///
    /// # Errors
    /// One line that names the file, and the option where one is wrong. No value is repeated.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        ConfigFile::read(path, Self::of).map_err(Failure::new)
    }

    fn of(file: ConfigFile) -> Result<Self, String> {
        let mut given = file.options;
        // gpbackup writes an option without a value as an empty one.
        given.retain(|_, value| !value.is_empty());
        encrypted::open(&mut given)?;
        let s3 = S3Options::take(&mut given)?;
        let mut take = |name: &str| given.remove(name);
        // Its credentials are for that place, not for another one.
        let (repository, is_beside) = match (take("repository"), &s3) {
            (Some(repository), _) => (repository, false),
            (None, Some(s3)) => (s3.repository(), true),
            (None, None) => return Err("the option repository is required".to_owned()),
        };
        // Commands run in whatever folder their callers are in.
        if !repository.starts_with('/') && !repository.contains(':') {
            return Err("the option repository is an absolute path or an address such as s3:HOST/BUCKET".to_owned());
        }
        let config = Self {
            repository,
            password: password([
                take("password"),
                take("password_file"),
                take("password_command"),
                take("password_env"),
            ])?,
            compression: match take("compression").as_deref() {
                None | Some("auto" | "on") => Compression::Auto,
                Some("off") => Compression::Off,
                Some("max") => Compression::Max,
                Some(_) => return Err("the option compression is auto, off or max".to_owned()),
            },
            limit_upload: kib("limit_upload", take("limit_upload"))?,
            limit_download: kib("limit_download", take("limit_download"))?,
            connections: number("connections", take("connections"))?
                .map(|count: u32| count as usize)
                .or(s3.as_ref().and_then(|s3| s3.connections)),
            tags: words(take("tags")),
            host: take("host"),
            cache: match take("cache").as_deref() {
                None | Some("on") => Cache::Usual,
                Some("off") => Cache::Off,
                Some(path) if path.starts_with('/') => Cache::Folder(path.into()),
                Some(_) => return Err("the option cache is on, off or the absolute path of a folder".to_owned()),
            },
            store_options: words(take("store_options")),
            s3,
            is_beside,
            agent: match take("agent").as_deref() {
                None | Some("on") => Agent::On,
                Some("off") => Agent::Off,
                Some(path) if path.starts_with('/') => Agent::Folder(path.into()),
                Some(_) => return Err("the option agent is on, off or the absolute path of a folder".to_owned()),
            },
            agent_idle: number("agent_idle", take("agent_idle"))?.unwrap_or(300),
            log: match take("log") {
                Some(path) if !path.starts_with('/') => {
                    return Err("the option log is the absolute path of a folder".to_owned());
                }
                log => log.map(PathBuf::from),
            },
            unknown: given.into_keys().filter(|name| !FOREIGN.contains(&name.as_str())).collect(),
        };
        if config.tags.iter().any(|tag| tag.starts_with("gpbackup:")) {
            return Err(
                "the option tags holds a tag that begins with gpbackup:, which the plugin itself gives".to_owned()
            );
        }
        Ok(config)
    }

    /// Writes a warning into the log for each option that is none of ours.
    pub fn tell_unknown(&self) {
        for name in &self.unknown {
            log::warning(&format!("the option {name} is unknown and does nothing"));
        }
    }

    /// Options that are none of ours.
    #[must_use]
    pub fn unknown(&self) -> &[String] {
        &self.unknown
    }
}

fn password(given: [Option<String>; 4]) -> Result<Option<Password>, String> {
    let [value, file, command, variable] = given;
    let mut found: Vec<Password> = value.map(Password::Value).into_iter().collect();
    found.extend(file.map(|file| Password::File(file.into())));
    found.extend(command.map(Password::Command));
    found.extend(variable.map(Password::Variable));
    if found.len() > 1 {
        return Err("give one of the options password, password_file, password_command and password_env".to_owned());
    }
    Ok(found.pop())
}

fn number<T: std::str::FromStr + PartialOrd + From<u8>>(
    name: &str,
    given: Option<String>,
) -> Result<Option<T>, String> {
    let Some(text) = given else { return Ok(None) };
    match text.parse::<T>() {
        Ok(number) if number >= T::from(1) => Ok(Some(number)),
        _ => Err(format!("the option {name} is a number from 1 on")),
    }
}

/// KiB a second, as bytes.
fn kib(name: &str, given: Option<String>) -> Result<Option<u64>, String> {
    Ok(number(name, given)?.map(|kib: u64| kib.saturating_mul(1024)))
}

fn words(given: Option<String>) -> Vec<String> {
    let text = given.unwrap_or_default();
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        ConfigFile::parse(text).and_then(Config::of)
    }

    pub(crate) fn options(lines: &str) -> Result<Config, String> {
        let lines = lines.replace('\n', "\n  ");
        parse(&format!("executablepath: /usr/bin/{}\noptions:\n  repository: /srv/backup\n  {lines}\n", crate::NAME))
    }

    #[test]
    fn a_file_as_it_was_written_and_as_gpbackup_writes_it_are_the_same() {
        let written = options("limit_upload: 100\ntags: a, b\npassword_file: /etc/p\ncompression: off").unwrap();
        let rewritten = options(
            "limit_upload: \"100\"\ntags: \"a, b\"\npassword_file: \"/etc/p\"\ncompression: \"off\"\npgport: \"5432\"\n\
             backup_plugin_version: \"\"",
        );
        assert_eq!(rewritten.unwrap(), written);
        assert_eq!(written.limit_upload, Some(102_400));
        assert_eq!(written.tags, ["a", "b"]);
        assert_eq!(written.password, Some(Password::File("/etc/p".into())));
    }

    #[test]
    fn what_is_wrong_is_named_and_no_value_repeated() {
        for (text, part) in [
            ("", "executablepath"),
            ("options: {}", "executablepath"),
            ("executablepath: /x", "repository"),
            ("executablepath: /x\nother: secret\n", "other"),
            ("executablepath: /x\nExecutablePath: /y\n", "ExecutablePath"),
            ("executablepath: /x\nexecutablepath: /y\n", "duplicate"),
            ("executablepath: /x\noptions:\n\tpassword: secret\n", "tab"),
            ("executablepath: /x\noptions:\n  password: [secret]\n", "formatted"),
            ("executablepath: [", "formatted"),
        ] {
            let reason = parse(text).unwrap_err();
            assert!(reason.contains(part) && !reason.contains("secret") && !reason.contains('\n'), "{text}: {reason}");
        }
        assert!(parse("executablepath: /x\noptions:\n  repository: backup\n").unwrap_err().contains("absolute"));
        for (lines, part) in [
            ("compression: best", "compression"),
            ("limit_upload: 0", "limit_upload"),
            ("limit_download: -1", "limit_download"),
            ("connections: many", "connections"),
            ("cache: here", "cache"),
            ("agent: here", "agent"),
            ("agent_idle: 0", "agent_idle"),
            ("log: here", "log"),
            ("tags: gpbackup:20240101000000", "tags"),
            ("password: a\npassword_file: b", "password_file"),
        ] {
            let reason = options(lines).unwrap_err();
            assert!(reason.contains(part), "{lines}: {reason}");
        }
    }

    #[test]
    fn unknown_options_are_told_and_empty_ones_count_as_not_given() {
        let config = options("folder: x\npassword:\ncompression: ''\npgport: 1").unwrap();
        assert_eq!(config.unknown(), ["folder"]);
        assert_eq!((config.password, config.compression), (None, Compression::Auto));
    }
}
