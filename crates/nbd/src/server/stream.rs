//! The two directions of a connection: a socket, or two descriptors that may be pipes; encrypted or not.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use backstay_core::Peer;
use openssl::error::ErrorStack;
use openssl::ssl::Ssl;
use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, sockopt};

use crate::tls::channel::Channel;

/// How long a call waits for the other side before it looks whether it still should.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a pipe that has room takes without waiting for more.
const PIPE: usize = 4096;

/// What the system may keep of answers that a client on a Unix socket has not taken yet, in bytes.
const SEND_BUFFER: usize = 256 << 10;

/// A connection. Both directions may be used at the same time, each by one thread.
#[derive(Debug)]
pub struct Stream {
    ends: Arc<Ends>,
    /// Once it is encrypted.
    channel: OnceLock<Channel>,
}

/// Its descriptors.
#[derive(Debug)]
pub(crate) enum Ends {
    Socket(OwnedFd),
    Pair { input: OwnedFd, output: OwnedFd, stop: OwnedFd, close: OwnedFd },
}

/// What a descriptor is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    In,
    Out,
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
        Ok(Self::new(Ends::Socket(socket)))
    }

    /// A descriptor to read from and one to write to: pipes, or both ends of standard input and output.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub fn pair(input: OwnedFd, output: OwnedFd) -> io::Result<Self> {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Self::new(Ends::Pair { input, output, stop: event()?, close: event()? }))
    }

    fn new(ends: Ends) -> Self {
        Self { ends: Arc::new(ends), channel: OnceLock::new() }
    }

    /// The client's process, where the system tells.
    pub(crate) fn peer(&self) -> Option<Peer> {
        let Ends::Socket(socket) = &*self.ends else { return None };
        let credentials = sockopt::socket_peercred(socket).ok()?;
        let (user, group) = (credentials.uid.as_raw(), credentials.gid.as_raw());
        // Sockets of other families say that nobody is there.
        (user != u32::MAX).then(|| Peer { process: credentials.pid.as_raw_nonzero().get(), user, group })
    }

    /// Begins an encrypted connection on this one, of which `early` has arrived already. It counts when it is given to
    /// [`Stream::encrypted`] after the handshake.
    pub(crate) fn channel(&self, ssl: Ssl, early: Vec<u8>) -> Result<Channel, ErrorStack> {
        Channel::new(Arc::clone(&self.ends), ssl, early)
    }

    /// From now on everything goes through this channel.
    pub(crate) fn encrypted(&self, channel: Channel) {
        // There is one handshake on a connection: the protocol has no second one.
        let _ = self.channel.set(channel);
    }

    /// Appends what has arrived, at most what fits the buffer's spare room; waits until something has. 0: nothing comes any
    /// more. `WouldBlock`: nothing came for long, or the system was interrupted.
    pub(crate) fn read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        match self.channel.get() {
            Some(channel) => channel.read(buffer),
            None => self.ends.read(buffer),
        }
    }

    /// Writes some of the bytes; waits until the other side has room. `WouldBlock`: it had none for long; then the next call
    /// has to begin with the same bytes.
    pub(crate) fn write(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.channel.get() {
            Some(channel) => channel.write(bytes),
            None => self.ends.write(bytes),
        }
    }

    /// Tells the other side that nothing follows, where the connection has a word for it.
    pub(crate) fn say_goodbye(&self) {
        if let Some(channel) = self.channel.get() {
            channel.say_goodbye();
        }
    }

    /// Lets a thread that reads find the end, now and later.
    pub(crate) fn stop_reading(&self) {
        match &*self.ends {
            Ends::Socket(socket) => drop(rustix::net::shutdown(socket, Shutdown::Read)),
            Ends::Pair { stop, .. } => set(stop),
        }
    }

    /// Ends both directions, also for threads that wait in them.
    pub(crate) fn close(&self) {
        match &*self.ends {
            Ends::Socket(socket) => drop(rustix::net::shutdown(socket, Shutdown::Both)),
            Ends::Pair { close, .. } => set(close),
        }
    }

    /// Whether the client has gone. (One that only sends no more has not.)
    pub(crate) fn is_left(&self) -> bool {
        let fd = match &*self.ends {
            Ends::Socket(socket) => socket,
            Ends::Pair { output, .. } => output,
        };
        let mut fds = [PollFd::new(fd, PollFlags::empty())];
        poll(&mut fds, Some(&NOW)).is_ok() && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }
}

