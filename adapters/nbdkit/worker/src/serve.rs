//! The life of the server process (reference 1, 2, 9): options, script, configuration, sockets, fork, serving, end.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backstay_core::ThreadModel;
use backstay_nbd::handshake::{Style, Terms};
use backstay_nbd::server::{Level, Server, Settings, Stream};
use backstay_nbdkit_host::activation::{self, Activation};
use backstay_nbdkit_host::captive::{self, Streams};
use backstay_nbdkit_host::identity::Identity;
use backstay_nbdkit_host::options::{LogTo, Question, long_options, short_options};
use backstay_nbdkit_host::parameters::{Parameter, parameters};
use backstay_nbdkit_host::sockets::{self, Place, PrivateFolder};
use backstay_nbdkit_host::{Options, answers, log, uri};
use backstay_python_runtime::descriptors;
use backstay_python_runtime::interpreter::{self, flush_streams, leave};
use backstay_python_runtime::process::{self, Forked};
use backstay_python_runtime::threads::{attach, finalize};
use pyo3::prelude::*;
use rustix::fs::Mode;
use rustix::mm::MlockAllFlags;
use rustix::process::{Signal, getppid, set_parent_process_death_signal, setsid, umask};
use signal_hook::iterator::Signals;

use crate::context;
use crate::disk::ScriptDisk;
use crate::module::register_module;
use crate::script::Script;

/// Why the process ends early.
enum End {
    /// With this status; everything was said.
    Status(u8),
    /// With status 1 and this line.
    Line(String),
}

impl From<String> for End {
    fn from(line: String) -> Self {
        Self::Line(line)
    }
}

type Step<T> = Result<T, End>;

/// The whole server process. `arguments` are those after the program's name, in nbdkit's spelling; `python` is the interpreter.
/// Does not return.
pub fn run(arguments: impl IntoIterator<Item = OsString>, python: &Path) -> ! {
    let status = match life(arguments, python) {
        Ok(status) | Err(End::Status(status)) => status,
        Err(End::Line(line)) => {
            log::say(&line);
            1
        }
    };
    // Past the destructors of libraries: threads that the script left may still run.
    leave(status.into())
}

fn life(arguments: impl IntoIterator<Item = OsString>, python: &Path) -> Step<u8> {
    umask(Mode::WGRP | Mode::WOTH);
    let options = Options::parse(arguments)?;
    if let Some(question) = options.question {
        return Ok(answer(question, &options));
    }
    set_up_log(&options);
    let handed = handed_over(&options)?;
    let parameters = script_parameters(&options)?;
    let identity = Identity::of(&options)?;
    if options.exit_with_parent {
        exit_with_parent()?;
    }
    // Before anything of the script runs: no `print` may reach the client.
    let single = if options.single { Some(take_streams()?) } else { None };
    if options.single {
        context::set_single();
    }
    register_module();
    interpreter::start(python).map_err(|error| error.to_string())?;
    let Some(parameters) = parameters else { return dump(&options, None) };
    let script = configure(&parameters)?;
    if options.dump_plugin {
        return dump(&options, Some(&script));
    }
    let model = complete(&script)?;
    let mut site = Site { options, handed, identity, single, private: None };
    site.serve(&script, model)
}

fn answer(question: Question, options: &Options) -> u8 {
    let program = std::env::current_exe().unwrap_or_default();
    say(&match question {
        Question::Help => answers::HELP.to_owned(),
        Question::Version => answers::version(options.plugin.is_some()),
        Question::LongOptions => long_options(),
        Question::ShortOptions => short_options(),
        Question::DumpConfig => answers::config(&program),
    });
    0
}

fn say(text: &str) {
    // A reader that went away is no failure of ours.
    let _ = std::io::stdout().write_all(text.as_bytes());
    let _ = std::io::stdout().flush();
}

fn set_up_log(options: &Options) {
    log::set_verbose(options.verbose);
    log::set_shown(log::Path::Control, options.debug.control_path);
    log::set_shown(log::Path::Data, options.debug.data_path);
    log::set_destination(options.log.unwrap_or(LogTo::Stderr));
    for flag in &options.debug.unknown {
        log::say(&format!("-D {flag}: nothing here has this debug flag"));
    }
}

