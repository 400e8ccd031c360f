//! What every hosted Python contract needs: the start and end of the interpreter, thread states, classes with C members,
//! tracebacks, buffers, counted memory, descriptors, the interruption of a blocked callback.
//!
//! Imports pyo3 and libc only. Besides the shared ring and what a server process does with itself this is the one place where
//! `unsafe` is allowed; every block says why it holds.
#![allow(unsafe_code)]

pub mod buffers;
pub mod counted;
pub mod descriptors;
pub mod interpreter;
pub mod interrupt;
pub mod process;
pub mod record;
pub mod threads;
pub mod traceback;

pub use buffers::ByteView;
pub use interpreter::{StartError, flush_streams, interpreter_path, linked_version, start};
pub use interrupt::Interrupter;
pub use record::{Field, Kind, Record, RecordSpec, RecordType};
pub use traceback::format_error;
