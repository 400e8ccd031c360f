//! The plugin `memory`: a disk in memory, gone with the process.

use std::ffi::OsStr;
use std::sync::Arc;

use backstay_core::{Disk, DiskError, DiskInfo, Extent, OpenDisk, ReadBytes, RequestFlags, ThreadModel};
use hashbrown::HashMap;
use memmap2::MmapMut;
use parking_lot::RwLock;

use super::{Everywhere, is_zero, zeroes};
use crate::buffers;
use crate::plugin::{Plugin, Step};
use crate::values::{Given, unknown};

/// Its name.
const NAME: &str = "memory";
/// What it takes.
pub(super) const PARAMETERS: &[&str] = &["size", "allocator"];

/// Bytes that are allocated together, as in nbdkit: extents show it.
const PAGE: u64 = 32 << 10;
/// Parts of the page table that can be changed at the same time. Neighbours are in different ones.
const SHARDS: u64 = 64;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Allocator {
    #[default]
    Sparse,
    Malloc {
        lock: bool,
    },
}

/// The plugin.
#[derive(Default)]
pub(super) struct Memory {
    size: Option<u64>,
    allocator: Allocator,
    store: Option<Arc<Store>>,
}

impl Plugin for Memory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn magic(&self) -> Option<&'static str> {
        Some("size")
    }

    fn help(&self) -> &'static str {
        "size=<SIZE>           (required) Size of the disk\n\
         allocator=sparse|malloc|malloc,mlock=true\n                      How memory is taken [default: sparse]\n"
    }

    fn config(&mut self, key: &str, value: &OsStr) -> Step<()> {
        let given = Given { owner: NAME, key, value };
        match key {
            "size" => self.size = Some(given.size()?),
            "allocator" => self.allocator = allocator(&given)?,
            _ => return Err(unknown(NAME, key, PARAMETERS)),
        }
        Ok(())
    }

    fn config_complete(&mut self) -> Step<()> {
        match self.size {
            Some(_) => Ok(()),
            None => Err("memory: the size of the disk is missing: give size=SIZE".to_owned().into()),
        }
    }

    fn thread_model(&mut self) -> Step<ThreadModel> {
        Ok(ThreadModel::Parallel)
    }

    /// While whoever started the server is still told when there is not so much memory.
    fn get_ready(&mut self) -> Step<()> {
        let store = match self.allocator {
            Allocator::Sparse => Store::Sparse(Sparse::default()),
            Allocator::Malloc { .. } => Store::Flat(flat(self.size.unwrap_or_default())?),
        };
        self.store = Some(Arc::new(store));
        Ok(())
    }

    /// That memory is locked is not what a fork inherits.
    fn after_fork(&mut self) -> Step<()> {
        if let (Allocator::Malloc { lock: true }, Some(Store::Flat(memory))) = (self.allocator, self.store.as_deref()) {
            let locked = memory.read().lock();
            locked.map_err(|error| {
                format!("memory: allocator=malloc,mlock=true: the memory cannot be locked: {error}")
            })?;
        }
        Ok(())
    }

    fn disk(&self) -> Step<Arc<dyn Disk>> {
        let store = self.store.clone().ok_or_else(|| "memory: nothing is allocated".to_owned())?;
        let info = DiskInfo::able(self.size.unwrap_or_default());
        Ok(Arc::new(Everywhere(move |_: &_| {
            Ok(Box::new(Open { info: info.clone(), store: Arc::clone(&store) }) as Box<dyn OpenDisk>)
        })))
    }

    fn dump(&mut self, print: &mut dyn FnMut(&str)) -> Step<()> {
        print("magic_config_key=size\nmlock=yes\nzstd=no\n");
        Ok(())
    }
}

