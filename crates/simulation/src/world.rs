//! One run: a repository, its hosts, the operations that a seed chooses, who has the turn, and the judge.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backstay_core::{Id, ObjectKind, Store, Verdict};
use backstay_repository::Repository;
use backstay_repository::check::{CheckOptions, ReadData, check};
use backstay_repository::error::Error;
use backstay_repository::lock::LockInfo;
use backstay_repository::snapshot::SnapshotTime;
use backstay_stores::MemoryStore;
use backstay_stores::faults::{Fault, FaultCounts, FaultPoint, FaultRates, mix, points};

use crate::bugs::Bug;
use crate::client::{Client, Held};
use crate::host::{Expected, Host};
use crate::model::Model;
use crate::operations::{self, Done, Trouble, Work};
use crate::random::Random;

/// Operations that are under way at once, at the most.
const AT_ONCE: usize = 3;
/// Hosts.
const HOSTS: usize = 3;
/// Without a sign of life for so long, an operation hangs.
const PATIENCE: Duration = Duration::from_secs(120);
/// The time of the first snapshot: seconds since 1970.
const BEGINNING: i64 = 1_700_000_000;
/// A process number that no process of this machine has.
const DEAD_PROCESS: u32 = 2_000_000_000;

/// What to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// Operations that are begun.
    pub operations: u32,
    /// A bug that every operation has.
    pub bug: Option<Bug>,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The same for every run of the same seed: what was done in which order, and how it ended.
    pub digest: u64,
    /// One line for each turn.
    pub log: Vec<String>,
    /// Operations that were begun, by name, and how many of them came to their end.
    pub operations: BTreeMap<&'static str, (u64, u64)>,
    /// Operations that were killed.
    pub kills: u64,
    /// Turns that were given to one operation while others were held up in the middle of their work.
    pub interleavings: u64,
    /// What went wrong at the store.
    pub faults: FaultCounts,
    /// How often an operation died or was failed at which named point.
    pub points: BTreeMap<&'static str, u64>,
    /// Snapshots that were written.
    pub snapshots: u64,
    /// Snapshots that were compared byte for byte, each time counted.
    pub compared: u64,
}

impl Report {
    /// Adds another run's figures to this one. Digest and log stay.
    pub fn add(&mut self, other: &Self) {
        for (name, (begun, ended)) in &other.operations {
            let sum = self.operations.entry(name).or_default();
            *sum = (sum.0 + begun, sum.1 + ended);
        }
        self.kills += other.kills;
        self.interleavings += other.interleavings;
        self.faults.add(&other.faults);
        for (name, count) in &other.points {
            *self.points.entry(name).or_default() += count;
        }
        self.snapshots += other.snapshots;
        self.compared += other.compared;
    }
}

/// An invariant does not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The run.
    pub options: Options,
    /// What is wrong.
    pub what: String,
    /// One line for each turn until then.
    pub log: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Options { seed, operations, .. } = self.options;
        for line in self.log.iter().rev().take(30).rev() {
            writeln!(f, "  {line}")?;
        }
        writeln!(f, "seed {seed}: {}", self.what)?;
        write!(f, "again: scripts/simulate --seed {seed} --operations {operations}")
    }
}

impl std::error::Error for Failure {}

enum Event {
    Held(usize, Held),
    Ended(usize, Result<Done, Trouble>),
}

struct Running {
    number: usize,
    work: Work,
    client: Client,
    /// How many of the snapshots that it deleted were looked at.
    deletions_judged: usize,
}

struct World {
    options: Options,
    random: Random,
    store: Arc<MemoryStore>,
    /// The judge's own view: nothing goes wrong here.
    judge: Arc<Repository>,
    hosts: Vec<Host>,
    model: Model,
    running: Vec<Running>,
    events: Receiver<Event>,
    sender: Sender<Event>,
    begun: usize,
    report: Report,
}

/// Runs one seed.
///
/// # Errors
/// The first thing that is wrong.
pub fn run(options: Options) -> Result<Report, Box<Failure>> {
    let failed = |what: String, log: Vec<String>| Box::new(Failure { options, what, log });
    let mut world = World::new(options).map_err(|error| failed(format!("no repository: {error}"), Vec::new()))?;
    match world.live() {
        Ok(()) => Ok(std::mem::take(&mut world.report)),
        Err(what) => Err(failed(what, std::mem::take(&mut world.report.log))),
    }
}

