//! Encrypted connections (reference 10.8): the rules before and after the handshake, credentials, and real clients.
#![allow(clippy::unwrap_used)]

#[path = "common/authority.rs"]
mod authority;
mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use authority::{Authority, KEY, USER};
use backstay_core::{Certificate, Disk, ThreadModel};
use backstay_nbd::codec::option::{InfoRequest, MetaContextRequest, OptionKind, ReplyKind};
use backstay_nbd::handshake::{Encryption, Terms};
use backstay_nbd::memory::MemoryDisk;
use backstay_nbd::server::{Level, Server, Settings, Stream};
use backstay_nbd::tls::ServerCredentials;
use common::{Peer, Probe, Running, run};
use openssl::ssl::{SslContext, SslFiletype, SslMethod, SslStream, SslVersion};

const MODELS: [ThreadModel; 4] = [
    ThreadModel::SerializeConnections,
    ThreadModel::SerializeAllRequests,
    ThreadModel::SerializeRequests,
    ThreadModel::Parallel,
];

fn settings(encryption: Encryption, credentials: ServerCredentials) -> Settings {
    let terms = Terms { encryption, ..Terms::default() };
    Settings { terms, credentials: Some(credentials), ..Settings::default() }
}

fn certificates(authority: &Authority) -> ServerCredentials {
    ServerCredentials::certificates(&authority.server(), false).unwrap()
}

fn keys(authority: &Authority) -> ServerCredentials {
    ServerCredentials::keys(&authority.keys()).unwrap()
}

fn memory(model: ThreadModel) -> Arc<dyn Disk> {
    Arc::new(MemoryDisk::new(64 << 20, model))
}

fn require(credentials: ServerCredentials) -> Running {
    Running::with(memory(ThreadModel::Parallel), settings(Encryption::Required, credentials))
}

/// What a client of our own proves itself with.
#[derive(Clone, Copy)]
enum Proof<'a> {
    Nothing,
    /// A folder with a client's certificate.
    Certificate(&'a Path),
    /// A user and the bytes of a key.
    Key(&'a str, &'a [u8]),
}

fn context(proof: Proof<'_>, version: SslVersion) -> SslContext {
    let mut context = SslContext::builder(SslMethod::tls_client()).unwrap();
    context.set_min_proto_version(Some(version)).unwrap();
    context.set_max_proto_version(Some(version)).unwrap();
    // It would refuse old versions by itself.
    context.set_cipher_list("DEFAULT:@SECLEVEL=0").unwrap();
    match proof {
        Proof::Nothing => {}
        Proof::Certificate(folder) => {
            context.set_certificate_file(folder.join("client-cert.pem"), SslFiletype::PEM).unwrap();
            context.set_private_key_file(folder.join("client-key.pem"), SslFiletype::PEM).unwrap();
        }
        Proof::Key(user, key) => {
            context.set_cipher_list("PSK").unwrap();
            let (user, key) = (user.to_owned(), key.to_vec());
            context.set_psk_client_callback(move |_, _, name, place| {
                name[..=user.len()].copy_from_slice(format!("{user}\0").as_bytes());
                place[..key.len()].copy_from_slice(&key);
                Ok(key.len())
            });
        }
    }
    context.build()
}

/// Encrypts a connection whose STARTTLS was acknowledged.
fn shake<S: Read + Write>(stream: S, context: &SslContext) -> Option<Peer<SslStream<S>>> {
    let mut stream = SslStream::new(openssl::ssl::Ssl::new(context).unwrap(), stream).unwrap();
    stream.connect().ok()?;
    Some(Peer::new(stream))
}

fn start<S: Read + Write>(mut peer: Peer<S>) -> S {
    assert_eq!(peer.ask(OptionKind::StartTls, b""), ReplyKind::Ack);
    peer.stream
}

