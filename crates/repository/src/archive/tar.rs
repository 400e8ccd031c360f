//! POSIX tar (IEEE 1003.1, pax): one header of 512 bytes an entry, in front of it a pax header where a name is long or not
//! plain ASCII, a number is too large, a time has nanoseconds, or there are attributes.
//!
//! Extended attributes are `SCHILY.xattr.*` records and access control lists `SCHILY.acl.*` records, as GNU tar, star
//! and bsdtar read them. Bytes of names that are no UTF-8 are written as they are: GNU tar and bsdtar take them so.

use std::io::Write;

use backstay_core::{FileKind, Time};

use super::{Body, Format, put};
use crate::reader::Result;
use crate::tree::{NO_TIME, Node};

const BLOCK: usize = 512;
/// Largest number that seven octal digits hold.
const MAX_SMALL: u64 = 0o7_777_777;
/// Largest number that eleven octal digits hold.
const MAX_LARGE: u64 = 0o77_777_777_777;

#[derive(Debug, Default)]
pub(super) struct Tar {
    written: u64,
}

/// The records of a pax header.
#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    /// Adds `LENGTH KEY=VALUE\n`, where the length counts itself.
    fn add(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        self.0.extend_from_slice(length.to_string().as_bytes());
        self.0.push(b' ');
        self.0.extend_from_slice(key);
        self.0.push(b'=');
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }

    fn add_time(&mut self, key: &[u8], time: Time) {
        self.add(key, decimal_time(time).as_bytes());
    }
}

/// Seconds with a fraction, as pax writes times: `-0.5` is half a second before 1970.
fn decimal_time(time: Time) -> String {
    let (sign, seconds, nanoseconds) = if time.seconds < 0 && time.nanoseconds > 0 {
        ("-", (time.seconds + 1).unsigned_abs(), 1_000_000_000 - time.nanoseconds)
    } else if time.seconds < 0 {
        ("-", time.seconds.unsigned_abs(), 0)
    } else {
        ("", time.seconds.unsigned_abs(), time.nanoseconds)
    };
    if nanoseconds == 0 {
        return format!("{sign}{seconds}");
    }
    let fraction = format!("{nanoseconds:09}");
    format!("{sign}{seconds}.{}", fraction.trim_end_matches('0'))
}

fn is_plain(text: &[u8], room: usize) -> bool {
    text.len() <= room && text.is_ascii()
}

/// A number as octal digits that fill `field` up to a closing zero byte; 0 where it does not fit (a record has it then).
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let text = format!("{value:0digits$o}");
    let text = if text.len() > digits { "0".repeat(digits) } else { text };
    field[..digits].copy_from_slice(text.as_bytes());
}

/// Copies what fits.
fn text(field: &mut [u8], bytes: &[u8]) {
    let length = bytes.len().min(field.len());
    field[..length].copy_from_slice(&bytes[..length]);
}

/// The fields of one header.
struct Header<'a> {
    name: &'a [u8],
    mode: u32,
    uid: u64,
    gid: u64,
    size: u64,
    mtime: i64,
    kind: u8,
    link: &'a [u8],
    user: &'a [u8],
    group: &'a [u8],
    device: (u32, u32),
}

impl Header<'_> {
    fn block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        text(&mut block[..100], self.name);
        octal(&mut block[100..108], u64::from(self.mode));
        octal(&mut block[108..116], self.uid);
        octal(&mut block[116..124], self.gid);
        octal(&mut block[124..136], self.size);
        octal(&mut block[136..148], u64::try_from(self.mtime).unwrap_or(0));
        block[156] = self.kind;
        text(&mut block[157..257], self.link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        text(&mut block[265..297], self.user);
        text(&mut block[297..329], self.group);
        octal(&mut block[329..337], u64::from(self.device.0));
        octal(&mut block[337..345], u64::from(self.device.1));
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        block
    }
}

impl Tar {
    fn put(&mut self, out: &mut dyn Write, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len() as u64;
        put(out, bytes)
    }

