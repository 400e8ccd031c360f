//! The life of the server process (reference 1, 2, 9): options, plugin, configuration, sockets, fork, serving, end.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backstay_core::{Disk, ThreadModel};
use backstay_nbd::emulation::Emulated;
use backstay_nbd::handshake::{Style, Terms};
use backstay_nbd::server::{Level, Server, Settings, Stream};
use rustix::fs::Mode;
use rustix::mm::MlockAllFlags;
use rustix::process::{Signal, getppid, set_parent_process_death_signal, setsid, umask};
use signal_hook::iterator::Signals;

use crate::activation::{self, Activation};
use crate::captive::{self, Streams};
use crate::filter::Filter;
use crate::identity::Identity;
use crate::options::{LogTo, Options, Question, long_options, short_options};
use crate::parameters::{Parameter, parameters};
use crate::plugin::{End, Found, Plugin, Step};
use crate::process::{Forked, forget_variables, leave, take_over};
use crate::sockets::{self, Place, PrivateFolder};
use crate::tls::Tls;
use crate::{answers, control, filters, log, standard, uri};

/// The whole server process. `arguments` are those after the program's name, in nbdkit's spelling; `find` knows where the
/// plugin is that they name. Does not return.
pub fn run(arguments: impl IntoIterator<Item = OsString>, find: impl FnOnce(&Options) -> Found) -> ! {
    let status = match life(arguments, find) {
        Ok(status) | Err(End::Status(status)) => status,
        Err(End::Line(line)) => {
            log::say(&line);
            1
        }
    };
    leave(status)
}

fn life(arguments: impl IntoIterator<Item = OsString>, find: impl FnOnce(&Options) -> Found) -> Step<u8> {
    umask(Mode::WGRP | Mode::WOTH);
    let options = Options::parse(arguments)?;
    if options.plugin.is_none()
        && let Some(question) = options.question
    {
        return answer(question, &options, None);
    }
    let Some(name) = &options.plugin else {
        return Err("no plugins given on the command line.\nUse '--help' for the options.".to_owned().into());
    };
    // Before anything else is done: another program does all of it again.
    let mut plugin = match find(&options) {
        Found::Here(plugin) => plugin,
        Found::Elsewhere(mut command) => {
            let error = command.exec();
            return Err(format!("{}: {error}", command.get_program().display()).into());
        }
        Found::Nowhere(reason) => return Err(format!("cannot open plugin '{}': {reason}", name.display()).into()),
    };
    if let Some(question) = options.question {
        return answer(question, &options, Some(&*plugin));
    }
    set_up_log(&options);
    let handed = handed_over(&options)?;
    let identity = Identity::of(&options)?;
    // While the process may still read the keys.
    let tls = if options.dump_plugin { Tls::default() } else { Tls::load(&options)? };
    if options.exit_with_parent {
        exit_with_parent()?;
    }
    // Before anything of the plugin runs: nothing that it prints may reach the client.
    let single = if options.single { Some(take_streams()?) } else { None };
    if options.single {
        control::set_single();
    }
    let filters = filters(&options)?;
    plugin.load()?;
    let mut filters = configure(&mut *plugin, filters, &options)?;
    if options.dump_plugin {
        return dump(&mut *plugin);
    }
    complete(&mut *plugin, &mut filters)?;
    let mut site = Site { options, handed, identity, tls, single, private: None };
    site.serve(&mut *plugin, filters)
}

fn answer(question: Question, options: &Options, plugin: Option<&dyn Plugin>) -> Step<u8> {
    let program = std::env::current_exe().unwrap_or_default();
    say(&match question {
        Question::Help => answers::help(plugin, &filters(options)?),
        Question::Version => answers::version(plugin.map(<dyn Plugin>::name)),
        Question::LongOptions => long_options(),
        Question::ShortOptions => short_options(),
        Question::DumpConfig => answers::config(&program),
    });
    Ok(0)
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
    forget_variables(&activation::VARIABLES);
    let take = |number| take_over(number).map_err(|error| format!("socket activation: descriptor {number}: {error}"));
    let range = activation::FIRST_DESCRIPTOR..activation::FIRST_DESCRIPTOR + count;
    Ok(Some(range.map(take).collect::<Result<_, _>>()?))
}

