//! A restore through the plugin that saved the data: ledger records go to the worker, one after the other. Small entries
//! go with all of their data, and the next ones follow before the plugin is done with the first.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use backstay_bareos_protocol::{
    Created, Failure, FromWorker, MOST_WHOLE, PluginEntry, RestoreEntry, Task, ToWorker, WholeEntry,
};
use backstay_core::{Attr, Create, Entry, EntryError, Fatal, Job, SavedJob, Settled, SideObject, Sink, Verdict};
use backstay_worker::Worker;
use rustix::event::PollFlags;
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::confine::Room;
use crate::connection::{Broken, Connection, Limits, Turn, cancel_text};
use crate::definition::Module;
use crate::options::BareosOptions;
use crate::printed::Printed;
use crate::source::{finish_prior, restore_object, spawn};
use crate::view::FT_LNKSAVED;

/// FT_LNK.
const FT_LNK: i32 = 4;
/// Plugins get blocks of at most this many bytes, as from Bareos (reference 5.4).
const BLOCK: usize = 262_144;
/// Bytes of attributes that go with a small entry in one frame.
const MOST_ATTRIBUTES: usize = 1 << 20;
/// A write of this many bytes to a pipe that is ready does not block.
const PIPE_WRITE: usize = 4096;

/// Restores the entries of one source's ledger through its plugin.
pub struct BareosSink {
    /// Those of the job whose entries come.
    definitions: Vec<String>,
    jobs: Vec<SavedJob>,
    options: BareosOptions,
    job: Arc<dyn Job>,
    where_prefix: String,
    connection: Option<Connection>,
    /// Goes after the worker.
    room: Option<Room>,
    output: Option<JoinHandle<()>>,
    open: Option<OpenEntry>,
    /// Names of the entries that were handed over whole and are not settled.
    handed: VecDeque<String>,
}

struct OpenEntry {
    name: String,
    /// Where its data goes.
    to: To,
    /// What kept the data from arriving whole.
    written: Result<(), Failure>,
    acls: Vec<Vec<u8>>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

enum To {
    Nowhere,
    Ring,
    /// A descriptor of the plugin; whether a write to it may block for ever, and whether it is a socket.
    Descriptor {
        descriptor: OwnedFd,
        kind: FileType,
    },
}

impl std::fmt::Debug for BareosSink {
    /// Definitions may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BareosSink").field("definitions", &self.definitions.len()).finish_non_exhaustive()
    }
}

impl BareosSink {
    /// A sink for one ledger. The job is heard and told for as long as the sink lives.
    #[must_use]
    pub fn new(options: BareosOptions, job: Arc<dyn Job>) -> Self {
        Self {
            definitions: Vec::new(),
            jobs: Vec::new(),
            options,
            job,
            where_prefix: String::new(),
            connection: None,
            room: None,
            output: None,
            open: None,
            handed: VecDeque::new(),
        }
    }

    pub(crate) fn begin_with(
        &mut self,
        mut worker: Worker,
        jobs: &[SavedJob],
        objects: &[SideObject],
    ) -> Result<(), Fatal> {
        self.jobs = jobs.to_vec();
        self.of_job(0);
        let spec = self.options.job_spec(Task::Restore, self.job.id(), Vec::new())?;
        let made_by = |object: &SideObject| {
            let job = jobs.iter().find(|job| job.id == object.job_id);
            restore_object(object, job.map(|job| &job.definitions[..]).unwrap_or_default())
        };
        let objects = objects.iter().map(made_by).collect::<Result<Vec<_>, _>>()?;
        let prior = if objects.is_empty() { None } else { Some(finish_prior(None, &objects)?) };
        self.where_prefix = spec.where_prefix.clone().unwrap_or_default();
        let all: Vec<String> = jobs.iter().flat_map(|job| job.definitions.clone()).collect();
        let speaker = all
            .first()
            .and_then(|definition| Module::of(definition).ok())
            .map_or_else(|| crate::ADAPTER.to_owned(), |module| module.name);
        let printed = Arc::new(Printed::default());
        if let Some(output) = worker.take_output() {
            let (job, speaker, printed) = (Arc::clone(&self.job), speaker.clone(), Arc::clone(&printed));
            let deliver = move || output.deliver(|stream, line| printed.line(&*job, &speaker, stream, line));
            self.output = std::thread::Builder::new().spawn(deliver).ok();
        }
        let limits = Limits::of(&self.options);
        let connection = Connection::new(worker, limits, speaker.clone(), &all).traced(self.options.trace.clone());
        let connection = self.connection.insert(connection);
        if let Err(Broken(reason)) = connection.start(&*self.job, spec, prior) {
            // The worker has ended, so its last line is on its way.
            let heard = self.output.take().is_none_or(|listener| listener.join().is_ok());
            return Err(Fatal(if heard { printed.explain(reason) } else { reason }));
        }
        printed.started(&*self.job, &speaker);
        Ok(())
    }

