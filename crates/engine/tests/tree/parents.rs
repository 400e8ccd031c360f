//! What is taken from the parent snapshot, and what is read again.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use backstay_core::Outcome;
use backstay_engine::tree::{Change, TreeError, TreeOptions};
use backstay_repository::index::Index;
use backstay_repository::reader::Reader;
use backstay_repository::repository::Repository;
use backstay_stores::faults::points::DURING_PACK_READ;
use backstay_stores::faults::{Fault, FaultStore};
use rustix::fs::{CWD, Timespec, Timestamps};

use crate::kinds::noise;
use crate::support::{Fixture, Witness};

fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::empty()).unwrap();
}

#[test]
fn an_unchanged_tree_is_not_read_and_gives_the_same_root() {
    let fixture = Fixture::new();
    for number in 0..50 {
        fixture.write(&format!("d{}/f{number}", number % 7), noise(number * 1000, 5));
    }
    let large = fixture.write("large", noise(3 << 20, 8));
    let first = fixture.back_up(&TreeOptions::default());
    let second = fixture.back_up_on(&first, &TreeOptions::default());
    assert_eq!(second.tree(&fixture.data()), first.tree(&fixture.data()));
    let report = second.result.report;
    assert_eq!(report.bytes_read, 0);
    assert_eq!((report.tally.unchanged, report.tally.saved, report.tally.failed), (51, 8, 0));
    assert_eq!((report.files_unmodified, report.files_changed, report.files_new), (51, 0, 0));
    assert_eq!((report.dirs_unmodified, report.dirs_changed, report.dirs_new), (8, 0, 0));
    assert_eq!(second.outcome(&large), &Outcome::Unchanged);
    assert_eq!(report.bytes, first.result.report.bytes);
    assert_eq!(second.bytes, report.bytes);
}

