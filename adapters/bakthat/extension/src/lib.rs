//! The module `bakthat._native`: thin glue between the package and its engine. Work runs on a thread of its own with the
//! interpreter's lock released; the calling thread looks for signals meanwhile and tells of progress, to a callback and on a terminal.
//! `../python/bakthat/_native.pyi` says what is here.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use backstay_bakthat::notices::untold;
use backstay_bakthat::objects::{Objects, Returning, S3Place, SwiftPlace};
use backstay_bakthat::{Control, Error};
use crossbeam_channel::{RecvTimeoutError, Sender, bounded, unbounded};
use pyo3::exceptions::{PyConnectionError, PyException, PyFileNotFoundError, PyOSError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCFunction, PyDict, PyTuple};

use progress::Line;
use settings::Settings;

mod allocator;
mod bucket;
mod files;
mod meanings;
mod progress;
mod repository;
mod settings;
mod sync;
mod vault;

/// The logger that is told of stores which make people wait.
const LOGGER: &str = "bakthat.backends";
/// Who waits for a store longer than this is told.
const LONG_WAIT: Duration = Duration::from_secs(15);
/// So often signals are looked for while work is going on.
const LOOK: Duration = Duration::from_millis(50);

mod exceptions {
    //! What the module raises.
    use super::PyException;

    pyo3::create_exception!(bakthat._native, NativeError, PyException, "The work failed; the text says why.");
    pyo3::create_exception!(
        bakthat._native,
        WrongPassword,
        NativeError,
        "Not the password that this was encrypted with."
    );
    pyo3::create_exception!(bakthat._native, UnsafeMember, NativeError, "A member would leave the folder.");
}
use exceptions::{NativeError, UnsafeMember, WrongPassword};

fn raised(error: Error) -> PyErr {
    match error {
        Error::File { path, error } if error.raw_os_error().is_some() => os_error(&error, path),
        Error::WrongPassword(text) => WrongPassword::new_err(text),
        Error::UnsafeMember(text) => UnsafeMember::new_err(text),
        Error::Missing(text) => PyFileNotFoundError::new_err(text),
        Error::NoAnswer(text) => PyConnectionError::new_err(text),
        other => NativeError::new_err(other.to_string()),
    }
}

fn os_error(error: &io::Error, path: PathBuf) -> PyErr {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text).to_owned();
    PyOSError::new_err((error.raw_os_error(), text, path.into_os_string()))
}

/// Something that the user can put right, as one of the package's own exceptions.
fn user_error(py: Python<'_>, class: &str, text: &str) -> PyErr {
    let made = py.import("bakthat.conf").and_then(|conf| conf.getattr(class)?.call1((text,)));
    made.map_or_else(|error| error, PyErr::from_value)
}

/// Runs `work` on a thread of its own. Ctrl-C, or a callback that raises, ends it early, and is what is raised then.
fn run<T: Send>(
    py: Python<'_>,
    progress: Option<&Bound<'_, PyAny>>,
    excluded: Option<&Bound<'_, PyAny>>,
    work: impl FnOnce(&Control, &Sender<Box<[u8]>>) -> Result<T, Error> + Send,
) -> PyResult<T> {
    let control = Control::default();
    // It is closed when the work is at its end.
    let (working, end) = bounded::<()>(0);
    let (names, named) = unbounded::<Box<[u8]>>();
    std::thread::scope(|scope| {
        let control = &control;
        let worker = scope.spawn(move || {
            let done = work(control, &names);
            drop((names, working));
            done
        });
        let mut told = None;
        let mut wrong = None;
        let mut going = true;
        let mut line = Line::new();
        let started = Instant::now();
        while going {
            going = py.detach(|| end.recv_timeout(LOOK)) == Err(RecvTimeoutError::Timeout);
            let mut look = || -> PyResult<()> {
                py.check_signals()?;
                // Where nobody ever answers the call fails sooner, and its error says all there is to say.
                let waiting = if started.elapsed() < LONG_WAIT { Vec::new() } else { untold() };
                for text in waiting {
                    let log = py.import("logging")?.call_method1("getLogger", (LOGGER,))?;
                    line.away(|| log.call_method1("warning", ("%s", text)))?;
                }
                if let Some(excluded) = excluded {
                    for name in named.try_iter() {
                        line.away(|| excluded.call1((PyBytes::new(py, &name),)))?;
                    }
                }
                if let (Some(progress), true) = (progress, going) {
                    tell(progress, control, &mut told, &line)?;
                }
                if going {
                    line.draw(control);
                }
                Ok(())
            };
            if wrong.is_none()
                && let Err(error) = look()
            {
                control.cancel();
                wrong = Some(error);
            }
        }
        let done = py.detach(|| worker.join());
        drop(line);
        // What was not told by now is settled.
        drop(untold());
        if let Some(error) = wrong {
            return Err(error);
        }
        let done = done.map_err(|_| NativeError::new_err("a fault in the program: the work ended in the middle"))?;
        let done = done.map_err(raised)?;
        if let Some(progress) = progress {
            finish(progress, control, told)?;
        }
        Ok(done)
    })
}

