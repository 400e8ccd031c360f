//! What the tests with the real worker share: the program, the test plugins, an engine that only keeps, a job that
//! only listens.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use backstay_bareos_host::{BareosOptions, BareosSink, sources};
use backstay_core::{
    Attr, CancelReason, Create, Data, DataError, End, Entry, EntryError, Fatal, Ingest, Job, Level, MessageLevel,
    Outcome, SavedJob, Settled, SideObject, Sink, Source, Start, Stop, Tally, Time, Verdict, Want,
};

/// The worker program: the variable names it, else cargo builds it.
pub fn worker_program() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM
        .get_or_init(|| {
            if let Some(program) = std::env::var_os("BACKSTAY_PYTHON_WORKER") {
                return program.into();
            }
            let status = Command::new(env!("CARGO"))
                .args(["build", "-q", "-p", "backstay-python"])
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .status()
                .expect("cargo runs");
            assert!(status.success(), "backstay-python could not be built");
            // The tests lie in <target>/debug/deps.
            let own = std::env::current_exe().unwrap();
            let program = own.parent().and_then(Path::parent).unwrap().join("backstay-python");
            assert!(program.is_file(), "{} is not there", program.display());
            program
        })
        .clone()
}

pub const PLUGINS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../python/tests/plugins");

/// A definition of one of the test plugins.
pub fn definition(module: &str, options: &str) -> String {
    let separator = if options.is_empty() { "" } else { ":" };
    format!("python3:module_path={PLUGINS}:module_name={module}{separator}{options}")
}

#[derive(Default)]
pub struct TestJob {
    pub messages: Mutex<Vec<(MessageLevel, String)>>,
    pub cancelled: AtomicBool,
}

impl TestJob {
    pub fn has(&self, level: MessageLevel, part: &str) -> bool {
        self.messages.lock().unwrap().iter().any(|(given, text)| *given == level && text.contains(part))
    }

    pub fn log(&self) -> String {
        let messages = self.messages.lock().unwrap();
        messages.iter().map(|(level, text)| format!("{level:?}: {text}\n")).collect()
    }
}

impl Job for TestJob {
    fn id(&self) -> u32 {
        41
    }
    fn message(&self, level: MessageLevel, _source: &str, text: &str) {
        self.messages.lock().unwrap().push((level, text.to_owned()));
    }
    fn cancelled(&self) -> Option<CancelReason> {
        self.cancelled.load(Ordering::SeqCst).then_some(CancelReason::Interrupted)
    }
}

#[derive(Debug)]
pub struct Saved {
    pub entry: Entry,
    pub content: Vec<u8>,
    pub attrs: Vec<Attr>,
    pub length: u64,
}

/// An engine that keeps everything (or only counts), and insists on one end per entry.
#[derive(Default)]
pub struct Kept {
    pub saved: Vec<Saved>,
    pub failed: Vec<(String, EntryError)>,
    pub skipped: Vec<(String, String)>,
    pub objects: Vec<SideObject>,
    pub deleted: Vec<Vec<u8>>,
    pub tally: Tally,
    pub only_count: bool,
    /// Called when this many bytes have come.
    pub at: Option<(u64, Box<dyn FnMut() + Send>)>,
    pub open: Option<Saved>,
    pub buffer: Vec<u8>,
    pub total: u64,
}

impl Kept {
    fn take(&mut self, bytes: &[u8]) {
        let open = self.open.as_mut().expect("data without an entry");
        if !self.only_count {
            open.content.extend_from_slice(bytes);
        }
        open.length += bytes.len() as u64;
        self.total += bytes.len() as u64;
        if let Some((at, act)) = &mut self.at
            && self.total >= *at
        {
            act();
        }
    }
}

impl Ingest for Kept {
    fn entry(&mut self, entry: Entry) -> Result<Want, Stop> {
        assert!(self.open.is_none(), "an entry was begun while one was open");
        self.open = Some(Saved { entry, content: Vec::new(), attrs: Vec::new(), length: 0 });
        Ok(Want::Data)
    }
    fn data(&mut self, data: Data<'_>) -> Result<u64, DataError> {
        let before = self.total;
        match data {
            Data::Bytes(bytes) => self.take(bytes),
            Data::Hole(_) => panic!("no plugin sends holes"),
            Data::Fd(fd) => {
                let mut file = std::fs::File::from(fd.as_fd().try_clone_to_owned().unwrap());
                let mut buffer = std::mem::take(&mut self.buffer);
                buffer.resize(1 << 20, 0);
                loop {
                    match file.read(&mut buffer) {
                        Ok(0) => break,
                        Ok(count) => self.take(&buffer[..count]),
                        Err(error) => return Err(DataError::Read(EntryError::io("read", &error))),
                    }
                }
                self.buffer = buffer;
            }
        }
        Ok(self.total - before)
    }
    fn attr(&mut self, attr: Attr) -> Result<(), Stop> {
        self.open.as_mut().expect("an attribute without an entry").attrs.push(attr);
        Ok(())
    }
    fn end(&mut self, result: Result<(), EntryError>) -> Outcome {
        let open = self.open.take().expect("an end without an entry");
        let outcome = match result {
            Ok(()) => {
                self.saved.push(open);
                Outcome::Saved
            }
            Err(error) => {
                self.failed.push((String::from_utf8_lossy(&open.entry.name).into_owned(), error.clone()));
                Outcome::Failed(error)
            }
        };
        self.tally.count(&outcome);
        outcome
    }
    fn skipped(&mut self, name: &[u8], rule: &str) {
        assert!(self.open.is_none());
        self.tally.count(&Outcome::Skipped(rule.to_owned()));
        self.skipped.push((String::from_utf8_lossy(name).into_owned(), rule.to_owned()));
    }
    fn unchanged(&mut self, _name: &[u8]) {
        panic!("a full job has nothing that is unchanged");
    }
    fn side(&mut self, object: SideObject) -> Result<(), Stop> {
        self.tally.count(&Outcome::Saved);
        self.objects.push(object);
        Ok(())
    }
    fn deleted(&mut self, name: &[u8], announced: bool) -> Result<(), Stop> {
        assert!(announced, "a full job has no list of names");
        self.tally.count(&Outcome::Saved);
        self.deleted.push(name.to_vec());
        Ok(())
    }
    fn lost(&mut self, count: u64) {
        if self.open.take().is_some() {
            self.tally.count(&Outcome::Lost);
        }
        self.tally.announced += count;
        self.tally.lost += count;
    }
}

