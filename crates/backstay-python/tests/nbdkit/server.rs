//! A server of a script, in a folder of its own, that ends with the value.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::client::Client;

/// How long anything is waited for that must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program with nbdkit's arguments.
pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backstay-python"));
    command.arg("nbdkit").args(arguments).env_remove("LISTEN_PID").env_remove("LISTEN_FDS");
    command
}

/// Runs the program to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    program(arguments).stdin(Stdio::null()).output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder with a script in it.
pub(crate) struct Script {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) path: String,
}

pub(crate) fn script(content: &str) -> Script {
    let folder = tempfile::Builder::new().prefix("nk").tempdir_in("/tmp").unwrap();
    let path = folder.path().join("script.py");
    std::fs::write(&path, content).unwrap();
    Script { path: path.to_str().unwrap().to_owned(), folder }
}

/// Waits until something is so.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A server in the foreground on a Unix socket.
pub(crate) struct Server {
    pub(crate) script: Script,
    pub(crate) socket: PathBuf,
    child: Option<Child>,
}

/// What a server came to.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stderr: String,
}

impl Server {
    pub(crate) fn start(content: &str) -> Self {
        Self::with(content, &[])
    }

    /// With more arguments, options and parameters in any order.
    pub(crate) fn with(content: &str, arguments: &[&str]) -> Self {
        let script = script(content);
        let plugin = ["python".to_owned(), script.path.clone()];
        Self::launch(script, plugin.iter().map(String::as_str).chain(arguments.iter().copied()))
    }

    /// Of any plugin, in the folder of a script that it may use.
    pub(crate) fn launch<'a>(script: Script, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        let socket = script.folder.path().join("socket");
        let errors = File::create(script.folder.path().join("stderr")).unwrap();
        let child = program(&["-f", "-U", socket.to_str().unwrap()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(File::create(script.folder.path().join("stdout")).unwrap())
            .stderr(errors)
            .spawn()
            .unwrap();
        let mut server = Self { script, socket, child: Some(child) };
        eventually("the socket", || {
            let gone = server.child.as_mut().unwrap().try_wait().unwrap();
            assert!(gone.is_none(), "the server ended: {gone:?} {}", server.stderr());
            UnixStream::connect(&server.socket).ok()
        });
        server
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.script.folder.path().join(name)
    }

    pub(crate) fn stderr(&self) -> String {
        text(&std::fs::read(self.file("stderr")).unwrap_or_default())
    }

    pub(crate) fn stdout(&self) -> String {
        text(&std::fs::read(self.file("stdout")).unwrap_or_default())
    }

    pub(crate) fn process(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }

    /// A client after the greeting.
    pub(crate) fn connect(&self) -> Client {
        Client::connect(&self.socket)
    }

    /// The same with other flags than all.
    pub(crate) fn connect_with(&self, flags: u32) -> Client {
        Client::greet_with(UnixStream::connect(&self.socket).unwrap(), flags).unwrap()
    }

    /// A client of the default export, with simple replies.
    pub(crate) fn open(&self) -> Client {
        let mut client = self.connect();
        client.go(b"", &[]).unwrap();
        client
    }

    pub(crate) fn uri(&self) -> String {
        format!("nbd+unix://?socket={}", self.socket.display())
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn end_by(mut self, signal: Signal) -> Ended {
        kill_process(self.process(), signal).unwrap();
        self.wait()
    }

    pub(crate) fn end(self) -> Ended {
        self.end_by(Signal::TERM)
    }

    /// Waits for a server that ends by itself.
    pub(crate) fn wait(&mut self) -> Ended {
        let child = self.child.as_mut().unwrap();
        let status = eventually("the end of the server", || child.try_wait().unwrap());
        self.child = None;
        Ended { status, stderr: self.stderr() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
