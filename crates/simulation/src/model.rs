//! What the repository must hold, kept apart from it, and the comparison of the two.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};

use backstay_core::{FileKind, Id};
use backstay_engine::ledger::LedgerReader;
use backstay_repository::error::Error;
use backstay_repository::snapshot::Snapshot;
use backstay_repository::walk::walk;
use backstay_repository::{BlobKind, Index, Reader, Repository};

use crate::host::{Expected, Shared};

/// What a snapshot holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Contents by path.
    pub files: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Folders, sorted.
    pub folders: Vec<Vec<u8>>,
    /// Contents of the files in the ledger by their names; none if there is no ledger.
    pub ledger: Option<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl Contents {
    /// The same without what lies at a path: what a rewrite leaves.
    #[must_use]
    pub fn without(&self, path: &[u8]) -> Self {
        let stays =
            |other: &[u8]| other.strip_prefix(path).is_none_or(|rest| !rest.is_empty() && !rest.starts_with(b"/"));
        let files: BTreeMap<_, _> = self
            .files
            .iter()
            .filter(|(other, _)| stays(other))
            .map(|(path, bytes)| (path.clone(), bytes.clone()))
            .collect();
        let folders = self.folders.iter().filter(|other| stays(other)).cloned().collect();
        let ledger = surviving(self.ledger.as_ref(), &files);
        Self { files, folders, ledger }
    }

    /// All of these in one, the oldest first: of each file what the newest has, and the newest ledger.
    #[must_use]
    pub fn merged(all: &[Self]) -> Self {
        let mut merged = Self::default();
        for one in all {
            merged.files.extend(one.files.iter().map(|(path, bytes)| (path.clone(), bytes.clone())));
            merged.folders.extend(one.folders.iter().cloned());
        }
        merged.folders.sort();
        merged.folders.dedup();
        merged.ledger = surviving(all.iter().rev().find_map(|one| one.ledger.as_ref()), &merged.files);
        merged
    }
}

/// A ledger stays if everything that it names is still in some file.
fn surviving(
    ledger: Option<&BTreeMap<Vec<u8>, Vec<u8>>>,
    files: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    ledger
        .filter(|ledger| ledger.values().all(|wanted| wanted.is_empty() || files.values().any(|has| has == wanted)))
        .cloned()
}

/// What the snapshot of a time must hold.
#[derive(Clone, Debug)]
pub enum Expectation {
    /// What a source announces.
    Announced(Shared),
    /// What follows from other snapshots.
    Derived(Contents),
}

impl Expectation {
    fn contents(&self) -> Contents {
        match self {
            Self::Announced(shared) => Contents::from(&*shared.lock().unwrap_or_else(PoisonError::into_inner)),
            Self::Derived(contents) => contents.clone(),
        }
    }
}

/// Reads everything in a snapshot, byte for byte.
///
/// # Errors
/// The library's: something is missing or damaged.
pub fn read(repository: &Arc<Repository>, index: &Arc<Index>, snapshot: &Snapshot) -> Result<Contents, Error> {
    let reader = Arc::new(Reader::new(Arc::clone(repository), Arc::clone(index)));
    read_with(&reader, snapshot)
}

fn read_with(reader: &Arc<Reader>, snapshot: &Snapshot) -> Result<Contents, Error> {
    let mut contents = Contents::default();
    let mut has_ledger = false;
    for entry in walk(reader, &snapshot.tree, false) {
        let entry = entry.map_err(|problem| problem.error)?;
        let internal = entry.path == b"/.backstay" || entry.path.starts_with(b"/.backstay/");
        has_ledger |= entry.path == b"/.backstay";
        match entry.node.kind {
            FileKind::Directory if !internal => contents.folders.push(entry.path),
            FileKind::File => {
                let mut bytes = Vec::new();
                for id in entry.node.content.iter().flatten() {
                    bytes.extend_from_slice(&reader.blob(BlobKind::Data, id)?);
                }
                if !internal {
                    contents.files.insert(entry.path, bytes);
                }
            }
            _ => {}
        }
    }
    contents.folders.sort();
    if has_ledger {
        let mut ledger = LedgerReader::open(reader, &snapshot.tree, "simulation")?;
        let mut files = BTreeMap::new();
        while let Some(entry) = ledger.next_entry()? {
            let mut bytes = Vec::new();
            for id in &entry.content {
                bytes.extend_from_slice(&reader.blob(BlobKind::Data, id)?);
            }
            if entry.entry.kind == FileKind::File {
                files.insert([b"/".as_slice(), &entry.entry.name].concat(), bytes);
            }
        }
        contents.ledger = Some(files);
    }
    Ok(contents)
}

impl From<&Expected> for Contents {
    fn from(expected: &Expected) -> Self {
        let mut folders = expected.folders.clone();
        folders.sort();
        // A file whose folder was not announced, because the source died or the folder failed, brings one with it.
        for path in expected.files.keys() {
            let folder = path.iter().rposition(|byte| *byte == b'/').map_or(&path[..0], |at| &path[..at]);
            if !folder.is_empty() && !folders.iter().any(|have| have == folder) {
                folders.push(folder.to_vec());
            }
        }
        folders.sort();
        let ledger = expected.ledger.then(|| expected.files.clone());
        Self { files: expected.files.clone(), folders, ledger }
    }
}

