//! Checks: a sound repository is called sound, and a byte that changed anywhere is named by its object.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use std::sync::{Arc, Mutex};

use backstay_core::{Id, ObjectKind};
use backstay_repository::check::{CheckOptions, CheckReport, ReadData, check};
use backstay_repository::keyfile::KdfParams;
use backstay_repository::{
    BlobKind, Index, InitOptions, Repository, Snapshot, WriteOptions, Writer, index::encode_index_file,
};
use backstay_stores::MemoryStore;
use backstay_stores::faults::{Call, Fault, FaultStore, Moment, Watch, points::AFTER_INDEX_LIST};

use crate::fixture::{Fixture, flip, name_of, restic};

fn run(fixture: &Fixture, read_data: ReadData) -> CheckReport {
    check(&fixture.repository(), CheckOptions { read_data, threads: None }, &()).unwrap()
}

#[test]
fn a_sound_repository_is_called_sound() {
    let fixture = Fixture::with_source();
    fs::write(fixture.source().join("later"), "second").unwrap();
    fixture.backup("second");
    let report = run(&fixture, ReadData::All);
    assert_eq!(report.errors, Vec::<String>::new());
    assert_eq!(report.hints, Vec::<String>::new());
    assert_eq!(report.snapshots, 2);
    let packs = fixture.objects("data");
    assert_eq!((report.packs, report.packs_read), (packs.len() as u64, packs.len() as u64));
    assert!(packs.len() >= 4);
    let bytes: u64 = packs.iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert_eq!(report.bytes_read, bytes);
    let parts: u64 = (0..3).map(|part| run(&fixture, ReadData::Part { part, parts: 3 }).packs_read).sum();
    assert_eq!(parts, packs.len() as u64);
    assert_eq!(run(&fixture, ReadData::Percent(1.0)).packs_read, 1);
    assert_eq!(run(&fixture, ReadData::None).packs_read, 0);
}

#[test]
fn a_changed_byte_is_found_in_every_kind_of_object() {
    for folder in ["index", "snapshots", "keys"] {
        let fixture = Fixture::new();
        // A second key keeps the repository open when the first one is damaged.
        let file = fixture.objects(folder).pop().unwrap();
        let middle = fs::metadata(&file).unwrap().len() / 2;
        let repository = fixture.repository();
        flip(&file, middle);
        let report = check(&repository, CheckOptions::default(), &()).unwrap();
        assert!(report.errors.iter().any(|error| error.contains(&name_of(&file))), "{folder}: {:?}", report.errors);
    }
}

#[test]
fn a_changed_byte_in_a_pack_is_found_wherever_it_is() {
    let fixture = Fixture::new();
    let repository = fixture.repository();
    let index = repository.load_index().unwrap();
    for (pack, summary) in index.packs() {
        let file = fixture.objects("data").into_iter().find(|file| name_of(file) == pack.to_hex()).unwrap();
        let length = fs::metadata(&file).unwrap().len();
        // In the first blob, the header and the header's length.
        for offset in [20, length - 20, length - 1] {
            flip(&file, offset);
            let report = run(&fixture, ReadData::All);
            assert!(
                report.errors.iter().all(|error| error.contains(&pack.to_hex())) && !report.errors.is_empty(),
                "{offset}: {:?}",
                report.errors
            );
            assert_eq!(report.broken_packs, [pack]);
            let without_data = run(&fixture, ReadData::None);
            // A tree is read in any case.
            let first_is_used = offset == 20 && summary.kind == BlobKind::Tree;
            assert_eq!(!without_data.errors.is_empty(), first_is_used, "{:?}", without_data.errors);
            flip(&file, offset);
        }
    }
    assert_eq!(run(&fixture, ReadData::All).errors, Vec::<String>::new());
}

#[test]
fn missing_cut_off_and_additional_packs_are_told_apart() {
    let fixture = Fixture::new();
    let packs = fixture.objects("data");
    let additional = fixture.store().join("data/00").join("00".repeat(32));
    fs::create_dir_all(additional.parent().unwrap()).unwrap();
    fs::write(&additional, "left over").unwrap();
    let report = run(&fixture, ReadData::None);
    assert_eq!(report.errors, Vec::<String>::new());
    assert!(report.hints[0].contains(&name_of(&additional)) && report.suggest_prune);

    let (cut, gone) = (&packs[packs.len() - 1], &packs[packs.len() - 2]);
    fs::remove_file(gone).unwrap();
    fs::set_permissions(cut, fs::Permissions::from_mode(0o600)).unwrap();
    let length = fs::metadata(cut).unwrap().len();
    fs::OpenOptions::new().write(true).open(cut).unwrap().set_len(length - 1).unwrap();
    let report = run(&fixture, ReadData::None);
    assert_eq!(report.errors.len(), 2, "{:?}", report.errors);
    assert!(report.errors.iter().any(|error| error.contains(&name_of(gone)) && error.contains("does not exist")));
    assert!(report.errors.iter().any(|error| error.contains(&name_of(cut)) && error.contains("unexpected file size")));
}

