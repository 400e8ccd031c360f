//! The filter `cache`: blocks of a slow disk are kept in a temporary file.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

use backstay_core::{
    BlockSize, Client, Disk, DiskError, DiskInfo, Extent, OpenDisk, OpenError, ReadBytes, RequestFlags, Support,
};
use parking_lot::Mutex;

use crate::buffers;
use crate::filter::Filter;
use crate::layer::{Layer, Layered, OpenLayer, cut};
use crate::plugin::Step;
use crate::scratch::{self, Blocks, ByDisk, PIECE, Scratch, Stripes};
use crate::values::{Given, Switch};

/// Its name.
const NAME: &str = "cache";
/// What it takes.
pub(super) const PARAMETERS: &[&str] = &[
    "cache",
    "cache-on-read",
    "cache-min-block-size",
    "cache-max-size",
    "cache-high-threshold",
    "cache-low-threshold",
];
/// Bytes of a block, unless it is said.
const BLOCK: u64 = 64 << 10;

/// When the disk behind gets what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// When the client flushes.
    Writeback,
    /// At once.
    Writethrough,
    /// When there is no more room.
    Unsafe,
}

/// The filter.
pub(super) struct Cache {
    mode: Mode,
    on_read: Switch,
    block: u64,
    most: Option<u64>,
    high: u64,
    low: u64,
    folder: PathBuf,
}

impl Default for Cache {
    fn default() -> Self {
        let (mode, on_read) = (Mode::Writeback, Switch::Off);
        Self { mode, on_read, block: BLOCK, most: None, high: 95, low: 80, folder: PathBuf::new() }
    }
}

