//! Plugins and filters of our own through the whole program: in front of scripts, in any order, with real clients, and beside
//! the real nbdkit, which must give the same answers to the same command line.
#![allow(clippy::unwrap_used)] // also in helpers

#[allow(dead_code)] // what they have is for other tests too
#[path = "nbdkit/client.rs"]
mod client;
#[allow(dead_code)]
#[path = "nbdkit/server.rs"]
mod server;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use backstay_nbdkit_host::{filters, plugins};
use client::{CACHE, Client, FAST_ZERO, FLUSH, TRIM, WRITE_ZEROES};
use server::{Server, eventually, program, run, script, text};

/// The folder of the pages.
const PAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/nbdkit");

/// The least that a script of version 1 needs.
const LEAST: &str =
    "def open(readonly): return 1\ndef get_size(h): return 1 << 20\ndef pread(h, c, o): return bytes(c)\n";

/// A disk of 1 MiB whose bytes tell their place, version 2, that counts its reads.
const PLACES: &str = "
API_VERSION = 2
import nbdkit
data = bytearray((i >> 8) & 255 for i in range(1 << 20))
reads = 0
def thread_model(): return nbdkit.THREAD_MODEL_PARALLEL
def open(readonly): return 1
def get_size(h): return len(data)
def pread(h, buf, offset, flags):
    global reads
    reads += 1
    buf[:] = data[offset:offset + len(buf)]
def pwrite(h, buf, offset, flags): data[offset:offset + len(buf)] = buf
def flush(h, flags): pass
def config(key, value): pass
";

/// The byte of such a disk.
fn place(offset: u64) -> u8 {
    (offset >> 8) as u8
}

/// A script behind filters.
fn filtered(filters: &[&str], parameters: &[&str]) -> Server {
    let options: Vec<String> = filters.iter().map(|name| format!("--filter={name}")).collect();
    let mut arguments: Vec<&str> = options.iter().map(String::as_str).collect();
    arguments.extend(parameters);
    Server::with(PLACES, &arguments)
}

fn plugin(arguments: &[&str]) -> Server {
    Server::launch(script(""), arguments.iter().copied())
}

