//! A local copy of the index, so that opening a repository of millions of blobs does not read and parse all of its
//! index files again: ten million blobs are a gigabyte and a half of JSON, but half a gigabyte here, ready for use.
//!
//! **Where.** A folder for each repository, named by its id, with a file `base` and files `part-*`. Each of them holds
//! what some index files list, the base mostly with the table of positions too. What the store lists decides: an index
//! file that is gone is not used, one that is new is loaded and kept in a part; from time to time base and parts become
//! one new base. Files come into being under another name and are renamed, so several processes need no lock: what one
//! of them deletes another reads to its end, or loads from the store.
//!
//! **Trust.** An entry that is wrong would make a backup believe that a blob is stored, so a cache is never believed
//! without a proof. Every file has a key of its own, made of the repository's and a random number; everything in it is
//! encrypted and authenticated under that key (the repository's cipher works at more than a gigabyte a second), each
//! piece with its place in the file. A bit that rotted, pieces of other files or of the repository, or another
//! repository's cache do not open; then the file is deleted and everything is as if it had not been there. Somebody who
//! can write to the folder but has not the key can bring back an old file of this repository or delete one. That does
//! no harm: an index file never changes under its id, and only ids that the store lists now are looked up. What the
//! index says stays as secret as in the repository. That there is a cache, how large and of which repository id, can
//! be seen by whoever can read the user's files.
//!
//! **Trouble** (no room, no permission) is told to whoever asked to be told, and the work goes on without a cache.
//! Copies of repositories that were not used for thirty days are removed.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use backstay_core::Id;
use parking_lot::Mutex;

use crate::crypto::{MasterKey, OVERHEAD, random};
use crate::index::Index;
use crate::index::image::{BYTES_PER_RECORD, Outline, RECORDS_PER_BLOCK};

const MAGIC: &[u8; 16] = b"backstay index 1";
const BASE: &str = "base";
const PART: &str = "part-";
const UNFINISHED: &str = "unfinished-";
const NONCE: usize = 32;
/// Bytes before the first sealed piece.
const START: usize = MAGIC.len() + NONCE;
/// Plain bytes of the first piece: length of the outline (8), records, slots and mask of the table (4 each).
const HEAD: usize = 20;
/// Slots of the table in one piece.
const SLOTS: usize = 1 << 18;
/// Parts at the most, before a new base is made of everything.
const MOST_PARTS: usize = 32;
/// Blobs in all parts at the most, or an eighth of the base if that is more.
const MOST_IN_PARTS: u32 = 200_000;
/// A copy that was not used for so long is removed.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);
/// How often it is noted that a copy is in use.
const NOTE: Duration = Duration::from_secs(24 * 3600);

/// The tag of <https://bford.info/cachedir/>: programs that make backups leave such folders out.
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # Local copies of repository indexes, made by backstay: may be deleted at any time.\n";

type Tell = Arc<dyn Fn(&str) + Send + Sync>;

/// A folder for copies of repositories' indexes.
#[derive(Clone)]
pub struct IndexCache {
    folder: PathBuf,
    tell: Option<Tell>,
}