    fn connection(&mut self) -> Result<&mut Connection, Broken> {
        self.connection.as_mut().ok_or_else(|| Broken("the restore was not begun".to_owned()))
    }

    fn restore_entry(&self, entry: &Entry) -> Result<RestoreEntry, EntryError> {
        let name = String::from_utf8_lossy(&entry.name);
        let plugin: PluginEntry = postcard::from_bytes(&entry.native)
            .map_err(|error| EntryError::new(format!("the ledger's record of {name} cannot be read: {error}")))?;
        let definition = self
            .definitions
            .get(plugin.definition as usize)
            .ok_or_else(|| EntryError::new(format!("the ledger does not hold the definition that announced {name}")))?
            .clone();
        let linked = plugin.file_type == FT_LNKSAVED || plugin.file_type == FT_LNK && self.options.prefix_links;
        let (output_name, output_link) = match &self.options.regex_where {
            Some(rules) => {
                (rules.apply(&plugin.name), if linked { rules.apply(&plugin.link) } else { plugin.link.clone() })
            }
            None if linked && plugin.link.starts_with(b"/") => {
                (below(&self.where_prefix, &plugin.name), below(&self.where_prefix, &plugin.link))
            }
            None => (below(&self.where_prefix, &plugin.name), plugin.link.clone()),
        };
        Ok(RestoreEntry { definition, output_name, output_link, entry: plugin })
    }

