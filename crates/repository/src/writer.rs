//! The write path: blobs come in from any thread, packs, index files and nothing else go out.
//!
//! [`Writer::save`] does all the arithmetic (hash, look-up, compress, encrypt) on the thread that calls it, so a source
//! that works in parallel uses every core. A single stream gets the same from [`Writer::content`], which cuts it and
//! hands the chunks to the writer's own threads. Full packs are hashed and stored by two more threads. All queues are
//! bounded: memory has a ceiling whatever the source does.
//!
//! Order of writing: packs, then the index files that list them, then (by the caller) the snapshot. A process that is
//! killed in between leaves packs that nobody refers to, nothing worse.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use backstay_core::{Id, ObjectKind};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use hashbrown::{HashMap, HashSet};
use parking_lot::{Condvar, Mutex, RwLock};

use crate::chunker::ChunkerParams;
use crate::error::Error;
use crate::index::{Index, encode_index_file};
use crate::pack::{BlobKind, PackBlob, encode_header};
use crate::probe;
use crate::reader::plain_length;
use crate::repository::Repository;
use crate::stream::{ChunkBuffer, ContentWriter};
use crate::tree::Node;

/// Blobs in one pack at the most: readers hold a pack's header in memory.
const MAX_BLOBS_PER_PACK: usize = 10_000;
/// Blobs in one index file, as restic does.
const BLOBS_PER_INDEX: usize = 50_000;
/// An index file is written at the latest this long after the first pack that it lists, as restic does: what a killed
/// backup has stored until then need not be stored again.
const INDEX_AGE: Duration = Duration::from_secs(600);
/// Threads that hash and store full packs.
const UPLOADERS: usize = 2;
/// Bytes of chunks that may wait for each thread that computes them. There may always be as many chunks as threads: a long
/// stream needs no more, and of small files many fit, so that nobody sleeps between two of them.
const WAITING_PER_THREAD: usize = 2 << 20;
/// Bytes of a buffer that a frugal writer keeps for the next chunk. Most chunks are shorter; what a long one took goes back.
const KEPT_BUFFER: usize = 1 << 20;
/// So many packs are asked about one by one; where there are more, a list is quicker.
const FEW_PACKS: usize = 8;
/// The sets of ids written in this run are split so that threads seldom wait for each other.
const SHARDS: usize = 64;

/// What is told where one of the writer's threads panicked.
const DIED: &str = "a thread of the writer died";

/// The zstd level of trees where data is not compressed.
const TREE_LEVEL: i32 = 3;

/// How data blobs are compressed. Trees always are: restic's prune rewrites packs with plain ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Off,
    /// With zstd at this level, 1 to 19; a blob that does not get smaller is stored as it is.
    Level(i32),
}

impl Default for Compression {
    fn default() -> Self {
        Self::Level(3)
    }
}

/// How a run writes.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// How hard to press.
    pub compression: Compression,
    /// Bytes of blobs after which a pack is closed (16 MiB as restic does).
    pub pack_size: usize,
    /// Threads that hash and compress the chunks of single streams.
    pub threads: usize,
    /// Bytes of the longest chunk of a file. Shorter than [`ChunkerParams::MAX`], many streams at once need less memory;
    /// whoever wants to find his chunks again asks for the same every time.
    pub longest_chunk: usize,
    /// Gives memory back rather than keep it for the next chunk, which costs time: for a writer in somebody else's process.
    pub frugal: bool,
    /// Compute everything and store nothing.
    pub dry_run: bool,
}

impl Default for WriteOptions {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            compression: Compression::default(),
            pack_size: 16 << 20,
            threads,
            longest_chunk: ChunkerParams::MAX,
            frugal: false,
            dry_run: false,
        }
    }
}

/// What a run has written so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteStats {
    /// New data blobs.
    pub data_blobs: u64,
    /// New tree blobs.
    pub tree_blobs: u64,
    /// Bytes of the new blobs before compression.
    pub added: u64,
    /// Bytes of the new blobs as stored.
    pub added_packed: u64,
}

#[derive(Default)]
struct Counters {
    data_blobs: AtomicU64,
    tree_blobs: AtomicU64,
    added: AtomicU64,
    added_packed: AtomicU64,
}

struct OpenPack {
    bytes: Vec<u8>,
    blobs: Vec<PackBlob>,
}