    /// Fills the last block.
    fn pad(&mut self, out: &mut dyn Write, length: u64) -> Result<()> {
        let over = (length % BLOCK as u64) as usize;
        if over == 0 { Ok(()) } else { self.put(out, &[0; BLOCK][over..]) }
    }
}

impl Format for Tar {
    fn refuses(&self, kind: FileKind) -> Option<&'static str> {
        (kind == FileKind::Socket).then_some("a tar archive holds no sockets")
    }

    fn has_hard_links(&self) -> bool {
        true
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
        let (kind, link, size): (u8, &[u8], u64) = match (node.kind, body) {
            (_, Body::SameAs(first)) => (b'1', first, 0),
            (_, Body::File(size)) => (b'0', b"", *size),
            (FileKind::Symlink, _) => (b'2', &node.link_target, 0),
            (FileKind::CharDevice, _) => (b'3', b"", 0),
            (FileKind::BlockDevice, _) => (b'4', b"", 0),
            (FileKind::Directory, _) => (b'5', b"", 0),
            (FileKind::Fifo, _) => (b'6', b"", 0),
            (FileKind::File | FileKind::Socket, _) => (b'0', b"", 0),
        };
        let device = match node.kind {
            FileKind::CharDevice | FileKind::BlockDevice => {
                (rustix::fs::major(node.device), rustix::fs::minor(node.device))
            }
            _ => (0, 0),
        };
        let header = Header {
            name: &name,
            mode: node.unix_mode(),
            uid: node.uid.into(),
            gid: node.gid.into(),
            size,
            mtime: if node.mtime == NO_TIME { 0 } else { node.mtime.seconds },
            kind,
            link,
            user: node.user.as_bytes(),
            group: node.group.as_bytes(),
            device,
        };
        let records = records(&header, node);
        if !records.0.is_empty() {
            let base = name.strip_suffix(b"/").unwrap_or(&name);
            let base = base.rsplit(|byte| *byte == b'/').next().unwrap_or(base);
            let pax_name = [b"PaxHeaders.0/", base].concat();
            let length = records.0.len() as u64;
            let pax = Header {
                name: &pax_name[..pax_name.len().min(100)],
                mode: 0o644,
                uid: 0,
                gid: 0,
                size: length,
                mtime: 0,
                kind: b'x',
                link: b"",
                user: b"",
                group: b"",
                device: (0, 0),
            };
            self.put(out, &pax.block())?;
            self.put(out, &records.0)?;
            self.pad(out, length)?;
        }
        self.put(out, &header.block())?;
        contents(out)?;
        self.written += size;
        self.pad(out, size)
    }

    fn finish(&mut self, out: &mut dyn Write) -> Result<()> {
        self.put(out, &[0; 2 * BLOCK])?;
        // Whole records, as tapes have them: some readers complain otherwise.
        while !self.written.is_multiple_of(20 * BLOCK as u64) {
            self.put(out, &[0; BLOCK])?;
        }
        Ok(())
    }
}

/// What the header itself cannot say.
fn records(header: &Header<'_>, node: &Node) -> Records {
    let mut records = Records::default();
    // Pax headers are in UTF-8. A name that is not goes into the header itself where it fits: readers take it byte for byte.
    let fits = |name: &[u8]| is_plain(name, 100) || (name.len() <= 100 && std::str::from_utf8(name).is_err());
    if !fits(header.name) {
        records.add(b"path", header.name);
    }
    if !fits(header.link) {
        records.add(b"linkpath", header.link);
    }
    for (key, value, largest) in
        [(&b"size"[..], header.size, MAX_LARGE), (b"uid", header.uid, MAX_SMALL), (b"gid", header.gid, MAX_SMALL)]
    {
        if value > largest {
            records.add(key, value.to_string().as_bytes());
        }
    }
    for (key, value) in [(&b"uname"[..], header.user), (b"gname", header.group)] {
        if !is_plain(value, 31) {
            records.add(key, value);
        }
    }
    let mtime = node.mtime;
    let fits = mtime.nanoseconds == 0 && u64::try_from(mtime.seconds).is_ok_and(|seconds| seconds <= MAX_LARGE);
    if mtime != NO_TIME && !fits {
        records.add_time(b"mtime", mtime);
    }
    for (key, time) in [(&b"atime"[..], node.atime), (b"ctime", node.ctime)] {
        if time != NO_TIME {
            records.add_time(key, time);
        }
    }
    // Another name of a file brings nothing of its own.
    if header.kind != b'1' {
        for (name, value) in &node.xattrs {
            let acl = match name.as_slice() {
                b"system.posix_acl_access" => Some(&b"SCHILY.acl.access"[..]),
                b"system.posix_acl_default" => Some(&b"SCHILY.acl.default"[..]),
                _ => None,
            };
            match acl.and_then(|key| Some((key, acl_text(value)?))) {
                Some((key, text)) => records.add(key, text.as_bytes()),
                None => records.add(&[b"SCHILY.xattr.", encoded(name).as_slice()].concat(), value),
            }
        }
    }
    records
}