fn allocator(given: &Given<'_>) -> Step<Allocator> {
    let text = given.text()?;
    let (name, options) = text.split_once(',').map_or((text, None), |(name, options)| (name, Some(options)));
    match (name, options) {
        ("sparse", None) => Ok(Allocator::Sparse),
        ("malloc", None) => Ok(Allocator::Malloc { lock: false }),
        ("malloc", Some(options)) => {
            let lock = options.strip_prefix("mlock=").and_then(crate::numbers::parse_bool);
            let lock = lock.ok_or_else(|| given.wrong("malloc has one option, mlock=true or mlock=false"))?;
            Ok(Allocator::Malloc { lock })
        }
        ("zstd", _) => Err(given.wrong("memory is not compressed here: use sparse")),
        _ => Err(given.wrong("there are sparse, malloc and malloc,mlock=true")),
    }
}

fn flat(size: u64) -> Step<RwLock<MmapMut>> {
    let failed =
        |error: &dyn std::fmt::Display| format!("memory: allocator=malloc: {size} bytes cannot be allocated: {error}");
    let length = usize::try_from(size).map_err(|error| failed(&error))?;
    // Nothing cannot be mapped.
    Ok(RwLock::new(MmapMut::map_anon(length.max(1)).map_err(|error| failed(&error))?))
}

/// Where the bytes are.
enum Store {
    /// In pages, each allocated when something is written to it.
    Sparse(Sparse),
    /// All in one piece.
    Flat(RwLock<MmapMut>),
}

type Pages = HashMap<u64, Box<[u8]>>;

struct Sparse(Box<[RwLock<Pages>]>);

impl Default for Sparse {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| RwLock::default()).collect())
    }
}

/// The part of a range in one page.
#[derive(Clone, Copy)]
struct Part {
    page: u64,
    /// Where it begins in the page.
    start: usize,
    /// Where it begins in the range.
    at: usize,
    length: usize,
}

impl Part {
    fn in_page(self) -> std::ops::Range<usize> {
        self.start..self.start + self.length
    }
}

/// The pages that a range touches.
fn parts(offset: u64, length: usize) -> impl Iterator<Item = Part> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let place = offset + at as u64;
        let (page, start) = (place / PAGE, (place % PAGE) as usize);
        let part = Part { page, start, at, length: (PAGE as usize - start).min(length - at) };
        at += part.length;
        (part.length > 0).then_some(part)
    })
}

/// An empty page.
fn blank() -> Result<Box<[u8]>, DiskError> {
    let mut page = Vec::new();
    page.try_reserve_exact(PAGE as usize).map_err(|_| DiskError(libc::ENOMEM))?;
    page.resize(PAGE as usize, 0);
    Ok(page.into())
}

impl Sparse {
    fn shard(&self, page: u64) -> &RwLock<Pages> {
        &self.0[(page % SHARDS) as usize]
    }

    fn read(&self, offset: u64, length: usize) -> ReadBytes {
        let mut bytes = Vec::new();
        for part in parts(offset, length) {
            let shard = self.shard(part.page).read();
            let Some(page) = shard.get(&part.page) else { continue };
            if bytes.capacity() == 0 {
                bytes = buffers::empty(length);
            }
            bytes.resize(part.at, 0);
            bytes.extend_from_slice(&page[part.in_page()]);
        }
        if bytes.is_empty() {
            return zeroes(length);
        }
        bytes.resize(length, 0);
        buffers::filled(bytes)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        for part in parts(offset, data.len()) {
            let data = &data[part.at..part.at + part.length];
            let mut shard = self.shard(part.page).write();
            match shard.get_mut(&part.page) {
                Some(page) => page[part.in_page()].copy_from_slice(data),
                None => {
                    let mut page = blank()?;
                    page[part.in_page()].copy_from_slice(data);
                    shard.insert(part.page, page);
                }
            }
        }
        Ok(())
    }

