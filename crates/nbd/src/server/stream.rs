//! The two directions of a connection: a socket, or two descriptors that may be pipes.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use backstay_core::Peer;
use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, sockopt};

/// How long a call waits for the other side before it looks whether it still should.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the system may keep of answers that a client on a Unix socket has not taken yet, in bytes.
const SEND_BUFFER: usize = 256 << 10;

/// A connection. Both directions may be used at the same time, each by one thread.
#[derive(Debug)]
pub struct Stream(Kind);

#[derive(Debug)]
enum Kind {
    Socket(OwnedFd),
    Pair { input: OwnedFd, output: OwnedFd, stop: OwnedFd, close: OwnedFd },
}

impl Stream {
    /// A stream socket that is connected.
    ///
    /// # Errors
    /// It is none.
    pub fn socket(socket: OwnedFd) -> io::Result<Self> {
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE))?;
        // As much as the system gives: the disk may be called for the next answer while the client takes this one.
        if sockopt::socket_domain(&socket)? == rustix::net::AddressFamily::UNIX {
            sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER)?;
        }
        // Only TCP has it.
        let _ = sockopt::set_tcp_nodelay(&socket, true);
        Ok(Self(Kind::Socket(socket)))
    }

    /// A descriptor to read from and one to write to: pipes, or both ends of standard input and output.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub fn pair(input: OwnedFd, output: OwnedFd) -> io::Result<Self> {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Self(Kind::Pair { input, output, stop: event()?, close: event()? }))
    }

    /// The client's process, where the system tells.
    pub(crate) fn peer(&self) -> Option<Peer> {
        let Kind::Socket(socket) = &self.0 else { return None };
        let credentials = sockopt::socket_peercred(socket).ok()?;
        let (user, group) = (credentials.uid.as_raw(), credentials.gid.as_raw());
        // Sockets of other families say that nobody is there.
        (user != u32::MAX).then(|| Peer { process: credentials.pid.as_raw_nonzero().get(), user, group })
    }

    /// Appends what has arrived, at most what fits the buffer's spare room; waits until something has. 0: nothing comes any
    /// more. `WouldBlock`: nothing came for long, or the system was interrupted.
    pub(crate) fn read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        match &self.0 {
            Kind::Socket(socket) => {
                let (_, received) = retry(|| rustix::net::recv(socket, spare_capacity(buffer), RecvFlags::empty()))?;
                Ok(received)
            }
            Kind::Pair { input, stop, close, .. } => {
                if wait(input.as_fd(), PollFlags::IN, &[stop.as_fd(), close.as_fd()])? {
                    return Ok(0);
                }
                Ok(retry(|| rustix::io::read(input, spare_capacity(buffer)))?)
            }
        }
    }

    /// Writes some of the bytes; waits until the other side has room. `WouldBlock`: it had none for long.
    pub(crate) fn write(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.0 {
            Kind::Socket(socket) => {
                let send =
                    || rustix::net::sendmsg(socket, bytes, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL);
                Ok(retry(send)?)
            }
            Kind::Pair { output, close, .. } => {
                if wait(output.as_fd(), PollFlags::OUT, &[close.as_fd()])? {
                    return Err(Errno::PIPE.into());
                }
                Ok(retry(|| rustix::io::writev(output, bytes))?)
            }
        }
    }

    /// Lets a thread that reads find the end, now and later.
    pub(crate) fn stop_reading(&self) {
        match &self.0 {
            Kind::Socket(socket) => drop(rustix::net::shutdown(socket, Shutdown::Read)),
            Kind::Pair { stop, .. } => set(stop),
        }
    }

    /// Ends both directions, also for threads that wait in them.
    pub(crate) fn close(&self) {
        match &self.0 {
            Kind::Socket(socket) => drop(rustix::net::shutdown(socket, Shutdown::Both)),
            Kind::Pair { close, .. } => set(close),
        }
    }

    /// Whether the client has gone. (One that only sends no more has not.)
    pub(crate) fn is_left(&self) -> bool {
        let fd = match &self.0 {
            Kind::Socket(socket) => socket,
            Kind::Pair { output, .. } => output,
        };
        let mut fds = [PollFd::new(fd, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

/// Waits until a descriptor is ready, or one of the events came: then it says so.
fn wait(fd: BorrowedFd<'_>, ready: PollFlags, events: &[BorrowedFd<'_>]) -> io::Result<bool> {
    let mut fds = vec![PollFd::from_borrowed_fd(fd, ready)];
    fds.extend(events.iter().map(|event| PollFd::from_borrowed_fd(*event, PollFlags::IN)));
    retry(|| poll(&mut fds, None))?;
    Ok(fds[1..].iter().any(|fd| !fd.revents().is_empty()))
}

/// Sets an event. It fails only when it is set so often that it stays set.
pub(crate) fn set(event: &OwnedFd) {
    let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
}
