//! The filter `readahead`: a client that reads in a row gets what follows before it asks.
//!
//! What was read ahead is kept in memory, for each connection. A disk that bears parallel calls is read by a thread of its own
//! while the client is busy with what it has; any other in larger pieces, of which the client gets what it asked for. A change,
//! from whatever connection, voids all that was read before it ended.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use backstay_core::{Client, Disk, DiskError, OpenDisk, OpenError, ReadBytes, RequestFlags, ThreadModel};
use parking_lot::{Condvar, Mutex};

use crate::filter::Filter;
use crate::layer::{Layer, Layered, OpenLayer};
use crate::plugin::Step;

/// Its name.
const NAME: &str = "readahead";
/// What it takes.
pub(super) const PARAMETERS: &[&str] = &[];
/// The first window, in bytes; each next one is twice as long.
const FIRST: u64 = 64 << 10;
/// The longest window, in bytes.
const LONGEST: u64 = 4 << 20;
/// Requests of a row may overtake each other by so many bytes.
const SLACK: u64 = 4 << 20;

/// The filter.
#[derive(Default)]
pub(super) struct Readahead;

impl Filter for Readahead {
    fn name(&self) -> &'static str {
        NAME
    }

    fn help(&self) -> &'static str {
        ""
    }

    fn config(&mut self, _key: &str, _value: &OsStr) -> Step<bool> {
        Ok(false)
    }

    fn wrap(self: Box<Self>, disk: Arc<dyn Disk>) -> Step<Arc<dyn Disk>> {
        Ok(Arc::new(Layered(Front { disk, changes: Arc::default() })))
    }
}

struct Front {
    disk: Arc<dyn Disk>,
    /// How often something began or ended to change, under whatever name.
    changes: Arc<AtomicU64>,
}

impl Layer for Front {
    fn below(&self) -> &dyn Disk {
        &*self.disk
    }

    fn open(&self, export: &[u8], client: &Client) -> Result<Box<dyn OpenDisk>, OpenError> {
        let disk: Arc<dyn OpenDisk> = Arc::from(self.disk.open(export, client)?);
        let sizes = disk.block_size().map_err(OpenError::Close)?;
        let (least, most) = sizes.map_or((1, u32::MAX), |sizes| (sizes.minimum.max(1), sizes.maximum));
        // What may not be asked for is not read ahead.
        let longest = LONGEST.min(u64::from(most)) / u64::from(least) * u64::from(least);
        let changes = Arc::clone(&self.changes);
        let shared = Arc::new(Shared {
            disk,
            changes,
            longest: longest.min(LONGEST),
            parallel: self.disk.threads() == ThreadModel::Parallel,
            state: Mutex::default(),
            moved: Condvar::new(),
        });
        Ok(Box::new(Layered(Open { shared, reader: Mutex::new(None) })))
    }
}

/// Bytes that were read ahead.
struct Window {
    offset: u64,
    bytes: ReadBytes,
    length: u64,
    /// The state of the changes before it was read.
    changes: u64,
}

impl Window {
    fn end(&self) -> u64 {
        self.offset + self.length
    }

    fn part(&self, offset: u64, length: usize) -> Vec<u8> {
        let at = (offset - self.offset) as usize;
        (*self.bytes).as_ref()[at..at + length].to_vec()
    }
}

#[derive(Default)]
struct State {
    /// The latest windows, the oldest first.
    windows: Vec<Arc<Window>>,
    /// The range that somebody reads now, to be a window.
    reading: Option<(u64, u64)>,
    /// The range that the thread is to read.
    wanted: Option<(u64, u64)>,
    /// Where the last read in a row ended.
    next: u64,
    /// How long the next window is; 0: nothing was read in a row.
    window: u64,
    over: bool,
}

struct Shared {
    disk: Arc<dyn OpenDisk>,
    changes: Arc<AtomicU64>,
    longest: u64,
    parallel: bool,
    state: Mutex<State>,
    moved: Condvar,
}

/// What a read is to do.
enum Plan {
    /// It is there.
    Have(Vec<u8>),
    /// It reads what it wants, and nothing more.
    Read,
    /// It reads a window for itself and others.
    Ahead(u64),
}

