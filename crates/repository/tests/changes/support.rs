//! A small repository in memory, and a store that stops working at its Nth change.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backstay_core::{FileKind, Id, ObjectKind, Store, StoreError, StoreErrorKind};
use backstay_repository::keyfile::KdfParams;
use backstay_repository::pack::BlobKind;
use backstay_repository::walk::walk;
use backstay_repository::{InitOptions, Node, Reader, Repository, Snapshot, SnapshotTime, WriteOptions, Writer};
use backstay_stores::memory::MemoryStore;

/// A snapshot's time, and each path in it with the hash of the file's contents.
pub(crate) type Contents = (String, Vec<(String, Option<Id>)>);

pub(crate) const PASSWORD: &[u8] = b"test";
pub(crate) const CHEAP: KdfParams = KdfParams { log_n: 4, r: 1, p: 1 };

/// A repository in memory.
pub(crate) struct Place {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) repository: Arc<Repository>,
}

impl Place {
    /// An empty repository.
    pub(crate) fn new() -> Self {
        let store = Arc::new(MemoryStore::default());
        let options = InitOptions { kdf: CHEAP, ..InitOptions::default() };
        let repository = Arc::new(Repository::init(store.clone(), PASSWORD, options).unwrap());
        Self { store, repository }
    }

    /// The same objects in a place of their own.
    pub(crate) fn copy(&self) -> Self {
        let store = Arc::new(self.store.copy());
        let repository = Arc::new(Repository::open(store.clone(), PASSWORD).unwrap());
        Self { store, repository }
    }

    /// A repository with three snapshots that share some of their files.
    pub(crate) fn with_snapshots() -> (Self, Vec<Id>) {
        let place = Self::new();
        let ids = (0..3).map(|number| place.save(number)).collect();
        (place, ids)
    }

    /// Saves the snapshot of that number: `/srv/{same,own,empty,large}` and `/srv/sub/{deep}`.
    pub(crate) fn save(&self, number: u8) -> Id {
        let writer = self.writer();
        let large: Vec<u8> = (0..200_000_u32).flat_map(|at| (at * 7 + u32::from(number)).to_le_bytes()).collect();
        let deep = [file(&writer, "deep", &[&[number; 700], b"the end"])];
        let nodes = [
            file(&writer, "same", &[b"the same in all"]),
            file(&writer, "own", &[format!("own {number}").as_bytes()]),
            file(&writer, "empty", &[]),
            file(&writer, "large", &[&large[..300_000], &large[300_000..]]),
            directory(&writer, "sub", &deep),
        ];
        let srv = directory(&writer, "srv", &nodes);
        self.finish(&writer, &[srv], number)
    }

    pub(crate) fn writer(&self) -> Arc<Writer> {
        writer(&self.repository)
    }

    /// Ends the writer and stores a snapshot with these nodes at its root.
    pub(crate) fn finish(&self, writer: &Writer, root: &[Node], number: u8) -> Id {
        let tree = writer.save_tree(root).unwrap();
        writer.finish().unwrap();
        self.repository.save_snapshot(&snapshot(tree, number)).unwrap()
    }

    /// Everything that the snapshots hold, by their times: what no maintenance may change.
    pub(crate) fn contents(&self) -> Vec<Contents> {
        contents(&self.repository)
    }

    pub(crate) fn ids(&self, kind: ObjectKind) -> Vec<Id> {
        let mut ids: Vec<Id> = self.store.list(kind).unwrap().into_iter().map(|(id, _)| id).collect();
        ids.sort();
        ids
    }
}

pub(crate) fn writer(repository: &Arc<Repository>) -> Arc<Writer> {
    let index = Arc::new(repository.load_index().unwrap());
    let options = WriteOptions { threads: 1, pack_size: 256 << 10, ..WriteOptions::default() };
    Writer::new(repository.clone(), index, options).unwrap()
}

pub(crate) fn snapshot(tree: Id, number: u8) -> Snapshot {
    let time = backstay_core::Time { seconds: 1_600_000_000 + i64::from(number), nanoseconds: 0 };
    let mut snapshot = Snapshot {
        time: SnapshotTime::from(time),
        tree,
        paths: vec!["/srv".to_owned()],
        hostname: format!("host{}", number % 2),
        tags: vec!["first".to_owned(), format!("number{number}")],
        backstay_job: Some(40 + u32::from(number)),
        ..Snapshot::default()
    };
    snapshot.extra.insert("label".to_owned(), "of another program".into());
    snapshot
}

