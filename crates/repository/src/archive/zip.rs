//! Zip (PKWARE's APPNOTE 6.3): deflated files with their lengths behind them, Unix modes and times, and the 64 bit records
//! where a length, a place or a number of entries needs them.
//!
//! The list of entries at the archive's end grows with their number: past 8 MiB it lies in a temporary file.

use std::io::{Read, Seek, SeekFrom, Write};

use backstay_core::{FileKind, Time};
use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};
use tempfile::SpooledTempFile;

use super::{Body, Counted, Format, output_failed, put};
use crate::error::Error;
use crate::reader::Result;
use crate::tree::{NO_TIME, Node};

/// The lengths follow behind the contents.
const FLAG_LENGTHS_BEHIND: u16 = 1 << 3;
/// The name is UTF-8.
const FLAG_UTF8: u16 = 1 << 11;
const STORED: u16 = 0;
const DEFLATED: u16 = 8;
/// From this length on a file gets 64 bit lengths: below the limit, because deflate can make a file longer.
const LARGE: u64 = 0xf000_0000;
const LIMIT: u64 = 0xffff_ffff;
/// Bytes of the list of entries kept in memory.
const LIST_MEMORY: usize = 8 << 20;

#[derive(Debug)]
pub(super) struct Zip {
    at: u64,
    entries: u64,
    list: SpooledTempFile,
}

/// Sums up what passes on its way to the compressor.
struct Summed<'a, 'b> {
    out: DeflateEncoder<&'a mut Counted<'b>>,
    sum: Crc,
    count: u64,
}

impl Write for Summed<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.sum.update(&bytes[..count]);
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// Writes contents compressed; returns their checksum, their length, and the length of what was written.
fn deflate(out: &mut dyn Write, contents: &mut dyn FnMut(&mut dyn Write) -> Result<()>) -> Result<(u32, u64, u64)> {
    let mut counted = Counted { out, count: 0 };
    let encoder = DeflateEncoder::new(&mut counted, Compression::default());
    let mut summed = Summed { out: encoder, sum: Crc::new(), count: 0 };
    contents(&mut summed)?;
    let Summed { out: encoder, sum, count } = summed;
    let packed = encoder.finish().map_err(output_failed)?.count;
    Ok((sum.sum(), count, packed))
}

/// Numbers, little endian.
#[derive(Default)]
struct Record(Vec<u8>);

