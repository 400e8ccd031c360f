//! The write path from outside: what is written can be read back, is written once, and never half.
#![allow(clippy::unwrap_used)] // the lint's own exception for tests leaves out their helpers

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use backstay_core::{FileKind, Id, ObjectKind, Store, StoreError, StoreErrorKind};
use backstay_repository::assemble::Assembler;
use backstay_repository::chunker::ChunkerParams;
use backstay_repository::keyfile::KdfParams;
use backstay_repository::reader::Reader;
use backstay_repository::{BlobKind, Index, InitOptions, Node, Repository, WriteOptions, Writer};
use backstay_stores::LocalStore;

fn init(store: Arc<dyn Store>) -> Arc<Repository> {
    let options = InitOptions { kdf: KdfParams { log_n: 4, r: 1, p: 1 }, ..InitOptions::default() };
    Arc::new(Repository::init(store, b"test", options).unwrap())
}

fn repository(folder: &std::path::Path) -> Arc<Repository> {
    init(Arc::new(LocalStore::new(folder)))
}

fn writer(repository: &Arc<Repository>) -> Arc<Writer> {
    let index = Arc::new(repository.load_index().unwrap());
    Writer::new(Arc::clone(repository), index, WriteOptions::default()).unwrap()
}

fn reader(repository: &Arc<Repository>) -> Reader {
    Reader::new(Arc::clone(repository), Arc::new(repository.load_index().unwrap()))
}

/// Bytes that neither compress nor repeat, the same for the same seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
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

fn contents(reader: &Reader, ids: &[Id]) -> Vec<u8> {
    ids.iter().flat_map(|id| reader.blob(BlobKind::Data, id).unwrap().to_vec()).collect()
}

#[test]
fn a_stream_comes_back_whole_however_it_was_fed() {
    let folder = tempfile::tempdir().unwrap();
    let repository = repository(folder.path());
    let data = noise(1, 30_000_001);
    let writer = writer(&repository);

    let mut by_slices = writer.content();
    for slice in data.chunks(77_777) {
        by_slices.write(slice).unwrap();
    }
    let by_slices = by_slices.finish().unwrap();

    let file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut &file, &data).unwrap();
    std::io::Seek::rewind(&mut &file).unwrap();
    let mut by_descriptor = writer.content();
    assert_eq!(by_descriptor.read_from(file.as_fd(), Some(1000)).unwrap().unwrap(), 1000);
    assert_eq!(by_descriptor.read_from(file.as_fd(), None).unwrap().unwrap(), 30_000_001 - 1000);
    let by_descriptor = by_descriptor.finish().unwrap();

    let stats = writer.finish().unwrap();
    assert_eq!(by_slices, by_descriptor, "chunk borders depend on the contents alone");
    assert_eq!(stats.added, data.len() as u64, "the second time nothing is added");
    assert!(by_slices.ids.len() > 10);
    assert_eq!(contents(&reader(&repository), &by_slices.ids), data);
}

#[test]
fn a_hole_becomes_the_one_zero_chunk() {
    let folder = tempfile::tempdir().unwrap();
    let repository = repository(folder.path());
    let writer = writer(&repository);
    let mut content = writer.content();
    content.write(b"head").unwrap();
    content.hole(10 << 30).unwrap();
    content.write(b"tail").unwrap();
    let content = content.finish().unwrap();
    let stats = writer.finish().unwrap();
    assert_eq!(content.size, (10 << 30) + 8);
    assert_eq!(stats.data_blobs, 3, "head, tail and one zero chunk");
    let unit = repository.chunker().zero_chunk_len() as u64;
    assert_eq!(content.ids.len() as u64, (10 << 30) / unit + 2);
}

#[test]
fn zeros_in_a_stream_and_holes_become_the_same_chunk() {
    let folder = tempfile::tempdir().unwrap();
    let repository = repository(folder.path());
    let writer = writer(&repository);
    let unit = repository.chunker().zero_chunk_len();
    let mut read = writer.content();
    read.write(&vec![0; 3 * unit]).unwrap();
    let mut hole = writer.content();
    hole.hole(3 * unit as u64).unwrap();
    assert_eq!(read.finish().unwrap(), hole.finish().unwrap());
    assert_eq!(writer.finish().unwrap().data_blobs, 1);
}

