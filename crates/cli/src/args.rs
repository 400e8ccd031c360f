//! The global options, and option groups that several commands share.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use jiff::Zoned;

use backstay_bareos_host::AccurateOptions;
use backstay_core::Level;
use backstay_repository::writer::{Compression, WriteOptions};

use crate::commands::Command;
use crate::failure::Failure;
use crate::{format, location};

const AFTER_HELP: &str = "\
Exit status: 0 all went well; 1 fatal error; 3 a snapshot was made (or a restore ran) with errors;
10 no repository; 11 the repository is locked; 12 wrong password; 130 interrupted.";

/// Backs up file trees, streams and Bareos plugins into one deduplicating, compressed, encrypted repository in
/// restic's format, and brings them back.
#[derive(Debug, Parser)]
#[command(
    name = "backstay",
    bin_name = "backstay",
    version,
    after_help = AFTER_HELP,
    max_term_width = 100,
    disable_help_subcommand = false,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: GlobalOptions,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalOptions {
    /// The folder or address of the repository, e.g. s3://bucket/prefix [env: BACKSTAY_REPOSITORY, else RESTIC_REPOSITORY]
    #[arg(short, long, global = true, value_name = "ADDRESS")]
    pub repo: Option<String>,
    /// A file that holds the repository's address [env: BACKSTAY_REPOSITORY_FILE, else RESTIC_REPOSITORY_FILE]
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "repo")]
    pub repository_file: Option<PathBuf>,
    /// A file that holds the password [env: BACKSTAY_PASSWORD_FILE, else RESTIC_PASSWORD_FILE]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// A command that prints the password [env: BACKSTAY_PASSWORD_COMMAND, else RESTIC_PASSWORD_COMMAND]
    #[arg(long, global = true, value_name = "COMMAND", conflicts_with = "password_file")]
    pub password_command: Option<String>,
    /// The key to try first [env: BACKSTAY_KEY_HINT, else RESTIC_KEY_HINT]
    #[arg(long, global = true, value_name = "ID")]
    pub key_hint: Option<String>,
    /// The folder for local copies of the index [env: BACKSTAY_CACHE_DIR] [default: backstay in XDG_CACHE_HOME or
    /// ~/.cache]
    #[arg(long, global = true, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Neither use nor keep a local copy of the index
    #[arg(long, global = true, conflicts_with = "cache_dir")]
    pub no_cache: bool,
    /// Take no lock (reading commands only)
    #[arg(long, global = true)]
    pub no_lock: bool,
    /// Wait this long for a lock that somebody else holds, e.g. 5m
    #[arg(long, global = true, value_name = "DURATION", value_parser = format::parse_duration)]
    pub retry_lock: Option<Duration>,
    /// No progress and no summaries: results and errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more; give it twice to see each file
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// One JSON object a line instead of words
    #[arg(long, global = true)]
    pub json: bool,
    /// No colours [env: NO_COLOR]
    #[arg(long, global = true)]
    pub no_color: bool,
    /// How to treat the store.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// How to treat the store that holds the repository.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Store")]
pub struct StoreArgs {
    /// Send at most this many KiB a second to the store
    #[arg(long, global = true, value_name = "KIB", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit_upload: Option<u64>,
    /// Fetch at most this many KiB a second from the store
    #[arg(long, global = true, value_name = "KIB", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit_download: Option<u64>,
    /// Make at most this many calls to the store at once [default: what suits the kind of store]
    #[arg(long, global = true, value_name = "NUMBER")]
    pub connections: Option<usize>,
    /// How long to try again when the store is disturbed, for each call
    #[arg(long, global = true, value_name = "DURATION", default_value = "15m", value_parser = format::parse_duration)]
    pub retry_time: Duration,
    /// Delete nothing in the repository but locks
    #[arg(long, global = true)]
    pub append_only: bool,
    /// Certificates (PEM) to trust beside the system's
    #[arg(long, global = true, value_name = "FILE")]
    pub cacert: Option<PathBuf>,
    /// Our own certificate and key (PEM), for REST servers that ask for one
    #[arg(long, global = true, value_name = "FILE")]
    pub tls_client_cert: Option<PathBuf>,
    /// Accept any certificate
    #[arg(long, global = true)]
    pub insecure_tls: bool,
    /// An option of one kind of store, e.g. s3.storage-class=STANDARD_IA (repeatable)
    #[arg(short, long, global = true, value_name = "STORE.KEY=VALUE")]
    pub option: Vec<String>,
}

impl Default for StoreArgs {
    fn default() -> Self {
        Self {
            limit_upload: None,
            limit_download: None,
            connections: None,
            retry_time: backstay_stores::trouble::DEFAULT_RETRY_TIME,
            append_only: false,
            cacert: None,
            tls_client_cert: None,
            insecure_tls: false,
            option: Vec::new(),
        }
    }
}

