//! Reading, writing and everything else on the data (items 32 to 44).

use super::client::{CACHE, Client, DF, FAST_ZERO, FLUSH, FUA, NO_HOLE, READ, REQ_ONE, TRIM, WRITE, WRITE_ZEROES};
use super::server::Server;
use super::{LEAST, MEMORY};

/// What the script wrote down, read through the disk.
const SEEN: &str = "
def pread(h, buf, offset, flags): buf[:] = '\\n'.join(seen).encode().ljust(len(buf), b'.')[:len(buf)]
";

fn seen(client: &mut Client) -> Vec<String> {
    let text = String::from_utf8(client.read(0, 600).unwrap()).unwrap();
    text.trim_end_matches('.').lines().map(str::to_owned).collect()
}

#[test]
fn item_32_the_views() {
    let check = "assert type(buf) is memoryview and buf.format == 'B' and buf.itemsize == 1 and buf.ndim == 1 and buf.contiguous and len(buf) == 16";
    let server = Server::start(&format!(
        "{LEAST}API_VERSION = 2\ndef pread(h, buf, offset, flags):\n  {check}\n  assert not buf.readonly\n\
         def pwrite(h, buf, offset, flags):\n  {check}\n  assert buf.readonly\n"
    ));
    let mut client = server.open();
    assert_eq!((client.read(0, 16), client.write(0, &[1; 16])), (Ok(vec![0; 16]), 0), "{}", server.stderr());
    let server = Server::start(&format!("{LEAST}def pwrite(h, buf, offset):\n  {check}\n  assert buf.readonly\n"));
    assert_eq!(server.open().write(0, &[1; 16]), 0);
}

#[test]
fn item_33_what_version_one_may_return() {
    let server = Server::start(&format!(
        "{LEAST}import array\nkinds = [lambda c: b'x' * c, lambda c: bytearray(b'x' * (c + 7)), lambda c: array.array('I', [2021161080] * c), lambda c: memoryview(b'x' * c), lambda c: bytes(c - 1), lambda c: None, lambda c: 'x' * c, lambda c: memoryview(bytes(2 * c))[::2]]\n\
         def pread(h, c, o): return kinds[o](c)\n"
    ));
    let mut client = server.open();
    for length in [4, 100_000] {
        for kind in 0..4 {
            assert_eq!(client.read(kind, length), Ok(vec![b'x'; length as usize]), "{kind}");
        }
        for kind in 4..8 {
            assert_eq!(client.read(kind, length), Err(5), "{kind}");
        }
    }
}

#[test]
fn item_34_what_version_two_may_do() {
    let server = Server::start(&format!(
        "{MEMORY}def pread(h, buf, offset, flags):\n  if offset == 1: buf[:] = b'xyz'\n  if offset == 2: buf[:] = b's' * len(buf)\n  return b'ignored'\n"
    ));
    let mut client = server.open();
    assert_eq!(client.read(1, 16), Err(5));
    assert_eq!(client.read(2, 4096), Ok(vec![b's'; 4096]));
    assert_eq!(client.write(0, &[7; 4096]), 0);
    assert_eq!(client.read(0, 4096), Ok(vec![0; 4096]));
}

#[test]
fn item_35_arguments_of_version_one() {
    let server = Server::start(&format!(
        "{LEAST}seen = []\ndef pread(h, c, o): return repr(seen).encode().ljust(c)\ndef pwrite(h, b, o): pass\n\
         def zero(h, c, o, may_trim): seen.append(may_trim)\ndef flush(h): seen.append('flush')\n\
         def trim(h, c, o): seen.append('trim')\ndef cache(h, c, o, f): seen.append('cache')\n\
         def extents(h, c, o, f): seen.append('extents'); return [(o, c, 0)]\n"
    ));
    let mut client = server.connect();
    client.structured();
    client.meta_context(b"");
    client.go(b"", &[]).unwrap();
    for (command, flags, count) in
        [(WRITE_ZEROES, 0, 8), (WRITE_ZEROES, NO_HOLE, 8), (FLUSH, 0, 0), (TRIM, 0, 8), (CACHE, 0, 8)]
    {
        assert_eq!(client.request(command, flags, 0, count, &[]), 0, "{command}");
    }
    assert_eq!(client.block_status(0, 0, 512), Ok(vec![(512, 0)]));
    client.send(READ, 0, 0, 60, &[]);
    let (_, payload) = client.chunk();
    let text = String::from_utf8_lossy(&payload[8..]).into_owned();
    assert_eq!(text.trim_end(), "[True, False, 'flush', 'trim', 'cache', 'extents']");
}

