//! Trees from entries that come in any order.
//!
//! Nodes are collected with their paths; past 16 MiB they are sorted and spilled to a temporary run, by a thread of its own. At the end the
//! runs are merged in depth-first order, so that each directory is whole when its parent needs it, and a million
//! entries fit in a few buffers. Path components are kept apart by a zero byte while sorting: names cannot hold one,
//! and `a`'s children then come right behind `a`, before `a!`.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::thread::JoinHandle;

use backstay_core::{FileKind, Id, Time};

use crate::error::Error;
use crate::pack::BlobKind;
use crate::tree::Node;
use crate::writer::{Later, Writer};

/// Bytes of nodes in memory before they are sorted and spilled.
const SPILL_AT: usize = 16 << 20;
/// Bytes before each record of a run.
const HEAD: usize = 25;
/// The bits of a generation that count within one source.
const GENERATIONS: u32 = (1 << 20) - 1;

/// A node that fits nowhere in the tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Misfit {
    /// Its path, components separated by `/`.
    pub path: Vec<u8>,
    /// Its data blobs.
    pub content: Vec<Id>,
    /// Why it fits nowhere; none if it should not: a later generation replaced or removed it.
    pub reason: Option<&'static str>,
}

/// Collects nodes and builds the trees of a snapshot.
#[derive(Debug, Default)]
pub struct Assembler {
    arena: Vec<u8>,
    records: Vec<Record>,
    runs: Vec<File>,
    /// The run that is being written.
    spilling: Option<JoinHandle<std::io::Result<Spilled>>>,
    /// What the run before it was written from, to be filled again.
    spare: Option<(Vec<u8>, Vec<Record>)>,
    sequence: u64,
    generation: u32,
    sources: u32,
}

/// A node in the arena: key, then the node's JSON, then its content ids.
#[derive(Clone, Copy, Debug)]
struct Record {
    start: usize,
    key: u32,
    json: u32,
    content: u32,
    sequence: u64,
    generation: u32,
    kind: NodeKind,
}

/// A run that was written, and the memory that it came from.
#[derive(Debug)]
struct Spilled {
    run: File,
    arena: Vec<u8>,
    records: Vec<Record>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NodeKind {
    Leaf,
    /// A directory whose children come as records of their own; its `subtree` is filled in at the end.
    Directory,
    /// A directory whose tree is stored already.
    Finished,
    /// No node: what came before it at this path goes.
    Gone,
}

/// A record read back, whole.
#[derive(Clone, Debug)]
struct Item {
    key: Vec<u8>,
    json: Vec<u8>,
    content: Vec<Id>,
    sequence: u64,
    generation: u32,
    kind: NodeKind,
}

impl Assembler {
    /// An empty collection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the node at `path` (components separated by `/`, no slash at either end; the node's own name is the last
    /// component whatever `node.name` says). Parents need not be added: one that nobody adds becomes a directory with
    /// mode 0755. A directory without `subtree` gets the children that are added below it. Of two nodes at one path the
    /// later one stays; a finished directory stays in any case.
    ///
    /// # Errors
    /// A path that no file system could hold (empty, `.`, `..`, NUL), or a temporary file that cannot be written.
    pub fn add(&mut self, path: &[u8], mut node: Node) -> Result<(), Error> {
        check_path(path)?;
        let name_at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        node.name = path[name_at..].to_vec();
        let kind = match (node.kind, node.subtree) {
            (FileKind::Directory, Some(_)) => NodeKind::Finished,
            (FileKind::Directory, None) => {
                node.subtree = Some(Id::default());
                NodeKind::Directory
            }
            _ => NodeKind::Leaf,
        };
        self.push(path, kind, |arena| {
            node.encode(arena);
            node.content.unwrap_or_default()
        })
    }

    /// Takes away what this source added at `path` until now. What lies below a directory stays.
    ///
    /// # Errors
    /// As [`Assembler::add`].
    pub fn remove(&mut self, path: &[u8]) -> Result<(), Error> {
        check_path(path)?;
        self.push(path, NodeKind::Gone, |_| Vec::new())
    }

    /// What is added from now on comes from another source than what was added before.
    pub fn next_source(&mut self) {
        self.sources += 1;
        self.generation = self.sources * (GENERATIONS + 1);
    }

