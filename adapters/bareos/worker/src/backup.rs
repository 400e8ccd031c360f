//! A backup job: the calling sequence of reference 4.2, the saving of one object (4.3), and the types (6.1).

use std::collections::HashMap;
use std::sync::Arc;

use backstay_bareos_protocol::{Failure, FromWorker, MOST_OBJECT, ObjectEntry, PluginEntry, Task};
use backstay_python_runtime::{ByteView, Record, descriptors};
use backstay_worker::RingWriter;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyString};

use crate::calls::{self, Opened};
use crate::changes;
use crate::constants::{event, ft, io, message, option_bit, rc};
use crate::context::{HostGone, JobContext, error_text, status};
use crate::link::{Incoming, Link};
use crate::names;
use crate::packets::{classes, save, stat_fields};
use crate::script::{Answer, Command, Script};

/// What IO_READ asks for, in bytes.
const BLOCK: usize = 262_144;
/// The same where blocks carry their position.
const POSITIONED_BLOCK: usize = BLOCK - 8;
/// How often a read that was interrupted is repeated.
const INTERRUPTED_READS: u32 = 5;
/// Errors after which a job gives up.
const MOST_ERRORS: u32 = 1000;
/// Attributes of one file may take this many bytes together, and so may its access control list.
const MOST_ATTRIBUTE_BYTES: usize = 1 << 20;
/// A span is handed over once it is this long.
const SPAN: u32 = 256 << 10;
/// Frames are sent at the latest when this many bytes of data wait with them.
const SEND_AT: usize = 512 << 10;
/// `io_errno` of a read that was interrupted.
const EINTR: i32 = 4;

/// A backup job on its way.
pub(crate) struct Backup<'a> {
    pub(crate) context: &'a Arc<JobContext>,
    pub(crate) script: &'a Arc<Script>,
    pub(crate) link: &'a Link,
    ring: RingWriter,
    /// A span that was written and is not handed over yet.
    span: Option<(u64, u32)>,
    unsent: usize,
    /// For small files.
    small: Vec<u8>,
    announced: u64,
    file_index: i32,
    /// First names of files with several links, by device and inode.
    hard_links: HashMap<(u32, u64), (Vec<u8>, i32)>,
}

/// A SavePacket, read back.
pub(crate) struct Saved<'py> {
    pub(crate) file_type: i32,
    pub(crate) fname: Bound<'py, PyString>,
    pub(crate) entry: PluginEntry,
    pub(crate) save_time: i64,
    pub(crate) object: Option<Object>,
}

impl Saved<'_> {
    /// `fname` for a message.
    fn shown(&self) -> String {
        match names::to_bytes(&self.fname) {
            Ok(name) => names::shown(&name),
            Err(_) => self.fname.to_string_lossy().into_owned(),
        }
    }
}

/// What a restore object has beside its entry.
pub(crate) struct Object {
    name: String,
    index: i32,
    bytes: Vec<u8>,
}

/// What came of reading a small file.
enum Small {
    /// It was read to its end.
    Whole,
    /// It is not small, or has more than it said: the host reads on.
    Rest,
    /// Reading failed with this errno.
    Failed(i32),
    /// The job was stopped meanwhile.
    Stopped,
}

/// What becomes of an announced object by its type alone.
enum Treatment {
    /// It is saved.
    Save,
    /// It is saved, and this is said.
    SaveAndSay(String),
    /// It is not saved by its rule: class and text of the message, if there is one, and the rule.
    Skip(Option<(i32, String)>, &'static str),
    /// It could not be saved: text of the message.
    Fail(String),
}

impl<'a> Backup<'a> {
    pub(crate) fn new(context: &'a Arc<JobContext>, script: &'a Arc<Script>, link: &'a Link, ring: RingWriter) -> Self {
        Self {
            context,
            script,
            link,
            ring,
            span: None,
            unsent: 0,
            small: Vec::new(),
            announced: 0,
            file_index: 0,
            hard_links: HashMap::new(),
        }
    }

    /// Runs the job; returns how many objects were announced.
    pub(crate) fn run(mut self, py: Python<'_>) -> Result<u64, HostGone> {
        let context = self.context;
        self.file_set(py);
        for text in &context.spec.overrides {
            self.script.new_options(py, text);
        }
        if let Some(known) = context.known() {
            known.objects()?.iter().for_each(|object| self.script.restore_object(py, object));
        }
        if context.is_stopped() {
            // The job ends before the backup begins, so that nothing has to be closed.
            return Ok(0);
        }
        context.set_job_type(b'B');
        context.set_status(status::BLOCKED);
        self.script.event(py, event::START_BACKUP_JOB);
        context.set_status(status::RUNNING);
        context.show_accurate_options();
        self.offers(py)?;
        self.plugin_lines(py)?;
        if context.is_accurate() && !context.is_stopped() {
            self.unmentioned(py)?;
        }
        context.set_status(status::TERMINATED);
        self.script.event(py, event::END_BACKUP_JOB);
        self.script.event(py, event::JOB_END);
        Ok(self.announced)
    }