/// What hands lines of the work over to the thread that called it.
fn told(lines: &Sender<Box<[u8]>>) -> impl Fn(&[u8]) + Sync {
    |line| {
        // Nobody listens when the call is being given up.
        let _ = lines.send(line.into());
    }
}

/// Tells the beginning, and then each further tenth.
fn tell(progress: &Bound<'_, PyAny>, control: &Control, told: &mut Option<u64>, line: &Line) -> PyResult<()> {
    let (done, total) = control.position();
    if total == 0 {
        return Ok(());
    }
    let tenth = done * 10 / total;
    if told.is_none_or(|told| tenth > told) && tenth < 10 {
        let first = told.is_none();
        *told = Some(tenth);
        line.away(|| progress.call1((if first { 0 } else { done }, total)))?;
    }
    Ok(())
}

/// Tells the end; the beginning before it where nobody had time to.
fn finish(progress: &Bound<'_, PyAny>, control: &Control, told: Option<u64>) -> PyResult<()> {
    let (_, total) = control.position();
    if told.is_none() {
        progress.call1((0, total))?;
    }
    progress.call1((total, total)).map(drop)
}

/// A `progress` that tells whole percents, each once: 0 at once, 100 in the end.
fn percents<'py>(told: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyCFunction>> {
    let (py, last) = (told.py(), AtomicU64::new(0));
    told.call1((0,))?;
    let told = told.clone().unbind();
    let progress = move |position: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| -> PyResult<()> {
        let (done, total): (u64, u64) = position.extract()?;
        let percent = (done * 100).checked_div(total).unwrap_or(100);
        if percent > last.fetch_max(percent, Ordering::Relaxed) {
            told.call1(position.py(), (percent,))?;
        }
        Ok(())
    };
    PyCFunction::new_closure(py, None, None, progress)
}

/// A path as Python takes it: text, bytes, or something with a path in it.
fn path(value: &Bound<'_, PyAny>) -> PyResult<PathBuf> {
    Ok(PathBuf::from(OsString::from_vec(file_system_bytes(value)?)))
}

fn file_system_bytes(value: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let encoded = value.py().import("os")?.call_method1("fsencode", (value,))?;
    Ok(encoded.cast::<PyBytes>()?.as_bytes().to_vec())
}

/// Passwords are bytes; text, and what YAML took for something else, is its UTF-8.
fn password(value: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return Ok(bytes.as_bytes().to_vec());
    }
    let bytes = value.str()?.call_method1("encode", ("utf-8", "surrogateescape"))?;
    Ok(bytes.cast::<PyBytes>()?.as_bytes().to_vec())
}

/// One bucket, container or folder.
#[pyclass(frozen, module = "bakthat._native")]
struct ObjectStore {
    objects: Objects,
}

#[pymethods]
impl ObjectStore {
    /// A bucket of an S3 store; Amazon's without an `endpoint_url`.
    #[staticmethod]
    fn s3(py: Python<'_>, bucket: String, settings: Settings<'_>) -> PyResult<Self> {
        let place = S3Place {
            bucket,
            endpoint: settings.text("endpoint_url")?,
            region: settings.region()?,
            access_key: settings.text("access_key")?.unwrap_or_default(),
            secret_key: settings.secret("secret_key")?,
        };
        let class = settings.text("storage_class")?;
        let objects = run(py, None, None, move |_, _| Objects::s3(&place, class))?;
        Ok(Self { objects })
    }

    /// A container of Swift; logs in.
    #[staticmethod]
    fn swift(py: Python<'_>, container: String, settings: Settings<'_>) -> PyResult<Self> {
        let place = SwiftPlace {
            container,
            auth_url: settings.text("auth_url")?.unwrap_or_default(),
            auth_version: settings.text("auth_version")?.unwrap_or_else(|| "1".to_owned()),
            user: settings.text("access_key")?.unwrap_or_default(),
            password: settings.secret("secret_key")?,
            region: settings.text("region_name")?,
        };
        let insecure = settings.is("insecure", false)?;
        let objects = run(py, None, None, move |_, _| Objects::swift(&place, insecure))?;
        Ok(Self { objects })
    }

