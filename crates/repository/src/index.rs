//! The index: which blob is where (reference section 9).
//!
//! Made for tens of millions of blobs, in less than 60 bytes each: a list of fixed-size records, grouped by pack, and a
//! table of positions in it. Nothing is allocated for a blob, and growing copies no record. `index/entries.rs` has the
//! records, `index/positions.rs` the table, `index/file.rs` the JSON, `index/image.rs` the form that the cache keeps.

mod entries;
mod file;
pub(crate) mod image;
mod positions;

use std::collections::HashSet;
use std::num::NonZeroU32;

use backstay_core::Id;

use crate::pack::{BlobKind, PackBlob, pack_size};

use entries::{Entries, Record};
pub use file::{IndexFile, decode_index_file, encode_index_file};
use positions::Positions;

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

/// In [`Run::pack`]: the blobs hold trees.
const TREE: u32 = 1 << 31;
/// No run.
const NONE: u32 = u32::MAX;
/// For every so many records it is noted which run they are in.
const HINT: u32 = 32;

/// A run of records that belong to one pack and are of one kind; it ends where the next begins. A pack has one run,
/// unless it is mixed or index files list different parts of it.
struct Run {
    first: u32,
    /// Number of the pack, and [`TREE`].
    pack: u32,
    /// The run before this one that belongs to the same pack, or [`NONE`].
    before: u32,
}

struct Pack {
    id: Id,
    /// Its last run.
    last: u32,
}

/// An index file that was taken in.
struct Listed {
    id: Id,
    /// Its runs end before this one, and begin where those of the file before it end.
    runs_end: u32,
    marked: Vec<Id>,
    /// Everything that it lists is in its runs: none of it was listed before.
    whole: bool,
}

/// All blobs of a repository.
#[derive(Default)]
pub struct Index {
    entries: Entries,
    table: Positions,
    runs: Vec<Run>,
    hints: Vec<u32>,
    packs: Vec<Pack>,
    pack_table: Positions,
    files: Vec<Listed>,
    repeated: Vec<Id>,
    marked: Vec<Id>,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("blobs", &self.len()).field("packs", &self.packs.len()).finish_non_exhaustive()
    }
}

impl Index {
    /// Where the blob is; any one place if there are several.
    #[must_use]
    pub fn get(&self, kind: BlobKind, id: &Id) -> Option<Location> {
        self.get_all(kind, id).next()
    }

    /// All places where the blob is.
    pub fn get_all(&self, kind: BlobKind, id: &Id) -> impl Iterator<Item = Location> {
        let id = *id;
        self.table.candidates(&id).filter_map(move |at| {
            let record = self.entries.get(at).filter(|record| record.is(&id))?;
            let run = self.run_of(at)?;
            (run.kind() == kind).then_some(Location {
                pack: self.packs.get(run.pack_number())?.id,
                offset: record.offset(),
                length: record.length(),
                uncompressed: record.uncompressed(),
            })
        })
    }

    /// Whether the blob is stored.
    #[must_use]
    pub fn contains(&self, kind: BlobKind, id: &Id) -> bool {
        self.get(kind, id).is_some()
    }

