//! A single stream as a source: standard input, or what a command prints. May use: core.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use backstay_core::{
    Data, DataError, End, Entry, EntryError, Fatal, FileKind, Ingest, Job, MessageLevel, Source, SourceInfo, Start,
    Stat, Time, Verdict,
};

/// Where the stream comes from.
#[derive(Debug)]
enum Origin {
    Open(OwnedFd),
    Command(Vec<OsString>),
}

/// One file of the snapshot whose contents are a stream.
#[derive(Debug)]
pub struct StreamSource {
    name: String,
    origin: Origin,
    now: Time,
    uid: u32,
    gid: u32,
}

impl StreamSource {
    /// The file `name`, read from `input` to its end. `now` becomes the file's time.
    #[must_use]
    pub fn from_descriptor(name: &str, input: OwnedFd, now: Time) -> Self {
        Self::new(name, Origin::Open(input), now)
    }

    /// The file `name`, made of what `command` (program and arguments) prints. A command that fails makes the snapshot
    /// partial: its output cannot be trusted to be whole.
    #[must_use]
    pub fn from_command(name: &str, command: Vec<OsString>, now: Time) -> Self {
        Self::new(name, Origin::Command(command), now)
    }

    fn new(name: &str, origin: Origin, now: Time) -> Self {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        Self { name: name.trim_start_matches('/').to_owned(), origin, now, uid, gid }
    }

    fn entry(&self) -> Entry {
        Entry {
            name: self.name.clone().into_bytes(),
            kind: FileKind::File,
            link: Vec::new(),
            hard_link: false,
            stat: Stat {
                mode: 0o100_644,
                links: 1,
                uid: self.uid,
                gid: self.gid,
                atime: self.now,
                mtime: self.now,
                ctime: self.now,
                ..Stat::default()
            },
            native: Vec::new(),
        }
    }

    fn push(&self, fd: impl AsFd, out: &mut dyn Ingest) -> Result<End, Fatal> {
        if let Err(stop) = out.entry(self.entry()) {
            return Ok(End::Stopped(stop.0));
        }
        match out.data(Data::Fd(fd.as_fd())) {
            Ok(_) => Ok(End::Whole),
            Err(DataError::Stop(stop)) => {
                out.end(Err(EntryError::new(stop.0.clone())));
                Ok(End::Stopped(stop.0))
            }
            Err(DataError::Read(error)) => {
                let reason = error.message.clone();
                out.end(Err(error));
                Ok(End::Stopped(reason))
            }
        }
    }
}

impl Source for StreamSource {
    fn info(&self) -> SourceInfo {
        SourceInfo { name: "stream".to_owned(), path: format!("/{}", self.name), ..SourceInfo::default() }
    }

    fn run(&mut self, job: &dyn Job, _start: &Start, out: &mut dyn Ingest) -> Result<End, Fatal> {
        let command = match &self.origin {
            Origin::Open(fd) => {
                let end = self.push(fd, out)?;
                if end == End::Whole {
                    out.end(Ok(()));
                }
                return Ok(end);
            }
            Origin::Command(command) => command,
        };
        let Some((program, arguments)) = command.split_first() else {
            return Err(Fatal("no command was given to read from".to_owned()));
        };
        let shown = program.to_string_lossy().into_owned();
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Fatal(format!("the command {shown} could not be started: {error}")))?;
        let Some(stdout) = child.stdout.take() else {
            return Err(Fatal(format!("the command {shown} has no output to read")));
        };
        let stderr = child.stderr.take();
        std::thread::scope(|scope| {
            if let Some(stderr) = stderr {
                let shown = &shown;
                scope.spawn(move || {
                    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                        job.message(MessageLevel::Warning, shown, &String::from_utf8_lossy(&line));
                    }
                });
            }
            let end = self.push(stdout, out);
            if !matches!(end, Ok(End::Whole)) {
                let _ = child.kill();
                let _ = child.wait();
                return end;
            }
            match failure(&mut child) {
                None => {
                    out.end(Ok(()));
                    end
                }
                Some(how) => {
                    let reason = format!("the command {shown} {how}: its output may not be whole");
                    out.end(Err(EntryError::new(reason.clone())));
                    Ok(End::Stopped(reason))
                }
            }
        })
    }

    fn finish(&mut self, _verdict: &Verdict) {}
}

fn failure(child: &mut Child) -> Option<String> {
    match child.wait() {
        Ok(status) if status.success() => None,
        Ok(status) => Some(format!("failed ({status})")),
        Err(error) => Some(format!("could not be waited for: {error}")),
    }
}