/// A client that greets and encrypts with TLS 1.3.
fn encrypted(server: &Running) -> Peer<SslStream<UnixStream>> {
    shake(start(server.connect().greet(3)), &context(Proof::Nothing, SslVersion::TLS1_3)).unwrap()
}

fn go<S: Read + Write>(peer: &mut Peer<S>) -> u16 {
    peer.option(OptionKind::Go, &InfoRequest { name: Vec::new(), wanted: Vec::new() }.encode());
    let replies = peer.option_replies();
    assert_eq!(replies.last().unwrap().0, ReplyKind::Ack);
    u16::from_be_bytes(replies[0].1[10..12].try_into().unwrap())
}

fn key() -> Vec<u8> {
    (0..KEY.len()).step_by(2).map(|at| u8::from_str_radix(&KEY[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn without_encryption_where_it_is_required_every_option_is_refused_and_stays_in_step() {
    let authority = Authority::new();
    let server = require(certificates(&authority));
    let mut peer = server.connect().greet(3);
    let refused = ReplyKind::ErrTlsRequired;
    for (kind, data) in [
        (OptionKind::List, &b""[..]),
        (OptionKind::StructuredReply, b""),
        (OptionKind::Go, b"some data"),
        (OptionKind::Info, b"\0\0\0\0\0\0"),
        (OptionKind::SetMetaContext, b"more data"),
        (OptionKind::Other(99), b"data"),
    ] {
        assert_eq!(peer.ask(kind, data), refused, "{kind:?}");
    }
    assert_eq!(peer.ask(OptionKind::StartTls, b"data"), ReplyKind::ErrInvalid);
    let mut peer = shake(start(peer), &context(Proof::Nothing, SslVersion::TLS1_3)).unwrap();
    go(&mut peer);
    assert_eq!(peer.read(0, 4), [0; 4]);
    let mut peer = server.connect().greet(3);
    peer.option(OptionKind::ExportName, b"");
    assert!(peer.is_closed());
    let mut peer = server.connect().greet(3);
    assert_eq!(peer.ask(OptionKind::Abort, b""), ReplyKind::Ack);
    assert!(peer.is_closed());
}

#[test]
fn what_was_agreed_before_encryption_counts_no_more() {
    let authority = Authority::new();
    let probe = Probe::new(ThreadModel::Parallel);
    let server = Running::with(Arc::new(probe.clone()), settings(Encryption::Offered, certificates(&authority)));
    let mut peer = server.connect().greet(3);
    assert_eq!(peer.ask(OptionKind::StructuredReply, b""), ReplyKind::Ack);
    let allocation = MetaContextRequest::encode(b"", &[b"base:allocation"]);
    assert_eq!(peer.ask(OptionKind::SetMetaContext, &allocation), ReplyKind::Ack);
    let info = InfoRequest { name: Vec::new(), wanted: Vec::new() }.encode();
    assert_eq!(peer.ask(OptionKind::Info, &info), ReplyKind::Ack);
    let mut peer = shake(start(peer), &context(Proof::Nothing, SslVersion::TLS1_2)).unwrap();
    assert_eq!(peer.ask(OptionKind::StartTls, b""), ReplyKind::ErrInvalid);
    assert_eq!(peer.ask(OptionKind::SetMetaContext, &allocation), ReplyKind::ErrInvalid);
    assert_eq!(go(&mut peer) & 0x80, 0, "DF without structured replies");
    assert_eq!(peer.read(0, 4).len(), 4);
    let calls = probe.calls();
    assert_eq!(calls.iter().filter(|call| *call == "default_export").count(), 2, "{calls:?}");
}

#[test]
fn plain_clients_are_served_where_encryption_is_only_offered() {
    let authority = Authority::new();
    let server = Running::with(memory(ThreadModel::Parallel), settings(Encryption::Offered, certificates(&authority)));
    assert_eq!(server.connect().ready().read(0, 4), [0; 4]);
    let mut peer = encrypted(&server);
    go(&mut peer);
    assert_eq!(peer.read(0, 4), [0; 4]);
}

#[test]
fn bytes_that_were_sent_in_the_clear_are_never_options() {
    let authority = Authority::new();
    let server = require(certificates(&authority));
    let mut peer = server.connect().greet(3);
    let options = [(OptionKind::StartTls, 0), (OptionKind::List, 0)];
    let bytes = options.map(|(kind, length)| backstay_nbd::codec::option::OptionHeader { kind, length }.encode());
    peer.send(&bytes.concat());
    assert_eq!(peer.option_reply().1, ReplyKind::Ack);
    // What comes is an alert or nothing, but no reply.
    let mut rest = Vec::new();
    let _ = peer.stream.read_to_end(&mut rest);
    assert!(rest.len() < 20, "{rest:?}");
}

/// The client's names as the disk sees them: before the handshake, and when the export is opened.
fn names_seen(
    server: impl Fn(Arc<dyn Disk>) -> Running,
    client: impl Fn(&Running),
) -> Vec<(bool, Option<Certificate>)> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let probe = Probe::acting(ThreadModel::Parallel, move |call, client| {
        if call == "preconnect" || call.starts_with("open") {
            noted.lock().unwrap().push((client.tls, client.certificate.clone()));
        }
        Ok(())
    });
    let running = server(Arc::new(probe));
    client(&running);
    running.end();
    Arc::into_inner(seen).map_or_else(Vec::new, |seen| seen.into_inner().unwrap())
}

#[test]
fn the_disk_learns_who_the_client_is() {
    let authority = Authority::new();
    let serve = |credentials: ServerCredentials| {
        move |disk: Arc<dyn Disk>| Running::with(disk, settings(Encryption::Required, credentials.clone()))
    };
    let client = |proof: Proof<'_>, version| {
        let context = context(proof, version);
        move |server: &Running| {
            let mut peer = shake(start(server.connect().greet(3)), &context).unwrap();
            go(&mut peer);
        }
    };
    let names = Certificate { subject: "CN=client,O=Tests,C=DE".to_owned(), issuer: "CN=signer,O=Tests".to_owned() };
    let folder = authority.path("client");
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let verified = ServerCredentials::certificates(&authority.server(), true).unwrap();
        let seen = names_seen(serve(verified), client(Proof::Certificate(&folder), version));
        assert_eq!(seen, [(false, None), (true, Some(names.clone()))]);
        let seen = names_seen(serve(certificates(&authority)), client(Proof::Certificate(&folder), version));
        assert_eq!(seen, [(false, None), (true, None)], "nobody asked for it");
        let seen = names_seen(serve(keys(&authority)), client(Proof::Key(USER, &key()), version));
        assert_eq!(seen, [(false, None), (true, None)]);
    }
}

#[test]
fn keys_are_checked_in_both_versions() {
    let authority = Authority::new();
    let server = require(keys(&authority));
    let begin = |user: &str, key: &[u8], version| {
        shake(start(server.connect().greet(3)), &context(Proof::Key(user, key), version))
    };
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let mut peer = begin(USER, &key(), version).unwrap();
        assert_eq!(peer.stream.ssl().version2(), Some(version));
        go(&mut peer);
        assert_eq!(peer.read(0, 4), [0; 4]);
        begin("bob", &[0, 0xff], version).unwrap();
        assert!(begin("bob", &key(), version).is_none(), "the wrong key");
        assert!(begin("eve", &key(), version).is_none(), "an unknown user");
    }
}

