//! A repository in a temporary folder, and a walk into it whose every word is kept.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backstay_core::{CancelReason, FileKind, Id, Job, MessageLevel, Outcome, Store};
use backstay_engine::tree::{Change, Observer, TreeError, TreeOptions, TreeResult, back_up_tree};
use backstay_repository::assemble::Assembler;
use backstay_repository::index::Index;
use backstay_repository::keyfile::KdfParams;
use backstay_repository::pack::BlobKind;
use backstay_repository::reader::Reader;
use backstay_repository::repository::{InitOptions, Repository};
use backstay_repository::tree::Node;
use backstay_repository::writer::{WriteOptions, Writer};
use backstay_stores::LocalStore;
use parking_lot::Mutex;

/// A folder to back up, and a repository beside it.
pub(crate) struct Fixture {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) repository: Arc<Repository>,
}

/// An entry as the observer saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) outcome: Outcome,
    pub(crate) kind: FileKind,
    pub(crate) size: u64,
    pub(crate) change: Change,
}

/// Called with the path that is about to be read, or with the number of bytes that came.
pub(crate) type Hook<'a> = &'a (dyn Fn(&Path) + Sync);

#[derive(Default)]
pub(crate) struct Witness<'a> {
    pub(crate) seen: Mutex<BTreeMap<PathBuf, Vec<Seen>>>,
    pub(crate) messages: Mutex<Vec<String>>,
    pub(crate) bytes: std::sync::atomic::AtomicU64,
    pub(crate) on_current: Option<Hook<'a>>,
    pub(crate) on_bytes: Option<&'a (dyn Fn(u64) + Sync)>,
    pub(crate) on_entry: Option<Hook<'a>>,
    /// Set to cancel the job.
    pub(crate) stop: Option<Arc<AtomicBool>>,
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

impl Observer for Witness<'_> {
    fn entry(&self, path: &[u8], outcome: &Outcome, kind: FileKind, size: u64, change: Change) {
        let path = path_of(path);
        if let Some(hook) = self.on_entry {
            hook(&path);
        }
        self.seen.lock().entry(path).or_default().push(Seen { outcome: outcome.clone(), kind, size, change });
    }

    fn bytes(&self, count: u64) {
        self.bytes.fetch_add(count, Ordering::Relaxed);
        if let Some(hook) = self.on_bytes {
            hook(count);
        }
    }

    fn current(&self, path: &[u8]) {
        if let Some(hook) = self.on_current {
            hook(&path_of(path));
        }
    }
}

impl Job for Witness<'_> {
    fn id(&self) -> u32 {
        1
    }

    fn message(&self, _: MessageLevel, _: &str, text: &str) {
        self.messages.lock().push(text.to_owned());
    }

    fn cancelled(&self) -> Option<CancelReason> {
        let stop = self.stop.as_ref()?.load(Ordering::Relaxed);
        stop.then_some(CancelReason::Interrupted)
    }
}

