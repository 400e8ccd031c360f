//! The client: against our own server under every thread model, and against Debian's nbdkit.
#![allow(clippy::unwrap_used)]

#[path = "common/authority.rs"]
mod authority;
mod common;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command as Program};
use std::sync::Arc;

use authority::{Authority, USER};
use backstay_core::{BlockSize, Client, Disk, DiskError, OpenDisk, RequestFlags, ThreadModel};
use backstay_nbd::client::{ClientError, Connection, NbdDisk, Place, Target, Wanted, list};
use backstay_nbd::codec::error::NbdError;
use backstay_nbd::codec::option::ReplyKind;
use backstay_nbd::codec::reply::TransmissionFlags as Can;
use backstay_nbd::codec::request::{Command, Flags};
use backstay_nbd::handshake::{Encryption, Style, Terms};
use backstay_nbd::memory::MemoryDisk;
use backstay_nbd::server::{Server, Settings, Stream};
use backstay_nbd::tls::{ClientCredentials, ServerCredentials};
use common::{Probe, Running, run};

const MODELS: [ThreadModel; 4] = [
    ThreadModel::SerializeConnections,
    ThreadModel::SerializeAllRequests,
    ThreadModel::SerializeRequests,
    ThreadModel::Parallel,
];
const NONE: Flags = Flags(0);
const SIZE: usize = 16 << 20;

fn memory(model: ThreadModel) -> Arc<dyn Disk> {
    Arc::new(MemoryDisk::new(SIZE as u64, model))
}

fn target(server: &Running) -> Target {
    Target::new(Place::Unix(server.socket()))
}

fn connect(server: &Running) -> Connection {
    Connection::open(&target(server)).unwrap()
}

fn open(target: Target) -> Box<dyn OpenDisk> {
    NbdDisk::new(target).open(b"", &Client::default()).unwrap_or_else(|error| panic!("{error:?}"))
}

fn read(connection: &Connection, offset: u64, count: u32) -> Vec<u8> {
    connection.send(Command::Read, NONE, offset, count, &[]).unwrap().wait().unwrap().data
}

fn write(connection: &Connection, offset: u64, data: &[u8]) {
    connection.send(Command::Write, NONE, offset, data.len() as u32, data).unwrap().wait().unwrap();
}

fn failure(result: Result<impl Sized, ClientError>) -> NbdError {
    match result.err().unwrap() {
        ClientError::Failed(failure) => failure.error,
        other => panic!("{other}"),
    }
}

/// Bytes that say where they stand.
fn pattern(offset: u64, length: usize) -> Vec<u8> {
    (offset..offset + length as u64)
        .map(|at| ((at / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (at % 8 * 8)) as u8)
        .collect()
}

/// Many threads, each with many requests in flight, large and small, both ways, on parts of the disk of their own.
fn exercise(connection: &Connection) {
    const EACH: u64 = SIZE as u64 / 8;
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                let start = thread * EACH;
                let lengths = [1_usize, 512, 4096, 100_000, 700_001];
                let mut at = start;
                let mut sent = Vec::new();
                for length in lengths.iter().cycle() {
                    let length = (*length).min((start + EACH - at) as usize);
                    if length == 0 {
                        break;
                    }
                    let data = pattern(at, length);
                    sent.push(connection.send(Command::Write, NONE, at, length as u32, &data).unwrap());
                    at += length as u64;
                }
                sent.into_iter().for_each(|sent| drop(sent.wait().unwrap()));
                let places: Vec<_> =
                    (0..60).map(|turn| (start + turn * 4099, 1 + (turn as u32 * 7919) % 300_000)).collect();
                let asked: Vec<_> = places
                    .iter()
                    .map(|(at, count)| connection.send(Command::Read, NONE, *at, *count, &[]).unwrap())
                    .collect();
                for ((at, count), asked) in places.into_iter().zip(asked) {
                    assert!(asked.wait().unwrap().data == pattern(at, count as usize), "{at} {count}");
                }
            });
        }
    });
}

#[test]
fn many_threads_share_a_connection_under_every_model_with_and_without_structured_replies() {
    for model in MODELS {
        for structured_replies in [true, false] {
            let server = Running::new(memory(model));
            let wanted = Wanted { structured_replies, ..Wanted::default() };
            let connection = Connection::open(&Target { wanted, ..target(&server) }).unwrap();
            assert_eq!(connection.remote().structured_replies, structured_replies);
            assert_eq!(connection.remote().size, SIZE as u64);
            exercise(&connection);
        }
    }
}

