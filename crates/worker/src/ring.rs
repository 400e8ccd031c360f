//! Bulk data between a worker and its host: a ring in shared memory (a sealed memfd), one writer, one reader.
//!
//! Positions are absolute (they only rise) and travel in control frames, never in the shared memory, so that each side
//! believes only numbers which it has checked. Data is copied in once by the writer and out once by the reader: after
//! that the reader computes on memory of its own, and bytes that change under its hands hurt nobody. The one shared
//! word is a counter that a dead writer leaves behind. The memory is sealed against shrinking and growing: a page that
//! is mapped can not go away, so no access ends in SIGBUS.
//!
//! This is the one place in the host that needs `unsafe`: shared memory has no safe form in Rust.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags};

/// Data bytes of an ordinary ring.
pub const RING_SIZE: usize = 8 << 20;

/// The page before the data: the counter lives at its start.
const HEADER: usize = 4096;
/// What a ring that we map must be sealed against.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

/// What a peer claimed about a ring that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// A span that does not start where the last one ended.
    #[error("ring data at position {position} where {expected} comes next")]
    OutOfOrder {
        /// What the frame said.
        position: u64,
        /// What comes next.
        expected: u64,
    },
    /// A span that is longer than the ring.
    #[error("ring data of {length} bytes in a ring of {size}")]
    TooLong {
        /// What the frame said.
        length: u32,
        /// Bytes in the ring.
        size: usize,
    },
    /// Data taken that was never written, or taken twice.
    #[error("ring data up to position {position} acknowledged, but {consumed} to {written} is what waits")]
    NotWritten {
        /// What the frame said.
        position: u64,
        /// What was acknowledged before.
        consumed: u64,
        /// What was written.
        written: u64,
    },
}

/// Makes the shared memory of a ring with `size` data bytes. It does not survive an `exec` unless passed on purpose.
///
/// # Errors
/// What the kernel says.
pub fn create(name: &str, size: usize) -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&memory, (HEADER + size) as u64)?;
    rustix::fs::fcntl_add_seals(&memory, SEALS | SealFlags::SEAL)?;
    Ok(memory)
}

/// The mapped memory. Only raw pointers are ever made from it: a reference would promise that nobody else writes.
#[derive(Debug)]
struct Memory {
    map: MmapRaw,
    size: usize,
}

impl Memory {
    fn map(memory: impl AsFd) -> io::Result<Self> {
        let memory = memory.as_fd();
        let seals = rustix::fs::fcntl_get_seals(memory)?;
        if !seals.contains(SEALS) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the ring's memory is not sealed"));
        }
        let length = usize::try_from(rustix::fs::fstat(memory)?.st_size).unwrap_or(0);
        if length <= HEADER {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the ring's memory is too small"));
        }
        let map = MmapOptions::new().len(length).map_raw(&memory)?;
        Ok(Self { map, size: length - HEADER })
    }

    /// The counter at the start of the header page.
    fn counter(&self) -> &AtomicU64 {
        // SAFETY: the mapping is page-aligned, at least HEADER bytes long and lives as long as `self`; the word is only
        // ever used as an atomic, here and in the other process, so the shared reference allows what happens to it.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().cast::<u64>()) }
    }

    /// Where an absolute position lies, and how many bytes follow before the ring wraps.
    fn place(&self, position: u64) -> (usize, usize) {
        let offset = usize::try_from(position % self.size as u64).unwrap_or(0);
        (offset, self.size - offset)
    }

    /// Copies `data` in at a position. `data` is at most as long as the ring.
    fn copy_in(&self, position: u64, data: &[u8]) {
        let (offset, room) = self.place(position);
        let (first, second) = data.split_at(room.min(data.len()));
        assert!(offset + first.len() <= self.size && second.len() <= self.size);
        // SAFETY: both targets lie inside the mapping (asserted above; HEADER + size is its length, and the seals keep
        // it so), `data` is ordinary memory of this process and cannot overlap it. The other process may read or write
        // the same bytes meanwhile: they are plain bytes that no reference covers, so at worst it reads a mixture.
        unsafe {
            let base = self.map.as_mut_ptr().add(HEADER);
            std::ptr::copy_nonoverlapping(first.as_ptr(), base.add(offset), first.len());
            std::ptr::copy_nonoverlapping(second.as_ptr(), base, second.len());
        }
    }

    /// Appends `length` bytes from a position to `out`. `length` is at most the ring's size.
    fn copy_out(&self, position: u64, length: usize, out: &mut Vec<u8>) {
        let (offset, room) = self.place(position);
        let first = room.min(length);
        let second = length - first;
        assert!(offset + first <= self.size && second <= self.size);
        out.reserve(length);
        let end = out.len();
        // SAFETY: both sources lie inside the mapping (asserted; sealed), the targets in the reserved spare capacity of
        // `out`, which is private memory. Every byte of the new length is written before `set_len`. The other process
        // may change the source meanwhile: each byte is read once, and any byte value is valid.
        unsafe {
            let base = self.map.as_mut_ptr().add(HEADER);
            let target = out.as_mut_ptr().add(end);
            std::ptr::copy_nonoverlapping(base.add(offset), target, first);
            std::ptr::copy_nonoverlapping(base, target.add(first), second);
            out.set_len(end + length);
        }
    }
}

