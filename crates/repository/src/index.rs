//! The index: which blob is where (reference section 9).
//!
//! Made for millions of blobs: one list of fixed-size entries, grouped by pack, and one hash table of positions in it.

use std::collections::HashMap;
use std::num::NonZeroU32;

use backstay_core::Id;
use hashbrown::HashTable;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::pack::{BlobKind, PackBlob, pack_size};

/// Where a blob is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The pack.
    pub pack: Id,
    /// First byte of the blob's envelope.
    pub offset: u32,
    /// Bytes of the envelope.
    pub length: u32,
    /// Bytes of the content if it is compressed.
    pub uncompressed: Option<NonZeroU32>,
}

/// What the index knows about a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackSummary {
    /// How many blobs it holds.
    pub blobs: usize,
    /// What its first blob holds, and all others unless `mixed`.
    pub kind: BlobKind,
    /// It holds blobs of both kinds: readable, but nobody should write that.
    pub mixed: bool,
    /// The size that the file must have, in bytes.
    pub size: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    id: Id,
    pack: u32,
    offset: u32,
    length: u32,
    uncompressed: Option<NonZeroU32>,
}

/// In [`Entry::pack`]: the blob holds a tree.
const TREE: u32 = 1 << 31;

impl Entry {
    fn kind(&self) -> BlobKind {
        if self.pack & TREE == 0 { BlobKind::Data } else { BlobKind::Tree }
    }

    fn pack_number(&self) -> usize {
        (self.pack & !TREE) as usize
    }

    fn blob(&self) -> PackBlob {
        PackBlob {
            id: self.id,
            kind: self.kind(),
            offset: self.offset,
            length: self.length,
            uncompressed: self.uncompressed,
        }
    }
}

/// A run of entries that belong to one pack. A pack has one run, unless index files list different parts of it.
struct Run {
    pack: Id,
    first: u32,
    count: u32,
    next: Option<u32>,
}

/// All blobs of a repository.
#[derive(Default)]
pub struct Index {
    entries: Vec<Entry>,
    table: HashTable<u32>,
    runs: Vec<Run>,
    packs: HashMap<Id, u32>,
    repeated: Vec<Id>,
    marked: Vec<Id>,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index")
            .field("blobs", &self.entries.len())
            .field("packs", &self.packs.len())
            .finish_non_exhaustive()
    }
}

/// Ids are hashes already.
fn hash(id: &Id) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = id.0;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

impl Index {
    /// Where the blob is; any one place if there are several.
    #[must_use]
    pub fn get(&self, kind: BlobKind, id: &Id) -> Option<Location> {
        let found = self.table.find(hash(id), |at| {
            let entry = &self.entries[*at as usize];
            entry.id == *id && entry.kind() == kind
        })?;
        Some(self.location(*found))
    }

    /// All places where the blob is.
    pub fn get_all(&self, kind: BlobKind, id: &Id) -> impl Iterator<Item = Location> {
        let id = *id;
        self.table
            .iter_hash(hash(&id))
            .filter(move |at| {
                let entry = &self.entries[**at as usize];
                entry.id == id && entry.kind() == kind
            })
            .map(|at| self.location(*at))
    }

    fn location(&self, at: u32) -> Location {
        let entry = &self.entries[at as usize];
        Location {
            pack: self.runs[entry.pack_number()].pack,
            offset: entry.offset,
            length: entry.length,
            uncompressed: entry.uncompressed,
        }
    }

    /// Whether the blob is stored.
    #[must_use]
    pub fn contains(&self, kind: BlobKind, id: &Id) -> bool {
        self.get(kind, id).is_some()
    }

    /// How many blobs are listed; a blob in two packs counts twice.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All packs in use, in no order.
    pub fn packs(&self) -> impl Iterator<Item = (Id, PackSummary)> {
        self.packs.keys().filter_map(|pack| Some((*pack, self.pack(pack)?)))
    }