fn tool(name: &str, arguments: &[&str]) -> Output {
    let output = Command::new(name).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{name} cannot be started ({error}): run scripts/setup test"));
    assert!(output.status.success(), "{name} {arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    output
}

/// What a shell command beside a server prints: ours and the real one's.
fn both(arguments: &[&str], command: &str) -> [String; 2] {
    let folder = tempfile::tempdir().unwrap();
    let print = |mut server: Command, name: &str| {
        let folder = folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let output = server.args(arguments).args(["--run", command]).current_dir(&folder).output().unwrap();
        assert!(output.status.success(), "{name} {arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    let mut real = Command::new("nbdkit");
    real.args(["-U", "-"]);
    [print(program(&["-U", "-"]), "ours"), print(real, "real")]
}

#[test]
fn each_filter_in_front_of_a_script_gives_its_bytes() {
    // One call at a time, and any number of them.
    let serial = format!("{PLACES}def thread_model(): return nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS\n");
    for (name, script) in filters::NAMES.iter().flat_map(|name| [(name, PLACES), (name, &serial)]) {
        let server = Server::with(script, &["--filter", name]);
        let mut client = server.open();
        assert_eq!(client.size, 1 << 20, "{name}");
        for offset in [0, 512, 65_536, 70_000, (1 << 20) - 1000] {
            let bytes = client.read(offset, 1000).unwrap();
            assert!((offset..).zip(bytes).all(|(at, byte)| byte == place(at)), "{name} {offset}");
        }
        assert_eq!(client.write(70_000, b"written"), 0, "{name}");
        assert_eq!(client.read(70_000, 7), Ok(b"written".to_vec()), "{name}");
        assert_eq!(client.request(WRITE_ZEROES, 0, 0, 100_000, &[]), 0, "{name}");
        assert_eq!(client.request(FLUSH, 0, 0, 0, &[]), 0, "{name}");
        assert_eq!(client.read(99_999, 2), Ok(vec![0, place(100_000)]), "{name}");
        client.leave();
        let ended = server.end();
        assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(0), ""), "{name}");
    }
}

#[test]
fn filters_hand_on_what_is_not_theirs() {
    let script = format!(
        "{PLACES}\
         def list_exports(readonly, tls): return [('one', 'first'), ('two', 'second')]\n\
         def default_export(readonly, tls): return 'one'\n\
         def open(readonly): return nbdkit.export_name()\n\
         def export_description(h): return 'disk ' + h\n\
         def block_size(h): return (512, 8192, 1 << 20)\n\
         def is_rotational(h): return True\n"
    );
    for name in filters::NAMES {
        let server = Server::with(&script, &["--filter", name]);
        assert_eq!(
            server.connect().list().unwrap(),
            [("one".to_owned(), "first".to_owned()), ("two".to_owned(), "second".to_owned())],
            "{name}"
        );
        let mut client = server.connect();
        let infos = client.go(b"", &[1, 2, 3]).unwrap();
        let of = |kind: u16| infos.iter().find(|info| info.0 == kind).map(|info| info.1.clone());
        assert_eq!(of(1).as_deref(), Some(&b"one"[..]), "{name}");
        assert_eq!(of(2).as_deref(), Some(&b"disk one"[..]), "{name}");
        let best: u32 = if ["cow", "cache"].contains(name) { 65_536 } else { 8192 };
        let sizes: Vec<u8> = [512, best, 1 << 20].into_iter().flat_map(u32::to_be_bytes).collect();
        assert_eq!(of(3), Some(sizes), "{name}");
        assert_ne!(client.flags & 16, 0, "{name}: rotational");
    }
    let refusing = format!("{LEAST}def preconnect(readonly): raise ValueError('no')\n");
    for name in filters::NAMES {
        let folder = server::script(&refusing);
        let line = "nbdinfo --size \"$uri\" 2>&1";
        let output = program(&["-U", "-", "--filter", name, "python", &folder.path, "--run", line]).output().unwrap();
        assert_ne!(output.status.code(), Some(0), "{name}: {}", text(&output.stdout));
    }
    // Whole requests of 512 bytes cannot begin anywhere.
    let server = Server::with(&script, &["--filter=offset", "offset=100"]);
    assert!(server.connect().go(b"", &[]).is_err());
}

#[test]
fn dump_plugin_tells_the_magic_key_of_each_plugin() {
    for name in plugins::NAMES {
        let output = run(&[name, "--dump-plugin"]);
        let said = text(&output.stdout);
        let key = if *name == "file" { "file" } else { "size" };
        for line in [format!("name={name}"), format!("magic_config_key={key}"), "thread_model=parallel".to_owned()] {
            assert!(said.lines().any(|found| found == line), "{name}: {line}: {said}");
        }
        let help = text(&run(&[name, "--help"]).stdout);
        assert!(plugins::parameters(name).iter().all(|key| help.contains(&format!("{key}="))), "{help}");
    }
}

/// A client of an export.
fn client_of(server: &Server, export: &[u8]) -> client::Client {
    let mut client = server.connect();
    client.go(export, &[]).unwrap();
    client
}

#[test]
fn what_is_kept_for_a_disk_is_kept_under_all_its_names() {
    for name in ["cow", "cache", "readahead"] {
        let server = Server::with(PLACES, &["--filter", name]);
        let (mut one, mut other) = (client_of(&server, b""), client_of(&server, b"x"));
        // What one reads in a row is not old when the other has written.
        for at in 0..6 {
            one.read(at << 16, 1 << 16).unwrap();
        }
        assert_eq!((one.write(0, &[1; 512]), other.write(512, &[2; 512]), other.write(393_216, &[3; 512])), (0, 0, 0));
        for client in [&mut one, &mut other] {
            assert_eq!(client.request(FLUSH, 0, 0, 0, &[]), 0);
        }
        assert_eq!(one.read(393_216, 1), Ok(vec![3]), "{name}");
        let mut third = client_of(&server, b"third");
        assert_eq!(third.read(511, 2), Ok(vec![1, 2]), "{name}");
    }
    // A script that has a disk for each name keeps them apart.
    let script = "import nbdkit\ndisks = {}\n\
        def open(readonly): return disks.setdefault(nbdkit.export_name(), bytearray(1 << 20))\n\
        def get_size(h): return len(h)\ndef pread(h, c, o): return h[o:o + c]\n\
        def pwrite(h, buf, o): h[o:o + len(buf)] = buf\ndef flush(h): pass\n";
    for name in ["cow", "cache"] {
        let server = Server::with(script, &["--filter", name]);
        let (mut one, mut other) = (client_of(&server, b"one"), client_of(&server, b"other"));
        assert_eq!(one.write(0, b"1"), 0);
        assert_eq!((one.read(0, 1), other.read(0, 1)), (Ok(b"1".to_vec()), Ok(vec![0])), "{name}");
    }
}

#[test]
fn memory_that_is_not_there_is_told_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let output = run(&["-U", socket.to_str().unwrap(), "memory", "allocator=malloc", "size=9223372036854775807"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("9223372036854775807 bytes cannot be allocated"), "{output:?}");
}

#[test]
fn help_tells_the_parameters_of_the_filters_that_are_named() {
    for name in filters::NAMES {
        let help = text(&run(&["--filter", name, "memory", "--help"]).stdout);
        let own = help.split_once(&format!("\nfilter: {name}\n")).unwrap_or_else(|| panic!("{name}: {help}")).1;
        // Those of `error` for one kind of request are told together.
        let is_told = |key: &str| own.contains(&format!("{key}=")) || key.starts_with("error-");
        assert!(filters::parameters(name).iter().all(|key| is_told(key)), "{name}: {own}");
    }
}

#[test]
fn filters_go_in_any_order() {
    for order in [
        &["cow", "cache", "readahead"][..],
        &["readahead", "cache", "cow"],
        &["cache", "cow", "offset"],
        &["offset", "truncate", "log"],
        &["truncate", "offset", "cow"],
        &["cow", "delay", "rate"],
        &["error", "log", "cache"],
    ] {
        let server = filtered(order, &["offset=4096", "truncate=512k", "cow-block-size=4k", "rdelay=1ms"]);
        let mut client = server.open();
        let shift = if order.contains(&"offset") { 4096 } else { 0 };
        let bytes = client.read(1000, 5000).unwrap();
        assert!((1000 + shift..).zip(bytes).all(|(at, byte)| byte == place(at)), "{order:?}");
        assert_eq!(client.write(5000, &[9; 10_000]), 0, "{order:?}");
        assert_eq!(client.read(14_999, 2), Ok(vec![9, place(15_000 + shift)]), "{order:?}");
        let end = client.size;
        assert!(client.read(end - 1, 1).is_ok() && client.read(end - 1, 2).is_err(), "{order:?}");
        let size = match order {
            ["offset", "truncate", _] => (512 << 10) - 4096,
            ["truncate", ..] => 512 << 10,
            _ if shift > 0 => (1 << 20) - 4096,
            _ => 1 << 20,
        };
        assert_eq!(end, size, "{order:?}");
        assert_eq!(server.end().status.code(), Some(0), "{order:?}");
    }
}

#[test]
fn a_script_that_only_reads_can_be_written_through_cow_and_through_nothing_else() {
    let reads = "def open(readonly): return readonly\ndef get_size(h): return 1 << 20\n\
                 def pread(h, c, o): return bytes([int(h)]) * c\n";
    for name in filters::NAMES {
        let server = Server::with(reads, &["--filter", name]);
        let mut client = server.open();
        let written = client.write(0, b"x") == 0;
        assert_eq!((written, client.flags & 2 == 0), (*name == "cow", *name == "cow"), "{name}");
        // Cow opens what is behind it to be read.
        assert_eq!(client.read(70_000, 1), Ok(vec![u8::from(*name == "cow")]), "{name}");
    }
    let server = Server::with(reads, &["--filter=cow", "-r"]);
    let mut client = server.open();
    assert_ne!(client.write(0, b"x"), 0);
}

#[test]
fn what_cow_has_taken_ends_with_the_server() {
    let file = script("").folder;
    let path = file.path().join("disk");
    std::fs::write(&path, vec![7; 1 << 20]).unwrap();
    let server = plugin(&["--filter=cow", "file", path.to_str().unwrap()]);
    let mut client = server.open();
    assert_eq!(client.write(100, b"gone"), 0);
    assert_eq!(client.request(TRIM, 0, 65_536, 65_536, &[]), 0);
    assert_eq!(client.read(65_536, 4), Ok(vec![0; 4]));
    let mut other = server.open();
    assert_eq!(other.read(100, 4), Ok(b"gone".to_vec()));
    drop(server);
    assert!(std::fs::read(&path).unwrap() == vec![7; 1 << 20]);
}

#[test]
fn delays_end_with_the_server() {
    let server = filtered(&["delay"], &["rdelay=1000", "delay-close=1000"]);
    let mut client = server.open();
    client.send(client::READ, 0, 0, 4, &[]);
    // Whether or not the call has begun: nothing waits for it.
    let ended = server.end();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
}

#[test]
fn errors_are_injected_by_kind() {
    let server = filtered(&["error"], &["error-pwrite-rate=100%", "error-pwrite=ENOSPC"]);
    let mut client = server.open();
    assert_eq!(client.write(0, b"x"), 28);
    assert_eq!(client.read(0, 1), Ok(vec![0]));
    assert!(server.end().stderr.contains("]: error: injecting ENOSPC error into pwrite"));
}

#[test]
fn the_plugins_are_what_they_say() {
    let server = plugin(&["memory", "1M"]);
    let mut memory = server.open();
    assert_eq!(memory.write(4096, b"kept"), 0);
    assert_eq!(memory.read(4096, 4), Ok(b"kept".to_vec()));
    assert_eq!(memory.request(WRITE_ZEROES, FAST_ZERO, 0, 65_536, &[]), 0);
    assert_eq!(memory.request(CACHE, 0, 0, 65_536, &[]), 0);
    let server = plugin(&["null", "1M"]);
    let mut null = server.open();
    assert_eq!(null.write(4096, b"lost"), 0);
    assert_eq!(null.read(4096, 4), Ok(vec![0; 4]));
    let server = plugin(&["pattern", "1M"]);
    let mut pattern = server.open();
    assert_eq!(pattern.read(16, 8), Ok(16_u64.to_be_bytes().to_vec()));
    assert_eq!(pattern.write(16, &16_u64.to_be_bytes()), 0);
    assert_eq!(pattern.write(16, &17_u64.to_be_bytes()), 5);
}

#[test]
fn files_of_a_folder_are_exports() {
    let folder = script("").folder;
    for name in ["a", "b"] {
        std::fs::write(folder.path().join(name), name.repeat(512)).unwrap();
    }
    std::fs::remove_file(folder.path().join("script.py")).unwrap();
    let server = plugin(&["file", &format!("dir={}", folder.path().display()), "--filter=cow"]);
    let names: Vec<_> = server.connect().list().unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["a", "b"]);
    let open = |name: &[u8]| {
        let mut client: Client = server.connect();
        client.go(name, &[]).map(|_| client)
    };
    assert_eq!(open(b"a").unwrap().read(0, 2), Ok(b"aa".to_vec()));
    assert_eq!(open(b"a").unwrap().write(0, b"x"), 0);
    assert_eq!(open(b"b").unwrap().read(0, 2), Ok(b"bb".to_vec()));
    for name in ["", "c", "../a", "/etc/passwd"] {
        assert!(open(name.as_bytes()).is_err(), "{name}");
    }
}

