//! The Python modules `bareossd` and `bareosdir` (reference 7.1): seven functions, constants, dictionaries with text keys.
//!
//! The functions may be called from every thread of the process.

use backstay_bareos_protocol::hooks::{Daemon, Value};
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use super::constants::{numbers, write};
use super::context::HookContext;
use crate::arguments::{Arguments, event_numbers, int};
use crate::constants::rc;

use director::bareosdir;
use storage::bareossd;

/// Puts the two modules among the builtin ones. To be called before Python starts.
pub fn register_modules() {
    pyo3::append_to_inittab!(bareossd);
    pyo3::append_to_inittab!(bareosdir);
}

/// Puts one of the two among the builtin ones: a plugin finds its own daemon's only.
pub(crate) fn register(daemon: Daemon) {
    match daemon {
        Daemon::Storage => pyo3::append_to_inittab!(bareossd),
        Daemon::Director => pyo3::append_to_inittab!(bareosdir),
    }
}

/// The constants of a module.
fn fill(module: &Bound<'_, PyModule>, daemon: Daemon) -> PyResult<()> {
    let py = module.py();
    module.setattr("__doc__", py.None())?;
    for (dictionary, members) in numbers(daemon).dictionaries() {
        let dict = PyDict::new(py);
        for (name, value) in members {
            module.setattr(*name, *value)?;
            dict.set_item(*name, *value)?;
        }
        module.setattr(dictionary, dict)?;
    }
    Ok(())
}

/// The job, or the contract's error outside of one.
macro_rules! job {
    () => {
        HookContext::current()
            .ok_or_else(|| PyRuntimeError::new_err(concat!(file!(), ":", line!(), ": plugin_ctx is unset")))?
    };
}

type Positional<'a, 'py> = &'a Bound<'py, PyTuple>;
type Keywords<'a, 'py> = &'a Bound<'py, PyDict>;

/// Seven functions that know the name of their module.
macro_rules! module {
    ($folder:ident, $module:ident, $name:literal, $daemon:expr) => {
        mod $folder {
            use super::*;

            #[pyfunction]
            #[pyo3(name = "GetValue", signature = (*arguments, **keywords))]
            fn get_value<'py>(
                py: Python<'py>,
                arguments: Positional<'_, 'py>,
                keywords: Option<Keywords<'_, 'py>>,
            ) -> PyResult<Option<Bound<'py, PyAny>>> {
                read_value(py, &Arguments::of($name, "GetValue", arguments, keywords, 1, 1)?)
            }

            #[pyfunction]
            #[pyo3(name = "SetValue", signature = (*arguments, **keywords))]
            fn set_value<'py>(arguments: Positional<'_, 'py>, keywords: Option<Keywords<'_, 'py>>) -> PyResult<i64> {
                write_value(&Arguments::of($name, "SetValue", arguments, keywords, 2, 2)?)
            }

            #[pyfunction]
            #[pyo3(name = "DebugMessage", signature = (*arguments, **keywords))]
            fn debug_message<'py>(arguments: Positional<'_, 'py>, keywords: Option<Keywords<'_, 'py>>) -> PyResult<()> {
                say_to_author(&Arguments::of($name, "DebugMessage", arguments, keywords, 1, 2)?)
            }

            #[pyfunction]
            #[pyo3(name = "JobMessage", signature = (*arguments, **keywords))]
            fn job_message<'py>(arguments: Positional<'_, 'py>, keywords: Option<Keywords<'_, 'py>>) -> PyResult<()> {
                say(&Arguments::of($name, "JobMessage", arguments, keywords, 1, 2)?)
            }

            #[pyfunction]
            #[pyo3(name = "RegisterEvents", signature = (*arguments, **keywords))]
            fn register_events<'py>(
                arguments: Positional<'_, 'py>,
                keywords: Option<Keywords<'_, 'py>>,
            ) -> PyResult<i64> {
                let arguments = Arguments::of($name, "RegisterEvents", arguments, keywords, 1, 1)?;
                change_events(&arguments, HookContext::register)
            }

            #[pyfunction]
            #[pyo3(name = "UnRegisterEvents", signature = (*arguments, **keywords))]
            fn unregister_events<'py>(
                arguments: Positional<'_, 'py>,
                keywords: Option<Keywords<'_, 'py>>,
            ) -> PyResult<i64> {
                let arguments = Arguments::of($name, "UnRegisterEvents", arguments, keywords, 1, 1)?;
                change_events(&arguments, HookContext::unregister)
            }

            #[pyfunction]
            #[pyo3(name = "GetInstanceCount", signature = (*arguments, **keywords))]
            fn get_instance_count<'py>(
                arguments: Positional<'_, 'py>,
                keywords: Option<Keywords<'_, 'py>>,
            ) -> PyResult<u32> {
                Arguments::of($name, "GetInstanceCount", arguments, keywords, 0, 0)?;
                Ok(job!().spec.instances)
            }

            /// Fills the module.
            #[pymodule]
            #[pyo3(name = $name)]
            pub(super) fn $module(module: &Bound<'_, PyModule>) -> PyResult<()> {
                fill(module, $daemon)?;
                for function in [
                    wrap_pyfunction!(get_value, module)?,
                    wrap_pyfunction!(set_value, module)?,
                    wrap_pyfunction!(debug_message, module)?,
                    wrap_pyfunction!(job_message, module)?,
                    wrap_pyfunction!(register_events, module)?,
                    wrap_pyfunction!(unregister_events, module)?,
                    wrap_pyfunction!(get_instance_count, module)?,
                ] {
                    let name = function.getattr("__name__")?;
                    module.setattr(name.cast::<PyString>()?, function)?;
                }
                Ok(())
            }
        }
    };
}

