//! Requests to a sync server, and a sync server, for Python.

use backstay_bakthat::sync_server::SyncServer as Engine;
use backstay_bakthat::web::{Request, ask};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::{path, run};

/// Status and text of the answer to a request, whatever the status.
#[pyfunction]
#[pyo3(signature = (method, url, auth, headers=None, body=None))]
pub(super) fn request(
    py: Python<'_>,
    method: &str,
    url: &str,
    auth: (Bound<'_, PyAny>, Bound<'_, PyAny>),
    headers: Option<&Bound<'_, PyDict>>,
    body: Option<Vec<u8>>,
) -> PyResult<(u16, String)> {
    let text = |value: &Bound<'_, PyAny>| -> PyResult<String> {
        if value.is_none() { Ok(String::new()) } else { Ok(value.str()?.to_string()) }
    };
    let (name, password) = (text(&auth.0)?, text(&auth.1)?);
    let headers: Vec<(String, String)> = headers
        .into_iter()
        .flatten()
        .map(|(name, value)| Ok((text(&name)?, text(&value)?)))
        .collect::<PyResult<_>>()?;
    run(py, None, None, |control, _| {
        ask(Request { method, url, login: (&name, &password), headers: &headers, body }, control)
    })
}

/// A sync server that listens; it answers while it serves.
#[pyclass(frozen, module = "bakthat._native")]
pub(super) struct SyncServer {
    engine: Engine,
}

#[pymethods]
impl SyncServer {
    #[new]
    fn new(
        py: Python<'_>,
        host: &str,
        port: u16,
        database: &Bound<'_, PyAny>,
        users: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let (database, users) = (path(database)?, path(users)?);
        let engine = run(py, None, None, |_, _| Engine::bind(host, port, &database, &users))?;
        Ok(Self { engine })
    }

    /// Host and port.
    #[getter]
    fn address(&self) -> String {
        self.engine.address().to_string()
    }

    /// Answers until a signal ends it.
    fn serve(&self, py: Python<'_>) -> PyResult<()> {
        run(py, None, None, |control, _| self.engine.serve(control))
    }
}
