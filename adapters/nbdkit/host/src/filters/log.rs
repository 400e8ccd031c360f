//! The filter `log`: every call as a line of a file, or as a call of a script, in nbdkit's format.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backstay_core::{
    Client, Disk, DiskError, Export, Extent, OpenDisk, OpenError, ReadBytes, RequestFlags, Support, ThreadModel,
};
use jiff::Zoned;
use parking_lot::Mutex;

use crate::filter::Filter;
use crate::layer::{Layer, Layered, OpenLayer, cut};
use crate::log::error;
use crate::plugin::Step;
use crate::process;
use crate::values::Given;

/// Its name.
const NAME: &str = "log";
/// What it takes.
pub(super) const PARAMETERS: &[&str] = &["logfile", "logfd", "logappend", "logscript"];

/// The filter.
#[derive(Default)]
pub(super) struct Log {
    path: Option<PathBuf>,
    append: bool,
    file: Option<File>,
    script: Option<OsString>,
}

impl Filter for Log {
    fn name(&self) -> &'static str {
        NAME
    }

    fn help(&self) -> &'static str {
        "\
         logfile=<PATH>        Where the lines go\n\
         logfd=<FD>\n\
         logappend=true|false  [default: false]\n\
         logscript=<SCRIPT>    Called instead, with the parts as variables\n"
    }

    fn config(&mut self, key: &str, value: &OsStr) -> Step<bool> {
        let given = Given { owner: NAME, key, value };
        match key {
            "logfile" => self.path = Some(given.path()?),
            "logfd" => {
                let number = given.number(3, i32::MAX as u64)? as i32;
                self.file = Some(process::take_over(number).map_err(|error| given.wrong(error))?.into());
            }
            "logappend" => self.append = given.boolean()?,
            "logscript" => self.script = Some(value.to_owned()),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn config_complete(&mut self) -> Step<()> {
        if self.path.is_some() && self.file.is_some() {
            return Err("log: give logfile=PATH or logfd=NUMBER, not both".to_owned().into());
        }
        Ok(())
    }

    fn get_ready(&mut self) -> Step<()> {
        if let Some(path) = &self.path {
            let mut options = OpenOptions::new();
            options.create(true).write(true).append(self.append).truncate(!self.append);
            let file = options.open(path);
            self.file = Some(file.map_err(|error| format!("{NAME}: logfile={}: {error}", path.display()))?);
        }
        Ok(())
    }

    fn wrap(self: Box<Self>, disk: Arc<dyn Disk>) -> Step<Arc<dyn Disk>> {
        let journal = Journal { file: self.file.map(Mutex::new), script: self.script, calls: AtomicU64::new(0) };
        let model = match disk.threads() {
            ThreadModel::SerializeConnections => 0,
            ThreadModel::SerializeAllRequests => 1,
            ThreadModel::SerializeRequests => 2,
            ThreadModel::Parallel => 3,
        };
        journal.print(None, "Ready", &[("thread_model", model.to_string())]);
        journal.print(None, "Fork", &[]);
        Ok(Arc::new(Layered(Front { disk, journal: Arc::new(journal) })))
    }
}

/// What is said of a call besides its name.
type Field = (&'static str, String);

/// Which half of a call a line is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Enter,
    Leave,
    /// It has no halves.
    Print,
}

/// Where the lines go.
struct Journal {
    file: Option<Mutex<File>>,
    script: Option<OsString>,
    /// Calls outside of connections.
    calls: AtomicU64,
}

impl Journal {
    fn print(&self, connection: Option<u64>, act: &str, fields: &[Field]) {
        self.record(connection, act, None, Half::Print, fields);
    }

    fn record(&self, connection: Option<u64>, act: &str, id: Option<u64>, half: Half, fields: &[Field]) {
        if let Some(file) = &self.file {
            let line = line(connection, act, id, half, fields);
            // A full disk must not stop what is logged.
            let _ = file.lock().write_all(line.as_bytes());
        }
        if let Some(script) = &self.script {
            run(script, connection, act, id, half, fields);
        }
    }

    /// A call with its two lines; `left` says what comes of it.
    fn call<T, E: Name>(
        &self,
        connection: Option<u64>,
        act: &str,
        id: u64,
        fields: &[Field],
        call: impl FnOnce() -> Result<T, E>,
        left: impl FnOnce(&T) -> Vec<Field>,
    ) -> Result<T, E> {
        self.record(connection, act, Some(id), Half::Enter, fields);
        let result = call();
        let fields = match &result {
            Ok(value) => {
                let mut fields = left(value);
                fields.push(("return", "0".to_owned()));
                fields
            }
            Err(error) => {
                let mut fields = vec![("return", "-1".to_owned())];
                fields.extend(error.name().map(|name| ("error", name)));
                fields
            }
        };
        self.record(connection, act, Some(id), Half::Leave, &fields);
        result
    }
}

/// An error as a line has it.
trait Name {
    fn name(&self) -> Option<String>;
}

impl Name for DiskError {
    fn name(&self) -> Option<String> {
        let name = match self.0 {
            libc::EPERM => "EPERM",
            libc::EIO => "EIO",
            libc::ENOMEM => "ENOMEM",
            libc::EINVAL => "EINVAL",
            libc::ENOSPC => "ENOSPC",
            libc::ESHUTDOWN => "ESHUTDOWN",
            libc::EOPNOTSUPP => "ENOTSUP",
            libc::EOVERFLOW => "EOVERFLOW",
            libc::EROFS => "EROFS",
            libc::EFBIG => "EFBIG",
            libc::ENOENT => "ENOENT",
            libc::EACCES => "EACCES",
            other => return Some(other.to_string()),
        };
        Some(name.to_owned())
    }
}

impl Name for String {
    fn name(&self) -> Option<String> {
        None
    }
}

fn line(connection: Option<u64>, act: &str, id: Option<u64>, half: Half, fields: &[Field]) -> String {
    let mut line = Zoned::now().strftime("%Y-%m-%d %H:%M:%S%.6f").to_string();
    if let Some(number) = connection {
        line += &format!(" connection={number}");
    }
    line += if half == Half::Leave { " ..." } else { " " };
    line += act;
    if let Some(id) = id {
        line += &format!(" id={id}");
    }
    for (key, value) in fields {
        line += &format!(" {key}={value}");
    }
    line += if half == Half::Enter { " ...\n" } else { "\n" };
    line
}

/// Runs the script and waits for it; what becomes of it changes nothing.
fn run(script: &OsStr, connection: Option<u64>, act: &str, id: Option<u64>, half: Half, fields: &[Field]) {
    let half = match half {
        Half::Enter => "ENTER",
        Half::Leave => "LEAVE",
        Half::Print => "PRINT",
    };
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(script).stdin(Stdio::null()).stdout(Stdio::null());
    command.env("act", act).env("type", half);
    let numbers = [("connection", connection), ("id", id)];
    numbers.into_iter().filter_map(|(key, number)| Some((key, number?))).for_each(|(key, number)| {
        command.env(key, number.to_string());
    });
    fields.iter().for_each(|(key, value)| {
        command.env(key, value);
    });
    if let Err(reason) = command.status() {
        error(None, &format!("{NAME}: logscript: {reason}"));
    }
}

/// Text as a shell reads it.
fn quoted(text: &[u8]) -> String {
    let mut quoted = String::from("\"");
    for letter in String::from_utf8_lossy(text).chars() {
        if matches!(letter, '"' | '\\' | '$' | '`') {
            quoted.push('\\');
        }
        match letter {
            '\n' => quoted += "\\n",
            letter => quoted.push(letter),
        }
    }
    quoted + "\""
}

fn hex(number: u64) -> String {
    format!("{number:#x}")
}

fn bit(set: bool) -> String {
    u8::from(set).to_string()
}

fn support(support: Support) -> String {
    (support as u8).to_string()
}

struct Front {
    disk: Arc<dyn Disk>,
    journal: Arc<Journal>,
}

impl Front {
    fn next(&self) -> u64 {
        self.journal.calls.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Layer for Front {
    fn below(&self) -> &dyn Disk {
        &*self.disk
    }

    fn preconnect(&self, client: &Client) -> Result<(), String> {
        let fields = [("readonly", bit(client.read_only))];
        let call = || self.disk.preconnect(client);
        self.journal.call(None, "Preconnect", self.next(), &fields, call, |()| Vec::new())
    }

    fn exports(&self, client: &Client) -> Result<Vec<Export>, String> {
        let fields = [("readonly", bit(client.read_only)), ("tls", bit(client.tls))];
        let call = || self.disk.exports(client);
        self.journal.call(None, "ListExports", self.next(), &fields, call, |exports| {
            let names: Vec<_> = exports.iter().map(|export| quoted(&export.name)).collect();
            vec![("exports", format!("({})", names.join(" ")))]
        })
    }

    fn open(&self, export: &[u8], client: &Client) -> Result<Box<dyn OpenDisk>, OpenError> {
        let disk = self.disk.open(export, client)?;
        let info = disk.info();
        let writes = info.can_write && !client.read_only;
        let sizes = disk.block_size().map_err(OpenError::Close)?;
        let (least, best, most) = sizes.map_or((0, 0, 0), |sizes| (sizes.minimum, sizes.preferred, sizes.maximum));
        let fields = [
            ("export", quoted(export)),
            ("tls", bit(client.tls)),
            ("size", hex(info.size)),
            ("minsize", hex(least.into())),
            ("prefsize", hex(best.into())),
            ("maxsize", hex(most.into())),
            ("write", bit(writes)),
            ("flush", bit(info.can_flush)),
            ("rotational", bit(info.is_rotational)),
            ("trim", bit(writes && info.can_trim)),
            ("zero", support(if writes && info.can_zero { Support::Native } else { Support::None })),
            ("fua", support(if writes { info.fua } else { Support::None })),
            ("extents", bit(info.can_extents)),
            ("cache", support(info.cache)),
            ("fast_zero", bit(writes && info.can_fast_zero)),
        ];
        self.journal.print(Some(client.number), "Connect", &fields);
        let journal = Arc::clone(&self.journal);
        Ok(Box::new(Layered(Open { disk, journal, connection: client.number, calls: AtomicU64::new(0) })))
    }
}

struct Open {
    disk: Box<dyn OpenDisk>,
    journal: Arc<Journal>,
    connection: u64,
    calls: AtomicU64,
}

impl Open {
    fn call<T>(
        &self,
        act: &str,
        fields: &[Field],
        call: impl FnOnce() -> Result<T, DiskError>,
        left: impl FnOnce(&T) -> Vec<Field>,
    ) -> Result<T, DiskError> {
        let id = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        self.journal.call(Some(self.connection), act, id, fields, call, left)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let transactions = self.calls.load(Ordering::Relaxed).to_string();
        self.journal.print(Some(self.connection), "Disconnect", &[("transactions", transactions)]);
    }
}

/// Offset and length of a call.
fn range(offset: u64, length: u64) -> Vec<Field> {
    vec![("offset", hex(offset)), ("count", hex(length))]
}

fn with(mut fields: Vec<Field>, more: &[(&'static str, bool)]) -> Vec<Field> {
    fields.extend(more.iter().map(|(key, set)| (*key, bit(*set))));
    fields
}

impl OpenLayer for Open {
    fn below(&self) -> &dyn OpenDisk {
        &*self.disk
    }

    fn read(&self, offset: u64, length: usize) -> Result<ReadBytes, DiskError> {
        self.call("Read", &range(offset, length as u64), || self.disk.read(offset, length), |_| Vec::new())
    }

    fn write(&self, offset: u64, data: &[u8], flags: RequestFlags) -> Result<(), DiskError> {
        let fields = with(range(offset, data.len() as u64), &[("fua", flags.fua)]);
        self.call("Write", &fields, || self.disk.write(offset, data, flags), |()| Vec::new())
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.call("Flush", &[], || self.disk.flush(), |()| Vec::new())
    }

    fn trim(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        let fields = with(range(offset, length), &[("fua", flags.fua)]);
        self.call("Trim", &fields, || self.disk.trim(offset, length, flags), |()| Vec::new())
    }

    fn zero(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<(), DiskError> {
        let more = [("trim", flags.may_trim), ("fua", flags.fua), ("fast", flags.fast_zero)];
        self.call(
            "Zero",
            &with(range(offset, length), &more),
            || self.disk.zero(offset, length, flags),
            |()| Vec::new(),
        )
    }

    fn cache(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.call("Cache", &range(offset, length), || self.disk.cache(offset, length), |()| Vec::new())
    }

    fn extents(&self, offset: u64, length: u64, flags: RequestFlags) -> Result<Vec<Extent>, DiskError> {
        let fields = with(range(offset, length), &[("req_one", flags.one)]);
        self.call(
            "Extents",
            &fields,
            || self.disk.extents(offset, length, flags),
            |extents| {
                let size = self.disk.info().size;
                let shown = cut(extents.clone(), offset, size - offset).map(|extent| {
                    let kind = match (extent.hole, extent.zero) {
                        (true, true) => " \"hole,zero\"",
                        (true, false) => " \"hole\"",
                        (false, true) => " \"zero\"",
                        (false, false) => " \"\"",
                    };
                    hex(extent.offset) + " " + &hex(extent.length) + kind
                });
                vec![("extents", format!("({})", shown.collect::<Vec<_>>().join(" ")))]
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{filtered, half_full, refusal};

    /// Lines without their times.
    fn lines(path: &std::path::Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| line.splitn(3, ' ').nth(2).unwrap().to_owned()).collect()
    }

    #[test]
    fn every_call_has_its_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let disk = filtered(Log::default(), &[("logfile", path.to_str().unwrap())], half_full(1 << 17).0).unwrap();
        let client = Client { number: 3, ..Client::default() };
        disk.preconnect(&client).unwrap();
        disk.exports(&client).unwrap();
        let open = disk.open(b"a\"b", &client).unwrap();
        let flags = RequestFlags::default();
        drop(open.read(0, 512).unwrap());
        open.write(512, &[0; 16], RequestFlags { fua: true, ..flags }).unwrap();
        open.zero(0, 4096, RequestFlags { may_trim: true, ..flags }).unwrap();
        open.extents(65536, 4096, flags).unwrap();
        open.flush().unwrap();
        drop(open);
        assert_eq!(
            lines(&path),
            [
                "Ready thread_model=3",
                "Fork",
                "Preconnect id=1 readonly=0 ...",
                "...Preconnect id=1 return=0",
                "ListExports id=2 readonly=0 tls=0 ...",
                "...ListExports id=2 exports=(\"\") return=0",
                "connection=3 Connect export=\"a\\\"b\" tls=0 size=0x20000 minsize=0x0 prefsize=0x0 maxsize=0x0 write=1 flush=1 \
                 rotational=0 trim=1 zero=2 fua=2 extents=1 cache=2 fast_zero=1",
                "connection=3 Read id=1 offset=0x0 count=0x200 ...",
                "connection=3 ...Read id=1 return=0",
                "connection=3 Write id=2 offset=0x200 count=0x10 fua=1 ...",
                "connection=3 ...Write id=2 return=0",
                "connection=3 Zero id=3 offset=0x0 count=0x1000 trim=1 fua=0 fast=0 ...",
                "connection=3 ...Zero id=3 return=0",
                "connection=3 Extents id=4 offset=0x10000 count=0x1000 req_one=0 ...",
                "connection=3 ...Extents id=4 extents=(0x10000 0x1000 \"hole,zero\") return=0",
                "connection=3 Flush id=5 ...",
                "connection=3 ...Flush id=5 return=0",
                "connection=3 Disconnect transactions=5",
            ]
        );
    }

    #[test]
    fn a_log_is_begun_anew_or_continued() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        for (append, count) in [("false", 2), ("true", 4), ("no", 2)] {
            let parameters = [("logfile", path.to_str().unwrap()), ("logappend", append)];
            drop(filtered(Log::default(), &parameters, half_full(1).0).unwrap());
            assert_eq!(lines(&path).len(), count, "{append}");
        }
    }

    #[test]
    fn a_script_is_told_every_call() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("said");
        let script = format!("echo $type $act $connection $id $offset $count $return $error >> {}", path.display());
        let disk = filtered(Log::default(), &[("logscript", &script)], half_full(4096).0).unwrap();
        let open = disk.open(b"", &Client { number: 1, ..Client::default() }).unwrap();
        drop(open.read(16, 32).unwrap());
        let said = std::fs::read_to_string(&path).unwrap();
        assert!(said.ends_with("ENTER Read 1 1 0x10 0x20\nLEAVE Read 1 1 0\n"), "{said}");
    }

    #[test]
    fn wrong_parameters_are_refused() {
        let refused = |parameters: &[(&str, &str)]| refusal(filtered(Log::default(), parameters, half_full(1).0));
        assert!(refused(&[("logfile", "/nonexistent/log")]).starts_with("log: logfile=/nonexistent/log: "));
        assert!(refused(&[("logappend", "x")]).contains("true or false"));
        assert!(refused(&[("logfd", "1")]).contains("from 3"));
    }
}