fn exit_with_parent() -> Step<()> {
    let parent = getppid();
    set_parent_process_death_signal(Some(Signal::TERM)).map_err(|error| format!("--exit-with-parent: {error}"))?;
    // It may have gone before the kernel knew.
    if getppid() == parent { Ok(()) } else { Err("--exit-with-parent: the parent process has ended".to_owned().into()) }
}

fn take_streams() -> Step<Streams> {
    standard::take().map_err(|error| format!("standard input and output: {error}").into())
}

/// The filters of the command line, the first next to the clients.
fn filters(options: &Options) -> Step<Vec<Box<dyn Filter>>> {
    let find = |name: &OsString| {
        filters::find(name).ok_or_else(|| {
            let known = filters::NAMES.join(", ");
            End::Line(format!("cannot open filter '{}': there are {known}", name.display()))
        })
    };
    options.filters.iter().map(find).collect()
}

/// Hands over every parameter: a filter may take it, else the plugin gets it.
fn configure(
    plugin: &mut dyn Plugin,
    mut filters: Vec<Box<dyn Filter>>,
    options: &Options,
) -> Step<Vec<Box<dyn Filter>>> {
    'parameters: for Parameter { key, value } in parameters(plugin.magic(), &options.arguments)? {
        for filter in &mut filters {
            if filter.config(&key, &value)? {
                continue 'parameters;
            }
        }
        control(plugin, || format!("config key={key}, value={}", value.display()));
        plugin.config(&key, &value)?;
    }
    Ok(filters)
}

/// A debug line about a callback outside of connections.
fn control(plugin: &dyn Plugin, line: impl FnOnce() -> String) {
    if log::shows(log::Path::Control) {
        log::debug(None, &format!("{}: {}", plugin.name(), line()));
    }
}

/// The end of the configuration.
fn complete(plugin: &mut dyn Plugin, filters: &mut [Box<dyn Filter>]) -> Step<()> {
    filters.iter_mut().try_for_each(|filter| filter.config_complete())?;
    control(plugin, || "config_complete".to_owned());
    plugin.config_complete()?;
    let model = plugin.thread_model()?;
    log::debug(None, &format!("using thread model: {}", model_name(model)));
    filters.iter_mut().try_for_each(|filter| filter.get_ready())?;
    control(plugin, || "get_ready".to_owned());
    plugin.get_ready()
}

fn model_name(model: ThreadModel) -> &'static str {
    match model {
        ThreadModel::SerializeConnections => "serialize_connections",
        ThreadModel::SerializeAllRequests => "serialize_all_requests",
        ThreadModel::SerializeRequests => "serialize_requests",
        ThreadModel::Parallel => "parallel",
    }
}

/// `--dump-plugin` (reference 2.5).
fn dump(plugin: &mut dyn Plugin) -> Step<u8> {
    let model = plugin.thread_model()?;
    let path = std::env::current_exe().unwrap_or_default();
    let text = format!(
        "path={}\nname={}\nversion={}\napi_version=2\nstruct_size=0\nmax_thread_model=parallel\nthread_model={}\n\
         errno_is_preserved=0\n",
        path.display(),
        plugin.name(),
        answers::CONTRACT,
        model_name(model)
    );
    plugin.dump(&mut |more| say(&format!("{text}{more}")))?;
    Ok(plugin.end(0))
}

/// Where and as whom the server serves.
struct Site {
    options: Options,
    handed: Option<Vec<OwnedFd>>,
    identity: Identity,
    tls: Tls,
    single: Option<Streams>,
    private: Option<PrivateFolder>,
}

impl Site {
    /// From the last step of the configuration to the end (reference 1, steps 9 to 13).
    fn serve(&mut self, plugin: &mut dyn Plugin, filters: Vec<Box<dyn Filter>>) -> Step<u8> {
        control::set_serving();
        if let Some(streams) = self.single.take() {
            self.identity.assume()?;
            self.write_pid_file(self.pid_path()?.as_deref())?;
            return self.run_server(plugin, filters, &[], Some(streams));
        }
        let listeners = match self.handed.take() {
            Some(sockets) => {
                let pid_path = self.pid_path()?;
                take_streams()?;
                self.identity.assume()?;
                self.write_pid_file(pid_path.as_deref())?;
                sockets
            }
            None => match self.open_sockets(plugin)? {
                Opened::Serve(sockets) => sockets,
                Opened::Captor(status) => return Ok(status),
            },
        };
        self.run_server(plugin, filters, &listeners, None)
    }

