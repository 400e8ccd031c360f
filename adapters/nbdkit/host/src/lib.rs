//! nbdkit's command line and the life of its server process (reference 1, 2, 9), without Python: every front program reads
//! the same options.
//!
//! * [`options`] is the option table, [`parameters`] what follows the plugin's name, [`numbers`] how numbers are spelled.

pub mod numbers;
pub mod options;
pub mod parameters;

pub use options::Options;
