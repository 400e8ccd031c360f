//! What a stored pack says about itself: its header, read without the index (reference 8.3).

use backstay_core::{Id, ObjectKind};

use crate::error::Error;
use crate::pack::{PackBlob, decode_header, header_len, pack_size};
use crate::reader::Result;
use crate::repository::Repository;

/// Bytes of a pack's end that are read at first: the headers of most packs are shorter.
const FIRST_READ: u64 = 16 << 10;

/// The blobs that the header of the pack lists, in the order of their offsets; the pack file is `size` bytes long.
///
/// The header is authenticated, the blobs are not looked at.
///
/// # Errors
/// [`Error::Damaged`] when there is no whole header, or it does not fit the file's size; [`Error::Store`].
pub fn read_header(repository: &Repository, pack: &Id, size: u64) -> Result<Vec<PackBlob>> {
    let damaged = |reason: &dyn std::fmt::Display| Error::damaged(ObjectKind::Pack, pack, reason);
    let from = size.saturating_sub(FIRST_READ);
    let mut end = repository.store().get(ObjectKind::Pack, pack, Some(from..size))?;
    let last = *end.last_chunk::<4>().ok_or_else(|| damaged(&"it is too short to be a pack"))?;
    let length = header_len(last, size).map_err(|error| damaged(&error))?;
    let start = size - 4 - u64::from(length);
    if start < from {
        end = repository.store().get(ObjectKind::Pack, pack, Some(start..size))?;
    }
    let sealed = end
        .len()
        .checked_sub(4 + length as usize)
        .and_then(|at| end.get(at..end.len() - 4))
        .ok_or_else(|| damaged(&"it is shorter than the store says"))?;
    let plain = repository
        .key()
        .open(sealed)
        .map_err(|error| damaged(&format_args!("its header cannot be opened: {error}")))?;
    let blobs = decode_header(&plain).map_err(|error| damaged(&error))?;
    let expected = pack_size(&blobs);
    if expected != size {
        return Err(damaged(&format_args!("it is {size} bytes long, and its header describes {expected}")));
    }
    Ok(blobs)
}