#[test]
fn clients_that_must_prove_themselves_and_cannot_are_refused() {
    let authority = Authority::new();
    let server = require(ServerCredentials::certificates(&authority.server(), true).unwrap());
    let answers = |server: &Running, proof, version| {
        let Some(mut peer) = shake(start(server.connect().greet(3)), &context(proof, version)) else { return false };
        // In TLS 1.3 a client hears only now what the server thinks of it.
        let header = backstay_nbd::codec::option::OptionHeader { kind: OptionKind::List, length: 0 };
        peer.stream.write_all(&header.encode()).is_ok() && peer.stream.read(&mut [0; 20]).is_ok_and(|read| read > 0)
    };
    let (client, stranger) = (authority.path("client"), authority.path("stranger"));
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        assert!(answers(&server, Proof::Certificate(&client), version));
        assert!(!answers(&server, Proof::Nothing, version));
        assert!(!answers(&server, Proof::Certificate(&stranger), version));
    }
    authority.revoke_client(&authority.server());
    let server = require(ServerCredentials::certificates(&authority.server(), true).unwrap());
    assert!(!answers(&server, Proof::Certificate(&client), SslVersion::TLS1_3), "a revoked one");
}

#[test]
fn old_versions_are_refused() {
    let authority = Authority::new();
    let server = require(certificates(&authority));
    let context = context(Proof::Nothing, SslVersion::TLS1_1);
    assert!(shake(start(server.connect().greet(3)), &context).is_none());
}

