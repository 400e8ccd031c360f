//! From a file or a folder to its object and back, for Python.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use backstay_bakthat::archive;
use backstay_bakthat::container::{self, Container};
use backstay_bakthat::excludes::{Excludes as Patterns, choose};
use backstay_bakthat::output;
use backstay_bakthat::repository::Saving;
use backstay_bakthat::restored::{self, Object};
use backstay_bakthat::source::Source as Engine;
use pyo3::exceptions::{PyFileNotFoundError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCFunction, PyDict, PyTuple};

use super::repository::Repository;
use super::settings::Settings;
use super::{NativeError, file_system_bytes, password, path, raised, run, told, user_error};

/// The longest password of Blowfish in bytes.
const LONGEST_FOR_BLOWFISH: usize = 56;
/// The number of "no such file".
const ENOENT: i32 = 2;

/// What a file of patterns leaves out; called with a path it says whether that is.
#[pyclass(frozen, module = "bakthat._native")]
pub(super) struct Excludes {
    pub(super) patterns: Patterns,
}

#[pymethods]
impl Excludes {
    #[new]
    #[pyo3(signature = (path, *, wide=false))]
    fn new(path: &Bound<'_, PyAny>, wide: bool) -> PyResult<Self> {
        let patterns = Patterns::read(&self::path(path)?, wide).map_err(raised)?;
        Ok(Self { patterns })
    }

    fn __call__(&self, path: &Bound<'_, PyAny>) -> PyResult<bool> {
        Ok(self.patterns.excludes(&file_system_bytes(path)?))
    }
}

/// The patterns of a call; none where none were given.
pub(super) fn patterns(excludes: Option<&Bound<'_, Excludes>>) -> Patterns {
    excludes.map(|excludes| excludes.get().patterns.clone()).unwrap_or_default()
}

/// A path with `~` in front as the home that it means.
pub(super) fn home_expanded(path: &Bound<'_, PyAny>) -> PyResult<PathBuf> {
    self::path(&path.py().import("os.path")?.call_method1("expanduser", (path,))?)
}

/// A path or a name of a file as Python has it.
fn text<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    py.import("os")?.call_method1("fsdecode", (PyBytes::new(py, bytes),))
}

/// What tells Python's logger of names that are left out.
fn log_excluded<'py>(log: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyCFunction>> {
    let (py, log) = (log.py(), log.clone().unbind());
    PyCFunction::new_closure(py, None, None, move |name: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| {
        let shown = name.get_item(0)?.call_method1("decode", ("utf-8", "backslashreplace"))?;
        log.call_method1(name.py(), "debug", ("%s excluded", shown)).map(drop)
    })
}

/// A file or a folder that is backed up; the steps are told to a logger.
#[pyclass(frozen, module = "bakthat._native")]
pub(super) struct Source {
    source: Engine,
    excludes: Patterns,
    container: Container,
    as_tree: bool,
    log: Py<PyAny>,
}

#[pymethods]
impl Source {
    #[new]
    #[pyo3(signature = (path, settings, log, *, as_tree=false, exclude_file=None, exclude_files=Vec::new()))]
    fn new(
        path: &Bound<'_, PyAny>,
        settings: Settings<'_>,
        log: &Bound<'_, PyAny>,
        as_tree: bool,
        exclude_file: Option<&Bound<'_, PyAny>>,
        exclude_files: Vec<PathBuf>,
    ) -> PyResult<Self> {
        let py = path.py();
        let source = Engine::new(&self::path(path)?, settings.is("compress", true)?, as_tree).map_err(raised)?;
        let mut excludes = Patterns::default();
        if source.is_folder() {
            let named = exclude_file.map(home_expanded).transpose()?;
            match (choose(source.path(), named.as_deref(), &exclude_files), exclude_file) {
                (Some(chosen), _) => {
                    let shown = text(py, chosen.as_os_str().as_bytes())?;
                    log.call_method1("info", ("Using %s to exclude files.", shown))?;
                    excludes = Patterns::read(&chosen, settings.is("wide_exclude", false)?).map_err(raised)?;
                }
                (None, Some(named)) => {
                    let why = (ENOENT, "No such exclude file", named.clone().unbind());
                    return Err(PyFileNotFoundError::new_err(why));
                }
                (None, None) => {}
            }
        }
        let name = settings.text("encryption")?;
        let container = Container::of_name(name.as_deref().unwrap_or("blowfish")).map_err(|_| {
            let name = name.as_deref().unwrap_or_default();
            let text = format!("encryption must be age or blowfish in the profile, not {name}");
            user_error(py, "BakthatError", &text)
        })?;
        Ok(Self { source, excludes, container, as_tree, log: log.clone().unbind() })
    }

