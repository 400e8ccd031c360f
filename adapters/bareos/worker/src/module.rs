//! The Python module `bareosfd` (reference 2): constants, dictionaries, classes and functions.
//!
//! The functions may be called from every thread of the process. Those whose meaning needs a file set that can change say
//! so in one fatal message and return bRC_Error.

use pyo3::exceptions::{PyKeyError, PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyFrozenSet, PyString, PyTuple};

use crate::arguments::{Arguments, event_numbers};
use crate::changes;
use crate::constants::{LEVELS, NUMBERS, event, message, option_bit, rc, var};
use crate::context::JobContext;
use crate::names;
use crate::packets::{classes, save, stat_fields};

/// bVarVersion: the state of the contract that we implement.
const CONTRACT_VERSION: &str = "26.0.0~pre1 (21 August 2026)";
/// What JobMessage and DebugMessage put in front.
const PREFIX: &str = "python3-fd-mod: ";

/// A dictionary with `bytes` keys that also finds them by `str`.
#[pyclass(extends = PyDict, name = "ConstantDict", module = "bareosfd", frozen)]
struct ConstantDict;

impl ConstantDict {
    fn find<'py>(this: &Bound<'py, Self>, key: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        // `PyDict_GetItem`: it does not come back to our own methods.
        let dict = this.as_any().cast::<PyDict>()?;
        match key.cast::<PyString>() {
            Ok(text) => dict.get_item(PyBytes::new(this.py(), text.to_string_lossy().as_bytes())),
            Err(_) => dict.get_item(key),
        }
    }
}

#[pymethods]
impl ConstantDict {
    fn __missing__<'py>(this: &Bound<'py, Self>, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        Self::find(this, key)?.ok_or_else(|| PyKeyError::new_err(key.clone().unbind()))
    }

    fn __contains__(this: &Bound<'_, Self>, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        Ok(Self::find(this, key)?.is_some())
    }

    #[pyo3(signature = (key, default = None, /))]
    fn get<'py>(
        this: &Bound<'py, Self>,
        key: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(Self::find(this, key)?.or(default))
    }
}

/// Fills the module. `append_to_inittab!` puts it among the builtin ones.
#[pymodule]
#[pyo3(name = "bareosfd")]
pub(crate) fn bareosfd(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.setattr("__doc__", py.None())?;
    for (dictionary, members) in NUMBERS {
        let dict = Bound::new(py, ConstantDict)?.into_any();
        let items = dict.cast::<PyDict>()?;
        for (name, value) in *members {
            module.setattr(*name, *value)?;
            items.set_item(PyBytes::new(py, name.as_bytes()), *value)?;
        }
        module.setattr(*dictionary, dict)?;
    }
    let levels = Bound::new(py, ConstantDict)?.into_any();
    let items = levels.cast::<PyDict>()?;
    for (name, letter) in LEVELS {
        module.setattr(*name, *letter)?;
        items.set_item(PyBytes::new(py, name.as_bytes()), PyBytes::new(py, letter.as_bytes()))?;
    }
    module.setattr("bLevels", levels)?;

    for (name, class) in classes(py)?.exported() {
        module.setattr(name, class.class(py))?;
    }

    for function in [
        wrap_pyfunction!(get_value, module)?,
        wrap_pyfunction!(set_value, module)?,
        wrap_pyfunction!(debug_message, module)?,
        wrap_pyfunction!(job_message, module)?,
        wrap_pyfunction!(register_events, module)?,
        wrap_pyfunction!(unregister_events, module)?,
        wrap_pyfunction!(get_instance_count, module)?,
        wrap_pyfunction!(add_exclude, module)?,
        wrap_pyfunction!(add_include, module)?,
        wrap_pyfunction!(add_options, module)?,
        wrap_pyfunction!(add_regex, module)?,
        wrap_pyfunction!(add_wild, module)?,
        wrap_pyfunction!(new_options, module)?,
        wrap_pyfunction!(new_include, module)?,
        wrap_pyfunction!(new_pre_include, module)?,
        wrap_pyfunction!(check_changes, module)?,
        wrap_pyfunction!(accept_file, module)?,
        wrap_pyfunction!(set_seen_bitmap, module)?,
        wrap_pyfunction!(clear_seen_bitmap, module)?,
    ] {
        let name = function.getattr("__name__")?;
        module.setattr(name.cast::<PyString>()?, function)?;
    }
    Ok(())
}

