//! Exceptions as the text that Python itself would print.

use pyo3::prelude::*;
use pyo3::types::PyList;

/// The whole traceback of `error`, chained exceptions included, each line ended by a newline.
///
/// Where even formatting fails (a broken `__str__`, a replaced `traceback` module) the exception's class is named.
#[must_use]
pub fn format_error(py: Python<'_>, error: &PyErr) -> String {
    format_with_module(py, error).unwrap_or_else(|_| match error.get_type(py).qualname() {
        Ok(name) => format!("{name}\n"),
        Err(_) => "an exception that cannot be shown\n".to_owned(),
    })
}

fn format_with_module(py: Python<'_>, error: &PyErr) -> PyResult<String> {
    let lines = py
        .import("traceback")?
        .call_method1("format_exception", (error.get_type(py), error.value(py), error.traceback(py)))?;
    let mut text = String::new();
    for line in lines.cast::<PyList>()? {
        let line = line.str()?;
        text.push_str(&line.to_string_lossy());
    }
    Ok(text)
}