    /// Runs an estimate (reference 4.12): entries are told, nothing is read.
    pub(crate) fn estimate(mut self, py: Python<'_>) -> Result<u64, HostGone> {
        let context = self.context;
        self.file_set(py);
        context.show_accurate_options();
        self.plugin_lines(py)?;
        self.script.event(py, event::JOB_END);
        Ok(self.announced)
    }

    fn plugin_lines(&mut self, py: Python<'_>) -> Result<(), HostGone> {
        let context = self.context;
        for (number, definition) in (0_u32..).zip(context.spec.lines().0) {
            if context.is_stopped() {
                break;
            }
            self.plugin_line(py, number, definition)?;
        }
        Ok(())
    }

    pub(crate) fn next_file_index(&mut self) -> i32 {
        self.file_index += 1;
        self.file_index
    }

    /// Whether the line's options say that only the mtime tells a change.
    pub(crate) fn looks_at_mtime_only(&self) -> bool {
        option_bit::is_on(self.context.line_flags(), option_bit::MTIME_ONLY)
    }

    /// The file set's plugin lines, as they come with it; those of Options blocks come last.
    fn file_set(&self, py: Python<'_>) {
        for (number, definition) in (0..).zip(&self.context.spec.definitions) {
            self.context.set_line(number);
            if self.context.delivers(event::PLUGIN_COMMAND) {
                // What it answers is ignored at this point.
                let _ = self.script.command(py, definition);
            }
        }
        self.script.event(py, event::END_FILE_SET);
    }

    /// Offers the plugin every name of the accurate list that it did not mention: what it does not call seen is gone.
    fn unmentioned(&self, py: Python<'_>) -> Result<(), HostGone> {
        let Some(known) = self.context.known() else { return Ok(()) };
        known.unseen(|name| {
            let answer = match names::to_python(py, name) {
                Ok(text) => self.script.call(py, intern!(py, "check_file"), (text,)),
                Err(error) => {
                    self.script.report(py, &error);
                    Answer::Raised
                }
            };
            if self.context.is_stopped() {
                return Ok(false);
            }
            if answer.rc() != rc::SEEN {
                self.context.send(&FromWorker::Deleted { name: name.to_vec(), announced: false })?;
            }
            Ok(true)
        })
    }

    /// One `Plugin =` line.
    fn plugin_line(&mut self, py: Python<'_>, number: u32, definition: &str) -> Result<(), HostGone> {
        self.context.set_line(number);
        let estimates = self.estimates();
        let event = if estimates { event::ESTIMATE_COMMAND } else { event::BACKUP_COMMAND };
        if self.context.delivers(event) {
            let command = self.script.command(py, definition);
            if !command.is_ok() {
                if !estimates {
                    self.refused(definition, &command);
                }
                return Ok(());
            }
        }
        let command = PyString::new(py, definition);
        while !self.context.is_stopped() {
            match self.object(py, number, &command) {
                Ok(true) => {}
                Ok(false) => break,
                Err(Trouble::Gone(gone)) => return Err(gone),
                Err(Trouble::Python(error)) => {
                    // Not the plugin's doing: memory, or an interpreter that is broken.
                    self.script.report(py, &error);
                    break;
                }
            }
        }
        Ok(())
    }

    fn estimates(&self) -> bool {
        self.context.spec.task == Task::Estimate
    }

    fn refused(&self, definition: &str, command: &Command) {
        let reason = match command {
            Command::NotLoaded(reason) => reason.clone(),
            Command::Answered(answer) => format!("parse_plugin_definition answered {}", answer.rc()),
        };
        if matches!(command, Command::NotLoaded(_)) && !self.context.is_stopped() {
            self.context.message(message::FATAL, format!("Command plugin \"{definition}\": {reason}.\n"));
        }
        self.context.fail(&format!("Command plugin \"{definition}\": {reason}."));
    }

