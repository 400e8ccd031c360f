//! The filter `cow`: whatever is written goes to a temporary file; the disk behind it is only read.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use backstay_core::{
    BlockSize, Client, Disk, DiskError, DiskInfo, Extent, OpenDisk, OpenError, ReadBytes, RequestFlags, Support,
};
use parking_lot::RwLock;

use crate::buffers;
use crate::filter::Filter;
use crate::layer::{Layer, Layered, OpenLayer, cut};
use crate::plugin::Step;
use crate::plugins::zeroes;
use crate::scratch::{self, Blocks, ByDisk, PIECE, Scratch, Stripes};
use crate::values::{Given, Switch};

/// Its name.
const NAME: &str = "cow";
/// What it takes.
pub(super) const PARAMETERS: &[&str] = &["cow-block-size", "cow-on-cache", "cow-on-read"];
/// Bytes of a block, unless it is said.
const BLOCK: u64 = 64 << 10;
/// Blocks whose states are allocated together.
const GROUP: u64 = 4096;

/// The filter.
pub(super) struct Cow {
    block: u64,
    on_cache: bool,
    on_read: Switch,
    folder: PathBuf,
}

impl Default for Cow {
    fn default() -> Self {
        Self { block: BLOCK, on_cache: false, on_read: Switch::Off, folder: PathBuf::new() }
    }
}

impl Filter for Cow {
    fn name(&self) -> &'static str {
        NAME
    }

    fn help(&self) -> &'static str {
        "\
         cow-block-size=<SIZE> [default: 65536]\n\
         cow-on-cache=true|false\n\
         cow-on-read=true|false|/PATH\n"
    }

    fn config(&mut self, key: &str, value: &OsStr) -> Step<bool> {
        let given = Given { owner: NAME, key, value };
        match key {
            "cow-block-size" => self.block = given.power_of_two(4096, 1 << 31)?,
            "cow-on-cache" => self.on_cache = given.boolean()?,
            "cow-on-read" => self.on_read = given.switch()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn get_ready(&mut self) -> Step<()> {
        self.folder = scratch::folder(NAME)?;
        Ok(())
    }

    fn wrap(self: Box<Self>, disk: Arc<dyn Disk>) -> Step<Arc<dyn Disk>> {
        Ok(Arc::new(Layered(Front { disk, settings: *self, overlays: ByDisk::default() })))
    }
}

struct Front {
    disk: Arc<dyn Disk>,
    settings: Cow,
    overlays: ByDisk<Overlay>,
}

impl Layer for Front {
    fn below(&self) -> &dyn Disk {
        &*self.disk
    }

    fn open(&self, export: &[u8], client: &Client) -> Result<Box<dyn OpenDisk>, OpenError> {
        let disk = self.disk.open(export, &Client { read_only: true, ..client.clone() })?;
        let below = disk.info().clone();
        let (blocks, sizes) = Blocks::of(&*disk, NAME, "cow-block-size", self.settings.block)?;
        let overlay = self.overlays.get(&self.disk.identity(export), Overlay::is_touched, || Overlay {
            blocks,
            states: States::default(),
            stripes: Stripes::default(),
            scratch: Scratch::new(&self.settings.folder),
        });
        overlay.blocks.still(NAME, blocks)?;
        let cache = if self.settings.on_cache { Support::Native } else { below.cache };
        let info = DiskInfo { is_rotational: below.is_rotational, cache, ..DiskInfo::able(below.size) };
        let (on_cache, on_read) = (self.settings.on_cache, self.settings.on_read.clone());
        Ok(Box::new(Layered(Open { disk, info, blocks, sizes, overlay, on_cache, on_read })))
    }
}

/// Where a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// On the disk behind.
    Below = 0,
    /// In the temporary file.
    Own = 1,
    /// Nowhere: it is zeroes.
    Zero = 2,
}

impl State {
    fn of(byte: &AtomicU8) -> Self {
        match byte.load(Ordering::Acquire) {
            1 => Self::Own,
            2 => Self::Zero,
            _ => Self::Below,
        }
    }
}

/// Blocks in a row that are in the same place.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: u64,
    last: u64,
    state: State,
}

/// The states of all blocks, of which few are not [`State::Below`].
#[derive(Default)]
struct States(RwLock<HashMap<u64, Box<[AtomicU8]>>>);