#[test]
fn small_holes_and_empty_contents_are_exact() {
    let folder = tempfile::tempdir().unwrap();
    let repository = repository(folder.path());
    let writer = writer(&repository);
    let mut content = writer.content();
    content.write(b"a").unwrap();
    content.hole(1000).unwrap();
    content.hole(ChunkerParams::MIN as u64 + 1).unwrap();
    content.write(b"b").unwrap();
    let content = content.finish().unwrap();
    let empty = writer.content().finish().unwrap();
    writer.finish().unwrap();
    let mut expected = vec![b'a'];
    expected.resize(1001 + ChunkerParams::MIN + 1, 0);
    expected.push(b'b');
    assert_eq!(contents(&reader(&repository), &content.ids), expected);
    assert!(empty.ids.is_empty());
}

#[test]
fn a_second_run_stores_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let repository = repository(folder.path());
    let data = noise(2, 3_000_000);
    for expected in [data.len() as u64, 0] {
        let writer = writer(&repository);
        let mut content = writer.content();
        content.write(&data).unwrap();
        content.finish().unwrap();
        assert_eq!(writer.finish().unwrap().added, expected);
    }
}

#[test]
fn blobs_saved_by_many_threads_at_once_are_all_there() {
    let folder = tempfile::tempdir().unwrap();
    let repository = repository(folder.path());
    let writer = writer(&repository);
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let writer = &writer;
            scope.spawn(move || {
                for at in 0..200 {
                    // Half of the blobs are saved by several threads.
                    let seed = if at % 2 == 0 { at } else { 1000 * (thread + 1) + at };
                    writer.save(BlobKind::Data, &noise(seed, 10_000)).unwrap();
                }
            });
        }
    });
    let stats = writer.finish().unwrap();
    assert_eq!(stats.data_blobs, 100 + 8 * 100);
    let reader = reader(&repository);
    for seed in (0..200).step_by(2) {
        let data = noise(seed, 10_000);
        assert_eq!(reader.blob(BlobKind::Data, &Id::of(&data)).unwrap()[..], data[..]);
    }
}

#[test]
fn after_a_checkpoint_everything_saved_before_it_can_be_read_while_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let repository = repository(folder.path());
    let options = WriteOptions { pack_size: 100_000, ..WriteOptions::default() };
    let writer = Writer::new(Arc::clone(&repository), Arc::new(Index::default()), options).unwrap();
    // The threads save the same blobs: whoever is told that one is known already may rely on it.
    let blob = |round: u64, number: u64| noise(round * 1000 + number, 5_000 + 37 * number as usize);
    let saved: [parking_lot::Mutex<Vec<Id>>; 4] = std::array::from_fn(|_| parking_lot::Mutex::default());
    let running = std::sync::atomic::AtomicUsize::new(saved.len());
    std::thread::scope(|scope| {
        for list in &saved {
            let (writer, running) = (&writer, &running);
            scope.spawn(move || {
                for (round, number) in (0..20).flat_map(|round| (0..20).map(move |number| (round, number))) {
                    let id = writer.save(BlobKind::Data, &blob(round, number)).unwrap();
                    list.lock().push(id);
                }
                running.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
            });
        }
        loop {
            let last = running.load(std::sync::atomic::Ordering::SeqCst) == 0;
            let before: Vec<Id> = saved.iter().flat_map(|list| list.lock().clone()).collect();
            writer.checkpoint().unwrap();
            let reader = reader(&repository);
            for id in before {
                reader.blob(BlobKind::Data, &id).unwrap();
            }
            if last {
                break;
            }
        }
    });
    let stats = writer.finish().unwrap();
    assert_eq!(stats.data_blobs, 400, "each is stored once");
    assert_eq!(reader(&repository).index().len(), 400);
}