    /// One round of start_backup_file, saving, end_backup_file. False: the line is finished.
    fn object(&mut self, py: Python<'_>, number: u32, command: &Bound<'_, PyString>) -> Result<bool, Trouble> {
        let packet = calls::save_packet(py, command, self.context.spec.flags(number))?;
        let mut answer = self.script.call(py, intern!(py, "start_backup_file"), (packet.as_any(),));
        let mut saved = None;
        if answer.is_ok() {
            self.announced += 1;
            self.ring.announce();
            match self.read_back(py, number, &packet) {
                Ok(object) => saved = Some(object),
                Err(error) => {
                    let reason = self.script.report(py, &error);
                    self.not_saved(shown_name(&packet), Err(Failure { errno: 0, message: reason }))?;
                    answer = Answer::Raised;
                }
            }
        }
        let definition = command.to_string_lossy();
        let Some(mut saved) = saved else {
            match answer.rc() {
                rc::STOP => return Ok(false),
                // An estimate ends the line with every answer but OK.
                _ if self.estimates() => return Ok(false),
                rc::SKIP => return Ok(true),
                rc::ERROR => {
                    let text = format!("Command plugin \"{definition}\": startBackupFile failed.\n");
                    self.context.message(message::FATAL, text);
                }
                _ => {
                    let text = format!("Command plugin \"{definition}\": unhandled returncode from startBackupFile.\n");
                    self.context.message(message::ERROR, text);
                }
            }
            return Ok(false);
        };
        if saved.file_type == 0 {
            let text = format!("Command plugin \"{definition}\": no type in startBackupFile packet.");
            self.context.message(message::FATAL, format!("{text}\n"));
            self.not_saved(saved.entry.name, Err(Failure { errno: 0, message: text }))?;
            return Ok(false);
        }
        if is_directory(saved.file_type) {
            saved.entry.name = self.directory_name(&saved);
        }
        let known = self.context.known().map(|known| (known, saved.entry.name.clone()));
        if self.is_unchanged(&mut saved) {
            self.unchanged(saved.entry.name)?;
        } else {
            self.save(py, saved)?;
        }
        let answer = self.script.call0(py, intern!(py, "end_backup_file"));
        if let (rc::MORE | rc::OK, Some((known, name))) = (answer.rc(), known) {
            known.mark(&name, true);
        }
        match answer.rc() {
            rc::MORE => return Ok(true),
            rc::OK => {}
            // The contract ends the line without a word here. A line that ends early must not pass for a whole one.
            code if answer != Answer::Raised => {
                let kind = if answer == Answer::Code(rc::ERROR) { message::WARNING } else { message::ERROR };
                let text =
                    format!("Command plugin \"{definition}\": end_backup_file answered {code}, its line ends here.\n");
                self.context.message(kind, text);
            }
            _ => {}
        }
        Ok(false)
    }

    /// The check of an incremental or differential job (reference 6.2).
    fn is_unchanged(&self, saved: &mut Saved<'_>) -> bool {
        if self.context.spec.level == 'F' {
            return false;
        }
        let mtime_only = self.looks_at_mtime_only();
        let entry = &mut saved.entry;
        let checked = changes::check(self.context, &entry.name, &entry.stat, saved.save_time, mtime_only);
        if checked.found && option_bit::is_on(entry.flags, option_bit::DELTA) {
            entry.delta_sequence = checked.delta_sequence.saturating_add(1);
        }
        // What says of itself that it is no change has its own rules.
        checked.unchanged && !matches!(saved.file_type, ft::NOCHG | ft::DIRNOCHG | ft::DELETED)
    }

    fn unchanged(&self, name: Vec<u8>) -> Result<(), HostGone> {
        self.context.message(message::SKIPPED, format!("     Unchanged file skipped: {}\n", names::shown(&name)));
        self.context.send(&FromWorker::Unchanged { name })
    }

