//! A small repository in memory-sized pieces, and the ways to look at it.

use std::sync::Arc;

use backstay_core::{FileKind, Id, ObjectKind, Store, Time};
use backstay_repository::keyfile::KdfParams;
use backstay_repository::{
    BlobKind, InitOptions, Node, Reader, Repository, Snapshot, WriteOptions, Writer, check, gotext,
};

/// A repository whose password is quickly tried.
pub(crate) fn init(store: Arc<dyn Store>) -> Arc<Repository> {
    let options = InitOptions { kdf: KdfParams { log_n: 4, r: 1, p: 1 }, ..InitOptions::default() };
    Arc::new(Repository::init(store, b"test", options).unwrap())
}

/// Bytes that neither compress nor repeat, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

pub(crate) fn writer(repository: &Arc<Repository>, pack_size: usize) -> Arc<Writer> {
    let index = Arc::new(repository.load_index().unwrap());
    let options = WriteOptions { pack_size, threads: 1, ..WriteOptions::default() };
    Writer::new(Arc::clone(repository), index, options).unwrap()
}

/// A file's node whose contents are these blobs.
pub(crate) fn file(name: &str, contents: &[(Id, usize)]) -> Node {
    Node {
        name: name.as_bytes().to_vec(),
        size: contents.iter().map(|(_, length)| *length as u64).sum(),
        content: Some(contents.iter().map(|(id, _)| *id).collect()),
        ..Node::new(FileKind::File)
    }
}

pub(crate) fn directory(name: &str, tree: Id) -> Node {
    Node { name: name.as_bytes().to_vec(), subtree: Some(tree), ..Node::new(FileKind::Directory) }
}

/// Saves a snapshot of a folder `sub` with a file for each seed: `length` bytes that only this seed gives.
pub(crate) fn back_up(
    repository: &Arc<Repository>,
    seconds: i64,
    seeds: &[u64],
    length: usize,
    pack_size: usize,
) -> Id {
    let writer = writer(repository, pack_size);
    let tree = write_tree(&writer, seeds, length);
    writer.finish().unwrap();
    save_snapshot(repository, seconds, tree)
}

pub(crate) fn write_tree(writer: &Arc<Writer>, seeds: &[u64], length: usize) -> Id {
    let nodes: Vec<Node> = seeds
        .iter()
        .map(|seed| {
            let id = writer.save(BlobKind::Data, &noise(*seed, length)).unwrap();
            file(&format!("file {seed}"), &[(id, length)])
        })
        .collect();
    let sub = writer.save_tree(&nodes).unwrap();
    writer.save_tree(&[directory("sub", sub)]).unwrap()
}

pub(crate) fn save_snapshot(repository: &Repository, seconds: i64, tree: Id) -> Id {
    let snapshot = Snapshot {
        time: Time { seconds, nanoseconds: 0 }.into(),
        tree,
        paths: vec!["/sub".to_owned()],
        hostname: "host".to_owned(),
        ..Snapshot::default()
    };
    repository.save_unpacked(ObjectKind::Snapshot, &gotext::to_json(&snapshot).unwrap()).unwrap()
}

/// Reads everything that the snapshot holds and compares it with what the seeds give.
pub(crate) fn assert_holds(repository: &Arc<Repository>, snapshot: &Id, seeds: &[u64], length: usize) {
    let reader = Reader::new(Arc::clone(repository), Arc::new(repository.load_index().unwrap()));
    let root = repository.load_snapshot(snapshot).unwrap().tree;
    for seed in seeds {
        let node = reader.node_at(&root, format!("sub/file {seed}").as_bytes()).unwrap().unwrap();
        let contents: Vec<u8> =
            node.content.unwrap().iter().flat_map(|id| reader.load(BlobKind::Data, id).unwrap()).collect();
        assert!(contents == noise(*seed, length), "file {seed} of snapshot {snapshot}");
    }
}

/// What our check of everything says.
pub(crate) fn check_all(repository: &Arc<Repository>) -> check::CheckReport {
    let options = check::CheckOptions { read_data: check::ReadData::All, threads: Some(2) };
    check::check(repository, options, &()).unwrap()
}

pub(crate) fn stored(repository: &Repository, kind: ObjectKind) -> Vec<Id> {
    let mut ids: Vec<Id> = repository.store().list(kind).unwrap().into_iter().map(|(id, _)| id).collect();
    ids.sort();
    ids
}
