//! A listing in the save format of ncdu (its `jsonfmt`, version 1.2), as restic prints it: `ncdu -f` browses it.

use std::fmt::Write as _;

use backstay_core::FileKind;
use backstay_repository::gotext::to_json;
use backstay_repository::snapshot::Snapshot;
use backstay_repository::tree::Node;
use backstay_repository::walk::WalkEntry;
use serde::Serialize;

use crate::failure::Failure;
use crate::output::Output;

/// Sizes on a disk are told in these units, in bytes.
const BLOCK: u64 = 512;

/// Prints entries in the order of a walk. A line waits until it is known whether a comma follows it.
pub(super) struct Ncdu<'a> {
    output: &'a Output,
    waiting: String,
    /// Folders that are open.
    open: usize,
}

/// What ncdu wants to know of an entry, in restic's order.
#[derive(Serialize)]
struct Entry {
    name: String,
    asize: u64,
    dsize: u64,
    dev: u64,
    ino: u64,
    nlink: u64,
    notreg: bool,
    uid: u32,
    gid: u32,
    mode: u32,
    mtime: i64,
}

impl From<&Node> for Entry {
    fn from(node: &Node) -> Self {
        Self {
            name: String::from_utf8_lossy(&node.name).into_owned(),
            asize: node.size,
            dsize: node.size.div_ceil(BLOCK).saturating_mul(BLOCK),
            dev: node.device_id,
            ino: node.inode,
            nlink: node.links,
            notreg: !matches!(node.kind, FileKind::Directory | FileKind::File),
            uid: node.uid,
            gid: node.gid,
            mode: node.unix_mode() & 0o7777,
            // ncdu knows no time before 1970.
            mtime: node.mtime.seconds.max(0),
        }
    }
}

fn json<T: Serialize>(value: &T) -> Result<String, Failure> {
    let bytes = to_json(value).map_err(|error| Failure::fatal(format!("cannot write a listing: {error}")))?;
    String::from_utf8(bytes).map_err(|error| Failure::fatal(format!("cannot write a listing: {error}")))
}

impl<'a> Ncdu<'a> {
    /// Begins the listing of a snapshot.
    pub(super) fn begin(output: &'a Output, snapshot: &Snapshot) -> Result<Self, Failure> {
        Ok(Self { output, waiting: format!("[1, 2, {}, [{{\"name\":\"/\"}}", json(snapshot)?), open: 0 })
    }

    /// The next entry, a folder before what is in it.
    pub(super) fn entry(&mut self, entry: &WalkEntry) -> Result<(), Failure> {
        while self.open > entry.depth {
            self.close()?;
        }
        let mut line = indent(self.open + 1);
        if entry.node.kind == FileKind::Directory {
            self.open += 1;
            let _ = write!(line, "[\n{}", indent(self.open + 1));
        }
        line.push_str(&json(&Entry::from(&entry.node))?);
        let before = std::mem::replace(&mut self.waiting, line);
        self.output.line(&(before + ","))
    }

    /// Ends the listing.
    pub(super) fn end(mut self) -> Result<(), Failure> {
        while self.open > 0 {
            self.close()?;
        }
        self.output.line(&self.waiting)?;
        self.output.line("]\n]")
    }

    fn close(&mut self) -> Result<(), Failure> {
        let line = format!("{}]", indent(self.open));
        self.open -= 1;
        let before = std::mem::replace(&mut self.waiting, line);
        self.output.line(&before)
    }
}

fn indent(depth: usize) -> String {
    "  ".repeat(depth)
}