impl Record {
    fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// 32 bits of it, or the mark that says "in the 64 bit record".
    fn capped(self, value: u64) -> Self {
        self.u32(u32::try_from(value).unwrap_or(u32::MAX))
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

impl Zip {
    pub(super) fn new() -> Self {
        Self { at: 0, entries: 0, list: SpooledTempFile::new(LIST_MEMORY) }
    }

    fn put(&mut self, out: &mut dyn Write, bytes: &[u8]) -> Result<()> {
        self.at += bytes.len() as u64;
        put(out, bytes)
    }
}

/// Date and time as MS-DOS had them, in UTC and steps of two seconds; the exact time stands in a record of its own.
fn dos_time(time: Time) -> (u16, u16) {
    // 1980-01-01 to 2107-12-31.
    let seconds = time.seconds.clamp(315_532_800, 4_354_819_198);
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's days-to-civil, for days after 1970.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let date = ((year - 1980) << 9) | (month << 5) | day;
    let clock = ((rest / 3600) << 11) | ((rest / 60 % 60) << 5) | (rest % 60 / 2);
    (date as u16, clock as u16)
}

/// The records of time and owner (Info-ZIP's `UT` and `ux`).
fn extra(node: &Node) -> Vec<u8> {
    let mut record = Record::default();
    if node.mtime != NO_TIME
        && let Ok(seconds) = i32::try_from(node.mtime.seconds)
    {
        record = record.u16(0x5455).u16(5).bytes(&[1]).u32(seconds.cast_unsigned());
    }
    record.u16(0x7875).u16(11).bytes(&[1, 4]).u32(node.uid).bytes(&[4]).u32(node.gid).0
}

impl Format for Zip {
    fn refuses(&self, kind: FileKind) -> Option<&'static str> {
        match kind {
            FileKind::File | FileKind::Directory | FileKind::Symlink => None,
            FileKind::BlockDevice | FileKind::CharDevice => Some("a zip archive holds no devices"),
            FileKind::Fifo => Some("a zip archive holds no named pipes"),
            FileKind::Socket => Some("a zip archive holds no sockets"),
        }
    }

    fn has_hard_links(&self) -> bool {
        false
    }

    fn entry(
        &mut self,
        out: &mut dyn Write,
        name: &[u8],
        node: &Node,
        body: &Body,
        contents: &mut dyn FnMut(&mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        let mut name = name.to_vec();
        if node.kind == FileKind::Directory {
            name.push(b'/');
        }
        let name_length = u16::try_from(name.len()).map_err(|_| {
            Error::Other(format!("{}: the path is too long for a zip archive", String::from_utf8_lossy(&name)))
        })?;
        let start = self.at;
        let (date, clock) = dos_time(node.mtime);
        let common = extra(node);
        let mut flags = if std::str::from_utf8(&name).is_ok() { FLAG_UTF8 } else { 0 };
        let (method, sum, packed, length);
        if let Body::File(announced) = body {
            flags |= FLAG_LENGTHS_BEHIND;
            method = DEFLATED;
            let large = *announced >= LARGE;
            let mut local = Vec::new();
            if large {
                local = Record::default().u16(1).u16(16).u64(0).u64(0).0;
            }
            local.extend_from_slice(&common);
            let unknown = if large { u32::MAX } else { 0 };
            let header = Record::default()
                .u32(0x0403_4b50)
                .u16(if large { 45 } else { 20 })
                .u16(flags)
                .u16(method)
                .u16(clock)
                .u16(date)
                .u32(0)
                .u32(unknown)
                .u32(unknown)
                .u16(name_length)
                .u16(local.len() as u16)
                .bytes(&name)
                .bytes(&local);
            self.put(out, &header.0)?;
            (sum, length, packed) = deflate(out, contents)?;
            self.at += packed;
            let behind = Record::default().u32(0x0807_4b50).u32(sum);
            let behind = if large {
                behind.u64(packed).u64(length)
            } else {
                // A file's length is known before: it does not grow past the limit here.
                behind.capped(packed).capped(length)
            };
            self.put(out, &behind.0)?;
        } else {
            method = STORED;
            let data: &[u8] = if node.kind == FileKind::Symlink { &node.link_target } else { b"" };
            let mut crc = Crc::new();
            crc.update(data);
            sum = crc.sum();
            (packed, length) = (data.len() as u64, data.len() as u64);
            let header = Record::default()
                .u32(0x0403_4b50)
                .u16(20)
                .u16(flags)
                .u16(method)
                .u16(clock)
                .u16(date)
                .u32(sum)
                .capped(packed)
                .capped(length)
                .u16(name_length)
                .u16(common.len() as u16)
                .bytes(&name)
                .bytes(&common)
                .bytes(data);
            self.put(out, &header.0)?;
        }
        let mut wide = Record::default();
        for value in [length, packed, start].into_iter().filter(|value| *value >= LIMIT) {
            wide = wide.u64(value);
        }
        let mut all = Vec::new();
        if !wide.0.is_empty() {
            all = Record::default().u16(1).u16(wide.0.len() as u16).bytes(&wide.0).0;
        }
        all.extend_from_slice(&common);
        let mode = node.unix_mode() | node.kind.type_bits();
        let directory = u32::from(node.kind == FileKind::Directory) << 4;
        let central = Record::default()
            .u32(0x0201_4b50)
            .u16((3 << 8) | 45)
            .u16(if wide.0.is_empty() { 20 } else { 45 })
            .u16(flags)
            .u16(method)
            .u16(clock)
            .u16(date)
            .u32(sum)
            .capped(packed)
            .capped(length)
            .u16(name_length)
            .u16(all.len() as u16)
            .u16(0)
            .u16(0)
            .u16(0)
            .u32((mode << 16) | directory)
            .capped(start)
            .bytes(&name)
            .bytes(&all);
        self.entries += 1;
        self.list.write_all(&central.0).map_err(list_failed)
    }

    fn finish(&mut self, out: &mut dyn Write) -> Result<()> {
        let start = self.at;
        let mut list = std::mem::replace(&mut self.list, SpooledTempFile::new(0));
        list.seek(SeekFrom::Start(0)).map_err(list_failed)?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            match list.read(&mut buffer).map_err(list_failed)? {
                0 => break,
                count => self.put(out, &buffer[..count])?,
            }
        }
        let length = self.at - start;
        let mut end = Record::default();
        if self.entries >= 0xffff || start >= LIMIT || length >= LIMIT {
            let place = self.at;
            end = end
                .u32(0x0606_4b50)
                .u64(44)
                .u16((3 << 8) | 45)
                .u16(45)
                .u32(0)
                .u32(0)
                .u64(self.entries)
                .u64(self.entries)
                .u64(length)
                .u64(start)
                .u32(0x0706_4b50)
                .u32(0)
                .u64(place)
                .u32(1);
        }
        let entries = u16::try_from(self.entries).unwrap_or(u16::MAX);
        let end = end.u32(0x0605_4b50).u16(0).u16(0).u16(entries).u16(entries).capped(length).capped(start).u16(0);
        self.put(out, &end.0)
    }
}

fn list_failed(error: std::io::Error) -> Error {
    Error::io("the temporary file for the archive's list of entries failed", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_those_of_dos() {
        let fields = |seconds| {
            let (date, clock) = dos_time(Time { seconds, nanoseconds: 0 });
            (1980 + (date >> 9), date >> 5 & 15, date & 31, clock >> 11, clock >> 5 & 63, 2 * (clock & 31))
        };
        // As `date -u -d @SECONDS` says.
        assert_eq!(fields(1_795_355_100), (2026, 11, 22, 13, 45, 0));
        assert_eq!(fields(951_827_696), (2000, 2, 29, 12, 34, 56));
        assert_eq!(fields(0), (1980, 1, 1, 0, 0, 0));
        assert_eq!(fields(i64::MAX), (2107, 12, 31, 23, 59, 58));
    }
}