impl std::fmt::Debug for IndexCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IndexCache").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl IndexCache {
    /// Copies in this folder, which is made when it is needed. Whatever else is in it is left alone.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), tell: None }
    }

    /// Where a user's local copies lie: the variable `BACKSTAY_CACHE_DIR`, else `backstay` in `XDG_CACHE_HOME`, else in
    /// `~/.cache`; none: none of them is set.
    #[must_use]
    pub fn usual_folder() -> Option<PathBuf> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        // The standard of base directories: a path that is not absolute counts as none.
        let standard = || variable("XDG_CACHE_HOME").filter(|path| path.is_absolute());
        variable("BACKSTAY_CACHE_DIR").or_else(|| {
            let base = standard().or_else(|| variable("HOME").map(|home| home.join(".cache")))?;
            Some(base.join("backstay"))
        })
    }

    /// Tells `tell` in one sentence why there is no copy, or why one was thrown away.
    #[must_use]
    pub fn telling(mut self, tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.tell = Some(Arc::new(tell));
        self
    }

    fn tell(&self, text: &str) {
        if let Some(tell) = &self.tell {
            tell(text);
        }
    }

    /// What is known of the index files `live`.
    pub(crate) fn read(&self, repository: &Id, key: &MasterKey, live: &HashSet<Id>) -> Cached {
        let mut cached = Cached::default();
        let folder = self.folder.join(repository.to_hex());
        self.take(&folder.join(BASE), key, live, &mut cached);
        for part in parts(&folder) {
            self.take(&part, key, live, &mut cached);
        }
        cached.state.files = cached.index.file_count();
        cached.state.records = cached.index.len();
        cached
    }

    fn take(&self, path: &Path, key: &MasterKey, live: &HashSet<Id>, cached: &mut Cached) {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.tell(&format!("the index cache {} cannot be read: {error}", path.display())),
        };
        match Image::open(file, key).and_then(|image| cached.add(image, live)) {
            Ok(records) if path.ends_with(BASE) => cached.state.base_records = Some(records),
            Ok(records) => {
                cached.state.part_records = cached.state.part_records.saturating_add(records);
                cached.state.parts.push(path.to_owned());
            }
            Err(error) => {
                self.tell(&format!("the index cache {} is not used and made anew: {error}", path.display()));
                cached.state.spoilt = true;
                // If it cannot be removed, the new one takes its place or it is found damaged again.
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Keeps the index, of which `state` says what is there already.
    pub(crate) fn write(&self, repository: &Id, key: &MasterKey, state: &State, index: &Index) {
        let result = self.prepare(repository).and_then(|folder| save(&folder, key, state, index));
        if let Err(error) = result {
            self.tell(&format!("the index is not cached: {}: {error}", self.folder.display()));
        }
    }

    /// The repository's folder, made if it is not there, with a note that it is in use.
    fn prepare(&self, repository: &Id) -> io::Result<PathBuf> {
        let private = |path: &Path, parents| fs::DirBuilder::new().recursive(parents).mode(0o700).create(path);
        private(&self.folder, true)?;
        let folder = self.folder.join(repository.to_hex());
        let new = match private(&folder, false) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(error),
        };
        let now = SystemTime::now();
        if new || age(&folder, now).is_some_and(|age| age > NOTE) {
            let tag = self.folder.join("CACHEDIR.TAG");
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(tag) {
                Ok(mut tag) => tag.write_all(TAG.as_bytes())?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            File::open(&folder)?.set_modified(now)?;
            self.remove_unused(now);
            // What a process that was killed has left.
            for file in unfinished(&folder).iter().filter(|file| age(file, now).is_some_and(|age| age > NOTE)) {
                let _ = fs::remove_file(file);
            }
        }
        Ok(folder)
    }

    /// Removes the copies that nobody used. Only files with our names go; what cannot be removed stays.
    fn remove_unused(&self, now: SystemTime) {
        for folder in entries(&self.folder) {
            let ours = folder.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<Id>().is_ok());
            if ours && age(&folder, now).is_some_and(|age| age > UNUSED) {
                for file in parts(&folder).into_iter().chain([folder.join(BASE)]).chain(unfinished(&folder)) {
                    let _ = fs::remove_file(file);
                }
                let _ = fs::remove_dir(folder);
            }
        }
    }
}

fn age(path: &Path, now: SystemTime) -> Option<Duration> {
    now.duration_since(fs::symlink_metadata(path).ok()?.modified().ok()?).ok()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.sort();
    found
}

fn with_prefix(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let fits =
        |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix));
    entries(folder).into_iter().filter(fits).collect()
}

fn parts(folder: &Path) -> Vec<PathBuf> {
    with_prefix(folder, PART)
}

fn unfinished(folder: &Path) -> Vec<PathBuf> {
    with_prefix(folder, UNFINISHED)
}

/// What the cache knew.
#[derive(Default)]
pub(crate) struct Cached {
    /// The index files that were found there.
    pub(crate) index: Index,
    /// What has to be known to go on with the cache.
    pub(crate) state: State,
}

/// What is in the cache.
#[derive(Default)]
pub(crate) struct State {
    /// Records in the base, if there is one.
    base_records: Option<u32>,
    parts: Vec<PathBuf>,
    part_records: u32,
    /// Something in it is not to be used: index files that are gone or there twice, or damage.
    spoilt: bool,
    /// Index files that were taken from it.
    files: usize,
    /// Their blobs.
    records: usize,
}