#[test]
fn a_blob_that_no_index_lists_is_named_with_the_file_that_needs_it() {
    let fixture = Fixture::new();
    let repository = fixture.repository();
    let index = repository.load_index().unwrap();
    // Everything again in one index file, but for the packs of data.
    let kept: Vec<(Id, _)> = index
        .packs()
        .filter(|(_, summary)| summary.kind == BlobKind::Tree)
        .map(|(pack, _)| (pack, index.pack_blobs(&pack)))
        .collect();
    repository.save_unpacked(ObjectKind::Index, &encode_index_file(&kept)).unwrap();
    for (id, _) in repository.store().list(ObjectKind::Index).unwrap() {
        if repository.load_index_file(&id).unwrap().packs.len() != kept.len() {
            repository.store().delete(ObjectKind::Index, &id).unwrap();
        }
    }
    let report = run(&fixture, ReadData::None);
    let lost = index.packs().filter(|(_, summary)| summary.kind == BlobKind::Data).count();
    assert!(lost > 0 && report.hints.iter().any(|hint| hint.starts_with(&format!("{lost} additional packs"))));
    assert!(report.errors.iter().any(|error| error.contains("\"labelled\"") && error.contains("in no index")));
    assert!(report.errors.iter().all(|error| error.contains("snapshot ")));
}

#[test]
fn an_index_that_contradicts_the_packs_is_found() {
    let fixture = Fixture::new();
    let repository = fixture.repository();
    let index = repository.load_index().unwrap();
    let mut packs: Vec<(Id, _)> = index.packs().map(|(pack, _)| (pack, index.pack_blobs(&pack))).collect();
    let (pack, blobs) = packs.iter_mut().find(|(_, blobs)| blobs.len() > 1).unwrap();
    let damaged = *pack;
    let length = blobs[0].uncompressed.unwrap().get();
    blobs[0].uncompressed = std::num::NonZeroU32::new(length + 1);
    let old = repository.store().list(ObjectKind::Index).unwrap();
    repository.save_unpacked(ObjectKind::Index, &encode_index_file(&packs)).unwrap();
    let twice = run(&fixture, ReadData::None);
    assert!(twice.errors.iter().any(|error| error.contains(&damaged.to_hex()) && error.contains("other blobs")));
    assert!(twice.hints.iter().any(|hint| hint.contains("more than one index file")) || packs.len() == 1);
    for (id, _) in old {
        repository.store().delete(ObjectKind::Index, &id).unwrap();
    }
    let report = run(&fixture, ReadData::All);
    assert!(report.errors.iter().any(|error| error.contains(&damaged.to_hex()) && error.contains("the index says")));
}

#[test]
fn what_we_call_sound_restic_calls_sound() {
    let fixture = Fixture::new();
    assert!(run(&fixture, ReadData::All).errors.is_empty());
    restic(&fixture.store(), &["check", "--read-data"]);
}

/// Writes a snapshot when a call is held up.
#[derive(Debug)]
struct Backup(Mutex<Option<Arc<Repository>>>);

fn write_snapshot(repository: &Arc<Repository>) {
    let writer = Writer::new(Arc::clone(repository), Arc::new(Index::default()), WriteOptions::default()).unwrap();
    let tree = writer.save_tree(&[]).unwrap();
    writer.finish().unwrap();
    repository.save_snapshot(&Snapshot { tree, ..Snapshot::default() }).unwrap();
}

impl Watch for Backup {
    fn delayed(&self, _call: &Call, _moment: Moment) {
        write_snapshot(&self.0.lock().unwrap().take().unwrap());
    }
}

#[test]
fn a_backup_that_ends_while_a_check_runs_is_not_taken_for_damage() {
    let inner = Arc::new(MemoryStore::default());
    let options = InitOptions { kdf: KdfParams { log_n: 2, r: 1, p: 1 }, ..InitOptions::default() };
    let other = Arc::new(Repository::init(inner.clone(), b"x", options).unwrap());
    let store = FaultStore::new(inner).watched_by(Arc::new(Backup(Mutex::new(Some(Arc::clone(&other))))));
    store.arm(AFTER_INDEX_LIST, 1, Fault::Delay);
    let repository = Arc::new(Repository::open(Arc::new(store), b"x").unwrap());
    let report = check(&repository, CheckOptions::default(), &()).unwrap();
    assert_eq!(other.snapshots().unwrap().len(), 1, "the backup ended while the check ran");
    assert_eq!(report.errors, Vec::<String>::new());
}