#[test]
fn a_socket_that_is_handed_in_is_used() {
    let (here, there) = UnixStream::pair().unwrap();
    let server = Server::new(memory(ThreadModel::Parallel), Settings::default()).unwrap();
    let thread = std::thread::spawn(move || server.serve_stream(Stream::socket(OwnedFd::from(there)).unwrap()));
    let connection = Connection::over(here.into(), b"", &Wanted::default()).unwrap();
    write(&connection, 5, b"words");
    assert_eq!(read(&connection, 4, 7), b"\0words\0");
    drop(connection);
    thread.join().unwrap();
}

#[test]
fn every_command_arrives_with_its_flags() {
    let mut probe = Probe::new(ThreadModel::Parallel);
    probe.info = {
        let disk = MemoryDisk::new(1 << 20, ThreadModel::Parallel);
        disk.open(b"", &Client::default()).unwrap_or_else(|error| panic!("{error:?}")).info().clone()
    };
    probe.block_size = Ok(Some(BlockSize { minimum: 1, preferred: 4096, maximum: 65536 }));
    probe.extents = vec![backstay_core::Extent { offset: 0, length: 1 << 20, hole: true, zero: true }];
    let server = Running::new(Arc::new(probe.clone()));
    let disk = open(target(&server));
    assert_eq!(*disk.info(), probe.info);
    assert_eq!(disk.block_size(), probe.block_size);
    let flags = |fua, may_trim, fast_zero, one| RequestFlags { fua, may_trim, fast_zero, one };
    let none = RequestFlags::default();
    disk.write(8, &[1; 100_000], flags(true, false, false, false)).unwrap();
    disk.flush().unwrap();
    disk.trim(16, 3, flags(true, false, false, false)).unwrap();
    disk.zero(24, 200_000, flags(false, true, true, false)).unwrap();
    disk.zero(24, 3, none).unwrap();
    disk.cache(32, 3).unwrap();
    assert_eq!(disk.extents(0, 512, flags(false, false, false, true)).unwrap().len(), 1);
    assert_eq!(disk.read(3, 150_000).unwrap().as_ref().as_ref().len(), 150_000);
    let mut calls = probe.calls();
    calls.retain(|call| !["preconnect", "default_export", "open resolved", "close"].contains(&&call[..]));
    calls[..2].sort();
    let reads = calls.split_off(calls.len() - 3);
    assert_eq!(
        calls,
        [
            "write 65544 34464 fua",
            "write 8 65536 fua",
            "flush",
            "trim 16 3 fua",
            "zero 24 200000 may_trim fast",
            "zero 24 3",
            "cache 32 3",
            "extents 0 512 one",
        ]
    );
    assert!(reads.contains(&"read 131075 18928".to_owned()), "{reads:?}");
}

#[test]
fn errors_are_those_of_the_server() {
    let probe = Probe::acting(ThreadModel::Parallel, |call, _| match call {
        "read 0 4" => Err(libc::EIO),
        "write 0 4" => Err(libc::ENOSPC),
        "open missing" => Err(1),
        _ => Ok(()),
    });
    let server = Running::new(Arc::new(probe));
    let connection = connect(&server);
    assert_eq!(failure(connection.send(Command::Read, NONE, 0, 4, &[]).unwrap().wait()), NbdError::Io);
    assert_eq!(failure(connection.send(Command::Write, NONE, 0, 4, b"data").unwrap().wait()), NbdError::Space);
    assert_eq!(failure(connection.send(Command::Read, NONE, 1 << 40, 4, &[]).unwrap().wait()), NbdError::Invalid);
    assert_eq!(read(&connection, 8, 8), 1_u64.to_le_bytes());
    assert!(connection.send(Command::BlockStatus, NONE, 0, 4, &[]).is_ok());
    assert!(connection.send(Command::Write, NONE, 0, 4, b"dat").is_err());
    assert!(connection.send(Command::Read, NONE, 0, u32::MAX, &[]).is_err());
    let missing = Target { export: b"missing".to_vec(), ..target(&server) };
    let error = Connection::open(&missing).unwrap_err();
    assert!(matches!(error, ClientError::Refused { reply: Some(ReplyKind::ErrUnknown), .. }), "{error}");
    assert!(error.to_string().contains("missing"), "{error}");
    let disk = open(target(&server));
    assert_eq!(disk.read(0, 4).err(), Some(DiskError(libc::EIO)));
    assert_eq!(disk.write(0, b"data", RequestFlags::default()), Err(DiskError(libc::ENOSPC)));
}