#[test]
fn a_client_that_sends_garbage_or_falls_silent_hurts_itself_only() {
    let authority = Authority::new();
    for model in [ThreadModel::SerializeAllRequests, ThreadModel::Parallel] {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&lines);
        let log = Arc::new(move |level, _, text: &str| {
            if level == Level::Error {
                noted.lock().unwrap().push(text.to_owned());
            }
        });
        let settings = Settings { log, ..settings(Encryption::Required, certificates(&authority)) };
        let server = Running::with(memory(model), settings);
        let silent = start(server.connect().greet(3));
        let mut garbage = start(server.connect().greet(3));
        garbage.write_all(&[0x5a; 500]).unwrap();
        let mut rest = Vec::new();
        let _ = garbage.read_to_end(&mut rest);
        assert!(lines.lock().unwrap().iter().any(|line| line.contains("cannot be encrypted")), "{lines:?}");
        // Half a handshake.
        let mut half = start(server.connect().greet(3));
        half.write_all(&[0x16, 3, 1, 2, 0, 1]).unwrap();
        let mut peer = encrypted(&server);
        go(&mut peer);
        assert_eq!(peer.read(0, 4), [0; 4]);
        // Garbage in the middle of everything.
        peer.stream.get_mut().write_all(&[0x5a; 500]).unwrap();
        assert!(peer.is_closed());
        go(&mut encrypted(&server));
        server.end();
        drop((silent, half));
    }
}

#[test]
fn pipes_can_be_encrypted_too() {
    struct Pipes(std::io::PipeReader, std::io::PipeWriter);
    impl Read for Pipes {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(buffer)
        }
    }
    impl Write for Pipes {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.1.write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let authority = Authority::new();
    let (from_server, to_client) = std::io::pipe().unwrap();
    let (from_client, to_server) = std::io::pipe().unwrap();
    let server =
        Server::new(memory(ThreadModel::Parallel), settings(Encryption::Required, certificates(&authority))).unwrap();
    let stream = Stream::pair(OwnedFd::from(from_client), OwnedFd::from(to_client)).unwrap();
    let thread = std::thread::spawn(move || server.serve_stream(stream));
    let peer = Peer::new(Pipes(from_server, to_server)).greet(3);
    let mut peer = shake(start(peer), &context(Proof::Nothing, SslVersion::TLS1_3)).unwrap();
    go(&mut peer);
    assert_eq!(peer.read(0, 1 << 20).len(), 1 << 20);
    peer.disconnect();
    assert!(peer.is_closed());
    thread.join().unwrap();
}

