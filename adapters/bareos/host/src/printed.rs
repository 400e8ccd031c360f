//! What a worker and its plugin print: lines of the job log; and, while the worker starts, why it does not.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use backstay_core::{Job, MessageLevel};
use backstay_worker::Stream;

/// Listens to the standard output and error of one worker.
#[derive(Debug, Default)]
pub(crate) struct Printed {
    started: AtomicBool,
    complaint: Mutex<Option<String>>,
}

impl Printed {
    /// Takes a line.
    pub(crate) fn line(&self, job: &dyn Job, speaker: &str, stream: Stream, line: &str) {
        let started = self.started.load(Ordering::SeqCst);
        let level = match stream {
            Stream::Stderr if !started => {
                *self.complaint.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(line.to_owned());
                MessageLevel::Debug
            }
            Stream::Stderr => MessageLevel::Warning,
            Stream::Stdout => MessageLevel::Info,
        };
        job.message(level, speaker, line);
    }

    /// The worker is ready: what comes now is the plugin's. What it said before was no reason not to start, and so a
    /// warning.
    pub(crate) fn started(&self, job: &dyn Job, speaker: &str) {
        self.started.store(true, Ordering::SeqCst);
        let complaint = self.complaint.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(line) = complaint {
            job.message(MessageLevel::Warning, speaker, &line);
        }
    }

    /// Adds to the reason why a worker did not start what it said last, if it said something.
    pub(crate) fn explain(&self, reason: String) -> String {
        let complaint = self.complaint.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match complaint.as_deref() {
            Some(line) => format!("{reason}: {line}"),
            None => reason,
        }
    }
}
