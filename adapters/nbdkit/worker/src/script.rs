//! The script: how it is loaded and how its callbacks are called (reference 3, 5.1, 5.2, 6.4).

use std::path::Path;

use backstay_core::ThreadModel;
use backstay_python_runtime::threads::attach;
use backstay_python_runtime::{format_error, process};
use pyo3::call::PyCallArgs;
use pyo3::exceptions::PyOverflowError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyAnyMethods, PyString};

use crate::context;

/// The versions of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiVersion {
    /// Without `API_VERSION`.
    One,
    /// `API_VERSION = 2`.
    Two,
}

/// A callback or a value of the script that failed. It was logged, with the traceback if there is one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failed(pub String);

/// The script of this process. It is the module `__main__`.
#[derive(Debug)]
pub struct Script {
    path: String,
    module: Py<PyModule>,
    version: ApiVersion,
}

impl Script {
    /// Runs the file and checks what it defines. `sys.exit(n)` in it ends the process with status n.
    ///
    /// # Errors
    /// One sentence that names the script; a traceback stands on standard error.
    pub fn load(path: &Path) -> Result<Self, Failed> {
        attach(|py| Self::load_attached(py, path))
    }

    fn load_attached(py: Python<'_>, path: &Path) -> Result<Self, Failed> {
        let shown = path.display().to_string();
        match process::run_main(py, path) {
            Ok(true) => {}
            Ok(false) => return Err(failed(format!("{shown}: error running this script"))),
            Err(error) => {
                let reason = std::io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EINVAL));
                return Err(failed(format!("{shown}: cannot open file: {reason}")));
            }
        }
        let module = py.import(intern!(py, "__main__")).map_err(|error| {
            context::log_error(&format_error(py, &error));
            Failed(format!("{shown}: there is no module __main__"))
        })?;
        for name in ["open", "get_size", "pread"] {
            if callback(&module, &PyString::new(py, name)).is_none() {
                return Err(failed(format!(
                    "{shown}: one of the required callbacks 'open', 'get_size' or 'pread' is not defined by this Python \
                     script.  nbdkit requires these callbacks."
                )));
            }
        }
        let version = api_version(&module).map_err(|number| {
            failed(format!(
                "{shown}: API_VERSION requested unknown version: {number}.  This plugin supports API versions between 1 \
                 and 2."
            ))
        })?;
        context::log_debug(&format!("module requested API_VERSION {}", if version == ApiVersion::One { 1 } else { 2 }));
        Ok(Self { path: shown, module: module.unbind(), version })
    }

    /// The path as given.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Which version of the contract it asked for.
    #[must_use]
    pub fn version(&self) -> ApiVersion {
        self.version
    }

    /// Whether a callback is there now.
    #[must_use]
    pub(crate) fn defines(&self, name: &Bound<'_, PyString>) -> bool {
        callback(self.module.bind(name.py()), name).is_some()
    }

    /// Calls a callback, which is looked up anew each time; none: it is missing.
    pub(crate) fn try_call<'py, A>(
        &self,
        name: &Bound<'py, PyString>,
        arguments: A,
    ) -> PyResult<Option<Bound<'py, PyAny>>>
    where
        A: PyCallArgs<'py>,
    {
        match callback(self.module.bind(name.py()), name) {
            Some(function) => function.call1(arguments).map(Some),
            None => Ok(None),
        }
    }

    /// The same; what it raises is logged.
    pub(crate) fn call<'py, A>(
        &self,
        name: &Bound<'py, PyString>,
        arguments: A,
    ) -> Result<Option<Bound<'py, PyAny>>, Failed>
    where
        A: PyCallArgs<'py>,
    {
        self.try_call(name, arguments).map_err(|error| self.report(name, &error))
    }

    /// Logs what a callback raised as one message.
    pub(crate) fn report(&self, name: &Bound<'_, PyString>, error: &PyErr) -> Failed {
        let text = format_error(name.py(), error);
        let last = text.lines().rfind(|line| !line.is_empty()).unwrap_or_default();
        let name = name.to_string_lossy();
        context::log_error(&format!("{}: {name}: error: {text}", self.path));
        Failed(format!("{name}: {last}"))
    }

    /// Logs what is wrong with what a callback returned.
    pub(crate) fn wrong(&self, name: &str, reason: &str) -> Failed {
        failed(format!("{}: {name}: {reason}", self.path))
    }

    /// One parameter of the command line, as bytes of UTF-8.
    ///
    /// # Errors
    /// The script takes none, the value is no UTF-8, or the callback raised.
    pub fn config(&self, key: &str, value: &[u8]) -> Result<(), Failed> {
        attach(|py| {
            let name = intern!(py, "config");
            if !self.defines(name) {
                return Err(failed(format!("{}: this script does not need configuration parameters", self.path)));
            }
            let value = PyString::from_bytes(py, value).map_err(|error| self.report(name, &error))?;
            self.call(name, (key, value)).map(|_| ())
        })
    }

    /// A callback without arguments whose result counts for nothing: `config_complete`, `get_ready`, `after_fork`, `cleanup`,
    /// `dump_plugin`.
    ///
    /// # Errors
    /// It raised.
    pub fn notify(&self, name: &str) -> Result<(), Failed> {
        attach(|py| self.call(&PyString::intern(py, name), ()).map(|_| ()))
    }

    /// `thread_model`.
    ///
    /// # Errors
    /// It raised, or returned no integer or -1.
    pub fn thread_model(&self) -> Result<ThreadModel, Failed> {
        attach(|py| {
            let name = intern!(py, "thread_model");
            let Some(value) = self.call(name, ())? else { return Ok(ThreadModel::SerializeAllRequests) };
            match c_long(&value).map_err(|error| self.report(name, &error))? {
                -1 => Err(self.wrong("thread_model", "returned -1")),
                // nbdkit takes what is below 0 as the strictest.
                number if number <= 0 => Ok(ThreadModel::SerializeConnections),
                1 => Ok(ThreadModel::SerializeAllRequests),
                2 => Ok(ThreadModel::SerializeRequests),
                _ => Ok(ThreadModel::Parallel),
            }
        })
    }
}

fn failed(text: String) -> Failed {
    context::log_error(&text);
    Failed(text)
}

/// A name of the module that can be called.
fn callback<'py>(module: &Bound<'py, PyModule>, name: &Bound<'py, PyString>) -> Option<Bound<'py, PyAny>> {
    module.getattr_opt(name).ok().flatten().filter(PyAnyMethods::is_callable)
}

/// An integer as a C long: an `int`, a `bool`, or an object with `__index__`.
pub(crate) fn c_long(value: &Bound<'_, PyAny>) -> PyResult<i64> {
    value.extract::<i64>()
}

/// The version that the module asks for, or the number that is none.
fn api_version(module: &Bound<'_, PyModule>) -> Result<ApiVersion, i64> {
    let Ok(Some(value)) = module.getattr_opt(intern!(module.py(), "API_VERSION")) else { return Ok(ApiVersion::One) };
    match c_long(&value) {
        Ok(1) => Ok(ApiVersion::One),
        Ok(2) => Ok(ApiVersion::Two),
        Ok(number) => Err(number),
        Err(error) if error.is_instance_of::<PyOverflowError>(module.py()) => Err(i64::MAX),
        Err(_) => Err(-1),
    }
}
