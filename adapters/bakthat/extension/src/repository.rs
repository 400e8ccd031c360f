//! A Backstay repository as a destination, for Python.

use std::sync::OnceLock;

use backstay_bakthat::repository::{Repository as Engine, Saving};
use pyo3::exceptions::PyFileNotFoundError;
use pyo3::prelude::*;

use super::files::{Excludes, home_expanded, patterns};
use super::settings::Settings;
use super::{NativeError, file_system_bytes, os_error, password, path, run, told};

/// A Backstay repository.
#[pyclass(frozen, module = "bakthat._native")]
pub(super) struct Repository {
    location: String,
    password: Vec<u8>,
    options: Vec<String>,
    opened: OnceLock<Engine>,
}

impl Repository {
    /// The repository, which must be there.
    pub(super) fn engine(&self, py: Python<'_>) -> PyResult<&Engine> {
        self.opened(py, false)
    }

    /// The repository, made first where there is none.
    pub(super) fn made(&self, py: Python<'_>) -> PyResult<&Engine> {
        self.opened(py, true)
    }

    fn opened(&self, py: Python<'_>, create: bool) -> PyResult<&Engine> {
        if let Some(engine) = self.opened.get() {
            return Ok(engine);
        }
        super::allocator::give_large_pieces_back();
        let (location, password, options) = (&self.location, &self.password, &self.options);
        let engine = run(py, None, None, |control, _| Engine::open(location, password, create, options, control))?;
        Ok(self.opened.get_or_init(|| engine))
    }
}

#[pymethods]
impl Repository {
    #[new]
    #[pyo3(signature = (location, password, *, create=true, options=Vec::new()))]
    fn new(
        py: Python<'_>,
        location: String,
        password: &Bound<'_, PyAny>,
        create: bool,
        options: Vec<String>,
    ) -> PyResult<Self> {
        let password = self::password(password)?;
        let this = Self { location, password, options, opened: OnceLock::new() };
        this.opened(py, create)?;
        Ok(this)
    }

    /// The repository of a profile. It is opened when it is needed, and the first backup makes it where there is none: whoever
    /// only looks must not.
    #[staticmethod]
    fn of_profile(profile: &str, location: &Bound<'_, PyAny>, settings: Settings<'_>) -> PyResult<Self> {
        let location = home_expanded(location)?.to_string_lossy().into_owned();
        let password = match settings.path("repository_password_file")? {
            Some(file) => {
                let mut bytes = std::fs::read(&file).map_err(|error| os_error(&error, file))?;
                let end = bytes.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |at| at + 1);
                bytes.truncate(end);
                bytes
            }
            None => settings.bytes("repository_password")?,
        };
        if password.is_empty() {
            let text = "profile has neither repository_password_file nor repository_password";
            return Err(NativeError::new_err(format!("The {profile} {text}")));
        }
        let options = settings.list("repository_options")?;
        Ok(Self { location, password, options, opened: OnceLock::new() })
    }

    /// The stored names; where there is no repository it is made with `make`, and has none without.
    #[pyo3(signature = (*, make))]
    fn names(&self, py: Python<'_>, make: bool) -> PyResult<Vec<String>> {
        match self.opened(py, make) {
            Err(error) if !make && error.is_instance_of::<PyFileNotFoundError>(py) => Ok(Vec::new()),
            engine => {
                let engine = engine?;
                run(py, None, None, |_, _| engine.list())
            }
        }
    }

    /// Where it is, for people.
    #[getter]
    fn location(&self, py: Python<'_>) -> PyResult<String> {
        self.engine(py).map(Engine::location)
    }

    fn __repr__(&self) -> String {
        // Before it is opened nobody knows what of its address is secret.
        let location = self.opened.get().map_or_else(|| "not opened yet".to_owned(), Engine::location);
        format!("<Repository {location}>")
    }

    #[pyo3(signature = (
        source, arcname, stored_filename, *, exclude=None, tags=Vec::new(), host=None, time, progress=None, excluded=None
    ))]
    #[allow(clippy::too_many_arguments)]
    fn backup(
        &self,
        py: Python<'_>,
        source: &Bound<'_, PyAny>,
        arcname: &Bound<'_, PyAny>,
        stored_filename: String,
        exclude: Option<&Bound<'_, Excludes>>,
        tags: Vec<String>,
        host: Option<String>,
        time: f64,
        progress: Option<&Bound<'_, PyAny>>,
        excluded: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<u64> {
        let (source, arcname) = (path(source)?, file_system_bytes(arcname)?);
        let excludes = patterns(exclude);
        let engine = self.made(py)?;
        run(py, progress, excluded, |control, names| {
            let saving = Saving { stored_name: &stored_filename, tags: &tags, host: host.as_deref(), time };
            engine.backup(&source, &arcname, &excludes, &saving, control, &told(names))
        })
    }

    #[pyo3(signature = (archive, stored_filename, *, tags=Vec::new(), host=None, time, progress=None))]
    #[allow(clippy::too_many_arguments)]
    fn backup_tar(
        &self,
        py: Python<'_>,
        archive: &Bound<'_, PyAny>,
        stored_filename: String,
        tags: Vec<String>,
        host: Option<String>,
        time: f64,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<u64> {
        let archive = path(archive)?;
        let engine = self.made(py)?;
        run(py, progress, None, |control, _| {
            let saving = Saving { stored_name: &stored_filename, tags: &tags, host: host.as_deref(), time };
            engine.backup_tar(&archive, &saving, control)
        })
    }

    #[pyo3(signature = (stored_filename, out, *, progress=None))]
    fn download(
        &self,
        py: Python<'_>,
        stored_filename: String,
        out: &Bound<'_, PyAny>,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let out = path(out)?;
        let engine = self.engine(py)?;
        run(py, progress, None, |control, _| engine.download(&stored_filename, &out, control))
    }

    #[pyo3(signature = (stored_filename, folder, *, progress=None))]
    fn restore(
        &self,
        py: Python<'_>,
        stored_filename: String,
        folder: &Bound<'_, PyAny>,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let folder = path(folder)?;
        let engine = self.engine(py)?;
        run(py, progress, None, |control, _| engine.restore(&stored_filename, &folder, control))
    }

    fn size(&self, py: Python<'_>, stored_filename: String) -> PyResult<Option<u64>> {
        let engine = self.engine(py)?;
        run(py, None, None, |_, _| engine.size(&stored_filename))
    }

    fn delete(&self, py: Python<'_>, stored_filename: String) -> PyResult<()> {
        let engine = self.engine(py)?;
        run(py, None, None, |control, _| engine.delete(&stored_filename, control))
    }

    fn list(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let engine = self.engine(py)?;
        run(py, None, None, |_, _| engine.list())
    }

    fn prune(&self, py: Python<'_>) -> PyResult<()> {
        let engine = self.engine(py)?;
        run(py, None, None, |control, _| engine.prune(control))
    }
}