#[test]
fn real_clients_copy_and_check() {
    let folder = script("").folder;
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let bytes: Vec<u8> = (0..2_u32 << 20).map(|at| (at >> 7) as u8 | 1).collect();
    std::fs::write(path("in"), &bytes).unwrap();
    std::fs::write(path("disk"), vec![0; bytes.len()]).unwrap();
    for arguments in [
        &["memory", "2M"][..],
        &["memory", "2M", "allocator=malloc"],
        &["file", &path("disk")],
        &["--filter=cow", "memory", "2M"],
        &["--filter=cache", "memory", "2M", "cache-on-read=true", "cache-max-size=1M"],
        &["--filter=readahead", "--filter=cache", "--filter=cow", "memory", "2M"],
    ] {
        let server = plugin(arguments);
        let out = path("out");
        tool("nbdcopy", &[&path("in"), &server.uri()]);
        tool("nbdcopy", &[&server.uri(), &out]);
        assert!(std::fs::read(&out).unwrap() == bytes, "{arguments:?}");
        let commands =
            ["write -P 7 4096 8192", "read -P 7 4096 8192", "write -z 4096 4096", "read -P 0 4096 4096", "flush"];
        let mut line = vec!["-f", "raw"];
        commands.iter().for_each(|command| line.extend(["-c", command]));
        let uri = server.uri();
        line.push(&uri);
        let output = tool("qemu-io", &line);
        assert!(!text(&output.stdout).contains("failed"), "{arguments:?}: {}", text(&output.stdout));
    }
}

