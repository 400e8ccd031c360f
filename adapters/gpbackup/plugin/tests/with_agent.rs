//! The conformance checklist, with an agent that does the work.
#![allow(clippy::unwrap_used)]

mod lines;

const AGENT: bool = true;
