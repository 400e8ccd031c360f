//! Tries a plugin out, check by check, without a database: what authors of plugins want to know before gpbackup tells them.
//!
//! Each check is one behaviour that gpbackup, gprestore or a manager relies on (reference 12, 14, 15). They run in one order, on
//! timestamps that no clock gives, and delete at the end what they stored.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::Signal;

use crate::Failure;
use crate::config::UserConfig;
use crate::key::{Key, Timestamp, directory};
use crate::plugin::{Fingerprint, Plugin, Purpose, Settings, at_once, fingerprint_of};
use crate::process::{Ended, Input, Limits, Output, run, words};
use crate::version::ApiVersion;

/// How much is tried.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of a big stream.
    pub size: u64,
    /// Segments at once.
    pub segments: u16,
    /// When a process has had its time.
    pub limits: Limits,
}

impl Default for Options {
    /// Three segments with 4 MiB each.
    fn default() -> Self {
        Self { size: 4 << 20, segments: 3, limits: Limits::default() }
    }
}

/// How a check came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Good,
    /// Otherwise: what happened.
    Failed(String),
    /// It was not tried: why.
    Skipped(String),
}

/// A check that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name: a word for scripts.
    pub name: &'static str,
    /// What should be.
    pub what: &'static str,
    /// What is.
    pub outcome: Outcome,
}

enum Problem {
    Failed(String),
    Skipped(String),
    /// A process did not end: whatever comes next would take as long.
    Hung(String),
    Interrupted,
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Interrupted => Self::Interrupted,
            Failure::Hung { .. } => Self::Hung(failure.to_string()),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Failed(format!("a file for the test: {error}"))
    }
}

type Result<T = (), E = Problem> = std::result::Result<T, E>;

fn failed<T>(text: impl Into<String>) -> Result<T> {
    Err(Problem::Failed(text.into()))
}

type One = (&'static str, &'static str, fn(&Bench) -> Result);

const LAST: &str = "all-deleted";

const CHECKS: &[One] = &[
    ("version-text", "the version of the contract is one that gpbackup's own bench accepts", version_text),
    ("unknown-command", "an unknown command fails and prints nothing", unknown_command),
    ("missing-arguments", "commands that lack an argument fail", missing_arguments),
    ("no-configuration", "commands with a configuration that is not there fail", no_configuration),
    ("setup-hooks", "the setup hooks of a backup succeed in all scopes", setup_hooks),
    ("hook-forms", "hooks take every form of scope and content", hook_forms),
    ("hooks-at-once", "hooks succeed many at once and again", hooks_at_once),
    ("file", "a file comes back, to another folder and over an older one, and the local one stays as it is", file),
    ("streams-at-once", "big streams of several segments at once come back", streams_at_once),
    ("many-at-once", "sixteen streams at once into one backup come back", many_at_once),
    ("stream-empty", "an empty stream comes back", stream_empty),
    ("streams-small", "streams around the sizes of pipes and buffers come back", streams_small),
    ("slow-writer", "a writer that pauses is waited for", slow_writer),
    ("one-name-space", "a stored file is read as a stream, a stored stream as a file", one_name_space),
    ("key-reduction", "an object is found from any data directory", key_reduction),
    ("overwrite", "of two objects under one key the later one counts, whole", overwrite),
    ("missing-object", "an object that is not there fails, without a byte and without a file", missing_object),
    ("missing-file", "a local file that is not there fails, and stores nothing", missing_file),
    ("odd-keys", "a key that is no path of an object fails, without a byte", odd_keys),
    ("killed", "a stream whose process was killed cannot be read, and can be stored again", killed),
    ("killed-overwrite", "a killed overwrite leaves the older object whole, or none", killed_overwrite),
    ("terminated", "SIGTERM ends a stream, which then cannot be read", terminated),
    ("reader-gone", "a reader that goes away ends the process and harms nothing", reader_gone),
    ("restore-hooks", "the setup hooks of a restore succeed in all scopes", restore_hooks),
    ("cleanup-hooks", "the cleanup hooks succeed and delete nothing", cleanup_hooks),
    ("no-setup", "storing and reading need no hook before", no_setup),
    ("ranges", "restore_data_subset gives the ranges asked for", ranges),
    ("list-directory", "list_directory succeeds", list_directory),
    ("neighbours", "delete_backup removes one backup and none of its neighbours", neighbours),
    ("delete-beside", "deleting a backup leaves another alone that is being stored", delete_beside),
    ("delete-again", "deleting again, and what never was, succeeds; so does cleanup after it", delete_again),
    ("malformed-timestamps", "delete_backup refuses what is no timestamp and deletes nothing", malformed_timestamps),
    ("silence", "restore_data wrote nothing to standard error where it succeeded", silence),
    (LAST, "everything that this test stored is deleted", all_deleted),
];

