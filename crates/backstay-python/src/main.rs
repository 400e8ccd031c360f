//! The plugin worker: the only program of the project that is linked with CPython. `backstay` starts it, one process
//! for each job and plugin module (or instance, for the plugins of the two other daemons), or becomes it, for an nbdkit script;
//! people call it only to ask what it is.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::iter::Peekable;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use backstay_bareos_worker::ServeError;
use backstay_bareos_worker::hook::Daemon;
use backstay_nbdkit_host::plugin::Found;
use backstay_python_runtime::interpreter::{self, interpreter_path, leave, linked_version};
use backstay_worker::{Confinement, Inherited};

const USAGE: &str = "\
Usage: backstay-python bareos-fd|bareos-sd|bareos-dir [--python PATH] [CONFINEMENT]
       backstay-python nbdkit [--python PATH] [NBDKIT OPTIONS] python SCRIPT [KEY=VALUE...]
       backstay-python --check [--python PATH] [CONFINEMENT]
       backstay-python --version

Runs Python plugins for backstay, which starts this program by itself.

Commands:
  bareos-fd      Serve one job of a Bareos file-daemon plugin (descriptors 3, 4 and 5 come from backstay)
  bareos-sd, bareos-dir
                 Serve one instance of a Bareos storage-daemon or director plugin for one job
  nbdkit         Serve an nbdkit Python script by NBD; everything that follows is in nbdkit's spelling (nbdkit --help)
  --check        Start Python, import the built-in modules and say which interpreter is used
  --version      Print the version and the linked Python

Options:
  --python PATH  Interpreter or virtual environment of the linked minor version
                 [default: the variable BACKSTAY_PYTHON, else /usr/bin/python3]

Confinement, which the process gives itself before Python starts:
  --memory BYTES          Memory of its own that each process may have
  --user NAME:UID:GID:GROUPS
                          The user to become
  --sandbox PARTS         no-network, closed, partial, metadata; or none of them: ''
  --allow PATH            Readable in a closed sandbox
  --allow-write PATH      Writable in a sandbox
  --must-read PATH, --must-write PATH
                          End at once if this cannot be read, or written
";

/// What the command line asks for.
enum Command {
    BareosFd(PathBuf, Confinement),
    Hook(Daemon, PathBuf, Confinement),
    Check(PathBuf, Confinement),
    Version,
    Help,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.next_if(|first| first == "nbdkit").is_some() {
        return nbdkit(arguments);
    }
    let command = match parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(reason) => return fail(&format!("{reason}\n\n{USAGE}"), 2),
    };
    match command {
        Command::BareosFd(path, confinement) => bareos_fd(&path, &confinement),
        Command::Hook(daemon, path, confinement) => hook(daemon, &path, &confinement),
        Command::Check(path, confinement) => check(&path, &confinement),
        Command::Version => {
            let (_, python) = linked_version();
            say(&format!("backstay-python {} (Python {python})\n", env!("CARGO_PKG_VERSION")))
        }
        Command::Help => say(USAGE),
    }
}

fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Command, String> {
    let first = arguments.next().ok_or("a command is missing")?;
    let mut python = None;
    let mut confinement = Confinement::default();
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy();
        if text == "--python" {
            python = Some(arguments.next().ok_or("--python needs a path")?);
        } else if let Some(path) = text.strip_prefix("--python=") {
            python = Some(path.into());
        } else if !confinement.take(&text, || arguments.next())? {
            return Err(format!("unknown argument {text}"));
        }
    }
    let path = interpreter_path(python.as_deref());
    match &*first.to_string_lossy() {
        "bareos-fd" => Ok(Command::BareosFd(path, confinement)),
        "bareos-sd" => Ok(Command::Hook(Daemon::Storage, path, confinement)),
        "bareos-dir" => Ok(Command::Hook(Daemon::Director, path, confinement)),
        "--check" => Ok(Command::Check(path, confinement)),
        "--version" | "-V" => Ok(Command::Version),
        "--help" | "-h" => Ok(Command::Help),
        other => Err(format!("unknown command {other}")),
    }
}

/// Everything but an interpreter in the first place is nbdkit's.
fn nbdkit(mut arguments: Peekable<impl Iterator<Item = OsString>>) -> ExitCode {
    let python = match arguments.next_if(|first| first.as_encoded_bytes().starts_with(b"--python")) {
        Some(first) if first == "--python" => match arguments.next() {
            Some(path) => Some(path),
            None => return fail("--python needs a path", 1),
        },
        Some(first) => match first.as_encoded_bytes().strip_prefix(b"--python=") {
            Some(path) => Some(OsStr::from_bytes(path).to_owned()),
            None => return fail(&format!("unknown argument {}", first.display()), 1),
        },
        None => None,
    };
    let python = interpreter_path(python.as_deref());
    backstay_nbdkit_host::run(arguments, |options| {
        let name = options.plugin.clone().unwrap_or_default();
        if name == backstay_nbdkit_worker::context::PLUGIN {
            return Found::Here(Box::new(backstay_nbdkit_worker::Python::new(&python)));
        }
        match backstay_nbdkit_host::plugins::find(&name) {
            Some(plugin) => Found::Here(plugin),
            None => Found::Nowhere(backstay_nbdkit_host::plugins::unknown()),
        }
    })
}

fn bareos_fd(path: &Path, confinement: &Confinement) -> ExitCode {
    serve(confinement, |inherited| backstay_bareos_worker::serve(inherited, path))
}

fn hook(daemon: Daemon, path: &Path, confinement: &Confinement) -> ExitCode {
    serve(confinement, |inherited| backstay_bareos_worker::hook::serve(daemon, inherited, path))
}

fn serve(confinement: &Confinement, run: impl FnOnce(Inherited) -> Result<(), ServeError>) -> ExitCode {
    // First of all: nothing else may open descriptors before the host's are taken over.
    let inherited = match backstay_worker::inherited() {
        Ok(inherited) => inherited,
        Err(error) => return fail(&error.to_string(), 2),
    };
    if let Err(reason) = confine(confinement) {
        return fail(&reason, 1);
    }
    match run(inherited) {
        // Past the destructors of libraries: threads that the plugin left may still run.
        Ok(()) => leave(0),
        Err(error) => {
            fail(&error.to_string(), 1);
            leave(1)
        }
    }
}

/// While this is the only thread, and nothing foreign was loaded.
fn confine(confinement: &Confinement) -> Result<(), String> {
    let open = confinement.apply().map_err(|error| error.to_string())?;
    if !open.is_empty() {
        let text = format!("the sandbox is partial: this kernel cannot keep a plugin from {}\n", open.join(", "));
        // Standard error is the job's log.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
    Ok(())
}

fn check(path: &Path, confinement: &Confinement) -> ExitCode {
    if let Err(reason) = confine(confinement) {
        return fail(&reason, 1);
    }
    backstay_bareos_worker::register_module();
    backstay_bareos_worker::hook::register_modules();
    if let Err(error) = interpreter::start(path) {
        return fail(&error.to_string(), 1);
    }
    match backstay_bareos_worker::describe() {
        Ok(text) => say(&text),
        Err(error) => fail(&error, 1),
    }
}

fn say(text: &str) -> ExitCode {
    // A reader that went away is no failure of ours.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn fail(reason: &str, status: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "backstay-python: {}", reason.trim_end());
    ExitCode::from(status)
}