    /// Reads the packet back as reference 3.3 says.
    fn read_back<'py>(&self, py: Python<'py>, definition: u32, packet: &Record<'py>) -> PyResult<Saved<'py>> {
        let text_needed = |text| PyTypeError::new_err(text);
        let fname = packet.object(save::FNAME).ok_or_else(|| PyRuntimeError::new_err("fname is empty"))?;
        let fname =
            fname.cast_into::<PyString>().map_err(|_| text_needed("fname needs to be of type string \"utf-8\""))?;
        let link = match packet.object(save::LINK) {
            None => Vec::new(),
            Some(link) => names::to_bytes(
                link.cast::<PyString>()
                    .map_err(|_| text_needed("if given, link needs to be of type string \"utf-8\""))?,
            )?,
        };
        let statp =
            packet.value(save::STATP).ok_or_else(|| PyRuntimeError::new_err("PyStatPacketToNative() failed"))?;
        let statp = classes(py)?
            .stat
            .cast(&statp)
            .ok_or_else(|| PyTypeError::new_err("statp needs to be of type StatPacket"))?;
        let flags = flags_left(packet)?;
        let file_type = i32::try_from(packet.integer(save::TYPE)).unwrap_or(0);
        let is_object = matches!(file_type, ft::RESTORE_FIRST | ft::PLUGIN_CONFIG | ft::PLUGIN_CONFIG_FILLED);
        let object = if is_object { Some(read_object(packet)?) } else { None };
        let delta = packet.integer(save::DELTA_SEQ);
        let delta_sequence = if option_bit::is_on(flags, option_bit::DELTA) { delta + 1 } else { 0 };
        let entry = PluginEntry {
            definition,
            file_index: 0,
            file_type,
            name: names::to_bytes(&fname)?,
            link,
            link_file_index: 0,
            stat: stat_fields(&statp),
            flags,
            delta_sequence: u32::try_from(delta_sequence).unwrap_or(u32::MAX),
            no_read: packet.flag(save::NO_READ),
        };
        let save_time = if is_object { 0 } else { packet.integer(save::SAVE_TIME) };
        Ok(Saved { file_type, fname, entry, save_time, object })
    }

    /// Saves one object, or says why not (reference 4.3, 6.1).
    fn save(&mut self, py: Python<'_>, mut saved: Saved<'_>) -> Result<(), Trouble> {
        match treatment(&saved) {
            Treatment::Save => {}
            Treatment::SaveAndSay(text) => self.context.message(message::INFO, text),
            Treatment::Skip(..)
                if matches!(saved.file_type, ft::NOCHG | ft::DIRNOCHG)
                    && self.context.known().is_some_and(|known| known.mark(&saved.entry.name, true)) =>
            {
                return Ok(self.unchanged(saved.entry.name)?);
            }
            Treatment::Skip(text, rule) => {
                if let Some((kind, text)) = text {
                    self.context.message(kind, text);
                }
                return Ok(self.not_saved(saved.entry.name, Ok(rule.to_owned()))?);
            }
            Treatment::Fail(text) => {
                let failure = Failure { errno: 0, message: text.trim().to_owned() };
                self.context.not_saved(text);
                return Ok(self.not_saved(saved.entry.name, Err(failure))?);
            }
        }
        saved.entry.file_index = self.next_file_index();
        if let Some(object) = saved.object.take() {
            return self.save_object(py, &saved.entry, object);
        }
        if saved.file_type == ft::DELETED {
            return Ok(self.context.send(&FromWorker::Deleted { name: saved.entry.name, announced: true })?);
        }
        self.link_names(&mut saved);
        self.context.send(&FromWorker::Entry(Box::new(saved.entry.clone())))?;
        let result = if self.estimates() { Ok(()) } else { self.contents(py, &saved)? };
        Ok(self.context.send(&FromWorker::EndEntry(result))?)
    }

    fn save_object(&mut self, py: Python<'_>, entry: &PluginEntry, object: Object) -> Result<(), Trouble> {
        if self.estimates() {
            return Ok(self.not_saved(entry.name.clone(), Ok("restore object".to_owned()))?);
        }
        if object.bytes.len() > MOST_OBJECT {
            let text = format!("The restore object {} takes more than 256 MiB: it cannot be saved", object.name);
            self.context.message(message::FATAL, format!("{text}\n"));
            return Ok(self.not_saved(object.name.into_bytes(), Err(Failure { errno: 0, message: text }))?);
        }
        let header = ObjectEntry {
            definition: entry.definition,
            file_index: entry.file_index,
            object_type: entry.file_type,
            object_index: object.index,
            object_name: object.name,
        };
        self.context.send(&FromWorker::Object(Box::new(header)))?;
        let put = self.put_bytes(py, &object.bytes)?;
        self.hand_over()?;
        let result = if put { Ok(()) } else { Err(Failure { errno: 0, message: self.context.reason() }) };
        Ok(self.context.send(&FromWorker::EndEntry(result))?)
    }

    fn not_saved(&self, name: Vec<u8>, reason: Result<String, Failure>) -> Result<(), HostGone> {
        self.context.send(&FromWorker::NotSaved { name, reason })
    }

    /// A directory is stored under its `link`, with a slash at its end.
    fn directory_name(&self, saved: &Saved<'_>) -> Vec<u8> {
        let mut name = saved.entry.link.clone();
        if name.is_empty() {
            name.clone_from(&saved.entry.name);
            self.context.message(
                message::WARNING,
                format!("The directory {} has no link in its packet; its fname is used.\n", saved.shown()),
            );
        }
        if !name.ends_with(b"/") {
            name.push(b'/');
        }
        name
    }

