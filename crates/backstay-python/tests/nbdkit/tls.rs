//! Encryption (item 56): the table of the contract with certificates and with keys, what a script learns of the client, and
//! where clients find what they need. The rest is tested where the protocol is, in `crates/nbd`.

use std::process::{Command, Stdio};

use super::LEAST;
use super::authority::{Authority, USER};
use super::client::LIST;
use super::server::{Server, program, run, script, text};

const STARTTLS: u32 = 5;
const ACK: u32 = 1;
const ERR_POLICY: u32 = 0x8000_0002;
const ERR_INVALID: u32 = 0x8000_0003;
const ERR_TLS_REQD: u32 = 0x8000_0005;

/// A script that writes down who is there.
const SEEN: &str = "\
import nbdkit
def seen(name): nbdkit.debug('%s %r %r %r' % (name, nbdkit.is_tls(), nbdkit.peer_tls_dn(), nbdkit.peer_tls_issuer_dn()))
def preconnect(readonly): seen('preconnect')
def default_export(readonly, is_tls): nbdkit.debug('default_export %r' % is_tls); return ''
def open(readonly): seen('open'); return 1
def get_size(h): return 1 << 20
def pread(h, c, o): seen('pread'); return bytes(c)
";

fn answer(server: &Server, option: u32, data: &[u8]) -> u32 {
    server.connect().option(option, data).unwrap().last().unwrap().0
}

#[test]
fn item_56_starttls_by_the_table_of_modes() {
    let authority = Authority::new();
    let (folder, keys) = (authority.server(), authority.keys());
    for credentials in [["--tls-certificates", folder.to_str().unwrap()], ["--tls-psk", keys.to_str().unwrap()]] {
        for (mode, starttls, others) in [
            (&["--tls=off"][..], ERR_POLICY, ACK),
            (&["--tls=on"], ACK, ACK),
            (&[], ACK, ACK),
            (&["--tls=require"], ACK, ERR_TLS_REQD),
            (&["--tls=force"], ACK, ERR_TLS_REQD),
        ] {
            let server = Server::with(LEAST, &[mode, &credentials].concat());
            assert_eq!(answer(&server, LIST, b""), others, "{mode:?}");
            assert_eq!(answer(&server, STARTTLS, b""), starttls, "{mode:?}");
            assert_eq!(answer(&server, STARTTLS, b"data"), ERR_INVALID, "{mode:?}");
        }
    }
}

#[test]
fn item_56_without_credentials() {
    // Where they are looked for, if nothing says where.
    let silent = Server::start(LEAST);
    assert_eq!(answer(&silent, STARTTLS, b""), ERR_POLICY);
    assert_eq!(silent.stderr(), "");
    let warned = Server::with(LEAST, &["--tls=on", "--tls-certificates=/nonexistent"]);
    assert_eq!(answer(&warned, STARTTLS, b""), ERR_POLICY);
    assert!(warned.stderr().contains("warning: --tls=on"), "{}", warned.stderr());
    let warned = Server::with(LEAST, &["--tls-certificates=/nonexistent"]);
    assert!(warned.stderr().contains("warning: --tls-certificates"), "{}", warned.stderr());
    let script = script(LEAST);
    let output = run(&["python", &script.path, "--tls=require", "--tls-certificates=/nonexistent"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("--tls=require"), "{}", text(&output.stderr));
}

/// Runs a client that finds what it needs in the URI of a captive server.
fn captive(content: &str, arguments: &[&str], command: &str) -> String {
    let script = script(content);
    let mut line = vec!["python", &script.path, "--run", command, "-v"];
    line.extend(arguments);
    let output = program(&line).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn item_56_a_script_learns_who_the_client_is() {
    let authority = Authority::new();
    let folder = authority.server();
    // The client looks into the same folder.
    for file in ["client-cert.pem", "client-key.pem"] {
        std::fs::copy(authority.path("client").join(file), folder.join(file)).unwrap();
    }
    let arguments = ["--tls=require", "--tls-verify-peer", "--tls-certificates", folder.to_str().unwrap()];
    let said = captive(SEEN, &arguments, "nbdcopy $uri null:");
    let names = "True 'CN=client,O=Tests,C=DE' 'CN=signer,O=Tests'";
    for line in ["preconnect False '' ''", "default_export True", &format!("open {names}"), &format!("pread {names}")] {
        assert!(said.contains(&format!("{line}\n")), "{line}: {said}");
    }
    // One that shows nothing is refused, and shows nothing where nobody asks.
    std::fs::remove_file(folder.join("client-cert.pem")).unwrap();
    assert!(captive(SEEN, &arguments, "! nbdcopy $uri null:").contains("error: the connection cannot be encrypted"));
    let said = captive(SEEN, &[arguments[0], arguments[2], arguments[3]], "nbdcopy $uri null:");
    assert!(said.contains("pread True '' ''\n"), "{said}");
}

#[test]
fn item_56_addresses_tell_clients_how_to_encrypt() {
    let authority = Authority::new();
    let (folder, keys) = (authority.server(), authority.keys());
    let certificates = format!("tls-certificates={}", folder.display());
    let show = "echo \"$uri,$tls\"";
    let place = ["--tls-certificates", folder.to_str().unwrap(), "-i", "127.0.0.1", "-p", "0"];
    let said = captive(LEAST, &[&["--tls=require"], &place[..]].concat(), show);
    assert!(said.contains(&format!("nbds://localhost:0?{certificates},2\n")), "{said}");
    let said = captive(LEAST, &[&["--tls=on"], &place[..]].concat(), show);
    assert!(said.contains(&format!("nbd://localhost:0?{certificates},1\n")), "{said}");
    let said = captive(LEAST, &[&["--tls=off"], &place[..]].concat(), show);
    assert!(said.contains("nbd://localhost:0,\n"), "{said}");
    // The user is the client's own business.
    let command = "echo $tls; nbdinfo nbds+unix://alice@/?${uri#*\\?}";
    let said = captive(LEAST, &["--tls=require", "--tls-psk", keys.to_str().unwrap()], command);
    assert!(USER == "alice" && said.starts_with("2\n") && said.contains("with TLS"), "{said}");
}

#[test]
fn item_56_the_key_need_not_be_readable_once_the_server_serves() {
    let authority = Authority::new();
    let folder = authority.server();
    let server =
        Server::with(LEAST, &["--tls=require", "-u", "nobody", "--tls-certificates", folder.to_str().unwrap()]);
    std::fs::remove_file(folder.join("server-key.pem")).unwrap();
    let uri = format!(
        "nbds+unix://?socket={}&tls-certificates={}",
        server.socket.display(),
        authority.path("nobody").display()
    );
    let output = Command::new("nbdinfo").args(["--size", &uri]).output().unwrap();
    assert_eq!(text(&output.stdout), "1048576\n", "{}", text(&output.stderr));
}