    /// Where the source is that adds now, for [`Assembler::resume`].
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// What is added from now on comes from the source that was at `generation`, and goes on from there.
    pub fn resume(&mut self, generation: u32) {
        self.generation = generation;
    }

    /// What is added from now on is a later state of what the same source added before: where it meets that at a path,
    /// it takes its place, which is nothing to tell. A source has fewer than a million of them.
    pub fn next_generation(&mut self) {
        self.generation += u32::from(self.generation & GENERATIONS < GENERATIONS);
    }

    fn push(&mut self, path: &[u8], kind: NodeKind, encode: impl FnOnce(&mut Vec<u8>) -> Vec<Id>) -> Result<(), Error> {
        let start = self.arena.len();
        self.arena.extend(path.iter().map(|byte| if *byte == b'/' { 0 } else { *byte }));
        let key = self.arena.len() - start;
        let content = encode(&mut self.arena);
        let json = self.arena.len() - start - key;
        for id in &content {
            self.arena.extend_from_slice(&id.0);
        }
        let length = |bytes: usize| {
            u32::try_from(bytes).map_err(|_| Error::Other("one file with more than 4 GiB of chunk names".to_owned()))
        };
        self.sequence += 1;
        self.records.push(Record {
            start,
            key: length(key)?,
            json: length(json)?,
            content: length(content.len())?,
            sequence: self.sequence,
            generation: self.generation,
            kind,
        });
        if self.arena.len() >= SPILL_AT { self.spill() } else { Ok(()) }
    }

    /// Stores all trees and returns the root tree's id. `extra` is asked once, when everything else is placed, for one
    /// more entry of the root directory; it is told what fitted nowhere.
    ///
    /// # Errors
    /// The store's error, or a temporary file that cannot be read.
    pub fn finish(
        mut self,
        writer: &Writer,
        extra: impl FnOnce(Vec<Misfit>) -> Result<Option<Node>, Error>,
    ) -> Result<Id, Error> {
        sort(&self.arena, &mut self.records);
        self.await_spill()?;
        let runs = std::mem::take(&mut self.runs);
        let mut merge = Merge::new(runs, Memory { arena: &self.arena, records: &self.records, next: 0 })?;
        let mut builder = Builder {
            open: vec![Frame::root()],
            misfits: Vec::new(),
            root: Vec::new(),
            last_placed: None,
            trees: writer.later(),
        };
        while let Some(first) = merge.next()? {
            if first.kind != NodeKind::Gone && !merge.has_next(&first.key) {
                builder.place(first)?;
                continue;
            }
            let key = first.key.clone();
            let mut item = (first.kind != NodeKind::Gone).then_some(first);
            while merge.has_next(&key) {
                if let Some(same) = merge.next()? {
                    item = builder.later(item, same);
                }
            }
            if let Some(item) = item {
                builder.place(item)?;
            }
        }
        builder.finish(extra)
    }

    /// Writes what is in memory to a run, beside whatever comes next. One at a time: there are never more than two arenas.
    fn spill(&mut self) -> Result<(), Error> {
        self.await_spill()?;
        let (arena, records) = self.spare.take().unwrap_or_default();
        let arena = std::mem::replace(&mut self.arena, arena);
        let mut records = std::mem::replace(&mut self.records, records);
        let spill = move || {
            sort(&arena, &mut records);
            write_run(&arena, &records).map(|run| Spilled { run, arena, records })
        };
        let thread = std::thread::Builder::new().name("spill".to_owned()).spawn(spill).map_err(spill_error)?;
        self.spilling = Some(thread);
        Ok(())
    }

