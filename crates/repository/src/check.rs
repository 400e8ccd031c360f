//! Checking a repository: what snapshots need is indexed, what is indexed is stored, what is stored is whole.
//!
//! The checks and their numbers are those of reference section 15. Every error names the object that it is about.
//! Whoever calls holds the lock that the check needs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use backstay_core::{FileKind, Id, ObjectKind, StoreErrorKind};
use parking_lot::{Condvar, Mutex};

use crate::error::Error;
use crate::index::Index;
use crate::pack::{BlobKind, PackBlob, decode_header, header_len, pack_size};
use crate::reader::{Reader, Result, decode_blob, reading_threads};
use crate::repository::Repository;
use crate::tree::Node;
use crate::walk::join;

/// Which packs are read whole.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum ReadData {
    /// None: only the trees are read.
    #[default]
    None,
    /// Every pack.
    All,
    /// The `part`th of `parts` groups, counted from 1; a pack's group follows from its id.
    Part {
        /// Which group.
        part: u8,
        /// How many groups there are.
        parts: u16,
    },
    /// That many percent of the packs, chosen at random.
    Percent(f64),
    /// About that many bytes of packs, chosen at random.
    Bytes(u64),
}

impl FromStr for ReadData {
    type Err = Error;

    /// Reads `n/t`, `x%` or a size such as `500M` (K, M, G and T are powers of 1024).
    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::Other(format!(
                "{text:?} is no subset: give n/t with t up to 256, a percentage such as 2.5% or a size such as 500M"
            ))
        };
        if let Some((part, parts)) = text.split_once('/') {
            let (part, parts): (u16, u16) = (part.parse().map_err(|_| bad())?, parts.parse().map_err(|_| bad())?);
            if part == 0 || part > parts || parts > 256 {
                return Err(bad());
            }
            return Ok(Self::Part { part: u8::try_from(part - 1).map_err(|_| bad())?, parts });
        }
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.parse().map_err(|_| bad())?;
            return if percent > 0.0 && percent <= 100.0 { Ok(Self::Percent(percent)) } else { Err(bad()) };
        }
        let (digits, shift) = match text.as_bytes().last().map(u8::to_ascii_uppercase) {
            Some(b'K') => (&text[..text.len() - 1], 10),
            Some(b'M') => (&text[..text.len() - 1], 20),
            Some(b'G') => (&text[..text.len() - 1], 30),
            Some(b'T') => (&text[..text.len() - 1], 40),
            _ => (text, 0),
        };
        let size: u64 = digits.parse().map_err(|_| bad())?;
        match size.checked_mul(1 << shift) {
            Some(bytes) if bytes > 0 => Ok(Self::Bytes(bytes)),
            _ => Err(bad()),
        }
    }
}

/// How thoroughly to check.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckOptions {
    /// Which packs to read whole.
    pub read_data: ReadData,
    /// Number of threads; none: one per processor, at least two, and more where each call waits for a network.
    pub threads: Option<usize>,
}

/// Is told how a check goes on; the calls come from several threads.
pub trait CheckProgress: Sync {
    /// A stage begins that has `total` steps: "packs", "snapshots", "trees" (its total is not known: 0), "read packs".
    fn stage(&self, name: &str, total: u64) {
        let _ = (name, total);
    }
    /// That many more steps are done.
    fn advanced(&self, steps: u64) {
        let _ = steps;
    }
    /// Something is wrong.
    fn error(&self, message: &str) {
        let _ = message;
    }
    /// Something could be better.
    fn hint(&self, message: &str) {
        let _ = message;
    }
    /// Whether the check shall stop.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Nobody wants to know.
impl CheckProgress for () {}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// What is wrong: each names its object. None: the repository is sound, as far as it was looked at.
    pub errors: Vec<String>,
    /// What does no harm but could be better.
    pub hints: Vec<String>,
    /// Packs that are missing or damaged.
    pub broken_packs: Vec<Id>,
    /// An index built anew would be better.
    pub suggest_repair_index: bool,
    /// A prune would tidy up.
    pub suggest_prune: bool,
    /// Snapshots that were looked at.
    pub snapshots: u64,
    /// Packs in the index.
    pub packs: u64,
    /// Different trees that were read.
    pub trees: u64,
    /// Packs that were read whole.
    pub packs_read: u64,
    /// Their size in bytes.
    pub bytes_read: u64,
}

