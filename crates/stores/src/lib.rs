//! Where repository objects live. Every store passes the behaviour suite in [`testing`].

pub mod local;
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used)]
pub mod testing;

pub use local::LocalStore;