#[test]
fn chunks_are_no_longer_than_asked_for_and_cut_alike_however_they_come() {
    let folder = tempfile::tempdir().unwrap();
    let repository = repository(folder.path());
    let longest = 1 << 20;
    let options = WriteOptions { longest_chunk: longest, ..WriteOptions::default() };
    let writer = Writer::new(Arc::clone(&repository), Arc::new(Index::default()), options).unwrap();
    let data = noise(3, 12_000_000);
    let cut = |piece: usize| {
        let mut content = writer.content();
        data.chunks(piece).for_each(|piece| content.write(piece).unwrap());
        content.finish().unwrap().ids
    };
    let ids = cut(1 << 20);
    assert_eq!(cut(333_333), ids);
    assert_eq!(cut(usize::MAX), ids);
    writer.finish().unwrap();
    let reader = reader(&repository);
    assert_eq!(contents(&reader, &ids), data);
    let lengths: Vec<usize> = ids.iter().map(|id| reader.blob(BlobKind::Data, id).unwrap().len()).collect();
    assert!(lengths.iter().all(|length| *length <= longest) && lengths.contains(&longest), "{lengths:?}");
}

#[test]
fn a_dry_run_computes_and_stores_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let repository = repository(folder.path());
    let options = WriteOptions { dry_run: true, ..WriteOptions::default() };
    let writer = Writer::new(Arc::clone(&repository), Arc::new(Index::default()), options).unwrap();
    writer.save(BlobKind::Data, &noise(3, 100_000)).unwrap();
    assert_eq!(writer.finish().unwrap().added, 100_000);
    assert!(repository.store().list(ObjectKind::Pack).unwrap().is_empty());
    assert!(repository.store().list(ObjectKind::Index).unwrap().is_empty());
}

#[test]
fn a_reused_pack_that_vanished_is_noticed_before_the_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let repository = repository(folder.path());
    let data = noise(4, 100_000);
    let first = writer(&repository);
    first.save(BlobKind::Data, &data).unwrap();
    first.finish().unwrap();

    let second = writer(&repository);
    second.save(BlobKind::Data, &data).unwrap();
    let (pack, _) = repository.store().list(ObjectKind::Pack).unwrap()[0];
    repository.store().delete(ObjectKind::Pack, &pack).unwrap();
    let error = second.finish().unwrap_err().to_string();
    assert!(error.contains(&pack.to_hex()) && error.contains("--force"), "{error}");
}

/// A store whose packs find no room.
#[derive(Debug)]
struct Full(LocalStore, ObjectKind, AtomicUsize);

impl Store for Full {
    fn location(&self) -> String {
        self.0.location()
    }
    fn create(&self) -> Result<(), StoreError> {
        self.0.create()
    }
    fn put(&self, kind: ObjectKind, id: &Id, body: &[u8]) -> Result<(), StoreError> {
        let counts = |left: usize| left.checked_sub(usize::from(kind == self.1));
        if kind == self.1 && self.2.fetch_update(SeqCst, SeqCst, counts).is_ok() {
            let text = "No space left on device".to_owned();
            return Err(StoreError::new(StoreErrorKind::Full, "write", id.to_hex(), text));
        }
        self.0.put(kind, id, body)
    }
    fn get(&self, kind: ObjectKind, id: &Id, range: Option<std::ops::Range<u64>>) -> Result<Vec<u8>, StoreError> {
        self.0.get(kind, id, range)
    }
    fn list(&self, kind: ObjectKind) -> Result<Vec<(Id, u64)>, StoreError> {
        self.0.list(kind)
    }
    fn size(&self, kind: ObjectKind, id: &Id) -> Result<Option<u64>, StoreError> {
        self.0.size(kind, id)
    }
    fn delete(&self, kind: ObjectKind, id: &Id) -> Result<(), StoreError> {
        self.0.delete(kind, id)
    }
}