impl States {
    fn runs(&self, first: u64, last: u64) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::with_capacity(1);
        let mut add = |first, last, state| match runs.last_mut() {
            Some(run) if run.state == state => run.last = last,
            _ => runs.push(Run { first, last, state }),
        };
        let groups = self.0.read();
        let mut at = first;
        while at <= last {
            let end = (at / GROUP * GROUP + GROUP - 1).min(last);
            match groups.get(&(at / GROUP)) {
                Some(group) => {
                    (at..=end).for_each(|block| add(block, block, State::of(&group[(block % GROUP) as usize])));
                }
                None => add(at, end, State::Below),
            }
            at = end + 1;
        }
        runs
    }

    fn set(&self, first: u64, last: u64, state: State) {
        let mut at = first;
        while at <= last {
            let (group, end) = (at / GROUP, (at / GROUP * GROUP + GROUP - 1).min(last));
            let store = |states: &[AtomicU8]| {
                states[(at % GROUP) as usize..=(end % GROUP) as usize]
                    .iter()
                    .for_each(|one| one.store(state as u8, Ordering::Release));
            };
            let found = self.0.read().get(&group).map(|states| store(states)).is_some();
            if !found {
                let mut groups = self.0.write();
                store(groups.entry(group).or_insert_with(|| (0..GROUP).map(|_| AtomicU8::new(0)).collect()));
            }
            at = end + 1;
        }
    }
}

/// What all connections to an export have written.
struct Overlay {
    blocks: Blocks,
    states: States,
    /// Whoever takes a block from one place to another holds its lock. Reading, and writing what is in the file already,
    /// need none.
    stripes: Stripes,
    scratch: Scratch,
}

impl Overlay {
    fn is_touched(&self) -> bool {
        self.scratch.is_used() || !self.states.0.read().is_empty()
    }
}

struct Open {
    disk: Box<dyn OpenDisk>,
    info: DiskInfo,
    blocks: Blocks,
    sizes: Option<BlockSize>,
    overlay: Arc<Overlay>,
    on_cache: bool,
    on_read: Switch,
}

impl Open {
    /// Copies the blocks of a range that are not in the file yet, as far as there is room for them.
    fn copy_up(&self, first: u64, last: u64) -> Result<(), DiskError> {
        if self.overlay.states.runs(first, last).iter().all(|run| run.state != State::Below) {
            return Ok(());
        }
        let _lock = self.overlay.stripes.lock(first, last);
        let together = (PIECE / self.blocks.each).max(1);
        for run in self.overlay.states.runs(first, last) {
            let mut at = run.first;
            while run.state == State::Below && at <= run.last {
                let end = (at + together - 1).min(run.last);
                let (start, length) = self.blocks.range(at, end);
                let bytes = self.disk.read(start, length as usize)?;
                if self.overlay.scratch.write(start, (*bytes).as_ref()).is_err() {
                    return Ok(());
                }
                self.overlay.states.set(at, end, State::Own);
                at = end + 1;
            }
        }
        Ok(())
    }

    /// What stands in a block that is not in the file. Its lock is held.
    fn old(&self, block: u64, state: State) -> Result<Vec<u8>, DiskError> {
        let (start, length) = self.blocks.range(block, block);
        Ok(match state {
            State::Below => (*self.disk.read(start, length as usize)?).as_ref().to_vec(),
            _ => vec![0; length as usize],
        })
    }

    /// Writes a part of a block. Its lock is held.
    fn patch(&self, block: u64, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let overlay = &self.overlay;
        let state = overlay.states.runs(block, block)[0].state;
        let (start, length) = self.blocks.range(block, block);
        if state == State::Own || data.len() as u64 == length {
            overlay.scratch.write(offset, data)?;
        } else {
            let mut bytes = self.old(block, state)?;
            let at = (offset - start) as usize;
            bytes[at..at + data.len()].copy_from_slice(data);
            overlay.scratch.write(start, &bytes)?;
        }
        overlay.states.set(block, block, State::Own);
        Ok(())
    }

    /// Does something with the parts of a range that are not whole blocks, and with the whole blocks between them.
    fn split(
        &self,
        offset: u64,
        length: u64,
        mut part: impl FnMut(u64, u64, u64) -> Result<(), DiskError>,
        whole: impl FnOnce(u64, u64) -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        let (first, last) = self.blocks.touched(offset, length);
        let Some((begin, next)) = self.blocks.covered(offset, length) else {
            return (first..=last).try_for_each(|block| {
                let (offset, length) = self.blocks.part(offset, length, block, block);
                part(block, offset, length)
            });
        };
        for block in (first..begin).chain(next..=last) {
            let (offset, length) = self.blocks.part(offset, length, block, block);
            part(block, offset, length)?;
        }
        whole(begin, next - 1)
    }
}

