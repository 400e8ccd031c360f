//! Reading from a store where each call waits for a network: few calls, and many of them at once.
//!
//! Asserted are numbers of calls and how many of them overlapped, never time.
#![allow(clippy::unwrap_used)] // the lint's own exception for tests leaves out their helpers

use std::sync::Arc;
use std::time::Duration;

use backstay_core::{FileKind, Id, ObjectKind, Store};
use backstay_repository::check::{CheckOptions, ReadData, check};
use backstay_repository::diff::{DiffOptions, diff};
use backstay_repository::keyfile::KdfParams;
use backstay_repository::open_file::OpenFile;
use backstay_repository::reader::{OrderedBlobs, Reader};
use backstay_repository::restore::{RestoreOptions, restore};
use backstay_repository::stats::{StatsMode, stats};
use backstay_repository::walk::walk;
use backstay_repository::{BlobKind, InitOptions, Node, Repository, WriteOptions, Writer};
use backstay_stores::MemoryStore;
use backstay_stores::distant::DistantStore;

/// Long enough for every thread that has something to ask for to ask.
const LATENCY: Duration = Duration::from_millis(20);

struct Far {
    store: Arc<DistantStore>,
    repository: Arc<Repository>,
}

impl Far {
    fn new() -> Self {
        let store = Arc::new(DistantStore::new(Arc::new(MemoryStore::default()), LATENCY, 16));
        let options = InitOptions { kdf: KdfParams { log_n: 4, r: 1, p: 1 }, ..InitOptions::default() };
        let repository = Repository::init(Arc::clone(&store) as Arc<dyn Store>, b"test", options).unwrap();
        Self { store, repository: Arc::new(repository) }
    }

    /// Runs `work` in a writer of its own: what it saves goes to packs of its own.
    fn write<T>(&self, work: impl FnOnce(&Arc<Writer>) -> T) -> T {
        let index = Arc::new(self.repository.load_index().unwrap());
        let writer = Writer::new(Arc::clone(&self.repository), index, WriteOptions::default()).unwrap();
        let result = work(&writer);
        writer.finish().unwrap();
        result
    }

    /// A fresh reader that has read nothing yet.
    fn reader(&self) -> Arc<Reader> {
        let index = Arc::new(self.repository.load_index().unwrap());
        self.store.take_reads();
        Arc::new(Reader::new(Arc::clone(&self.repository), index))
    }

    fn packs(&self) -> usize {
        self.repository.store().list(ObjectKind::Pack).unwrap().len()
    }
}

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

fn directory(name: &str, tree: Id) -> Node {
    Node {
        name: name.into(),
        mode: Node::go_mode_from_unix(0o040_755),
        subtree: Some(tree),
        ..Node::new(FileKind::Directory)
    }
}

fn file(name: &str, content: Vec<Id>, size: usize) -> Node {
    Node { name: name.into(), mode: 0o644, content: Some(content), size: size as u64, ..Node::new(FileKind::File) }
}

/// Names that sort as their numbers.
fn numbered(number: usize) -> String {
    format!("{number:05}")
}

/// A tree of `width` directories, each with `width` directories of an empty file each, that were all saved together.
fn together(far: &Far, width: usize, seed: usize) -> Id {
    far.write(|writer| {
        let tops = (0..width).map(|top| {
            let below = (0..width).map(|number| {
                let name = format!("{seed} {top} {number}");
                let tree = writer.save_tree(&[file(&name, Vec::new(), 0)]).unwrap();
                directory(&numbered(number), tree)
            });
            let below: Vec<Node> = below.collect();
            directory(&numbered(top), writer.save_tree(&below).unwrap())
        });
        let tops: Vec<Node> = tops.collect();
        writer.save_tree(&tops).unwrap()
    })
}

/// A tree of `count` directories, each saved by a backup of its own.
fn scattered(far: &Far, count: usize, seed: usize) -> Id {
    let nodes: Vec<Node> = (0..count)
        .map(|number| {
            let name = format!("{seed} {number}");
            let tree = far.write(|writer| writer.save_tree(&[file(&name, Vec::new(), 0)]).unwrap());
            directory(&numbered(number), tree)
        })
        .collect();
    far.write(|writer| writer.save_tree(&nodes).unwrap())
}

#[test]
fn trees_that_were_saved_together_are_fetched_together() {
    let far = Far::new();
    let root = together(&far, 30, 0);
    let other = together(&far, 30, 1);
    assert_eq!(far.packs(), 2);

    let reader = far.reader();
    assert_eq!(walk(&reader, &root, true).map(Result::unwrap).count(), 30 + 2 * 900);
    let reads = far.store.take_reads();
    assert!(reads.packs <= 3, "931 trees of one pack took {reads:?}");

    let reader = far.reader();
    assert_eq!(stats(&reader, &[root], StatsMode::RawData, true).unwrap().total_blob_count, 931);
    let reads = far.store.take_reads();
    assert!(reads.packs <= 3, "{reads:?}");

    let reader = far.reader();
    let mut changes = 0;
    diff(&reader, &root, &other, DiffOptions::default(), &mut |_| changes += 1).unwrap();
    assert_eq!(changes, 2 * 900, "every file has another name");
    let reads = far.store.take_reads();
    assert!(reads.packs <= 6, "{reads:?}");
}

