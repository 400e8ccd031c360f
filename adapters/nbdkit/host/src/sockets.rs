//! The sockets that a server listens on (reference 2.1: `-U`, `-p`, `-i`, `-4`, `-6`).

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use backstay_nbd::listen::{self, MAX_PATH, PORT};

use crate::numbers::parse_unsigned;
use crate::options::{Options, UnixSocket};

/// Where the system's services are listed.
const SERVICES: &str = "/etc/services";

/// Where SELinux is, if there is one.
const SELINUX: &str = "/sys/fs/selinux/enforce";
/// What says how sockets of a thread are labelled.
const SOCKET_LABEL: &str = "/proc/thread-self/attr/sockcreate";

/// Where clients find the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A Unix socket at this absolute path.
    Unix(PathBuf),
    /// This TCP port.
    Tcp(u16),
    /// This port of AF_VSOCK.
    Vsock(u32),
}

/// A folder that goes when it is dropped, with the socket in it.
#[derive(Debug)]
pub struct PrivateFolder {
    path: PathBuf,
    maker: u32,
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        // Not in the half of a fork that leaves it to the other.
        if self.maker == std::process::id() {
            let _ = std::fs::remove_file(self.path.join("socket"));
            let _ = std::fs::remove_dir(&self.path);
        }
    }
}

impl PrivateFolder {
    /// Makes `/tmp/nbdkitXXXXXX`, readable by its owner only.
    fn new() -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("nbdkit").tempdir_in("/tmp")?;
        Ok(Self { path: folder.keep(), maker: std::process::id() })
    }

    /// Says that the process which calls this removes it.
    pub fn take_over(&mut self) {
        self.maker = std::process::id();
    }
}

/// Where the options want the server, made absolute; a folder of its own for `-U -`.
///
/// # Errors
/// One sentence that names the option.
pub fn place(options: &Options) -> Result<(Place, Option<PrivateFolder>), String> {
    match &options.unix {
        Some(UnixSocket::Private) => {
            let folder = PrivateFolder::new().map_err(|error| format!("mkdtemp: {error}"))?;
            Ok((Place::Unix(folder.path.join("socket")), Some(folder)))
        }
        Some(UnixSocket::Path(path)) => Ok((Place::Unix(socket_path(path)?), None)),
        None if options.vsock => Ok((Place::Vsock(vsock_port(options.port.as_deref())?), None)),
        None => Ok((Place::Tcp(port(options.port.as_deref())?), None)),
    }
}

fn socket_path(path: &Path) -> Result<PathBuf, String> {
    let path = std::path::absolute(path).map_err(|error| format!("-U: {}: {error}", path.display()))?;
    let length = path.as_os_str().as_bytes().len();
    if length > MAX_PATH {
        return Err(format!("-U: path too long: length {length} > max {MAX_PATH} bytes"));
    }
    Ok(path)
}

fn vsock_port(text: Option<&str>) -> Result<u32, String> {
    text.map_or(Ok(PORT.into()), |text| parse_unsigned("port", text))
}

/// A number, or the name of a TCP service.
fn port(text: Option<&str>) -> Result<u16, String> {
    let Some(text) = text else { return Ok(PORT) };
    if let Ok(port) = text.parse() {
        return Ok(port);
    }
    let services = std::fs::read_to_string(SERVICES).unwrap_or_default();
    service_port(&services, text).ok_or_else(|| format!("-p: {text} is no port and no TCP service of this system"))
}

fn service_port(services: &str, name: &str) -> Option<u16> {
    services.lines().find_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let (first, port) = (words.next()?, words.next()?.strip_suffix("/tcp")?);
        (first == name || words.any(|alias| alias == name)).then(|| port.parse().ok())?
    })
}

/// Binds and listens.
///
/// # Errors
/// One sentence that names the address.
pub fn open(place: &Place, options: &Options) -> Result<Vec<OwnedFd>, String> {
    let _label = options.selinux_label.as_deref().map(Label::put).transpose()?;
    match place {
        Place::Unix(path) => {
            listen::unix(path).map(|socket| vec![socket]).map_err(|error| format!("{}: {error}", path.display()))
        }
        Place::Tcp(port) => tcp(*port, options),
        Place::Vsock(port) => {
            listen::vsock(*port).map(|socket| vec![socket]).map_err(|error| format!("--vsock: port {port}: {error}"))
        }
    }
}

/// The label that this thread's sockets get as long as it is there (SELinux).
struct Label;

impl Label {
    fn put(text: &str) -> Result<Self, String> {
        if !Path::new(SELINUX).exists() {
            return Err(format!("--selinux-label: {text}: this system has no SELinux"));
        }
        // With the NUL, as libselinux writes it.
        let written = std::fs::write(SOCKET_LABEL, [text.as_bytes(), b"\0"].concat());
        written.map(|()| Self).map_err(|error| format!("--selinux-label: {text}: {error}"))
    }
}

impl Drop for Label {
    fn drop(&mut self) {
        // Nothing written: the label that the policy gives.
        let file = std::fs::OpenOptions::new().write(true).open(SOCKET_LABEL);
        let _ = file.and_then(|mut file| file.write(b""));
    }
}

fn tcp(port: u16, options: &Options) -> Result<Vec<OwnedFd>, String> {
    let host = options.address.as_deref();
    let addresses = listen::addresses(host, port, options.family)
        .map_err(|error| format!("-i: {}: {error}", host.unwrap_or_default()))?;
    // Of all interfaces, a family that this host does not have is left out.
    listen::tcp(&addresses, host.is_none(), options.keepalive).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_found_by_name_and_alias() {
        let list = "# comment\nnbd\t\t10809/tcp\t\t\t# Linux Network Block Device\nhttp 80/tcp www\ntftp 69/udp\n";
        assert_eq!(service_port(list, "nbd"), Some(10_809));
        assert_eq!(service_port(list, "www"), Some(80));
        assert_eq!(service_port(list, "tftp"), None);
        assert_eq!(service_port(list, "comment"), None);
    }

    #[test]
    fn a_private_socket_goes_with_its_folder() {
        let options = Options { unix: Some(UnixSocket::Private), ..Options::default() };
        let (place, folder) = place(&options).unwrap();
        let Place::Unix(path) = &place else { panic!("{place:?}") };
        let sockets = open(&place, &options).unwrap();
        assert!(path.exists() && path.starts_with("/tmp") && path.ends_with("socket"));
        assert!(listen::unix(path).unwrap_err().kind() == io::ErrorKind::AddrInUse);
        drop((sockets, folder));
        assert!(!path.parent().unwrap().exists());
    }

    #[test]
    fn paths_are_made_absolute_and_have_a_limit() {
        assert!(socket_path(Path::new("here")).unwrap().is_absolute());
        assert!(socket_path(Path::new(&format!("/{}", "x".repeat(106)))).is_ok());
        assert!(socket_path(Path::new(&format!("/{}", "x".repeat(107)))).unwrap_err().contains("too long"));
    }
}
