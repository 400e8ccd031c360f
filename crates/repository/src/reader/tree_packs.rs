//! Packs of trees are read in pieces of many trees: neighbours were written by the same backup and are wanted together.
//!
//! Where each call waits for a network, this decides how long a walk takes: one call for hundreds of trees. A piece that
//! had to leave the cache too often is not fetched as a whole again, so that a walk all over a large repository reads
//! nothing many times.

use std::ops::Range;
use std::sync::Arc;

use backstay_core::{Id, ObjectKind, Store, StoreError};
use hashbrown::HashMap;
use parking_lot::Mutex;

use super::cache::Cache;
use crate::index::{Index, Location};
use crate::pack::BlobKind;

/// Bytes of a piece at the most; one larger tree is a piece by itself.
const PIECE: u32 = 512 << 10;
/// Bytes between two trees that are read rather than asked for separately.
const GAP: u32 = 64 << 10;
/// How often a piece is fetched as a whole.
const OFTEN: u8 = 3;
/// How many bytes of pieces are kept.
const KEPT: usize = 16 << 20;

/// Where a piece is in its pack.
struct Piece {
    start: u32,
    end: u32,
    fetched: u8,
}

type Key = (Id, u32);

/// The pieces that were read last.
pub(super) struct TreePacks {
    pieces: Mutex<HashMap<Id, Vec<Piece>>>,
    cache: Cache<Key>,
}

impl TreePacks {
    pub(super) fn new() -> Self {
        Self { pieces: Mutex::default(), cache: Cache::new(KEPT) }
    }

    /// Gives the envelope of the tree at `location` to `take`.
    pub(super) fn envelope<T>(
        &self,
        store: &dyn Store,
        index: &Index,
        location: &Location,
        take: impl Fn(&[u8]) -> T,
    ) -> Result<T, StoreError> {
        if let Some(piece) = self.piece(index, location) {
            let key = (location.pack, piece.start);
            let range = u64::from(piece.start)..u64::from(piece.end);
            let bytes = self.cache.get_or_load(key, || store.get(ObjectKind::Pack, &location.pack, Some(range)));
            // A pack that is cut off, say, still has some of its trees.
            if let Ok(bytes) = bytes
                && let Some(envelope) = inside(&bytes, &piece, location)
            {
                return Ok(take(envelope));
            }
        }
        let start = u64::from(location.offset);
        let range = start..start + u64::from(location.length);
        store.get(ObjectKind::Pack, &location.pack, Some(range)).map(|envelope| take(&envelope))
    }

    /// The piece that holds the tree; none where reading just the tree is better.
    fn piece(&self, index: &Index, location: &Location) -> Option<Range<u32>> {
        let mut all = self.pieces.lock();
        let pieces = match all.get_mut(&location.pack) {
            Some(pieces) => pieces,
            None => all.entry(location.pack).or_insert(pieces_of(index, &location.pack)),
        };
        let number = pieces.partition_point(|piece| piece.end <= location.offset);
        let piece = pieces.get_mut(number).filter(|piece| piece.start <= location.offset)?;
        let range = piece.start..piece.end;
        if self.cache.knows(&(location.pack, piece.start)) {
            return Some(range);
        }
        if piece.fetched >= OFTEN {
            return None;
        }
        piece.fetched += 1;
        Some(range)
    }
}

/// Puts the trees of a pack together to pieces.
fn pieces_of(index: &Index, pack: &Id) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for blob in index.pack_blobs(pack).iter().filter(|blob| blob.kind == BlobKind::Tree) {
        let Some(end) = blob.offset.checked_add(blob.length) else { continue };
        match pieces.last_mut() {
            // What overlaps is damage: whoever reads it will see.
            Some(last) if blob.offset < last.end => {}
            Some(last) if blob.offset - last.end <= GAP && end - last.start <= PIECE => last.end = end,
            _ => pieces.push(Piece { start: blob.offset, end, fetched: 0 }),
        }
    }
    pieces
}

fn inside<'a>(bytes: &'a Arc<Vec<u8>>, piece: &Range<u32>, location: &Location) -> Option<&'a [u8]> {
    let from = location.offset.checked_sub(piece.start)? as usize;
    bytes.get(from..)?.get(..location.length as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::PackBlob;

    #[test]
    fn trees_that_lie_together_are_one_piece_and_data_between_them_parts_it() {
        let blob = |n: u8, kind, offset, length| PackBlob { id: Id([n; 32]), kind, offset, length, uncompressed: None };
        let mut index = Index::default();
        let pack = Id([9; 32]);
        index.insert_pack(
            pack,
            vec![
                blob(1, BlobKind::Tree, 0, 1000),
                blob(2, BlobKind::Tree, 1000, 2000),
                blob(3, BlobKind::Data, 3000, 10),
                blob(4, BlobKind::Tree, 3010, 90),
                blob(5, BlobKind::Data, 3100, GAP + 1),
                blob(6, BlobKind::Tree, 3101 + GAP, 5 * PIECE),
                blob(7, BlobKind::Tree, 3101 + GAP + 5 * PIECE, 1),
            ],
        );
        let pieces: Vec<(u32, u32)> = pieces_of(&index, &pack).iter().map(|piece| (piece.start, piece.end)).collect();
        let far = 3101 + GAP;
        assert_eq!(pieces, [(0, 3100), (far, far + 5 * PIECE), (far + 5 * PIECE, far + 5 * PIECE + 1)]);
    }
}
