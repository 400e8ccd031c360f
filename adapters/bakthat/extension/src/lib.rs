//! The module `bakthat._native`: thin glue between the package and its engine. Work runs on a thread of its own with the
//! interpreter's lock released; the calling thread looks for signals meanwhile and tells of progress, to a callback and on a terminal.
//! `../python/bakthat/_native.pyi` says what is here.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use backstay_bakthat::archive::{self, ArchiveOptions};
use backstay_bakthat::container::{self, Container};
use backstay_bakthat::excludes::Excludes;
use backstay_bakthat::objects::{Objects, Returning, S3Place, Secret, SwiftPlace};
use backstay_bakthat::{Control, Error, gzip};
use crossbeam_channel::{RecvTimeoutError, Sender, bounded, unbounded};
use pyo3::exceptions::{PyException, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use progress::Line;

mod allocator;
mod progress;
mod repository;

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
        other => NativeError::new_err(other.to_string()),
    }
}

fn os_error(error: &io::Error, path: PathBuf) -> PyErr {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text).to_owned();
    PyOSError::new_err((error.raw_os_error(), text, path.into_os_string()))
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
        while going {
            going = py.detach(|| end.recv_timeout(LOOK)) == Err(RecvTimeoutError::Timeout);
            let mut look = || -> PyResult<()> {
                py.check_signals()?;
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

/// A path as Python takes it: text, bytes, or something with a path in it.
fn path(value: &Bound<'_, PyAny>) -> PyResult<PathBuf> {
    Ok(PathBuf::from(OsString::from_vec(file_system_bytes(value)?)))
}

fn file_system_bytes(value: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let encoded = value.py().import("os")?.call_method1("fsencode", (value,))?;
    Ok(encoded.cast::<PyBytes>()?.as_bytes().to_vec())
}

fn patterns(list: &Bound<'_, PyAny>, wide: bool) -> PyResult<Excludes> {
    let lines = list.try_iter()?.map(|line| file_system_bytes(&line?)).collect::<PyResult<Vec<_>>>()?;
    Ok(Excludes::new(&lines, wide))
}

/// Passwords are bytes; text is its UTF-8.
fn password(value: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    if let Ok(text) = value.cast::<PyString>() {
        return Ok(text.to_cow()?.as_bytes().to_vec());
    }
    Ok(value.cast::<PyBytes>()?.as_bytes().to_vec())
}

/// Writes a file or a folder as a GNU tar, in gzip unless `compress` is false.
#[pyfunction]
#[pyo3(signature = (source, arcname, out, *, exclude=None, wide_exclude=false, compress=true, excluded=None))]
#[allow(clippy::too_many_arguments)]
fn write_archive(
    py: Python<'_>,
    source: &Bound<'_, PyAny>,
    arcname: &Bound<'_, PyAny>,
    out: &Bound<'_, PyAny>,
    exclude: Option<&Bound<'_, PyAny>>,
    wide_exclude: bool,
    compress: bool,
    excluded: Option<&Bound<'_, PyAny>>,
) -> PyResult<u64> {
    let (source, out, arcname) = (path(source)?, path(out)?, file_system_bytes(arcname)?);
    let excludes = exclude.map(|list| patterns(list, wide_exclude)).transpose()?.unwrap_or_default();
    run(py, None, excluded, move |control, names| {
        let options = ArchiveOptions { arcname: &arcname, excludes: &excludes, compress };
        archive::write_archive(&source, &out, &options, control, &mut |name| {
            // Nobody asks for them.
            let _ = names.send(name.into());
        })
    })
}

/// Unpacks a tar, in gzip or plain, into a folder, and never outside it.
#[pyfunction]
fn unpack_archive(py: Python<'_>, archive: &Bound<'_, PyAny>, folder: &Bound<'_, PyAny>) -> PyResult<()> {
    let (archive, folder) = (path(archive)?, path(folder)?);
    run(py, None, None, move |control, _| archive::unpack_archive(&archive, &folder, control))
}

/// Writes a file's bytes in gzip.
#[pyfunction]
fn gzip_file(py: Python<'_>, source: &Bound<'_, PyAny>, out: &Bound<'_, PyAny>) -> PyResult<u64> {
    let (source, out) = (path(source)?, path(out)?);
    run(py, None, None, move |control, _| gzip::gzip_file(&source, &out, control))
}

/// Writes what a gzip file holds.
#[pyfunction]
fn gunzip_file(py: Python<'_>, source: &Bound<'_, PyAny>, out: &Bound<'_, PyAny>) -> PyResult<u64> {
    let (source, out) = (path(source)?, path(out)?);
    run(py, None, None, move |control, _| gzip::gunzip_file(&source, &out, control))
}

/// Encrypts a file: `container` is `blowfish` or `age`.
#[pyfunction]
#[pyo3(signature = (source, out, password, *, container="blowfish"))]
fn encrypt_file(
    py: Python<'_>,
    source: &Bound<'_, PyAny>,
    out: &Bound<'_, PyAny>,
    password: &Bound<'_, PyAny>,
    container: &str,
) -> PyResult<u64> {
    let (source, out, password) = (path(source)?, path(out)?, self::password(password)?);
    let container = Container::of_name(container).map_err(|error| PyValueError::new_err(error.to_string()))?;
    if container == Container::Blowfish && password.len() > 56 {
        let text = format!("the password has {} bytes: Blowfish takes 56 at most", password.len());
        return Err(PyValueError::new_err(text));
    }
    run(py, None, None, move |control, _| container::encrypt_file(&source, &out, &password, container, control))
}

/// Decrypts a file, and says which container it was in.
#[pyfunction]
fn decrypt_file(
    py: Python<'_>,
    source: &Bound<'_, PyAny>,
    out: &Bound<'_, PyAny>,
    password: &Bound<'_, PyAny>,
) -> PyResult<&'static str> {
    let (source, out, password) = (path(source)?, path(out)?, self::password(password)?);
    run(py, None, None, move |control, _| {
        container::decrypt_file(&source, &out, &password, control).map(Container::name)
    })
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
    #[pyo3(signature = (bucket, *, access_key, secret_key, region="us-east-1".to_owned(), endpoint_url=None, storage_class=None))]
    fn s3(
        py: Python<'_>,
        bucket: String,
        access_key: String,
        secret_key: String,
        region: String,
        endpoint_url: Option<String>,
        storage_class: Option<String>,
    ) -> PyResult<Self> {
        let place = S3Place { bucket, endpoint: endpoint_url, region, access_key, secret_key: Secret::new(secret_key) };
        let objects = run(py, None, None, move |_, _| Objects::s3(&place, storage_class))?;
        Ok(Self { objects })
    }

    /// A container of Swift; logs in.
    #[staticmethod]
    #[pyo3(signature = (container, *, auth_url, auth_version, user, password, region=None, insecure=false))]
    #[allow(clippy::too_many_arguments)]
    fn swift(
        py: Python<'_>,
        container: String,
        auth_url: String,
        auth_version: String,
        user: String,
        password: String,
        region: Option<String>,
        insecure: bool,
    ) -> PyResult<Self> {
        let place = SwiftPlace { container, auth_url, auth_version, user, password: Secret::new(password), region };
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

    #[pyo3(signature = (name, path, *, progress=None, storage_class=None))]
    fn upload(
        &self,
        py: Python<'_>,
        name: String,
        path: &Bound<'_, PyAny>,
        progress: Option<&Bound<'_, PyAny>>,
        storage_class: Option<String>,
    ) -> PyResult<()> {
        let path = self::path(path)?;
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
    module.add_function(wrap_pyfunction!(write_archive, module)?)?;
    module.add_function(wrap_pyfunction!(unpack_archive, module)?)?;
    module.add_function(wrap_pyfunction!(gzip_file, module)?)?;
    module.add_function(wrap_pyfunction!(gunzip_file, module)?)?;
    module.add_function(wrap_pyfunction!(encrypt_file, module)?)?;
    module.add_function(wrap_pyfunction!(decrypt_file, module)?)?;
    module.add_class::<ObjectStore>()?;
    module.add_class::<repository::Repository>()?;
    Ok(())
}