impl World {
    fn new(options: Options) -> Result<Self, Error> {
        let store = Arc::new(MemoryStore::default());
        operations::init(store.clone())?;
        let judge = operations::open(store.clone())?;
        let (sender, events) = std::sync::mpsc::channel();
        Ok(Self {
            options,
            random: Random::new(options.seed),
            store,
            judge,
            hosts: vec![Host::default(); HOSTS],
            model: Model::default(),
            running: Vec::new(),
            events,
            sender,
            begun: 0,
            report: Report::default(),
        })
    }

    fn live(&mut self) -> Result<(), String> {
        let all = usize::try_from(self.options.operations).unwrap_or(usize::MAX);
        while self.begun < all || !self.running.is_empty() {
            let others = self.running.len();
            let begin = self.begun < all && others < AT_ONCE && (others == 0 || self.random.percent(40));
            let at = if begin {
                self.begin();
                self.running.len() - 1
            } else {
                self.resume()
            };
            self.report.interleavings += u64::from(self.running.len() > 1);
            self.wait(at)?;
            self.report.compared += self.model.verify(&self.judge)? as u64;
        }
        self.end()
    }

    /// Nobody is at work any more: everything must be as a check wants it.
    fn end(&mut self) -> Result<(), String> {
        let options = CheckOptions { read_data: ReadData::All, threads: Some(1) };
        let report = check(&self.judge, options, &()).map_err(|error| format!("the last check: {error}"))?;
        if let Some(error) = report.errors.first() {
            return Err(format!("the last check found: {error}"));
        }
        self.report.snapshots = self.model.snapshots.len() as u64;
        Ok(())
    }

    fn log(&mut self, line: String) {
        self.report.digest = line.bytes().fold(self.report.digest, |state, byte| mix(state ^ u64::from(byte)));
        self.report.log.push(line);
    }

    fn choose(&mut self) -> Work {
        let random = &mut self.random;
        // When nobody is at work, somebody looks after what the dead left behind.
        let locked = self.running.is_empty() && self.store.list(ObjectKind::Lock).is_ok_and(|locks| !locks.is_empty());
        if locked && random.percent(50) {
            return Work::Unlock;
        }
        match random.below(100) {
            0..46 => {
                let host = random.index(HOSTS);
                self.hosts[host].change(random);
                let script = self.hosts[host].script(random);
                let ledger = random.percent(50);
                let expected = Arc::new(Mutex::new(Expected { ledger, ..Expected::default() }));
                let time = BEGINNING + i64::try_from(self.begun).unwrap_or(0);
                self.model.expected.insert(time, Arc::clone(&expected));
                Work::Backup {
                    host,
                    script,
                    expected,
                    ledger,
                    save_partial: random.percent(30),
                    skip_if_unchanged: random.percent(20),
                    time,
                    pack_size: 400 << random.below(5),
                }
            }
            46..56 => Work::Read(random.index(1000)),
            56..69 => Work::Forget(1 + u32::try_from(random.below(3)).unwrap_or(0)),
            69..85 => Work::Prune {
                max_unused: if random.percent(60) { 0 } else { 20 },
                repack_small: random.percent(40),
                pack_size: 400 << random.below(5),
            },
            85..91 => Work::Check { read_data: random.percent(50), exclusive: random.percent(50) },
            _ => Work::Unlock,
        }
    }

    /// How dangerous an operation's life is.
    fn rates(&mut self) -> FaultRates {
        let delay = if self.random.percent(60) { 1000 } else { 0 };
        match self.random.below(10) {
            0..6 => FaultRates { delay, ..FaultRates::default() },
            6..8 => FaultRates { delay, disappear: 500, ..FaultRates::default() },
            _ => {
                FaultRates { delay, fail_before: 200, fail_after: 200, short_read: 100, flip_byte: 100, disappear: 100 }
            }
        }
    }

