//! The form in which an index is kept in the cache: an outline (files, runs, packs), the blocks of records, and the
//! table as it lies in memory. Numbers are little-endian.

use std::ops::Range;

use backstay_core::Id;

use super::entries::{BLOCK, Entries, RECORD, records};
use super::positions::Positions;
use super::{HINT, Index, IndexFile, Listed, NONE, Run, TREE};

pub(crate) use super::entries::{BLOCK as RECORDS_PER_BLOCK, RECORD as BYTES_PER_RECORD};

/// Everything of an index but its records and its table.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outline {
    /// Index files, where their runs end, and the packs that they mark for deletion.
    files: Vec<(Id, u32, Vec<Id>)>,
    /// First record, and number of the pack with the bit for trees.
    runs: Vec<(u32, u32)>,
    packs: Vec<Id>,
    records: u32,
}

impl Outline {
    /// The index files.
    pub(crate) fn files(&self) -> impl Iterator<Item = Id> {
        self.files.iter().map(|(id, _, _)| *id)
    }

    /// How many blobs they list.
    pub(crate) fn records(&self) -> u32 {
        self.records
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.files.len() * 40 + self.runs.len() * 8 + self.packs.len() * 32);
        for count in [self.files.len() as u32, self.runs.len() as u32, self.packs.len() as u32, self.records] {
            out.extend_from_slice(&count.to_le_bytes());
        }
        for (id, runs_end, marked) in &self.files {
            out.extend_from_slice(&id.0);
            out.extend_from_slice(&runs_end.to_le_bytes());
            out.extend_from_slice(&(marked.len() as u32).to_le_bytes());
            for pack in marked {
                out.extend_from_slice(&pack.0);
            }
        }
        for (first, pack) in &self.runs {
            out.extend_from_slice(&first.to_le_bytes());
            out.extend_from_slice(&pack.to_le_bytes());
        }
        for pack in &self.packs {
            out.extend_from_slice(&pack.0);
        }
        out
    }

    /// None if this is no outline, or one whose numbers point outside of it.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = Rest(bytes);
        let [files, runs, packs, records] = [rest.number()?, rest.number()?, rest.number()?, rest.number()?];
        let mut outline = Self { records, ..Self::default() };
        for _ in 0..files {
            let (id, runs_end, marked) = (rest.id()?, rest.number()?, rest.number()?);
            let marked = (0..marked).map(|_| rest.id()).collect::<Option<Vec<_>>>()?;
            let ascending = outline.files.last().is_none_or(|(_, before, _)| *before <= runs_end);
            outline.files.push((id, (ascending && runs_end <= runs).then_some(runs_end)?, marked));
        }
        for _ in 0..runs {
            let (first, pack) = (rest.number()?, rest.number()?);
            let ascending = outline.runs.last().map_or(first == 0, |(before, _)| *before < first);
            outline.runs.push(((ascending && first < records).then_some(first)?, pack));
            (pack & !TREE < packs).then_some(())?;
        }
        outline.packs = (0..packs).map(|_| rest.id()).collect::<Option<_>>()?;
        let last = outline.files.last().map_or(0, |(_, runs_end, _)| *runs_end);
        (rest.0.is_empty() && last == runs && (runs > 0) == (records > 0)).then_some(outline)
    }

    /// What the index files with these records list, one after the other. `next_block` gives the blocks in order, none
    /// when one is damaged; then the rest of the files is not there.
    pub(crate) fn into_files(
        self,
        mut next_block: impl FnMut() -> Option<Vec<u8>>,
    ) -> impl Iterator<Item = (Id, IndexFile)> {
        let Self { files, runs, packs, records: count } = self;
        let (mut run, mut at) = (0_usize, 0_u32);
        let mut block: Vec<u8> = Vec::new();
        files.into_iter().map_while(move |(id, runs_end, marked)| {
            let mut file = IndexFile { packs: Vec::new(), marked };
            while run < runs_end as usize {
                let (_, pack) = runs[run];
                let end = runs.get(run + 1).map_or(count, |(first, _)| *first);
                let mut blobs = Vec::with_capacity((end - at) as usize);
                while at < end {
                    if (at as usize).is_multiple_of(BLOCK) {
                        block = next_block()?;
                    }
                    let skip = at as usize % BLOCK;
                    let here = ((end - at) as usize).min(BLOCK - skip);
                    let kind = Run { first: 0, pack, before: NONE }.kind();
                    let bytes = block.get(skip * RECORD..(skip + here) * RECORD)?;
                    blobs.extend(records(bytes).map(|record| record.blob(kind)));
                    at += here as u32;
                }
                let pack = *packs.get((pack & !TREE) as usize)?;
                match file.packs.last_mut() {
                    Some((last, have)) if *last == pack => have.extend(blobs),
                    _ => file.packs.push((pack, blobs)),
                }
                run += 1;
            }
            Some((id, file))
        })
    }
}

struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn number(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*bytes))
    }

    fn id(&mut self) -> Option<Id> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(Id(*bytes))
    }
}

impl Index {
    /// How many index files were taken in.
    pub(crate) fn file_count(&self) -> usize {
        self.files.len()
    }

    /// The index files that were taken in.
    pub(crate) fn file_ids(&self) -> impl Iterator<Item = Id> {
        self.files.iter().map(|file| file.id)
    }

    /// The table and its mask, if the records of this outline are all there are and in their places.
    pub(crate) fn slots_for(&self, outline: &Outline) -> Option<(&[u32], u32)> {
        (outline.records == self.entries.count()).then(|| (self.table.slots(), self.table.mask()))
    }

    /// The outline of the index files from this one on, but for those of which something was listed before, and their
    /// records.
    pub(crate) fn outline(&self, first_file: usize) -> (Outline, Vec<Range<u32>>) {
        let mut outline = Outline::default();
        let mut ranges: Vec<Range<u32>> = Vec::new();
        let mut numbers = vec![NONE; self.packs.len()];
        let mut first_run =
            first_file.checked_sub(1).and_then(|before| self.files.get(before)).map_or(0, |f| f.runs_end);
        for file in self.files.iter().skip(first_file) {
            for (number, run) in (first_run..file.runs_end).filter_map(|at| Some((at, self.runs.get(at as usize)?))) {
                if !file.whole {
                    break;
                }
                let end = self.runs.get(number as usize + 1).map_or(self.entries.count(), |next| next.first);
                let pack = &mut numbers[run.pack_number()];
                if *pack == NONE {
                    *pack = outline.packs.len() as u32;
                    outline.packs.push(self.packs[run.pack_number()].id);
                }
                outline.runs.push((outline.records, *pack | (run.pack & TREE)));
                outline.records += end - run.first;
                match ranges.last_mut() {
                    Some(range) if range.end == run.first => range.end = end,
                    _ => ranges.push(run.first..end),
                }
            }
            if file.whole {
                outline.files.push((file.id, outline.runs.len() as u32, file.marked.clone()));
            }
            first_run = file.runs_end;
        }
        (outline, ranges)
    }

    /// Gives away the records of these ranges, a block at a time.
    pub(crate) fn blocks<E>(
        &self,
        ranges: &[Range<u32>],
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if let [range] = ranges
            && *range == (0..self.entries.count())
        {
            return self.entries.blocks().iter().try_for_each(|block| take(block));
        }
        let mut block = Vec::with_capacity(BLOCK * RECORD);
        for record in ranges.iter().cloned().flatten().filter_map(|at| self.entries.get(at)) {
            block.extend_from_slice(record.bytes());
            if block.len() == BLOCK * RECORD {
                take(&block)?;
                block.clear();
            }
        }
        if block.is_empty() { Ok(()) } else { take(&block) }
    }

    /// Puts an index together again; none if the parts do not fit each other.
    pub(crate) fn from_image(outline: Outline, blocks: Vec<Vec<u8>>, slots: Vec<u32>, mask: u32) -> Option<Self> {
        let entries = Entries::from_blocks(blocks);
        let table = Positions::from_slots(slots, mask, outline.records)?;
        if entries.count() != outline.records {
            return None;
        }
        let mut index = Self { entries, table, ..Self::default() };
        index.runs.reserve_exact(outline.runs.len());
        index.packs.reserve_exact(outline.packs.len());
        index.pack_table = Positions::with_room_for(outline.packs.len() as u32);
        for id in outline.packs {
            index.add_pack(id);
        }
        let mut runs = outline.runs.into_iter();
        for (id, runs_end, marked) in outline.files {
            let first_run = index.runs.len() as u32;
            for (first, pack) in runs.by_ref().take((runs_end - first_run) as usize) {
                let run = Run { first, pack, before: NONE };
                let before = index.packs.get(run.pack_number())?;
                if before.last != NONE && before.last < first_run {
                    index.repeated.push(before.id);
                }
                index.add_run(run);
            }
            index.marked.extend_from_slice(&marked);
            index.files.push(Listed { id, runs_end, marked, whole: true });
        }
        let mut run = 0_usize;
        for at in (0..outline.records).step_by(HINT as usize) {
            while index.runs.get(run + 1).is_some_and(|next| next.first <= at) {
                run += 1;
            }
            index.hints.push(run as u32);
        }
        Some(index)
    }
}
