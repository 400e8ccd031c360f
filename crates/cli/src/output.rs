//! Where a command's words go: results to standard output, everything else to standard error; one JSON object a line
//! where the caller asked for it.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::ProgressBar;
use serde::Serialize;

use crate::failure::{Failure, one_line};

/// What the global options say about output, with standard output itself.
#[derive(Debug)]
pub struct Output {
    /// One JSON object a line instead of words.
    pub json: bool,
    /// Results and errors only.
    pub quiet: bool,
    /// How many times `-v` was given.
    pub verbosity: u8,
    /// Whether standard error may carry colours.
    pub color: bool,
    stdout: Mutex<io::BufWriter<io::Stdout>>,
    /// The bar on the terminal, while there is one: lines are written above it.
    bar: Mutex<Option<ProgressBar>>,
}

impl Output {
    /// Output by these options. `NO_COLOR` (any text) and a standard error that is no terminal switch colours off.
    #[must_use]
    pub fn new(json: bool, quiet: bool, verbosity: u8, no_color: bool) -> Self {
        let unwanted = no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let color = !unwanted && io::stderr().is_terminal();
        let stdout = Mutex::new(io::BufWriter::with_capacity(1 << 16, io::stdout()));
        Self { json, quiet, verbosity, color, stdout, bar: Mutex::new(None) }
    }

    /// Writes a line of the result to standard output.
    ///
    /// # Errors
    /// [`Failure::Pipe`] when nobody reads any more, [`Failure::Fatal`] for anything else.
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        let mut out = self.lock();
        out.write_all(text.as_bytes())?;
        out.write_all(b"\n")?;
        self.settle(&mut out)
    }

    /// Writes bytes of the result to standard output, as they are.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        self.lock().write_all(bytes)?;
        Ok(())
    }

    /// Writes one JSON object and a line break to standard output.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn object<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        let mut text =
            serde_json::to_vec(value).map_err(|error| Failure::fatal(format!("cannot write JSON: {error}")))?;
        text.push(b'\n');
        let mut out = self.lock();
        out.write_all(&text)?;
        self.settle(&mut out)
    }

    /// Writes everything that waits to standard output.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn flush(&self) -> Result<(), Failure> {
        self.lock().flush()?;
        Ok(())
    }

    /// Words for people about what happens, on standard error; nothing with `-q` or `--json`.
    pub fn note(&self, text: &str) {
        if !self.quiet && !self.json {
            self.stderr_line(text);
        }
    }

    /// Words for people who asked for more (`-v` as often as `level` says), on standard error.
    pub fn verbose(&self, level: u8, text: &str) {
        if self.verbosity >= level && !self.json {
            self.stderr_line(text);
        }
    }

    /// A warning on standard error: an object with `--json`, words otherwise. `-q` does not silence it.
    pub fn warning(&self, text: &str) {
        if self.json {
            self.stderr_object(&serde_json::json!({"message_type": "warning", "message": one_line(text)}));
        } else {
            self.stderr_line(&format!("{} {text}", self.paint("33", "warning:")));
        }
    }

    /// An error about one item, on standard error; the command goes on. restic's `error` object with `--json`.
    pub fn item_error(&self, during: &str, item: &str, message: &str, traceback: Option<&str>) {
        if self.json {
            let mut object = serde_json::json!({
                "message_type": "error",
                "error": {"message": one_line(message)},
                "during": during,
                "item": item,
            });
            if let (Some(text), Some(map)) = (traceback, object.as_object_mut()) {
                map.insert("traceback".to_owned(), text.into());
            }
            self.stderr_object(&object);
            return;
        }
        let name = if message.contains(item) || item.is_empty() { String::new() } else { format!("{item}: ") };
        self.stderr_line(&format!("{} {name}{}", self.paint("31", "error:"), one_line(message)));
        if let Some(text) = traceback {
            for line in text.lines() {
                self.stderr_line(&format!("    {line}"));
            }
        }
    }

    /// Something that a check found wrong, on standard error; the check goes on.
    pub fn check_error(&self, message: &str) {
        if self.json {
            self.stderr_object(&serde_json::json!({"message_type": "error", "message": one_line(message)}));
        } else {
            self.stderr_line(&format!("{} {}", self.paint("31", "error:"), one_line(message)));
        }
    }

    /// How the command ends, on standard error: one line, or restic's `exit_error` object.
    pub fn failure(&self, failure: &Failure) {
        let Some(message) = failure.message() else { return };
        let message = one_line(message);
        if self.json {
            self.stderr_object(&serde_json::json!({
                "message_type": "exit_error",
                "code": failure.status(),
                "message": message,
            }));
        } else {
            self.stderr_line(&format!("{} {message}", self.paint("1;31", "backstay:")));
        }
    }

    /// The text in the colour of this SGR code, where standard error may carry colours.
    #[must_use]
    pub fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Shows this bar from now on.
    pub(crate) fn set_bar(&self, bar: &ProgressBar) {
        *lock(&self.bar) = Some(bar.clone());
    }

    /// No bar is shown any more.
    pub(crate) fn take_bar(&self) {
        lock(&self.bar).take();
    }

    fn lock(&self) -> MutexGuard<'_, io::BufWriter<io::Stdout>> {
        lock(&self.stdout)
    }

    /// A person at a terminal sees each line at once; a file or a pipe gets whole blocks.
    fn settle(&self, out: &mut io::BufWriter<io::Stdout>) -> Result<(), Failure> {
        if out.get_ref().is_terminal() {
            out.flush()?;
        }
        Ok(())
    }

    /// Writes a line to standard error, above the bar; nobody can be told if that fails.
    fn stderr_line(&self, text: &str) {
        let mut line = Vec::with_capacity(text.len() + 1);
        line.extend_from_slice(text.as_bytes());
        line.push(b'\n');
        let write = || {
            let _ = io::stderr().lock().write_all(&line);
        };
        match &*lock(&self.bar) {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn stderr_object(&self, value: &serde_json::Value) {
        self.stderr_line(&value.to_string());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
