//! The worker process of a storage-daemon or director plugin, from its start to its end.

use std::path::Path;

use backstay_bareos_protocol::hooks::{Daemon, FromHook, HOOK_PROTOCOL_VERSION, ToHook};
use backstay_python_runtime::{flush_streams, linked_version, start};
use backstay_worker::Inherited;
use pyo3::prelude::*;

use super::context::HookContext;
use super::module::register;
use super::script::Script;
use crate::context::HostGone;
use crate::serve::{ServeError, line_buffer, set_umask};

/// Answers the host until it closes the socket. The calling thread becomes Python's main thread and calls every callback.
///
/// # Errors
/// See [`ServeError`]. What a plugin does wrong is no error here: the host learns of it in the answers.
pub fn serve(daemon: Daemon, inherited: Inherited, interpreter: &Path) -> Result<(), ServeError> {
    set_umask();
    register(daemon);
    start(interpreter)?;

    let (mut sender, mut receiver) = inherited.channel.split();
    let spec = match receiver.receive::<ToHook>().map_err(HostGone::from)? {
        Some((ToHook::Start(spec), _)) => *spec,
        Some(_) => return Err(HostGone("its first word is not the start of a job".to_owned()).into()),
        None => return Err(HostGone("it closed the control socket before the job".to_owned()).into()),
    };
    let (_, python) = linked_version();
    let ready = FromHook::Ready { protocol: HOOK_PROTOCOL_VERSION, python };
    sender.send(&ready).and_then(|()| sender.flush()).map_err(HostGone::from)?;
    if spec.protocol != HOOK_PROTOCOL_VERSION || spec.daemon != daemon {
        return Err(HostGone("it is of another release".to_owned()).into());
    }
    let context = HookContext::begin(spec, sender)?;
    let mut script = Script::new(context);
    Python::attach(|py| -> Result<(), ServeError> {
        line_buffer(py)?;
        // It is there before anybody asks for it.
        py.import(daemon.module())?;
        loop {
            let frame = py.detach(|| receiver.receive::<ToHook>()).map_err(HostGone::from)?;
            let answer = match frame {
                Some((ToHook::Options(definition), _)) => script.options(py, &definition),
                Some((ToHook::Event { number, values }, _)) => {
                    context.update(values);
                    script.event(py, number)
                }
                Some((ToHook::Start(_), _)) => {
                    return Err(HostGone("it started a second job in one worker".to_owned()).into());
                }
                None => break,
            };
            flush_streams(py);
            context.send(&FromHook::Answered { answer, volume: context.take_volume() })?;
        }
        // Threads and children that the plugin left are not waited for.
        if let Err(error) = py.import("atexit").and_then(|atexit| atexit.call_method0("_run_exitfuncs")) {
            error.print(py);
        }
        flush_streams(py);
        Ok(())
    })
}
