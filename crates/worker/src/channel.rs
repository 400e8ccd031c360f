//! Control frames on a Unix stream socket: a length word, then a postcard message, perhaps a descriptor beside it.
//!
//! The length word is 32 bits, little-endian; its highest bit says that a descriptor (SCM_RIGHTS) belongs to the frame.
//! Whatever the other side sends, the result is a message or a clean error: it may be hostile, broken or dead.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest message, in bytes. A longer one is refused by both sides.
pub const MAX_FRAME: usize = 4 << 20;

/// Frames are gathered until this many bytes wait.
const SEND_AT: usize = 64 << 10;
/// What one call asks the kernel for.
const RECEIVE: usize = 64 << 10;
/// Marks a length word whose frame comes with a descriptor.
const WITH_FD: u32 = 1 << 31;
/// Descriptors that may wait for their frames. One frame carries one; more in flight than this is an attack.
const WAITING_FDS: usize = 16;

/// Both directions of a control socket.
#[derive(Debug)]
pub struct Channel {
    sender: Sender,
    receiver: Receiver,
}

/// The sending half.
#[derive(Debug)]
pub struct Sender {
    socket: Arc<OwnedFd>,
    buffer: Vec<u8>,
    sent: usize,
}

/// The receiving half.
#[derive(Debug)]
pub struct Receiver {
    socket: Arc<OwnedFd>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    descriptors: VecDeque<OwnedFd>,
    closed: bool,
    /// The socket's own time limit: one call then waits and receives, where a poll before it would be a second one.
    limit: Option<Duration>,
}

/// What came within the time given.
#[derive(Debug)]
pub enum Received<T> {
    /// A message, with its descriptor if it carried one.
    Message(T, Option<OwnedFd>),
    /// The other side closed the socket, between two frames.
    Closed,
    /// Nothing came.
    TimedOut,
}

impl Channel {
    /// Takes over one end of a Unix stream socket.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        let socket = Arc::new(socket);
        Self {
            sender: Sender { socket: Arc::clone(&socket), buffer: Vec::new(), sent: 0 },
            receiver: Receiver {
                socket,
                buffer: Vec::new(),
                start: 0,
                end: 0,
                descriptors: VecDeque::new(),
                closed: false,
                limit: None,
            },
        }
    }

    /// Two connected ends; neither survives an `exec`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
        Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
    }

    /// Queues a message; sends what waits once 64 KiB are together.
    ///
    /// # Errors
    /// See [`Sender::send`].
    pub fn send<T: Serialize>(&mut self, message: &T) -> io::Result<()> {
        self.sender.send(message)
    }

    /// Sends a message with a descriptor, and everything queued before it.
    ///
    /// # Errors
    /// See [`Sender::send_with_fd`].
    pub fn send_with_fd<T: Serialize>(&mut self, message: &T, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.sender.send_with_fd(message, descriptor)
    }

    /// Sends everything queued.
    ///
    /// # Errors
    /// See [`Sender::flush`].
    pub fn flush(&mut self) -> io::Result<()> {
        self.sender.flush()
    }

    /// Sends everything queued, then waits for a message. None: the other side closed the socket.
    ///
    /// # Errors
    /// See [`Receiver::receive`].
    pub fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        self.sender.flush()?;
        self.receiver.receive()
    }

    /// The two halves, for two threads.
    #[must_use]
    pub fn split(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
    }
}

impl Sender {
    /// Queues a message; sends what waits once 64 KiB are together.
    ///
    /// # Errors
    /// `InvalidInput` for a message over [`MAX_FRAME`] (nothing is queued); otherwise as [`Sender::flush`], and the
    /// message stays queued.
    pub fn send<T: Serialize>(&mut self, message: &T) -> io::Result<()> {
        self.queue(message, 0)?;
        if self.buffer.len() - self.sent >= SEND_AT { self.flush() } else { Ok(()) }
    }

