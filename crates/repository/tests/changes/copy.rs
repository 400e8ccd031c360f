use std::sync::Arc;

use backstay_core::{Id, ObjectKind};
use backstay_repository::check::{CheckOptions, ReadData, check};
use backstay_repository::maintenance::copy::{Copied, CopyReport, copy, same_chunks};
use backstay_repository::maintenance::tag::{TagChange, change_tags};
use backstay_repository::pack::BlobKind;
use backstay_repository::{Error, Repository, WriteOptions};

use crate::support::{Place, contents, killed_everywhere};

fn options() -> WriteOptions {
    WriteOptions { threads: 1, pack_size: 256 << 10, ..WriteOptions::default() }
}

fn copy_all(source: &Place, target: &Arc<Repository>) -> Result<CopyReport, Error> {
    copy(&source.repository, target, source.repository.snapshots().unwrap(), options(), &())
}

fn new_ids(report: &CopyReport) -> Vec<(Id, Id)> {
    let new = |one: &Copied| match one {
        Copied::New { from, to } => Some((*from, *to)),
        _ => None,
    };
    report.snapshots.iter().filter_map(new).collect()
}

#[test]
fn everything_is_copied_once_and_is_the_same_there() {
    let (source, ids) = Place::with_snapshots();
    let target = Place::new();
    let report = copy_all(&source, &target.repository).unwrap();
    let pairs = new_ids(&report);
    assert_eq!(pairs.iter().map(|(from, _)| *from).collect::<Vec<_>>(), ids);
    assert_eq!(target.contents(), source.contents());
    for (from, to) in &pairs {
        let snapshot = target.repository.load_snapshot(to).unwrap();
        assert_eq!((snapshot.original, snapshot.parent), (Some(*from), None));
    }
    let all = CheckOptions { read_data: ReadData::All, threads: Some(1) };
    assert_eq!(check(&target.repository, all, &()).unwrap().errors, Vec::<String>::new());
    // Again: everything is there, under other ids.
    let packs = target.ids(ObjectKind::Pack);
    let again = copy_all(&source, &target.repository).unwrap();
    assert!(again.snapshots.iter().all(|one| matches!(one, Copied::Known { .. })), "{again:?}");
    assert_eq!(target.ids(ObjectKind::Pack), packs);
    assert_eq!(target.ids(ObjectKind::Snapshot).len(), 3);
    // And back: the copies are known by the id that they had first.
    let back = copy_all(&target, &source.repository).unwrap();
    assert!(back.snapshots.iter().all(|one| matches!(one, Copied::Known { .. })), "{back:?}");
    // With other tags it is another snapshot, without new contents.
    let change = TagChange { add: vec!["x".to_owned()], ..TagChange::default() };
    change_tags(&source.repository, source.repository.snapshots().unwrap(), &change, &(), &mut |_, _| {}).unwrap();
    let third = copy_all(&source, &target.repository).unwrap();
    assert_eq!(new_ids(&third).len(), 3);
    assert_eq!(third.written.data_blobs + third.written.tree_blobs, 0);
    assert_eq!(target.ids(ObjectKind::Pack), packs);
}

#[test]
fn a_copy_that_is_killed_leaves_whole_snapshots_and_is_taken_up() {
    let (source, _) = Place::with_snapshots();
    let target = Place::new();
    target.save(7);
    let before = target.contents();
    let all = source.contents();
    killed_everywhere(
        &target,
        |repository| copy_all(&source, repository).map(drop),
        |left, _| {
            let now = left.contents();
            assert!(before.iter().all(|one| now.contains(one)));
            assert!(now.iter().all(|one| before.contains(one) || all.contains(one)));
            copy_all(&source, &left.repository).unwrap();
            assert!(all.iter().all(|one| contents(&left.repository).contains(one)));
            assert_eq!(left.ids(ObjectKind::Snapshot).len(), 4);
        },
    );
}

#[test]
fn what_is_damaged_in_the_source_fails_with_its_snapshots_only() {
    let (source, ids) = Place::with_snapshots();
    // A blob that only the second snapshot has.
    let index = source.repository.load_index().unwrap();
    let own = Id::of(b"own 1");
    let location = index.get(BlobKind::Data, &own).unwrap();
    let mut bytes = backstay_core::Store::get(&*source.store, ObjectKind::Pack, &location.pack, None).unwrap();
    bytes[location.offset as usize + 20] ^= 1;
    assert!(source.store.damage(ObjectKind::Pack, &location.pack, &bytes));
    let target = Place::new();
    let report = copy_all(&source, &target.repository).unwrap();
    let mut copied: Vec<Id> = new_ids(&report).into_iter().map(|(from, _)| from).collect();
    copied.sort();
    let mut expected = vec![ids[0], ids[2]];
    expected.sort();
    assert_eq!(copied, expected);
    let failed = report.snapshots.iter().find_map(|one| match one {
        Copied::Failed { from, error } => Some((*from, error.to_string())),
        _ => None,
    });
    let (from, error) = failed.unwrap();
    assert_eq!(from, ids[1]);
    assert!(error.contains(&own.to_hex()), "{error}");
    assert_eq!(target.contents().len(), 2);

    // The same with a tree.
    let tree = source.repository.load_snapshot(&ids[1]).unwrap().tree;
    let location = index.get(BlobKind::Tree, &tree).unwrap();
    let mut bytes = backstay_core::Store::get(&*source.store, ObjectKind::Pack, &location.pack, None).unwrap();
    bytes[location.offset as usize + 20] ^= 1;
    assert!(source.store.damage(ObjectKind::Pack, &location.pack, &bytes));
    let report = copy_all(&source, &Place::new().repository).unwrap();
    assert_eq!(new_ids(&report).len(), 2);
}

#[test]
fn a_repository_is_not_copied_into_itself_and_chunks_are_compared() {
    let (source, _) = Place::with_snapshots();
    let other = source.copy();
    assert!(copy_all(&source, &other.repository).unwrap_err().to_string().contains("the same"));
    assert!(same_chunks(&source.repository, &other.repository));
    assert!(!same_chunks(&source.repository, &Place::new().repository));
}
