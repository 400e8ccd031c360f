//! The conformance checklist, where every command does its own work.
#![allow(clippy::unwrap_used)]

mod lines;

const AGENT: bool = false;
