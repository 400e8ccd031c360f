//! A scripted client, a disk that records what it is asked, and a server that ends with its test.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use backstay_core::{
    BlockSize, Client, Disk, DiskError, DiskInfo, Export, Extent, OpenDisk, OpenError, ReadBytes, RequestFlags,
    ThreadModel,
};
use backstay_nbd::codec::option::{InfoRequest, MetaContextRequest, OptionHeader, OptionKind, ReplyKind};
use backstay_nbd::codec::reply::{ReplyHead, decode_head};
use backstay_nbd::codec::request::{Command, Flags, Request};
use backstay_nbd::listen;
use backstay_nbd::server::{Handle, Server, Settings, Stream};

/// A server on a socket of its own, in a folder of its own.
pub struct Running {
    folder: tempfile::TempDir,
    pub handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self::with(disk, Settings::default())
    }

    pub fn with(disk: Arc<dyn Disk>, settings: Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = listen::unix(&folder.path().join("socket")).unwrap();
        let server = Server::new(disk, settings).unwrap();
        let handle = server.handle();
        let thread = std::thread::spawn(move || server.serve(&[listener]).unwrap());
        Self { folder, handle, thread: Some(thread) }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket().display())
    }

    pub fn connect(&self) -> Peer {
        Peer::new(UnixStream::connect(self.socket()).unwrap())
    }

    /// Ends it and waits for the end.
    pub fn end(mut self) {
        self.join();
    }

    /// Waits until it has ended by itself.
    pub fn wait(mut self) {
        self.thread.take().unwrap().join().unwrap();
    }

    fn join(&mut self) {
        self.handle.shutdown();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.join();
    }
}

/// Serves one connection over a socket pair; the other end, and the thread that serves.
pub fn one_connection(disk: Arc<dyn Disk>, settings: Settings) -> (Peer, JoinHandle<()>) {
    let (here, there) = UnixStream::pair().unwrap();
    let server = Server::new(disk, settings).unwrap();
    let thread = std::thread::spawn(move || server.serve_stream(Stream::socket(OwnedFd::from(there)).unwrap()));
    (Peer::new(here), thread)
}

/// A client that says exactly what it is told to.
pub struct Peer<S = UnixStream> {
    pub stream: S,
    pub structured: bool,
}

/// The answer to a request, all chunks of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// A simple reply that is no error, with what a read has read.
    Simple(Vec<u8>),
    /// An error in a simple reply.
    SimpleError(u32),
    /// A chunk: its flags, its type, its payload.
    Chunk(u16, u16, Vec<u8>),
}

impl Reply {
    pub fn error(&self) -> u32 {
        match self {
            Self::SimpleError(error) => *error,
            Self::Chunk(1, 0x8001, payload) => u32::from_be_bytes(payload[..4].try_into().unwrap()),
            _ => 0,
        }
    }
}

