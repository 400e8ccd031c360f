//! A restore job: the calling sequence of reference 4.5 for entries that the host sends in ledger order.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use backstay_bareos_protocol::{Created, Failure, FromWorker, RestoreEntry, WholeEntry};
use backstay_python_runtime::descriptors;
use backstay_worker::RingReader;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyByteArray;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::calls::{self, Opened};
use crate::constants::{cf, event, ft, io, message, option_bit, rc};
use crate::context::{HostGone, JobContext, error_text, status};
use crate::create::{self, Made};
use crate::link::{Incoming, Link};
use crate::names;
use crate::packets;
use crate::script::{Answer, Command, Script};

/// How IO_OPEN opens a file that is restored: `O_WRONLY|O_CREAT|O_TRUNC`.
const OPEN_FLAGS: i32 = 0o1101;
/// Mode of IO_OPEN after CF_EXTRACT.
const OPEN_MODE: i32 = 0o600;
/// Longest IO_WRITE, in bytes.
const BLOCK: usize = 262_144;
/// The same where blocks carry their position.
const POSITIONED_BLOCK: usize = BLOCK - 8;

/// A write of this many bytes to a pipe that is ready does not block.
const PIPE_WRITE: usize = 4096;
/// How often a cancel is looked for while a pipe is full.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// A restore job on its way.
pub(crate) struct Restore<'a> {
    context: &'a Arc<JobContext>,
    script: &'a Arc<Script>,
    link: &'a Link,
    ring: RingReader,
    /// start_restore_file answered OK and end_restore_file was not called since.
    started: bool,
}

/// The entry that is being restored.
struct Open<'py> {
    ofname: Bound<'py, PyAny>,
    name: String,
    state: State,
    result: Result<(), Failure>,
    blocks: Blocks,
}

/// What an entry still takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing: failed, or made and without attributes.
    Nothing,
    /// Nothing, as the plugin wished.
    Skipped,
    /// It stands and takes attributes.
    Attributes,
    /// It is open: data, then attributes.
    Data(Opened),
}

/// Data on its way from spans of any length to the blocks of IO_WRITE.
struct Blocks {
    waiting: Vec<u8>,
    size: usize,
    /// Blocks of zeros are left out, up to this size of the file.
    sparse: Option<i64>,
    /// Where the next block belongs.
    position: i64,
    /// Where the plugin's file stands.
    written: i64,
}

impl<'a> Restore<'a> {
    pub(crate) fn new(context: &'a Arc<JobContext>, script: &'a Arc<Script>, link: &'a Link, ring: RingReader) -> Self {
        Self { context, script, link, ring, started: false }
    }

    /// Runs the job.
    pub(crate) fn run(mut self, py: Python<'_>) -> Result<(), HostGone> {
        let context = self.context;
        for text in &context.spec.overrides {
            self.script.new_options(py, text);
        }
        if let Some(known) = context.known() {
            known.objects()?.iter().for_each(|object| self.script.restore_object(py, object));
        }
        context.set_job_type(b'R');
        context.set_status(status::RUNNING);
        self.script.event(py, event::START_RESTORE_JOB);
        // A job that failed or was cancelled takes no more entries: the last frame comes in place of an answer.
        while !context.is_stopped() {
            match self.link.wait(py)? {
                Incoming::Restore(entry) => self.entry(py, &entry)?,
                Incoming::Whole(whole) => self.whole(py, &whole)?,
                Incoming::EndRestore => break,
                Incoming::Cancelled => {}
                other => return Err(unexpected(&other)),
            }
        }
        context.set_status(status::TERMINATED);
        if self.started && context.delivers(event::END_RESTORE_JOB) {
            self.end_file(py);
        }
        self.script.event(py, event::END_RESTORE_JOB);
        self.script.event(py, event::JOB_END);
        Ok(())
    }

