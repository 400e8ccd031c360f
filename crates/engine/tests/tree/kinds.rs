//! Every kind of object, with everything that belongs to it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use backstay_core::{FileKind, Outcome};
use backstay_engine::tree::{Change, TreeOptions};
use backstay_repository::tree::Node;
use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use crate::support::{Done, Fixture, Witness};

/// Bytes that do not compress into each other.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    out.truncate(length);
    out
}

/// Compares a node with what `lstat` says.
fn assert_like(done: &Done, path: &Path) -> Node {
    let node = done.node(path);
    let stat = std::fs::symlink_metadata(path).unwrap();
    let shown = path.display();
    assert_eq!(FileKind::from_mode(stat.mode()), Some(node.kind), "{shown}");
    assert_eq!(node.mode, Node::go_mode_from_unix(stat.mode()), "{shown}");
    assert_eq!((node.uid, node.gid), (stat.uid(), stat.gid()), "{shown}");
    assert_eq!((node.inode, node.device_id), (stat.ino(), stat.dev()), "{shown}");
    assert_eq!((node.mtime.seconds, i64::from(node.mtime.nanoseconds)), (stat.mtime(), stat.mtime_nsec()), "{shown}");
    assert_eq!((node.ctime.seconds, i64::from(node.ctime.nanoseconds)), (stat.ctime(), stat.ctime_nsec()), "{shown}");
    assert_eq!(node.atime, node.mtime, "{shown}");
    let has_links = !matches!(node.kind, FileKind::Directory | FileKind::Fifo | FileKind::Socket);
    assert_eq!(node.links, if has_links { stat.nlink() } else { 0 }, "{shown}");
    assert_eq!(node.size, if node.kind == FileKind::File { stat.len() } else { 0 }, "{shown}");
    assert_eq!(node.content.is_some(), node.kind == FileKind::File, "{shown}");
    assert_eq!(node.subtree.is_some(), node.kind == FileKind::Directory, "{shown}");
    if stat.uid() == 0 {
        assert_eq!(node.user, "root", "{shown}");
        assert_eq!(node.group, "root", "{shown}");
    }
    node
}

#[test]
fn every_kind_of_object_is_in_the_tree_as_lstat_tells_it() {
    let fixture = Fixture::new();
    let data = fixture.data();
    let file = fixture.write("file", b"hello\n");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o4750)).unwrap();
    let empty = fixture.write("empty", b"");
    let folder = data.join("sub/empty folder");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o2770)).unwrap();
    symlink(OsStr::from_bytes(b"to \xff nowhere"), data.join("link")).unwrap();
    rustix::fs::mknodat(CWD, data.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(data.join("socket")).unwrap();
    let mut devices = Vec::new();
    if rustix::process::geteuid().is_root() {
        for (name, kind, number) in
            [("chardev", FileType::CharacterDevice, 0x103), ("dev", FileType::BlockDevice, 0x801)]
        {
            rustix::fs::mknodat(CWD, data.join(name), kind, Mode::from_raw_mode(0o600), number).unwrap();
            devices.push((data.join(name), number));
        }
    }
    let odd = data.join(OsStr::from_bytes(b"odd \xfe\x01\n name"));
    std::fs::write(&odd, b"odd").unwrap();

    let done = fixture.back_up(&TreeOptions::default());
    for path in [&file, &empty, &folder, &odd, &data, &data.join("sub"), &data.join("pipe"), &data.join("socket")] {
        assert_like(&done, path);
        assert_eq!(done.outcome(path), &Outcome::Saved);
        assert_eq!(done.change(path), Change::New);
    }
    assert_eq!(done.contents(&file), b"hello\n");
    assert_eq!(done.node(&empty).content, Some(vec![]));
    assert_eq!(done.names(&folder), Vec::<String>::new());
    assert_eq!(assert_like(&done, &data.join("link")).link_target, b"to \xff nowhere");
    for (path, number) in devices {
        assert_eq!(assert_like(&done, &path).device, number);
    }
    // The directories above the root have their metadata; only what the walk announced is counted.
    assert_eq!(assert_like(&done, fixture.folder.path()).name, fixture.folder.path().file_name().unwrap().as_bytes());
    assert!(!done.seen.contains_key(fixture.folder.path()));
    assert_eq!(done.result.report.tally.saved, done.seen.len() as u64);
    assert_eq!(done.result.report.files_new, 3);
    assert_eq!(done.result.report.dirs_new, 3);
    assert_eq!(done.result.report.bytes, 9);
    assert_eq!(done.bytes, 9);
}

