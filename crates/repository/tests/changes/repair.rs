use std::sync::Arc;

use backstay_core::{FileKind, Id, ObjectKind, Store};
use backstay_repository::Repository;
use backstay_repository::check::{CheckOptions, CheckReport, ReadData, check};
use backstay_repository::index::encode_index_file;
use backstay_repository::maintenance::repair_index::{RepairIndexOptions, RepairIndexReport, repair_index};
use backstay_repository::maintenance::repair_packs::repair_packs;
use backstay_repository::maintenance::repair_snapshots::{RepairSnapshotsOptions, repair_snapshots};
use backstay_repository::pack::BlobKind;

use crate::support::{Place, directory, file, files, killed_everywhere, node, reader};

const READ_ALL: RepairIndexOptions = RepairIndexOptions { read_all_packs: true };

fn checked(place: &Place) -> CheckReport {
    let options = CheckOptions { read_data: ReadData::All, threads: Some(1) };
    check(&place.repository, options, &()).unwrap()
}

fn repaired(repository: &Arc<Repository>) -> RepairIndexReport {
    repair_index(repository, RepairIndexOptions::default(), &()).unwrap()
}

fn drop_index(place: &Place) {
    for id in place.ids(ObjectKind::Index) {
        place.store.delete(ObjectKind::Index, &id).unwrap();
    }
}

/// A pack that holds blobs of that kind, the longest.
fn pack_of(place: &Place, kind: BlobKind) -> Id {
    let index = place.repository.load_index().unwrap();
    index.packs().filter(|(_, pack)| pack.kind == kind).max_by_key(|(id, pack)| (pack.size, *id)).unwrap().0
}

#[test]
fn an_index_that_is_lost_is_made_anew_from_the_packs() {
    let (place, _) = Place::with_snapshots();
    let before = place.contents();
    drop_index(&place);
    let report = repaired(&place.repository);
    assert_eq!(report.added, place.ids(ObjectKind::Pack));
    assert_eq!(place.contents(), before);
    assert_eq!(checked(&place).errors, Vec::<String>::new());
    // A second time there is nothing to do.
    let files = place.ids(ObjectKind::Index);
    assert!(!repaired(&place.repository).changed());
    assert_eq!(place.ids(ObjectKind::Index), files);
    let report = repair_index(&place.repository, READ_ALL, &()).unwrap();
    assert!(report.changed() && report.added.is_empty() && report.corrected.is_empty(), "{report:?}");
    assert_eq!(place.contents(), before);
    assert_eq!(checked(&place).errors, Vec::<String>::new());
}

#[test]
fn a_damaged_index_file_is_replaced_and_the_others_stay() {
    let (place, _) = Place::with_snapshots();
    let before = place.contents();
    let files = place.ids(ObjectKind::Index);
    assert_eq!(files.len(), 3);
    assert!(place.store.damage(ObjectKind::Index, &files[1], b"no index"));
    let report = repaired(&place.repository);
    assert_eq!(report.damaged_files.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [files[1]]);
    assert_eq!((report.files_written, report.files_deleted), (1, 1));
    let after = place.ids(ObjectKind::Index);
    assert!(after.contains(&files[0]) && after.contains(&files[2]) && !after.contains(&files[1]));
    assert_eq!(place.contents(), before);
    assert_eq!(checked(&place).errors, Vec::<String>::new());
}

#[test]
fn packs_that_are_gone_leave_the_index_and_wrong_entries_are_corrected() {
    let (place, _) = Place::with_snapshots();
    let before = place.contents();
    let index = place.repository.load_index().unwrap();
    // A pack that is not there, a pack with half of its blobs, a pack twice.
    let data = pack_of(&place, BlobKind::Data);
    let tree = pack_of(&place, BlobKind::Tree);
    let mut wrong = index.pack_blobs(&data);
    wrong.truncate(1);
    let missing = Id::of(b"missing");
    let packs = [(missing, index.pack_blobs(&data)), (data, wrong), (tree, index.pack_blobs(&tree))];
    place.repository.save_unpacked(ObjectKind::Index, &encode_index_file(&packs)).unwrap();
    assert!(!checked(&place).errors.is_empty());
    let report = repaired(&place.repository);
    assert_eq!(report.missing, [missing]);
    assert_eq!(report.corrected, [data]);
    assert!(report.added.is_empty());
    assert_eq!(place.contents(), before);
    let after = checked(&place);
    assert_eq!((after.errors, after.suggest_repair_index), (Vec::new(), false));
}

