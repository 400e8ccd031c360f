//! Storage-daemon and director plugins (reference 7): event listeners. They read values of the job, write messages, and
//! see no file data.
//!
//! `constants` and `module` are what `import bareossd` and `import bareosdir` give; `context` is the job as they see it;
//! `script` loads and calls the plugin's module; [`serve`] answers the host, one event at a time. One process serves one
//! instance for a job.

mod constants;
mod context;
mod module;
mod script;
mod serve;

pub use backstay_bareos_protocol::hooks::Daemon;
pub use module::register_modules;
pub use serve::serve;
