//! What deletes and replaces objects, from outside: nothing that a snapshot needs is ever lost.
#![allow(clippy::unwrap_used)] // the lint's own exception for tests leaves out their helpers

mod parts;
mod prune;
mod support;