/// Tries a plugin, tells each check as it is done, and says whether none failed.
///
/// `folder` is the local root; it is to be the caller's alone.
///
/// # Errors
/// [`Failure::Interrupted`].
pub fn try_out(
    config: &UserConfig,
    folder: &Path,
    options: &Options,
    tell: &mut dyn FnMut(&Check),
) -> std::result::Result<bool, Failure> {
    let mut good = true;
    let mut say = |name, what, outcome: Outcome| {
        good &= !matches!(outcome, Outcome::Failed(_));
        tell(&Check { name, what, outcome });
    };
    let settings = Settings { limits: options.limits.clone(), port: 6000, recorded_version: String::new() };
    let what = "the plugin tells its versions, and they can be used";
    let plugin = match Plugin::open(config, folder, settings) {
        Ok(plugin) => plugin,
        Err(Failure::Interrupted) => return Err(Failure::Interrupted),
        Err(failure) => {
            say("versions", what, Outcome::Failed(failure.to_string()));
            for (name, what, _) in CHECKS {
                say(name, what, Outcome::Skipped("the plugin cannot be used".to_owned()));
            }
            return Ok(false);
        }
    };
    say("versions", what, Outcome::Good);
    let bench = Bench::new(plugin, config, options)?;
    let mut hung = false;
    for (name, what, check) in CHECKS {
        // What was stored is deleted in any case.
        let outcome = if hung && *name != LAST {
            Outcome::Skipped("a command before it did not end".to_owned())
        } else {
            match check(&bench) {
                Ok(()) => Outcome::Good,
                Err(Problem::Failed(text)) => Outcome::Failed(text),
                Err(Problem::Skipped(text)) => Outcome::Skipped(text),
                Err(Problem::Hung(text)) => {
                    hung = true;
                    Outcome::Failed(text)
                }
                Err(Problem::Interrupted) => return Err(Failure::Interrupted),
            }
        };
        say(name, what, outcome);
    }
    Ok(good)
}

struct Bench {
    plugin: Plugin,
    executable: PathBuf,
    size: u64,
    segments: u16,
    main: Timestamp,
    /// Three in a row, between the second and the third of which the date changes.
    row: [Timestamp; 3],
    never: Timestamp,
    noise: Mutex<Option<String>>,
}

impl Bench {
    fn new(plugin: Plugin, config: &UserConfig, options: &Options) -> std::result::Result<Self, Failure> {
        let mut random = [0; 8];
        getrandom::fill(&mut random)
            .map_err(|error| Failure::refused(format!("the system gives no random numbers: {error}")))?;
        let number = u64::from_le_bytes(random);
        // No calendar has these, so no backup of anybody does.
        let day = 90_000_000 + number % 9_999_900;
        let at = |day: u64, time: u64| {
            let digits = format!("{day}{time:06}");
            let none = || Failure::refused(format!("{digits:?} is no timestamp of 14 digits"));
            Timestamp::parse(&digits).ok_or_else(none)
        };
        Ok(Self {
            executable: config.executable.clone(),
            size: options.size.max(1 << 17),
            segments: options.segments.max(1),
            main: at(day, number / 9_999_900 % 900_000)?,
            row: [at(day, 999_998)?, at(day, 999_999)?, at(day + 1, 0)?],
            never: at(day + 2, 0)?,
            noise: Mutex::new(None),
            plugin,
        })
    }

