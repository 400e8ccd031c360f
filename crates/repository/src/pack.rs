//! Pack files: blobs one behind the other, then a header that lists them (reference section 8).

use std::fmt;
use std::num::NonZeroU32;

use backstay_core::Id;

use crate::crypto::OVERHEAD;

/// Envelope of a header at the most, in bytes.
pub const MAX_HEADER: usize = 16 << 20;
/// Bytes of a pack that belong to no blob and no header entry: the header's IV and MAC, and its length.
pub const FIXED_OVERHEAD: usize = OVERHEAD + 4;

const PLAIN_ENTRY: usize = 37;
const COMPRESSED_ENTRY: usize = 41;

/// What a blob holds. Blobs of different kinds are different objects even when their ids are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlobKind {
    /// A piece of a file.
    Data,
    /// A directory's nodes.
    Tree,
}

impl BlobKind {
    /// The name in index files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Tree => "tree",
        }
    }
}

impl fmt::Display for BlobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A blob's place in its pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PackBlob {
    /// SHA-256 of the content.
    pub id: Id,
    /// What it holds.
    pub kind: BlobKind,
    /// First byte of its envelope.
    pub offset: u32,
    /// Bytes of its envelope.
    pub length: u32,
    /// Bytes of the content if it is compressed.
    pub uncompressed: Option<NonZeroU32>,
}

impl PackBlob {
    /// Bytes of its entry in the header.
    #[must_use]
    pub fn header_len(&self) -> usize {
        if self.uncompressed.is_some() { COMPRESSED_ENTRY } else { PLAIN_ENTRY }
    }

    /// Bytes of the content.
    #[must_use]
    pub fn content_len(&self) -> u64 {
        self.uncompressed.map_or(u64::from(self.length).saturating_sub(OVERHEAD as u64), |n| u64::from(n.get()))
    }
}

/// Why a header cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// A type byte that the format does not define.
    #[error("the header names the unknown blob type {0}")]
    UnknownType(u8),
    /// The last entry is cut off.
    #[error("the header ends in the middle of an entry")]
    Incomplete,
    /// A blob shorter than IV and MAC.
    #[error("the header lists a blob that is too short to be one")]
    BlobTooShort,
    /// Blobs beyond 4 GiB.
    #[error("the header lists more than 4 GiB of blobs")]
    TooLong,
    /// The length at the file's end cannot be right.
    #[error("the header length {0} does not fit the file")]
    Length(u32),
}

/// The plain bytes of the header of a pack with these blobs. Their offsets are not stored: they follow from the order.
#[must_use]
pub fn encode_header(blobs: &[PackBlob]) -> Vec<u8> {
    let mut out = Vec::with_capacity(blobs.len() * COMPRESSED_ENTRY);
    for blob in blobs {
        out.push(u8::from(blob.kind == BlobKind::Tree) | u8::from(blob.uncompressed.is_some()) << 1);
        out.extend_from_slice(&blob.length.to_le_bytes());
        if let Some(length) = blob.uncompressed {
            out.extend_from_slice(&length.get().to_le_bytes());
        }
        out.extend_from_slice(&blob.id.0);
    }
    out
}

/// The blobs that a plain header lists.
///
/// # Errors
/// [`HeaderError`].
pub fn decode_header(plain: &[u8]) -> Result<Vec<PackBlob>, HeaderError> {
    fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], HeaderError> {
        let (bytes, later) = rest.split_first_chunk::<N>().ok_or(HeaderError::Incomplete)?;
        *rest = later;
        Ok(*bytes)
    }
    let mut blobs = Vec::with_capacity(plain.len() / PLAIN_ENTRY);
    let mut rest = plain;
    let mut offset = 0_u32;
    while !rest.is_empty() {
        let [kind] = take(&mut rest)?;
        if kind > 3 {
            return Err(HeaderError::UnknownType(kind));
        }
        let length = u32::from_le_bytes(take(&mut rest)?);
        if (length as usize) < OVERHEAD {
            return Err(HeaderError::BlobTooShort);
        }
        // A length of zero means "not compressed" for restic.
        let uncompressed = if kind & 2 != 0 { NonZeroU32::new(u32::from_le_bytes(take(&mut rest)?)) } else { None };
        let id = Id(take(&mut rest)?);
        let kind = if kind & 1 != 0 { BlobKind::Tree } else { BlobKind::Data };
        blobs.push(PackBlob { id, kind, offset, length, uncompressed });
        offset = offset.checked_add(length).ok_or(HeaderError::TooLong)?;
    }
    Ok(blobs)
}

