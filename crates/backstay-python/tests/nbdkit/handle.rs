//! The handle and its capabilities (items 18 to 31).

use super::LEAST;
use super::client::{ERR_PLATFORM, ERR_UNKNOWN, EXPORT_NAME, INFO};
use super::server::Server;

const NAME: u16 = 1;
const DESCRIPTION: u16 = 2;
const BLOCK_SIZE: u16 = 3;

/// A script that executes what a parameter `do` says before it serves.
fn with(code: &str) -> Server {
    Server::start(&format!(
        "import nbdkit, sys\nsay = lambda *a: print(*a, file=sys.stderr, flush=True)\n{LEAST}{code}"
    ))
}

/// Lines that the script said.
fn said(server: Server) -> Vec<String> {
    server.end().stderr.lines().map(str::to_owned).collect()
}

#[test]
fn item_18_order_of_the_questions() {
    let mut code = String::new();
    let questions = "get_size can_write can_zero can_fast_zero can_trim can_fua can_flush is_rotational can_multi_conn \
                     can_cache can_extents";
    for name in questions.split_whitespace() {
        let value = match name {
            "get_size" => "512",
            "can_fua" | "can_cache" => "2",
            _ => "True",
        };
        code += &format!("def {name}(h): say('{name}'); return {value}\n");
    }
    let server = with(&code);
    let mut client = server.open();
    client.read(0, 16).unwrap();
    client.leave();
    assert_eq!(said(server), questions.split_whitespace().collect::<Vec<_>>());
    let server = Server::with(
        &format!("import sys\nsay = lambda *a: print(*a, file=sys.stderr, flush=True)\n{LEAST}{code}"),
        &["-r"],
    );
    server.open().leave();
    assert_eq!(said(server).join(" "), "get_size can_flush is_rotational can_multi_conn can_cache can_extents");
}

#[test]
fn item_19_info_then_go() {
    let server = with("def open(r): say('open')\ndef close(h): say('close')\n");
    let mut client = server.connect();
    client.ask(INFO, b"", &[]).unwrap();
    client.go(b"", &[]).unwrap();
    client.leave();
    assert_eq!(said(server), ["open", "close", "open", "close"]);
}

#[test]
fn item_20_open_may_return_none() {
    let server = with("def open(r): return None\ndef pread(h, c, o): assert h is None; return bytes(c)\n");
    assert_eq!(server.open().read(0, 4), Ok(vec![0; 4]));
}

#[test]
fn item_21_open_that_raises() {
    let server = with("def open(r):\n  if nbdkit.export_name() != 'good': raise ValueError('bad')\n");
    let mut client = server.connect();
    assert_eq!(client.go(b"bad", &[]), Err(ERR_UNKNOWN));
    assert!(client.go(b"good", &[]).is_ok());
    let mut client = server.connect();
    client.send_option(EXPORT_NAME, b"bad");
    assert!(client.is_closed());
    assert!(server.connect().go(b"good", &[]).is_ok());
}

#[test]
fn item_22_sizes() {
    let server =
        with("class I:\n  def __index__(self): return 4096\ndef get_size(h): return eval(nbdkit.export_name())\n");
    for (size, number) in [("0", 0), ("True", 1), ("2 ** 63 - 1", i64::MAX.unsigned_abs()), ("I()", 4096)] {
        let mut client = server.connect();
        client.go(size.as_bytes(), &[]).unwrap();
        assert_eq!(client.size, number);
    }
    for size in ["-1", "-5", "2 ** 63", "1.5", "'5'", "None"] {
        assert_eq!(server.connect().go(size.as_bytes(), &[]), Err(ERR_UNKNOWN), "{size}");
    }
}

#[test]
fn item_23_flags_by_what_is_defined() {
    const FLAGS: [(&str, u16); 9] = [
        ("READ_ONLY", 2),
        ("FLUSH", 4),
        ("FUA", 8),
        ("ROTATIONAL", 16),
        ("TRIM", 32),
        ("WRITE_ZEROES", 64),
        ("MULTI_CONN", 256),
        ("CACHE", 1024),
        ("FAST_ZERO", 2048),
    ];
    let table = [
        ("", "", "READ_ONLY"),
        ("pwrite", "", "WRITE_ZEROES FAST_ZERO"),
        ("pwrite flush", "", "FLUSH FUA WRITE_ZEROES FAST_ZERO"),
        ("pwrite zero", "", "WRITE_ZEROES"),
        ("pwrite zero", "can_zero = lambda h: False", "WRITE_ZEROES FAST_ZERO"),
        ("pwrite", "can_zero = lambda h: True", "WRITE_ZEROES"),
        ("pwrite flush trim zero cache", "", "FLUSH FUA TRIM WRITE_ZEROES CACHE"),
        ("flush trim zero cache", "", "READ_ONLY FLUSH CACHE"),
        ("", "can_write = lambda h: True", "WRITE_ZEROES FAST_ZERO"),
        ("pwrite", "can_fua = lambda h: 2", "FUA WRITE_ZEROES FAST_ZERO"),
        ("", "is_rotational = can_multi_conn = lambda h: True", "READ_ONLY ROTATIONAL MULTI_CONN"),
    ];
    for (defined, more, expected) in table {
        let callbacks: String = defined.split_whitespace().map(|name| format!("def {name}(*a): pass\n")).collect();
        let server = with(&format!("{callbacks}{more}\n"));
        let flags = server.open().flags;
        let names: Vec<_> = FLAGS.iter().filter(|(_, bit)| flags & bit != 0).map(|(name, _)| *name).collect();
        assert_eq!(names.join(" "), expected, "{defined}; {more}");
    }
}

