//! What every hosted Python contract needs: the start of the interpreter, classes with C members, tracebacks, buffers,
//! descriptors and the interruption of a blocked callback.
//!
//! Imports pyo3 and libc only. Besides the shared ring this is the one place where `unsafe` is allowed; every block says
//! why it holds.
#![allow(unsafe_code)]

pub mod buffers;
pub mod descriptors;
pub mod interpreter;
pub mod interrupt;
pub mod record;
pub mod traceback;

pub use buffers::ByteView;
pub use interpreter::{StartError, interpreter_path, linked_version, start};
pub use interrupt::Interrupter;
pub use record::{Field, Kind, Record, RecordSpec, RecordType};
pub use traceback::format_error;
