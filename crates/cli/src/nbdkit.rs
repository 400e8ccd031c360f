//! nbdkit's command line: `backstay nbdkit ...` and the program `backstay-nbdkit` (or a link named `nbdkit`) are the same.
//!
//! A script is another program's, which this process becomes: whoever started it, or handed sockets over, knows its number.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use backstay_bareos_host::{WORKER_PROGRAM, WORKER_VARIABLE};
use backstay_nbdkit_host::plugin::Found;
use backstay_nbdkit_host::{Options, answers, plugins};
use backstay_worker::supervisor;
use rustix::fs::{Access, access};

/// Serves what the arguments say, in nbdkit's spelling; does not return.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ! {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let given = arguments.clone();
    backstay_nbdkit_host::run(arguments, |options| find(options, &given))
}

/// Where a plugin is: of our own, a script of the user's, or a script in a plugin folder.
fn find(options: &Options, given: &[OsString]) -> Found {
    let name = options.plugin.clone().unwrap_or_default();
    if let Some(plugin) = plugins::find(&name) {
        return Found::Here(plugin);
    }
    if name == "python" {
        return match supervisor::locate(WORKER_PROGRAM, WORKER_VARIABLE) {
            Ok(worker) => {
                let mut command = Command::new(worker);
                command.arg("nbdkit").args(given);
                Found::Elsewhere(command)
            }
            Err(error) => Found::Nowhere(error.to_string()),
        };
    }
    let bytes = name.as_bytes();
    if bytes.ends_with(b".py") {
        return Found::Nowhere(format!("a Python script is run as: nbdkit python {}", name.display()));
    }
    if bytes.contains(&b'.') || bytes.contains(&b'/') {
        return Found::Nowhere("plugins that are shared objects cannot be loaded here".to_owned());
    }
    match answers::plugin_folders().iter().map(|folder| plugin_file(folder, &name)).find(|file| is_executable(file)) {
        // Options first, and without the plugin's name: as nbdkit does it.
        Some(file) => {
            let mut command = Command::new(file);
            command.args(&options.words).args(&options.arguments);
            Found::Elsewhere(command)
        }
        None => Found::Nowhere(plugins::unknown()),
    }
}

fn plugin_file(folder: &Path, name: &OsStr) -> PathBuf {
    let mut file = OsString::from("nbdkit-");
    file.push(name);
    file.push("-plugin");
    folder.join(file)
}

fn is_executable(file: &Path) -> bool {
    file.is_file() && access(file, Access::EXEC_OK).is_ok()
}
