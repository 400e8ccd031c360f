//! Where a server is: a place, an export, credentials; and the URI that says so.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::socket::VsockAddr;
use percent_encoding::percent_decode_str;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};

use super::{ClientError, Wanted};
use crate::codec::{MAX_STRING, is_string};
use crate::listen::PORT;
use crate::tls::ClientCredentials;

/// The machine that this one runs on.
const HOST: u32 = 2;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port.
    Tcp {
        /// Name or address.
        host: String,
        /// Its port.
        port: u16,
    },
    /// A port of AF_VSOCK.
    Vsock {
        /// The machine's number.
        machine: u32,
        /// Its port.
        port: u32,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp { host, port } => write!(f, "{host} port {port}"),
            Self::Vsock { machine, port } => write!(f, "machine {machine} port {port} (vsock)"),
        }
    }
}

/// A server and an export of it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it listens.
    pub place: Place,
    /// The export; empty: the default one.
    pub export: Vec<u8>,
    /// How it is to be spoken with.
    pub wanted: Wanted,
}

/// A text that is no URI of an NBD server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{uri}: {reason}")]
pub struct WrongUri {
    uri: String,
    reason: String,
}

/// The parts of a URI, decoded.
#[derive(Debug, PartialEq, Eq)]
struct Parts {
    tls: bool,
    place: Place,
    user: Option<String>,
    export: Vec<u8>,
    certificates: Option<PathBuf>,
    keys: Option<PathBuf>,
}

/// The items of a query.
#[derive(Debug, Default)]
struct Query {
    socket: Option<PathBuf>,
    certificates: Option<PathBuf>,
    keys: Option<PathBuf>,
}

impl Target {
    /// The default export of a server, not encrypted.
    #[must_use]
    pub fn new(place: Place) -> Self {
        Self { place, export: Vec::new(), wanted: Wanted::default() }
    }

    /// Reads a URI: `nbd://HOST:PORT/EXPORT`, `nbd+unix:///EXPORT?socket=PATH`, `nbd+vsock://MACHINE:PORT/EXPORT`; with `nbds` for
    /// `nbd` it is encrypted, by `tls-certificates=FOLDER` or `tls-psk-file=FILE` (and `USER@`) or else the system's
    /// authorities. Loads the credentials.
    ///
    /// # Errors
    /// It is no such URI; credentials cannot be used.
    pub fn parse(uri: &str) -> Result<Self, ClientError> {
        let parts = Parts::parse(uri).map_err(|reason| WrongUri { uri: uri.to_owned(), reason })?;
        let mut wanted = Wanted::default();
        if parts.tls {
            wanted.tls = Some(match (&parts.keys, &parts.certificates) {
                (Some(file), _) => ClientCredentials::keys(file, parts.user.as_deref())?,
                (None, folder) => ClientCredentials::certificates(folder.as_deref())?,
            });
            if let Place::Tcp { host, .. } = &parts.place {
                wanted.host = Some(host.clone());
            }
        }
        Ok(Self { place: parts.place, export: parts.export, wanted })
    }

    /// Connects.
    pub(super) fn connect(&self) -> Result<OwnedFd, ClientError> {
        let failed = |error| ClientError::Connect { place: self.place.to_string(), error: Arc::new(error) };
        match &self.place {
            Place::Unix(path) => unix(path),
            Place::Tcp { host, port } => self.tcp(host, *port),
            Place::Vsock { machine, port } => vsock(*machine, *port),
        }
        .map_err(failed)
    }

