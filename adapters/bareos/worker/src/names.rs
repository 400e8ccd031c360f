//! File names between Python and the host: UTF-8, and where the bytes are not, Python's surrogate escapes.

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

/// Longest name, in bytes. It has to fit into a frame, twice.
const LONGEST: usize = 1 << 20;

/// The bytes of a name that a script gave.
///
/// # Errors
/// `ValueError` for a name with a NUL or of more than 1 MiB, `UnicodeEncodeError` for surrogates that stand for no byte.
pub(crate) fn to_bytes(name: &Bound<'_, PyString>) -> PyResult<Vec<u8>> {
    let bytes = match name.to_str() {
        Ok(text) => text.as_bytes().to_vec(),
        Err(_) => name
            .call_method1(intern!(name.py(), "encode"), ("utf-8", "surrogateescape"))?
            .cast::<PyBytes>()?
            .as_bytes()
            .to_vec(),
    };
    if bytes.len() > LONGEST {
        return Err(PyValueError::new_err("a file name of more than 1 MiB"));
    }
    if bytes.contains(&0) {
        return Err(PyValueError::new_err("embedded null character in a file name"));
    }
    Ok(bytes)
}

/// A stored name as a `str`.
///
/// # Errors
/// What the decoder raises: `MemoryError`.
pub(crate) fn to_python<'py>(py: Python<'py>, name: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    match std::str::from_utf8(name) {
        Ok(text) => Ok(PyString::new(py, text).into_any()),
        Err(_) => PyBytes::new(py, name).call_method1(intern!(py, "decode"), ("utf-8", "surrogateescape")),
    }
}

/// A stored name for a message.
pub(crate) fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