    fn create_entry(&mut self, entry: &Entry) -> Result<Result<Create, EntryError>, Broken> {
        let record = match self.restore_entry(entry) {
            Ok(record) => record,
            Err(error) => return Ok(Err(error)),
        };
        let name = String::from_utf8_lossy(&entry.name).into_owned();
        let job = Arc::clone(&self.job);
        let connection = self.connection()?;
        // What was complained of before is no reason for what comes now.
        connection.take_complaint();
        connection.send(&*job, &ToWorker::Restore(Box::new(record)))?;
        let (created, descriptor) = match connection.next(&*job)? {
            (FromWorker::Created(created), descriptor) => (created, descriptor),
            (FromWorker::Finished(end), _) => return Err(ended(connection, &job, &end.reason)),
            _ => return Err(connection.lied("it did not answer a restore")),
        };
        let (to, answer) = match (created, descriptor) {
            (Created::Skip, None) => (To::Nowhere, Ok(Create::Skip)),
            (Created::Made, None) => (To::Nowhere, Ok(Create::Made)),
            (Created::Ring, None) => (To::Ring, Ok(Create::Bytes)),
            (Created::Fd, Some(descriptor)) => {
                let kind = rustix::fs::fstat(&descriptor)
                    .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode));
                (To::Descriptor { descriptor, kind }, Ok(Create::Bytes))
            }
            (Created::Failed, None) => {
                let complaint = connection.take_complaint();
                let text = complaint.unwrap_or_else(|| format!("the plugin did not create {name}"));
                (To::Nowhere, Err(EntryError::new(text)))
            }
            _ => return Err(connection.lied("its answer and its descriptor do not fit")),
        };
        self.open = Some(OpenEntry { name, to, written: Ok(()), acls: Vec::new(), xattrs: Vec::new() });
        Ok(answer)
    }

    /// Puts data into the ring, and waits for room.
    fn fill_ring(&mut self, mut data: &[u8]) -> Result<(), Broken> {
        let job = Arc::clone(&self.job);
        let connection = self.connection()?;
        while !data.is_empty() {
            let block = &data[..data.len().min(BLOCK)];
            if let Some((position, length)) = connection.worker()?.restore.write(block) {
                data = &data[length as usize..];
                connection.send(&*job, &ToWorker::Data { position, length })?;
                continue;
            }
            match connection.next(&*job)? {
                (FromWorker::Consumed(position), None) => {
                    if let Err(error) = connection.worker()?.restore.consumed(position) {
                        return Err(connection.lied(&error.to_string()));
                    }
                }
                (FromWorker::Finished(end), None) => return Err(ended(connection, &job, &end.reason)),
                _ => return Err(connection.lied("it spoke while it should have taken data")),
            }
        }
        Ok(())
    }

    /// Writes data to the plugin's descriptor. Never blocks where nobody may be reading.
    fn fill_descriptor(&mut self, mut data: &[u8]) -> Result<Result<(), Errno>, Broken> {
        let job = Arc::clone(&self.job);
        while !data.is_empty() {
            let (Some(connection), Some(OpenEntry { to: To::Descriptor { descriptor, kind }, .. })) =
                (&mut self.connection, &self.open)
            else {
                return Ok(Err(Errno::BADF));
            };
            let written = if *kind == FileType::RegularFile {
                rustix::io::write(descriptor, data)
            } else {
                if connection.await_descriptor(&*job, descriptor.as_fd(), PollFlags::OUT)? == Turn::Cancelled {
                    return Ok(Err(Errno::CANCELED));
                }
                if *kind == FileType::Socket {
                    let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
                    rustix::net::send(descriptor, data, flags)
                } else {
                    rustix::io::write(descriptor, &data[..data.len().min(PIPE_WRITE)])
                }
            };
            match written {
                Ok(0) => return Ok(Err(Errno::IO)),
                Ok(count) => data = &data[count..],
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(()))
    }

    /// Ends the open entry; returns what the plugin says of it.
    fn end_entry(&mut self) -> Result<Option<EntryError>, Broken> {
        // A record that could not be sent at all is open on neither side.
        let Some(open) = self.open.take() else { return Ok(None) };
        let OpenEntry { name, to, written, acls, xattrs } = open;
        // Our copy of a descriptor is closed before the plugin hears of it.
        drop(to);
        let job = Arc::clone(&self.job);
        let connection = self.connection()?;
        connection.send(&*job, &ToWorker::EndData { written, acls, xattrs })?;
        loop {
            match connection.next(&*job)? {
                // The object stands, and yet the plugin complained: a restore like that is not without errors (reference
                // 4.8).
                (FromWorker::Restored(Ok(())), None) => return Ok(connection.take_complaint().map(EntryError::new)),
                (FromWorker::Restored(Err(failure)), None) => {
                    return Ok(Some(not_restored(connection, &failure, &name)));
                }
                (FromWorker::Consumed(position), None) => {
                    if let Err(error) = connection.worker()?.restore.consumed(position) {
                        return Err(connection.lied(&error.to_string()));
                    }
                }
                (FromWorker::Finished(end), None) => return Err(ended(connection, &job, &end.reason)),
                _ => return Err(connection.lied("it did not say how an entry ended")),
            }
        }
    }

    /// Sends a small entry whole.
    fn send_whole(&mut self, entry: RestoreEntry, data: &[u8], attrs: &[Attr]) -> Result<(), Broken> {
        let mut whole = WholeEntry { entry, data: data.to_vec(), acls: Vec::new(), xattrs: Vec::new() };
        for attr in attrs {
            match attr {
                Attr::Acl(acl) => whole.acls.push(acl.clone()),
                Attr::Xattr { name, value } => whole.xattrs.push((name.clone(), value.clone())),
            }
        }
        let job = Arc::clone(&self.job);
        let connection = self.connection()?;
        connection.send(&*job, &ToWorker::Whole(Box::new(whole)))
    }

    /// Waits for the end of the entry `name`, which went whole and before all others that wait.
    fn settle_entry(&mut self, name: &str) -> Result<Settled, Broken> {
        let job = Arc::clone(&self.job);
        let connection = self.connection()?;
        let created = match connection.next(&*job)? {
            (FromWorker::Created(created), None) if created != Created::Fd => created,
            (FromWorker::Finished(end), None) => return Err(ended(connection, &job, &end.reason)),
            _ => return Err(connection.lied("it did not say what became of an entry")),
        };
        let refused = (created == Created::Failed)
            .then(|| connection.take_complaint().unwrap_or_else(|| format!("the plugin did not create {name}")));
        let restored = match connection.next(&*job)? {
            (FromWorker::Restored(restored), None) => restored,
            (FromWorker::Finished(end), None) => return Err(ended(connection, &job, &end.reason)),
            _ => return Err(connection.lied("it did not say how an entry ended")),
        };
        // As in `end_entry`: an object that stands is not without errors when the plugin complained.
        let complaint = connection.take_complaint();
        Ok(match (refused, restored, complaint) {
            (Some(text), _, _) | (None, Ok(()), Some(text)) => Settled::Failed(EntryError::new(text)),
            (None, Err(failure), _) => Settled::Failed(not_restored(connection, &failure, name)),
            (None, Ok(()), None) if created == Created::Skip => Settled::Skipped,
            (None, Ok(()), None) => Settled::Restored,
        })
    }

    fn end_restore(&mut self) -> Result<(), Broken> {
        let job = Arc::clone(&self.job);
        let connection = self.connection()?;
        if let Some(reason) = job.cancelled() {
            connection.cancel(cancel_text(&reason))?;
        }
        connection.send(&*job, &ToWorker::EndRestore)?;
        loop {
            match connection.next(&*job)? {
                (FromWorker::Finished(end), None) => {
                    connection.finish(&*job);
                    return match connection.stopping() {
                        Some(reason) => Err(Broken(reason.to_owned())),
                        None if end.whole => Ok(()),
                        None => Err(Broken(given_up(&connection.without_secrets(&end.reason)))),
                    };
                }
                // The last acknowledgements may still be on their way.
                (FromWorker::Consumed(_), None) => {}
                _ => return Err(connection.lied("it went on after the last entry")),
            }
        }
    }
}

