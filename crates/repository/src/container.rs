//! The container of unpacked files (snapshots, index files, locks), and zstd as the repository uses it (reference
//! sections 6 and 7).

use std::cell::RefCell;
use std::io::{self, Read};

/// First byte of a compressed container.
const COMPRESSED: u8 = 2;
/// Level for unpacked files, which are small.
const LEVEL: i32 = 3;
/// Bytes of JSON at the most: no program writes a tenth of it.
const MAX_PLAIN: u64 = 2 << 30;

/// Why a container does not open.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// Its first byte is none that the format defines.
    #[error("its encoding (first byte {0:#04x}) is not known")]
    UnknownEncoding(u8),
    /// It holds nothing at all.
    #[error("it is empty")]
    Empty,
    /// zstd refused it.
    #[error("its compressed contents are broken: {0}")]
    Zstd(#[from] io::Error),
    /// It decompresses to more than any program writes.
    #[error("it decompresses to more than 2 GiB")]
    TooLong,
}

/// Wraps JSON for a repository of this format version.
///
/// # Errors
/// What zstd said.
pub fn wrap(version: u32, json: &[u8]) -> io::Result<Vec<u8>> {
    if version < 2 {
        return Ok(json.to_vec());
    }
    let mut out = vec![COMPRESSED];
    out.extend_from_slice(&zstd::bulk::compress(json, LEVEL)?);
    Ok(out)
}

/// The JSON of a container. A container without compression is read in every version.
///
/// # Errors
/// [`ContainerError`].
pub fn unwrap(version: u32, plain: Vec<u8>) -> Result<Vec<u8>, ContainerError> {
    match plain.first() {
        Some(b'{' | b'[') => Ok(plain),
        Some(&COMPRESSED) if version >= 2 => {
            let mut json = Vec::with_capacity(plain.len() * 4);
            zstd::stream::read::Decoder::with_buffer(&plain[1..])?.take(MAX_PLAIN + 1).read_to_end(&mut json)?;
            if json.len() as u64 > MAX_PLAIN {
                return Err(ContainerError::TooLong);
            }
            Ok(json)
        }
        Some(other) => Err(ContainerError::UnknownEncoding(*other)),
        None => Err(ContainerError::Empty),
    }
}

thread_local! {
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Decompresses a blob that must be `expected` bytes long, into `out`, whose former contents go. Frames without a
/// content size are as good as others.
///
/// # Errors
/// What zstd said, or that the length differs.
pub fn decompress_into(compressed: &[u8], expected: usize, out: &mut Vec<u8>) -> io::Result<()> {
    out.clear();
    out.reserve(expected);
    DECOMPRESSOR.with_borrow_mut(|decompressor| {
        if decompressor.is_none() {
            *decompressor = Some(zstd::bulk::Decompressor::new()?);
        }
        match decompressor {
            Some(decompressor) => decompressor.decompress_to_buffer(compressed, out),
            None => Ok(0),
        }
    })?;
    if out.len() == expected {
        Ok(())
    } else {
        let length = out.len();
        Err(io::Error::other(format!("{length} bytes came out where the index says {expected}")))
    }
}
