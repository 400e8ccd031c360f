//! The blobs of an index, one fixed-size record each, in blocks: growing moves nothing, and a block lies in memory as
//! it lies in the cache.

use std::num::NonZeroU32;

use backstay_core::Id;

use crate::pack::{BlobKind, PackBlob};

/// Bytes of a record: the id, then offset, length and uncompressed length (0: not compressed), little-endian.
pub(crate) const RECORD: usize = 44;
/// Records in a block.
pub(crate) const BLOCK: usize = 1 << 14;

/// A record.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a>(&'a [u8; RECORD]);

impl Record<'_> {
    fn number(self, at: usize) -> u32 {
        u32::from_le_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    pub(crate) fn id(self) -> Id {
        let mut id = Id::default();
        id.0.copy_from_slice(&self.0[..32]);
        id
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0
    }

    pub(crate) fn is(self, id: &Id) -> bool {
        self.0[..32] == id.0
    }

    pub(crate) fn offset(self) -> u32 {
        self.number(32)
    }

    pub(crate) fn length(self) -> u32 {
        self.number(36)
    }

    pub(crate) fn uncompressed(self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.number(40))
    }

    pub(crate) fn blob(self, kind: BlobKind) -> PackBlob {
        PackBlob {
            id: self.id(),
            kind,
            offset: self.offset(),
            length: self.length(),
            uncompressed: self.uncompressed(),
        }
    }
}

/// The records of a block.
pub(crate) fn records(block: &[u8]) -> impl Iterator<Item = Record<'_>> {
    block.as_chunks::<RECORD>().0.iter().map(Record)
}

/// All records.
#[derive(Default)]
pub(crate) struct Entries {
    blocks: Vec<Vec<u8>>,
    count: u32,
}

impl Entries {
    /// Blocks that were filled elsewhere: all but the last hold [`BLOCK`] records.
    pub(crate) fn from_blocks(blocks: Vec<Vec<u8>>) -> Self {
        let count = blocks.iter().map(|block| (block.len() / RECORD) as u32).sum();
        Self { blocks, count }
    }

    /// How many records there are.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    pub(crate) fn get(&self, at: u32) -> Option<Record<'_>> {
        let block = self.blocks.get(at as usize / BLOCK)?;
        block.as_chunks::<RECORD>().0.get(at as usize % BLOCK).map(Record)
    }

    pub(crate) fn push(&mut self, blob: &PackBlob) {
        if self.blocks.last().is_none_or(|block| block.len() == BLOCK * RECORD) {
            // The first block grows with what comes, for most repositories are small; the others will be filled.
            let capacity = if self.blocks.is_empty() { 0 } else { BLOCK * RECORD };
            if let Some(first) = self.blocks.last_mut() {
                first.shrink_to_fit();
            }
            self.blocks.push(Vec::with_capacity(capacity));
        }
        if let Some(block) = self.blocks.last_mut() {
            block.extend_from_slice(&blob.id.0);
            for number in [blob.offset, blob.length, blob.uncompressed.map_or(0, NonZeroU32::get)] {
                block.extend_from_slice(&number.to_le_bytes());
            }
            self.count += 1;
        }
    }

    /// The blocks, for the cache.
    pub(crate) fn blocks(&self) -> &[Vec<u8>] {
        &self.blocks
    }

    /// All records in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        self.blocks.iter().flat_map(|block| records(block))
    }

    /// Bytes of memory.
    pub(crate) fn memory(&self) -> usize {
        self.blocks.iter().map(|block| block.capacity() + size_of::<Vec<u8>>()).sum()
    }
}