#[test]
fn a_full_store_stops_every_thread_with_its_own_words() {
    let folder = tempfile::tempdir().unwrap();
    let repository =
        init(Arc::new(Full(LocalStore::new(folder.path()), ObjectKind::Pack, AtomicUsize::new(usize::MAX))));
    let writer = writer(&repository);
    let mut content = writer.content();
    let mut outcome = Ok(());
    for seed in 0..200 {
        outcome = content.write(&noise(seed, 1 << 20));
        if outcome.is_err() {
            break;
        }
    }
    let outcome = outcome.and_then(|()| content.finish().map(drop)).and_then(|()| writer.finish().map(drop));
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("No space left on device"), "{error}");
    assert!(repository.store().list(ObjectKind::Index).unwrap().is_empty(), "no index names a pack that is not there");
}

#[test]
fn after_a_checkpoint_that_failed_nothing_counts_as_stored() {
    // The first index file is refused, the next one would not be.
    let folder = tempfile::tempdir().unwrap();
    let store = Full(LocalStore::new(folder.path()), ObjectKind::Index, AtomicUsize::new(1));
    let repository = init(Arc::new(store));
    let first = writer(&repository);
    first.save(BlobKind::Data, &noise(5, 100_000)).unwrap();
    for _ in 0..2 {
        assert!(first.checkpoint().unwrap_err().to_string().contains("No space left on device"));
    }
    assert!(first.has_failed());
    assert!(first.save(BlobKind::Data, &noise(6, 1000)).is_err());

    // A pack that two streams rely on has vanished: the second one is not told that all is well.
    let second = writer(&repository);
    second.save(BlobKind::Data, &noise(7, 100_000)).unwrap();
    second.finish().unwrap();
    let third = writer(&repository);
    third.save(BlobKind::Data, &noise(7, 100_000)).unwrap();
    for (pack, _) in repository.store().list(ObjectKind::Pack).unwrap() {
        repository.store().delete(ObjectKind::Pack, &pack).unwrap();
    }
    for _ in 0..2 {
        assert!(third.checkpoint().unwrap_err().to_string().contains("no longer in the repository"));
    }
}

fn file(seed: u64) -> Node {
    let mut node = Node::new(FileKind::File);
    node.content = Some(vec![Id::of(&seed.to_le_bytes())]);
    node.size = seed;
    node
}

fn directory() -> Node {
    let mut node = Node::new(FileKind::Directory);
    node.mode = Node::go_mode_from_unix(0o040_700);
    node
}

/// All paths of a tree, depth first, directories with a slash.
fn listing(reader: &Reader, tree: &Id, prefix: &str, out: &mut Vec<String>) {
    for node in &reader.tree(tree).unwrap().nodes {
        let path = format!("{prefix}/{}", String::from_utf8_lossy(&node.name));
        match &node.subtree {
            Some(subtree) => {
                out.push(format!("{path}/"));
                listing(reader, subtree, &path, out);
            }
            None => out.push(path),
        }
    }
}

fn assembled(repository: &Arc<Repository>, nodes: Vec<(String, Node)>) -> (Vec<String>, Vec<String>) {
    let writer = writer(repository);
    let mut assembler = Assembler::new();
    for (path, node) in nodes {
        assembler.add(path.as_bytes(), node).unwrap();
    }
    let mut misfits = Vec::new();
    let root = assembler
        .finish(&writer, |found| {
            misfits = found.into_iter().map(|misfit| String::from_utf8(misfit.path).unwrap()).collect();
            Ok(None)
        })
        .unwrap();
    writer.finish().unwrap();
    let mut paths = Vec::new();
    listing(&reader(repository), &root, "", &mut paths);
    (paths, misfits)
}

#[test]
fn entries_in_any_order_make_one_tree() {
    let folder = tempfile::tempdir().unwrap();
    let repository = repository(folder.path());
    let nodes = ["b/z", "a!", "a/x/1", "a", "a-b", "b", "a/x"]
        .map(|path| (path.to_owned(), if matches!(path, "a" | "a/x" | "b") { directory() } else { file(1) }));
    let mut backwards = nodes.to_vec();
    backwards.reverse();
    let (paths, misfits) = assembled(&repository, nodes.to_vec());
    assert_eq!(paths, ["/a/", "/a/x/", "/a/x/1", "/a!", "/a-b", "/b/", "/b/z"]);
    assert!(misfits.is_empty());
    assert_eq!(assembled(&repository, backwards).0, paths);
}

