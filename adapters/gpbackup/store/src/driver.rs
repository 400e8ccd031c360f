//! The plugin while this process needs it: opened and set up at its first transfer, cleaned up at the end, so many commands at once.
//!
//! Everything local is in a folder of this process below the state folder: the plugin's copy of the configuration, which can
//! hold passwords, and the folders that gpbackup would have made. A lock on a file beside it says that the process lives; what a killed one left is removed by the next.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backstay_gpbackup_host::plugin::{Purpose, Settings};
use backstay_gpbackup_host::process::{Input, Limits, Output};
use backstay_gpbackup_host::{Failure, Fingerprint, Key, Plugin, Timestamp, UserConfig, key};
use parking_lot::{Condvar, Mutex};
use rustix::fs::{FlockOperation, flock};

/// The segment whose folder objects go to: the only one there is.
const SEGMENT: i32 = 0;
const SEGMENTS: u16 = 1;

/// Hears what went wrong without consequence.
pub type Notice = Arc<dyn Fn(&str) + Send + Sync>;

/// One process and its plugin.
pub struct Driver {
    config: UserConfig,
    runs: PathBuf,
    /// The name of this process among those of the place.
    pub tag: String,
    _alive: File,
    patience: Duration,
    slots: Slots,
    notice: Notice,
    plugin: Mutex<Option<Arc<Plugin>>>,
    set_up: [Mutex<Option<Timestamp>>; 2],
}