/// What the index says about a pack.
struct PackInfo {
    size: u64,
    blobs: Vec<PackBlob>,
    /// Its number in the order in which the index files list packs.
    number: usize,
}

/// All packs of the index, and those that are marked for deletion.
type Indexed = (BTreeMap<Id, PackInfo>, HashSet<Id>);

struct Check<'a> {
    repository: &'a Arc<Repository>,
    options: CheckOptions,
    progress: &'a dyn CheckProgress,
    report: Mutex<CheckReport>,
    interrupted: AtomicBool,
}

/// Checks the repository.
///
/// # Errors
/// A listing failed, or the check was interrupted. What is wrong with the repository is in the report.
pub fn check(repository: &Arc<Repository>, options: CheckOptions, progress: &dyn CheckProgress) -> Result<CheckReport> {
    let check = Check { repository, options, progress, report: Mutex::default(), interrupted: AtomicBool::new(false) };
    check.keys()?;
    // Before the index: what a snapshot needs is listed when the snapshot appears, so one that a backup adds meanwhile is
    // not taken for damaged.
    let snapshots = repository.store().list(ObjectKind::Snapshot)?;
    if let Some((packs, marked)) = check.index()? {
        check.packs(&packs, &marked)?;
        let mut index = Index::default();
        // Of several copies of a blob the one counts that is listed first, as for every reader.
        let mut listed: Vec<(&Id, &PackInfo)> = packs.iter().collect();
        listed.sort_unstable_by_key(|(_, pack)| pack.number);
        for (id, pack) in listed {
            index.insert_pack(*id, pack.blobs.clone());
        }
        let index = Arc::new(index);
        let roots = check.snapshots(&snapshots)?;
        check.trees(&index, roots)?;
        check.read_packs(&packs)?;
    }
    let mut report = check.report.into_inner();
    report.broken_packs.sort();
    report.broken_packs.dedup();
    Ok(report)
}

fn quoted(name: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(name))
}