    /// One entry, from its definition to end_restore_file.
    fn entry(&mut self, py: Python<'_>, entry: &RestoreEntry) -> Result<(), HostGone> {
        let mut open = self.opened(py, entry);
        match self.descriptor(py, &mut open) {
            Some(descriptor) => {
                let frame = FromWorker::Created(Created::Fd);
                py.detach(|| self.context.send_with_fd(&frame, descriptor.as_fd()))?;
            }
            None => self.context.send(&FromWorker::Created(open.created()))?,
        }
        self.take(py, entry, open)
    }

    /// The same for an entry that came with all of its data and attributes.
    fn whole(&mut self, py: Python<'_>, whole: &WholeEntry) -> Result<(), HostGone> {
        let mut open = self.opened(py, &whole.entry);
        let mut written = Ok(());
        match self.descriptor(py, &mut open) {
            Some(descriptor) => {
                self.context.send(&FromWorker::Created(Created::Ring))?;
                // Our copy is closed before IO_CLOSE.
                written = py.detach(|| self.write_descriptor(&descriptor, &whole.data));
                drop(descriptor);
            }
            None => {
                self.context.send(&FromWorker::Created(open.created()))?;
                if open.state == State::Data(Opened::InPlugin) {
                    open.blocks.waiting.extend_from_slice(&whole.data);
                }
            }
        }
        self.end(py, &whole.entry, &mut open, &written, &whole.acls, &whole.xattrs);
        if self.started {
            self.end_file(py);
        }
        self.context.send(&FromWorker::Restored(open.result))
    }