impl Filter for Cache {
    fn name(&self) -> &'static str {
        NAME
    }

    fn help(&self) -> &'static str {
        "\
         cache=writeback|writethrough|unsafe\n\
         \x20                     Where writes go [default: writeback]\n\
         cache-on-read=true|false|/PATH\n\
         \x20                     Keep what is read [default: false]\n\
         cache-min-block-size=<SIZE>\n\
         cache-max-size=<SIZE> Room that it may take [default: any]\n\
         cache-high-threshold=<PCT>, cache-low-threshold=<PCT>\n\
         \x20                     Of that room: when it gives some back, and down to what\n"
    }

    fn config(&mut self, key: &str, value: &OsStr) -> Step<bool> {
        let given = Given { owner: NAME, key, value };
        match key {
            "cache" => {
                self.mode = match given.text()? {
                    "writeback" => Mode::Writeback,
                    "writethrough" => Mode::Writethrough,
                    "unsafe" => Mode::Unsafe,
                    _ => return Err(given.wrong("there are writeback, writethrough and unsafe")),
                }
            }
            "cache-on-read" => self.on_read = given.switch()?,
            "cache-min-block-size" => self.block = given.power_of_two(4096, 1 << 31)?,
            "cache-max-size" => self.most = Some(given.size()?),
            "cache-high-threshold" => self.high = given.number(1, 1000)?,
            "cache-low-threshold" => self.low = given.number(1, 1000)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn config_complete(&mut self) -> Step<()> {
        if self.low >= self.high {
            let line = "cache: cache-low-threshold must be less than cache-high-threshold";
            return Err(line.to_owned().into());
        }
        Ok(())
    }

    fn get_ready(&mut self) -> Step<()> {
        self.folder = scratch::folder(NAME)?;
        Ok(())
    }

    fn wrap(self: Box<Self>, disk: Arc<dyn Disk>) -> Step<Arc<dyn Disk>> {
        Ok(Arc::new(Layered(Front { disk, settings: *self, kept: ByDisk::default() })))
    }
}

struct Front {
    disk: Arc<dyn Disk>,
    settings: Cache,
    kept: ByDisk<Kept>,
}

impl Layer for Front {
    fn below(&self) -> &dyn Disk {
        &*self.disk
    }

    fn open(&self, export: &[u8], client: &Client) -> Result<Box<dyn OpenDisk>, OpenError> {
        let settings = &self.settings;
        let disk = self.disk.open(export, client)?;
        let below = disk.info().clone();
        let (blocks, sizes) = Blocks::of(&*disk, NAME, "cache-min-block-size", settings.block)?;
        let kept = self.kept.get(
            &self.disk.identity(export),
            |kept| kept.scratch.is_used(),
            || Kept {
                blocks,
                index: Mutex::default(),
                stripes: Stripes::default(),
                scratch: Scratch::new(&settings.folder),
                reclaiming: Mutex::new(()),
            },
        );
        kept.blocks.still(NAME, blocks)?;
        let info = DiskInfo {
            can_flush: true,
            can_zero: below.can_write,
            can_fast_zero: below.can_fast_zero && settings.mode == Mode::Writethrough,
            can_extents: true,
            cache: Support::Native,
            ..below
        };
        let share = |percent: u64| settings.most.map(|most| most / 100 * percent + most % 100 * percent / 100);
        Ok(Box::new(Layered(Open {
            flushes: disk.info().can_flush,
            disk,
            info,
            blocks,
            sizes,
            kept,
            mode: settings.mode,
            on_read: settings.on_read.clone(),
            high: share(settings.high),
            low: share(settings.low).unwrap_or(0),
        })))
    }
}

/// A block that is kept.
#[derive(Clone, Copy)]
struct Entry {
    /// The disk behind has not got it yet.
    dirty: bool,
    /// When it was used last.
    used: u64,
}

#[derive(Default)]
struct Index {
    entries: HashMap<u64, Entry>,
    dirty: HashSet<u64>,
    clock: u64,
}

impl Index {
    /// Whether a block is kept; then it was used now.
    fn touch(&mut self, block: u64) -> bool {
        self.clock += 1;
        let now = self.clock;
        self.entries.get_mut(&block).map(|entry| entry.used = now).is_some()
    }

    fn keep(&mut self, first: u64, last: u64, dirty: bool) {
        self.clock += 1;
        for block in first..=last {
            self.entries.insert(block, Entry { dirty, used: self.clock });
            if dirty {
                self.dirty.insert(block);
            } else {
                self.dirty.remove(&block);
            }
        }
    }

    fn forget(&mut self, block: u64) {
        self.entries.remove(&block);
        self.dirty.remove(&block);
    }
}

/// What all connections to an export have in the cache. A block is read under a share of its lock and changed, or let go of,
/// under the whole.
struct Kept {
    blocks: Blocks,
    index: Mutex<Index>,
    stripes: Stripes,
    scratch: Scratch,
    reclaiming: Mutex<()>,
}

impl Kept {
    /// Blocks in a row that are all kept, or all not.
    fn runs(&self, first: u64, last: u64) -> Vec<(u64, u64, bool)> {
        let mut index = self.index.lock();
        let mut runs: Vec<(u64, u64, bool)> = Vec::with_capacity(1);
        for block in first..=last {
            let kept = index.touch(block);
            match runs.last_mut() {
                Some(run) if run.2 == kept => run.1 = block,
                _ => runs.push((block, block, kept)),
            }
        }
        runs
    }
}

/// What is written.
#[derive(Clone, Copy)]
enum Content<'a> {
    Bytes(&'a [u8]),
    Zeroes(u64),
}

impl<'a> Content<'a> {
    fn length(self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Zeroes(length) => length,
        }
    }

    fn part(self, at: u64, length: u64) -> Self {
        match self {
            Self::Bytes(bytes) => Self::Bytes(&bytes[at as usize..(at + length) as usize]),
            Self::Zeroes(_) => Self::Zeroes(length),
        }
    }
}

struct Open {
    disk: Box<dyn OpenDisk>,
    /// Whether the disk behind can be flushed.
    flushes: bool,
    info: DiskInfo,
    blocks: Blocks,
    sizes: Option<BlockSize>,
    kept: Arc<Kept>,
    mode: Mode,
    on_read: Switch,
    /// More bytes than that: some have to go.
    high: Option<u64>,
    /// No more than that are left then.
    low: u64,
}

impl Open {
    /// Blocks that are read or written together.
    fn together(&self) -> u64 {
        (PIECE / self.blocks.each).max(1)
    }