/// The job, or the contract's error outside of one.
macro_rules! job {
    () => {
        JobContext::current()
            .ok_or_else(|| PyRuntimeError::new_err(concat!(file!(), ":", line!(), ": plugin_ctx is unset")))?
    };
}

type Keywords<'a, 'py> = &'a Bound<'py, PyDict>;

#[pyfunction]
#[pyo3(name = "GetValue", signature = (*arguments, **keywords))]
fn get_value<'py>(
    py: Python<'py>,
    arguments: &Bound<'py, PyTuple>,
    keywords: Option<Keywords<'_, 'py>>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let number = Arguments::new("GetValue", arguments, keywords, 1, 1)?.int(0)?;
    let job = job!();
    let int = |value: i64| value.into_pyobject(py).map(Bound::into_any);
    let text = |value: &str| Ok(PyString::new(py, value).into_any());
    Ok(Some(match number {
        var::JOB_ID => int(job.spec.job_id.into())?,
        var::FD_NAME | var::CLIENT => return text(&job.spec.client).map(Some),
        var::LEVEL => int(i64::from(u32::from(job.spec.level)))?,
        var::TYPE => int(job.job_type().into())?,
        var::JOB_NAME => return text(&job.spec.job_name).map(Some),
        var::JOB_STATUS => int(job.status().into())?,
        var::SINCE_TIME => int(job.since())?,
        var::ACCURATE => int(job.is_accurate().into())?,
        var::PREFIX_LINKS => int(job.spec.prefix_links.into())?,
        var::WORKING_DIR => return text(&job.spec.working_directory).map(Some),
        var::WHERE => return job.where_prefix().map(text).transpose(),
        var::EXE_PATH => {
            let program = std::env::current_exe().unwrap_or_default();
            let folder = program.parent().map(|folder| folder.display().to_string()).unwrap_or_default();
            return text(&format!("{folder}/")).map(Some);
        }
        var::VERSION => return text(CONTRACT_VERSION).map(Some),
        var::PREV_JOB_NAME => return text(&job.spec.previous_job_name).map(Some),
        var::CHECK_CHANGES => job.check_changes().into_pyobject(py)?.to_owned().into_any(),
        var::USED_CONFIG => return text(&job.spec.used_config).map(Some),
        var::ACCURATE_OPTIONS => PyFrozenSet::new(py, job.accurate_options())?.into_any(),
        _ => return Ok(None),
    }))
}

#[pyfunction]
#[pyo3(name = "SetValue", signature = (*arguments, **keywords))]
fn set_value<'py>(arguments: &Bound<'py, PyTuple>, keywords: Option<Keywords<'_, 'py>>) -> PyResult<i64> {
    let arguments = Arguments::new("SetValue", arguments, keywords, 2, 2)?;
    let number = arguments.int(0)?;
    let value = arguments.object(1)?;
    let job = job!();
    match number {
        var::SINCE_TIME => match value.extract::<i64>() {
            Ok(seconds) => {
                job.set_since(seconds);
                Ok(rc::OK)
            }
            Err(error) => {
                job.set_since(-1);
                Err(error)
            }
        },
        var::CHECK_CHANGES => {
            // Only the object `True` is true, as in the original.
            job.set_check_changes(value.is(pyo3::types::PyBool::new(value.py(), true)));
            Ok(rc::OK)
        }
        var::FILE_SEEN => {
            let name = value.cast::<PyString>().map_err(|_| PyTypeError::new_err("file name must be str"))?;
            let name = names::to_bytes(name)?;
            let Some(known) = job.known().filter(|_| job.is_accurate()) else { return Ok(rc::ERROR) };
            known.mark(&name, true);
            Ok(rc::OK)
        }
        _ => Ok(rc::ERROR),
    }
}

