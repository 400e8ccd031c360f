//! Memory for what is read, kept for the next read: pages that the system has to find and to empty each time cost more than
//! the copy.

use std::os::fd::AsFd;

use backstay_core::ReadBytes;
use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::io::{Errno, pread};

/// Shorter ones are left to the allocator, in bytes.
const LEAST: usize = 64 << 10;
/// The sizes that are kept: this many doublings of the least.
const SIZES: usize = 7;
/// Bytes of each size that are kept.
const KEPT: usize = 8 << 20;

static POOL: [Mutex<Vec<Vec<u8>>>; SIZES] = [const { Mutex::new(Vec::new()) }; SIZES];

/// The place of a capacity among the sizes; none: it is not kept.
fn size(capacity: usize) -> Option<usize> {
    let size = capacity.div_ceil(LEAST).next_power_of_two().trailing_zeros() as usize;
    (capacity > LEAST / 2 && size < SIZES).then_some(size)
}

/// An empty buffer for so many bytes, which may have room for more.
pub(crate) fn empty(capacity: usize) -> Vec<u8> {
    let Some(size) = size(capacity) else { return Vec::with_capacity(capacity) };
    let kept = POOL[size].lock().pop();
    kept.unwrap_or_else(|| Vec::with_capacity(LEAST << size))
}

/// Appends what stands in a file from `offset` on, up to `length` bytes; fewer at its end.
pub(crate) fn append(file: impl AsFd, offset: u64, length: usize, bytes: &mut Vec<u8>) -> Result<(), Errno> {
    let begin = bytes.len();
    if bytes.capacity() - begin != length {
        return append_part(file, offset, length, bytes);
    }
    while bytes.len() < begin + length {
        let place = offset + (bytes.len() - begin) as u64;
        match pread(&file, spare_capacity(bytes), place) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The same where there is room for more, which is not to be read.
fn append_part(file: impl AsFd, offset: u64, length: usize, bytes: &mut Vec<u8>) -> Result<(), Errno> {
    let (begin, mut done) = (bytes.len(), 0);
    bytes.resize(begin + length, 0);
    while done < length {
        match pread(&file, &mut bytes[begin + done..], offset + done as u64) {
            Ok(0) => break,
            Ok(more) => done += more,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(begin + done);
    Ok(())
}

/// What was read; its memory is kept when it was sent.
pub(crate) fn filled(bytes: Vec<u8>) -> ReadBytes {
    Box::new(Filled(bytes))
}

struct Filled(Vec<u8>);

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        let Some(size) = size(self.0.capacity()).filter(|size| self.0.capacity() == LEAST << size) else { return };
        let mut bytes = std::mem::take(&mut self.0);
        bytes.clear();
        let mut kept = POOL[size].lock();
        if kept.len() < (KEPT >> size) / LEAST {
            kept.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_the_room_that_was_asked_for() {
        for capacity in [0, 1, 4096, 40_000, LEAST, LEAST + 1, 256 << 10, 3 << 20, 4 << 20, (4 << 20) + 1, 64 << 20] {
            for _ in 0..3 {
                let mut bytes = empty(capacity);
                assert!(bytes.is_empty() && bytes.capacity() >= capacity, "{capacity}");
                bytes.resize(capacity, 7);
                assert!((*filled(bytes)).as_ref().iter().all(|byte| *byte == 7));
            }
        }
    }

    #[test]
    fn a_file_is_read_to_its_end_and_no_further_than_asked() {
        let file = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[1, 2, 3, 4, 5], 0).unwrap();
        for room in [3, 10] {
            let mut bytes = Vec::with_capacity(room);
            append(&file, 1, 3, &mut bytes).unwrap();
            assert_eq!(bytes, [2, 3, 4]);
            bytes.reserve_exact(room);
            append(&file, 3, 9, &mut bytes).unwrap();
            assert_eq!(bytes, [2, 3, 4, 4, 5]);
        }
    }
}