    fn key(&self, name: &str) -> Result<Key> {
        Ok(Key::new(self.main.clone(), name)?)
    }

    fn path(&self, key: &Key, content: i32) -> PathBuf {
        key.path(&self.plugin.data_directory(content))
    }

    fn put(&self, key: &Key, content: i32, seed: u64, size: u64) -> Result<Fingerprint> {
        let done = self.plugin.put(key, content, &mut Pattern::new(seed, size))?;
        Ok(done.value)
    }

    fn get(&self, key: &Key, content: i32, expected: &Fingerprint) -> Result {
        let done = self.plugin.get(key, content, expected, &mut io::sink())?;
        if !done.said.is_empty() {
            let mut noise = self.noise.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            noise.get_or_insert(done.said);
        }
        Ok(())
    }

    fn put_file(&self, key: &Key, content: i32, text: &str) -> Result<Fingerprint> {
        let path = self.path(key, content);
        make_parent(&path)?;
        std::fs::write(&path, text)?;
        Ok(self.plugin.put_file(key, content)?.value)
    }

    fn call(&self, command: &str, rest: &[OsString], input: Input<'_>, output: Output<'_>) -> Result<Ended> {
        Ok(self.plugin.call(command, rest, input, output)?.1)
    }

    /// The key gives an error and not a byte.
    fn is_not_readable(&self, key: &Key, content: i32) -> Result {
        let path = self.path(key, content).into_os_string();
        let ended = self.call("restore_data", &[path], Input::Nothing, Output::Collected)?;
        match (ended.status.success(), ended.given) {
            (false, 0) => Ok(()),
            (false, given) => failed(format!("restore_data of {key} failed, after {given} bytes of something")),
            (true, given) => failed(format!("restore_data of {key} gave {given} bytes and ended with status 0")),
        }
    }

    /// A command is refused.
    fn refuses(&self, command: &str, rest: &[OsString]) -> Result {
        let ended = self.call(command, rest, Input::Nothing, Output::Collected)?;
        if !ended.status.success() {
            return Ok(());
        }
        let rest: Vec<_> = rest.iter().map(|word| format!(" {word:?}")).collect();
        failed(format!("{command} CONFIG{} ended with status 0", rest.concat()))
    }

    fn needs_deletion(&self) -> Result {
        if self.plugin.can_delete() {
            return Ok(());
        }
        Err(Problem::Skipped(format!("version {} of the contract has no delete_backup", self.plugin.api)))
    }
}

fn version_text(bench: &Bench) -> Result {
    let text = bench.plugin.api.to_string();
    // That bench compares texts.
    if text.as_str() >= "0.4.0" {
        return Ok(());
    }
    failed(format!(
        "gpbackup's own bench wants a text that is not before 0.4.0 in the alphabet, and {text} is; print 0.5.0"
    ))
}

fn unknown_command(bench: &Bench) -> Result {
    for word in ["unknown_command", "BACKUP_DATA"] {
        let limits = bench.plugin.limits();
        let ended = run(&bench.executable, &words(&[word]), Input::Nothing, Output::Collected, limits)?;
        if ended.status.success() {
            return failed(format!("{word} ended with status 0"));
        }
        if ended.given > 0 {
            return failed(format!("{word} failed and wrote {} bytes to standard output", ended.given));
        }
    }
    Ok(())
}

fn missing_arguments(bench: &Bench) -> Result {
    ["backup_file", "restore_file", "backup_data", "restore_data"]
        .into_iter()
        .try_for_each(|command| bench.refuses(command, &[]))
}

