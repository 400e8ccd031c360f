//! The ledger: everything a source announced, in order and word for word, for the restore through the same adapter.
//!
//! It is an ordinary file of the snapshot, `/.backstay/<source>/ledger`: a magic line, then records, each a 32-bit
//! little-endian length and a postcard body, then eight bytes that say where its tail begins. Contents are named by blob
//! ids, not repeated. Every blob that a ledger names is also the content of some node (of the view, or of the file
//! `content` beside the ledger), so that any program that knows the repository format keeps it.
//!
//! The ledger of a job that builds on others begins with what is left of theirs: a chapter for each job, oldest first, so
//! that one file is all that a restore needs. The tail holds what a reader has to know before the first entry: the
//! objects that sources kept, and the names that are gone. May use: core, repository.

use std::collections::HashMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use backstay_core::{Attr, Entry, Id, SavedJob, SideObject};
use backstay_repository::error::Error;
use backstay_repository::open_file::OpenFile;
use backstay_repository::reader::Reader;
use backstay_repository::stream::{Content, ContentWriter};
use serde::{Deserialize, Serialize};

/// The reserved folder at the root of a snapshot.
pub const INTERNAL_DIRECTORY: &str = ".backstay";
/// The ledger's name within its source's folder.
pub const LEDGER_FILE: &str = "ledger";
/// The file that keeps blobs alive which no node of the view holds.
pub const CONTENT_FILE: &str = "content";

const MAGIC: &[u8; 18] = b"backstay ledger 2\n";
/// The first version: one job, no tail.
const MAGIC_1: &[u8; 18] = b"backstay ledger 1\n";
/// No record comes near this: a longer one is damage.
const LONGEST_RECORD: usize = 1 << 30;

/// What the ledger says about its source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerHeader {
    /// Name of the source.
    pub source: String,
    /// The adapter that restores through it.
    pub adapter: String,
    /// The jobs whose entries it holds, oldest first; the last one wrote it.
    pub jobs: Vec<SavedJob>,
}

impl LedgerHeader {
    /// The job that wrote the ledger.
    #[must_use]
    pub fn job(&self) -> Option<&SavedJob> {
        self.jobs.last()
    }
}

/// One announced entry that was saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// As announced.
    pub entry: Entry,
    /// Its attributes, in order.
    pub attrs: Vec<Attr>,
    /// Its data blobs, in order.
    pub content: Vec<Id>,
    /// Length of its data in bytes.
    pub size: u64,
}

/// What the first version said about its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FirstHeader {
    source: String,
    adapter: String,
    definitions: Vec<String>,
    job_id: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Record {
    FirstHeader(FirstHeader),
    Entry(Box<LedgerEntry>),
    /// How many entries came before: a ledger without it was cut off.
    End(u64),
    Header(LedgerHeader),
    /// The entries that follow are those of the job at this place in the header.
    Chapter(u32),
    /// In the tail.
    Object(Box<SideObject>),
    /// In the tail: this name is gone from the entries with a lower number, the first of which has the number 0.
    Gone {
        name: Vec<u8>,
        before: u64,
    },
}

/// Writes a ledger while the source runs.
#[derive(Debug)]
pub struct LedgerWriter {
    out: ContentWriter,
    frame: Vec<u8>,
    entries: u64,
    objects: Vec<SideObject>,
    gone: Vec<(Vec<u8>, u64)>,
}

impl LedgerWriter {
    /// Starts a ledger. What follows belongs to the first job of the header until [`LedgerWriter::chapter`].
    ///
    /// # Errors
    /// The store's error.
    pub fn new(mut out: ContentWriter, header: LedgerHeader) -> Result<Self, Error> {
        out.write(MAGIC)?;
        let mut ledger = Self { out, frame: Vec::new(), entries: 0, objects: Vec::new(), gone: Vec::new() };
        ledger.record(&Record::Header(header))?;
        Ok(ledger)
    }

