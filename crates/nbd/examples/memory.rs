//! Serves a memory disk: `memory SOCKET BYTES MODEL`, to try clients and to measure.
#![allow(clippy::print_stderr)]

use std::path::Path;
use std::sync::Arc;

use backstay_core::ThreadModel;
use backstay_nbd::listen;
use backstay_nbd::memory::MemoryDisk;
use backstay_nbd::server::{Server, Settings};

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, bytes, model] = &arguments[..] else { return Err(wrong("SOCKET BYTES MODEL")) };
    let size = bytes.parse().map_err(|_| wrong("a number of bytes"))?;
    let model = match &model[..] {
        "0" => ThreadModel::SerializeConnections,
        "1" => ThreadModel::SerializeAllRequests,
        "2" => ThreadModel::SerializeRequests,
        "3" => ThreadModel::Parallel,
        _ => return Err(wrong("0, 1, 2 or 3")),
    };
    let log = Arc::new(|level, connection: u64, text: &str| eprintln!("{level:?} {connection}: {text}"));
    let server = Server::new(Arc::new(MemoryDisk::new(size, model)), Settings { log, ..Settings::default() })?;
    server.serve(&[listen::unix(Path::new(socket))?])
}

fn wrong(text: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidInput, format!("needs {text}"))
}