#[test]
fn every_style_of_server_is_understood() {
    let terms = Terms::default();
    for terms in [
        terms,
        Terms { style: Style::Oldstyle, ..terms },
        Terms { mask: 0, ..terms },
        Terms { mask: 1, ..terms },
        Terms { mask: 2, ..terms },
        Terms { structured_replies: false, ..terms },
        Terms { meta_contexts: false, ..terms },
    ] {
        let server = Running::with(memory(ThreadModel::Parallel), Settings { terms, ..Settings::default() });
        let connection = connect(&server);
        let fixed = terms.style == Style::Newstyle && terms.mask & 1 != 0;
        assert_eq!(connection.remote().structured_replies, fixed && terms.structured_replies, "{terms:?}");
        let allocation = fixed && terms.structured_replies && terms.meta_contexts;
        assert_eq!(connection.remote().allocation.is_some(), allocation, "{terms:?}");
        assert_eq!(connection.remote().size, SIZE as u64);
        assert!(connection.remote().flags.has(Can::SEND_TRIM));
        write(&connection, 5, b"words");
        assert_eq!(read(&connection, 4, 7), b"\0words\0");
    }
}

#[test]
fn exports_are_listed() {
    let server = Running::new(Arc::new(Probe::new(ThreadModel::Parallel)));
    let exports = list(&target(&server)).unwrap();
    assert_eq!(exports.len(), 2);
    assert_eq!((&exports[1].name[..], exports[1].description.as_deref()), (&b"other"[..], Some(&b"words"[..])));
    assert_eq!(NbdDisk::new(target(&server)).exports(&Client::default()).unwrap(), exports);
    let terms = Terms { style: Style::Oldstyle, ..Terms::default() };
    let old = Running::with(memory(ThreadModel::Parallel), Settings { terms, ..Settings::default() });
    assert!(list(&target(&old)).unwrap_err().to_string().contains("a list of exports"));
}

fn encrypted(credentials: ServerCredentials) -> Running {
    let terms = Terms { encryption: Encryption::Required, ..Terms::default() };
    let settings = Settings { terms, credentials: Some(credentials), ..Settings::default() };
    Running::with(memory(ThreadModel::Parallel), settings)
}

fn wanted(credentials: ClientCredentials, host: Option<&str>) -> Wanted {
    Wanted { tls: Some(credentials), host: host.map(str::to_owned), ..Wanted::default() }
}

#[test]
fn encrypted_connections_carry_many_requests_both_ways() {
    let authority = Authority::new();
    let verified = encrypted(ServerCredentials::certificates(&authority.server(), true).unwrap());
    let credentials = ClientCredentials::certificates(Some(&authority.path("client"))).unwrap();
    for host in ["localhost", "127.0.0.1"] {
        let wanted = wanted(credentials.clone(), Some(host));
        exercise(&Connection::open(&Target { wanted, ..target(&verified) }).unwrap());
    }
    let keys = encrypted(ServerCredentials::keys(&authority.keys()).unwrap());
    let credentials = ClientCredentials::keys(&authority.keys(), Some(USER)).unwrap();
    let connection = Connection::open(&Target { wanted: wanted(credentials, None), ..target(&keys) }).unwrap();
    assert!(connection.remote().tls);
    exercise(&connection);
}

#[test]
fn servers_that_cannot_prove_who_they_are_are_refused() {
    let authority = Authority::new();
    let trusting = ClientCredentials::certificates(Some(&authority.path("nobody"))).unwrap();
    let result = |server: &Running, wanted: Wanted| Connection::open(&Target { wanted, ..target(server) }).map(drop);
    let server = encrypted(ServerCredentials::certificates(&authority.server(), false).unwrap());
    assert!(result(&server, wanted(trusting.clone(), None)).is_ok());
    let error = result(&server, wanted(trusting.clone(), Some("elsewhere"))).unwrap_err();
    assert!(matches!(error, ClientError::Encryption(_)) && error.to_string().contains("mismatch"), "{error}");
    assert!(result(&server, wanted(trusting.clone(), Some("127.0.0.2"))).is_err());
    let impostor = encrypted(ServerCredentials::certificates(&authority.path("impostor"), false).unwrap());
    assert!(result(&impostor, wanted(trusting.clone(), None)).is_err());
    // One that has a certificate, but not the key that was asked for.
    let keys = ClientCredentials::keys(&authority.keys(), Some(USER)).unwrap();
    assert!(result(&server, wanted(keys, None)).is_err());
    // One that does not encrypt, and a client that does not.
    let plain = Running::new(memory(ThreadModel::Parallel));
    let error = result(&plain, wanted(trusting, None)).unwrap_err();
    assert!(matches!(error, ClientError::Refused { reply: Some(ReplyKind::ErrPolicy), .. }), "{error}");
    let error = result(&server, Wanted::default()).unwrap_err();
    assert!(error.to_string().contains("requires encryption"), "{error}");
}