#[derive(Default)]
struct Unindexed {
    packs: Vec<(Id, Vec<PackBlob>)>,
    blobs: usize,
    since: Option<Instant>,
}

impl Unindexed {
    /// Whether it is time for an index file.
    fn is_due(&self) -> bool {
        self.blobs >= BLOBS_PER_INDEX || self.since.is_some_and(|since| since.elapsed() >= INDEX_AGE)
    }
}

/// Makes the writer fail when the thread dies while this lives: a blob that counts as written may be in no pack then.
struct Whole<'a>(&'a Shared);

impl Drop for Whole<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failed.store(true, Ordering::Release);
        }
    }
}

/// A blob on its way through the writer's threads.
pub(crate) struct ChunkJob {
    pub(crate) data: ChunkBuffer,
    /// What it is, where somebody has hashed it already; data otherwise.
    pub(crate) named: Option<(BlobKind, Id)>,
    pub(crate) slot: usize,
    pub(crate) slots: Arc<Slots>,
}

/// How much waits for the threads that compute chunks.
#[derive(Debug)]
struct Waiting {
    load: Mutex<Load>,
    lighter: Condvar,
    threads: usize,
}

#[derive(Debug)]
struct Load {
    chunks: usize,
    bytes: usize,
    /// Threads that are there.
    alive: usize,
}

impl Load {
    /// Whether a chunk of that many bytes may join, or nobody is left to wait for.
    fn takes(&self, bytes: usize, threads: usize, limit: usize) -> bool {
        self.alive == 0 || self.chunks < threads || self.bytes + bytes <= limit
    }
}

impl Waiting {
    fn new(threads: usize) -> Self {
        Self { load: Mutex::new(Load { chunks: 0, bytes: 0, alive: threads }), lighter: Condvar::new(), threads }
    }

    fn limit(&self) -> usize {
        WAITING_PER_THREAD * self.threads
    }

    /// Waits until there is room for a chunk of that many bytes.
    fn add(&self, bytes: usize) {
        let mut load = self.load.lock();
        while !load.takes(bytes, self.threads, self.limit()) {
            self.lighter.wait(&mut load);
        }
        load.chunks += 1;
        load.bytes += bytes;
    }

    /// A thread took one. Whoever waits is woken when there is room for more than the next small chunk.
    fn taken(&self, bytes: usize) {
        let mut load = self.load.lock();
        load.chunks -= 1;
        load.bytes -= bytes;
        if load.chunks < self.threads || load.bytes <= self.limit() / 2 {
            self.lighter.notify_all();
        }
    }
}

/// Buffers that were used for chunks.
struct ChunkBuffers {
    small: (Sender<ChunkBuffer>, Receiver<ChunkBuffer>),
    large: (Sender<ChunkBuffer>, Receiver<ChunkBuffer>),
    frugal: bool,
}

impl ChunkBuffers {
    /// Small ones at most: they take 8 MiB.
    const SMALL: usize = 128;

    fn new(threads: usize, frugal: bool) -> Self {
        let (small, large) = if frugal { (Self::SMALL / 2, threads + 2) } else { (Self::SMALL, 2 * threads + 2) };
        Self { small: bounded(small), large: bounded(large), frugal }
    }

    fn take(&self, small: bool) -> ChunkBuffer {
        let pool = if small { &self.small } else { &self.large };
        pool.1.try_recv().unwrap_or_default()
    }

    fn give(&self, mut buffer: ChunkBuffer) {
        if buffer.is_new() {
            return;
        }
        buffer.clear();
        if self.frugal {
            buffer.shrink(KEPT_BUFFER);
        }
        let pool = if buffer.is_small() { &self.small } else { &self.large };
        // One more than there is room for is freed.
        let _ = pool.0.try_send(buffer);
    }
}

/// A thread that computes chunks is there as long as this lives.
struct Alive(Arc<Waiting>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.load.lock().alive -= 1;
        self.0.lighter.notify_all();
    }
}

/// Where the ids of one stream's chunks arrive.
#[derive(Default)]
pub(crate) struct Slots {
    state: Mutex<SlotState>,
    arrived: Condvar,
}

#[derive(Default)]
struct SlotState {
    ids: Vec<Id>,
    outstanding: usize,
    error: Option<Error>,
}

