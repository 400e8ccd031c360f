//! Where repository objects live. Every store passes the behaviour suite in [`testing`].

#[cfg(any(test, feature = "testing"))]
pub mod distant;
#[cfg(any(test, feature = "testing"))]
pub mod faults;
pub mod local;
#[cfg(any(test, feature = "testing"))]
pub mod memory;
pub mod rest;
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used)]
pub mod testing;

pub use local::LocalStore;
#[cfg(any(test, feature = "testing"))]
pub use memory::MemoryStore;
pub use rest::{RestOptions, RestStore};
