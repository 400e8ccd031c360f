//! nbdkit Python scripts through the whole program: the conformance checklist of the contract (reference 15), item by item,
//! and real clients.
#![allow(clippy::unwrap_used)] // also in helpers

#[path = "../../nbd/tests/common/authority.rs"]
mod authority;
#[path = "nbdkit/client.rs"]
mod client;
#[path = "nbdkit/data.rs"]
mod data;
#[path = "nbdkit/handle.rs"]
mod handle;
#[path = "nbdkit/listening.rs"]
mod listening;
#[path = "nbdkit/loading.rs"]
mod loading;
#[path = "nbdkit/process.rs"]
mod process;
#[path = "nbdkit/protocol.rs"]
mod protocol;
#[path = "nbdkit/real_clients.rs"]
mod real_clients;
#[path = "nbdkit/server.rs"]
mod server;
#[path = "nbdkit/threads.rs"]
mod threads;
#[path = "nbdkit/tls.rs"]
mod tls;

/// The least that a script of version 1 needs.
const LEAST: &str =
    "def open(readonly): return 1\ndef get_size(h): return 1 << 20\ndef pread(h, c, o): return bytes(c)\n";

/// A disk in memory, version 2, that writes down what is called.
const MEMORY: &str = "\
import nbdkit, errno
API_VERSION = 2
data = bytearray(1 << 20)
seen = []
def open(readonly): return 1
def get_size(h): return len(data)
def pread(h, buf, offset, flags): buf[:] = data[offset:offset + len(buf)]
def pwrite(h, buf, offset, flags):
    seen.append('pwrite %d %d %d' % (len(buf), offset, flags))
    data[offset:offset + len(buf)] = buf
";