    /// Copies blocks that are not kept yet, as far as there is room. Their locks are held.
    fn fill(&self, first: u64, last: u64) -> Result<(), DiskError> {
        for (first, last, kept) in self.kept.runs(first, last) {
            let mut at = first;
            while !kept && at <= last {
                let end = (at + self.together() - 1).min(last);
                let (start, length) = self.blocks.range(at, end);
                let bytes = self.disk.read(start, length as usize)?;
                if self.kept.scratch.write(start, (*bytes).as_ref()).is_err() {
                    return Ok(());
                }
                self.kept.index.lock().keep(at, end, false);
                at = end + 1;
            }
        }
        Ok(())
    }

    /// Reads a range from wherever it is. Its blocks' locks are held or shared.
    fn collect(&self, offset: u64, length: usize) -> Result<ReadBytes, DiskError> {
        let (first, last) = self.blocks.touched(offset, length as u64);
        let runs = self.kept.runs(first, last);
        if let [(_, _, false)] = runs[..] {
            return self.disk.read(offset, length);
        }
        let mut bytes = buffers::empty(length);
        for (first, last, kept) in runs {
            let (offset, length) = self.blocks.part(offset, length as u64, first, last);
            if kept {
                self.kept.scratch.read(offset, length as usize, &mut bytes)?;
            } else {
                bytes.extend_from_slice((*self.disk.read(offset, length as usize)?).as_ref());
            }
        }
        Ok(buffers::filled(bytes))
    }

    fn put(&self, offset: u64, content: Content<'_>) -> Result<(), DiskError> {
        match content {
            Content::Bytes(bytes) => self.kept.scratch.write(offset, bytes),
            Content::Zeroes(length) => self.kept.scratch.clear(offset, length),
        }
    }

    /// Writes to the cache only. The locks are held.
    fn store(&self, offset: u64, content: Content<'_>) -> Result<(), DiskError> {
        let length = content.length();
        let (first, last) = self.blocks.touched(offset, length);
        // What is not overwritten has to be there first.
        for block in if first == last { vec![first] } else { vec![first, last] } {
            let (start, whole) = self.blocks.range(block, block);
            let covered = start >= offset && start + whole <= offset + length;
            if !covered && !self.kept.index.lock().touch(block) {
                let bytes = self.disk.read(start, whole as usize)?;
                self.kept.scratch.write(start, (*bytes).as_ref())?;
                self.kept.index.lock().keep(block, block, false);
            }
        }
        if let Err(error) = self.put(offset, content) {
            // Nobody knows what the file has now: what the disk behind it has counts.
            let mut index = self.kept.index.lock();
            for block in first..=last {
                if index.entries.get(&block).is_some_and(|entry| !entry.dirty) {
                    index.forget(block);
                }
            }
            return Err(error);
        }
        self.kept.index.lock().keep(first, last, true);
        Ok(())
    }

    /// The disk behind has got something: the cache gets it too, where it has the block, or all of it came. The locks are held.
    fn follow(&self, offset: u64, content: Content<'_>) {
        let (first, last) = self.blocks.touched(offset, content.length());
        for block in first..=last {
            let (start, length) = self.blocks.part(offset, content.length(), block, block);
            let whole = self.blocks.range(block, block) == (start, length);
            let new = matches!(content, Content::Bytes(_)) && whole;
            if !new && !self.kept.index.lock().touch(block) {
                continue;
            }
            let put = self.put(start, content.part(start - offset, length));
            let mut index = self.kept.index.lock();
            match put {
                Ok(()) if new => index.keep(block, block, false),
                Ok(()) => {}
                Err(_) => index.forget(block),
            }
        }
    }

