//! The protocol through a script (items 45 to 56); the rest of these items is tested where the protocol is, in `crates/nbd`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::client::{
    ABORT, ACK, Client, ERR_INVALID, ERR_UNSUP, EXPORT_NAME, GO, INFO, LIST, LIST_META_CONTEXT, READ, SET_META_CONTEXT,
    STRUCTURED_REPLY, TRIM, WRITE, WRITE_ZEROES,
};
use super::server::Server;
use super::{LEAST, MEMORY};

fn greeting(server: &Server, length: usize) -> Vec<u8> {
    let mut stream = UnixStream::connect(&server.socket).unwrap();
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn item_45_handshake_flags() {
    for (mask, flags) in [("0", 0), ("1", 1), ("0x2", 2), ("0xffff", 3)] {
        let server = Server::with(LEAST, &["--mask-handshake", mask]);
        assert_eq!(greeting(&server, 18)[16..], [0, flags]);
    }
    let server = Server::start(LEAST);
    let mut stream = UnixStream::connect(&server.socket).unwrap();
    stream.write_all(&4_u32.to_be_bytes()).unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert_eq!(rest.len(), 18);
}

#[test]
fn item_46_export_name_and_oldstyle() {
    let server = Server::start(LEAST);
    let mut client = server.connect();
    client.send_option(EXPORT_NAME, b"");
    let mut reply = [0; 10];
    client.stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..8], (1_u64 << 20).to_be_bytes());
    assert_eq!(client.read(0, 4), Ok(vec![0; 4]));
    let old = Server::with(LEAST, &["-o"]);
    let bytes = greeting(&old, 152);
    assert_eq!(bytes[..16], *b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53");
    assert_eq!(bytes[16..24], (1_u64 << 20).to_be_bytes());
    assert!(bytes[28..].iter().all(|byte| *byte == 0));
}

/// A name and queries, as options with meta contexts have them.
fn queries(name: &[u8], queries: &[&[u8]]) -> Vec<u8> {
    let word = |number: usize| u32::try_from(number).unwrap().to_be_bytes();
    let mut data = [&word(name.len()), name, &word(queries.len())].concat();
    queries.iter().for_each(|query| data.extend([&word(query.len()), *query].concat()));
    data
}

/// The last reply to an option that is refused or acknowledged with nothing before it.
fn only(client: &mut Client, option: u32, data: &[u8]) -> u32 {
    let replies = client.option(option, data).unwrap();
    assert_eq!(replies.len(), 1, "{option}: {replies:?}");
    replies[0].0
}

#[test]
fn item_47_options() {
    let server = Server::start(LEAST);
    let mut client = server.connect();
    // The name's length, the name, the number of infos: each wrong in its way.
    let wrong: [&[u8]; 5] = [b"", b"\0\0\0\x01", b"\0\0\0\x09\0\0\0", b"\0\0\0\x01\0\0\0", b"\0\0\0\0\0\x02\0\0"];
    for (number, option) in [INFO, GO].into_iter().enumerate() {
        assert_eq!(only(&mut client, option, wrong[number]), ERR_INVALID);
        assert_eq!(only(&mut client, option, wrong[number + 2]), ERR_INVALID);
        assert_eq!(only(&mut client, option, wrong[4]), ERR_INVALID);
    }
    assert_eq!(only(&mut client, LIST, b"x"), ERR_INVALID);
    assert_eq!(client.list(), Ok(vec![(String::new(), String::new())]));
    assert_eq!(only(&mut client, LIST, b""), ERR_INVALID, "a second list");
    assert_eq!(only(&mut client, STRUCTURED_REPLY, b"x"), ERR_INVALID);
    assert_eq!(only(&mut client, SET_META_CONTEXT, &queries(b"", &[b"base:allocation"])), ERR_INVALID, "too early");
    assert_eq!(only(&mut client, STRUCTURED_REPLY, b""), ACK);
    for option in [LIST_META_CONTEXT, SET_META_CONTEXT] {
        assert_eq!(only(&mut client, option, b"\0\0\0\0\0\0\0"), ERR_INVALID);
        assert_eq!(only(&mut client, option, b"\0\0\0\0\0\0\0\x01\0\0\0\x63base"), ERR_INVALID);
    }
    for option in [4, 11, 12, 0x7fff_ffff] {
        assert_eq!(only(&mut client, option, &[7; 70_000]), ERR_UNSUP, "{option}");
    }
    // In step after all of it.
    let infos = client.ask(INFO, b"", &[9999]).unwrap();
    assert_eq!(infos.len(), 1);
    client.go(b"", &[]).unwrap();
    let mut client = server.connect();
    assert_eq!(only(&mut client, ABORT, b""), ACK);
    assert!(client.is_closed());
    // Only one option for who knows no other.
    let mut client = server.connect_with(2);
    assert_eq!(only(&mut client, GO, &[1; 1000]), ERR_INVALID);
    client.send_option(EXPORT_NAME, b"");
    client.stream.read_exact(&mut [0; 10]).unwrap();
    assert_eq!(client.read(0, 4), Ok(vec![0; 4]));
    let mut client = server.connect();
    client.send_option(EXPORT_NAME, b"a\0b");
    assert!(client.is_closed());
}

