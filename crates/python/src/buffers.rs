//! Bytes of a Python object, borrowed without a copy.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;

/// A view on the bytes of any object with the buffer protocol: `bytes`, `bytearray`, `memoryview`, `array`.
///
/// While it lives the object cannot change its size (a `bytearray` refuses to), so the pointer stays valid also while
/// the interpreter is released.
#[allow(missing_debug_implementations)]
pub struct ByteView<'py> {
    view: Box<ffi::Py_buffer>,
    attached: PhantomData<Python<'py>>,
}

impl<'py> ByteView<'py> {
    /// Opens a view.
    ///
    /// # Errors
    /// `TypeError` for an object without the protocol, `BufferError` for one that is not contiguous.
    pub fn new(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let mut view: Box<MaybeUninit<ffi::Py_buffer>> = Box::new(MaybeUninit::uninit());
        // SAFETY: `object` is a live object and the interpreter is attached (`Bound`). On success the call has filled
        // the whole structure; it stays in its box, because some exporters point into it.
        let view = unsafe {
            if ffi::PyObject_GetBuffer(object.as_ptr(), view.as_mut_ptr(), ffi::PyBUF_SIMPLE) != 0 {
                return Err(PyErr::fetch(object.py()));
            }
            Box::from_raw(Box::into_raw(view).cast::<ffi::Py_buffer>())
        };
        if view.len < 0 || (view.buf.is_null() && view.len > 0) {
            return Err(PyBufferError::new_err("the object exports no memory"));
        }
        Ok(Self { view, attached: PhantomData })
    }

    /// Number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.view.len).unwrap_or(0)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes, for as long as `_py` proves that no Python code runs. They may change as soon as it does: copy them
    /// out at once and compute from the copy.
    #[must_use]
    pub fn bytes<'a>(&'a self, _py: Python<'a>) -> &'a [u8] {
        if self.is_empty() {
            return &[];
        }
        // SAFETY: the exporter guarantees `len` readable bytes at `buf` until the view is released. The interpreter
        // lock is held for the life of the slice, so no Python code writes to them meanwhile.
        unsafe { std::slice::from_raw_parts(self.view.buf.cast::<u8>(), self.len()) }
    }
}

impl Drop for ByteView<'_> {
    fn drop(&mut self) {
        // SAFETY: the view was opened in `new` and is released exactly once; its life time ends with the attachment.
        unsafe { ffi::PyBuffer_Release(&mut *self.view) }
    }
}
