//! A script as a disk: the callbacks around a connection (reference 5.3, 5.4) and those of the data (5.5, 6, 7.2).

use std::sync::{Arc, OnceLock};

use backstay_core::{
    BlockSize, Client, Disk, DiskError, DiskInfo, Export, Extent, OpenDisk, OpenError, ReadBytes, RequestFlags,
    Support, ThreadModel,
};
use backstay_nbdkit_host::log::{self, Path};
use backstay_python_runtime::ByteView;
use backstay_python_runtime::counted::Pool;
use backstay_python_runtime::threads::{attach, has_ended};
use pyo3::call::PyCallArgs;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyString, PyTuple};

use crate::constants::{FLAG_FAST_ZERO, FLAG_FUA, FLAG_MAY_TRIM, FLAG_REQ_ONE};
use crate::context::{self, Connected};
use crate::extents::Collector;
use crate::script::{ApiVersion, Failed, Script, c_long};

/// Memory that is kept for later requests, in bytes.
const POOL_CEILING: usize = 64 << 20;
/// The longest name or description, in bytes.
const LONGEST_TEXT: usize = 4096;
/// A longer list is an error.
const MOST_EXPORTS: usize = 10_000;
/// What `bytes` of API 1 is copied rather than kept alive, in bytes.
const SMALL: usize = 16 << 10;

/// The disk that a script is.
#[derive(Debug)]
pub struct ScriptDisk {
    script: Arc<Script>,
    model: ThreadModel,
    pool: Pool,
}

impl ScriptDisk {
    /// A script that is configured; `model` is what its `thread_model` answered.
    #[must_use]
    pub fn new(script: Arc<Script>, model: ThreadModel) -> Self {
        Self { script, model, pool: Pool::new(POOL_CEILING) }
    }

    /// Bytes of memory that wait for a request.
    #[must_use]
    pub fn pooled(&self) -> usize {
        self.pool.kept()
    }

    fn default_name(&self, py: Python<'_>, client: &Client) -> Option<Vec<u8>> {
        let name = intern!(py, "default_export");
        match self.script.call(name, (client.read_only, client.tls)) {
            Ok(None) => Some(Vec::new()),
            Ok(Some(value)) => match text(&value) {
                Ok(text) => Some(text),
                Err(reason) => {
                    let _ = self.script.wrong("default_export", &reason);
                    None
                }
            },
            Err(_) => None,
        }
    }

    fn list(&self, py: Python<'_>, client: &Client) -> Result<Vec<Export>, Failed> {
        let name = intern!(py, "list_exports");
        let Some(value) = self.script.call(name, (client.read_only, client.tls))? else {
            return Ok(self
                .default_name(py, client)
                .map(|name| Export { name, description: None })
                .into_iter()
                .collect());
        };
        let mut list = Vec::new();
        for item in value.try_iter().map_err(|error| self.script.report(name, &error))? {
            let item = item.map_err(|error| self.script.report(name, &error))?;
            list.push(export(&item).map_err(|reason| self.script.wrong("list_exports", &reason))?);
            if list.len() > MOST_EXPORTS {
                return Err(self.script.wrong("list_exports", &format!("more than {MOST_EXPORTS} exports")));
            }
        }
        Ok(list)
    }
}

/// A connection before an export is open.
fn greeted(client: &Client) -> Arc<Connected> {
    Arc::new(Connected { client: client.clone(), export: None })
}

impl Disk for ScriptDisk {
    fn threads(&self) -> ThreadModel {
        self.model
    }

    fn preconnect(&self, client: &Client) -> Result<(), String> {
        let read_only = (client.read_only,);
        context::with(&greeted(client), || {
            note(Path::Control, || format!("preconnect readonly={}", client.read_only));
            attach(|py| self.script.call(intern!(py, "preconnect"), read_only).map(|_| ())).map_err(|failed| failed.0)
        })
    }

    fn exports(&self, client: &Client) -> Result<Vec<Export>, String> {
        context::with(&greeted(client), || {
            note(Path::Control, || format!("list_exports readonly={} tls={}", client.read_only, client.tls));
            attach(|py| self.list(py, client)).map_err(|failed| failed.0)
        })
    }

    fn default_export(&self, client: &Client) -> Option<Vec<u8>> {
        context::with(&greeted(client), || {
            note(Path::Control, || format!("default_export readonly={} tls={}", client.read_only, client.tls));
            attach(|py| self.default_name(py, client))
        })
    }

    /// A script that never asks for the name of an export has one disk.
    fn identity(&self, export: &[u8]) -> Vec<u8> {
        if context::export_was_asked_for() { export.to_vec() } else { Vec::new() }
    }

