//! How far a long command is: a bar on a terminal, a line now and then elsewhere, `status` objects with `--json`,
//! nothing with `-q`.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value};

use crate::failure::one_line;
use crate::format;
use crate::output::Output;

/// How often a terminal is redrawn.
const REDRAW: Duration = Duration::from_millis(125);
/// How often a `status` object is written.
const OBJECT: Duration = Duration::from_secs(1);
/// How often a line is written where there is no terminal.
const LINE: Duration = Duration::from_secs(30);

/// Which command it is: restic's names for what is counted differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// `files_done`, `bytes_done`.
    Backup,
    /// `files_restored`, `bytes_restored`.
    Restore,
    /// Steps of one stage after the other.
    Check,
}

/// What was done so far. Every thread of the work counts here; one thread shows it.
#[derive(Debug, Default)]
pub struct Counters {
    /// Files (steps, for a check) that are done.
    pub files: AtomicU64,
    /// Bytes that are done.
    pub bytes: AtomicU64,
    /// Items that failed.
    pub errors: AtomicU64,
    /// Files expected; 0 while unknown.
    pub total_files: AtomicU64,
    /// Bytes expected; 0 while unknown.
    pub total_bytes: AtomicU64,
    /// What is being worked on.
    current: Mutex<String>,
}

