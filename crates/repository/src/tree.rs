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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gotext::parse_time;

    fn time(text: &str) -> Time {
        parse_time(text).unwrap()
    }

    fn text(tree: &Tree) -> String {
        String::from_utf8(tree.encode()).unwrap()
    }

    #[test]
    fn the_empty_tree_has_restics_id() {
        let blob = Tree::default().encode();
        assert_eq!(blob, b"{\"nodes\":[]}\n");
        assert_eq!(Id::of(&blob).to_hex(), "ac08ce34ba4f8123618661bef2425f7028ffb9ac740578a3ee88684d2523fee8");
    }

    #[test]
    fn the_references_tree_is_written_byte_for_byte() {
        let mtime = time("2020-01-02T03:04:05.123456789Z");
        let node = Node {
            name: b"a.txt".to_vec(),
            mode: 420,
            mtime,
            atime: mtime,
            ctime: mtime,
            size: 18,
            links: 1,
            content: Some(vec![Id::of(b"hello\n"), Id::of(b"hello world\n")]),
            ..Node::new(FileKind::File)
        };
        let blob = Tree { nodes: vec![node.clone()] }.encode();
        assert_eq!(blob.len(), 359);
        assert_eq!(Id::of(&blob).to_hex(), "cb23b5e78945d9bf10e30ec39e287c773f2d7ef24d955ff85e55a729c192119a");
        assert_eq!(Tree::decode(&blob).unwrap().nodes, [node]);
    }

    #[test]
    fn every_key_stands_where_restic_puts_it() {
        let node = Node {
            name: b"all\xff".to_vec(),
            mode: 134_218_239,
            mtime: time("2020-01-02T03:04:05Z"),
            uid: 1,
            gid: 2,
            user: "u<".to_owned(),
            group: "g".to_owned(),
            inode: u64::MAX,
            device_id: 3,
            size: 4,
            links: 5,
            link_target: b"to/\xff\"".to_vec(),
            xattrs: vec![(b"user.a".to_vec(), vec![]), (b"user.b".to_vec(), vec![0, 255, 1])],
            generic_attributes: [("z.b".to_owned(), "[1,2]".to_owned()), ("a".to_owned(), "\"x\"".to_owned())].into(),
            device: 6,
            content: None,
            subtree: Some(Id::of(b"s")),
            error: "e".to_owned(),
            ..Node::new(FileKind::Symlink)
        };
        let expected = concat!(
            r#"{"nodes":[{"name":"all\\xff","type":"symlink","mode":134218239,"mtime":"2020-01-02T03:04:05Z","#,
            r#""atime":"0001-01-01T00:00:00Z","ctime":"0001-01-01T00:00:00Z","uid":1,"gid":2,"user":"u\u003c","#,
            r#""group":"g","inode":18446744073709551615,"device_id":3,"size":4,"links":5,"linktarget":"to/\ufffd\"","#,
            r#""linktarget_raw":"dG8v/yI=","extended_attributes":[{"name":"user.a","value":""},"#,
            r#"{"name":"user.b","value":"AP8B"}],"generic_attributes":{"a":"x","z.b":[1,2]},"device":6,"content":null,"#,
            r#""subtree":"043a718774c572bd8a25adbeb1bfcd5c0256ae11cecf9f9c3f925d0e52beaf89","error":"e"}]}"#,
            "\n"
        );
        let tree = Tree { nodes: vec![node] };
        assert_eq!(text(&tree), expected);
        assert_eq!(Tree::decode(expected.as_bytes()).unwrap(), tree);
    }

    #[test]
    fn what_is_zero_is_left_out() {
        let expected = concat!(
            r#"{"nodes":[{"name":"","type":"fifo","mtime":"0001-01-01T00:00:00Z","atime":"0001-01-01T00:00:00Z","#,
            r#""ctime":"0001-01-01T00:00:00Z","uid":0,"gid":0,"content":null},"#,
            r#"{"name":"","type":"file","mtime":"0001-01-01T00:00:00Z","atime":"0001-01-01T00:00:00Z","#,
            r#""ctime":"0001-01-01T00:00:00Z","uid":0,"gid":0,"content":[]}]}"#,
            "\n"
        );
        let tree = Tree { nodes: vec![Node::new(FileKind::Fifo), Node::new(FileKind::File)] };
        assert_eq!(text(&tree), expected);
    }

    #[test]
    fn modes_are_gos() {
        for (unix, go) in [
            (0o100_644, 420),
            (0o104_755, 8_389_101),
            (0o040_755, 2_147_484_141),
            (0o042_755, 2_151_678_445),
            (0o041_777, 2_148_532_735),
            (0o120_777, 134_218_239),
            (0o010_644, 33_554_852),
            (0o060_644, 67_109_284),
            (0o020_644, 69_206_436),
            (0o140_755, 16_777_216 + 0o755),
        ] {
            assert_eq!(Node::go_mode_from_unix(unix), go, "{unix:o}");
            let node = Node { mode: go, ..Node::new(FileKind::File) };
            assert_eq!(node.unix_mode(), unix & 0o7777, "{unix:o}");
        }
    }

    #[test]
    fn rustics_trees_are_read() {
        let json = concat!(
            r#"{"nodes":[{"name":"<b>\\xff","type":"symlink","linktarget":"x","linktarget_raw":"/w==","mode":134218239,"#,
            r#""mtime":"2020-01-02T03:04:05.5+01:00","atime":null,"uid":1000,"gid":null,"user":null,"size":7,"#,
            r#""content":null,"novel":{"deep":[1,{"x":null}]}},{"name":"d","type":"dir","mode":493,"subtree":null},"#,
            r#"{"name":"e","type":"file","extended_attributes":[{"name":"user.x","value":null}],"content":[]}],"later":1}"#
        );
        let tree = Tree::decode(json.as_bytes()).unwrap();
        let [link, directory, file] = &tree.nodes[..] else { panic!("{tree:?}") };
        assert_eq!(link.name, b"<b>\xff");
        assert_eq!(link.link_target, b"\xff");
        assert_eq!(link.mtime, time("2020-01-02T02:04:05.5Z"));
        assert_eq!((link.atime, link.gid, &*link.user), (NO_TIME, 0, ""));
        assert_eq!((directory.kind, directory.mode, directory.subtree), (FileKind::Directory, 493, None));
        assert_eq!(file.xattrs, [(b"user.x".to_vec(), vec![])]);
        assert_eq!(file.content, Some(vec![]));
    }

    #[test]
    fn spread_out_json_is_a_tree_too() {
        let json = b"\n{ \"nodes\" : [ {\n \"type\" : \"file\", \"name\" : \"a\", \"content\" : null,\n \"generic_attributes\": { \"k\" : { \"b\": 1, \"a\" : \"<\" } } } ] }";
        let tree = Tree::decode(json).unwrap();
        assert_eq!(tree.nodes[0].content, None);
        assert_eq!(tree.nodes[0].generic_attributes["k"], r#"{"a":"\u003c","b":1}"#);
        assert_eq!(Tree::decode(b"{\"nodes\":null}").unwrap(), Tree::default());
        assert_eq!(Tree::decode(b"{}").unwrap(), Tree::default());
    }

    #[test]
    fn what_is_no_tree_is_refused_with_the_reason() {
        for (json, reason) in [
            ("", "EOF"),
            ("[]", "expected a tree"),
            (r#"{"nodes":[{"name":"a"}]}"#, "without a type"),
            (r#"{"nodes":[{"name":"a","type":"irregular"}]}"#, "invalid type \"irregular\""),
            (r#"{"nodes":[{"name":"\\q","type":"file"}]}"#, r"\q"),
            (r#"{"nodes":[{"name":"a","type":"file","inode":"7"}]}"#, "invalid type: string"),
            (r#"{"nodes":[{"name":"a","type":"file","mtime":"today"}]}"#, "not a time"),
            (r#"{"nodes":[{"name":"a","type":"file","content":["12"]}]}"#, "is not an id"),
            (r#"{"nodes":[{"name":"a","type":"symlink","linktarget_raw":"%"}]}"#, "not base64"),
            (r#"{"nodes":[]} x"#, "trailing"),
        ] {
            let error = Tree::decode(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(reason), "{json}: {error}");
        }
    }

    fn any_node() -> impl Strategy<Value = Node> {
        let times = (-62_167_219_200_i64..=253_402_300_799, 0_u32..1_000_000_000)
            .prop_map(|(seconds, nanoseconds)| Time { seconds, nanoseconds });
        let kinds = prop::sample::select(vec![
            FileKind::File,
            FileKind::Directory,
            FileKind::Symlink,
            FileKind::BlockDevice,
            FileKind::CharDevice,
            FileKind::Fifo,
            FileKind::Socket,
        ]);
        let ids = any::<[u8; 32]>().prop_map(Id);
        let bytes = || prop::collection::vec(any::<u8>(), 0..20);
        (
            (bytes(), kinds, any::<u32>(), [times.clone(), times.clone(), times]),
            (any::<u32>(), any::<u32>(), any::<String>(), any::<String>()),
            [any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>()],
            (bytes(), prop::collection::vec((any::<String>(), bytes()), 0..3)),
            (prop::option::of(prop::collection::vec(ids.clone(), 0..4)), prop::option::of(ids), any::<String>()),
        )
            .prop_map(
                |((name, kind, mode, times), (uid, gid, user, group), numbers, (target, xattrs), last)| Node {
                    name,
                    kind,
                    mode,
                    mtime: times[0],
                    atime: times[1],
                    ctime: times[2],
                    uid,
                    gid,
                    user,
                    group,
                    inode: numbers[0],
                    device_id: numbers[1],
                    size: numbers[2],
                    links: numbers[3],
                    link_target: target,
                    xattrs: xattrs.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect(),
                    generic_attributes: BTreeMap::new(),
                    device: numbers[4],
                    content: last.0,
                    subtree: last.1,
                    error: last.2,
                },
            )
    }

    proptest! {
        #[test]
        fn any_tree_comes_back(nodes in prop::collection::vec(any_node(), 0..4)) {
            let tree = Tree { nodes };
            prop_assert_eq!(Tree::decode(&tree.encode()).unwrap(), tree);
        }

        #[test]
        fn garbage_never_panics(json in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Tree::decode(&json);
        }
    }
}
