//! The packets of SFTP version 3 (draft-ietf-secsh-filexfer-02, with OpenSSH's extensions), without input or output.
//!
//! A packet is a length, a byte that says what it is, and its fields: numbers in network order, strings with their length
//! in front. Every request and its reply carry the same number.

/// No packet that we ask for is longer, in bytes; OpenSSH has the same limit.
pub(super) const LONGEST: u32 = 256 << 10;
/// Bytes of a file that every server takes and gives at once.
pub(super) const PIECE: usize = 32 << 10;
/// The version that we speak.
pub(super) const VERSION: u32 = 3;

/// A file's attributes, as far as we ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    /// Bytes.
    pub(super) size: Option<u64>,
    /// Type and permissions.
    pub(super) mode: Option<u32>,
}

impl Attributes {
    fn is(self, kind: u32) -> bool {
        self.mode.is_some_and(|mode| mode & 0o170_000 == kind)
    }

    pub(super) fn is_folder(self) -> bool {
        self.is(0o040_000)
    }

    /// A plain file with its size: nothing more is to be asked.
    pub(super) fn is_file(self) -> bool {
        self.is(0o100_000) && self.size.is_some()
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Request<'a> {
    Open {
        path: &'a str,
        flags: u32,
    },
    Close {
        handle: &'a [u8],
    },
    Read {
        handle: &'a [u8],
        offset: u64,
        length: u32,
    },
    Write {
        handle: &'a [u8],
        offset: u64,
        bytes: &'a [u8],
    },
    Stat {
        path: &'a str,
    },
    StatHandle {
        handle: &'a [u8],
    },
    OpenFolder {
        path: &'a str,
    },
    ReadFolder {
        handle: &'a [u8],
    },
    Remove {
        path: &'a str,
    },
    MakeFolder {
        path: &'a str,
    },
    /// Does not replace what is there.
    Rename {
        from: &'a str,
        to: &'a str,
    },
    /// Replaces what is there (`posix-rename@openssh.com`).
    RenameOver {
        from: &'a str,
        to: &'a str,
    },
    /// Returns when the bytes are on the disk (`fsync@openssh.com`).
    Sync {
        handle: &'a [u8],
    },
    /// How much room there is (`statvfs@openssh.com`).
    Room {
        path: &'a str,
    },
}

/// Flags of [`Request::Open`]: to read.
pub(super) const READ: u32 = 0x01;
/// To write a file that was not there.
pub(super) const WRITE_NEW: u32 = 0x02 | 0x08 | 0x20;

/// The extensions that we use where the server has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extensions {
    pub(super) rename_over: bool,
    pub(super) sync: bool,
    pub(super) room: bool,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Status {
        code: u32,
        words: String,
    },
    Handle(Vec<u8>),
    Data(Vec<u8>),
    /// Names in a folder; those that are not UTF-8 are left out, since none of ours is.
    Names(Vec<(String, Attributes)>),
    Attributes(Attributes),
    /// The answer of an extension, undecoded.
    Extended(Vec<u8>),
}

/// The file system that a path lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Bytes that are left for us.
    pub(super) bytes: u64,
    pub(super) read_only: bool,
}

/// The first packet, ours.
pub(super) fn hello() -> Vec<u8> {
    let mut packet = vec![0, 0, 0, 5, 1];
    packet.extend(VERSION.to_be_bytes());
    packet
}

