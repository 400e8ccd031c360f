//! A profile's settings as the stores read them.

use std::path::PathBuf;

use backstay_bakthat::objects::Secret;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyList, PyString, PyTuple};

use super::files::home_expanded;
use super::user_error;

/// The region of those who name none.
const REGION: &str = "us-east-1";

/// Settings that are text,
const TEXTS: [&str; 5] =
    ["default_destination", "local_path", "plugins_dir", "repository_password", "repository_password_file"];
/// and those that are one or several of them.
const LISTS: [&str; 2] = ["plugins", "repository_options"];
/// The settings of the rotation.
const ROTATION: &str = "rotation";

fn is_text(value: &Bound<'_, PyAny>) -> bool {
    value.is_instance_of::<PyString>()
        || value.is_instance_of::<PyBytes>()
        || value.hasattr("__fspath__").unwrap_or(false)
}

fn is_list(value: &Bound<'_, PyAny>) -> bool {
    let all = |value: &Bound<'_, PyAny>| {
        value.try_iter().is_ok_and(|mut texts| texts.all(|text| text.is_ok_and(|text| is_text(&text))))
    };
    value.is_instance_of::<PyString>()
        || ((value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>()) && all(value))
}

/// Refuses what YAML made of a setting of a profile and what cannot be one. What is missing, null, blank or false was not set.
#[pyfunction]
pub(super) fn check_settings(profile: &str, settings: &Bound<'_, PyAny>) -> PyResult<()> {
    let must = |keys: &[&str], fits: fn(&Bound<'_, PyAny>) -> bool, wanted: &str| -> PyResult<()> {
        for key in keys {
            let value = settings.call_method1("get", (key,))?;
            let unset = value.is_none() || value.eq("")? || value.is(PyBool::new(value.py(), false));
            if !unset && !fits(&value) {
                let text = format!("The setting {key} of the profile {profile} must be {wanted}");
                return Err(user_error(value.py(), "BadValue", &text));
            }
        }
        Ok(())
    };
    must(&TEXTS, is_text, "text")?;
    must(&LISTS, is_list, "text or a list of texts")?;
    must(&[ROTATION], |value| value.is_instance_of::<PyDict>(), "a mapping")
}

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

    /// A setting with one text or several.
    pub(super) fn list(&self, key: &str) -> PyResult<Vec<String>> {
        let value = self.0.call_method1("get", (key,))?;
        match value.cast::<PyString>() {
            Ok(text) if text.is_truthy()? => Ok(vec![text.extract()?]),
            Err(_) if value.is_truthy()? => value.try_iter()?.map(|text| text?.extract()).collect(),
            _ => Ok(Vec::new()),
        }
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