#[test]
fn keys_need_a_user_that_is_in_the_file() {
    let authority = Authority::new();
    let error = |user| ClientCredentials::keys(&authority.keys(), user).unwrap_err().to_string();
    assert!(error(Some("eve")).contains("eve"));
    assert!(error(None).contains("several users"));
    let only = authority.path("only");
    std::fs::write(&only, "alice:00\n").unwrap();
    assert!(ClientCredentials::keys(&only, None).is_ok());
}

#[test]
fn addresses_lead_to_servers() {
    let authority = Authority::new();
    let words = |uri: &str| {
        let connection =
            Connection::open(&Target::parse(uri).unwrap()).unwrap_or_else(|error| panic!("{uri}: {error}"));
        write(&connection, 5, b"words");
        read(&connection, 5, 5) == b"words"
    };
    let server = Running::new(memory(ThreadModel::Parallel));
    assert!(words(&server.uri()));
    let server = encrypted(ServerCredentials::keys(&authority.keys()).unwrap());
    let keys = authority.keys();
    assert!(words(&format!(
        "nbds+unix://{USER}@/?socket={}&tls-psk-file={}",
        server.socket().display(),
        keys.display()
    )));
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let terms = Terms { encryption: Encryption::Offered, ..Terms::default() };
    let credentials = Some(ServerCredentials::certificates(&authority.server(), false).unwrap());
    let settings = Settings { terms, credentials, ..Settings::default() };
    let server = Server::new(memory(ThreadModel::Parallel), settings).unwrap();
    let handle = server.handle();
    let thread = std::thread::spawn(move || server.serve(&[listener.into()]).unwrap());
    let folder = authority.path("nobody").display().to_string();
    assert!(words(&format!("nbd://127.0.0.1:{port}")));
    for host in ["localhost", "127.0.0.1"] {
        assert!(words(&format!("nbds://{host}:{port}/?tls-certificates={folder}")));
    }
    handle.shutdown();
    thread.join().unwrap();
    let error = Connection::open(&Target::new(Place::Unix("/nonexistent".into()))).unwrap_err();
    assert!(error.to_string().contains("/nonexistent"), "{error}");
    assert!(Target::parse("http://x").unwrap_err().to_string().starts_with("http://x: "));
}

#[test]
fn a_remote_export_is_served_again() {
    let remote = Running::new(memory(ThreadModel::Parallel));
    let server = Running::new(Arc::new(NbdDisk::new(target(&remote))));
    let folder = remote.folder();
    let (there, back) = (folder.join("there"), folder.join("back"));
    let mut bytes = pattern(0, SIZE);
    bytes[1 << 20..5 << 20].fill(0);
    std::fs::write(&there, &bytes).unwrap();
    run("nbdcopy", "libnbd-bin", &[there.to_str().unwrap(), &server.uri()]);
    run("nbdcopy", "libnbd-bin", &[&server.uri(), back.to_str().unwrap()]);
    assert!(std::fs::read(&back).unwrap() == bytes);
    let map = |server: &Running| run("nbdinfo", "libnbd-bin", &["--map", &server.uri()]);
    assert_eq!(map(&server), map(&remote));
    assert!(map(&server).contains("hole,zero"));
}

#[test]
fn several_connections_are_used_where_the_server_can_bear_them() {
    for (model, count) in [(ThreadModel::Parallel, 4), (ThreadModel::SerializeConnections, 1)] {
        let mut probe = Probe::new(model);
        probe.info.can_multi_conn = true;
        let server = Running::new(Arc::new(probe.clone()));
        let disk = open(target(&server));
        (0..8).for_each(|at| drop(disk.read(at, 1).unwrap()));
        assert_eq!(probe.calls().iter().filter(|call| call.starts_with("open")).count(), count);
    }
}

#[test]
fn a_server_that_ends_ends_its_clients_with_an_error() {
    let server = Running::new(memory(ThreadModel::Parallel));
    let connection = connect(&server);
    let disk = open(target(&server));
    server.end();
    let result = connection.send(Command::Read, NONE, 0, 4, &[]).and_then(backstay_nbd::client::Pending::wait);
    assert!(matches!(result, Err(ClientError::Broken(_))), "{result:?}");
    assert!(connection.is_broken());
    assert_eq!(disk.read(0, 4).err(), Some(DiskError(libc::EIO)));
}