    fn opened<'py>(&mut self, py: Python<'py>, entry: &RestoreEntry) -> Open<'py> {
        self.begin(py, entry).unwrap_or_else(|error| {
            // Not the plugin's doing: memory, or an interpreter that is broken.
            let reason = self.script.report(py, &error);
            Open::failed(py, entry, Failure { errno: 0, message: reason })
        })
    }

    /// A copy of the descriptor that the plugin opened for the core; none if it did not, or what it named is none: then
    /// the entry has failed.
    fn descriptor(&self, py: Python<'_>, open: &mut Open<'_>) -> Option<OwnedFd> {
        let State::Data(Opened::InCore(number)) = open.state else { return None };
        match descriptors::duplicate(number) {
            Ok(descriptor) => Some(descriptor),
            Err(error) => {
                let text = format!("Could not create {}: ERR={error}", open.name);
                self.context.message(message::ERROR, format!("{text}\n"));
                self.close(py, Opened::InCore(number));
                open.state = State::Nothing;
                open.result = Err(Failure { errno: error.raw_os_error().unwrap_or(0), message: text });
                None
            }
        }
    }

    /// Writes a small file's data to the plugin's descriptor. Where nobody may be reading, a cancel ends the waiting.
    fn write_descriptor(&self, descriptor: &OwnedFd, mut data: &[u8]) -> Result<(), Failure> {
        let kind =
            rustix::fs::fstat(descriptor).map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode));
        while !data.is_empty() {
            let written = if kind == FileType::RegularFile {
                rustix::io::write(descriptor, data)
            } else {
                let mut waiting = [PollFd::new(descriptor, PollFlags::OUT)];
                match rustix::event::poll(&mut waiting, Some(&LOOK)) {
                    Ok(0) | Err(Errno::INTR) if self.context.is_stopped() => {
                        return Err(Failure { errno: 0, message: self.context.reason() });
                    }
                    Ok(0) => Err(Errno::INTR),
                    Ok(_) if kind == FileType::Socket => {
                        let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
                        rustix::net::send(descriptor, data, flags)
                    }
                    Ok(_) => rustix::io::write(descriptor, &data[..data.len().min(PIPE_WRITE)]),
                    Err(error) => Err(error),
                }
            };
            match written {
                Ok(0) => return Err(Failure { errno: Errno::IO.raw_os_error(), message: Errno::IO.to_string() }),
                Ok(count) => data = &data[count..],
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => {
                    let message = std::io::Error::from(error).to_string();
                    return Err(Failure { errno: error.raw_os_error(), message });
                }
            }
        }
        Ok(())
    }

    /// Data and attributes until the host says that it was all.
    fn take(&mut self, py: Python<'_>, entry: &RestoreEntry, mut open: Open<'_>) -> Result<(), HostGone> {
        let mut bytes = Vec::new();
        loop {
            match self.link.wait(py)? {
                Incoming::Data { position, length } => {
                    bytes.clear();
                    let taken = self.ring.copy_out(position, length, &mut bytes);
                    taken.map_err(|error| HostGone(error.to_string()))?;
                    self.context.send(&FromWorker::Consumed(self.ring.position()))?;
                    if open.state == State::Data(Opened::InPlugin) {
                        open.blocks.waiting.extend_from_slice(&bytes);
                        self.write(py, &mut open, false);
                    }
                }
                Incoming::EndData { written, acls, xattrs } => {
                    self.end(py, entry, &mut open, &written, &acls, &xattrs);
                    break;
                }
                Incoming::Cancelled => {
                    if let State::Data(opened) = open.state {
                        self.close(py, opened);
                    }
                    if self.started {
                        self.end_file(py);
                    }
                    return Ok(());
                }
                other => return Err(unexpected(&other)),
            }
        }
        if self.started {
            self.end_file(py);
        }
        self.context.send(&FromWorker::Restored(open.result))
    }

    /// Up to the answer to create_file.
    fn begin<'py>(&mut self, py: Python<'py>, entry: &RestoreEntry) -> PyResult<Open<'py>> {
        let context = self.context;
        if context.delivers(event::RESTORE_COMMAND) {
            let command = self.script.command(py, &entry.definition);
            if let (Command::NotLoaded(reason), false) = (&command, context.is_stopped()) {
                context.message(message::ERROR, format!("Command plugin \"{}\": {reason}.\n", entry.definition));
            }
            self.started = command.is_ok()
                && self.script.call(py, intern!(py, "start_restore_file"), (&entry.definition,)).is_ok();
        }
        if !self.started {
            let text = "Unbalanced call to createFile=0 0".to_owned();
            context.message(message::FATAL, format!("{text}\n"));
            return Ok(Open::failed(py, entry, Failure { errno: 0, message: text }));
        }
        let packet = self.packet(py, entry)?;
        let answer = self.script.call(py, intern!(py, "create_file"), (packet.as_any(),));
        let name = names::shown(&entry.output_name);
        if !answer.is_ok() {
            let text = format!("Plugin createFile call failed. Stat={} file={name}", answer.rc());
            context.message(message::ERROR, format!("{text}\n"));
            return Ok(Open::failed(py, entry, Failure { errno: 0, message: text }));
        }
        let mut open = Open::new(py, entry)?;
        match packet.integer(packets::restore::CREATE_STATUS) {
            cf::ERROR => {
                let text = format!("Plugin createFile call failed. Returned CF_ERROR file={name}");
                context.message(message::ERROR, format!("{text}\n"));
                open.result = Err(Failure { errno: 0, message: text });
            }
            cf::SKIP => open.state = State::Skipped,
            cf::CREATED => self.made(py, entry, &mut open)?,
            cf::CORE => match create::create(entry, context.spec.replace) {
                Made::Skipped(text) => {
                    context.message(message::INFO, format!("{text}\n"));
                    open.state = State::Skipped;
                }
                Made::Created => self.made(py, entry, &mut open)?,
                Made::Open => self.open(py, &mut open, 0)?,
                Made::Failed(failure) => {
                    context.message(message::ERROR, format!("{}\n", failure.message));
                    open.result = Err(failure);
                }
            },
            _ => self.open(py, &mut open, OPEN_MODE)?,
        }
        Ok(open)
    }

    fn packet<'py>(&self, py: Python<'py>, entry: &RestoreEntry) -> PyResult<backstay_python_runtime::Record<'py>> {
        calls::restore_packet(py, entry, self.context.where_prefix(), self.context.spec.replace)
    }

    /// The object stands without data: attributes at once; lists and attributes follow for directories only.
    fn made(&self, py: Python<'_>, entry: &RestoreEntry, open: &mut Open<'_>) -> PyResult<()> {
        self.set_attributes(py, entry)?;
        open.state = if entry.entry.file_type == ft::DIREND { State::Attributes } else { State::Nothing };
        Ok(())
    }

    fn set_attributes(&self, py: Python<'_>, entry: &RestoreEntry) -> PyResult<()> {
        let packet = self.packet(py, entry)?;
        // What it answers is ignored.
        self.script.call(py, intern!(py, "set_file_attributes"), (packet.as_any(),));
        Ok(())
    }

    fn open(&self, py: Python<'_>, open: &mut Open<'_>, mode: i32) -> PyResult<()> {
        match calls::open(py, self.script, &open.ofname, OPEN_FLAGS, mode)? {
            Opened::Failed(errno) => {
                let text = format!("Could not create {}: ERR={}", open.name, error_text(errno));
                self.context.message(message::ERROR, format!("{text}\n"));
                open.result = Err(Failure { errno, message: text });
            }
            opened => open.state = State::Data(opened),
        }
        Ok(())
    }

    fn close(&self, py: Python<'_>, opened: Opened) {
        if let Err(error) = calls::close(py, self.script, opened) {
            self.script.report(py, &error);
        }
    }

    /// Writes the full blocks that wait; at the end of the data also the last, shorter one.
    fn write(&self, py: Python<'_>, open: &mut Open<'_>, last: bool) {
        let mut from = 0;
        let mut failure = None;
        while failure.is_none() && !self.context.is_stopped() {
            let left = open.blocks.waiting.len() - from;
            let length = left.min(open.blocks.size);
            if length == 0 || (length < open.blocks.size && !last) {
                break;
            }
            match self.block(py, &mut open.blocks, from, length) {
                Ok(Ok(())) => from += length,
                Ok(Err(errno)) => failure = Some((errno, error_text(errno))),
                Err(error) => failure = Some((0, self.script.report(py, &error))),
            }
        }
        open.blocks.waiting.drain(..from);
        if failure.is_none() && self.context.is_stopped() {
            failure = Some((0, self.context.reason()));
        }
        if let Some((errno, cause)) = failure {
            self.write_error(py, open, &Failure { errno, message: cause });
        }
    }

    /// One block: left out if it is a hole, else IO_SEEK where needed and IO_WRITE. `Ok(Err)` is the plugin's errno.
    fn block(&self, py: Python<'_>, blocks: &mut Blocks, from: usize, length: usize) -> PyResult<Result<(), i32>> {
        let data = &blocks.waiting[from..from + length];
        let after = blocks.position + i64::try_from(length).unwrap_or(0);
        let hole = blocks.sparse.is_some_and(|size| length == blocks.size && after < size)
            && data.iter().all(|&byte| byte == 0);
        if hole {
            blocks.position = after;
            return Ok(Ok(()));
        }
        if blocks.position != blocks.written {
            calls::plugin_io(py, self.script, io::SEEK, |packet| {
                packet.set_integer(packets::io::OFFSET, blocks.position);
            })?;
        }
        let buffer = PyByteArray::new(py, data).into_any();
        let count = i64::try_from(length).unwrap_or(0);
        let result = calls::plugin_io(py, self.script, io::WRITE, |packet| {
            packet.set_integer(packets::io::COUNT, count);
            packet.set_object(packets::io::BUF, Some(buffer));
        })?;
        blocks.position = after;
        blocks.written = after;
        Ok(if result.status == count { Ok(()) } else { Err(result.errno) })
    }

    /// Extraction ends: the file is closed without its attributes.
    fn write_error(&self, py: Python<'_>, open: &mut Open<'_>, failure: &Failure) {
        let text = format!("Write error on {}: {}", open.name, failure.message);
        self.context.message(message::ERROR, format!("{text}\n"));
        if let State::Data(opened) = open.state {
            self.close(py, opened);
        }
        open.state = State::Nothing;
        open.result = Err(Failure { errno: failure.errno, message: text });
    }

    /// What follows the data.
    fn end(
        &self,
        py: Python<'_>,
        entry: &RestoreEntry,
        open: &mut Open<'_>,
        written: &Result<(), Failure>,
        acls: &[Vec<u8>],
        xattrs: &[(Vec<u8>, Vec<u8>)],
    ) {
        if open.state == State::Data(Opened::InPlugin) {
            self.write(py, open, true);
        }
        if let (State::Data(_), Err(failure)) = (open.state, written) {
            self.write_error(py, open, failure);
        }
        if let State::Data(opened) = open.state {
            if let Err(error) = self.set_attributes(py, entry) {
                self.script.report(py, &error);
            }
            self.close(py, opened);
        }
        if matches!(open.state, State::Nothing | State::Skipped) || self.context.is_stopped() {
            return;
        }
        for content in acls {
            let answer = calls::set_acl(py, self.script, &open.ofname, content);
            self.attribute(open, "set_acl", &answer);
        }
        for attribute in xattrs {
            let answer = calls::set_xattr(py, self.script, &open.ofname, attribute);
            if !self.attribute(open, "set_xattr", &answer) {
                break;
            }
        }
    }

    /// Notes what set_acl or set_xattr answered; true if it was bRC_OK.
    fn attribute(&self, open: &mut Open<'_>, function: &str, answer: &PyResult<Answer>) -> bool {
        let code = match answer {
            Ok(Answer::Code(rc::OK)) => return true,
            Ok(answer) => answer.rc(),
            Err(_) => rc::ERROR,
        };
        let text = format!("{function} of the plugin answered {code} for file {}", open.name);
        self.context.attribute_error(message::WARNING, format!("{text}\n"));
        if open.result.is_ok() {
            open.result = Err(Failure { errno: 0, message: text });
        }
        false
    }

    fn end_file(&mut self, py: Python<'_>) {
        self.started = false;
        if self.script.call0(py, intern!(py, "end_restore_file")).rc() == -1 {
            self.context.message(message::FATAL, "end_restore_file of the plugin answered -1\n");
        }
    }
}

