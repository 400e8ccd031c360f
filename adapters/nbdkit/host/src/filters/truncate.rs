//! The filter `truncate`: a disk of another size. What is added reads as zeroes, and takes nothing else.

use std::ffi::OsStr;
use std::sync::Arc;

use backstay_core::{Client, Disk, DiskError, DiskInfo, Extent, OpenDisk, OpenError, ReadBytes, RequestFlags};

use crate::filter::Filter;
use crate::layer::{Layer, Layered, OpenLayer, cut};
use crate::plugin::Step;
use crate::plugins::is_zero;
use crate::values::Given;

/// Its name.
const NAME: &str = "truncate";
/// What it takes.
pub(super) const PARAMETERS: &[&str] = &["truncate", "round-up", "round-down"];
/// The largest disk.
const MOST: u64 = i64::MAX as u64;

/// The filter; in this order.
#[derive(Clone, Default)]
pub(super) struct Truncate {
    size: Option<u64>,
    up: Option<u64>,
    down: Option<u64>,
}

impl Filter for Truncate {
    fn name(&self) -> &'static str {
        NAME
    }

    fn help(&self) -> &'static str {
        "\
         truncate=<SIZE>\n\
         round-up=<N>, round-down=<N>\n\
         \x20                     To a multiple of a power of two\n"
    }

    fn config(&mut self, key: &str, value: &OsStr) -> Step<bool> {
        let given = Given { owner: NAME, key, value };
        let step = || match given.size()? {
            step if step.is_power_of_two() => Ok(Some(step)),
            _ => Err(given.wrong("it must be a power of two")),
        };
        match key {
            "truncate" => self.size = Some(given.size()?),
            "round-up" => self.up = step()?,
            "round-down" => self.down = step()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn wrap(self: Box<Self>, disk: Arc<dyn Disk>) -> Step<Arc<dyn Disk>> {
        Ok(Arc::new(Layered(Front { disk, sizes: *self })))
    }
}

impl Truncate {
    /// What a size becomes; none: more than there can be.
    fn apply(&self, size: u64) -> Option<u64> {
        let size = self.size.unwrap_or(size);
        let size = self.up.map_or(Some(size), |step| size.checked_next_multiple_of(step))?;
        let size = self.down.map_or(size, |step| size - size % step);
        (size <= MOST).then_some(size)
    }
}

struct Front {
    disk: Arc<dyn Disk>,
    sizes: Truncate,
}

impl Layer for Front {
    fn below(&self) -> &dyn Disk {
        &*self.disk
    }

    fn open(&self, export: &[u8], client: &Client) -> Result<Box<dyn OpenDisk>, OpenError> {
        let disk = self.disk.open(export, client)?;
        let real = disk.info().size;
        let size = self
            .sizes
            .apply(real)
            .ok_or_else(|| OpenError::Refused(format!("{NAME}: a disk of {real} bytes cannot be rounded up so far")))?;
        let info = DiskInfo { size, ..disk.info().clone() };
        Ok(Box::new(Layered(Open { disk, real, info })))
    }
}

struct Open {
    disk: Box<dyn OpenDisk>,
    /// The size of the disk behind it.
    real: u64,
    info: DiskInfo,
}

impl Open {
    /// How much of a range the disk behind it has.
    fn inside(&self, offset: u64, length: u64) -> u64 {
        self.real.saturating_sub(offset).min(length)
    }

    fn with_inside(
        &self,
        offset: u64,
        length: u64,
        call: impl FnOnce(u64) -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        match self.inside(offset, length) {
            0 => Ok(()),
            inside => call(inside),
        }
    }
}

impl OpenLayer for Open {
    fn below(&self) -> &dyn OpenDisk {
        &*self.disk
    }

    fn info(&self) -> &DiskInfo {
        &self.info
    }

    fn read(&self, offset: u64, length: usize) -> Result<ReadBytes, DiskError> {
        let inside = self.inside(offset, length as u64) as usize;
        if inside == length {
            return self.disk.read(offset, length);
        }
        let mut bytes = Vec::with_capacity(length);
        if inside > 0 {
            bytes.extend_from_slice((*self.disk.read(offset, inside)?).as_ref());
        }
        bytes.resize(length, 0);
        Ok(Box::new(bytes))
    }

    fn write(&self, offset: u64, data: &[u8], flags: RequestFlags) -> Result<(), DiskError> {
        let (inside, beyond) = data.split_at(self.inside(offset, data.len() as u64) as usize);
        if !is_zero(beyond) {
            return Err(DiskError(libc::ENOSPC));
        }
        if inside.is_empty() { Ok(()) } else { self.disk.write(offset, inside, flags) }
    }

    fn trim(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        self.with_inside(offset, length, |length| self.disk.trim(offset, length, flags))
    }

    fn zero(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        self.with_inside(offset, length, |length| self.disk.zero(offset, length, flags))
    }

    fn cache(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.with_inside(offset, length, |length| self.disk.cache(offset, length))
    }

    fn extents(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<Vec<Extent>, DiskError> {
        let beyond = |offset| Extent { offset, length: self.info.size - offset, hole: true, zero: true };
        let inside = self.inside(offset, length);
        if inside == 0 {
            return Ok(vec![beyond(offset)]);
        }
        let extents = self.disk.extents(offset, inside, flags)?;
        let mut extents: Vec<_> = cut(extents, 0, self.real.min(self.info.size)).collect();
        let end = extents.last().map_or(offset, |last| last.offset + last.length);
        if end == self.real && end < self.info.size && !flags.one {
            extents.push(beyond(end));
        }
        Ok(extents)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Act, acts, agree, filtered, half_full, open, refusal};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_shorter_disk_is_the_beginning(acts in acts(), size in 1_usize..1 << 20) {
            let (memory, mut bytes) = half_full(1 << 20);
            let disk = filtered(Truncate::default(), &[("truncate", &size.to_string())], memory).unwrap();
            agree(&*open(&*disk), &mut bytes[..size], &acts);
        }

        #[test]
        fn a_longer_disk_ends_in_zeroes(acts in acts(), more in 1_usize..1 << 20) {
            let (memory, mut bytes) = half_full(1 << 20);
            bytes.resize((1 << 20) + more, 0);
            let size = bytes.len().to_string();
            let disk = filtered(Truncate::default(), &[("truncate", &size)], memory).unwrap();
            // Whatever is written at the end would have to be zeroes.
            let scale = (1 << 20) as f64 / bytes.len() as f64;
            let acts: Vec<_> = acts.into_iter().map(|act| match act {
                Act::Write(at, length, byte) => {
                    Act::Write((f64::from(at) * scale / 2.0) as u16, (f64::from(length) * scale / 2.0) as u16, byte)
                }
                other => other,
            }).collect();
            agree(&*open(&*disk), &mut bytes, &acts);
        }
    }

    #[test]
    fn sizes_are_set_then_rounded() {
        for (parameters, size) in [
            (&[("round-up", "512")][..], 1024),
            (&[("round-down", "512")], 512),
            (&[("truncate", "1000"), ("round-up", "16")], 1008),
            (&[("round-down", "64k")], 0),
            (&[], 1000),
        ] {
            let disk = filtered(Truncate::default(), parameters, half_full(1000).0).unwrap();
            assert_eq!(open(&*disk).info().size, size, "{parameters:?}");
        }
        let disk = filtered(
            Truncate::default(),
            &[("truncate", "4611686018427387905"), ("round-up", "4611686018427387904")],
            half_full(1000).0,
        )
        .unwrap();
        assert!(matches!(disk.open(b"", &Client::default()), Err(OpenError::Refused(_))));
        assert!(refusal(Truncate::default().config("round-up", "0".as_ref())).contains("power of two"));
    }

    #[test]
    fn only_zeroes_can_be_written_beyond_the_end() {
        let disk = filtered(Truncate::default(), &[("truncate", "2000")], half_full(1000).0).unwrap();
        let (disk, flags) = (open(&*disk), RequestFlags::default());
        assert_eq!(disk.write(900, &[0; 1000], flags), Ok(()));
        assert_eq!(disk.write(900, &[1; 1000], flags), Err(DiskError(libc::ENOSPC)));
        assert_eq!(disk.write(1500, &[1], flags), Err(DiskError(libc::ENOSPC)));
    }
}