#[test]
fn what_rustic_has_marked_stays_marked_in_a_file_that_stays() {
    let (place, _) = Place::with_snapshots();
    let index = place.repository.load_index().unwrap();
    let marked = pack_of(&place, BlobKind::Tree);
    drop_index(&place);
    let listed = |pack: &Id| {
        let text = String::from_utf8(encode_index_file(&[(*pack, index.pack_blobs(pack))])).unwrap();
        text.trim_end().strip_prefix("{\"packs\":[").unwrap().strip_suffix("]}").unwrap().to_owned()
    };
    let others: Vec<String> = place.ids(ObjectKind::Pack).iter().filter(|pack| **pack != marked).map(listed).collect();
    let json = format!(
        "{{\"packs\":[{}],\"packs_to_delete\":[{{\"time\":\"2026-01-01T00:00:00+00:00\",{}]}}",
        others.join(","),
        listed(&marked).strip_prefix('{').unwrap()
    );
    let file = place.repository.save_unpacked(ObjectKind::Index, json.as_bytes()).unwrap();
    assert!(!repaired(&place.repository).changed());
    assert_eq!(place.ids(ObjectKind::Index), [file]);
    // Read anew, every pack is as good as any other.
    repair_index(&place.repository, READ_ALL, &()).unwrap();
    assert!(place.repository.load_index().unwrap().pack(&marked).is_some());
    assert_eq!(checked(&place).errors, Vec::<String>::new());
}

#[test]
fn a_repair_of_the_index_that_is_killed_can_be_repeated() {
    let (place, _) = Place::with_snapshots();
    let before = place.contents();
    let files = place.ids(ObjectKind::Index);
    let data = pack_of(&place, BlobKind::Data);
    let mut wrong = place.repository.load_index().unwrap().pack_blobs(&data);
    wrong.truncate(1);
    place.repository.save_unpacked(ObjectKind::Index, &encode_index_file(&[(data, wrong)])).unwrap();
    assert!(place.store.damage(ObjectKind::Index, &files[0], b"no index"));
    for options in [RepairIndexOptions::default(), READ_ALL] {
        let changes = killed_everywhere(
            &place,
            |repository| repair_index(repository, options, &()).map(drop),
            |left, _| {
                assert_eq!(left.store.list(ObjectKind::Pack).unwrap().len(), place.ids(ObjectKind::Pack).len());
                repaired(&left.repository);
                assert_eq!(left.contents(), before);
                assert_eq!(checked(left).errors, Vec::<String>::new());
            },
        );
        assert!(changes >= 3, "{changes}");
    }
}

#[test]
fn a_pack_whose_header_is_gone_keeps_its_entries_until_it_is_salvaged() {
    let (place, ids) = Place::with_snapshots();
    let before = place.contents();
    let pack = pack_of(&place, BlobKind::Data);
    let bytes = place.store.get(ObjectKind::Pack, &pack, None).unwrap();
    let blobs = place.repository.load_index().unwrap().pack_blobs(&pack);
    assert!(blobs.len() > 1);
    // Cut in the middle of its last blob.
    let end = blobs.last().unwrap().offset as usize + 10;
    assert!(place.store.damage(ObjectKind::Pack, &pack, &bytes[..end]));
    let report = repaired(&place.repository);
    assert_eq!(report.unreadable.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [pack]);
    assert!(
        repair_snapshots(
            &place.repository,
            place.repository.snapshots().unwrap(),
            RepairSnapshotsOptions::default(),
            &(),
            &()
        )
        .unwrap_err()
        .to_string()
        .contains("repair packs")
    );

    let home = tempfile::tempdir().unwrap();
    let killed = place.copy();
    killed_everywhere(
        &killed,
        |repository| {
            let folder = tempfile::tempdir().unwrap();
            repair_packs(repository, &[pack], folder.path(), &()).map(drop)
        },
        |left, _| {
            // Whether the pack is still there or not: what could be read before can be read.
            for blob in &blobs[..blobs.len() - 1] {
                reader(&left.repository).load(blob.kind, &blob.id).unwrap();
            }
        },
    );
    let report = repair_packs(&place.repository, &[pack], home.path(), &()).unwrap();
    assert_eq!(report.salvaged, blobs.len() as u64 - 1);
    assert_eq!(report.lost.len(), 1);
    assert_eq!(report.lost[0].id, blobs.last().unwrap().id);
    assert_eq!(std::fs::read(home.path().join(format!("pack-{pack}"))).unwrap(), bytes[..end]);
    assert!(!place.ids(ObjectKind::Pack).contains(&pack));
    // A second time it is no longer there, and a copy is never overwritten.
    assert!(repair_packs(&place.repository, &[pack], home.path(), &()).unwrap_err().to_string().contains("not in"));

    let list = place.repository.snapshots().unwrap();
    let dry = RepairSnapshotsOptions { dry_run: true, forget: true };
    let would = repair_snapshots(&place.repository, list.clone(), dry, &(), &()).unwrap();
    assert!(!would.changed.is_empty() && would.changed.iter().all(|one| one.new.is_none()));
    assert_eq!(place.ids(ObjectKind::Snapshot).len(), 3);
    let report = repair_snapshots(&place.repository, list, RepairSnapshotsOptions::default(), &(), &()).unwrap();
    assert_eq!(report.changed.len(), would.changed.len());
    assert_eq!(report.changed.len() as u64 + report.unchanged, 3);
    for one in &report.changed {
        assert!(ids.contains(&one.old));
        let snapshot = place.repository.load_snapshot(&one.new.unwrap()).unwrap();
        assert_eq!(snapshot.original, Some(one.old));
        assert!(snapshot.tags.contains(&"repaired".to_owned()));
        let content = files(&reader(&place.repository), &snapshot.tree);
        assert_eq!(content.len(), before[0].1.len(), "files are shortened, not left out");
    }
    // Once more with those that are still broken forgotten: then everything is sound.
    let list = place.repository.snapshots().unwrap();
    let forget = RepairSnapshotsOptions { forget: true, dry_run: false };
    repair_snapshots(&place.repository, list, forget, &(), &()).unwrap();
    assert_eq!(checked(&place).errors, Vec::<String>::new());
    // New backups store again what was lost.
    place.save(0);
    place.save(1);
    place.save(2);
    assert!(before.iter().all(|(_, content)| place.contents().iter().any(|(_, now)| now == content)));
}

