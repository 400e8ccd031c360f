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
/// No compressed byte stands for more: a zstd block takes three bytes or more and holds 128 KiB at the most.
const MAX_RATIO: usize = 128 << 10;

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
    if expected > compressed.len().saturating_mul(MAX_RATIO) {
        // Known before the memory is taken that a damaged index asks for.
        let length = compressed.len();
        return Err(io::Error::other(format!("{length} bytes cannot hold the {expected} that the index says")));
    }
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A frame as a streaming encoder writes it: without its content size.
    fn streamed(data: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn version_2_compresses_and_version_1_does_not() {
        let wrapped = wrap(2, b"{\"packs\":[]}\n").unwrap();
        assert_eq!(wrapped[..5], [2, 0x28, 0xb5, 0x2f, 0xfd]);
        assert_eq!(unwrap(2, wrapped).unwrap(), b"{\"packs\":[]}\n");
        assert_eq!(wrap(1, b"{}").unwrap(), b"{}");
    }

    #[test]
    fn plain_json_is_read_in_both_versions() {
        for version in [1, 2] {
            assert_eq!(unwrap(version, b"{}".to_vec()).unwrap(), b"{}");
            assert_eq!(unwrap(version, b"[]".to_vec()).unwrap(), b"[]");
        }
    }

    #[test]
    fn other_encodings_are_refused() {
        assert!(matches!(unwrap(2, vec![3, 1]), Err(ContainerError::UnknownEncoding(3))));
        assert!(matches!(unwrap(1, wrap(2, b"{}").unwrap()), Err(ContainerError::UnknownEncoding(2))));
        assert!(matches!(unwrap(2, vec![]), Err(ContainerError::Empty)));
        assert!(matches!(unwrap(2, vec![2, 9, 9, 9, 9]), Err(ContainerError::Zstd(_))));
        let mut cut = wrap(2, &[b'{'; 1000]).unwrap();
        cut.truncate(cut.len() - 3);
        assert!(matches!(unwrap(2, cut), Err(ContainerError::Zstd(_))));
    }

    #[test]
    fn several_frames_without_content_size_are_one_text() {
        let mut plain = vec![2];
        plain.extend(streamed(b"{\"a\":"));
        plain.extend(streamed(b"1}"));
        assert_eq!(unwrap(2, plain).unwrap(), b"{\"a\":1}");
    }

    #[test]
    fn blobs_must_have_the_length_that_the_index_says() {
        let data = vec![b'x'; 5000];
        let mut out = vec![1, 2, 3];
        for frame in [streamed(&data), zstd::bulk::compress(&data, 3).unwrap()] {
            decompress_into(&frame, 5000, &mut out).unwrap();
            assert_eq!(out, data);
            assert!(decompress_into(&frame, 4999, &mut out).is_err());
            assert!(decompress_into(&frame, 5001, &mut out).is_err());
            assert!(decompress_into(&frame[..frame.len() - 1], 5000, &mut out).is_err());
        }
    }

    #[test]
    fn a_length_that_cannot_be_true_takes_no_memory() {
        let frame = zstd::bulk::compress(b"short", 3).unwrap();
        let mut out = Vec::new();
        assert!(decompress_into(&frame, u32::MAX as usize, &mut out).is_err());
        assert_eq!(out.capacity(), 0);
        // The most that can be true: nothing but zeros.
        let zeros = vec![0; 64 << 20];
        decompress_into(&zstd::bulk::compress(&zeros, 19).unwrap(), zeros.len(), &mut out).unwrap();
        assert_eq!(out, zeros);
    }
}
