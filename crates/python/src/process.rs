//! The process as a whole: a script that is its main program, and a fork.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use pyo3::ffi;
use pyo3::prelude::*;

/// Which of the two a process is after a fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forked {
    /// The old one; the number is the new one's.
    Parent(i32),
    /// The new one.
    Child,
}

/// Runs a file as `__main__`, as `python FILE` does, but for `sys.argv` and `sys.path`. `__file__` is there while it
/// runs. `SystemExit` ends the process with its status; any other exception is printed on `sys.stderr`.
///
/// Answers whether it ran to its end.
///
/// # Errors
/// The file cannot be opened, or its name holds a NUL.
pub fn run_main(_py: Python<'_>, path: &Path) -> io::Result<bool> {
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: both strings end in NUL. CPython closes the stream (fourth argument) on every way out; the interpreter is
    // attached (`_py`).
    unsafe {
        let file = libc::fopen(name.as_ptr(), c"re".as_ptr());
        if file.is_null() {
            return Err(io::Error::last_os_error());
        }
        Ok(ffi::PyRun_SimpleFileExFlags(file.cast(), name.as_ptr(), 1, std::ptr::null_mut()) == 0)
    }
}

/// Forks the process with the interpreter in it, as `os.fork()` does: hooks of `os.register_at_fork` run. Only this thread
/// is in the child.
///
/// # Errors
/// What the system said.
pub fn fork(_py: Python<'_>) -> io::Result<Forked> {
    // SAFETY: the interpreter is attached (`_py`), and the three functions are called around the fork in the order that
    // CPython asks for. The caller's thread is the one that lives on, with all that it holds.
    unsafe {
        ffi::PyOS_BeforeFork();
        match libc::fork() {
            0 => {
                ffi::PyOS_AfterFork_Child();
                Ok(Forked::Child)
            }
            number => {
                let error = io::Error::last_os_error();
                ffi::PyOS_AfterFork_Parent();
                if number < 0 { Err(error) } else { Ok(Forked::Parent(number)) }
            }
        }
    }
}