impl Slots {
    pub(crate) fn push(&self, id: Id) {
        self.state.lock().ids.push(id);
    }

    pub(crate) fn reserve(&self) -> usize {
        let mut state = self.state.lock();
        state.ids.push(Id::default());
        state.outstanding += 1;
        state.ids.len() - 1
    }

    fn fill(&self, slot: usize, result: Result<Id, Error>) {
        let mut state = self.state.lock();
        state.outstanding -= 1;
        match result {
            Ok(id) => state.ids[slot] = id,
            Err(error) => state.error = Some(error),
        }
        if state.outstanding == 0 {
            self.arrived.notify_all();
        }
    }

    pub(crate) fn ready(&self) -> bool {
        self.state.lock().outstanding == 0
    }

    pub(crate) fn wait(&self) -> Result<Vec<Id>, Error> {
        let mut state = self.state.lock();
        while state.outstanding > 0 {
            self.arrived.wait(&mut state);
        }
        match state.error.take() {
            Some(error) => Err(error),
            None => Ok(std::mem::take(&mut state.ids)),
        }
    }
}

/// The packs that are full and not stored yet, by number.
#[derive(Debug, Default)]
struct Afloat {
    state: Mutex<(u64, BTreeSet<u64>)>,
    landed: Condvar,
}

impl Afloat {
    fn launch(self: &Arc<Self>) -> Ticket {
        let (last, there) = &mut *self.state.lock();
        *last += 1;
        there.insert(*last);
        Ticket { afloat: Arc::clone(self), number: *last }
    }

    /// Waits until every pack that is afloat now has landed.
    fn wait(&self) {
        let mut state = self.state.lock();
        let (last, _) = *state;
        while state.1.first().is_some_and(|first| *first <= last) {
            self.landed.wait(&mut state);
        }
    }
}

/// Belongs to a pack that is afloat; it has landed, or was given up, when this goes.
#[derive(Debug)]
struct Ticket {
    afloat: Arc<Afloat>,
    number: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.afloat.state.lock().1.remove(&self.number);
        self.afloat.landed.notify_all();
    }
}

struct Shared {
    repository: Arc<Repository>,
    index: Arc<Index>,
    options: WriteOptions,
    /// Whoever saves a blob reads; a checkpoint writes: then each blob that is known is in a pack.
    saving: RwLock<()>,
    afloat: Arc<Afloat>,
    /// The blobs of this run, with their plain lengths.
    written: Vec<Mutex<HashMap<(BlobKind, Id), u32>>>,
    reused_packs: Mutex<HashSet<Id>>,
    open: [Mutex<OpenPack>; 2],
    spare: (Sender<Vec<u8>>, Receiver<Vec<u8>>),
    unindexed: Mutex<Unindexed>,
    /// Whoever takes packs out of `unindexed` holds this until the index file that lists them is stored.
    indexing: Mutex<()>,
    zeros: Mutex<HashMap<usize, Id>>,
    failed: AtomicBool,
    failure: Mutex<Option<Error>>,
    counters: Counters,
}

struct PackJob {
    kind: BlobKind,
    bytes: Vec<u8>,
    blobs: Vec<PackBlob>,
    ticket: Ticket,
}

/// Writes blobs into packs. Shared by all threads of a job.
pub struct Writer {
    shared: Arc<Shared>,
    chunks: Mutex<Option<Sender<ChunkJob>>>,
    waiting: Arc<Waiting>,
    uploads: Mutex<Option<Sender<PackJob>>>,
    chunk_buffers: Arc<ChunkBuffers>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

#[derive(Default)]
struct Scratch {
    compressor: Option<(i32, zstd::bulk::Compressor<'static>)>,
    compressed: Vec<u8>,
    envelope: Vec<u8>,
    tree: Vec<u8>,
}

impl Scratch {
    /// Gives back what a long blob took.
    fn shrink(&mut self) {
        for buffer in [&mut self.compressed, &mut self.envelope] {
            if buffer.capacity() > KEPT_BUFFER {
                buffer.clear();
                buffer.shrink_to(KEPT_BUFFER);
            }
        }
    }

