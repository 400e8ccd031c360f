//! The worker process from its start to its end.

use std::path::Path;
use std::sync::Arc;

use backstay_bareos_protocol::{FromWorker, JobEnd, PROTOCOL_VERSION, Task, ToWorker};
use backstay_python_runtime::{Interrupter, StartError, flush_streams, linked_version, start};
use backstay_worker::{Handed, Inherited, Sender};
use pyo3::intern;
use pyo3::prelude::*;

use crate::backup::Backup;
use crate::changes::Known;
use crate::context::{HostGone, JobContext};
use crate::link::Link;
use crate::module::bareosfd;
use crate::restore::Restore;
use crate::script::Script;

/// What the daemon takes away from the mode of new files.
const UMASK: u32 = 0o026;

/// Why a worker ended before its job did.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Python did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The host is gone, or says what it must not.
    #[error(transparent)]
    Host(#[from] HostGone),
    /// The interpreter is broken.
    #[error("Python failed before the plugin was loaded: {0}")]
    Python(#[from] PyErr),
}

/// Puts the `bareosfd` module among the builtin ones. To be called once, before Python starts.
pub fn register_module() {
    pyo3::append_to_inittab!(bareosfd);
}

/// Runs the one job that the host asks for. The calling thread becomes Python's main thread and calls every callback.
///
/// # Errors
/// See [`ServeError`]. What a plugin does wrong is no error here: the host learns of it in the last frame.
pub fn serve(inherited: Inherited, interpreter: &Path) -> Result<(), ServeError> {
    set_umask();
    register_module();
    start(interpreter)?;

    let Inherited { channel, backup, restore } = inherited;
    let (mut sender, mut receiver) = channel.split();
    let first = receiver.receive::<ToWorker>().map_err(HostGone::from)?;
    let (spec, memory) = match first {
        Some((ToWorker::Start(spec), memory)) => (*spec, memory),
        Some(_) => return Err(HostGone("its first word is not the start of a job".to_owned()).into()),
        None => return Err(HostGone("it closed the control socket before the job".to_owned()).into()),
    };
    let (_, python) = linked_version();
    let ready = FromWorker::Ready { protocol: PROTOCOL_VERSION, python };
    sender.send(&ready).and_then(|()| sender.flush()).map_err(HostGone::from)?;
    if spec.protocol != PROTOCOL_VERSION {
        return refuse(sender, format!("backstay speaks protocol {}, this worker {PROTOCOL_VERSION}", spec.protocol));
    }

    let task = spec.task;
    let known = match memory {
        Some(memory) => Some(Known::new(Handed::new(&memory).map_err(HostGone::from)?)?),
        None => None,
    };
    let context = JobContext::begin(spec, known, sender)?;
    let script = Arc::new(Script::new(context));
    Python::attach(|py| -> Result<(), ServeError> {
        let interrupter = Interrupter::install(py)?;
        line_buffer(py)?;
        let link = Link::start(context, &script, receiver, interrupter)?;
        let announced = match task {
            Task::Backup => Backup::new(context, &script, &link, backup).run(py)?,
            Task::Estimate => Backup::new(context, &script, &link, backup).estimate(py)?,
            Task::Restore => {
                Restore::new(context, &script, &link, restore).run(py)?;
                0
            }
        };
        link.job_is_over();
        flush_streams(py);
        let end = JobEnd {
            whole: !context.is_stopped() && !context.has_complained(),
            reason: context.reason(),
            announced,
            errors: context.errors(),
            warnings: context.warnings(),
        };
        context.send(&FromWorker::Finished(end))?;
        context.flush()?;
        // Temporary folders and the like go away now. Threads and children that the plugin left are not waited for.
        if let Err(error) = py.import("atexit").and_then(|atexit| atexit.call_method0("_run_exitfuncs")) {
            error.print(py);
        }
        flush_streams(py);
        link.wait_for_end(py);
        Ok(())
    })
}

pub(crate) fn set_umask() {
    let umask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(umask | rustix::fs::Mode::from_raw_mode(UMASK));
}

fn refuse(mut sender: Sender, reason: String) -> Result<(), ServeError> {
    let end = JobEnd { whole: false, reason, announced: 0, errors: 1, warnings: 0 };
    sender.send(&FromWorker::Finished(end)).and_then(|()| sender.flush()).map_err(HostGone::from)?;
    Ok(())
}

/// What a plugin prints reaches the job's log line by line, also if it dies later.
pub(crate) fn line_buffer(py: Python<'_>) -> PyResult<()> {
    let sys = py.import("sys")?;
    for stream in ["stdout", "stderr"] {
        let stream = sys.getattr(stream)?;
        if !stream.is_none() {
            let options = pyo3::types::PyDict::new(py);
            options.set_item("line_buffering", true)?;
            stream.call_method(intern!(py, "reconfigure"), (), Some(&options))?;
        }
    }
    Ok(())
}

/// Says which interpreter runs and that the modules can be imported. Python must have been started.
///
/// # Errors
/// The exception's text.
pub fn describe() -> Result<String, String> {
    Python::attach(|py| {
        let text = || -> PyResult<String> {
            let sys = py.import("sys")?;
            let mut modules = Vec::new();
            for name in ["bareosfd", "bareossd", "bareosdir"] {
                modules.push(py.import(name)?.name()?.to_string());
            }
            let version = sys.getattr("version")?.str()?.to_string_lossy().replace('\n', " ");
            Ok(format!(
                "interpreter  {}\nversion      {version}\nprefix       {}\nmodules      {}\n",
                sys.getattr("executable")?,
                sys.getattr("prefix")?,
                modules.join(" "),
            ))
        };
        text().map_err(|error| backstay_python_runtime::format_error(py, &error))
    })
}
