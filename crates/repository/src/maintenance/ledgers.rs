//! Ledgers when snapshots are changed. A ledger names blobs that are the contents of other nodes; when those nodes go,
//! a prune takes the blobs. So a ledger stays only where everything that it names is still the content of some node
//! of the view, or of the file beside the ledger; otherwise it goes as a whole, and the view of what is left stays.
//! What a ledger says is known to those who wrote it: the engine tells which blobs it names.

use std::collections::HashSet;
use std::sync::Arc;

use backstay_core::{FileKind, Id};

use crate::error::Error;
use crate::pack::BlobKind;
use crate::reader::{Reader, Result};
use crate::tree::Node;
use crate::walk::{INTERNAL, walk};
use crate::writer::Writer;

/// Who can read ledgers.
pub trait Ledgers: Sync {
    /// Calls `take` for every data blob that the ledger of `source` names, in the snapshot whose root tree is `root`.
    ///
    /// # Errors
    /// The ledger cannot be read.
    fn blobs(&self, reader: &Arc<Reader>, root: &Id, source: &str, take: &mut dyn FnMut(Id)) -> Result<()>;
}

/// Nobody can: no ledger survives a change.
impl Ledgers for () {
    fn blobs(&self, _: &Arc<Reader>, _: &Id, _: &str, _: &mut dyn FnMut(Id)) -> Result<()> {
        Err(Error::Other("this program cannot read ledgers".to_owned()))
    }
}

/// A ledger that did not survive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedLedger {
    /// The source that it belonged to.
    pub source: String,
    /// Why.
    pub reason: String,
}

struct Source {
    folder: Node,
    /// Blobs that the ledger names and no node of the view was seen to hold yet.
    wanted: HashSet<Id>,
    /// Blobs of the files beside the ledger.
    own: HashSet<Id>,
    failure: Option<String>,
}

/// The ledgers of a snapshot while its view is changed.
pub(crate) struct Guard {
    internal: Option<Node>,
    sources: Vec<Source>,
}

impl Guard {
    /// No ledger at all.
    pub(crate) fn none() -> Self {
        Self { internal: None, sources: Vec::new() }
    }

    /// Reads what the ledgers of the snapshot with the root tree `root` name.
    ///
    /// # Errors
    /// The store failed: what it cannot give now is not lost, and no ledger may go for it.
    pub(crate) fn of(reader: &Arc<Reader>, root: &Id, ledgers: &dyn Ledgers) -> Result<Self> {
        let mut guard = Self::none();
        guard.add(reader, root, ledgers)?;
        Ok(guard)
    }

    /// The `/.backstay` as it was.
    pub(crate) fn internal(&self) -> Option<&Node> {
        self.internal.as_ref()
    }

    /// Adds the ledgers of another snapshot; a source that is there already keeps the ledger that it has.
    ///
    /// # Errors
    /// As [`Guard::of`].
    pub(crate) fn add(&mut self, reader: &Arc<Reader>, root: &Id, ledgers: &dyn Ledgers) -> Result<()> {
        // A folder that is damaged holds no ledger that could be kept.
        let sound = |error: Error| if error.is_store_failure() { Err(error) } else { Ok(None) };
        let Some(internal) = reader.node_at(root, INTERNAL).or_else(sound)? else { return Ok(()) };
        let tree = internal.subtree.map(|tree| reader.tree(&tree));
        let nodes = match tree {
            Some(Err(error)) if error.is_store_failure() => return Err(error),
            Some(Ok(tree)) => tree.nodes,
            _ => Vec::new(),
        };
        self.internal.get_or_insert(internal);
        for folder in nodes {
            if self.sources.iter().any(|source| source.folder.name == folder.name) {
                continue;
            }
            let mut source = Source { folder, wanted: HashSet::new(), own: HashSet::new(), failure: None };
            let name = String::from_utf8_lossy(&source.folder.name).into_owned();
            let wanted = &mut source.wanted;
            let result = ledgers
                .blobs(reader, root, &name, &mut |id| {
                    wanted.insert(id);
                })
                .and_then(|()| own_files(reader, &source.folder));
            match result {
                Ok(own) => source.own = own,
                Err(error) if error.is_store_failure() => return Err(error),
                Err(error) => source.failure = Some(error.to_string()),
            }
            self.sources.push(source);
        }
        Ok(())
    }

    /// Leaves out the ledgers of the sources that are not wanted.
    pub(crate) fn retain(&mut self, wanted: impl Fn(&[u8]) -> bool) {
        self.sources.retain(|source| wanted(&source.folder.name));
    }

    /// A node of the view stays.
    pub(crate) fn kept(&mut self, node: &Node) {
        for source in &mut self.sources {
            if !source.wanted.is_empty() {
                for id in node.content.iter().flatten() {
                    source.wanted.remove(id);
                }
            }
        }
    }

    /// The `/.backstay` of the changed snapshot, with the ledgers that survive, and those that do not.
    pub(crate) fn settle(self, writer: &Writer) -> Result<(Option<Node>, Vec<DroppedLedger>)> {
        let mut dropped = Vec::new();
        let mut alive = self.sources;
        // What one ledger names may lie in the files beside another: one that goes can take others with it.
        loop {
            let before = alive.len();
            let lost: Vec<usize> = alive
                .iter()
                .map(|source| {
                    source.wanted.iter().filter(|id| !alive.iter().any(|other| other.own.contains(*id))).count()
                })
                .collect();
            let mut lost = lost.into_iter();
            alive.retain_mut(|source| {
                let count = lost.next().unwrap_or(0);
                let reason = match (source.failure.take(), count) {
                    (None, 0) => return true,
                    (Some(failure), _) => failure,
                    (None, count) => format!("{count} of the blobs that it names are no longer part of the snapshot"),
                };
                dropped
                    .push(DroppedLedger { source: String::from_utf8_lossy(&source.folder.name).into_owned(), reason });
                false
            });
            if alive.len() == before {
                break;
            }
        }
        let folders: Vec<Node> = alive.into_iter().map(|source| source.folder).collect();
        let Some(mut internal) = self.internal.filter(|_| !folders.is_empty()) else { return Ok((None, dropped)) };
        internal.subtree = Some(writer.save_tree(&folders)?);
        Ok((Some(internal), dropped))
    }
}

/// The blobs of a ledger's own files: all of them must be there.
fn own_files(reader: &Reader, folder: &Node) -> Result<HashSet<Id>> {
    let missing = || Error::Other("its folder has no tree".to_owned());
    let mut blobs = HashSet::new();
    for entry in walk(reader, &folder.subtree.ok_or_else(missing)?, false) {
        let entry = entry.map_err(|failed| match failed.error {
            error @ Error::Store(_) => error,
            _ => Error::Other(failed.to_string()),
        })?;
        if entry.node.kind == FileKind::File {
            for id in entry.node.content.unwrap_or_default() {
                reader.locate(BlobKind::Data, &id)?;
                blobs.insert(id);
            }
        }
    }
    Ok(blobs)
}