fn no_configuration(bench: &Bench) -> Result {
    let missing: OsString = bench.plugin.data_directory(-1).with_extension("missing.yaml").into();
    let path = bench.path(&bench.key("no_config")?, 0).into_os_string();
    for command in ["backup_data", "restore_data", "backup_file", "restore_file"] {
        let all = [OsString::from(command), missing.clone(), path.clone()];
        let ended = run(&bench.executable, &all, Input::Nothing, Output::Nothing, bench.plugin.limits())?;
        if ended.status.success() {
            return failed(format!("{command} with a configuration that does not exist ended with status 0"));
        }
    }
    Ok(())
}

fn setup_hooks(bench: &Bench) -> Result {
    Ok(bench.plugin.set_up(Purpose::Backup, &bench.main, bench.segments)?)
}

fn hook_forms(bench: &Bench) -> Result {
    for hook in HOOKS {
        for (scope, content) in [
            ("master", Some("\"-1\"")),
            ("coordinator", Some("\"-1\"")),
            ("master", Some("-1")),
            ("segment_host", None),
            ("segment", Some("\"0\"")),
            ("segment", Some("12")),
        ] {
            let directory = directory(&bench.plugin.data_directory(0), &bench.main);
            let mut rest = vec![directory.into(), scope.into()];
            rest.extend(content.map(OsString::from));
            succeeds(bench, hook, &rest)?;
        }
    }
    Ok(())
}

const HOOKS: [&str; 4] =
    ["setup_plugin_for_backup", "setup_plugin_for_restore", "cleanup_plugin_for_backup", "cleanup_plugin_for_restore"];

fn succeeds(bench: &Bench, command: &str, rest: &[OsString]) -> Result {
    let ended = bench.call(command, rest, Input::Nothing, Output::Nothing)?;
    if ended.status.success() {
        return Ok(());
    }
    let rest: Vec<_> = rest.iter().map(|word| format!(" {}", word.to_string_lossy())).collect();
    let said = if ended.said.is_empty() { String::new() } else { format!("; it said: {}", ended.said) };
    failed(format!("{command}{}: {}{said}", rest.concat(), ended.how()))
}

fn hooks_at_once(bench: &Bench) -> Result {
    for hook in HOOKS {
        let all = at_once(16, |content| {
            let content = content / 2;
            let directory = directory(&bench.plugin.data_directory(content), &bench.main);
            succeeds(bench, hook, &[directory.into(), "segment".into(), format!("\"{content}\"").into()])
        });
        all.into_iter().collect::<Result<Vec<()>>>()?;
    }
    Ok(())
}

fn file(bench: &Bench) -> Result {
    let key = bench.key("bench_file")?;
    let stored = bench.put_file(&key, -1, "a file for a test\n")?;
    bench.plugin.get_file(&key, 7, &stored)?;
    let path = bench.path(&key, 7);
    std::fs::write(&path, "something longer that was there before it came")?;
    bench.plugin.get_file(&key, 7, &stored)?;
    Ok(())
}

fn streams_at_once(bench: &Bench) -> Result {
    let names = |content: i32| bench.key(&format!("gpbackup_{content}_{}", bench.main));
    let stored = at_once(bench.segments, |content| {
        bench.put(&names(content)?, content, content.unsigned_abs().into(), bench.size)
    });
    let stored = stored.into_iter().collect::<Result<Vec<_>>>()?;
    let read = at_once(bench.segments, |content| {
        let expected = stored.get(content.unsigned_abs() as usize).copied();
        expected.map_or(Ok(()), |expected| bench.get(&names(content)?, content, &expected))
    });
    read.into_iter().collect()
}

fn many_at_once(bench: &Bench) -> Result {
    let done = at_once(16, |content| {
        let size = u64::from(content.unsigned_abs()) * 1000;
        let key = bench.key(&format!("bench_many_{content}"))?;
        let stored = bench.put(&key, content, size, size)?;
        bench.get(&key, 0, &stored)
    });
    done.into_iter().collect()
}

fn round_trip(bench: &Bench, name: &str, size: u64) -> Result {
    let key = bench.key(name)?;
    let stored = bench.put(&key, 0, size, size)?;
    bench.get(&key, 0, &stored)
}

fn stream_empty(bench: &Bench) -> Result {
    round_trip(bench, "bench_empty", 0)
}

