//! Trees: the nodes of one directory, byte for byte as restic writes them (reference section 10).

use std::collections::BTreeMap;

use backstay_core::{FileKind, Id, Time};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::gotext::{write_name, write_string, write_time};

mod parse;

pub use parse::TreeError;

/// The time that a node without one stands for: Go's zero time, the first instant of year 1.
pub const NO_TIME: Time = Time { seconds: -62_135_596_800, nanoseconds: 0 };

/// Go's `FileMode` bits beyond the nine permissions.
mod go_mode {
    pub(super) const DIRECTORY: u32 = 1 << 31;
    pub(super) const SYMLINK: u32 = 1 << 27;
    pub(super) const DEVICE: u32 = 1 << 26;
    pub(super) const FIFO: u32 = 1 << 25;
    pub(super) const SOCKET: u32 = 1 << 24;
    pub(super) const SETUID: u32 = 1 << 23;
    pub(super) const SETGID: u32 = 1 << 22;
    pub(super) const CHAR_DEVICE: u32 = 1 << 21;
    pub(super) const STICKY: u32 = 1 << 20;
}

/// One name in a directory, with everything that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The file name, exact bytes; no path.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: FileKind,
    /// Go's `FileMode` bits: see [`Node::go_mode_from_unix`].
    pub mode: u32,
    /// Last change of the contents.
    pub mtime: Time,
    /// Last access. restic stores `mtime` here unless asked for more.
    pub atime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The owner's name, or empty.
    pub user: String,
    /// The group's name, or empty.
    pub group: String,
    /// Inode number, or 0.
    pub inode: u64,
    /// Device that holds the object, or 0.
    pub device_id: u64,
    /// Length in bytes; files only.
    pub size: u64,
    /// Number of hard links; 0 for directories, pipes and sockets.
    pub links: u64,
    /// Target of a symbolic link, exact bytes.
    pub link_target: Vec<u8>,
    /// Extended attributes: name and value, in the order in which the system lists them.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Attributes of other systems: name, and value as JSON text.
    pub generic_attributes: BTreeMap<String, String>,
    /// Device number of a device node.
    pub device: u64,
    /// Data blobs of a file, in order. None is `null`: right for everything but files, an error in a file.
    pub content: Option<Vec<Id>>,
    /// Tree of a directory.
    pub subtree: Option<Id>,
    /// What went wrong when an old program stored it; never written by current ones.
    pub error: String,
}

impl Node {
    /// A node of this kind with everything else empty. A file has an empty list of contents.
    #[must_use]
    pub fn new(kind: FileKind) -> Self {
        Self {
            name: Vec::new(),
            kind,
            mode: 0,
            mtime: NO_TIME,
            atime: NO_TIME,
            ctime: NO_TIME,
            uid: 0,
            gid: 0,
            user: String::new(),
            group: String::new(),
            inode: 0,
            device_id: 0,
            size: 0,
            links: 0,
            link_target: Vec::new(),
            xattrs: Vec::new(),
            generic_attributes: BTreeMap::new(),
            device: 0,
            content: (kind == FileKind::File).then(Vec::new),
            subtree: None,
            error: String::new(),
        }
    }

    /// Go's `FileMode` for a `st_mode` with its type bits.
    #[must_use]
    pub fn go_mode_from_unix(mode: u32) -> u32 {
        let kind = match FileKind::from_mode(mode) {
            None | Some(FileKind::File) => 0,
            Some(FileKind::Directory) => go_mode::DIRECTORY,
            Some(FileKind::Symlink) => go_mode::SYMLINK,
            Some(FileKind::BlockDevice) => go_mode::DEVICE,
            Some(FileKind::CharDevice) => go_mode::DEVICE | go_mode::CHAR_DEVICE,
            Some(FileKind::Fifo) => go_mode::FIFO,
            Some(FileKind::Socket) => go_mode::SOCKET,
        };
        let special = [(0o4000, go_mode::SETUID), (0o2000, go_mode::SETGID), (0o1000, go_mode::STICKY)];
        special.iter().filter(|(unix, _)| mode & unix != 0).fold(kind | mode & 0o777, |all, (_, go)| all | go)
    }

    /// Permissions, setuid, setgid and sticky as `chmod` takes them, without type bits.
    #[must_use]
    pub fn unix_mode(&self) -> u32 {
        let special = [(0o4000, go_mode::SETUID), (0o2000, go_mode::SETGID), (0o1000, go_mode::STICKY)];
        special.iter().filter(|(_, go)| self.mode & go != 0).fold(self.mode & 0o777, |all, (unix, _)| all | unix)
    }