    /// Sends everything queued, then a message with a descriptor. The caller keeps its own copy of the descriptor.
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub fn send_with_fd<T: Serialize>(&mut self, message: &T, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.flush()?;
        self.queue(message, WITH_FD)?;
        let descriptors = [descriptor];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other("no room for a descriptor beside a frame"));
        }
        // The kernel hangs the descriptor on the first byte that it takes, so it is there when the length word is.
        loop {
            match rustix::net::sendmsg(&*self.socket, &[IoSlice::new(&self.buffer)], &mut control, SendFlags::NOSIGNAL)
            {
                Ok(n) => {
                    self.sent = n;
                    return self.flush();
                }
                Err(Errno::INTR) => {}
                Err(error) => {
                    self.buffer.clear();
                    return Err(error.into());
                }
            }
        }
    }

    /// Sends everything queued.
    ///
    /// # Errors
    /// `BrokenPipe` when the other side is gone; `WouldBlock` when a limit was set with [`Sender::set_limit`] and
    /// passed (what is left stays queued; call again).
    pub fn flush(&mut self) -> io::Result<()> {
        while self.sent < self.buffer.len() {
            match rustix::net::send(&*self.socket, &self.buffer[self.sent..], SendFlags::NOSIGNAL) {
                Ok(n) => self.sent += n,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.buffer.clear();
        self.sent = 0;
        Ok(())
    }

    /// How long one call may wait for the other side to take bytes. Without a limit it waits for ever.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_limit(&self, limit: Option<Duration>) -> io::Result<()> {
        use rustix::net::sockopt::{Timeout, set_socket_timeout};
        Ok(set_socket_timeout(&*self.socket, Timeout::Send, limit)?)
    }

    /// Tells the other side that nothing more comes: it sees the end of the stream.
    pub fn close(&self) {
        // An error means that the other side closed first.
        let _ = rustix::net::shutdown(&*self.socket, rustix::net::Shutdown::Write);
    }

    fn queue<T: Serialize>(&mut self, message: &T, flag: u32) -> io::Result<()> {
        if self.sent > 0 {
            self.buffer.drain(..self.sent);
            self.sent = 0;
        }
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 4]);
        let written = postcard::to_io(message, &mut self.buffer).map(|_| ());
        let length = self.buffer.len() - start - 4;
        let refused = match written {
            Err(error) => format!("a message cannot be encoded: {error}"),
            Ok(()) if length > MAX_FRAME => {
                format!("a message of {length} bytes is longer than the limit of {MAX_FRAME}")
            }
            Ok(()) => {
                let word = u32::try_from(length).unwrap_or(0) | flag;
                self.buffer[start..start + 4].copy_from_slice(&word.to_le_bytes());
                return Ok(());
            }
        };
        self.buffer.truncate(start);
        Err(io::Error::new(io::ErrorKind::InvalidInput, refused))
    }
}

