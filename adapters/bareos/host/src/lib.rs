//! Bareos plugins as sources, sinks and hooks: the engine's side.
//!
//! One [`BareosSource`] stands for one job and module: it starts a worker process, which runs the plugin and the
//! contract's state machine, and turns its frames into what the engine takes. A [`BareosSink`] replays a ledger through
//! the plugin that wrote it. The plugin is unmodified code of somebody else: whatever the worker says is checked, and
//! whatever it does ends in a verdict. A [`Planned`] FileSet tells the engine's walk what is saved. A [`BareosHook`] is one
//! instance of a plugin of the director or the storage daemon, which hears of the job's events. May use: core, engine,
//! worker, the protocol, the FileSet.

mod accurate;
mod confine;
mod connection;
mod definition;
mod fileset;
mod hook;
mod modules;
mod options;
mod output_names;
mod printed;
#[cfg(test)]
mod scripted;
mod sink;
mod source;
mod trace;
mod view;

pub use accurate::{AccurateError, AccurateOptions};
pub use backstay_worker::{LEAST_MEMORY, PluginUser, UserError};
pub use confine::{ConfineOptions, SandboxOptions};
pub use definition::{DefinitionError, Module};
pub use fileset::{FileSetError, Planned, plan};
pub use hook::{BareosHook, HookError, hooks};
pub use options::BareosOptions;
pub use output_names::{OutputNames, OutputNamesError};
pub use sink::BareosSink;
pub use source::{BareosSource, PluginLine, sources};
pub use trace::Trace;

/// The adapter's name in a ledger.
pub const ADAPTER: &str = "bareos-fd";
/// The program that runs plugins.
pub const WORKER_PROGRAM: &str = "backstay-python";
/// The variable that names it, where it is not beside `backstay` or in PATH.
pub const WORKER_VARIABLE: &str = "BACKSTAY_PYTHON_WORKER";
