//! The NBD URI of a server, and what `--run` gets of it (reference 2.4). No I/O.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use crate::sockets::Place;

/// What stays as it is.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// The address in one word.
#[must_use]
pub fn uri(place: &Place, export: &[u8]) -> String {
    let export = percent_encode(export, UNRESERVED);
    let slash = |empty: bool| if empty { "" } else { "/" };
    let path = export.to_string();
    match place {
        Place::Unix(socket) => {
            let socket = percent_encode(socket.as_os_str().as_bytes(), UNRESERVED);
            format!("nbd+unix://{}{path}?socket={socket}", slash(path.is_empty()))
        }
        Place::Vsock(port) => format!("nbd+vsock://1:{port}{}{path}", slash(path.is_empty())),
        Place::Tcp(port) => format!("nbd://localhost:{port}{}{path}", slash(path.is_empty())),
    }
}

/// The text that `/bin/sh -c` runs: shell variables, then the command.
#[must_use]
pub fn shell_text(place: &Place, export: &[u8], command: &OsStr) -> OsString {
    let uri = uri(place, export);
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
    text.extend_from_slice(b"unset tls\n");
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

    #[test]
    fn addresses_as_one_word() {
        let unix = Place::Unix("/tmp/a b/socket".into());
        assert_eq!(uri(&unix, b""), "nbd+unix://?socket=/tmp/a%20b/socket");
        assert_eq!(uri(&unix, b"x?y"), "nbd+unix:///x%3Fy?socket=/tmp/a%20b/socket");
        assert_eq!(uri(&Place::Tcp(10809), b""), "nbd://localhost:10809");
        assert_eq!(uri(&Place::Tcp(7), b"e"), "nbd://localhost:7/e");
    }

    #[test]
    fn words_survive_the_shell() {
        assert_eq!(quote(b"it's"), b"'it'\\''s'");
        let text = shell_text(&Place::Tcp(7), b"$(x)", OsStr::new("echo $uri"));
        let text = text.into_string().unwrap();
        assert!(text.starts_with("uri='nbd://localhost:7/%24%28x%29'\n"), "{text}");
        assert!(text.contains("exportname='$(x)'\n") && text.ends_with("unset tls\necho $uri"), "{text}");
    }
}
