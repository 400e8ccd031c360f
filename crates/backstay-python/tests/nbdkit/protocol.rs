//! The protocol through a script (items 45 to 56); the rest of these items is tested where the protocol is, in `crates/nbd`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::client::{Client, EXPORT_NAME, READ, STRUCTURED_REPLY, TRIM, WRITE, WRITE_ZEROES};
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
fn item_56_no_structured_replies_and_no_encryption() {
    let server = Server::with(LEAST, &["--no-sr"]);
    assert_eq!(server.connect().option(STRUCTURED_REPLY, &[]).unwrap()[0].0, 0x8000_0001);
    // STARTTLS.
    assert_eq!(Server::start(LEAST).connect().option(5, &[]).unwrap()[0].0, 0x8000_0002);
}
