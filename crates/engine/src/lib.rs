//! A job from its sources to a snapshot and back.
//!
//! A source meets the engine at the port `Source` and pushes; file trees, which work in parallel, have a door of their own
//! in [`tree`]. What comes out is a snapshot and a verdict that is never better than the truth. May use: core,
//! repository.

pub mod backup;
pub mod estimate;
pub mod excludes;
pub mod filesystem;
pub mod hooks;
mod ingest;
pub mod job;
pub mod ledger;
pub mod ledgers;
mod offers;
mod reference;
pub mod restore_through;
pub mod stream_source;
pub mod tree;