impl Driver {
    /// Takes a name for this process in the folder of the place, and removes what dead ones left. No other process does so at the
    /// same time: the caller holds the place's lock.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn new(
        config: UserConfig,
        folder: &Path,
        connections: usize,
        patience: Duration,
        notice: Notice,
    ) -> io::Result<Self> {
        let runs = folder.join("run");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&runs)?;
        for entry in fs::read_dir(&runs)?.flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            if let Some(tag) = name.strip_suffix(".lock").filter(|tag| !lives(&runs, tag)) {
                // The lock goes last: as long as it is there the next process tries again.
                let removed = fs::remove_dir_all(runs.join(tag));
                if removed.is_ok() || removed.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
        let number = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
        let tag = format!("{number:016x}");
        let path = runs.join(format!("{tag}.lock"));
        let alive = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        flock(&alive, FlockOperation::NonBlockingLockExclusive)?;
        let (slots, plugin) = (Slots::new(connections), Mutex::default());
        Ok(Self { config, runs, tag, _alive: alive, patience, slots, notice, plugin, set_up: Default::default() })
    }

    /// Whether a process of that name is at work.
    #[must_use]
    pub fn lives(&self, tag: &str) -> bool {
        tag == self.tag || lives(&self.runs, tag)
    }

    /// How many commands run at once.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.slots.most
    }

    /// Tells what went wrong without consequence.
    pub fn tell(&self, text: &str) {
        (self.notice)(text);
    }

    fn root(&self) -> PathBuf {
        self.runs.join(&self.tag)
    }

    /// The plugin; its versions are looked at the first time.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn plugin(&self) -> Result<Arc<Plugin>, Failure> {
        let mut plugin = self.plugin.lock();
        if let Some(plugin) = plugin.as_ref() {
            return Ok(Arc::clone(plugin));
        }
        let limits = Limits { patience: self.patience, ..Limits::default() };
        let settings = Settings { limits, ..Settings::default() };
        let opened = Arc::new(Plugin::open(&self.config, &self.root(), settings)?);
        *plugin = Some(Arc::clone(&opened));
        Ok(opened)
    }

    /// The plugin ready for objects of this timestamp: the hooks are run the first time.
    fn ready(&self, purpose: Purpose, timestamp: &Timestamp) -> Result<Arc<Plugin>, Failure> {
        let plugin = self.plugin()?;
        let mut set_up = self.set_up[purpose as usize].lock();
        if set_up.is_none() {
            plugin.set_up(purpose, timestamp, SEGMENTS)?;
            *set_up = Some(timestamp.clone());
        }
        drop(set_up);
        let directory = key::directory(&plugin.data_directory(SEGMENT), timestamp);
        fs::create_dir_all(&directory)
            .map_err(|error| Failure::Refused(format!("cannot make {}: {error}", directory.display())))?;
        Ok(plugin)
    }

    /// Stores an object under a key that was never used.
    ///
    /// # Errors
    /// Nothing counts as stored then.
    pub fn put(&self, key: &Key, body: &[u8]) -> Result<(), Failure> {
        let _slot = self.slots.take();
        let done = self.ready(Purpose::Backup, &key.timestamp)?.put(key, SEGMENT, &mut &body[..])?;
        self.warn("backup_data", &done.said);
        Ok(())
    }

    /// Reads an object that is as it was stored.
    ///
    /// # Errors
    /// Anything else; what the sink got is to be thrown away.
    pub fn get(&self, key: &Key, expected: &Fingerprint, sink: &mut dyn Write) -> Result<(), Failure> {
        let _slot = self.slots.take();
        let done = self.ready(Purpose::Restore, &key.timestamp)?.get(key, SEGMENT, expected, sink)?;
        self.warn("restore_data", &done.said);
        Ok(())
    }

    /// Reads a range of an object, where the plugin can.
    ///
    /// # Errors
    /// It did not come whole.
    pub fn get_range(&self, key: &Key, size: u64, range: (u64, u64), sink: &mut dyn Write) -> Result<(), Failure> {
        let _slot = self.slots.take();
        let plugin = self.ready(Purpose::Restore, &key.timestamp)?;
        let done = plugin.get_ranges(key, SEGMENT, size, &[range], sink)?;
        self.warn("restore_data_subset", &done.said);
        Ok(())
    }

    /// Reads an object of which nothing is known.
    ///
    /// # Errors
    /// There is none, or the plugin cannot be used.
    pub fn get_unknown(&self, key: &Key, most: usize) -> Result<Vec<u8>, Failure> {
        let _slot = self.slots.take();
        let plugin = self.ready(Purpose::Restore, &key.timestamp)?;
        let mut sink = AtMost { bytes: Vec::new(), most };
        let path = key.path(&plugin.data_directory(SEGMENT)).into_os_string();
        let (_, ended) = plugin.call("restore_data", &[path], Input::Nothing, Output::To(&mut sink))?;
        if ended.status.success() {
            return Ok(sink.bytes);
        }
        Err(Failure::Plugin { command: format!("restore_data {key}"), reason: ended.how(), said: ended.said })
    }

    /// Deletes a timestamp.
    ///
    /// # Errors
    /// It may be there still.
    pub fn delete(&self, timestamp: &Timestamp) -> Result<(), Failure> {
        let _slot = self.slots.take();
        let done = self.plugin()?.delete(timestamp)?;
        self.warn("delete_backup", &done.said);
        Ok(())
    }

    fn warn(&self, command: &str, said: &str) {
        if !said.is_empty() {
            self.tell(&format!("the plugin says at {command}: {said}"));
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(plugin) = self.plugin.lock().take() {
            for purpose in [Purpose::Backup, Purpose::Restore] {
                let Some(timestamp) = self.set_up[purpose as usize].lock().take() else { continue };
                for failure in plugin.clean_up(purpose, &timestamp, SEGMENTS) {
                    self.tell(&failure.to_string());
                }
            }
        }
        // There is no folder where the plugin was not needed; what stays is removed by the next process.
        let _ = fs::remove_dir_all(self.root());
        let _ = fs::remove_file(self.runs.join(format!("{}.lock", self.tag)));
    }
}

/// Whether the process of this name holds its lock.
fn lives(runs: &Path, tag: &str) -> bool {
    let Ok(file) = File::open(runs.join(format!("{tag}.lock"))) else { return false };
    flock(&file, FlockOperation::NonBlockingLockShared).is_err()
}

struct AtMost {
    bytes: Vec<u8>,
    most: usize,
}

impl Write for AtMost {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// So many at once.
struct Slots {
    most: usize,
    free: Mutex<usize>,
    given_back: Condvar,
}

struct Slot<'a>(&'a Slots);

impl Slots {
    fn new(most: usize) -> Self {
        Self { most, free: Mutex::new(most), given_back: Condvar::new() }
    }

    fn take(&self) -> Slot<'_> {
        let mut free = self.free.lock();
        while *free == 0 {
            self.given_back.wait(&mut free);
        }
        *free -= 1;
        Slot(self)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.given_back.notify_one();
    }
}
