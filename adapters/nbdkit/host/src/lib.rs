//! nbdkit's command line and the life of its server process (reference 1, 2, 9), without Python: every front program reads
//! the same options.
//!
//! * [`serve`] is the whole life of the process; [`options`] the option table, [`parameters`] what follows the plugin's name,
//!   [`numbers`] how numbers are spelled, [`log`] where messages go, [`answers`] what is printed instead of serving.
//! * [`plugin`] and [`filter`] are its two ports. [`plugins`] and [`filters`] are those of our own; `layer` and `scratch` what
//!   filters have in common, `values` how both read their parameters.
//! * [`sockets`], [`activation`], [`identity`], [`captive`], [`uri`], [`tls`]: where the server listens, as whom, beside what, and
//!   what it encrypts with; `standard` what becomes of the standard streams, [`process`] what the system does for it; [`control`]
//!   what plugins ask of it.

pub mod activation;
pub mod answers;
mod buffers;
pub mod captive;
pub mod control;
pub mod filter;
pub mod filters;
pub mod identity;
mod layer;
pub mod log;
pub mod numbers;
pub mod options;
pub mod parameters;
pub mod plugin;
pub mod plugins;
pub mod process;
mod scratch;
pub mod serve;
pub mod sockets;
mod standard;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod uri;
mod values;

pub use options::Options;
pub use serve::run;
