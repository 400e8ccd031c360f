//! What restic writes, read here and written again to the same bytes.

#![allow(clippy::unwrap_used)]

mod format_support;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use backstay_core::{FileKind, Id, Time};
use backstay_repository::chunker::ScanState;
use backstay_repository::tree::Node;
use backstay_repository::{BlobKind, InitOptions, Repository, SnapshotFilter, Tree};
use format_support::{CHEAP, PASSWORD, blob, open, restic_ok, store};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

/// Names with everything that is escaped anywhere, in no order.
fn nasty_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        &b"a"[..],
        b"a!",
        b"a0",
        b"sub",
        b"sub dir",
        b"sub-x",
        b"quote\"",
        b"back\\slash",
        b"literal\\n",
        b"it's `so`",
        b"<html>&amp;",
        b"\x07bell",
        b"\x08back",
        b"\x0cfeed",
        b"new\nline",
        b"\rreturn",
        b"tab\t",
        b"\x0bvertical",
        b"\x01\x02\x1f",
        b"\x1b[31m",
        b"delete\x7f",
        b" leading",
        b"trailing ",
        b"caf\xe9",
        b"\xff",
        b"\xfe\xff",
        b"\xc3",
        b"\xe2\x82",
        b"\xed\xa0\x80",
        b"\xc0\xaf",
        b"\xf4\x90\x80\x80",
        b"\x80",
        b"%s%n",
        b"-rf",
        b"*?[",
    ]
    .map(<[u8]>::to_vec)
    .to_vec();
    let characters = "\u{e9}\u{a0}\u{ad}\u{200b}\u{2028}\u{2029}\u{3000}\u{e000}\u{feff}\u{fffd}\u{1f600}\u{10ffff}\u{378}\u{301}\u{20ac}\u{4e2d}\u{e0001}\u{202e}\u{85}";
    names.extend(characters.chars().map(|c| format!("u{c}").into_bytes()));
    names
}

fn random_file(path: &Path, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    getrandom::fill(&mut bytes).unwrap();
    std::fs::write(path, &bytes).unwrap();
    bytes
}

/// All trees below the newest snapshot, with their blobs.
fn trees(repository: &Repository) -> Vec<(Vec<u8>, Tree)> {
    let (_, snapshot) = repository.snapshot("latest", &SnapshotFilter::default()).unwrap();
    let mut left = vec![snapshot.tree];
    let mut trees = Vec::new();
    while let Some(id) = left.pop() {
        let bytes = blob(repository, BlobKind::Tree, &id);
        let tree = Tree::decode(&bytes).unwrap();
        left.extend(tree.nodes.iter().filter_map(|node| node.subtree));
        trees.push((bytes, tree));
    }
    trees
}

fn find<'a>(trees: &'a [(Vec<u8>, Tree)], name: &[u8]) -> &'a Node {
    trees.iter().flat_map(|(_, tree)| &tree.nodes).find(|node| node.name == name).unwrap()
}

fn set_times(path: &Path, time: Time) {
    let time = Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanoseconds) };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

#[test]
fn nasty_names_are_read_and_written_as_restic_does() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let mut names = nasty_names();
    assert!(names.len() >= 45);
    for (number, name) in names.iter().enumerate() {
        let path = source.join(OsStr::from_bytes(name));
        if number % 3 == 2 { std::fs::create_dir(path).unwrap() } else { std::fs::write(path, b"x").unwrap() }
    }
    let path = folder.path().join("repo");
    restic_ok(&path, &["init"]);
    restic_ok(&path, &["backup", source.to_str().unwrap()]);
    let repository = open(&path);
    let trees = trees(&repository);
    for (bytes, tree) in &trees {
        assert_eq!(String::from_utf8_lossy(&tree.encode()), String::from_utf8_lossy(bytes));
    }
    let (_, tree) = trees.iter().find(|(_, tree)| tree.nodes.len() > 40).unwrap();
    let found: Vec<Vec<u8>> = tree.nodes.iter().map(|node| node.name.clone()).collect();
    names.sort();
    assert_eq!(found, names);
}