/// Sockets that whoever started us has opened (reference 2.6).
fn handed_over(options: &Options) -> Step<Option<Vec<OwnedFd>>> {
    let variable = |name: &str| std::env::var(name).ok();
    let (pid, count) = (variable("LISTEN_PID"), variable("LISTEN_FDS"));
    let count = match activation::read(std::process::id(), pid.as_deref(), count.as_deref())? {
        Activation::None => return Ok(None),
        Activation::Foreign(line) => {
            log::say(&line);
            return Ok(None);
        }
        Activation::Sockets(count) => count,
    };
    activation::check(options)?;
    process::forget_variables(&activation::VARIABLES);
    let take = |number| {
        descriptors::take_over(number).map_err(|error| format!("socket activation: descriptor {number}: {error}"))
    };
    let range = activation::FIRST_DESCRIPTOR..activation::FIRST_DESCRIPTOR + count;
    Ok(Some(range.map(take).collect::<Result<_, _>>()?))
}

/// What follows the plugin's name, the script first; none: there is no script and none is needed.
fn script_parameters(options: &Options) -> Step<Option<Vec<Parameter>>> {
    let Some(plugin) = &options.plugin else {
        return Err("no plugins given on the command line.\nUse '--help' for the options.".to_owned().into());
    };
    if plugin != context::PLUGIN {
        let reason = "this program runs Python scripts: nbdkit [OPTIONS] python SCRIPT";
        return Err(format!("cannot open plugin '{}': {reason}", plugin.display()).into());
    }
    let list = parameters("script", &options.arguments)?;
    match list.first() {
        None if options.dump_plugin => Ok(None),
        None => Err("python: no script was given: the first parameter must be script=FILENAME".to_owned().into()),
        Some(first) if first.key != "script" => {
            Err("python: the first parameter must be script=\"/path/to/script\"".to_owned().into())
        }
        Some(_) => Ok(Some(list)),
    }
}

fn exit_with_parent() -> Step<()> {
    let parent = getppid();
    set_parent_process_death_signal(Some(Signal::TERM)).map_err(|error| format!("--exit-with-parent: {error}"))?;
    // It may have gone before the kernel knew.
    if getppid() == parent { Ok(()) } else { Err("--exit-with-parent: the parent process has ended".to_owned().into()) }
}

fn take_streams() -> Step<Streams> {
    crate::standard::take().map_err(|error| format!("standard input and output: {error}").into())
}

/// Loads the script and hands over every other parameter.
fn configure(parameters: &[Parameter]) -> Step<Arc<Script>> {
    let logged = |_| End::Status(1);
    let (first, rest) = parameters.split_first().ok_or_else(|| "python: no script was given".to_owned())?;
    let script = Script::load(Path::new(&first.value)).map_err(logged)?;
    for parameter in rest {
        control(|| format!("config key={}, value={}", parameter.key, parameter.value.display()));
        script.config(&parameter.key, parameter.value.as_bytes()).map_err(logged)?;
    }
    Ok(Arc::new(script))
}

/// A debug line about a callback outside of connections.
fn control(line: impl FnOnce() -> String) {
    if log::shows(log::Path::Control) {
        log::debug(None, &format!("{}: {}", context::PLUGIN, line()));
    }
}

fn notify(script: &Script, name: &str) -> Step<()> {
    control(|| name.to_owned());
    script.notify(name).map_err(|_| End::Status(1))
}

/// The end of the configuration; answers the thread model.
fn complete(script: &Script) -> Step<ThreadModel> {
    notify(script, "config_complete")?;
    let model = script.thread_model().map_err(|_| End::Status(1))?;
    log::debug(None, &format!("using thread model: {}", model_name(model)));
    notify(script, "get_ready")?;
    // What the script printed so far goes to the user, not to whoever has the streams next.
    attach(flush_streams);
    Ok(model)
}

fn model_name(model: ThreadModel) -> &'static str {
    match model {
        ThreadModel::SerializeConnections => "serialize_connections",
        ThreadModel::SerializeAllRequests => "serialize_all_requests",
        ThreadModel::SerializeRequests => "serialize_requests",
        ThreadModel::Parallel => "parallel",
    }
}

/// Every callback of the contract, as `--dump-plugin` lists them.
const CALLBACKS: &str = "load unload dump_plugin config config_complete config_help thread_model get_ready after_fork \
    cleanup preconnect list_exports default_export open close export_description get_size block_size can_write can_flush \
    is_rotational can_trim can_zero can_fast_zero can_extents can_fua can_multi_conn can_cache pread pwrite flush trim zero \
    extents cache";

