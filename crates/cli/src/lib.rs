//! The command line `backstay`: options, output and progress. No logic lives here: every command hands its options to
//! the libraries and prints what comes back.

pub mod args;
pub mod cache;
pub mod commands;
pub mod estimate;
pub mod failure;
pub mod fileset;
pub mod format;
pub mod hooks;
pub mod job;
pub mod lists;
pub mod location;
mod maintenance;
pub mod nbdkit;
pub mod output;
pub mod password;
pub mod plugins;
pub mod progress;
pub mod selection;
pub mod session;
pub mod signals;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use crate::args::Cli;
use crate::failure::Failure;
use crate::output::Output;
use crate::session::Session;

/// Runs the program with these arguments (the first is its own name) and gives its exit status.
pub fn main<I>(arguments: I) -> ExitCode
where
    I: IntoIterator<Item = OsString>,
{
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.get(1).is_some_and(|word| word == "nbdkit") {
        nbdkit::main(arguments.into_iter().skip(2));
    }
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, &arguments),
    };
    let global = cli.global;
    let output = Output::new(global.json, global.quiet, global.verbose, global.no_color);
    let session = Session::new(global, output);
    let result = signals::listen(session.output.json).and_then(|()| cli.command.run(&session));
    signals::release_locks();
    let result = match session.output.flush() {
        Err(failure) if result.is_ok() => Err(failure),
        _ => result,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Whatever a signal cut short, a pause of a store or the wait for a lock, was cut short by the signal.
            let failure = match failure {
                Failure::Fatal(text) | Failure::Locked(text) if signals::interrupted() => Failure::Interrupted(text),
                other => other,
            };
            session.output.failure(&failure);
            ExitCode::from(failure.status())
        }
    }
}

/// Help and version go to standard output; a mistake becomes one line with a hint, and status 1 as restic has it.
fn usage(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    let json = arguments.iter().take_while(|word| *word != "--").any(|word| word == "--json");
    let output = Output::new(json, false, 0, false);
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let text = error.render();
            let text = if std::io::IsTerminal::is_terminal(&std::io::stdout()) && output.color {
                text.ansi().to_string()
            } else {
                text.to_string()
            };
            let written = output.raw(text.as_bytes()).and_then(|()| output.flush());
            ExitCode::from(written.map_or_else(|failure| failure.status(), |()| 0))
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let failure = Failure::fatal("which command? Try \"backstay --help\"");
            output.failure(&failure);
            ExitCode::from(failure.status())
        }
        _ => {
            let failure = Failure::Fatal(mistake(&error.render().to_string(), arguments));
            output.failure(&failure);
            ExitCode::from(failure.status())
        }
    }
}

/// clap's report of a mistake on one line: what was wrong, its tips, and where to read on.
fn mistake(report: &str, arguments: &[OsString]) -> String {
    let mut parts = Vec::new();
    for line in report.lines() {
        let line = line.trim();
        if line.starts_with("Usage:") || line.starts_with("For more information") {
            continue;
        }
        let line = line.strip_prefix("error: ").unwrap_or(line);
        if !line.is_empty() {
            parts.push(line.to_owned());
        }
    }
    let root = Cli::command();
    let command =
        arguments.iter().skip(1).filter_map(|word| word.to_str()).find(|word| root.find_subcommand(word).is_some());
    let help = command.map_or_else(|| "backstay --help".to_owned(), |name| format!("backstay {name} --help"));
    format!("{} (try \"{help}\")", parts.join("; "))
}