#[test]
fn item_48_limits_of_options() {
    let server = Server::start(&format!("{LEAST}def list_exports(readonly, is_tls): return ['a', 'b']\n"));
    let mut client = server.connect();
    for number in 0..32 {
        assert_eq!(only(&mut client, 77, b""), ERR_UNSUP, "{number}");
    }
    assert!(client.is_closed());
    // A list of two allows as many again for each of them.
    let mut client = server.connect();
    client.list().unwrap();
    for number in 0..31 + 2 * 32 {
        assert_eq!(only(&mut client, 77, b""), ERR_UNSUP, "{number}");
    }
    assert!(client.is_closed());
    for head in [(0x4948_4156_454f_5054_u64, (64_u32 << 20) + 1), (0x1234, 0)] {
        let mut client = server.connect();
        let message = [&head.0.to_be_bytes()[..], &77_u32.to_be_bytes(), &head.1.to_be_bytes()].concat();
        client.stream.write_all(&message).unwrap();
        assert!(client.is_closed());
    }
}

#[test]
fn item_49_meta_contexts() {
    let server = Server::start(&format!("{LEAST}def extents(h, c, o, f): return [(o, c, 3)]\n"));
    let context = |id: u32| (4, [&id.to_be_bytes()[..], b"base:allocation"].concat());
    let mut client = server.connect();
    let lists: [&[&[u8]]; 4] = [&[], &[b"base:"], &[b"base:allocation"], &[b"qemu:x", b"base:allocation"]];
    for list in lists {
        let replies = client.option(LIST_META_CONTEXT, &queries(b"", list)).unwrap();
        assert_eq!(replies, [context(0), (ACK, Vec::new())], "{list:?}");
    }
    client.structured();
    for (name, list, selected) in [
        (&b""[..], &[&b"base:"[..]][..], false),
        (b"", &[], false),
        (b"", &[b"x:y"], false),
        (b"other", &[b"base:allocation"], true),
        (b"", &[b"x:y", b"base:allocation"], true),
    ] {
        let mut client = server.connect();
        client.structured();
        let replies = client.option(SET_META_CONTEXT, &queries(name, list)).unwrap();
        let expected = if selected { vec![context(1), (ACK, Vec::new())] } else { vec![(ACK, Vec::new())] };
        assert_eq!(replies, expected, "{list:?}");
        client.go(b"", &[]).unwrap();
        let status = if selected && name.is_empty() { Ok(vec![(100, 3)]) } else { Err(22) };
        assert_eq!(client.block_status(0, 0, 100), status, "{name:?} {list:?}");
        client.leave();
    }
    // A selection that fails leaves none.
    client.meta_context(b"");
    assert_eq!(only(&mut client, SET_META_CONTEXT, b"\0\0\0\x09"), ERR_INVALID);
    client.go(b"", &[]).unwrap();
    assert_eq!(client.block_status(0, 0, 100), Err(22));
}

