//! A module's plugins as a source: the worker's frames become what the engine takes.
//!
//! Every entry that the worker announced ends in one state, whatever happens: frames are counted as they come, and the
//! counter in the ring says how many more a dead worker had announced.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use backstay_bareos_protocol::prior::{KnownFile, PriorWriter, RestoreObject};
use backstay_bareos_protocol::{
    DEFAULT_FLAGS, Failure, FromWorker, Handled, JobSpec, LineRules, MOST_OBJECT, ObjectEntry, PluginEntry, Task,
    ToWorker,
};
use backstay_core::{
    Attr, Data, DataError, Declined, End, Entry, EntryError, Fatal, FileKind, Ingest, Job, Offer, SideObject, Source,
    SourceInfo, Start, Stat, Stop, Verdict,
};
use backstay_worker::{Worker, handed, supervisor};
use rustix::event::PollFlags;
use rustix::io::Errno;

use crate::confine::{self, Room};
use crate::connection::{Broken, Connection, Limits, Turn};
use crate::definition::{DefinitionError, Module};
use crate::options::BareosOptions;
use crate::printed::Printed;
use crate::trace::Trace;
use crate::{ADAPTER, WORKER_PROGRAM, WORKER_VARIABLE, view};

/// Small pieces of data are put together up to this many bytes before the engine gets them.
const GATHERED: usize = 256 << 10;
/// The worker hears that ring data was taken at least once in this many bytes; and whenever we wait for it.
const ACKNOWLEDGE: u64 = 1 << 20;
/// What one look at a pipe may bring.
const PIPE_BUFFER: usize = 1 << 20;
/// A counter that claims more lost entries than this is not believed: it would spoil the sums.
const MOST_LOST: u64 = 1 << 32;

/// A `Plugin =` line: its definition, and the option bits of the Include that it stands in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginLine {
    /// The definition, word for word.
    pub definition: String,
    /// Five bytes of option bits (reference 2.3).
    pub flags: [u8; 5],
    /// The rules of the FileSet that it stands in.
    pub rules: Option<Arc<LineRules>>,
}

impl From<&String> for PluginLine {
    /// A definition with the option bits that Bareos sets where nothing is said.
    fn from(definition: &String) -> Self {
        Self { definition: definition.clone(), flags: DEFAULT_FLAGS, rules: None }
    }
}

/// All plugins of a job that name the same module.
#[derive(Debug)]
pub struct BareosSource {
    info: SourceInfo,
    /// What its definitions stand in, one for each.
    lines: Vec<PluginLine>,
    module: Module,
    options: BareosOptions,
    /// What the reference job has, on its way to the worker.
    prior: Option<Prior>,
}

type Prior = PriorWriter<BufWriter<File>>;

/// One source per module, in the order in which the definitions name them first: those of `lines`, then those of option
/// plugins, of which each is offered files under its place in `option_lines`.
///
/// # Errors
/// [`DefinitionError`] for a definition that is none.
pub fn sources(
    lines: impl IntoIterator<Item = impl Into<PluginLine>>,
    option_lines: Vec<PluginLine>,
    options: &BareosOptions,
) -> Result<Vec<BareosSource>, DefinitionError> {
    let mut sources: Vec<BareosSource> = Vec::new();
    let mut names = HashSet::new();
    let lines = lines.into_iter().map(|line| (line.into(), None));
    for (line, number) in lines.chain((0..).zip(option_lines).map(|(number, line)| (line, Some(number)))) {
        let module = Module::of(&line.definition)?;
        if let Some(source) = sources.iter_mut().find(|source| source.module == module) {
            source.info.definitions.push(line.definition.clone());
            source.info.offers.extend(number);
            source.lines.push(line);
            continue;
        }
        let plain: String =
            module.name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
        let mut name = plain.clone();
        for number in 2.. {
            if names.insert(name.clone()) {
                break;
            }
            name = format!("{plain}-{number}");
        }
        sources.push(BareosSource {
            info: SourceInfo {
                path: format!("/{ADAPTER}/{name}"),
                name: format!("{ADAPTER}-{name}"),
                adapter: Some(ADAPTER),
                definitions: vec![line.definition.clone()],
                job_name: options.job_name.clone(),
                level: options.level,
                offers: number.into_iter().collect(),
            },
            lines: vec![line],
            module,
            options: options.clone(),
            prior: None,
        });
    }
    Ok(sources)
}

