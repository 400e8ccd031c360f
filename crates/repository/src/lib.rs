//! The restic-format repository: writing, reading, restoring, checking.
//!
//! Every repository that is written here is one that restic verifies and restores; what restic and rustic wrote is
//! read. Imports: core only; the store is whatever implements `backstay_core::Store`.

pub mod archive;
pub mod assemble;
pub mod check;
pub mod chunker;
pub mod config;
pub mod container;
pub mod crypto;
pub mod diff;
pub mod error;
pub mod find;
pub mod gotext;
pub mod index;
pub mod index_cache;
pub mod keyfile;
pub mod lock;
pub mod maintenance;
pub mod open_file;
pub mod pack;
pub mod pattern;
mod probe;
pub mod reader;
pub mod repository;
pub mod restore;
pub mod snapshot;
pub mod stats;
pub mod stream;
pub mod tree;
pub mod walk;
pub mod writer;

pub use assemble::Assembler;
pub use error::Error;
pub use index::{Index, Location};
pub use index_cache::IndexCache;
pub use lock::Lock;
pub use open_file::OpenFile;
pub use pack::{BlobKind, PackBlob};
pub use reader::Reader;
pub use repository::{InitOptions, OpenOptions, Repository};
pub use snapshot::{Snapshot, SnapshotFilter, SnapshotTime, Summary};
pub use tree::{Node, Tree};
pub use writer::{Compression, WriteOptions, WriteStats, Writer};