    /// How many blobs are listed; a blob in two packs counts twice.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.count() as usize
    }

    /// Whether nothing is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All packs in use, in no order.
    pub fn packs(&self) -> impl Iterator<Item = (Id, PackSummary)> {
        self.packs.iter().filter_map(|pack| Some((pack.id, self.pack(&pack.id)?)))
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
        let mut next = self.pack_number(pack).map_or(NONE, |number| self.packs[number as usize].last);
        while let Some(run) = self.runs.get(next as usize) {
            let kind = run.kind();
            blobs.extend(self.run_records(next).map(|record| record.blob(kind)));
            next = run.before;
        }
        blobs.sort_unstable_by_key(|blob| blob.offset);
        blobs
    }

    /// Every listed blob with its pack, in no order.
    pub fn blobs(&self) -> impl Iterator<Item = (Id, PackBlob)> {
        let runs = (0_u32..).zip(&self.runs);
        runs.flat_map(|(number, run)| {
            let (kind, pack) = (run.kind(), self.packs[run.pack_number()].id);
            self.run_records(number).map(move |record| (pack, record.blob(kind)))
        })
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

    /// Bytes of memory that the index holds.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.entries.memory()
            + self.table.memory()
            + self.pack_table.memory()
            + self.runs.capacity() * size_of::<Run>()
            + self.hints.capacity() * size_of::<u32>()
            + self.packs.capacity() * size_of::<Pack>()
    }

    /// Adds a pack. Blobs that are listed for it already are not listed again.
    pub fn insert_pack(&mut self, pack: Id, blobs: Vec<PackBlob>) {
        self.insert(pack, blobs);
    }

    /// Adds a pack and says whether all of its blobs were new to it.
    fn insert(&mut self, pack: Id, mut blobs: Vec<PackBlob>) -> bool {
        let listed = blobs.len();
        let number = match self.pack_number(&pack) {
            Some(number) => {
                self.repeated.push(pack);
                let have: HashSet<PackBlob> = self.pack_blobs(&pack).into_iter().collect();
                blobs.retain(|blob| !have.contains(blob));
                number
            }
            None => self.add_pack(pack),
        };
        for blob in &blobs {
            // Numbers of packs have 31 bits and those of records 32: the memory for more than that is not there.
            let kind = if blob.kind == BlobKind::Tree { TREE } else { 0 };
            let at = self.entries.count();
            let open = self.runs.last().filter(|run| run.pack == number | kind);
            if open.is_none() || self.starts_a_file() {
                self.add_run(Run { first: at, pack: number | kind, before: NONE });
            }
            if at.is_multiple_of(HINT) {
                self.hints.push(self.runs.len() as u32 - 1);
            }
            if self.table.is_full() {
                self.grow();
            }
            self.entries.push(blob);
            self.table.insert(&blob.id, at);
        }
        blobs.len() == listed
    }

    /// Whether nothing was added since the last index file.
    fn starts_a_file(&self) -> bool {
        self.files.last().is_some_and(|file| file.runs_end as usize == self.runs.len())
    }

    fn add_pack(&mut self, id: Id) -> u32 {
        let number = self.packs.len() as u32;
        if self.pack_table.is_full() {
            self.pack_table = Positions::with_room_for(number + number / 2 + 16);
            for (at, pack) in (0_u32..).zip(&self.packs) {
                self.pack_table.insert(&pack.id, at);
            }
        }
        self.pack_table.insert(&id, number);
        self.packs.push(Pack { id, last: NONE });
        number
    }

    /// Adds a run to its pack's.
    fn add_run(&mut self, mut run: Run) {
        let number = self.runs.len() as u32;
        if let Some(pack) = self.packs.get_mut(run.pack_number()) {
            run.before = pack.last;
            pack.last = number;
        }
        self.runs.push(run);
    }

    /// A larger table. The old one goes first: it is not needed to make the new one.
    fn grow(&mut self) {
        let count = self.entries.count();
        self.reserve((count / 4).max(16));
    }

    /// Makes room for this many blobs more.
    fn reserve(&mut self, more: u32) {
        self.table = Positions::default();
        self.table = Positions::with_room_for(self.entries.count().saturating_add(more));
        for (at, record) in (0_u32..).zip(self.entries.iter()) {
            self.table.insert(&record.id(), at);
        }
    }

    /// Adds what an index file lists.
    pub(crate) fn insert_file(&mut self, id: Id, file: IndexFile) {
        let mut whole = true;
        for (pack, blobs) in file.packs {
            whole &= self.insert(pack, blobs);
        }
        self.marked.extend_from_slice(&file.marked);
        self.files.push(Listed { id, runs_end: self.runs.len() as u32, marked: file.marked, whole });
    }

    fn pack_number(&self, pack: &Id) -> Option<u32> {
        self.pack_table
            .candidates(pack)
            .find(|number| self.packs.get(*number as usize).is_some_and(|one| one.id == *pack))
    }

    fn run_of(&self, at: u32) -> Option<&Run> {
        let mut number = *self.hints.get((at / HINT) as usize)? as usize;
        while self.runs.get(number + 1).is_some_and(|next| next.first <= at) {
            number += 1;
        }
        self.runs.get(number)
    }

    fn run_records(&self, number: u32) -> impl Iterator<Item = Record<'_>> {
        let first = self.runs.get(number as usize).map_or(0, |run| run.first);
        let end = self.runs.get(number as usize + 1).map_or(self.entries.count(), |next| next.first);
        (first..end).filter_map(|at| self.entries.get(at))
    }
}

impl Run {
    fn kind(&self) -> BlobKind {
        if self.pack & TREE == 0 { BlobKind::Data } else { BlobKind::Tree }
    }

    fn pack_number(&self) -> usize {
        (self.pack & !TREE) as usize
    }
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
        index.insert_file(Id::of(b"file"), decode_index_file(2, json.as_bytes()).unwrap());
        assert_eq!(index.get(BlobKind::Tree, &Id::of(b"tree")).unwrap().uncompressed, None);
        assert_eq!(index.marked_packs(), [Id::of(b"gone")]);
        assert!(!index.contains(BlobKind::Data, &Id::of(b"gone")));
        assert_eq!(index.packs().count(), 1);
    }
}
