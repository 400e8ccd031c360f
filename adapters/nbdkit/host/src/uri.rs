//! The NBD URI of a server, and what `--run` gets of it (reference 2.4). No I/O.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use backstay_nbd::handshake::Encryption;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use crate::sockets::Place;
use crate::tls::{Source, Tls};

/// What stays as it is.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// The address in one word, with what a client on this host needs to encrypt.
#[must_use]
pub fn uri(place: &Place, export: &[u8], tls: &Tls) -> String {
    let encode = |bytes| percent_encode(bytes, UNRESERVED).to_string();
    let scheme = if tls.encryption == Encryption::Required { "nbds" } else { "nbd" };
    let path = if export.is_empty() { String::new() } else { format!("/{}", encode(export)) };
    let address = match place {
        Place::Unix(_) => format!("{scheme}+unix://{path}"),
        Place::Vsock(port) => format!("{scheme}+vsock://1:{port}{path}"),
        Place::Tcp(port) => format!("{scheme}://localhost:{port}{path}"),
    };
    let mut items = Vec::new();
    if let Place::Unix(socket) = place {
        items.push(format!("socket={}", encode(socket.as_os_str().as_bytes())));
    }
    match &tls.source {
        Some(Source::Certificates(folder)) => {
            items.push(format!("tls-certificates={}", encode(folder.as_os_str().as_bytes())));
        }
        Some(Source::Keys(file)) => items.push(format!("tls-psk-file={}", encode(file.as_os_str().as_bytes()))),
        None => {}
    }
    if items.is_empty() { address } else { format!("{address}?{}", items.join("&")) }
}

/// The text that `/bin/sh -c` runs: shell variables, then the command.
#[must_use]
pub fn shell_text(place: &Place, export: &[u8], tls: &Tls, command: &OsStr) -> OsString {
    let uri = uri(place, export, tls);
    let mut text = Vec::new();
    let mut set = |name: &str, value: &[u8]| {
        text.extend_from_slice(name.as_bytes());
        text.push(b'=');
        text.extend_from_slice(&quote(value));
        text.push(b'\n');
    };
    set("uri", uri.as_bytes());
    set("nbd", uri.as_bytes());
    set("exportname", export);
    match place {
        Place::Unix(path) => {
            set("unixsocket", path.as_os_str().as_bytes());
            set("port", b"");
        }
        Place::Tcp(port) => {
            set("unixsocket", b"");
            set("port", port.to_string().as_bytes());
        }
        Place::Vsock(port) => {
            set("unixsocket", b"");
            set("port", port.to_string().as_bytes());
        }
    }
    match tls.encryption {
        Encryption::Off => text.extend_from_slice(b"unset tls\n"),
        Encryption::Offered => text.extend_from_slice(b"tls=1\n"),
        Encryption::Required => text.extend_from_slice(b"tls=2\n"),
    }
    text.extend_from_slice(command.as_bytes());
    OsString::from_vec(text)
}

/// One word for the shell.
fn quote(value: &[u8]) -> Vec<u8> {
    let mut word = vec![b'\''];
    for byte in value {
        if *byte == b'\'' {
            word.extend_from_slice(b"'\\''");
        } else {
            word.push(*byte);
        }
    }
    word.push(b'\'');
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(place: &Place, export: &[u8]) -> String {
        uri(place, export, &Tls::default())
    }

    #[test]
    fn addresses_as_one_word() {
        let unix = Place::Unix("/tmp/a b/socket".into());
        assert_eq!(plain(&unix, b""), "nbd+unix://?socket=/tmp/a%20b/socket");
        assert_eq!(plain(&unix, b"x?y"), "nbd+unix:///x%3Fy?socket=/tmp/a%20b/socket");
        assert_eq!(plain(&Place::Tcp(10809), b""), "nbd://localhost:10809");
        assert_eq!(plain(&Place::Tcp(7), b"e"), "nbd://localhost:7/e");
    }

    #[test]
    fn addresses_say_how_to_encrypt() {
        let certificates = Source::Certificates("/a b".into());
        let tls = |encryption, source| Tls { encryption, source: Some(source), ..Tls::default() };
        let required = tls(Encryption::Required, certificates.clone());
        assert_eq!(uri(&Place::Tcp(7), b"e", &required), "nbds://localhost:7/e?tls-certificates=/a%20b");
        assert_eq!(uri(&Place::Vsock(7), b"", &required), "nbds+vsock://1:7?tls-certificates=/a%20b");
        let keys = tls(Encryption::Required, Source::Keys("/k".into()));
        assert_eq!(uri(&Place::Unix("/s".into()), b"", &keys), "nbds+unix://?socket=/s&tls-psk-file=/k");
        let offered = tls(Encryption::Offered, certificates);
        assert_eq!(uri(&Place::Tcp(7), b"", &offered), "nbd://localhost:7?tls-certificates=/a%20b");
        for (tls, set) in [(&required, "\ntls=2\n"), (&offered, "\ntls=1\n"), (&Tls::default(), "\nunset tls\n")] {
            let text = shell_text(&Place::Tcp(7), b"", tls, OsStr::new("true")).into_string().unwrap();
            assert!(text.contains(set), "{text}");
        }
    }

    #[test]
    fn words_survive_the_shell() {
        assert_eq!(quote(b"it's"), b"'it'\\''s'");
        let text = shell_text(&Place::Tcp(7), b"$(x)", &Tls::default(), OsStr::new("echo $uri"));
        let text = text.into_string().unwrap();
        assert!(text.starts_with("uri='nbd://localhost:7/%24%28x%29'\n"), "{text}");
        assert!(text.contains("exportname='$(x)'\n") && text.ends_with("unset tls\necho $uri"), "{text}");
    }
}
