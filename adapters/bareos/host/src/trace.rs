//! A file with a line for every call of a plugin, to see what it was asked and what it answered.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// The file. All plugins of a job share it.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<File>>);

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trace")
    }
}

impl Trace {
    /// Makes the file anew, readable by its owner only: options of plugins stand in it.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(Self(Arc::new(Mutex::new(file))))
    }

    /// Adds a line of JSON, an object, with the module's name in it.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn line(&self, module: &str, json: &str) -> io::Result<()> {
        let module = serde_json::to_string(module)?;
        let rest = json.strip_prefix('{').unwrap_or(json);
        let line = format!("{{\"module\":{module},{rest}\n");
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes())
    }
}