    /// Writes what is dirty of a range of blocks to the disk behind. The locks are held.
    fn write_out(&self, first: u64, last: u64, flags: RequestFlags) -> Result<(), DiskError> {
        let dirty: Vec<u64> = {
            let index = self.kept.index.lock();
            (first..=last).filter(|block| index.dirty.contains(block)).collect()
        };
        for run in dirty.chunk_by(|one, next| one + 1 == *next) {
            for piece in run.chunks(self.together() as usize) {
                let (Some(first), Some(last)) = (piece.first(), piece.last()) else { continue };
                let (start, length) = self.blocks.range(*first, *last);
                let mut bytes = Vec::with_capacity(length as usize);
                self.kept.scratch.read(start, length as usize, &mut bytes)?;
                self.disk.write(start, &bytes, flags)?;
                let mut index = self.kept.index.lock();
                for block in piece {
                    index.dirty.remove(block);
                    if let Some(entry) = index.entries.get_mut(block) {
                        entry.dirty = false;
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes all that is dirty to the disk behind.
    fn write_out_all(&self) -> Result<(), DiskError> {
        let mut dirty: Vec<u64> = self.kept.index.lock().dirty.iter().copied().collect();
        dirty.sort_unstable();
        for run in dirty.chunk_by(|one, next| one + 1 == *next) {
            for piece in run.chunks(self.together() as usize) {
                let (Some(first), Some(last)) = (piece.first(), piece.last()) else { continue };
                let _lock = self.kept.stripes.lock(*first, *last);
                self.write_out(*first, *last, RequestFlags::default())?;
            }
        }
        Ok(())
    }

    /// Lets go of what was not used for longest, when there is too much. No lock is held.
    fn reclaim(&self) {
        let Some(high) = self.high else { return };
        let bytes = |index: &Index| index.entries.len() as u64 * self.blocks.each;
        if bytes(&self.kept.index.lock()) <= high {
            return;
        }
        // One at a time does.
        let Some(_reclaiming) = self.kept.reclaiming.try_lock() else { return };
        let mut oldest: Vec<(u64, u64)> = {
            let index = self.kept.index.lock();
            index.entries.iter().map(|(block, entry)| (entry.used, *block)).collect()
        };
        oldest.sort_unstable();
        for (used, block) in oldest {
            if bytes(&self.kept.index.lock()) <= self.low {
                return;
            }
            let _lock = self.kept.stripes.lock(block, block);
            let entry = self.kept.index.lock().entries.get(&block).copied();
            // It was used again meanwhile.
            let Some(entry) = entry.filter(|entry| entry.used == used) else { continue };
            if entry.dirty && (!self.info.can_write || self.write_out(block, block, RequestFlags::default()).is_err()) {
                continue;
            }
            self.kept.index.lock().forget(block);
            let (start, length) = self.blocks.range(block, block);
            self.kept.scratch.punch(start, length);
        }
    }

    fn change(
        &self,
        offset: u64,
        content: Content<'_>,
        flags: RequestFlags,
        through: impl FnOnce() -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        let (first, last) = self.blocks.touched(offset, content.length());
        let lock = self.kept.stripes.lock(first, last);
        match self.mode {
            Mode::Writethrough => {
                let written = through();
                if written.is_ok() {
                    self.follow(offset, content);
                } else {
                    // Nobody knows what the disk behind has now.
                    let mut index = self.kept.index.lock();
                    (first..=last).for_each(|block| index.forget(block));
                }
                written?;
            }
            Mode::Writeback => {
                self.store(offset, content)?;
                if flags.fua {
                    self.write_out(first, last, RequestFlags { fua: true, ..RequestFlags::default() })?;
                }
            }
            Mode::Unsafe => self.store(offset, content)?,
        }
        drop(lock);
        self.reclaim();
        Ok(())
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
        if !self.on_read.is_on() {
            let _share = self.kept.stripes.share(first, last);
            return self.collect(offset, length);
        }
        {
            let _share = self.kept.stripes.share(first, last);
            if self.kept.runs(first, last).iter().all(|(_, _, kept)| *kept) {
                return self.collect(offset, length);
            }
        }
        let bytes = {
            let _lock = self.kept.stripes.lock(first, last);
            self.fill(first, last)?;
            self.collect(offset, length)?
        };
        self.reclaim();
        Ok(bytes)
    }

    fn write(&self, offset: u64, data: &[u8], flags: RequestFlags) -> Result<(), DiskError> {
        self.change(offset, Content::Bytes(data), flags, || self.disk.write(offset, data, flags))
    }

    fn flush(&self) -> Result<(), DiskError> {
        if self.mode == Mode::Unsafe {
            return Ok(());
        }
        self.write_out_all()?;
        if self.flushes { self.disk.flush() } else { Ok(()) }
    }

    fn trim(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        if self.mode == Mode::Unsafe {
            return self.zero(offset, length, RequestFlags { may_trim: true, ..flags });
        }
        let (first, last) = self.blocks.touched(offset, length);
        let _lock = self.kept.stripes.lock(first, last);
        let (begin, next) = self.blocks.covered(offset, length).unwrap_or((0, 0));
        // Of blocks at the edges something stays: the disk behind has to have it.
        for block in [first, last] {
            if !(begin..next).contains(&block) {
                self.write_out(block, block, RequestFlags::default())?;
            }
        }
        {
            let mut index = self.kept.index.lock();
            if last - first < index.entries.len() as u64 {
                (first..=last).for_each(|block| index.forget(block));
            } else {
                let here: Vec<u64> = index.entries.keys().copied().filter(|at| (first..=last).contains(at)).collect();
                here.into_iter().for_each(|block| index.forget(block));
            }
        }
        self.disk.trim(offset, length, flags)
    }

    fn zero(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        if flags.fast_zero && self.mode != Mode::Writethrough {
            return Err(DiskError(libc::EOPNOTSUPP));
        }
        self.change(offset, Content::Zeroes(length), flags, || self.disk.zero(offset, length, flags))
    }

    fn cache(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        let (first, last) = self.blocks.touched(offset, length);
        let lock = self.kept.stripes.lock(first, last);
        self.fill(first, last)?;
        drop(lock);
        self.reclaim();
        Ok(())
    }

    fn extents(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<Vec<Extent>, DiskError> {
        let (first, last) = self.blocks.touched(offset, length);
        let mut dirty: Vec<u64> = {
            let index = self.kept.index.lock();
            index.dirty.iter().copied().filter(|block| (first..=last).contains(block)).collect()
        };
        dirty.sort_unstable();
        let mut extents: Vec<Extent> = Vec::new();
        let end = offset + length;
        let mut at = offset;
        // What is dirty is data; between is what the disk behind says, up to where it says it.
        for block in dirty.into_iter().map(Some).chain([None]) {
            let (start, stop) = block.map_or((end, end), |block| {
                let (start, length) = self.blocks.part(offset, length, block, block);
                (start, start + length)
            });
            if start > at {
                extents.extend(cut(self.disk.extents(at, start - at, flags)?, at, start - at));
                let reached = extents.last().map_or(at, |last| last.offset + last.length);
                if reached < start {
                    break;
                }
            }
            if stop > start {
                extents.push(Extent { offset: start, length: stop - start, hole: false, zero: false });
            }
            at = stop;
            if flags.one && !extents.is_empty() {
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
    use crate::filters::cow::Cow;
    use crate::testing::{acts, agree, content, filtered, half_full, lanes, open, refusal};

    fn cached(parameters: &[(&str, &str)], disk: Arc<dyn Disk>) -> Arc<dyn Disk> {
        let mut filter = Cache::default();
        for (key, value) in parameters {
            assert!(filter.config(key, value.as_ref()).unwrap());
        }
        filter.config_complete().unwrap();
        filter.get_ready().unwrap();
        Box::new(filter).wrap(disk).unwrap()
    }

    fn mode() -> impl Strategy<Value = &'static str> {
        prop_oneof![Just("writeback"), Just("writethrough"), Just("unsafe")]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn writes_are_seen_and_after_a_flush_the_disk_behind_has_them(
            acts in acts(), mode in mode(), on_read: bool, small: bool, odd in 0_u64..5000
        ) {
            let (memory, bytes) = half_full((1 << 20) - odd);
            let memory: Arc<dyn Disk> = Arc::new(memory);
            let disk = cached(&[
                ("cache", mode),
                ("cache-min-block-size", "4k"),
                ("cache-on-read", &on_read.to_string()),
                ("cache-max-size", if small { "100k" } else { "1G" }),
            ], Arc::clone(&memory));
            let mut model = bytes.clone();
            let opened = open(&*disk);
            agree(&*opened, &mut model, &acts);
            prop_assert!(content(&*open(&*disk)) == model);
            opened.flush().unwrap();
            prop_assert!(mode == "unsafe" || content(&*open(&*memory)) == model);
        }

        #[test]
        fn a_cache_over_a_cow_keeps_what_was_written(acts in acts(), mode in mode()) {
            let (memory, mut bytes) = half_full(1 << 20);
            let cow = filtered(Cow::default(), &[], memory).unwrap();
            let disk = cached(&[("cache", mode), ("cache-on-read", "true")], cow);
            agree(&*open(&*disk), &mut bytes, &acts);
        }
    }

    #[test]
    fn the_disk_behind_gets_a_write_when_the_mode_says() {
        for (mode, at_once, flushed) in
            [("writeback", false, true), ("writethrough", true, true), ("unsafe", false, false)]
        {
            let memory: Arc<dyn Disk> = Arc::new(half_full(1 << 20).0);
            let disk = open(&*cached(&[("cache", mode)], Arc::clone(&memory)));
            let has = |offset| (*open(&*memory).read(offset, 5).unwrap()).as_ref() == b"hello";
            disk.write(100, b"hello", RequestFlags::default()).unwrap();
            assert_eq!(has(100), at_once, "{mode}");
            disk.flush().unwrap();
            assert_eq!(has(100), flushed, "{mode}");
            disk.write(300_000, b"hello", RequestFlags { fua: true, ..RequestFlags::default() }).unwrap();
            assert_eq!(has(300_000), flushed, "{mode}");
        }
    }

    #[test]
    fn a_full_cache_lets_go_of_what_was_not_used_for_longest() {
        let memory: Arc<dyn Disk> = Arc::new(half_full(1 << 20).0);
        let parameters = [
            ("cache-max-size", "40k"),
            ("cache-high-threshold", "100"),
            ("cache-low-threshold", "50"),
            ("cache-on-read", "on"),
            ("cache-min-block-size", "4k"),
        ];
        let disk = open(&*cached(&parameters, Arc::clone(&memory)));
        let behind = open(&*memory);
        (0..10).for_each(|block| drop(disk.read(block * 4096, 1).unwrap()));
        behind.write(0, &[0; 1 << 16], RequestFlags::default()).unwrap();
        let first = |block: u64| (*disk.read(block * 4096, 1).unwrap()).as_ref()[0];
        assert_ne!(first(0), 0, "it is kept");
        drop(disk.read(10 * 4096, 1).unwrap());
        assert_ne!(first(0), 0, "it was used lately");
        assert_eq!(first(1), 0, "it was the oldest");
    }

    #[test]
    fn connections_that_write_the_same_blocks_lose_nothing() {
        let memory: Arc<dyn Disk> = Arc::new(half_full(1 << 20).0);
        let disk = cached(&[("cache-max-size", "300k")], Arc::clone(&memory));
        std::thread::scope(|scope| {
            for writer in 0..4_usize {
                let disk = open(&*disk);
                scope.spawn(move || {
                    for at in (writer * 512..1 << 20).step_by(2048) {
                        disk.write(at as u64, &[writer as u8; 512], RequestFlags::default()).unwrap();
                    }
                    disk.flush().unwrap();
                });
            }
        });
        let expected: Vec<u8> = (0..1 << 20).map(|at| (at / 512 % 4) as u8).collect();
        assert!(content(&*open(&*disk)) == expected);
        assert!(content(&*open(&*memory)) == expected);
    }

    #[test]
    fn connections_do_not_touch_what_others_change() {
        for mode in ["writeback", "writethrough", "unsafe"] {
            for (most, on_read) in [("40k", "false"), ("100k", "true")] {
                let parameters = [
                    ("cache", mode),
                    ("cache-max-size", most),
                    ("cache-on-read", on_read),
                    ("cache-min-block-size", "8k"),
                ];
                lanes(&*cached(&parameters, Arc::new(half_full(1 << 18).0)));
            }
        }
    }

    #[test]
    fn wrong_parameters_are_refused() {
        let refused = |parameters: &[(&str, &str)]| refusal(filtered(Cache::default(), parameters, half_full(1).0));
        assert!(refused(&[("cache", "some")]).contains("writethrough"));
        assert!(refused(&[("cache-min-block-size", "512")]).contains("power of two"));
        assert!(refused(&[("cache-low-threshold", "95")]).contains("less than"));
        assert!(refused(&[("cache-high-threshold", "0")]).contains("from 1"));
    }
}
