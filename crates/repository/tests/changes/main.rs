//! Changes to repositories in memory: what they do, and what is left when they are killed at any call.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

mod copy;
mod keys;
mod merge;
mod repair;
mod rewrite;
mod tag;
