//! Writing contents: packs are read in ranges, each blob is decoded once and put into every place that needs it.
//!
//! A file of one piece is made, written and finished in one go. The others stay open between their pieces, as long as
//! there are not too many of them. A thread holds one range of a pack and one blob: memory has a ceiling.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use backstay_core::{ObjectKind, StoreError, StoreErrorKind};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, ftruncate, openat, unlinkat};
use rustix::io::{Errno, pwrite};

use super::metadata::apply;
use super::plan::{File, Piece, Plan};
use super::target::{Directories, Handles};
use super::{Benches, Run, add};
use crate::pack::BlobKind;
use crate::reader::{Result, blob_error, decode_blob};

/// Bytes of a pack that are read at once: enough for about a thousand small files.
const SPAN: u64 = 4 << 20;
/// The same where many calls are on their way, and what all of them may take together.
const SMALL_SPAN: u64 = 1 << 20;
const ALL_SPANS: u64 = 48 << 20;
/// Unneeded bytes between two blobs that are read rather than asked for separately.
const GAP: u64 = 128 << 10;
/// Files of several pieces that are open at once.
const OPEN_FILES: usize = 128;
/// Runs of zeros from this length on become holes.
const HOLE: usize = 16 << 10;
/// File systems keep holes in blocks of this size.
const BLOCK: usize = 4096;

/// Writes everything that `plan` holds.
pub(super) fn write(run: &Run<'_>, directories: &Directories, plan: &mut Plan) {
    plan.pieces.sort_unstable_by_key(|piece| (piece.pack, piece.offset, piece.file, piece.at));
    let plan = &*plan;
    let next = Mutex::new(0);
    let open = OpenFiles::default();
    let writers = Benches::new(run.workers(), || Writer {
        run,
        directories,
        plan,
        handles: Handles::new(run, directories),
        open: &open,
        scratch: Vec::new(),
        plain: Vec::new(),
    });
    let readers = run.readers();
    let longest = (ALL_SPANS / readers as u64).clamp(SMALL_SPAN, SPAN);
    let store = &**run.reader.repository().store();
    run.on_threads(readers, || {
        while let Some(span) = next_span(&plan.pieces, &next, longest) {
            if run.stopping() {
                return;
            }
            let pieces = &plan.pieces[span];
            let (Some(first), reach) = (pieces.first(), pieces.iter().map(end).max().unwrap_or(0)) else { continue };
            let range = u64::from(first.offset)..reach;
            let bytes = store.get(ObjectKind::Pack, &plan.packs[first.pack as usize], Some(range));
            writers.take().work(|writer| writer.span(pieces, &bytes));
        }
    });
}

fn end(piece: &Piece) -> u64 {
    u64::from(piece.offset) + u64::from(piece.length)
}

/// Takes the next pieces that one read serves.
fn next_span(pieces: &[Piece], next: &Mutex<usize>, longest: u64) -> Option<Range<usize>> {
    let mut next = next.lock();
    let start = *next;
    let first = pieces.get(start)?;
    let mut reach = end(first);
    let mut stop = start + 1;
    while let Some(piece) = pieces.get(stop) {
        let same_blob = piece.pack == first.pack && piece.offset == pieces[stop - 1].offset;
        let near = piece.pack == first.pack
            && u64::from(piece.offset) <= reach + GAP
            && end(piece) <= u64::from(first.offset) + longest;
        if !same_blob && !near {
            break;
        }
        reach = reach.max(end(piece));
        stop += 1;
    }
    *next = stop;
    Some(start..stop)
}

/// Puts the metadata on a file that is whole.
pub(super) fn finish_file(
    run: &Run<'_>,
    directories: &Directories,
    file: &File,
    fd: BorrowedFd<'_>,
) -> Result<(), String> {
    apply(run, fd, &file.meta, !file.fresh || directories.inherits_acl(file.directory))
}

