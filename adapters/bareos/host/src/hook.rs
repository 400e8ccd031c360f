//! Storage-daemon and director plugins as hooks (reference 7): each instance is a worker process for the job, which is
//! told of its events and answers under a time limit. Whatever it does ends in an answer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use backstay_bareos_protocol::Task;
use backstay_bareos_protocol::hooks::{
    Daemon, FromHook, HOOK_PROTOCOL_VERSION, HookAnswer, HookDefinition, HookDefinitionError, HookSpec, ToHook, Value,
};
use backstay_core::{Answer, Event, Hook, Job, JobFacts, JobKind, JobStatus, Level, MessageLevel};
use backstay_worker::{Received, Worker};

use crate::confine::{self, Room};
use crate::connection::{ENDING, START, TICK, level_of};
use crate::options::{BareosOptions, unique_job_name, zoned};
use crate::printed::Printed;
use crate::source::spawn_in;

/// How long an event may take where no limit is set: a listener must not hang a job.
const USUAL_LIMIT: Duration = Duration::from_secs(300);
/// What Backstay has no word for has the names that Bareos gives by default.
const POOL: &str = "Default";
const POOL_TYPE: &str = "Backup";
const CATALOG: &str = "Default";
/// Priority of a job by default.
const PRIORITY: i64 = 10;

/// Definitions that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// One of them is none.
    #[error(transparent)]
    Definition(#[from] HookDefinitionError),
    /// No definition of an instance names a module.
    #[error("no definition of instance {0} names a module: add module_name=NAME (and module_path=FOLDER)")]
    NoModule(u8),
    /// An instance is one module.
    #[error(
        "instance {instance} is {first} and cannot be {second} too: give each module an instance of its own (instance=N)"
    )]
    TwoModules {
        /// Its number.
        instance: u8,
        /// The module that is named first.
        first: String,
        /// Another.
        second: String,
    },
}

/// One instance of a plugin of the storage daemon or the director.
pub struct BareosHook {
    daemon: Daemon,
    name: String,
    /// Its definitions, word for word.
    definitions: Vec<String>,
    module_paths: Vec<PathBuf>,
    /// How many the daemon has in this job.
    instances: u32,
    options: BareosOptions,
    job: Arc<dyn Job>,
    running: Option<Running>,
    /// What the worker knows.
    told: BTreeMap<i32, Value>,
    /// The last line of a fatal message since the last answer.
    fatal: Option<String>,
    plugin_folder: String,
}

impl std::fmt::Debug for BareosHook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BareosHook").field("daemon", &self.daemon).field("name", &self.name).finish_non_exhaustive()
    }
}

/// A worker, the thread that hears what it prints, and what it runs in.
struct Running {
    worker: Option<Worker>,
    printer: Option<JoinHandle<()>>,
    printed: Arc<Printed>,
    _room: Room,
}

