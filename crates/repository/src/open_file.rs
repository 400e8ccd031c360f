//! Random access to one file of a snapshot: reads load the blobs they touch, never the whole file.
//!
//! Reads that follow each other are noticed, and what comes next is loaded by other threads meanwhile; reads here and
//! there load nothing beside what they touch.

use std::sync::Arc;

use backstay_core::{FileKind, Id};
use parking_lot::Mutex;

use crate::error::Error;
use crate::pack::BlobKind;
use crate::reader::{OrderedBlobs, Reader, Result};
use crate::tree::Node;

/// Bytes that [`OpenFile::copy_to`] loads ahead.
const COPY_AHEAD: u64 = 32 << 20;
/// Blobs that it announces at a time.
const COPY_BLOBS: usize = 4096;
/// A read that starts this near to the end of the last one follows it: several threads may read one file in turns.
const NEAR: u64 = 1 << 20;
/// From so many reads in a row on, those to come are expected.
const IN_A_ROW: u32 = 2;

/// A file of a snapshot, opened for reading at any place. Shared by all threads; blobs are kept in the reader's cache.
#[derive(Debug)]
pub struct OpenFile {
    reader: Arc<Reader>,
    content: Vec<Id>,
    /// Where each blob ends in the file, in bytes: rising.
    ends: Vec<u64>,
    sequence: Mutex<Sequence>,
}

/// How the reads follow each other.
#[derive(Debug, Default)]
struct Sequence {
    /// Where the last read ended, in bytes.
    end: u64,
    /// How many reads followed each other.
    reads: u32,
    /// The first blob that was not asked for beforehand.
    hinted: usize,
}

impl OpenFile {
    /// Opens the file that `node` describes.
    ///
    /// # Errors
    /// The node is no file, or a blob of it is not in the index ([`Error::BlobMissing`]).
    pub fn new(reader: Arc<Reader>, node: &Node) -> Result<Self> {
        let name = String::from_utf8_lossy(&node.name);
        if node.kind != FileKind::File {
            return Err(Error::Other(format!("{name:?} is not a regular file")));
        }
        let Some(content) = node.content.clone() else {
            return Err(Error::Other(format!("file {name:?} has no list of contents")));
        };
        let mut ends = Vec::with_capacity(content.len());
        let mut end = 0_u64;
        for id in &content {
            end += reader.blob_length(BlobKind::Data, id)?;
            ends.push(end);
        }
        Ok(Self { reader, content, ends, sequence: Mutex::default() })
    }

    /// The length in bytes: the sum of the blobs, whatever the node's `size` says.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Fills `buffer` with what stands at `offset`; returns the number of bytes, which is less than asked for only at
    /// the end of the file.
    ///
    /// # Errors
    /// A blob could not be read or is damaged; what `buffer` holds then means nothing.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        let mut number = self.ends.partition_point(|end| *end <= offset);
        self.look_ahead(number, offset, buffer.len() as u64);
        while done < buffer.len() && number < self.content.len() {
            let start = if number == 0 { 0 } else { self.ends[number - 1] };
            let blob = self.reader.blob(BlobKind::Data, &self.content[number])?;
            let skip = usize::try_from(offset + done as u64 - start).unwrap_or(usize::MAX);
            let Some(here) = blob.get(skip..).filter(|_| blob.len() as u64 == self.ends[number] - start) else {
                return Err(Error::Other(format!(
                    "data blob {} is {} bytes long, the index says {}",
                    self.content[number],
                    blob.len(),
                    self.ends[number] - start
                )));
            };
            let taken = here.len().min(buffer.len() - done);
            buffer[done..done + taken].copy_from_slice(&here[..taken]);
            done += taken;
            number += 1;
        }
        Ok(done)
    }

    /// Writes the whole file to `out`, blob by blob; returns its length in bytes.
    ///
    /// # Errors
    /// A blob could not be read, or `out` failed.
    pub fn copy_to(&self, out: &mut dyn std::io::Write) -> Result<u64> {
        self.copy_ahead(out, COPY_AHEAD)
    }

    /// The same where many files are written at once: no more than `ahead` bytes wait in memory to be written.
    ///
    /// # Errors
    /// As [`OpenFile::copy_to`].
    pub fn copy_ahead(&self, out: &mut dyn std::io::Write, ahead: u64) -> Result<u64> {
        let mut blobs = OrderedBlobs::new(&self.reader, ahead.min(COPY_AHEAD));
        for ids in self.content.chunks(COPY_BLOBS) {
            blobs.announce(BlobKind::Data, ids);
            // The last ones wait until more are announced: no thread shall stand still in between.
            while blobs.waiting() > COPY_BLOBS / 2
                && let Some(blob) = blobs.take()
            {
                write(out, &blob?)?;
            }
        }
        while let Some(blob) = blobs.take() {
            write(out, &blob?)?;
        }
        Ok(self.size())
    }

    /// Has other threads load what a read of `length` bytes at `offset` touches behind its first blob `number`, and what
    /// is expected after it.
    fn look_ahead(&self, number: usize, offset: u64, length: u64) {
        let end = offset.saturating_add(length);
        let mut sequence = self.sequence.lock();
        if offset.abs_diff(sequence.end) <= NEAR && offset > 0 {
            sequence.reads = sequence.reads.saturating_add(1);
        } else {
            (sequence.reads, sequence.hinted) = (0, 0);
        }
        sequence.end = end;
        let room = self.reader.prefetch_bytes();
        let until = if sequence.reads >= IN_A_ROW { end + room } else { end.min(offset + room) };
        let first = sequence.hinted.max(number + 1).min(self.content.len());
        // The last blob that starts before `until`.
        let last = (self.ends.partition_point(|end| *end < until) + 1).min(self.content.len());
        if first < last {
            sequence.hinted = last;
            drop(sequence);
            self.reader.prefetch(BlobKind::Data, &self.content[first..last]);
        }
    }
}

fn write(out: &mut dyn std::io::Write, blob: &[u8]) -> Result<()> {
    out.write_all(blob).map_err(|error| Error::Other(format!("the output failed: {error}")))
}