fn not_restored(connection: &Connection, failure: &Failure, name: &str) -> EntryError {
    let mut error = connection.entry_error(failure);
    if error.message.is_empty() {
        error.message = format!("the plugin did not restore {name}");
    }
    error
}

/// A worker that ends before it was told to: the plugin's job failed.
fn ended(connection: &mut Connection, job: &Arc<dyn Job>, reason: &str) -> Broken {
    connection.finish(&**job);
    let given = given_up(&connection.explained(reason));
    Broken(connection.stopping().map_or(given, str::to_owned))
}

fn attr_length(attr: &Attr) -> usize {
    match attr {
        Attr::Acl(acl) => acl.len(),
        Attr::Xattr { name, value } => name.len() + value.len(),
    }
}

fn given_up(reason: &str) -> String {
    if reason.is_empty() { "the plugin gave up".to_owned() } else { reason.to_owned() }
}

fn fatal(Broken(reason): Broken) -> Fatal {
    Fatal(reason)
}

/// A name below the restore's prefix: a slash is put between them only if neither side has one (reference 4.7).
fn below(prefix: &str, name: &[u8]) -> Vec<u8> {
    let mut out = prefix.as_bytes().to_vec();
    if !prefix.is_empty() && !prefix.ends_with('/') && !name.starts_with(b"/") {
        out.push(b'/');
    }
    out.extend_from_slice(name);
    out
}

impl Sink for BareosSink {
    fn begin(&mut self, _job: &dyn Job, jobs: &[SavedJob], objects: Vec<SideObject>) -> Result<(), Fatal> {
        let definitions: Vec<String> = jobs.iter().flat_map(|job| job.definitions.clone()).collect();
        let (worker, room) = spawn(&self.options, Task::Restore, &definitions)?;
        self.room = Some(room);
        self.begin_with(worker, jobs, &objects)
    }

    fn of_job(&mut self, number: usize) {
        if let Some(job) = self.jobs.get(number)
            && self.definitions != job.definitions
        {
            self.definitions.clone_from(&job.definitions);
        }
    }