/// Makes a file, or opens the one that stands there, at its final length.
pub(super) fn open_file(run: &Run<'_>, handles: &mut Handles<'_>, file: &File) -> rustix::io::Result<OwnedFd> {
    let directory = handles.make(file.directory)?;
    let fd = if file.fresh {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = file.meta.creation_mode(run, file.pieces <= 1);
        match openat(&*directory, &*file.name, flags, mode) {
            // Somebody put something there since the directory was looked at.
            Err(Errno::EXIST) => {
                unlinkat(&*directory, &*file.name, AtFlags::empty())?;
                openat(&*directory, &*file.name, flags, mode)?
            }
            result => result?,
        }
    } else {
        reopen(&directory, &file.name)?
    };
    if !file.fresh || file.pieces > 1 {
        ftruncate(&fd, file.size)?;
    }
    Ok(fd)
}

fn reopen(directory: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = openat(directory, name, flags, Mode::empty())?;
    // Something else may have been put in its place, another name of somebody's file for one.
    let stat = fstat(&fd)?;
    let ours = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_nlink == 1;
    if ours { Ok(fd) } else { Err(Errno::EXIST) }
}

/// Writes `data` at `at`. In a fresh file, where everything is zero already, long runs of zeros are left out. Returns
/// the end of what was written.
fn write_data(fd: BorrowedFd<'_>, data: &[u8], at: u64, fresh: bool) -> rustix::io::Result<u64> {
    let mut written = at;
    let mut start = 0;
    while start < data.len() {
        let (stop, next) = if fresh { next_hole(data, start, at) } else { (data.len(), data.len()) };
        let mut rest = &data[start..stop];
        let mut place = at + start as u64;
        while !rest.is_empty() {
            match pwrite(fd, rest, place) {
                Ok(0) => return Err(Errno::IO),
                Ok(count) => {
                    rest = &rest[count..];
                    place += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
            written = place;
        }
        start = next;
    }
    Ok(written)
}

/// The next run of zeros worth leaving out, behind `from`: where it starts and ends in `data`. `at` is where `data`
/// stands in the file: only whole blocks of the file can be holes.
fn next_hole(data: &[u8], from: usize, at: u64) -> (usize, usize) {
    let block = BLOCK as u64;
    let misaligned = usize::try_from((at + from as u64) % block).unwrap_or(0);
    let mut position = if misaligned == 0 { from } else { from + BLOCK - misaligned };
    let mut hole = None;
    while position + BLOCK <= data.len() {
        if is_zero(&data[position..position + BLOCK]) {
            hole.get_or_insert(position);
        } else if let Some(start) = hole.take()
            && position - start >= HOLE
        {
            return (start, position);
        }
        position += BLOCK;
    }
    match hole {
        // Up to the end of the data: a last, shorter block belongs to it where it is zero too.
        Some(start) if position - start >= HOLE => {
            (start, if is_zero(&data[position..]) { data.len() } else { position })
        }
        _ => (data.len(), data.len()),
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    // Most blocks show it in their first bytes.
    bytes.iter().take(16).all(|byte| *byte == 0)
        && bytes.chunks(64).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

fn is_all_zero(bytes: &[u8]) -> bool {
    bytes.chunks(BLOCK).all(is_zero)
}

/// The files that wait for further pieces.
#[derive(Default)]
struct OpenFiles {
    state: Mutex<OpenState>,
}

#[derive(Default)]
struct OpenState {
    files: HashMap<u32, Slot>,
    /// Files that were opened, the oldest first; some of them are finished since.
    order: VecDeque<u32>,
    open: usize,
}

enum Slot {
    Open(Arc<OwnedFd>),
    /// Closed to make room: what it was, to be sure that it is the same when it is opened again.
    Parked(u64, u64),
}

impl OpenFiles {
    fn get(
        &self,
        run: &Run<'_>,
        handles: &mut Handles<'_>,
        number: u32,
        file: &File,
    ) -> rustix::io::Result<Arc<OwnedFd>> {
        let mut state = self.state.lock();
        let fd = match state.files.get(&number) {
            Some(Slot::Open(fd)) => return Ok(fd.clone()),
            Some(Slot::Parked(device, inode)) => {
                let directory = handles.make(file.directory)?;
                let fd = reopen(&directory, &file.name)?;
                let stat = fstat(&fd)?;
                if (stat.st_dev, stat.st_ino) != (*device, *inode) {
                    return Err(Errno::STALE);
                }
                fd
            }
            None => open_file(run, handles, file)?,
        };
        let fd = Arc::new(fd);
        while state.open >= OPEN_FILES
            && let Some(oldest) = state.order.pop_front()
        {
            state.park(oldest)?;
        }
        state.files.insert(number, Slot::Open(fd.clone()));
        state.order.push_back(number);
        state.open += 1;
        Ok(fd)
    }

    fn remove(&self, number: u32) {
        let mut state = self.state.lock();
        if let Some(Slot::Open(_)) = state.files.remove(&number) {
            state.open -= 1;
        }
    }
}

impl OpenState {
    fn park(&mut self, number: u32) -> rustix::io::Result<()> {
        if let Some(slot) = self.files.get_mut(&number)
            && let Slot::Open(fd) = slot
        {
            let stat = fstat(&*fd)?;
            *slot = Slot::Parked(stat.st_dev, stat.st_ino);
            self.open -= 1;
        }
        Ok(())
    }
}

struct Writer<'a> {
    run: &'a Run<'a>,
    directories: &'a Directories,
    plan: &'a Plan,
    handles: Handles<'a>,
    open: &'a OpenFiles,
    scratch: Vec<u8>,
    plain: Vec<u8>,
}

impl Writer<'_> {
    fn fail(&self, number: u32, message: impl FnOnce(&[u8]) -> String) {
        let file = &self.plan.files[number as usize];
        if !file.failed.swap(true, Ordering::AcqRel) {
            let path = self.directories.path_of(file.directory, &file.name);
            let message = message(&path);
            self.run.fail(&path, message);
            self.plan.failed(file);
        }
    }

    /// Writes what is in one range of a pack: `bytes` from the first of `pieces` on.
    fn span(&mut self, pieces: &[Piece], bytes: &Result<Vec<u8>, StoreError>) {
        let Some(first) = pieces.first() else { return };
        let store = self.run.reader.repository().store().clone();
        let pack = self.plan.packs[first.pack as usize];
        let start = u64::from(first.offset);
        for same in pieces.chunk_by(|one, other| one.offset == other.offset && one.id == other.id) {
            if self.run.stopping() {
                return;
            }
            let piece = &same[0];
            let range = u64::from(piece.offset)..end(piece);
            let envelope = match bytes {
                Ok(bytes) => {
                    let from = usize::try_from(range.start - start).unwrap_or(usize::MAX);
                    bytes.get(from..).and_then(|rest| rest.get(..piece.length as usize)).map(std::borrow::Cow::Borrowed)
                }
                // A pack that is cut off, say, still has some of its blobs.
                Err(_) if same.len() < pieces.len() => {
                    store.get(ObjectKind::Pack, &pack, Some(range)).ok().map(std::borrow::Cow::Owned)
                }
                Err(_) => None,
            };
            let mut decoded = match envelope {
                Some(envelope) => decode_blob(
                    self.run.reader.repository().key(),
                    &envelope,
                    piece.uncompressed,
                    &piece.id,
                    &mut self.scratch,
                    &mut self.plain,
                ),
                None => match bytes {
                    Err(error) => Err(error.to_string()),
                    Ok(_) => Err("the pack is too short".to_owned()),
                },
            };
            if decoded.is_err()
                && self.run.reader.index().get_all(BlobKind::Data, &piece.id).nth(1).is_some()
                && let Ok(plain) = self.run.reader.load(BlobKind::Data, &piece.id)
            {
                // Another pack holds a whole copy.
                self.plain = plain;
                decoded = Ok(());
            }
            match decoded {
                Ok(()) => {
                    let plain = std::mem::take(&mut self.plain);
                    // A file of holes is one blob in thousands of places: it is looked at once.
                    let zeros = same.len() > 1 && is_all_zero(&plain);
                    for piece in same {
                        self.put(piece, &plain, zeros);
                    }
                    self.plain = plain;
                }
                // The store's own words: nothing is known of the blob.
                Err(reason) if bytes.as_ref().is_err_and(|error| error.kind != StoreErrorKind::NotFound) => {
                    for piece in same {
                        self.fail(piece.file, |_| reason.clone());
                        self.passed(piece);
                    }
                }
                Err(reason) => {
                    let location = crate::index::Location {
                        pack,
                        offset: piece.offset,
                        length: piece.length,
                        uncompressed: piece.uncompressed,
                    };
                    let message = blob_error(BlobKind::Data, &piece.id, &location, reason).to_string();
                    for piece in same {
                        self.fail(piece.file, |_| message.clone());
                        self.passed(piece);
                    }
                }
            }
        }
    }

    /// Puts a blob into one of its places; `zeros` says that it is known to hold nothing else.
    fn put(&mut self, piece: &Piece, data: &[u8], zeros: bool) {
        let run = self.run;
        let file = &self.plan.files[piece.file as usize];
        if file.failed.load(Ordering::Acquire) {
            return self.passed(piece);
        }
        // What the index promised decided the places of all pieces behind this one.
        if data.len() as u64 != piece.plain_length() {
            self.fail(piece.file, |_| {
                format!("data blob {} is {} bytes long, not as the index says", piece.id, data.len())
            });
            return self.passed(piece);
        }
        if file.pieces == 1 {
            match self.put_whole(piece, file, data) {
                Ok(fd) => self.finish(file, piece.file, fd.as_fd()),
                Err(error) => self.fail(piece.file, |path| run.io_text(path, "it cannot be written", error)),
            }
            return;
        }
        let result = self.open.get(run, &mut self.handles, piece.file, file).and_then(|fd| {
            if !(zeros && file.fresh) {
                write_data(fd.as_fd(), data, piece.at, file.fresh)?;
            }
            Ok(fd)
        });
        match result {
            Ok(fd) => {
                self.wrote(data);
                if self.passed_last(piece) {
                    self.finish(file, piece.file, fd.as_fd().as_fd());
                }
            }
            Err(error) => {
                self.fail(piece.file, |path| run.io_text(path, "it cannot be written", error));
                self.passed(piece);
            }
        }
    }

    fn put_whole(&mut self, piece: &Piece, file: &File, data: &[u8]) -> rustix::io::Result<OwnedFd> {
        let fd = open_file(self.run, &mut self.handles, file)?;
        let written = write_data(fd.as_fd(), data, piece.at, file.fresh)?;
        if file.fresh && written < file.size {
            ftruncate(&fd, file.size)?;
        }
        self.wrote(data);
        Ok(fd)
    }

    fn wrote(&self, data: &[u8]) {
        add(&self.run.counters.bytes_restored, data.len() as u64);
        self.run.progress.advanced(0, data.len() as u64);
    }

    /// Counts a piece down; true for the last one of its file.
    fn passed_last(&self, piece: &Piece) -> bool {
        let last = self.plan.files[piece.file as usize].pending.fetch_sub(1, Ordering::AcqRel) == 1;
        if last {
            self.open.remove(piece.file);
        }
        last
    }

    fn passed(&self, piece: &Piece) {
        self.passed_last(piece);
    }

    fn finish(&self, file: &File, number: u32, fd: BorrowedFd<'_>) {
        if file.failed.load(Ordering::Acquire) {
            return;
        }
        match finish_file(self.run, self.directories, file, fd) {
            Ok(()) => {
                let path = self.directories.path_of(file.directory, &file.name);
                self.run.restored(&path, file.size);
            }
            Err(message) => self.fail(number, |_| message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_of_zeros_are_holes_and_short_ones_are_written() {
        let mut data = vec![1; 100_000];
        data[8192..8192 + 20_480].fill(0);
        data[40_960..45_056].fill(0);
        assert_eq!(next_hole(&data, 0, 0), (8192, 28_672));
        assert_eq!(next_hole(&data, 28_672, 0), (100_000, 100_000));
        // The same bytes one byte further on in the file: the hole covers whole blocks of the file only.
        assert_eq!(next_hole(&data, 0, 1), (8192 + 4095, 8192 + 4095 + 16_384));
    }

    #[test]
    fn zeros_at_the_end_are_a_hole_to_the_last_byte() {
        let mut data = vec![0; 50_001];
        data[0] = 7;
        assert_eq!(next_hole(&data, 0, 0), (4096, 50_001));
        assert_eq!(next_hole(&[0; 20_000], 0, 0), (0, 20_000));
        assert_eq!(next_hole(&[0; 100], 0, 0), (100, 100));
    }
}
