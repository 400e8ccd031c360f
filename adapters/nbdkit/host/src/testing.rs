//! What unit tests of plugins and filters have in common: a disk beside a plain array of bytes that must always say the same.

use backstay_core::{Client, Disk, OpenDisk, RequestFlags, ThreadModel};
use backstay_nbd::memory::MemoryDisk;
use proptest::prelude::*;

use crate::filter::Filter;
use crate::plugin::{End, Plugin};

/// One call of a disk. Places and lengths are fractions of the disk, in 1/65536.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Read(u16, u16),
    Write(u16, u16, u8),
    Zero(u16, u16, bool),
    Trim(u16, u16),
    Cache(u16, u16),
    Extents(u16, u16, bool),
    Flush,
}

/// Calls in any order.
pub(crate) fn acts() -> impl Strategy<Value = Vec<Act>> {
    let length = || prop_oneof![4 => 0_u16..2000, 1 => any::<u16>()];
    let range = move || (any::<u16>(), length());
    prop::collection::vec(
        prop_oneof![
            3 => range().prop_map(|(at, length)| Act::Read(at, length)),
            4 => (range(), any::<u8>()).prop_map(|((at, length), byte)| Act::Write(at, length, byte)),
            2 => (range(), any::<bool>()).prop_map(|((at, length), hole)| Act::Zero(at, length, hole)),
            1 => range().prop_map(|(at, length)| Act::Trim(at, length)),
            1 => range().prop_map(|(at, length)| Act::Cache(at, length)),
            2 => (range(), any::<bool>()).prop_map(|((at, length), one)| Act::Extents(at, length, one)),
            1 => Just(Act::Flush),
        ],
        1..40,
    )
}

/// Bytes that differ from place to place.
pub(crate) fn noise(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ seed | 1).collect()
}

/// All bytes of a disk.
pub(crate) fn content(disk: &dyn OpenDisk) -> Vec<u8> {
    read(disk, 0, disk.info().size)
}

fn read(disk: &dyn OpenDisk, offset: u64, length: u64) -> Vec<u8> {
    let bytes = disk.read(offset, length as usize).unwrap();
    let bytes = (*bytes).as_ref().to_vec();
    assert_eq!(bytes.len() as u64, length);
    bytes
}

/// Calls a disk and an array of bytes alike; they must not differ. What is trimmed is what it was, or zeroes.
pub(crate) fn agree(disk: &dyn OpenDisk, model: &mut [u8], acts: &[Act]) {
    let size = disk.info().size;
    assert_eq!(size, model.len() as u64);
    let place = |at: u16, length: u16| {
        let offset = (size * u64::from(at)) >> 16;
        let length = ((size * u64::from(length)) >> 16).clamp(1, size - offset);
        (offset, length, offset as usize..(offset + length) as usize)
    };
    let flags = RequestFlags::default();
    for act in acts {
        match *act {
            Act::Read(at, length) => {
                let (offset, length, range) = place(at, length);
                assert!(read(disk, offset, length) == model[range], "{act:?}");
            }
            Act::Write(at, length, byte) => {
                let (offset, _, range) = place(at, length);
                let bytes = noise(byte, range.len());
                disk.write(offset, &bytes, RequestFlags { fua: byte < 64, ..flags }).unwrap();
                model[range].copy_from_slice(&bytes);
            }
            Act::Zero(at, length, may_trim) => {
                let (offset, length, range) = place(at, length);
                let fast = RequestFlags { may_trim, fast_zero: true, ..flags };
                if !disk.info().can_fast_zero || disk.zero(offset, length, fast).is_err() {
                    disk.zero(offset, length, RequestFlags { may_trim, ..flags }).unwrap();
                }
                model[range].fill(0);
            }
            Act::Trim(at, length) if disk.info().can_trim => {
                let (offset, length, range) = place(at, length);
                disk.trim(offset, length, flags).unwrap();
                let now = read(disk, offset, length);
                assert!(now.iter().zip(&model[range.clone()]).all(|(now, was)| *now == 0 || now == was), "{act:?}");
                model[range].copy_from_slice(&now);
            }
            Act::Trim(..) => {}
            Act::Cache(at, length) => {
                let (offset, length, _) = place(at, length);
                disk.cache(offset, length).unwrap();
            }
            Act::Extents(at, length, one) => {
                let (offset, length, _) = place(at, length);
                check_extents(disk, model, offset, length, RequestFlags { one, ..flags });
            }
            Act::Flush => disk.flush().unwrap(),
        }
    }
    assert!(content(disk) == model, "the content at the end");
    check_extents(disk, model, 0, size, flags);
}