impl OpenLayer for Open {
    fn below(&self) -> &dyn OpenDisk {
        &*self.disk
    }

    fn info(&self) -> &DiskInfo {
        &self.info
    }

    fn block_size(&self) -> Result<Option<BlockSize>, String> {
        Ok(Some(self.blocks.sizes(self.sizes)))
    }

    fn read(&self, offset: u64, length: usize) -> Result<ReadBytes, DiskError> {
        let (first, last) = self.blocks.touched(offset, length as u64);
        if self.on_read.is_on() {
            self.copy_up(first, last)?;
        }
        let runs = self.overlay.states.runs(first, last);
        match runs[..] {
            [Run { state: State::Below, .. }] => return self.disk.read(offset, length),
            [Run { state: State::Zero, .. }] => return Ok(zeroes(length)),
            _ => {}
        }
        let mut bytes = buffers::empty(length);
        for run in runs {
            let (offset, length) = self.blocks.part(offset, length as u64, run.first, run.last);
            match run.state {
                State::Below => bytes.extend_from_slice((*self.disk.read(offset, length as usize)?).as_ref()),
                State::Own => self.overlay.scratch.read(offset, length as usize, &mut bytes)?,
                State::Zero => bytes.resize(bytes.len() + length as usize, 0),
            }
        }
        Ok(buffers::filled(bytes))
    }

    fn write(&self, offset: u64, data: &[u8], _flags: RequestFlags) -> Result<(), DiskError> {
        let (first, last) = self.blocks.touched(offset, data.len() as u64);
        let overlay = &self.overlay;
        if overlay.states.runs(first, last).iter().all(|run| run.state == State::Own) {
            return overlay.scratch.write(offset, data);
        }
        let _lock = overlay.stripes.lock(first, last);
        let of = |place: u64, length: u64| &data[(place - offset) as usize..][..length as usize];
        let part = |block, place, length| self.patch(block, place, of(place, length));
        self.split(offset, data.len() as u64, part, |first, last| {
            let (start, length) = self.blocks.range(first, last);
            overlay.scratch.write(start, of(start, length))?;
            overlay.states.set(first, last, State::Own);
            Ok(())
        })
    }

    /// What was written ends with the server: there is nothing to keep safe.
    fn flush(&self) -> Result<(), DiskError> {
        Ok(())
    }

    fn trim(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        self.zero(offset, length, RequestFlags { may_trim: true, ..flags })
    }

    fn zero(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        let (first, last) = self.blocks.touched(offset, length);
        let overlay = &self.overlay;
        let _lock = overlay.stripes.lock(first, last);
        let part = |block, place, length: u64| match overlay.states.runs(block, block)[0].state {
            State::Zero if flags.may_trim => Ok(()),
            _ => self.patch(block, place, &vec![0; length as usize]),
        };
        if !flags.may_trim && flags.fast_zero {
            // Room has to be taken, which is no faster than writing.
            return Err(DiskError(libc::EOPNOTSUPP));
        }
        self.split(offset, length, part, |first, last| {
            let (start, length) = self.blocks.range(first, last);
            if flags.may_trim {
                overlay.states.set(first, last, State::Zero);
                // Only to have the room back.
                overlay.scratch.punch(start, length);
            } else {
                overlay.scratch.write_zeroes(start, length)?;
                overlay.states.set(first, last, State::Own);
            }
            Ok(())
        })
    }

    fn cache(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        let (first, last) = self.blocks.touched(offset, length);
        if self.on_cache {
            return self.copy_up(first, last);
        }
        for run in self.overlay.states.runs(first, last).iter().filter(|run| run.state == State::Below) {
            let (offset, length) = self.blocks.part(offset, length, run.first, run.last);
            self.disk.cache(offset, length)?;
        }
        Ok(())
    }

