//! How the engine talks to a plugin worker: a process of its own that runs foreign code and may do anything.
//!
//! * [`channel`] carries control frames over a Unix socket pair, with descriptors beside them.
//! * [`ring`] carries bulk data through shared memory.
//! * [`handed`] passes bytes over once, to be looked up where they lie.
//! * [`supervisor`] starts the worker, watches it, and clears away everything that it left behind.
//! * [`inherited`] is the other side: how a worker picks up what it was started with.
//! * [`confine`] is what a worker may do: memory, user, sandbox.
//!
//! The frames themselves belong to the contracts (`adapters/*/protocol`); this crate knows none of them.

pub mod channel;
pub mod confine;
pub mod handed;
pub mod inherited;
pub mod ring;
pub mod supervisor;
pub mod user;

pub use channel::{Channel, MAX_FRAME, Received, Receiver, Sender};
pub use confine::{ConfineError, Confinement, LEAST_MEMORY, Sandbox};
pub use handed::Handed;
pub use inherited::{Inherited, inherited};
pub use ring::{RingError, RingReader, RingWriter};
pub use supervisor::{Exit, Output, Peer, SpawnError, Stream, Waited, Worker};
pub use user::{PluginUser, UserError};

/// Descriptor number of the control socket in a worker.
pub const CONTROL_FD: i32 = 3;
/// Descriptor number of the ring that a worker writes (backup data).
pub const BACKUP_RING_FD: i32 = 4;
/// Descriptor number of the ring that the host writes (restore data).
pub const RESTORE_RING_FD: i32 = 5;
