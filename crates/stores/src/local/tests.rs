//! The local store: the behaviour of every store, and what only a directory can get wrong.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::{LocalStore, error_kind};
use crate::testing;
use backstay_core::{Id, ObjectKind, Store, StoreErrorKind};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn it_behaves_as_every_store() {
    let folders = Mutex::new(Vec::new());
    testing::behaves(|| {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::new(folder.path().join("deep/repo"));
        folders.lock().unwrap().push(folder);
        Arc::new(store)
    });
    assert_eq!(folders.lock().unwrap().len(), 13);
}

#[test]
fn objects_lie_where_restic_looks_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("repo");
    let store = LocalStore::new(&root);
    store.create().unwrap();
    assert_eq!(names(&root), ["data", "index", "keys", "locks", "snapshots"]);
    assert_eq!(names(&root.join("data")).len(), 256);
    let id = Id::of(b"x");
    for (kind, path) in [
        (ObjectKind::Config, "config".to_owned()),
        (ObjectKind::Key, format!("keys/{id}")),
        (ObjectKind::Lock, format!("locks/{id}")),
        (ObjectKind::Snapshot, format!("snapshots/{id}")),
        (ObjectKind::Index, format!("index/{id}")),
        (ObjectKind::Pack, format!("data/{}/{id}", &id.to_hex()[..2])),
    ] {
        store.put(kind, &id, b"x").unwrap();
        assert_eq!(std::fs::read(root.join(&path)).unwrap(), b"x");
        assert_eq!(mode(&root.join(&path)), 0o400, "{path}");
        assert_eq!(mode(root.join(&path).parent().unwrap()) & 0o077, 0, "{path}");
    }
}

#[test]
fn a_repository_that_the_group_may_read_stays_so() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config");
    std::fs::write(&config, "").unwrap();
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o440)).unwrap();
    LocalStore::new(folder.path()).put(ObjectKind::Index, &Id::of(b"x"), b"x").unwrap();
    assert_eq!(mode(&folder.path().join("index")), 0o750);
    assert_eq!(mode(&folder.path().join("index").join(Id::of(b"x").to_hex())), 0o440);
}

#[test]
fn what_killed_runs_left_behind_is_not_listed() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path());
    store.create().unwrap();
    let id = Id::of(b"whole");
    store.put(ObjectKind::Pack, &id, b"whole").unwrap();
    let place = folder.path().join("data").join(&id.to_hex()[..2]);
    for name in [format!("{id}-tmp-0123456789abcdef"), id.to_hex().to_uppercase(), "short".to_owned()] {
        std::fs::write(place.join(name), "half").unwrap();
    }
    std::fs::create_dir(place.join(Id::of(b"folder").to_hex())).unwrap();
    assert_eq!(store.list(ObjectKind::Pack).unwrap(), [(id, 5)]);
}

#[test]
fn no_temporary_file_stays_after_success_or_failure() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path());
    store.put(ObjectKind::Config, &Id::default(), b"first").unwrap();
    store.put(ObjectKind::Config, &Id::default(), b"second").unwrap_err();
    store.put(ObjectKind::Index, &Id::of(b"x"), b"x").unwrap();
    // The name is taken by a folder: the rename fails at the very end.
    let taken = Id::of(b"taken");
    std::fs::create_dir(folder.path().join("index").join(taken.to_hex())).unwrap();
    store.put(ObjectKind::Index, &taken, b"taken").unwrap_err();
    assert_eq!(names(folder.path()), ["config", "index"]);
    assert_eq!(names(&folder.path().join("index")).len(), 2);
}

#[test]
fn a_file_of_the_wrong_size_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path());
    store.create().unwrap();
    let id = Id::of(b"contents");
    std::fs::write(folder.path().join("index").join(id.to_hex()), b"cont").unwrap();
    store.put(ObjectKind::Index, &id, b"contents").unwrap();
    assert_eq!(store.get(ObjectKind::Index, &id, None).unwrap(), b"contents");
}

#[test]
fn errors_say_what_was_attempted_where() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path());
    let id = Id::of(b"x");
    let error = store.get(ObjectKind::Index, &id, None).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::NotFound);
    assert_eq!(error.operation, "read");
    assert!(error.object.ends_with(&format!("index/{id}")), "{error}");
    store.put(ObjectKind::Index, &id, b"x").unwrap();
    let error = store.get(ObjectKind::Index, &id, Some(0..7)).unwrap_err();
    assert!(error.text.contains("ends before byte 7"), "{error}");
}

#[test]
fn a_full_device_is_told_apart() {
    // A real full file system takes root to make; the scripts' end-to-end tests have one.
    let mut full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let error = std::io::Write::write_all(&mut full, b"x").unwrap_err();
    assert_eq!(error_kind(&error), StoreErrorKind::Full);
    for (number, kind) in [
        (rustix::io::Errno::DQUOT, StoreErrorKind::Full),
        (rustix::io::Errno::ACCESS, StoreErrorKind::Denied),
        (rustix::io::Errno::PERM, StoreErrorKind::Denied),
        (rustix::io::Errno::ROFS, StoreErrorKind::Denied),
        (rustix::io::Errno::IO, StoreErrorKind::Other),
    ] {
        assert_eq!(error_kind(&number.into()), kind);
    }
}

#[test]
fn deleting_many_names_what_could_not_be_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::new(folder.path());
    let (one, two) = (Id::of(b"one"), Id::of(b"two"));
    store.put(ObjectKind::Key, &one, b"one").unwrap();
    // A folder in the place of an object cannot be unlinked.
    std::fs::create_dir_all(folder.path().join("keys").join(two.to_hex())).unwrap();
    let error = store.delete_all(ObjectKind::Key, &[one, two]).unwrap_err();
    assert!(error.object.ends_with(&two.to_hex()), "{error}");
    assert_eq!(store.list(ObjectKind::Key).unwrap(), []);
}