    /// Further names of a file that was saved already carry no data (reference 6.4).
    pub(crate) fn link_names(&mut self, saved: &mut Saved<'_>) {
        let stat = &saved.entry.stat;
        let linkable = matches!(stat.mode & 0o170_000, 0o100_000 | 0o020_000 | 0o060_000 | 0o010_000 | 0o140_000);
        if option_bit::is_on(self.context.spec.flags(saved.entry.definition), option_bit::NO_HARD_LINKS)
            || stat.nlink < 2
            || !linkable
        {
            return;
        }
        match self.hard_links.get(&(stat.dev, stat.ino)) {
            None => {
                self.hard_links.insert((stat.dev, stat.ino), (saved.entry.name.clone(), self.file_index));
            }
            // The same name once more: the original stores it without data, which would lose the contents in a view
            // where the last entry of a name counts. It is read again instead.
            Some((first, _)) if *first == saved.entry.name => {}
            Some((first, index)) => {
                saved.entry.file_type = ft::LNKSAVED;
                saved.entry.link.clone_from(first);
                saved.entry.link_file_index = *index;
                saved.entry.no_read = true;
            }
        }
    }

    /// Data, access control list and attributes of the open entry.
    pub(crate) fn contents(&mut self, py: Python<'_>, saved: &Saved<'_>) -> Result<Result<(), Failure>, Trouble> {
        let fname = saved.fname.clone().into_any();
        let mut result = Ok(());
        if !saved.entry.no_read {
            let no_atime = option_bit::is_on(self.context.spec.flags(saved.entry.definition), option_bit::NO_ATIME);
            let flags = if no_atime { rustix::fs::OFlags::NOATIME.bits().cast_signed() } else { 0 };
            let opened = calls::open(py, self.script, &fname, flags, 0)?;
            result = match opened {
                Opened::Failed(errno) => {
                    let text = format!("Cannot open \"{}\": ERR={}.", saved.shown(), error_text(errno));
                    self.context.not_saved(format!("     {text}\n"));
                    return Ok(Err(Failure { errno, message: text }));
                }
                Opened::InCore(descriptor) => self.read_in_core(py, saved, descriptor)?,
                Opened::InPlugin => self.read_in_plugin(py, saved)?,
            };
            calls::close(py, self.script, opened)?;
        }
        if !self.context.is_stopped() {
            self.attributes(py, saved, &fname)?;
        }
        Ok(result)
    }

