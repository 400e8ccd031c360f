//! Servers that break the protocol: the client ends the connection, says why, and everybody who waits hears it.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use backstay_nbd::client::{ClientError, Connection, Wanted};
use backstay_nbd::codec::option::{Info, OptionKind, ReplyKind, encode_meta_context, put_reply};
use backstay_nbd::codec::reply::Head;
use backstay_nbd::codec::request::{Command, Flags, Request};

const NONE: Flags = Flags(0);

/// What the server says to a request.
type Says = fn(&Request) -> Vec<u8>;

fn receive(stream: &mut UnixStream, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).ok().map(|()| bytes)
}

/// An option of the client: its number.
fn option(stream: &mut UnixStream) -> Option<OptionKind> {
    let head = receive(stream, 16)?;
    let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
    receive(stream, word(12) as usize)?;
    Some(OptionKind::from_code(word(8)))
}

fn greet(stream: &mut UnixStream) -> Option<()> {
    stream.write_all(b"NBDMAGICIHAVEOPT\0\x03").ok()?;
    receive(stream, 4).map(drop)
}

/// A server whose handshake is honest, and that answers `count` requests at once, with what it is told to say.
fn lying(count: usize, says: Says) -> (Result<Connection, ClientError>, JoinHandle<Option<()>>) {
    let (here, mut there) = UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || {
        greet(&mut there)?;
        loop {
            let kind = option(&mut there)?;
            let mut out = Vec::new();
            match kind {
                OptionKind::SetMetaContext => {
                    put_reply(&mut out, kind, ReplyKind::MetaContext, &encode_meta_context(9, b"base:allocation"));
                }
                OptionKind::Go => put_reply(&mut out, kind, ReplyKind::Info, &Info::Export(1 << 20, 1).encode()),
                _ => {}
            }
            put_reply(&mut out, kind, ReplyKind::Ack, b"");
            there.write_all(&out).ok()?;
            if kind == OptionKind::Go {
                break;
            }
        }
        let mut requests = Vec::new();
        for _ in 0..count {
            let head = receive(&mut there, 28)?;
            requests.push(Request::decode(head[..].try_into().unwrap()).unwrap());
        }
        there.write_all(&says(&requests[0])).ok()?;
        // The client is the one that ends it.
        let _ = there.read_to_end(&mut Vec::new());
        Some(())
    });
    (Connection::over(here.into(), b"", &Wanted::default()), thread)
}

fn chunk(request: &Request, last: bool, kind: u16, payload: &[u8]) -> Vec<u8> {
    let head = [&0x668e_33ef_u32.to_be_bytes()[..], &u16::from(last).to_be_bytes(), &kind.to_be_bytes()].concat();
    [&head[..], &request.cookie.to_be_bytes(), &(payload.len() as u32).to_be_bytes(), payload].concat()
}

fn data(request: &Request, last: bool, at: u64, length: usize) -> Vec<u8> {
    chunk(request, last, 1, &[&at.to_be_bytes()[..], &vec![7; length]].concat())
}

