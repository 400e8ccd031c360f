//! The messages between the Bareos host (in the engine's process) and its plugin worker (which runs the Python code).
//!
//! Frames are carried by `backstay-worker`: length-prefixed postcard on a Unix socket pair, bulk data in a shared ring,
//! descriptors beside a frame by SCM_RIGHTS. The contract's state machine runs in the worker; entries flow one way, and
//! the worker waits for an answer only where this page says so.

mod bytes;
pub mod hooks;
pub mod prior;

use backstay_bareos_fileset::{Exclude, Include};
use serde::{Deserialize, Serialize};

/// Raised when a message changes: host and worker must agree on it in their first frames.
pub const PROTOCOL_VERSION: u32 = 4;

/// The option bits of a Bareos file set with its defaults: ACLs (14), no hard-link handling (15), xattrs (27)
/// (reference 12.4).
pub const DEFAULT_FLAGS: [u8; 5] = [0x00, 0xc0, 0x00, 0x08, 0x00];

/// What the host tells the worker before anything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// [`PROTOCOL_VERSION`] of the host.
    pub protocol: u32,
    /// What the job does.
    pub task: Task,
    /// `Plugin =` lines of the job that this worker serves, in order, word for word; then those of Options blocks. In a
    /// restore: empty, each [`RestoreEntry`] carries its own.
    pub definitions: Vec<String>,
    /// How many of `definitions`, the last ones, stand in Options blocks: the plugin is offered files
    /// ([`ToWorker::File`]) until [`ToWorker::EndFiles`].
    pub option_lines: u32,
    /// Overrides (`pluginoptions`), each starting with `python3:` or `python:`.
    pub overrides: Vec<String>,
    /// bVarJobId.
    pub job_id: u32,
    /// bVarJobName: `<job>.<YYYY-MM-DD>_<HH.MM.SS>_<NN>`.
    pub job_name: String,
    /// bVarFDName and bVarClient.
    pub client: String,
    /// bVarSinceTime, Unix seconds.
    pub since: i64,
    /// bVarLevel: `F`, `D` or `I` in a backup and an estimate, a blank in a restore.
    pub level: char,
    /// Whether a job of level `D` or `I` is accurate: what it does not mention is gone.
    pub accurate: bool,
    /// Bits of bVarAccurateOptions.
    pub accurate_options: Vec<i32>,
    /// bVarPrevJobName.
    pub previous_job_name: String,
    /// bVarPrefixLinks.
    pub prefix_links: bool,
    /// Every callback is told in a [`FromWorker::Trace`].
    pub trace: bool,
    /// bVarWorkingDir, without a trailing slash.
    pub working_directory: String,
    /// bVarWhere of a restore: the prefix, empty for none.
    pub where_prefix: Option<String>,
    /// Letter of the replace policy in a restore: `a`, `w`, `n` or `o`.
    pub replace: char,
    /// bVarUsedConfig.
    pub used_config: String,
    /// For each of `definitions`, the five bytes of option bits of its SavePackets (reference 2.3). Those that are missing
    /// are [`DEFAULT_FLAGS`].
    pub flags: Vec<[u8; 5]>,
    /// For each of `definitions`, the rules of the FileSet that it stands in. Where they are missing there are none.
    pub rules: Vec<Option<LineRules>>,
    /// Folders put on `sys.path` after `module_path`: our helper modules live there.
    pub module_directories: Vec<String>,
    /// DebugMessage texts up to this level are sent.
    pub debug_level: i32,
}

impl JobSpec {
    /// The option bits that hold for a definition, by its place in [`JobSpec::definitions`].
    #[must_use]
    pub fn flags(&self, definition: u32) -> [u8; 5] {
        self.flags.get(definition as usize).copied().unwrap_or(DEFAULT_FLAGS)
    }

    /// The definitions of `Plugin =` lines in an Include, and those of Options blocks.
    #[must_use]
    pub fn lines(&self) -> (&[String], &[String]) {
        self.definitions.split_at(self.definitions.len().saturating_sub(self.option_lines as usize))
    }
}

/// The rules around a plugin line, for AcceptFile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineRules {
    /// The Options blocks of its Include; nothing else of it.
    pub include: Include,
    /// The Exclude blocks.
    pub excludes: Vec<Exclude>,
}

/// What a worker is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// Reference 4.2.
    Backup,
    /// Reference 4.12.
    Estimate,
    /// Reference 4.5.
    Restore,
}

/// The integers of a StatPacket, exactly as the plugin gave them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct StatFields {
    pub dev: u32,
    pub ino: u64,
    pub mode: u16,
    pub nlink: u16,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub size: u64,
    pub atime: i64,
    pub mtime: i64,
    pub ctime: i64,
    pub blksize: u32,
    pub blocks: u64,
}