impl<S: Read + Write> Peer<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, structured: false }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn receive(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Whether the server has ended the connection; nothing was left to be read.
    pub fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        !matches!(self.stream.read(&mut byte), Ok(1))
    }

    /// Greets, and says which flags the client has.
    pub fn greet(mut self, flags: u32) -> Self {
        assert_eq!(&self.receive(16), b"NBDMAGICIHAVEOPT");
        self.receive(2);
        self.send(&flags.to_be_bytes());
        self
    }

    pub fn option(&mut self, kind: OptionKind, data: &[u8]) {
        let header = OptionHeader { kind, length: data.len() as u32 }.encode();
        self.send(&[&header[..], data].concat());
    }

    /// The next reply to an option.
    pub fn option_reply(&mut self) -> (u32, ReplyKind, Vec<u8>) {
        let head = self.receive(20);
        assert_eq!(head[..8], 0x0003_e889_0455_65a9_u64.to_be_bytes());
        let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        let data = self.receive(word(16) as usize);
        (word(8), ReplyKind::from_code(word(12)).unwrap(), data)
    }

    /// All replies to an option, up to the one that ends it.
    pub fn option_replies(&mut self) -> Vec<(ReplyKind, Vec<u8>)> {
        let mut replies = Vec::new();
        loop {
            let (_, kind, data) = self.option_reply();
            replies.push((kind, data));
            if !matches!(kind, ReplyKind::Server | ReplyKind::Info | ReplyKind::MetaContext) {
                return replies;
            }
        }
    }

    pub fn ask(&mut self, kind: OptionKind, data: &[u8]) -> ReplyKind {
        self.option(kind, data);
        self.option_replies().pop().unwrap().0
    }

    /// Goes to transmission with the flags of an export that it gives back too.
    pub fn go(mut self, name: &[u8], structured: bool, allocation: bool) -> (Self, u16) {
        self = self.greet(3);
        if structured {
            assert_eq!(self.ask(OptionKind::StructuredReply, b""), ReplyKind::Ack);
            self.structured = true;
        }
        if allocation {
            let data = MetaContextRequest::encode(name, &[b"base:allocation"]);
            assert_eq!(self.ask(OptionKind::SetMetaContext, &data), ReplyKind::Ack);
        }
        self.option(OptionKind::Go, &InfoRequest { name: name.to_vec(), wanted: vec![] }.encode());
        let replies = self.option_replies();
        assert_eq!(replies.last().unwrap().0, ReplyKind::Ack);
        let flags = u16::from_be_bytes(replies[0].1[10..12].try_into().unwrap());
        (self, flags)
    }

    pub fn ready(self) -> Self {
        self.go(b"", false, false).0
    }

    pub fn request(&mut self, request: Request, payload: &[u8]) {
        self.send(&[&request.encode()[..], payload].concat());
    }

    /// The next answer: its cookie and what it says. `read` is how many bytes a simple one carries if it is no error.
    pub fn reply(&mut self, read: usize) -> (u64, Reply) {
        let mut bytes = self.receive(16);
        if bytes[..4] == 0x668e_33ef_u32.to_be_bytes() {
            bytes.extend(self.receive(4));
        }
        match decode_head(&bytes).unwrap().unwrap().0 {
            ReplyHead::Simple { error: 0, cookie } => (cookie, Reply::Simple(self.receive(read))),
            ReplyHead::Simple { error, cookie } => (cookie, Reply::SimpleError(error)),
            ReplyHead::Chunk { flags, kind, cookie, length } => {
                (cookie, Reply::Chunk(flags, kind.code(), self.receive(length as usize)))
            }
        }
    }

    /// Sends a request and takes its answer.
    pub fn call(&mut self, command: Command, flags: u16, offset: u64, count: u32, payload: &[u8]) -> Reply {
        let cookie = offset ^ u64::from(count) ^ 0x1234_5678_9abc_def0;
        self.request(Request { flags: Flags(flags), command, cookie, offset, count }, payload);
        let read = if command == Command::Read { count as usize } else { 0 };
        let (answered, reply) = self.reply(read);
        assert_eq!(answered, cookie);
        reply
    }

    /// Reads and expects it to work.
    pub fn read(&mut self, offset: u64, count: u32) -> Vec<u8> {
        match self.call(Command::Read, 0, offset, count, b"") {
            Reply::Simple(data) => data,
            Reply::Chunk(1, 1, payload) => payload[8..].to_vec(),
            other => panic!("a read at {offset} of {count} bytes: {other:?}"),
        }
    }

    pub fn disconnect(&mut self) {
        let request = Request {
            flags: Flags(0xffff),
            command: Command::Disconnect,
            cookie: 1,
            offset: u64::MAX,
            count: u32::MAX,
        };
        self.send(&request.encode());
    }
}

/// What a [`Probe`] does in a call; gets the call as it is recorded.
pub type Act = Arc<dyn Fn(&str, &Client) -> Result<(), i32> + Send + Sync>;

/// A disk of zeroes that records its calls, and does in each what a test wants.
#[derive(Clone)]
pub struct Probe {
    pub info: DiskInfo,
    pub model: ThreadModel,
    pub block_size: Result<Option<BlockSize>, String>,
    pub description: Option<Vec<u8>>,
    pub extents: Vec<Extent>,
    pub calls: Arc<Mutex<Vec<String>>>,
    pub act: Act,
}

impl Probe {
    pub fn new(model: ThreadModel) -> Self {
        let info = DiskInfo { size: 1 << 20, can_write: true, can_flush: true, ..DiskInfo::default() };
        Self {
            info,
            model,
            block_size: Ok(None),
            description: None,
            extents: Vec::new(),
            calls: Arc::default(),
            act: Arc::new(|_, _| Ok(())),
        }
    }

