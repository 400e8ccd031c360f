//! A profile's settings as the stores read them.

use std::path::PathBuf;

use backstay_bakthat::objects::Secret;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::files::home_expanded;

/// The region of those who name none.
const REGION: &str = "us-east-1";

/// A mapping; what is missing, blank or null was not set.
pub(super) struct Settings<'py>(Bound<'py, PyAny>);

impl<'py> FromPyObject<'_, 'py> for Settings<'py> {
    type Error = PyErr;

    fn extract(mapping: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self(mapping.to_owned()))
    }
}

impl Settings<'_> {
    /// A setting as text, whatever YAML made of it.
    pub(super) fn text(&self, key: &str) -> PyResult<Option<String>> {
        let value = self.0.call_method1("get", (key,))?;
        if value.is_truthy()? { Ok(Some(value.str()?.to_string())) } else { Ok(None) }
    }

    /// A setting that is a path.
    pub(super) fn path(&self, key: &str) -> PyResult<Option<PathBuf>> {
        let value = self.0.call_method1("get", (key,))?;
        if value.is_truthy()? { home_expanded(&value).map(Some) } else { Ok(None) }
    }

    /// A setting as bytes; text is its UTF-8.
    pub(super) fn bytes(&self, key: &str) -> PyResult<Vec<u8>> {
        let value = self.0.call_method1("get", (key,))?;
        match value.cast::<PyBytes>() {
            Ok(bytes) => Ok(bytes.as_bytes().to_vec()),
            Err(_) => Ok(self.text(key)?.unwrap_or_default().into_bytes()),
        }
    }

    /// A setting with several texts.
    pub(super) fn list(&self, key: &str) -> PyResult<Vec<String>> {
        let value = self.0.call_method1("get", (key,))?;
        if value.is_truthy()? { value.try_iter()?.map(|text| text?.extract()).collect() } else { Ok(Vec::new()) }
    }

    pub(super) fn secret(&self, key: &str) -> PyResult<Secret> {
        Ok(Secret::new(self.text(key)?.unwrap_or_default()))
    }

    pub(super) fn region(&self) -> PyResult<String> {
        Ok(self.text("region_name")?.unwrap_or_else(|| REGION.to_owned()))
    }

    /// Whether a setting is on; what is not there, or null, is as `usual` says.
    pub(super) fn is(&self, key: &str, usual: bool) -> PyResult<bool> {
        let value = self.0.call_method1("get", (key,))?;
        if value.is_none() { Ok(usual) } else { value.is_truthy() }
    }
}
