//! The plugin's module: how it is found, loaded, and how its callbacks are called (reference 1.3, 1.4, 3.1, 4.9).

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use backstay_bareos_protocol::FromWorker;
use backstay_bareos_protocol::prior::RestoreObject;
use backstay_python_runtime::format_error;
use pyo3::call::PyCallArgs;
use pyo3::exceptions::PyInterruptedError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};

use crate::calls;
use crate::constants::{event, message, rc};
use crate::context::JobContext;
use crate::definition::{Definition, DefinitionError, Override, classify_override};
use crate::trace;

/// What a callback came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// An integer.
    Code(i64),
    /// The module has no such function.
    Missing,
    /// It raised; the traceback was sent as a fatal message.
    Raised,
    /// It returned something that is no integer.
    NotAnInteger,
}

impl Answer {
    /// The rc that the contract makes of it.
    pub(crate) fn rc(self) -> i64 {
        match self {
            Self::Code(code) => code,
            Self::Missing | Self::Raised => rc::ERROR,
            Self::NotAnInteger => -1,
        }
    }

    /// Whether it is bRC_OK.
    pub(crate) fn is_ok(self) -> bool {
        self.rc() == rc::OK
    }
}

/// What a command event (reference 1.4) came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// The script is loaded and parse_plugin_definition (or, just now, load_bareos_plugin) answered this.
    Answered(Answer),
    /// The script is not loaded, and this is why. Messages that the contract asks for were sent.
    NotLoaded(String),
}

impl Command {
    /// Whether everything answered bRC_OK.
    pub(crate) fn is_ok(&self) -> bool {
        matches!(self, Self::Answered(answer) if answer.is_ok())
    }
}

#[derive(Debug, Default)]
struct Search {
    directories: bool,
    module_path: bool,
    remembered: Option<String>,
}

/// The one script of the process.
#[derive(Debug)]
pub(crate) struct Script {
    context: Arc<JobContext>,
    namespace: OnceLock<Py<PyDict>>,
    search: Mutex<Search>,
}

impl Script {
    /// A script that is not loaded yet.
    pub(crate) fn new(context: &Arc<JobContext>) -> Self {
        Self { context: Arc::clone(context), namespace: OnceLock::new(), search: Mutex::new(Search::default()) }
    }

    /// Whether load_bareos_plugin was called and did not raise.
    pub(crate) fn is_loaded(&self) -> bool {
        self.namespace.get().is_some()
    }

    fn search(&self) -> std::sync::MutexGuard<'_, Search> {
        self.search.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A command event with a definition: loads the script if need be, then parse_plugin_definition.
    pub(crate) fn command(&self, py: Python<'_>, text: &str) -> Command {
        let remembered = if self.is_loaded() { None } else { self.search().remembered.clone() };
        let definition = match remembered {
            Some(over) => Definition::parse_overridden(&over, text),
            None => Definition::parse(text),
        };
        self.apply(py, definition)
    }

    fn apply(&self, py: Python<'_>, definition: Result<Definition, DefinitionError>) -> Command {
        match definition {
            Ok(definition) => self.load_and_parse(py, &definition),
            Err(error) => {
                let text = error.to_string();
                self.context.message(message::FATAL, format!("{text}\n"));
                Command::NotLoaded(text)
            }
        }
    }

    /// An override (event 20, reference 1.5).
    pub(crate) fn new_options(&self, py: Python<'_>, text: &str) {
        match classify_override(text) {
            Override::NotOurs => return,
            Override::Malformed => {
                self.context.message(message::ERROR, format!("Malformed plugin command: {text}\n"));
            }
            Override::Ours => {}
        }
        if !self.context.delivers(event::NEW_PLUGIN_OPTIONS) {
            return;
        }
        if !self.is_loaded() {
            self.search().remembered = Some(text.to_owned());
            if !text.to_ascii_lowercase().contains("module_name") {
                return;
            }
        }
        // What it answers is ignored here.
        let _ = self.apply(py, Definition::parse(text));
    }

    fn load_and_parse(&self, py: Python<'_>, definition: &Definition) -> Command {
        if !self.is_loaded() {
            match self.load(py, definition) {
                Ok(Answer::Code(rc::OK)) => {}
                Ok(answer) => return Command::Answered(answer),
                Err(reason) => return Command::NotLoaded(reason),
            }
        }
        Command::Answered(self.call(py, intern!(py, "parse_plugin_definition"), (&definition.options,)))
    }

    /// Imports the module and calls load_bareos_plugin.
    fn load(&self, py: Python<'_>, definition: &Definition) -> Result<Answer, String> {
        self.extend_path(py, definition).map_err(|error| self.report(py, &error))?;
        let Some(name) = &definition.module_name else {
            return Err("the definition names no module_name, so there is nothing to load".to_owned());
        };
        self.context.step();
        let module = py.import(PyString::new(py, name));
        self.context.step();
        let module = module.map_err(|error| self.report(py, &error))?;
        let namespace = module.dict();
        match self.call_in(py, &namespace, intern!(py, "load_bareos_plugin"), (&definition.options,)) {
            Answer::Missing => Err(format!("the module {name} has no function load_bareos_plugin")),
            Answer::Raised => Err(format!("load_bareos_plugin of the module {name} raised an exception")),
            answer => {
                // Nobody else loads: this cannot be set already.
                let _ = self.namespace.set(namespace.unbind());
                Ok(answer)
            }
        }
    }