#[test]
fn a_parent_that_nobody_announced_becomes_a_directory() {
    let folder = tempfile::tempdir().unwrap();
    let repository = repository(folder.path());
    let (paths, _) = assembled(&repository, vec![("@SQLITE/app/users.sql".to_owned(), file(1))]);
    assert_eq!(paths, ["/@SQLITE/", "/@SQLITE/app/", "/@SQLITE/app/users.sql"]);
}

#[test]
fn what_fits_nowhere_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let repository = repository(folder.path());
    let paths = ["a", "a/child", "a/child/deep", "twice", "twice", "z"];
    let nodes = (1..).zip(paths).map(|(at, path)| (path.to_owned(), file(at))).collect();
    let (paths, mut misfits) = assembled(&repository, nodes);
    misfits.sort();
    assert_eq!(paths, ["/a", "/twice", "/z"]);
    assert_eq!(misfits, ["a/child", "a/child/deep", "twice"]);
}

#[test]
fn more_entries_than_fit_in_memory_are_spilled_and_merged() {
    let folder = tempfile::tempdir().unwrap();
    let repository = repository(folder.path());
    let mut nodes = Vec::new();
    for at in 0..120_000_u64 {
        // A fixed shuffle: neighbours in the tree come far apart.
        let at = at * 77_777 % 120_000;
        nodes.push((format!("d{:02}/e{:02}/f{at:06}", at % 50, at % 7), file(at + 1)));
    }
    let (paths, misfits) = assembled(&repository, nodes);
    assert!(misfits.is_empty());
    let files: Vec<_> = paths.iter().filter(|path| !path.ends_with('/')).collect();
    assert_eq!(files.len(), 120_000);
    assert!(files.is_sorted(), "these names sort as their paths do");
}

#[test]
fn names_that_no_directory_can_hold_are_refused() {
    let mut assembler = Assembler::new();
    for path in ["", "a//b", "../a", "a/.", "a\0b", "/a", "a/"] {
        assert!(assembler.add(path.as_bytes(), file(1)).is_err(), "{path:?}");
    }
}

#[test]
fn a_later_generation_replaces_and_removes_without_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let repository = repository(folder.path());
    let writer = writer(&repository);
    let mut assembler = Assembler::new();
    for path in ["d/stays", "d/changes", "d/goes", "was a folder/child"] {
        let mut node = Node::new(FileKind::File);
        node.content = Some(vec![writer.save(BlobKind::Data, path.as_bytes()).unwrap()]);
        assembler.add(path.as_bytes(), node).unwrap();
    }
    assembler.add(b"was a folder", Node::new(FileKind::Directory)).unwrap();
    assembler.next_generation();
    let mut changed = Node::new(FileKind::File);
    changed.size = 4711;
    changed.content = Some(Vec::new());
    assembler.add(b"d/changes", changed).unwrap();
    assembler.remove(b"d/goes").unwrap();
    assembler.remove(b"d/never was").unwrap();
    assembler.remove(b"was a folder/child").unwrap();
    let mut file = Node::new(FileKind::File);
    file.content = Some(Vec::new());
    assembler.add(b"was a folder", file).unwrap();

    let mut told = Vec::new();
    let mut kept = 0;
    let root = assembler
        .finish(&writer, |misfits| {
            kept = misfits.iter().map(|misfit| misfit.content.len()).sum();
            told = misfits.into_iter().filter(|misfit| misfit.reason.is_some()).collect();
            Ok(None)
        })
        .unwrap();
    writer.finish().unwrap();
    assert!(told.is_empty(), "{told:?}");
    assert_eq!(kept, 3, "contents that are gone from the view are handed out");
    let reader = reader(&repository);
    assert!(reader.node_at(&root, b"d/stays").unwrap().is_some());
    assert_eq!(reader.node_at(&root, b"d/changes").unwrap().unwrap().size, 4711);
    assert!(reader.node_at(&root, b"d/goes").unwrap().is_none());
    assert_eq!(reader.node_at(&root, b"was a folder").unwrap().unwrap().kind, FileKind::File);
}