fn streams_small(bench: &Bench) -> Result {
    [1, 1001, 65_535, 65_536, 65_537].into_iter().try_for_each(|size| round_trip(bench, &format!("bench_{size}"), size))
}

fn slow_writer(bench: &Bench) -> Result {
    struct Slow(Pattern, Vec<usize>);
    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            std::thread::sleep(Duration::from_millis(250));
            let size = self.1.pop().unwrap_or(0).min(buffer.len());
            self.0.read(&mut buffer[..size])
        }
    }
    let key = bench.key("bench_slow")?;
    let mut slow = Slow(Pattern::new(5, u64::MAX), vec![1, 1, 4096, 60_000, 1]);
    let stored = bench.plugin.put(&key, 0, &mut slow)?.value;
    bench.get(&key, 0, &stored)
}

fn one_name_space(bench: &Bench) -> Result {
    let key = bench.key("bench_file_as_stream")?;
    let stored = bench.put_file(&key, -1, "a report\n")?;
    bench.get(&key, -1, &stored)?;
    let key = bench.key("bench_stream_as_file")?;
    let stored = bench.put(&key, 0, 9, 70_000)?;
    bench.plugin.get_file(&key, -1, &stored)?;
    Ok(())
}

fn key_reduction(bench: &Bench) -> Result {
    let key = bench.key("bench_elsewhere")?;
    let stored = bench.put(&key, 4, 4, 5000)?;
    bench.get(&key, 0, &stored)?;
    let elsewhere = key.path(Path::new("/srv/gp/primary/gpseg1"));
    let ended = bench.call("restore_data", &[elsewhere.into()], Input::Nothing, Output::Collected)?;
    if ended.status.success() && Fingerprint::of(&ended.output) == stored {
        return Ok(());
    }
    failed(format!("the object was not found from another data directory: {}, {} bytes", ended.how(), ended.given))
}

fn overwrite(bench: &Bench) -> Result {
    let key = bench.key("bench_twice")?;
    bench.put(&key, 0, 1, 200_000)?;
    let stored = bench.put(&key, 0, 2, 3000)?;
    bench.get(&key, 0, &stored)
}

fn missing_object(bench: &Bench) -> Result {
    let key = bench.key("bench_never_stored")?;
    bench.is_not_readable(&key, 0)?;
    file_is_missing(bench, &key)
}

fn file_is_missing(bench: &Bench, key: &Key) -> Result {
    let path = bench.path(key, -1);
    make_parent(&path)?;
    bench.refuses("restore_file", &[path.clone().into()])?;
    if path.exists() {
        let size = fingerprint_of(&path).map_or(0, |found| found.size);
        std::fs::remove_file(&path)?;
        return failed(format!("restore_file of {key} failed and left a file of {size} bytes"));
    }
    Ok(())
}

fn odd_keys(bench: &Bench) -> Result {
    let folder = format!("{}/", directory(&bench.plugin.data_directory(0), &bench.main).display());
    for key in ["bench", "/bench/b", "/..", &folder] {
        let ended = bench.call("restore_data", &[key.into()], Input::Nothing, Output::Collected)?;
        if ended.status.success() || ended.given > 0 {
            return failed(format!("restore_data CONFIG {key}: {} after {} bytes", ended.how(), ended.given));
        }
    }
    Ok(())
}

fn missing_file(bench: &Bench) -> Result {
    let key = bench.key("bench_no_such_file")?;
    bench.refuses("backup_file", &[bench.path(&key, -1).into()])?;
    bench.is_not_readable(&key, -1)
}

/// A stream that a signal ends in the middle.
fn cut_short(bench: &Bench, key: &Key, signal: Signal) -> Result<Ended> {
    let mut source = Pattern::new(11, bench.size);
    let path = bench.path(key, 0).into_os_string();
    let input = Input::Signalled(&mut source, bench.size / 2, signal);
    let ended = bench.call("backup_data", &[path], input, Output::Nothing)?;
    if ended.status.success() {
        return failed("backup_data ended with status 0 in the middle of its input, at a signal");
    }
    Ok(ended)
}