/// Which snapshots are meant, where `latest` or none is named.
#[derive(Clone, Debug, Default, Args)]
pub struct SnapshotFilterOptions {
    /// Only snapshots of this host (repeatable: any of them)
    #[arg(short = 'H', long = "host", value_name = "HOST")]
    pub hosts: Vec<String>,
    /// Only snapshots with all of these tags, separated by commas (repeatable: any of the lists)
    #[arg(long = "tag", value_name = "TAG[,TAG]")]
    pub tags: Vec<String>,
    /// Only snapshots that hold this path (repeatable: all of them)
    #[arg(long = "path", value_name = "PATH")]
    pub paths: Vec<String>,
}

/// Which entries are meant.
#[derive(Clone, Debug, Default, Args)]
pub struct PatternOptions {
    /// Take only what matches this pattern, and what is below it (repeatable)
    #[arg(short, long, value_name = "PATTERN")]
    pub include: Vec<String>,
    /// The same, upper and lower case alike (repeatable)
    #[arg(long, value_name = "PATTERN")]
    pub iinclude: Vec<String>,
    /// Leave out what matches this pattern (repeatable)
    #[arg(short, long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// The same, upper and lower case alike (repeatable)
    #[arg(long, value_name = "PATTERN")]
    pub iexclude: Vec<String>,
}

/// How plugins run.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Plugins")]
pub struct PluginOptions {
    /// The job's name as plugins see it
    #[arg(long, value_name = "NAME", default_value = "backstay")]
    pub job_name: String,
    /// The client's name as plugins see it [default: the host's name, with "-fd"]
    #[arg(long, value_name = "NAME")]
    pub client: Option<String>,
    /// The working folder as plugins see it [default: "work" in the state folder]
    #[arg(long, value_name = "DIR")]
    pub working_dir: Option<PathBuf>,
    /// Write a line of JSON to this file for every call of a plugin
    #[arg(long, value_name = "FILE")]
    pub trace_plugin: Option<PathBuf>,
    /// How long a plugin may do nothing at all before it is cancelled [default: no limit]
    #[arg(long, value_name = "DURATION", value_parser = format::parse_duration)]
    pub plugin_timeout: Option<Duration>,
    /// How long a plugin has to end in good order after a cancel
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = format::parse_duration)]
    pub cancel_grace: Duration,
    /// The Python interpreter, or the folder of a virtual environment, that plugins run in [default: /usr/bin/python3]
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
    /// How long a plugin's whole job may take before it is cancelled [default: no limit]
    #[arg(long, value_name = "DURATION", value_parser = format::parse_duration)]
    pub plugin_time_limit: Option<Duration>,
    /// How much memory of its own each process of a plugin may have: 512M, 2G [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = format::parse_size)]
    pub plugin_memory: Option<u64>,
    /// Run plugins, and all that they start, as this user (root only) [default: who runs backstay]
    #[arg(long, value_name = "USER[:GROUP]")]
    pub plugin_user: Option<String>,
    /// Run plugins in a sandbox: they write to their working folder, temporary files and a restore's target only.
    /// no-network: no sockets but Unix ones; closed: they read only what the sandbox allows; partial: also on a kernel
    /// that cannot do all of it
    #[arg(
        long,
        value_enum,
        value_name = "PART,...",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "files",
        value_delimiter = ','
    )]
    pub sandbox: Option<Vec<SandboxPart>>,
    /// What plugins may also read in --sandbox=closed (repeatable)
    #[arg(long, value_name = "PATH", requires = "sandbox")]
    pub sandbox_allow: Vec<PathBuf>,
    /// What plugins may also read and write in a sandbox (repeatable)
    #[arg(long, value_name = "PATH", requires = "sandbox")]
    pub sandbox_allow_write: Vec<PathBuf>,
}

/// Plugins that are told of the job.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Plugins")]
pub struct HookOptions {
    /// Tell this Bareos director plugin of the job: "python3:module_path=...:module_name=...:instance=N:..."
    /// (repeatable)
    #[arg(long = "dir-plugin", value_name = "DEFINITION")]
    pub director: Vec<String>,
    /// Tell this Bareos storage-daemon plugin of the job (repeatable)
    #[arg(long = "sd-plugin", value_name = "DEFINITION")]
    pub storage: Vec<String>,
}

impl HookOptions {
    /// Whether nobody is to be told.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.director.is_empty() && self.storage.is_empty()
    }
}

/// What a sandbox is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SandboxPart {
    /// Nothing is written but where a plugin works; what a sandbox always is
    Files,
    /// No sockets but Unix ones
    NoNetwork,
    /// Nothing is read but the system's folders, the plugin's own, and what is allowed
    Closed,
    /// A kernel that cannot do all of it will do: what it leaves open is said
    Partial,
}

