//! The journal: a file of this host that knows every object, because a plugin cannot list.
//!
//! Lines are appended and made durable before what they say counts. Each carries a checksum over itself and all lines before it: a
//! last line that a power cut tore is found and dropped, damage anywhere else stops everything, and a copy of some lines fits
//! only where it belongs. Several processes of this host share the file: whoever writes holds a lock (`flock`), reads first what
//! others appended, and renames a shorter file over it when most of its lines are history.
//!
//! Imports the records only; nothing here knows plugins.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use backstay_core::Id;
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use crate::numbers::Series;
use crate::record::Record;
use crate::state::{PIECES, State};

const MAGIC: &str = "backstay-gpbackup-journal 1";
/// A journal is written anew when it has this many lines of history more than twice what it would have.
const SLACK: u64 = 1000;

/// What is wrong with the journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file or its folder.
    #[error("cannot {doing} {}: {error}", .path.display())]
    File {
        /// What was attempted.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// What stands in it.
    #[error(
        "{}, line {line}: {reason}; move the file away and have the journal rebuilt (-o gpbackup.rebuild)",
        .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// Numbers are used up.
    #[error("{0}")]
    Full(&'static str),
}

/// A checksum over all lines so far.
pub type Chain = [u8; 32];

/// The next link.
#[must_use]
pub fn link(chain: &Chain, text: &str) -> Chain {
    Sha256::new().chain_update(chain).chain_update(text).finalize().into()
}

/// A line with its end.
fn write_line(out: &mut String, chain: &mut Chain, text: &str) {
    *chain = link(chain, text);
    out.push_str(text);
    out.push(' ');
    out.push_str(&Id(*chain).to_hex()[..16]);
    out.push('\n');
}

/// Takes a line (without its end of line) apart; none if it does not follow.
#[must_use]
pub fn read_line<'a>(chain: &Chain, line: &'a str) -> Option<(Record, Chain, &'a str)> {
    let (text, sum) = line.rsplit_once(' ')?;
    let next = link(chain, text);
    if Id(next).to_hex()[..16] != *sum {
        return None;
    }
    Some((Record::parse(text)?, next, text))
}

/// The journal as far as it was read.
#[derive(Debug)]
pub struct Loaded {
    /// The number of the repository.
    pub series: Series,
    /// What the lines say.
    pub state: State,
    file: File,
    place: (u64, u64),
    /// Bytes that were read.
    offset: u64,
    /// The number of the file's first line, counted from the first line that ever was.
    first: u64,
    seed: Chain,
    chain: Chain,
    /// The number of the next line.
    line: u64,
    /// The line behind the last one that a copy should have.
    news: u64,
}

/// Lines to be copied behind the plugin.
#[derive(Debug)]
pub struct Copy {
    /// The number that was given to the copy.
    pub number: u32,
    /// The line behind its last.
    pub upto: u64,
    /// Of its first line.
    pub first: u64,
    /// The checksum over all lines before it.
    pub seed: Chain,
    /// The lines.
    pub lines: String,
    /// The number of the repository.
    pub series: Series,
}

/// The journal of one place.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    lock: File,
    inner: Mutex<Option<Loaded>>,
}