#[test]
fn trees_that_lie_in_many_packs_are_fetched_many_at_once() {
    let far = Far::new();
    let root = scattered(&far, 40, 0);
    assert_eq!(far.packs(), 41);

    let reader = far.reader();
    assert_eq!(walk(&reader, &root, true).map(Result::unwrap).count(), 80);
    let reads = far.store.take_reads();
    assert_eq!(reads.packs, 41, "every pack is read once");
    assert!(reads.at_once >= 8, "{reads:?}");

    let reader = far.reader();
    stats(&reader, &[root], StatsMode::RawData, true).unwrap();
    let reads = far.store.take_reads();
    assert!(reads.packs == 41 && reads.at_once >= 8, "{reads:?}");

    let other = scattered(&far, 40, 1);
    let reader = far.reader();
    diff(&reader, &root, &other, DiffOptions::default(), &mut |_| ()).unwrap();
    let reads = far.store.take_reads();
    assert!(reads.packs == 82 && reads.at_once >= 8, "{reads:?}");

    let target = tempfile::tempdir().unwrap();
    let reader = far.reader();
    let options = RestoreOptions { target: target.path().to_owned(), ..RestoreOptions::default() };
    let report = restore(&reader, &root, b"", &options, &()).unwrap();
    assert_eq!((report.files_restored, report.errors.len()), (80, 0));
    let reads = far.store.take_reads();
    assert!(reads.at_once >= 8, "{reads:?}");
    assert!(reads.packs <= 42, "the root may be read twice, nothing else: {reads:?}");
}

#[test]
fn a_walk_that_enters_nothing_fetches_nothing_ahead() {
    let far = Far::new();
    let root = scattered(&far, 10, 0);
    let reader = far.reader();
    let mut steps = walk(&reader, &root, true);
    let mut names = 0;
    while let Some(step) = steps.next() {
        step.unwrap();
        names += 1;
        steps.skip_directory();
    }
    assert_eq!(names, 10);
    assert_eq!(far.store.take_reads().packs, 1, "the root alone");
}

#[test]
fn a_check_reads_every_pack_once_and_several_at_once() {
    let far = Far::new();
    let root = scattered(&far, 20, 0);
    let snapshot = backstay_repository::Snapshot { tree: root, ..backstay_repository::Snapshot::default() };
    far.repository.save_snapshot(&snapshot).unwrap();
    far.store.take_reads();

    let report = check(&far.repository, CheckOptions::default(), &()).unwrap();
    assert_eq!((report.errors, report.trees), (Vec::new(), 21));
    let reads = far.store.take_reads();
    assert!(reads.packs == 21 && reads.at_once >= 8, "{reads:?}");

    let options = CheckOptions { read_data: ReadData::All, ..CheckOptions::default() };
    let report = check(&far.repository, options, &()).unwrap();
    assert_eq!((report.errors, report.packs_read), (Vec::new(), 21));
    let reads = far.store.take_reads();
    assert!(reads.packs == 42 && reads.at_once >= 8, "once for the trees, once whole: {reads:?}");
}

/// One file of many blobs, and its contents.
fn big_file(far: &Far, length: usize) -> (Node, Vec<u8>) {
    let data = noise(7, length);
    let content = far.write(|writer| {
        let mut content = writer.content();
        content.write(&data).unwrap();
        content.finish().unwrap()
    });
    (file("big", content.ids, length), data)
}

#[test]
fn a_restore_has_several_ranges_on_their_way() {
    let far = Far::new();
    let (node, data) = big_file(&far, 24 << 20);
    let root = far.write(|writer| writer.save_tree(std::slice::from_ref(&node)).unwrap());
    let target = tempfile::tempdir().unwrap();
    let reader = far.reader();
    let options = RestoreOptions { target: target.path().to_owned(), ..RestoreOptions::default() };
    let report = restore(&reader, &root, b"", &options, &()).unwrap();
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    assert!(std::fs::read(target.path().join("big")).unwrap() == data);
    let reads = far.store.take_reads();
    assert!(reads.at_once >= 4, "{reads:?}");
    assert!(reads.pack_bytes < (24 << 20) + (1 << 20), "nothing is read twice: {reads:?}");
    assert!(reads.packs < 24, "blobs that lie together are read together: {reads:?}");
}