    fn open(&self, export: &[u8], client: &Client) -> Result<Box<dyn OpenDisk>, OpenError> {
        let connected = Arc::new(Connected { client: client.clone(), export: Some(export.to_vec()) });
        context::with(&connected, || {
            note(Path::Control, || {
                format!("open readonly={} exportname=\"{}\"", client.read_only, String::from_utf8_lossy(export))
            });
            attach(|py| {
                let name = intern!(py, "open");
                let handle = self.script.call(name, (client.read_only,))?;
                let handle =
                    handle.ok_or_else(|| self.script.wrong("open", "this callback is not defined any more"))?;
                // From here on it is closed, whatever fails.
                let mut disk = OpenScript {
                    script: Arc::clone(&self.script),
                    pool: self.pool.clone(),
                    handle: handle.clone().unbind(),
                    connected: Arc::clone(&connected),
                    info: DiskInfo::default(),
                    block_size: OnceLock::new(),
                };
                disk.info = disk.examine(&handle, self.model)?;
                Ok(Box::new(disk) as Box<dyn OpenDisk>)
            })
        })
        .map_err(|failed: Failed| OpenError::Refused(failed.0))
    }
}

/// A debug line about a callback, which `-D` can silence.
fn note(path: Path, line: impl FnOnce() -> String) {
    if log::shows(path) {
        context::log_debug(&format!("{}: {}", context::PLUGIN, line()));
    }
}

/// A name or description: `str` or `bytes`.
fn text(value: &Bound<'_, PyAny>) -> Result<Vec<u8>, String> {
    let bytes = if let Ok(text) = value.cast::<PyString>() {
        text.to_str().map_err(|error| error.to_string())?.as_bytes().to_vec()
    } else if let Ok(bytes) = value.cast::<PyBytes>() {
        bytes.as_bytes().to_vec()
    } else {
        return Err(format!("expected str or bytes, not {}", class_of(value)));
    };
    if bytes.len() > LONGEST_TEXT {
        return Err(format!("a text of more than {LONGEST_TEXT} bytes"));
    }
    if bytes.contains(&0) {
        return Err("a text with a NUL".to_owned());
    }
    Ok(bytes)
}

