//! Reading what restic wrote: restore, check, listings and random access, against repositories that the real restic made.

#![allow(clippy::unwrap_used, missing_docs)]

mod check;
mod fixture;
mod listings;
mod restore;
