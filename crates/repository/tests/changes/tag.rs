use backstay_core::{Id, ObjectKind};
use backstay_repository::Repository;
use backstay_repository::maintenance::tag::{TagChange, change_tags};

use crate::support::{Place, killed_everywhere};

fn add(tag: &str) -> TagChange {
    TagChange { add: vec![tag.to_owned()], ..TagChange::default() }
}

fn change(repository: &Repository, change: &TagChange) -> Vec<(Id, Id)> {
    let mut pairs = Vec::new();
    let list = repository.snapshots().unwrap();
    let count = change_tags(repository, list, change, &(), &mut |old, new| pairs.push((*old, *new))).unwrap();
    assert_eq!(count, pairs.len() as u64);
    pairs
}

#[test]
fn a_changed_snapshot_remembers_its_first_id_and_keeps_everything_else() {
    let (place, ids) = Place::with_snapshots();
    let before = place.contents();
    let first = change(&place.repository, &add("x"));
    assert_eq!(first.iter().map(|(old, _)| *old).collect::<Vec<_>>(), ids);
    let second = change(&place.repository, &add("y"));
    assert_eq!(place.ids(ObjectKind::Snapshot).len(), 3);
    for ((original, between), (again, last)) in first.iter().zip(&second) {
        assert_eq!(between, again);
        let snapshot = place.repository.load_snapshot(last).unwrap();
        assert_eq!(snapshot.original, Some(*original));
        assert_eq!(&snapshot.tags[2..], ["x", "y"]);
        assert!(snapshot.backstay_job.unwrap() >= 40);
        assert_eq!(snapshot.extra["label"], "of another program");
    }
    assert_eq!(place.contents(), before);
    // What makes no difference changes nothing.
    assert!(change(&place.repository, &add("y")).is_empty());
    assert_eq!(place.ids(ObjectKind::Snapshot).len(), 3);
}

#[test]
fn a_change_that_is_killed_loses_no_snapshot() {
    let (place, _) = Place::with_snapshots();
    let before = place.contents();
    let changes = killed_everywhere(
        &place,
        |repository| {
            let list = repository.snapshots()?;
            change_tags(repository, list, &add("x"), &(), &mut |_, _| {}).map(drop)
        },
        |left, _| assert_eq!(left.contents(), before),
    );
    assert_eq!(changes, 6);
}