    pub fn acting(model: ThreadModel, act: impl Fn(&str, &Client) -> Result<(), i32> + Send + Sync + 'static) -> Self {
        Self { act: Arc::new(act), ..Self::new(model) }
    }

    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    pub fn opened(&self, client: &Client) -> Box<dyn OpenDisk> {
        Box::new(OpenProbe { probe: self.clone(), client: client.clone() })
    }

    fn note(&self, call: &str, client: &Client) -> Result<(), i32> {
        self.calls.lock().unwrap().push(call.to_owned());
        (self.act)(call, client)
    }
}

pub struct OpenProbe {
    probe: Probe,
    client: Client,
}

impl OpenProbe {
    fn note(&self, call: &str) -> Result<(), DiskError> {
        self.probe.note(call, &self.client).map_err(DiskError)
    }
}

impl Disk for Probe {
    fn threads(&self) -> ThreadModel {
        self.model
    }

    fn preconnect(&self, client: &Client) -> Result<(), String> {
        self.note("preconnect", client).map_err(|errno| errno.to_string())
    }

    fn exports(&self, client: &Client) -> Result<Vec<Export>, String> {
        self.note("exports", client).map_err(|errno| errno.to_string())?;
        Ok(vec![Export::default(), Export { name: b"other".to_vec(), description: Some(b"words".to_vec()) }])
    }

    fn default_export(&self, client: &Client) -> Option<Vec<u8>> {
        self.note("default_export", client).ok().map(|()| b"resolved".to_vec())
    }

    fn open(&self, export: &[u8], client: &Client) -> Result<Box<dyn OpenDisk>, OpenError> {
        let name = String::from_utf8_lossy(export);
        match self.note(&format!("open {name}"), client) {
            Ok(()) => Ok(self.opened(client)),
            Err(0) => Err(OpenError::Close("as told".to_owned())),
            Err(_) => Err(OpenError::Refused("as told".to_owned())),
        }
    }
}

impl OpenDisk for OpenProbe {
    fn info(&self) -> &DiskInfo {
        &self.probe.info
    }

    fn description(&self) -> Option<Vec<u8>> {
        self.probe.description.clone()
    }

    fn block_size(&self) -> Result<Option<BlockSize>, String> {
        self.probe.block_size.clone()
    }

    fn read(&self, offset: u64, length: usize) -> Result<ReadBytes, DiskError> {
        self.note(&format!("read {offset} {length}"))?;
        // Every eight bytes say where they stand.
        let bytes: Vec<u8> = (offset..offset + length as u64).map(|at| ((at / 8) >> (at % 8 * 8)) as u8).collect();
        Ok(Box::new(bytes))
    }

    fn write(&self, offset: u64, data: &[u8], flags: RequestFlags) -> Result<(), DiskError> {
        let zero = if data.iter().all(|byte| *byte == 0) { " zeroes" } else { "" };
        self.note(&format!("write {offset} {}{zero}{}", data.len(), shown(flags)))
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.note("flush")
    }

    fn trim(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        self.note(&format!("trim {offset} {length}{}", shown(flags)))
    }

    fn zero(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        self.note(&format!("zero {offset} {length}{}", shown(flags)))
    }

    fn cache(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.note(&format!("cache {offset} {length}"))
    }

    fn extents(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<Vec<Extent>, DiskError> {
        self.note(&format!("extents {offset} {length}{}", shown(flags)))?;
        Ok(self.probe.extents.clone())
    }
}

impl Drop for OpenProbe {
    fn drop(&mut self) {
        let _ = self.note("close");
    }
}

fn shown(flags: RequestFlags) -> String {
    let names = [(flags.fua, " fua"), (flags.may_trim, " may_trim"), (flags.fast_zero, " fast"), (flags.one, " one")];
    names.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect()
}

/// Runs a program and gives what it printed; it must be there and succeed.
pub fn run(program: &str, package: &str, arguments: &[&str]) -> String {
    // Some of them leave files where they run.
    let folder = tempfile::tempdir().unwrap();
    let output = Program::new(program).args(arguments).current_dir(&folder).output().unwrap_or_else(|error| {
        panic!("{program} cannot be started ({error}): install the Debian package {package}, or run scripts/setup test")
    });
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}