#[test]
fn the_pattern_is_that_of_the_real_one() {
    for arguments in [
        &["pattern", "1000003"][..],
        &["pattern", "1M", "--filter=offset", "offset=1001", "range=100000"],
        &["pattern", "1000", "--filter=truncate", "round-up=64k"],
        &["pattern", "1M", "--filter=cow", "--filter=truncate", "truncate=500000"],
    ] {
        let [ours, real] = both(arguments, "nbdcopy \"$uri\" out && sha256sum out && wc -c < out");
        assert_eq!(ours, real, "{arguments:?}");
    }
}

#[test]
fn maps_are_those_of_the_real_one() {
    let write = "qemu-io -f raw -c 'write -P 3 65536 4096' -c 'write -P 1 393216 65536' -c 'write -P 0 196608 65536' \
                 -c 'discard 393216 65536' \"$uri\" > /dev/null && nbdinfo --map \"$uri\"";
    for arguments in [
        &["memory", "1M"][..],
        &["memory", "1M", "allocator=malloc"],
        &["null", "1M"],
        &["pattern", "1M", "-r"],
        &["memory", "1M", "--filter=cow"],
        &["memory", "1M", "--filter=offset", "offset=32k", "range=800k"],
        &["memory", "600k", "--filter=truncate", "truncate=1M"],
        &["memory", "2M", "--filter=truncate", "truncate=1M"],
        &["memory", "1M", "--filter=cow", "cow-block-size=4k"],
    ] {
        let command = if arguments.contains(&"-r") { "nbdinfo --map \"$uri\"" } else { write };
        let [ours, real] = both(arguments, command);
        assert_eq!(ours, real, "{arguments:?}");
    }
}