    #[getter]
    fn arcname<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        text(py, self.source.arcname())
    }

    #[getter]
    fn base<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        text(py, self.source.base())
    }

    #[getter]
    fn kind(&self) -> &'static str {
        self.source.kind()
    }

    /// What a password adds to the stored name; refuses what cannot be one before any work is done.
    fn container_ending(&self, py: Python<'_>, password: &Bound<'_, PyAny>) -> PyResult<&'static str> {
        if !password.is_truthy()? {
            return Ok("");
        }
        if self.as_tree {
            let text = "The password is not used: the repository encrypts everything with its own";
            self.log.call_method1(py, "warning", (text,))?;
            return Ok("");
        }
        if self.container == Container::Blowfish && self::password(password)?.len() > LONGEST_FOR_BLOWFISH {
            let text = "A password for Blowfish has at most 56 bytes: use a shorter one, or encryption: age";
            return Err(user_error(py, "BadValue", text));
        }
        Ok(self.container.ending())
    }

    /// The path of the object's bytes: the file itself, or one made in a folder. `weak` is called before Blowfish is used.
    fn payload<'py>(
        &self,
        folder: &Bound<'py, PyAny>,
        password: &Bound<'py, PyAny>,
        weak: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = folder.py();
        let folder = path(folder)?;
        let (archive, sealed) = (folder.join("archive"), folder.join("encrypted"));
        let excluded = log_excluded(self.log.bind(py))?;
        self.log.call_method1(py, "info", (self.source.step(),))?;
        let made = run(py, None, Some(excluded.as_any()), |control, names| {
            self.source.object(&archive, &self.excludes, control, &mut told(names))
        })?;
        if !password.is_truthy()? {
            return text(py, made.as_os_str().as_bytes());
        }
        self.log.call_method1(py, "info", ("Encrypting...",))?;
        if self.container == Container::Blowfish {
            weak.call0()?;
        }
        let password = self::password(password)?;
        run(py, None, None, |control, _| container::encrypt_file(&made, &sealed, &password, self.container, control))?;
        if made == archive {
            std::fs::remove_file(&archive)?;
        }
        text(py, sealed.as_os_str().as_bytes())
    }

    /// Stores the files themselves in a repository.
    fn save(
        &self,
        py: Python<'_>,
        repository: &Bound<'_, Repository>,
        stored_filename: String,
        tags: Vec<String>,
        host: Option<String>,
        time: f64,
    ) -> PyResult<u64> {
        let engine = repository.get().made(py)?;
        let saving = Saving { stored_name: &stored_filename, tags: &tags, host: host.as_deref(), time };
        let file = self.source.path();
        if self.source.precompressed() {
            match run(py, None, None, |control, _| engine.backup_tar(file, &saving, control)) {
                Err(error) if error.is_instance_of::<NativeError>(py) => {
                    let shown = text(py, file.as_os_str().as_bytes())?;
                    let line = "%s is stored as a file, since it is no archive: %s";
                    self.log.call_method1(py, "warning", (line, shown, error.value(py)))?;
                }
                done => return done,
            }
        }
        let excluded = log_excluded(self.log.bind(py))?;
        run(py, None, Some(excluded.as_any()), |control, names| {
            engine.backup(file, self.source.arcname(), &self.excludes, &saving, control, &told(names))
        })
    }
}

/// A path to what a backend downloaded: of the open file itself, whatever its name, or of a copy in `aside`.
fn path_of(found: &Bound<'_, PyAny>, aside: &Path) -> PyResult<PathBuf> {
    let io = found.py().import("io")?;
    // What such a file reads is what its descriptor has; others may decompress, or join pieces.
    if found.is_instance(&io.getattr("BufferedReader")?)?
        && found.getattr("raw")?.is_instance(&io.getattr("FileIO")?)?
    {
        let own = PathBuf::from(format!("/proc/self/fd/{}", found.call_method0("fileno")?));
        if own.is_file() {
            return Ok(own);
        }
    }
    let copy = aside.join("downloaded");
    copy_from(found, &copy)?;
    Ok(copy)
}