/// The writing side.
#[derive(Debug)]
pub struct RingWriter {
    memory: Memory,
    written: u64,
    consumed: u64,
}

impl RingWriter {
    /// Maps a ring.
    ///
    /// # Errors
    /// What the kernel says; `InvalidInput` for memory that is not sealed.
    pub fn new(memory: impl AsFd) -> io::Result<Self> {
        Ok(Self { memory: Memory::map(memory)?, written: 0, consumed: 0 })
    }

    /// Bytes in the ring.
    #[must_use]
    pub fn size(&self) -> usize {
        self.memory.size
    }

    /// Bytes that can be written now.
    #[must_use]
    pub fn free(&self) -> usize {
        self.memory.size - usize::try_from(self.written - self.consumed).unwrap_or(self.memory.size)
    }

    /// Copies in as much of `data` as there is room for; returns its absolute position and length for a frame.
    /// None: no room, or nothing to write.
    pub fn write(&mut self, data: &[u8]) -> Option<(u64, u32)> {
        let length = data.len().min(self.free()).min(u32::MAX as usize);
        if length == 0 {
            return None;
        }
        let position = self.written;
        self.memory.copy_in(position, &data[..length]);
        self.written += length as u64;
        Some((position, u32::try_from(length).unwrap_or(0)))
    }

    /// The reader took everything up to this absolute position.
    ///
    /// # Errors
    /// [`RingError::NotWritten`] when that cannot be.
    pub fn consumed(&mut self, position: u64) -> Result<(), RingError> {
        if position < self.consumed || position > self.written {
            return Err(RingError::NotWritten { position, consumed: self.consumed, written: self.written });
        }
        self.consumed = position;
        Ok(())
    }

    /// Whether the reader took everything.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.consumed == self.written
    }

    /// Counts one announced entry: the reader still sees it when this process is dead.
    pub fn announce(&self) {
        self.memory.counter().fetch_add(1, Ordering::Release);
    }
}

/// The reading side.
#[derive(Debug)]
pub struct RingReader {
    memory: Memory,
    next: u64,
}

impl RingReader {
    /// Maps a ring.
    ///
    /// # Errors
    /// What the kernel says; `InvalidInput` for memory that is not sealed.
    pub fn new(memory: impl AsFd) -> io::Result<Self> {
        Ok(Self { memory: Memory::map(memory)?, next: 0 })
    }

    /// Appends the span of a frame to `out`, once, after checking that it is the next one and fits into the ring.
    /// Afterwards the position up to which the writer may reuse the ring is [`RingReader::position`].
    ///
    /// # Errors
    /// [`RingError`] for a span that cannot be.
    pub fn copy_out(&mut self, position: u64, length: u32, out: &mut Vec<u8>) -> Result<(), RingError> {
        if position != self.next {
            return Err(RingError::OutOfOrder { position, expected: self.next });
        }
        if length as usize > self.memory.size {
            return Err(RingError::TooLong { length, size: self.memory.size });
        }
        self.memory.copy_out(position, length as usize, out);
        self.next += u64::from(length);
        Ok(())
    }