/// A SavePacket that start_backup_file answered with bRC_OK, after the core's own changes (hard links).
/// It is what the ledger keeps as the entry's native record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginEntry {
    /// Which of [`JobSpec::definitions`] announced it.
    pub definition: u32,
    /// Number of the file in its job, from 1.
    pub file_index: i32,
    /// FT_*.
    pub file_type: i32,
    /// `fname`, for directories `link` (reference 6.1), exact bytes.
    pub name: Vec<u8>,
    /// `link`, exact bytes.
    pub link: Vec<u8>,
    /// For FT_LNKSAVED the file index that holds the data, else 0.
    pub link_file_index: i32,
    /// The StatPacket.
    pub stat: StatFields,
    /// The five option bytes as the plugin left them.
    pub flags: [u8; 5],
    /// delta_seq.
    pub delta_sequence: u32,
    /// The plugin asked for no I/O.
    pub no_read: bool,
}

/// A restore object as start_backup_file announced it, without its bytes. It is what the ledger keeps beside them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectEntry {
    /// Which of [`JobSpec::definitions`] announced it.
    pub definition: u32,
    /// Number of the file in its job, from 1.
    pub file_index: i32,
    /// FT_RESTORE_FIRST or FT_PLUGIN_CONFIG.
    pub object_type: i32,
    /// object_index.
    pub object_index: i32,
    /// object_name.
    pub object_name: String,
}

/// Bytes of a restore object at the most.
pub const MOST_OBJECT: usize = 256 << 20;

/// Why something went wrong in the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// `io_errno`, 0 for none.
    pub errno: i32,
    /// One line with the name in it.
    pub message: String,
}

/// From the host to the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker {
    /// First frame. A backup runs at once; a restore waits for [`ToWorker::Restore`] messages. With it comes the
    /// descriptor of memory with what earlier jobs left ([`prior`]), where they left something.
    Start(Box<JobSpec>),
    /// Backup: the host consumed ring data up to this absolute position.
    Consumed(u64),
    /// Backup: answer to [`FromWorker::DataFd`]. The host holds no copy of the descriptor any more.
    DataFdDone(Result<u64, Failure>),
    /// Backup: a file that the host's walk came to. Answered by [`FromWorker::Handled`], or by [`FromWorker::Entry`] and
    /// what follows it, to the end of the entry.
    File(Box<FileOffer>),
    /// Backup: the walk is over.
    EndFiles,
    /// Restore: one entry begins. Answered by [`FromWorker::Created`].
    Restore(Box<RestoreEntry>),
    /// Restore: one small entry, with all of its data and attributes. Answered by [`FromWorker::Created`], never with a
    /// descriptor, and [`FromWorker::Restored`]; the next entry may follow before that.
    Whole(Box<WholeEntry>),
    /// Restore: this ring span belongs at the current position. Not answered, except by `Consumed` as it is used.
    /// `write` errors are reported in [`FromWorker::Restored`].
    Data {
        /// Absolute position in the ring.
        position: u64,
        /// Length in bytes.
        length: u32,
    },
    /// Restore: all data of the open entry was sent (by ring or by descriptor; then the host closed its copy).
    /// `Err` says that the host could not write everything to the descriptor. Attributes follow.
    /// Answered by [`FromWorker::Restored`] after end_restore_file.
    EndData {
        /// Whether all data arrived.
        written: Result<(), Failure>,
        /// Access control lists for set_acl, in order.
        acls: Vec<Vec<u8>>,
        /// Attributes for set_xattr, in order.
        xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    },
    /// Restore: no more entries. The worker sends the closing events and [`FromWorker::Finished`].
    EndRestore,
    /// The job is cancelled: event 14 on a second thread, then no new file, the closing callbacks, Finished.
    Cancel,
}

/// A file for an option plugin, as the core hands it over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileOffer {
    /// Which of [`JobSpec::definitions`] its Options block names.
    pub definition: u32,
    /// FT_*.
    pub file_type: i32,
    /// fname.
    pub name: Vec<u8>,
    /// link.
    pub link: Vec<u8>,
    /// statp.
    pub stat: StatFields,
}

/// What an option plugin makes of a file, other than to save it itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Handled {
    /// The core saves it.
    Core,
    /// It is left out.
    Skip,
    /// It is as the reference job has it from the plugin.
    Unchanged,
    /// It is not saved.
    Failed(Failure),
}