impl Cached {
    /// Takes over what the file knows of the live index files, and says how many blobs it holds.
    fn add(&mut self, mut image: Image, live: &HashSet<Id>) -> io::Result<u32> {
        let records = image.outline.records();
        let mut seen: HashSet<Id> = self.index.file_ids().collect();
        let mut usable =
            image.outline.files().filter(|id| live.contains(id) && seen.insert(*id)).collect::<HashSet<_>>();
        let all = usable.len() == image.outline.files().count();
        if all && self.index.file_count() == 0 && image.slots > 0 {
            self.index = image.whole()?;
            return Ok(records);
        }
        self.state.spoilt |= !all;
        let outline = std::mem::take(&mut image.outline);
        let (mut next, mut failed, mut sealed) = (0, None, Vec::new());
        for (id, file) in outline.into_files(|| {
            let block = image.block(next, &mut sealed);
            next += 1;
            block.map_err(|error| failed = Some(error)).ok()
        }) {
            if usable.remove(&id) {
                self.index.insert_file(id, file);
            }
        }
        match failed {
            Some(error) => Err(error),
            None if usable.is_empty() => Ok(records),
            None => Err(damaged()),
        }
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is damaged, or not of this repository")
}

/// The key of the file with this random number.
fn file_key(key: &MasterKey, nonce: &[u8; NONCE]) -> MasterKey {
    let mut bytes = [0; 64];
    for (half, number) in bytes.chunks_exact_mut(32).zip(b"12") {
        let mut label = b"backstay index cache ".to_vec();
        label.push(*number);
        label.extend_from_slice(nonce);
        half.copy_from_slice(&key.derive(&label));
    }
    MasterKey::from_bytes(&bytes)
}

/// A cache file that is open.
struct Image {
    file: File,
    key: MasterKey,
    outline: Outline,
    records: u32,
    slots: u32,
    mask: u32,
    /// Where the first block of records is.
    blocks_at: u64,
}

impl Image {
    fn open(mut file: File, key: &MasterKey) -> io::Result<Self> {
        let mut start = [0; START];
        file.read_exact(&mut start).map_err(|_| damaged())?;
        let nonce = start.strip_prefix(MAGIC).and_then(|nonce| nonce.try_into().ok()).ok_or_else(damaged)?;
        let key = file_key(key, nonce);
        let mut image = Self { file, key, outline: Outline::default(), records: 0, slots: 0, mask: 0, blocks_at: 0 };
        let length = image.file.metadata()?.len();
        let mut at = START as u64;
        let mut head = Vec::new();
        image.piece(0, at, HEAD, &mut Vec::new(), &mut head)?;
        at += (HEAD + OVERHEAD) as u64;
        let mut head = Numbers(&head);
        let outline_length = u64::from(head.next()?) | u64::from(head.next()?) << 32;
        let records = head.next()?;
        image.records = records;
        image.slots = head.next()?;
        image.mask = head.next()?;
        // Before anything is read into memory: the file must be as long as it says.
        let table = pieces(image.slots as usize, SLOTS).map(|slots| (slots * 4 + OVERHEAD) as u64).sum::<u64>();
        let blocks = pieces(records as usize, RECORDS_PER_BLOCK)
            .map(|records| (records * BYTES_PER_RECORD + OVERHEAD) as u64)
            .sum::<u64>();
        let rest = (OVERHEAD as u64 + blocks + table).checked_add(outline_length);
        if rest != length.checked_sub(at) {
            return Err(damaged());
        }
        let mut outline = Vec::new();
        image.piece(1, at, outline_length as usize, &mut Vec::new(), &mut outline)?;
        image.outline = Outline::decode(&outline).filter(|one| one.records() == records).ok_or_else(damaged)?;
        image.blocks_at = at + outline_length + OVERHEAD as u64;
        Ok(image)
    }

    /// Reads and opens the piece of this number, with this many plain bytes.
    fn piece(&self, number: u64, at: u64, length: usize, sealed: &mut Vec<u8>, plain: &mut Vec<u8>) -> io::Result<()> {
        sealed.resize(length + OVERHEAD, 0);
        self.file.read_exact_at(sealed, at)?;
        self.key.open_numbered(number, sealed, plain).map_err(|_| damaged())
    }

    /// Reads a block of records.
    fn block(&self, number: usize, sealed: &mut Vec<u8>) -> io::Result<Vec<u8>> {
        let records = (self.records as usize).saturating_sub(number * RECORDS_PER_BLOCK).min(RECORDS_PER_BLOCK);
        let at = self.blocks_at + (number * (RECORDS_PER_BLOCK * BYTES_PER_RECORD + OVERHEAD)) as u64;
        let mut block = Vec::new();
        self.piece(2 + number as u64, at, records * BYTES_PER_RECORD, sealed, &mut block)?;
        Ok(block)
    }