/// A snapshot that is or was there.
#[derive(Clone, Debug)]
pub struct Known {
    /// What it is called in the simulation: its time.
    pub time: i64,
    /// Its host.
    pub host: String,
    /// Its source did not reach its end.
    pub partial: bool,
    /// It is gone, by a deletion that was allowed.
    pub deleted: bool,
}

/// Everything that is known of the repository without asking it.
#[derive(Debug, Default)]
pub struct Model {
    /// What each snapshot must hold, by its time.
    pub expected: HashMap<i64, Expectation>,
    /// The snapshots that were ever seen or reported.
    pub snapshots: BTreeMap<Id, Known>,
    /// Those that were seen in the repository that is copied to.
    pub copies: BTreeSet<Id>,
}

impl Model {
    /// An operation deleted a snapshot that keeps so many of the newest of each host.
    ///
    /// # Errors
    /// It was one of those that stay.
    pub fn forgotten(&mut self, id: &Id, keep: u32) -> Result<(), String> {
        let Some(known) = self.snapshots.get(id).cloned() else {
            return Err("invariant 2: a snapshot was deleted that nobody had seen".to_owned());
        };
        let newer = self.snapshots.iter().filter(|(other_id, other)| {
            let later = other.time > known.time || (other.time == known.time && *other_id != id);
            other.host == known.host && !other.deleted && !other.partial && later
        });
        let newer = newer.count() as u64;
        // What is partial counts for nothing, and goes as soon as there is anything newer that is whole.
        if newer < if known.partial { 1 } else { u64::from(keep) } {
            return Err(format!("invariant 2: snapshot {} was deleted; {newer} are newer, {keep} stay", known.time));
        }
        self.snapshots.insert(*id, Known { deleted: true, ..known });
        Ok(())
    }

    /// What the snapshot of this time must hold.
    #[must_use]
    pub fn contents(&self, time: i64) -> Option<Contents> {
        self.expected.get(&time).map(Expectation::contents)
    }

    /// An operation deleted this snapshot, whose place others of the store's have taken.
    pub fn replaced(&mut self, id: &Id) {
        if let Some(known) = self.snapshots.get_mut(id) {
            known.deleted = true;
        }
    }

    /// Compares every snapshot in a repository with what it must hold.
    fn compare(&self, repository: &Arc<Repository>) -> Result<Vec<(Id, Snapshot)>, String> {
        let snapshots = repository.snapshots().map_err(|error| format!("invariant 1: snapshots: {error}"))?;
        let index = repository.load_index().map_err(|error| format!("invariant 1: index: {error}"))?;
        let reader = Arc::new(Reader::new(Arc::clone(repository), Arc::new(index)));
        for (_, snapshot) in &snapshots {
            let time = snapshot.time.time().seconds;
            let Some(expected) = self.contents(time) else {
                return Err(format!("invariant 1: snapshot {time} belongs to no operation"));
            };
            let found =
                read_with(&reader, snapshot).map_err(|error| format!("invariant 1: snapshot {time}: {error}"))?;
            if found != expected {
                return Err(format!("invariant 1: snapshot {time} holds {}", difference(&found, &expected)));
            }
        }
        Ok(snapshots)
    }

    /// Compares every snapshot in the repository with what it must hold, and returns how many there are.
    ///
    /// # Errors
    /// What is wrong, in a sentence.
    pub fn verify(&mut self, repository: &Arc<Repository>) -> Result<usize, String> {
        let snapshots = self.compare(repository)?;
        for (id, snapshot) in &snapshots {
            let time = snapshot.time.time().seconds;
            let (host, partial) = (snapshot.hostname.clone(), snapshot.is_partial());
            self.snapshots.entry(*id).or_insert(Known { time, host, partial, deleted: false });
        }
        let gone =
            self.snapshots.iter().find(|(id, known)| !known.deleted && !snapshots.iter().any(|(have, _)| have == *id));
        match gone {
            None => Ok(snapshots.len()),
            Some((_, known)) => {
                Err(format!("invariant 2: snapshot {} has vanished, and nobody was asked to", known.time))
            }
        }
    }
}

impl Model {
    /// The same for the repository that is copied to, where nobody deletes anything.
    ///
    /// # Errors
    /// What is wrong, in a sentence.
    pub fn verify_copies(&mut self, repository: &Arc<Repository>) -> Result<usize, String> {
        let found: BTreeSet<Id> = self
            .compare(repository)
            .map_err(|what| format!("in the copy: {what}"))?
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        if !self.copies.is_subset(&found) {
            return Err("invariant 2: a copied snapshot has vanished".to_owned());
        }
        self.copies = found;
        Ok(self.copies.len())
    }
}

fn difference(found: &Contents, expected: &Contents) -> String {
    let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    for (path, bytes) in &expected.files {
        match found.files.get(path) {
            None => return format!("no {}", text(path)),
            Some(other) if other != bytes => return format!("other bytes in {}", text(path)),
            Some(_) => {}
        }
    }
    if let Some(path) = found.files.keys().find(|path| !expected.files.contains_key(*path)) {
        return format!("{}, which nobody saved", text(path));
    }
    if found.folders == expected.folders { "another ledger".to_owned() } else { "other folders".to_owned() }
}
