//! A small HTTP/1.1 server for tests, on loopback, that can also misbehave: cut an answer short, fall silent, slam the
//! connection. A thread for each connection; all end with the server.

use std::fmt;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A request's first part. The body waits in the connection until [`Request::body`] takes it.
pub struct Request<'a> {
    /// `GET` and the like.
    pub method: String,
    /// The path as it came, without the query.
    pub path: String,
    /// What follows the `?`, or nothing.
    pub query: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    connection: &'a mut dyn BufferedConnection,
    left: u64,
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("method", &self.method).field("path", &self.path).finish_non_exhaustive()
    }
}

trait BufferedConnection {
    fn read_some(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
}

impl BufferedConnection for BufReader<Box<dyn Connection>> {
    fn read_some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read(buffer)
    }
}

impl Request<'_> {
    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body, or what is left of it.
    ///
    /// # Errors
    /// When the client breaks off.
    pub fn body(&mut self) -> io::Result<Vec<u8>> {
        self.some_of_the_body(u64::MAX)
    }

    /// At most so many bytes of the body.
    ///
    /// # Errors
    /// When the client breaks off.
    pub fn some_of_the_body(&mut self, most: u64) -> io::Result<Vec<u8>> {
        let mut body = vec![0; usize::try_from(self.left.min(most)).unwrap()];
        let mut filled = 0;
        while filled < body.len() {
            match self.connection.read_some(&mut body[filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        self.left -= body.len() as u64;
        Ok(body)
    }
}

/// How an answer reaches the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// Whole.
    #[default]
    Whole,
    /// All headers, then only so many bytes of the body; then the connection ends in order.
    Truncated(usize),
    /// So many bytes of the body, then a reset.
    ResetAfter(usize),
    /// A reset instead of an answer.
    Reset,
    /// So many bytes of the headers and body together, then nothing until the server ends.
    SilentAfter(usize),
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// 200 and the like.
    pub status: u16,
    /// `Content-Length` is added unless it is among them.
    pub headers: Vec<(String, String)>,
    /// The body. After `HEAD` only its length is told.
    pub body: Vec<u8>,
    /// How it is sent.
    pub manner: Manner,
}

impl Answer {
    /// An answer with this status and body.
    #[must_use]
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    /// The same with one more header.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    /// The same, sent in this manner.
    #[must_use]
    pub fn sent(mut self, manner: Manner) -> Self {
        self.manner = manner;
        self
    }
}

/// What both kinds of sockets, and what is wrapped around them, can do.
pub trait Connection: Read + Write + Send {}

impl<T: Read + Write + Send> Connection for T {}

/// Puts something around an accepted connection: TLS.
pub type Wrap = Arc<dyn Fn(TcpStream) -> io::Result<Box<dyn Connection>> + Send + Sync>;

/// What answers requests.
pub type Handler = Arc<dyn Fn(&mut Request<'_>) -> Answer + Send + Sync>;

/// Makes a connection of an accepted socket, on the thread that serves it.
type Opening = Box<dyn FnOnce() -> io::Result<Box<dyn Connection>> + Send>;

enum Listener {
    Tcp(TcpListener, Option<Wrap>),
    Unix(UnixListener),
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    fn end(&self) {
        // It may have ended by itself.
        let _ = match self {
            Self::Tcp(socket) => socket.shutdown(Shutdown::Both),
            Self::Unix(socket) => socket.shutdown(Shutdown::Both),
        };
    }

    /// Makes the close that follows a reset.
    fn slam(&self) {
        if let Self::Tcp(socket) = self {
            rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO)).unwrap();
        }
    }
}

#[derive(Default)]
struct Shared {
    ended: AtomicBool,
    end: (Mutex<()>, Condvar),
    open: Mutex<Vec<(u64, Socket)>>,
    accepted: AtomicU64,
}

impl Shared {
    fn wait_for_the_end(&self) {
        let mut guard = self.end.0.lock().unwrap();
        while !self.ended.load(Ordering::SeqCst) {
            guard = self.end.1.wait(guard).unwrap();
        }
    }
}

/// The server. It ends, with all its connections and threads, when it goes out of scope.
pub struct HttpServer {
    address: Option<SocketAddr>,
    path: Option<PathBuf>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for HttpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpServer").field("address", &self.address).field("path", &self.path).finish_non_exhaustive()
    }
}

impl HttpServer {
    /// A server on a free port of 127.0.0.1.
    #[must_use]
    pub fn start(handler: impl Fn(&mut Request<'_>) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_wrapped(None, Arc::new(handler))
    }

    /// The same with something around each connection.
    #[must_use]
    pub fn start_wrapped(wrap: Option<Wrap>, handler: Handler) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        Self::serve(Listener::Tcp(listener, wrap), Some(address), None, handler)
    }