    /// Compresses into `self.compressed`; the frame carries its content size and no checksum.
    fn compress(&mut self, level: i32, data: &[u8]) -> Result<(), Error> {
        let refused = |error: std::io::Error| Error::Other(format!("zstd could not compress a blob: {error}"));
        if self.compressor.as_ref().is_none_or(|(have, _)| *have != level) {
            self.compressor = Some((level, zstd::bulk::Compressor::new(level).map_err(refused)?));
        }
        self.compressed.clear();
        self.compressed.reserve(zstd::zstd_safe::compress_bound(data.len()));
        if let Some((_, compressor)) = &mut self.compressor {
            compressor.compress_to_buffer(data, &mut self.compressed).map_err(refused)?;
        }
        Ok(())
    }
}

impl Writer {
    /// Starts the writer's threads; none where the repository does everything in turn.
    ///
    /// # Errors
    /// When the repository's version cannot be written, or a thread cannot be started.
    pub fn new(repository: Arc<Repository>, index: Arc<Index>, options: WriteOptions) -> Result<Arc<Self>, Error> {
        if repository.version() < 2 {
            return Err(Error::ReadOnlyVersion);
        }
        let thread_count = options.threads.max(1);
        let open_pack = || Mutex::new(OpenPack { bytes: Vec::new(), blobs: Vec::new() });
        let shared = Arc::new(Shared {
            repository,
            index,
            options,
            saving: RwLock::new(()),
            afloat: Arc::default(),
            written: (0..SHARDS).map(|_| Mutex::default()).collect(),
            reused_packs: Mutex::new(HashSet::new()),
            open: [open_pack(), open_pack()],
            spare: bounded(1),
            unindexed: Mutex::default(),
            indexing: Mutex::default(),
            zeros: Mutex::new(HashMap::new()),
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
            counters: Counters::default(),
        });
        let (upload_sender, upload_receiver) = bounded::<PackJob>(0);
        let (chunk_sender, chunk_receiver) = unbounded::<ChunkJob>();
        let waiting = Arc::new(Waiting::new(thread_count));
        let chunk_buffers = Arc::new(ChunkBuffers::new(thread_count, shared.options.frugal));
        let writer = Arc::new(Self {
            shared: Arc::clone(&shared),
            chunks: Mutex::new(Some(chunk_sender)),
            waiting: Arc::clone(&waiting),
            uploads: Mutex::new(Some(upload_sender)),
            chunk_buffers: Arc::clone(&chunk_buffers),
            threads: Mutex::new(Vec::new()),
        });
        if shared.repository.in_turn() {
            return Ok(writer);
        }
        let mut threads = Vec::new();
        for _ in 0..UPLOADERS.min(thread_count) {
            let shared = Arc::clone(&shared);
            let jobs = upload_receiver.clone();
            threads.push(spawn("store packs", move || {
                for job in jobs {
                    shared.store_pack(job);
                }
            })?);
        }
        for _ in 0..thread_count {
            let jobs = chunk_receiver.clone();
            let buffers = Arc::clone(&chunk_buffers);
            let weak = Arc::downgrade(&writer);
            let alive = Alive(Arc::clone(&waiting));
            threads.push(spawn("chunks", move || {
                for ChunkJob { data, named, slot, slots } in jobs {
                    alive.0.taken(data.filled().len());
                    let result = match weak.upgrade() {
                        // Whoever waits for this chunk must not wait for ever.
                        Some(writer) => {
                            let saving = AssertUnwindSafe(|| writer.save_as(named, data.filled()));
                            catch_unwind(saving).unwrap_or_else(|_| Err(Error::Other(DIED.to_owned())))
                        }
                        None => Err(Error::Other("the writer ended before its chunks".to_owned())),
                    };
                    buffers.give(data);
                    slots.fill(slot, result);
                }
            })?);
        }
        *writer.threads.lock() = threads;
        Ok(writer)
    }

    /// The repository that this writer fills.
    #[must_use]
    pub fn repository(&self) -> &Arc<Repository> {
        &self.shared.repository
    }

    /// Whether the blob is stored, or will be when this run is finished. A blob found in the index counts as used:
    /// [`Writer::finish`] makes sure that its pack is still there.
    #[must_use]
    pub fn knows(&self, kind: BlobKind, id: &Id) -> bool {
        self.shared.knows_stored(kind, id) || self.shared.shard(id).lock().contains_key(&(kind, *id))
    }