module!(storage, bareossd, "bareossd", Daemon::Storage);
module!(director, bareosdir, "bareosdir", Daemon::Director);

fn read_value<'py>(py: Python<'py>, arguments: &Arguments<'_, 'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let number = arguments.int(0)?;
    Ok(match job!().value(number) {
        Value::None => None,
        Value::Int(value) => Some(value.into_pyobject(py)?.into_any()),
        Value::Text(text) => Some(PyString::new(py, &text).into_any()),
    })
}

fn write_value(arguments: &Arguments<'_, '_>) -> PyResult<i64> {
    let number = arguments.int(0)?;
    let value = arguments.object(1)?;
    let job = job!();
    let without_effect = match number {
        write::JOB_REPORT => return Ok(rc::OK),
        write::VOLUME_NAME => {
            let name = value.cast::<PyString>().map_err(|_| PyTypeError::new_err("the volume name must be str"))?;
            job.set_volume(name.to_str()?.to_owned());
            return Ok(rc::OK);
        }
        write::PRIORITY => {
            "the plugin set the job's priority, which has no meaning here: jobs do not wait in a queue\n"
        }
        write::JOB_LEVEL => "the plugin set the job's level, which cannot change in a running job: --level sets it\n",
        _ => return Ok(rc::ERROR),
    };
    if int(&value)? < 0 {
        return Ok(rc::ERROR);
    }
    job.warn_once(without_effect);
    Ok(rc::OK)
}

fn say_to_author(arguments: &Arguments<'_, '_>) -> PyResult<()> {
    let (level, text) = (arguments.int(0)?, arguments.text(1)?);
    let job = job!();
    if let (true, Some(text)) = (level <= job.spec.debug_level, text) {
        job.message(crate::constants::message::DEBUG, format!("{text}\n"));
    }
    Ok(())
}

fn say(arguments: &Arguments<'_, '_>) -> PyResult<()> {
    let (kind, text) = (arguments.int(0)?, arguments.text(1)?);
    let job = job!();
    if let Some(text) = text {
        job.message(kind, format!("{text}\n"));
    }
    Ok(())
}

fn change_events(arguments: &Arguments<'_, '_>, change: fn(&HookContext, u8)) -> PyResult<i64> {
    let sequence = arguments.object(0)?;
    let job = job!();
    let numbers = event_numbers(&sequence, job.numbers.last_event)?;
    numbers.iter().for_each(|&number| change(job, number));
    Ok(if numbers.is_empty() { rc::ERROR } else { rc::OK })
}