    /// A server on a Unix socket.
    #[must_use]
    pub fn start_on_socket(path: &Path, handler: Handler) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        Self::serve(Listener::Unix(listener), None, Some(path.to_owned()), handler)
    }

    fn serve(listener: Listener, address: Option<SocketAddr>, path: Option<PathBuf>, handler: Handler) -> Self {
        let shared = Arc::new(Shared::default());
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared, &handler)
        });
        Self { address, path, shared, thread: Some(thread) }
    }

    /// Where a TCP server listens: `127.0.0.1:` and the port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address.unwrap()
    }

    /// How many connections were made so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        {
            let _guard = self.shared.end.0.lock().unwrap();
            self.shared.ended.store(true, Ordering::SeqCst);
        }
        self.shared.end.1.notify_all();
        // Wakes the thread that waits for connections.
        match (&self.address, &self.path) {
            (Some(address), _) => drop(TcpStream::connect(address)),
            (None, Some(path)) => drop(UnixStream::connect(path)),
            (None, None) => {}
        }
        self.thread.take().unwrap().join().unwrap();
    }
}

fn accept(listener: &Listener, shared: &Arc<Shared>, handler: &Handler) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    loop {
        let accepted: io::Result<(Socket, Opening)> = match listener {
            Listener::Tcp(listener, wrap) => listener.accept().and_then(|(socket, _)| {
                socket.set_nodelay(true)?;
                let (copy, wrap) = (socket.try_clone()?, wrap.clone());
                let open = move || match wrap {
                    Some(wrap) => wrap(socket),
                    None => Ok(Box::new(socket) as Box<dyn Connection>),
                };
                Ok((Socket::Tcp(copy), Box::new(open) as _))
            }),
            Listener::Unix(listener) => listener.accept().and_then(|(socket, _)| {
                let copy = socket.try_clone()?;
                Ok((Socket::Unix(copy), Box::new(move || Ok(Box::new(socket) as Box<dyn Connection>)) as _))
            }),
        };
        if shared.ended.load(Ordering::SeqCst) {
            break;
        }
        let Ok((socket, open)) = accepted else { continue };
        threads.retain(|thread| !thread.is_finished());
        let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
        shared.open.lock().unwrap().push((number, socket));
        let (shared, handler) = (Arc::clone(shared), Arc::clone(handler));
        threads.push(std::thread::spawn(move || {
            // A client that goes away ends its connection, nothing else.
            let _ = open().and_then(|connection| converse(connection, &shared, number, &handler));
            shared.open.lock().unwrap().retain(|(other, _)| *other != number);
        }));
    }
    for (_, socket) in &*shared.open.lock().unwrap() {
        socket.end();
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

fn converse(connection: Box<dyn Connection>, shared: &Shared, number: u64, handler: &Handler) -> io::Result<()> {
    let mut connection = BufReader::with_capacity(64 << 10, connection);
    while let Some((answer, head_only, in_order)) = one_request(&mut connection, handler)? {
        let slam = || {
            let open = shared.open.lock().unwrap();
            if let Some((_, socket)) = open.iter().find(|(other, _)| *other == number) {
                socket.slam();
            }
        };
        let mut text = format!("HTTP/1.1 {} {}\r\n", answer.status, reason(answer.status));
        let mut length_told = false;
        for (name, value) in &answer.headers {
            length_told |= name.eq_ignore_ascii_case("content-length");
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !length_told {
            text.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
        }
        text.push_str("\r\n");
        let body: &[u8] = if head_only { b"" } else { &answer.body };
        let whole = [text.as_bytes(), body].concat();
        let stream = connection.get_mut();
        match answer.manner {
            Manner::Whole => {
                stream.write_all(&whole)?;
                stream.flush()?;
                if !in_order || (length_told && !head_only) {
                    return Ok(());
                }
            }
            Manner::Truncated(count) => {
                stream.write_all(&whole[..text.len() + count.min(body.len())])?;
                return stream.flush();
            }
            Manner::ResetAfter(count) => {
                stream.write_all(&whole[..text.len() + count.min(body.len())])?;
                stream.flush()?;
                slam();
                return Ok(());
            }
            Manner::Reset => {
                slam();
                return Ok(());
            }
            Manner::SilentAfter(count) => {
                stream.write_all(&whole[..count.min(whole.len())])?;
                stream.flush()?;
                shared.wait_for_the_end();
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Reads a request and asks the handler; none at the connection's end. Tells also whether only the head of the answer is
/// wanted, and whether the body was read to its end.
fn one_request(
    connection: &mut BufReader<Box<dyn Connection>>,
    handler: &Handler,
) -> io::Result<Option<(Answer, bool, bool)>> {
    let mut line = String::new();
    if connection.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (method, path, query) = (method.to_owned(), path.to_owned(), query.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        connection.read_line(&mut line)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
        headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
    }
    let left = headers.iter().find(|(name, _)| name == "content-length").map_or(Ok(0), |(_, value)| value.parse());
    let left = left.map_err(|_| io::ErrorKind::InvalidData)?;
    let mut request = Request { method, path, query, headers, connection, left };
    let answer = handler(&mut request);
    Ok(Some((answer, request.method == "HEAD", request.left == 0)))
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        412 => "Precondition Failed",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        507 => "Insufficient Storage",
        _ => "Something",
    }
}
