//! Making and opening repositories, and what is said about broken ones.

#![allow(clippy::unwrap_used)]

mod format_support;

use std::os::unix::fs::PermissionsExt;

use backstay_core::{Id, ObjectKind, Store, Time};
use backstay_repository::keyfile::{self, KeyOrigin};
use backstay_repository::{Error, InitOptions, OpenOptions, Repository, Snapshot, SnapshotFilter};
use format_support::{CHEAP, PASSWORD, open, overwrite, repository, restic, restic_ok, store};

#[test]
fn restic_works_with_a_repository_that_was_made_here() {
    let (folder, _) = repository();
    let path = folder.path().join("repo");
    assert_eq!(restic_ok(&path, &["snapshots", "--json"]).trim(), "[]");
    std::fs::write(folder.path().join("file"), "contents").unwrap();
    restic_ok(&path, &["backup", folder.path().join("file").to_str().unwrap()]);
    restic_ok(&path, &["check", "--read-data"]);
    let snapshots = open(&path).snapshots().unwrap();
    assert_eq!(snapshots.len(), 1);
    assert_eq!(snapshots[0].1.paths, [folder.path().join("file").to_str().unwrap()]);
}

#[test]
fn the_default_key_derivation_is_restics() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("repo"));
    let repository = Repository::init(store, PASSWORD.as_bytes(), InitOptions::default()).unwrap();
    let file = repository.store().get(ObjectKind::Key, &repository.key_id(), None).unwrap();
    let text = String::from_utf8(file).unwrap();
    assert!(text.contains(r#""kdf":"scrypt","N":32768,"r":8,"p":1,"salt":""#), "{text}");
    assert_eq!(open(&folder.path().join("repo")).key_id(), repository.key_id());
}

#[test]
fn everything_is_for_the_owner_only() {
    let (folder, repository) = repository();
    repository.save_snapshot(&Snapshot::default()).unwrap();
    let mut folders = vec![folder.path().join("repo")];
    let mut seen = 0;
    while let Some(directory) = folders.pop() {
        assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o7777, 0o700);
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            seen += 1;
            if path.is_dir() {
                folders.push(path);
            } else {
                assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o400);
            }
        }
    }
    assert_eq!(seen, 5 + 256 + 3);
}

#[test]
fn a_repository_is_never_made_over_another_one() {
    let (folder, _) = repository();
    let path = folder.path().join("repo");
    let error = Repository::init(store(&path), b"other", CHEAP).unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    // Without its config it may still be a repository that someone wants to save.
    std::fs::remove_file(path.join("config")).unwrap();
    assert!(matches!(Repository::init(store(&path), b"other", CHEAP).unwrap_err(), Error::Exists { .. }));
    let error = Repository::init(store(&folder.path().join("new")), b"", CHEAP).unwrap_err();
    assert!(error.to_string().contains("empty password"));
    assert!(!folder.path().join("new").exists());
}