    /// The entries that follow are those of the job at this place of the header.
    ///
    /// # Errors
    /// The store's error.
    pub fn chapter(&mut self, number: usize) -> Result<(), Error> {
        self.record(&Record::Chapter(u32::try_from(number).unwrap_or(u32::MAX)))
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// The store's error.
    pub fn entry(&mut self, entry: LedgerEntry) -> Result<(), Error> {
        self.entries += 1;
        self.record(&Record::Entry(Box::new(entry)))
    }

    /// Keeps an object.
    pub fn object(&mut self, object: SideObject) {
        self.objects.push(object);
    }

    /// The name is gone from all entries that were added until now.
    pub fn gone(&mut self, name: Vec<u8>) {
        self.gone.push((name, self.entries));
    }

    /// Ends the ledger.
    ///
    /// # Errors
    /// The store's error.
    pub fn finish(mut self) -> Result<Content, Error> {
        let tail = self.out.size();
        for object in std::mem::take(&mut self.objects) {
            self.record(&Record::Object(Box::new(object)))?;
        }
        for (name, before) in std::mem::take(&mut self.gone) {
            self.record(&Record::Gone { name, before })?;
        }
        let end = Record::End(self.entries);
        self.record(&end)?;
        self.out.write(&tail.to_le_bytes())?;
        self.out.finish()
    }

    fn record(&mut self, record: &Record) -> Result<(), Error> {
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        frame.extend_from_slice(&[0; 4]);
        let mut frame = postcard::to_extend(record, frame)
            .map_err(|error| Error::Other(format!("a ledger record could not be written: {error}")))?;
        let length = frame.len() - 4;
        if length > LONGEST_RECORD {
            return Err(Error::Other("a ledger record of 1 GiB or more cannot be written".to_owned()));
        }
        let word = u32::try_from(length).unwrap_or(u32::MAX);
        frame[..4].copy_from_slice(&word.to_le_bytes());
        self.out.write(&frame)?;
        frame.clear();
        self.frame = frame;
        Ok(())
    }
}

/// Where a ledger is read from.
pub trait LedgerInput: Read + Seek + Send {}

impl<T: Read + Seek + Send> LedgerInput for T {}

/// Reads a ledger front to back.
pub struct LedgerReader {
    input: Box<dyn LedgerInput>,
    header: LedgerHeader,
    frame: Vec<u8>,
    read: u64,
    /// The number of entries, where the tail told it.
    entries: Option<u64>,
    chapter: usize,
    objects: Vec<SideObject>,
    /// Names that are gone, from which entry on they count again.
    gone: HashMap<Vec<u8>, u64>,
    ended: bool,
}

impl std::fmt::Debug for LedgerReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LedgerReader").field("read", &self.read).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Sequential {
    file: OpenFile,
    position: u64,
}

impl Read for Sequential {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(self.position, buffer).map_err(io::Error::other)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for Sequential {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.file.size().checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

impl LedgerReader {
    /// Opens the ledger of a source in the snapshot whose root tree is `root`.
    ///
    /// # Errors
    /// There is none, it is damaged, or the repository cannot be read.
    pub fn open(reader: &Arc<Reader>, root: &Id, source: &str) -> Result<Self, Error> {
        Self::find(reader, root, source)?
            .ok_or_else(|| Error::Other(format!("the snapshot has no /{INTERNAL_DIRECTORY}/{source}/{LEDGER_FILE}")))
    }

    /// The same, or none if the snapshot has no such ledger.
    ///
    /// # Errors
    /// It is damaged, or the repository cannot be read.
    pub fn find(reader: &Arc<Reader>, root: &Id, source: &str) -> Result<Option<Self>, Error> {
        let path = format!("{INTERNAL_DIRECTORY}/{source}/{LEDGER_FILE}");
        let Some(node) = reader.node_at(root, path.as_bytes())? else { return Ok(None) };
        let file = OpenFile::new(Arc::clone(reader), &node)?;
        let input = io::BufReader::with_capacity(256 << 10, Sequential { file, position: 0 });
        Self::read_from(Box::new(input), source).map(Some)
    }

    /// Reads the ledger of `source` from its bytes.
    ///
    /// # Errors
    /// It is damaged, or cannot be read.
    pub fn read_from(mut input: Box<dyn LedgerInput>, source: &str) -> Result<Self, Error> {
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic).map_err(|error| unread(source, &error))?;
        let header = LedgerHeader { source: source.to_owned(), ..LedgerHeader::default() };
        let mut ledger = Self {
            input,
            header,
            frame: Vec::new(),
            read: 0,
            entries: None,
            chapter: 0,
            objects: Vec::new(),
            gone: HashMap::new(),
            ended: false,
        };
        match (&magic, ledger.record()?) {
            (MAGIC, Record::Header(header)) => {
                ledger.header = header;
                ledger.tail().map_err(|error| match error {
                    Tail::Io(error) => unread(source, &error),
                    Tail::Record(error) => error,
                })?;
            }
            (MAGIC_1, Record::FirstHeader(first)) => {
                let job = SavedJob { id: first.job_id, definitions: first.definitions, ..SavedJob::default() };
                ledger.header = LedgerHeader { source: first.source, adapter: first.adapter, jobs: vec![job] };
            }
            (MAGIC | MAGIC_1, _) => return Err(damaged(source, "its first record is no header")),
            _ => return Err(damaged(source, "it does not start as a ledger that this version can read")),
        }
        Ok(ledger)
    }