    /// The name of its kind in trees.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self.kind {
            FileKind::File => "file",
            FileKind::Directory => "dir",
            FileKind::Symlink => "symlink",
            FileKind::BlockDevice => "dev",
            FileKind::CharDevice => "chardev",
            FileKind::Fifo => "fifo",
            FileKind::Socket => "socket",
        }
    }

    /// Appends the node as restic writes it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"name\":");
        write_name(&self.name, out);
        out.extend_from_slice(b",\"type\":\"");
        out.extend_from_slice(self.type_name().as_bytes());
        out.push(b'"');
        number(b"mode", u64::from(self.mode), out);
        for (key, time) in [(&b"mtime"[..], self.mtime), (b"atime", self.atime), (b"ctime", self.ctime)] {
            start(key, out);
            out.push(b'"');
            write_time(time, out);
            out.push(b'"');
        }
        start(b"uid", out);
        digits(u64::from(self.uid), out);
        start(b"gid", out);
        digits(u64::from(self.gid), out);
        string(b"user", self.user.as_bytes(), out);
        string(b"group", self.group.as_bytes(), out);
        number(b"inode", self.inode, out);
        number(b"device_id", self.device_id, out);
        number(b"size", self.size, out);
        number(b"links", self.links, out);
        string(b"linktarget", &self.link_target, out);
        if std::str::from_utf8(&self.link_target).is_err() {
            start(b"linktarget_raw", out);
            base64(&self.link_target, out);
        }
        if !self.xattrs.is_empty() {
            start(b"extended_attributes", out);
            for (at, (name, value)) in self.xattrs.iter().enumerate() {
                out.extend_from_slice(if at == 0 { b"[{\"name\":" } else { b",{\"name\":" });
                write_string(name, out);
                start(b"value", out);
                base64(value, out);
                out.push(b'}');
            }
            out.push(b']');
        }
        if !self.generic_attributes.is_empty() {
            start(b"generic_attributes", out);
            for (at, (name, json)) in self.generic_attributes.iter().enumerate() {
                out.push(if at == 0 { b'{' } else { b',' });
                write_string(name.as_bytes(), out);
                out.push(b':');
                out.extend_from_slice(json.as_bytes());
            }
            out.push(b'}');
        }
        number(b"device", self.device, out);
        start(b"content", out);
        match &self.content {
            None => out.extend_from_slice(b"null"),
            Some(ids) => {
                out.push(b'[');
                for (at, id) in ids.iter().enumerate() {
                    out.extend_from_slice(if at == 0 { b"\"" } else { b",\"" });
                    id.write_hex(out);
                    out.push(b'"');
                }
                out.push(b']');
            }
        }
        if let Some(subtree) = &self.subtree {
            start(b"subtree", out);
            out.push(b'"');
            subtree.write_hex(out);
            out.push(b'"');
        }
        string(b"error", self.error.as_bytes(), out);
        out.push(b'}');
    }
}

fn start(key: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key);
    out.extend_from_slice(b"\":");
}

/// A number that is left out when it is zero.
fn number(key: &[u8], value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        start(key, out);
        digits(value, out);
    }
}

fn digits(mut value: u64, out: &mut Vec<u8>) {
    let mut buffer = [0; 20];
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&buffer[at..]);
}

/// A string that is left out when it is empty.
fn string(key: &[u8], text: &[u8], out: &mut Vec<u8>) {
    if !text.is_empty() {
        start(key, out);
        write_string(text, out);
    }
}

fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
    out.push(b'"');
}

/// The nodes of one directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// Sorted by name, byte by byte.
    pub nodes: Vec<Node>,
}

impl Tree {
    /// Reads a tree blob of any program that writes this format.
    ///
    /// # Errors
    /// [`TreeError`] when it is no tree, or a node in it has a name or a type that cannot be read.
    pub fn decode(json: &[u8]) -> Result<Self, TreeError> {
        parse::tree(json)
    }

    /// The blob's exact bytes. The nodes are written in the order in which they are: sorted they must be.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32 + self.nodes.len() * 512);
        out.extend_from_slice(b"{\"nodes\":[");
        for (at, node) in self.nodes.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            node.encode(&mut out);
        }
        out.extend_from_slice(b"]}\n");
        out
    }
}