    /// Gives back pages that are zeroes altogether.
    fn zero(&self, offset: u64, length: u64) {
        let end = offset + length;
        let (first, last) = (offset / PAGE, (end - 1) / PAGE);
        for number in self.allocated(first, last) {
            let mut shard = self.shard(number).write();
            let Some(page) = shard.get_mut(&number) else { continue };
            let begin = number * PAGE;
            let (start, stop) = (offset.max(begin) - begin, end.min(begin + PAGE) - begin);
            page[start as usize..stop as usize].fill(0);
            if stop - start == PAGE || is_zero(page) {
                shard.remove(&number);
            }
        }
    }

    /// The pages from `first` to `last` that are there, in order.
    fn allocated(&self, first: u64, last: u64) -> Vec<u64> {
        if last - first < 2 * SHARDS {
            return (first..=last).filter(|page| self.shard(*page).read().contains_key(page)).collect();
        }
        let mut found = Vec::new();
        for (number, shard) in self.0.iter().enumerate() {
            let shard = shard.read();
            // Whatever is less: the pages of the range, or those that are there.
            if shard.len() as u64 > (last - first) / SHARDS {
                let begin = first + (number as u64 + SHARDS - first % SHARDS) % SHARDS;
                found.extend((begin..=last).step_by(SHARDS as usize).filter(|page| shard.contains_key(page)));
            } else {
                found.extend(shard.keys().filter(|page| (first..=last).contains(page)));
            }
        }
        found.sort_unstable();
        found
    }

    fn extents(&self, offset: u64, length: u64) -> Vec<Extent> {
        let end = offset + length;
        let mut extents: Vec<Extent> = Vec::new();
        let mut add = |start: u64, stop: u64, hole: bool, zero: bool| {
            if stop <= start {
                return;
            }
            match extents.last_mut() {
                Some(last) if last.hole == hole && last.zero == zero => last.length = stop - last.offset,
                _ => extents.push(Extent { offset: start, length: stop - start, hole, zero }),
            }
        };
        let mut at = offset;
        for number in self.allocated(offset / PAGE, (end - 1) / PAGE) {
            let begin = number * PAGE;
            let (start, stop) = (begin.max(offset), (begin + PAGE).min(end));
            let shard = self.shard(number).read();
            // Somebody may have trimmed it meanwhile.
            let Some(page) = shard.get(&number) else { continue };
            add(at, start, true, true);
            add(start, stop, false, is_zero(&page[(start - begin) as usize..(stop - begin) as usize]));
            at = stop;
        }
        add(at, end, true, true);
        extents
    }
}

struct Open {
    info: DiskInfo,
    store: Arc<Store>,
}

/// A range of memory in one piece.
fn range(offset: u64, length: u64) -> std::ops::Range<usize> {
    offset as usize..(offset + length) as usize
}

impl OpenDisk for Open {
    fn info(&self) -> &DiskInfo {
        &self.info
    }

    fn read(&self, offset: u64, length: usize) -> Result<ReadBytes, DiskError> {
        Ok(match &*self.store {
            Store::Sparse(sparse) => sparse.read(offset, length),
            Store::Flat(memory) => {
                let mut bytes = buffers::empty(length);
                bytes.extend_from_slice(&memory.read()[range(offset, length as u64)]);
                buffers::filled(bytes)
            }
        })
    }

