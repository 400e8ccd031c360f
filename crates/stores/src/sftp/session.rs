//! One conversation with an SFTP server through a program of its own, usually `ssh`: it is started, spoken to over a socket,
//! and ends with this value, or with our process however that ends, because nobody holds the socket's other end then.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::wire::{self, Attributes, Extensions, Reply, Request, Room};
use crate::trouble::{SILENCE, Trouble};

/// How many requests are on their way at once while a file is read or written.
const WINDOW: usize = 64;
/// How much of what the program says on standard error is kept, in bytes.
const KEPT_WORDS: usize = 8 << 10;
/// How long a program that has closed its end may take to end, before it is killed.
const LEAVE: Duration = Duration::from_secs(2);

/// The server's statuses that we tell apart.
pub(super) const NO_SUCH_FILE: u32 = 2;
const END_OF_FILE: u32 = 1;
const FAILURE: u32 = 4;
const EXISTS: u32 = 11;

/// Why something was not done.
#[derive(Debug)]
pub(super) enum Failed {
    /// The server said so. The conversation goes on.
    Status {
        /// As in the draft, section 7.
        code: u32,
        /// What the server says to it.
        words: String,
    },
    /// We found out ourselves. The conversation goes on.
    Own(Trouble, String),
    /// The conversation is over.
    Broken(Trouble, String),
}

impl Failed {
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Status { code: NO_SUCH_FILE, .. })
    }

    /// The status that stands for everything that has none of its own, or the one of later versions for what exists.
    pub(super) fn may_be_there(&self) -> bool {
        matches!(self, Self::Status { code: FAILURE | EXISTS, .. })
    }

    /// What it means, and the words for it.
    pub(super) fn judged(self) -> (Trouble, String) {
        match self {
            Self::Own(trouble, words) | Self::Broken(trouble, words) => (trouble, words),
            Self::Status { code, words } => {
                let trouble = match code {
                    NO_SUCH_FILE => Trouble::Missing,
                    3 | 12 => Trouble::Denied,
                    EXISTS => Trouble::Exists,
                    14 | 15 => Trouble::Full,
                    6 | 7 => Trouble::Cut,
                    FAILURE => Trouble::Unavailable,
                    _ => Trouble::Refused,
                };
                let words = if words.is_empty() { format!("SFTP status {code}") } else { words };
                (trouble, words)
            }
        }
    }
}

/// What is known of a file that is open at the server.
#[derive(Debug)]
pub(super) struct Handle(Vec<u8>);

/// The conversation.
pub(super) struct Session {
    program: Child,
    stream: UnixStream,
    words: Words,
    extensions: Extensions,
    /// Whether the server has greeted us.
    greeted: bool,
    number: u32,
    /// Requests that were not sent yet.
    outgoing: Vec<u8>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("program", &self.program.id()).finish_non_exhaustive()
    }
}

