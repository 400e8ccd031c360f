//! Several writers at work on one repository in an order that a seed chooses, with faults and kills at any call of the store.

pub mod bugs;
pub mod client;
pub mod host;
pub mod model;
pub mod operations;
pub mod random;
pub mod world;

pub use bugs::Bug;
pub use world::{Failure, Options, Report, run};