impl Running {
    /// Ends it, after it had this long to do so by itself. How it ended, if not well.
    fn end(&mut self, grace: Duration) -> Option<String> {
        let worker = self.worker.take()?;
        let exit = worker.end(grace);
        if let Some(printer) = self.printer.take() {
            // It panics only if the job's log does.
            let _ = printer.join();
        }
        match exit {
            Ok(backstay_worker::Exit::Status(0)) => None,
            Ok(exit) => Some(exit.to_string()),
            Err(error) => Some(format!("could not be waited for: {error}")),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end(ENDING);
    }
}

/// The hooks of a job: one for each instance of a director plugin, then of a storage-daemon plugin, by number.
///
/// # Errors
/// [`HookError`] for definitions that cannot be used.
pub fn hooks(
    storage: &[String],
    director: &[String],
    options: &BareosOptions,
    job: &Arc<dyn Job>,
) -> Result<Vec<BareosHook>, HookError> {
    let mut hooks = Vec::new();
    for (daemon, definitions) in [(Daemon::Director, director), (Daemon::Storage, storage)] {
        let mut instances: BTreeMap<u8, Instance> = BTreeMap::new();
        for text in definitions {
            let definition = HookDefinition::parse(daemon, text)?;
            instances.entry(definition.instance).or_default().add(text, definition)?;
        }
        let count = u32::try_from(instances.len()).unwrap_or(u32::MAX);
        for (number, instance) in instances {
            let module = instance.module.ok_or(HookError::NoModule(number))?;
            hooks.push(BareosHook {
                daemon,
                name: if number == 0 { module } else { format!("{module} (instance {number})") },
                definitions: instance.definitions,
                module_paths: instance.paths,
                instances: count,
                options: options.clone(),
                job: Arc::clone(job),
                running: None,
                told: BTreeMap::new(),
                fatal: None,
                plugin_folder: String::new(),
            });
        }
    }
    Ok(hooks)
}

/// The definitions of one instance.
#[derive(Default)]
struct Instance {
    definitions: Vec<String>,
    module: Option<String>,
    paths: Vec<PathBuf>,
}

impl Instance {
    fn add(&mut self, text: &str, definition: HookDefinition) -> Result<(), HookError> {
        match (&self.module, definition.module_name) {
            (Some(first), Some(second)) if *first != second => {
                return Err(HookError::TwoModules { instance: definition.instance, first: first.clone(), second });
            }
            (None, Some(module)) => self.module = Some(module),
            _ => {}
        }
        self.definitions.push(text.to_owned());
        self.paths.extend(definition.module_path.map(PathBuf::from));
        Ok(())
    }
}

impl Hook for BareosHook {
    fn name(&self) -> &str {
        &self.name
    }

    fn begin(&mut self, facts: &mut JobFacts) -> Answer {
        if let Err(reason) = self.start(facts) {
            return self.lost(reason);
        }
        for text in self.definitions.clone() {
            let (answer, volume) = match self.ask(&ToHook::Options(text)) {
                Ok(answered) => answered,
                Err(reason) => return self.lost(reason),
            };
            facts.volume = volume.or(facts.volume.take());
            let fatal = self.fatal.take();
            let odd = match (answer, fatal) {
                (HookAnswer::NotLoaded(reason), _) => {
                    self.running = None;
                    return Answer::Lost(reason);
                }
                (_, Some(reason)) => return Answer::Failed(reason),
                (HookAnswer::Code(0) | HookAnswer::NotRegistered, None) => continue,
                (HookAnswer::Code(code), None) => format!("the plugin answered its definition with {}", named(code)),
                (HookAnswer::Missing, None) => "the plugin has no function parse_plugin_definition".to_owned(),
                (_, None) => "the plugin answered its definition with something that is no integer".to_owned(),
            };
            self.job.message(MessageLevel::Warning, &self.name, &odd);
        }
        Answer::Go
    }

    fn wants(&self, event: Event) -> bool {
        self.running.is_some() && number(self.daemon, event).is_some()
    }

