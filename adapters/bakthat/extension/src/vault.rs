//! A vault of Glacier and its jobs, with the names that boto gave them.

use backstay_bakthat::vault::{Job, Vault, VaultPlace, Wanted};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::settings::Settings;
use super::{path, run};

/// A vault; it is made where it does not exist.
#[pyclass(frozen, module = "bakthat._native")]
pub(super) struct GlacierVault {
    vault: Vault,
    #[pyo3(get)]
    name: String,
}

impl GlacierVault {
    fn start(this: &Bound<'_, Self>, wanted: Wanted<'_>) -> PyResult<GlacierJob> {
        let vault = &this.get().vault;
        let job = run(this.py(), None, None, |control, _| vault.start_job(wanted, control))?;
        Ok(GlacierJob { vault: this.clone().unbind(), job })
    }
}

#[pymethods]
impl GlacierVault {
    #[new]
    fn new(py: Python<'_>, name: String, settings: Settings<'_>) -> PyResult<Self> {
        let place = VaultPlace {
            vault: name.clone(),
            endpoint: settings.text("endpoint_url")?,
            region: settings.region()?,
            access_key: settings.text("access_key")?.unwrap_or_default(),
            secret_key: settings.secret("secret_key")?,
        };
        let vault = run(py, None, None, move |control, _| Vault::open(&place, control))?;
        Ok(Self { vault, name })
    }

    fn __repr__(&self) -> String {
        format!("<GlacierVault {}>", self.vault.location())
    }

    #[pyo3(signature = (path, description, part_size=16 << 20))]
    fn upload(&self, py: Python<'_>, path: &Bound<'_, PyAny>, description: String, part_size: u64) -> PyResult<String> {
        let path = self::path(path)?;
        run(py, None, None, |control, _| self.vault.upload(&path, &description, part_size, control))
    }

    fn delete_archive(&self, py: Python<'_>, archive_id: String) -> PyResult<()> {
        run(py, None, None, |control, _| self.vault.delete(&archive_id, control))
    }

    fn retrieve_archive(this: &Bound<'_, Self>, archive_id: String) -> PyResult<GlacierJob> {
        Self::start(this, Wanted::Archive(&archive_id))
    }

    fn retrieve_inventory(this: &Bound<'_, Self>) -> PyResult<GlacierJob> {
        Self::start(this, Wanted::Inventory)
    }

    fn get_job(this: &Bound<'_, Self>, job_id: String) -> PyResult<GlacierJob> {
        let vault = &this.get().vault;
        let job = run(this.py(), None, None, |control, _| vault.job(&job_id, control))?;
        Ok(GlacierJob { vault: this.clone().unbind(), job })
    }

    fn list_jobs(this: &Bound<'_, Self>) -> PyResult<Vec<GlacierJob>> {
        let vault = &this.get().vault;
        let jobs = run(this.py(), None, None, |control, _| vault.jobs(control))?;
        Ok(jobs.into_iter().map(|job| GlacierJob { vault: this.clone().unbind(), job }).collect())
    }
}

/// A job of a vault.
#[pyclass(frozen, module = "bakthat._native")]
pub(super) struct GlacierJob {
    #[pyo3(get)]
    vault: Py<GlacierVault>,
    job: Job,
}

#[pymethods]
impl GlacierJob {
    #[getter]
    fn id(&self) -> &str {
        &self.job.id
    }

    #[getter]
    fn action(&self) -> Option<&str> {
        self.job.action.as_deref()
    }

    #[getter]
    fn status_code(&self) -> Option<&str> {
        self.job.status_code.as_deref()
    }

    #[getter]
    fn creation_date(&self) -> Option<&str> {
        self.job.creation_date.as_deref()
    }

    #[getter]
    fn completion_date(&self) -> Option<&str> {
        self.job.completion_date.as_deref()
    }

    #[getter]
    fn completed(&self) -> bool {
        self.job.completed
    }

    #[getter]
    fn archive_size(&self) -> Option<u64> {
        self.job.archive_size
    }

    #[getter]
    fn archive_tree_hash(&self) -> Option<&str> {
        self.job.archive_tree_hash.as_deref()
    }

    fn __repr__(&self) -> String {
        format!("<GlacierJob {} {}>", self.job.id, self.job.status_code.as_deref().unwrap_or("?"))
    }

    #[pyo3(signature = (byte_range=None))]
    fn get_output<'py>(&self, py: Python<'py>, byte_range: Option<(u64, u64)>) -> PyResult<Bound<'py, PyBytes>> {
        let vault = &self.vault.get().vault;
        let bytes = run(py, None, None, |control, _| vault.output(&self.job.id, byte_range, control))?;
        Ok(PyBytes::new(py, &bytes))
    }

    fn download_to(&self, py: Python<'_>, path: &Bound<'_, PyAny>) -> PyResult<()> {
        let path = self::path(path)?;
        let vault = &self.vault.get().vault;
        run(py, None, None, |control, _| vault.download(&self.job, &path, control))
    }
}