/// A backup of some definitions and all that was heard of it.
pub struct Ran {
    pub end: Result<End, Fatal>,
    pub kept: Kept,
    pub job: Arc<TestJob>,
}

impl Ran {
    /// Why it stopped; fails if it did not.
    pub fn stopped(&self) -> String {
        match &self.end {
            Ok(End::Stopped(reason)) => reason.clone(),
            Err(Fatal(reason)) => reason.clone(),
            Ok(End::Whole) => panic!("it ended well:\n{}", self.job.log()),
        }
    }

    pub fn whole(&self) -> &Self {
        assert_eq!(self.end, Ok(End::Whole), "{}", self.job.log());
        self
    }
}

/// Where a test's state lies: one folder for all, removed by nobody but small, or the test's own.
pub fn options(state: &Path) -> BareosOptions {
    let mut options = BareosOptions::new(state.to_owned());
    options.worker_program = Some(worker_program());
    options.cancel_grace = std::time::Duration::from_secs(3);
    options
}

pub fn run(definitions: &[String], change: impl FnOnce(&mut BareosOptions), mut kept: Kept, job: Arc<TestJob>) -> Ran {
    let state = tempfile::tempdir().unwrap();
    let mut options = options(state.path());
    change(&mut options);
    let mut sources = sources(definitions, Vec::new(), &options).unwrap();
    assert_eq!(sources.len(), 1, "one module, one worker");
    let end = sources[0].run(&*job, &full(), &mut kept);
    assert!(kept.open.is_none() && kept.tally.balances(), "{:?}", kept.tally);
    Ran { end, kept, job }
}

/// The start of a job that builds on none.
pub fn full() -> Start {
    let time = Time { seconds: 1_700_000_000, nanoseconds: 0 };
    Start { time, level: Level::Full, reference: None, objects: Vec::new() }
}

/// Runs one test plugin with the default options.
pub fn backup(module: &str, plugin_options: &str) -> Ran {
    run(&[definition(module, plugin_options)], |_| (), Kept::default(), Arc::new(TestJob::default()))
}

pub struct Restored {
    pub failures: Vec<String>,
    pub end: Result<(), Fatal>,
    pub job: Arc<TestJob>,
}

/// Replays what was saved through the plugin, as the engine does.
pub fn restore(definitions: &[String], saved: &[Saved], change: impl FnOnce(&mut BareosOptions)) -> Restored {
    restore_by(Way::Whole, definitions, saved, change)
}

/// How entries go to the sink: small ones whole and several at once, as the engine does it, or each in its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Whole,
    InParts,
}

pub const WAYS: [Way; 2] = [Way::Whole, Way::InParts];

fn settle(sink: &mut BareosSink, failures: &mut Vec<String>) -> Result<(), Fatal> {
    while let Some(settled) = sink.settle()? {
        if let Settled::Failed(error) = settled {
            failures.push(error.message);
        }
    }
    Ok(())
}

pub fn restore_by(
    way: Way,
    definitions: &[String],
    saved: &[Saved],
    change: impl FnOnce(&mut BareosOptions),
) -> Restored {
    let state = tempfile::tempdir().unwrap();
    let mut options = options(state.path());
    change(&mut options);
    let job = Arc::new(TestJob::default());
    let mut sink = BareosSink::new(options, Arc::<TestJob>::clone(&job));
    let mut failures = Vec::new();
    let saved_by = SavedJob { definitions: definitions.to_vec(), ..SavedJob::default() };
    if let Err(end) = sink.begin(&*job, &[saved_by], Vec::new()) {
        return Restored { failures, end: Err(end), job };
    }
    let mut stopped = None;
    for Saved { entry, content, attrs, .. } in saved {
        if way == Way::Whole {
            let handed = sink.hand_over(entry, content, attrs);
            match handed
                .and_then(|handed| if handed { Ok(true) } else { settle(&mut sink, &mut failures).map(|()| false) })
            {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => {
                    stopped = Some(error);
                    break;
                }
            }
        }
        let done = (|| {
            if matches!(sink.create(entry)?, Create::Bytes) {
                let written = content.chunks(700_000).try_for_each(|blob| sink.write(blob));
                sink.close(entry, written.is_ok())?;
                written?;
            }
            attrs.iter().try_for_each(|attr| sink.attr(entry, attr))
        })();
        let end = sink.end(entry);
        match (done, &end) {
            (Err::<(), EntryError>(error), _) => failures.push(error.message),
            (Ok(()), Ok(Some(error))) => failures.push(error.message.clone()),
            (Ok(()), _) => {}
        }
        if let Err(error) = end {
            stopped = Some(error);
            break;
        }
    }
    if stopped.is_none() {
        stopped = settle(&mut sink, &mut failures).err();
    }
    let finished = sink.finish(&Verdict::Complete);
    Restored { failures, end: stopped.map_or(finished, Err), job }
}

/// Whether a process is there and not only waiting to be reaped.
pub fn is_alive(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with(['Z', 'X'])))
}