    fn begin(&mut self) {
        let number = self.begun;
        let work = self.choose();
        let rates = self.rates();
        self.begun += 1;
        self.report.operations.entry(work.name()).or_default().0 += 1;
        let sender = self.sender.clone();
        let client = Client::new(Arc::clone(&self.store), self.random.any(), rates, move |held| {
            // Nobody listens when the run has failed already.
            let _ = sender.send(Event::Held(number, held));
        });
        // The end of a prune is reached by few.
        let often = if matches!(work, Work::Prune { .. }) { 50 } else { 20 };
        if self.random.percent(often) {
            let points: Vec<FaultPoint> = points::ALL.iter().copied().filter(|point| work.reaches(point)).collect();
            let point = points[self.random.index(points.len())];
            let fault = if self.random.percent(70) { Fault::Disappear } else { Fault::Fail };
            client.faults().arm(point, 1 + self.random.below(2), fault);
        }
        let (store, sender, bug, own) = (client.store(), self.sender.clone(), self.options.bug, work.clone());
        self.running.push(Running { number, work, client, deletions_judged: 0 });
        let body = move || {
            let result = std::panic::catch_unwind(AssertUnwindSafe(|| operations::run(own, store, bug)));
            let result = result.unwrap_or_else(|_| Err(Trouble::Wrong("it panicked".to_owned())));
            let _ = sender.send(Event::Ended(number, result));
        };
        let _thread = std::thread::spawn(body);
    }

    /// Lets one of those that are held up go on, or kills it where it stands.
    fn resume(&mut self) -> usize {
        let at = self.random.index(self.running.len());
        if self.random.percent(8) {
            self.running[at].client.faults().disappear();
        }
        self.running[at].client.go_on();
        at
    }