/// `--dump-plugin` (reference 2.5).
fn dump(options: &Options, script: Option<&Arc<Script>>) -> Step<u8> {
    debug_assert!(options.dump_plugin);
    let model = match script {
        Some(script) => script.thread_model().map_err(|_| End::Status(1))?,
        None => ThreadModel::default(),
    };
    let version: Result<(u8, u8, u8), PyErr> = attach(|py| {
        py.import("sys")?.getattr("version_info")?.get_item(pyo3::types::PySlice::new(py, 0, 3, 1))?.extract()
    });
    let (major, minor, micro) = version.map_err(|error| error.to_string())?;
    let path = std::env::current_exe().unwrap_or_default();
    let mut text = format!(
        "path={}\nname={}\nversion={}\napi_version=2\nstruct_size=0\nmax_thread_model=parallel\nthread_model={}\n\
         errno_is_preserved=0\n",
        path.display(),
        context::PLUGIN,
        answers::CONTRACT,
        model_name(model)
    );
    CALLBACKS.split(' ').for_each(|name| text += &format!("has_{name}=1\n"));
    text += &format!(
        "python_version={major}.{minor}.{micro}\npython_pep_384_abi_version=3\nnbdkit_python_maximum_api_version=2\n"
    );
    attach(flush_streams);
    say(&text);
    if let Some(script) = script {
        notify(script, "dump_plugin")?;
    }
    attach(flush_streams);
    Ok(end_python(0))
}

/// Runs `atexit` handlers; a failure to write what was printed changes a good status.
fn end_python(status: u8) -> u8 {
    let flushed = finalize();
    if status == 0 && !flushed { 1 } else { status }
}

/// Where and as whom the server serves.
struct Site {
    options: Options,
    handed: Option<Vec<OwnedFd>>,
    identity: Identity,
    single: Option<Streams>,
    private: Option<PrivateFolder>,
}

impl Site {
    /// From the last step of the configuration to the end (reference 1, steps 9 to 13).
    fn serve(&mut self, script: &Arc<Script>, model: ThreadModel) -> Step<u8> {
        context::set_serving();
        if let Some(streams) = self.single.take() {
            self.identity.assume()?;
            self.write_pid_file(self.pid_path()?.as_deref())?;
            return self.run_server(script, model, &[], Some(streams));
        }
        let listeners = match self.handed.take() {
            Some(sockets) => {
                let pid_path = self.pid_path()?;
                take_streams()?;
                self.identity.assume()?;
                self.write_pid_file(pid_path.as_deref())?;
                sockets
            }
            None => match self.open_sockets()? {
                Opened::Serve(sockets) => sockets,
                Opened::Captor(status) => return Ok(status),
            },
        };
        self.run_server(script, model, &listeners, None)
    }

    fn pid_path(&self) -> Step<Option<PathBuf>> {
        let path = self.options.pid_file.as_deref().map(std::path::absolute).transpose();
        Ok(path.map_err(|error| format!("-P: {error}"))?)
    }

    /// Listens, starts the command, changes the user, goes into the background, writes the pid file.
    fn open_sockets(&mut self) -> Step<Opened> {
        let pid_path = self.pid_path()?;
        let streams = take_streams()?;
        let (place, private) = sockets::place(&self.options)?;
        self.private = private;
        let listeners = sockets::open(&place, &self.options)?;
        if self.options.print_uri {
            let line = format!("{}\n", uri::uri(&place, &self.options.export_name));
            // As with everything that is printed: whoever reads it may have gone.
            let _ = std::fs::File::from(streams.output.try_clone().map_err(|error| error.to_string())?)
                .write_all(line.as_bytes());
        }
        if let Some(command) = self.options.run.clone() {
            let text = uri::shell_text(&place, &self.options.export_name, &command);
            if let Forked::Parent(server) = fork()? {
                // The server's sockets are not the command's.
                drop(listeners);
                return self.watch(&text, streams, server, &place);
            }
            if self.options.exit_with_parent {
                exit_with_parent()?;
            }
        }
        self.identity.assume()?;
        if !self.options.foreground {
            self.go_into_background()?;
        }
        if let Some(private) = &mut self.private {
            private.take_over();
        }
        self.write_pid_file(pid_path.as_deref())?;
        Ok(Opened::Serve(listeners))
    }

