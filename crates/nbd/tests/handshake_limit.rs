//! Clients that take too long from the greeting to transmission.
#![allow(clippy::unwrap_used)]

#[path = "common/authority.rs"]
mod authority;
mod common;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use authority::Authority;
use backstay_core::ThreadModel;
use backstay_nbd::codec::option::{OptionHeader, OptionKind, ReplyKind};
use backstay_nbd::handshake::{Encryption, Terms};
use backstay_nbd::memory::MemoryDisk;
use backstay_nbd::server::{Server, Settings, Stream};
use backstay_nbd::tls::ServerCredentials;
use common::{Peer, Probe, Running};

const LIMIT: Duration = Duration::from_secs(1);

fn limited(settings: Settings) -> Running {
    let disk = Arc::new(MemoryDisk::new(1 << 20, ThreadModel::SerializeConnections));
    Running::with(disk, Settings { handshake_limit: Some(LIMIT), ..settings })
}

#[test]
fn silent_and_slow_clients_are_disconnected_and_others_served() {
    let server = limited(Settings::default());
    // In this thread model nobody is greeted before the one that came first is gone.
    let mut silent = server.connect();
    assert_eq!(silent.receive(18).len(), 18);
    let waiting = server.connect();
    assert!(silent.is_closed());
    assert!(waiting.greet(3).is_closed());
    // One that never pauses for long, and never says a whole word.
    let mut slow = server.connect().greet(3);
    slow.send(&OptionHeader { kind: OptionKind::Other(99), length: 1 << 20 }.encode());
    while slow.stream.write_all(&[0]).is_ok() {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(server.connect().ready().read(0, 4), [0; 4]);
}

#[test]
fn a_client_in_transmission_may_take_its_time() {
    let server = limited(Settings::default());
    let mut peer = server.connect().ready();
    std::thread::sleep(LIMIT * 2);
    assert_eq!(peer.read(0, 4), [0; 4]);
}

#[test]
fn a_disk_that_takes_too_long_to_open_is_opened_for_nobody() {
    let probe = Probe::acting(ThreadModel::Parallel, |call, _| {
        if call.starts_with("open") {
            std::thread::sleep(LIMIT * 2);
        }
        Ok(())
    });
    let settings = Settings { handshake_limit: Some(LIMIT), ..Settings::default() };
    let server = Running::with(Arc::new(probe.clone()), settings);
    let mut peer = server.connect().greet(3);
    peer.option(OptionKind::ExportName, b"");
    assert!(peer.is_closed());
    server.end();
    assert_eq!(probe.calls().last().unwrap(), "close");
}

#[test]
fn the_limit_holds_for_encryption_too() {
    let authority = Authority::new();
    let server = limited(Settings {
        terms: Terms { encryption: Encryption::Required, ..Terms::default() },
        credentials: Some(ServerCredentials::certificates(&authority.server(), false).unwrap()),
        ..Settings::default()
    });
    for begun in [&b""[..], &[0x16, 3, 1, 2, 0, 1]] {
        let mut peer = server.connect().greet(3);
        assert_eq!(peer.ask(OptionKind::StartTls, b""), ReplyKind::Ack);
        peer.send(begun);
        assert!(peer.is_closed());
    }
}

#[test]
fn the_limit_holds_for_pipes_too() {
    let (here, there) = UnixStream::pair().unwrap();
    let settings = Settings { handshake_limit: Some(LIMIT), ..Settings::default() };
    let server = Server::new(Arc::new(MemoryDisk::new(1 << 20, ThreadModel::Parallel)), settings).unwrap();
    let stream = Stream::pair(OwnedFd::from(there.try_clone().unwrap()), OwnedFd::from(there)).unwrap();
    let thread = std::thread::spawn(move || server.serve_stream(stream));
    let _silent = Peer::new(here).greet(3);
    thread.join().unwrap();
}