/// Debian's nbdkit on a socket in a folder.
struct Nbdkit {
    child: Child,
    folder: tempfile::TempDir,
}

impl Nbdkit {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (socket, pid) = (folder.path().join("socket"), folder.path().join("pid"));
        let child = Program::new("nbdkit").args(["-f", "-U"]).arg(&socket).arg("-P").arg(&pid).args(arguments).spawn();
        let child = child.unwrap_or_else(|error| panic!("nbdkit cannot be started ({error}): run scripts/setup test"));
        // It is written when the socket listens.
        while !pid.exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Self { child, folder }
    }

    fn target(&self) -> Target {
        Target::new(Place::Unix(self.folder.path().join("socket")))
    }
}

impl Drop for Nbdkit {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn nbdkit_in_every_style() {
    for arguments in
        [&["memory", "16M"][..], &["memory", "16M", "--no-sr"], &["memory", "16M", "-o"], &["memory", "16M", "-t", "1"]]
    {
        let server = Nbdkit::start(arguments);
        let connection = Connection::open(&server.target()).unwrap();
        assert_eq!(connection.remote().structured_replies, arguments.len() == 2 || arguments[2] == "-t");
        exercise(&connection);
        if arguments.contains(&"-o") {
            // nbdkit 1.32 says there that it can flush, zero and trim, and then refuses.
            continue;
        }
        let disk = open(server.target());
        disk.zero(0, SIZE as u64, RequestFlags { may_trim: true, ..RequestFlags::default() }).unwrap();
        disk.flush().unwrap();
        assert!(disk.read(0, SIZE).unwrap().as_ref().as_ref().iter().all(|byte| *byte == 0));
    }
}

#[test]
fn nbdkit_with_holes_errors_and_block_sizes() {
    let server = Nbdkit::start(&[
        "data",
        "1 @1048576 2 @0x200000 3*65536",
        "size=4M",
        "--filter=exportname",
        "exportname-list=explicit",
        "exportname=a",
    ]);
    let disk = open(server.target());
    let bytes = disk.read(0, 4 << 20).unwrap();
    let bytes = bytes.as_ref().as_ref();
    assert_eq!((bytes[0], bytes[1 << 20], bytes[2 << 20], bytes[(2 << 20) + 65535], bytes[3 << 20]), (1, 2, 3, 3, 0));
    let (mut at, mut holes) = (0, 0);
    while at < 4 << 20 {
        for extent in disk.extents(at, (4 << 20) - at, RequestFlags::default()).unwrap() {
            assert_eq!(extent.offset, at);
            at += extent.length;
            holes += usize::from(extent.hole && extent.zero);
        }
    }
    assert!(holes >= 3, "{holes}");
    assert_eq!(list(&server.target()).unwrap()[0].name, b"a");
    let failing = Nbdkit::start(&["memory", "1M", "--filter=error", "error-pread=ENOSPC", "error-pread-rate=100%"]);
    assert_eq!(open(failing.target()).read(0, 4).err(), Some(DiskError(libc::ENOSPC)));
    let sizes = Nbdkit::start(&[
        "memory",
        "1M",
        "--filter=blocksize-policy",
        "blocksize-minimum=512",
        "blocksize-preferred=4096",
        "blocksize-maximum=65536",
        "blocksize-error-policy=error",
    ]);
    let disk = open(sizes.target());
    assert_eq!(disk.block_size(), Ok(Some(BlockSize { minimum: 512, preferred: 4096, maximum: 65536 })));
    disk.write(0, &pattern(0, 1 << 20), RequestFlags::default()).unwrap();
    assert!(disk.read(0, 1 << 20).unwrap().as_ref().as_ref() == pattern(0, 1 << 20));
}

#[test]
fn nbdkit_encrypted() {
    let authority = Authority::new();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let server = Nbdkit::start(&[
        "memory",
        "16M",
        "--tls=require",
        "--tls-verify-peer",
        "--tls-certificates",
        &path(&authority.server()),
    ]);
    let credentials = ClientCredentials::certificates(Some(&authority.path("client"))).unwrap();
    let wanted_here = wanted(credentials, Some("localhost"));
    exercise(&Connection::open(&Target { wanted: wanted_here, ..server.target() }).unwrap());
    let server = Nbdkit::start(&["memory", "16M", "--tls=require", "--tls-psk", &path(&authority.keys())]);
    let credentials = ClientCredentials::keys(&authority.keys(), Some(USER)).unwrap();
    exercise(&Connection::open(&Target { wanted: wanted(credentials, None), ..server.target() }).unwrap());
}