#[test]
fn credentials_that_are_broken_are_refused_by_the_name_of_their_file() {
    let authority = Authority::new();
    let error = |folder: &Path| ServerCredentials::certificates(folder, false).unwrap_err().to_string();
    assert!(error(&authority.path("client")).contains("server-cert.pem"));
    let folder = authority.server();
    std::fs::copy(authority.path("ca-key.pem"), folder.join("server-key.pem")).unwrap();
    assert!(error(&folder).contains("is not the key of"));
    std::fs::write(folder.join("server-key.pem"), "x").unwrap();
    assert!(error(&folder).contains("no private key"));
    std::fs::write(folder.join("ca-crl.pem"), "x").unwrap();
    assert!(error(&folder).contains("ca-crl.pem"));
    std::fs::write(authority.keys(), "alice\n").unwrap();
    assert!(ServerCredentials::keys(&authority.keys()).unwrap_err().to_string().contains("line 1"));
    assert!(ServerCredentials::keys(&authority.path("none")).unwrap_err().to_string().contains("none"));
}

fn libnbd(program: &str, arguments: &[&str]) -> String {
    run(program, "libnbd-bin", arguments)
}

fn uri(server: &Running, user: &str, query: &str) -> String {
    format!("nbds+unix://{user}/?socket={}&{query}", server.socket().display())
}

fn query(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

/// Listens on a free port of the loopback for a while.
fn over_tcp(credentials: ServerCredentials, then: impl FnOnce(u16)) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = Server::new(memory(ThreadModel::Parallel), settings(Encryption::Required, credentials)).unwrap();
    let handle = server.handle();
    let thread = std::thread::spawn(move || server.serve(&[listener.into()]).unwrap());
    then(port);
    handle.shutdown();
    thread.join().unwrap();
}

#[test]
fn libnbd_connects_with_certificates_and_with_keys_over_unix_and_tcp() {
    let authority = Authority::new();
    let certificates_there = query("tls-certificates", &authority.path("nobody"));
    let keys_there = query("tls-psk-file", &authority.keys());
    let user = format!("{USER}@");
    let found = |uri: &str| assert!(libnbd("nbdinfo", &[uri]).contains("with TLS"), "{uri}");
    found(&uri(&require(certificates(&authority)), "", &certificates_there));
    found(&uri(&require(keys(&authority)), &user, &keys_there));
    over_tcp(certificates(&authority), |port| found(&format!("nbds://localhost:{port}/?{certificates_there}")));
    over_tcp(keys(&authority), |port| found(&format!("nbds://{user}localhost:{port}/?{keys_there}")));
    let verified = require(ServerCredentials::certificates(&authority.server(), true).unwrap());
    found(&uri(&verified, "", &query("tls-certificates", &authority.path("client"))));
}

#[test]
fn gnutls_clients_of_tls_1_2_connect_with_certificates_and_with_keys() {
    let authority = Authority::new();
    let rules = authority.path("rules");
    std::fs::write(&rules, "[overrides]\ndisabled-version = tls1.3\n").unwrap();
    let rules = format!("GNUTLS_SYSTEM_PRIORITY_FILE={}", rules.display());
    let found = |uri: &str| assert!(run("env", "coreutils", &[&rules, "nbdinfo", uri]).contains("with TLS"), "{uri}");
    let there = query("tls-certificates", &authority.path("nobody"));
    found(&uri(&require(certificates(&authority)), "", &there));
    let there = query("tls-psk-file", &authority.keys());
    found(&uri(&require(keys(&authority)), &format!("{USER}@"), &there));
}

#[test]
fn nbdcopy_copies_both_ways_encrypted_under_every_model() {
    let authority = Authority::new();
    let bytes: Vec<u8> =
        (0..(64 << 20) / 8_u64).flat_map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
    let (there, back) = (authority.path("there"), authority.path("back"));
    std::fs::write(&there, &bytes).unwrap();
    let (there, back) = (there.to_str().unwrap(), back.to_str().unwrap());
    for model in MODELS {
        let server = Running::with(memory(model), settings(Encryption::Required, certificates(&authority)));
        let uri = uri(&server, "", &query("tls-certificates", &authority.path("nobody")));
        libnbd("nbdcopy", &[there, &uri]);
        libnbd("nbdcopy", &[&uri, back]);
        assert!(std::fs::read(back).unwrap() == bytes, "{model:?}");
        libnbd("nbdcopy", &["--request-size=33554432", &uri, back]);
        assert!(std::fs::read(back).unwrap() == bytes, "{model:?}");
    }
}

