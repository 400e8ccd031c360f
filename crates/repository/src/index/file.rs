//! The JSON of index files (reference section 9).
//!
//! A repository of ten million blobs has a gigabyte and a half of it, so what restic and we write, which is always the
//! same to the byte but for names and numbers, is read by a parser that knows nothing else. Whatever it does not know
//! (rustic's spaces and fields, mistakes) goes to serde.

use std::num::NonZeroU32;

use backstay_core::Id;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::pack::{BlobKind, PackBlob};

/// What one index file lists.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct IndexFile {
    /// Packs in use, with all their blobs.
    pub packs: Vec<(Id, Vec<PackBlob>)>,
    /// Packs that rustic has marked for deletion.
    pub marked: Vec<Id>,
}

#[derive(Deserialize)]
struct RawFile {
    #[serde(default)]
    packs: Option<Vec<RawPack>>,
    #[serde(default)]
    packs_to_delete: Option<Vec<RawMarked>>,
}

#[derive(Deserialize)]
struct RawPack {
    id: Id,
    #[serde(default)]
    blobs: Option<Vec<RawBlob>>,
}

#[derive(Deserialize)]
struct RawMarked {
    id: Id,
}

#[derive(Deserialize)]
struct RawBlob {
    id: Id,
    #[serde(rename = "type", deserialize_with = "blob_kind")]
    kind: BlobKind,
    offset: u32,
    length: u32,
    #[serde(default)]
    uncompressed_length: Option<u32>,
}

fn blob_kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BlobKind, D::Error> {
    match <std::borrow::Cow<'_, str>>::deserialize(deserializer)?.as_ref() {
        "data" => Ok(BlobKind::Data),
        "tree" => Ok(BlobKind::Tree),
        other => Err(D::Error::custom(format_args!("blobs of type \"{other}\" are not known"))),
    }
}

/// Reads the JSON of an index file of a repository of this format version.
///
/// # Errors
/// What is wrong with it.
pub fn decode_index_file(version: u32, json: &[u8]) -> Result<IndexFile, String> {
    let file = match usual(json) {
        Some(file) => file,
        None => unusual(json)?,
    };
    let compressed = |blobs: &[PackBlob]| blobs.iter().any(|blob| blob.uncompressed.is_some());
    if version < 2
        && let Some((pack, _)) = file.packs.iter().find(|(_, blobs)| compressed(blobs))
    {
        return Err(format!("pack {pack} has compressed blobs, which version 1 does not know"));
    }
    Ok(file)
}

/// Any JSON that is an index file.
fn unusual(json: &[u8]) -> Result<IndexFile, String> {
    let raw: RawFile = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let mut packs = Vec::new();
    for pack in raw.packs.unwrap_or_default() {
        let blobs: Vec<PackBlob> = pack
            .blobs
            .unwrap_or_default()
            .into_iter()
            .map(|RawBlob { id, kind, offset, length, uncompressed_length }| {
                let uncompressed = uncompressed_length.and_then(NonZeroU32::new);
                PackBlob { id, kind, offset, length, uncompressed }
            })
            .collect();
        packs.push((pack.id, blobs));
    }
    let marked = raw.packs_to_delete.unwrap_or_default().into_iter().map(|pack| pack.id).collect();
    Ok(IndexFile { packs, marked })
}

/// The JSON that restic and we write, none for any other.
fn usual(json: &[u8]) -> Option<IndexFile> {
    let mut text = Text(json);
    text.take(b"{\"packs\":[")?;
    let mut packs = Vec::new();
    let mut blobs = Vec::new();
    loop {
        text.take(b"{\"id\":\"")?;
        let pack = text.id()?;
        text.take(b"\",\"blobs\":[")?;
        blobs.clear();
        loop {
            text.take(b"{\"id\":\"")?;
            let id = text.id()?;
            text.take(b"\",\"type\":\"")?;
            let kind = match text.0.first()? {
                b'd' => {
                    text.take(b"data\",\"offset\":")?;
                    BlobKind::Data
                }
                _ => {
                    text.take(b"tree\",\"offset\":")?;
                    BlobKind::Tree
                }
            };
            let offset = text.number()?;
            text.take(b",\"length\":")?;
            let length = text.number()?;
            let uncompressed = match text.take(b",\"uncompressed_length\":") {
                Some(()) => NonZeroU32::new(text.number()?),
                None => None,
            };
            text.take(b"}")?;
            blobs.push(PackBlob { id, kind, offset, length, uncompressed });
            if text.take(b",").is_none() {
                break;
            }
        }
        text.take(b"]}")?;
        packs.push((pack, blobs.clone()));
        if text.take(b",").is_none() {
            break;
        }
    }
    text.take(b"]}")?;
    text.0.iter().all(|byte| *byte == b'\n').then_some(IndexFile { packs, marked: Vec::new() })
}

/// What of the usual JSON is still to be read.
struct Text<'a>(&'a [u8]);

impl Text<'_> {
    fn take(&mut self, expected: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(expected)?;
        Some(())
    }

    fn id(&mut self) -> Option<Id> {
        const DIGITS: [u8; 256] = {
            let mut digits = [0xff; 256];
            let mut value = 0;
            while value < 10 {
                digits[b'0' as usize + value] = value as u8;
                value += 1;
            }
            while value < 16 {
                digits[b'a' as usize + value - 10] = value as u8;
                value += 1;
            }
            digits
        };
        let (digits, rest) = self.0.split_first_chunk::<64>()?;
        let mut id = Id::default();
        let mut seen = 0;
        for (byte, pair) in id.0.iter_mut().zip(digits.as_chunks::<2>().0) {
            let (high, low) = (DIGITS[usize::from(pair[0])], DIGITS[usize::from(pair[1])]);
            seen |= high | low;
            *byte = high << 4 | low;
        }
        self.0 = rest;
        (seen < 16).then_some(id)
    }

    fn number(&mut self) -> Option<u32> {
        let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, rest) = self.0.split_at(digits);
        // JSON knows no leading zeros.
        if number.is_empty() || (number[0] == b'0' && digits > 1) || digits > 10 {
            return None;
        }
        self.0 = rest;
        u32::try_from(number.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'))).ok()
    }
}

