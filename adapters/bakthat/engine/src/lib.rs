//! bakthat's engine: what the Python package `bakthat` leaves to Rust. No Python here; `../extension` is the glue.
//!
//! * `archive`: a folder as a tar in gzip, and back, never outside the folder that it is unpacked in,
//! * `gzip`: one gzip stream by several threads,
//! * `tar`: the GNU format as Python's tarfile writes it,
//! * `excludes`: which names a pattern file leaves out,
//! * `container`: files under a password: the original's Blowfish, and `age`,
//! * `objects`: whole files as objects of a bucket, a container or a folder,
//! * `vault`: a vault of Glacier,
//! * `repository`: a Backstay repository as a destination,
//! * `notices`: what people are told while a store makes them wait,
//! * `names`, `rotation`: what stored names, intervals and sizes mean; which backups a rotation keeps,
//! * `source`, `restored`: from a file or folder to its object, and back,
//! * `web`, `sync_server`: rows that machines exchange.
//!
//! Every long call takes a [`Control`]: another thread may watch how far it is, and end it. What is written to a file is
//! there whole or not at all ([`output`]).

#![cfg_attr(not(feature = "destinations"), allow(dead_code))]

pub mod age;
pub mod archive;
pub mod container;
pub mod control;
pub mod error;
pub mod excludes;
pub mod gzip;
pub mod names;
#[cfg(feature = "destinations")]
pub mod notices;
#[cfg(feature = "destinations")]
pub mod objects;
pub mod output;
#[cfg(feature = "destinations")]
pub mod repository;
pub mod restored;
pub mod rotation;
pub mod source;
#[cfg(feature = "sync")]
pub mod sync_server;
mod tar;
#[cfg(feature = "destinations")]
mod tar_source;
mod unpack;
#[cfg(feature = "destinations")]
pub mod vault;
mod walk;
#[cfg(feature = "sync")]
pub mod web;

pub use control::Control;
pub use error::{Error, Result};