    fn await_spill(&mut self) -> Result<(), Error> {
        if let Some(thread) = self.spilling.take() {
            let spilled = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let Spilled { run, mut arena, mut records } = spilled.map_err(spill_error)?;
            self.runs.push(run);
            arena.clear();
            records.clear();
            self.spare = Some((arena, records));
        }
        Ok(())
    }
}

fn sort(arena: &[u8], records: &mut [Record]) {
    records.sort_unstable_by(|a, b| {
        arena[a.start..][..a.key as usize].cmp(&arena[b.start..][..b.key as usize]).then(a.sequence.cmp(&b.sequence))
    });
}

/// A temporary file with these records, rewound.
fn write_run(arena: &[u8], records: &[Record]) -> std::io::Result<File> {
    let mut out = BufWriter::with_capacity(1 << 20, tempfile::tempfile()?);
    for record in records {
        let length = record.key as usize + record.json as usize + 32 * record.content as usize;
        let kind = match record.kind {
            NodeKind::Leaf => 0_u8,
            NodeKind::Directory => 1,
            NodeKind::Finished => 2,
            NodeKind::Gone => 3,
        };
        let mut head = [0; HEAD];
        head[0] = kind;
        head[1..5].copy_from_slice(&record.key.to_le_bytes());
        head[5..9].copy_from_slice(&record.json.to_le_bytes());
        head[9..13].copy_from_slice(&record.content.to_le_bytes());
        head[13..21].copy_from_slice(&record.sequence.to_le_bytes());
        head[21..25].copy_from_slice(&record.generation.to_le_bytes());
        out.write_all(&head)?;
        out.write_all(&arena[record.start..][..length])?;
    }
    let mut run = out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    run.rewind()?;
    Ok(run)
}

fn check_path(path: &[u8]) -> Result<(), Error> {
    let mut components = path.split(|byte| *byte == b'/');
    match components.find(|name| matches!(*name, b"" | b"." | b"..") || name.contains(&0)) {
        None => Ok(()),
        Some(bad) => Err(Error::Other(format!(
            "\"{}\" cannot be a path in a snapshot: \"{}\" is no file name",
            String::from_utf8_lossy(path),
            String::from_utf8_lossy(bad)
        ))),
    }
}

#[allow(clippy::needless_pass_by_value)] // used as a function in map_err
fn spill_error(error: std::io::Error) -> Error {
    Error::Other(format!(
        "a temporary file in {} failed: {error}. Set TMPDIR to a folder with more room",
        std::env::temp_dir().display()
    ))
}

/// The sorted records that never left memory.
struct Memory<'a> {
    arena: &'a [u8],
    records: &'a [Record],
    next: usize,
}

impl Memory<'_> {
    fn next(&mut self) -> Option<Item> {
        let record = self.records.get(self.next)?;
        self.next += 1;
        let bytes = &self.arena[record.start..];
        let (key, rest) = bytes.split_at(record.key as usize);
        let (json, rest) = rest.split_at(record.json as usize);
        Some(Item {
            key: key.to_vec(),
            json: json.to_vec(),
            content: ids(&rest[..32 * record.content as usize]),
            sequence: record.sequence,
            generation: record.generation,
            kind: record.kind,
        })
    }
}

fn ids(bytes: &[u8]) -> Vec<Id> {
    bytes
        .chunks_exact(32)
        .map(|chunk| {
            let mut id = Id::default();
            id.0.copy_from_slice(chunk);
            id
        })
        .collect()
}

/// The next record of one run. The smallest is the one that comes first: by key, then by when it was added.
struct Head {
    item: Item,
    run: usize,
}

impl Head {
    fn order(&self) -> (&[u8], u64) {
        (&self.item.key, self.item.sequence)
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

/// All runs and what never left memory, as one.
struct Merge<'a> {
    heads: BinaryHeap<Reverse<Head>>,
    runs: Vec<BufReader<File>>,
    memory: Memory<'a>,
}

impl<'a> Merge<'a> {
    fn new(runs: Vec<File>, memory: Memory<'a>) -> Result<Self, Error> {
        let count = runs.len() + 1;
        let mut merge = Self {
            heads: BinaryHeap::with_capacity(count),
            runs: runs.into_iter().map(|run| BufReader::with_capacity(256 << 10, run)).collect(),
            memory,
        };
        for run in 0..count {
            if let Some(item) = merge.read(run)? {
                merge.heads.push(Reverse(Head { item, run }));
            }
        }
        Ok(merge)
    }

    fn read(&mut self, run: usize) -> Result<Option<Item>, Error> {
        match self.runs.get_mut(run) {
            Some(run) => read_item(run).map_err(spill_error),
            None => Ok(self.memory.next()),
        }
    }