    fn call(&mut self, event: Event, facts: &mut JobFacts) -> Answer {
        let Some(number) = number(self.daemon, event).filter(|_| self.running.is_some()) else { return Answer::Go };
        let mut values = self.values(facts);
        values.retain(|number, value| self.told.get(number) != Some(value));
        self.told.extend(values.clone());
        match self.ask(&ToHook::Event { number, values: values.into_iter().collect() }) {
            Err(reason) => self.lost(reason),
            Ok((answer, volume)) => {
                facts.volume = volume.or(facts.volume.take());
                match self.fatal.take() {
                    Some(reason) => Answer::Failed(reason),
                    None => self.judge(event, &answer),
                }
            }
        }
    }
}

/// The contract's number of an event; none where the daemon does not have it.
fn number(daemon: Daemon, event: Event) -> Option<u8> {
    match (daemon, event) {
        (Daemon::Director, Event::JobStart) | (Daemon::Storage, Event::StorageStart) => Some(1),
        (Daemon::Director, Event::JobEnd) | (Daemon::Storage, Event::StorageEnd) => Some(2),
        (Daemon::Director, Event::JobInit) => Some(3),
        (Daemon::Director, Event::JobRun) => Some(4),
        (Daemon::Storage, Event::Reserve) => Some(6),
        (Daemon::Storage, Event::Open) => Some(7),
        (Daemon::Storage, Event::Close) => Some(11),
        (Daemon::Storage, Event::Transfer) => Some(18),
        _ => None,
    }
}

/// Whether an answer other than bRC_OK stops the job (reference 7.2, "abort").
fn aborts(event: Event) -> bool {
    matches!(event, Event::Reserve | Event::Open | Event::Transfer)
}

/// An answer by its name.
fn named(code: i64) -> String {
    let names = ["OK", "Stop", "Error", "More", "Term", "Seen", "Core", "Skip", "Cancel"];
    match usize::try_from(code).ok().and_then(|code| names.get(code)) {
        Some(name) => format!("bRC_{name}"),
        None => code.to_string(),
    }
}

impl BareosHook {
    /// Starts the worker. The calling thread has to live as long as the job.
    fn start(&mut self, facts: &JobFacts) -> Result<(), String> {
        let room = confine::prepare_for(&self.options, Task::Backup, self.module_paths.clone());
        let (mut worker, room) =
            room.and_then(|room| spawn_in(&self.options, self.daemon.command(), room)).map_err(|fatal| fatal.0)?;
        let module_directories = self.options.module_directories().map_err(|fatal| fatal.0)?;
        self.plugin_folder = module_directories.last().cloned().unwrap_or_default();
        let printed = Arc::new(Printed::default());
        let printer = worker.take_output().map(|output| {
            let (printed, job, name) = (Arc::clone(&printed), Arc::clone(&self.job), self.name.clone());
            std::thread::spawn(move || output.deliver(|stream, line| printed.line(&*job, &name, stream, line)))
        });
        worker.sender.set_limit(Some(ENDING)).map_err(|error| lost_connection(&error))?;
        self.running = Some(Running { worker: Some(worker), printer, printed: Arc::clone(&printed), _room: room });
        self.told = self.values(facts);
        let spec = HookSpec {
            protocol: HOOK_PROTOCOL_VERSION,
            daemon: self.daemon,
            instances: self.instances,
            values: self.told.clone().into_iter().collect(),
            module_directories,
            debug_level: self.options.debug_level,
            trace: self.options.trace.is_some(),
        };
        match self.exchange(&ToHook::Start(Box::new(spec)), START)? {
            FromHook::Ready { protocol: HOOK_PROTOCOL_VERSION, python } => {
                printed.started(&*self.job, &self.name);
                let version = python.split_whitespace().next().unwrap_or("of unknown version").to_owned();
                self.job.message(MessageLevel::Debug, &self.name, &format!("runs in Python {version}"));
                Ok(())
            }
            FromHook::Ready { protocol, .. } => Err(format!(
                "the plugin worker speaks version {protocol} of the protocol, and version {HOOK_PROTOCOL_VERSION} is \
                 expected: install backstay and backstay-python of one release"
            )),
            _ => Err("the plugin worker broke the protocol: it spoke before it was ready".to_owned()),
        }
    }

    fn limit(&self) -> Duration {
        self.options.callback_timeout.unwrap_or(USUAL_LIMIT)
    }

    fn ask(&mut self, frame: &ToHook) -> Result<(HookAnswer, Option<String>), String> {
        match self.exchange(frame, self.limit())? {
            FromHook::Answered { answer, volume } => Ok((answer, volume)),
            _ => Err("the plugin worker broke the protocol: it was ready twice".to_owned()),
        }
    }