impl Session {
    /// Starts the program and greets the server.
    pub(super) fn start(command: &[String]) -> Result<Self, Failed> {
        let broken = |error: &io::Error| Failed::Broken(Trouble::Other, error.to_string());
        let (ours, theirs) = UnixStream::pair().map_err(|error| broken(&error))?;
        let again = theirs.try_clone().map_err(|error| broken(&error))?;
        let (name, arguments) = command.split_first().map_or(("ssh", [].as_slice()), |(name, rest)| (name, rest));
        let mut program = Command::new(name)
            .args(arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(OwnedFd::from(again)))
            .stderr(Stdio::piped())
            // The interrupt of a terminal is for us: we still need the program to put things in order.
            .process_group(0)
            .spawn()
            .map_err(|error| {
                let text = format!("cannot start {name}: {error}");
                Failed::Broken(Trouble::Other, text)
            })?;
        let words = Words::listen(program.stderr.take());
        for set in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
            set(&ours, Some(SILENCE)).map_err(|error| broken(&error))?;
        }
        let mut session = Self {
            program,
            stream: ours,
            words,
            extensions: Extensions::default(),
            greeted: false,
            number: 0,
            outgoing: wire::hello(),
        };
        let packet = session.packet()?;
        let (version, extensions) = wire::read_hello(&packet).ok_or_else(no_sftp)?;
        if version != wire::VERSION {
            let text = format!("the server speaks version {version} of SFTP, not {}", wire::VERSION);
            return Err(Failed::Broken(Trouble::Refused, text));
        }
        session.extensions = extensions;
        session.greeted = true;
        // What was said until now did not keep us out.
        session.words.forget();
        Ok(session)
    }

    /// Whether the program still runs.
    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.program.try_wait(), Ok(None))
    }

    /// What is known of a file; none if it is not there.
    pub(super) fn stat(&mut self, path: &str) -> Result<Option<Attributes>, Failed> {
        match self.ask(Request::Stat { path }) {
            Ok(Reply::Attributes(attributes)) => Ok(Some(attributes)),
            Ok(other) => Err(unexpected(other)),
            Err(failed) if failed.is_missing() => Ok(None),
            Err(failed) => Err(failed),
        }
    }

    /// The size of an open file in bytes.
    pub(super) fn size(&mut self, handle: &Handle) -> Result<u64, Failed> {
        match self.ask(Request::StatHandle { handle: &handle.0 })? {
            Reply::Attributes(Attributes { size: Some(size), .. }) => Ok(size),
            other => Err(unexpected(other)),
        }
    }

    /// Opens a file; `flags` as in [`wire`].
    pub(super) fn open(&mut self, path: &str, flags: u32) -> Result<Handle, Failed> {
        match self.ask(Request::Open { path, flags })? {
            Reply::Handle(handle) => Ok(Handle(handle)),
            other => Err(unexpected(other)),
        }
    }

    pub(super) fn close(&mut self, handle: &Handle) -> Result<(), Failed> {
        self.done(Request::Close { handle: &handle.0 })
    }

    /// Reads a range of a file; what comes is shorter if the file ends before. `paced` is called with the number of bytes
    /// that came, and may wait.
    pub(super) fn read(
        &mut self,
        handle: &Handle,
        range: Range<u64>,
        mut paced: impl FnMut(usize),
    ) -> Result<Vec<u8>, Failed> {
        let Range { start, mut end } = range;
        let mut bytes = Vec::new();
        let mut next = start;
        let mut waiting: HashMap<u32, (u64, u32)> = HashMap::new();
        let mut failed = None;
        loop {
            while waiting.len() < WINDOW && next < end {
                let length = (end - next).min(wire::PIECE as u64) as u32;
                let number = self.send(Request::Read { handle: &handle.0, offset: next, length })?;
                waiting.insert(number, (next, length));
                next += u64::from(length);
            }
            if waiting.is_empty() {
                break;
            }
            let (number, reply) = self.receive()?;
            let (offset, length) = waiting.remove(&number).ok_or_else(nonsense)?;
            match reply {
                Reply::Data(data) if !data.is_empty() && data.len() <= length as usize => {
                    let at = (offset - start) as usize;
                    if bytes.len() < at + data.len() {
                        bytes.resize(at + data.len(), 0);
                    }
                    bytes[at..at + data.len()].copy_from_slice(&data);
                    let came = data.len() as u32;
                    if came < length {
                        let (offset, length) = (offset + u64::from(came), length - came);
                        let number = self.send(Request::Read { handle: &handle.0, offset, length })?;
                        waiting.insert(number, (offset, length));
                    }
                    paced(data.len());
                }
                Reply::Data(data) if data.is_empty() => end = end.min(offset),
                Reply::Status { code: END_OF_FILE, .. } => end = end.min(offset),
                Reply::Status { code, words } => {
                    failed.get_or_insert(Failed::Status { code, words });
                    end = start;
                }
                _ => return Err(nonsense()),
            }
        }
        if let Some(failed) = failed {
            return Err(failed);
        }
        bytes.truncate(end.saturating_sub(start) as usize);
        Ok(bytes)
    }

    /// Writes a file from its beginning. `paced` as for [`Session::read`].
    pub(super) fn write(&mut self, handle: &Handle, bytes: &[u8], mut paced: impl FnMut(usize)) -> Result<(), Failed> {
        let mut waiting = 0;
        let mut failed = None;
        let mut pieces = bytes.chunks(wire::PIECE).enumerate();
        loop {
            let piece = if waiting < WINDOW && failed.is_none() { pieces.next() } else { None };
            if let Some((number, piece)) = piece {
                let offset = (number * wire::PIECE) as u64;
                self.send(Request::Write { handle: &handle.0, offset, bytes: piece })?;
                waiting += 1;
                paced(piece.len());
                continue;
            }
            if waiting == 0 {
                break;
            }
            waiting -= 1;
            match self.receive()?.1 {
                Reply::Status { code: 0, .. } => {}
                Reply::Status { code, words } => {
                    failed.get_or_insert(Failed::Status { code, words });
                }
                _ => return Err(nonsense()),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Waits until what was written is on the disk, where the server can tell.
    pub(super) fn sync(&mut self, handle: &Handle) -> Result<(), Failed> {
        if self.extensions.sync { self.done(Request::Sync { handle: &handle.0 }) } else { Ok(()) }
    }

    /// Renames a file; one that has the new name already stays, and that is an error.
    pub(super) fn rename_new(&mut self, from: &str, to: &str) -> Result<(), Failed> {
        self.done(Request::Rename { from, to })
    }

    /// Renames a file over whatever has the new name.
    pub(super) fn rename_over(&mut self, from: &str, to: &str) -> Result<(), Failed> {
        if self.extensions.rename_over {
            return self.done(Request::RenameOver { from, to });
        }
        match self.rename_new(from, to) {
            Err(failed) if failed.may_be_there() => {
                self.remove(to)?;
                self.rename_new(from, to)
            }
            other => other,
        }
    }

    pub(super) fn remove(&mut self, path: &str) -> Result<(), Failed> {
        self.done(Request::Remove { path })
    }

    /// Makes a folder and those above it that are missing.
    pub(super) fn make_folders(&mut self, path: &str) -> Result<(), Failed> {
        match self.make_folder(path) {
            Err(failed) if failed.is_missing() => {
                let Some((above, _)) = path.rsplit_once('/').filter(|(above, _)| !above.is_empty()) else {
                    return Err(failed);
                };
                self.make_folders(above)?;
                self.make_folder(path)
            }
            done => done,
        }
    }

    /// Makes a folder, unless it is there; somebody else may make it at the same time.
    fn make_folder(&mut self, path: &str) -> Result<(), Failed> {
        match self.done(Request::MakeFolder { path }) {
            Ok(()) => Ok(()),
            Err(failed) if failed.is_missing() => Err(failed),
            Err(Failed::Broken(trouble, words)) => Err(Failed::Broken(trouble, words)),
            Err(failed) => match self.stat(path) {
                Ok(Some(there)) if there.is_folder() => Ok(()),
                Ok(Some(_)) => Err(Failed::Own(Trouble::Refused, "it is a file, not a folder".to_owned())),
                Err(Failed::Broken(trouble, words)) => Err(Failed::Broken(trouble, words)),
                _ => Err(failed),
            },
        }
    }

    /// What is in a folder.
    pub(super) fn list(&mut self, path: &str) -> Result<Vec<(String, Attributes)>, Failed> {
        let handle = match self.ask(Request::OpenFolder { path })? {
            Reply::Handle(handle) => Handle(handle),
            other => return Err(unexpected(other)),
        };
        let mut list = Vec::new();
        let read = loop {
            match self.ask(Request::ReadFolder { handle: &handle.0 }) {
                Ok(Reply::Names(names)) => list.extend(names),
                Ok(other) => break Err(unexpected(other)),
                Err(Failed::Status { code: END_OF_FILE, .. }) => break Ok(()),
                Err(failed) => break Err(failed),
            }
        };
        if !matches!(read, Err(Failed::Broken(..))) {
            self.close(&handle)?;
        }
        read?;
        list.retain(|(name, _)| name != "." && name != "..");
        // Of a link, and where the server says too little, what counts is what stands behind the name.
        for (name, attributes) in &mut list {
            if !attributes.is_file() && !attributes.is_folder() {
                *attributes = self.stat(&format!("{path}/{name}"))?.unwrap_or_default();
            }
        }
        Ok(list)
    }

    /// How much room there is at a path, where the server can tell.
    pub(super) fn room(&mut self, path: &str) -> Option<Room> {
        if !self.extensions.room {
            return None;
        }
        match self.ask(Request::Room { path }) {
            Ok(Reply::Extended(fields)) => wire::read_room(&fields),
            _ => None,
        }
    }

    /// Asks for something that is answered by a status.
    fn done(&mut self, request: Request<'_>) -> Result<(), Failed> {
        match self.ask(request)? {
            Reply::Status { .. } => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// One request and its reply; a status that is not success is an error.
    fn ask(&mut self, request: Request<'_>) -> Result<Reply, Failed> {
        let asked = self.send(request)?;
        let (number, reply) = self.receive()?;
        match reply {
            _ if number != asked => Err(nonsense()),
            Reply::Status { code, words } if code != 0 => Err(Failed::Status { code, words }),
            reply => Ok(reply),
        }
    }

    fn send(&mut self, request: Request<'_>) -> Result<u32, Failed> {
        self.number = self.number.wrapping_add(1);
        wire::write_request(&mut self.outgoing, self.number, request);
        if self.outgoing.len() >= 2 * wire::PIECE {
            self.flush()?;
        }
        Ok(self.number)
    }

    fn flush(&mut self) -> Result<(), Failed> {
        let outgoing = std::mem::take(&mut self.outgoing);
        let mut rest = outgoing.as_slice();
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(0) => return Err(self.ended()),
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What was sent before the program closed its end is still to be read, and the end after it.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                Err(error) => return Err(self.lost(&error)),
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<(u32, Reply), Failed> {
        let packet = self.packet()?;
        wire::read_reply(&packet).ok_or_else(nonsense)
    }

    /// The next packet without its length.
    fn packet(&mut self) -> Result<Vec<u8>, Failed> {
        self.flush()?;
        let mut length = [0; 4];
        self.fill(&mut length)?;
        let length = u32::from_be_bytes(length);
        if length == 0 || length > wire::LONGEST {
            return Err(no_sftp());
        }
        let mut packet = vec![0; length as usize];
        self.fill(&mut packet)?;
        Ok(packet)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Failed> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.stream.read(&mut bytes[filled..]) {
                Ok(0) => return Err(self.ended()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.lost(&error)),
            }
        }
        Ok(())
    }

    fn lost(&mut self, error: &io::Error) -> Failed {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                Failed::Broken(Trouble::Silent, format!("not a byte moved for {} seconds", SILENCE.as_secs()))
            }
            _ => self.ended(),
        }
    }

    /// Why the program closed its end: what it said last tells.
    fn ended(&mut self) -> Failed {
        let until = Instant::now() + LEAVE;
        let status = loop {
            match self.program.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
                _ => break None,
            }
        };
        let (trouble, words) = judged(&self.words.take());
        if !words.is_empty() {
            let trouble = if self.greeted && trouble == Trouble::Other { Trouble::Cut } else { trouble };
            return Failed::Broken(trouble, words);
        }
        match status.and_then(|status| status.code()) {
            // ssh ends so when the connection goes, and the shell where there is no such program.
            Some(127) => Failed::Broken(Trouble::Other, "the program was not found".to_owned()),
            Some(code) => Failed::Broken(Trouble::Cut, format!("the program ended with exit status {code}")),
            None => Failed::Broken(Trouble::Cut, "the program closed the connection".to_owned()),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The program would end by itself when it notices; a network that has fallen silent keeps it from noticing.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

fn nonsense() -> Failed {
    Failed::Broken(Trouble::Cut, "the server's answer is none to what was asked".to_owned())
}

fn no_sftp() -> Failed {
    let text = "what the server sends is not SFTP: does something there print a text at login?";
    Failed::Broken(Trouble::Refused, text.to_owned())
}

fn unexpected(reply: Reply) -> Failed {
    match reply {
        Reply::Status { code, words } => Failed::Status { code, words },
        _ => nonsense(),
    }
}

/// What a program says on standard error, collected by a thread.
struct Words {
    text: Arc<Mutex<Vec<u8>>>,
    /// Closed when the program has said everything.
    end: Receiver<()>,
}

impl Words {
    fn listen(from: Option<ChildStderr>) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let (ends, end) = channel();
        let heard = Arc::clone(&text);
        // Without a thread there are no words: the exit status must do.
        let _ = std::thread::Builder::new().name("ssh words".to_owned()).spawn(move || {
            let _ends = ends;
            let mut piece = [0; 1024];
            let Some(mut from) = from else { return };
            while let Ok(count @ 1..) = from.read(&mut piece) {
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.extend_from_slice(&piece[..count]);
                let surplus = heard.len().saturating_sub(KEPT_WORDS);
                heard.drain(..surplus);
            }
        });
        Self { text, end }
    }

    fn forget(&self) {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What was said. A process that the program left in the background may keep standard error open: it is not waited for.
    fn take(&self) -> String {
        let _ = self.end.recv_timeout(Duration::from_millis(500));
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// Parts of what OpenSSH says (in small letters), and what they mean. The first line of this table that fits counts.
const SIGNS: [(&str, Trouble); 17] = [
    ("host key verification failed", Trouble::UnknownHost),
    ("remote host identification has changed", Trouble::UnknownHost),
    ("could not resolve hostname", Trouble::NoSuchHost),
    ("permission denied (", Trouble::WrongCredentials),
    ("too many authentication failures", Trouble::WrongCredentials),
    ("no such identity", Trouble::WrongCredentials),
    ("subsystem request failed", Trouble::Refused),
    ("bad configuration option", Trouble::Other),
    ("connection refused", Trouble::Unreachable),
    ("timed out", Trouble::Unreachable),
    ("no route to host", Trouble::Unreachable),
    ("network is unreachable", Trouble::Unreachable),
    ("connection reset", Trouble::Unreachable),
    ("connection closed", Trouble::Unreachable),
    ("closed by remote host", Trouble::Unreachable),
    ("broken pipe", Trouble::Unreachable),
    ("kex_exchange_identification", Trouble::Unreachable),
];

/// What a program's last words mean, and the one line of them that says it: without user names.
fn judged(words: &str) -> (Trouble, String) {
    let lines = || words.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("Warning: "));
    let told = SIGNS
        .iter()
        .find_map(|(sign, trouble)| Some((*trouble, lines().find(|line| line.to_ascii_lowercase().contains(sign))?)));
    let (trouble, line) = told.unwrap_or((Trouble::Other, lines().next_back().unwrap_or_default()));
    let line: Vec<&str> =
        line.split_whitespace().map(|word| word.rsplit_once('@').map_or(word, |(_, host)| host)).collect();
    (trouble, line.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_ssh_are_one_line_with_a_meaning() {
        for (words, trouble, line) in [
            (
                "No ED25519 host key is known for [127.0.0.1]:2222 and you have requested strict checking.\r\nHost key \
                 verification failed.\r\n",
                Trouble::UnknownHost,
                "Host key verification failed.",
            ),
            (
                "Welcome!\nme@host: Permission denied (publickey).\r\n",
                Trouble::WrongCredentials,
                "host: Permission denied (publickey).",
            ),
            (
                "ssh: connect to host h port 22: Connection refused\n",
                Trouble::Unreachable,
                "ssh: connect to host h port 22: Connection refused",
            ),
            ("subsystem request failed on channel 0\n", Trouble::Refused, "subsystem request failed on channel 0"),
            ("Warning: Permanently added 'h' to the list of known hosts.\n", Trouble::Other, ""),
            ("something\nnew\n", Trouble::Other, "new"),
        ] {
            assert_eq!(judged(words), (trouble, line.to_owned()), "{words}");
        }
    }

    fn started(script: &str) -> Failed {
        Session::start(&["sh".to_owned(), "-c".to_owned(), script.to_owned()]).unwrap_err()
    }

    #[test]
    fn a_program_that_speaks_no_sftp_is_an_error_and_no_hang() {
        for (script, trouble) in [
            ("echo Welcome to this computer", Trouble::Refused),
            (r"printf '\000\000\000\005\002\000\000\000\002'", Trouble::Refused),
            (r"printf '\377\377\377\377'", Trouble::Refused),
            (r"printf '\000\000\000\005\002'", Trouble::Cut),
            ("exit 7", Trouble::Cut),
            ("echo 'ssh: connect to host h port 22: Connection refused' >&2; exit 255", Trouble::Unreachable),
            // Somebody in the background holds standard error open.
            ("sleep 5 >/dev/null & echo 'x: Permission denied (publickey).' >&2; exit 255", Trouble::WrongCredentials),
        ] {
            assert_eq!(started(script).judged().0, trouble, "{script}");
        }
        let missing = Session::start(&["/nowhere/ssh".to_owned()]).unwrap_err().judged();
        assert!(missing.0 == Trouble::Other && missing.1.contains("/nowhere/ssh"), "{missing:?}");
    }
}