fn class_of(value: &Bound<'_, PyAny>) -> String {
    value.get_type().name().map_or_else(|_| "that".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// An item of `list_exports`.
fn export(item: &Bound<'_, PyAny>) -> Result<Export, String> {
    let Ok(pair) = item.cast::<PyTuple>() else { return Ok(Export { name: text(item)?, description: None }) };
    if pair.len() != 2 {
        return Err("a tuple must be a name and a description".to_owned());
    }
    let part = |position| pair.get_item(position).map_err(|error| error.to_string()).and_then(|part| text(&part));
    Ok(Export { name: part(0)?, description: Some(part(1)?) })
}

/// A script's disk that is open.
struct OpenScript {
    script: Arc<Script>,
    pool: Pool,
    handle: Py<PyAny>,
    connected: Arc<Connected>,
    info: DiskInfo,
    block_size: OnceLock<Result<Option<BlockSize>, String>>,
}

/// How a question about a capability is answered.
impl OpenScript {
    /// `result is True`; when it is missing, whether `instead` is defined.
    fn is_true<'py>(
        &self,
        handle: &Bound<'py, PyAny>,
        name: &Bound<'py, PyString>,
        missing: impl FnOnce() -> bool,
    ) -> Result<bool, Failed> {
        Ok(match self.script.call(name, (handle,))? {
            Some(value) => value.is(pyo3::types::PyBool::new(handle.py(), true)),
            None => missing(),
        })
    }

    /// An integer; -1 is a failure.
    fn integer<'py>(
        &self,
        handle: &Bound<'py, PyAny>,
        name: &Bound<'py, PyString>,
        missing: impl FnOnce() -> i64,
    ) -> Result<i64, Failed> {
        let Some(value) = self.script.call(name, (handle,))? else { return Ok(missing()) };
        match c_long(&value).map_err(|error| self.script.report(name, &error))? {
            -1 => Err(self.script.wrong(&name.to_string_lossy(), "returned -1")),
            number => Ok(number),
        }
    }

    /// Everything that is asked once, in the contract's order (reference 1 d).
    fn examine(&self, handle: &Bound<'_, PyAny>, model: ThreadModel) -> Result<DiskInfo, Failed> {
        let py = handle.py();
        let defines = |name: &Bound<'_, PyString>| self.script.defines(name);
        let mut info = DiskInfo { size: self.size(handle)?, ..DiskInfo::default() };
        if !self.connected.client.read_only {
            info.can_write = self.is_true(handle, intern!(py, "can_write"), || defines(intern!(py, "pwrite")))?;
        }
        if info.can_write {
            info.can_zero = self.is_true(handle, intern!(py, "can_zero"), || defines(intern!(py, "zero")))?;
            info.can_fast_zero = self.is_true(handle, intern!(py, "can_fast_zero"), || !info.can_zero)?;
            info.can_trim = self.is_true(handle, intern!(py, "can_trim"), || defines(intern!(py, "trim")))?;
            let fua = self.integer(handle, intern!(py, "can_fua"), || i64::from(defines(intern!(py, "flush"))))?;
            info.fua = match fua {
                2 => Support::Native,
                ..=0 => Support::None,
                _ => Support::Emulate,
            };
        }
        info.can_flush = self.is_true(handle, intern!(py, "can_flush"), || defines(intern!(py, "flush")))?;
        info.is_rotational = self.is_true(handle, intern!(py, "is_rotational"), || false)?;
        let multi = self.is_true(handle, intern!(py, "can_multi_conn"), || false)?;
        info.can_multi_conn = multi && model != ThreadModel::SerializeConnections;
        let cache = self.integer(handle, intern!(py, "can_cache"), || 2 * i64::from(defines(intern!(py, "cache"))))?;
        info.cache = match cache {
            1 => Support::Emulate,
            ..=0 => Support::None,
            _ => Support::Native,
        };
        info.can_extents = self.is_true(handle, intern!(py, "can_extents"), || defines(intern!(py, "extents")))?;
        Ok(info)
    }

    fn size(&self, handle: &Bound<'_, PyAny>) -> Result<u64, Failed> {
        let name = intern!(handle.py(), "get_size");
        let value = self.script.call(name, (handle,))?;
        let value = value.ok_or_else(|| self.script.wrong("get_size", "this callback is not defined any more"))?;
        let size = c_long(&value).map_err(|error| self.script.report(name, &error))?;
        u64::try_from(size).map_err(|_| self.script.wrong("get_size", &format!("returned a negative size, {size}")))
    }

    fn ask_block_size(&self, py: Python<'_>) -> Result<Option<BlockSize>, Failed> {
        let name = intern!(py, "block_size");
        let Some(value) = self.script.call(name, (self.handle.bind(py),))? else { return Ok(None) };
        let Some(tuple) = value.cast::<PyTuple>().ok().filter(|tuple| tuple.len() == 3) else {
            return Err(self.script.wrong("block_size", "expected a tuple of three integers"));
        };
        let number = |position| tuple.get_item(position).and_then(|item| modulo_32(&item));
        let numbers = (|| Ok((number(0)?, number(1)?, number(2)?)))();
        let (minimum, preferred, maximum) = numbers.map_err(|error| self.script.report(name, &error))?;
        if (minimum, preferred, maximum) == (0, 0, 0) {
            return Ok(None);
        }
        let size = BlockSize { minimum, preferred, maximum };
        check_block_size(size).map_err(|reason| self.script.wrong("block_size", &reason))?;
        Ok(Some(size))
    }
}

/// An integer, of which 32 bits count.
fn modulo_32(value: &Bound<'_, PyAny>) -> PyResult<u32> {
    let index =
        value.py().import(intern!(value.py(), "operator"))?.call_method1(intern!(value.py(), "index"), (value,))?;
    index.bitand(u32::MAX)?.extract()
}

fn check_block_size(size: BlockSize) -> Result<(), String> {
    let BlockSize { minimum, preferred, maximum } = size;
    let rule = if !minimum.is_power_of_two() || minimum > 65536 {
        "the minimum must be a power of two from 1 to 65536"
    } else if !preferred.is_power_of_two() || !(512..=32 << 20).contains(&preferred) {
        "the preferred size must be a power of two from 512 to 33554432"
    } else if maximum != u32::MAX && maximum % minimum != 0 {
        "the maximum must be a multiple of the minimum"
    } else if minimum > preferred || preferred > maximum {
        "minimum, preferred and maximum must be in this order"
    } else {
        return Ok(());
    };
    Err(format!("{rule}, and it is ({minimum}, {preferred}, {maximum})"))
}