/// Writes what is left of a file of Python's to one of ours.
pub(super) fn copy_from(file: &Bound<'_, PyAny>, out: &Path) -> PyResult<()> {
    let mut copy = std::fs::File::create(out)?;
    loop {
        let piece = file.call_method1("read", (1_usize << 20,))?;
        let piece = piece.cast::<PyBytes>()?.as_bytes();
        if piece.is_empty() {
            return Ok(());
        }
        std::io::Write::write_all(&mut copy, piece)?;
    }
}

/// A folder that goes when it is dropped, where Python would have it.
pub(super) fn temporary_folder(py: Python<'_>) -> PyResult<tempfile::TempDir> {
    let place = path(&py.import("tempfile")?.call_method0("gettempdir")?)?;
    Ok(tempfile::Builder::new().prefix("bakthat_").tempdir_in(place)?)
}

/// What a record of the table `backups` says of its object.
struct Stored {
    stored_name: String,
    name: String,
    password: Option<Vec<u8>>,
    is_value: bool,
    is_gzipped: bool,
}

impl Stored {
    fn of(record: &Bound<'_, PyAny>, password: &Bound<'_, PyAny>) -> PyResult<Self> {
        let stored_name: String = record.getattr("stored_filename")?.extract()?;
        let metadata = record.getattr("metadata")?;
        let is_value = metadata.is_truthy()? && metadata.call_method1("get", ("KeyValue",))?.is_truthy()?;
        let encrypted = record.call_method0("is_encrypted")?.is_truthy()?;
        Ok(Self {
            name: if is_value { stored_name.clone() } else { record.getattr("filename")?.extract()? },
            stored_name,
            password: encrypted.then(|| self::password(password)).transpose()?,
            is_value,
            is_gzipped: record.call_method0("is_gzipped")?.is_truthy()?,
        })
    }

    fn object(&self) -> Object<'_> {
        Object {
            stored_name: &self.stored_name,
            name: &self.name,
            password: self.password.as_deref(),
            is_value: self.is_value,
            is_gzipped: self.is_gzipped,
        }
    }
}

/// Puts what a backend downloaded for a record into a folder: decrypted, unpacked. `aside` is a folder for what is needed
/// meanwhile; the steps are told to a logger.
#[pyfunction]
pub(super) fn put_in_place(
    record: &Bound<'_, PyAny>,
    found: &Bound<'_, PyAny>,
    password: &Bound<'_, PyAny>,
    aside: &Bound<'_, PyAny>,
    folder: &Bound<'_, PyAny>,
    log: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let py = record.py();
    let (aside, folder) = (path(aside)?, path(folder)?);
    let (stored, from) = (Stored::of(record, password)?, path_of(found, &aside)?);
    let log = log.clone().unbind();
    let logged = move |line: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| {
        log.call_method1(line.py(), "info", (line.get_item(0)?.call_method0("decode")?,)).map(drop)
    };
    let logged = PyCFunction::new_closure(py, None, None, logged)?;
    run(py, None, Some(logged.as_any()), |control, lines| {
        let told = told(lines);
        stored.object().put_in_place(&from, &aside, &folder, &mut |step| told(step.as_bytes()), control)
    })
}

/// The path of the archive that a backend downloaded for a record, decrypted; a single file becomes a member of one, of
/// that time.
#[pyfunction]
pub(super) fn as_archive<'py>(
    record: &Bound<'py, PyAny>,
    found: &Bound<'py, PyAny>,
    password: &Bound<'py, PyAny>,
    aside: &Bound<'py, PyAny>,
    time: f64,
) -> PyResult<Bound<'py, PyAny>> {
    let aside = path(aside)?;
    let (stored, from) = (Stored::of(record, password)?, path_of(found, &aside)?);
    let made = run(found.py(), None, None, |control, _| stored.object().as_archive(&from, &aside, time, control))?;
    text(found.py(), made.as_os_str().as_bytes())
}