    /// Reads the tail, and comes back to the first entry.
    fn tail(&mut self) -> Result<(), Tail> {
        let first = self.input.stream_position()?;
        let end = self.input.seek(SeekFrom::End(-8))?;
        let mut word = [0; 8];
        self.input.read_exact(&mut word)?;
        let tail = u64::from_le_bytes(word);
        if tail < first || tail >= end {
            return Err(Tail::Record(damaged(&self.header.source, "its end does not say where its tail is")));
        }
        self.input.seek(SeekFrom::Start(tail))?;
        loop {
            match self.record().map_err(Tail::Record)? {
                Record::Object(object) => self.objects.push(*object),
                Record::Gone { name, before } => {
                    let known = self.gone.entry(name).or_default();
                    *known = before.max(*known);
                }
                Record::End(entries) => {
                    self.entries = Some(entries);
                    break;
                }
                _ => return Err(Tail::Record(damaged(&self.header.source, "its tail holds what belongs before it"))),
            }
        }
        if self.input.stream_position()? != end {
            return Err(Tail::Record(damaged(&self.header.source, "something follows its end")));
        }
        self.input.seek(SeekFrom::Start(first))?;
        Ok(())
    }

    /// What the ledger says about its source.
    #[must_use]
    pub fn header(&self) -> &LedgerHeader {
        &self.header
    }

    /// Where in the header's list the job stands that announced the entry that was read last.
    #[must_use]
    pub fn chapter(&self) -> usize {
        self.chapter
    }

    /// The objects that the jobs kept, as they were given.
    #[must_use]
    pub fn objects(&self) -> &[SideObject] {
        &self.objects
    }

    /// The next entry whose name was not deleted later, none at the end.
    ///
    /// # Errors
    /// Damage, or a repository that cannot be read.
    pub fn next_entry(&mut self) -> Result<Option<LedgerEntry>, Error> {
        loop {
            let Some(entry) = self.next_of_all()? else { return Ok(None) };
            // `read` is one more than the entry's number.
            if self.gone.is_empty() || self.gone.get(&entry.entry.name).is_none_or(|before| self.read > *before) {
                return Ok(Some(entry));
            }
        }
    }

    /// The next entry, also one whose name is gone; none at the end.
    ///
    /// # Errors
    /// Damage, or a repository that cannot be read.
    pub fn next_of_all(&mut self) -> Result<Option<LedgerEntry>, Error> {
        while !self.ended {
            if self.entries == Some(self.read) {
                self.ended = true;
                break;
            }
            match self.record()? {
                Record::Entry(entry) => {
                    self.read += 1;
                    return Ok(Some(*entry));
                }
                Record::Chapter(number) if (number as usize) < self.header.jobs.len() => self.chapter = number as usize,
                Record::End(count) if self.entries.is_none() && count == self.read => self.ended = true,
                Record::End(_) => return Err(damaged(&self.header.source, "records are missing")),
                _ => return Err(damaged(&self.header.source, "a record stands where it does not belong")),
            }
        }
        Ok(None)
    }

    fn record(&mut self) -> Result<Record, Error> {
        let source = &self.header.source;
        let mut length = [0; 4];
        self.input.read_exact(&mut length).map_err(|error| unread(source, &error))?;
        let length = u32::from_le_bytes(length) as usize;
        if length > LONGEST_RECORD {
            return Err(damaged(source, "a record is longer than any can be"));
        }
        self.frame.clear();
        let got = (&mut self.input)
            .take(length as u64)
            .read_to_end(&mut self.frame)
            .map_err(|error| unread(source, &error))?;
        if got < length {
            return Err(damaged(source, "it ends in the middle of a record"));
        }
        postcard::from_bytes(&self.frame).map_err(|error| damaged(source, &error.to_string()))
    }
}

/// Why a tail cannot be read.
enum Tail {
    Io(io::Error),
    Record(Error),
}

impl From<io::Error> for Tail {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Why a read did not work: the store's own words where it failed.
fn unread(source: &str, error: &io::Error) -> Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(failure) if failure.is_store_failure() => failure.clone(),
        _ => damaged(source, &error.to_string()),
    }
}

fn damaged(source: &str, reason: &str) -> Error {
    Error::Other(format!("the ledger /{INTERNAL_DIRECTORY}/{source}/{LEDGER_FILE} cannot be read: {reason}"))
}

/// Puts objects into the order in which they come back: by kind, then by index, then as they were given.
pub fn sort_objects(objects: &mut [SideObject]) {
    objects.sort_by_key(|object| (object.kind, object.index));
}

/// Names of the sources that have a ledger in the snapshot whose root tree is `root`.
///
/// # Errors
/// The repository cannot be read.
pub fn sources(reader: &Arc<Reader>, root: &Id) -> Result<Vec<String>, Error> {
    let Some(subtree) = reader.node_at(root, INTERNAL_DIRECTORY.as_bytes())?.and_then(|node| node.subtree) else {
        return Ok(Vec::new());
    };
    let tree = reader.tree(&subtree)?;
    Ok(tree.nodes.iter().map(|node| String::from_utf8_lossy(&node.name).into_owned()).collect())
}