impl Ends {
    fn read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => {
                let (_, received) = retry(|| rustix::net::recv(socket, spare_capacity(buffer), RecvFlags::empty()))?;
                Ok(received)
            }
            Self::Pair { input, stop, close, .. } => {
                if wait(input.as_fd(), PollFlags::IN, &[stop.as_fd(), close.as_fd()], None)?.is_over() {
                    return Ok(0);
                }
                Ok(retry(|| rustix::io::read(input, spare_capacity(buffer)))?)
            }
        }
    }

    fn write(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => {
                let send =
                    || rustix::net::sendmsg(socket, bytes, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL);
                Ok(retry(send)?)
            }
            Self::Pair { output, close, .. } => {
                if wait(output.as_fd(), PollFlags::OUT, &[close.as_fd()], None)?.is_over() {
                    return Err(Errno::PIPE.into());
                }
                Ok(retry(|| rustix::io::writev(output, bytes))?)
            }
        }
    }

    /// Reads what is there. `WouldBlock`: nothing; 0: nothing comes any more.
    pub(crate) fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => Ok(retry(|| rustix::net::recv(socket, &mut *buffer, RecvFlags::DONTWAIT))?.1),
            Self::Pair { input, stop, close, .. } => {
                match wait(input.as_fd(), PollFlags::IN, &[stop.as_fd(), close.as_fd()], Some(&NOW))? {
                    Waited::Over => Ok(0),
                    Waited::Ready => Ok(retry(|| rustix::io::read(input, &mut *buffer))?),
                    Waited::Long => Err(Errno::AGAIN.into()),
                }
            }
        }
    }

    /// Writes what there is room for. `WouldBlock`: nothing.
    pub(crate) fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => {
                Ok(retry(|| rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL))?)
            }
            Self::Pair { output, close, .. } => {
                let some = &bytes[..bytes.len().min(PIPE)];
                match wait(output.as_fd(), PollFlags::OUT, &[close.as_fd()], Some(&NOW))? {
                    Waited::Over => Err(Errno::PIPE.into()),
                    Waited::Ready => Ok(retry(|| rustix::io::write(output, some))?),
                    Waited::Long => Err(Errno::AGAIN.into()),
                }
            }
        }
    }

    /// Waits until a direction is ready, or the connection is over. `WouldBlock`: it was not for long.
    pub(crate) fn wait(&self, direction: Direction) -> io::Result<()> {
        let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let waited = match (self, direction) {
            (Self::Socket(socket), Direction::In) => wait(socket.as_fd(), PollFlags::IN, &[], Some(&patience)),
            (Self::Socket(socket), Direction::Out) => wait(socket.as_fd(), PollFlags::OUT, &[], Some(&patience)),
            (Self::Pair { input, stop, close, .. }, Direction::In) => {
                wait(input.as_fd(), PollFlags::IN, &[stop.as_fd(), close.as_fd()], Some(&patience))
            }
            (Self::Pair { output, close, .. }, Direction::Out) => {
                wait(output.as_fd(), PollFlags::OUT, &[close.as_fd()], Some(&patience))
            }
        };
        match waited? {
            Waited::Long => Err(Errno::AGAIN.into()),
            Waited::Ready | Waited::Over => Ok(()),
        }
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

/// What became of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    Ready,
    /// One of the events came.
    Over,
    /// Nothing did.
    Long,
}

impl Waited {
    fn is_over(self) -> bool {
        self == Self::Over
    }
}

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Waits until a descriptor is ready, or one of the events came, or the time is over.
fn wait(
    fd: BorrowedFd<'_>,
    ready: PollFlags,
    events: &[BorrowedFd<'_>],
    patience: Option<&Timespec>,
) -> io::Result<Waited> {
    let mut fds = vec![PollFd::from_borrowed_fd(fd, ready)];
    fds.extend(events.iter().map(|event| PollFd::from_borrowed_fd(*event, PollFlags::IN)));
    retry(|| poll(&mut fds, patience))?;
    let came = |fd: &PollFd<'_>| !fd.revents().is_empty();
    Ok(match (fds[1..].iter().any(came), came(&fds[0])) {
        (true, _) => Waited::Over,
        (false, true) => Waited::Ready,
        (false, false) => Waited::Long,
    })
}

/// Sets an event. It fails only when it is set so often that it stays set.
pub(crate) fn set(event: &OwnedFd) {
    let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
}