    /// The absolute position up to which data was taken.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.next
    }

    /// Bytes in the ring.
    #[must_use]
    pub fn size(&self) -> usize {
        self.memory.size
    }

    /// How many entries the writer announced; it is the writer's claim and may be any number.
    #[must_use]
    pub fn announced(&self) -> u64 {
        self.memory.counter().load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(size: usize) -> (RingWriter, RingReader) {
        let memory = create("test", size).unwrap();
        (RingWriter::new(&memory).unwrap(), RingReader::new(&memory).unwrap())
    }

    #[test]
    fn bytes_come_out_as_they_went_in_across_the_wrap() {
        let (mut writer, mut reader) = ring(1000);
        let mut sent = 0_usize;
        let mut out = Vec::new();
        for step in 1..400_usize {
            let data: Vec<u8> = (0..step).map(|i| ((sent + i) % 251) as u8).collect();
            let mut rest = &data[..];
            while !rest.is_empty() {
                let (position, length) = writer.write(rest).unwrap();
                assert_eq!(position, sent as u64);
                sent += length as usize;
                rest = &rest[length as usize..];
                reader.copy_out(position, length, &mut out).unwrap();
                writer.consumed(reader.position()).unwrap();
            }
        }
        assert!(out.iter().enumerate().all(|(i, &b)| b == (i % 251) as u8));
        assert_eq!(out.len(), sent);
        assert!(writer.is_drained());
    }

    #[test]
    fn a_full_ring_takes_nothing_until_the_reader_consumed() {
        let (mut writer, mut reader) = ring(100);
        assert_eq!(writer.write(&[1; 150]), Some((0, 100)));
        assert_eq!(writer.write(&[2; 1]), None);
        let mut out = Vec::new();
        reader.copy_out(0, 100, &mut out).unwrap();
        assert_eq!(writer.write(&[2; 1]), None);
        writer.consumed(40).unwrap();
        assert_eq!(writer.free(), 40);
        assert_eq!(writer.write(&[2; 60]), Some((100, 40)));
    }

    #[test]
    fn claims_that_cannot_be_are_refused() {
        let (mut writer, mut reader) = ring(100);
        writer.write(&[1; 50]).unwrap();
        let mut out = Vec::new();
        assert!(matches!(reader.copy_out(1, 10, &mut out), Err(RingError::OutOfOrder { .. })));
        assert!(matches!(reader.copy_out(u64::MAX, 10, &mut out), Err(RingError::OutOfOrder { .. })));
        assert!(matches!(reader.copy_out(0, 101, &mut out), Err(RingError::TooLong { .. })));
        assert!(matches!(reader.copy_out(0, u32::MAX, &mut out), Err(RingError::TooLong { .. })));
        assert!(out.is_empty());
        assert!(writer.consumed(51).is_err());
        writer.consumed(50).unwrap();
        assert!(writer.consumed(49).is_err());
    }

    #[test]
    fn the_memory_cannot_be_shrunk_under_the_reader() {
        let memory = create("test", 8192).unwrap();
        let reader = RingReader::new(&memory).unwrap();
        assert!(rustix::fs::ftruncate(&memory, 0).is_err());
        assert!(rustix::fs::ftruncate(&memory, 1 << 20).is_err());
        assert!(rustix::fs::fcntl_add_seals(&memory, SealFlags::WRITE).is_err());
        assert_eq!(reader.announced(), 0);
    }

    #[test]
    fn memory_that_is_not_sealed_is_refused() {
        let memory = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&memory, 1 << 20).unwrap();
        assert!(RingReader::new(&memory).is_err());
    }

    #[test]
    fn announced_entries_are_counted_across_the_two_sides() {
        let (writer, reader) = ring(10);
        for _ in 0..5 {
            writer.announce();
        }
        drop(writer);
        assert_eq!(reader.announced(), 5);
    }
}
