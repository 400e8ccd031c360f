//! A bucket and its objects with the names that boto gave them, for plugins that reach for them.

use std::path::Path;

use backstay_bakthat::objects::Objects;
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

    fn get_key(this: Bound<'_, Self>, name: String) -> PyResult<Option<Key>> {
        let py = this.py();
        let key = Key { bucket: this.unbind(), name: Some(name) };
        Ok(key.exists(py)?.then_some(key))
    }

    fn get_all_keys(this: Bound<'_, Self>) -> PyResult<Vec<Key>> {
        let names = this.get().store.get().list(this.py())?;
        Ok(names.into_iter().map(|name| Key { bucket: this.clone().unbind(), name: Some(name) }).collect())
    }

    fn list(this: Bound<'_, Self>) -> PyResult<Bound<'_, PyIterator>> {
        let py = this.py();
        PyList::new(py, Self::get_all_keys(this)?)?.try_iter()
    }

    fn __iter__(this: Bound<'_, Self>) -> PyResult<Bound<'_, PyIterator>> {
        Self::list(this)
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

#[pymethods]
impl Key {
    #[new]
    #[pyo3(signature = (bucket, name=None))]
    fn new(bucket: Py<Bucket>, name: Option<String>) -> Self {
        Self { bucket, name }
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

    #[pyo3(signature = (expires, method="GET"))]
    fn generate_url(&self, expires: u64, method: &str) -> PyResult<String> {
        self.objects().presign(&self.named()?, expires, method).map_err(super::raised)
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

    #[pyo3(signature = (file, **_named))]
    fn set_contents_from_file(&self, file: &Bound<'_, PyAny>, _named: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
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