/// Lines of a log without times, and without what clients may do in another order.
fn shape(log: &str) -> Vec<String> {
    let lines = log.lines().map(|line| line.splitn(3, ' ').nth(2).unwrap_or_default().to_owned());
    lines.filter(|line| line.contains("connection=")).collect()
}

#[test]
fn log_lines_are_those_of_the_real_one() {
    let command = "/usr/bin/python3 -m nbd -u \"$uri\" -c 'h.pwrite(b\"1\" * 512, 0, nbd.CMD_FLAG_FUA)' -c 'h.pread(1024, 512)' \
                   -c 'h.zero(512, 0)' -c 'h.trim(4096, 0)' -c 'h.cache(4096, 0)' -c 'h.flush()' -c 'h.shutdown()'; \
                   for i in 1 2 3 4 5 6 7 8 9; do grep -q Disconnect log && break; sleep 0.1; done; cat log";
    let [ours, real] = both(&["--filter=log", "memory", "1M", "logfile=log"], command);
    assert_eq!(shape(&ours), shape(&real));
    assert!(shape(&ours).len() > 10, "{ours}");
    let [ours, real] =
        both(&["-r", "--filter=log", "memory", "1M", "logfile=log"], "nbdinfo --map \"$uri\" > map; cat log");
    let extents = |log: &str| shape(log).into_iter().filter(|line| line.contains("Extents")).collect::<Vec<_>>();
    assert_eq!(extents(&ours), extents(&real));
}