    /// Sends a frame and waits for the answer. An error is the end of the worker, in one line.
    fn exchange(&mut self, frame: &ToHook, limit: Duration) -> Result<FromHook, String> {
        let began = Instant::now();
        let mut cancelled: Option<Instant> = None;
        let worker = self.worker()?;
        worker.sender.send(frame).and_then(|()| worker.sender.flush()).map_err(|error| lost_connection(&error))?;
        loop {
            let received = self.worker()?.receiver.receive_within::<FromHook>(Some(TICK));
            match received {
                Ok(Received::Message(FromHook::Message { kind, text }, _)) => self.message(kind, &text),
                Ok(Received::Message(FromHook::Trace(line), _)) => self.note(&line),
                Ok(Received::Message(frame, _)) => return Ok(frame),
                Ok(Received::TimedOut) => {}
                Ok(Received::Closed) => return Err(self.gone()),
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Err(self.gone()),
                Err(error) => return Err(format!("the plugin worker broke the protocol: {error}")),
            }
            if began.elapsed() >= limit {
                let limit = limit.as_secs_f32();
                return Err(format!("the plugin did not answer within {limit} s (--plugin-timeout) and was killed"));
            }
            if self.job.cancelled().is_some() {
                let grace = self.options.cancel_grace;
                if cancelled.get_or_insert_with(Instant::now).elapsed() >= grace {
                    let grace = grace.as_secs_f32();
                    return Err(format!(
                        "the plugin did not answer within {grace} s after the cancel (--cancel-grace) and was killed"
                    ));
                }
            }
        }
    }

    fn worker(&mut self) -> Result<&mut Worker, String> {
        let worker = self.running.as_mut().and_then(|running| running.worker.as_mut());
        worker.ok_or_else(|| "the plugin worker has ended".to_owned())
    }

    /// The socket is closed: what became of the worker?
    fn gone(&mut self) -> String {
        let Some(running) = &mut self.running else { return "the plugin worker has ended".to_owned() };
        let how = running.end(Duration::from_secs(2)).unwrap_or_else(|| "exited with status 0".to_owned());
        running.printed.explain(format!("the plugin worker {how}"))
    }

    /// The worker is of no more use: it is killed if it lives.
    fn lost(&mut self, reason: String) -> Answer {
        if let Some(running) = &mut self.running {
            if let Some(worker) = &mut running.worker {
                worker.kill();
            }
            running.end(Duration::ZERO);
        }
        self.running = None;
        self.job.message(MessageLevel::Fatal, &self.name, &reason);
        Answer::Lost(reason)
    }

    fn message(&mut self, kind: i32, text: &str) {
        let level = level_of(kind);
        let text = text.strip_suffix('\n').unwrap_or(text);
        if level == MessageLevel::Fatal {
            let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
            self.fatal = Some(last.trim().to_owned());
        }
        self.job.message(level, &self.name, text);
    }

    fn note(&mut self, line: &str) {
        let Some(trace) = &self.options.trace else { return };
        if let Err(error) = trace.line(&self.name, line) {
            self.options.trace = None;
            let text = format!("the trace of the plugin's calls ends here: {error}");
            self.job.message(MessageLevel::Error, &self.name, &text);
        }
    }

    /// What the daemon makes of an answer (reference 7.1).
    fn judge(&self, event: Event, answer: &HookAnswer) -> Answer {
        let (code, words) = match answer {
            HookAnswer::NotRegistered => return Answer::Go,
            HookAnswer::Code(code) => (*code, named(*code)),
            HookAnswer::Missing => {
                let text = "the plugin registered an event and has no function handle_plugin_event";
                self.job.message(MessageLevel::Warning, &self.name, text);
                (2, "nothing: it has no function handle_plugin_event".to_owned())
            }
            HookAnswer::NotAnInteger => (-1, "something that is no integer".to_owned()),
            // Those come with a fatal message.
            HookAnswer::Raised | HookAnswer::NotLoaded(_) => (2, named(2)),
        };
        match code {
            0 => Answer::Go,
            _ if aborts(event) => Answer::Veto(format!("the plugin answered {words} to the event {event:?}")),
            1 | 2 | 7 => Answer::StopChain,
            4 => Answer::Unsubscribe,
            _ => Answer::Go,
        }
    }

