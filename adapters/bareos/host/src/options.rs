//! How plugins run: what the command line can set, and the job specification that a worker gets.

use std::path::{Path, PathBuf};
use std::time::Duration;

use backstay_bareos_protocol::{JobSpec, PROTOCOL_VERSION, Task};
use backstay_core::{Fatal, Level, SavedJob, Start, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::accurate::AccurateOptions;
use crate::confine::ConfineOptions;
use crate::modules;
use crate::output_names::OutputNames;
use crate::trace::Trace;

/// Options of the jobs that run plugins.
#[derive(Clone, Debug)]
pub struct BareosOptions {
    /// The job's name; plugins see `<name>.<date>_<time>_<NN>`.
    pub job_name: String,
    /// bVarClient and bVarFDName.
    pub client: String,
    /// bVarWorkingDir; none: `work` in the state directory. It is made, open to its owner only, where it is missing.
    pub working_directory: Option<PathBuf>,
    /// Where the host keeps what outlives a job: helper modules are written there.
    pub state_directory: PathBuf,
    /// The folder that stands for Bareos' configuration: a plugin's relative `defaults_file` is looked for there.
    pub config_directory: PathBuf,
    /// What plugins are asked for in a backup or an estimate.
    pub level: Level,
    /// Whether what a job of another level than full does not mention is gone.
    pub accurate: bool,
    /// What makes a known file a changed one in an accurate job.
    pub accurate_options: AccurateOptions,
    /// bVarSinceTime, Unix seconds, in place of the start of the job that this one builds on.
    pub since: Option<i64>,
    /// Option overrides, as in `FD Plugin Options`: `python3:key=value:...`, or only `key=value:...`.
    pub overrides: Vec<String>,
    /// Folders on `sys.path` behind `module_path`, before our helper modules.
    pub plugin_path: Vec<PathBuf>,
    /// The program that runs plugins; none: the variable `BACKSTAY_PYTHON_WORKER`, else `backstay-python` beside the
    /// running program, else in PATH.
    pub worker_program: Option<PathBuf>,
    /// The interpreter, or a virtual environment; none: the worker's default, `/usr/bin/python3`.
    pub python: Option<PathBuf>,
    /// DebugMessage texts up to this level are shown.
    pub debug_level: i32,
    /// How long a plugin may do nothing at all before it is cancelled; none: for ever.
    pub callback_timeout: Option<Duration>,
    /// How long a cancelled plugin has to end in good order.
    pub cancel_grace: Duration,
    /// Where every call of a plugin is noted.
    pub trace: Option<Trace>,
    /// What plugins may do.
    pub confine: ConfineOptions,
    /// Restore: everything goes below this folder; none: back to where it was.
    pub where_prefix: Option<PathBuf>,
    /// Restore: names are made by these rules instead (`RegexWhere`).
    pub regex_where: Option<OutputNames>,
    /// Restore: targets of symbolic links are prefixed, or changed by the rules, too.
    pub prefix_links: bool,
    /// Restore: replace always (`a`), if newer (`w`), never (`n`), if older (`o`).
    pub replace: char,
}

impl BareosOptions {
    /// The defaults, with this folder for what outlives a job.
    #[must_use]
    pub fn new(state_directory: PathBuf) -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let config = set("XDG_CONFIG_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| set("HOME").map(|home| home.join(".config")))
            .unwrap_or_else(|| PathBuf::from("/etc"))
            .join("backstay");
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = host.trim();
        Self {
            job_name: "backstay".to_owned(),
            client: format!("{}-fd", if host.is_empty() { "localhost" } else { host }),
            working_directory: None,
            state_directory,
            config_directory: config,
            level: Level::Full,
            accurate: false,
            accurate_options: AccurateOptions::default(),
            since: None,
            overrides: Vec::new(),
            plugin_path: Vec::new(),
            worker_program: None,
            python: None,
            debug_level: 0,
            callback_timeout: None,
            cancel_grace: Duration::from_secs(30),
            trace: None,
            confine: ConfineOptions::default(),
            where_prefix: None,
            regex_where: None,
            prefix_links: false,
            replace: 'a',
        }
    }

    /// bVarWorkingDir.
    pub(crate) fn working(&self) -> PathBuf {
        self.working_directory.clone().unwrap_or_else(|| match &self.confine.user {
            // Its owner can be only one.
            Some(user) => self.state_directory.join(format!("work-{}", user.uid)),
            None => self.state_directory.join("work"),
        })
    }

    /// The arguments of the worker program, for this command of it.
    pub(crate) fn arguments(&self, command: &str) -> Vec<std::ffi::OsString> {
        let mut arguments = vec![command.into()];
        if let Some(python) = &self.python {
            arguments.push("--python".into());
            arguments.push(python.into());
        }
        arguments
    }

    /// What a worker is told first in a backup or an estimate.
    pub(crate) fn backup_spec(
        &self,
        task: Task,
        job_id: u32,
        definitions: Vec<String>,
        start: &Start,
    ) -> Result<JobSpec, Fatal> {
        let mut spec = self.job_spec(task, job_id, definitions)?;
        let builds_on = start.reference.as_ref();
        spec.level = match start.level {
            Level::Full => 'F',
            Level::Differential => 'D',
            Level::Incremental => 'I',
        };
        spec.since = self.since.unwrap_or_else(|| builds_on.map_or(0, |job| job.started.seconds));
        spec.accurate = self.accurate && start.level != Level::Full;
        spec.previous_job_name = builds_on.map(name_of).unwrap_or_default();
        let at = zoned(start.time);
        spec.job_name = match task {
            Task::Estimate => format!("-Console-.{}_{:02}", at.strftime("%Y-%m-%d_%H.%M.%S"), std::process::id() % 100),
            Task::Backup | Task::Restore => unique_job_name(&self.job_name, &at, job_id),
        };
        Ok(spec)
    }

    /// The folders that plugins find modules in, behind their `module_path`: the last is that of our helper modules,
    /// which is made.
    pub(crate) fn module_directories(&self) -> Result<Vec<String>, Fatal> {
        let folder = self.state_directory.display();
        let helpers = modules::install(&self.state_directory)
            .map_err(|error| Fatal(format!("cannot make the folder {folder} (plugins import from it): {error}")))?;
        self.plugin_path.iter().chain([&helpers]).map(|folder| text(&absolute(folder)?)).collect()
    }

    /// What a worker is told first. Makes the folders that it names.
    pub(crate) fn job_spec(&self, task: Task, job_id: u32, definitions: Vec<String>) -> Result<JobSpec, Fatal> {
        let working = self.working();
        let made = |what: &str, path: &Path, error: &std::io::Error| {
            Fatal(format!("cannot make the folder {} ({what}): {error}", path.display()))
        };
        modules::private_folder(&working).map_err(|error| made("plugins work there", &working, &error))?;
        let module_directories = self.module_directories()?;
        let where_prefix = match (task, &self.where_prefix) {
            (Task::Backup | Task::Estimate, _) => None,
            (Task::Restore, _) if self.regex_where.is_some() => None,
            (Task::Restore, None) => Some(String::new()),
            (Task::Restore, Some(folder)) => {
                let folder = text(&absolute(folder)?)?;
                Some(folder.trim_end_matches('/').to_owned())
            }
        };
        Ok(JobSpec {
            protocol: PROTOCOL_VERSION,
            task,
            definitions,
            option_lines: 0,
            overrides: self.overrides.iter().map(|text| addressed(text)).collect::<Result<_, _>>()?,
            job_id,
            job_name: unique_job_name(&self.job_name, &Zoned::now(), job_id),
            client: self.client.clone(),
            since: 0,
            level: if task == Task::Restore { ' ' } else { 'F' },
            accurate: false,
            accurate_options: self.accurate_options.bits(),
            previous_job_name: String::new(),
            prefix_links: self.prefix_links,
            trace: self.trace.is_some(),
            working_directory: text(&absolute(&working)?)?.trim_end_matches('/').to_owned(),
            where_prefix,
            replace: self.replace,
            used_config: format!("{}/bareos-fd.d/*/*.conf", text(&absolute(&self.config_directory)?)?),
            flags: Vec::new(),
            rules: Vec::new(),
            module_directories,
            debug_level: self.debug_level,
        })
    }
}

/// An override with the plugin's name in front. Bareos drops one without a word that names no plugin it knows.
fn addressed(text: &str) -> Result<String, Fatal> {
    match text.split_once(':').map_or(text, |(first, _)| first) {
        "python3" | "python" if text.contains(':') => Ok(text.to_owned()),
        option if option.contains('=') => Ok(format!("python3:{text}")),
        other => Err(Fatal(format!(
            "the plugin options \"{other}\" cannot be used: they should read KEY=VALUE or python3:KEY=VALUE"
        ))),
    }
}

/// The unique name of a job that was saved.
fn name_of(job: &SavedJob) -> String {
    unique_job_name(&job.name, &zoned(job.started), job.id)
}

/// A time as this host's clocks show it.
pub(crate) fn zoned(time: Time) -> Zoned {
    let seconds = Timestamp::from_second(time.seconds).unwrap_or_else(|_| Timestamp::now());
    seconds.to_zoned(TimeZone::system())
}

/// `<job>.<YYYY-MM-DD>_<HH.MM.SS>_<NN>`: plugins cut it at the third dot from the right. The last two digits are those of
/// the job number, so that jobs which start within one second still differ.
pub(crate) fn unique_job_name(name: &str, at: &Zoned, job_id: u32) -> String {
    format!("{name}.{}_{:02}", at.strftime("%Y-%m-%d_%H.%M.%S"), job_id % 100)
}

fn absolute(path: &Path) -> Result<PathBuf, Fatal> {
    std::path::absolute(path).map_err(|error| Fatal(format!("{} is no usable path: {error}", path.display())))
}

/// A path as plugins get it: they see text.
fn text(path: &Path) -> Result<String, Fatal> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| Fatal(format!("{} is no UTF-8 text, which plugins need: choose another folder", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_name_is_cut_at_the_third_dot_from_the_right() {
        let at = jiff::civil::date(2026, 11, 22).at(1, 2, 3, 0).in_tz("UTC").unwrap();
        let name = unique_job_name("my.job", &at, 4107);
        assert_eq!(name, "my.job.2026-11-22_01.02.03_07");
        assert_eq!(name.rsplitn(4, '.').last(), Some("my.job"));
    }

    #[test]
    fn overrides_are_addressed_to_the_plugin_or_refused() {
        assert_eq!(addressed("python:a=1").unwrap(), "python:a=1");
        assert_eq!(addressed("a=1:b=x\\:y").unwrap(), "python3:a=1:b=x\\:y");
        assert!(addressed("bpipe:a=1").is_err() && addressed("python3").is_err() && addressed("").is_err());
    }

    #[test]
    fn the_specification_has_what_the_contract_promises() {
        let state = tempfile::tempdir().unwrap();
        let mut options = BareosOptions::new(state.path().join("deep"));
        let full = Start { time: Time::default(), level: Level::Full, reference: None, objects: Vec::new() };
        let definitions = vec!["python3:module_name=m".to_owned()];
        let spec = options.backup_spec(Task::Backup, 5, definitions.clone(), &full).unwrap();
        assert_eq!((spec.level, spec.since, spec.where_prefix.as_deref(), spec.job_id), ('F', 0, None, 5));
        let started = Time { seconds: 1_700_000_000, nanoseconds: 0 };
        let job = SavedJob { id: 4, name: "backstay".into(), started, ..SavedJob::default() };
        let next = Start { level: Level::Incremental, reference: Some(job), ..full.clone() };
        options.accurate = true;
        let spec = options.backup_spec(Task::Backup, 5, definitions.clone(), &next).unwrap();
        assert_eq!((spec.level, spec.since, spec.accurate), ('I', 1_700_000_000, true));
        assert!(spec.previous_job_name.starts_with("backstay.2023-11-1") && spec.previous_job_name.ends_with("_04"));
        assert!(!options.backup_spec(Task::Backup, 5, definitions.clone(), &full).unwrap().accurate);
        let spec = options.backup_spec(Task::Estimate, 0, definitions.clone(), &next).unwrap();
        assert!(spec.job_name.starts_with("-Console-.1970-01-01_"), "{}", spec.job_name);
        options.since = Some(7);
        let spec = options.backup_spec(Task::Backup, 5, definitions, &next).unwrap();
        assert_eq!(spec.since, 7);
        assert_eq!(spec.flags(0), [0, 0xc0, 0, 8, 0]);
        assert!(Path::new(&spec.working_directory).is_dir() && !spec.working_directory.ends_with('/'));
        assert!(spec.used_config.ends_with("/backstay/bareos-fd.d/*/*.conf"));
        assert!(Path::new(&spec.module_directories[0]).join("BareosFdWrapper.py").is_file());

        let spec = options.job_spec(Task::Restore, 5, Vec::new()).unwrap();
        assert_eq!((spec.level, spec.since, spec.where_prefix.as_deref()), (' ', 0, Some("")));
        options.where_prefix = Some("/".into());
        assert_eq!(options.job_spec(Task::Restore, 5, Vec::new()).unwrap().where_prefix.as_deref(), Some(""));
        options.where_prefix = Some("/x/".into());
        assert_eq!(options.job_spec(Task::Restore, 5, Vec::new()).unwrap().where_prefix.as_deref(), Some("/x"));
    }
}