/// How requests are done.
impl OpenScript {
    fn run<R>(&self, work: impl FnOnce(Python<'_>) -> R) -> R {
        context::with(&self.connected, || attach(work))
    }

    /// What the client is told of a failure: what the script gave to `set_error`, else EIO.
    fn told() -> DiskError {
        DiskError(match context::error() {
            0 => libc::EIO,
            errno => errno,
        })
    }

    /// A callback that was promised, and only succeeds or fails.
    fn perform<'py, A>(&self, name: &Bound<'py, PyString>, arguments: A) -> Result<(), DiskError>
    where
        A: PyCallArgs<'py>,
    {
        match self.script.call(name, arguments) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(self.missing(&name.to_string_lossy())),
            Err(_) => Err(Self::told()),
        }
    }

    fn missing(&self, name: &str) -> DiskError {
        let _ = self.script.wrong(name, "this callback was promised and is not defined");
        DiskError(libc::EIO)
    }

    fn read_filled(&self, py: Python<'_>, offset: u64, length: usize) -> Result<ReadBytes, DiskError> {
        let name = intern!(py, "pread");
        let lent = self.pool.lend_zeroed(py, length).map_err(|error| self.unable(name, &error))?;
        let view = lent.view().map_err(|error| self.unable(name, &error))?;
        self.perform(name, (self.handle.bind(py), view, offset, 0))?;
        Ok(Box::new(lent.take_back()))
    }

    fn read_returned(&self, py: Python<'_>, offset: u64, length: usize) -> Result<ReadBytes, DiskError> {
        let name = intern!(py, "pread");
        let value = match self.script.call(name, (self.handle.bind(py), length, offset)) {
            Ok(Some(value)) => value,
            Ok(None) => return Err(self.missing("pread")),
            Err(_) => return Err(Self::told()),
        };
        if let Ok(bytes) = value.cast::<PyBytes>()
            && bytes.as_bytes().len() >= length
            && length > SMALL
        {
            // Nobody can change them: they are sent from where they are.
            return Ok(Box::new(Prefix { bytes: bytes.clone().into(), length }));
        }
        let view = ByteView::new(&value).map_err(|error| self.unable(name, &error))?;
        match view.bytes(py).get(..length) {
            Some(bytes) => Ok(Box::new(bytes.to_vec())),
            None => {
                let reason = format!("returned {} bytes where {length} were asked for", view.len());
                let _ = self.script.wrong("pread", &reason);
                Err(Self::told())
            }
        }
    }

    /// An exception that rises around a callback, not in it.
    fn unable(&self, name: &Bound<'_, PyString>, error: &PyErr) -> DiskError {
        let _ = self.script.report(name, error);
        Self::told()
    }

    fn zero_attached(&self, py: Python<'_>, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        let name = intern!(py, "zero");
        let handle = self.handle.bind(py);
        let result = match self.script.version() {
            ApiVersion::One => self.script.try_call(name, (handle, length, offset, flags.may_trim)),
            ApiVersion::Two => self.script.try_call(name, (handle, length, offset, zero_flags(flags))),
        };
        // Before the exception is looked at: also a script that returns may say that it cannot (reference 7.2).
        if context::error() == libc::EOPNOTSUPP {
            return Err(DiskError(libc::EOPNOTSUPP));
        }
        match result {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(DiskError(libc::EOPNOTSUPP)),
            Err(error) => Err(self.unable(name, &error)),
        }
    }

    fn ask_extents(&self, py: Python<'_>, offset: u64, length: u64, one: bool) -> Result<Vec<Extent>, DiskError> {
        let name = intern!(py, "extents");
        let flags = if one { FLAG_REQ_ONE } else { 0 };
        let value = match self.script.call(name, (self.handle.bind(py), length, offset, flags)) {
            Ok(Some(value)) => value,
            Ok(None) => return Ok(vec![Extent { offset, length, hole: false, zero: false }]),
            Err(_) => return Err(Self::told()),
        };
        let items = value.try_iter().map_err(|error| self.unable(name, &error))?;
        let mut collector = Collector::new(offset, self.info.size);
        let mut is_empty = true;
        for item in items {
            match item {
                Ok(item) => self.add_extent(name, &mut collector, &item)?,
                Err(error) if is_empty => return Err(self.unable(name, &error)),
                // What a generator gave before it raised counts.
                Err(_) => break,
            }
            is_empty = false;
        }
        if is_empty {
            let _ = self.script.wrong("extents", "returned none");
            return Err(Self::told());
        }
        collector.finish(one).ok_or_else(|| {
            let _ = self.script.wrong("extents", &format!("none of what was returned covers {offset}"));
            DiskError(libc::EINVAL)
        })
    }

    fn add_extent(
        &self,
        name: &Bound<'_, PyString>,
        collector: &mut Collector,
        item: &Bound<'_, PyAny>,
    ) -> Result<(), DiskError> {
        let Some(tuple) = item.cast::<PyTuple>().ok().filter(|tuple| tuple.len() == 3) else {
            let _ = self.script.wrong("extents", "expected tuples (offset, length, type)");
            return Err(Self::told());
        };
        let (offset, length, kind) = tuple.extract().map_err(|error| self.unable(name, &error))?;
        collector.add(offset, length, kind).map_err(|reason| {
            let _ = self.script.wrong("extents", &reason);
            Self::told()
        })
    }
}

