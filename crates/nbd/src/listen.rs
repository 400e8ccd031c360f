//! Listening sockets: a Unix path, TCP, AF_VSOCK.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sys::socket::VsockAddr;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

/// The port of NBD.
pub const PORT: u16 = 10809;
/// Bytes that the path of a socket may have.
pub const MAX_PATH: usize = 107;
/// Connections that may wait to be accepted; the system cuts it to what it allows.
const BACKLOG: i32 = 4096;

/// Which kinds of addresses to listen on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// Both.
    #[default]
    Any,
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Listens on a path, which must not exist.
///
/// # Errors
/// The path is too long or taken, or the system refuses.
pub fn unix(path: &Path) -> io::Result<OwnedFd> {
    if path.as_os_str().len() > MAX_PATH {
        let text = format!("the path of a socket has at most {MAX_PATH} bytes, and {} has more", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// The addresses of a TCP port: those of one `host`, or of all interfaces.
///
/// # Errors
/// There is no such host.
pub fn addresses(host: Option<&str>, port: u16, family: Family) -> io::Result<Vec<SocketAddr>> {
    let mut addresses: Vec<SocketAddr> = match host {
        Some(host) => (host, port).to_socket_addrs()?.collect(),
        None => vec![
            SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
            SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
        ],
    };
    addresses.retain(|address| suits(address, family));
    Ok(addresses)
}

/// Listens on TCP addresses: a socket for each. One that is in use, or with `lenient` one that cannot be had for whatever reason,
/// is left out as long as another works. `keepalive`: idle connections are asked whether they still live.
///
/// # Errors
/// None of the addresses can be bound, each with its reason; without `lenient` the first that cannot.
pub fn tcp(addresses: &[SocketAddr], lenient: bool, keepalive: bool) -> io::Result<Vec<OwnedFd>> {
    let mut sockets = Vec::new();
    let mut refused = Vec::new();
    let mut kind = io::ErrorKind::AddrNotAvailable;
    for address in addresses {
        match listen_tcp(address, keepalive).map_err(io::Error::from) {
            Ok(socket) => sockets.push(socket),
            Err(error) if lenient || error.kind() == io::ErrorKind::AddrInUse => {
                kind = error.kind();
                refused.push(format!("{address}: {error}"));
            }
            Err(error) => return Err(io::Error::new(error.kind(), format!("bind: {address}: {error}"))),
        }
    }
    if sockets.is_empty() {
        let reasons = if refused.is_empty() { "there is no such address".to_owned() } else { refused.join("; ") };
        return Err(io::Error::new(kind, format!("unable to bind to any sockets: {reasons}")));
    }
    Ok(sockets)
}

fn suits(address: &SocketAddr, family: Family) -> bool {
    match family {
        Family::Any => true,
        Family::V4 => address.is_ipv4(),
        Family::V6 => address.is_ipv6(),
    }
}

fn listen_tcp(address: &SocketAddr, keepalive: bool) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Accepted ones inherit it.
    sockopt::set_socket_keepalive(&socket, keepalive)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Listens on a port of this machine for its host and its guests (AF_VSOCK).
///
/// # Errors
/// The system has no such sockets, or the port is taken.
pub fn vsock(port: u32) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let socket = socket_with(AddressFamily::VSOCK, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    nix::sys::socket::bind(socket.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, port))?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}