#[test]
fn item_36_errors() {
    let server = Server::start(&format!(
        "{LEAST}import nbdkit, errno, sys\ndef fail(): raise OSError(errno.ENOSPC, 'x')\n\
         def pread(h, c, o):\n  if o == 1: nbdkit.set_error(errno.ENOSPC)\n  if o == 2: nbdkit.set_error(errno.ENOSPC); return bytes(c)\n  if o == 3: nbdkit.set_error(0)\n  if o == 4: sys.exit()\n  if o == 5: raise KeyboardInterrupt\n  fail()\n"
    ));
    let mut client = server.open();
    for (offset, error) in [(0, 5), (1, 28), (0, 5), (3, 5), (4, 5), (5, 5)] {
        assert_eq!(client.read(offset, 4), Err(error), "{offset}");
    }
    assert_eq!(client.read(2, 4), Ok(vec![0; 4]));
    assert_eq!(client.read(0, 4), Err(5));
}

#[test]
fn item_37_errno_to_nbd() {
    let server = Server::start(&format!(
        "{LEAST}import nbdkit\ndef pread(h, c, o): nbdkit.set_error(o); raise ValueError('x')\n"
    ));
    let mut client = server.open();
    for (errno, error) in [
        (libc_errno::EPERM, 1),
        (libc_errno::EROFS, 1),
        (libc_errno::EIO, 5),
        (libc_errno::ENOMEM, 12),
        (libc_errno::ENOSPC, 28),
        (libc_errno::EDQUOT, 28),
        (libc_errno::EFBIG, 28),
        (libc_errno::ESHUTDOWN, 108),
        (libc_errno::EOPNOTSUPP, 22),
        (libc_errno::EOVERFLOW, 22),
        (libc_errno::EINVAL, 22),
        (libc_errno::ENOENT, 22),
        (libc_errno::EACCES, 22),
    ] {
        assert_eq!(client.read(errno, 1), Err(error), "{errno}");
    }
    // What one chunk cannot hold is an error of its own only for who asked for one chunk.
    let mut client = server.connect();
    client.structured();
    client.go(b"", &[]).unwrap();
    for (flags, errno, error) in
        [(DF, libc_errno::EOVERFLOW, 75_u32), (0, libc_errno::EOVERFLOW, 22), (DF, libc_errno::EOPNOTSUPP, 22)]
    {
        client.send(READ, flags, errno, 1, &[]);
        let (kind, payload) = client.chunk();
        assert_eq!((kind, &payload[..4]), (0x8001, &error.to_be_bytes()[..]), "{flags} {errno}");
    }
}

/// The numbers of Linux.
mod libc_errno {
    pub(super) const EPERM: u64 = 1;
    pub(super) const ENOENT: u64 = 2;
    pub(super) const EIO: u64 = 5;
    pub(super) const ENOMEM: u64 = 12;
    pub(super) const EACCES: u64 = 13;
    pub(super) const EINVAL: u64 = 22;
    pub(super) const EFBIG: u64 = 27;
    pub(super) const ENOSPC: u64 = 28;
    pub(super) const EROFS: u64 = 30;
    pub(super) const EOVERFLOW: u64 = 75;
    pub(super) const EOPNOTSUPP: u64 = 95;
    pub(super) const ESHUTDOWN: u64 = 108;
    pub(super) const EDQUOT: u64 = 122;
}

#[test]
fn item_38_tracebacks() {
    let server = Server::start(&format!(
        "{LEAST}def three(): raise ValueError('deep down')\ndef two(): three()\ndef pread(h, c, o): two()\n"
    ));
    let mut client = server.open();
    assert_eq!(client.read(0, 1), Err(5));
    drop(client);
    let path = server.script.path.clone();
    let stderr = server.end().stderr;
    let number = stderr.split("nbdkit: python[").nth(1).unwrap().split(']').next().unwrap().to_owned();
    assert!(stderr.contains(&format!("nbdkit: python[{number}]: error: {path}: pread: error: Traceback")), "{stderr}");
    for part in ["in pread", "in two", "in three", "ValueError: deep down"] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
}

/// A memory disk that says what it was asked; `zero` as the offset says.
const ZERO: &str = "
def say(e): nbdkit.set_error(e)
def fail(e): raise OSError(e, 'x')
ways = [lambda: None, lambda: say(95), lambda: (say(95), fail(5)), lambda: fail(95), lambda: (say(28), fail(5))]
def zero(h, count, offset, flags):
    seen.append('zero %d %d %d' % (count, offset, flags))
    ways[offset]()
def can_fast_zero(h): return True
";