/// A finished walk, stored.
pub(crate) struct Done {
    pub(crate) result: TreeResult,
    pub(crate) root: Id,
    pub(crate) reader: Arc<Reader>,
    pub(crate) seen: BTreeMap<PathBuf, Vec<Seen>>,
    pub(crate) bytes: u64,
    pub(crate) messages: Vec<String>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = Arc::new(repository_in(Arc::new(LocalStore::new(folder.path().join("repository")))));
        std::fs::create_dir(folder.path().join("data")).unwrap();
        Self { folder, repository }
    }

    /// The folder to back up.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Writes a file below the folder, with the directories above it.
    pub(crate) fn write(&self, path: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.data().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn back_up(&self, options: &TreeOptions) -> Done {
        self.back_up_with(&[self.data()], None, options, Witness::default()).unwrap()
    }

    pub(crate) fn back_up_on(&self, parent: &Done, options: &TreeOptions) -> Done {
        self.back_up_with(&[self.data()], Some(parent), options, Witness::default()).unwrap()
    }

    pub(crate) fn back_up_with(
        &self,
        roots: &[PathBuf],
        parent: Option<&Done>,
        options: &TreeOptions,
        witness: Witness<'_>,
    ) -> Result<Done, TreeError> {
        let index = Arc::new(self.repository.load_index().unwrap());
        self.back_up_knowing(index, roots, parent, options, witness)
    }

    /// With an index that may know less than the repository holds.
    pub(crate) fn back_up_knowing(
        &self,
        index: Arc<Index>,
        roots: &[PathBuf],
        parent: Option<&Done>,
        options: &TreeOptions,
        witness: Witness<'_>,
    ) -> Result<Done, TreeError> {
        let writer = Writer::new(Arc::clone(&self.repository), index, WriteOptions::default()).unwrap();
        let parent = parent.map(|done| (Arc::clone(&done.reader), done.root));
        let result = back_up_tree(&writer, parent, roots, options, &witness, &witness)?;
        let mut assembler = Assembler::new();
        for (path, node) in &result.nodes {
            assembler.add(path, node.clone()).unwrap();
        }
        let root = assembler.finish(&writer, |misfits| {
            assert!(misfits.is_empty(), "{misfits:?}");
            Ok(None)
        });
        let root = root.unwrap();
        writer.finish().unwrap();
        let index = Arc::new(self.repository.load_index().unwrap());
        let seen = witness.seen.into_inner();
        let told: usize = seen.values().map(Vec::len).sum();
        assert!(result.report.tally.balances(), "{:?}", result.report.tally);
        assert_eq!(told as u64, result.report.tally.announced, "every announced entry is told to the observer");
        assert!(seen.values().all(|list| list.len() == 1), "no entry is told twice");
        Ok(Done {
            result,
            root,
            reader: Arc::new(Reader::new(Arc::clone(&self.repository), index)),
            seen,
            bytes: witness.bytes.into_inner(),
            messages: witness.messages.into_inner(),
        })
    }
}

/// A repository whose key is cheap to derive.
pub(crate) fn repository_in(store: Arc<dyn Store>) -> Repository {
    let kdf = KdfParams { log_n: 2, r: 1, p: 1 };
    Repository::init(store, b"secret", InitOptions { kdf, ..InitOptions::default() }).unwrap()
}

impl Done {
    pub(crate) fn outcome(&self, path: &Path) -> &Outcome {
        let list = self.seen.get(path).unwrap_or_else(|| panic!("{} was not announced", path.display()));
        &list[0].outcome
    }

    pub(crate) fn change(&self, path: &Path) -> Change {
        self.seen[path][0].change
    }

    /// The one line about an entry that failed.
    pub(crate) fn failure(&self, path: &Path) -> (Option<i32>, String) {
        match self.outcome(path) {
            Outcome::Failed(error) => (error.errno, error.message.clone()),
            other => panic!("{}: {other:?}", path.display()),
        }
    }

    pub(crate) fn skipped_by(&self, path: &Path) -> &str {
        match self.outcome(path) {
            Outcome::Skipped(rule) => rule,
            other => panic!("{}: {other:?}", path.display()),
        }
    }

    pub(crate) fn find(&self, path: &Path) -> Option<Node> {
        self.reader.node_at(&self.root, path.as_os_str().as_bytes()).unwrap()
    }

    pub(crate) fn node(&self, path: &Path) -> Node {
        self.find(path).unwrap_or_else(|| panic!("{} is not in the tree", path.display()))
    }

    /// The tree of a directory: other than the root tree it does not know the times of the shared folders above.
    pub(crate) fn tree(&self, path: &Path) -> Id {
        self.node(path).subtree.unwrap()
    }

    /// The names in a directory of the tree.
    pub(crate) fn names(&self, path: &Path) -> Vec<String> {
        let nodes = self.reader.tree(&self.tree(path)).unwrap().nodes;
        nodes.iter().map(|node| String::from_utf8_lossy(&node.name).into_owned()).collect()
    }

    pub(crate) fn contents(&self, path: &Path) -> Vec<u8> {
        let node = self.node(path);
        let mut out = Vec::new();
        for id in node.content.as_ref().unwrap() {
            out.extend_from_slice(&self.reader.blob(BlobKind::Data, id).unwrap());
        }
        assert_eq!(out.len() as u64, node.size, "{}: the size is that of the contents", path.display());
        out
    }
}
