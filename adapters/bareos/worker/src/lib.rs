//! Bareos plugins, the side that runs Python: for file-daemon plugins the `bareosfd` module and the contract's state machine.
//!
//! The engine's half is `backstay-bareos-host`; between the two lies `backstay-bareos-protocol`. Section numbers in this
//! crate are those of the reference of the Bareos Python plugin API.
//!
//! * [`definition`] takes plugin definitions apart; `script` finds, loads and calls the plugin's module.
//! * [`context`] is the job as plugin code sees it; `module` and `packets` are what `import bareosfd` gives.
//! * `backup` and `restore` are the calling sequences, `offers` that of an option plugin; `changes` tells what changed since an
//!   earlier job; `calls` the packets both use; `create` makes what the plugin leaves to the core; `trace` writes down what
//!   was called.
//! * `hook` is all of that for the plugins of the two other daemons.
//! * `link` is the host's side of the conversation and the cancel; [`serve`] puts it all together.

mod arguments;
mod backup;
mod calls;
mod changes;
pub mod constants;
pub mod context;
mod create;
pub mod definition;
pub mod hook;
mod link;
mod module;
mod names;
mod offers;
mod packets;
mod restore;
mod script;
mod serve;
mod trace;

pub use serve::{ServeError, describe, register_module, serve};