impl Check<'_> {
    fn error(&self, message: String) {
        self.progress.error(&message);
        self.report.lock().errors.push(message);
    }

    fn hint(&self, message: String) {
        self.progress.hint(&message);
        self.report.lock().hints.push(message);
    }

    /// The error with the object's name in it.
    fn named(&self, kind: ObjectKind, id: &Id, error: &Error) -> String {
        let text = error.to_string();
        if text.contains(&id.to_hex()) { text } else { format!("{kind} {id}: {text}") }
    }

    fn stopping(&self) -> bool {
        if self.progress.cancelled() {
            self.interrupted.store(true, Ordering::Release);
        }
        self.interrupted.load(Ordering::Acquire)
    }

    fn go_on(&self) -> Result<()> {
        if self.stopping() { Err(Error::Other("the check was interrupted".to_owned())) } else { Ok(()) }
    }

    fn on_all_threads(&self, work: impl Fn() + Sync) -> Result<()> {
        let count = self.options.threads.unwrap_or_else(|| reading_threads(&**self.repository.store())).max(1);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..count).map(|_| scope.spawn(&work)).collect();
            threads.into_iter().try_for_each(|thread| {
                thread
                    .join()
                    .map_err(|_| Error::Other("a thread of the check failed; this is a defect of Backstay".to_owned()))
            })
        })?;
        self.go_on()
    }

    /// Runs `work` for every item, on several threads.
    fn each<T: Sync>(&self, items: &[T], work: impl Fn(&T) + Sync) -> Result<()> {
        let next = AtomicUsize::new(0);
        self.on_all_threads(|| {
            while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                if self.stopping() {
                    return;
                }
                work(item);
                self.progress.advanced(1);
            }
        })
    }

    fn keys(&self) -> Result<()> {
        for (id, _) in self.repository.store().list(ObjectKind::Key)? {
            match self.repository.store().get(ObjectKind::Key, &id, None) {
                Ok(bytes) if Id::of(&bytes) == id => {}
                Ok(_) => self.error(format!("key {id} is damaged: its content does not match its name")),
                Err(error) => self.error(format!("key {id} cannot be read: {error}")),
            }
        }
        Ok(())
    }

    /// Checks 2 to 6. Returns the packs and those that are marked for deletion; none when an index file is damaged:
    /// what is missing then says nothing.
    fn index(&self) -> Result<Option<Indexed>> {
        let files = self.repository.store().list(ObjectKind::Index)?;
        self.progress.stage("index files", files.len() as u64);
        let packs: Mutex<BTreeMap<Id, PackInfo>> = Mutex::default();
        let marked: Mutex<HashSet<Id>> = Mutex::default();
        let damaged = AtomicBool::new(false);
        let twice = AtomicU64::new(0);
        self.each(&files, |(id, _)| {
            let file = match self.repository.load_index_file(id) {
                Ok(file) => file,
                Err(error) => {
                    damaged.store(true, Ordering::Relaxed);
                    return self.error(self.named(ObjectKind::Index, id, &error));
                }
            };
            marked.lock().extend(file.marked);
            for (pack, mut blobs) in file.packs {
                blobs.sort_by_key(|blob| (blob.offset, blob.id));
                let mut packs = packs.lock();
                match packs.get_mut(&pack) {
                    None => {
                        let number = packs.len();
                        packs.insert(pack, PackInfo { size: pack_size(&blobs), blobs, number });
                    }
                    Some(known) if known.blobs == blobs => {
                        twice.fetch_add(1, Ordering::Relaxed);
                    }
                    Some(known) => {
                        self.error(format!("index {id}: pack {pack} is listed with other blobs in another index file"));
                        known.blobs.extend(blobs);
                        known.blobs.sort_by_key(|blob| (blob.offset, blob.id));
                        known.blobs.dedup();
                        known.size = pack_size(&known.blobs);
                        self.report.lock().suggest_repair_index = true;
                    }
                }
            }
        })?;
        if damaged.into_inner() {
            self.report.lock().suggest_repair_index = true;
            self.hint("nothing else was checked: the index has to be repaired first".to_owned());
            return Ok(None);
        }
        let twice = twice.into_inner();
        if twice > 0 {
            self.report.lock().suggest_repair_index = true;
            self.hint(format!("{twice} packs are listed in more than one index file; this does no harm"));
        }
        let (packs, marked) = (packs.into_inner(), marked.into_inner());
        let mixed: Vec<&Id> = packs
            .iter()
            .filter(|(_, pack)| {
                pack.blobs.iter().any(|blob| Some(blob.kind) != pack.blobs.first().map(|first| first.kind))
            })
            .map(|(id, _)| id)
            .collect();
        if let Some(first) = mixed.first() {
            self.report.lock().suggest_prune = true;
            self.hint(format!(
                "{} packs hold trees and data, {first} the first: restic reads them, rustic does not",
                mixed.len()
            ));
        }
        self.report.lock().packs = packs.len() as u64;
        Ok(Some((packs, marked)))
    }

    /// Checks 7 to 9.
    fn packs(&self, packs: &BTreeMap<Id, PackInfo>, marked: &HashSet<Id>) -> Result<()> {
        let stored: HashMap<Id, u64> = self.repository.store().list(ObjectKind::Pack)?.into_iter().collect();
        self.progress.stage("packs", packs.len() as u64);
        for (id, pack) in packs {
            let problem = match stored.get(id) {
                None => Some(format!("pack {id} does not exist, although the index lists it")),
                Some(size) if *size != pack.size => {
                    Some(format!("pack {id} has the unexpected file size {size}, expected {}", pack.size))
                }
                Some(_) => None,
            };
            if let Some(problem) = problem {
                self.error(problem);
                self.report.lock().broken_packs.push(*id);
            }
            self.progress.advanced(1);
        }
        let mut others: Vec<&Id> = stored.keys().filter(|id| !packs.contains_key(*id)).collect();
        others.sort();
        let (waiting, unknown): (Vec<&Id>, Vec<&Id>) = others.into_iter().partition(|id| marked.contains(*id));
        for (list, what) in [
            (unknown, "are in no index: an interrupted backup left them, a prune removes them"),
            (waiting, "are marked for deletion by another program"),
        ] {
            if let Some(first) = list.first() {
                self.report.lock().suggest_prune = true;
                self.hint(format!("{} additional packs, {first} the first, {what}", list.len()));
            }
        }
        self.go_on()
    }

    /// Check 10. Returns the root trees with a name for messages.
    fn snapshots(&self, files: &[(Id, u64)]) -> Result<Vec<(Id, String)>> {
        self.progress.stage("snapshots", files.len() as u64);
        let roots = Mutex::new(Vec::new());
        self.each(files, |(id, _)| match self.repository.load_snapshot(id) {
            Ok(snapshot) if snapshot.tree.is_null() => self.error(format!("snapshot {id} has no tree")),
            Ok(snapshot) => roots.lock().push((snapshot.tree, id.short())),
            // Forgotten since it was listed.
            Err(Error::Store(error)) if error.kind == StoreErrorKind::NotFound => {}
            Err(error) => self.error(self.named(ObjectKind::Snapshot, id, &error)),
        })?;
        self.report.lock().snapshots = files.len() as u64;
        let mut roots = roots.into_inner();
        roots.sort();
        Ok(roots)
    }

    /// Checks 11 to 15.
    fn trees(&self, index: &Arc<Index>, roots: Vec<(Id, String)>) -> Result<()> {
        self.progress.stage("trees", 0);
        let reader = Reader::new(self.repository.clone(), index.clone());
        let queue = Trees::default();
        for (tree, snapshot) in roots {
            queue.add(vec![TreeTask { tree, snapshot: snapshot.into(), path: Vec::new() }]);
        }
        self.on_all_threads(|| {
            while let Some(task) = queue.take(&|| self.stopping()) {
                let found = self.tree(&reader, &task);
                queue.add(found);
                queue.done();
                self.progress.advanced(1);
            }
        })?;
        self.report.lock().trees = queue.state.lock().seen.len() as u64;
        Ok(())
    }

    fn tree(&self, reader: &Reader, task: &TreeTask) -> Vec<TreeTask> {
        let place = |path: &[u8]| {
            let path = if path.is_empty() { b"/" } else { path };
            format!("tree {} (snapshot {}, {})", task.tree, task.snapshot, quoted(path))
        };
        let tree = match reader.tree_once(&task.tree) {
            Ok(tree) => tree,
            Err(error) => {
                self.error(format!("{}: {error}", place(&task.path)));
                return Vec::new();
            }
        };
        let mut below = Vec::new();
        for node in &tree.nodes {
            let wrong = |what: String| self.error(format!("{}: {} {what}", place(&task.path), quoted(&node.name)));
            if node.name.is_empty() {
                wrong("has an empty name".to_owned());
            }
            match node.kind {
                FileKind::File => self.file(reader.index(), node, &wrong),
                FileKind::Directory => match node.subtree {
                    None => wrong("is a directory without a tree".to_owned()),
                    Some(id) if id.is_null() => wrong("is a directory whose tree has a null id".to_owned()),
                    Some(tree) => {
                        let path = join(&task.path, &node.name);
                        below.push(TreeTask { tree, snapshot: task.snapshot.clone(), path });
                    }
                },
                _ => {}
            }
        }
        below
    }

    fn file(&self, index: &Index, node: &Node, wrong: &dyn Fn(String)) {
        let Some(content) = &node.content else { return wrong("is a file without a list of contents".to_owned()) };
        for id in content {
            if id.is_null() {
                wrong("has a blob with a null id".to_owned());
            } else if !index.contains(BlobKind::Data, id) {
                wrong(format!("needs data blob {id}, which is in no index"));
            }
        }
    }

    /// Checks 16 to 20.
    fn read_packs(&self, packs: &BTreeMap<Id, PackInfo>) -> Result<()> {
        let chosen = choose(packs, self.options.read_data)?;
        if chosen.is_empty() {
            return Ok(());
        }
        self.progress.stage("read packs", chosen.len() as u64);
        let room = Room { free: Mutex::new(AT_ONCE), freed: Condvar::new() };
        self.each(&chosen, |(id, pack)| {
            let _held = room.take(pack.size);
            // A second look tells a bad disk from a bad moment.
            let result = self.read_pack(id, pack).or_else(|_| self.read_pack(id, pack));
            let mut report = self.report.lock();
            report.packs_read += 1;
            match result {
                Ok(bytes) => report.bytes_read += bytes,
                Err(problems) => {
                    report.broken_packs.push(**id);
                    drop(report);
                    for problem in problems {
                        self.error(format!("pack {id}: {problem}"));
                    }
                }
            }
        })
    }

    fn read_pack(&self, id: &Id, pack: &PackInfo) -> Result<u64, Vec<String>> {
        let bytes = self.repository.store().get(ObjectKind::Pack, id, None).map_err(|error| vec![error.to_string()])?;
        let mut problems = Vec::new();
        if Id::of(&bytes) != *id {
            problems.push("its content does not match its name".to_owned());
        }
        let mut expected = 0_u64;
        for blob in &pack.blobs {
            if u64::from(blob.offset) != expected {
                problems
                    .push(format!("the index leaves a gap or an overlap before blob {} at {}", blob.id, blob.offset));
            }
            expected = u64::from(blob.offset) + u64::from(blob.length);
        }
        if pack.blobs.is_empty() {
            problems.push("the index lists no blob of it".to_owned());
        }
        let (mut scratch, mut plain) = (Vec::new(), Vec::new());
        for blob in &pack.blobs {
            let start = blob.offset as usize;
            let decoded = match bytes.get(start..).and_then(|rest| rest.get(..blob.length as usize)) {
                Some(envelope) => {
                    decode_blob(self.repository.key(), envelope, blob.uncompressed, &blob.id, &mut scratch, &mut plain)
                }
                None => Err("it lies beyond the end of the file".to_owned()),
            };
            if let Err(reason) = decoded {
                problems.push(format!("{} blob {} is damaged: {reason}", blob.kind, blob.id));
            }
        }
        if let Err(reason) = self.header(&bytes, pack, &mut problems) {
            problems.push(reason);
        }
        if problems.is_empty() { Ok(bytes.len() as u64) } else { Err(problems) }
    }

    fn header(&self, bytes: &[u8], pack: &PackInfo, problems: &mut Vec<String>) -> Result<(), String> {
        let (body, last) = bytes.split_last_chunk::<4>().ok_or("it is too short to be a pack")?;
        let length = header_len(*last, bytes.len() as u64).map_err(|error| error.to_string())? as usize;
        let sealed = body.get(body.len().saturating_sub(length)..).ok_or("it is too short to be a pack")?;
        let plain =
            self.repository.key().open(sealed).map_err(|error| format!("its header cannot be opened: {error}"))?;
        let entries = decode_header(&plain).map_err(|error| error.to_string())?;
        let expected: usize = pack.blobs.iter().map(PackBlob::header_len).sum();
        if plain.len() != expected {
            problems.push(format!("its header is {} bytes long, the index says {expected}", plain.len()));
        }
        for entry in entries {
            let listed = pack.blobs.binary_search_by_key(&(entry.offset, entry.id), |blob| (blob.offset, blob.id));
            match listed.ok().and_then(|number| pack.blobs.get(number)) {
                None => problems.push(format!("blob {} is not in the index, or at another place", entry.id)),
                Some(listed) if *listed != entry => {
                    problems
                        .push(format!("blob {} has another length or kind in the index than in the header", entry.id));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// Bytes of packs in memory at once, however many threads read: a pack alone may be larger.
const AT_ONCE: u64 = 128 << 20;

/// Room for packs in memory.
struct Room {
    free: Mutex<u64>,
    freed: Condvar,
}

struct Held<'a> {
    room: &'a Room,
    bytes: u64,
}

impl Room {
    /// Waits until there is room for `bytes` bytes, at most for all that there is.
    fn take(&self, bytes: u64) -> Held<'_> {
        let bytes = bytes.min(AT_ONCE);
        let mut free = self.free.lock();
        while *free < bytes {
            self.freed.wait(&mut free);
        }
        *free -= bytes;
        Held { room: self, bytes }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        *self.room.free.lock() += self.bytes;
        self.room.freed.notify_all();
    }
}

/// The packs that are to be read.
fn choose(packs: &BTreeMap<Id, PackInfo>, what: ReadData) -> Result<Vec<(&Id, &PackInfo)>> {
    let all = packs.iter().collect::<Vec<_>>();
    #[allow(clippy::cast_precision_loss, reason = "a share of packs")]
    Ok(match what {
        ReadData::None => Vec::new(),
        ReadData::All => all,
        ReadData::Part { part, parts } => {
            all.into_iter().filter(|(id, _)| u16::from(id.0[0]) % parts == u16::from(part)).collect()
        }
        ReadData::Percent(percent) => at_random(all, percent / 100.0)?,
        ReadData::Bytes(bytes) => {
            let total: u64 = packs.values().map(|pack| pack.size).sum();
            if bytes >= total { all } else { at_random(all, bytes as f64 / total as f64)? }
        }
    })
}

/// That share of the packs, at least one.
fn at_random<T>(mut all: Vec<T>, share: f64) -> Result<Vec<T>> {
    let mut seed = [0; 8];
    crate::crypto::random(&mut seed).map_err(|error| Error::Other(error.to_string()))?;
    let mut state = u64::from_le_bytes(seed);
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of packs"
    )]
    let count = ((all.len() as f64 * share).ceil() as usize).clamp(1.min(all.len()), all.len());
    for place in 0..count {
        // splitmix64: the choice has to be even, not secret.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let rest = (all.len() - place) as u64;
        all.swap(place, place + usize::try_from(mixed % rest).unwrap_or(0));
    }
    all.truncate(count);
    Ok(all)
}