impl Counters {
    /// Adds to what is done.
    pub fn add(&self, files: u64, bytes: u64) {
        self.files.fetch_add(files, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts a failed item.
    pub fn error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Says how much there is to do.
    pub fn expect(&self, files: u64, bytes: u64) {
        self.total_files.store(files, Ordering::Relaxed);
        self.total_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Begins a stage of `total` steps, 0 if their number is not known.
    pub fn stage(&self, name: &str, total: u64) {
        self.files.store(0, Ordering::Relaxed);
        self.total_files.store(total, Ordering::Relaxed);
        let mut current = lock(&self.current);
        current.clear();
        current.push_str(name);
    }

    /// Says what is being worked on; skipped when another thread is just saying it.
    pub fn current(&self, path: &[u8]) {
        if let Ok(mut current) = self.current.try_lock() {
            current.clear();
            current.push_str(&format::path(path));
        }
    }

    fn current_text(&self) -> String {
        lock(&self.current).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread that shows [`Counters`]; it stops when this is dropped.
#[derive(Debug)]
pub struct Progress {
    counters: Arc<Counters>,
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
    output: Arc<Output>,
}

impl Progress {
    /// Starts to show the progress of `work`.
    #[must_use]
    pub fn start(output: &Arc<Output>, work: Work) -> Self {
        let counters = Arc::new(Counters::default());
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let wanted = output.json || !output.quiet;
        let thread = wanted
            .then(|| {
                let (counters, stop, output) = (Arc::clone(&counters), Arc::clone(&stop), Arc::clone(output));
                std::thread::Builder::new()
                    .name("progress".to_owned())
                    .spawn(move || show(&output, work, &counters, &stop))
                    .ok()
            })
            .flatten();
        Self { counters, stop, thread, output: Arc::clone(output) }
    }

    /// Where the work is counted.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Stops to show it and clears the bar.
    pub fn finish(&mut self) {
        *lock(&self.stop.0) = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.output.take_bar();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

fn show(output: &Output, work: Work, counters: &Counters, stop: &(Mutex<bool>, Condvar)) {
    let start = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    let bar = (!output.json && terminal).then(|| {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(style(work, false));
        output.set_bar(&bar);
        bar
    });
    let every = if output.json {
        OBJECT
    } else if terminal {
        REDRAW
    } else {
        LINE
    };
    let mut known = false;
    let mut stopped = lock(&stop.0);
    while !*stopped {
        stopped = stop.1.wait_timeout(stopped, every).unwrap_or_else(PoisonError::into_inner).0;
        if *stopped {
            break;
        }
        let state = State::of(counters, start);
        if let Some(bar) = &bar {
            let (done, total) = state.measure(work);
            if (total > 0) != known {
                known = total > 0;
                bar.set_style(style(work, known));
            }
            if known {
                bar.set_length(total.max(done));
            }
            bar.set_position(done);
            bar.set_message(state.people(work, &counters.current_text()));
        } else if output.json {
            // Nobody to tell when standard output is gone: the work itself goes on.
            let _ = output.object(&state.object(work, &counters.current_text()));
            let _ = output.flush();
        } else {
            output.note(&state.line(work, &counters.current_text()));
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
}

fn style(work: Work, known: bool) -> ProgressStyle {
    let template = match (work, known) {
        (Work::Check, true) => "[{elapsed}] {bar:16} {percent:>3}% of {len}, {per_sec}, {eta} left  {wide_msg}",
        (Work::Check, false) => "[{elapsed}] {spinner}  {pos}  {per_sec}  {wide_msg}",
        (_, true) => {
            "[{elapsed}] {bar:16} {percent:>3}% of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left  {wide_msg}"
        }
        (_, false) => "[{elapsed}] {spinner}  {binary_bytes}  {binary_bytes_per_sec}  {wide_msg}",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

/// The counters at one moment.
#[derive(Debug)]
struct State {
    elapsed: Duration,
    files: u64,
    bytes: u64,
    errors: u64,
    total_files: u64,
    total_bytes: u64,
}

impl State {
    fn of(counters: &Counters, start: Instant) -> Self {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            elapsed: start.elapsed(),
            files: get(&counters.files),
            bytes: get(&counters.bytes),
            errors: get(&counters.errors),
            total_files: get(&counters.total_files),
            total_bytes: get(&counters.total_bytes),
        }
    }

    /// What the bar shows: how much is done, and of how much (0: not known).
    fn measure(&self, work: Work) -> (u64, u64) {
        if work == Work::Check { (self.files, self.total_files) } else { (self.bytes, self.total_bytes) }
    }

    /// Bytes, or steps, in a second, on average.
    fn rate(&self, work: Work) -> f64 {
        self.measure(work).0 as f64 / self.elapsed.as_secs_f64().max(0.001)
    }

    fn fraction(&self, work: Work) -> Option<f64> {
        let (done, total) = self.measure(work);
        (total > 0).then(|| (done as f64 / total as f64).min(1.0))
    }

    fn left(&self, work: Work) -> Option<Duration> {
        let (done, total) = self.measure(work);
        let rate = self.rate(work);
        (total > done && rate > 0.01).then(|| Duration::from_secs_f64(((total - done) as f64 / rate).min(1e9)))
    }

    fn people(&self, work: Work, current: &str) -> String {
        let mut text = if work == Work::Check { one_line(current) } else { format::count(self.files, "file", "files") };
        if self.errors > 0 {
            text.push_str(&format!(", {}", format::count(self.errors, "error", "errors")));
        }
        if work != Work::Check && !current.is_empty() {
            text.push_str("  ");
            text.push_str(&one_line(current));
        }
        text
    }

    fn line(&self, work: Work, current: &str) -> String {
        let mut text = format!("[{}]", format::duration(self.elapsed));
        if let Some(fraction) = self.fraction(work) {
            text.push_str(&format!(" {:.1} %,", fraction * 100.0));
        }
        if work == Work::Check {
            text.push_str(&format!(" {}, {} done", self.people(work, current), self.files));
        } else {
            let rate = format::bytes(self.rate(work) as u64);
            text.push_str(&format!(" {}, {}, {rate}/s", self.people(work, ""), format::bytes(self.bytes)));
        }
        if let Some(left) = self.left(work) {
            text.push_str(&format!(", {} left", format::duration(left)));
        }
        text
    }

    /// restic's `status` object; numbers that are zero are left out, as restic does, but never `percent_done`.
    fn object(&self, work: Work, current: &str) -> Value {
        let mut object = Map::new();
        let (files, bytes) = match work {
            Work::Backup => ("files_done", "bytes_done"),
            Work::Restore => ("files_restored", "bytes_restored"),
            Work::Check => ("steps_done", "bytes_done"),
        };
        let total_files = if work == Work::Check { "total_steps" } else { "total_files" };
        object.insert("message_type".to_owned(), "status".into());
        object.insert("percent_done".to_owned(), self.fraction(work).unwrap_or(0.0).into());
        for (name, number) in [
            ("seconds_elapsed", self.elapsed.as_secs()),
            ("seconds_remaining", self.left(work).map_or(0, |left| left.as_secs())),
            (total_files, self.total_files),
            (files, self.files),
            ("total_bytes", self.total_bytes),
            (bytes, self.bytes),
            ("error_count", self.errors),
        ] {
            if number > 0 {
                object.insert(name.to_owned(), number.into());
            }
        }
        if work == Work::Check {
            object.insert("stage".to_owned(), current.into());
        } else if !current.is_empty() {
            object.insert("current_files".to_owned(), vec![current].into());
        }
        Value::Object(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half() -> State {
        State {
            elapsed: Duration::from_secs(10),
            files: 3,
            bytes: 10 << 20,
            errors: 1,
            total_files: 6,
            total_bytes: 20 << 20,
        }
    }

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long() {
        assert_eq!(
            half().line(Work::Backup, "/a"),
            "[0:10] 50.0 %, 3 files, 1 error, 10.000 MiB, 1.000 MiB/s, 0:10 left"
        );
    }

    #[test]
    fn a_status_object_has_restics_names() {
        let object = half().object(Work::Backup, "/a");
        let keys: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
        for key in [
            "message_type",
            "percent_done",
            "seconds_elapsed",
            "seconds_remaining",
            "total_files",
            "files_done",
            "total_bytes",
            "bytes_done",
            "error_count",
            "current_files",
        ] {
            assert!(keys.contains(&key), "{key}");
        }
        assert_eq!(object["percent_done"], 0.5);
        assert!(half().object(Work::Restore, "").get("bytes_restored").is_some());
    }
}