#[test]
fn times_before_1970_and_nanoseconds_are_kept() {
    let fixture = Fixture::new();
    let path = fixture.write("old", b"x");
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 7 },
        last_modification: rustix::fs::Timespec { tv_sec: -86_400, tv_nsec: 123_456_789 },
    };
    rustix::fs::utimensat(CWD, &path, &times, rustix::fs::AtFlags::empty()).unwrap();
    let done = fixture.back_up(&TreeOptions { with_atime: true, ..TreeOptions::default() });
    let node = done.node(&path);
    assert_eq!((node.mtime.seconds, node.mtime.nanoseconds), (-86_400, 123_456_789));
    assert_eq!((node.atime.seconds, node.atime.nanoseconds), (1_000_000_000, 7));
    let done = fixture.back_up(&TreeOptions::default());
    assert_eq!(done.node(&path).atime, node.mtime);
}

#[test]
fn reading_leaves_the_access_time_alone() {
    let fixture = Fixture::new();
    let path = fixture.write("file", b"x");
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 0 },
        last_modification: rustix::fs::Timespec { tv_sec: 1_500_000_000, tv_nsec: 0 },
    };
    rustix::fs::utimensat(CWD, &path, &times, rustix::fs::AtFlags::empty()).unwrap();
    fixture.back_up(&TreeOptions::default());
    assert_eq!(std::fs::metadata(&path).unwrap().atime(), 1_000_000_000);
}