#[test]
fn every_kind_of_node_is_read_and_written_as_restic_does() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let at = |name: &str| source.join(name);
    std::fs::write(at("empty"), b"").unwrap();
    std::fs::write(at("one"), b"x").unwrap();
    std::fs::hard_link(at("one"), at("two")).unwrap();
    symlink(OsStr::from_bytes(b"to/<&>\"\\\n\xe2\x80\xa8"), at("link")).unwrap();
    rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    std::fs::create_dir(at("dir")).unwrap();
    let modes = [("one", 0o6755), ("fifo", 0o640), ("dir", 0o3770), ("empty", 0)];
    for (name, mode) in modes {
        std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    rustix::fs::setxattr(at("one"), c"user.empty", b"", XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(at("one"), c"user.binary", b"\0\xff<>", XattrFlags::empty()).unwrap();
    // Only root may make devices.
    let devices = [("block", FileType::BlockDevice, 7, 1), ("char", FileType::CharacterDevice, 1, 3)];
    let devices: Vec<_> = devices
        .into_iter()
        .filter(|(name, kind, major, minor)| {
            let device = rustix::fs::makedev(*major, *minor);
            rustix::fs::mknodat(CWD, at(name), *kind, Mode::from_raw_mode(0o644), device).is_ok()
        })
        .collect();
    let times = [
        ("empty", Time { seconds: 1_600_000_000, nanoseconds: 0 }),
        ("link", Time { seconds: 1_600_000_000, nanoseconds: 100_000_000 }),
        ("fifo", Time { seconds: -1, nanoseconds: 123_000_000 }),
        ("one", Time { seconds: -2_000_000_000, nanoseconds: 999_999_999 }),
        ("dir", Time { seconds: 4_000_000_000, nanoseconds: 1 }),
    ];
    for (name, time) in times {
        set_times(&at(name), time);
    }

    let path = folder.path().join("repo");
    restic_ok(&path, &["init"]);
    restic_ok(&path, &["backup", source.to_str().unwrap()]);
    let repository = open(&path);
    let trees = trees(&repository);
    for (bytes, tree) in &trees {
        assert_eq!(String::from_utf8_lossy(&tree.encode()), String::from_utf8_lossy(bytes));
    }
    for (name, time) in times {
        assert_eq!(find(&trees, name.as_bytes()).mtime, time, "{name}");
    }
    for (name, mode) in modes {
        assert_eq!(find(&trees, name.as_bytes()).unix_mode(), mode, "{name}");
    }
    let (one, two) = (find(&trees, b"one"), find(&trees, b"two"));
    assert_eq!((one.inode, one.links, one.size), (two.inode, 2, 1));
    assert_eq!(one.content, Some(vec![Id::of(b"x")]));
    let mut xattrs = one.xattrs.clone();
    xattrs.sort();
    assert_eq!(xattrs, [(b"user.binary".to_vec(), b"\0\xff<>".to_vec()), (b"user.empty".to_vec(), vec![])]);
    assert_eq!(find(&trees, b"empty").content, Some(vec![]));
    assert_eq!(find(&trees, b"link").link_target, b"to/<&>\"\\\n\xe2\x80\xa8");
    assert_eq!(find(&trees, b"fifo").kind, FileKind::Fifo);
    for (name, _, major, minor) in devices {
        assert_eq!(find(&trees, name.as_bytes()).device, rustix::fs::makedev(major, minor), "{name}");
    }
}

#[test]
fn a_link_target_that_is_not_text_is_read_as_far_as_restic_kept_it() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let target = b"\xff/caf\xe9";
    symlink(OsStr::from_bytes(target), source.join("link")).unwrap();
    let path = folder.path().join("repo");
    restic_ok(&path, &["init"]);
    restic_ok(&path, &["backup", source.to_str().unwrap()]);
    let repository = open(&path);
    let trees = trees(&repository);
    let (bytes, tree) = trees.iter().find(|(_, tree)| tree.nodes[0].name == b"link").unwrap();
    if String::from_utf8_lossy(bytes).contains("linktarget_raw") {
        assert_eq!(tree.nodes[0].link_target, target);
        assert_eq!(String::from_utf8_lossy(&tree.encode()), String::from_utf8_lossy(bytes));
    } else {
        // Before 0.16 restic kept replacement characters only.
        assert_eq!(tree.nodes[0].link_target, "\u{fffd}/caf\u{fffd}".as_bytes());
    }
}

fn cut(repository: &Repository, data: &[u8]) -> Vec<Id> {
    let chunker = repository.chunker();
    let mut ids = Vec::new();
    let mut rest = data;
    while let Some(length) = chunker.cut_from(rest, &mut ScanState::default()) {
        ids.push(Id::of(&rest[..length]));
        rest = &rest[length..];
    }
    ids.extend((!rest.is_empty()).then(|| Id::of(rest)));
    ids
}