impl Open<'_> {
    /// What the host is told of it.
    fn created(&self) -> Created {
        match self.state {
            State::Data(Opened::InPlugin) => Created::Ring,
            State::Data(_) => Created::Fd,
            State::Attributes => Created::Made,
            State::Skipped => Created::Skip,
            State::Nothing if self.result.is_err() => Created::Failed,
            State::Nothing => Created::Made,
        }
    }
}

impl<'py> Open<'py> {
    fn new(py: Python<'py>, entry: &RestoreEntry) -> PyResult<Self> {
        let sparse = option_bit::is_on(entry.entry.flags, option_bit::SPARSE);
        let positioned = sparse || option_bit::is_on(entry.entry.flags, option_bit::OFFSETS);
        Ok(Self {
            ofname: names::to_python(py, &entry.output_name)?,
            name: names::shown(&entry.output_name),
            state: State::Nothing,
            result: Ok(()),
            blocks: Blocks {
                waiting: Vec::new(),
                size: if positioned { POSITIONED_BLOCK } else { BLOCK },
                sparse: sparse.then(|| entry.entry.stat.size.cast_signed()),
                position: 0,
                written: 0,
            },
        })
    }

    fn failed(py: Python<'py>, entry: &RestoreEntry, failure: Failure) -> Self {
        Self {
            ofname: py.None().into_bound(py),
            name: names::shown(&entry.output_name),
            state: State::Nothing,
            result: Err(failure),
            blocks: Blocks { waiting: Vec::new(), size: BLOCK, sparse: None, position: 0, written: 0 },
        }
    }
}

fn unexpected(incoming: &Incoming) -> HostGone {
    HostGone(format!("it sent {incoming:?} in a restore"))
}