impl Journal {
    /// The journal in a folder, which is made. There need not be one yet.
    ///
    /// # Errors
    /// The folder cannot be made or locked.
    pub fn open(folder: &Path) -> Result<Self, JournalError> {
        let failed = |doing, path: &Path, error| JournalError::File { doing, path: path.to_owned(), error };
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|error| failed("make", folder, error))?;
        let path = folder.join("lock");
        let lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let lock = lock.map_err(|error| failed("open", &path, error))?;
        Ok(Self { folder: folder.to_owned(), lock, inner: Mutex::new(None) })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.join("journal")
    }

    /// Looks at what is known now, by this process and others.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn read<T>(&self, look: impl FnOnce(Option<&Loaded>) -> T) -> Result<T, JournalError> {
        let mut inner = self.inner.lock();
        self.refresh(&mut inner)?;
        Ok(look(inner.as_ref()))
    }

    /// Begins a journal if there is none. The number of a new one is returned.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn begin(&self) -> Result<Option<Series>, JournalError> {
        let mut inner = self.inner.lock();
        let _lock = self.exclusively()?;
        self.refresh(&mut inner)?;
        if inner.is_some() {
            return Ok(None);
        }
        let series = Series::random().map_err(|error| self.failed("begin", error))?;
        *inner = Some(self.replace(series, 0, [0; 32], &State::default())?);
        Ok(Some(series))
    }

    /// Begins a journal with what copies said. There must be none.
    ///
    /// # Errors
    /// It cannot be written; there is one.
    pub fn take_over(&self, series: Series, line: u64, chain: Chain, state: &State) -> Result<(), JournalError> {
        let mut inner = self.inner.lock();
        let _lock = self.exclusively()?;
        self.refresh(&mut inner)?;
        if inner.is_some() {
            return Err(self.failed("begin", io::ErrorKind::AlreadyExists.into()));
        }
        *inner = Some(self.replace(series, line, chain, state)?);
        Ok(())
    }

    /// Appends what `work` makes of what is known now. When this returns it is durable.
    ///
    /// # Errors
    /// What `work` says; then nothing is appended. The file cannot be written or is damaged. There is no journal.
    pub fn write<T>(
        &self,
        work: impl FnOnce(&State) -> Result<(Vec<Record>, T), JournalError>,
    ) -> Result<T, JournalError> {
        let mut inner = self.inner.lock();
        let _lock = self.exclusively()?;
        self.refresh(&mut inner)?;
        let loaded = inner.as_mut().ok_or_else(|| self.failed("read", io::ErrorKind::NotFound.into()))?;
        let (records, value) = work(&loaded.state)?;
        self.append(loaded, &records)?;
        Ok(value)
    }

    /// Notes that a copy is about to be made, and gives its lines; none if the last copy says everything of consequence.
    ///
    /// # Errors
    /// The file cannot be written or is damaged; numbers are used up.
    pub fn copy(&self) -> Result<Option<Copy>, JournalError> {
        let mut inner = self.inner.lock();
        let _lock = self.exclusively()?;
        self.refresh(&mut inner)?;
        let Some(loaded) = inner.as_mut() else { return Ok(None) };
        let kept = loaded.state.kept.map_or(0, |(_, line)| line);
        if loaded.news <= kept {
            return Ok(None);
        }
        let whole = loaded.state.objects.len() as u64 + loaded.state.generations.len() as u64;
        let is_whole = |loaded: &Loaded| loaded.state.kept.is_none_or(|(_, line)| line <= loaded.first);
        if !is_whole(loaded)
            && (loaded.line - loaded.first > 2 * whole + SLACK || loaded.state.next_piece(false).is_none())
        {
            *loaded = self.replace(loaded.series, loaded.line, loaded.chain, &loaded.state)?;
        }
        let whole = is_whole(loaded);
        let number = loaded.state.next_piece(whole).ok_or(JournalError::Full(
            "this place has no numbers left for copies of the journal: copy the repository to another one",
        ))?;
        debug_assert_eq!(whole, number % PIECES == 0);
        self.append(loaded, &[Record::Piece(number)])?;
        let from = if whole { loaded.first } else { kept };
        let mut text = String::new();
        let mut read = || -> io::Result<()> {
            loaded.file.seek(SeekFrom::Start(0))?;
            (&loaded.file).take(loaded.offset).read_to_string(&mut text)?;
            Ok(())
        };
        read().map_err(|error| self.failed("read", error))?;
        let mut rest = text.split_once('\n').map_or("", |(_, rest)| rest);
        let mut chain = loaded.seed;
        for _ in loaded.first..from {
            let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
            chain = link(&chain, line.rsplit_once(' ').map_or(line, |(text, _)| text));
            rest = after;
        }
        Ok(Some(Copy {
            number,
            upto: loaded.line,
            first: from,
            seed: chain,
            lines: rest.to_owned(),
            series: loaded.series,
        }))
    }

    fn failed(&self, doing: &'static str, error: io::Error) -> JournalError {
        JournalError::File { doing, path: self.path(), error }
    }

    /// Waits until no other process writes.
    fn exclusively(&self) -> Result<Exclusive<'_>, JournalError> {
        loop {
            match flock(&self.lock, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(Exclusive(&self.lock)),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    let path = self.folder.join("lock");
                    return Err(JournalError::File { doing: "lock", path, error: error.into() });
                }
            }
        }
    }

    /// Does something while no other process writes.
    ///
    /// # Errors
    /// The lock cannot be taken.
    pub fn alone<T>(&self, work: impl FnOnce() -> T) -> Result<T, JournalError> {
        let _inner = self.inner.lock();
        let _lock = self.exclusively()?;
        Ok(work())
    }

    /// Reads what is new.
    fn refresh(&self, inner: &mut Option<Loaded>) -> Result<(), JournalError> {
        let path = self.path();
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                *inner = None;
                return Ok(());
            }
            Err(error) => return Err(self.failed("read", error)),
        };
        if let Some(loaded) = inner.as_mut().filter(|loaded| loaded.place == (metadata.dev(), metadata.ino())) {
            if metadata.len() > loaded.offset {
                return self.more(loaded);
            }
            if metadata.len() == loaded.offset {
                return Ok(());
            }
        }
        *inner = None;
        let file = OpenOptions::new().read(true).append(true).open(&path);
        let mut file = file.map_err(|error| self.failed("open", error))?;
        let metadata = file.metadata().map_err(|error| self.failed("read", error))?;
        let mut head = Vec::new();
        let read = (&mut file).take(200).read_to_end(&mut head);
        read.map_err(|error| self.failed("read", error))?;
        let end = head.iter().position(|byte| *byte == b'\n');
        let header = end.and_then(|end| std::str::from_utf8(&head[..end]).ok()).and_then(header);
        let (Some((series, first, seed)), Some(end)) = (header, end) else {
            return Err(self.damaged(1, "this is no journal of this version"));
        };
        let mut loaded = Loaded {
            series,
            state: State::default(),
            file,
            place: (metadata.dev(), metadata.ino()),
            offset: end as u64 + 1,
            first,
            seed,
            chain: seed,
            line: first,
            news: 0,
        };
        self.more(&mut loaded)?;
        *inner = Some(loaded);
        Ok(())
    }

    fn damaged(&self, line: u64, reason: impl Into<String>) -> JournalError {
        JournalError::Damaged { path: self.path(), line, reason: reason.into() }
    }

    /// Reads whole lines behind what was read. A last line that does not fit is one that is still being written, or was torn.
    fn more(&self, loaded: &mut Loaded) -> Result<(), JournalError> {
        let mut bytes = Vec::new();
        let mut read = || {
            loaded.file.seek(SeekFrom::Start(loaded.offset))?;
            loaded.file.read_to_end(&mut bytes)
        };
        read().map_err(|error| self.failed("read", error))?;
        let mut rest = bytes.as_slice();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let number = loaded.line - loaded.first + 2;
            let line = std::str::from_utf8(&rest[..end]).ok().and_then(|line| read_line(&loaded.chain, line));
            let Some((record, chain, _)) = line else {
                if end + 1 == rest.len() {
                    return Ok(());
                }
                return Err(self.damaged(number, "it does not fit to the lines before it"));
            };
            loaded.state.apply(&record).map_err(|reason| self.damaged(number, reason))?;
            loaded.line += 1;
            loaded.chain = chain;
            loaded.offset += end as u64 + 1;
            if matches!(record, Record::Put { .. } | Record::Delete { .. }) {
                loaded.news = loaded.line;
            }
            rest = &rest[end + 1..];
        }
        Ok(())
    }

    /// Appends lines; the lock is held.
    fn append(&self, loaded: &mut Loaded, records: &[Record]) -> Result<(), JournalError> {
        if records.is_empty() {
            return Ok(());
        }
        let mut text = String::new();
        let mut chain = loaded.chain;
        for record in records {
            write_line(&mut text, &mut chain, &record.to_string());
        }
        let write = |file: &mut File| {
            // What a torn line left.
            if file.metadata()?.len() != loaded.offset {
                file.set_len(loaded.offset)?;
            }
            file.write_all(text.as_bytes())?;
            file.sync_data()
        };
        if let Err(error) = write(&mut loaded.file) {
            // A part of it is a torn line; the next writer cuts it off, too, if this does not work.
            let _ = loaded.file.set_len(loaded.offset);
            return Err(self.failed("write", error));
        }
        self.more(loaded)
    }

    /// Writes a journal of what `state` says and puts it in the place of the old one; the lock is held.
    fn replace(&self, series: Series, first: u64, seed: Chain, state: &State) -> Result<Loaded, JournalError> {
        let mut text = format!("{MAGIC} {series} {first} {}\n", Id(seed).to_hex());
        let mut chain = seed;
        for record in state.checkpoint() {
            write_line(&mut text, &mut chain, &record.to_string());
        }
        let new = self.folder.join("journal.new");
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, self.path())?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(|error| self.failed("write", error))?;
        let mut loaded = None;
        self.refresh(&mut loaded)?;
        loaded.ok_or_else(|| self.failed("read", io::ErrorKind::NotFound.into()))
    }
}

fn header(line: &str) -> Option<(Series, u64, Chain)> {
    let words: Vec<&str> = line.strip_prefix(MAGIC)?.strip_prefix(' ')?.split(' ').collect();
    let [series, first, seed] = *words.as_slice() else { return None };
    Some((Series::parse(series)?, first.parse().ok()?, seed.parse::<Id>().ok()?.0))
}

struct Exclusive<'a>(&'a File);

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        // It goes with the descriptor at the latest.
        let _ = flock(self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests;