#[pyfunction]
#[pyo3(name = "DebugMessage", signature = (*arguments, **keywords))]
fn debug_message<'py>(arguments: &Bound<'py, PyTuple>, keywords: Option<Keywords<'_, 'py>>) -> PyResult<()> {
    let arguments = Arguments::new("DebugMessage", arguments, keywords, 1, 2)?;
    let (level, text) = (arguments.int(0)?, arguments.text(1)?);
    let job = job!();
    if let (true, Some(text)) = (level <= job.spec.debug_level, text) {
        job.message(message::DEBUG, format!("{PREFIX}{text}"));
    }
    Ok(())
}

#[pyfunction]
#[pyo3(name = "JobMessage", signature = (*arguments, **keywords))]
fn job_message<'py>(arguments: &Bound<'py, PyTuple>, keywords: Option<Keywords<'_, 'py>>) -> PyResult<()> {
    let arguments = Arguments::new("JobMessage", arguments, keywords, 1, 2)?;
    let (kind, text) = (arguments.int(0)?, arguments.text(1)?);
    let job = job!();
    if let Some(text) = text {
        job.message(kind, format!("{PREFIX}{text}"));
    }
    Ok(())
}

#[pyfunction]
#[pyo3(name = "RegisterEvents", signature = (*arguments, **keywords))]
fn register_events<'py>(arguments: &Bound<'py, PyTuple>, keywords: Option<Keywords<'_, 'py>>) -> PyResult<i64> {
    let sequence = Arguments::new("RegisterEvents", arguments, keywords, 1, 1)?.object(0)?;
    let job = job!();
    let numbers = event_numbers(&sequence, event::LAST)?;
    numbers.iter().for_each(|&number| job.register(number));
    Ok(if numbers.is_empty() { rc::ERROR } else { rc::OK })
}

#[pyfunction]
#[pyo3(name = "UnRegisterEvents", signature = (*arguments, **keywords))]
fn unregister_events<'py>(arguments: &Bound<'py, PyTuple>, keywords: Option<Keywords<'_, 'py>>) -> PyResult<i64> {
    let sequence = Arguments::new("UnRegisterEvents", arguments, keywords, 1, 1)?.object(0)?;
    let job = job!();
    let numbers = event_numbers(&sequence, event::LAST)?;
    numbers.iter().for_each(|&number| job.unregister(number));
    Ok(if numbers.is_empty() { rc::ERROR } else { rc::OK })
}

#[pyfunction]
#[pyo3(name = "GetInstanceCount", signature = (*arguments, **keywords))]
fn get_instance_count<'py>(arguments: &Bound<'py, PyTuple>, keywords: Option<Keywords<'_, 'py>>) -> PyResult<i64> {
    Arguments::new("GetInstanceCount", arguments, keywords, 0, 0)?;
    job!();
    Ok(1)
}

/// What a function answers that would change the file set.
fn refuse_file_set(job: &JobContext, function: &str) -> i64 {
    let text = format!("bareosfd.{function}: changing the file set from a plugin is not supported yet\n");
    job.message_once(message::FATAL, text);
    rc::ERROR
}

#[pyfunction]
#[pyo3(name = "AddExclude", signature = (*arguments, **keywords))]
fn add_exclude<'py>(arguments: &Bound<'py, PyTuple>, keywords: Option<Keywords<'_, 'py>>) -> PyResult<i64> {
    let name = Arguments::new("AddExclude", arguments, keywords, 0, 1)?.text(0)?;
    let job = job!();
    Ok(if name.is_some() { refuse_file_set(job, "AddExclude") } else { rc::ERROR })
}

#[pyfunction]
#[pyo3(name = "AddInclude", signature = (*arguments, **keywords))]
fn add_include<'py>(arguments: &Bound<'py, PyTuple>, keywords: Option<Keywords<'_, 'py>>) -> PyResult<i64> {
    let name = Arguments::new("AddInclude", arguments, keywords, 0, 1)?.text(0)?;
    let job = job!();
    Ok(if name.is_some() { refuse_file_set(job, "AddInclude") } else { rc::ERROR })
}

