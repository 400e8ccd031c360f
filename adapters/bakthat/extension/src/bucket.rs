//! A bucket and its objects with the names that boto gave them, for plugins that reach for them.

use std::path::Path;
use std::time::Duration;

use backstay_bakthat::objects::Objects;
use pyo3::exceptions::{PyAttributeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyIterator, PyList, PyString};

use super::files::{copy_from, temporary_folder};
use super::{NativeError, ObjectStore, path, run};

/// The right that every object has from the start.
const PRIVATE: &str = "private";

/// A bucket.
#[pyclass(frozen, subclass, module = "bakthat._native")]
pub(super) struct Bucket {
    #[pyo3(get)]
    store: Py<ObjectStore>,
    #[pyo3(get)]
    name: String,
}

#[pymethods]
impl Bucket {
    #[new]
    fn new(store: Py<ObjectStore>, name: String) -> Self {
        Self { store, name }
    }

    #[pyo3(signature = (name=None))]
    fn new_key(this: Bound<'_, Self>, name: Option<String>) -> Key {
        Key { bucket: this.unbind(), name }
    }

    fn __repr__(&self) -> String {
        format!("<Bucket: {}>", self.name)
    }

    #[pyo3(signature = (name, *, validate=true))]
    fn get_key(this: Bound<'_, Self>, name: String, validate: bool) -> PyResult<Option<Key>> {
        let py = this.py();
        let key = Key { bucket: this.unbind(), name: Some(name) };
        Ok((!validate || key.exists(py)?).then_some(key))
    }

    fn lookup(this: Bound<'_, Self>, name: String) -> PyResult<Option<Key>> {
        Self::get_key(this, name, true)
    }

    fn __contains__(this: Bound<'_, Self>, name: String) -> PyResult<bool> {
        Self::get_key(this, name, true).map(|key| key.is_some())
    }

    #[pyo3(signature = (*, prefix=""))]
    fn get_all_keys(this: Bound<'_, Self>, prefix: &str) -> PyResult<Vec<Key>> {
        let names = this.get().store.get().list(this.py())?.into_iter().filter(|name| name.starts_with(prefix));
        Ok(names.map(|name| Key { bucket: this.clone().unbind(), name: Some(name) }).collect())
    }

    #[pyo3(signature = (prefix=""))]
    fn list<'py>(this: Bound<'py, Self>, prefix: &str) -> PyResult<Bound<'py, PyIterator>> {
        let py = this.py();
        PyList::new(py, Self::get_all_keys(this, prefix)?)?.try_iter()
    }

    fn __iter__(this: Bound<'_, Self>) -> PyResult<Bound<'_, PyIterator>> {
        Self::list(this, "")
    }

    /// Takes a name or a key.
    fn delete_key(&self, name: &Bound<'_, PyAny>) -> PyResult<()> {
        let name = name.getattr_opt("name")?.unwrap_or_else(|| name.clone());
        self.store.get().delete(name.py(), name.extract()?)
    }
}

/// An object of a bucket.
#[pyclass(subclass, module = "bakthat._native")]
pub(super) struct Key {
    #[pyo3(get)]
    bucket: Py<Bucket>,
    #[pyo3(get, set)]
    name: Option<String>,
}

impl Key {
    fn named(&self) -> PyResult<String> {
        self.name.clone().ok_or_else(|| NativeError::new_err("the key has no name yet"))
    }

    fn objects(&self) -> &Objects {
        &self.bucket.get().store.get().objects
    }

    fn missing(&self, name: &str) -> PyErr {
        NativeError::new_err(format!("{} holds no {name}", self.bucket.get().name))
    }

    fn upload(&self, py: Python<'_>, file: &Path) -> PyResult<()> {
        let name = self.named()?;
        run(py, None, None, |control, _| self.objects().upload(&name, file, None, control))
    }

    fn download(&self, py: Python<'_>, out: &Path) -> PyResult<()> {
        let name = self.named()?;
        let there = run(py, None, None, |control, _| self.objects().download(&name, out, control))?;
        if there { Ok(()) } else { Err(self.missing(&name)) }
    }
}

/// Whether nothing is left of a file that has something, as far as it can be known.
fn is_at_end(file: &Bound<'_, PyAny>) -> PyResult<bool> {
    match file.call_method0("seekable") {
        Ok(seekable) if seekable.is_truthy()? => {}
        _ => return Ok(false),
    }
    let here: u64 = file.call_method0("tell")?.extract()?;
    let end: u64 = file.call_method1("seek", (0, 2))?.extract()?;
    file.call_method1("seek", (here,))?;
    Ok(here > 0 && here == end)
}

