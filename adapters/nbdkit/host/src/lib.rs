//! nbdkit's command line and the life of its server process (reference 1, 2, 9), without Python: every front program reads
//! the same options.
//!
//! * [`serve`] is the whole life of the process; [`options`] the option table, [`parameters`] what follows the plugin's name,
//!   [`numbers`] how numbers are spelled, [`log`] where messages go, [`answers`] what is printed instead of serving.
//! * [`plugin`] and [`filter`] are its two ports. [`plugins`] and [`filters`] are those of our own.
//! * [`sockets`], [`activation`], [`identity`], [`captive`], [`uri`], [`tls`]: where the server listens, as whom, beside what, and what it
//!   encrypts with;
//!   `standard` what becomes of the standard streams, [`process`] what the system does for it; [`control`] what plugins ask of it.

pub mod activation;
pub mod answers;
pub mod captive;
pub mod control;
pub mod filter;
pub mod filters;
pub mod identity;
pub mod log;
pub mod numbers;
pub mod options;
pub mod parameters;
pub mod plugin;
pub mod plugins;
pub mod process;
pub mod serve;
pub mod sockets;
mod standard;
pub mod tls;
pub mod uri;

pub use options::Options;
pub use serve::run;