    /// The host reads the plugin's descriptor itself.
    fn read_in_core(
        &mut self,
        py: Python<'_>,
        saved: &Saved<'_>,
        number: i32,
    ) -> Result<Result<(), Failure>, HostGone> {
        match self.read_small(py, number)? {
            Small::Whole => return Ok(Ok(())),
            Small::Failed(errno) => return Ok(Err(self.read_error(saved, errno, ""))),
            Small::Stopped => return Ok(Err(Failure { errno: 0, message: self.context.reason() })),
            Small::Rest => {}
        }
        let descriptor = match descriptors::duplicate(number) {
            Ok(descriptor) => descriptor,
            Err(error) => return Ok(Err(self.read_error(saved, error.raw_os_error().unwrap_or(0), ""))),
        };
        py.detach(|| {
            use std::os::fd::AsFd;
            self.context.send_with_fd(&FromWorker::DataFd, descriptor.as_fd())
        })?;
        // The host holds the only other copy: the plugin's own must be the last when it closes it.
        drop(descriptor);
        loop {
            match self.link.wait(py)? {
                Incoming::DataFdDone(Ok(_)) => return Ok(Ok(())),
                Incoming::DataFdDone(Err(failure)) => {
                    return Ok(Err(self.read_error(saved, failure.errno, &failure.message)));
                }
                Incoming::Consumed(position) => self.consumed(position)?,
                Incoming::Cancelled => {}
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// A small file is read here, from where it stands, and goes through the ring: passing its descriptor would make this
    /// process and the host wait for each other once per file, which costs more than the file does.
    fn read_small(&mut self, py: Python<'_>, number: i32) -> Result<Small, HostGone> {
        let length = match descriptors::stat(number) {
            Ok((true, length)) if length < BLOCK as u64 => length,
            // What is no descriptor is found out when it is passed on.
            Ok(_) | Err(_) => return Ok(Small::Rest),
        };
        let mut buffer = std::mem::take(&mut self.small);
        buffer.resize(BLOCK, 0);
        let mut filled = 0;
        let read = py.detach(|| {
            while filled < buffer.len() {
                match descriptors::read(number, &mut buffer[filled..]) {
                    Ok(0) => return Ok(Small::Whole),
                    Ok(count) => {
                        filled += count;
                        // It was asked for more than that, so this is its end. Not so in file systems of the kernel's own,
                        // whose files say that they are empty.
                        if filled as u64 == length {
                            return Ok(Small::Whole);
                        }
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            // It grew, or never told its size: the host reads on from here.
            Ok(Small::Rest)
        });
        let put = self.put_bytes(py, &buffer[..filled]);
        self.small = buffer;
        let put = put?;
        self.hand_over()?;
        Ok(match read {
            _ if !put => Small::Stopped,
            Ok(small) => small,
            Err(error) => Small::Failed(error.raw_os_error().unwrap_or(0)),
        })
    }

    /// IO_READ until its end (reference 5.3).
    fn read_in_plugin(&mut self, py: Python<'_>, saved: &Saved<'_>) -> Result<Result<(), Failure>, Trouble> {
        let positioned = [option_bit::SPARSE, option_bit::OFFSETS];
        let positioned = positioned.iter().any(|&bit| option_bit::is_on(saved.entry.flags, bit));
        let count = if positioned { POSITIONED_BLOCK } else { BLOCK };
        let mut interrupted = 0;
        loop {
            if self.context.is_stopped() {
                self.hand_over()?;
                return Ok(Err(Failure { errno: 0, message: self.context.reason() }));
            }
            let read = calls::plugin_io(py, self.script, io::READ, |packet| {
                packet.set_integer(crate::packets::io::COUNT, i64::try_from(count).unwrap_or(i64::MAX));
            })?;
            if read.status == 0 {
                self.hand_over()?;
                return Ok(Ok(()));
            }
            if read.status < 0 {
                if read.errno == EINTR && interrupted < INTERRUPTED_READS && read.answer != Answer::Raised {
                    interrupted += 1;
                    continue;
                }
                self.hand_over()?;
                return Ok(Err(self.read_error(saved, read.errno, "")));
            }
            let length = usize::try_from(read.status).unwrap_or(usize::MAX);
            let wrong = match read.packet.value(crate::packets::io::BUF).map(|buffer| ByteView::new(&buffer)) {
                Some(Ok(view)) if view.len() > count => Some("the plugin's buffer is longer than what was asked for"),
                Some(Ok(_)) if length > count => Some("the plugin's status is larger than what was asked for"),
                Some(Ok(view)) if view.len() < length => Some("the plugin's buffer is shorter than its status"),
                Some(Ok(view)) => {
                    if !self.put(py, &view, length)? {
                        continue;
                    }
                    interrupted = 0;
                    None
                }
                Some(Err(_)) | None => Some("the plugin's buffer holds no bytes"),
            };
            if let Some(wrong) = wrong {
                self.hand_over()?;
                return Ok(Err(self.read_error(saved, read.errno, wrong)));
            }
        }
    }

    /// Copies bytes into the ring, waiting for room. False: the job was cancelled meanwhile.
    fn put(&mut self, py: Python<'_>, view: &ByteView<'_>, length: usize) -> Result<bool, HostGone> {
        let mut done = 0;
        while done < length {
            match self.put_some(&view.bytes(py)[done..length])? {
                0 if !self.make_room(py)? => return Ok(false),
                written => done += written,
            }
        }
        Ok(true)
    }

    /// The same for bytes of our own.
    fn put_bytes(&mut self, py: Python<'_>, bytes: &[u8]) -> Result<bool, HostGone> {
        let mut done = 0;
        while done < bytes.len() {
            match self.put_some(&bytes[done..])? {
                0 if !self.make_room(py)? => return Ok(false),
                written => done += written,
            }
        }
        Ok(true)
    }

    /// Puts into the ring what there is room for; returns how much that was.
    fn put_some(&mut self, bytes: &[u8]) -> Result<usize, HostGone> {
        let Some((position, written)) = self.ring.write(bytes) else { return Ok(0) };
        self.span = match self.span {
            Some((start, so_far)) => Some((start, so_far + written)),
            None => Some((position, written)),
        };
        if self.span.is_some_and(|(_, so_far)| so_far >= SPAN) {
            self.hand_over()?;
        }
        Ok(written as usize)
    }

    /// Waits until the host took something; false when the job was stopped.
    fn make_room(&mut self, py: Python<'_>) -> Result<bool, HostGone> {
        self.hand_over()?;
        match self.link.wait(py)? {
            Incoming::Consumed(position) => self.consumed(position)?,
            Incoming::Cancelled => {}
            other => return Err(unexpected(&other)),
        }
        Ok(!self.context.is_stopped())
    }

    pub(crate) fn consumed(&mut self, position: u64) -> Result<(), HostGone> {
        self.ring.consumed(position).map_err(|error| HostGone(error.to_string()))
    }

    /// Hands the written span over to the host.
    fn hand_over(&mut self) -> Result<(), HostGone> {
        let Some((position, length)) = self.span.take() else { return Ok(()) };
        self.context.send(&FromWorker::Data { position, length })?;
        self.unsent += length as usize;
        if self.unsent >= SEND_AT {
            self.unsent = 0;
            self.context.flush()?;
        }
        Ok(())
    }

    fn read_error(&self, saved: &Saved<'_>, errno: i32, detail: &str) -> Failure {
        let cause = if detail.is_empty() { error_text(errno) } else { detail.to_owned() };
        let text = format!("Read error on file {}. ERR={cause}", saved.shown());
        self.context.message(message::ERROR, format!("{text}\n"));
        if self.context.errors() > MOST_ERRORS {
            let errors = self.context.errors();
            self.context.message(message::FATAL, format!("Too many errors. JobErrors={errors}.\n"));
        }
        Failure { errno, message: text }
    }

    /// get_acl and get_xattr, as far as the file set asks for them (reference 3.9).
    fn attributes(&self, py: Python<'_>, saved: &Saved<'_>, fname: &Bound<'_, PyAny>) -> Result<(), Trouble> {
        let flags = self.context.spec.flags(saved.entry.definition);
        let name = || saved.shown();
        if option_bit::is_on(flags, option_bit::ACL) && saved.file_type != ft::LNK {
            match calls::get_acl(py, self.script, fname) {
                Ok(Ok(Some(content))) if content.len() >= MOST_ATTRIBUTE_BYTES => self.context.attribute_error(
                    message::ERROR,
                    format!("The access control list of file {} takes 1 MiB or more: it is not saved\n", name()),
                ),
                Ok(Ok(Some(content))) => self.context.send(&FromWorker::Acl(content))?,
                Ok(Ok(None)) | Ok(Err(Answer::Raised)) => {}
                Ok(Err(answer)) => self.context.attribute_error(
                    message::ERROR,
                    format!("get_acl of the plugin answered {} for file {}\n", answer.rc(), name()),
                ),
                Err(error) => {
                    self.script.report(py, &error);
                }
            }
        }
        if !option_bit::is_on(flags, option_bit::XATTR) {
            return Ok(());
        }
        let mut attributes = Vec::new();
        let mut bytes = 0;
        loop {
            let (answer, attribute) = calls::get_xattr(py, self.script, fname)?;
            if !matches!(answer.rc(), rc::OK | rc::MORE) {
                if answer != Answer::Raised {
                    let text = format!("get_xattr of the plugin answered {} for file {}\n", answer.rc(), name());
                    self.context.attribute_error(message::ERROR, text);
                }
                return Ok(());
            }
            if let Some(attribute) = attribute {
                bytes += attribute.0.len() + attribute.1.len() + 8;
                attributes.push(attribute);
            }
            if answer.is_ok() || bytes >= MOST_ATTRIBUTE_BYTES || self.context.is_stopped() {
                break;
            }
        }
        if bytes >= MOST_ATTRIBUTE_BYTES {
            let text = format!("The attributes of file {} take 1 MiB or more: none of them is saved\n", name());
            self.context.attribute_error(message::ERROR, text);
            return Ok(());
        }
        for (name, value) in attributes {
            self.context.send(&FromWorker::Xattr { name, value })?;
        }
        Ok(())
    }
}

/// What ends a line at once.
pub(crate) enum Trouble {
    Gone(HostGone),
    Python(PyErr),
}

impl From<HostGone> for Trouble {
    fn from(gone: HostGone) -> Self {
        Self::Gone(gone)
    }
}

impl From<PyErr> for Trouble {
    fn from(error: PyErr) -> Self {
        Self::Python(error)
    }
}

pub(crate) fn unexpected(incoming: &Incoming) -> HostGone {
    HostGone(format!("it sent {incoming:?} in a backup"))
}

/// The five bytes of option bits as the plugin left them.
pub(crate) fn flags_left(packet: &Record<'_>) -> PyResult<[u8; 5]> {
    let flags = packet
        .object(save::FLAGS)
        .and_then(|flags| flags.cast_into::<PyByteArray>().ok())
        .ok_or_else(|| PyTypeError::new_err("flags need to be of type bytearray"))?;
    flags.to_vec().try_into().map_err(|_| PyRuntimeError::new_err("PyByteArray_Size(flags) failed"))
}

/// A restore object's fields, by the rules of reference 3.3.
fn read_object(packet: &Record<'_>) -> PyResult<Object> {
    let length = packet.integer(save::OBJECT_LEN);
    if length <= 0 {
        return Err(PyRuntimeError::new_err("pSavePkt->object_len is <=0"));
    }
    let name = packet.value(save::OBJECT_NAME).ok_or_else(|| PyRuntimeError::new_err("object name missing"))?;
    let name = name.cast_into::<PyString>().map_err(|_| PyTypeError::new_err("object name must be unicode type"))?;
    let object = packet.value(save::OBJECT).ok_or_else(|| PyRuntimeError::new_err("object missing"))?;
    let object =
        object.cast_into::<PyByteArray>().map_err(|_| PyTypeError::new_err("object needs to be of type bytearray"))?;
    let mut bytes = object.to_vec();
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > bytes.len() {
        return Err(PyRuntimeError::new_err("object_len >= len(object)"));
    }
    bytes.truncate(length);
    let index = i32::try_from(packet.integer(save::OBJECT_INDEX)).unwrap_or(0);
    Ok(Object { name: name.to_str()?.to_owned(), index, bytes })
}

/// Some name for an object whose packet cannot be read.
fn shown_name(packet: &Record<'_>) -> Vec<u8> {
    let name = packet.value(save::FNAME).and_then(|name| name.cast_into::<PyString>().ok());
    let text = name.map(|name| name.to_string_lossy().replace('\0', "")).unwrap_or_default();
    text.chars().take(4096).collect::<String>().into_bytes()
}

fn is_directory(file_type: i32) -> bool {
    matches!(file_type, ft::DIREND | ft::NORECURSE | ft::NOFSCHG | ft::INVALIDFS | ft::INVALIDDT | ft::REPARSE)
}

/// The table of reference 6.1.
fn treatment(saved: &Saved<'_>) -> Treatment {
    // Most objects need no words.
    let name = || saved.shown();
    match saved.file_type {
        ft::SPEC if saved.entry.stat.mode & 0o170_000 == 0o140_000 => {
            Treatment::Skip(Some((message::SKIPPED, format!("     Socket file skipped: {}\n", name()))), "socket")
        }
        ft::LNKSAVED
        | ft::REGE
        | ft::REG
        | ft::LNK
        | ft::DIREND
        | ft::SPEC
        | ft::RAW
        | ft::FIFO
        | ft::REPARSE
        | ft::DELETED
        | ft::RESTORE_FIRST
        | ft::JUNCTION
        | ft::PLUGIN_CONFIG => Treatment::Save,
        ft::NORECURSE => {
            Treatment::SaveAndSay(format!("     Recursion turned off. Will not descend into {}\n", name()))
        }
        ft::NOFSCHG => {
            Treatment::SaveAndSay(format!("     File system change prohibited. Will not descend into {}\n", name()))
        }
        ft::INVALIDFS => {
            Treatment::SaveAndSay(format!("     Disallowed filesystem. Will not descend into {}\n", name()))
        }
        ft::INVALIDDT => {
            Treatment::SaveAndSay(format!("     Disallowed drive type. Will not descend into {}\n", name()))
        }
        ft::NOACCESS => Treatment::Fail(format!("     Could not access \"{}\"\n", name())),
        ft::NOFOLLOW => Treatment::Fail(format!("     Could not follow link \"{}\"\n", name())),
        ft::NOSTAT => Treatment::Fail(format!("     Could not stat \"{}\"\n", name())),
        ft::NOOPEN => Treatment::Fail(format!("     Could not open directory \"{}\"\n", name())),
        ft::NOCHG | ft::DIRNOCHG => Treatment::Skip(
            Some((message::SKIPPED, format!("     Unchanged file skipped: {}\n", name()))),
            "unchanged, says the plugin",
        ),
        ft::ISARCH => Treatment::Skip(
            Some((message::NOTSAVED, format!("     Archive file not saved: {}\n", name()))),
            "archive file",
        ),
        ft::DIRBEGIN => Treatment::Skip(None, "start of a directory"),
        other => Treatment::Fail(format!("     Unknown file type {other}; not saved: {}\n", name())),
    }
}
