//! A repository as a file system: the files of its snapshots without a restore, read only.
//!
//! [`layout`] says which folders there are above the snapshots, [`view`] answers what a file system is asked (look-up,
//! attributes, listing, reading) and needs no kernel, [`fuse`] hands the kernel's requests to it. Imports: core and
//! repository.

pub mod folders;
pub mod fuse;
pub mod layout;
pub mod time_template;
pub mod view;

pub use fuse::{MountError, MountOptions, Mounted};
pub use layout::{Layout, LayoutError};
pub use view::{View, ViewError, ViewOptions};