    fn next(&mut self) -> Result<Option<Item>, Error> {
        let Some(Reverse(Head { run, .. })) = self.heads.peek() else { return Ok(None) };
        let run = *run;
        let following = self.read(run)?;
        let head = match following {
            // What comes next takes the place of what leaves, which sorts once.
            Some(item) => {
                self.heads.peek_mut().map(|mut top| std::mem::replace(&mut *top, Reverse(Head { item, run })))
            }
            None => self.heads.pop(),
        };
        Ok(head.map(|Reverse(head)| head.item))
    }

    /// Whether the next record has this key.
    fn has_next(&self, key: &[u8]) -> bool {
        self.heads.peek().is_some_and(|Reverse(head)| head.item.key == key)
    }
}

fn read_item(run: &mut BufReader<File>) -> std::io::Result<Option<Item>> {
    let mut head = [0; HEAD];
    match run.read_exact(&mut head) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
    let mut key = vec![0; number(1)];
    run.read_exact(&mut key)?;
    let mut json = vec![0; number(5)];
    run.read_exact(&mut json)?;
    let mut content = vec![0; 32 * number(9)];
    run.read_exact(&mut content)?;
    let mut sequence = [0; 8];
    sequence.copy_from_slice(&head[13..21]);
    let kind = match head[0] {
        0 => NodeKind::Leaf,
        1 => NodeKind::Directory,
        2 => NodeKind::Finished,
        _ => NodeKind::Gone,
    };
    let generation = u32::from_le_bytes([head[21], head[22], head[23], head[24]]);
    Ok(Some(Item { key, json, content: ids(&content), sequence: u64::from_le_bytes(sequence), generation, kind }))
}

/// A directory whose children are still coming.
struct Frame {
    /// Key of the directory; empty for the root.
    key: Vec<u8>,
    /// Its node with a null `subtree`, empty for the root.
    json: Vec<u8>,
    /// The nodes of its children, separated by commas.
    children: Vec<u8>,
}

impl Frame {
    fn root() -> Self {
        Self { key: Vec::new(), json: Vec::new(), children: Vec::new() }
    }

    fn holds(&self, key: &[u8]) -> bool {
        self.key.is_empty() || (key.len() > self.key.len() && key.starts_with(&self.key) && key[self.key.len()] == 0)
    }

    fn push(&mut self, json: &[u8]) {
        if !self.children.is_empty() {
            self.children.push(b',');
        }
        self.children.extend_from_slice(json);
    }
}

struct Builder<'a> {
    open: Vec<Frame>,
    misfits: Vec<Misfit>,
    /// Names and nodes of the root directory: one more may join them at the end.
    root: Vec<(Vec<u8>, Vec<u8>)>,
    /// The latest entry that can have no children here: whatever comes below it fits nowhere.
    last_placed: Option<Vec<u8>>,
    /// Trees on their way.
    trees: Later<'a>,
}