#[test]
fn readahead_asks_a_script_less_often() {
    let count = |filters: &[&str]| {
        let server = Server::with(
            &format!("{PLACES}import sys\ndef cleanup(): print(reads, file=sys.stderr)\n"),
            &filters
                .iter()
                .map(|name| format!("--filter={name}"))
                .collect::<Vec<_>>()
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>(),
        );
        let mut client = server.open();
        for offset in (0..1_u64 << 20).step_by(8192) {
            assert_eq!(client.read(offset, 8192).unwrap()[300], place(offset + 300), "{offset}");
        }
        client.leave();
        server.end().stderr.trim().parse::<u32>().unwrap()
    };
    assert_eq!(count(&[]), 128);
    let ahead = count(&["readahead"]);
    assert!(ahead < 40, "{ahead}");
}

#[test]
fn a_server_in_the_background_finds_its_files() {
    let folder = script("").folder;
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("disk"), vec![5; 4096]).unwrap();
    std::fs::create_dir(path("tmp")).unwrap();
    let arguments = ["-U", "socket", "-P", "pid", "file", "disk", "--filter=cow", "--filter=log", "logfile=log"];
    let output = program(&arguments).current_dir(&folder).env("TMPDIR", "tmp").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let number = eventually("the pid file", || std::fs::read_to_string(path("pid")).ok()?.trim().parse().ok());
    let mut client = Client::connect(&path("socket"));
    client.go(b"", &[]).unwrap();
    let found = (client.write(0, b"x"), client.read(0, 2));
    drop(client);
    let left = std::fs::read_dir(path("tmp")).unwrap().count();
    rustix::process::kill_process(rustix::process::Pid::from_raw(number).unwrap(), rustix::process::Signal::TERM)
        .unwrap();
    assert_eq!(found, (0, Ok(vec![b'x', 5])));
    assert_eq!(left, 0, "the temporary file has no name");
    assert!(std::fs::read_to_string(path("log")).unwrap().contains("Connect"));
}

#[test]
fn what_cannot_be_is_refused_in_one_line() {
    for (arguments, part) in [
        (&["memory"][..], "size=SIZE"),
        (&["memory", "size=x"], "size=x"),
        (&["memory", "1M", "colour=red"], "'colour'"),
        (&["memory", "1M", "allocator=zstd"], "use sparse"),
        (&["file", "/nonexistent"], "/nonexistent"),
        (&["--filter=cow", "memory", "1M", "cow-block-size=1000"], "cow-block-size=1000"),
        (&["--filter=nothing", "memory", "1M"], "there are cache, cow"),
        (&["--filter=error", "memory", "1M", "error-rate=3"], "error-rate=3"),
        (&["--filter=rate", "memory", "1M", "rate=0"], "rate=0"),
        (&["memory", "1M", "rdelay=1"], "'rdelay'"),
    ] {
        let output = run(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains(part) && said.lines().count() == 1, "{arguments:?}: {said}");
    }
    let output = program(&["--filter=cow", "memory", "1M"]).env("TMPDIR", "/nonexistent").output().unwrap();
    assert!(text(&output.stderr).contains("set TMPDIR"), "{}", text(&output.stderr));
}

#[test]
fn every_plugin_and_filter_has_a_page_that_names_all_its_parameters() {
    let headings = ["NAME", "SYNOPSIS", "DESCRIPTION", "PARAMETERS", "EXAMPLES", "LIMITS", "SEE ALSO"];
    let plugins = plugins::NAMES.iter().map(|name| ("plugins", *name, plugins::parameters(name)));
    let filters = filters::NAMES.iter().map(|name| ("filters", *name, filters::parameters(name)));
    for (kind, name, parameters) in plugins.chain(filters) {
        let path = Path::new(PAGES).join(kind).join(name).with_extension("md");
        let page = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let found: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(found, headings, "{name}");
        for parameter in parameters {
            assert!(page.contains(&format!("`{parameter}=")), "{name}: {parameter}");
        }
        assert!(page.contains("backstay nbdkit "), "{name}");
        let link = format!("nbdkit/{kind}/{name}.md");
        for index in ["adapters/nbdkit.md", "README.md"] {
            let index = Path::new(PAGES).join("..").join(index);
            assert!(std::fs::read_to_string(&index).unwrap().contains(&link), "{link} in {}", index.display());
        }
    }
}