#[test]
fn item_50_ranges_that_are_out_and_a_stream_that_stays_in_step() {
    let server = Server::start(MEMORY);
    let mut client = server.open();
    for offset in [1 << 20, u64::MAX, 1 << 63] {
        assert_eq!(client.read(offset, 1), Err(22));
        assert_eq!(client.request(WRITE, 0, offset, 4, b"abcd"), 28);
        assert_eq!(client.request(WRITE_ZEROES, 0, offset, 4, &[]), 28);
        assert_eq!(client.read(0, 4), Ok(vec![0; 4]));
    }
    assert_eq!(client.request(99, 0, 0, 0, &[]), 22);
    assert_eq!(client.read(0, 4), Ok(vec![0; 4]));
}

#[test]
fn item_51_sizes_of_requests() {
    let server = Server::start(&format!(
        "{MEMORY}def get_size(h): return 1 << 30\ndef pread(h, buf, o, f): buf[-1:] = b'x'\ndef pwrite(h, buf, o, f): assert len(buf) == 64 << 20\ndef trim(h, c, o, f): assert c == 300 << 20\n"
    ));
    let mut client = server.open();
    let limit = 64 << 20;
    let data = client.read(0, limit).unwrap();
    assert_eq!((data[0], data.last()), (0, Some(&b'x')));
    assert_eq!(client.read(0, limit + 1), Err(12));
    assert_eq!(client.write(0, &vec![1; limit as usize]), 0);
    assert_eq!(client.write(0, &vec![1; limit as usize + 1]), 12);
    assert_eq!(client.request(TRIM, 0, 0, 300 << 20, &[]), 0);
}

#[test]
fn item_52_read_only() {
    let server = Server::with(MEMORY, &["-r"]);
    let mut client = server.open();
    assert_eq!(client.flags & 2, 2);
    for (command, data) in [(WRITE, &b"abcd"[..]), (TRIM, b""), (WRITE_ZEROES, b"")] {
        assert_eq!(client.request(command, 0, 1 << 40, 4, data), 1, "{command}");
    }
    assert_eq!(client.read(0, 4), Ok(vec![0; 4]));
}

#[test]
fn item_53_fast_zero_that_was_not_offered() {
    let server = Server::start(&format!("{MEMORY}def zero(h, c, o, f): pass\n"));
    let mut client = server.open();
    assert_eq!(client.request(WRITE_ZEROES, super::client::FAST_ZERO, 0, 4, &[]), 22);
    assert_eq!(client.read(0, 4), Ok(vec![0; 4]));
}

#[test]
fn item_54_structured_replies() {
    let server =
        Server::start(&format!("{LEAST}def pread(h, c, o):\n  if o: raise ValueError('x')\n  return b'd' * c\n"));
    let mut client = server.connect();
    client.structured();
    client.go(b"", &[]).unwrap();
    client.send(READ, 0, 0, 4, &[]);
    assert_eq!(client.chunk(), (1, b"\0\0\0\0\0\0\0\0dddd".to_vec()));
    client.send(READ, 0, 1, 4, &[]);
    assert_eq!(client.chunk().0, 0x8001);
}

#[test]
fn item_55_clients_that_vanish() {
    let server = Server::start(MEMORY);
    let mut client = server.open();
    // Half a write, then nobody is there.
    client.send(WRITE, 0, 0, 4096, &[1; 100]);
    drop(client);
    let mut client: Client = server.open();
    client.stream.write_all(&[0; 28]).unwrap();
    assert!(client.is_closed());
    assert_eq!(server.open().read(0, 4), Ok(vec![0; 4]));
}

#[test]
fn item_56_no_structured_replies() {
    let server = Server::with(LEAST, &["--no-sr"]);
    assert_eq!(server.connect().option(STRUCTURED_REPLY, &[]).unwrap()[0].0, 0x8000_0001);
}