impl Builder<'_> {
    fn misfit(&mut self, item: &Item, reason: &'static str) {
        self.left_over(item, Some(reason));
    }

    fn left_over(&mut self, item: &Item, reason: Option<&'static str>) {
        self.misfits.push(Misfit {
            path: item.key.iter().map(|byte| if *byte == 0 { b'/' } else { *byte }).collect(),
            content: item.content.clone(),
            reason,
        });
    }

    /// Which of two entries at one path stays: `same` was added after `item`.
    fn later(&mut self, item: Option<Item>, same: Item) -> Option<Item> {
        let Some(item) = item else { return (same.kind != NodeKind::Gone).then_some(same) };
        let one_source = item.generation | GENERATIONS == same.generation | GENERATIONS;
        let replaces = one_source && item.generation != same.generation;
        if same.kind == NodeKind::Gone {
            if one_source {
                self.left_over(&item, None);
            }
            return (!one_source).then_some(item);
        }
        let reason = |text| (!replaces).then_some(text);
        match (item.kind, same.kind) {
            (NodeKind::Directory, NodeKind::Directory) => Some(same),
            (NodeKind::Finished, kind) if kind != NodeKind::Finished => {
                self.misfit(&same, "a finished directory has the same name");
                Some(item)
            }
            // A directory that may have children is not given up for something that cannot.
            (NodeKind::Directory, NodeKind::Leaf | NodeKind::Finished) if !replaces => {
                self.misfit(&same, "a directory has the same name");
                Some(item)
            }
            _ => {
                self.left_over(&item, reason("another entry has the same name"));
                Some(same)
            }
        }
    }

    fn place(&mut self, item: Item) -> Result<(), Error> {
        while self.open.len() > 1 && !self.open.last().is_some_and(|frame| frame.holds(&item.key)) {
            self.close()?;
        }
        // What lies below the deepest open directory that holds the entry must not have been placed as a leaf.
        let depth = self.open.last().map_or(0, |frame| if frame.key.is_empty() { 0 } else { frame.key.len() + 1 });
        let mut missing = Vec::new();
        for (at, _) in item.key.iter().enumerate().skip(depth).filter(|(_, byte)| **byte == 0) {
            missing.push(item.key[..at].to_vec());
        }
        if let Some(first) = missing.first()
            && self.last_placed.as_ref().is_some_and(|last| last == first)
        {
            self.misfit(&item, "its parent is not a directory of this source");
            return Ok(());
        }
        for key in missing {
            let name_at = key.iter().rposition(|byte| *byte == 0).map_or(0, |at| at + 1);
            let node = implied_directory(&key[name_at..]);
            let mut json = Vec::new();
            node.encode(&mut json);
            self.open.push(Frame { key, json, children: Vec::new() });
        }
        if item.kind == NodeKind::Directory {
            self.open.push(Frame { key: item.key, json: item.json, children: Vec::new() });
        } else {
            self.attach(&item.key, &item.json);
            self.last_placed = Some(item.key);
        }
        Ok(())
    }

    fn attach(&mut self, key: &[u8], json: &[u8]) {
        if self.open.len() == 1 {
            self.root.push((key.to_vec(), json.to_vec()));
        } else if let Some(frame) = self.open.last_mut() {
            frame.push(json);
        }
    }

    fn close(&mut self) -> Result<(), Error> {
        let Some(mut frame) = self.open.pop() else {
            return Ok(());
        };
        let id = self.save(&frame.children)?;
        set_subtree(&mut frame.json, &id)?;
        self.attach(&frame.key, &frame.json);
        Ok(())
    }

    fn save(&mut self, children: &[u8]) -> Result<Id, Error> {
        self.trees.save(BlobKind::Tree, &[b"{\"nodes\":[", children, b"]}\n"])
    }

    fn finish(mut self, extra: impl FnOnce(Vec<Misfit>) -> Result<Option<Node>, Error>) -> Result<Id, Error> {
        while self.open.len() > 1 {
            self.close()?;
        }
        if let Some(node) = extra(std::mem::take(&mut self.misfits))? {
            let mut json = Vec::new();
            node.encode(&mut json);
            if self.root.iter().any(|(name, _)| *name == node.name) {
                let name = String::from_utf8_lossy(&node.name);
                return Err(Error::Other(format!(
                    "a source holds an entry /{name}, a name that is reserved when a plugin is backed up: leave it out"
                )));
            }
            self.root.push((node.name, json));
            self.root.sort_unstable();
        }
        let mut frame = Frame::root();
        for (_, json) in &self.root {
            frame.push(json);
        }
        let root = self.save(&frame.children)?;
        self.trees.wait()?;
        Ok(root)
    }
}

/// A directory that no source described: virtual names have parents that exist nowhere.
fn implied_directory(name: &[u8]) -> Node {
    let start = Time::default();
    Node {
        name: name.to_vec(),
        kind: FileKind::Directory,
        mode: Node::go_mode_from_unix(0o040_755),
        mtime: start,
        atime: start,
        ctime: start,
        subtree: Some(Id::default()),
        ..Node::new(FileKind::Directory)
    }
}

/// Puts the id of a directory's tree where its node was encoded with a null one: the last value of the node.
fn set_subtree(json: &mut [u8], id: &Id) -> Result<(), Error> {
    let end = json.len().saturating_sub(2);
    let start = end.saturating_sub(64);
    if json.get(end..) != Some(b"\"}") || !json[..start].ends_with(b"\"subtree\":\"") {
        return Err(Error::Other("a directory node does not end with its subtree".to_owned()));
    }
    let mut hex = Vec::with_capacity(64);
    id.write_hex(&mut hex);
    json[start..end].copy_from_slice(&hex);
    Ok(())
}
