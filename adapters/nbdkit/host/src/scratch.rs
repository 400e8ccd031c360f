//! What filters that keep blocks of a disk have in common: an unlinked temporary file with the disk's own offsets, locks for
//! ranges of blocks, and one of whatever there is for each export.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use backstay_core::{BlockSize, DiskError, OpenDisk, OpenError};
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use rustix::fs::FallocateFlags;

use crate::buffers;

/// Where temporary files are, unless `TMPDIR` says.
const FOLDER: &str = "/var/tmp";
/// Locks for blocks. Neighbours have different ones.
const STRIPES: u64 = 64;
/// Zeroes and copies go in pieces of so many bytes.
pub(crate) const PIECE: u64 = 1 << 20;
/// The largest block that a client can be told of as the best, in bytes.
const BEST: u64 = 32 << 20;

/// The folder of temporary files, after a look whether it takes any. Its path stays right in the background.
pub(crate) fn folder(owner: &str) -> Result<PathBuf, String> {
    let folder = std::env::var_os("TMPDIR").filter(|path| !path.is_empty()).map_or(FOLDER.into(), PathBuf::from);
    let folder = std::path::absolute(&folder).map_err(|error| format!("{owner}: TMPDIR: {error}"))?;
    let tried = tempfile::tempfile_in(&folder);
    tried.map_err(|error| {
        format!("{owner}: no temporary file can be made in {} ({error}): set TMPDIR", folder.display())
    })?;
    Ok(folder)
}

/// The temporary file of a disk. What was never written in it reads as zeroes. It is made when something is written.
pub(crate) struct Scratch {
    folder: PathBuf,
    file: OnceLock<std::fs::File>,
}

/// What the client is told: whether there is no room, and nothing else of what the file is.
fn number(error: &io::Error) -> DiskError {
    DiskError(match error.raw_os_error() {
        Some(number @ (libc::ENOSPC | libc::EDQUOT | libc::EFBIG)) => number,
        _ => libc::EIO,
    })
}

impl Scratch {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), file: OnceLock::new() }
    }

    /// Whether anything was ever written.
    pub(crate) fn is_used(&self) -> bool {
        self.file.get().is_some()
    }

    fn file(&self) -> Result<&std::fs::File, DiskError> {
        match self.file.get() {
            Some(file) => Ok(file),
            None => {
                let made = tempfile::tempfile_in(&self.folder).map_err(|error| number(&error))?;
                Ok(self.file.get_or_init(|| made))
            }
        }
    }

    /// Appends what stands in a range.
    pub(crate) fn read(&self, offset: u64, length: usize, bytes: &mut Vec<u8>) -> Result<(), DiskError> {
        let end = bytes.len() + length;
        if let Some(file) = self.file.get() {
            buffers::append(file, offset, length, bytes).map_err(|error| DiskError(error.raw_os_error()))?;
        }
        // Beyond the last byte that was written.
        bytes.resize(end, 0);
        Ok(())
    }

    pub(crate) fn write(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.file()?.write_all_at(data, offset).map_err(|error| number(&error))
    }

    /// Writes zeroes, which take room.
    pub(crate) fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        let zeroes = vec![0; length.min(PIECE) as usize];
        let mut done = 0;
        while done < length {
            let here = (length - done).min(PIECE);
            self.write(offset + done, &zeroes[..here as usize])?;
            done += here;
        }
        Ok(())
    }

    /// Makes a hole; whether the file system could.
    pub(crate) fn punch(&self, offset: u64, length: u64) -> bool {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.file.get().is_none_or(|file| rustix::fs::fallocate(file, hole, offset, length).is_ok())
    }

    /// Makes a range read as zeroes.
    pub(crate) fn clear(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        if self.punch(offset, length) { Ok(()) } else { self.write_zeroes(offset, length) }
    }
}

/// Blocks of a disk; the last one may be short.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocks {
    /// Bytes of a block.
    pub(crate) each: u64,
    /// Bytes of the disk.
    pub(crate) size: u64,
}

impl Blocks {
    /// The first and the last block that a range touches.
    pub(crate) fn touched(self, offset: u64, length: u64) -> (u64, u64) {
        (offset / self.each, (offset + length - 1) / self.each)
    }

    /// The first block that lies in the range altogether, and the one after the last that does; none: there is no such block.
    pub(crate) fn covered(self, offset: u64, length: u64) -> Option<(u64, u64)> {
        let end = offset + length;
        let first = offset.div_ceil(self.each);
        let next = if end == self.size { end.div_ceil(self.each) } else { end / self.each };
        (first < next).then_some((first, next))
    }

    /// Where blocks `first` to `last` begin, and how long they are.
    pub(crate) fn range(self, first: u64, last: u64) -> (u64, u64) {
        let (start, end) = (first * self.each, last.saturating_add(1).saturating_mul(self.each).min(self.size));
        (start, end - start)
    }

    /// The part of a range that lies in blocks `first` to `last`.
    pub(crate) fn part(self, offset: u64, length: u64, first: u64, last: u64) -> (u64, u64) {
        let (start, all) = self.range(first, last);
        let (begin, end) = (offset.max(start), (offset + length).min(start + all));
        (begin, end - begin)
    }

