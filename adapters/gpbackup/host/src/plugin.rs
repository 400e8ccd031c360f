//! A plugin as storage (reference 13): hooks in their order, objects in and out, deletion.
//!
//! Nothing counts as stored before the process took every byte and ended with status 0; nothing as read before its length and
//! its checksum are those that were recorded.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::config::UserConfig;
use crate::key::{Key, Timestamp, directory, is_plain};
use crate::process::{self, Ended, Input, Limits, Output, words};
use crate::version::{ApiVersion, NativeVersion};
use crate::{Failure, process::run};

/// How a plugin is driven.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// When a process has had its time.
    pub limits: Limits,
    /// The database's port, of which some plugins make use.
    pub port: u16,
    /// The version that the plugin had when the backup was made, for restores; empty: not known.
    pub recorded_version: String,
}

/// The length and the SHA-256 of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// In bytes.
    pub size: u64,
    /// Of the whole content.
    pub sha256: [u8; 32],
}

impl Fingerprint {
    /// That of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { size: bytes.len() as u64, sha256: Sha256::digest(bytes).into() }
    }
}

/// What hooks are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Objects are stored.
    Backup,
    /// Objects are read.
    Restore,
}

impl Purpose {
    fn setup(self) -> &'static str {
        match self {
            Self::Backup => "setup_plugin_for_backup",
            Self::Restore => "setup_plugin_for_restore",
        }
    }

    fn cleanup(self) -> &'static str {
        match self {
            Self::Backup => "cleanup_plugin_for_backup",
            Self::Restore => "cleanup_plugin_for_restore",
        }
    }
}

/// What came with a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done<T> {
    /// The result.
    pub value: T,
    /// What the plugin wrote to standard error all the same: a warning; empty: nothing.
    pub said: String,
}

/// A plugin whose versions were looked at, with its copy of the configuration. The copy goes with this.
#[derive(Debug)]
pub struct Plugin {
    executable: PathBuf,
    config: PathBuf,
    folder: PathBuf,
    reads_ranges: bool,
    limits: Limits,
    /// The version of the contract that it speaks.
    pub api: ApiVersion,
    /// What it is called, and its own version.
    pub native: NativeVersion,
}

