//! Where repository objects live: one port ([`backstay_core::Store`]), many places. [`open`] makes a store of an address;
//! every store passes the behaviour suite in [`testing`].
//!
//! ```text
//! open ─▶ address ─▶ local │ s3 gcs azure swift webdav (object_store over opendal) │ sftp │ rest │ gpbackup (handed in)
//!            dressed in: limit (bandwidth) ◁ retry (patience) ◁ append_only
//! ```
//!
//! [`named`] is for those who keep whole files under names of their own, not repositories.
//!
//! `trouble.rs` is the one table of what goes wrong and whether it passes.

pub mod address;
pub mod append_only;
#[cfg(feature = "azure")]
mod azure;
pub mod clock;
#[cfg(any(test, feature = "testing"))]
pub mod distant;
pub mod environment;
#[cfg(any(test, feature = "testing"))]
pub mod faults;
#[cfg(feature = "gcs")]
mod gcs;
#[cfg(feature = "opendal")]
mod keystone;
mod layout;
pub mod limit;
pub mod local;
#[cfg(any(test, feature = "testing"))]
pub mod memory;
#[cfg(feature = "opendal")]
pub mod named;
#[cfg(feature = "opendal")]
mod object_store;
mod open;
mod options;
pub mod rest;
pub mod retry;
#[cfg(feature = "opendal")]
mod runtime;
#[cfg(feature = "s3")]
mod s3;
mod secret;
#[cfg(feature = "sftp")]
mod sftp;
#[cfg(feature = "swift")]
mod swift;
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used)]
pub mod testing;
#[cfg(feature = "opendal")]
mod transport;
pub mod trouble;
#[cfg(feature = "webdav")]
mod webdav;
pub mod words;

pub use local::LocalStore;
#[cfg(any(test, feature = "testing"))]
pub use memory::MemoryStore;
#[cfg(feature = "opendal")]
pub use object_store::ForeignObjects;
#[cfg(feature = "s3")]
pub use open::open_foreign;
pub use open::{OpenError, open, open_at};
pub use options::{Cancelled, Notice, Opener, Settings, StoreOptions};
pub use rest::{RestOptions, RestStore};
pub use secret::Secret;