/// What plugins are asked to announce.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Plugins")]
pub struct LevelOptions {
    /// Save what this Bareos plugin announces: a plugin definition, "python:module_path=...:module_name=...:..."
    /// (repeatable). Other users of this host can read the command line: use --plugin-file for definitions with secrets
    #[arg(long = "plugin", value_name = "DEFINITION")]
    pub plugins: Vec<String>,
    /// The same with the definition in a file (repeatable)
    #[arg(long = "plugin-file", value_name = "FILE")]
    pub plugin_files: Vec<PathBuf>,
    /// What plugins announce: full, differential (what changed since the last full job) or incremental (since the last
    /// job). The earlier job must have the same host, paths, job name and definitions, or be named by --parent
    #[arg(long, value_name = "LEVEL", default_value = "full", value_parser = parse_level)]
    pub level: Level,
    /// What a differential or incremental job does not mention is offered to the plugin (check_file) and gone unless it
    /// answers bRC_Seen; without this option it stays
    #[arg(long)]
    pub accurate: bool,
    /// What makes a known file a changed one in an accurate job: letters of ipnugsamcdA, as in Bareos [default: what the
    /// FileSet says, else mcs]
    #[arg(long, value_name = "LETTERS")]
    pub accurate_options: Option<AccurateOptions>,
    /// Options for plugins beside those of their definitions, "python:NAME=VALUE:..." (repeatable): "FD Plugin Options" of Bareos
    #[arg(long, value_name = "TEXT")]
    pub plugin_options: Vec<String>,
    /// The since time as plugins see it: "2026-11-22 13:45:00" [default: the start of the job that this one builds on]
    #[arg(long, value_name = "TIME", value_parser = format::parse_time)]
    pub since: Option<Zoned>,
}

/// A level, by its name in Bareos or its letter.
fn parse_level(text: &str) -> Result<Level, String> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "full" => Level::Full,
        "differential" => Level::Differential,
        "incremental" => Level::Incremental,
        _ if text == "F" => Level::Full,
        _ if text == "D" => Level::Differential,
        _ if text == "I" => Level::Incremental,
        "virtualfull" | "virtual-full" | "f" => {
            return Err("a virtual full backup is not needed: every snapshot here is whole by itself".to_owned());
        }
        "base" | "b" => return Err("base jobs are not needed: equal contents are stored once anyway".to_owned()),
        "verify" | "volumetocatalog" | "disktocatalog" | "catalog" | "initcatalog" => {
            return Err("plugins take no part in verify jobs: \"backstay check --read-data\" verifies what is stored"
                .to_owned());
        }
        _ => return Err("it takes full, differential or incremental".to_owned()),
    })
}

/// How blobs are written.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Writing")]
pub struct WritingOptions {
    /// How hard to compress: off, fastest, auto, better, max, or a zstd level from 1 to 19 [default: auto]
    /// [env: BACKSTAY_COMPRESSION, else RESTIC_COMPRESSION]
    #[arg(long, value_name = "MODE")]
    pub compression: Option<String>,
    /// Size at which a pack is full, in MiB, 4 to 128 [default: 16] [env: BACKSTAY_PACK_SIZE, else RESTIC_PACK_SIZE]
    #[arg(long, value_name = "MIB")]
    pub pack_size: Option<String>,
}

impl WritingOptions {
    /// What the options and the environment say.
    ///
    /// # Errors
    /// [`Failure::Fatal`] for a mode or a size that there is not.
    pub fn write_options(&self) -> Result<WriteOptions, Failure> {
        let mut options = WriteOptions::default();
        if let Some((place, text)) = chosen("--compression", self.compression.as_deref(), "COMPRESSION")? {
            options.compression = compression(&text).ok_or_else(|| {
                Failure::fatal(format!(
                    "{place} is \"{text}\": it takes off, fastest, auto, better, max or a level from 1 to 19"
                ))
            })?;
        }
        if let Some((place, text)) = chosen("--pack-size", self.pack_size.as_deref(), "PACK_SIZE")? {
            let size = text.parse().ok().filter(|size| (4..=128).contains(size));
            let size: usize = size.ok_or_else(|| {
                Failure::fatal(format!("{place} is \"{text}\": it takes a whole number of MiB from 4 to 128"))
            })?;
            options.pack_size = size << 20;
        }
        Ok(options)
    }
}

/// An option's text, else that of its variables, with the name of where it was found.
fn chosen(option: &str, given: Option<&str>, name: &str) -> Result<Option<(String, String)>, Failure> {
    if let Some(text) = given {
        return Ok(Some((option.to_owned(), text.to_owned())));
    }
    for family in ["BACKSTAY", "RESTIC"] {
        let variable = format!("{family}_{name}");
        if let Some(text) = location::variable(&variable)? {
            return Ok(Some((variable, text)));
        }
    }
    Ok(None)
}

/// restic's words, or a level of zstd.
fn compression(text: &str) -> Option<Compression> {
    Some(match text {
        "off" => Compression::Off,
        "fastest" => Compression::Level(1),
        "auto" => Compression::default(),
        "better" => Compression::Level(7),
        "max" => Compression::Level(19),
        level => Compression::Level(level.parse().ok().filter(|level| (1..=19).contains(level))?),
    })
}