/// The JSON of an index file that lists these packs, as restic writes it.
#[must_use]
pub fn encode_index_file(packs: &[(Id, Vec<PackBlob>)]) -> Vec<u8> {
    use std::io::Write;
    let blobs: usize = packs.iter().map(|(_, blobs)| blobs.len()).sum();
    let mut out = Vec::with_capacity(64 + packs.len() * 96 + blobs * 160);
    out.extend_from_slice(b"{\"packs\":[");
    for (at, (pack, blobs)) in packs.iter().enumerate() {
        out.extend_from_slice(if at == 0 { b"{\"id\":\"" } else { b",{\"id\":\"" });
        pack.write_hex(&mut out);
        out.extend_from_slice(b"\",\"blobs\":[");
        for (at, blob) in blobs.iter().enumerate() {
            out.extend_from_slice(if at == 0 { b"{\"id\":\"" } else { b",{\"id\":\"" });
            blob.id.write_hex(&mut out);
            // Writing into memory does not fail.
            let _ = write!(out, "\",\"type\":\"{}\",\"offset\":{},\"length\":{}", blob.kind, blob.offset, blob.length);
            if let Some(length) = blob.uncompressed {
                let _ = write!(out, ",\"uncompressed_length\":{length}");
            }
            out.push(b'}');
        }
        out.extend_from_slice(b"]}");
    }
    out.extend_from_slice(b"]}\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_references_index_file_is_written_and_read() {
        let json = concat!(
            r#"{"packs":[{"id":"f2b9b2f41b3f436208e752a8d2f535c43338652cfb4cb6dbaf79381783dc95bb","blobs":["#,
            r#"{"id":"5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03","type":"data","offset":0,"length":38},"#,
            r#"{"id":"a948904f2f0f479b8f8197694b30184b0d2ed1c1cd2a1ec0fb85d299a192a447","type":"data","offset":38,"length":53,"uncompressed_length":12}]},"#,
            r#"{"id":"5949882f99a9f4c9e966027e98f397f8f416d68927bc68d3f8eae6dc0d53a363","blobs":["#,
            r#"{"id":"cb23b5e78945d9bf10e30ec39e287c773f2d7ef24d955ff85e55a729c192119a","type":"tree","offset":0,"length":401,"uncompressed_length":359}]}]}"#,
            "\n"
        );
        assert_eq!(json.len(), 566);
        let file = decode_index_file(2, json.as_bytes()).unwrap();
        assert_eq!(encode_index_file(&file.packs), json.as_bytes());
        assert!(decode_index_file(1, json.as_bytes()).unwrap_err().contains("version 1"));
    }

    #[test]
    fn index_files_without_packs_are_empty_and_other_texts_are_refused() {
        for text in ["{}", r#"{"packs":null}"#, r#"{"packs":[]}"#] {
            assert_eq!(decode_index_file(2, text.as_bytes()), Ok(IndexFile::default()), "{text}");
        }
        let unknown = format!(
            r#"{{"packs":[{{"id":"{0}","blobs":[{{"id":"{0}","type":"box","offset":0,"length":1}}]}}]}}"#,
            Id::of(b"x")
        );
        for text in ["", "{", "[]x", r#"{"packs":[{"blobs":[]}]}"#, &unknown] {
            assert!(decode_index_file(2, text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn both_parsers_read_the_same_and_the_fast_one_refuses_what_it_does_not_know() {
        let blob = |number: u32, kind, uncompressed| PackBlob {
            id: Id::of(&number.to_le_bytes()),
            kind,
            offset: number.wrapping_mul(77_777),
            length: u32::MAX - number,
            uncompressed: NonZeroU32::new(uncompressed),
        };
        let packs: Vec<(Id, Vec<PackBlob>)> = (0..4)
            .map(|pack| {
                let kind = if pack == 1 { BlobKind::Tree } else { BlobKind::Data };
                (Id::of(&[pack as u8]), (0..=pack).map(|at| blob(pack * 100 + at, kind, at)).collect())
            })
            .collect();
        let json = encode_index_file(&packs);
        let read = usual(&json).unwrap();
        assert_eq!(read.packs, packs);
        assert_eq!(unusual(&json).unwrap(), read);
        // Cut anywhere it is refused by both, and with any byte changed the fast one reads what serde reads, or nothing.
        for end in 0..json.len() - 1 {
            assert!(decode_index_file(2, &json[..end]).is_err(), "{end}");
        }
        for at in 0..json.len() {
            for byte in [b' ', b'0', b'9', b'g', b'A', b'"', b'}', b','] {
                let mut changed = json.clone();
                changed[at] = byte;
                if let Some(read) = usual(&changed) {
                    assert_eq!(unusual(&changed).as_ref(), Ok(&read), "{byte} at {at}");
                }
            }
        }
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        let id = Id::of(b"x");
        for number in ["", "-1", "01", "4294967296", "99999999999", "1.5", "1e3", "x"] {
            let json = format!(
                r#"{{"packs":[{{"id":"{id}","blobs":[{{"id":"{id}","type":"data","offset":{number},"length":1}}]}}]}}"#
            );
            assert_eq!(usual(json.as_bytes()), None, "{number}");
            assert!(decode_index_file(2, json.as_bytes()).is_err(), "{number}");
        }
    }
}