#[test]
fn item_39_zeroing() {
    let server = Server::start(&format!("{MEMORY}{SEEN}"));
    let mut client = server.open();
    assert_eq!(client.request(WRITE_ZEROES, 0, 3, 8, &[]), 0);
    assert_eq!(client.request(WRITE_ZEROES, FAST_ZERO, 3, 8, &[]), 95);
    assert_eq!(seen(&mut client), ["pwrite 8 3 0"]);
    let server = Server::start(&format!("{MEMORY}{SEEN}{ZERO}"));
    let mut client = server.open();
    for (offset, flags, error, calls) in [
        (0, 0, 0, &["zero 8 0 1"][..]),
        (0, NO_HOLE, 0, &["zero 8 0 0"]),
        (1, 0, 0, &["zero 8 1 1", "pwrite 8 1 0"]),
        (2, 0, 0, &["zero 8 2 1", "pwrite 8 2 0"]),
        (3, 0, 5, &["zero 8 3 1"]),
        (4, 0, 28, &["zero 8 4 1"]),
        (1, FAST_ZERO, 95, &["zero 8 1 9"]),
        (2, FAST_ZERO, 95, &["zero 8 2 9"]),
    ] {
        let before = seen(&mut client).len();
        assert_eq!(client.request(WRITE_ZEROES, flags, offset, 8, &[]), error, "{offset} {flags}");
        assert_eq!(seen(&mut client)[before..], *calls, "{offset} {flags}");
    }
}

#[test]
fn item_40_large_zeroing_by_writing() {
    let large = "def get_size(h): return 1 << 30\ndef pwrite(h, buf, offset, flags): seen.append('%d %d' % (len(buf), offset))\n";
    let refusal = "def zero(h, c, o, f): nbdkit.set_error(95)\n";
    for more in ["", refusal] {
        let server = Server::start(&format!("{MEMORY}{SEEN}{large}{more}"));
        let mut client = server.open();
        let mib = 1 << 20;
        assert_eq!(client.request(WRITE_ZEROES, 0, 5, 150 * mib, &[]), 0);
        let expected: Vec<_> =
            [(64, 0), (64, 64), (22, 128)].iter().map(|(l, o)| format!("{} {}", l * mib, 5 + o * mib)).collect();
        assert_eq!(seen(&mut client), expected);
    }
}

#[test]
fn item_41_force_unit_access() {
    let more = "def flush(h, flags): seen.append('flush %d' % flags)\ndef trim(h, c, o, f): seen.append('trim %d' % f)\n\
                def zero(h, c, o, f): seen.append('zero %d' % f)\n";
    let emulated = Server::start(&format!("{MEMORY}{SEEN}{more}"));
    let native = Server::start(&format!("{MEMORY}{SEEN}{more}def can_fua(h): return 2\n"));
    let fallback = Server::start(&format!("{MEMORY}{SEEN}{more}del zero\n"));
    let run = |server: &Server| {
        let mut client = server.open();
        assert_eq!(client.request(WRITE, FUA, 0, 4, b"abcd"), 0);
        assert_eq!(client.request(TRIM, FUA, 0, 4, &[]), 0);
        assert_eq!(client.request(WRITE_ZEROES, FUA | NO_HOLE, 0, 4, &[]), 0);
        assert_eq!(client.request(FLUSH, FUA, 0, 0, &[]), 0);
        assert_eq!(client.request(READ, FUA, 0, 1, &[]), 0);
        let mut byte = [0];
        std::io::Read::read_exact(&mut client.stream, &mut byte).unwrap();
        seen(&mut client)
    };
    let flush = "flush 0";
    assert_eq!(run(&emulated), ["pwrite 4 0 0", flush, "trim 0", flush, "zero 0", flush, flush]);
    assert_eq!(run(&native), ["pwrite 4 0 2", "trim 2", "zero 2", flush]);
    assert_eq!(run(&fallback), ["pwrite 4 0 0", flush, "trim 0", flush, "pwrite 4 0 0", flush, flush]);
    let none = Server::start(&format!("{MEMORY}{SEEN}{more}def can_fua(h): return 0\n"));
    let mut client = none.open();
    for (command, count, data) in
        [(WRITE, 4, &b"abcd"[..]), (TRIM, 4, b""), (WRITE_ZEROES, 4, b""), (FLUSH, 0, b""), (READ, 1, b"")]
    {
        assert_eq!(client.request(command, FUA, 0, count, data), 22, "{command}");
    }
    assert_eq!(seen(&mut client), [""; 0]);
}

