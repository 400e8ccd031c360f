//! The plugin's module: how it is found, loaded, and how its three callbacks are called (reference 1.3, 7.1).

use std::sync::Arc;

use backstay_bareos_protocol::hooks::{Daemon, FromHook, HookAnswer, HookDefinition};
use backstay_python_runtime::format_error;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};

use super::context::HookContext;
use crate::constants::{message, rc};
use crate::definition::kept_elsewhere;
use crate::trace::quoted;

/// The one script of the process.
#[derive(Debug)]
pub(crate) struct Script {
    context: Arc<HookContext>,
    namespace: Option<Py<PyDict>>,
    directories: bool,
    module_path: bool,
}

impl Script {
    /// A script that is not loaded yet.
    pub(crate) fn new(context: &Arc<HookContext>) -> Self {
        Self { context: Arc::clone(context), namespace: None, directories: false, module_path: false }
    }

    /// Event NewPluginOptions: loads the script if need be, then parse_plugin_definition.
    pub(crate) fn options(&mut self, py: Python<'_>, text: &str) -> HookAnswer {
        if !self.context.is_registered(self.context.numbers.new_plugin_options) {
            return HookAnswer::NotRegistered;
        }
        let definition = match HookDefinition::parse(self.context.spec.daemon, text) {
            Ok(definition) => definition,
            Err(error) => return self.refuse(&error.to_string()),
        };
        let mut options = String::new();
        for (key, value) in &definition.options {
            match kept_elsewhere(key, value) {
                Ok(Some((key, value))) => options.push_str(&format!("{key}={value}:")),
                Ok(None) => options.push_str(&format!("{key}={value}:")),
                Err(error) => return self.refuse(&error.to_string()),
            }
        }
        if self.namespace.is_none() {
            match self.load(py, &definition, &options) {
                HookAnswer::Code(rc::OK) => {}
                other => return other,
            }
        }
        self.call(py, "parse_plugin_definition", options)
    }

    /// Another event.
    pub(crate) fn event(&self, py: Python<'_>, number: u8) -> HookAnswer {
        if self.namespace.is_none() || !self.context.is_registered(number) {
            return HookAnswer::NotRegistered;
        }
        self.call(py, "handle_plugin_event", number)
    }

    fn refuse(&self, text: &str) -> HookAnswer {
        self.context.message(message::FATAL, format!("{text}\n"));
        HookAnswer::NotLoaded(text.to_owned())
    }

    /// Imports the module and calls load_bareos_plugin.
    fn load(&mut self, py: Python<'_>, definition: &HookDefinition, options: &str) -> HookAnswer {
        if let Err(error) = self.extend_path(py, definition) {
            return HookAnswer::NotLoaded(self.report(py, &error));
        }
        let Some(name) = &definition.module_name else {
            return self.refuse("the definition names no module_name, so there is nothing to load");
        };
        let module = match py.import(PyString::new(py, name)) {
            Ok(module) => module,
            Err(error) => return HookAnswer::NotLoaded(self.report(py, &error)),
        };
        let namespace = module.dict();
        match self.call_in(py, &namespace, "load_bareos_plugin", options) {
            HookAnswer::Missing => self.refuse(&format!("the module {name} has no function load_bareos_plugin")),
            HookAnswer::Raised => {
                HookAnswer::NotLoaded(format!("load_bareos_plugin of the module {name} raised an exception"))
            }
            answer => {
                // Whatever it returned, it counts as loaded.
                self.namespace = Some(namespace.unbind());
                answer
            }
        }
    }

    /// `module_path`, then the host's folders, then what was there: each goes in once.
    fn extend_path(&mut self, py: Python<'_>, definition: &HookDefinition) -> PyResult<()> {
        let path = py.import("sys")?.getattr("path")?;
        let path = path.cast::<PyList>()?;
        if !self.directories {
            for directory in self.context.spec.module_directories.iter().rev() {
                path.insert(0, directory)?;
            }
            self.directories = true;
        }
        if let (false, Some(directory)) = (self.module_path, &definition.module_path) {
            path.insert(0, directory)?;
            self.module_path = true;
        }
        Ok(())
    }

    fn call<'py>(&self, py: Python<'py>, name: &str, argument: impl IntoPyObject<'py>) -> HookAnswer {
        match &self.namespace {
            Some(namespace) => self.call_in(py, namespace.bind(py), name, argument),
            None => HookAnswer::Missing,
        }
    }

    /// The name is looked up anew for each call.
    fn call_in<'py>(
        &self,
        py: Python<'py>,
        namespace: &Bound<'py, PyDict>,
        name: &str,
        argument: impl IntoPyObject<'py>,
    ) -> HookAnswer {
        let result = (|| {
            let function = match namespace.get_item(name)? {
                Some(function) if function.is_callable() => function,
                _ => return Ok(None),
            };
            let arguments = PyTuple::new(py, [argument.into_bound_py_any(py)?])?;
            let result = function.call1(arguments.clone())?;
            Ok(Some((arguments, result.extract::<i64>().ok())))
        })();
        let (shown, answer) = match result {
            Ok(None) => (None, HookAnswer::Missing),
            Ok(Some((arguments, Some(code)))) => (Some(arguments), HookAnswer::Code(code)),
            Ok(Some((arguments, None))) => (Some(arguments), HookAnswer::NotAnInteger),
            Err(error) => {
                self.report(py, &error);
                (None, HookAnswer::Raised)
            }
        };
        if self.context.spec.trace {
            self.trace(name, shown, &answer);
        }
        answer
    }

    fn trace(&self, name: &str, arguments: Option<Bound<'_, PyTuple>>, answer: &HookAnswer) {
        let argument = arguments.and_then(|arguments| arguments.get_item(0).ok());
        let argument = match argument {
            Some(argument) if argument.is_instance_of::<PyString>() => quoted(&argument.to_string()),
            Some(argument) => argument.to_string(),
            None => "null".to_owned(),
        };
        let answer = match answer {
            HookAnswer::Code(code) => code.to_string(),
            HookAnswer::Raised => quoted("raised"),
            HookAnswer::NotAnInteger => quoted("no integer"),
            _ => quoted("missing"),
        };
        let line = format!("{{\"call\":{},\"arguments\":[{argument}],\"answer\":{answer}}}", quoted(name));
        // A lost connection is noticed, and reported, by the thread that answers.
        let _ = self.context.send(&FromHook::Trace(line));
    }

    /// Sends a traceback as the fatal message of the contract; returns the exception in one line.
    fn report(&self, py: Python<'_>, error: &PyErr) -> String {
        let text = format_error(py, error);
        let last = text.lines().rfind(|line| !line.is_empty()).unwrap_or_default().to_owned();
        let prefix = match self.context.spec.daemon {
            Daemon::Storage => "",
            Daemon::Director => "bareosdir: ",
        };
        self.context.message(message::FATAL, format!("{prefix}{text}"));
        last
    }
}