#[test]
fn only_what_changed_is_read() {
    let fixture = Fixture::new();
    let kept = fixture.write("a/kept", b"kept");
    let edited = fixture.write("a/edited", b"before");
    let touched = fixture.write("b/mode", b"mode");
    let gone = fixture.write("b/gone", b"gone");
    let swapped = fixture.write("b/swapped", b"file");
    let first = fixture.back_up(&TreeOptions::default());
    std::fs::write(&edited, b"after!").unwrap();
    std::fs::set_permissions(&touched, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::remove_file(&gone).unwrap();
    std::fs::remove_file(&swapped).unwrap();
    std::fs::create_dir(&swapped).unwrap();
    let added = fixture.write("c/added", b"new");

    let second = fixture.back_up_on(&first, &TreeOptions::default());
    assert_eq!(second.outcome(&kept), &Outcome::Unchanged);
    assert_eq!(second.contents(&kept), b"kept");
    assert_eq!(second.outcome(&edited), &Outcome::Saved);
    assert_eq!(second.change(&edited), Change::Changed);
    assert_eq!(second.contents(&edited), b"after!");
    assert_eq!(second.outcome(&touched), &Outcome::Saved);
    assert_eq!(second.node(&touched).mode, 0o600);
    assert_eq!(second.change(&added), Change::New);
    assert_eq!(second.change(&swapped), Change::New);
    assert!(second.find(&gone).is_none());
    let report = second.result.report;
    assert_eq!((report.files_new, report.files_changed, report.files_unmodified), (1, 2, 1));
    assert_eq!((report.dirs_new, report.dirs_changed, report.dirs_unmodified), (2, 3, 0));
    assert_eq!(report.bytes_read, 6 + 4 + 3);
}

#[test]
fn the_same_size_and_mtime_with_other_contents_is_noticed_by_the_ctime() {
    let fixture = Fixture::new();
    let path = fixture.write("file", b"one");
    set_mtime(&path, 1_600_000_000, 5);
    let first = fixture.back_up(&TreeOptions::default());
    std::thread::sleep(std::time::Duration::from_millis(20));
    std::fs::write(&path, b"two").unwrap();
    set_mtime(&path, 1_600_000_000, 5);
    let blind = fixture.back_up_on(&first, &TreeOptions { ignore_ctime: true, ..TreeOptions::default() });
    assert_eq!(blind.outcome(&path), &Outcome::Unchanged);
    assert_eq!(blind.contents(&path), b"one");
    let forced = fixture.back_up_on(&first, &TreeOptions { ignore_ctime: true, force: true, ..TreeOptions::default() });
    assert_eq!(forced.contents(&path), b"two");
    let second = fixture.back_up_on(&first, &TreeOptions::default());
    assert_eq!(second.contents(&path), b"two");
}

#[test]
fn another_inode_is_a_change_unless_it_is_ignored() {
    let fixture = Fixture::new();
    let path = fixture.write("file", b"one");
    set_mtime(&path, 1_600_000_000, 5);
    let first = fixture.back_up(&TreeOptions::default());
    let other = fixture.data().join("other");
    std::fs::write(&other, b"two").unwrap();
    let inode = std::fs::metadata(&other).unwrap().ino();
    std::fs::rename(&other, &path).unwrap();
    set_mtime(&path, 1_600_000_000, 5);
    assert_ne!(first.node(&path).inode, inode);
    let ctime = TreeOptions { ignore_ctime: true, ..TreeOptions::default() };
    assert_eq!(fixture.back_up_on(&first, &ctime).contents(&path), b"two");
    let both = TreeOptions { ignore_inode: true, ..ctime };
    let blind = fixture.back_up_on(&first, &both);
    assert_eq!(blind.contents(&path), b"one");
    // What is unchanged in its contents still has its new metadata.
    assert_eq!(blind.node(&path).inode, inode);
    assert_eq!(blind.change(&path), Change::Changed);
}

#[test]
fn force_reads_everything_as_if_there_were_no_parent() {
    let fixture = Fixture::new();
    let path = fixture.write("file", b"one");
    let first = fixture.back_up(&TreeOptions::default());
    let second = fixture.back_up_on(&first, &TreeOptions { force: true, ..TreeOptions::default() });
    assert_eq!(second.outcome(&path), &Outcome::Saved);
    assert_eq!(second.change(&path), Change::New);
    assert_eq!(second.result.report.bytes_read, 3);
    assert_eq!(second.tree(&fixture.data()), first.tree(&fixture.data()));
}

#[test]
fn contents_that_the_repository_lost_are_read_again() {
    let fixture = Fixture::new();
    let path = fixture.write("a/file", b"needed");
    let first = fixture.back_up(&TreeOptions::default());
    let blind = Arc::new(Index::default());
    let second = fixture
        .back_up_knowing(blind, &[fixture.data()], Some(&first), &TreeOptions::default(), Witness::default())
        .unwrap();
    assert_eq!(second.outcome(&path), &Outcome::Saved);
    assert_eq!(second.contents(&path), b"needed");
    assert_eq!(second.result.report.bytes_read, 6);
}

#[test]
fn a_parent_that_cannot_be_read_costs_time_and_nothing_else() {
    let fixture = Fixture::new();
    let path = fixture.write("a/file", b"needed");
    let mut parent = fixture.back_up(&TreeOptions::default());
    parent.root = backstay_core::Id::of(b"no such tree");
    let second = fixture.back_up_on(&parent, &TreeOptions::default());
    assert_eq!(second.outcome(&path), &Outcome::Saved);
    assert_eq!(second.contents(&path), b"needed");
    assert!(second.messages.iter().any(|text| text.contains("read again")), "{:?}", second.messages);
}

#[test]
fn a_parent_that_the_store_cannot_give_is_told_in_the_stores_words() {
    let fixture = Fixture::new();
    let path = fixture.write("folder/file", b"contents");
    let mut first = fixture.back_up(&TreeOptions::default());
    let store = Arc::new(FaultStore::new(Arc::clone(fixture.repository.store())));
    let repository = Arc::new(Repository::open(store.clone(), b"secret").unwrap());
    let index = Arc::new(repository.load_index().unwrap());
    for number in 1..100 {
        store.arm(DURING_PACK_READ, number, Fault::Fail);
    }
    first.reader = Arc::new(Reader::new(repository, index));
    let second = fixture.back_up_on(&first, &TreeOptions::default());
    assert_eq!(second.contents(&path), b"contents");
    assert_eq!(second.outcome(&path), &Outcome::Saved);
    let message = second.messages.first().unwrap();
    assert!(message.contains("the parent snapshot") && message.contains("a planned failure"), "{message}");
    assert!(!message.contains("damaged"), "{message}");
}

#[test]
fn a_root_under_a_name_of_its_own_is_compared_under_that_name() {
    let fixture = Fixture::new();
    fixture.write("site/a", b"a");
    fixture.write("site/sub/b", b"b");
    let options = TreeOptions { placed_as: Some(b"named".to_vec()), ..TreeOptions::default() };
    let root = [fixture.data().join("site")];
    let first = fixture.back_up_with(&root, None, &options, Witness::default()).unwrap();
    let names: Vec<&[u8]> = first.result.nodes.iter().map(|(path, _)| path.as_slice()).collect();
    assert_eq!(names, [b"named"]);
    let second = fixture.back_up_with(&root, Some(&first), &options, Witness::default()).unwrap();
    assert_eq!(second.result.report.tally.unchanged, 2);
    assert_eq!(second.result.report.bytes_read, 0);
    let both = [fixture.data().join("site/a"), fixture.data().join("site/sub")];
    assert!(matches!(fixture.back_up_with(&both, None, &options, Witness::default()), Err(TreeError::OneName)));
}