    /// Those of `each` bytes of an open disk, and the sizes of requests that it likes. `owner` and its parameter `key` are for
    /// messages.
    ///
    /// # Errors
    /// The disk does not take whole blocks, or the connection has to end.
    pub(crate) fn of(
        disk: &dyn OpenDisk,
        owner: &str,
        key: &str,
        each: u64,
    ) -> Result<(Self, Option<BlockSize>), OpenError> {
        let blocks = Self { each, size: disk.info().size };
        let sizes = disk.block_size().map_err(OpenError::Close)?;
        blocks.check(owner, key, sizes).map_err(OpenError::Refused)?;
        Ok((blocks, sizes))
    }

    /// Refuses a disk that has another size than it had.
    ///
    /// # Errors
    /// It has.
    pub(crate) fn still(self, owner: &str, now: Self) -> Result<(), OpenError> {
        if self.size == now.size {
            return Ok(());
        }
        let (was, is) = (self.size, now.size);
        Err(OpenError::Refused(format!("{owner}: the disk behind it had {was} bytes and has {is} now")))
    }

    /// Why whole blocks cannot be asked for.
    fn check(self, owner: &str, key: &str, sizes: Option<BlockSize>) -> Result<(), String> {
        match sizes {
            Some(sizes) if u64::from(sizes.minimum) > self.each => Err(format!(
                "{owner}: {key} must be at least {}, the least that the disk behind it takes",
                sizes.minimum
            )),
            Some(sizes) if sizes.maximum != 0 && u64::from(sizes.maximum) < self.each => {
                Err(format!("{owner}: {key} must be at most {}, the most that the disk behind it takes", sizes.maximum))
            }
            _ => Ok(()),
        }
    }

    /// What a client is told: any request goes, whole blocks are best.
    pub(crate) fn sizes(self, below: Option<BlockSize>) -> BlockSize {
        let best = self.each.min(BEST) as u32;
        match below {
            Some(below) if below.minimum > 0 => {
                let preferred = if below.maximum >= best { below.preferred.max(best) } else { below.preferred };
                BlockSize { preferred, ..below }
            }
            _ => BlockSize { minimum: 1, preferred: best, maximum: u32::MAX },
        }
    }
}

/// Locks for ranges of blocks.
pub(crate) struct Stripes(Box<[RwLock<()>]>);

impl Default for Stripes {
    fn default() -> Self {
        Self((0..STRIPES).map(|_| RwLock::default()).collect())
    }
}

impl Stripes {
    /// The locks of a range of blocks, always in the same order.
    fn of(&self, first: u64, last: u64) -> impl Iterator<Item = &RwLock<()>> {
        let (start, count) = (first % STRIPES, (last - first).saturating_add(1).min(STRIPES));
        let wanted = move |stripe: u64| (stripe + STRIPES - start) % STRIPES < count;
        (0..STRIPES).filter(move |stripe| wanted(*stripe)).map(|stripe| &self.0[stripe as usize])
    }

    /// Nobody else has these blocks.
    pub(crate) fn lock(&self, first: u64, last: u64) -> Vec<RwLockWriteGuard<'_, ()>> {
        self.of(first, last).map(RwLock::write).collect()
    }

    /// Nobody changes these blocks.
    pub(crate) fn share(&self, first: u64, last: u64) -> Vec<RwLockReadGuard<'_, ()>> {
        self.of(first, last).map(RwLock::read).collect()
    }
}

/// What all connections to a disk share, one for each disk (see `Disk::identity`): a plugin may have several.
pub(crate) struct ByDisk<T>(Mutex<HashMap<Vec<u8>, Arc<T>>>);

impl<T> Default for ByDisk<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> ByDisk<T> {
    /// That of a disk. Those that nobody uses and that are not to be kept go.
    pub(crate) fn get(&self, identity: &[u8], keep: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> Arc<T> {
        let mut all = self.0.lock();
        all.retain(|_, one| Arc::strong_count(one) > 1 || keep(one));
        Arc::clone(all.entry(identity.to_vec()).or_insert_with(|| Arc::new(make())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_a_range() {
        let blocks = Blocks { each: 10, size: 95 };
        assert_eq!(blocks.touched(9, 2), (0, 1));
        assert_eq!(blocks.covered(0, 95), Some((0, 10)));
        assert_eq!(blocks.covered(5, 20), Some((1, 2)));
        assert_eq!(blocks.covered(5, 10), None);
        assert_eq!(blocks.covered(90, 5), Some((9, 10)));
        assert_eq!(blocks.range(8, 9), (80, 15));
        assert_eq!(blocks.part(5, 90, 9, 9), (90, 5));
    }

    #[test]
    fn a_lock_holds_its_blocks_and_no_others() {
        let stripes = Stripes::default();
        let held = stripes.lock(62, 65);
        assert_eq!(held.len(), 4);
        let free = (0..STRIPES).filter(|block| stripes.0[*block as usize].try_write().is_some()).count();
        assert_eq!(free, 60);
        drop(held);
        assert_eq!(stripes.lock(5, u64::MAX - 1).len(), 64);
    }

    #[test]
    fn the_file_reads_as_zeroes_where_nothing_was_written() {
        let scratch = Scratch::new(&std::env::temp_dir());
        let mut bytes = vec![9];
        scratch.read(100, 3, &mut bytes).unwrap();
        assert!(!scratch.is_used());
        scratch.write(2, b"abc").unwrap();
        scratch.clear(3, 1).unwrap();
        scratch.read(0, 8, &mut bytes).unwrap();
        assert_eq!(bytes, b"\x09\0\0\0\0\0a\0c\0\0\0");
    }
}