#[test]
fn item_42_caching() {
    let note = "def pread(h, buf, offset, flags):\n  if len(buf) == 600: buf[:] = '\\n'.join(seen).encode().ljust(600, b'.')\n  else: seen.append('pread %d %d' % (len(buf), offset))\n";
    let emulated = Server::start(&format!("{MEMORY}{note}def can_cache(h): return 1\n"));
    let mut client = emulated.open();
    assert_eq!(client.request(CACHE, 0, 5, 100, &[]), 0);
    assert_eq!(seen(&mut client), ["pread 100 5"]);
    let native =
        Server::start(&format!("{MEMORY}{note}def cache(h, c, o, f): seen.append('cache %d %d %d' % (c, o, f))\n"));
    let mut client = native.open();
    assert_eq!(client.request(CACHE, 0, 5, 100, &[]), 0);
    assert_eq!(seen(&mut client), ["cache 100 5 0"]);
    assert_eq!(Server::start(MEMORY).open().request(CACHE, 0, 0, 1, &[]), 22);
}

#[test]
fn item_43_extents() {
    let server = Server::start(&format!(
        "{LEAST}import nbdkit\ndef get_size(h): return 1000\ndef some(items):\n  yield from items\n  raise ValueError('x')\n\
         class T(tuple): pass\ndef extents(h, count, offset, flags): return eval(nbdkit.export_name())\n"
    ));
    let ask = |value: &str, flags: u16| {
        let mut client = server.connect();
        client.structured();
        client.meta_context(value.as_bytes());
        client.go(value.as_bytes(), &[]).unwrap();
        client.block_status(flags, 100, 200)
    };
    for (value, expected) in [
        ("[(100, 200, 0)]", vec![(200, 0)]),
        ("[(0, 1000, 3)]", vec![(900, 3)]),
        ("[(0, 150, 1), (150, 150, 2), (300, 10, 0)]", vec![(50, 1), (150, 2)]),
        ("[(0, 50, 0), (50, 100, 3), (150, 2000, 0), (2150, 5, 0)]", vec![(50, 3), (850, 0)]),
        ("[(100, 0, 1), (100, 50, 2), (150, 150, 2)]", vec![(200, 2)]),
        ("[(100, 50, 7)]", vec![(50, 3)]),
        ("[T((100, 200, True))]", vec![(200, 1)]),
        ("some([(100, 50, 1)])", vec![(50, 1)]),
    ] {
        assert_eq!(ask(value, 0), Ok(expected), "{value}");
    }
    assert_eq!(ask("[(0, 1000, 3)]", REQ_ONE), Ok(vec![(200, 3)]));
    assert_eq!(ask("[(100, 50, flags), (150, 150, 0)]", REQ_ONE), Ok(vec![(50, 0)]));
    assert_eq!(ask("[(0, 100, 0)]", 0), Err(22));
    for wrong in [
        "[(100, 50, 0), (151, 50, 0)]",
        "[(100, 50, 0), (149, 50, 0)]",
        "[(101, 50, 0)]",
        "[]",
        "5",
        "[[100, 200, 0]]",
        "[(100, 200)]",
        "[(-1, 200, 0)]",
        "some([])",
        "1 / 0",
    ] {
        assert_eq!(ask(wrong, 0), Err(5), "{wrong}");
    }
    let server = Server::start(LEAST);
    let mut client = server.connect();
    client.structured();
    client.meta_context(b"");
    client.go(b"", &[]).unwrap();
    assert_eq!(client.block_status(0, 100, 200), Ok(vec![(200, 0)]));
}

#[test]
fn item_44_promised_and_missing() {
    let server = Server::start(&format!(
        "{LEAST}can_write = can_flush = can_trim = can_extents = lambda h: True\ndef can_cache(h): return 2\n"
    ));
    let mut client = server.connect();
    client.structured();
    client.meta_context(b"");
    client.go(b"", &[]).unwrap();
    for (command, count, data) in [(WRITE, 4, &b"abcd"[..]), (FLUSH, 0, b""), (TRIM, 4, b""), (CACHE, 4, b"")] {
        assert_eq!(client.request(command, 0, 0, count, data), 5, "{command}");
    }
    assert_eq!(client.block_status(0, 0, 200), Ok(vec![(200, 0)]));
    let server = Server::start(&format!("{MEMORY}{SEEN}def can_zero(h): return True\ndef can_fua(h): return 1\n"));
    let mut client = server.open();
    assert_eq!(client.request(WRITE_ZEROES, 0, 0, 4, &[]), 0);
    assert_eq!(client.request(WRITE, FUA, 8, 4, b"abcd"), 5);
    assert_eq!(seen(&mut client), ["pwrite 4 0 0", "pwrite 4 8 0"]);
}