#[test]
fn a_directory_that_is_gone_becomes_empty_and_a_snapshot_without_a_root_goes_only_when_told() {
    let place = Place::new();
    let writer = place.writer();
    let deep = directory(&writer, "deep", &[file(&writer, "inside", &[b"x"])]);
    let top = directory(&writer, "top", &[deep.clone(), file(&writer, "beside", &[b"y"])]);
    place.finish(&writer, &[top], 0);
    let lost = deep.subtree.unwrap();
    // The repository without that one tree.
    let index = place.repository.load_index().unwrap();
    let pack = pack_of(&place, BlobKind::Tree);
    let bytes = place.store.get(ObjectKind::Pack, &pack, None).unwrap();
    let blob = index.pack_blobs(&pack).into_iter().find(|blob| blob.id == lost).unwrap();
    let mut damaged = bytes.clone();
    damaged[blob.offset as usize + 20] ^= 1;
    assert!(place.store.damage(ObjectKind::Pack, &pack, &damaged));
    let home = tempfile::tempdir().unwrap();
    let broken = place.copy();
    repair_packs(&place.repository, &[pack], home.path(), &()).unwrap();
    let list = place.repository.snapshots().unwrap();
    let forget = RepairSnapshotsOptions { forget: true, dry_run: false };
    let report = repair_snapshots(&place.repository, list, forget, &(), &()).unwrap();
    assert_eq!(report.changed.len(), 1);
    assert!(report.changed[0].forgotten);
    let names: Vec<String> = place.contents()[0].1.iter().map(|(path, _)| path.clone()).collect();
    assert_eq!(names, ["/top", "/top/beside", "/top/deep"]);
    assert_eq!(checked(&place).errors, Vec::<String>::new());

    // The same with the root's own tree.
    let (root, snapshot) = broken.repository.snapshots().unwrap().remove(0);
    let blob = index.pack_blobs(&pack).into_iter().find(|blob| blob.id == snapshot.tree).unwrap();
    damaged[blob.offset as usize + 20] ^= 1;
    assert!(broken.store.damage(ObjectKind::Pack, &pack, &damaged));
    let list = vec![(root, snapshot)];
    let keep = RepairSnapshotsOptions::default();
    let report = repair_snapshots(&broken.repository, list.clone(), keep, &(), &()).unwrap();
    assert_eq!((report.changed.len(), report.failed.len()), (0, 1));
    assert_eq!(broken.ids(ObjectKind::Snapshot), [root]);
    let report = repair_snapshots(&broken.repository, list, forget, &(), &()).unwrap();
    assert_eq!((report.changed.len(), report.failed.len()), (1, 0));
    assert!(broken.ids(ObjectKind::Snapshot).is_empty());
}

#[test]
fn a_snapshot_that_needs_no_repair_stays_as_it_is() {
    let (place, ids) = Place::with_snapshots();
    let list = place.repository.snapshots().unwrap();
    let report = repair_snapshots(&place.repository, list, RepairSnapshotsOptions::default(), &(), &()).unwrap();
    assert_eq!((report.unchanged, report.changed.len()), (3, 0));
    let mut now = place.ids(ObjectKind::Snapshot);
    let mut ids = ids;
    ids.sort();
    now.sort();
    assert_eq!(now, ids);
    assert!(node(FileKind::Fifo, "x", 0o010_644).content.is_none());
}