    /// Waits until the operation that has the turn is held up or ends.
    fn wait(&mut self, at: usize) -> Result<(), String> {
        let name = format!("{} {}", self.running[at].work.name(), self.running[at].number);
        let event = self.events.recv_timeout(PATIENCE);
        self.deletions(at)?;
        match event {
            Ok(Event::Held(number, _)) | Ok(Event::Ended(number, _)) if number != self.running[at].number => {
                Err(format!("{name} had the turn, and operation {number} did something"))
            }
            Ok(Event::Held(_, (call, moment))) => {
                self.log(format!("{name} is held up {moment:?} {call}"));
                Ok(())
            }
            Ok(Event::Ended(_, result)) => {
                let running = self.running.remove(at);
                self.ended(&name, &running, &result)
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(format!("{name} hangs")),
        }
    }

    fn ended(&mut self, name: &str, running: &Running, result: &Result<Done, Trouble>) -> Result<(), String> {
        let counts = running.client.faults().counts();
        let gone = running.client.faults().is_gone();
        let deeds = running.client.deeds();
        self.report.faults.add(&counts);
        for point in running.client.faults().reached() {
            *self.report.points.entry(point.name).or_default() += 1;
        }
        self.report.kills += u64::from(gone);
        let troubled = gone || counts.failed_before + counts.failed_after + counts.short_reads + counts.flipped > 0;
        let mut line = format!("{name} ");
        match result {
            Ok(done) => {
                self.report.operations.entry(running.work.name()).or_default().1 += 1;
                match done {
                    Done::Backup(report, told) => {
                        let _ = write!(line, "ended: {:?}", report.tally);
                        self.judge_backup(&running.work, report, *told)?;
                    }
                    Done::Words(words) => {
                        let _ = write!(line, "ended: {words}");
                    }
                }
            }
            Err(Trouble::Refused(Error::NotCommitted(_))) => line.push_str("prepared and found it locked"),
            Err(Trouble::Refused(Error::Locked(_))) => line.push_str("found it locked"),
            Err(Trouble::Refused(error)) if !troubled => {
                return Err(format!("{name} failed although nothing was wrong: {error}"));
            }
            Err(Trouble::Wrong(what)) if !troubled || what == "it panicked" => {
                return Err(format!("{name}: {what}"));
            }
            Err(_) => line.push_str(if gone { "was killed" } else { "failed" }),
        }
        self.bury(&deeds.locks, &mut line)?;
        let objects = [ObjectKind::Lock, ObjectKind::Snapshot, ObjectKind::Index, ObjectKind::Pack]
            .map(|kind| self.store.list(kind).map_or(0, |list| list.len()));
        let _ = write!(line, " {objects:?}");
        self.log(line);
        Ok(())
    }

    /// Invariant 3, and what else a report must say truly.
    fn judge_backup(
        &mut self,
        work: &Work,
        report: &backstay_engine::backup::BackupReport,
        told: backstay_core::Tally,
    ) -> Result<(), String> {
        let Work::Backup { expected, save_partial, .. } = work else { return Ok(()) };
        let (own, died) = {
            let expected = expected.lock().unwrap_or_else(PoisonError::into_inner);
            (expected.tally, expected.died)
        };
        let tally = report.tally;
        if !tally.balances() || tally != own {
            return Err(format!("invariant 3: the source announced {own:?}, the report says {tally:?}"));
        }
        // Entries that nobody saw are counted, not told one by one.
        let told_all =
            told.announced + own.lost == own.announced && told.saved == own.saved && told.failed == own.failed;
        if !told_all {
            return Err(format!("invariant 3: the source announced {own:?}, the observer was told {told:?}"));
        }
        let honest = match report.verdict {
            Verdict::Complete => !died && own.failed == 0 && own.lost == 0,
            Verdict::WithErrors => !died && own.failed + own.lost > 0,
            Verdict::Partial(_) => died,
        };
        if !honest {
            return Err(format!("invariant 3: {own:?}, died: {died}, and the verdict is {:?}", report.verdict));
        }
        match report.snapshot {
            Some(_) if died && !save_partial => Err("a partial snapshot was saved that nobody wanted".to_owned()),
            // It was seen when it was written, or is there now; whether it reads is asked after the turn.
            Some(id) if self.model.snapshots.contains_key(&id) => Ok(()),
            Some(id) => match self.store.size(ObjectKind::Snapshot, &id) {
                Ok(Some(_)) => Ok(()),
                _ => Err("invariant 1: the snapshot that was reported is not there".to_owned()),
            },
            None => Ok(()),
        }
    }

    /// Whether the operation was allowed to delete the snapshots that it deleted in this turn.
    fn deletions(&mut self, at: usize) -> Result<(), String> {
        let running = &mut self.running[at];
        let deleted = running.client.deeds().deleted_snapshots;
        let new = &deleted[running.deletions_judged..];
        running.deletions_judged = deleted.len();
        match (&running.work, new) {
            (_, []) => Ok(()),
            (Work::Forget(keep), new) => new.iter().try_for_each(|id| self.model.forgotten(id, *keep)),
            (other, _) => Err(format!("invariant 2: {} deleted a snapshot", other.name())),
        }
    }

    /// The process is gone. Locks that it left say so, now or because they grow old: what tells others is rewritten.
    fn bury(&mut self, locks: &[Id], line: &mut String) -> Result<(), String> {
        for id in locks {
            let old = self.random.percent(50);
            let rewritten = (|| {
                let json = self.judge.load_unpacked(ObjectKind::Lock, id)?;
                let mut info: LockInfo =
                    serde_json::from_slice(&json).map_err(|error| Error::Other(error.to_string()))?;
                if old {
                    let mut time = info.time.time();
                    time.seconds -= 31 * 60;
                    info.time = SnapshotTime::from(time);
                    info.hostname = "another-host".to_owned();
                } else {
                    info.pid = DEAD_PROCESS;
                }
                let json = serde_json::to_vec(&info).map_err(|error| Error::Other(error.to_string()))?;
                self.judge.save_unpacked(ObjectKind::Lock, &json)?;
                self.judge.store().delete(ObjectKind::Lock, id).map_err(Error::from)
            })();
            match rewritten {
                Ok(()) => line.push_str(", its lock stays"),
                // Somebody removed it meanwhile: only an unlock may, and only of the dead.
                Err(Error::Store(error)) if error.kind == backstay_core::StoreErrorKind::NotFound => {
                    return Err(format!("invariant 2: the lock of a living process was removed ({line})"));
                }
                Err(error) => return Err(format!("a lock cannot be read: {error}")),
            }
        }
        Ok(())
    }
}

impl Drop for World {
    /// After a failure the rest must not stay behind.
    fn drop(&mut self) {
        for running in &self.running {
            running.client.faults().disappear();
            running.client.go_on();
        }
    }
}
