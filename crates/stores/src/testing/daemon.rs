//! A foreign server as a child of the test: started at a free port of loopback, killed with all that it started.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The server.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    pub(super) port: u16,
}

impl Daemon {
    /// Starts what `command` says for a port, at a port that is free.
    pub(super) fn start(command: impl Fn(u16) -> Command) -> Self {
        // Somebody else may take the port between our look and the server's start.
        for _ in 0..10 {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            if let Some(child) = listening(command(port), port) {
                return Self { child, port };
            }
        }
        panic!("{:?} does not start", command(0));
    }

    /// How many processes it has at work.
    pub(super) fn children(&self) -> usize {
        children(self.child.id()).len()
    }

    /// Kills it and everything that it started, as if its machine went down.
    pub(super) fn kill(&mut self) {
        let all = descendants(self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
        for id in all {
            if let Some(id) = rustix::process::Pid::from_raw(id as i32) {
                let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
            }
        }
    }

    /// Kills it and starts it again at the same port.
    pub(super) fn restart(&mut self, command: Command) {
        self.kill();
        self.child = listening(command, self.port).expect("it starts again");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The child, once somebody can connect to it; none if it ended before.
fn listening(mut command: Command, port: u16) -> Option<Child> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while Instant::now() < until {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        // A port that nobody listens at can be connected to all the same: by itself, where the kernel takes it for our own end.
        if let Ok(stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            && stream.local_addr().ok() != stream.peer_addr().ok()
        {
            return Some(child);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

fn children(id: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

fn descendants(id: u32) -> Vec<u32> {
    let mut all = children(id);
    let mut next = 0;
    while let Some(id) = all.get(next) {
        all.extend(children(*id));
        next += 1;
    }
    all
}