#[pyfunction]
#[pyo3(name = "AddOptions", signature = (*arguments, **keywords))]
fn add_options<'py>(arguments: &Bound<'py, PyTuple>, keywords: Option<Keywords<'_, 'py>>) -> PyResult<i64> {
    let letters = Arguments::new("AddOptions", arguments, keywords, 0, 1)?.text(0)?;
    let job = job!();
    Ok(if letters.is_some() { refuse_file_set(job, "AddOptions") } else { rc::ERROR })
}

/// A pattern and the code of a type letter, for AddRegex and AddWild.
fn add_pattern<'py>(
    function: &'static str,
    arguments: &Bound<'py, PyTuple>,
    keywords: Option<Keywords<'_, 'py>>,
) -> PyResult<Option<String>> {
    let arguments = Arguments::new(function, arguments, keywords, 0, 2)?;
    let pattern = arguments.text(0)?;
    if arguments.values.len() > 1 {
        arguments.int(1)?;
    }
    Ok(pattern)
}

#[pyfunction]
#[pyo3(name = "AddRegex", signature = (*arguments, **keywords))]
fn add_regex<'py>(arguments: &Bound<'py, PyTuple>, keywords: Option<Keywords<'_, 'py>>) -> PyResult<i64> {
    let pattern = add_pattern("AddRegex", arguments, keywords)?;
    let job = job!();
    Ok(if pattern.is_some() { refuse_file_set(job, "AddRegex") } else { rc::ERROR })
}

#[pyfunction]
#[pyo3(name = "AddWild", signature = (*arguments, **keywords))]
fn add_wild<'py>(arguments: &Bound<'py, PyTuple>, keywords: Option<Keywords<'_, 'py>>) -> PyResult<i64> {
    let pattern = add_pattern("AddWild", arguments, keywords)?;
    let job = job!();
    Ok(if pattern.is_some() { refuse_file_set(job, "AddWild") } else { rc::ERROR })
}

#[pyfunction]
#[pyo3(name = "NewOptions", signature = (*arguments, **keywords))]
fn new_options<'py>(arguments: &Bound<'py, PyTuple>, keywords: Option<Keywords<'_, 'py>>) -> PyResult<i64> {
    Arguments::new("NewOptions", arguments, keywords, 0, 0)?;
    Ok(refuse_file_set(job!(), "NewOptions"))
}

#[pyfunction]
#[pyo3(name = "NewInclude", signature = (*arguments, **keywords))]
fn new_include<'py>(arguments: &Bound<'py, PyTuple>, keywords: Option<Keywords<'_, 'py>>) -> PyResult<i64> {
    Arguments::new("NewInclude", arguments, keywords, 0, 0)?;
    Ok(refuse_file_set(job!(), "NewInclude"))
}

#[pyfunction]
#[pyo3(name = "NewPreInclude", signature = (*arguments, **keywords))]
fn new_pre_include<'py>(arguments: &Bound<'py, PyTuple>, keywords: Option<Keywords<'_, 'py>>) -> PyResult<i64> {
    Arguments::new("NewPreInclude", arguments, keywords, 0, 0)?;
    Ok(refuse_file_set(job!(), "NewPreInclude"))
}