/// The names of members that an archive, and one that a backend downloaded, do not have alike.
#[pyfunction]
pub(super) fn differing_members(archive: &Bound<'_, PyAny>, found: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
    let py = archive.py();
    let aside = temporary_folder(py)?;
    let (archive, other) = (path(archive)?, path_of(found, aside.path())?);
    run(py, None, None, move |control, _| restored::differing_members(&archive, &other, control))
}

/// Writes a file or a folder as a GNU tar, in gzip unless `compress` is false.
#[pyfunction]
#[pyo3(signature = (source, arcname, out, *, exclude=None, compress=true, excluded=None))]
pub(super) fn write_archive(
    source: &Bound<'_, PyAny>,
    arcname: &Bound<'_, PyAny>,
    out: &Bound<'_, PyAny>,
    exclude: Option<&Bound<'_, Excludes>>,
    compress: bool,
    excluded: Option<&Bound<'_, PyAny>>,
) -> PyResult<u64> {
    let py = source.py();
    let (source, out, arcname) = (path(source)?, path(out)?, file_system_bytes(arcname)?);
    let excludes = patterns(exclude);
    run(py, None, excluded, move |control, names| {
        let options = archive::ArchiveOptions { arcname: &arcname, excludes: &excludes, compress };
        archive::write_archive(&source, &out, &options, control, &mut told(names))
    })
}

fn encrypted(py: Python<'_>, source: &Path, out: &Path, password: &[u8], container: &str) -> PyResult<u64> {
    let container = Container::of_name(container).map_err(|error| PyValueError::new_err(error.to_string()))?;
    if container == Container::Blowfish && password.len() > LONGEST_FOR_BLOWFISH {
        let text = format!("the password has {} bytes: Blowfish takes 56 at most", password.len());
        return Err(PyValueError::new_err(text));
    }
    run(py, None, None, |control, _| container::encrypt_file(source, out, password, container, control))
}

/// Encrypts a file: `container` is `blowfish` or `age`.
#[pyfunction]
#[pyo3(signature = (source, out, password, *, container="blowfish"))]
pub(super) fn encrypt_file(
    py: Python<'_>,
    source: &Bound<'_, PyAny>,
    out: &Bound<'_, PyAny>,
    password: &Bound<'_, PyAny>,
    container: &str,
) -> PyResult<u64> {
    encrypted(py, &path(source)?, &path(out)?, &self::password(password)?, container)
}

/// Decrypts a file, and says which container it was in.
#[pyfunction]
pub(super) fn decrypt_file(
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

/// What `work` writes to a file out of a file with these bytes.
fn through_files<'py>(
    py: Python<'py>,
    data: &[u8],
    work: impl FnOnce(&Path, &Path) -> PyResult<()>,
) -> PyResult<Bound<'py, PyBytes>> {
    let folder = temporary_folder(py)?;
    let (source, out) = (folder.path().join("source"), folder.path().join("out"));
    std::fs::write(&source, data)?;
    work(&source, &out)?;
    Ok(PyBytes::new(py, &std::fs::read(&out)?))
}

/// Encrypts bytes, as `encrypt_file` does a file's.
#[pyfunction]
#[pyo3(signature = (data, password, *, container="blowfish"))]
pub(super) fn encrypt<'py>(
    py: Python<'py>,
    data: &[u8],
    password: &Bound<'py, PyAny>,
    container: &str,
) -> PyResult<Bound<'py, PyBytes>> {
    let password = self::password(password)?;
    through_files(py, data, |source, out| encrypted(py, source, out, &password, container).map(drop))
}

/// Decrypts bytes, as `decrypt_file` does a file's.
#[pyfunction]
pub(super) fn decrypt<'py>(
    py: Python<'py>,
    data: &[u8],
    password: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyBytes>> {
    let password = self::password(password)?;
    through_files(py, data, |source, out| {
        run(py, None, None, |control, _| container::decrypt_file(source, out, &password, control).map(drop))
    })
}

/// Puts bytes in the place of a file at once, readable by its owner only.
#[pyfunction]
pub(super) fn replace_private(path: &Bound<'_, PyAny>, data: &[u8]) -> PyResult<()> {
    let path = PathBuf::from(OsStr::from_bytes(&file_system_bytes(path)?));
    output::replace_private(&path, data).map_err(raised)
}