    /// What is known about a pack; none if no index file lists it.
    #[must_use]
    pub fn pack(&self, pack: &Id) -> Option<PackSummary> {
        let blobs = self.pack_blobs(pack);
        let kind = blobs.first()?.kind;
        Some(PackSummary {
            blobs: blobs.len(),
            kind,
            mixed: blobs.iter().any(|blob| blob.kind != kind),
            size: pack_size(&blobs),
        })
    }

    /// The blobs of a pack by their offsets; empty if no index file lists it.
    #[must_use]
    pub fn pack_blobs(&self, pack: &Id) -> Vec<PackBlob> {
        let mut blobs = Vec::new();
        let mut next = self.packs.get(pack).copied();
        while let Some(run) = next.and_then(|number| self.runs.get(number as usize)) {
            let entries = self.entries.get(run.first as usize..(run.first + run.count) as usize);
            blobs.extend(entries.unwrap_or_default().iter().map(Entry::blob));
            next = run.next;
        }
        blobs.sort_unstable_by_key(|blob| blob.offset);
        blobs
    }

    /// Every listed blob with its pack, in no order.
    pub fn blobs(&self) -> impl Iterator<Item = (Id, PackBlob)> {
        self.entries.iter().map(|entry| (self.runs[entry.pack_number()].pack, entry.blob()))
    }

    /// Packs that more than one index file lists.
    #[must_use]
    pub fn repeated_packs(&self) -> &[Id] {
        &self.repeated
    }

    /// Packs that rustic has marked for deletion: still stored, not to be relied on, not used for look-ups.
    #[must_use]
    pub fn marked_packs(&self) -> &[Id] {
        &self.marked
    }

    /// Adds a pack. Blobs that are listed for it already are not listed again.
    pub fn insert_pack(&mut self, pack: Id, mut blobs: Vec<PackBlob>) {
        let former = self.packs.get(&pack).copied();
        if former.is_some() {
            self.repeated.push(pack);
            let have = self.pack_blobs(&pack);
            blobs.retain(|blob| !have.contains(blob));
        }
        // Numbers of runs and entries have 31 and 32 bits: the memory for more than that is not there.
        let number = self.runs.len() as u32 & !TREE;
        let first = self.entries.len() as u32;
        if former.is_some() && blobs.is_empty() {
            return;
        }
        self.entries.reserve(blobs.len());
        for blob in &blobs {
            let kind = if blob.kind == BlobKind::Tree { TREE } else { 0 };
            let at = self.entries.len() as u32;
            self.entries.push(Entry {
                id: blob.id,
                pack: number | kind,
                offset: blob.offset,
                length: blob.length,
                uncompressed: blob.uncompressed,
            });
            let entries = &self.entries;
            self.table.insert_unique(hash(&blob.id), at, |at| hash(&entries[*at as usize].id));
        }
        self.runs.push(Run { pack, first, count: blobs.len() as u32, next: former });
        self.packs.insert(pack, number);
    }

