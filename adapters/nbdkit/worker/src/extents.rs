//! The rules for what `extents` returns (reference 5.5). No I/O and no Python.

use backstay_core::Extent;

use crate::constants::{EXTENT_HOLE, EXTENT_ZERO};

/// More than so many are dropped.
pub const MOST: usize = 1 << 20;

/// The extents that a script names one after the other.
#[derive(Clone, Debug)]
pub struct Collector {
    start: u64,
    end: u64,
    next: Option<u64>,
    kept: Vec<(Extent, u32)>,
}

impl Collector {
    /// For a request that begins at `start`, on a disk of `size` bytes.
    #[must_use]
    pub fn new(start: u64, size: u64) -> Self {
        Self { start, end: size, next: None, kept: Vec::new() }
    }

    /// Takes the next one.
    ///
    /// # Errors
    /// One sentence: it does not follow the one before, or the first that counts begins too late.
    pub fn add(&mut self, offset: u64, length: u64, kind: u32) -> Result<(), String> {
        if let Some(next) = self.next
            && next != offset
        {
            return Err(format!("extents: the one at {offset} does not follow the one before, which ends at {next}"));
        }
        let end = offset.saturating_add(length);
        self.next = Some(end);
        if length == 0 || offset >= self.end || self.kept.len() >= MOST {
            return Ok(());
        }
        let (mut from, to) = (offset, end.min(self.end));
        if self.kept.is_empty() {
            if to <= self.start {
                return Ok(());
            }
            if from > self.start {
                return Err(format!("extents: the first one begins at {from}, after the requested {}", self.start));
            }
            from = self.start;
        }
        self.keep(from, to - from, kind);
        Ok(())
    }

    fn keep(&mut self, offset: u64, length: u64, kind: u32) {
        if let Some((last, same)) = self.kept.last_mut()
            && *same == kind
        {
            last.length += length;
            return;
        }
        let bit = |bit: i32| kind & bit.unsigned_abs() != 0;
        self.kept.push((Extent { offset, length, hole: bit(EXTENT_HOLE), zero: bit(EXTENT_ZERO) }, kind));
    }

    /// All that count, without a gap; `one` keeps the first only. None: nothing was left.
    #[must_use]
    pub fn finish(self, one: bool) -> Option<Vec<Extent>> {
        let most = if one { 1 } else { self.kept.len() };
        let list: Vec<_> = self.kept.into_iter().take(most).map(|(extent, _)| extent).collect();
        (!list.is_empty()).then_some(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Plain = (u64, u64, bool, bool);

    fn collect(start: u64, list: &[(u64, u64, u32)]) -> Result<Option<Vec<Plain>>, String> {
        let mut collector = Collector::new(start, 1000);
        list.iter().try_for_each(|(offset, length, kind)| collector.add(*offset, *length, *kind))?;
        let list = collector.finish(false);
        Ok(list.map(|list| list.iter().map(|e| (e.offset, e.length, e.hole, e.zero)).collect()))
    }

    #[test]
    fn what_is_before_and_behind_is_cut_off() {
        assert_eq!(
            collect(100, &[(0, 50, 0), (50, 100, 3), (150, 2000, 0), (2150, 5, 0)]),
            Ok(Some(vec![(100, 50, true, true), (150, 850, false, false)]))
        );
    }

    #[test]
    fn gaps_overlaps_and_a_late_start_are_errors() {
        assert!(collect(0, &[(0, 10, 0), (11, 10, 0)]).is_err());
        assert!(collect(0, &[(0, 10, 0), (9, 10, 0)]).is_err());
        assert!(collect(0, &[(0, 0, 0), (5, 10, 0)]).is_err());
        assert!(collect(0, &[(1, 10, 0)]).is_err());
    }

    #[test]
    fn empty_ones_are_skipped_and_equal_ones_merged() {
        assert_eq!(
            collect(0, &[(0, 10, 2), (10, 0, 1), (10, 10, 2), (20, 10, 1)]),
            Ok(Some(vec![(0, 20, false, true), (20, 10, true, false)]))
        );
    }

    #[test]
    fn nothing_may_be_left() {
        assert_eq!(collect(500, &[(0, 10, 0)]), Ok(None));
        assert_eq!(collect(0, &[]), Ok(None));
        assert_eq!(collect(0, &[(0, 0, 0)]), Ok(None));
    }

    #[test]
    fn only_two_bits_of_the_type_are_known_and_others_still_tell_apart() {
        assert_eq!(collect(0, &[(0, 1, 4), (1, 1, 8)]), Ok(Some(vec![(0, 1, false, false), (1, 1, false, false)])));
    }

    #[test]
    fn lengths_that_overflow_end_at_the_disk() {
        assert_eq!(collect(0, &[(0, u64::MAX, 3)]), Ok(Some(vec![(0, 1000, true, true)])));
    }

    #[test]
    fn one_extent_is_enough() {
        let mut collector = Collector::new(0, 1000);
        collector.add(0, 10, 0).unwrap();
        collector.add(10, 10, 1).unwrap();
        assert_eq!(collector.finish(true).map(|list| list.len()), Some(1));
    }
}