fn fua_flag(flags: RequestFlags) -> i32 {
    if flags.fua { FLAG_FUA } else { 0 }
}

fn zero_flags(flags: RequestFlags) -> i32 {
    fua_flag(flags) | if flags.may_trim { FLAG_MAY_TRIM } else { 0 } | if flags.fast_zero { FLAG_FAST_ZERO } else { 0 }
}

/// The beginning of a `bytes` object.
struct Prefix {
    bytes: PyBackedBytes,
    length: usize,
}

impl AsRef<[u8]> for Prefix {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl OpenDisk for OpenScript {
    fn info(&self) -> &DiskInfo {
        &self.info
    }

    fn description(&self) -> Option<Vec<u8>> {
        self.run(|py| {
            let value = self.script.call(intern!(py, "export_description"), (self.handle.bind(py),)).ok()??;
            text(&value).map_err(|reason| self.script.wrong("export_description", &reason)).ok()
        })
    }

    fn block_size(&self) -> Result<Option<BlockSize>, String> {
        self.block_size.get_or_init(|| self.run(|py| self.ask_block_size(py)).map_err(|failed| failed.0)).clone()
    }

    fn read(&self, offset: u64, length: usize) -> Result<ReadBytes, DiskError> {
        self.run(|py| {
            note(Path::Data, || format!("pread count={length} offset={offset}"));
            match self.script.version() {
                ApiVersion::One => self.read_returned(py, offset, length),
                ApiVersion::Two => self.read_filled(py, offset, length),
            }
        })
    }

    fn write(&self, offset: u64, data: &[u8], flags: RequestFlags) -> Result<(), DiskError> {
        self.run(|py| {
            note(Path::Data, || format!("pwrite count={} offset={offset} fua={}", data.len(), flags.fua));
            let (name, handle) = (intern!(py, "pwrite"), self.handle.bind(py));
            let lent = self.pool.lend_copy(py, data).map_err(|error| self.unable(name, &error))?;
            let view = lent.view().map_err(|error| self.unable(name, &error))?;
            match self.script.version() {
                ApiVersion::One => self.perform(name, (handle, view, offset)),
                ApiVersion::Two => self.perform(name, (handle, view, offset, fua_flag(flags))),
            }
        })
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.run(|py| {
            note(Path::Data, || "flush".to_owned());
            let (name, handle) = (intern!(py, "flush"), self.handle.bind(py));
            match self.script.version() {
                ApiVersion::One => self.perform(name, (handle,)),
                ApiVersion::Two => self.perform(name, (handle, 0)),
            }
        })
    }

    fn trim(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        self.run(|py| {
            note(Path::Data, || format!("trim count={length} offset={offset} fua={}", flags.fua));
            let (name, handle) = (intern!(py, "trim"), self.handle.bind(py));
            match self.script.version() {
                ApiVersion::One => self.perform(name, (handle, length, offset)),
                ApiVersion::Two => self.perform(name, (handle, length, offset, fua_flag(flags))),
            }
        })
    }

    fn zero(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        self.run(|py| {
            note(Path::Data, || format!("zero count={length} offset={offset} flags={:#x}", zero_flags(flags)));
            self.zero_attached(py, offset, length, flags)
        })
    }

    fn cache(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.run(|py| {
            note(Path::Data, || format!("cache count={length} offset={offset}"));
            self.perform(intern!(py, "cache"), (self.handle.bind(py), length, offset, 0))
        })
    }

    fn extents(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<Vec<Extent>, DiskError> {
        self.run(|py| {
            note(Path::Data, || format!("extents count={length} offset={offset} req_one={}", flags.one));
            self.ask_extents(py, offset, length, flags.one)
        })
    }
}

impl Drop for OpenScript {
    fn drop(&mut self) {
        if has_ended() {
            return;
        }
        let connected = Arc::clone(&self.connected);
        context::with(&connected, || {
            note(Path::Control, || "close".to_owned());
            attach(|py| {
                // What it raises was logged, and changes nothing.
                let _ = self.script.call(intern!(py, "close"), (self.handle.bind(py),));
                // Here, where the interpreter is attached: a `__del__` may run.
                self.handle = py.None();
            });
        });
    }
}