/// Adds a request to what is to be sent.
pub(super) fn write_request(packets: &mut Vec<u8>, number: u32, request: Request<'_>) {
    let start = packets.len();
    packets.extend([0; 4]);
    let kind = match request {
        Request::Open { .. } => 3,
        Request::Close { .. } => 4,
        Request::Read { .. } => 5,
        Request::Write { .. } => 6,
        Request::StatHandle { .. } => 8,
        Request::OpenFolder { .. } => 11,
        Request::ReadFolder { .. } => 12,
        Request::Remove { .. } => 13,
        Request::MakeFolder { .. } => 14,
        Request::Stat { .. } => 17,
        Request::Rename { .. } => 18,
        Request::RenameOver { .. } | Request::Sync { .. } | Request::Room { .. } => 200,
    };
    packets.push(kind);
    packets.extend(number.to_be_bytes());
    let no_attributes = 0_u32.to_be_bytes();
    match request {
        Request::Open { path, flags } => {
            string(packets, path.as_bytes());
            packets.extend(flags.to_be_bytes());
            packets.extend(no_attributes);
        }
        Request::MakeFolder { path } => {
            string(packets, path.as_bytes());
            packets.extend(no_attributes);
        }
        Request::Close { handle } | Request::StatHandle { handle } | Request::ReadFolder { handle } => {
            string(packets, handle);
        }
        Request::Read { handle, offset, length } => {
            string(packets, handle);
            packets.extend(offset.to_be_bytes());
            packets.extend(length.to_be_bytes());
        }
        Request::Write { handle, offset, bytes } => {
            string(packets, handle);
            packets.extend(offset.to_be_bytes());
            string(packets, bytes);
        }
        Request::Stat { path } | Request::OpenFolder { path } | Request::Remove { path } => {
            string(packets, path.as_bytes());
        }
        Request::Rename { from, to } => {
            string(packets, from.as_bytes());
            string(packets, to.as_bytes());
        }
        Request::RenameOver { from, to } => {
            string(packets, b"posix-rename@openssh.com");
            string(packets, from.as_bytes());
            string(packets, to.as_bytes());
        }
        Request::Sync { handle } => {
            string(packets, b"fsync@openssh.com");
            string(packets, handle);
        }
        Request::Room { path } => {
            string(packets, b"statvfs@openssh.com");
            string(packets, path.as_bytes());
        }
    }
    let length = (packets.len() - start - 4) as u32;
    packets[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

fn string(packets: &mut Vec<u8>, bytes: &[u8]) {
    packets.extend((bytes.len() as u32).to_be_bytes());
    packets.extend(bytes);
}

/// The server's first packet, without its length: which version, and which of the extensions that we use. None: this is
/// no such packet.
pub(super) fn read_hello(packet: &[u8]) -> Option<(u32, Extensions)> {
    let mut fields = Fields(packet);
    if fields.byte()? != 2 {
        return None;
    }
    let version = fields.number()?;
    let mut extensions = Extensions::default();
    while !fields.0.is_empty() {
        let name = fields.string()?;
        let value = fields.string()?;
        match (name, value) {
            (b"posix-rename@openssh.com", b"1") => extensions.rename_over = true,
            (b"fsync@openssh.com", b"1") => extensions.sync = true,
            (b"statvfs@openssh.com", b"2") => extensions.room = true,
            _ => {}
        }
    }
    Some((version, extensions))
}

/// A reply without its length, and the number of the request that it answers. None: this is no reply.
pub(super) fn read_reply(packet: &[u8]) -> Option<(u32, Reply)> {
    let mut fields = Fields(packet);
    let kind = fields.byte()?;
    let number = fields.number()?;
    let reply = match kind {
        101 => {
            let code = fields.number()?;
            // Old servers send no words.
            let words = fields.string().unwrap_or_default();
            Reply::Status { code, words: String::from_utf8_lossy(words).into_owned() }
        }
        102 => Reply::Handle(fields.string()?.to_vec()),
        103 => Reply::Data(fields.string()?.to_vec()),
        104 => {
            let count = fields.number()?;
            let mut names = Vec::new();
            for _ in 0..count {
                let name = fields.string()?;
                let _as_ls_shows_it = fields.string()?;
                let attributes = fields.attributes()?;
                if let Ok(name) = std::str::from_utf8(name) {
                    names.push((name.to_owned(), attributes));
                }
            }
            Reply::Names(names)
        }
        105 => Reply::Attributes(fields.attributes()?),
        201 => Reply::Extended(fields.0.to_vec()),
        _ => return None,
    };
    Some((number, reply))
}

/// The reply to [`Request::Room`].
pub(super) fn read_room(fields: &[u8]) -> Option<Room> {
    let mut fields = Fields(fields);
    let mut numbers = [0; 11];
    for number in &mut numbers {
        *number = fields.long()?;
    }
    // As statvfs(3): block size, fragment size, blocks, free, free for us, three of inodes, an id, flags, longest name.
    Some(Room { bytes: numbers[1].saturating_mul(numbers[4]), read_only: numbers[9] & 1 != 0 })
}

/// What is left of a packet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn number(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    fn long(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_be_bytes)
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(length as usize)
    }

    fn attributes(&mut self) -> Option<Attributes> {
        let flags = self.number()?;
        let size = if flags & 0x1 != 0 { Some(self.long()?) } else { None };
        if flags & 0x2 != 0 {
            let _owner_and_group = self.long()?;
        }
        let mode = if flags & 0x4 != 0 { Some(self.number()?) } else { None };
        if flags & 0x8 != 0 {
            let _times = self.long()?;
        }
        if flags & 0x8000_0000 != 0 {
            for _ in 0..self.number()? {
                self.string()?;
                self.string()?;
            }
        }
        Some(Attributes { size, mode })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_what_the_draft_says() {
        let mut packets = Vec::new();
        write_request(&mut packets, 7, Request::Read { handle: b"h", offset: 258, length: 9 });
        assert_eq!(packets, [0, 0, 0, 22, 5, 0, 0, 0, 7, 0, 0, 0, 1, b'h', 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 9]);
        packets.clear();
        write_request(&mut packets, 1, Request::MakeFolder { path: "ab" });
        write_request(&mut packets, 2, Request::Rename { from: "a", to: "b" });
        assert_eq!(packets[..19], [0, 0, 0, 15, 14, 0, 0, 0, 1, 0, 0, 0, 2, b'a', b'b', 0, 0, 0, 0]);
        assert_eq!(packets[19..], [0, 0, 0, 15, 18, 0, 0, 0, 2, 0, 0, 0, 1, b'a', 0, 0, 0, 1, b'b']);
    }

    #[test]
    fn replies_are_read_with_whatever_attributes_they_carry() {
        let mut packet = vec![104, 0, 0, 0, 3, 0, 0, 0, 2];
        string(&mut packet, b"name");
        string(&mut packet, b"-rw-r--r-- name");
        packet.extend(0x8000_000F_u32.to_be_bytes());
        packet.extend(5_u64.to_be_bytes());
        packet.extend([0; 8]);
        packet.extend(0o100_644_u32.to_be_bytes());
        packet.extend([0; 8]);
        packet.extend(1_u32.to_be_bytes());
        string(&mut packet, b"extra@example.org");
        string(&mut packet, b"value");
        string(&mut packet, b"\xff");
        string(&mut packet, b"");
        packet.extend(0_u32.to_be_bytes());
        let (number, reply) = read_reply(&packet).unwrap();
        assert_eq!(number, 3);
        let attributes = Attributes { size: Some(5), mode: Some(0o100_644) };
        assert_eq!(reply, Reply::Names(vec![("name".to_owned(), attributes)]));
        assert!(attributes.is_file() && !attributes.is_folder());
        assert_eq!(
            read_reply(&[101, 0, 0, 0, 1, 0, 0, 0, 1]).unwrap().1,
            Reply::Status { code: 1, words: String::new() }
        );
    }

    #[test]
    fn the_first_packet_tells_the_version_and_the_extensions() {
        let mut packet = vec![2, 0, 0, 0, 3];
        for (name, value) in [("posix-rename@openssh.com", "1"), ("fsync@openssh.com", "2"), ("other", "")] {
            string(&mut packet, name.as_bytes());
            string(&mut packet, value.as_bytes());
        }
        let expected = Extensions { rename_over: true, ..Extensions::default() };
        assert_eq!(read_hello(&packet), Some((3, expected)));
        assert_eq!(read_hello(b"Welcome to this computer!"), None);
    }

    #[test]
    fn no_end_that_comes_early_is_taken_for_a_reply_and_none_panics() {
        let mut packet = vec![104, 0, 0, 0, 3, 0xff, 0xff, 0xff, 0xff];
        for _ in 0..3 {
            string(&mut packet, b"name");
            string(&mut packet, b"");
            packet.extend(0x8000_000F_u32.to_be_bytes());
            packet.extend([0xff; 40]);
        }
        for kind in [2, 101, 102, 103, 104, 105, 201] {
            packet[0] = kind;
            for end in 0..packet.len() {
                let _ = read_hello(&packet[..end]);
                if let Some((_, Reply::Names(_))) = read_reply(&packet[..end]) {
                    panic!("{end} bytes hold no four thousand million names");
                }
                let _ = read_room(&packet[..end]);
            }
        }
    }
}