    /// `module_path`, then the host's folders, then what was there: each goes in once.
    fn extend_path(&self, py: Python<'_>, definition: &Definition) -> PyResult<()> {
        let path = py.import("sys")?.getattr("path")?;
        let path = path.cast::<PyList>()?;
        let mut search = self.search();
        if !search.directories {
            for directory in self.context.spec.module_directories.iter().rev() {
                path.insert(0, directory)?;
            }
            search.directories = true;
        }
        if let (false, Some(directory)) = (search.module_path, &definition.module_path) {
            path.insert(0, directory)?;
            search.module_path = true;
        }
        Ok(())
    }

    /// Calls a callback of the loaded script. The name is looked up anew each time; names must be interned.
    pub(crate) fn call<'py, A>(&self, py: Python<'py>, name: &Bound<'py, PyString>, arguments: A) -> Answer
    where
        A: PyCallArgs<'py> + IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>>,
    {
        match self.namespace.get() {
            Some(namespace) => self.call_in(py, namespace.bind(py), name, arguments),
            None => Answer::Missing,
        }
    }

    /// Calls a callback that takes no arguments.
    pub(crate) fn call0<'py>(&self, py: Python<'py>, name: &Bound<'py, PyString>) -> Answer {
        self.call(py, name, ())
    }

    fn call_in<'py, A>(
        &self,
        py: Python<'py>,
        namespace: &Bound<'py, PyDict>,
        name: &Bound<'py, PyString>,
        arguments: A,
    ) -> Answer
    where
        A: PyCallArgs<'py> + IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>>,
    {
        let function = match namespace.get_item(name) {
            Ok(Some(function)) if function.is_callable() => function,
            Ok(_) => {
                let text = format!("bareosfd: the plugin has no function {}\n", name.to_string_lossy());
                self.context.message_once(message::WARNING, text);
                return Answer::Missing;
            }
            Err(error) => {
                self.report(py, &error);
                return Answer::Raised;
            }
        };
        if self.context.spec.trace {
            return self.traced(py, &function, name, arguments);
        }
        self.context.step();
        let result = function.call1(arguments);
        self.context.step();
        self.answer(py, result)
    }

    /// The same, with a line for the trace.
    fn traced<'py, A>(
        &self,
        py: Python<'py>,
        function: &Bound<'py, PyAny>,
        name: &Bound<'py, PyString>,
        arguments: A,
    ) -> Answer
    where
        A: PyCallArgs<'py> + IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>>,
    {
        let tuple = match arguments.into_pyobject(py).map_err(Into::into) {
            Ok(tuple) => tuple,
            Err(error) => {
                self.report(py, &error);
                return Answer::Raised;
            }
        };
        let before = trace::arguments(py, &tuple);
        self.context.step();
        let result = function.call1(tuple.clone());
        self.context.step();
        let answer = self.answer(py, result);
        let line = trace::line(py, &name.to_string_lossy(), &before, &tuple, answer);
        // A lost connection is noticed, and reported, by whoever needs an answer.
        let _ = self.context.send(&FromWorker::Trace(line));
        answer
    }

    fn answer(&self, py: Python<'_>, result: PyResult<Bound<'_, PyAny>>) -> Answer {
        match result {
            Ok(value) => match value.extract::<i64>() {
                Ok(code) => Answer::Code(code),
                Err(_) => Answer::NotAnInteger,
            },
            Err(error) => {
                self.report(py, &error);
                Answer::Raised
            }
        }
    }

    /// Sends a traceback as the fatal message of the contract; returns the exception in one line.
    pub(crate) fn report(&self, py: Python<'_>, error: &PyErr) -> String {
        let text = format_error(py, error);
        let last = text.lines().rfind(|line| !line.is_empty()).unwrap_or_default().to_owned();
        // What our own cancel raised in a callback says nothing about the plugin.
        let ours = self.context.is_cancelled() && error.is_instance_of::<PyInterruptedError>(py);
        let kind = if ours { message::INFO } else { message::FATAL };
        self.context.message(kind, format!("bareosfd: {text}"));
        last
    }

    /// Gives the plugin a restore object of an earlier job (event 15). A script that is not loaded is loaded by the
    /// definition that the object was stored with.
    pub(crate) fn restore_object(&self, py: Python<'_>, object: &RestoreObject) {
        if !self.context.delivers(event::RESTORE_OBJECT) {
            return;
        }
        if !self.is_loaded() && !self.command(py, &object.definition).is_ok() {
            return;
        }
        // What it answers is ignored.
        if let Err(error) = calls::restore_object_data(py, self, object) {
            self.report(py, &error);
        }
    }

    /// Delivers an event if it is registered and the script is loaded. Its answer is ignored, save that bRC_Term ends
    /// all events.
    pub(crate) fn event(&self, py: Python<'_>, number: u8) {
        if !self.is_loaded() || !self.context.delivers(number) {
            return;
        }
        if self.call(py, intern!(py, "handle_plugin_event"), (number,)).rc() == rc::TERM {
            self.context.keep_commands_only();
        }
    }
}
