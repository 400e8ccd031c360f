//! A scripted host: starts the real worker program with a plugin, plays the host's part of the conversation word by
//! word, and keeps everything that it said.
#![allow(dead_code, unreachable_pub)]

pub mod chain;
pub mod files;
pub mod objects;
pub mod program;

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use backstay_bareos_protocol::prior::{KnownFile, PriorWriter, RestoreObject};
use backstay_bareos_protocol::{
    Created, Failure, FileOffer, FromWorker, Handled, JobEnd, JobSpec, ObjectEntry, PROTOCOL_VERSION, PluginEntry,
    RestoreEntry, StatFields, Task, ToWorker,
};
use backstay_worker::{Worker, handed};

/// Bits 14, 15 and 27: what a file set without options gives.
pub const FLAGS: [u8; 5] = [0x00, 0xc0, 0x00, 0x08, 0x00];
/// The same with hard links.
pub const FLAGS_LINKS: [u8; 5] = [0x00, 0x40, 0x00, 0x08, 0x00];

/// A folder with a plugin, and where the project's own Python files are.
pub struct Plugin {
    pub folder: tempfile::TempDir,
}

/// The project's folder of Python files for Bareos plugins.
pub fn python_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../adapters/bareos/python").canonicalize().unwrap()
}

impl Plugin {
    /// Writes a plugin module `plug`. It finds `out(line)`, which appends to a log, in the module `probe`.
    pub fn new(source: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let probe = format!(
            "def out(*words):\n    with open({log:?}, 'a', errors='backslashreplace') as f: print(*words, file=f)\n"
        );
        std::fs::write(folder.path().join("probe.py"), probe).unwrap();
        std::fs::write(folder.path().join("plug.py"), source).unwrap();
        Self { folder }
    }