pub(crate) fn node(kind: FileKind, name: &str, mode: u32) -> Node {
    Node { name: name.as_bytes().to_vec(), mode: Node::go_mode_from_unix(mode), ..Node::new(kind) }
}

pub(crate) fn file(writer: &Writer, name: &str, chunks: &[&[u8]]) -> Node {
    let content = chunks.iter().map(|chunk| writer.save(BlobKind::Data, chunk).unwrap()).collect();
    Node {
        size: chunks.iter().map(|chunk| chunk.len() as u64).sum(),
        links: 1,
        content: Some(content),
        ..node(FileKind::File, name, 0o100_644)
    }
}

pub(crate) fn directory(writer: &Writer, name: &str, nodes: &[Node]) -> Node {
    let subtree = Some(writer.save_tree(nodes).unwrap());
    Node { subtree, ..node(FileKind::Directory, name, 0o040_755) }
}

pub(crate) fn reader(repository: &Arc<Repository>) -> Arc<Reader> {
    Arc::new(Reader::new(repository.clone(), Arc::new(repository.load_index().unwrap())))
}

/// For each snapshot, oldest first: its time, and each path with the hash of the file's contents. Two snapshots of one
/// time and the same contents, as a change that was cut off leaves them, count once.
pub(crate) fn contents(repository: &Arc<Repository>) -> Vec<Contents> {
    let reader = reader(repository);
    let mut all: Vec<_> = repository
        .snapshots()
        .unwrap()
        .into_iter()
        .map(|(_, snapshot)| (snapshot.time.to_string(), files(&reader, &snapshot.tree)))
        .collect();
    all.dedup();
    all
}

/// Each path below a tree with the hash of the file's contents.
pub(crate) fn files(reader: &Reader, tree: &Id) -> Vec<(String, Option<Id>)> {
    walk(reader, tree, false)
        .map(|entry| {
            let entry = entry.unwrap();
            let content = entry.node.content.map(|ids| {
                Id::of(&ids.iter().flat_map(|id| reader.load(BlobKind::Data, id).unwrap()).collect::<Vec<u8>>())
            });
            (String::from_utf8(entry.path).unwrap(), content)
        })
        .collect()
}

/// A store whose changes fail from the Nth on, as if the process were killed there.
#[derive(Debug)]
pub(crate) struct Cut {
    inner: Arc<dyn Store>,
    left: AtomicU64,
}

impl Cut {
    fn change(&self) -> Result<(), StoreError> {
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map(drop).map_err(|_| StoreError::new(StoreErrorKind::Other, "write", "anything", "killed here"))
    }
}

impl Store for Cut {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn create(&self) -> Result<(), StoreError> {
        self.inner.create()
    }
    fn put(&self, kind: ObjectKind, id: &Id, body: &[u8]) -> Result<(), StoreError> {
        self.change()?;
        self.inner.put(kind, id, body)
    }
    fn get(&self, kind: ObjectKind, id: &Id, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        self.inner.get(kind, id, range)
    }
    fn list(&self, kind: ObjectKind) -> Result<Vec<(Id, u64)>, StoreError> {
        self.inner.list(kind)
    }
    fn size(&self, kind: ObjectKind, id: &Id) -> Result<Option<u64>, StoreError> {
        self.inner.size(kind, id)
    }
    fn delete(&self, kind: ObjectKind, id: &Id) -> Result<(), StoreError> {
        self.change()?;
        self.inner.delete(kind, id)
    }
}

/// Runs `work` on copies of the place, killed at its first change, at its second and so on until it ends by itself, and
/// hands what is left each time to `look`. Returns how many changes it made when nothing stopped it.
pub(crate) fn killed_everywhere(
    place: &Place,
    work: impl Fn(&Arc<Repository>) -> Result<(), backstay_repository::Error>,
    look: impl Fn(&Place, u64),
) -> u64 {
    for changes in 0..1000 {
        let copy = place.copy();
        let cut = Arc::new(Cut { inner: copy.store.clone(), left: AtomicU64::new(changes) });
        let repository = Arc::new(Repository::open(cut, PASSWORD).unwrap());
        let result = work(&repository);
        look(&Place { repository: Arc::new(open_any(&copy)), store: copy.store }, changes);
        if result.is_ok() {
            assert!(changes > 0, "it changed nothing");
            return changes;
        }
    }
    panic!("it never ends");
}

/// Opens the repository with the password that it had, or the one that a test gave it.
fn open_any(place: &Place) -> Repository {
    let open = |password: &[u8]| Repository::open(place.store.clone(), password);
    open(PASSWORD).or_else(|_| open(b"another")).unwrap()
}
