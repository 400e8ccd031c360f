//! `--fileset`: a FileSet of Bareos' configuration, and which one of a file.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use backstay_bareos_fileset::{Surroundings, parse};
use backstay_bareos_host::{Planned, plan};

use crate::failure::Failure;
use crate::output::Output;

/// Reads the FileSet with this name, or the only one, and what it asks for. Directives that change nothing here are told
/// with `-v`.
///
/// # Errors
/// When the file is no configuration, has no such FileSet, or asks for what is not there.
pub fn read(file: &Path, name: Option<&str>, output: &Output) -> Result<Planned, Failure> {
    let mut sets = parse(file, &mut System).map_err(|error| Failure::fatal(error.to_string()))?;
    let names = sets.iter().map(|set| format!("\"{}\"", set.name)).collect::<Vec<_>>().join(", ");
    let at = match name {
        Some(name) => sets
            .iter()
            .position(|set| set.name == name)
            .ok_or_else(|| Failure::fatal(format!("{} has no FileSet \"{name}\": it has {names}", file.display())))?,
        None if sets.len() == 1 => 0,
        None => {
            return Err(Failure::fatal(format!(
                "{} has several FileSets: choose one of {names} with --fileset-name",
                file.display()
            )));
        }
    };
    let set = sets.swap_remove(at);
    for note in &set.notes {
        output.verbose(1, note);
    }
    plan(&set).map_err(|error| Failure::fatal(error.to_string()))
}

/// This host, for configurations that name files and commands.
struct System;

impl Surroundings for System {
    fn read(&mut self, file: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(file)
    }

    fn run(&mut self, command: &str) -> io::Result<Vec<u8>> {
        let mut shell = Command::new("sh");
        let output = shell.arg("-c").arg(command).stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        if output.status.success() { Ok(output.stdout) } else { Err(io::Error::other(output.status.to_string())) }
    }
}