    /// Adds what an index file lists.
    pub(crate) fn insert_file(&mut self, file: IndexFile) {
        for (pack, blobs) in file.packs {
            self.insert_pack(pack, blobs);
        }
        self.marked.extend(file.marked);
    }
}

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
        if version < 2 && blobs.iter().any(|blob| blob.uncompressed.is_some()) {
            return Err(format!("pack {} has compressed blobs, which version 1 does not know", pack.id));
        }
        packs.push((pack.id, blobs));
    }
    let marked = raw.packs_to_delete.unwrap_or_default().into_iter().map(|pack| pack.id).collect();
    Ok(IndexFile { packs, marked })
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

    fn blob(name: &[u8], kind: BlobKind, offset: u32) -> PackBlob {
        PackBlob { id: Id::of(name), kind, offset, length: 50, uncompressed: NonZeroU32::new(12) }
    }

    #[test]
    fn a_data_and_a_tree_blob_of_one_id_are_two_objects() {
        let mut index = Index::default();
        let (data, tree) = (Id::of(b"data pack"), Id::of(b"tree pack"));
        index.insert_pack(data, vec![blob(b"x", BlobKind::Data, 0)]);
        assert!(!index.contains(BlobKind::Tree, &Id::of(b"x")));
        index.insert_pack(tree, vec![blob(b"x", BlobKind::Tree, 0)]);
        assert_eq!(index.get(BlobKind::Data, &Id::of(b"x")).unwrap().pack, data);
        assert_eq!(index.get(BlobKind::Tree, &Id::of(b"x")).unwrap().pack, tree);
        assert_eq!(index.get(BlobKind::Data, &Id::of(b"y")), None);
    }

    #[test]
    fn thousands_of_blobs_are_found_where_they_are() {
        let mut index = Index::default();
        for pack in 0..100_u32 {
            let blobs = (0..50_u32).map(|at| blob(&(pack * 50 + at).to_le_bytes(), BlobKind::Data, at * 50)).collect();
            index.insert_pack(Id::of(&pack.to_le_bytes()), blobs);
        }
        assert_eq!(index.len(), 5000);
        assert_eq!(index.packs().count(), 100);
        for number in 0..5000_u32 {
            let location = index.get(BlobKind::Data, &Id::of(&number.to_le_bytes())).unwrap();
            assert_eq!(location.pack, Id::of(&(number / 50).to_le_bytes()));
            assert_eq!(location.offset, number % 50 * 50);
        }
        assert_eq!(index.blobs().count(), 5000);
        assert!(index.repeated_packs().is_empty());
    }

    #[test]
    fn a_blob_in_two_packs_is_found_in_both() {
        let mut index = Index::default();
        let packs = [Id::of(b"one"), Id::of(b"two")];
        for pack in packs {
            index.insert_pack(pack, vec![blob(b"x", BlobKind::Data, 0)]);
        }
        let mut found: Vec<Id> = index.get_all(BlobKind::Data, &Id::of(b"x")).map(|location| location.pack).collect();
        found.sort();
        let mut expected = packs.to_vec();
        expected.sort();
        assert_eq!(found, expected);
        assert!(packs.contains(&index.get(BlobKind::Data, &Id::of(b"x")).unwrap().pack));
    }

    #[test]
    fn a_pack_split_over_two_index_files_is_one_pack() {
        let mut index = Index::default();
        let pack = Id::of(b"pack");
        let (first, second) = (blob(b"a", BlobKind::Data, 0), blob(b"b", BlobKind::Data, 50));
        index.insert_pack(pack, vec![second]);
        index.insert_pack(pack, vec![first]);
        index.insert_pack(pack, vec![first, second]);
        assert_eq!(index.pack_blobs(&pack), [first, second]);
        assert_eq!(index.len(), 2);
        assert_eq!(index.packs().count(), 1);
        assert_eq!(index.repeated_packs(), [pack, pack]);
        let summary = index.pack(&pack).unwrap();
        assert_eq!((summary.blobs, summary.mixed, summary.size), (2, false, 36 + 2 * (50 + 41)));
        assert_eq!(index.pack(&Id::of(b"other")), None);
    }

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
    fn what_rustic_adds_is_read_and_marked_packs_are_not_used() {
        let json = format!(
            r#"{{ "supersedes": [], "packs": [{{"id":"{0}","time":"2026-01-01T00:00:00+00:00","blobs":[
                 {{"id":"{1}","type":"tree","offset":0,"length":40,"uncompressed_length":null,"x":[1,{{}}]}}]}}],
                 "packs_to_delete":[{{"id":"{2}","size":7,"blobs":[{{"id":"{2}","type":"data","offset":0,"length":40}}]}}]}}"#,
            Id::of(b"pack"),
            Id::of(b"tree"),
            Id::of(b"gone")
        );
        let mut index = Index::default();
        index.insert_file(decode_index_file(2, json.as_bytes()).unwrap());
        assert_eq!(index.get(BlobKind::Tree, &Id::of(b"tree")).unwrap().uncompressed, None);
        assert_eq!(index.marked_packs(), [Id::of(b"gone")]);
        assert!(!index.contains(BlobKind::Data, &Id::of(b"gone")));
        assert_eq!(index.packs().count(), 1);
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
}