/// The length of the header's envelope, from the last four bytes of a pack of `pack_size` bytes.
///
/// # Errors
/// [`HeaderError::Length`] when no header of that length can be there.
pub fn header_len(last: [u8; 4], pack_size: u64) -> Result<u32, HeaderError> {
    let length = u32::from_le_bytes(last);
    let fits = u64::from(length) + 4 <= pack_size;
    if (length as usize) < OVERHEAD || length as usize > MAX_HEADER || !fits {
        return Err(HeaderError::Length(length));
    }
    Ok(length)
}

/// The size of a pack file with these blobs, in bytes.
pub fn pack_size<'a>(blobs: impl IntoIterator<Item = &'a PackBlob>) -> u64 {
    blobs.into_iter().fold(FIXED_OVERHEAD as u64, |size, blob| size + u64::from(blob.length) + blob.header_len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(name: &[u8], kind: BlobKind, offset: u32, length: u32, uncompressed: u32) -> PackBlob {
        PackBlob { id: Id::of(name), kind, offset, length, uncompressed: NonZeroU32::new(uncompressed) }
    }

    #[test]
    fn the_references_header_is_written() {
        let blobs = [blob(b"hello\n", BlobKind::Data, 0, 38, 0), blob(b"hello world\n", BlobKind::Data, 38, 53, 12)];
        let hex: String = encode_header(&blobs).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "00260000005891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03\
             02350000000c000000a948904f2f0f479b8f8197694b30184b0d2ed1c1cd2a1ec0fb85d299a192a447"
        );
        assert_eq!(pack_size(&blobs), 205);
    }

    #[test]
    fn headers_with_all_types_round_trip() {
        let blobs = [
            blob(b"a", BlobKind::Data, 0, 100, 0),
            blob(b"b", BlobKind::Tree, 100, 32, 0),
            blob(b"c", BlobKind::Data, 132, 4_000_000, 9_000_000),
            blob(b"d", BlobKind::Tree, 4_000_132, 50, u32::MAX),
        ];
        let header = encode_header(&blobs);
        assert_eq!([header[0], header[37], header[74], header[115]], [0, 1, 2, 3]);
        assert_eq!(decode_header(&header).unwrap(), blobs);
        assert_eq!(decode_header(b"").unwrap(), []);
    }

    #[test]
    fn broken_headers_are_refused() {
        let header = encode_header(&[blob(b"a", BlobKind::Data, 0, 100, 7)]);
        for length in 1..header.len() {
            assert_eq!(decode_header(&header[..length]), Err(HeaderError::Incomplete), "{length} bytes");
        }
        let mut unknown = header.clone();
        unknown[0] = 4;
        assert_eq!(decode_header(&unknown), Err(HeaderError::UnknownType(4)));
        let short = encode_header(&[blob(b"a", BlobKind::Data, 0, 31, 0)]);
        assert_eq!(decode_header(&short), Err(HeaderError::BlobTooShort));
        let long = [blob(b"a", BlobKind::Data, 0, u32::MAX, 0), blob(b"b", BlobKind::Data, 0, u32::MAX, 0)];
        assert_eq!(decode_header(&encode_header(&long)), Err(HeaderError::TooLong));
    }

    #[test]
    fn a_header_length_that_cannot_be_is_refused() {
        assert_eq!(header_len(110_u32.to_le_bytes(), 205), Ok(110));
        assert_eq!(header_len(201_u32.to_le_bytes(), 205), Ok(201));
        for length in [0, 31, 202, 16 * 1024 * 1024 + 1, u32::MAX] {
            assert_eq!(header_len(u32::to_le_bytes(length), 205), Err(HeaderError::Length(length)));
        }
        assert!(header_len((16 * 1024 * 1024 + 1_u32).to_le_bytes(), u64::MAX).is_err());
    }
}
