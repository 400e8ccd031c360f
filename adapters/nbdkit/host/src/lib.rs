//! nbdkit's command line and the life of its server process (reference 1, 2, 9), without Python: every front program reads
//! the same options.
//!
//! * [`options`] is the option table, [`parameters`] what follows the plugin's name, [`numbers`] how numbers are spelled, [`log`]
//!   where messages go, [`answers`] what is printed instead of serving.
//! * [`sockets`], [`activation`], [`identity`], [`captive`], [`uri`]: where the server listens, as whom, and beside what.

pub mod activation;
pub mod answers;
pub mod captive;
pub mod identity;
pub mod log;
pub mod numbers;
pub mod options;
pub mod parameters;
pub mod sockets;
pub mod uri;

pub use options::Options;
