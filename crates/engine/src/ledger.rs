//! The ledger: everything a source announced, in order and word for word, for the restore through the same adapter.
//!
//! It is an ordinary file of the snapshot, `/.backstay/<source>/ledger`: a magic line, then records, each a 32-bit
//! little-endian length and a postcard body. Contents are named by blob ids, not repeated. Every blob that a ledger names
//! is also the content of some node (of the view, or of the file `content` beside the ledger), so that any program that
//! knows the repository format keeps it. May use: core, repository.

use std::io::{self, Read};
use std::sync::Arc;

use backstay_core::{Attr, Entry, Id};
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

const MAGIC: &[u8] = b"backstay ledger 1\n";
/// No record comes near this: a longer one is damage.
const LONGEST_RECORD: usize = 1 << 30;

/// What the ledger says about its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerHeader {
    /// Name of the source.
    pub source: String,
    /// The adapter that restores through it.
    pub adapter: String,
    /// What started the source.
    pub definitions: Vec<String>,
    /// Number of the job that wrote it.
    pub job_id: u32,
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

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Record {
    Header(LedgerHeader),
    Entry(Box<LedgerEntry>),
    /// How many entries came before: a ledger without it was cut off.
    End(u64),
}

/// Writes a ledger while the source runs.
#[derive(Debug)]
pub struct LedgerWriter {
    out: ContentWriter,
    frame: Vec<u8>,
    entries: u64,
}

impl LedgerWriter {
    /// Starts a ledger.
    ///
    /// # Errors
    /// The store's error.
    pub fn new(mut out: ContentWriter, header: LedgerHeader) -> Result<Self, Error> {
        out.write(MAGIC)?;
        let mut ledger = Self { out, frame: Vec::new(), entries: 0 };
        ledger.record(&Record::Header(header))?;
        Ok(ledger)
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// The store's error.
    pub fn entry(&mut self, entry: LedgerEntry) -> Result<(), Error> {
        self.entries += 1;
        self.record(&Record::Entry(Box::new(entry)))
    }

    /// Ends the ledger.
    ///
    /// # Errors
    /// The store's error.
    pub fn finish(mut self) -> Result<Content, Error> {
        let end = Record::End(self.entries);
        self.record(&end)?;
        self.out.finish()
    }

    fn record(&mut self, record: &Record) -> Result<(), Error> {
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        frame.extend_from_slice(&[0; 4]);
        let mut frame = postcard::to_extend(record, frame)
            .map_err(|error| Error::Other(format!("a ledger record could not be written: {error}")))?;
        let length = u32::try_from(frame.len() - 4)
            .map_err(|_| Error::Other("a ledger record of 4 GiB or more cannot be written".to_owned()))?;
        frame[..4].copy_from_slice(&length.to_le_bytes());
        self.out.write(&frame)?;
        frame.clear();
        self.frame = frame;
        Ok(())
    }
}

/// Reads a ledger front to back.
pub struct LedgerReader {
    input: Box<dyn Read + Send>,
    header: LedgerHeader,
    frame: Vec<u8>,
    read: u64,
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

impl LedgerReader {
    /// Opens the ledger of a source in the snapshot whose root tree is `root`.
    ///
    /// # Errors
    /// There is none, it is damaged, or the repository cannot be read.
    pub fn open(reader: &Arc<Reader>, root: &Id, source: &str) -> Result<Self, Error> {
        let path = format!("{INTERNAL_DIRECTORY}/{source}/{LEDGER_FILE}");
        let node = reader
            .node_at(root, path.as_bytes())?
            .ok_or_else(|| Error::Other(format!("the snapshot has no /{path}")))?;
        let file = OpenFile::new(Arc::clone(reader), &node)?;
        let input = io::BufReader::with_capacity(256 << 10, Sequential { file, position: 0 });
        Self::read_from(Box::new(input), source)
    }

    /// Reads the ledger of `source` from its bytes.
    ///
    /// # Errors
    /// It is damaged, or cannot be read.
    pub fn read_from(mut input: Box<dyn Read + Send>, source: &str) -> Result<Self, Error> {
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic).map_err(|error| damaged(source, &error.to_string()))?;
        if magic != *MAGIC {
            return Err(damaged(source, "it does not start as a ledger of this version does"));
        }
        let header = LedgerHeader { source: String::new(), adapter: String::new(), definitions: Vec::new(), job_id: 0 };
        let mut ledger = Self { input, header, frame: Vec::new(), read: 0, ended: false };
        match ledger.record()? {
            Record::Header(header) => ledger.header = header,
            _ => return Err(damaged(source, "its first record is no header")),
        }
        Ok(ledger)
    }

    /// What the ledger says about its source.
    #[must_use]
    pub fn header(&self) -> &LedgerHeader {
        &self.header
    }

    /// The next entry, none at the end.
    ///
    /// # Errors
    /// Damage, or a repository that cannot be read.
    pub fn next_entry(&mut self) -> Result<Option<LedgerEntry>, Error> {
        if self.ended {
            return Ok(None);
        }
        match self.record()? {
            Record::Entry(entry) => {
                self.read += 1;
                Ok(Some(*entry))
            }
            Record::End(count) if count == self.read => {
                self.ended = true;
                Ok(None)
            }
            Record::End(_) => Err(damaged(&self.header.source, "records are missing")),
            Record::Header(_) => Err(damaged(&self.header.source, "it has two headers")),
        }
    }

    fn record(&mut self) -> Result<Record, Error> {
        let source = &self.header.source;
        let mut length = [0; 4];
        self.input.read_exact(&mut length).map_err(|error| damaged(source, &error.to_string()))?;
        let length = u32::from_le_bytes(length) as usize;
        if length > LONGEST_RECORD {
            return Err(damaged(source, "a record is longer than any can be"));
        }
        self.frame.clear();
        let got = (&mut self.input)
            .take(length as u64)
            .read_to_end(&mut self.frame)
            .map_err(|error| damaged(source, &error.to_string()))?;
        if got < length {
            return Err(damaged(source, "it ends in the middle of a record"));
        }
        postcard::from_bytes(&self.frame).map_err(|error| damaged(source, &error.to_string()))
    }
}

fn damaged(source: &str, reason: &str) -> Error {
    Error::Other(format!("the ledger /{INTERNAL_DIRECTORY}/{source}/{LEDGER_FILE} cannot be read: {reason}"))
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