#[test]
fn of_several_who_make_it_at_once_one_does_and_all_can_open_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("repo");
    let results: Vec<_> = std::thread::scope(|scope| {
        let make = || Repository::init(store(&path), PASSWORD.as_bytes(), CHEAP);
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let made: Vec<_> = results.iter().flatten().collect();
    assert_eq!(made.len(), 1);
    assert!(results.iter().flat_map(|result| result.as_ref().err()).all(|error| matches!(error, Error::Exists { .. })));
    // The keys of the others are gone.
    let keys = store(&path).list(ObjectKind::Key).unwrap();
    assert_eq!(keys.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [made[0].key_id()]);
    assert_eq!(open(&path).key_id(), made[0].key_id());
}

#[test]
fn a_key_of_who_was_second_and_died_keeps_nobody_out() {
    let (folder, repository) = repository();
    let other = Repository::init(store(&folder.path().join("other")), PASSWORD.as_bytes(), CHEAP).unwrap();
    let stray = other.store().get(ObjectKind::Key, &other.key_id(), None).unwrap();
    repository.store().put(ObjectKind::Key, &other.key_id(), &stray).unwrap();
    // Whichever of the two comes first.
    for hint in [repository.key_id(), other.key_id()] {
        let options = OpenOptions { key_hint: Some(hint.to_string()), ..OpenOptions::default() };
        let opened = Repository::open_with(store(&folder.path().join("repo")), PASSWORD.as_bytes(), &options).unwrap();
        assert_eq!(opened.key_id(), repository.key_id());
    }
}

#[test]
fn a_place_without_a_repository_says_so() {
    let folder = tempfile::tempdir().unwrap();
    for place in [folder.path().to_owned(), folder.path().join("not/there")] {
        let error = Repository::open(store(&place), b"x").unwrap_err();
        assert!(matches!(error, Error::NoRepository { .. }), "{error}");
        assert!(error.to_string().contains(place.to_str().unwrap()), "{error}");
    }
}

#[test]
fn an_unknown_version_is_named() {
    let (folder, repository) = repository();
    let path = folder.path().join("repo");
    let json = String::from_utf8(repository.config().encode().unwrap()).unwrap();
    let later = json.replace("\"version\":2", "\"version\":3");
    overwrite(&path, ObjectKind::Config, &Id::default(), &repository.key().seal(later.as_bytes()));
    let error = Repository::open(store(&path), PASSWORD.as_bytes()).unwrap_err();
    assert!(matches!(error, Error::UnsupportedVersion(3)), "{error}");
}

#[test]
fn config_is_stored_plain_in_its_envelope() {
    let (_folder, repository) = repository();
    let sealed = repository.store().get(ObjectKind::Config, &Id::default(), None).unwrap();
    let plain = repository.key().open(&sealed).unwrap();
    assert!(plain.starts_with(b"{\"version\":2,\"id\":\""));
}

#[test]
fn a_damaged_object_is_named() {
    let (folder, repository) = repository();
    let path = folder.path().join("repo");
    let snapshot = repository.save_snapshot(&Snapshot::default()).unwrap();
    let index = repository.save_unpacked(ObjectKind::Index, b"{\"packs\":[]}\n").unwrap();
    let broken = |kind: ObjectKind, id: &Id| {
        let mut bytes = repository.store().get(kind, id, None).unwrap();
        bytes[30] ^= 1;
        overwrite(&path, kind, id, &bytes);
    };

    broken(ObjectKind::Snapshot, &snapshot);
    let error = repository.snapshots().unwrap_err().to_string();
    assert!(error.contains(&format!("snapshot {snapshot} is damaged")), "{error}");
    broken(ObjectKind::Index, &index);
    let error = repository.load_index().unwrap_err().to_string();
    assert!(error.contains(&format!("index {index} is damaged")), "{error}");
    broken(ObjectKind::Key, &repository.key_id());
    let error = Repository::open(store(&path), PASSWORD.as_bytes()).unwrap_err().to_string();
    assert!(error.contains(&format!("key {} is damaged", repository.key_id())), "{error}");
    broken(ObjectKind::Key, &repository.key_id());
    broken(ObjectKind::Config, &Id::default());
    let error = Repository::open(store(&path), PASSWORD.as_bytes()).unwrap_err().to_string();
    assert_eq!(error, "config file is damaged: ciphertext verification failed");
}

#[test]
fn a_renamed_or_empty_file_is_refused() {
    let (folder, repository) = repository();
    let path = folder.path().join("repo");
    let id = repository.save_snapshot(&Snapshot::default()).unwrap();
    let other = Id::of(b"another name");
    std::fs::rename(path.join("snapshots").join(id.to_hex()), path.join("snapshots").join(other.to_hex())).unwrap();
    let error = repository.load_snapshot(&other).unwrap_err().to_string();
    assert!(error.contains(&format!("snapshot {other}")) && error.contains("its name"), "{error}");
    overwrite(&path, ObjectKind::Index, &other, b"");
    assert!(matches!(repository.load_index().unwrap_err(), Error::Damaged { kind: ObjectKind::Index, .. }));
}

#[test]
fn foreign_files_are_ignored_everywhere() {
    let (folder, repository) = repository();
    let path = folder.path().join("repo");
    let id = repository.save_snapshot(&Snapshot::default()).unwrap();
    let upper = Id::of(b"x").to_hex().to_uppercase();
    for name in ["README", "tmp-123", &format!("{}-tmp-1234", id.to_hex()), &upper, "0123"] {
        for directory in ["keys", "locks", "snapshots", "index", "data/00"] {
            std::fs::write(path.join(directory).join(name), "foreign").unwrap();
        }
    }
    std::fs::create_dir_all(path.join("data/zz")).unwrap();
    std::fs::write(path.join("data/zz/foo"), "x").unwrap();
    std::fs::create_dir(path.join("snapshots").join(Id::of(b"folder").to_hex())).unwrap();
    std::fs::create_dir(path.join("other")).unwrap();
    let repository = open(&path);
    assert_eq!(repository.snapshots().unwrap().len(), 1);
    assert!(repository.load_index().unwrap().is_empty());
    assert!(repository.locks().unwrap().is_empty());
    assert!(repository.store().list(ObjectKind::Pack).unwrap().is_empty());
}

#[test]
fn the_twenty_first_key_is_found_by_its_hint() {
    let (folder, repository) = repository();
    let path = folder.path().join("repo");
    let origin = KeyOrigin { created: Time::default(), username: String::new(), hostname: String::new() };
    let mut keys = vec![repository.key_id()];
    for number in 0..20 {
        let file =
            keyfile::wrap(repository.key(), format!("password {number}").as_bytes(), CHEAP.kdf, &origin).unwrap();
        let id = Id::of(&file);
        repository.store().put(ObjectKind::Key, &id, &file).unwrap();
        keys.push(id);
    }
    let last = *keys.iter().max().unwrap();
    let password = match keys.iter().position(|key| *key == last).unwrap() {
        0 => PASSWORD.to_owned(),
        number => format!("password {}", number - 1),
    };
    let error = Repository::open(store(&path), password.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("20 of 21 keys") && error.contains("hint"), "{error}");
    let hint = OpenOptions { key_hint: Some(last.to_hex()[..12].to_owned()), ..OpenOptions::default() };
    assert_eq!(Repository::open_with(store(&path), password.as_bytes(), &hint).unwrap().key_id(), last);
}

#[test]
fn one_broken_key_does_not_keep_the_others_from_opening() {
    let (folder, repository) = repository();
    let path = folder.path().join("repo");
    for first in ["00", "ff"] {
        let name = format!("{first}{}", "0".repeat(62)).parse().unwrap();
        overwrite(&path, ObjectKind::Key, &name, b"not a key");
    }
    assert_eq!(open(&path).key_id(), repository.key_id());
}

#[test]
fn snapshots_are_found_by_latest_id_and_prefix() {
    let (_folder, repository) = repository();
    let all = SnapshotFilter::default();
    assert!(matches!(repository.snapshot("latest", &all).unwrap_err(), Error::NoSnapshot(_)));
    let save = |seconds, host: &str, tags: &[&str]| {
        let snapshot = Snapshot {
            time: Time { seconds, nanoseconds: 0 }.into(),
            hostname: host.to_owned(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            ..Snapshot::default()
        };
        repository.save_snapshot(&snapshot).unwrap()
    };
    let newest = save(2000, "a", &[]);
    let older = save(1000, "b", &["t"]);
    save(3000, "a", &[backstay_repository::snapshot::PARTIAL_TAG]);
    assert_eq!(repository.snapshot("latest", &all).unwrap().0, newest);
    let of_b = SnapshotFilter { hosts: vec!["b".to_owned()], ..all.clone() };
    assert_eq!(repository.snapshot("latest", &of_b).unwrap().0, older);
    let of_c = SnapshotFilter { hosts: vec!["c".to_owned()], ..all.clone() };
    assert!(matches!(repository.snapshot("latest", &of_c).unwrap_err(), Error::NoSnapshot(_)));
    assert_eq!(repository.snapshot(&older.to_hex()[..12], &all).unwrap().0, older);
    assert_eq!(repository.snapshot(&older.to_hex().to_uppercase(), &all).unwrap().0, older);
    let times: Vec<i64> = repository.snapshots().unwrap().iter().map(|(_, one)| one.time.time().seconds).collect();
    assert_eq!(times, [1000, 2000, 3000]);
    // Seventeen ids cannot all begin with different digits.
    for _ in 0..14 {
        save(1, "x", &[]);
    }
    let ids = repository.snapshot_ids().unwrap();
    let shared = (0..16)
        .map(|digit| format!("{digit:x}"))
        .find(|digit| ids.iter().filter(|id| id.to_hex().starts_with(digit)).count() > 1)
        .unwrap();
    let error = repository.snapshot(&shared, &all).unwrap_err();
    assert!(matches!(error, Error::Ambiguous(_)) && error.to_string().contains("ambiguous"), "{error}");
    for nothing in ["", "xyz", "latest~1", &"0".repeat(64)] {
        let error = repository.snapshot(nothing, &all).unwrap_err();
        assert!(matches!(error, Error::NoSnapshot(_)) && error.to_string().contains("no snapshot"), "{error}");
    }
}

#[test]
fn version_1_is_read_and_never_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("repo");
    let source = folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "contents").unwrap();
    restic_ok(&path, &["init", "--repository-version", "1"]);
    restic_ok(&path, &["backup", source.to_str().unwrap()]);
    let repository = open(&path);
    assert_eq!(repository.version(), 1);
    let (_, snapshot) = repository.snapshot("latest", &SnapshotFilter::default()).unwrap();
    assert_eq!(snapshot.paths, [source.to_str().unwrap()]);
    let index = repository.load_index().unwrap();
    assert!(index.blobs().all(|(_, blob)| blob.uncompressed.is_none()) && !index.is_empty());
    assert!(matches!(repository.save_snapshot(&snapshot).unwrap_err(), Error::ReadOnlyVersion));
    // A reader locks, so that restic's prune waits for it; restic must be able to read that lock.
    let lock = repository.lock(false, None).unwrap();
    let locks = restic_ok(&path, &["list", "locks", "--no-lock"]);
    assert_eq!(locks.trim().len(), 64, "{locks}");
    assert!(!restic(&path, &["prune"]).status.success());
    drop(lock);
    restic_ok(&path, &["prune"]);
}