    fn extents(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<Vec<Extent>, DiskError> {
        let (first, last) = self.blocks.touched(offset, length);
        let mut extents = Vec::new();
        for run in self.overlay.states.runs(first, last) {
            let (offset, length) = self.blocks.part(offset, length, run.first, run.last);
            let zero = run.state == State::Zero;
            if run.state != State::Below {
                extents.push(Extent { offset, length, hole: zero, zero });
            } else {
                extents.extend(cut(self.disk.extents(offset, length, flags)?, offset, length));
                let reached = extents.last().map_or(offset, |last| last.offset + last.length);
                if reached < offset + length {
                    // The disk behind it tells the rest when it is asked for it.
                    break;
                }
            }
            if flags.one {
                break;
            }
        }
        Ok(extents)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{acts, agree, content, filtered, half_full, lanes, open, refusal};

    fn cow(parameters: &[(&str, &str)], disk: Arc<dyn Disk>) -> Arc<dyn Disk> {
        let mut filter = Cow::default();
        for (key, value) in parameters {
            assert!(filter.config(key, value.as_ref()).unwrap());
        }
        filter.get_ready().unwrap();
        Box::new(filter).wrap(disk).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn writes_are_seen_and_the_disk_behind_stays_as_it_was(acts in acts(), on_cache: bool, on_read: bool, large: bool, odd in 0_u64..5000) {
            let (memory, bytes) = half_full((1 << 20) - odd);
            let memory: Arc<dyn Disk> = Arc::new(memory);
            let block = if large { "64k" } else { "4k" };
            let disk = cow(&[
                ("cow-block-size", block),
                ("cow-on-cache", &on_cache.to_string()),
                ("cow-on-read", &on_read.to_string()),
            ], Arc::clone(&memory));
            let mut model = bytes.clone();
            agree(&*open(&*disk), &mut model, &acts);
            // Another connection sees the same.
            prop_assert!(content(&*open(&*disk)) == model);
            prop_assert!(content(&*open(&*memory)) == bytes);
        }
    }

    #[test]
    fn what_is_written_is_there_under_every_name_of_a_disk() {
        let disk = cow(&[], Arc::new(half_full(1 << 17).0));
        let of = |name: &[u8]| disk.open(name, &Client::default()).unwrap();
        of(b"a").write(0, b"written", RequestFlags::default()).unwrap();
        assert_eq!((*of(b"a").read(0, 7).unwrap()).as_ref(), b"written");
        assert_eq!((*of(b"b").read(0, 7).unwrap()).as_ref(), b"written");
    }

    #[test]
    fn what_was_copied_on_a_read_is_not_read_again() {
        let (memory, bytes) = half_full(1 << 20);
        let memory: Arc<dyn Disk> = Arc::new(memory);
        let disk = open(&*cow(&[("cow-on-read", "true")], Arc::clone(&memory)));
        drop(disk.read(100, 10).unwrap());
        open(&*memory).write(0, &[0; 200_000], RequestFlags::default()).unwrap();
        assert_eq!((*disk.read(0, 65536).unwrap()).as_ref(), &bytes[..65536]);
        assert_eq!((*disk.read(65536, 1).unwrap()).as_ref(), [0]);
    }

    #[test]
    fn connections_that_write_the_same_blocks_lose_nothing() {
        let (memory, mut bytes) = half_full(1 << 20);
        let disk = cow(&[], Arc::new(memory));
        std::thread::scope(|scope| {
            for writer in 0..4_usize {
                let disk = open(&*disk);
                scope.spawn(move || {
                    for at in (writer * 512..1 << 20).step_by(2048) {
                        disk.write(at as u64, &[writer as u8; 512], RequestFlags::default()).unwrap();
                    }
                });
            }
        });
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = (at / 512 % 4) as u8;
        }
        assert!(content(&*open(&*disk)) == bytes);
    }

    #[test]
    fn connections_do_not_touch_what_others_change() {
        for on_read in ["false", "true"] {
            lanes(&*cow(&[("cow-block-size", "8k"), ("cow-on-read", on_read)], Arc::new(half_full(1 << 18).0)));
        }
    }

    #[test]
    fn wrong_parameters_are_refused() {
        let refused = |key: &str, value: &str| refusal(Cow::default().config(key, value.as_ref()));
        assert!(refused("cow-block-size", "1000").contains("power of two"));
        assert!(refused("cow-on-read", "perhaps").contains("absolute path"));
        assert!(filtered(Cow::default(), &[("cow-on-read", "/nonexistent")], half_full(1).0).is_ok());
    }
}