#[test]
fn files_are_cut_where_restic_cuts_them() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("random");
    let mut data = random_file(&source, 12_000_000);
    // A run of zeros too: it is cut at every minimum.
    data[3_000_000..5_000_000].fill(0);
    std::fs::write(&source, &data).unwrap();
    let made_by_restic = folder.path().join("by restic");
    restic_ok(&made_by_restic, &["init"]);
    let made_here = folder.path().join("here");
    let options = InitOptions { restic_chunker: true, ..CHEAP };
    Repository::init(store(&made_here), PASSWORD.as_bytes(), options).unwrap();
    for path in [made_by_restic, made_here] {
        restic_ok(&path, &["backup", source.to_str().unwrap()]);
        let repository = open(&path);
        let content = find(&trees(&repository), b"random").content.clone().unwrap();
        assert!(content.len() > 5);
        assert_eq!(cut(&repository, &data), content);
    }
}

#[test]
fn packs_and_index_of_restic_agree() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    for number in 0..5 {
        random_file(&source.join(number.to_string()), 5_000_000);
    }
    let path = folder.path().join("repo");
    restic_ok(&path, &["init"]);
    restic_ok(&path, &["backup", "--pack-size", "4", "--tag", "one,two", source.to_str().unwrap()]);
    let repository = open(&path);
    let index = repository.load_index().unwrap();
    let mut packs: Vec<_> = index.packs().map(|(id, pack)| (id, pack.size)).collect();
    let mut stored = repository.store().list(backstay_core::ObjectKind::Pack).unwrap();
    packs.sort();
    stored.sort();
    assert!(packs.len() > 4);
    assert_eq!(packs, stored);
    for (id, size) in stored {
        assert!(!index.pack(&id).unwrap().mixed);
        let pack = repository.store().get(backstay_core::ObjectKind::Pack, &id, None).unwrap();
        let length = backstay_repository::pack::header_len(*pack.last_chunk().unwrap(), size).unwrap() as usize;
        let header = repository.key().open(&pack[pack.len() - 4 - length..pack.len() - 4]).unwrap();
        assert_eq!(backstay_repository::pack::decode_header(&header).unwrap(), index.pack_blobs(&id));
    }
    let (_, snapshot) = repository.snapshot("latest", &SnapshotFilter::default()).unwrap();
    assert_eq!(snapshot.tags, ["one", "two"]);
    assert!(!snapshot.hostname.is_empty());
}

#[test]
fn restic_reads_a_snapshot_that_was_written_here() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), b"contents").unwrap();
    let path = folder.path().join("repo");
    let repository = Repository::init(store(&path), PASSWORD.as_bytes(), CHEAP).unwrap();
    restic_ok(&path, &["backup", source.to_str().unwrap()]);
    let (old, mut snapshot) = repository.snapshot("latest", &SnapshotFilter::default()).unwrap();
    snapshot.original = Some(old);
    snapshot.hostname = "höst<>".to_owned();
    snapshot.tags = vec!["tägged & \u{2028}".to_owned()];
    snapshot.paths = vec!["/elsewhere".to_owned()];
    snapshot.time = Time { seconds: snapshot.time.time().seconds + 60, nanoseconds: 500 }.into();
    snapshot.backstay_job = Some(3);
    let id = repository.save_snapshot(&snapshot).unwrap();
    let listed: serde_json::Value =
        serde_json::from_str(&restic_ok(&path, &["snapshots", "--json", &id.to_hex()])).unwrap();
    assert_eq!(listed[0]["id"], id.to_hex());
    assert_eq!(listed[0]["hostname"], "höst<>");
    assert_eq!(listed[0]["tags"][0], "tägged & \u{2028}");
    assert_eq!(listed[0]["paths"][0], "/elsewhere");
    assert_eq!(listed[0]["time"], snapshot.time.as_str());
    restic_ok(&path, &["check"]);
    // restic's own rewriting of it is read again.
    restic_ok(&path, &["tag", "--add", "more", &id.to_hex()]);
    let (_, tagged) = repository.snapshot("latest", &SnapshotFilter::default()).unwrap();
    assert_eq!(tagged.tags.last().unwrap(), "more");
    assert_eq!(tagged.original, Some(old));
}
