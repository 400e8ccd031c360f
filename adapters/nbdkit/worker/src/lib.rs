//! nbdkit Python scripts, unmodified: the module `nbdkit` and the callbacks of a script as a [`backstay_core::Disk`].
//!
//! Section numbers in this crate are those of the reference of nbdkit's Python plugin API.
//!
//! * [`context`] is what a callback runs for: its connection and what it gave to `set_error`; `module` is what `import nbdkit`
//!   gives; `password` reads passwords.
//! * [`script`] loads a script and calls its functions; [`disk`] makes a disk of them; [`extents`] are the rules for what
//!   `extents` returns.
//! * [`plugin`] is a script in the life of its server process, which `backstay-nbdkit-host` lives.

pub mod constants;
pub mod context;
pub mod disk;
pub mod extents;
mod module;
mod password;
pub mod plugin;
pub mod script;

pub use disk::ScriptDisk;
pub use module::register_module;
pub use plugin::Python;
pub use script::Script;