/// One ledger record on its way back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreEntry {
    /// The stored definition, word for word.
    pub definition: String,
    /// The entry as the backup announced it.
    pub entry: PluginEntry,
    /// Output name (reference 4.7).
    pub output_name: Vec<u8>,
    /// Output link target.
    pub output_link: Vec<u8>,
}

/// A small entry on its way back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WholeEntry {
    /// Its record.
    pub entry: RestoreEntry,
    /// All of its data; at most [`MOST_WHOLE`] bytes.
    #[serde(with = "bytes")]
    pub data: Vec<u8>,
    /// Access control lists for set_acl, in order.
    pub acls: Vec<Vec<u8>>,
    /// Attributes for set_xattr, in order.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Bytes of data in a [`WholeEntry`] at the most: not more than one IO_WRITE takes.
pub const MOST_WHOLE: usize = 128 << 10;

/// What create_file (and IO_OPEN after it) came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Created {
    /// CF_SKIP: send [`ToWorker::EndData`] at once.
    Skip,
    /// CF_CREATED, or made by the core: no data. Send EndData at once, with attributes.
    Made,
    /// Send data through the ring.
    Ring,
    /// A descriptor comes with this frame: write to it, close it, then send EndData.
    Fd,
    /// It failed; the message was sent as [`FromWorker::Message`]. Send EndData at once.
    Failed,
}

/// From the worker to the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromWorker {
    /// Answer to Start, before the first callback.
    Ready {
        /// [`PROTOCOL_VERSION`] of the worker.
        protocol: u32,
        /// `sys.version` of the interpreter.
        python: String,
    },
    /// A JobMessage (with its M_* number), a traceback (M_FATAL) or a message of the core's own.
    Message {
        /// M_* number of the reference, 2.1.
        kind: i32,
        /// The text as given; a JobMessage carries the prefix `python3-fd-mod: `.
        text: String,
    },
    /// Backup: start_backup_file announced an entry. Data, attributes and EndEntry follow. Estimate: it would be saved;
    /// EndEntry follows.
    Entry(Box<PluginEntry>),
    /// Backup: start_backup_file announced a restore object. Its bytes follow as Data, then EndEntry.
    Object(Box<ObjectEntry>),
    /// Backup: an announced object that is as the reference job has it.
    Unchanged {
        /// Its name there.
        name: Vec<u8>,
    },
    /// Backup: answer to [`ToWorker::File`].
    Handled(Handled),
    /// Backup: this name is gone. `announced`: by an FT_DELETED; otherwise the accurate list was left with it.
    Deleted {
        /// The name.
        name: Vec<u8>,
        /// See above.
        announced: bool,
    },
    /// Backup: this ring span is the open entry's next data.
    Data {
        /// Absolute position in the ring.
        position: u64,
        /// Length in bytes.
        length: u32,
    },
    /// Backup: read the descriptor that comes with this frame to its end, close it, answer DataFdDone. The worker waits.
    DataFd,
    /// Backup: an attribute of the open entry, from get_acl.
    Acl(Vec<u8>),
    /// Backup: an attribute of the open entry, from get_xattr.
    Xattr {
        /// Name.
        name: Vec<u8>,
        /// Value.
        value: Vec<u8>,
    },
    /// Backup: the open entry is done; `Err` when open or read failed.
    EndEntry(Result<(), Failure>),
    /// Backup: an announced object that the core does not save, by its type's rule (reference 6.1). `Err` counts as
    /// failed, `Ok` as skipped; the text says why.
    NotSaved {
        /// Its name.
        name: Vec<u8>,
        /// Rule or failure.
        reason: Result<String, Failure>,
    },
    /// One callback, as a line of JSON.
    Trace(String),
    /// Restore: answer to [`ToWorker::Restore`].
    Created(Created),
    /// Restore: the host may reuse ring data up to this absolute position.
    Consumed(u64),
    /// Restore: the entry is done, `Err` with the reason if it failed.
    Restored(Result<(), Failure>),
    /// Last frame. The worker stays until the host closes the socket, since answers to earlier frames may be on their way.
    Finished(JobEnd),
}

/// How the plugin's job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobEnd {
    /// The plugin lines ran to their end (or all restore entries were taken); false after a fatal message or a cancel.
    pub whole: bool,
    /// What ended it otherwise, one line.
    pub reason: String,
    /// How often start_backup_file answered bRC_OK: equals Entry, Object, Unchanged, announced Deleted and NotSaved
    /// frames together, without those that answer a [`ToWorker::File`].
    pub announced: u64,
    /// Messages of class error.
    pub errors: u32,
    /// Messages of class warning.
    pub warnings: u32,
}
