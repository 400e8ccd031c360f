use opendal::services::{Fs, Memory};

use super::*;
use crate::testing::behaves;

fn store(operator: Operator, manner: Manner, folder: &str) -> Arc<dyn Store> {
    Arc::new(ObjectStore::new(Parts {
        location: "memory:test".to_owned(),
        operator,
        classes: Vec::new(),
        folder: folder.to_owned(),
        manner,
        connections: 4,
        client: None,
        login: None,
        answered: Arc::default(),
        bandwidth: Arc::default(),
        secrets: Vec::new(),
    }))
}

#[test]
fn a_flat_space_of_objects_behaves() {
    behaves(|| store(Operator::new(Memory::default()).unwrap(), Manner::Objects, "a/b/"));
    behaves(|| store(Operator::new(Memory::default()).unwrap(), Manner::Objects, ""));
}

#[test]
fn files_in_folders_behave() {
    let folder = tempfile::tempdir().unwrap();
    let next = std::sync::atomic::AtomicUsize::new(0);
    behaves(|| {
        let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let root = folder.path().join(number.to_string());
        store(Operator::new(Fs::default().root(root.to_str().unwrap())).unwrap(), Manner::Files, "")
    });
}

#[test]
fn files_are_what_a_local_store_reads() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_str().unwrap();
    let remote = store(Operator::new(Fs::default().root(root)).unwrap(), Manner::Files, "");
    let local = crate::LocalStore::new(folder.path());
    for kind in [ObjectKind::Key, ObjectKind::Pack, ObjectKind::Snapshot, ObjectKind::Config] {
        let id = if kind == ObjectKind::Config { Id::default() } else { Id::of(b"x") };
        remote.put(kind, &id, b"x").unwrap();
        assert_eq!(local.get(kind, &id, None).unwrap(), b"x");
        assert_eq!(local.list(kind).unwrap(), remote.list(kind).unwrap());
    }
    // Nothing lies about under a temporary name.
    let keys: Vec<_> =
        std::fs::read_dir(folder.path().join("keys")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(keys, [std::ffi::OsString::from(Id::of(b"x").to_hex())]);
}

#[test]
fn a_broken_file_is_replaced_by_the_whole_one() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_str().unwrap();
    let remote = store(Operator::new(Fs::default().root(root)).unwrap(), Manner::Files, "");
    let id = Id::of(b"whole");
    std::fs::create_dir_all(folder.path().join("keys")).unwrap();
    std::fs::write(folder.path().join("keys").join(id.to_hex()), b"who").unwrap();
    remote.put(ObjectKind::Key, &id, b"whole").unwrap();
    assert_eq!(remote.get(ObjectKind::Key, &id, None).unwrap(), b"whole");
}

#[test]
fn an_error_names_the_object_and_hides_the_secret() {
    let memory = Operator::new(Memory::default()).unwrap();
    let parts = Parts {
        location: "s3:https://host/bucket/prefix".to_owned(),
        operator: memory,
        classes: Vec::new(),
        folder: "prefix/".to_owned(),
        manner: Manner::Objects,
        connections: 1,
        client: None,
        login: None,
        answered: Arc::default(),
        bandwidth: Arc::default(),
        secrets: vec![Secret::new("hush-hush")],
    };
    let store = ObjectStore::new(parts);
    let error =
        opendal::Error::new(ErrorKind::Unexpected, "hush-hush\nis no key").with_context("uri", "?sig=hush-hush");
    let id = Id::of(b"x");
    let path = store.path(ObjectKind::Index, &id);
    let error = store.error("read", &path, &Failed::Service(error), None);
    assert_eq!(error.object, format!("s3:https://host/bucket/prefix/index/{}", id.to_hex()));
    assert!(!format!("{error:?} {error} {store:?}").contains("hush"), "{error:?}");
    assert!(error.text.contains("*** is no key"), "{error}");
    assert_eq!(error.retry, backstay_core::Retry::Never);
}