    /// The length in bytes of a known blob's plain content.
    #[must_use]
    pub fn length(&self, kind: BlobKind, id: &Id) -> Option<u64> {
        let stored = self.shared.index.get(kind, id).map(|location| plain_length(&location));
        stored.or_else(|| self.shared.shard(id).lock().get(&(kind, *id)).map(|length| u64::from(*length)))
    }

    /// Stores a blob unless it is known, and returns its id. Runs on the calling thread; blocks while packs are being
    /// stored faster than the store takes them.
    ///
    /// # Errors
    /// The store's first error, once it happened, for every later call too.
    pub fn save(&self, kind: BlobKind, data: &[u8]) -> Result<Id, Error> {
        self.save_as(Some((kind, Id::of(data))), data)
    }

    fn save_as(&self, named: Option<(BlobKind, Id)>, data: &[u8]) -> Result<Id, Error> {
        let (kind, id) = named.unwrap_or_else(|| (BlobKind::Data, Id::of(data)));
        self.save_named(kind, id, data)?;
        Ok(id)
    }

    /// Blobs whose ids are needed at once, and which the writer's threads store meanwhile.
    pub(crate) fn later(&self) -> Later<'_> {
        Later { writer: self, slots: Arc::default(), sent: 0 }
    }

    /// Stores the tree of these nodes, sorted by name as the format demands.
    ///
    /// # Errors
    /// Two nodes of one name, or as [`Writer::save`].
    pub fn save_tree(&self, nodes: &[Node]) -> Result<Id, Error> {
        let mut sorted: Vec<&Node> = nodes.iter().collect();
        sorted.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0].name == pair[1].name) {
            let name = String::from_utf8_lossy(&pair[0].name);
            return Err(Error::Other(format!("two entries of one directory have the name \"{name}\"")));
        }
        let mut json = SCRATCH.with_borrow_mut(|scratch| std::mem::take(&mut scratch.tree));
        json.clear();
        json.extend_from_slice(b"{\"nodes\":[");
        for (at, node) in sorted.into_iter().enumerate() {
            if at > 0 {
                json.push(b',');
            }
            node.encode(&mut json);
        }
        json.extend_from_slice(b"]}\n");
        let id = self.save(BlobKind::Tree, &json);
        SCRATCH.with_borrow_mut(|scratch| scratch.tree = json);
        id
    }

    /// Starts the contents of one file.
    #[must_use]
    pub fn content(self: &Arc<Self>) -> ContentWriter {
        ContentWriter::new(Arc::clone(self))
    }

    /// What was written so far.
    #[must_use]
    pub fn stats(&self) -> WriteStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.shared.counters;
        WriteStats {
            data_blobs: get(&counters.data_blobs),
            tree_blobs: get(&counters.tree_blobs),
            added: get(&counters.added),
            added_packed: get(&counters.added_packed),
        }
    }

    /// Stores what is still open, writes the last index file and makes sure that every reused pack is still there.
    /// After it the blobs of this run may be named by a snapshot. Called once, when no other thread uses the writer.
    ///
    /// # Errors
    /// The first error of the store, or [`Error::Other`] if a pack that held reused blobs has vanished meanwhile.
    pub fn finish(&self) -> Result<WriteStats, Error> {
        self.checkpoint()?;
        self.stop_threads();
        self.shared.check()?;
        Ok(self.stats())
    }

    /// Stores what was saved until now, with the index files that list it, and makes sure that every reused pack is still
    /// there: after it those blobs may be named by a snapshot. Other threads may go on saving. One thread at a time does
    /// this.
    ///
    /// # Errors
    /// As [`Writer::finish`]. The writer cannot go on then: what was saved may be listed nowhere.
    pub fn checkpoint(&self) -> Result<(), Error> {
        self.settle().inspect_err(|error| self.shared.fail(error.clone()))
    }

    fn settle(&self) -> Result<(), Error> {
        let shared = &self.shared;
        let jobs = {
            let _alone = shared.saving.write();
            [BlobKind::Data, BlobKind::Tree].map(|kind| {
                let mut open = shared.open[slot_of(kind)].lock();
                (!open.blobs.is_empty()).then(|| open.close(kind, Vec::new(), shared.afloat.launch()))
            })
        };
        match jobs {
            // Two packs take as long as one.
            [Some(data), Some(trees)] if !shared.repository.in_turn() => std::thread::scope(|scope| {
                scope.spawn(|| shared.store_pack(trees));
                shared.store_pack(data);
            }),
            jobs => jobs.into_iter().flatten().for_each(|job| shared.store_pack(job)),
        }
        shared.afloat.wait();
        shared.check()?;
        shared.store_index(|_| true)?;
        // Another thread may have taken some of these packs, and not stored their index file.
        shared.check()?;
        shared.verify_reused()
    }

    /// Whether the store refused something: the writer cannot go on then.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }

    /// How long a chunk may be, in bytes.
    pub(crate) fn longest_chunk(&self) -> usize {
        self.shared.options.longest_chunk.clamp(ChunkerParams::MIN, ChunkerParams::MAX)
    }

    /// Hands a chunk to the writer's threads; blocks while all of them are busy.
    pub(crate) fn submit(&self, job: ChunkJob) -> Result<(), Error> {
        if self.shared.repository.in_turn() {
            let ChunkJob { data, named, slot, slots } = job;
            let result = self.save_as(named, data.filled());
            self.recycle(data);
            slots.fill(slot, result);
            return self.shared.check();
        }
        let sender = self.chunks.lock().clone();
        let slots = Arc::clone(&job.slots);
        let slot = job.slot;
        self.waiting.add(job.data.filled().len());
        if sender.is_none_or(|sender| sender.send(job).is_err()) {
            slots.fill(slot, Err(Error::Other("the writer has ended".to_owned())));
        }
        self.shared.check()
    }

    /// A buffer for a chunk, used before where possible.
    pub(crate) fn chunk_buffer(&self) -> ChunkBuffer {
        self.chunk_buffers.take(false)
    }

    /// The same for that many bytes, all that will come.
    pub(crate) fn buffer_for(&self, bytes: usize) -> ChunkBuffer {
        self.chunk_buffers.take(bytes <= ChunkBuffer::SMALL)
    }

    pub(crate) fn recycle(&self, buffer: ChunkBuffer) {
        self.chunk_buffers.give(buffer);
    }

    /// The id of a blob of `length` zero bytes, which is hashed, compressed and stored once.
    pub(crate) fn zero_blob(&self, length: usize) -> Result<Id, Error> {
        let mut zeros = self.shared.zeros.lock();
        if let Some(id) = zeros.get(&length) {
            return Ok(*id);
        }
        let id = self.save(BlobKind::Data, &vec![0; length])?;
        zeros.insert(length, id);
        Ok(id)
    }

    fn save_named(&self, kind: BlobKind, id: Id, data: &[u8]) -> Result<(), Error> {
        let shared = &self.shared;
        shared.check()?;
        let length = envelope_len(data)?;
        let saving = shared.saving.read();
        let _whole = Whole(shared);
        if shared.knows_stored(kind, &id) || shared.shard(&id).lock().insert((kind, id), length).is_some() {
            return Ok(());
        }
        let job = SCRATCH.with_borrow_mut(|scratch| -> Result<Option<PackJob>, Error> {
            // Trees are always compressed: restic's prune rewrites packs with plain ones.
            let compressed = match (kind, shared.options.compression) {
                (BlobKind::Data, Compression::Off) => false,
                (BlobKind::Data, Compression::Level(_)) if probe::is_incompressible(data) => false,
                (BlobKind::Tree, Compression::Off) => {
                    scratch.compress(TREE_LEVEL, data)?;
                    true
                }
                (kind, Compression::Level(level)) => {
                    scratch.compress(level, data)?;
                    kind == BlobKind::Tree || scratch.compressed.len() < data.len()
                }
            };
            let Scratch { compressed: small, envelope, .. } = scratch;
            envelope.clear();
            shared.repository.key().seal_into(if compressed { small } else { data }, envelope);
            let length = envelope_len(envelope)?;
            let uncompressed =
                if compressed { u32::try_from(data.len()).ok().and_then(std::num::NonZeroU32::new) } else { None };
            let counters = &shared.counters;
            let blobs = if kind == BlobKind::Data { &counters.data_blobs } else { &counters.tree_blobs };
            blobs.fetch_add(1, Ordering::Relaxed);
            counters.added.fetch_add(data.len() as u64, Ordering::Relaxed);
            counters.added_packed.fetch_add(u64::from(length), Ordering::Relaxed);

            let mut open = shared.open[slot_of(kind)].lock();
            let offset = envelope_len(&open.bytes)?;
            open.bytes.extend_from_slice(envelope);
            open.blobs.push(PackBlob { id, kind, offset, length, uncompressed });
            if open.bytes.len() < shared.options.pack_size && open.blobs.len() < MAX_BLOBS_PER_PACK {
                return Ok(None);
            }
            let spare = shared.spare.1.try_recv().unwrap_or_default();
            Ok(Some(open.close(kind, spare, shared.afloat.launch())))
        });
        if shared.options.frugal {
            SCRATCH.with_borrow_mut(Scratch::shrink);
        }
        // It counts as written already, for others too.
        let job = job.inspect_err(|error| shared.fail(error.clone()))?;
        drop(saving);
        match job {
            Some(job) => self.upload(job),
            None => Ok(()),
        }
    }

    fn upload(&self, job: PackJob) -> Result<(), Error> {
        if self.shared.repository.in_turn() {
            self.shared.store_pack(job);
            return self.shared.check();
        }
        let sender = self.uploads.lock().clone();
        if sender.is_none_or(|sender| sender.send(job).is_err()) {
            self.shared.fail(Error::Other("the writer has ended".to_owned()));
        }
        self.shared.check()
    }

    fn stop_threads(&self) {
        self.chunks.lock().take();
        self.uploads.lock().take();
        let own = std::thread::current().id();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // The last reference may be dropped by a chunk thread itself; it cannot wait for its own end.
            if thread.thread().id() != own && thread.join().is_err() {
                self.shared.failed.store(true, Ordering::Release);
            }
        }
    }
}

