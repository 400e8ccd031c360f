//! Random access to one file of a snapshot: reads load the blobs they touch, never the whole file.

use std::sync::Arc;

use backstay_core::{FileKind, Id};

use crate::error::Error;
use crate::pack::BlobKind;
use crate::reader::Reader;
use crate::reader::Result;
use crate::tree::Node;

/// A file of a snapshot, opened for reading at any place. Shared by all threads; blobs are kept in the reader's cache.
#[derive(Debug)]
pub struct OpenFile {
    reader: Arc<Reader>,
    content: Vec<Id>,
    /// Where each blob ends in the file, in bytes: rising.
    ends: Vec<u64>,
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
        Ok(Self { reader, content, ends })
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
        for id in &self.content {
            let blob = self.reader.load(BlobKind::Data, id)?;
            out.write_all(&blob).map_err(|error| Error::Other(format!("the output failed: {error}")))?;
        }
        Ok(self.size())
    }
}