    /// Everything that the daemon's plugins can read (reference 7.2, 7.3).
    fn values(&self, facts: &JobFacts) -> BTreeMap<i32, Value> {
        let text = |text: &str| Value::Text(text.to_owned());
        let count = |number: u64| Value::Int(i64::try_from(number).unwrap_or(i64::MAX));
        let letter = |letter: char| Value::Int(i64::from(u32::from(letter)));
        let name = text(&unique_job_name(&facts.name, &zoned(facts.started), facts.id));
        let level = letter(match facts.level {
            None => ' ',
            Some(Level::Full) => 'F',
            Some(Level::Differential) => 'D',
            Some(Level::Incremental) => 'I',
        });
        let kind = letter(match facts.kind {
            JobKind::Backup => 'B',
            JobKind::Restore => 'R',
        });
        let status = status(facts.status);
        let volume = facts.volume.as_deref().map_or(Value::None, text);
        let (id, client) = (Value::Int(facts.id.into()), text(&self.options.client));
        let table = match self.daemon {
            Daemon::Storage => {
                let device = |name: &str| if facts.attached { text(name) } else { Value::None };
                vec![
                    (1, text(&facts.name)),
                    (2, level),
                    (3, kind),
                    (4, id),
                    (5, client),
                    (6, device(POOL)),
                    (7, device(POOL_TYPE)),
                    (8, device(&facts.storage)),
                    (9, device(&facts.storage_kind)),
                    (10, name),
                    (11, letter(status)),
                    (12, volume),
                    (13, count(facts.errors)),
                    (14, count(facts.files)),
                    (15, count(facts.bytes)),
                    (16, text(&self.plugin_folder)),
                ]
            }
            Daemon::Director => {
                let ended = !matches!(facts.status, JobStatus::Created | JobStatus::Running);
                // The two other daemons say how it went when it is over.
                let others = if ended { letter(status) } else { Value::Int(0) };
                let only = |kind: JobKind| if facts.kind == kind { text(&facts.storage) } else { Value::None };
                vec![
                    (1, text(&facts.name)),
                    (2, level),
                    (3, kind),
                    (4, id),
                    (5, client),
                    (6, count(u64::from(facts.files > 0))),
                    (7, text(POOL)),
                    (8, text(&facts.storage)),
                    (9, only(JobKind::Backup)),
                    (10, only(JobKind::Restore)),
                    (11, text(CATALOG)),
                    (12, text(&facts.storage_kind)),
                    (13, name),
                    (14, letter(status)),
                    (15, Value::Int(PRIORITY)),
                    (16, volume),
                    (17, Value::None),
                    (18, count(facts.errors)),
                    (19, count(facts.files)),
                    (20, count(facts.files)),
                    (21, Value::Int(0)),
                    (22, others.clone()),
                    (23, others),
                    (24, text(&self.plugin_folder)),
                    (25, count(facts.rate)),
                    (26, count(facts.bytes)),
                    (27, count(facts.bytes)),
                ]
            }
        };
        table.into_iter().collect()
    }
}

/// The letter of a status (reference 12.2).
fn status(status: JobStatus) -> char {
    match status {
        JobStatus::Created => 'C',
        JobStatus::Running => 'R',
        JobStatus::Good => 'T',
        JobStatus::WithErrors => 'W',
        JobStatus::Failed => 'f',
        JobStatus::Cancelled => 'A',
    }
}

fn lost_connection(error: &std::io::Error) -> String {
    format!("the connection to the plugin worker failed: {error}")
}