#[test]
fn item_24_only_true_is_true() {
    let server = with("def pwrite(*a): pass\ncan_write = can_multi_conn = lambda h: 1\n");
    assert_eq!(server.open().flags & (2 | 256), 2);
}

#[test]
fn item_25_can_fua_and_questions_that_fail() {
    let code = "def pwrite(*a): pass\ncan_fua = lambda h: eval(nbdkit.export_name())\n";
    let server = with(code);
    let mut client = server.connect();
    client.go(b"True", &[]).unwrap();
    assert_ne!(client.flags & 8, 0);
    for wrong in ["None", "-1", "1 / 0"] {
        assert_eq!(server.connect().go(wrong.as_bytes(), &[]), Err(ERR_UNKNOWN), "{wrong}");
    }
    let server = with("def can_extents(h): raise ValueError('no')\n");
    assert_eq!(server.connect().go(b"", &[]), Err(ERR_UNKNOWN));
}

#[test]
fn item_26_no_multi_conn_where_connections_are_serialized() {
    let server = with("can_multi_conn = lambda h: True\ndef thread_model(): return 0\n");
    assert_eq!(server.open().flags & 256, 0);
}

#[test]
fn item_27_block_sizes() {
    let server = with("block_size = lambda h: eval(nbdkit.export_name())\n");
    let ask = |size: &str, wanted: &[u16]| server.connect().ask(INFO, size.as_bytes(), wanted);
    let infos = ask("(512, 4096, 65536)", &[BLOCK_SIZE]).unwrap();
    assert_eq!(infos[1], (BLOCK_SIZE, [512_u32, 4096, 65536].iter().flat_map(|number| number.to_be_bytes()).collect()));
    assert_eq!(ask("(512, 4096, 65536)", &[]).unwrap().len(), 1);
    assert_eq!(ask("(0, 0, 0)", &[BLOCK_SIZE]).unwrap().len(), 1);
    for wrong in [
        "[512, 4096, 65536]",
        "(512, 4096)",
        "(3, 4096, 65536)",
        "(512, 4095, 65536)",
        "(512, 256, 65536)",
        "(512, 4096, 65537)",
        "(131072, 131072, 131072)",
        "1 / 0",
    ] {
        assert_eq!(ask(wrong, &[BLOCK_SIZE]), Err(0), "{wrong}");
    }
    let mut client = server.connect();
    client.go(b"(512, 4096, 65536)", &[BLOCK_SIZE]).unwrap();
    assert_eq!(client.read(1, 1), Ok(vec![0]));
}

#[test]
fn item_28_descriptions() {
    let server = with("export_description = lambda h: eval(nbdkit.export_name())\n");
    for (name, expected) in [("'text'", Some("text")), ("b'raw'", Some("raw")), ("''", Some(""))]
        .into_iter()
        .chain(["None", "5", "'x' * 4097", "1 / 0"].map(|name| (name, None)))
    {
        let infos = server.connect().go(name.as_bytes(), &[DESCRIPTION]).unwrap();
        let description = infos.iter().find(|(number, _)| *number == DESCRIPTION).map(|(_, text)| text.as_slice());
        assert_eq!(description, expected.map(str::as_bytes), "{name}");
    }
}

#[test]
fn item_29_lists() {
    let pair = |name: &str, description: &str| (name.to_owned(), description.to_owned());
    for (value, expected) in [
        ("['a', ('b', 'c')]", vec![pair("a", ""), pair("b", "c")]),
        ("'xy'", vec![pair("x", ""), pair("y", "")]),
        ("(name for name in [b'g'])", vec![pair("g", "")]),
        ("[]", vec![]),
    ] {
        let server = with(&format!("def list_exports(r, t): return {value}\n"));
        assert_eq!(server.connect().list(), Ok(expected), "{value}");
    }
    for wrong in
        ["5", "[['a', 'b']]", "[('a',)]", "[None]", "[1]", "[('a', None)]", "['x' * 4097]", "['a'] * 10001", "1 / 0"]
    {
        let server = with(&format!("def list_exports(r, t): return {wrong}\n"));
        let mut client = server.connect();
        assert_eq!(client.list(), Err(ERR_PLATFORM), "{wrong}");
        assert!(client.go(b"", &[]).is_ok());
    }
}

#[test]
fn item_30_the_default_export() {
    let server =
        with("def default_export(r, t): return 'dd'\ndef export_description(h): return nbdkit.export_name()\n");
    assert_eq!(server.connect().list(), Ok(vec![("dd".to_owned(), String::new())]));
    let infos = server.connect().go(b"", &[NAME, DESCRIPTION]).unwrap();
    assert_eq!(infos[1..], [(NAME, b"dd".to_vec()), (DESCRIPTION, b"dd".to_vec())]);
    let server = with("def default_export(r, t): return None\n");
    let mut client = server.connect();
    assert_eq!(client.list(), Ok(vec![]));
    assert_eq!(client.go(b"", &[]), Err(ERR_UNKNOWN));
    assert!(client.go(b"a", &[]).is_ok());
}

#[test]
fn item_31_preconnect_and_close_that_raise() {
    let server = Server::start(&format!("{LEAST}def close(h): raise ValueError('no')\n"));
    server.open().leave();
    let ended = server.end();
    assert_eq!(ended.status.code(), Some(0));
    assert!(ended.stderr.contains("close: error"), "{}", ended.stderr);
    let server = Server::start(&format!("{LEAST}def preconnect(r): raise ValueError('no')\n"));
    assert!(super::client::Client::try_connect(&server.socket).is_err());
}