    /// The half that runs the command.
    fn watch(&mut self, text: &std::ffi::OsStr, streams: Streams, server: i32, place: &Place) -> Step<Opened> {
        let status = captive::run(text, streams, server).map_err(|error| format!("--run: {error}"))?;
        log::debug(None, &format!("the command at {} ended with {status}", uri::uri(place, &[])));
        // What a server that was killed left.
        drop(self.private.take());
        Ok(Opened::Captor(status))
    }

    fn go_into_background(&self) -> Step<()> {
        if let Forked::Parent(_) = fork()? {
            leave(0);
        }
        let failed = |error: std::io::Error| format!("cannot go into the background: {error}");
        setsid().map_err(|error| failed(error.into()))?;
        std::env::set_current_dir("/").map_err(failed)?;
        if self.options.log.is_none() {
            log::set_destination(LogTo::Syslog);
        }
        if !self.options.verbose {
            crate::standard::silence_stderr().map_err(failed)?;
        }
        Ok(())
    }

    fn write_pid_file(&self, path: Option<&Path>) -> Step<()> {
        let Some(path) = path else { return Ok(()) };
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(path);
        let written = file.and_then(|mut file| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
        Ok(written.map_err(|error| format!("-P: {}: {error}", path.display()))?)
    }

    /// Serves until somebody asks for the end, then ends the script.
    fn run_server(
        &mut self,
        script: &Arc<Script>,
        model: ThreadModel,
        listeners: &[OwnedFd],
        single: Option<Streams>,
    ) -> Step<u8> {
        if self.options.swap {
            let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE;
            rustix::mm::mlockall(flags).map_err(|error| format!("--swap: mlockall: {error}"))?;
        }
        let mut signals = Signals::new(captive::ENDING).map_err(|error| format!("signals: {error}"))?;
        std::thread::spawn(move || signals.forever().for_each(|_| context::shutdown()));
        notify(script, "after_fork")?;
        let disk = ScriptDisk::new(Arc::clone(script), model);
        let server = Server::new(Arc::new(disk), self.settings()).map_err(|error| error.to_string())?;
        let handle = server.handle();
        context::on_shutdown(move || handle.shutdown());
        let served = match single {
            Some(streams) => single_stream(streams).map(|stream| server.serve_stream(stream)),
            None => server.serve(listeners),
        };
        drop(server);
        if let Err(error) = &served {
            log::error(None, &error.to_string());
        }
        // What it raises was logged, and changes nothing.
        let _ = notify(script, "cleanup");
        drop(self.private.take());
        Ok(end_python(u8::from(served.is_err())))
    }

    fn settings(&self) -> Settings {
        let options = &self.options;
        Settings {
            terms: Terms {
                style: if options.oldstyle { Style::Oldstyle } else { Style::Newstyle },
                mask: u16::try_from(options.handshake_mask & 0xffff).unwrap_or(u16::MAX),
                structured_replies: options.structured_replies,
                meta_contexts: options.meta_contexts,
                ..Terms::default()
            },
            read_only: options.read_only,
            threads: usize::try_from(options.threads).unwrap_or(usize::MAX),
            log: Arc::new(|level, number, text| {
                let connection = (number > 0).then_some((context::PLUGIN, number));
                match level {
                    Level::Debug => log::debug(connection, text),
                    Level::Error => log::error(connection, text),
                }
            }),
            ..Settings::default()
        }
    }
}

/// What a process does after the sockets are open.
enum Opened {
    /// Serves on them.
    Serve(Vec<OwnedFd>),
    /// It was the half that ran the command, which ended with this status.
    Captor(u8),
}

fn fork() -> Step<Forked> {
    attach(process::fork).map_err(|error| format!("fork: {error}").into())
}

/// Standard input and output as one connection: a socket if they are the same one.
fn single_stream(streams: Streams) -> std::io::Result<Stream> {
    let file = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino, stat.st_mode));
    let (input, output) = (file(&streams.input)?, file(&streams.output)?);
    let is_socket = rustix::fs::FileType::from_raw_mode(input.2) == rustix::fs::FileType::Socket;
    if is_socket && input == output {
        Stream::socket(streams.input)
    } else {
        Stream::pair(streams.input, streams.output)
    }
}
