//! A Backstay repository as a destination, for Python.

use backstay_bakthat::repository::{Repository as Engine, Saving};
use pyo3::prelude::*;

use super::files::{Excludes, home_expanded, patterns};
use super::settings::Settings;
use super::{NativeError, file_system_bytes, os_error, password, path, run};

/// A Backstay repository.
#[pyclass(frozen, module = "bakthat._native")]
pub(super) struct Repository {
    pub(super) engine: Engine,
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
        super::allocator::give_large_pieces_back();
        let engine =
            run(py, None, None, move |control, _| Engine::open(&location, &password, create, &options, control))?;
        Ok(Self { engine })
    }

    /// The repository of a profile, made where there is none.
    #[staticmethod]
    fn of_profile(
        py: Python<'_>,
        profile: &str,
        location: &Bound<'_, PyAny>,
        settings: Settings<'_>,
    ) -> PyResult<Self> {
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
        let engine = run(py, None, None, |control, _| Engine::open(&location, &password, true, &options, control))?;
        Ok(Self { engine })
    }

    /// Where it is, for people.
    #[getter]
    fn location(&self) -> String {
        self.engine.location()
    }

    fn __repr__(&self) -> String {
        format!("<Repository {}>", self.engine.location())
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
        run(py, progress, excluded, |control, names| {
            let saving = Saving { stored_name: &stored_filename, tags: &tags, host: host.as_deref(), time };
            self.engine.backup(&source, &arcname, &excludes, &saving, control, &|name| {
                // Nobody asks for them.
                let _ = names.send(name.into());
            })
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
        run(py, progress, None, |control, _| {
            let saving = Saving { stored_name: &stored_filename, tags: &tags, host: host.as_deref(), time };
            self.engine.backup_tar(&archive, &saving, control)
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
        run(py, progress, None, |control, _| self.engine.download(&stored_filename, &out, control))
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
        run(py, progress, None, |control, _| self.engine.restore(&stored_filename, &folder, control))
    }

    fn size(&self, py: Python<'_>, stored_filename: String) -> PyResult<Option<u64>> {
        run(py, None, None, |_, _| self.engine.size(&stored_filename))
    }

    fn delete(&self, py: Python<'_>, stored_filename: String) -> PyResult<()> {
        run(py, None, None, |control, _| self.engine.delete(&stored_filename, control))
    }

    fn list(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        run(py, None, None, |_, _| self.engine.list())
    }

    fn prune(&self, py: Python<'_>) -> PyResult<()> {
        run(py, None, None, |control, _| self.engine.prune(control))
    }
}
