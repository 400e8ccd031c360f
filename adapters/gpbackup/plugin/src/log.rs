//! Where administrators look: `gpAdminLogs` in the account's home, a file for each day (reference 10.3). A log that cannot be
//! written is no reason to fail.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use backstay_repository::lock::{host_name, user_name};
use parking_lot::Mutex;

/// Adds a line about what is done.
pub fn info(text: &str) {
    write("INFO", text);
}

/// Adds a line about what should be looked at.
pub fn warning(text: &str) {
    write("WARNING", text);
}

/// Adds a line about what failed.
pub fn error(text: &str) {
    write("ERROR", text);
}

/// The folder that a configuration names.
static CHOSEN: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Writes into this folder from now on.
pub(crate) fn into(folder: PathBuf) {
    *CHOSEN.lock() = Some(folder);
}

fn folder() -> Option<PathBuf> {
    let chosen = CHOSEN.lock().clone();
    chosen.or_else(usual_folder)
}

fn usual_folder() -> Option<PathBuf> {
    std::env::var_os("HOME").filter(|home| !home.is_empty()).map(|home| PathBuf::from(home).join("gpAdminLogs"))
}

fn write(level: &str, text: &str) {
    let Some(folder) = folder() else { return };
    let now = jiff::Zoned::now();
    let file = folder.join(format!("{}_{}.log", crate::NAME, now.strftime("%Y%m%d")));
    let head = format!(
        "{} {}:{}:{}:{:06}-[{level}]:-",
        now.strftime("%Y%m%d:%H:%M:%S"),
        crate::NAME,
        user_name(),
        host_name(),
        std::process::id()
    );
    // The format of gpbackup's own logs: one record a line.
    let line = format!("{head}{}\n", text.replace('\n', " "));
    let written = std::fs::create_dir_all(&folder)
        .and_then(|()| OpenOptions::new().create(true).append(true).mode(0o600).open(file))
        .and_then(|mut file| file.write_all(line.as_bytes()));
    // There is no other place to say so: on success standard error stays empty.
    drop(written);
}
