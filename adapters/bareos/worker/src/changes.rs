//! What changed since the reference job: the check after start_backup_file and of `CheckChanges` (reference 6.2), the
//! accurate list and its seen marks (4.11, 6.5).
//!
//! The names of the reference job come along in every incremental or differential job, not only in accurate ones: a file
//! that no earlier job has is never unchanged, whatever its times say. A plugin cannot tell the difference; a restore can.

use std::sync::atomic::{AtomicU64, Ordering};

use backstay_bareos_protocol::StatFields;
use backstay_bareos_protocol::prior::{KnownFile, Prior, RestoreObject};
use backstay_worker::Handed;

use crate::context::{HostGone, JobContext};

/// What the reference job has.
#[derive(Debug)]
pub(crate) struct Known {
    memory: Handed,
    prior: Prior,
    seen: Vec<AtomicU64>,
}

impl Known {
    /// Takes what the host handed over.
    pub(crate) fn new(memory: Handed) -> Result<Self, HostGone> {
        let prior = Prior::new(&memory).ok_or_else(|| HostGone("what earlier jobs left cannot be read".to_owned()))?;
        let seen = std::iter::repeat_with(AtomicU64::default).take(prior.len().div_ceil(64)).collect();
        Ok(Self { memory, prior, seen })
    }

    /// The restore objects of the earlier jobs.
    pub(crate) fn objects(&self) -> Result<Vec<RestoreObject>, HostGone> {
        let objects = self.prior.objects(&self.memory);
        objects.ok_or_else(|| HostGone("the restore objects of earlier jobs cannot be read".to_owned()))
    }

    fn find(&self, name: &[u8]) -> Option<(usize, KnownFile)> {
        self.prior.find(&self.memory, name)
    }

    /// Sets or clears the mark of one name; false if it is not known.
    pub(crate) fn mark(&self, name: &[u8], seen: bool) -> bool {
        let Some((number, _)) = self.find(name) else { return false };
        self.set(number, seen);
        true
    }

    /// Sets or clears all marks.
    pub(crate) fn mark_all(&self, seen: bool) {
        let bits = if seen { u64::MAX } else { 0 };
        self.seen.iter().for_each(|word| word.store(bits, Ordering::Relaxed));
    }

    fn set(&self, number: usize, seen: bool) {
        let Some(word) = self.seen.get(number / 64) else { return };
        let bit = 1 << (number % 64);
        if seen {
            word.fetch_or(bit, Ordering::Relaxed)
        } else {
            word.fetch_and(!bit, Ordering::Relaxed)
        };
    }

    fn is_seen(&self, number: usize) -> bool {
        self.seen.get(number / 64).is_some_and(|word| word.load(Ordering::Relaxed) & (1 << (number % 64)) != 0)
    }

    /// Calls `take` for each name without a mark, in the order of the reference job, until it answers false.
    pub(crate) fn unseen(&self, mut take: impl FnMut(&[u8]) -> Result<bool, HostGone>) -> Result<(), HostGone> {
        for number in self.prior.current(&self.memory) {
            if !self.is_seen(number)
                && let Some(name) = self.prior.name(&self.memory, number)
                && !take(name)?
            {
                break;
            }
        }
        Ok(())
    }
}

/// What a check came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) unchanged: bool,
    /// The accurate list has the name.
    pub(crate) found: bool,
    /// delta_seq of the accurate list.
    pub(crate) delta_sequence: u32,
}

/// Whether a file is as the reference job has it. `save_time` 0 stands for the job's since time; `mtime_only` leaves the
/// ctime out.
pub(crate) fn check(context: &JobContext, name: &[u8], stat: &StatFields, save_time: i64, mtime_only: bool) -> Checked {
    let reference = if save_time == 0 { context.since() } else { save_time };
    let known = context.known();
    if context.is_accurate() {
        let Some((known, (number, file))) = known.and_then(|known| Some((known, known.find(name)?))) else {
            return Checked::default();
        };
        known.set(number, true);
        let unchanged = context.check_changes() && !differs(&file.stat, stat, &context.spec.accurate_options);
        return Checked { unchanged, found: true, delta_sequence: file.delta_sequence };
    }
    let older = stat.mtime < reference && (mtime_only || stat.ctime < reference);
    // Without a reference job there is nothing that could keep the file: only `CheckChanges` asks then.
    let kept = known.is_none_or(|known| known.find(name).is_some());
    let asks = context.spec.level == 'I' || reference != 0;
    Checked { unchanged: context.check_changes() && asks && older && kept, ..Checked::default() }
}

/// Whether a file differs from what the accurate list has, by the options' bits.
fn differs(known: &StatFields, now: &StatFields, options: &[i32]) -> bool {
    options.iter().any(|bit| match bit {
        1 => known.ino != now.ino,
        2 => known.mode != now.mode,
        4 => known.nlink != now.nlink,
        8 => known.uid != now.uid,
        16 => known.gid != now.gid,
        32 => known.size != now.size,
        64 => known.atime != now.atime,
        128 => known.mtime != now.mtime,
        256 => known.ctime != now.ctime,
        512 => known.size > now.size,
        1024 => true,
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_option_looks_at_its_own_number() {
        type Change = fn(&mut StatFields);
        let known = StatFields { size: 10, ..StatFields::default() };
        let with = |change: Change| {
            let mut now = known;
            change(&mut now);
            now
        };
        let changes: [(i32, Change); 10] = [
            (1, |now| now.ino = 1),
            (2, |now| now.mode = 1),
            (4, |now| now.nlink = 1),
            (8, |now| now.uid = 1),
            (16, |now| now.gid = 1),
            (32, |now| now.size = 11),
            (64, |now| now.atime = 1),
            (128, |now| now.mtime = 1),
            (256, |now| now.ctime = 1),
            (512, |now| now.size = 9),
        ];
        for (bit, change) in changes {
            let now = with(change);
            let telling: Vec<i32> =
                changes.iter().map(|(bit, _)| *bit).filter(|bit| differs(&known, &now, &[*bit])).collect();
            // A size that decreased is another size too.
            let expected = if bit == 512 { vec![32, 512] } else { vec![bit] };
            assert_eq!(telling, expected);
        }
        assert!(differs(&known, &known, &[1024]));
        assert!(!differs(&known, &known, &[]));
    }
}