#[test]
fn a_copy_of_a_file_loads_ahead_and_joins_neighbours() {
    let far = Far::new();
    let (node, data) = big_file(&far, 24 << 20);
    let reader = far.reader();
    let mut copy = Vec::new();
    assert_eq!(OpenFile::new(reader, &node).unwrap().copy_to(&mut copy).unwrap(), data.len() as u64);
    assert!(copy == data);
    let reads = far.store.take_reads();
    let blobs = node.content.unwrap().len();
    assert!(reads.at_once >= 4 && reads.packs <= blobs, "{blobs} blobs: {reads:?}");
}

#[test]
fn reads_that_follow_each_other_load_ahead_and_others_do_not() {
    let far = Far::new();
    let (node, data) = big_file(&far, 24 << 20);
    let blobs = node.content.as_ref().unwrap().len();

    let open = OpenFile::new(far.reader(), &node).unwrap();
    let mut buffer = vec![0; 128 << 10];
    let mut offset = 0;
    while offset < data.len() {
        let count = open.read_at(offset as u64, &mut buffer).unwrap();
        assert!(buffer[..count] == data[offset..offset + count]);
        offset += count;
    }
    let reads = far.store.take_reads();
    assert_eq!(reads.packs, blobs, "each blob once");
    assert!(reads.at_once >= 3, "{reads:?}");

    let open = OpenFile::new(far.reader(), &node).unwrap();
    let mut touched = 0;
    for offset in [20 << 20, 3 << 20, 14 << 20, 8 << 20, 17 << 20] {
        let mut buffer = [0; 1];
        assert_eq!(open.read_at(offset as u64, &mut buffer).unwrap(), 1);
        assert_eq!(buffer[0], data[offset]);
        touched += 1;
    }
    let reads = far.store.take_reads();
    assert!(reads.packs <= touched && reads.at_once == 1, "{reads:?}");
}

#[test]
fn one_large_read_loads_its_blobs_at_once() {
    let far = Far::new();
    let (node, data) = big_file(&far, 8 << 20);
    let open = OpenFile::new(far.reader(), &node).unwrap();
    let mut buffer = vec![0; 8 << 20];
    assert_eq!(open.read_at(0, &mut buffer).unwrap(), buffer.len());
    assert!(buffer == data);
    let reads = far.store.take_reads();
    assert!(reads.packs == node.content.unwrap().len() && reads.at_once >= 2, "{reads:?}");
}

#[test]
fn blobs_come_in_the_announced_order_whatever_pack_they_lie_in() {
    let far = Far::new();
    let mut blobs = Vec::new();
    for session in 0..4_u64 {
        far.write(|writer| {
            for number in 0..100 {
                let data = noise(session * 1000 + number, 1 + 97 * number as usize);
                blobs.push((writer.save(BlobKind::Data, &data).unwrap(), data));
            }
        });
    }
    // From all packs in turns, some of them twice.
    let order: Vec<usize> = (0..500).map(|number| number * 7919 % 400).collect();
    let ids: Vec<Id> = order.iter().map(|number| blobs[*number].0).collect();
    // Room for a few blobs only, and for all.
    for limit in [1, 20_000, 32 << 20] {
        let reader = far.reader();
        let mut ordered = OrderedBlobs::new(&reader, limit);
        ordered.announce(BlobKind::Data, &ids[..250]);
        for (position, number) in order.iter().enumerate() {
            if position == 100 {
                ordered.announce(BlobKind::Data, &ids[250..]);
            }
            // Some are not wanted after all.
            if position % 10 == 3 {
                ordered.skip(1);
                continue;
            }
            assert!(*ordered.take().unwrap().unwrap() == blobs[*number].1, "blob {position}, limit {limit}");
        }
        assert!(ordered.take().is_none());
        if limit == 32 << 20 {
            let reads = far.store.take_reads();
            assert!(reads.packs <= 60, "neighbours are joined: {reads:?}");
        }
    }
}

#[test]
fn a_blob_that_is_missing_is_an_error_in_its_place_and_the_others_come() {
    let far = Far::new();
    let known = far.write(|writer| writer.save(BlobKind::Data, b"known").unwrap());
    let reader = far.reader();
    let mut ordered = OrderedBlobs::new(&reader, 1 << 20);
    ordered.announce(BlobKind::Data, &[known, Id([9; 32]), known]);
    assert_eq!(**ordered.take().unwrap().unwrap(), *b"known");
    assert!(ordered.take().unwrap().unwrap_err().to_string().contains(&Id([9; 32]).to_hex()));
    assert_eq!(**ordered.take().unwrap().unwrap(), *b"known");
    assert!(ordered.take().is_none());
    // Dropped while blobs are on their way, it does not hang.
    ordered.announce(BlobKind::Data, &[known; 100]);
}
