//! Plugins of the storage daemon and the director as the command line names them, and what they are told around a job.

use std::sync::Arc;
use std::time::Instant;

use backstay_bareos_host::BareosOptions;
use backstay_core::{Event, Hook, Job, JobFacts, JobKind, JobStatus, Level, Verdict};
use backstay_engine::backup::{BackupReport, now};
use backstay_engine::hooks::Hooks;
use backstay_engine::job::JobControl;
use backstay_repository::Repository;

use crate::args::HookOptions;
use crate::failure::{Failure, chain};
use crate::signals;

/// How a job ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// How it stands.
    pub status: JobStatus,
    /// Entries that it saved or restored.
    pub files: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// Entries that failed.
    pub failed: u64,
    /// The level at which it ran, where that is known better now.
    pub level: Option<Level>,
}

impl Ended {
    /// It did not reach its end, and there are no figures.
    #[must_use]
    pub fn early() -> Self {
        Self { status: JobStatus::Failed, files: 0, bytes: 0, failed: 0, level: None }
    }

    /// With this verdict.
    #[must_use]
    pub fn with(verdict: &Verdict, files: u64, bytes: u64, failed: u64) -> Self {
        let status = match verdict {
            Verdict::Complete => JobStatus::Good,
            Verdict::WithErrors => JobStatus::WithErrors,
            Verdict::Partial(_) => JobStatus::Failed,
        };
        Self { status, files, bytes, failed, level: None }
    }

    /// A backup, as its report has it.
    #[must_use]
    pub fn backup(report: &BackupReport) -> Self {
        let (tally, summary) = (&report.tally, &report.summary);
        let files = tally.saved + tally.unchanged;
        let full = !report.levels.is_empty() && report.levels.iter().all(|(_, level)| *level == Level::Full);
        let level = full.then_some(Level::Full);
        Self { level, ..Self::with(&report.verdict, files, summary.total_bytes_processed, tally.failed + tally.lost) }
    }
}

/// The hooks of a job, and what they know of it. Without hooks it does nothing.
#[derive(Debug)]
pub struct Told {
    hooks: Hooks,
    facts: JobFacts,
    job: Arc<JobControl>,
    started: Instant,
    storage_told: bool,
    /// Messages of hooks that count as errors.
    complaints: u64,
}

impl Told {
    /// Makes the hooks that the options name; nothing runs yet. `bareos` says how plugins run, where there are any.
    ///
    /// # Errors
    /// When a definition cannot be used.
    pub fn new(
        options: &HookOptions,
        bareos: Option<&BareosOptions>,
        repository: &Repository,
        job: &Arc<JobControl>,
        level: Option<Level>,
    ) -> Result<Self, Failure> {
        let mut hooks: Vec<Box<dyn Hook>> = Vec::new();
        if let Some(bareos) = bareos {
            let job = Arc::clone(job) as Arc<dyn Job>;
            let made = backstay_bareos_host::hooks(&options.storage, &options.director, bareos, &job);
            let made = made.map_err(|error| {
                Failure::fatal(format!("the definition of a hook plugin cannot be used: {}", chain(&error)))
            })?;
            hooks.extend(made.into_iter().map(|hook| Box::new(hook) as Box<dyn Hook>));
        }
        let storage = repository.store().location();
        let storage_kind = match storage.split_once(':') {
            Some((scheme, _)) if !scheme.contains('/') => scheme.to_owned(),
            _ => "File".to_owned(),
        };
        let facts = JobFacts {
            id: job.id(),
            name: bareos.map(|bareos| bareos.job_name.clone()).unwrap_or_default(),
            kind: if level.is_some() { JobKind::Backup } else { JobKind::Restore },
            level,
            started: now(),
            status: JobStatus::Created,
            storage,
            storage_kind,
            attached: false,
            files: 0,
            bytes: 0,
            errors: 0,
            rate: 0,
            volume: None,
        };
        let hooks = Hooks::new(hooks);
        Ok(Self { hooks, facts, job: Arc::clone(job), started: Instant::now(), storage_told: false, complaints: 0 })
    }

    /// Tells them that the job begins, up to the moment when data flows.
    ///
    /// # Errors
    /// Why it shall not go on: a plugin failed or forbade it. It was told the end already. `nothing` says what was not
    /// made.
    pub fn begin(&mut self, nothing: &str) -> Result<(), Failure> {
        if self.hooks.is_empty() {
            return Ok(());
        }
        let before = self.errors_said();
        let result = self.up_to_the_data();
        self.complaints += self.errors_said() - before;
        result.map_err(|reason| {
            self.end(Ended::early());
            let text = format!("a plugin stopped the job before it began: {reason}; {nothing}");
            if signals::interrupted() { Failure::Interrupted(text) } else { Failure::Fatal(text) }
        })
    }

    fn up_to_the_data(&mut self) -> Result<(), String> {
        self.hooks.begin(&mut self.facts)?;
        self.tell(Event::JobStart)?;
        self.tell(Event::JobInit)?;
        self.facts.status = JobStatus::Running;
        self.tell(Event::JobRun)?;
        self.storage_told = true;
        self.tell(Event::StorageStart)?;
        self.facts.attached = true;
        self.tell(Event::Reserve)?;
        self.tell(Event::Open)?;
        self.tell(Event::Transfer)
    }

    /// Tells them how the job ended, each of them whatever became of the others. False: something went wrong with one of
    /// them, now or before, and was reported.
    pub fn end(&mut self, ended: Ended) -> bool {
        if self.hooks.is_empty() {
            return self.complaints == 0;
        }
        let before = self.errors_said();
        let counts = self.job.counts();
        let facts = &mut self.facts;
        facts.status = if self.job.cancelled().is_some() && ended.status == JobStatus::Failed {
            JobStatus::Cancelled
        } else {
            ended.status
        };
        facts.files = ended.files;
        facts.bytes = ended.bytes;
        // An entry that failed is often told in a message too.
        facts.errors = ended.failed.max(counts.errors + counts.fatal);
        facts.level = facts.level.and(ended.level).or(facts.level);
        let seconds = self.started.elapsed().as_secs().max(1);
        facts.rate = ended.bytes / seconds;
        let mut clean = self.complaints == 0;
        self.soil(clean);
        if self.facts.attached {
            clean &= self.tell(Event::Close).is_ok();
            self.soil(clean);
        }
        if self.storage_told {
            clean &= self.tell(Event::StorageEnd).is_ok();
            self.soil(clean);
        }
        clean &= self.tell(Event::JobEnd).is_ok();
        clean && self.errors_said() == before
    }

    /// A hook's failure is one of the job: those that are told later hear of it.
    fn soil(&mut self, clean: bool) {
        if !clean && self.facts.status == JobStatus::Good {
            self.facts.status = JobStatus::WithErrors;
        }
    }

    fn tell(&mut self, event: Event) -> Result<(), String> {
        self.hooks.tell(event, &mut self.facts)
    }

    fn errors_said(&self) -> u64 {
        let counts = self.job.counts();
        counts.errors + counts.fatal
    }
}