impl Plugin {
    /// Asks a plugin what it is and writes its copy of the configuration into `folder`, which is its local root for the whole run.
    /// The folder is to be the caller's alone.
    ///
    /// # Errors
    /// [`Failure::Refused`] for a folder whose path a shell would not leave alone, and for encrypted passwords, whose key only the
    /// database's coordinator has; [`Failure::Plugin`] for versions that are none, or too old.
    pub fn open(config: &UserConfig, folder: &Path, settings: Settings) -> Result<Self, Failure> {
        if !folder.is_absolute() || !folder.to_str().is_some_and(is_plain) {
            let shown = folder.display();
            return Err(Failure::refused(format!(
                "{shown} is no folder for plugins: an absolute path of letters, digits and ._-/ is"
            )));
        }
        let limits = settings.limits;
        let ask = |word: &str| -> Result<(String, String), Failure> {
            let words = words(&[word]);
            let ended = run(&config.executable, &words, Input::Nothing, Output::Collected, &limits)?;
            let printed = String::from_utf8_lossy(&ended.output).into_owned();
            judge(&words, ended).map(|ended| (printed, ended.said))
        };
        let wrong =
            |command: &str, reason: String, said: String| Failure::Plugin { command: command.to_owned(), reason, said };
        let (printed, said) = ask("plugin_api_version")?;
        let api = ApiVersion::parse(&printed).ok_or_else(|| {
            let shown = shortened(&printed);
            wrong("plugin_api_version", format!("it printed {shown:?}, which is no version such as 0.5.0"), said)
        })?;
        if api < ApiVersion::OLDEST {
            let reason =
                format!("the plugin speaks version {api}; {} is the oldest that can be used", ApiVersion::OLDEST);
            return Err(wrong("plugin_api_version", reason, String::new()));
        }
        let (printed, said) = ask("--version")?;
        let native = NativeVersion::parse(&printed).ok_or_else(|| {
            let shown = shortened(&printed);
            wrong("--version", format!("it printed {shown:?}, which is not \"NAME version VERSION\""), said)
        })?;
        if config.is_encrypted() {
            if !native.is_exact() {
                let reason = "encrypted passwords need exactly three words, and it printed more".to_owned();
                return Err(wrong("--version", reason, String::new()));
            }
            return Err(Failure::refused(
                "passwords that gpbackup_manager encrypted cannot be used here: their key is in the coordinator's folder",
            ));
        }
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)))
            .map_err(|error| Failure::refused(format!("cannot make {}: {error}", folder.display())))?;
        let copy = config.write_copy(folder, settings.port, &settings.recorded_version)?;
        Ok(Self {
            executable: config.executable.clone(),
            config: copy,
            folder: folder.to_owned(),
            reads_ranges: config.reads_ranges(),
            limits,
            api,
            native,
        })
    }

    /// The data directory of a segment, the coordinator's with -1.
    #[must_use]
    pub fn data_directory(&self, content: i32) -> PathBuf {
        self.folder.join(format!("gpseg{content}"))
    }

    /// The plugin's copy of the configuration.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// When a process has had its time.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether it can delete.
    #[must_use]
    pub fn can_delete(&self) -> bool {
        self.api >= ApiVersion::DELETES
    }

    /// Whether its configuration says that it reads ranges.
    #[must_use]
    pub fn reads_ranges(&self) -> bool {
        self.reads_ranges
    }

    /// Runs a command and tells all that happened, good or bad. The configuration's path is put in.
    ///
    /// # Errors
    /// See [`process::run`].
    pub fn call(
        &self,
        command: &str,
        rest: &[OsString],
        input: Input<'_>,
        output: Output<'_>,
    ) -> Result<(Vec<OsString>, Ended), Failure> {
        let mut words = vec![OsString::from(command), self.config.clone().into()];
        words.extend_from_slice(rest);
        let ended = run(&self.executable, &words, input, output, &self.limits)?;
        Ok((words, ended))
    }

    fn simply(&self, command: &str, rest: &[OsString]) -> Result<Done<()>, Failure> {
        let (words, ended) = self.call(command, rest, Input::Nothing, Output::Nothing)?;
        judge(&words, ended).map(|ended| Done { value: (), said: ended.said })
    }

    /// Runs the setup hooks of a backup's folders, which are made: the coordinator's, then `segment_host` for all segments at
    /// once, then `segment` for all at once (reference 6).
    ///
    /// # Errors
    /// The first failure; what comes after it was not called.
    pub fn set_up(&self, purpose: Purpose, timestamp: &Timestamp, segments: u16) -> Result<(), Failure> {
        for content in -1..i32::from(segments) {
            let directory = directory(&self.data_directory(content), timestamp);
            std::fs::create_dir_all(&directory)
                .map_err(|error| Failure::refused(format!("cannot make {}: {error}", directory.display())))?;
        }
        for scope in Scope::ALL {
            if let Some(failure) = self.hook(purpose.setup(), scope, timestamp, segments).into_iter().next() {
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Runs the cleanup hooks in the same order. A failure changes nothing of what was stored or read: it is a warning. Where the
    /// coordinator's fails the others are not called, as gpbackup has it.
    #[must_use]
    pub fn clean_up(&self, purpose: Purpose, timestamp: &Timestamp, segments: u16) -> Vec<Failure> {
        let mut failures = self.hook(purpose.cleanup(), Scope::Coordinator, timestamp, segments);
        if failures.is_empty() {
            for scope in [Scope::SegmentHost, Scope::Segment] {
                failures.extend(self.hook(purpose.cleanup(), scope, timestamp, segments));
            }
        }
        failures
    }

    fn hook(&self, word: &str, scope: Scope, timestamp: &Timestamp, segments: u16) -> Vec<Failure> {
        let one = |content: i32| {
            let directory = directory(&self.data_directory(content), timestamp).into_os_string();
            let mut rest = vec![directory, scope.word().into()];
            if scope != Scope::SegmentHost {
                // Real hosts give the quotes along (reference 1, fact 1).
                rest.push(format!("\"{content}\"").into());
            }
            self.simply(word, &rest).err()
        };
        if scope == Scope::Coordinator {
            return one(-1).into_iter().collect();
        }
        at_once(segments, one).into_iter().flatten().collect()
    }

    /// Stores a stream under a key that was never used.
    ///
    /// # Errors
    /// Any: nothing counts as stored then, and the key is not to be used again.
    pub fn put(&self, key: &Key, content: i32, source: &mut dyn Read) -> Result<Done<Fingerprint>, Failure> {
        let mut source = Hashing::new(source);
        let path = key.path(&self.data_directory(content)).into_os_string();
        let (words, ended) = self.call("backup_data", &[path], Input::From(&mut source), Output::Nothing)?;
        let (taken, took_all) = (ended.taken, ended.took_all);
        let ended = judge(&words, ended).map_err(|failure| after(failure, taken, took_all))?;
        if !took_all {
            let reason = format!("it ended with status 0 and had not read its input, {taken} bytes of which were sent");
            return Err(Failure::Plugin { command: process::name(&words), reason, said: ended.said });
        }
        Ok(Done { value: source.fingerprint(), said: ended.said })
    }

    /// Reads an object that is as it was stored, or fails. What the sink got before a failure is to be thrown away.
    ///
    /// # Errors
    /// Anything but the whole object, nothing but it, and status 0.
    pub fn get(
        &self,
        key: &Key,
        content: i32,
        expected: &Fingerprint,
        sink: &mut dyn Write,
    ) -> Result<Done<()>, Failure> {
        let path = key.path(&self.data_directory(content)).into_os_string();
        self.read("restore_data", &[path], expected, sink)
    }

    fn read(
        &self,
        command: &str,
        rest: &[OsString],
        expected: &Fingerprint,
        sink: &mut dyn Write,
    ) -> Result<Done<()>, Failure> {
        let mut sink = Checking { inner: sink, hash: Sha256::new(), size: 0, most: expected.size };
        let result = self.call(command, rest, Input::Nothing, Output::To(&mut sink));
        let (size, hash) = (sink.size, sink.hash);
        let wrong = |reason: String, said: String| {
            let all = [words(&[command, ""]), rest.to_vec()].concat();
            Failure::Plugin { command: process::name(&all), reason, said }
        };
        if size > expected.size {
            return Err(wrong(
                format!("it gave more than the {} bytes that were stored", expected.size),
                String::new(),
            ));
        }
        let (words, ended) = result?;
        let ended = judge(&words, ended)?;
        if size < expected.size {
            let reason = format!("it gave {size} bytes of the {} that were stored, with status 0", expected.size);
            return Err(wrong(reason, ended.said));
        }
        if <[u8; 32]>::from(hash.finalize()) != expected.sha256 {
            return Err(wrong(
                format!("it gave other bytes than the {size} that were stored, with status 0"),
                ended.said,
            ));
        }
        Ok(Done { value: (), said: ended.said })
    }

    /// Reads ranges of an object that is `size` bytes long, one after another; the ends are not part of them. Nothing but the
    /// length can be verified.
    ///
    /// # Errors
    /// [`Failure::Refused`] unless the configuration says that the plugin can (`restore_subset: on`), and for ranges that overlap,
    /// go backwards or past the end.
    pub fn get_ranges(
        &self,
        key: &Key,
        content: i32,
        size: u64,
        ranges: &[(u64, u64)],
        sink: &mut dyn Write,
    ) -> Result<Done<()>, Failure> {
        if !self.reads_ranges {
            return Err(Failure::refused("the plugin's configuration does not say restore_subset: on"));
        }
        let mut position = 0;
        let mut total = 0;
        let mut text = ranges.len().to_string();
        for &(start, end) in ranges {
            if start < position || end < start || end > size {
                return Err(Failure::refused(format!("{start} to {end} is no range of {size} bytes that comes next")));
            }
            position = end;
            total += end - start;
            text.push_str(&format!(" {start} {end}"));
        }
        let cannot = |error: io::Error| Failure::refused(format!("cannot write a list of ranges: {error}"));
        let mut offsets =
            tempfile::Builder::new().prefix("gprestore_offsets_").tempfile_in(&self.folder).map_err(cannot)?;
        offsets.write_all(text.as_bytes()).map_err(cannot)?;
        let rest = [key.path(&self.data_directory(content)).into_os_string(), offsets.path().into()];
        let mut sink = Checking { inner: sink, hash: Sha256::new(), size: 0, most: total };
        let result = self.call("restore_data_subset", &rest, Input::Nothing, Output::To(&mut sink));
        let given = sink.size;
        if given > total {
            let reason = format!("it gave more than the {total} bytes that were asked for");
            return Err(Failure::Plugin { command: format!("restore_data_subset {key}"), reason, said: String::new() });
        }
        let (words, ended) = result?;
        let ended = judge(&words, ended)?;
        if given < total {
            let reason = format!("it gave {given} bytes of the {total} that were asked for, with status 0");
            return Err(Failure::Plugin { command: process::name(&words), reason, said: ended.said });
        }
        Ok(Done { value: (), said: ended.said })
    }

    /// Stores the file that stands at the key's path below the data directory of a segment.
    ///
    /// # Errors
    /// The file cannot be read, was changed by the plugin, or was not stored.
    pub fn put_file(&self, key: &Key, content: i32) -> Result<Done<Fingerprint>, Failure> {
        let path = key.path(&self.data_directory(content));
        let before = fingerprint_of(&path).map_err(Failure::Source)?;
        let done = self.simply("backup_file", &[path.clone().into()])?;
        if fingerprint_of(&path).ok() != Some(before) {
            let reason = "it changed the local file".to_owned();
            return Err(Failure::Plugin {
                command: format!("backup_file {}", path.display()),
                reason,
                said: done.said,
            });
        }
        Ok(Done { value: before, said: done.said })
    }

    /// Brings a file back to the key's path below the data directory of a segment. A file that is not as it was stored does not
    /// stay there.
    ///
    /// # Errors
    /// It did not come, or came otherwise than it was stored.
    pub fn get_file(&self, key: &Key, content: i32, expected: &Fingerprint) -> Result<Done<PathBuf>, Failure> {
        let path = key.path(&self.data_directory(content));
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(Failure::Sink)?;
        }
        let result = self.simply("restore_file", &[path.clone().into()]).and_then(|done| {
            let wrong = |reason: String| Failure::Plugin {
                command: format!("restore_file {}", path.display()),
                reason,
                said: done.said.clone(),
            };
            let came =
                fingerprint_of(&path).map_err(|error| wrong(format!("it wrote no file, with status 0: {error}")))?;
            if came.size != expected.size {
                return Err(wrong(format!("it gave {} bytes instead of {}, with status 0", came.size, expected.size)));
            }
            if came != *expected {
                return Err(wrong(format!(
                    "it gave other bytes than the {} that were stored, with status 0",
                    came.size
                )));
            }
            Ok(Done { value: path.clone(), said: done.said })
        });
        if result.is_err() {
            // What came of it is worth nothing; there may be no file.
            let _ = std::fs::remove_file(&path);
        }
        result
    }

    /// Deletes everything of a timestamp.
    ///
    /// # Errors
    /// [`Failure::Refused`] below version 0.4.0 of the contract.
    pub fn delete(&self, timestamp: &Timestamp) -> Result<Done<()>, Failure> {
        if !self.can_delete() {
            return Err(Failure::refused(format!(
                "the plugin cannot delete: it speaks version {}, and delete_backup came with {}",
                self.api,
                ApiVersion::DELETES
            )));
        }
        self.simply("delete_backup", &[timestamp.as_str().into()])
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        // It can hold passwords.
        let _ = std::fs::remove_file(&self.config);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Coordinator,
    SegmentHost,
    Segment,
}

impl Scope {
    const ALL: [Self; 3] = [Self::Coordinator, Self::SegmentHost, Self::Segment];

    fn word(self) -> &'static str {
        match self {
            // The word of real hosts (reference 1, fact 2).
            Self::Coordinator => "master",
            Self::SegmentHost => "segment_host",
            Self::Segment => "segment",
        }
    }
}

/// Does something for each segment, all at once.
pub(crate) fn at_once<T: Send>(segments: u16, one: impl Fn(i32) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let one = &one;
        let started: Vec<_> = (0..i32::from(segments)).map(|content| scope.spawn(move || one(content))).collect();
        let joined = started.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined.map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

/// Status 0, or a failure.
fn judge(words: &[OsString], ended: Ended) -> Result<Ended, Failure> {
    if ended.status.success() {
        return Ok(ended);
    }
    Err(Failure::Plugin { command: process::name(words), reason: ended.how(), said: ended.said })
}

/// Tells how far it got.
fn after(failure: Failure, taken: u64, took_all: bool) -> Failure {
    match failure {
        Failure::Plugin { command, reason, said } if !took_all => {
            Failure::Plugin { command, reason: format!("{reason} after {taken} bytes were sent"), said }
        }
        other => other,
    }
}

fn shortened(text: &str) -> String {
    text.trim().chars().take(80).collect()
}

/// The fingerprint of a file.
pub(crate) fn fingerprint_of(path: &Path) -> io::Result<Fingerprint> {
    let mut file = std::fs::File::open(path)?;
    let mut hashing = Hashing::new(&mut file);
    io::copy(&mut hashing, &mut io::sink())?;
    Ok(hashing.fingerprint())
}

/// A source whose bytes are counted.
struct Hashing<'a> {
    inner: &'a mut dyn Read,
    hash: Sha256,
    size: u64,
}

impl<'a> Hashing<'a> {
    fn new(inner: &'a mut dyn Read) -> Self {
        Self { inner, hash: Sha256::new(), size: 0 }
    }

    fn fingerprint(self) -> Fingerprint {
        Fingerprint { size: self.size, sha256: self.hash.finalize().into() }
    }
}

impl Read for Hashing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.size += count as u64;
        Ok(count)
    }
}

/// A sink that takes no more than there should be.
struct Checking<'a> {
    inner: &'a mut dyn Write,
    hash: Sha256,
    size: u64,
    most: u64,
}

impl Write for Checking<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.size += bytes.len() as u64;
        if self.size > self.most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.inner.write_all(bytes)?;
        self.hash.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