    /// The first address that answers.
    fn tcp(&self, host: &str, port: u16) -> io::Result<OwnedFd> {
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in (host, port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, self.wanted.limit) {
                Ok(stream) => {
                    // A server that vanished is noticed.
                    sockopt::set_socket_keepalive(&stream, true)?;
                    return Ok(stream.into());
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

fn unix(path: &Path) -> io::Result<OwnedFd> {
    UnixStream::connect(path).map(OwnedFd::from)
}

fn vsock(machine: u32, port: u32) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::VSOCK, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    nix::sys::socket::connect(socket.as_raw_fd(), &VsockAddr::new(machine, port))?;
    Ok(socket)
}

impl Parts {
    fn parse(uri: &str) -> Result<Self, String> {
        let (scheme, rest) = uri.split_once("://").ok_or("this is no URI (nbd://HOST, nbd+unix:///?socket=PATH)")?;
        let scheme = scheme.to_ascii_lowercase();
        let (security, transport) = match scheme.split_once('+') {
            Some((security, transport)) => (security, transport),
            None => (scheme.as_str(), "tcp"),
        };
        let tls = match security {
            "nbd" => false,
            "nbds" => true,
            _ => return Err(format!("the scheme {scheme} is none of NBD (nbd or nbds, and +unix or +vsock)")),
        };
        if rest.contains('#') {
            return Err("a fragment (#) means nothing here".to_owned());
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let Query { socket, certificates, keys } = Query::parse(query)?;
        let (user, address) = match authority.rsplit_once('@') {
            Some((user, address)) => (Some(text(user)?), address),
            None => (None, authority),
        };
        if socket.is_some() && transport != "unix" {
            return Err("socket= is for Unix sockets (nbd+unix)".to_owned());
        }
        let place = match transport {
            "tcp" => tcp_place(address)?,
            "unix" if address.is_empty() => Place::Unix(socket.ok_or("a Unix socket needs socket=PATH in the query")?),
            "unix" => return Err(format!("a Unix socket is on no host ({address})")),
            "vsock" => vsock_place(address)?,
            other => return Err(format!("the transport {other} is not known (unix, vsock, or none for TCP)")),
        };
        if certificates.is_some() && keys.is_some() {
            return Err("either tls-certificates= or tls-psk-file=".to_owned());
        }
        if user.is_some() && keys.is_none() {
            return Err("a user is of use with tls-psk-file= only".to_owned());
        }
        Ok(Self { tls, place, user, export: export(path)?, certificates, keys })
    }
}

impl Query {
    fn parse(query: &str) -> Result<Self, String> {
        let mut items = Self::default();
        for item in query.split('&').filter(|item| !item.is_empty()) {
            let (name, value) = item.split_once('=').unwrap_or((item, ""));
            let place = match name {
                "socket" => &mut items.socket,
                "tls-certificates" => &mut items.certificates,
                "tls-psk-file" => &mut items.keys,
                _ => return Err(format!("{name}= is not known (socket=, tls-certificates=, tls-psk-file=)")),
            };
            let path = PathBuf::from(OsString::from_vec(decode(value)?));
            if path.as_os_str().is_empty() || place.replace(path).is_some() {
                return Err(format!("{name}= has to have one value"));
            }
        }
        Ok(items)
    }
}

fn tcp_place(address: &str) -> Result<Place, String> {
    let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, after)) => match after.strip_prefix(':') {
            _ if after.is_empty() => (host, ""),
            Some(port) => (host, port),
            None => return Err(format!("{address} is no host and port")),
        },
        None => address.split_once(':').unwrap_or((address, "")),
    };
    if host.is_empty() {
        return Err("there is no host in it".to_owned());
    }
    Ok(Place::Tcp { host: text(host)?, port: number(port, PORT)? })
}

fn vsock_place(address: &str) -> Result<Place, String> {
    let (machine, port) = address.split_once(':').unwrap_or((address, ""));
    Ok(Place::Vsock { machine: number(machine, HOST)?, port: number(port, PORT.into())? })
}

fn number<T: std::str::FromStr>(text: &str, default: T) -> Result<T, String> {
    if text.is_empty() { Ok(default) } else { text.parse().map_err(|_| format!("{text} is no number that fits here")) }
}

fn export(path: &str) -> Result<Vec<u8>, String> {
    let name = decode(path)?;
    if is_string(&name) {
        Ok(name)
    } else {
        Err(format!("the name of an export has at most {MAX_STRING} bytes and no NUL"))
    }
}

fn text(encoded: &str) -> Result<String, String> {
    String::from_utf8(decode(encoded)?).map_err(|_| format!("{encoded} is not UTF-8"))
}

/// Bytes with `%XX` decoded; a `%` that is not followed by two digits is refused.
fn decode(encoded: &str) -> Result<Vec<u8>, String> {
    let broken = encoded.split('%').skip(1).any(|after| {
        let digits = after.as_bytes().get(..2);
        !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    if broken {
        Err(format!("{encoded} has a % without two hexadecimal digits"))
    } else {
        Ok(percent_decode_str(encoded).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(uri: &str) -> Place {
        Parts::parse(uri).unwrap_or_else(|reason| panic!("{uri}: {reason}")).place
    }

    fn tcp(host: &str, port: u16) -> Place {
        Place::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn places_of_every_kind() {
        assert_eq!(place("nbd://localhost"), tcp("localhost", 10809));
        assert_eq!(place("nbd://10.0.0.1:7/x"), tcp("10.0.0.1", 7));
        assert_eq!(place("NBD://[::1]:7"), tcp("::1", 7));
        assert_eq!(place("nbd://[::1]/x"), tcp("::1", 10809));
        assert_eq!(place("nbd+unix://?socket=/tmp/a%20b"), Place::Unix("/tmp/a b".into()));
        assert_eq!(place("nbd+unix:///x?socket=s"), Place::Unix("s".into()));
        assert_eq!(place("nbd+vsock://"), Place::Vsock { machine: 2, port: 10809 });
        assert_eq!(place("nbds+vsock://1:7/x"), Place::Vsock { machine: 1, port: 7 });
    }

    #[test]
    fn exports_are_decoded() {
        let export = |uri| Parts::parse(uri).unwrap().export;
        assert_eq!(export("nbd://h"), b"");
        assert_eq!(export("nbd://h/"), b"");
        assert_eq!(export("nbd://h//a/b"), b"/a/b");
        assert_eq!(export("nbd+unix:///%E3%83%86%3f?socket=s"), "テ?".as_bytes());
    }

    #[test]
    fn credentials_are_named_in_the_query() {
        let parts = Parts::parse("nbds+unix://al%20ice@/x?socket=s&tls-psk-file=/k").unwrap();
        assert_eq!((parts.tls, parts.user.as_deref(), parts.keys), (true, Some("al ice"), Some("/k".into())));
        let parts = Parts::parse("nbds://h?tls-certificates=/c").unwrap();
        assert_eq!((parts.tls, parts.certificates), (true, Some("/c".into())));
        // Where a server only offers encryption, its URI names them too.
        assert!(!Parts::parse("nbd://h?tls-certificates=/c").unwrap().tls);
    }

    #[test]
    fn what_is_no_uri_is_refused() {
        for uri in [
            "localhost",
            "http://h",
            "nbd+tcp6://h",
            "nbd+unix:///",
            "nbd+unix://h/?socket=s",
            "nbd://",
            "nbd://h:x",
            "nbd://h:70000",
            "nbd://[::1",
            "nbd://[::1]7",
            "nbd://h/%",
            "nbd://h/%zz",
            "nbd://h/%00",
            "nbd://h?socket=s",
            "nbd://h?other=1",
            "nbd+unix://?socket=a&socket=b",
            "nbd+unix://?socket=",
            "nbds://h?tls-certificates=a&tls-psk-file=b",
            "nbds://a@h",
            "nbd://h#x",
            "nbd+vsock://h",
        ] {
            assert!(Parts::parse(uri).is_err(), "{uri}");
        }
    }
}