    /// A folder.
    #[staticmethod]
    fn local(folder: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self { objects: Objects::folder(&path(folder)?) })
    }

    /// Where it is, for people.
    #[getter]
    fn location(&self) -> String {
        self.objects.location()
    }

    fn __repr__(&self) -> String {
        format!("<ObjectStore {}>", self.objects.location())
    }

    fn ensure(&self, py: Python<'_>) -> PyResult<()> {
        run(py, None, None, |control, _| self.objects.ensure(control))
    }

    #[pyo3(signature = (name, path, *, percent=None, storage_class=None))]
    fn upload(
        &self,
        py: Python<'_>,
        name: String,
        path: &Bound<'_, PyAny>,
        percent: Option<&Bound<'_, PyAny>>,
        storage_class: Option<String>,
    ) -> PyResult<()> {
        let path = self::path(path)?;
        let progress = percent.map(percents).transpose()?;
        let progress = progress.as_ref().map(|progress| progress.as_any());
        run(py, progress, None, |control, _| self.objects.upload(&name, &path, storage_class.as_deref(), control))
    }

    fn put(&self, py: Python<'_>, name: String, data: Vec<u8>) -> PyResult<()> {
        run(py, None, None, |control, _| self.objects.put(&name, &data, control))
    }

    fn get<'py>(&self, py: Python<'py>, name: String) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let bytes = run(py, None, None, |control, _| self.objects.get(&name, control))?;
        Ok(bytes.map(|bytes| PyBytes::new(py, &bytes)))
    }

    #[pyo3(signature = (name, out, *, progress=None))]
    fn download(
        &self,
        py: Python<'_>,
        name: String,
        out: &Bound<'_, PyAny>,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let out = path(out)?;
        run(py, progress, None, |control, _| self.objects.download(&name, &out, control))
    }

    fn size(&self, py: Python<'_>, name: String) -> PyResult<Option<u64>> {
        run(py, None, None, |control, _| self.objects.size(&name, control))
    }

    fn delete(&self, py: Python<'_>, name: String) -> PyResult<()> {
        run(py, None, None, |control, _| self.objects.delete(&name, control))
    }

    fn list(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        run(py, None, None, |control, _| self.objects.list(control))
    }

    #[pyo3(signature = (name, seconds, method="GET"))]
    fn presign(&self, name: &str, seconds: u64, method: &str) -> PyResult<String> {
        self.objects.presign(name, seconds, method).map_err(raised)
    }

    fn last_modified(&self, py: Python<'_>, name: String) -> PyResult<Option<String>> {
        run(py, None, None, |control, _| self.objects.last_modified(&name, control))
    }

    fn set_acl(&self, py: Python<'_>, name: String, acl: String) -> PyResult<()> {
        run(py, None, None, |control, _| self.objects.set_acl(&name, &acl, control))
    }

    fn restore_request(&self, py: Python<'_>, name: String, days: u32) -> PyResult<&'static str> {
        let returning = run(py, None, None, |control, _| self.objects.restore_request(&name, days, control))?;
        Ok(match returning {
            Returning::Requested => "requested",
            Returning::Ongoing => "ongoing",
            Returning::Ready => "ready",
        })
    }
}

/// bakthat's engine.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("NativeError", py.get_type::<NativeError>())?;
    module.add("WrongPassword", py.get_type::<WrongPassword>())?;
    module.add("UnsafeMember", py.get_type::<UnsafeMember>())?;
    module.add_function(wrap_pyfunction!(files::write_archive, module)?)?;
    module.add_function(wrap_pyfunction!(files::encrypt_file, module)?)?;
    module.add_function(wrap_pyfunction!(files::decrypt_file, module)?)?;
    module.add_function(wrap_pyfunction!(files::encrypt, module)?)?;
    module.add_function(wrap_pyfunction!(files::decrypt, module)?)?;
    module.add_function(wrap_pyfunction!(files::put_in_place, module)?)?;
    module.add_function(wrap_pyfunction!(files::as_archive, module)?)?;
    module.add_function(wrap_pyfunction!(files::differing_members, module)?)?;
    module.add_function(wrap_pyfunction!(files::replace_private, module)?)?;
    module.add_function(wrap_pyfunction!(meanings::reasons_to_keep, module)?)?;
    module.add_function(wrap_pyfunction!(meanings::rotation_settings, module)?)?;
    module.add_function(wrap_pyfunction!(meanings::interval_seconds, module)?)?;
    module.add_function(wrap_pyfunction!(meanings::size_text, module)?)?;
    module.add_function(wrap_pyfunction!(meanings::parse_stored_name, module)?)?;
    module.add_function(wrap_pyfunction!(settings::check_settings, module)?)?;
    module.add_function(wrap_pyfunction!(sync::request, module)?)?;
    module.add_function(wrap_pyfunction!(progress::show_progress, module)?)?;
    module.add_class::<ObjectStore>()?;
    module.add_class::<repository::Repository>()?;
    module.add_class::<bucket::Bucket>()?;
    module.add_class::<bucket::Key>()?;
    module.add_class::<vault::GlacierVault>()?;
    module.add_class::<vault::GlacierJob>()?;
    module.add_class::<files::Excludes>()?;
    module.add_class::<files::Source>()?;
    module.add_class::<sync::SyncServer>()?;
    Ok(())
}
