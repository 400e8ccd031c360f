//! Serves a disk on streams: a thread for each connection, more where calls take long and the disk can bear it.

mod budget;
mod connection;
mod gate;
mod input;
mod line;
mod output;
mod session;
mod shared;
pub mod stream;
mod watch;

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread::JoinHandle;
use std::time::Duration;

use backstay_core::Disk;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use crate::handshake::Encryption;
use line::Line;
pub(crate) use output::write_slices;
use shared::Shared;
pub use shared::{Level, Log, Settings};
pub use stream::Stream;

/// How long a server that ends waits for clients that take no answers, in nanoseconds.
const GRACE: u64 = 5_000_000_000;
/// How long it waits after the system had nothing left for another connection.
const PAUSE: Duration = Duration::from_millis(100);

/// A server of one disk.
pub struct Server {
    shared: Arc<Shared>,
    watch: Option<JoinHandle<()>>,
}

/// Ends a server, from anywhere and any time.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

impl Handle {
    /// Asks the server to end; returns at once. Calls that run are finished and answered, open disks are closed.
    pub fn shutdown(&self) {
        self.0.end();
    }
}

impl Server {
    /// Gets ready to serve a disk.
    ///
    /// # Errors
    /// The settings offer encryption and have no credentials; the system has no thread or descriptor left.
    pub fn new(disk: Arc<dyn Disk>, settings: Settings) -> io::Result<Self> {
        if settings.terms.encryption != Encryption::Off && settings.credentials.is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "encryption (TLS) needs credentials"));
        }
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared::new(disk, settings, stop));
        let watching = Arc::clone(&shared);
        let watch = std::thread::Builder::new().name("nbd watch".to_owned()).spawn(move || watching.watch.run())?;
        Ok(Self { shared, watch: Some(watch) })
    }

    /// What ends it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    /// Serves one connection on this thread until it is over.
    pub fn serve_stream(&self, stream: Stream) {
        let line = Arc::new(Line::new(self.shared.number(), stream, Arc::clone(&self.shared)));
        let (sender, over) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            // When the server is to end, a client that takes no answers is not waited for.
            scope.spawn(move || {
                while over.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                    if self.shared.is_ending() {
                        return self.shared.wait(GRACE);
                    }
                }
            });
            run(&line);
            drop(sender);
        });
    }

    /// Serves whoever connects to one of these listening sockets until it is asked to end; then all connections are over and
    /// all threads that called the disk have ended.
    ///
    /// # Errors
    /// The sockets cannot be waited for.
    pub fn serve(&self, listeners: &[OwnedFd]) -> io::Result<()> {
        let mut connections = Vec::new();
        let result = self.accept(listeners, &mut connections);
        self.shared.end();
        self.shared.wait(GRACE);
        connections.into_iter().for_each(join);
        result
    }

    fn accept(&self, listeners: &[OwnedFd], connections: &mut Vec<JoinHandle<()>>) -> io::Result<()> {
        for listener in listeners {
            rustix::io::ioctl_fionbio(listener, true)?;
        }
        let mut fds: Vec<PollFd<'_>> = listeners.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        fds.push(PollFd::new(&self.shared.stop, PollFlags::IN));
        while !self.shared.is_ending() {
            match poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                polled => polled?,
            };
            for (listener, fd) in listeners.iter().zip(&fds) {
                if !fd.revents().is_empty() {
                    self.accept_one(listener, connections);
                }
            }
            reap(connections);
        }
        Ok(())
    }

    fn accept_one(&self, listener: &OwnedFd, connections: &mut Vec<JoinHandle<()>>) {
        match accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(socket) => connections.extend(self.begin(socket)),
            // Nothing but waiting helps.
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => std::thread::sleep(PAUSE),
            // It went before it was served.
            Err(_) => {}
        }
    }

    /// Begins a connection; none: the system has no thread for it, and it is closed.
    fn begin(&self, socket: OwnedFd) -> Option<JoinHandle<()>> {
        let number = self.shared.number();
        let stream = Stream::socket(socket).ok()?;
        let line = Arc::new(Line::new(number, stream, Arc::clone(&self.shared)));
        let thread = std::thread::Builder::new().name(format!("nbd {number}")).spawn(move || run(&line));
        if let Err(error) = &thread {
            self.shared.log(Level::Error, number, &error.to_string());
        }
        thread.ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.end();
        self.shared.watch.end();
        self.watch.take().into_iter().for_each(join);
    }
}

/// Serves a connection; whatever happens in it stays in it.
fn run(line: &Arc<Line>) {
    line.shared.enter(line);
    if catch_unwind(AssertUnwindSafe(|| connection::serve(line))).is_err() {
        line.log(Level::Error, "the connection ends after a panic");
    }
    line.leave();
    line.shared.leave(line.number);
}

/// Takes leave of connections that are over.
fn reap(connections: &mut Vec<JoinHandle<()>>) {
    connections.extract_if(.., |connection| connection.is_finished()).for_each(join);
}

fn join(thread: JoinHandle<()>) {
    // One that panicked has said so.
    let _ = thread.join();
}
