//! Trees that are large, deep or turn back on themselves.

use std::os::fd::AsFd;
use std::os::fd::OwnedFd;

use backstay_engine::tree::TreeOptions;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use crate::support::{Fixture, Witness};

#[test]
fn a_directory_of_twenty_thousand_files_is_walked() {
    let fixture = Fixture::new();
    for number in 0..20_000 {
        std::fs::write(fixture.data().join(format!("f{number}")), number.to_string()).unwrap();
    }
    let done = fixture.back_up(&TreeOptions::default());
    assert_eq!(done.result.report.tally.saved, 20_001);
    let names = done.names(&fixture.data());
    assert_eq!(names.len(), 20_000);
    assert!(names.is_sorted());
    assert_eq!(done.contents(&fixture.data().join("f19999")), b"19999");
    let second = fixture.back_up_on(&done, &TreeOptions::default());
    assert_eq!(second.result.report.tally.unchanged, 20_000);
    assert_eq!(second.tree(&fixture.data()), done.tree(&fixture.data()));
}

fn open(parent: &OwnedFd, name: &str) -> OwnedFd {
    rustix::fs::openat(parent, name, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// Paths far beyond what a system call takes, and more directories with something left to do than may be open at once.
#[test]
fn a_tree_deeper_than_any_path_is_walked_with_few_descriptors() {
    const DEPTH: usize = 400;
    let fixture = Fixture::new();
    let long = "d".repeat(200);
    let root = rustix::fs::openat(CWD, fixture.data(), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let mut here = root.try_clone().unwrap();
    for _ in 0..DEPTH {
        for name in ["zz", long.as_str()] {
            rustix::fs::mkdirat(&here, name, Mode::from_raw_mode(0o755)).unwrap();
        }
        let side = open(&here, "zz");
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&side, "file", flags, Mode::from_raw_mode(0o644)).unwrap();
        rustix::io::write(&file, b"side").unwrap();
        rustix::fs::setxattr(
            format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)),
            "user.a",
            b"b",
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
        here = open(&here, &long);
    }
    rustix::fs::symlinkat("bottom", &here, "link").unwrap();

    let most = std::sync::atomic::AtomicUsize::new(0);
    let count = |_: &std::path::Path| {
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
        most.fetch_max(open, std::sync::atomic::Ordering::Relaxed);
    };
    let witness = Witness { on_entry: Some(&count), ..Witness::default() };
    let done = fixture.back_up_with(&[fixture.data()], None, &TreeOptions::default(), witness).unwrap();
    assert_eq!(
        done.result.report.tally.failed,
        0,
        "{:?}",
        done.seen.values().find(|seen| matches!(seen[0].outcome, backstay_core::Outcome::Failed(_)))
    );
    assert_eq!(done.result.report.files_new, DEPTH as u64);
    assert_eq!(done.result.report.dirs_new, 2 * DEPTH as u64 + 1);
    // Other tests of this process have files open too.
    assert!(most.into_inner() < 380, "descriptors are closed on the way down");
    let second = fixture.back_up_on(&done, &TreeOptions::default());
    assert_eq!(second.tree(&fixture.data()), done.tree(&fixture.data()));
    assert_eq!(second.result.report.tally.unchanged, DEPTH as u64);

    // Taken apart from the top: the next level is moved up before the one above it goes.
    for _ in 0..DEPTH {
        rustix::fs::unlinkat(open(&root, "zz").as_fd(), "file", AtFlags::empty()).unwrap();
        rustix::fs::unlinkat(&root, "zz", AtFlags::REMOVEDIR).unwrap();
        rustix::fs::renameat(&root, &long, &root, "old").unwrap();
        let old = open(&root, "old");
        for name in ["zz", &long, "link"] {
            let _ = rustix::fs::renameat(&old, name, &root, name);
        }
        rustix::fs::unlinkat(&root, "old", AtFlags::REMOVEDIR).unwrap();
    }
}

#[test]
fn the_repository_itself_may_lie_in_the_tree() {
    let fixture = Fixture::new();
    fixture.write("file", b"x");
    let roots = [fixture.folder.path().to_owned()];
    let first = fixture.back_up_with(&roots, None, &TreeOptions::default(), Witness::default()).unwrap();
    assert!(first.find(&fixture.folder.path().join("repository/config")).is_some());
    let second = fixture.back_up_with(&roots, Some(&first), &TreeOptions::default(), Witness::default()).unwrap();
    assert_eq!(second.contents(&fixture.data().join("file")), b"x");
}

#[test]
fn links_that_turn_back_are_not_followed() {
    let fixture = Fixture::new();
    std::os::unix::fs::symlink(".", fixture.data().join("self")).unwrap();
    std::os::unix::fs::symlink("/", fixture.data().join("root")).unwrap();
    let done = fixture.back_up(&TreeOptions::default());
    assert_eq!(done.result.report.tally.saved, 3);
    assert_eq!(done.names(&fixture.data()), ["root", "self"]);
}

/// `/` itself as a root, all but one directory of it excluded.
#[test]
fn the_root_directory_can_be_backed_up() {
    let fixture = Fixture::new();
    let file = fixture.write("file", b"x");
    let top = file.components().nth(1).unwrap().as_os_str().to_str().unwrap().to_owned();
    let mut excludes: Vec<String> = std::fs::read_dir("/")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| *name != top)
        .map(|name| format!("/{name}"))
        .collect();
    // On the way down everything beside the way is left out too.
    let way: Vec<_> = fixture.data().ancestors().map(std::path::Path::to_owned).collect();
    for folder in way.iter().skip(1) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if !way.contains(&path) && folder.parent().is_some() {
                excludes.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    // Other tests make and remove folders beside ours.
    excludes.push(format!("{}/.tmp*", fixture.folder.path().parent().unwrap().display()));
    excludes.push(format!("!{}", fixture.folder.path().display()));
    excludes.push(fixture.folder.path().join("repository").display().to_string());
    let options = TreeOptions { excludes, ..TreeOptions::default() };
    let done = fixture.back_up_with(&["/".into(), fixture.data()], None, &options, Witness::default()).unwrap();
    assert_eq!(done.contents(&file), b"x");
    assert!(!done.seen.contains_key(std::path::Path::new("/")));
    assert_eq!(done.names(fixture.folder.path()), ["data"]);
    let second = fixture.back_up_with(&["/".into()], Some(&done), &options, Witness::default()).unwrap();
    assert_eq!(second.outcome(&file), &backstay_core::Outcome::Unchanged);
}