impl Shared {
    fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    fn plan(&self, offset: u64, length: u64) -> Plan {
        let end = offset + length;
        let mut state = self.state.lock();
        loop {
            let now = self.changes();
            state.windows.retain(|window| window.changes == now);
            let found = state.windows.iter().find(|window| window.offset <= offset && end <= window.end());
            if let Some(window) = found.map(Arc::clone) {
                state.next = state.next.max(end);
                self.ask(&mut state, window.end(), end);
                drop(state);
                return Plan::Have(window.part(offset, length as usize));
            }
            let coming =
                [state.reading, state.wanted].into_iter().flatten().any(|(start, stop)| start <= offset && end <= stop);
            if !coming {
                break;
            }
            self.moved.wait(&mut state);
        }
        let near = state.next.abs_diff(offset) <= SLACK && (offset < state.next || state.window > 0);
        if offset != state.next && !near {
            (state.next, state.window) = (end, 0);
            return Plan::Read;
        }
        let is_next = offset == state.next;
        state.next = state.next.max(end);
        if !is_next || offset == 0 && state.window == 0 {
            return Plan::Read;
        }
        state.window = (state.window * 2).clamp(FIRST, LONGEST).min(self.longest);
        let size = self.disk.info().size;
        let stop = (offset + length.max(state.window)).min(size);
        if self.parallel || stop <= end || state.reading.is_some() {
            // The thread reads what follows.
            self.ask(&mut state, end, end);
            return Plan::Read;
        }
        state.reading = Some((offset, stop));
        Plan::Ahead(stop - offset)
    }

    /// Has the thread read what follows `from`, when the client has come near it.
    fn ask(&self, state: &mut State, from: u64, read: u64) {
        let size = self.disk.info().size;
        let near = from.saturating_sub(read) <= state.window / 2;
        let known = state.windows.iter().any(|window| window.offset <= from && from < window.end());
        if !self.parallel || state.over || state.window == 0 || !near || known || from >= size || state.wanted.is_some()
        {
            return;
        }
        if state.reading.is_some_and(|(start, stop)| start <= from && from < stop) {
            return;
        }
        state.wanted = Some((from, (from + state.window).min(size)));
        state.window = (state.window * 2).clamp(FIRST, LONGEST).min(self.longest);
        self.moved.notify_all();
    }

    /// Reads a window. Nothing else is in [`State::reading`].
    fn fetch(&self, offset: u64, length: u64) -> Result<Arc<Window>, DiskError> {
        let reading = Reading(self);
        let changes = self.changes();
        let read = self.disk.read(offset, length as usize);
        let mut state = self.state.lock();
        let kept = read.map(|bytes| {
            let window = Arc::new(Window { offset, bytes, length, changes });
            if state.windows.len() >= 3 {
                state.windows.remove(0);
            }
            state.windows.push(Arc::clone(&window));
            window
        });
        if kept.is_err() {
            // Whoever wants it finds out.
            state.window = 0;
        }
        drop(state);
        drop(reading);
        kept
    }

    /// Reads ahead until the connection ends.
    fn run(&self) {
        let _gone = Gone(self);
        loop {
            let (start, stop) = {
                let mut state = self.state.lock();
                self.moved
                    .wait_while(&mut state, |state| !state.over && (state.wanted.is_none() || state.reading.is_some()));
                if state.over {
                    return;
                }
                state.reading = state.wanted.take();
                let Some(range) = state.reading else { continue };
                range
            };
            // The client finds the error when it comes there.
            let _ = self.fetch(start, stop - start);
        }
    }
}

/// Somebody reads a window; whatever becomes of it, nobody waits for it any more then.
struct Reading<'a>(&'a Shared);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.state.lock().reading = None;
        self.0.moved.notify_all();
    }
}

/// The thread is there; when it is not, nothing is wanted of it.
struct Gone<'a>(&'a Shared);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        (state.over, state.wanted) = (true, None);
        self.0.moved.notify_all();
    }
}