#[pyfunction]
#[pyo3(name = "CheckChanges", signature = (*arguments, **keywords))]
fn check_changes<'py>(
    py: Python<'py>,
    arguments: &Bound<'py, PyTuple>,
    keywords: Option<Keywords<'_, 'py>>,
) -> PyResult<i64> {
    let packet = Arguments::new("CheckChanges", arguments, keywords, 1, 1)?.object(0)?;
    let job = job!();
    let classes = classes(py)?;
    let packet = classes.save.cast(&packet).ok_or_else(|| PyTypeError::new_err("CheckChanges needs a SavePacket"))?;
    if !packet.value(save::FNAME).is_some_and(|name| name.is_instance_of::<PyString>()) {
        return Err(PyTypeError::new_err("fname needs to be of type string \"utf-8\""));
    }
    if packet.value(save::LINK).is_some_and(|link| !link.is_instance_of::<PyString>()) {
        return Err(PyTypeError::new_err("if given, link needs to be of type string \"utf-8\""));
    }
    // Unlike the original we look at the numbers that the packet carries.
    let stat = packet.value(save::STATP).and_then(|statp| classes.stat.cast(&statp));
    let stat = stat.map(|stat| stat_fields(&stat)).unwrap_or_default();
    let text = |field| packet.value(field).and_then(|value| value.cast_into::<PyString>().ok());
    let bytes = |field| text(field).map(|name| names::to_bytes(&name)).transpose();
    let mut name = bytes(save::FNAME)?.unwrap_or_default();
    if stat.mode & 0o170_000 == 0o040_000 {
        // A folder is known by its link, and as it is stored: with a slash at its end.
        name = bytes(save::LINK)?.filter(|link| !link.is_empty()).unwrap_or(name);
        if !name.ends_with(b"/") {
            name.push(b'/');
        }
    }
    let mtime_only = option_bit::is_on(job.line_flags(), option_bit::MTIME_ONLY);
    let checked = changes::check(job, &name, &stat, packet.integer(save::SAVE_TIME), mtime_only);
    packet.set_integer(save::DELTA_SEQ, checked.delta_sequence.into());
    packet.set_integer(save::ACCURATE_FOUND, checked.found.into());
    Ok(if checked.unchanged { rc::SEEN } else { rc::OK })
}

#[pyfunction]
#[pyo3(name = "AcceptFile", signature = (*arguments, **keywords))]
fn accept_file<'py>(
    py: Python<'py>,
    arguments: &Bound<'py, PyTuple>,
    keywords: Option<Keywords<'_, 'py>>,
) -> PyResult<i64> {
    let packet = Arguments::new("AcceptFile", arguments, keywords, 1, 1)?.object(0)?;
    let job = job!();
    let classes = classes(py)?;
    let Some(packet) = classes.save.cast(&packet) else {
        return Err(PyTypeError::new_err("AcceptFile needs a SavePacket"));
    };
    let name = packet.value(save::FNAME).and_then(|name| name.cast_into::<PyString>().ok());
    let stat = packet.value(save::STATP).and_then(|statp| classes.stat.cast(&statp));
    let (Some(name), Some(stat)) = (name, stat) else { return Ok(rc::ERROR) };
    let name = names::to_bytes(&name)?;
    // Rules know folders without the slash at the end.
    let name = name.strip_suffix(b"/").filter(|rest| !rest.is_empty()).unwrap_or(&name);
    let is_directory = stat_fields(&stat).mode & 0o170_000 == 0o040_000;
    Ok(if job.accepts(name, is_directory) { rc::OK } else { rc::SKIP })
}

/// SetSeenBitmap and ClearSeenBitmap (reference 6.5): all names or one, never both or neither.
fn seen_bitmap<'py>(
    function: &'static str,
    arguments: &Bound<'py, PyTuple>,
    keywords: Option<Keywords<'_, 'py>>,
    seen: bool,
) -> PyResult<i64> {
    let arguments = Arguments::new(function, arguments, keywords, 1, 2)?;
    let all = arguments.object(0)?.is_truthy()?;
    let name = arguments.text(1)?;
    let job = job!();
    let Some(known) = job.known().filter(|_| job.is_accurate()) else { return Ok(rc::ERROR) };
    match (all, name) {
        (true, None) => known.mark_all(seen),
        // A name that is not known is no error.
        (false, Some(name)) => {
            known.mark(name.as_bytes(), seen);
        }
        _ => return Ok(rc::ERROR),
    }
    Ok(rc::OK)
}

#[pyfunction]
#[pyo3(name = "SetSeenBitmap", signature = (*arguments, **keywords))]
fn set_seen_bitmap<'py>(arguments: &Bound<'py, PyTuple>, keywords: Option<Keywords<'_, 'py>>) -> PyResult<i64> {
    seen_bitmap("SetSeenBitmap", arguments, keywords, true)
}

#[pyfunction]
#[pyo3(name = "ClearSeenBitmap", signature = (*arguments, **keywords))]
fn clear_seen_bitmap<'py>(arguments: &Bound<'py, PyTuple>, keywords: Option<Keywords<'_, 'py>>) -> PyResult<i64> {
    seen_bitmap("ClearSeenBitmap", arguments, keywords, false)
}
