//! Memory that Python code sees through a `memoryview`, lent for one call and used again only when no view of it is left.
//!
//! `memoryview.release()` succeeds although a slice of the view was kept, and the slice goes on reading and writing the
//! memory. So the memory belongs to an object of ours that counts what is exported of it. When something is left after the
//! call, the memory is given up to whoever holds it, and never used again.
//!
//! The object is reachable from Python (`memoryview.obj`), so it opens only while it is lent.

use std::ffi::c_int;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyMemoryView;

/// Smallest block, in bytes.
const SMALLEST: usize = 4096;
/// Shelves of the pool: blocks of 4 KiB, 8 KiB ... 64 MiB. Larger ones are not kept.
const SHELVES: usize = 15;

/// The object behind the views.
#[pyclass(frozen, name = "Memory", module = "nbdkit")]
struct Exporter {
    start: NonNull<u8>,
    capacity: usize,
    /// Bytes that a view shows; at most `capacity`.
    length: AtomicUsize,
    writable: AtomicBool,
    /// Whether new views may be opened. Changes only with the interpreter attached, as `exports` does.
    open: AtomicBool,
    exports: AtomicUsize,
}

// SAFETY: the memory is owned. It is written by Rust code only while closed and without exports, with the interpreter
// attached; the other fields are atomic.
unsafe impl Send for Exporter {}
// SAFETY: as above; it is read by Rust code only while closed and without exports.
unsafe impl Sync for Exporter {}

#[pymethods]
impl Exporter {
    unsafe fn __getbuffer__(slf: &Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let this = slf.get();
        if !this.open.load(Ordering::Relaxed) {
            return Err(PyBufferError::new_err("this memory was lent for one call, which is over"));
        }
        let length = ffi::Py_ssize_t::try_from(this.length.load(Ordering::Relaxed))
            .map_err(|_| PyBufferError::new_err("too long"))?;
        let read_only = c_int::from(!this.writable.load(Ordering::Relaxed));
        // SAFETY: `view` comes from CPython's buffer protocol. The memory has at least `length` bytes and lives as long as
        // this object, which the filled view holds a reference to.
        let filled =
            unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), this.start.as_ptr().cast(), length, read_only, flags) };
        if filled != 0 {
            return Err(PyErr::fetch(slf.py()));
        }
        this.exports.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {
        self.exports.fetch_sub(1, Ordering::Release);
    }
}

impl Exporter {
    fn new(capacity: usize) -> Self {
        let memory = Box::leak(vec![0_u8; capacity].into_boxed_slice());
        Self {
            start: NonNull::from(memory).cast(),
            capacity,
            length: AtomicUsize::new(0),
            writable: AtomicBool::new(false),
            open: AtomicBool::new(false),
            exports: AtomicUsize::new(0),
        }
    }

    /// What is in it.
    ///
    /// # Safety
    /// It is closed and nothing is exported, and stays so while the slice lives.
    unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: the memory is owned and initialised, `length` is within it; nothing writes (contract of this function).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length.load(Ordering::Relaxed)) }
    }

    /// A copy of what is in it, while somebody may write.
    fn snapshot(&self) -> Vec<u8> {
        let length = self.length.load(Ordering::Relaxed);
        // SAFETY: each byte is within the owned memory. Whoever writes at the same time does so from Python's C code; the
        // reads are atomic, so each byte is one that stood there.
        let byte = |position| unsafe { AtomicU8::from_ptr(self.start.as_ptr().add(position)).load(Ordering::Relaxed) };
        (0..length).map(byte).collect()
    }

    fn is_free(&self) -> bool {
        !self.open.load(Ordering::Relaxed) && self.exports.load(Ordering::Acquire) == 0
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        // SAFETY: the memory came from a boxed slice of this length, and nobody refers to it any more: views hold the object.
        drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(self.start.as_ptr(), self.capacity)) });
    }
}

#[derive(Default)]
struct Shelves {
    blocks: [Vec<Py<Exporter>>; SHELVES],
    bytes: usize,
}

/// Memory to lend, shared by all threads.
#[derive(Clone)]
pub struct Pool {
    shelves: Arc<Mutex<Shelves>>,
    ceiling: usize,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Pool")
            .field("kept", &self.kept())
            .field("ceiling", &self.ceiling)
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool that keeps at most `ceiling` bytes for later.
    #[must_use]
    pub fn new(ceiling: usize) -> Self {
        Self { shelves: Arc::default(), ceiling }
    }