fn killed(bench: &Bench) -> Result {
    let (key, other) = (bench.key("bench_killed")?, bench.key("bench_beside_killed")?);
    let beside = bench.put(&other, 0, 3, 70_000)?;
    cut_short(bench, &key, Signal::KILL)?;
    bench.is_not_readable(&key, 0)?;
    file_is_missing(bench, &key)?;
    bench.get(&other, 0, &beside)?;
    let stored = bench.put(&key, 0, 12, bench.size)?;
    bench.get(&key, 0, &stored)
}

fn killed_overwrite(bench: &Bench) -> Result {
    let key = bench.key("bench_killed_overwrite")?;
    let stored = bench.put(&key, 0, 13, 100_000)?;
    cut_short(bench, &key, Signal::KILL)?;
    let path = bench.path(&key, 0).into_os_string();
    let ended = bench.call("restore_data", &[path], Input::Nothing, Output::Collected)?;
    if !ended.status.success() && ended.given == 0 {
        return Ok(());
    }
    bench.get(&key, 0, &stored)
}

fn terminated(bench: &Bench) -> Result {
    let key = bench.key("bench_terminated")?;
    cut_short(bench, &key, Signal::TERM)?;
    bench.is_not_readable(&key, 0)
}

fn reader_gone(bench: &Bench) -> Result {
    let key = bench.key("bench_reader")?;
    let stored = bench.put(&key, 0, 14, bench.size)?;
    let path = bench.path(&key, 0).into_os_string();
    for count in [0, 70_000] {
        bench.call("restore_data", std::slice::from_ref(&path), Input::Nothing, Output::First(count))?;
    }
    bench.get(&key, 0, &stored)
}

fn restore_hooks(bench: &Bench) -> Result {
    Ok(bench.plugin.set_up(Purpose::Restore, &bench.main, bench.segments)?)
}

fn cleanup_hooks(bench: &Bench) -> Result {
    let key = bench.key("bench_cleanup")?;
    let stored = bench.put(&key, 0, 15, 5000)?;
    for purpose in [Purpose::Backup, Purpose::Restore] {
        if let Some(failure) = bench.plugin.clean_up(purpose, &bench.main, bench.segments).into_iter().next() {
            return Err(failure.into());
        }
    }
    bench.get(&key, 0, &stored)
}

fn no_setup(bench: &Bench) -> Result {
    let [timestamp, ..] = &bench.row;
    let key = Key::new(timestamp.clone(), "bench_no_setup")?;
    let stored = bench.put(&key, 31, 16, 5000)?;
    bench.get(&key, 32, &stored)
}

fn ranges(bench: &Bench) -> Result {
    if !bench.plugin.reads_ranges() {
        return Err(Problem::Skipped("the configuration does not say restore_subset: on".to_owned()));
    }
    let key = bench.key("bench_ranges")?;
    let mut all = Vec::new();
    Pattern::new(17, 1_000_000).read_to_end(&mut all)?;
    bench.plugin.put(&key, 0, &mut &all[..])?;
    let list = [(3, 10), (10, 10), (10, 700_000), (900_000, 900_001), (999_999, 1_000_000)];
    for wanted in [&list[..], &list[..1], &[(0, 1_000_000)]] {
        let mut out = Vec::new();
        bench.plugin.get_ranges(&key, 0, 1_000_000, wanted, &mut out)?;
        let pieces = wanted.iter().map(|&(start, end)| all.get(start as usize..end as usize).unwrap_or_default());
        if out != pieces.collect::<Vec<_>>().concat() {
            return failed(format!("restore_data_subset gave other bytes than those of the ranges {wanted:?}"));
        }
    }
    Ok(())
}

fn list_directory(bench: &Bench) -> Result {
    if bench.plugin.api < ApiVersion::LISTS {
        return Err(Problem::Skipped(format!("version {} of the contract has no list_directory", bench.plugin.api)));
    }
    succeeds(bench, "list_directory", &[])
}

