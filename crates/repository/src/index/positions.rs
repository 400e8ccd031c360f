//! Positions by id: a hash table without keys, four bytes a slot.
//!
//! Ids are hashes already, so the first eight bytes choose the slot; what is there is told apart by the list that the
//! positions point into. Bits that a position does not need hold a few more bits of the id, so that other entries are
//! seldom looked at. Collisions go to the next slot.

use backstay_core::Id;

const EMPTY: u32 = u32::MAX;

/// The table.
#[derive(Default)]
pub(crate) struct Positions {
    slots: Vec<u32>,
    used: u32,
    /// The bits of a slot that are the position.
    mask: u32,
}

impl Positions {
    /// A table that takes this many positions, all smaller than that number.
    pub(crate) fn with_room_for(count: u32) -> Self {
        let slots = (count as usize).div_ceil(3) * 4 + 8;
        // One more than the largest position, for all ones is an empty slot.
        let mask = u32::MAX.checked_shr(count.saturating_add(1).leading_zeros()).unwrap_or(1);
        Self { slots: vec![EMPTY; slots], used: 0, mask }
    }

    /// A table as [`Positions::slots`] and [`Positions::mask`] gave it away; none if it cannot be one.
    pub(crate) fn from_slots(slots: Vec<u32>, mask: u32, used: u32) -> Option<Self> {
        let fits = mask.trailing_ones() + mask.leading_zeros() == 32 && used < slots.len() as u32 && used <= mask;
        fits.then_some(Self { slots, used, mask })
    }

    pub(crate) fn slots(&self) -> &[u32] {
        &self.slots
    }

    pub(crate) fn mask(&self) -> u32 {
        self.mask
    }

    /// Whether one more position needs a larger table first.
    pub(crate) fn is_full(&self) -> bool {
        self.used as usize * 4 >= self.slots.len() * 3 || self.used >= self.mask
    }

    fn home(&self, id: &Id) -> usize {
        let [a, b, c, d, e, f, g, h, ..] = id.0;
        let hash = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        ((u128::from(hash) * self.slots.len() as u128) >> 64) as usize
    }

    fn tag(&self, id: &Id) -> u32 {
        u32::from_le_bytes([id.0[8], id.0[9], id.0[10], id.0[11]]) & !self.mask
    }

    /// Adds a position. There must be room.
    pub(crate) fn insert(&mut self, id: &Id, position: u32) {
        let count = self.slots.len();
        let mut at = self.home(id);
        while self.slots[at] != EMPTY {
            at = if at + 1 == count { 0 } else { at + 1 };
        }
        self.slots[at] = position | self.tag(id);
        self.used += 1;
    }

    /// Positions at which the id may stand: most of them are right.
    pub(crate) fn candidates<'a>(&'a self, id: &Id) -> impl Iterator<Item = u32> + use<'a> {
        let start = if self.slots.is_empty() { 0 } else { self.home(id) };
        let tag = self.tag(id);
        let mask = self.mask;
        let (before, after) = self.slots.split_at(start);
        after
            .iter()
            .chain(before)
            .take_while(|slot| **slot != EMPTY)
            .filter(move |slot| **slot & !mask == tag)
            .map(move |slot| slot & mask)
    }

    /// Bytes of memory.
    pub(crate) fn memory(&self) -> usize {
        self.slots.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_position_is_found_again_in_a_full_table() {
        for count in [0_u32, 1, 2, 3, 7, 255, 256, 1000, 65_534, 65_535] {
            let ids: Vec<Id> = (0..count).map(|number| Id::of(&number.to_le_bytes())).collect();
            let mut table = Positions::with_room_for(count);
            for (at, id) in ids.iter().enumerate() {
                assert!(!table.is_full(), "{at} of {count}");
                table.insert(id, at as u32);
            }
            for (at, id) in ids.iter().enumerate() {
                assert!(table.candidates(id).any(|found| found == at as u32), "{at} of {count}");
            }
            assert!(table.candidates(&Id::of(b"none")).all(|found| found < count));
        }
    }

    #[test]
    fn ids_that_begin_alike_are_told_apart_by_the_list() {
        let mut table = Positions::with_room_for(40);
        let ids: Vec<Id> =
            (0..40).map(|last| Id(std::array::from_fn(|at| if at < 31 { 0xff } else { last }))).collect();
        for (at, id) in ids.iter().enumerate() {
            table.insert(id, at as u32);
        }
        for id in &ids {
            let mut found: Vec<u32> = table.candidates(id).collect();
            found.sort_unstable();
            assert_eq!(found, (0..40).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_empty_table_has_nothing_and_no_room() {
        let table = Positions::default();
        assert_eq!(table.candidates(&Id::of(b"x")).count(), 0);
        assert!(table.is_full());
    }
}
