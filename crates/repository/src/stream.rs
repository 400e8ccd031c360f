//! The contents of one file: cut into chunks as they come, hashed and compressed by the writer's threads.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use backstay_core::Id;

use crate::chunker::{ChunkerParams, ScanState};
use crate::error::Error;
use crate::writer::{ChunkJob, Slots, Writer};

/// Bytes asked of a descriptor at a time.
const READ_SIZE: usize = 1 << 20;

/// A chunk in the making. Used buffers keep their length, so that no byte is zeroed twice.
#[derive(Debug, Default)]
pub(crate) struct ChunkBuffer {
    bytes: Vec<u8>,
    filled: usize,
}

impl ChunkBuffer {
    /// Contents of a buffer that is kept for small files, in bytes.
    pub(crate) const SMALL: usize = 64 << 10;

    pub(crate) fn filled(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    pub(crate) fn clear(&mut self) {
        self.filled = 0;
    }

    /// Keeps at most so many bytes of room.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        if self.bytes.len() > bytes {
            self.bytes.truncate(bytes);
            self.bytes.shrink_to_fit();
        }
    }

    /// At least `count` writable bytes behind the filled ones.
    fn room(&mut self, count: usize) -> &mut [u8] {
        let end = self.filled + count;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[self.filled..end]
    }

    pub(crate) fn push(&mut self, data: &[u8]) {
        let used = (self.bytes.len() - self.filled).min(data.len());
        let (over, behind) = data.split_at(used);
        self.bytes[self.filled..][..used].copy_from_slice(over);
        self.bytes.extend_from_slice(behind);
        self.filled += data.len();
    }

    /// Whether nothing was ever in it.
    pub(crate) fn is_new(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether it holds no more than a small file.
    pub(crate) fn is_small(&self) -> bool {
        self.bytes.len() <= Self::SMALL
    }
}

/// What a file's contents became.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Its data blobs in order.
    pub ids: Vec<Id>,
    /// Its length in bytes.
    pub size: u64,
}

/// Takes one file's contents, front to back.
pub struct ContentWriter {
    writer: Arc<Writer>,
    chunker: ChunkerParams,
    longest: usize,
    buffer: ChunkBuffer,
    scan: ScanState,
    slots: Arc<Slots>,
    size: u64,
}

impl std::fmt::Debug for ContentWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContentWriter").field("size", &self.size).finish_non_exhaustive()
    }
}

impl ContentWriter {
    pub(crate) fn new(writer: Arc<Writer>) -> Self {
        let chunker = writer.repository().chunker();
        let longest = writer.longest_chunk();
        Self {
            writer,
            chunker,
            longest,
            buffer: ChunkBuffer::default(),
            scan: ScanState::default(),
            slots: Arc::default(),
            size: 0,
        }
    }

    /// Bytes taken so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// The store's error: the writer cannot go on.
    pub fn write(&mut self, mut data: &[u8]) -> Result<(), Error> {
        while !data.is_empty() {
            let take = data.len().min(READ_SIZE);
            let (now, later) = data.split_at(take);
            self.expect(take);
            self.buffer.push(now);
            data = later;
            self.size += take as u64;
            self.cut()?;
        }
        Ok(())
    }