    fn write(&self, offset: u64, data: &[u8], _flags: RequestFlags) -> Result<(), DiskError> {
        match &*self.store {
            Store::Sparse(sparse) => sparse.write(offset, data)?,
            Store::Flat(memory) => memory.write()[range(offset, data.len() as u64)].copy_from_slice(data),
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), DiskError> {
        Ok(())
    }

    fn trim(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        self.zero(offset, length, flags)
    }

    fn zero(&self, offset: u64, length: u64, _flags: RequestFlags) -> Result<(), DiskError> {
        match &*self.store {
            Store::Sparse(sparse) => sparse.zero(offset, length),
            Store::Flat(memory) => memory.write()[range(offset, length)].fill(0),
        }
        Ok(())
    }

    fn cache(&self, _offset: u64, _length: u64) -> Result<(), DiskError> {
        Ok(())
    }

    fn extents(&self, offset: u64, length: u64, _flags: RequestFlags) -> Result<Vec<Extent>, DiskError> {
        Ok(match &*self.store {
            Store::Sparse(sparse) => sparse.extents(offset, length),
            Store::Flat(_) => vec![Extent { offset, length, hole: false, zero: false }],
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{acts, agree, lanes, open_plugin, refusal};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn memory_of_either_kind_keeps_what_was_written(acts in acts(), flat in any::<bool>(), odd in 0_u64..3) {
            let size = (40 * PAGE + odd * 777).to_string();
            let allocator = if flat { "malloc" } else { "sparse" };
            let disk = open_plugin(Memory::default(), &[("size", &size), ("allocator", allocator)]).unwrap();
            agree(&*disk, &mut vec![0; size.parse().unwrap()], &acts);
        }
    }

    #[test]
    fn the_largest_disk_costs_nothing_until_it_is_written() {
        let disk = open_plugin(Memory::default(), &[("size", "9223372036854775807")]).unwrap();
        let place = i64::MAX as u64 - 9;
        disk.write(place, b"last", RequestFlags::default()).unwrap();
        assert_eq!((*disk.read(place, 4).unwrap()).as_ref(), b"last");
        let extents = disk.extents(0, i64::MAX as u64, RequestFlags::default()).unwrap();
        assert_eq!(extents.len(), 2, "{extents:?}");
        assert!(extents[0].hole && !extents[1].hole);
        disk.trim(0, i64::MAX as u64, RequestFlags::default()).unwrap();
        assert_eq!(disk.extents(0, i64::MAX as u64, RequestFlags::default()).unwrap().len(), 1);
    }

    #[test]
    fn zeroes_give_pages_back() {
        let disk = open_plugin(Memory::default(), &[("size", "1M")]).unwrap();
        let flags = RequestFlags::default();
        disk.write(PAGE, &[7; 100], flags).unwrap();
        disk.zero(PAGE, 50, flags).unwrap();
        assert_eq!(disk.extents(0, 1 << 20, flags).unwrap().len(), 3);
        disk.zero(PAGE + 50, 50, flags).unwrap();
        assert_eq!(disk.extents(0, 1 << 20, flags).unwrap().len(), 1);
        disk.write(0, &[0; 10], flags).unwrap();
        let first = disk.extents(0, 1 << 20, flags).unwrap()[0];
        assert!(first.zero && !first.hole, "{first:?}");
    }

    #[test]
    fn connections_do_not_touch_what_others_change() {
        let mut plugin = Memory::default();
        plugin.config("size", "256k".as_ref()).unwrap();
        plugin.get_ready().unwrap();
        lanes(&*plugin.disk().unwrap());
    }

    #[test]
    fn locked_memory_is_a_disk_too() {
        let disk = open_plugin(Memory::default(), &[("size", "64k"), ("allocator", "malloc,mlock=true")]).unwrap();
        agree(&*disk, &mut vec![0; 64 << 10], &[]);
    }

    #[test]
    fn wrong_parameters_are_refused() {
        let refused = |parameters: &[(&str, &str)]| refusal(open_plugin(Memory::default(), parameters));
        assert!(refused(&[]).contains("size=SIZE"));
        assert!(refused(&[("size", "-1")]).starts_with("memory: size=-1: "));
        assert!(refused(&[("size", "1"), ("allocator", "zstd")]).contains("use sparse"));
        assert!(refused(&[("size", "1"), ("allocator", "malloc,mlock")]).contains("mlock=true"));
        assert!(refused(&[("colour", "red")]).contains("'colour'"));
        assert!(refused(&[("size", "8E"), ("allocator", "malloc")]).contains("8E"));
        assert!(refused(&[("size", "4E"), ("allocator", "malloc")]).contains("allocated"));
    }
}