struct Open {
    shared: Arc<Shared>,
    /// The thread that reads ahead, once there is something to read.
    reader: Mutex<Option<JoinHandle<()>>>,
}

impl Open {
    fn change(&self, change: impl FnOnce(&dyn OpenDisk) -> Result<(), DiskError>) -> Result<(), DiskError> {
        self.shared.changes.fetch_add(1, Ordering::SeqCst);
        let changed = change(&*self.shared.disk);
        self.shared.changes.fetch_add(1, Ordering::SeqCst);
        changed
    }

    /// There has to be a thread as soon as something is wanted of it.
    fn start(&self) {
        let mut reader = self.reader.lock();
        if reader.is_some() || self.shared.state.lock().wanted.is_none() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        match std::thread::Builder::new().name(NAME.to_owned()).spawn(move || shared.run()) {
            Ok(thread) => *reader = Some(thread),
            Err(_) => {
                // Then nothing is read ahead.
                self.shared.state.lock().wanted = None;
                self.shared.moved.notify_all();
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.state.lock().over = true;
        self.shared.moved.notify_all();
        if let Some(reader) = self.reader.lock().take() {
            // One that panicked has said so.
            let _ = reader.join();
        }
    }
}

impl OpenLayer for Open {
    fn below(&self) -> &dyn OpenDisk {
        &*self.shared.disk
    }

    fn read(&self, offset: u64, length: usize) -> Result<ReadBytes, DiskError> {
        let plan = self.shared.plan(offset, length as u64);
        self.start();
        match plan {
            Plan::Have(bytes) => Ok(Box::new(bytes)),
            Plan::Read => self.shared.disk.read(offset, length),
            Plan::Ahead(more) => match self.shared.fetch(offset, more) {
                Ok(window) => Ok(Box::new(window.part(offset, length))),
                // What follows may be what cannot be read.
                Err(_) => self.shared.disk.read(offset, length),
            },
        }
    }

    fn write(&self, offset: u64, data: &[u8], flags: RequestFlags) -> Result<(), DiskError> {
        self.change(|disk| disk.write(offset, data, flags))
    }

    fn trim(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        self.change(|disk| disk.trim(offset, length, flags))
    }

    fn zero(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        self.change(|disk| disk.zero(offset, length, flags))
    }
}

#[cfg(test)]
mod tests {
    use backstay_core::{DiskInfo, Export, Extent};
    use backstay_nbd::memory::MemoryDisk;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{acts, agree, content, half_full, lanes, open};

    fn ahead(disk: Arc<dyn Disk>) -> Arc<dyn Disk> {
        Box::new(Readahead).wrap(disk).unwrap()
    }

    /// A disk that counts how often it is read.
    struct Counted {
        disk: MemoryDisk,
        reads: Arc<AtomicU64>,
    }

    impl Layer for Counted {
        fn below(&self) -> &dyn Disk {
            &self.disk
        }

        fn open(&self, export: &[u8], client: &Client) -> Result<Box<dyn OpenDisk>, OpenError> {
            let disk = self.disk.open(export, client)?;
            Ok(Box::new(Layered(OpenCounted { disk, reads: Arc::clone(&self.reads) })))
        }
    }

    struct OpenCounted {
        disk: Box<dyn OpenDisk>,
        reads: Arc<AtomicU64>,
    }

    impl OpenLayer for OpenCounted {
        fn below(&self) -> &dyn OpenDisk {
            &*self.disk
        }

        fn read(&self, offset: u64, length: usize) -> Result<ReadBytes, DiskError> {
            self.reads.fetch_add(1, Ordering::SeqCst);
            self.disk.read(offset, length)
        }
    }

    /// How many reads of the disk behind it takes to read a mebibyte in pieces of 4 KiB.
    fn reads(model: ThreadModel) -> u64 {
        let size = 1 << 20;
        let disk = MemoryDisk::new(size, model);
        let bytes = crate::testing::noise(5, size as usize);
        open(&disk).write(0, &bytes, RequestFlags::default()).unwrap();
        let reads = Arc::new(AtomicU64::new(0));
        let disk = ahead(Arc::new(Layered(Counted { disk, reads: Arc::clone(&reads) })));
        let disk = open(&*disk);
        for offset in (0..size).step_by(4096) {
            let read = disk.read(offset, 4096).unwrap();
            assert!((*read).as_ref() == &bytes[offset as usize..][..4096], "{offset} {model:?}");
        }
        drop(disk);
        reads.load(Ordering::SeqCst)
    }

    #[test]
    fn reading_in_a_row_takes_few_calls_of_the_disk_behind() {
        for model in [ThreadModel::SerializeAllRequests, ThreadModel::Parallel] {
            let reads = reads(model);
            assert!(reads <= 20, "{reads} reads, {model:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn what_is_read_is_what_was_written_last(acts in acts(), parallel: bool, step in 512_u64..20_000) {
            let model = if parallel { ThreadModel::Parallel } else { ThreadModel::SerializeAllRequests };
            let size = 400_000_u64;
            let disk = ahead(Arc::new(MemoryDisk::new(size, model)));
            let (one, another) = (open(&*disk), open(&*disk));
            let mut bytes = vec![0; size as usize];
            for act in acts {
                agree(&*one, &mut bytes, &[act]);
                // The other one reads in a row all the time.
                for offset in (0..size).step_by(step as usize) {
                    let length = step.min(size - offset) as usize;
                    let read = another.read(offset, length).unwrap();
                    prop_assert!((*read).as_ref() == &bytes[offset as usize..][..length]);
                }
            }
        }
    }

    #[test]
    fn a_place_that_cannot_be_read_fails_only_who_reads_it() {
        struct Broken(DiskInfo);
        impl Disk for Broken {
            fn threads(&self) -> ThreadModel {
                ThreadModel::SerializeAllRequests
            }
            fn exports(&self, _: &Client) -> Result<Vec<Export>, String> {
                Ok(Vec::new())
            }
            fn open(&self, _: &[u8], _: &Client) -> Result<Box<dyn OpenDisk>, OpenError> {
                Ok(Box::new(Self(self.0.clone())))
            }
        }
        impl OpenDisk for Broken {
            fn info(&self) -> &DiskInfo {
                &self.0
            }
            fn read(&self, offset: u64, length: usize) -> Result<ReadBytes, DiskError> {
                if offset + length as u64 > 50_000 { Err(DiskError(libc::EIO)) } else { Ok(Box::new(vec![1; length])) }
            }
            fn write(&self, _: u64, _: &[u8], _: RequestFlags) -> Result<(), DiskError> {
                Ok(())
            }
            fn flush(&self) -> Result<(), DiskError> {
                Ok(())
            }
            fn trim(&self, _: u64, _: u64, _: RequestFlags) -> Result<(), DiskError> {
                Ok(())
            }
            fn zero(&self, _: u64, _: u64, _: RequestFlags) -> Result<(), DiskError> {
                Ok(())
            }
            fn cache(&self, _: u64, _: u64) -> Result<(), DiskError> {
                Ok(())
            }
            fn extents(&self, _: u64, _: u64, _: RequestFlags) -> Result<Vec<Extent>, DiskError> {
                Ok(Vec::new())
            }
        }
        let disk = open(&*ahead(Arc::new(Broken(DiskInfo { size: 100_000, ..DiskInfo::default() }))));
        for offset in (0..49_000).step_by(1000) {
            assert!(disk.read(offset, 1000).is_ok(), "{offset}");
        }
        assert_eq!(disk.read(50_000, 1000).err(), Some(DiskError(libc::EIO)));
    }

    #[test]
    fn connections_do_not_touch_what_others_change() {
        for model in [ThreadModel::SerializeAllRequests, ThreadModel::Parallel] {
            lanes(&*ahead(Arc::new(MemoryDisk::new(1 << 18, model))));
        }
    }

    #[test]
    fn a_disk_read_here_and_there_is_as_it_was() {
        let (memory, bytes) = half_full(1 << 16);
        assert!(content(&*open(&*ahead(Arc::new(memory)))) == bytes);
    }
}