impl Source for BareosSource {
    fn info(&self) -> SourceInfo {
        self.info.clone()
    }

    fn known(&mut self, entry: &Entry) -> Result<(), Fatal> {
        // A record of another adapter's, or of a version that is not read: the plugin is asked for it anew.
        let Ok(plugin) = postcard::from_bytes::<PluginEntry>(&entry.native) else { return Ok(()) };
        let known = KnownFile { stat: plugin.stat, delta_sequence: plugin.delta_sequence };
        let prior = match &mut self.prior {
            Some(prior) => prior,
            none => none.insert(new_prior().map_err(|error| no_prior(&error))?),
        };
        prior.file(&plugin.name, &known).map_err(|error| no_prior(&error))
    }

    fn run(&mut self, job: &dyn Job, start: &Start, out: &mut dyn Ingest) -> Result<End, Fatal> {
        // The room is kept until the worker is gone.
        let (worker, begin, _room) = self.begin(Task::Backup, job, start)?;
        let offers = self.info.offers.clone();
        run_with(worker, begin, &self.module.name, job, &mut Taker::Ingest(out, offers))
    }

    fn estimate(&mut self, job: &dyn Job, start: &Start, out: &mut dyn FnMut(&Entry)) -> Result<End, Fatal> {
        let (worker, begin, _room) = self.begin(Task::Estimate, job, start)?;
        run_with(worker, begin, &self.module.name, job, &mut Taker::Estimate(out))
    }

    /// The plugin heard of the end in its closing events, before the last frame.
    fn finish(&mut self, _verdict: &Verdict) {}
}

impl BareosSource {
    fn begin(&mut self, task: Task, job: &dyn Job, start: &Start) -> Result<(Worker, Begin, Room), Fatal> {
        // The room comes first: folders that it makes may belong to another user.
        let (worker, room) = spawn(&self.options, task, &self.info.definitions)?;
        let mut spec = self.options.backup_spec(task, job.id(), self.info.definitions.clone(), start)?;
        spec.flags = self.lines.iter().map(|line| line.flags).collect();
        spec.rules = self.lines.iter().map(|line| line.rules.as_deref().cloned()).collect();
        spec.option_lines = u32::try_from(self.info.offers.len()).unwrap_or(u32::MAX);
        let definitions = start.reference.as_ref().map(|reference| reference.definitions.clone()).unwrap_or_default();
        let objects =
            start.objects.iter().map(|object| restore_object(object, &definitions)).collect::<Result<Vec<_>, _>>()?;
        let prior = self.prior.take();
        let prior = if start.reference.is_some() { Some(finish_prior(prior, &objects)?) } else { None };
        let limits = Limits::of(&self.options);
        Ok((worker, Begin { spec, prior, limits, trace: self.options.trace.clone() }, room))
    }
}

fn new_prior() -> io::Result<Prior> {
    Ok(PriorWriter::new(BufWriter::with_capacity(256 << 10, handed::create("backstay-prior")?)))
}

/// Ends what goes to the worker.
pub(crate) fn finish_prior(prior: Option<Prior>, objects: &[RestoreObject]) -> Result<OwnedFd, Fatal> {
    let finish = || {
        let prior = prior.map_or_else(new_prior, Ok)?;
        let file = prior.finish(objects)?.into_inner().map_err(io::IntoInnerError::into_error)?;
        handed::seal(file)
    };
    finish().map_err(|error| no_prior(&error))
}

fn no_prior(error: &io::Error) -> Fatal {
    Fatal(format!("there is no room for the list of what earlier jobs saved: {error}"))
}

/// A restore object as plugins get it back. `definitions` are those of the job that made it.
pub(crate) fn restore_object(object: &SideObject, definitions: &[String]) -> Result<RestoreObject, Fatal> {
    let damaged = |what: &str| {
        let name = String::from_utf8_lossy(&object.name);
        Fatal(format!("the ledger's record of the restore object {name} cannot be read: {what}"))
    };
    let entry: ObjectEntry = postcard::from_bytes(&object.native).map_err(|error| damaged(&error.to_string()))?;
    let definition = definitions.get(entry.definition as usize).ok_or_else(|| damaged("its definition is missing"))?;
    Ok(RestoreObject {
        definition: definition.clone(),
        object_type: entry.object_type,
        object_index: entry.object_index,
        object_name: entry.object_name,
        object: object.bytes.clone(),
        job_id: object.job_id,
    })
}