/// Blobs that were handed over under their ids. They are stored, or lost, only when [`Later::wait`] has returned.
pub(crate) struct Later<'a> {
    writer: &'a Writer,
    slots: Arc<Slots>,
    sent: usize,
}

impl Later<'_> {
    /// So many are on their way at most.
    const MOST: usize = 4096;

    /// Hands over the blob that these pieces make; blocks while too much is on its way.
    ///
    /// # Errors
    /// As [`Writer::save`], of this blob or of an earlier one.
    pub(crate) fn save(&mut self, kind: BlobKind, pieces: &[&[u8]]) -> Result<Id, Error> {
        if self.sent == Self::MOST {
            self.wait()?;
        }
        let length = pieces.iter().map(|piece| piece.len()).sum();
        let mut data = self.writer.buffer_for(length);
        pieces.iter().for_each(|piece| data.push(piece));
        let id = Id::of(data.filled());
        let job =
            ChunkJob { data, named: Some((kind, id)), slot: self.slots.reserve(), slots: Arc::clone(&self.slots) };
        self.sent += 1;
        self.writer.submit(job)?;
        Ok(id)
    }

    /// Waits until all of them are in packs.
    ///
    /// # Errors
    /// The first that one of them met.
    pub(crate) fn wait(&mut self) -> Result<(), Error> {
        self.sent = 0;
        self.slots.wait().map(drop)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop_threads();
    }
}