    pub fn definition(&self, options: &str) -> String {
        format!("python3:module_path={}:module_name=plug:{options}", self.folder.path().display())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The lines that the plugin logged.
    pub fn log(&self) -> Vec<String> {
        std::fs::read_to_string(self.path("log")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    pub fn forget_log(&self) {
        let _ = std::fs::remove_file(self.path("log"));
    }
}

/// The definition of one of the project's probe plugins.
pub fn probe_definition(module: &str, options: &str) -> String {
    format!("python3:module_path={}:module_name={module}:{options}", python_folder().join("tests/plugins").display())
}

pub fn spec(task: Task, definitions: Vec<String>) -> JobSpec {
    JobSpec {
        protocol: PROTOCOL_VERSION,
        task,
        definitions,
        option_lines: 0,
        overrides: Vec::new(),
        job_id: 7,
        job_name: "job.2026-11-22_00.00.00_07".to_owned(),
        client: "client-fd".to_owned(),
        since: 0,
        level: if task == Task::Restore { ' ' } else { 'F' },
        accurate: false,
        accurate_options: vec![32, 128, 256],
        previous_job_name: String::new(),
        prefix_links: false,
        trace: false,
        working_directory: "/tmp".to_owned(),
        where_prefix: None,
        replace: 'a',
        used_config: "/etc/backstay/bareos/bareos-fd.d/*/*.conf".to_owned(),
        flags: vec![FLAGS],
        rules: Vec::new(),
        module_directories: vec![python_folder().join("modules").display().to_string()],
        debug_level: 0,
    }
}

/// An entry with all that came for it.
#[derive(Clone, Debug)]
pub struct Saved {
    pub entry: PluginEntry,
    pub data: Vec<u8>,
    pub acls: Vec<Vec<u8>>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub result: Result<(), Failure>,
}

/// What a job left behind.
#[derive(Debug, Default)]
pub struct Outcome {
    pub saved: Vec<Saved>,
    pub not_saved: Vec<(Vec<u8>, Result<String, Failure>)>,
    pub messages: Vec<(i32, String)>,
    pub created: Vec<Created>,
    pub restored: Vec<Result<(), Failure>>,
    pub end: Option<JobEnd>,
    pub printed: Vec<String>,
    pub announced: u64,
    pub exit: String,
    /// Data frames that came.
    pub spans: usize,
    /// Restore objects with their bytes.
    pub objects: Vec<(ObjectEntry, Vec<u8>)>,
    pub unchanged: Vec<String>,
    /// Names, and whether they were announced.
    pub deleted: Vec<(String, bool)>,
    /// Lines of the trace.
    pub trace: Vec<String>,
    /// Answers to offered files that were no entry.
    pub handled: Vec<Handled>,
    /// What is open is a restore object.
    in_object: bool,
}

impl Outcome {
    pub fn end(&self) -> &JobEnd {
        self.end.as_ref().unwrap_or_else(|| panic!("the worker did not finish: {self:#?}"))
    }

    pub fn said(&self, kind: i32, text: &str) -> bool {
        self.messages.iter().any(|(k, t)| *k == kind && t.contains(text))
    }

    /// Panics with everything unless the job ended whole and without errors.
    pub fn good(self) -> Self {
        assert!(self.end().whole && self.end().errors == 0, "{self:#?}");
        self
    }
}

pub struct Host {
    pub worker: Worker,
    pub outcome: Outcome,
    printed: Arc<Mutex<Vec<String>>>,
    printer: Option<std::thread::JoinHandle<()>>,
}

impl Host {
    pub fn start(spec: JobSpec) -> Self {
        Self::start_with(spec, &["bareos-fd"])
    }

    /// Starts a job that is told what earlier ones left.
    pub fn start_after(spec: JobSpec, files: &[(&str, KnownFile)], objects: &[RestoreObject]) -> Self {
        let mut prior = PriorWriter::new(handed::create("test").unwrap());
        for (name, file) in files {
            prior.file(name.as_bytes(), file).unwrap();
        }
        let memory = handed::seal(prior.finish(objects).unwrap()).unwrap();
        Self::start_by(&["bareos-fd"], |worker| {
            worker.sender.send_with_fd(&ToWorker::Start(Box::new(spec)), memory.as_fd()).unwrap();
        })
    }

    pub fn start_with(spec: JobSpec, arguments: &[&str]) -> Self {
        Self::start_by(arguments, |worker| {
            worker.sender.send(&ToWorker::Start(Box::new(spec))).unwrap();
            worker.sender.flush().unwrap();
        })
    }

    fn start_by(arguments: &[&str], start: impl FnOnce(&mut Worker)) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_backstay-python"));
        let mut worker = Worker::spawn(program, arguments).unwrap();
        let printed = Arc::new(Mutex::new(Vec::new()));
        let output = worker.take_output().unwrap();
        let lines = Arc::clone(&printed);
        let printer = std::thread::spawn(move || {
            output.deliver(|stream, line| lines.lock().unwrap().push(format!("{stream:?} {line}")));
        });
        start(&mut worker);
        Self { worker, outcome: Outcome::default(), printed, printer: Some(printer) }
    }

    pub fn send(&mut self, frame: &ToWorker) {
        self.worker.sender.send(frame).unwrap();
        self.worker.sender.flush().unwrap();
    }

    /// The next frame that is no message; none when the worker is gone.
    pub fn next(&mut self) -> Option<(FromWorker, Option<OwnedFd>)> {
        loop {
            match self.worker.receiver.receive::<FromWorker>().unwrap() {
                Some((FromWorker::Message { kind, text }, _)) => self.outcome.messages.push((kind, text)),
                Some((FromWorker::Ready { protocol, .. }, _)) => assert_eq!(protocol, PROTOCOL_VERSION),
                Some((FromWorker::Trace(line), _)) => self.outcome.trace.push(line),
                other => return other,
            }
        }
    }

    pub fn end(mut self) -> Outcome {
        self.outcome.announced = self.worker.backup.announced();
        let exit = self.worker.end(std::time::Duration::from_secs(10)).unwrap();
        self.outcome.exit = format!("{exit:?}");
        self.printer.take().unwrap().join().unwrap();
        self.outcome.printed = std::mem::take(&mut *self.printed.lock().unwrap());
        self.outcome
    }

    /// Plays a backup to its end.
    pub fn backup(mut self) -> Outcome {
        while self.backup_step() {}
        self.end()
    }

    /// Offers a file; gives the answer, none if the plugin took the file over and said all about it.
    pub fn offer(&mut self, file_type: i32, name: &str, stat: StatFields) -> Option<Handled> {
        let link = if file_type == 5 { format!("{name}/") } else { name.to_owned() };
        let definition = 0;
        let (name, link) = (name.as_bytes().to_vec(), link.into_bytes());
        self.send(&ToWorker::File(Box::new(FileOffer { definition, file_type, name, link, stat })));
        let (handled, saved) = (self.outcome.handled.len(), self.outcome.saved.len());
        loop {
            assert!(self.backup_step(), "it ended: {:#?}", self.outcome);
            let taken = self.outcome.saved.get(saved).map(|one| &one.result);
            if taken.is_some_and(|result| !matches!(result, Err(failure) if failure.message == "still open")) {
                return None;
            }
            if self.outcome.handled.len() > handled {
                return self.outcome.handled.last().cloned();
            }
        }
    }

    /// Handles one frame of a backup; false after the last.
    pub fn backup_step(&mut self) -> bool {
        let Some((frame, descriptor)) = self.next() else { return false };
        let open = self.outcome.saved.last_mut();
        match frame {
            FromWorker::Entry(entry) => self.outcome.saved.push(Saved {
                entry: *entry,
                data: Vec::new(),
                acls: Vec::new(),
                xattrs: Vec::new(),
                result: Err(Failure { errno: 0, message: "still open".to_owned() }),
            }),
            FromWorker::Object(entry) => {
                self.outcome.objects.push((*entry, Vec::new()));
                self.outcome.in_object = true;
            }
            FromWorker::Handled(handled) => self.outcome.handled.push(handled),
            FromWorker::Unchanged { name } => self.outcome.unchanged.push(String::from_utf8(name).unwrap()),
            FromWorker::Deleted { name, announced } => {
                self.outcome.deleted.push((String::from_utf8(name).unwrap(), announced));
            }
            FromWorker::Data { position, length } if self.outcome.in_object => {
                let (_, bytes) = self.outcome.objects.last_mut().unwrap();
                self.worker.backup.copy_out(position, length, bytes).unwrap();
                let consumed = self.worker.backup.position();
                self.send(&ToWorker::Consumed(consumed));
            }
            FromWorker::EndEntry(result) if self.outcome.in_object => {
                result.unwrap();
                self.outcome.in_object = false;
            }
            FromWorker::Data { position, length } => {
                self.worker.backup.copy_out(position, length, &mut open.unwrap().data).unwrap();
                self.outcome.spans += 1;
                let consumed = self.worker.backup.position();
                self.send(&ToWorker::Consumed(consumed));
            }
            FromWorker::DataFd => {
                let mut file = std::fs::File::from(descriptor.unwrap());
                let read = file.read_to_end(&mut open.unwrap().data);
                drop(file);
                let answer = match read {
                    Ok(n) => Ok(n as u64),
                    Err(error) => Err(Failure { errno: error.raw_os_error().unwrap_or(0), message: error.to_string() }),
                };
                self.send(&ToWorker::DataFdDone(answer));
            }
            FromWorker::Acl(content) => open.unwrap().acls.push(content),
            FromWorker::Xattr { name, value } => open.unwrap().xattrs.push((name, value)),
            FromWorker::EndEntry(result) => open.unwrap().result = result,
            FromWorker::NotSaved { name, reason } => self.outcome.not_saved.push((name, reason)),
            FromWorker::Finished(end) => {
                self.outcome.end = Some(end);
                return false;
            }
            other => panic!("{other:?} in a backup"),
        }
        true
    }

    /// Plays a restore of these entries to its end. Output names get `prefix` in front.
    pub fn restore(mut self, definition: &str, saved: &[Saved], prefix: &str) -> Outcome {
        for one in saved {
            if !self.restore_entry(definition, one, prefix) {
                return self.end();
            }
        }
        self.send(&ToWorker::EndRestore);
        match self.next() {
            Some((FromWorker::Finished(end), _)) => self.outcome.end = Some(end),
            other => assert!(other.is_none(), "{other:?} at the end of a restore"),
        }
        self.end()
    }

    pub fn restore_entry(&mut self, definition: &str, one: &Saved, prefix: &str) -> bool {
        let below = |name: &[u8]| {
            let slash = !prefix.is_empty() && !prefix.ends_with('/') && !name.starts_with(b"/");
            [prefix.as_bytes(), if slash { b"/" } else { b"" }, name].concat()
        };
        let output_link = if one.entry.file_type == 1 { below(&one.entry.link) } else { one.entry.link.clone() };
        self.send(&ToWorker::Restore(Box::new(RestoreEntry {
            definition: definition.to_owned(),
            entry: one.entry.clone(),
            output_name: below(&one.entry.name),
            output_link,
        })));
        let (created, descriptor) = match self.next() {
            Some((FromWorker::Created(created), descriptor)) => (created, descriptor),
            Some((FromWorker::Finished(end), _)) => {
                self.outcome.end = Some(end);
                return false;
            }
            other => {
                assert!(other.is_none(), "{other:?} in place of an answer");
                return false;
            }
        };
        self.outcome.created.push(created);
        let mut written = Ok(());
        match created {
            Created::Ring => {
                let mut rest = &one.data[..];
                while !rest.is_empty() {
                    if let Some((position, length)) = self.worker.restore.write(&rest[..rest.len().min(100_000)]) {
                        rest = &rest[length as usize..];
                        self.send(&ToWorker::Data { position, length });
                    } else if !self.consumed() {
                        return false;
                    }
                }
            }
            Created::Fd => {
                use std::io::Write;
                let mut file = std::fs::File::from(descriptor.unwrap());
                if let Err(error) = file.write_all(&one.data) {
                    written = Err(Failure { errno: error.raw_os_error().unwrap_or(0), message: error.to_string() });
                }
            }
            _ => {}
        }
        self.send(&ToWorker::EndData { written, acls: one.acls.clone(), xattrs: one.xattrs.clone() });
        loop {
            match self.next() {
                Some((FromWorker::Restored(result), _)) => {
                    self.outcome.restored.push(result);
                    return true;
                }
                Some((FromWorker::Consumed(position), _)) => self.worker.restore.consumed(position).unwrap(),
                other => {
                    assert!(other.is_none(), "{other:?} at the end of an entry");
                    return false;
                }
            }
        }
    }

    fn consumed(&mut self) -> bool {
        match self.next() {
            Some((FromWorker::Consumed(position), _)) => {
                self.worker.restore.consumed(position).unwrap();
                true
            }
            other => {
                assert!(other.is_none(), "{other:?} while data goes out");
                false
            }
        }
    }
}

/// Backs up by one definition.
pub fn backup(definition: &str) -> Outcome {
    Host::start(spec(Task::Backup, vec![definition.to_owned()])).backup()
}

/// Restores with a prefix, which is also bVarWhere.
pub fn restore(definition: &str, saved: &[Saved], prefix: &Path) -> Outcome {
    let mut job = spec(Task::Restore, Vec::new());
    let prefix = prefix.display().to_string();
    job.where_prefix = Some(prefix.clone());
    Host::start(job).restore(definition, saved, &prefix)
}
