//! Reading the contents of one file.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use backstay_core::Id;
use backstay_repository::error::Error;
use backstay_repository::pack::BlobKind;
use backstay_repository::stream::ContentWriter;
use backstay_repository::writer::Writer;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::filesystem::FileStat;

/// A file of at most that many bytes is one chunk whatever the chunker says: it is hashed and packed by the thread that
/// read it.
pub(super) const SMALL: usize = 512 * 1024;

/// A hole of at least that many bytes is told to the writer; a smaller one is read as zeros.
const HOLE: u64 = 512 * 1024;

/// Bytes between two looks at whether the job was cancelled.
const SLICE: u64 = 4 << 20;

/// How a reading ended.
#[derive(Debug)]
pub(super) enum Reading {
    /// The end of the file was reached.
    Done {
        /// Its blobs.
        content: Vec<Id>,
        /// Their length.
        size: u64,
    },
    /// The system would not give any more.
    Failed(io::Error),
    /// The job was cancelled.
    Cancelled,
}

/// Reads files for one thread.
pub(super) struct FileReader<'a> {
    pub(super) writer: &'a Arc<Writer>,
    /// Told of each piece that was dealt with.
    pub(super) progress: &'a dyn Fn(u64),
    /// Whether to stop.
    pub(super) cancelled: &'a dyn Fn() -> bool,
    /// Bytes that were read, holes left out.
    pub(super) bytes_read: u64,
}

impl FileReader<'_> {
    /// Reads an open file from its start to its end. `stat` is only a hint: files that say that they are empty, as in
    /// `/proc`, are read to their end too. `buffer` is reused from file to file.
    pub(super) fn read(
        &mut self,
        file: BorrowedFd<'_>,
        stat: &FileStat,
        buffer: &mut Vec<u8>,
    ) -> Result<Reading, Error> {
        let size = stat.stat.size;
        if size > SMALL as u64 {
            // The system may read further ahead; it is no harm if it will not.
            let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Sequential);
            let mut content = self.writer.content();
            let read = if stat.allocated < size {
                self.sparse(&mut content, file, size)?
            } else {
                self.slices(&mut content, file, u64::MAX)?
            };
            return finish(content, read);
        }
        // One byte more than a small file has shows that it is none.
        buffer.resize(SMALL + 1, 0);
        let mut length = 0;
        loop {
            match rustix::io::read(file, &mut buffer[length..]) {
                Ok(0) => break,
                Ok(count) => {
                    length += count;
                    self.count(count as u64);
                    // That it ends here is what the stat said; a stat after the reading tells if it has grown.
                    if length as u64 == size || length > SMALL {
                        break;
                    }
                }
                Err(Errno::INTR) => {}
                Err(error) => return Ok(Reading::Failed(error.into())),
            }
        }
        if length > SMALL {
            let mut content = self.writer.content();
            content.write(&buffer[..length])?;
            let read = self.slices(&mut content, file, u64::MAX)?;
            return finish(content, read);
        }
        let content = if length == 0 { Vec::new() } else { vec![self.writer.save(BlobKind::Data, &buffer[..length])?] };
        Ok(Reading::Done { content, size: length as u64 })
    }

    fn count(&mut self, bytes: u64) {
        self.bytes_read += bytes;
        (self.progress)(bytes);
    }

    /// Reads from where the file stands, to its end or until `limit` bytes came.
    fn slices(&mut self, content: &mut ContentWriter, file: BorrowedFd<'_>, limit: u64) -> Result<Slices, Error> {
        let mut left = limit;
        while left > 0 {
            if (self.cancelled)() {
                return Ok(Slices::Cancelled);
            }
            match content.read_from(file, Some(left.min(SLICE)))? {
                Ok(0) => return Ok(Slices::End),
                Ok(count) => {
                    self.count(count);
                    left -= count;
                }
                Err(error) => return Ok(Slices::Failed(error)),
            }
        }
        Ok(Slices::More)
    }

    /// Reads a file that may have holes, up to `size` bytes.
    fn sparse(&mut self, content: &mut ContentWriter, file: BorrowedFd<'_>, size: u64) -> Result<Slices, Error> {
        let mut at = 0;
        while at < size {
            let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Ok(data) => data.clamp(at, size),
                Err(Errno::NXIO) => size,
                // The file system knows no holes.
                Err(_) => {
                    if let Err(error) = rustix::fs::seek(file, SeekFrom::Start(at)) {
                        return Ok(Slices::Failed(error.into()));
                    }
                    return self.slices(content, file, u64::MAX);
                }
            };
            let mut from = at;
            if data - at >= HOLE {
                if (self.cancelled)() {
                    return Ok(Slices::Cancelled);
                }
                content.hole(data - at)?;
                (self.progress)(data - at);
                from = data;
            }
            let mut end = size;
            if data < size {
                match rustix::fs::seek(file, SeekFrom::Hole(data)) {
                    // At least one byte is read, so that a file which changes under our hands cannot hold us.
                    Ok(hole) => end = hole.clamp(data + 1, size),
                    Err(error) => return Ok(Slices::Failed(error.into())),
                }
            }
            if from < end {
                if let Err(error) = rustix::fs::seek(file, SeekFrom::Start(from)) {
                    return Ok(Slices::Failed(error.into()));
                }
                match self.slices(content, file, end - from)? {
                    Slices::More => {}
                    other => return Ok(other),
                }
            }
            at = end;
        }
        Ok(Slices::End)
    }
}

/// Why reading in slices stopped.
enum Slices {
    /// The limit was reached.
    More,
    End,
    Failed(io::Error),
    Cancelled,
}

fn finish(content: ContentWriter, read: Slices) -> Result<Reading, Error> {
    Ok(match read {
        Slices::More | Slices::End => {
            let content = content.finish()?;
            Reading::Done { content: content.ids, size: content.size }
        }
        Slices::Failed(error) => Reading::Failed(error),
        Slices::Cancelled => Reading::Cancelled,
    })
}