impl Receiver {
    /// Waits for a message. None: the other side closed the socket between two frames.
    ///
    /// # Errors
    /// `InvalidData` for what is no frame, `UnexpectedEof` for half of one, else what the kernel says.
    pub fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        loop {
            match self.receive_within(None)? {
                Received::Message(message, descriptor) => return Ok(Some((message, descriptor))),
                Received::Closed => return Ok(None),
                Received::TimedOut => {}
            }
        }
    }

    /// A message that came already with an earlier one: the kernel is not asked.
    ///
    /// # Errors
    /// `InvalidData` for what is no frame.
    pub fn received<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        self.take()
    }

    /// Waits for a message for at most `limit`.
    ///
    /// # Errors
    /// As [`Receiver::receive`].
    pub fn receive_within<T: DeserializeOwned>(&mut self, limit: Option<Duration>) -> io::Result<Received<T>> {
        let mut deadline = None;
        loop {
            if let Some((message, descriptor)) = self.take()? {
                return Ok(Received::Message(message, descriptor));
            }
            if self.closed {
                return if self.start == self.end {
                    Ok(Received::Closed)
                } else {
                    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other side closed in the middle of a frame"))
                };
            }
            let left = match (limit, deadline) {
                (Some(limit), None) => {
                    deadline = Some(Instant::now() + limit);
                    Some(limit)
                }
                (_, Some(deadline)) => Some(deadline.saturating_duration_since(Instant::now())),
                (None, None) => None,
            };
            if !self.fill(left)? && left.is_some_and(|left| left.is_zero()) {
                return Ok(Received::TimedOut);
            }
        }
    }

    /// The length word at the start of the buffer, checked.
    fn head(&self) -> io::Result<Option<(usize, bool)>> {
        let Some(word) = self.buffer[self.start..self.end].first_chunk::<4>() else { return Ok(None) };
        let word = u32::from_le_bytes(*word);
        let length = (word & !WITH_FD) as usize;
        if length > MAX_FRAME {
            return Err(invalid(format!("a frame of {length} bytes is longer than the limit of {MAX_FRAME}")));
        }
        Ok(Some((length, word & WITH_FD != 0)))
    }

    fn take<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        let Some((length, with_fd)) = self.head()? else { return Ok(None) };
        if self.end - self.start < 4 + length {
            return Ok(None);
        }
        let frame = &self.buffer[self.start + 4..self.start + 4 + length];
        let (message, rest) =
            postcard::take_from_bytes(frame).map_err(|error| invalid(format!("a frame is no message: {error}")))?;
        if !rest.is_empty() {
            return Err(invalid(format!("a frame has {} bytes after its message", rest.len())));
        }
        let descriptor = if with_fd {
            Some(self.descriptors.pop_front().ok_or_else(|| invalid("a frame came without its descriptor".into()))?)
        } else {
            None
        };
        self.start += 4 + length;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
        Ok(Some((message, descriptor)))
    }

    /// Asks the kernel once, with room for the rest of the frame that is begun, and waits up to `limit` for an answer.
    /// False: nothing came.
    fn fill(&mut self, limit: Option<Duration>) -> io::Result<bool> {
        use rustix::net::sockopt::{Timeout, set_socket_timeout};
        let mut flags = RecvFlags::CMSG_CLOEXEC;
        if limit.is_some_and(|limit| limit.is_zero()) {
            flags |= RecvFlags::DONTWAIT;
        } else if limit != self.limit {
            // The kernel counts in microseconds, and none of them would mean for ever.
            set_socket_timeout(&*self.socket, Timeout::Recv, limit.map(|limit| limit.max(Duration::from_millis(1))))?;
            self.limit = limit;
        }
        let wanted =
            self.head()?.map_or(0, |(length, _)| (4 + length).saturating_sub(self.end - self.start)).max(RECEIVE);
        if self.buffer.len() - self.end < wanted {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if self.buffer.len() - self.end < wanted {
                self.buffer.resize(self.end + wanted, 0);
            }
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(WAITING_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = {
            let mut into = [IoSliceMut::new(&mut self.buffer[self.end..])];
            match rustix::net::recvmsg(&*self.socket, &mut into, &mut control, flags) {
                Ok(received) => received,
                Err(Errno::INTR | Errno::AGAIN) => return Ok(false),
                // A peer that died with unread bytes in its queue resets the connection: it is closed all the same.
                Err(Errno::CONNRESET) => {
                    self.closed = true;
                    return Ok(true);
                }
                Err(error) => return Err(error.into()),
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) || self.descriptors.len() > WAITING_FDS {
            return Err(invalid("more descriptors came than frames".into()));
        }
        self.closed = received.bytes == 0;
        self.end += received.bytes;
        Ok(true)
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn channels() -> (Channel, Channel) {
        let (a, b) = Channel::pair().unwrap();
        (Channel::new(a), Channel::new(b))
    }

    #[test]
    fn messages_arrive_in_order_and_the_end_is_seen() {
        let (mut a, mut b) = channels();
        for n in 0..10_000_u32 {
            a.send(&n).unwrap();
            if n % 1000 == 0 {
                a.flush().unwrap();
            }
            if n % 1000 == 999 {
                a.flush().unwrap();
                for m in n - 999..=n {
                    assert_eq!(b.receive::<u32>().unwrap().unwrap().0, m);
                }
            }
        }
        drop(a);
        assert!(b.receive::<u32>().unwrap().is_none());
    }

    #[test]
    fn a_descriptor_stays_with_its_frame() {
        let (mut a, mut b) = channels();
        let mut ends = Vec::new();
        for n in 0..20_u32 {
            a.send(&(2 * n)).unwrap();
            let (theirs, ours) = UnixStream::pair().unwrap();
            a.send_with_fd(&(2 * n + 1), theirs.as_fd()).unwrap();
            drop(theirs);
            ends.push(ours);
            if n % 4 == 3 {
                // Several wait at once and still belong where they belong.
                for m in n - 3..=n {
                    let (even, none) = b.receive::<u32>().unwrap().unwrap();
                    assert_eq!(even, 2 * m);
                    assert!(none.is_none());
                    let (odd, fd) = b.receive::<u32>().unwrap().unwrap();
                    assert_eq!(odd, 2 * m + 1);
                    let mut theirs = UnixStream::from(fd.unwrap());
                    theirs.write_all(&m.to_le_bytes()).unwrap();
                    drop(theirs);
                    let mut got = Vec::new();
                    ends[m as usize].read_to_end(&mut got).unwrap();
                    assert_eq!(got, m.to_le_bytes());
                }
            }
        }
    }

    #[test]
    fn a_message_over_the_limit_is_refused_by_the_sender_and_nothing_is_sent() {
        let (mut a, mut b) = channels();
        let error = a.send(&vec![0_u8; MAX_FRAME + 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        a.send(&vec![7_u8; 3]).unwrap();
        a.flush().unwrap();
        assert_eq!(b.receive::<Vec<u8>>().unwrap().unwrap().0, [7; 3]);
    }

    #[test]
    fn a_message_at_the_limit_passes() {
        let (mut a, mut b) = channels();
        let big = vec![1_u8; MAX_FRAME - 8];
        let copy = big.clone();
        let thread = std::thread::spawn(move || {
            a.send(&copy).unwrap();
            a.flush().unwrap();
        });
        assert_eq!(b.receive::<Vec<u8>>().unwrap().unwrap().0, big);
        thread.join().unwrap();
    }

    fn error_of(bytes: &[u8]) -> io::Error {
        let (a, b) = Channel::pair().unwrap();
        UnixStream::from(a).write_all(bytes).unwrap();
        Channel::new(b).receive::<String>().unwrap_err()
    }

    #[test]
    fn garbage_is_a_clean_error() {
        // Too long a length, no text, bytes left over, a descriptor that never came, half a frame.
        assert_eq!(error_of(&[0xff, 0xff, 0xff, 0x7f]).kind(), io::ErrorKind::InvalidData);
        assert_eq!(error_of(&[2, 0, 0, 0, 1, 0xff]).kind(), io::ErrorKind::InvalidData);
        assert_eq!(error_of(&[3, 0, 0, 0, 1, b'a', b'b']).kind(), io::ErrorKind::InvalidData);
        assert_eq!(error_of(&[2, 0, 0, 0x80, 1, b'a']).kind(), io::ErrorKind::InvalidData);
        assert_eq!(error_of(&[2, 0, 0, 0, 1]).kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(error_of(&[2, 0]).kind(), io::ErrorKind::UnexpectedEof);
        // A text that claims more bytes than its frame has.
        assert_eq!(error_of(&[5, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]).kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn descriptors_without_frames_are_refused() {
        let (a, b) = Channel::pair().unwrap();
        let mut b = Channel::new(b);
        let extra: Vec<BorrowedFd<'_>> = (0..10).map(|_| a.as_fd()).collect();
        for _ in 0..3 {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(10))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(&extra)));
            rustix::net::sendmsg(&a, &[IoSlice::new(&[1, 0, 0, 0, 0])], &mut control, SendFlags::empty()).unwrap();
        }
        let error = loop {
            match b.receive::<String>() {
                Ok(Some((text, None))) => assert_eq!(text, ""),
                Ok(other) => panic!("{other:?}"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn waiting_ends_at_its_limit() {
        let (a, b) = channels();
        let (_sender, mut receiver) = b.split();
        let got = receiver.receive_within::<u32>(Some(Duration::from_millis(20))).unwrap();
        assert!(matches!(got, Received::TimedOut));
        drop(a);
        assert!(matches!(receiver.receive_within::<u32>(Some(Duration::from_secs(60))).unwrap(), Received::Closed));
    }

    #[test]
    fn a_peer_that_does_not_read_cannot_hold_a_sender_with_a_limit() {
        let (mut a, b) = channels();
        a.sender.set_limit(Some(Duration::from_millis(20))).unwrap();
        let full = loop {
            if let Err(error) = a.send(&vec![0_u8; 60_000]) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        // What waits is still sent whole once the peer reads.
        let thread = std::thread::spawn(move || {
            let mut b = b;
            let mut n = 0;
            while let Some((bytes, _)) = b.receive::<Vec<u8>>().unwrap() {
                assert_eq!(bytes.len(), 60_000);
                n += 1;
            }
            n
        });
        a.sender.set_limit(None).unwrap();
        a.flush().unwrap();
        drop(a);
        assert!(thread.join().unwrap() > 2);
    }
}