    fn create(&mut self, entry: &Entry) -> Result<Create, EntryError> {
        // A worker that is gone is reported by `end`, which can end the restore.
        self.create_entry(entry).unwrap_or_else(|Broken(reason)| Err(EntryError::new(reason)))
    }

    fn hand_over(&mut self, entry: &Entry, data: &[u8], attrs: &[Attr]) -> Result<bool, Fatal> {
        let attributes: usize = attrs.iter().map(attr_length).sum();
        if data.len() > MOST_WHOLE || attributes > MOST_ATTRIBUTES {
            return Ok(false);
        }
        let Ok(record) = self.restore_entry(entry) else { return Ok(false) };
        if self.handed.is_empty() {
            // What was complained of before is no reason for what comes now.
            self.connection().map_err(fatal)?.take_complaint();
        }
        self.send_whole(record, data, attrs).map_err(fatal)?;
        self.handed.push_back(String::from_utf8_lossy(&entry.name).into_owned());
        Ok(true)
    }

    fn settle(&mut self) -> Result<Option<Settled>, Fatal> {
        let Some(name) = self.handed.pop_front() else { return Ok(None) };
        self.settle_entry(&name).map(Some).map_err(fatal)
    }

    fn write(&mut self, data: &[u8]) -> Result<(), EntryError> {
        let Some(open) = &self.open else { return Err(EntryError::new("data came for no entry")) };
        let written = match open.to {
            To::Nowhere => return Err(EntryError::new(format!("data came for {}, which takes none", open.name))),
            To::Ring => self.fill_ring(data).map(Ok),
            To::Descriptor { .. } => self.fill_descriptor(data),
        };
        let name = self.open.as_ref().map_or_else(String::new, |open| open.name.clone());
        let error = match written {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(errno)) => EntryError::io(format_args!("write {name}"), &errno.into()),
            Err(Broken(reason)) => EntryError::new(reason),
        };
        if let Some(open) = &mut self.open {
            open.written = Err(Failure { errno: error.errno.unwrap_or(0), message: error.message.clone() });
        }
        Err(error)
    }

    fn close(&mut self, _entry: &Entry, written: bool) -> Result<(), EntryError> {
        if let Some(open) = &mut self.open {
            open.to = To::Nowhere;
            if !written && open.written.is_ok() {
                let message = format!("the contents of {} could not be read from the repository", open.name);
                open.written = Err(Failure { errno: 0, message });
            }
        }
        Ok(())
    }

    fn attr(&mut self, _entry: &Entry, attr: &Attr) -> Result<(), EntryError> {
        if let Some(open) = &mut self.open {
            match attr {
                Attr::Acl(acl) => open.acls.push(acl.clone()),
                Attr::Xattr { name, value } => open.xattrs.push((name.clone(), value.clone())),
            }
        }
        Ok(())
    }

    fn end(&mut self, _entry: &Entry) -> Result<Option<EntryError>, Fatal> {
        let ended = self.end_entry().map_err(fatal)?;
        // Also when nothing was open because the worker died before it answered.
        match self.connection.as_mut().map(|connection| connection.worker().map(|_| ())) {
            Some(Ok(())) => Ok(ended),
            Some(Err(broken)) => Err(fatal(broken)),
            None => Err(Fatal("the restore was not begun".to_owned())),
        }
    }

    fn finish(&mut self, _verdict: &Verdict) -> Result<(), Fatal> {
        let ended = self.end_restore().map_err(fatal);
        // Dropped, it ends its worker if that still runs; then nothing prints any more.
        self.connection = None;
        if let Some(output) = self.output.take()
            && output.join().is_err()
        {
            return Err(Fatal("the thread that reads the plugin's output failed".to_owned()));
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_is_put_in_only_if_neither_side_has_one() {
        assert_eq!(below("", b"/etc/x"), b"/etc/x");
        assert_eq!(below("", b"@virtual/x"), b"@virtual/x");
        assert_eq!(below("/x", b"/etc"), b"/x/etc");
        assert_eq!(below("/x", b"@v"), b"/x/@v");
    }
}