    /// Bytes that are kept and not lent.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lends `length` zero bytes to write to.
    ///
    /// # Errors
    /// `MemoryError` and its like.
    pub fn lend_zeroed<'py>(&self, py: Python<'py>, length: usize) -> PyResult<Lent<'py>> {
        let (exporter, fresh) = self.take(py, length)?;
        if !fresh {
            // SAFETY: `take` gives out memory that is closed and without exports, with at least `length` bytes, to one
            // caller only.
            unsafe { exporter.get().start.as_ptr().write_bytes(0, length) };
        }
        self.open(exporter, length, true)
    }

    /// Lends a copy of `data` to read from.
    ///
    /// # Errors
    /// `MemoryError` and its like.
    pub fn lend_copy<'py>(&self, py: Python<'py>, data: &[u8]) -> PyResult<Lent<'py>> {
        let (exporter, _) = self.take(py, data.len())?;
        // SAFETY: as in `lend_zeroed`; the two do not overlap, since nobody else has the memory.
        unsafe { exporter.get().start.as_ptr().copy_from_nonoverlapping(data.as_ptr(), data.len()) };
        self.open(exporter, data.len(), false)
    }

    /// A free block, and whether it was just made and so is all zeroes.
    fn take<'py>(&self, py: Python<'py>, length: usize) -> PyResult<(Bound<'py, Exporter>, bool)> {
        let capacity = length.max(SMALLEST).next_power_of_two();
        if let Some(position) = shelf(capacity) {
            let mut shelves = self.lock();
            if let Some(block) = shelves.blocks[position].pop() {
                shelves.bytes -= capacity;
                return Ok((block.into_bound(py), false));
            }
        }
        Ok((Bound::new(py, Exporter::new(capacity))?, true))
    }

    fn open<'py>(&self, exporter: Bound<'py, Exporter>, length: usize, writable: bool) -> PyResult<Lent<'py>> {
        let this = exporter.get();
        this.length.store(length, Ordering::Relaxed);
        this.writable.store(writable, Ordering::Relaxed);
        this.open.store(true, Ordering::Relaxed);
        let view = PyMemoryView::from(exporter.as_any());
        match view {
            Ok(view) => Ok(Lent { view: Some(view), exporter, pool: self.clone() }),
            Err(error) => {
                this.open.store(false, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    fn give_back(&self, block: Py<Exporter>) {
        let capacity = block.get().capacity;
        let Some(position) = shelf(capacity) else { return };
        let mut shelves = self.lock();
        if shelves.bytes + capacity <= self.ceiling {
            shelves.bytes += capacity;
            shelves.blocks[position].push(block);
        }
    }
}

fn shelf(capacity: usize) -> Option<usize> {
    let position = (capacity / SMALLEST).ilog2() as usize;
    (position < SHELVES).then_some(position)
}

/// Memory that is lent, for one call.
#[allow(missing_debug_implementations)]
pub struct Lent<'py> {
    view: Option<Bound<'py, PyMemoryView>>,
    exporter: Bound<'py, Exporter>,
    pool: Pool,
}

impl<'py> Lent<'py> {
    /// What Python code gets.
    ///
    /// # Errors
    /// Never before the memory is taken back.
    pub fn view(&self) -> PyResult<&Bound<'py, PyMemoryView>> {
        self.view.as_ref().ok_or_else(|| PyBufferError::new_err("the memory was taken back"))
    }

    /// Takes the memory back, with what was written to it. What the callee kept of the view stays readable to it, and then
    /// the bytes are a copy that it cannot change.
    #[must_use]
    pub fn take_back(mut self) -> Bytes {
        if self.close() {
            Bytes(Inside::Block { block: Some(self.exporter.clone().unbind()), pool: self.pool.clone() })
        } else {
            Bytes(Inside::Copy(self.exporter.get().snapshot()))
        }
    }

    /// Ends the loan; answers whether nothing is left of it.
    fn close(&mut self) -> bool {
        self.exporter.get().open.store(false, Ordering::Relaxed);
        if let Some(view) = self.view.take()
            && is_shared(&view)
        {
            // Somebody kept the view itself: it is void from now on. What was exported of it in turn keeps it valid.
            let _ = view.call_method0(intern!(view.py(), "release"));
        }
        self.exporter.get().is_free()
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        // Not by way of `take_back`: nobody wants the bytes.
        if self.view.is_some() && self.close() {
            self.pool.give_back(self.exporter.clone().unbind());
        }
    }
}

/// Whether there is another reference than this one.
fn is_shared(view: &Bound<'_, PyMemoryView>) -> bool {
    // SAFETY: a live object, with the interpreter attached.
    unsafe { ffi::Py_REFCNT(view.as_ptr()) > 1 }
}

enum Inside {
    Block { block: Option<Py<Exporter>>, pool: Pool },
    Copy(Vec<u8>),
}

/// Bytes that were taken back. Their memory goes back to the pool when they are dropped, on any thread.
#[allow(missing_debug_implementations)]
pub struct Bytes(Inside);

impl Bytes {
    /// Whether they are a copy because something of the memory was kept.
    #[must_use]
    pub fn is_copy(&self) -> bool {
        matches!(self.0, Inside::Copy(_))
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        match &self.0 {
            Inside::Copy(bytes) => bytes,
            Inside::Block { block: Some(block), .. } => {
                // SAFETY: `take_back` found it closed and without exports, and it opens again only by way of the pool,
                // to which only `drop` gives it.
                unsafe { block.get().bytes() }
            }
            Inside::Block { block: None, .. } => &[],
        }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        if let Inside::Block { block, pool } = &mut self.0
            && let Some(block) = block.take()
        {
            pool.give_back(block);
        }
    }
}