#[test]
fn extended_attributes_and_access_control_lists_are_kept_in_order() {
    /// user::rw- user:2:r-- group::r-- mask::rw- other::r--, as the kernel stores it.
    const ACL: &[u8] = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\x02\0\0\0\x04\0\x04\0\xff\xff\xff\xff\
        \x10\0\x06\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";
    let fixture = Fixture::new();
    let file = fixture.write("file", b"x");
    let folder = fixture.data().join("folder");
    std::fs::create_dir(&folder).unwrap();
    let big = noise(3000, 1);
    let mut expected = Vec::new();
    for path in [&file, &folder] {
        rustix::fs::setxattr(path, "user.z", b"", XattrFlags::empty()).unwrap();
        rustix::fs::setxattr(path, "user.big", &big, XattrFlags::empty()).unwrap();
    }
    rustix::fs::setxattr(&file, "system.posix_acl_access", ACL, XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(&folder, "system.posix_acl_default", ACL, XattrFlags::empty()).unwrap();
    for path in [&file, &folder] {
        let mut list = vec![0; 4096];
        let length = rustix::fs::listxattr(path, &mut list[..]).unwrap();
        let names: Vec<Vec<u8>> =
            list[..length].split(|b| *b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect();
        assert_eq!(names.len(), 3);
        expected.push(names);
    }
    let link = fixture.data().join("link");
    symlink("file", &link).unwrap();
    let root = rustix::process::geteuid().is_root();
    if root {
        rustix::fs::lsetxattr(&link, "trusted.mark", b"on the link", XattrFlags::empty()).unwrap();
    }
    let first = fixture.back_up(&TreeOptions::default());
    // The second time the file's contents come from the parent: the attributes must be there all the same.
    let second = fixture.back_up_on(&first, &TreeOptions::default());
    assert_eq!(second.outcome(&file), &Outcome::Unchanged);
    for done in [&first, &second] {
        for (path, names) in [&file, &folder].into_iter().zip(&expected) {
            let node = done.node(path);
            assert_eq!(&node.xattrs.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), names);
            let value = |name: &str| &node.xattrs.iter().find(|(n, _)| n == name.as_bytes()).unwrap().1;
            assert_eq!(value("user.z"), b"");
            assert_eq!(value("user.big"), &big);
        }
        assert!(done.node(&file).xattrs.contains(&(b"system.posix_acl_access".to_vec(), ACL.to_vec())));
        assert!(done.node(&folder).xattrs.contains(&(b"system.posix_acl_default".to_vec(), ACL.to_vec())));
        if root {
            assert_eq!(done.node(&link).xattrs, [(b"trusted.mark".to_vec(), b"on the link".to_vec())]);
        }
    }
    assert_eq!(first.tree(&fixture.data()), second.tree(&fixture.data()));
}

#[test]
fn contents_of_any_length_come_back() {
    let fixture = Fixture::new();
    let mut files = Vec::new();
    for length in [1, 4095, 512 * 1024 - 1, 512 * 1024, 512 * 1024 + 1, 3 << 20, (9 << 20) + 17] {
        let bytes = noise(length, length as u64);
        files.push((fixture.write(&format!("n{length}"), &bytes), bytes));
    }
    let zeros = vec![0; (2 << 20) + 5];
    files.push((fixture.write("zeros", &zeros), zeros));
    let done = fixture.back_up(&TreeOptions::default());
    for (path, bytes) in &files {
        assert!(done.contents(path) == *bytes, "{}", path.display());
    }
    assert_eq!(done.bytes, files.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
}

#[test]
fn holes_are_not_read_and_come_back_as_zeros() {
    use std::os::unix::fs::FileExt;
    let fixture = Fixture::new();
    let path = fixture.write("sparse", b"");
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    let island = noise(100_000, 3);
    file.set_len(100 << 20).unwrap();
    file.write_all_at(&island, 20 << 20).unwrap();
    // A short hole, then more data.
    file.write_all_at(&island, (20 << 20) + 300_000).unwrap();
    let all_hole = fixture.write("hole", b"");
    std::fs::File::options().write(true).open(&all_hole).unwrap().set_len((17 << 20) + 1).unwrap();
    assert!(std::fs::metadata(&path).unwrap().blocks() < 4096, "this file system keeps no holes");

    let done = fixture.back_up(&TreeOptions::default());
    let contents = done.contents(&path);
    assert_eq!(contents.len(), 100 << 20);
    assert!(contents == std::fs::read(&path).unwrap());
    assert!(done.contents(&all_hole).iter().all(|byte| *byte == 0));
    assert!(done.result.report.bytes_read < 1 << 20, "{} bytes were read", done.result.report.bytes_read);
    assert_eq!(done.bytes, (100 << 20) + (17 << 20) + 1);
    assert!(done.node(&path).content.unwrap().len() < 200);
}

#[test]
fn a_file_with_several_names_is_read_once() {
    let fixture = Fixture::new();
    let bytes = noise(700_000, 9);
    let first = fixture.write("a/first", &bytes);
    let names: Vec<PathBuf> = (0..5).map(|number| fixture.data().join(format!("name{number}"))).collect();
    for name in &names {
        std::fs::hard_link(&first, name).unwrap();
    }
    let done = fixture.back_up(&TreeOptions::default());
    for name in names.iter().chain([&first]) {
        let node = assert_like(&done, name);
        assert_eq!(node.links, 6);
        assert_eq!(node.inode, done.node(&first).inode);
        assert!(done.contents(name) == bytes);
        assert_eq!(done.outcome(name), &Outcome::Saved);
    }
    // Two threads may meet two names at the same moment; the others have to wait for neither.
    let threads = std::thread::available_parallelism().unwrap().get() as u64;
    assert!(done.result.report.bytes_read <= threads * 700_000, "{}", done.result.report.bytes_read);
    assert_eq!(done.bytes, 6 * 700_000);
}

#[test]
fn a_file_that_says_it_is_empty_is_read_to_its_end() {
    let fixture = Fixture::new();
    let path = PathBuf::from("/proc/version");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    let done =
        fixture.back_up_with(std::slice::from_ref(&path), None, &TreeOptions::default(), Witness::default()).unwrap();
    assert_eq!(done.contents(&path), std::fs::read(&path).unwrap());
    assert_eq!(done.outcome(&path), &Outcome::Saved);
}

#[test]
fn roots_may_be_files_links_relative_nested_or_given_twice() {
    let fixture = Fixture::new();
    let file = fixture.write("x/file", b"1");
    let nested = fixture.write("y/deep/er", b"2");
    let link = fixture.data().join("link");
    symlink("y", &link).unwrap();
    let mut relative = PathBuf::new();
    for _ in std::env::current_dir().unwrap().components().skip(1) {
        relative.push("..");
    }
    relative.push(fixture.data().join("y/./deep/../").strip_prefix("/").unwrap());
    let roots = [file.clone(), relative, nested.clone(), nested.clone(), link.clone()];
    let done = fixture.back_up_with(&roots, None, &TreeOptions::default(), Witness::default()).unwrap();
    assert_eq!(done.contents(&file), b"1");
    assert_eq!(done.contents(&nested), b"2");
    assert_eq!(done.node(&link).link_target, b"y");
    assert_eq!(done.names(&fixture.data()), ["link", "x", "y"]);
    assert_like(&done, &fixture.data());
    assert_like(&done, &fixture.data().join("x"));
    assert_eq!(
        done.seen.keys().collect::<Vec<_>>(),
        [&link, &file, &fixture.data().join("y"), &fixture.data().join("y/deep"), &nested]
    );
}