fn check_extents(disk: &dyn OpenDisk, model: &[u8], offset: u64, length: u64, flags: RequestFlags) {
    let extents = disk.extents(offset, length, flags).unwrap();
    let first = extents[0];
    assert!(first.offset <= offset && first.offset + first.length > offset, "{offset} {first:?}");
    let mut expected = first.offset;
    for extent in &extents {
        assert_eq!(extent.offset, expected, "{extents:?}");
        assert!(extent.length > 0, "{extents:?}");
        expected = extent.offset + extent.length;
        let range = extent.offset as usize..(expected as usize).min(model.len());
        assert!(!extent.zero || model[range].iter().all(|byte| *byte == 0), "{extent:?} is no zeroes");
    }
    assert!(flags.one || expected >= offset + length, "{extents:?} do not reach {}", offset + length);
}

/// A plugin with these parameters, open.
pub(crate) fn open_plugin(mut plugin: impl Plugin, parameters: &[(&str, &str)]) -> Result<Box<dyn OpenDisk>, End> {
    for (key, value) in parameters {
        plugin.config(key, value.as_ref())?;
    }
    plugin.config_complete()?;
    plugin.get_ready()?;
    plugin.after_fork()?;
    Ok(plugin.disk()?.open(b"", &Client::default()).unwrap())
}

/// A filter with these parameters in front of a disk.
pub(crate) fn filtered(
    mut filter: impl Filter + 'static,
    parameters: &[(&str, &str)],
    disk: impl Disk + 'static,
) -> Result<std::sync::Arc<dyn Disk>, End> {
    for (key, value) in parameters {
        assert!(filter.config(key, value.as_ref())?, "{key}");
    }
    filter.config_complete()?;
    filter.get_ready()?;
    Box::new(filter).wrap(std::sync::Arc::new(disk))
}

/// A memory disk with noise in the first half of it, and its bytes.
pub(crate) fn half_full(size: u64) -> (MemoryDisk, Vec<u8>) {
    let disk = MemoryDisk::new(size, ThreadModel::Parallel);
    let mut bytes = noise(7, size as usize);
    bytes[size as usize / 2..].fill(0);
    let open = disk.open(b"", &Client::default()).unwrap();
    open.write(0, &bytes[..size as usize / 2], RequestFlags::default()).unwrap();
    (disk, bytes)
}

pub(crate) fn open(disk: &dyn Disk) -> Box<dyn OpenDisk> {
    disk.open(b"", &Client::default()).unwrap()
}

/// The line that configuring ends with.
pub(crate) fn refusal<T>(step: Result<T, End>) -> String {
    match step {
        Err(End::Line(line)) => line,
        Err(End::Status(status)) => panic!("status {status} without a line"),
        Ok(_) => panic!("it was taken"),
    }
}

/// Connections that each change their own lanes of the same blocks, all at once; none may see, or lose, what is another's.
pub(crate) fn lanes(disk: &dyn Disk) {
    const LANE: u64 = 512;
    const LANES: u64 = 4;
    const TURNS: u32 = 400;
    let size = open(disk).info().size;
    let rows = size / (LANE * LANES);
    let work = &|lane: u64| {
        let (disk, flags) = (open(disk), RequestFlags::default());
        let mut expected: Vec<Vec<u8>> = (0..rows).map(|row| read(&*disk, (row * LANES + lane) * LANE, LANE)).collect();
        let mut random = 0x9e37_79b9_u64.wrapping_mul(lane + 1);
        for turn in 0..TURNS {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let row = (random >> 33) % rows;
            let offset = (row * LANES + lane) * LANE;
            let bytes = &mut expected[row as usize];
            match (random >> 60) % 8 {
                0 => disk.zero(offset, LANE, RequestFlags { may_trim: turn % 2 == 0, ..flags }).map(|()| bytes.fill(0)),
                1 => disk.trim(offset, LANE, flags).map(|()| *bytes = read(&*disk, offset, LANE)),
                2 => disk.flush(),
                3 => disk.cache(offset, LANE),
                _ => {
                    *bytes = noise(turn as u8, LANE as usize);
                    disk.write(offset, bytes, RequestFlags { fua: turn % 16 == 0, ..flags })
                }
            }
            .unwrap();
            assert!(read(&*disk, offset, LANE) == *bytes, "lane {lane}, turn {turn}, row {row}");
        }
        for (row, bytes) in (0..rows).zip(expected) {
            assert!(read(&*disk, (row * LANES + lane) * LANE, LANE) == bytes, "lane {lane}, row {row} at the end");
        }
    };
    std::thread::scope(|scope| (0..LANES).for_each(|lane| drop(scope.spawn(move || work(lane)))));
}