    fn pid_path(&self) -> Step<Option<PathBuf>> {
        let path = self.options.pid_file.as_deref().map(std::path::absolute).transpose();
        Ok(path.map_err(|error| format!("-P: {error}"))?)
    }

    /// Listens, starts the command, changes the user, goes into the background, writes the pid file.
    fn open_sockets(&mut self, plugin: &dyn Plugin) -> Step<Opened> {
        let pid_path = self.pid_path()?;
        let streams = take_streams()?;
        let (place, private) = sockets::place(&self.options)?;
        self.private = private;
        let listeners = sockets::open(&place, &self.options)?;
        if self.options.print_uri {
            let line = format!("{}\n", uri::uri(&place, &self.options.export_name, &self.tls));
            // As with everything that is printed: whoever reads it may have gone.
            let _ = std::fs::File::from(streams.output.try_clone().map_err(|error| error.to_string())?)
                .write_all(line.as_bytes());
        }
        if let Some(command) = self.options.run.clone() {
            let text = uri::shell_text(&place, &self.options.export_name, &self.tls, &command);
            if let Forked::Parent(server) = fork(plugin)? {
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
            self.go_into_background(plugin)?;
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
        log::debug(None, &format!("the command at {} ended with {status}", uri::uri(place, &[], &self.tls)));
        // What a server that was killed left.
        drop(self.private.take());
        Ok(Opened::Captor(status))
    }

    fn go_into_background(&self, plugin: &dyn Plugin) -> Step<()> {
        if let Forked::Parent(_) = fork(plugin)? {
            leave(0);
        }
        let failed = |error: std::io::Error| format!("cannot go into the background: {error}");
        setsid().map_err(|error| failed(error.into()))?;
        std::env::set_current_dir("/").map_err(failed)?;
        if self.options.log.is_none() {
            log::set_destination(LogTo::Syslog);
        }
        if !self.options.verbose {
            standard::silence_stderr().map_err(failed)?;
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
        plugin: &mut dyn Plugin,
        filters: Vec<Box<dyn Filter>>,
        listeners: &[OwnedFd],
        single: Option<Streams>,
    ) -> Step<u8> {
        if self.options.swap {
            let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE;
            rustix::mm::mlockall(flags).map_err(|error| format!("--swap: mlockall: {error}"))?;
        }
        let mut signals = Signals::new(captive::ENDING).map_err(|error| format!("signals: {error}"))?;
        std::thread::spawn(move || signals.forever().for_each(|_| control::shutdown()));
        control(plugin, || "after_fork".to_owned());
        plugin.after_fork()?;
        let disk = layered(plugin.disk()?, filters)?;
        let server = Server::new(disk, self.settings(plugin.name())).map_err(|error| error.to_string())?;
        let handle = server.handle();
        control::on_shutdown(move || handle.shutdown());
        let served = match single {
            Some(streams) => single_stream(streams).map(|stream| server.serve_stream(stream)),
            None => server.serve(listeners),
        };
        drop(server);
        if let Err(error) = &served {
            log::error(None, &error.to_string());
        }
        control(plugin, || "cleanup".to_owned());
        plugin.cleanup();
        drop(self.private.take());
        Ok(plugin.end(u8::from(served.is_err())))
    }

    fn settings(&self, plugin: &'static str) -> Settings {
        let options = &self.options;
        Settings {
            terms: Terms {
                style: if options.oldstyle { Style::Oldstyle } else { Style::Newstyle },
                mask: u16::try_from(options.handshake_mask & 0xffff).unwrap_or(u16::MAX),
                structured_replies: options.structured_replies,
                meta_contexts: options.meta_contexts,
                encryption: self.tls.encryption,
            },
            credentials: self.tls.credentials.clone(),
            handshake_limit: options.timeout,
            read_only: options.read_only,
            threads: usize::try_from(options.threads).unwrap_or(usize::MAX),
            log: Arc::new(move |level, number, text| {
                let connection = (number > 0).then_some((plugin, number));
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

fn fork(plugin: &dyn Plugin) -> Step<Forked> {
    plugin.fork().map_err(|error| format!("fork: {error}").into())
}

/// A plugin's disk with the filters in front of it.
fn layered(mut disk: Arc<dyn Disk>, filters: Vec<Box<dyn Filter>>) -> Step<Arc<dyn Disk>> {
    if !filters.is_empty() {
        disk = Arc::new(Emulated::new(disk));
    }
    filters.into_iter().rev().try_fold(disk, |disk, filter| filter.wrap(disk))
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
