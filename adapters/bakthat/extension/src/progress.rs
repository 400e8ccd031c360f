//! How far a long call is, on one line of the terminal that standard error is: drawn anew as the work goes on, and gone without a
//! trace at its end. Where standard error is no terminal nothing is ever written.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use backstay_bakthat::Control;
use indicatif::{BinaryBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use pyo3::prelude::*;

/// What is done sooner than this is not worth a line.
const SHORT: Duration = Duration::from_millis(300);

/// There is room for one line: calls of other threads go without.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Whether somebody looks: the command says so. Scripts have a terminal for themselves.
static SHOWN: AtomicBool = AtomicBool::new(false);

/// From now on long calls show on a terminal how far they are.
#[pyfunction]
pub(super) fn show_progress() {
    SHOWN.store(true, Ordering::Relaxed);
}

/// The line of one call.
pub(super) struct Line {
    started: Instant,
    /// None: it is not wanted, or not yet.
    bar: Option<ProgressBar>,
    wanted: bool,
    known: bool,
}

impl Line {
    pub(super) fn new() -> Self {
        // One that can only go on must not be gone back on.
        let able = std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let wanted = able && SHOWN.load(Ordering::Relaxed) && std::io::stderr().is_terminal();
        Self { started: Instant::now(), bar: None, wanted, known: false }
    }

    /// Draws how far the call is, if it says what it does.
    pub(super) fn draw(&mut self, control: &Control) {
        let Some(what) = control.doing().filter(|_| self.wanted && self.started.elapsed() >= SHORT) else { return };
        if self.bar.is_none() {
            if TAKEN.swap(true, Ordering::Acquire) {
                self.wanted = false;
                return;
            }
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(style(false));
            bar.set_prefix(what);
            self.bar = Some(bar.with_elapsed(self.started.elapsed()));
        }
        let (done, total) = control.position();
        let Some(bar) = &self.bar else { return };
        if (total > 0) != self.known {
            self.known = total > 0;
            bar.set_style(style(self.known));
        }
        if self.known {
            bar.set_length(total.max(done));
        }
        bar.set_position(done);
        let rate = done as f64 / self.started.elapsed().as_secs_f64().max(0.001);
        bar.set_message(format!("{}/s", BinaryBytes(rate as u64)));
    }

    /// Does something that may write to the terminal, while the line is away.
    pub(super) fn away<T>(&self, work: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(work),
            None => work(),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
            TAKEN.store(false, Ordering::Release);
        }
    }
}

fn style(known: bool) -> ProgressStyle {
    let template = if known {
        "{prefix}  [{elapsed}] {bar:16} {percent:>3}% of {binary_total_bytes}, {msg}"
    } else {
        "{prefix}  [{elapsed}] {binary_bytes}, {msg}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}
