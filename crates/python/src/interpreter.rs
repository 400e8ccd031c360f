//! The start of CPython by `PyConfig`, so that `sys.executable`, the search path and a virtual environment are those of
//! the configured interpreter and not of whatever comes first on PATH.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::ptr;

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;

/// The interpreter that is used when nothing else was said.
pub const DEFAULT_INTERPRETER: &str = "/usr/bin/python3";

/// Why Python could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The named interpreter is not there.
    #[error("no Python interpreter at {path}: {error}")]
    Missing {
        /// The path as given.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// It does not say which version it is.
    #[error("{path} does not work as a Python interpreter: {reason}")]
    Broken {
        /// The path as given.
        path: String,
        /// What it answered.
        reason: String,
    },
    /// Another minor version than the one we are linked with.
    #[error(
        "{path} is Python {found}, but this backstay-python is linked with Python {linked}; build one for it with \
         `PYO3_PYTHON={path} cargo build --release -p backstay-python`"
    )]
    Version {
        /// The path as given.
        path: String,
        /// Its version.
        found: String,
        /// Ours.
        linked: String,
    },
    /// CPython refused to start.
    #[error("Python did not start: {0}")]
    Start(String),
}

/// Which interpreter to use: the argument, else the variable `BACKSTAY_PYTHON`, else [`DEFAULT_INTERPRETER`]. A folder
/// is a virtual environment and stands for its `bin/python3`.
#[must_use]
pub fn interpreter_path(argument: Option<&OsStr>) -> PathBuf {
    let path = argument
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("BACKSTAY_PYTHON").filter(|text| !text.is_empty()).map(PathBuf::from))
        .unwrap_or_else(|| PathBuf::from(DEFAULT_INTERPRETER));
    if path.is_dir() { path.join("bin/python3") } else { path }
}

/// Major and minor version of the linked CPython, and its whole `sys.version` text.
#[must_use]
pub fn linked_version() -> (String, String) {
    // SAFETY: Py_GetVersion may be called before initialisation and returns a static string.
    let text = unsafe { CStr::from_ptr(ffi::Py_GetVersion()) }.to_string_lossy().into_owned();
    let minor = text.split('.').take(2).collect::<Vec<_>>().join(".");
    (minor, text)
}

/// Checks that `interpreter` is of the linked minor version and starts CPython as it: signal handlers untouched,
/// `sys.argv` `['']`, UTF-8 for file names and streams, standard output flushed at each line.
///
/// The calling thread becomes Python's main thread; it is detached when the call returns. Modules must have been added
/// to the initialisation table before.
///
/// # Errors
/// See [`StartError`].
pub fn start(interpreter: &Path) -> Result<(), StartError> {
    check_version(interpreter)?;
    let name = CString::new(interpreter.as_os_str().as_bytes())
        .map_err(|_| StartError::Start("the interpreter's path holds a NUL".to_owned()))?;
    // Rust's handlers for these signals, which tell a stack overflow apart, would swallow one that another process or the
    // plugin itself sends.
    // SAFETY: the default action is a valid handler, and no thread relies on the one that is replaced.
    unsafe {
        libc::signal(libc::SIGSEGV, libc::SIG_DFL);
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
    }
    // SAFETY: the calls follow CPython's initialisation protocol: pre-configuration, configuration filled by the
    // documented functions only (they copy what they are given), start, clear. Nothing of Python runs before. After
    // the start this thread holds the interpreter; PyEval_SaveThread releases it for pyo3 to attach to.
    unsafe {
        let mut preparation: ffi::PyPreConfig = std::mem::zeroed();
        ffi::PyPreConfig_InitPythonConfig(&mut preparation);
        preparation.utf8_mode = 1;
        check(ffi::Py_PreInitialize(&preparation))?;

        let mut config: ffi::PyConfig = std::mem::zeroed();
        ffi::PyConfig_InitPythonConfig(&mut config);
        let result = configure(&mut config, &name).and_then(|()| check(ffi::Py_InitializeFromConfig(&config)));
        ffi::PyConfig_Clear(&mut config);
        result?;
        ffi::PyEval_SaveThread();
    }
    Ok(())
}

/// # Safety
/// `config` was initialised by `PyConfig_InitPythonConfig`.
unsafe fn configure(config: &mut ffi::PyConfig, name: &CStr) -> Result<(), StartError> {
    config.install_signal_handlers = 0;
    config.parse_argv = 0;
    // SAFETY: the configuration is initialised (contract of this function), the strings end in NUL, and the functions
    // copy them.
    unsafe {
        let program: *mut *mut libc::wchar_t = &raw mut config.program_name;
        check(ffi::PyConfig_SetBytesString(config, program, name.as_ptr()))?;
        let mut arguments = [c"".as_ptr()];
        check(ffi::PyConfig_SetBytesArgv(config, 1, arguments.as_mut_ptr()))
    }
}

fn check(status: ffi::PyStatus) -> Result<(), StartError> {
    // SAFETY: `status` is a plain value that CPython returned; its texts are static or null.
    unsafe {
        if ffi::PyStatus_Exception(status) == 0 {
            return Ok(());
        }
        let text = |pointer: *const libc::c_char| {
            if ptr::eq(pointer, ptr::null()) { None } else { Some(CStr::from_ptr(pointer).to_string_lossy()) }
        };
        let reason = text(status.err_msg).unwrap_or_else(|| format!("exit status {}", status.exitcode).into());
        Err(StartError::Start(reason.into_owned()))
    }
}

fn check_version(interpreter: &Path) -> Result<(), StartError> {
    let path = interpreter.display().to_string();
    let real = interpreter.canonicalize().map_err(|error| StartError::Missing { path: path.clone(), error })?;
    let (linked, _) = linked_version();
    // Debian's and a virtual environment's `python3` lead to `python3.11`: no need to run it.
    let named = real.file_name().and_then(OsStr::to_str).and_then(|name| name.strip_prefix("python"));
    let found = match named {
        Some(version) if version.split_once('.').is_some_and(|(_, minor)| minor.parse::<u32>().is_ok()) => {
            version.to_owned()
        }
        _ => ask_version(interpreter, &path)?,
    };
    if found == linked { Ok(()) } else { Err(StartError::Version { path, found, linked }) }
}

fn ask_version(interpreter: &Path, path: &str) -> Result<String, StartError> {
    let broken = |reason: String| StartError::Broken { path: path.to_owned(), reason };
    let output = Command::new(interpreter)
        .args(["-I", "-S", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| broken(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let plain = text.split_once('.').is_some_and(|(a, b)| a.parse::<u32>().is_ok() && b.parse::<u32>().is_ok());
    if output.status.success() && plain {
        Ok(text)
    } else {
        Err(broken(format!("asked for its version it answered {text:?} ({})", output.status)))
    }
}

/// Ends the process at once, without the destructors of libraries whose threads may still run.
pub fn leave(status: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(status) }
}
/// Writes out what Python keeps of standard output and standard error.
pub fn flush_streams(py: Python<'_>) {
    for stream in ["stdout", "stderr"] {
        // A script may have replaced or closed them; there is nobody left to tell.
        if let Ok(stream) = py.import("sys").and_then(|sys| sys.getattr(stream)) {
            let _ = stream.call_method0(intern!(py, "flush"));
        }
    }
}