    /// Reads everything, on several threads.
    fn whole(&mut self) -> io::Result<Index> {
        enum Work<'a> {
            Block(usize, &'a mut Vec<u8>),
            Slots(u64, u64, &'a mut [u32]),
        }
        let mut blocks = vec![Vec::new(); pieces(self.records as usize, RECORDS_PER_BLOCK).count()];
        let mut slots = vec![0; self.slots as usize];
        let outline = std::mem::take(&mut self.outline);
        let block_count = blocks.len() as u64;
        let records_end =
            self.records as u64 * BYTES_PER_RECORD as u64 + block_count * OVERHEAD as u64 + self.blocks_at;
        let tables = (0_u64..).zip(slots.chunks_mut(SLOTS)).map(|(number, slots)| {
            Work::Slots(2 + block_count + number, records_end + number * (SLOTS * 4 + OVERHEAD) as u64, slots)
        });
        let work = Mutex::new(blocks.iter_mut().enumerate().map(|(at, block)| Work::Block(at, block)).chain(tables));
        let image = &*self;
        let run = || -> io::Result<()> {
            let (mut sealed, mut plain) = (Vec::new(), Vec::new());
            loop {
                let next = work.lock().next();
                match next {
                    None => return Ok(()),
                    Some(Work::Block(number, block)) => *block = image.block(number, &mut sealed)?,
                    Some(Work::Slots(number, at, slots)) => {
                        image.piece(number, at, slots.len() * 4, &mut sealed, &mut plain)?;
                        for (slot, bytes) in slots.iter_mut().zip(plain.as_chunks().0) {
                            *slot = u32::from_le_bytes(*bytes);
                        }
                    }
                }
            }
        };
        let threads = std::thread::available_parallelism().map_or(2, usize::from).min(8);
        if self.records as usize <= RECORDS_PER_BLOCK {
            run()?;
        } else {
            std::thread::scope(|scope| {
                let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
                let mine = run();
                others
                    .into_iter()
                    .map(|thread| thread.join().unwrap_or_else(|_| Err(damaged())))
                    .fold(mine, Result::and)
            })?;
        }
        Index::from_image(outline, blocks, slots, self.mask).ok_or_else(damaged)
    }
}

/// The numbers of a head, one after the other.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn next(&mut self) -> io::Result<u32> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or_else(damaged)?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*bytes))
    }
}

/// The sizes of the pieces of `count` things, `most` in each but the last.
fn pieces(count: usize, most: usize) -> impl Iterator<Item = usize> {
    (0..count.div_ceil(most)).map(move |number| (count - number * most).min(most))
}

/// Writes what the cache does not have: a part, or a new base if there are many of them or something is not right.
fn save(folder: &Path, key: &MasterKey, state: &State, index: &Index) -> io::Result<()> {
    let fresh = index.len().saturating_sub(state.records);
    let in_parts = state.part_records as usize + fresh;
    let most = MOST_IN_PARTS.max(state.base_records.unwrap_or(0) / 8) as usize;
    let anew = state.spoilt || state.base_records.is_none() || state.parts.len() >= MOST_PARTS || in_parts > most;
    if anew {
        let (outline, ranges) = index.outline(0);
        let table = index.slots_for(&outline);
        write_image(folder, &folder.join(BASE), key, index, (&outline, &ranges), table)?;
        state.parts.iter().try_for_each(fs::remove_file).or_else(|error| match error.kind() {
            // Another process has made a new base too.
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })
    } else if index.file_count() > state.files {
        let (outline, ranges) = index.outline(state.files);
        if outline.files().next().is_none() {
            return Ok(());
        }
        let mut name = [0; 8];
        random(&mut name).map_err(io::Error::other)?;
        let path = folder.join(format!("{PART}{:016x}", u64::from_le_bytes(name)));
        write_image(folder, &path, key, index, (&outline, &ranges), None)
    } else {
        Ok(())
    }
}

fn write_image(
    folder: &Path,
    path: &Path,
    key: &MasterKey,
    index: &Index,
    (outline, ranges): (&Outline, &[Range<u32>]),
    table: Option<(&[u32], u32)>,
) -> io::Result<()> {
    let mut nonce = [0; NONCE];
    random(&mut nonce).map_err(io::Error::other)?;
    let key = file_key(key, &nonce);
    // Readable by its owner only. A file that a crash leaves half written does not open.
    let file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(folder)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(MAGIC)?;
    out.write_all(&nonce)?;
    let mut number = 0;
    let mut sealed = Vec::new();
    let mut piece = |plain: &[u8]| {
        sealed.clear();
        key.seal_numbered(number, plain, &mut sealed);
        number += 1;
        out.write_all(&sealed)
    };
    let (slots, mask) = table.unwrap_or_default();
    let encoded = outline.encode();
    let mut head = (encoded.len() as u64).to_le_bytes().to_vec();
    for number in [outline.records(), slots.len() as u32, mask] {
        head.extend_from_slice(&number.to_le_bytes());
    }
    piece(&head)?;
    piece(&encoded)?;
    index.blocks(ranges, &mut piece)?;
    for slots in slots.chunks(SLOTS) {
        let plain: Vec<u8> = slots.iter().flat_map(|slot| slot.to_le_bytes()).collect();
        piece(&plain)?;
    }
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}
