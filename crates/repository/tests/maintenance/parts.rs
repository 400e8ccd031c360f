//! What the commands are made of.

use std::sync::Arc;

use backstay_core::{Id, ObjectKind};
use backstay_repository::maintenance::pack_header::read_header;
use backstay_repository::maintenance::replace_index::replace_index;
use backstay_repository::maintenance::used::{Root, UsedBlobs, collect};
use backstay_repository::{BlobKind, Reader};
use backstay_stores::LocalStore;

use crate::support::{assert_holds, back_up, check_all, directory, init, save_snapshot, stored, writer};

#[test]
fn everything_that_a_snapshot_names_is_used_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let repository = init(Arc::new(LocalStore::new(folder.path())));
    let first = back_up(&repository, 1, &[1, 2, 3], 5000, 20_000);
    back_up(&repository, 2, &[3, 4], 5000, 20_000);
    let reader = Reader::new(Arc::clone(&repository), Arc::new(repository.load_index().unwrap()));
    let tree = repository.load_snapshot(&first).unwrap().tree;
    let used = UsedBlobs::new();
    let root = Root { snapshot: first, tree };
    collect(&reader, [root, root], &used, &()).unwrap();
    assert_eq!((used.ids(BlobKind::Tree).len(), used.ids(BlobKind::Data).len()), (2, 3));
    let all = UsedBlobs::new();
    let roots = repository.snapshots().unwrap();
    collect(&reader, roots.iter().map(|(id, one)| Root { snapshot: *id, tree: one.tree }), &all, &()).unwrap();
    assert_eq!((all.ids(BlobKind::Tree).len(), all.ids(BlobKind::Data).len()), (4, 4));
    assert_eq!(all.len(), reader.index().len());
}

#[test]
fn what_cannot_be_read_is_named_with_its_snapshot_and_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let repository = init(Arc::new(LocalStore::new(folder.path())));
    let writer = writer(&repository, 20_000);
    let tree = writer.save_tree(&[directory("gone", Id::of(b"no tree"))]).unwrap();
    writer.finish().unwrap();
    let snapshot = save_snapshot(&repository, 1, tree);
    let reader = Reader::new(Arc::clone(&repository), Arc::new(repository.load_index().unwrap()));
    let error = collect(&reader, [Root { snapshot, tree }], &UsedBlobs::new(), &()).unwrap_err().to_string();
    assert!(error.contains(&snapshot.short()) && error.contains("\"/gone\""), "{error}");
    assert!(error.contains(&Id::of(b"no tree").to_hex()), "{error}");
}

#[test]
fn new_index_files_take_the_place_of_old_ones() {
    let folder = tempfile::tempdir().unwrap();
    let repository = init(Arc::new(LocalStore::new(folder.path())));
    let snapshot = back_up(&repository, 1, &[1, 2, 3], 5000, 8_000);
    back_up(&repository, 2, &[4, 5], 5000, 8_000);
    let old = stored(&repository, ObjectKind::Index);
    assert_eq!(old.len(), 2);
    let index = repository.load_index().unwrap();
    let packs: Vec<Id> = index.packs().map(|(id, _)| id).collect();
    let new = replace_index(&repository, packs.iter().map(|pack| (*pack, index.pack_blobs(pack))), &old).unwrap();
    assert_eq!(stored(&repository, ObjectKind::Index), new);
    assert_eq!(new.len(), 1);
    assert_holds(&repository, &snapshot, &[1, 2, 3], 5000);
    assert_eq!(check_all(&repository).errors, [""; 0]);
}

#[test]
fn a_packs_header_says_what_the_index_says() {
    let folder = tempfile::tempdir().unwrap();
    let repository = init(Arc::new(LocalStore::new(folder.path())));
    back_up(&repository, 1, &(0..700).collect::<Vec<_>>(), 100, 1 << 20);
    let index = repository.load_index().unwrap();
    let mut longest = 0;
    for (pack, size) in repository.store().list(ObjectKind::Pack).unwrap() {
        let blobs = read_header(&repository, &pack, size).unwrap();
        longest = longest.max(blobs.len());
        assert_eq!(blobs, index.pack_blobs(&pack));
        assert!(read_header(&repository, &pack, size - 1).is_err());
    }
    assert!(longest >= 700, "a header longer than the first read");
}
