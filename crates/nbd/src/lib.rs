//! The NBD protocol: a codec and a handshake without input or output, a server for any [`Disk`](backstay_core::Disk), and a
//! client.
//!
//! Where this crate speaks of a *reference*, it is the one of the nbdkit Python plugin contract, whose server this is.

pub mod client;
pub mod codec;
pub mod emulation;
pub mod guarded;
pub mod handshake;
pub mod listen;
pub mod memory;
pub mod server;
pub mod tls;