#[test]
fn unpacked_files_are_compressed_and_named_by_their_hash() {
    let (_folder, repository) = repository();
    let json = format!("{{\"packs\":[],\"padding\":\"{}\"}}\n", "x".repeat(1000));
    let id = repository.save_unpacked(ObjectKind::Index, json.as_bytes()).unwrap();
    let file = repository.store().get(ObjectKind::Index, &id, None).unwrap();
    assert_eq!(Id::of(&file), id);
    assert!(file.len() < 200);
    assert_eq!(repository.key().open(&file).unwrap()[..5], [2, 0x28, 0xb5, 0x2f, 0xfd]);
    assert_eq!(repository.load_unpacked(ObjectKind::Index, &id).unwrap(), json.as_bytes());
    // Plain JSON, as rustic writes it with compression off.
    let plain = repository.key().seal(json.as_bytes());
    repository.store().put(ObjectKind::Index, &Id::of(&plain), &plain).unwrap();
    assert_eq!(repository.load_unpacked(ObjectKind::Index, &Id::of(&plain)).unwrap(), json.as_bytes());
}

#[test]
fn what_the_store_refuses_is_told_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = store(&file.join("repo")).create().unwrap_err();
    assert!(error.to_string().contains("file/repo"), "{error}");
    let store: std::sync::Arc<dyn Store> = store(&file);
    assert!(Repository::init(store, b"x", CHEAP).is_err());
}