impl OpenPack {
    fn close(&mut self, kind: BlobKind, replacement: Vec<u8>, ticket: Ticket) -> PackJob {
        let bytes = std::mem::replace(&mut self.bytes, replacement);
        PackJob { kind, bytes, blobs: std::mem::take(&mut self.blobs), ticket }
    }
}

impl Shared {
    fn shard(&self, id: &Id) -> &Mutex<HashMap<(BlobKind, Id), u32>> {
        &self.written[usize::from(id.0[0]) % SHARDS]
    }

    fn knows_stored(&self, kind: BlobKind, id: &Id) -> bool {
        match self.index.get(kind, id) {
            Some(location) => {
                self.reused_packs.lock().insert(location.pack);
                true
            }
            None => false,
        }
    }

    fn check(&self) -> Result<(), Error> {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(match &*self.failure.lock() {
            Some(error) => error.clone(),
            None => Error::Other(DIED.to_owned()),
        })
    }

    fn fail(&self, error: Error) {
        self.failure.lock().get_or_insert(error);
        self.failed.store(true, Ordering::Release);
    }

    fn store_pack(&self, job: PackJob) {
        // It has landed when this returns, and not before the writer is told that its thread died.
        let PackJob { kind, mut bytes, blobs, ticket: _ticket } = job;
        let _whole = Whole(self);
        debug_assert!(blobs.iter().all(|blob| blob.kind == kind), "tree and data blobs never share a pack");
        if self.failed.load(Ordering::Acquire) {
            return;
        }
        let start = bytes.len();
        self.repository.key().seal_into(&encode_header(&blobs), &mut bytes);
        let header = u32::try_from(bytes.len() - start).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&header.to_le_bytes());
        if self.options.dry_run {
            bytes.clear();
            let _ = self.spare.0.try_send(bytes);
            return;
        }
        let id = Id::of(&bytes);
        let stored = self.repository.store().put(ObjectKind::Pack, &id, &bytes);
        bytes.clear();
        let _ = self.spare.0.try_send(bytes);
        if let Err(error) = stored {
            self.fail(error.into());
            return;
        }
        let due = {
            let mut unindexed = self.unindexed.lock();
            unindexed.blobs += blobs.len();
            unindexed.packs.push((id, blobs));
            unindexed.since.get_or_insert_with(Instant::now);
            unindexed.is_due()
        };
        if due {
            // It is told to everybody.
            let _ = self.store_index(Unindexed::is_due);
        }
    }

    /// Stores the index file of all packs that are in none yet, where there are such and it is time. When this returns, no
    /// other thread has taken some that were there before and not stored their index file.
    fn store_index(&self, is_time: impl FnOnce(&Unindexed) -> bool) -> Result<(), Error> {
        let _one = self.indexing.lock();
        let packs = {
            let mut unindexed = self.unindexed.lock();
            if !is_time(&unindexed) || unindexed.packs.is_empty() {
                return Ok(());
            }
            std::mem::take(&mut *unindexed).packs
        };
        let stored = self.repository.save_unpacked(ObjectKind::Index, &encode_index_file(&packs));
        stored.map(drop).inspect_err(|error| self.fail(error.clone()))
    }

    /// A pack that held reused blobs may have been deleted by a program that takes no locks (rustic).
    fn verify_reused(&self) -> Result<(), Error> {
        let mut missing = std::mem::take(&mut *self.reused_packs.lock());
        if missing.is_empty() {
            return Ok(());
        }
        let store = self.repository.store();
        if missing.len() <= FEW_PACKS {
            let mut gone = Ok(());
            missing.retain(|pack| match store.size(ObjectKind::Pack, pack) {
                Ok(size) => size.is_none(),
                Err(error) => {
                    gone = Err(error);
                    true
                }
            });
            gone?;
        } else {
            for (id, _) in store.list(ObjectKind::Pack)? {
                missing.remove(&id);
            }
        }
        match missing.into_iter().next() {
            None => Ok(()),
            Some(pack) => Err(Error::Other(format!(
                "pack {pack} holds contents that this backup reuses, and it is no longer in the repository. No snapshot \
                 was written; run \"backstay check\", then back up with --force"
            ))),
        }
    }
}

fn slot_of(kind: BlobKind) -> usize {
    match kind {
        BlobKind::Data => 0,
        BlobKind::Tree => 1,
    }
}

fn envelope_len(bytes: &[u8]) -> Result<u32, Error> {
    u32::try_from(bytes.len()).map_err(|_| Error::Other("a blob or pack of 4 GiB or more cannot be stored".to_owned()))
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|error| Error::Other(format!("a thread could not be started: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_large_chunks_wait_or_many_small_ones_and_nobody_waits_for_dead_threads() {
        let load = |chunks, bytes, alive| Load { chunks, bytes, alive };
        // As many chunks as threads, however large.
        assert!(load(1, 8 << 20, 2).takes(8 << 20, 2, 4 << 20));
        assert!(!load(2, 16 << 20, 2).takes(1, 2, 4 << 20));
        // Beyond that as many bytes as are allowed.
        assert!(load(200, 3 << 20, 2).takes(1 << 20, 2, 4 << 20));
        assert!(!load(200, 3 << 20, 2).takes((1 << 20) + 1, 2, 4 << 20));
        assert!(load(200, 16 << 20, 0).takes(8 << 20, 2, 4 << 20));
    }
}
