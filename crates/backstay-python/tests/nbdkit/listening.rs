//! Where the server listens, as whom, and what its process is like, beyond the checklist's items.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Stdio};

use super::LEAST;
use super::client::READ;
use super::server::{Server, eventually, program, script, text};

/// A script whose reads answer what an expression says.
fn tells(expression: &str) -> String {
    format!("{LEAST}import os, socket\ndef pread(h, c, o): return str({expression}).encode()[:c].ljust(c)\n")
}

fn told(server: &Server) -> String {
    text(&server.open().read(0, 200).unwrap()).trim_end().to_owned()
}

/// Says loudly, past the test harness, that a test cannot be run here.
fn skip(test: &str, reason: &str) {
    std::io::stderr().write_all(format!("SKIPPED {test}: {reason}\n").as_bytes()).unwrap();
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A server on TCP, ended with the value.
struct Tcp {
    child: Child,
    stream: TcpStream,
}

impl Tcp {
    /// The first data of a client on this address: what the script tells.
    fn told(content: &str, address: &str, arguments: &[&str]) -> String {
        let port = TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port();
        let script = script(content);
        let child = program(&["-f", "-p", &port.to_string(), "python", &script.path]).args(arguments).spawn().unwrap();
        let stream = eventually("the port", || TcpStream::connect((address, port)).ok());
        let mut tcp = Self { child, stream };
        tcp.read()
    }

    /// By the plain old option: flags, EXPORT_NAME, one read.
    fn read(&mut self) -> String {
        self.stream.read_exact(&mut [0; 18]).unwrap();
        let export_name = [&3_u32.to_be_bytes()[..], b"IHAVEOPT", &1_u32.to_be_bytes(), &0_u32.to_be_bytes()].concat();
        self.stream.write_all(&export_name).unwrap();
        self.stream.read_exact(&mut [0; 10]).unwrap();
        let head =
            [&0x2560_9513_u32.to_be_bytes()[..], &0_u16.to_be_bytes(), &READ.to_be_bytes(), &7_u64.to_be_bytes()];
        let range = [&0_u64.to_be_bytes()[..], &100_u32.to_be_bytes()];
        self.stream.write_all(&[head.concat(), range.concat()].concat()).unwrap();
        let mut answer = [0; 116];
        self.stream.read_exact(&mut answer).unwrap();
        text(&answer[16..]).trim_end().to_owned()
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Options of the sockets that the process has, as the script sees them.
const OPTIONS: &str = "
def options(level, name):
    found = []
    for fd in os.listdir('/proc/self/fd'):
        try: one = socket.socket(fileno=os.dup(int(fd)))
        except OSError: continue
        if one.family != socket.AF_UNIX:
            try: one.getpeername()
            except OSError: continue
            found.append(one.getsockopt(level, name))
        one.close()
    return found
";

#[test]
fn tcp_in_both_families() {
    assert_eq!(Tcp::told(&tells("'four'"), "127.0.0.1", &["-4", "-i", "127.0.0.1"]), "four");
    if TcpListener::bind("[::1]:0").is_err() {
        skip("tcp_in_both_families", "this host has no IPv6");
        return;
    }
    assert_eq!(Tcp::told(&tells("'six'"), "::1", &["-6", "-i", "::1"]), "six");
    assert_eq!(Tcp::told(&tells("'any'"), "::1", &[]), "any", "all interfaces");
    assert_eq!(Tcp::told(&tells("'name'"), "127.0.0.1", &["-i", "localhost"]), "name");
}

#[test]
fn tcp_goes_without_delay_and_is_kept_alive_where_asked() {
    let nodelay = format!("{}{OPTIONS}", tells("options(socket.IPPROTO_TCP, socket.TCP_NODELAY)"));
    assert_eq!(Tcp::told(&nodelay, "127.0.0.1", &["-i", "127.0.0.1"]), "[1]");
    let alive = format!("{}{OPTIONS}", tells("options(socket.SOL_SOCKET, socket.SO_KEEPALIVE)"));
    assert_eq!(Tcp::told(&alive, "127.0.0.1", &["-i", "127.0.0.1"]), "[0]");
    assert_eq!(Tcp::told(&alive, "127.0.0.1", &["-i", "127.0.0.1", "--keepalive"]), "[1]");
}

#[test]
fn two_servers_do_not_share_a_port() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    let script = script(LEAST);
    let output = program(&["-f", "-p", &port, "-i", "127.0.0.1", "python", &script.path]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).to_lowercase().contains("in use"), "{}", text(&output.stderr));
}

#[test]
fn virtual_machines_reach_it_by_vsock() {
    let family = "import socket; s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM); s.bind((socket.VMADDR_CID_ANY, 0)); \
                  s.listen(); c = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM); c.connect((1, s.getsockname()[1]))";
    let tried = std::process::Command::new("/usr/bin/python3").args(["-c", family]).output().unwrap();
    if !tried.status.success() {
        skip("virtual_machines_reach_it_by_vsock", "this kernel has no loopback for AF_VSOCK");
        return;
    }
    let script = script(&tells("'vsock'"));
    let command = "/usr/bin/python3 -m nbd -u \"$uri\" -c 'assert h.pread(5, 0) == b\"vsock\"'";
    let output = program(&["--vsock", "-p", "10999", "python", &script.path, "--run", command]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn it_becomes_the_user_and_group_after_the_socket_is_bound() {
    if !is_root() {
        skip("it_becomes_the_user_and_group", "only root can become somebody else");
        return;
    }
    let server = Server::with(&tells("(os.getuid(), os.getgid(), os.getgroups())"), &["-u", "65534", "-g", "nogroup"]);
    assert_eq!(told(&server), "(65534, 65534, [65534])");
    let server = Server::with(&tells("os.getuid()"), &["-u", "nobody"]);
    assert_eq!(told(&server), "65534");
}

#[test]
fn all_its_memory_is_locked_where_asked() {
    let locked = "[line.split()[1] for line in open_file('/proc/self/status') if line.startswith('VmLck')]";
    let content = format!("open_file = open\n{}", tells(locked));
    assert_eq!(told(&Server::start(&content)), "['0']");
    if !is_root() {
        skip("all_its_memory_is_locked_where_asked", "only root can lock any amount of memory");
        return;
    }
    let server = Server::with(&content, &["--swap"]);
    assert_ne!(told(&server), "['0']");
}

#[test]
fn errors_go_to_the_system_log_or_nowhere_where_asked() {
    let raising = format!("{LEAST}def pread(h, c, o): raise ValueError('to be logged')\n");
    let server = Server::with(&raising, &["--log=null"]);
    assert_eq!(server.open().read(0, 1), Err(5));
    assert_eq!(server.end().stderr, "");
    let place = Path::new("/dev/log");
    let log = match UnixDatagram::bind(place) {
        Ok(log) => log,
        Err(error) => return skip("errors_go_to_the_system_log", &format!("{}: {error}", place.display())),
    };
    let server = Server::with(&raising, &["--log=syslog"]);
    assert_eq!(server.open().read(0, 1), Err(5));
    let mut datagram = vec![0; 65536];
    // Whoever else on this host logs something meanwhile is not meant.
    let message = loop {
        let length = log.recv(&mut datagram).unwrap();
        let message = text(&datagram[..length]);
        if message.contains("nbdkit") {
            break message;
        }
    };
    drop(log);
    std::fs::remove_file(place).unwrap();
    // Facility daemon, level err.
    assert!(message.starts_with("<27>nbdkit[") && message.contains("to be logged"), "{message}");
    assert_eq!(server.end().stderr, "");
}

#[test]
fn a_script_that_crashes_ends_its_server_and_is_told() {
    let script = script(&format!("{LEAST}import ctypes\ndef pread(h, c, o): ctypes.string_at(0)\n"));
    let line = "/usr/bin/python3 -m nbd -u \"$uri\" -c 'h.pread(1, 0)' 2>/dev/null || true";
    let output = program(&["-U", "-", "python", &script.path, "--run", line]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(128 + 11), "{}", text(&output.stderr));
}

#[test]
fn a_call_that_never_returns_holds_up_its_own_connection_only() {
    let server = Server::start(&format!(
        "{LEAST}import threading\nnever = threading.Event()\ndef thread_model(): return 2\n\
         def pread(h, c, o):\n  if o: never.wait()\n  return b'x' * c\n"
    ));
    let mut stuck = server.open();
    stuck.send(READ, 0, 1, 1, &[]);
    for _ in 0..3 {
        assert_eq!(server.open().read(0, 1), Ok(b"x".to_vec()));
    }
}