#[test]
fn a_lie_ends_the_connection_and_everybody_hears_why() {
    let lies: [(&str, Says); 13] = [
        ("cookie", |request| Head::simple(request.cookie + 77, None).as_bytes().to_vec()),
        ("magic number", |_| vec![0x55; 40]),
        ("simple reply", |request| Head::simple(request.cookie, None).as_bytes().to_vec()),
        ("nobody asked for", |request| data(request, true, 0, 4097)),
        ("nobody asked for", |request| data(request, true, 1, 4096)),
        ("nobody asked for", |request| chunk(request, true, 1, &[0; 8])),
        ("twice", |request| [data(request, false, 0, 100), data(request, true, 99, 3997)].concat()),
        ("complete", |request| [data(request, false, 0, 100), data(request, true, 101, 3995)].concat()),
        ("complete", |request| chunk(request, true, 0, b"")),
        ("unknown kind", |request| chunk(request, true, 77, b"")),
        ("block status", |request| chunk(request, true, 5, &[0; 12])),
        ("error of", |request| chunk(request, true, 0x8001, &[0; 5000])),
        ("that is none", |request| chunk(request, true, 0x8001, b"\0\0\0\x05\0\x99text")),
    ];
    for (part, says) in lies {
        let (connection, server) = lying(3, says);
        let connection = connection.unwrap();
        let sent: Vec<_> = (0..3).map(|_| connection.send(Command::Read, NONE, 0, 4096, &[]).unwrap()).collect();
        for pending in sent {
            let error = pending.wait().unwrap_err();
            assert!(matches!(error, ClientError::Lie(_)), "{part}: {error}");
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
        assert!(connection.send(Command::Read, NONE, 0, 4096, &[]).is_err());
        assert!(connection.is_broken());
        assert_eq!(server.join().unwrap(), Some(()), "{part}");
    }
}

#[test]
fn an_answer_that_comes_twice_is_a_lie_and_the_first_one_counts() {
    let (connection, server) = lying(1, |request| [data(request, true, 0, 8), data(request, true, 0, 8)].concat());
    let connection = connection.unwrap();
    assert_eq!(connection.send(Command::Read, NONE, 0, 8, &[]).unwrap().wait().unwrap().data, [7; 8]);
    server.join().unwrap();
    assert!(connection.is_broken());
}

#[test]
fn honest_answers_in_many_chunks_are_put_together() {
    let (connection, server) = lying(1, |request| {
        let hole = [&100_u64.to_be_bytes()[..], &3900_u32.to_be_bytes()].concat();
        [data(request, false, 4000, 96), chunk(request, false, 2, &hole), data(request, true, 0, 100)].concat()
    });
    let connection = connection.unwrap();
    let read = connection.send(Command::Read, NONE, 0, 4096, &[]).unwrap().wait().unwrap().data;
    assert_eq!((&read[..100], &read[100..4000], &read[4000..]), (&[7; 100][..], &[0; 3900][..], &[7; 96][..]));
    drop(connection);
    server.join().unwrap();
}

#[test]
fn wrong_extents_and_contexts_are_lies() {
    let lies: [Says; 3] = [
        |request| chunk(request, true, 5, b"\0\0\0\x08\0\0\x10\0\0\0\0\0"),
        |request| chunk(request, true, 5, b"\0\0\0\x09\0\0\0\0\0\0\0\0"),
        |request| chunk(request, true, 5, b"\0\0\0\x09\0\0\x10\0\0\0\0\0\0\0\x10\0\0\0\0\0"),
    ];
    for says in lies {
        let (connection, server) = lying(1, says);
        let connection = connection.unwrap();
        let error = connection.send(Command::BlockStatus, NONE, 0, 4096, &[]).unwrap().wait().unwrap_err();
        assert!(matches!(error, ClientError::Lie(_)), "{error}");
        drop(connection);
        server.join().unwrap();
    }
}

/// Connects to a server that does whatever it likes.
fn against(server: fn(&mut UnixStream) -> Option<()>) -> ClientError {
    let (here, mut there) = UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || {
        server(&mut there);
        there.shutdown(std::net::Shutdown::Write).ok();
        let _ = there.read_to_end(&mut Vec::new());
    });
    let error = Connection::over(here.into(), b"disk", &Wanted::default()).map(drop).unwrap_err();
    thread.join().unwrap();
    error
}

