//! The two directions of a connection: a socket, or two descriptors that may be pipes; encrypted or not.

use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use backstay_core::Peer;
use nix::{getsockopt_impl, sockopt_impl};
use openssl::error::ErrorStack;
use openssl::ssl::Ssl;
use parking_lot::RwLock;
use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, sockopt};

use crate::tls::channel::Channel;

/// How long a call waits for the other side before it looks whether it still should.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is given to a socket in one call at most, in bytes.
const AT_ONCE: usize = 512 << 10;
/// What a pipe that has room takes without waiting for more.
const PIPE: usize = 4096;
/// Bytes of a security context that are read at most.
const MAX_CONTEXT: usize = 4096;

/// What the system may keep of answers that a client on a Unix socket has not taken yet, in bytes.
const SEND_BUFFER: usize = 256 << 10;

/// A connection. Both directions may be used at the same time, each by one thread.
#[derive(Debug)]
pub struct Stream {
    ends: Arc<Ends>,
    /// Once it is encrypted.
    channel: OnceLock<Channel>,
}

/// Its descriptors, and until when something has to have happened on them.
#[derive(Debug)]
pub(crate) struct Ends {
    kind: Kind,
    limit: RwLock<Option<Instant>>,
}

#[derive(Debug)]
enum Kind {
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
        Ok(Self::new(Kind::Socket(socket)))
    }

    /// A descriptor to read from and one to write to: pipes, or both ends of standard input and output.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub fn pair(input: OwnedFd, output: OwnedFd) -> io::Result<Self> {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Self::new(Kind::Pair { input, output, stop: event()?, close: event()? }))
    }

    fn new(kind: Kind) -> Self {
        Self { ends: Arc::new(Ends { kind, limit: RwLock::new(None) }), channel: OnceLock::new() }
    }

    /// From this moment on whoever reads or writes gets `TimedOut`; none: there is no such moment.
    pub(crate) fn set_limit(&self, limit: Option<Instant>) {
        *self.ends.limit.write() = limit;
    }

    /// The client's process, where the system tells.
    pub(crate) fn peer(&self) -> Option<Peer> {
        let Kind::Socket(socket) = &self.ends.kind else { return None };
        let credentials = sockopt::socket_peercred(socket).ok()?;
        let (user, group) = (credentials.uid.as_raw(), credentials.gid.as_raw());
        // Sockets of other families say that nobody is there.
        (user != u32::MAX).then(|| Peer { process: credentials.pid.as_raw_nonzero().get(), user, group })
    }

    /// The client's security context, where the system has such a thing and tells.
    pub(crate) fn peer_context(&self) -> Option<String> {
        let Kind::Socket(socket) = &self.ends.kind else { return None };
        let context = nix::sys::socket::getsockopt(socket, PeerContext).ok()?.into_string().ok()?;
        (!context.is_empty()).then_some(context)
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

    /// Fills some of a place with what has arrived; else as [`Stream::read`].
    pub(crate) fn receive(&self, place: &mut [u8]) -> io::Result<usize> {
        match self.channel.get() {
            Some(channel) => channel.receive(place),
            None => self.ends.receive(place),
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
        match &self.ends.kind {
            Kind::Socket(socket) => drop(rustix::net::shutdown(socket, Shutdown::Read)),
            Kind::Pair { stop, .. } => set(stop),
        }
    }

    /// Ends both directions, also for threads that wait in them.
    pub(crate) fn close(&self) {
        match &self.ends.kind {
            Kind::Socket(socket) => drop(rustix::net::shutdown(socket, Shutdown::Both)),
            Kind::Pair { close, .. } => set(close),
        }
    }

    /// Whether the client has gone. (One that only sends no more has not.)
    pub(crate) fn is_left(&self) -> bool {
        let fd = match &self.ends.kind {
            Kind::Socket(socket) => socket,
            Kind::Pair { output, .. } => output,
        };
        let mut fds = [PollFd::new(fd, PollFlags::empty())];
        poll(&mut fds, Some(&NOW)).is_ok() && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }
}

impl Ends {
    fn read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        match &self.kind {
            Kind::Socket(socket) => {
                self.wait_if_limited(Direction::In)?;
                let (_, received) = retry(|| rustix::net::recv(socket, spare_capacity(buffer), RecvFlags::empty()))?;
                Ok(received)
            }
            Kind::Pair { input, stop, close, .. } => {
                self.wait_if_limited(Direction::In)?;
                if wait(input.as_fd(), PollFlags::IN, &[stop.as_fd(), close.as_fd()], None)?.is_over() {
                    return Ok(0);
                }
                Ok(retry(|| rustix::io::read(input, spare_capacity(buffer)))?)
            }
        }
    }

    fn write(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.kind {
            Kind::Socket(socket) => {
                let limited = self.wait_if_limited(Direction::Out)?;
                let flags = if limited { SendFlags::NOSIGNAL | SendFlags::DONTWAIT } else { SendFlags::NOSIGNAL };
                // So that a client that takes a large answer slowly is seen to take it.
                let part = part(bytes, AT_ONCE);
                let send = || rustix::net::sendmsg(socket, &part, &mut SendAncillaryBuffer::default(), flags);
                Ok(retry(send)?)
            }
            Kind::Pair { output, close, .. } => {
                self.wait_if_limited(Direction::Out)?;
                if wait(output.as_fd(), PollFlags::OUT, &[close.as_fd()], None)?.is_over() {
                    return Err(Errno::PIPE.into());
                }
                // More than that could wait where nobody can wake it.
                let part = part(bytes, PIPE);
                Ok(retry(|| rustix::io::writev(output, &part))?)
            }
        }
    }

    fn receive(&self, place: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.read_now(place) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(Direction::In)?,
                received => return received,
            }
        }
    }

    /// Reads what is there. `WouldBlock`: nothing; 0: nothing comes any more.
    pub(crate) fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.kind {
            Kind::Socket(socket) => Ok(retry(|| rustix::net::recv(socket, &mut *buffer, RecvFlags::DONTWAIT))?.1),
            Kind::Pair { input, stop, close, .. } => {
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
        match &self.kind {
            Kind::Socket(socket) => {
                Ok(retry(|| rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL))?)
            }
            Kind::Pair { output, close, .. } => {
                let some = &bytes[..bytes.len().min(PIPE)];
                match wait(output.as_fd(), PollFlags::OUT, &[close.as_fd()], Some(&NOW))? {
                    Waited::Over => Err(Errno::PIPE.into()),
                    Waited::Ready => Ok(retry(|| rustix::io::write(output, some))?),
                    Waited::Long => Err(Errno::AGAIN.into()),
                }
            }
        }
    }

    /// Waits until a direction is ready, or the connection is over. `WouldBlock`: it was not for long; `TimedOut`: the limit
    /// has passed.
    pub(crate) fn wait(&self, direction: Direction) -> io::Result<()> {
        let patience = self.patience()?;
        let patience = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) };
        let (fd, flags, events) = match (&self.kind, direction) {
            (Kind::Socket(socket), Direction::In) => (socket, PollFlags::IN, vec![]),
            (Kind::Socket(socket), Direction::Out) => (socket, PollFlags::OUT, vec![]),
            (Kind::Pair { input, stop, close, .. }, Direction::In) => {
                (input, PollFlags::IN, vec![stop.as_fd(), close.as_fd()])
            }
            (Kind::Pair { output, close, .. }, Direction::Out) => (output, PollFlags::OUT, vec![close.as_fd()]),
        };
        match wait(fd.as_fd(), flags, &events, Some(&patience))? {
            Waited::Ready | Waited::Over => Ok(()),
            Waited::Long => self.patience().and(Err(Errno::AGAIN.into())),
        }
    }

    /// Waits as [`Ends::wait`] does if there is a limit; whether there is.
    fn wait_if_limited(&self, direction: Direction) -> io::Result<bool> {
        let limited = self.limit.read().is_some();
        if limited {
            self.wait(direction)?;
        }
        Ok(limited)
    }

    /// How long one wait may take.
    fn patience(&self) -> io::Result<Duration> {
        let Some(limit) = *self.limit.read() else { return Ok(PATIENCE) };
        let left = limit.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let reason = "the time for the handshake is over";
            return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
        }
        Ok(left.min(PATIENCE))
    }
}

sockopt_impl!(
    /// What names a client to the system's security module.
    PeerContext,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_PEERSEC,
    OsString,
    nix::sys::socket::sockopt::GetOsString<[u8; MAX_CONTEXT]>
);

/// As much of the bytes as is wanted at most.
fn part<'a>(bytes: &'a [IoSlice<'a>], most: usize) -> Cow<'a, [IoSlice<'a>]> {
    let mut left = most;
    for (position, slice) in bytes.iter().enumerate() {
        if slice.len() > left {
            let mut some: Vec<IoSlice<'a>> = bytes[..position].to_vec();
            some.push(IoSlice::new(&slice[..left]));
            return Cow::Owned(some);
        }
        left -= slice.len();
    }
    Cow::Borrowed(bytes)
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
