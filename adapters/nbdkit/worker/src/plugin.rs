//! The plugin `python`: a script in the life of its server process (reference 1, 2.2, 2.5).

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backstay_core::{Disk, ThreadModel};
use backstay_nbdkit_host::plugin::{End, Plugin, Step};
use backstay_nbdkit_host::process::Forked;
use backstay_python_runtime::interpreter::{self, flush_streams};
use backstay_python_runtime::process;
use backstay_python_runtime::threads::{attach, finalize};
use pyo3::prelude::*;

use crate::context;
use crate::disk::ScriptDisk;
use crate::module::register_module;
use crate::script::{Failed, Script};

/// The key that the script stands for.
const SCRIPT: &str = "script";

/// Every callback of the contract, as `--dump-plugin` lists them.
const CALLBACKS: &str = "load unload dump_plugin config config_complete config_help thread_model get_ready after_fork \
    cleanup preconnect list_exports default_export open close export_description get_size block_size can_write can_flush \
    is_rotational can_trim can_zero can_fast_zero can_extents can_fua can_multi_conn can_cache pread pwrite flush trim zero \
    extents cache";

/// What runs scripts.
#[derive(Debug)]
pub struct Python {
    interpreter: PathBuf,
    script: Option<Arc<Script>>,
    model: ThreadModel,
}

/// What failed was logged.
fn logged(_: Failed) -> End {
    End::Status(1)
}

impl Python {
    /// One that starts this interpreter.
    #[must_use]
    pub fn new(interpreter: &Path) -> Self {
        Self { interpreter: interpreter.to_owned(), script: None, model: ThreadModel::default() }
    }

    fn notify(&self, name: &str) -> Step<()> {
        self.script.as_ref().map_or(Ok(()), |script| script.notify(name)).map_err(logged)
    }
}

impl Plugin for Python {
    fn name(&self) -> &'static str {
        context::PLUGIN
    }

    fn magic(&self) -> Option<&'static str> {
        Some(SCRIPT)
    }

    fn help(&self) -> &'static str {
        "script=<FILENAME>     (required) The Python script to run\n[other arguments may be used by the script]\n"
    }

    fn load(&mut self) -> Step<()> {
        register_module();
        Ok(interpreter::start(&self.interpreter).map_err(|error| error.to_string())?)
    }

    fn config(&mut self, key: &str, value: &OsStr) -> Step<()> {
        match &self.script {
            Some(script) => script.config(key, value.as_bytes()).map_err(logged),
            None if key == SCRIPT => {
                self.script = Some(Arc::new(Script::load(Path::new(value)).map_err(logged)?));
                Ok(())
            }
            None => Err("python: the first parameter must be script=\"/path/to/script\"".to_owned().into()),
        }
    }

    fn config_complete(&mut self) -> Step<()> {
        if self.script.is_none() {
            return Err("python: no script was given: the first parameter must be script=FILENAME".to_owned().into());
        }
        self.notify("config_complete")
    }

    fn thread_model(&mut self) -> Step<ThreadModel> {
        if let Some(script) = &self.script {
            self.model = script.thread_model().map_err(logged)?;
        }
        Ok(self.model)
    }

    fn get_ready(&mut self) -> Step<()> {
        self.notify("get_ready")?;
        // What the script printed so far goes to the user, not to whoever has the streams next.
        attach(flush_streams);
        Ok(())
    }

    fn fork(&self) -> io::Result<Forked> {
        Ok(match attach(process::fork)? {
            process::Forked::Parent(number) => Forked::Parent(number),
            process::Forked::Child => Forked::Child,
        })
    }

    fn after_fork(&mut self) -> Step<()> {
        self.notify("after_fork")
    }

    fn disk(&self) -> Step<Arc<dyn Disk>> {
        let script = self.script.as_ref().ok_or_else(|| "python: no script was given".to_owned())?;
        Ok(Arc::new(ScriptDisk::new(Arc::clone(script), self.model)))
    }

    fn cleanup(&mut self) {
        // What it raises was logged, and changes nothing.
        let _ = self.notify("cleanup");
    }

    fn dump(&mut self, print: &mut dyn FnMut(&str)) -> Step<()> {
        let version: Result<(u8, u8, u8), PyErr> = attach(|py| {
            py.import("sys")?.getattr("version_info")?.get_item(pyo3::types::PySlice::new(py, 0, 3, 1))?.extract()
        });
        let (major, minor, micro) = version.map_err(|error| error.to_string())?;
        let mut text: String = CALLBACKS.split(' ').map(|name| format!("has_{name}=1\n")).collect();
        text += &format!(
            "python_version={major}.{minor}.{micro}\npython_pep_384_abi_version=3\nnbdkit_python_maximum_api_version=2\n"
        );
        attach(flush_streams);
        print(&text);
        self.notify("dump_plugin")?;
        attach(flush_streams);
        Ok(())
    }

    /// Runs `atexit` handlers; a failure to write what was printed changes a good status.
    fn end(&mut self, status: u8) -> u8 {
        let flushed = finalize();
        if status == 0 && !flushed { 1 } else { status }
    }
}