/// What a worker is started with.
#[derive(Debug)]
pub(crate) struct Begin {
    pub(crate) spec: JobSpec,
    pub(crate) prior: Option<OwnedFd>,
    pub(crate) limits: Limits,
    pub(crate) trace: Option<Trace>,
}

/// Who hears of the entries.
pub(crate) enum Taker<'a> {
    /// And the numbers under which it offers files, in the order of the option plugins' definitions.
    Ingest(&'a mut dyn Ingest, Vec<u32>),
    Estimate(&'a mut dyn FnMut(&Entry)),
}

/// Starts the worker program, confined as the options say. The calling thread has to live as long as the worker, and what
/// comes with it too.
pub(crate) fn spawn(options: &BareosOptions, task: Task, definitions: &[String]) -> Result<(Worker, Room), Fatal> {
    spawn_in(options, "bareos-fd", confine::prepare(options, task, definitions)?)
}

/// The same, for a command of the worker program and in a room that is ready.
pub(crate) fn spawn_in(options: &BareosOptions, command: &str, room: Room) -> Result<(Worker, Room), Fatal> {
    let program = match &options.worker_program {
        Some(program) => program.clone(),
        None => supervisor::locate(WORKER_PROGRAM, WORKER_VARIABLE).map_err(|error| Fatal(error.to_string()))?,
    };
    let mut arguments = options.arguments(command);
    arguments.extend(room.arguments.iter().cloned());
    let worker = Worker::spawn_with(&program, &arguments, &room.environment);
    worker.map(|worker| (worker, room)).map_err(|error| Fatal(error.to_string()))
}

/// Runs a backup, or an estimate, with a worker that was started.
pub(crate) fn run_with(
    mut worker: Worker,
    begin: Begin,
    speaker: &str,
    job: &dyn Job,
    out: &mut Taker<'_>,
) -> Result<End, Fatal> {
    let Begin { spec, prior, limits, trace } = begin;
    let printed = Printed::default();
    std::thread::scope(|scope| {
        let listener = worker.take_output().map(|output| {
            let printed = &printed;
            scope.spawn(move || output.deliver(|stream, line| printed.line(job, speaker, stream, line)))
        });
        let lines = spec.lines().0.len();
        let mut connection = Connection::new(worker, limits, speaker.to_owned(), &spec.definitions).traced(trace);
        if let Err(Broken(reason)) = connection.start(job, spec, prior) {
            // The worker has ended, so its last line is on its way.
            let heard = listener.is_none_or(|listener| listener.join().is_ok());
            return Err(Fatal(if heard { printed.explain(reason) } else { reason }));
        }
        printed.started(job, speaker);
        let (out, offers): (&mut dyn Ingest, _) = match out {
            Taker::Ingest(out, offers) => (*out, std::mem::take(offers)),
            Taker::Estimate(take) => return Ok(Estimate { connection, job, take: *take }.run()),
        };
        let backup = Backup {
            connection,
            job,
            out,
            option_plugins: OptionPlugins { first: lines, numbers: offers, asked: false },
            open: Open::None,
            framed: 0,
            dropped: 0,
            gathered: Vec::new(),
            acknowledged: 0,
        };
        Ok(backup.run())
    })
}

/// What became of the entry that the worker has open.
enum Open {
    /// None is open.
    None,
    /// The engine has it; perhaps reading it failed.
    Given { name: Vec<u8>, failure: Option<EntryError> },
    /// It is a restore object, whose bytes are gathered here.
    Object { entry: ObjectEntry, bytes: Vec<u8> },
    /// The engine takes no more.
    Dropped,
}

/// Why a backup ends.
enum Ending {
    Broken(Broken),
    Lie(&'static str),
    Finished(End),
}

impl From<Broken> for Ending {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// Which definitions are those of option plugins.
struct OptionPlugins {
    /// The place of the first.
    first: usize,
    /// The numbers under which they are offered files.
    numbers: Vec<u32>,
    /// The worker has to answer for a file: what it announces now is counted by the walk.
    asked: bool,
}

struct Backup<'a> {
    connection: Connection,
    job: &'a dyn Job,
    out: &'a mut dyn Ingest,
    option_plugins: OptionPlugins,
    open: Open,
    /// Entries that came as frames.
    framed: u64,
    /// Entries that came as frames and that the engine did not take.
    dropped: u64,
    /// Ring data of the open entry, copied out and not yet given to the engine.
    gathered: Vec<u8>,
    acknowledged: u64,
}

impl Backup<'_> {
    fn run(mut self) -> End {
        let ending = match self.offers() {
            Err(ending) => ending,
            Ok(()) => loop {
                match self.step() {
                    Ok(()) => {}
                    Err(ending) => break ending,
                }
            },
        };
        let end = match ending {
            Ending::Finished(end) => {
                self.connection.finish(self.job);
                end
            }
            Ending::Broken(Broken(reason)) => End::Stopped(reason),
            Ending::Lie(what) => End::Stopped(self.connection.lied(what).0),
        };
        if matches!(self.open, Open::Object { .. }) {
            self.dropped += 1;
        }
        let unheard = self.connection.announced().saturating_sub(self.framed).min(MOST_LOST);
        let lost = self.dropped + unheard;
        if lost > 0 || !matches!(self.open, Open::None) {
            self.out.lost(lost);
        }
        match end {
            // Entries went missing although the plugin ended well: that is no whole backup.
            End::Whole if unheard > 0 => {
                End::Stopped(format!("the plugin worker announced {unheard} entries more than it sent"))
            }
            end => end,
        }
    }

    /// Asks the worker about each file that the walk offers.
    fn offers(&mut self) -> Result<(), Ending> {
        if self.option_plugins.numbers.is_empty() {
            return Ok(());
        }
        loop {
            match self.out.offered() {
                Ok(Some(offer)) => self.offer(&offer)?,
                Ok(None) => {
                    self.connection.send(self.job, &ToWorker::EndFiles)?;
                    return Ok(self.connection.flush(self.job)?);
                }
                Err(stop) => return self.stop(stop),
            }
        }
    }

    fn offer(&mut self, offer: &Offer) -> Result<(), Ending> {
        let OptionPlugins { first, numbers, .. } = &self.option_plugins;
        let place = numbers.iter().position(|number| *number == offer.number).unwrap_or(0);
        let definition = u32::try_from(first + place).unwrap_or(u32::MAX);
        self.connection.send(self.job, &ToWorker::File(Box::new(view::offer(definition, offer))))?;
        self.connection.flush(self.job)?;
        self.option_plugins.asked = true;
        while self.option_plugins.asked {
            self.step()?;
        }
        Ok(())
    }

    fn handled(&mut self, handled: Handled) -> Result<(), Ending> {
        self.between("it answered for a file while an entry was open")?;
        if !std::mem::take(&mut self.option_plugins.asked) {
            return Err(Ending::Lie("it answered for a file that nobody had offered"));
        }
        self.out.decline(match handled {
            Handled::Core => Declined::Passed,
            Handled::Skip => Declined::Skipped("option plugin".to_owned()),
            Handled::Unchanged => Declined::Unchanged,
            Handled::Failed(failure) => Declined::Failed(self.connection.entry_error(&failure)),
        });
        Ok(())
    }

    /// Counts an entry that came as a frame, unless the walk does.
    fn count_framed(&mut self) {
        self.framed += u64::from(!self.option_plugins.asked);
    }

    /// Counts one that the engine did not take.
    fn count_dropped(&mut self) {
        self.dropped += u64::from(!self.option_plugins.asked);
    }

    fn step(&mut self) -> Result<(), Ending> {
        let at_hand = if self.connection.worker()?.backup.position() == self.acknowledged {
            None
        } else {
            // Before we wait, the worker hears what it may overwrite: it may be waiting for just that.
            let at_hand = self.connection.poll(self.job)?;
            if at_hand.is_none() {
                self.acknowledge(0)?;
            }
            at_hand
        };
        let (frame, descriptor) = match at_hand {
            Some(frame) => frame,
            None => self.connection.next(self.job)?,
        };
        match frame {
            FromWorker::Entry(entry) => self.entry(&entry),
            FromWorker::Object(entry) => self.object(*entry),
            FromWorker::Handled(handled) => self.handled(handled),
            FromWorker::Unchanged { name } => self.unchanged(&name),
            FromWorker::Deleted { name, announced } => self.deleted(&name, announced),
            FromWorker::Data { position, length } => self.ring_data(position, length),
            FromWorker::DataFd => match descriptor {
                Some(descriptor) => self.descriptor(descriptor),
                None => Err(Ending::Lie("it promised a descriptor and sent none")),
            },
            FromWorker::Acl(acl) => self.attr(Attr::Acl(acl)),
            FromWorker::Xattr { name, value } => self.attr(Attr::Xattr { name, value }),
            FromWorker::EndEntry(result) => self.end_entry(result),
            FromWorker::NotSaved { name, reason } => self.not_saved(name, reason),
            FromWorker::Finished(end) => {
                if !matches!(self.open, Open::None) {
                    return Err(Ending::Lie("it finished with an entry open"));
                }
                Err(Ending::Finished(match self.connection.stopping() {
                    Some(reason) => End::Stopped(reason.to_owned()),
                    None if end.whole => End::Whole,
                    None if end.reason.is_empty() => End::Stopped("the plugin gave up".to_owned()),
                    None => End::Stopped(self.connection.explained(&end.reason)),
                }))
            }
            FromWorker::Ready { .. } => Err(Ending::Lie("it was ready twice")),
            FromWorker::Created(_) | FromWorker::Consumed(_) | FromWorker::Restored(_) => {
                Err(Ending::Lie("it answered a restore in a backup"))
            }
            // The connection keeps these to itself.
            FromWorker::Message { .. } | FromWorker::Trace(_) => Ok(()),
        }
    }

    fn object(&mut self, entry: ObjectEntry) -> Result<(), Ending> {
        self.between("it began a restore object while an entry was open")?;
        self.framed += 1;
        self.open = Open::Object { entry, bytes: Vec::new() };
        Ok(())
    }

    fn unchanged(&mut self, name: &[u8]) -> Result<(), Ending> {
        self.between("it left out an entry while another was open")?;
        self.framed += 1;
        self.out.unchanged(name);
        Ok(())
    }

    fn deleted(&mut self, name: &[u8], announced: bool) -> Result<(), Ending> {
        self.between("it deleted a name while an entry was open")?;
        self.framed += u64::from(announced);
        if self.connection.is_stopping() {
            self.dropped += u64::from(announced);
            return Ok(());
        }
        match self.out.deleted(name, announced) {
            Ok(()) => Ok(()),
            Err(stop) => {
                self.dropped += u64::from(announced);
                self.stop(stop)
            }
        }
    }

    fn between(&self, lie: &'static str) -> Result<(), Ending> {
        if matches!(self.open, Open::None) { Ok(()) } else { Err(Ending::Lie(lie)) }
    }

    fn entry(&mut self, plugin: &PluginEntry) -> Result<(), Ending> {
        self.between("it began an entry while another was open")?;
        self.count_framed();
        let Ok(entry) = view::entry(plugin) else {
            return Err(Ending::Lie("it announced an entry that cannot be kept"));
        };
        self.open = Open::Dropped;
        if self.connection.is_stopping() {
            self.count_dropped();
        } else {
            match self.out.entry(entry) {
                Ok(_) => self.open = Open::Given { name: plugin.name.clone(), failure: None },
                Err(stop) => {
                    self.count_dropped();
                    self.stop(stop)?;
                }
            }
        }
        Ok(())
    }

    /// The engine cannot take any more: the plugin is cancelled, the open entry is lost.
    fn stop(&mut self, Stop(reason): Stop) -> Result<(), Ending> {
        self.out.lost(0);
        if matches!(self.open, Open::Given { .. }) {
            self.open = Open::Dropped;
        }
        self.gathered.clear();
        Ok(self.connection.cancel(reason)?)
    }

    fn ring_data(&mut self, position: u64, length: u32) -> Result<(), Ending> {
        if matches!(self.open, Open::None) {
            return Err(Ending::Lie("it sent data without an entry"));
        }
        if !self.gathered.is_empty() && self.gathered.len() + length as usize > GATHERED {
            self.give_gathered()?;
        }
        if let Err(error) = self.connection.worker()?.backup.copy_out(position, length, &mut self.gathered) {
            return Err(Ending::Broken(self.connection.lied(&error.to_string())));
        }
        match &mut self.open {
            Open::Object { bytes, .. } => {
                if bytes.len() + self.gathered.len() > MOST_OBJECT {
                    return Err(Ending::Lie("it sent a restore object that is longer than any may be"));
                }
                bytes.append(&mut self.gathered);
            }
            Open::Given { .. } if self.gathered.len() >= GATHERED => self.give_gathered()?,
            Open::Given { .. } => {}
            Open::None | Open::Dropped => self.gathered.clear(),
        }
        self.acknowledge(ACKNOWLEDGE)
    }

    /// Tells the worker what it may overwrite, if that is more than `threshold` bytes.
    fn acknowledge(&mut self, threshold: u64) -> Result<(), Ending> {
        let position = self.connection.worker()?.backup.position();
        if position - self.acknowledged > threshold {
            self.acknowledged = position;
            self.connection.send(self.job, &ToWorker::Consumed(position))?;
            self.connection.flush(self.job)?;
        }
        Ok(())
    }

    fn give_gathered(&mut self) -> Result<(), Ending> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let data = std::mem::take(&mut self.gathered);
        let given = self.give(Data::Bytes(&data)).map(|_| ());
        if given.is_ok() {
            self.gathered = data;
            self.gathered.clear();
            // One span of 8 MiB must not keep its room for ever.
            self.gathered.shrink_to(4 * GATHERED);
        }
        given
    }

    /// Gives data to the engine, if the open entry is one that it takes.
    fn give(&mut self, data: Data<'_>) -> Result<u64, Ending> {
        let Open::Given { failure, .. } = &mut self.open else { return Ok(0) };
        if failure.is_some() {
            return Ok(0);
        }
        match self.out.data(data) {
            Ok(count) => Ok(count),
            Err(DataError::Read(error)) => {
                *failure = Some(error);
                Ok(0)
            }
            Err(DataError::Stop(stop)) => {
                self.stop(stop)?;
                Ok(0)
            }
        }
    }

    /// Direct I/O (reference 5.1): read from where it stands to its end, close our copy, then answer.
    fn descriptor(&mut self, descriptor: OwnedFd) -> Result<(), Ending> {
        if matches!(self.open, Open::None) {
            return Err(Ending::Lie("it sent a descriptor without an entry"));
        }
        self.give_gathered()?;
        let read = if matches!(self.open, Open::Given { .. }) && !self.connection.is_stopping() {
            // A file is always ready, and the engine reads it best; a pipe can keep its reader for ever, so we wait for
            // it ourselves, where the job's cancel and the time limits are watched. So can a file of the kernel's that
            // calls itself ordinary: these say that they are empty.
            let at_once = rustix::fs::fstat(&descriptor).is_ok_and(|stat| {
                stat.st_size > 0
                    && matches!(rustix::fs::FileType::from_raw_mode(stat.st_mode), rustix::fs::FileType::RegularFile)
            });
            if at_once { self.give(Data::Fd(descriptor.as_fd()))? } else { self.drain(&descriptor)? }
        } else {
            0
        };
        // The plugin's child sees the end of the pipe only when the last copy of its other end is closed: ours first.
        drop(descriptor);
        let answer = match &self.open {
            Open::Given { failure: Some(error), .. } => {
                Err(Failure { errno: error.errno.unwrap_or(0), message: error.message.clone() })
            }
            _ if self.connection.is_stopping() => {
                Err(Failure { errno: Errno::INTR.raw_os_error(), message: "the job was cancelled".to_owned() })
            }
            _ => Ok(read),
        };
        self.connection.send(self.job, &ToWorker::DataFdDone(answer))?;
        Ok(self.connection.flush(self.job)?)
    }

    fn drain(&mut self, descriptor: &OwnedFd) -> Result<u64, Ending> {
        let mut buffer = vec![0; PIPE_BUFFER];
        let (mut total, mut filled) = (0, 0);
        loop {
            if self.connection.await_descriptor(self.job, descriptor.as_fd(), PollFlags::IN)? == Turn::Cancelled {
                return Ok(total);
            }
            let count = match rustix::io::read(descriptor, &mut buffer[filled..]) {
                Ok(count) => count,
                // Not blocking, and somebody else was quicker.
                Err(Errno::INTR | Errno::AGAIN) => continue,
                Err(error) => {
                    if let Open::Given { name, failure } = &mut self.open {
                        let what = format!("read {}", String::from_utf8_lossy(name));
                        *failure = Some(EntryError::io(what, &error.into()));
                    }
                    return Ok(total);
                }
            };
            filled += count;
            if filled == buffer.len() || count == 0 {
                total += self.give(Data::Bytes(&buffer[..filled]))?;
                filled = 0;
                if count == 0 || !matches!(self.open, Open::Given { failure: None, .. }) {
                    return Ok(total);
                }
            }
        }
    }

    fn attr(&mut self, attr: Attr) -> Result<(), Ending> {
        if matches!(self.open, Open::None) {
            return Err(Ending::Lie("it sent an attribute without an entry"));
        }
        if matches!(self.open, Open::Given { .. })
            && let Err(stop) = self.out.attr(attr)
        {
            self.stop(stop)?;
        }
        Ok(())
    }

    fn end_entry(&mut self, result: Result<(), Failure>) -> Result<(), Ending> {
        self.give_gathered()?;
        let asked = std::mem::take(&mut self.option_plugins.asked);
        match std::mem::replace(&mut self.open, Open::None) {
            Open::Object { .. } if asked => return Err(Ending::Lie("it answered for a file with a restore object")),
            Open::None => return Err(Ending::Lie("it ended an entry that it had not begun")),
            Open::Given { failure, .. } => {
                let result = match (result, failure) {
                    (Err(failed), _) => Err(self.connection.entry_error(&failed)),
                    (Ok(()), Some(error)) => Err(error),
                    (Ok(()), None) => Ok(()),
                };
                self.out.end(result);
            }
            Open::Object { .. } if self.connection.is_stopping() => self.dropped += 1,
            Open::Object { entry, bytes } => self.keep_object(&entry, bytes, result)?,
            Open::Dropped => {}
        }
        Ok(())
    }

    fn keep_object(&mut self, entry: &ObjectEntry, bytes: Vec<u8>, result: Result<(), Failure>) -> Result<(), Ending> {
        let name = entry.object_name.clone().into_bytes();
        if let Err(failure) = result {
            self.framed -= 1;
            return self.not_saved(name, Err(failure));
        }
        let Ok(native) = postcard::to_stdvec(entry) else {
            return Err(Ending::Lie("it announced a restore object that cannot be kept"));
        };
        let (kind, index) = (entry.object_type, entry.object_index);
        match self.out.side(SideObject { kind, index, name, bytes, native, job_id: 0 }) {
            Ok(()) => Ok(()),
            Err(stop) => {
                self.dropped += 1;
                self.stop(stop)
            }
        }
    }

    fn not_saved(&mut self, name: Vec<u8>, reason: Result<String, Failure>) -> Result<(), Ending> {
        self.between("it left out an entry while another was open")?;
        self.framed += 1;
        match reason {
            Ok(rule) => self.out.skipped(&name, &rule),
            Err(_) if self.connection.is_stopping() => self.dropped += 1,
            Err(failure) => {
                let entry = Entry {
                    name,
                    kind: FileKind::File,
                    link: Vec::new(),
                    hard_link: false,
                    stat: Stat::default(),
                    native: Vec::new(),
                };
                match self.out.entry(entry) {
                    Ok(_) => {
                        self.out.end(Err(self.connection.entry_error(&failure)));
                    }
                    Err(stop) => {
                        self.dropped += 1;
                        self.stop(stop)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// An estimate: entries are told, nothing is read.
struct Estimate<'a> {
    connection: Connection,
    job: &'a dyn Job,
    take: &'a mut dyn FnMut(&Entry),
}

impl Estimate<'_> {
    fn run(mut self) -> End {
        loop {
            let frame = match self.connection.next(self.job) {
                Ok((frame, None)) => frame,
                Ok((_, Some(_))) => return End::Stopped(self.connection.lied("it sent a descriptor in an estimate").0),
                Err(Broken(reason)) => return End::Stopped(reason),
            };
            match frame {
                FromWorker::Entry(plugin) => match view::entry(&plugin) {
                    Ok(entry) => (self.take)(&entry),
                    Err(_) => {
                        return End::Stopped(self.connection.lied("it announced an entry that cannot be kept").0);
                    }
                },
                FromWorker::EndEntry(_)
                | FromWorker::Unchanged { .. }
                | FromWorker::Deleted { .. }
                | FromWorker::NotSaved { .. } => {}
                FromWorker::Finished(end) => {
                    self.connection.finish(self.job);
                    return match self.connection.stopping() {
                        Some(reason) => End::Stopped(reason.to_owned()),
                        None if end.whole => End::Whole,
                        None => End::Stopped(self.connection.without_secrets(&end.reason)),
                    };
                }
                _ => return End::Stopped(self.connection.lied("it sent what belongs to no estimate").0),
            }
        }
    }
}
