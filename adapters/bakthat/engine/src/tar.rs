//! Writing tar in GNU's format, as Python's tarfile does it: names are bytes; what the old fields cannot hold comes as a
//! long name in front or as a number in base 256.

use std::io::{self, Read, Write};

pub(crate) const BLOCK: usize = 512;
/// An archive is a whole number of these.
const RECORD: usize = 20 * BLOCK;
const LONG_NAME: &[u8] = b"././@LongLink";

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

impl Kind {
    fn flag(self) -> u8 {
        match self {
            Self::File => b'0',
            Self::HardLink => b'1',
            Self::Symlink => b'2',
            Self::CharDevice => b'3',
            Self::BlockDevice => b'4',
            Self::Directory => b'5',
            Self::Fifo => b'6',
        }
    }
}

/// The head of a member.
#[derive(Clone, Debug)]
pub(crate) struct Member<'a> {
    pub(crate) kind: Kind,
    /// Without a slash at either end.
    pub(crate) name: &'a [u8],
    pub(crate) link: &'a [u8],
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) user: &'a [u8],
    pub(crate) group: &'a [u8],
    pub(crate) size: u64,
    /// Seconds since 1970.
    pub(crate) mtime: i64,
    /// Major and minor number.
    pub(crate) device: (u32, u32),
}

/// Why contents could not be written.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The input ended before the announced size.
    Short,
    Input(io::Error),
    Output(io::Error),
}

/// Writes members one after the other.
#[derive(Debug)]
pub(crate) struct TarWriter<W> {
    out: W,
    written: u64,
}

/// A number in a field: octal digits and a zero byte, or base 256 where they do not suffice.
fn number(field: &mut [u8], value: i64) {
    let digits = field.len() - 1;
    let fits = value >= 0 && (digits * 3 >= 63 || value < 1 << (digits * 3));
    if fits {
        let text = format!("{value:0digits$o}\0");
        field.copy_from_slice(text.as_bytes());
        return;
    }
    let bytes = value.to_be_bytes();
    let sign = if value < 0 { 0xff } else { 0 };
    field.fill(sign);
    let tail = field.len().min(bytes.len());
    let at = field.len() - tail;
    field[at..].copy_from_slice(&bytes[bytes.len() - tail..]);
    field[0] = if value < 0 { 0xff } else { 0x80 };
}

fn text(field: &mut [u8], bytes: &[u8]) {
    let length = bytes.len().min(field.len());
    field[..length].copy_from_slice(&bytes[..length]);
}

fn block(member: &Member<'_>, name: &[u8], flag: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    text(&mut block[..100], name);
    number(&mut block[100..108], i64::from(member.mode));
    number(&mut block[108..116], i64::from(member.uid));
    number(&mut block[116..124], i64::from(member.gid));
    number(&mut block[124..136], i64::try_from(member.size).unwrap_or(i64::MAX));
    number(&mut block[136..148], member.mtime);
    block[156] = flag;
    text(&mut block[157..257], member.link);
    block[257..265].copy_from_slice(b"ustar  \0");
    text(&mut block[265..297], &member.user[..member.user.len().min(31)]);
    text(&mut block[297..329], &member.group[..member.group.len().min(31)]);
    number(&mut block[329..337], i64::from(member.device.0));
    number(&mut block[337..345], i64::from(member.device.1));
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

impl<W: Write> TarWriter<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, written: 0 }
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Fills the last block of a member's contents.
    pub(crate) fn pad(&mut self) -> io::Result<()> {
        let over = (self.written % BLOCK as u64) as usize;
        if over == 0 { Ok(()) } else { self.put(&[0; BLOCK][over..]) }
    }

    fn long(&mut self, flag: u8, value: &[u8]) -> io::Result<()> {
        let head = Member {
            kind: Kind::File,
            name: LONG_NAME,
            link: b"",
            mode: 0,
            uid: 0,
            gid: 0,
            user: b"",
            group: b"",
            size: value.len() as u64 + 1,
            mtime: 0,
            device: (0, 0),
        };
        self.put(&block(&head, LONG_NAME, flag))?;
        self.put(value)?;
        self.put(&[0])?;
        self.pad()
    }

    /// Writes a member's head. Its contents, if it has any, follow by [`TarWriter::contents`].
    pub(crate) fn head(&mut self, member: &Member<'_>) -> io::Result<()> {
        let mut name = member.name.to_vec();
        if member.kind == Kind::Directory {
            name.push(b'/');
        }
        if member.link.len() > 100 {
            self.long(b'K', member.link)?;
        }
        if name.len() > 100 {
            self.long(b'L', &name)?;
        }
        self.put(&block(member, &name, member.kind.flag()))
    }

    /// Writes the announced number of bytes.
    pub(crate) fn contents(&mut self, input: &mut dyn Read, size: u64, buffer: &mut [u8]) -> Result<(), Failed> {
        let mut left = size;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let read = match input.read(&mut buffer[..want]) {
                Ok(0) => return Err(Failed::Short),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failed::Input(error)),
            };
            self.put(&buffer[..read]).map_err(Failed::Output)?;
            left -= read as u64;
        }
        self.pad().map_err(Failed::Output)
    }

    /// Writes contents that are at hand; behind the last ones comes [`TarWriter::pad`].
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.put(bytes)
    }

    /// Counts contents without writing them: then only [`TarWriter::length`] is right.
    pub(crate) fn count(&mut self, size: u64) {
        self.written += size.next_multiple_of(BLOCK as u64);
    }

    /// How long the archive will be if it ends here.
    pub(crate) fn length(&self) -> u64 {
        (self.written + 2 * BLOCK as u64).next_multiple_of(RECORD as u64)
    }

    /// Writes the end and gives the output back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.put(&[0; 2 * BLOCK])?;
        let over = (self.written % RECORD as u64) as usize;
        if over > 0 {
            let rest = vec![0; RECORD - over];
            self.put(&rest)?;
        }
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_while_they_fit() {
        let mut field = [0; 8];
        number(&mut field, 0o7_777_777);
        assert_eq!(&field, b"7777777\0");
        number(&mut field, 0o10_000_000);
        assert_eq!(field, [0x80, 0, 0, 0, 0, 0x20, 0, 0]);
        let mut field = [0; 12];
        number(&mut field, -1);
        assert_eq!(field, [0xff; 12]);
        number(&mut field, 1 << 33);
        assert_eq!(field, [0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
    }
}