    /// Reads the descriptor from where it stands, to its end or until `limit` bytes came; returns how many.
    /// What was read before an error of the descriptor (the inner result) is kept.
    ///
    /// # Errors
    /// The store's error (the outer result): the writer cannot go on.
    pub fn read_from(&mut self, fd: BorrowedFd<'_>, limit: Option<u64>) -> Result<io::Result<u64>, Error> {
        let mut total = 0;
        loop {
            let left = limit.map_or(u64::MAX, |limit| limit - total);
            match self.read_once(fd, left)? {
                Ok(0) => return Ok(Ok(total)),
                Ok(count) => total += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// One `read(2)` of at most `limit` bytes and at most 1 MiB; 0 at the end of the file (or for a `limit` of 0).
    ///
    /// # Errors
    /// The store's error (the outer result): the writer cannot go on.
    pub fn read_once(&mut self, fd: BorrowedFd<'_>, limit: u64) -> Result<io::Result<u64>, Error> {
        let want = usize::try_from(limit).map_or(READ_SIZE, |limit| limit.min(READ_SIZE));
        if want == 0 {
            return Ok(Ok(0));
        }
        self.expect(want);
        match rustix::io::read(fd, self.buffer.room(want)) {
            Ok(count) => {
                self.buffer.filled += count;
                self.size += count as u64;
                self.cut()?;
                Ok(Ok(count as u64))
            }
            Err(errno) => Ok(Err(errno.into())),
        }
    }

    /// Adds `length` zero bytes that nobody has to read: they become the one zero chunk, as often as it fits.
    ///
    /// # Errors
    /// The store's error: the writer cannot go on.
    pub fn hole(&mut self, mut length: u64) -> Result<(), Error> {
        let unit = self.chunker.zero_chunk_len();
        if length < ChunkerParams::MIN as u64 {
            let zeros = vec![0; usize::try_from(length).unwrap_or(0)];
            return self.write(&zeros);
        }
        if self.buffer.filled > 0 {
            self.emit(self.buffer.filled)?;
        }
        self.size += length;
        let whole = self.writer.zero_blob(unit)?;
        while length >= unit as u64 {
            self.slots.push(whole);
            length -= unit as u64;
        }
        if let Ok(rest @ 1..) = usize::try_from(length) {
            self.slots.push(self.writer.zero_blob(rest)?);
        }
        Ok(())
    }

    /// Ends the contents and waits until all chunks are packed.
    ///
    /// # Errors
    /// The store's error.
    pub fn finish(self) -> Result<Content, Error> {
        self.finish_later()?.wait()
    }

    /// Ends the contents without waiting, so that one thread can feed many small files to all cores.
    ///
    /// # Errors
    /// The store's error.
    pub fn finish_later(mut self) -> Result<PendingContent, Error> {
        if self.buffer.filled == 0 {
            self.writer.recycle(std::mem::take(&mut self.buffer));
        } else {
            self.submit_buffer()?;
        }
        Ok(PendingContent { slots: self.slots, size: self.size })
    }

    /// Sees to a buffer before the first bytes come, that many.
    fn expect(&mut self, count: usize) {
        if self.buffer.is_new() {
            self.buffer = self.writer.buffer_for(count);
        }
    }

    fn cut(&mut self) -> Result<(), Error> {
        loop {
            let filled = self.buffer.filled();
            let cut = self.chunker.cut_from(filled, &mut self.scan);
            match cut.or((filled.len() >= self.longest).then_some(self.longest)) {
                Some(length) => self.emit(length.min(self.longest))?,
                None => return Ok(()),
            }
        }
    }

    /// Sends the first `length` bytes of the buffer away and keeps the rest.
    fn emit(&mut self, length: usize) -> Result<(), Error> {
        let mut rest = self.writer.chunk_buffer();
        rest.push(&self.buffer.filled()[length..]);
        self.buffer.filled = length;
        let sent = self.submit_buffer();
        self.buffer = rest;
        sent
    }

    fn submit_buffer(&mut self) -> Result<(), Error> {
        self.scan = ScanState::default();
        let data = std::mem::take(&mut self.buffer);
        if is_zero(data.filled()) {
            let id = self.writer.zero_blob(data.filled)?;
            self.slots.push(id);
            self.writer.recycle(data);
            return Ok(());
        }
        let slot = self.slots.reserve();
        self.writer.submit(ChunkJob { data, named: None, slot, slots: Arc::clone(&self.slots) })
    }
}

/// Contents whose last chunks are still being computed.
pub struct PendingContent {
    slots: Arc<Slots>,
    size: u64,
}

impl std::fmt::Debug for PendingContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PendingContent").field("size", &self.size).finish_non_exhaustive()
    }
}

impl PendingContent {
    /// Whether [`PendingContent::wait`] would return at once.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.slots.ready()
    }

    /// Waits until all chunks are packed.
    ///
    /// # Errors
    /// The store's error.
    pub fn wait(self) -> Result<Content, Error> {
        Ok(Content { ids: self.slots.wait()?, size: self.size })
    }
}

/// Whether all bytes are zero; almost always decided by the first block.
#[must_use]
pub fn is_zero(data: &[u8]) -> bool {
    data.chunks(4096).all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
}