struct TreeTask {
    tree: Id,
    snapshot: Arc<str>,
    path: Vec<u8>,
}

#[derive(Default)]
struct TreesState {
    waiting: Vec<TreeTask>,
    busy: usize,
    seen: HashSet<Id>,
}

/// Trees that wait to be read: each one once, however many directories it stands for.
#[derive(Default)]
struct Trees {
    state: Mutex<TreesState>,
    changed: Condvar,
}

impl Trees {
    fn add(&self, tasks: Vec<TreeTask>) {
        let mut state = self.state.lock();
        for task in tasks {
            if state.seen.insert(task.tree) {
                state.waiting.push(task);
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    fn take(&self, stopping: &dyn Fn() -> bool) -> Option<TreeTask> {
        let mut state = self.state.lock();
        loop {
            if stopping() {
                return None;
            }
            if let Some(task) = state.waiting.pop() {
                state.busy += 1;
                return Some(task);
            }
            if state.busy == 0 {
                return None;
            }
            self.changed.wait(&mut state);
        }
    }

    fn done(&self) {
        self.state.lock().busy -= 1;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_are_read_as_restic_reads_them() {
        assert_eq!("1/2".parse::<ReadData>().unwrap(), ReadData::Part { part: 0, parts: 2 });
        assert_eq!("256/256".parse::<ReadData>().unwrap(), ReadData::Part { part: 255, parts: 256 });
        assert_eq!("2.5%".parse::<ReadData>().unwrap(), ReadData::Percent(2.5));
        assert_eq!("3M".parse::<ReadData>().unwrap(), ReadData::Bytes(3 << 20));
        for bad in ["", "0/2", "3/2", "1/257", "0%", "101%", "x", "-1", "M", "ä"] {
            assert!(bad.parse::<ReadData>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_random_choice_has_the_wanted_size_and_no_repetitions() {
        let chosen = at_random((0..1000).collect(), 0.1).unwrap();
        assert_eq!(chosen.len(), 100);
        assert_eq!(chosen.iter().collect::<HashSet<_>>().len(), 100);
        assert_eq!(at_random(vec![1], 0.0001).unwrap(), [1]);
        assert!(at_random(Vec::<u8>::new(), 0.5).unwrap().is_empty());
    }

    #[test]
    fn every_part_is_read_once() {
        let packs: BTreeMap<Id, PackInfo> =
            (0..=255_u8).map(|n| (Id([n; 32]), PackInfo { size: 1, blobs: vec![], number: 0 })).collect();
        let mut seen = HashSet::new();
        for part in 0..7 {
            for (id, _) in choose(&packs, ReadData::Part { part, parts: 7 }).unwrap() {
                assert!(seen.insert(*id));
            }
        }
        assert_eq!(seen.len(), 256);
    }
}
