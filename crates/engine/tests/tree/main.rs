//! The file tree source on real trees: what lands in the repository, and what is said about the rest.

#![allow(clippy::unwrap_used)]

mod excludes;
mod kinds;
mod limits;
mod parents;
mod support;
mod verdicts;