#[pymethods]
impl Key {
    #[new]
    #[pyo3(signature = (bucket, name=None))]
    fn new(bucket: Py<Bucket>, name: Option<String>) -> Self {
        Self { bucket, name }
    }

    fn __repr__(&self) -> String {
        format!("<Key: {},{}>", self.bucket.get().name, self.name.as_deref().unwrap_or("None"))
    }

    #[getter]
    fn key(&self) -> Option<&str> {
        self.name.as_deref()
    }

    #[setter]
    fn set_key(&mut self, name: Option<String>) {
        self.name = name;
    }

    #[getter]
    fn size(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        self.bucket.get().store.get().size(py, self.named()?)
    }

    #[getter]
    fn last_modified(&self, py: Python<'_>) -> PyResult<Option<String>> {
        self.bucket.get().store.get().last_modified(py, self.named()?)
    }

    fn exists(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.size(py)?.is_some())
    }

    fn delete(&self, py: Python<'_>) -> PyResult<()> {
        self.bucket.get().store.get().delete(py, self.named()?)
    }

    fn set_acl(&self, py: Python<'_>, acl: String) -> PyResult<()> {
        if acl == PRIVATE {
            return Ok(());
        }
        self.bucket.get().store.get().set_acl(py, self.named()?, acl)
    }

    /// An address that is good for so many seconds.
    #[pyo3(signature = (expires_in, method="GET"))]
    fn generate_url(&self, expires_in: f64, method: &str) -> PyResult<String> {
        let seconds = Duration::try_from_secs_f64(expires_in);
        let seconds =
            seconds.map_err(|_| PyValueError::new_err(format!("{expires_in} seconds cannot be waited for")))?;
        self.objects().presign(&self.named()?, seconds.as_secs(), method).map_err(super::raised)
    }

    #[pyo3(signature = (filename, **_named))]
    fn set_contents_from_filename(
        &self,
        filename: &Bound<'_, PyAny>,
        _named: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.upload(filename.py(), &path(filename)?)
    }

    #[pyo3(signature = (data, **_named))]
    fn set_contents_from_string(&self, data: &Bound<'_, PyAny>, _named: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        let bytes = match data.cast::<PyString>() {
            Ok(text) => text.to_cow()?.as_bytes().to_vec(),
            Err(_) => data.extract()?,
        };
        let name = self.named()?;
        run(data.py(), None, None, |control, _| self.objects().put(&name, &bytes, control))
    }

    /// Stores what is left of a file, or all of it with `rewind`.
    #[pyo3(signature = (file, *, rewind=false, **_named))]
    fn set_contents_from_file(
        &self,
        file: &Bound<'_, PyAny>,
        rewind: bool,
        _named: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        if rewind {
            file.call_method1("seek", (0,))?;
        } else if is_at_end(file)? {
            // What was just written, most likely: an empty object would be taken for a backup.
            return Err(PyAttributeError::new_err("the file is at its end: seek(0) it, or say rewind=True"));
        }
        let folder = temporary_folder(file.py())?;
        let copy = folder.path().join("contents");
        copy_from(file, &copy)?;
        self.upload(file.py(), &copy)
    }

    #[pyo3(signature = (filename, **_named))]
    fn get_contents_to_filename(
        &self,
        filename: &Bound<'_, PyAny>,
        _named: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.download(filename.py(), &path(filename)?)
    }

    #[pyo3(signature = (file, **_named))]
    fn get_contents_to_file(&self, file: &Bound<'_, PyAny>, _named: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        let py = file.py();
        let folder = temporary_folder(py)?;
        let copy = folder.path().join("contents");
        self.download(py, &copy)?;
        let copy = py.import("io")?.call_method1("open", (copy, "rb"))?;
        py.import("shutil")?.call_method1("copyfileobj", (&copy, file))?;
        copy.call_method0("close").map(drop)
    }

    #[pyo3(signature = (**_named))]
    fn read<'py>(&self, py: Python<'py>, _named: Option<&Bound<'py, PyDict>>) -> PyResult<Bound<'py, PyBytes>> {
        self.get_contents_as_string(py, None)
    }

    #[pyo3(signature = (**_named))]
    fn get_contents_as_string<'py>(
        &self,
        py: Python<'py>,
        _named: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let name = self.named()?;
        let bytes = run(py, None, None, |control, _| self.objects().get(&name, control))?;
        bytes.map(|bytes| PyBytes::new(py, &bytes)).ok_or_else(|| self.missing(&name))
    }
}