#[test]
fn lies_before_transmission_are_told_from_refusals() {
    fn reply(there: &mut UnixStream, kind: ReplyKind, data: &[u8]) -> Option<()> {
        greet(there)?;
        let option = option(there)?;
        let mut out = Vec::new();
        put_reply(&mut out, option, kind, data);
        there.write_all(&out).ok()
    }
    let lies: [fn(&mut UnixStream) -> Option<()>; 8] = [
        |there| there.write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n").ok(),
        |there| reply(there, ReplyKind::Info, &Info::Export(1, 1).encode()),
        |there| reply(there, ReplyKind::Ack, b"data"),
        |there| reply(there, ReplyKind::ErrUnsupported, &[b'x'; 70_000]),
        |there| {
            greet(there)?;
            option(there)?;
            there.write_all(&[0x55; 20]).ok()
        },
        |there| {
            greet(there)?;
            option(there)?;
            let mut out = Vec::new();
            put_reply(&mut out, OptionKind::List, ReplyKind::Ack, b"");
            there.write_all(&out).ok()
        },
        // An export without a size.
        |there| {
            reply(there, ReplyKind::ErrUnsupported, b"")?;
            let mut out = Vec::new();
            put_reply(&mut out, option(there)?, ReplyKind::Ack, b"");
            there.write_all(&out).ok()
        },
        // One of 2⁶³ bytes.
        |there| {
            reply(there, ReplyKind::ErrUnsupported, b"")?;
            let mut out = Vec::new();
            let kind = option(there)?;
            put_reply(&mut out, kind, ReplyKind::Info, &Info::Export(1 << 63, 1).encode());
            put_reply(&mut out, kind, ReplyKind::Ack, b"");
            there.write_all(&out).ok()
        },
    ];
    for (number, server) in lies.into_iter().enumerate() {
        let error = against(server);
        assert!(matches!(error, ClientError::Lie(_)), "{number}: {error}");
    }
    assert!(matches!(against(greet), ClientError::Broken(_)));
    // An old server: it knows neither GO nor structured replies, and closes what it does not have.
    let old = against(|there| {
        reply(there, ReplyKind::ErrUnsupported, b"")?;
        let mut out = Vec::new();
        put_reply(&mut out, option(there)?, ReplyKind::ErrUnsupported, b"");
        there.write_all(&out).ok()?;
        (option(there)? == OptionKind::ExportName).then_some(())
    });
    assert!(matches!(&old, ClientError::Refused { what, .. } if what.contains("disk")), "{old}");
    let told = against(|there| {
        reply(there, ReplyKind::ErrUnsupported, b"")?;
        let mut out = Vec::new();
        put_reply(&mut out, option(there)?, ReplyKind::ErrPolicy, b"not for you");
        there.write_all(&out).ok()
    });
    assert!(told.to_string().contains("not for you"), "{told}");
}

#[test]
fn a_server_that_knows_only_the_oldest_option_is_served_by_it() {
    let (here, mut there) = UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || {
        greet(&mut there)?;
        loop {
            let kind = option(&mut there)?;
            if kind == OptionKind::ExportName {
                break;
            }
            let mut out = Vec::new();
            put_reply(&mut out, kind, ReplyKind::ErrUnsupported, b"");
            there.write_all(&out).ok()?;
        }
        there.write_all(&[&(1_u64 << 20).to_be_bytes()[..], &[0, 1]].concat()).ok()?;
        let request = Request::decode(receive(&mut there, 28)?[..].try_into().unwrap()).unwrap();
        there.write_all(&[Head::simple(request.cookie, None).as_bytes(), b"data"].concat()).ok()?;
        // The client says goodbye.
        let last = Request::decode(receive(&mut there, 28)?[..].try_into().unwrap()).unwrap();
        (last.command == Command::Disconnect).then_some(())
    });
    let connection = Connection::over(here.into(), b"disk", &Wanted::default()).unwrap();
    assert_eq!((connection.remote().size, connection.remote().structured_replies), (1 << 20, false));
    assert_eq!(connection.send(Command::Read, NONE, 0, 4, &[]).unwrap().wait().unwrap().data, b"data");
    drop(connection);
    assert_eq!(thread.join().unwrap(), Some(()));
}

#[test]
fn a_server_that_falls_silent_before_transmission_is_left() {
    let (here, mut there) = UnixStream::pair().unwrap();
    let wanted = Wanted { limit: Duration::from_millis(300), ..Wanted::default() };
    let thread = std::thread::spawn(move || {
        greet(&mut there);
        let _ = there.read_to_end(&mut Vec::new());
    });
    let error = Connection::over(here.into(), b"", &wanted).map(drop).unwrap_err();
    assert!(matches!(&error, ClientError::Broken(broken) if broken.kind() == std::io::ErrorKind::TimedOut), "{error}");
    thread.join().unwrap();
}