fn neighbours(bench: &Bench) -> Result {
    bench.needs_deletion()?;
    let mut stored = Vec::new();
    for (number, timestamp) in (0..).zip(&bench.row) {
        let (data, file) = (Key::new(timestamp.clone(), "bench_data")?, Key::new(timestamp.clone(), "bench_file")?);
        let first = bench.put(&data, 0, number, 70_000)?;
        let second = bench.put_file(&file, -1, timestamp.as_str())?;
        std::fs::remove_file(bench.path(&file, -1))?;
        stored.push((data, first, file, second));
    }
    let [_, middle, _] = &bench.row;
    bench.plugin.delete(middle)?;
    for (data, first, file, second) in &stored {
        if data.timestamp == *middle {
            bench.is_not_readable(data, 0)?;
            file_is_missing(bench, file)?;
        } else {
            bench.get(data, 0, first)?;
            bench.get(file, -1, second)?;
        }
    }
    Ok(())
}

fn delete_beside(bench: &Bench) -> Result {
    bench.needs_deletion()?;
    let [_, other, _] = &bench.row;
    let (key, deleted) = (bench.key("bench_beside_deleted")?, Key::new(other.clone(), "bench_data")?);
    // The same content: what is shared must stay.
    bench.put(&deleted, 0, 19, bench.size)?;
    let both = at_once(2, |number| {
        if number == 0 {
            return bench.put(&key, 0, 19, bench.size).map(Some);
        }
        bench.plugin.delete(other)?;
        Ok(None)
    });
    for stored in both.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten() {
        bench.get(&key, 0, &stored)?;
    }
    bench.is_not_readable(&deleted, 0)
}

fn delete_again(bench: &Bench) -> Result {
    bench.needs_deletion()?;
    let [_, middle, _] = &bench.row;
    for timestamp in [middle, &bench.never] {
        bench.plugin.delete(timestamp)?;
        for purpose in [Purpose::Backup, Purpose::Restore] {
            if let Some(failure) = bench.plugin.clean_up(purpose, timestamp, 1).into_iter().next() {
                return Err(failure.into());
            }
        }
    }
    Ok(())
}

fn malformed_timestamps(bench: &Bench) -> Result {
    bench.needs_deletion()?;
    let key = bench.key("bench_not_deleted")?;
    let stored = bench.put(&key, 0, 18, 5000)?;
    let main = bench.main.as_str();
    let (day, most) = (main.get(..8).unwrap_or_default(), main.get(..13).unwrap_or_default());
    let all = [day, most, &format!("{main}0"), &format!("{most}x"), &format!("{most}?"), &format!("{main}/")];
    for text in all {
        bench.refuses("delete_backup", &[text.into()])?;
    }
    bench.get(&key, 0, &stored)
}

fn silence(bench: &Bench) -> Result {
    match &*bench.noise.lock().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(noise) => failed(format!("a restore of compressed data would fail with what it said: {noise}")),
        None => Ok(()),
    }
}

fn all_deleted(bench: &Bench) -> Result {
    bench.needs_deletion()?;
    bench.row.iter().chain([&bench.main]).try_for_each(|timestamp| bench.plugin.delete(timestamp).map(drop))?;
    bench.is_not_readable(&bench.key("bench_not_deleted")?, 0)?;
    bench.is_not_readable(&bench.key("bench_file")?, -1)
}

fn make_parent(path: &Path) -> Result {
    path.parent().map_or(Ok(()), |parent| Ok(std::fs::create_dir_all(parent)?))
}

/// Bytes that no compression makes smaller, the same for the same seed.
struct Pattern {
    state: u64,
    left: u64,
}

impl Pattern {
    fn new(seed: u64, size: u64) -> Self {
        Self { state: (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, left: size }
    }
}

impl Read for Pattern {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        for byte in &mut buffer[..count] {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            *byte = (self.state >> 24) as u8;
        }
        self.left -= count as u64;
        Ok(count)
    }
}
