//! The words of the domain and the ports through which everything outside meets the engine.
//!
//! No input or output happens here, and nothing here imports another crate of the project.

pub mod disk;
pub mod entry;
pub mod hook;
pub mod id;
pub mod job;
pub mod sink;
pub mod source;
pub mod store;
pub mod told;
pub mod verdict;

pub use disk::{
    BlockSize, Certificate, Client, Connection, Disk, DiskError, DiskInfo, Export, Extent, OpenDisk, OpenError, Peer,
    ReadBytes, RequestFlags, ServerControl, Support, ThreadModel,
};
pub use entry::{Attr, Entry, FileKind, Stat, Time};
pub use hook::{Answer, Event, Hook, JobFacts, JobKind, JobStatus};
pub use id::Id;
pub use job::{CancelReason, Job, MessageLevel};
pub use sink::{Create, Settled, Sink};
pub use source::{
    Data, DataError, Declined, End, Fatal, Ingest, Level, Offer, SavedJob, SideObject, Source, SourceInfo, Start, Stop,
    Want,
};
pub use store::{ObjectKind, Retry, Store, StoreError, StoreErrorKind};
pub use verdict::{EntryError, Outcome, Tally, Verdict};