/// The name of an attribute as GNU tar writes it: the sign that ends a key is escaped.
fn encoded(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    for byte in name {
        match byte {
            b'=' => out.extend_from_slice(b"%3D"),
            b'%' => out.extend_from_slice(b"%25"),
            byte => out.push(*byte),
        }
    }
    out
}

/// An access control list as text (`acl(5)`, short form, numbers for users), from Linux's attribute: a version, then a
/// tag, permissions and a number for each entry, little endian. None for one that is not understood.
fn acl_text(value: &[u8]) -> Option<String> {
    let entries = value.strip_prefix(&2_u32.to_le_bytes())?;
    if !entries.len().is_multiple_of(8) {
        return None;
    }
    let mut parts = Vec::new();
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let bits = u16::from_le_bytes([entry[2], entry[3]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let who = match tag {
            0x01 => "user:".to_owned(),
            0x02 => format!("user:{id}"),
            0x04 => "group:".to_owned(),
            0x08 => format!("group:{id}"),
            0x10 => "mask:".to_owned(),
            0x20 => "other:".to_owned(),
            _ => return None,
        };
        let bit = |mask: u16, letter: char| if bits & mask != 0 { letter } else { '-' };
        parts.push(format!("{who}:{}{}{}", bit(4, 'r'), bit(2, 'w'), bit(1, 'x')));
    }
    Some(parts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for length in [1, 84, 85, 86, 87, 88, 89, 90, 980, 988, 989, 990, 991, 9982] {
            let mut records = Records::default();
            records.add(b"path", &vec![b'x'; length]);
            let text = String::from_utf8(records.0.clone()).unwrap();
            assert_eq!(text.split_once(' ').unwrap().0.parse::<usize>().unwrap(), text.len(), "{length}");
        }
    }

    #[test]
    fn times_before_1970_count_backwards() {
        let time = |seconds, nanoseconds| decimal_time(Time { seconds, nanoseconds });
        assert_eq!(time(-1, 500_000_000), "-0.5");
        assert_eq!(time(-86_400, 5), "-86399.999999995");
        assert_eq!(time(-5, 0), "-5");
        assert_eq!(time(7, 120), "7.00000012");
    }

    #[test]
    fn access_control_lists_become_text() {
        let mut value = 2_u32.to_le_bytes().to_vec();
        for (tag, bits, id) in [(1_u16, 6_u16, u32::MAX), (2, 4, 1000), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 0, 0)]
        {
            value.extend(tag.to_le_bytes());
            value.extend(bits.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        assert_eq!(acl_text(&value).unwrap(), "user::rw-,user:1000:r--,group::r-x,mask::rwx,other::---");
        assert_eq!(acl_text(&value[..value.len() - 1]), None);
        assert_eq!(acl_text(b""), None);
    }

    #[test]
    fn a_number_that_does_not_fit_leaves_the_field_to_the_record() {
        let mut field = [0; 12];
        octal(&mut field, MAX_LARGE);
        assert_eq!(&field, b"77777777777\0");
        octal(&mut field, MAX_LARGE + 1);
        assert_eq!(&field, b"00000000000\0");
    }
}