#[test]
fn both_directions_are_busy_at_once() {
    let authority = Authority::new();
    for (server, proof) in [(require(certificates(&authority)), "nobody"), (require(keys(&authority)), "keys")] {
        let script = "
import os
h.set_tls(nbd.TLS_REQUIRE)
if 'PROOF' == 'keys':
    h.set_tls_username('USER')
    h.set_tls_psk_file('FOLDER/keys')
else:
    h.set_tls_certificates('FOLDER/PROOF')
h.connect_unix('SOCKET')
half = 32 << 20
pieces = [os.urandom(1 << 20) for _ in range(32)]
for at, piece in enumerate(pieces):
    h.pwrite(piece, half + (at << 20))
for turn in range(2):
    reads = [nbd.Buffer(1 << 20) for _ in range(32)]
    cookies = []
    for at in range(32):
        cookies.append(h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(pieces[at])), at << 20))
        cookies.append(h.aio_pread(reads[at], half + (at << 20)))
    while cookies:
        h.poll(-1)
        cookies = [cookie for cookie in cookies if not h.aio_command_completed(cookie)]
    for at, piece in enumerate(pieces):
        assert bytes(reads[at].to_bytearray()) == piece
        assert h.pread(1 << 20, at << 20) == piece
h.shutdown()
";
        let folder = authority.path("").display().to_string();
        let script = script.replace("SOCKET", &server.socket().display().to_string());
        let script =
            script.replace("FOLDER", folder.trim_end_matches('/')).replace("PROOF", proof).replace("USER", USER);
        run("/usr/bin/python3", "python3-libnbd", &["-m", "nbd", "-c", &script]);
    }
}

#[test]
fn qemu_connects_with_certificates_and_with_keys() {
    let authority = Authority::new();
    let image = |server: &Running, more: &str| {
        let socket = server.socket();
        format!("driver=nbd,server.type=unix,server.path={},tls-creds=t{more}", socket.display())
    };
    let server = require(ServerCredentials::certificates(&authority.server(), true).unwrap());
    let credentials = format!("tls-creds-x509,id=t,endpoint=client,dir={}", authority.path("client").display());
    let there = image(&server, ",tls-hostname=localhost");
    let commands = ["-c", "write -P 5 0 4M", "-c", "aio_write -P 6 4M 4M", "-c", "aio_read -P 5 0 4M"];
    let mut arguments = vec!["--object", &credentials, "--image-opts", &there];
    arguments.extend(commands.iter().chain(&["-c", "aio_flush", "-c", "read -P 6 4M 4M"]));
    let text = run("qemu-io", "qemu-utils", &arguments);
    assert!(!text.contains("failed"), "{text}");
    let folder = authority.path("psk");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("keys.psk"), format!("qemu:{KEY}\n")).unwrap();
    let server = require(ServerCredentials::keys(&folder.join("keys.psk")).unwrap());
    let credentials = format!("tls-creds-psk,id=t,endpoint=client,dir={}", folder.display());
    let text = run("qemu-img", "qemu-utils", &["info", "--object", &credentials, "--image-opts", &image(&server, "")]);
    assert!(text.contains("67108864 bytes"), "{text}");
}

#[test]
fn a_server_that_ends_says_goodbye_to_an_idle_client() {
    let authority = Authority::new();
    let server = require(certificates(&authority));
    let mut peer = encrypted(&server);
    go(&mut peer);
    peer.stream.get_ref().set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    server.handle.shutdown();
    assert_eq!(peer.stream.read(&mut [0; 1]).unwrap(), 0);
    assert!(peer.stream.get_shutdown().contains(openssl::ssl::ShutdownState::RECEIVED));
}
