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
use crate::client::{Client, Held, Place};
use crate::host::{Expected, Host};
use crate::model::{Contents, Expectation, Model};
use crate::operations::{self, Done, KeyWork, Places, Trouble, Work};
use crate::random::Random;

/// Operations that are under way at once, at the most.
const AT_ONCE: usize = 3;
/// Hosts.
const HOSTS: usize = 3;
/// Keys beside the first one, at the most.
const KEYS: usize = 4;
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
    /// The repository that everybody uses, and the one that is copied to.
    stores: [Arc<MemoryStore>; 2],
    /// The judge's own view of it: nothing goes wrong here.
    judge: Arc<Repository>,
    /// The same of the other one.
    copies: Arc<Repository>,
    /// The passwords of the keys beside the first one, each with its key.
    keys: Vec<(String, Id)>,
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
        let stores: [Arc<MemoryStore>; 2] = Default::default();
        let [here, there] = &stores;
        let judge = operations::init(here.clone()).and_then(|key| operations::open(here.clone(), &key))?;
        let copies = operations::init(there.clone()).and_then(|key| operations::open(there.clone(), &key))?;
        let (sender, events) = std::sync::mpsc::channel();
        Ok(Self {
            options,
            random: Random::new(options.seed),
            stores,
            judge,
            copies,
            keys: Vec::new(),
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
            let copies = matches!(self.running[at].work, Work::Copy { .. });
            self.wait(at)?;
            self.report.compared += self.model.verify(&self.judge)? as u64;
            if copies {
                self.report.compared += self.model.verify_copies(&self.copies)? as u64;
            }
        }
        self.end()
    }

    /// Nobody is at work any more: everything must be as a check wants it.
    fn end(&mut self) -> Result<(), String> {
        let options = CheckOptions { read_data: ReadData::All, threads: Some(1) };
        self.judge_keys()?;
        self.report.compared += self.model.verify_copies(&self.copies)? as u64;
        for repository in [&self.judge, &self.copies] {
            let report = check(repository, options, &()).map_err(|error| format!("the last check: {error}"))?;
            if let Some(error) = report.errors.first() {
                return Err(format!("the last check found: {error}"));
            }
        }
        self.report.snapshots = self.model.snapshots.len() as u64;
        Ok(())
    }

    fn log(&mut self, line: String) {
        self.report.digest = line.bytes().fold(self.report.digest, |state, byte| mix(state ^ u64::from(byte)));
        self.report.log.push(line);
    }

    fn choose(&mut self) -> Work {
        let snapshots = self.present();
        let time = BEGINNING + i64::try_from(self.begun).unwrap_or(0);
        // When nobody is at work, somebody looks after what the dead left behind.
        let locked = self.running.is_empty() && self.here().list(ObjectKind::Lock).is_ok_and(|locks| !locks.is_empty());
        let random = &mut self.random;
        if locked && random.percent(50) {
            return Work::Unlock;
        }
        match random.below(100) {
            0..37 => {
                let host = random.index(HOSTS);
                self.hosts[host].change(random);
                let script = self.hosts[host].script(random);
                let ledger = random.percent(50);
                let expected = Arc::new(Mutex::new(Expected { ledger, ..Expected::default() }));
                self.model.expected.insert(time, Expectation::Announced(Arc::clone(&expected)));
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
            37..43 if !snapshots.is_empty() => Work::Read(snapshots[random.index(snapshots.len())].0),
            43..53 => Work::Forget(1 + u32::try_from(random.below(3)).unwrap_or(0)),
            53..67 => Work::Prune {
                max_unused: if random.percent(60) { 0 } else { 20 },
                repack_small: random.percent(40),
                pack_size: 400 << random.below(5),
            },
            67..71 => Work::Check { read_data: random.percent(50), exclusive: random.percent(50) },
            71..76 if !snapshots.is_empty() => {
                let (target, _) = snapshots[random.index(snapshots.len())];
                Work::Tag { target, tag: format!("tag-{time}") }
            }
            76..82 if !snapshots.is_empty() => {
                let (target, old) = snapshots[random.index(snapshots.len())];
                let folder = format!("/folder-{}", random.below(3));
                let without = if random.percent(30) { folder } else { format!("{folder}/file-{}", random.below(5)) };
                let without = without.into_bytes();
                let left = self.model.contents(old).unwrap_or_default().without(&without);
                self.model.expected.insert(time, Expectation::Derived(left));
                Work::Rewrite { target, without, forget: random.percent(50), time }
            }
            82..85 => self.choose_merge(&snapshots, time),
            85..89 => Work::Copy { pack_size: 400 << random.below(5) },
            89..91 => Work::RepairIndex { read_all_packs: random.percent(50) },
            91 => Work::RepairPacks(random.index(1000)),
            92 => Work::RepairSnapshots { forget: random.percent(50) },
            93..96 => self.choose_key(time),
            _ => Work::Unlock,
        }
    }

    /// The repository that everybody uses.
    fn here(&self) -> &MemoryStore {
        &self.stores[Place::Here as usize]
    }

    /// The snapshots that are there, with their times, the oldest first; one of each time. Which numbers they have here
    /// depends on nothing but the seed.
    fn present(&self) -> Vec<(Id, i64)> {
        let ids = self.here().list(ObjectKind::Snapshot).unwrap_or_default();
        let mut present: Vec<(Id, i64)> =
            ids.into_iter().filter_map(|(id, _)| Some((id, self.model.snapshots.get(&id)?.time))).collect();
        present.sort_by_key(|(_, time)| *time);
        present.dedup_by_key(|(_, time)| *time);
        present
    }

    fn choose_merge(&mut self, present: &[(Id, i64)], time: i64) -> Work {
        let whole = |id: &Id| self.model.snapshots.get(id).is_some_and(|known| !known.partial);
        let mut left: Vec<(Id, i64)> = present.iter().copied().filter(|(id, _)| whole(id)).collect();
        let count = 2 + self.random.index(2);
        while left.len() > count {
            left.remove(self.random.index(left.len()));
        }
        if left.len() < 2 {
            return Work::Unlock;
        }
        let contents: Vec<Contents> = left.iter().filter_map(|(_, time)| self.model.contents(*time)).collect();
        self.model.expected.insert(time, Expectation::Derived(Contents::merged(&contents)));
        let targets = left.into_iter().map(|(id, _)| id).collect();
        Work::Merge { targets, forget: self.random.percent(30), time }
    }

    fn choose_key(&mut self, time: i64) -> Work {
        let taken = |id: &Id| {
            self.running.iter().any(|running| match &running.work {
                Work::Key(KeyWork::Remove { key, .. } | KeyWork::Passwd { key, .. }) => key == id,
                _ => false,
            })
        };
        let free: Vec<(String, Id)> = self.keys.iter().filter(|(_, id)| !taken(id)).cloned().collect();
        let new = format!("password-{time}");
        let add = self.keys.len() < KEYS && self.random.percent(40);
        match free.get(self.random.index(free.len())) {
            Some((old, key)) if !add => Work::Key(if self.random.percent(50) {
                KeyWork::Remove { key: *key, password: old.clone() }
            } else {
                KeyWork::Passwd { key: *key, old: old.clone(), new }
            }),
            _ if self.keys.len() < KEYS => Work::Key(KeyWork::Add(new)),
            _ => Work::Unlock,
        }
    }

    /// The key that a password opens.
    fn key_of(&self, password: &str) -> Option<Id> {
        operations::open_with(self.stores[0].clone(), password, None).ok().map(|repository| repository.key_id())
    }

    /// Whoever could open the repository still can, unless somebody took that away.
    fn judge_keys(&self) -> Result<(), String> {
        let first = self.judge.key_id();
        let opens =
            operations::open(self.stores[0].clone(), &first).is_ok_and(|repository| repository.key_id() == first);
        if !opens {
            return Err("the first password no longer opens the repository".to_owned());
        }
        match self.keys.iter().find(|(password, id)| self.key_of(password).as_ref() != Some(id)) {
            Some((password, _)) => Err(format!("{password} no longer opens the repository")),
            None => Ok(()),
        }
    }

    /// What an operation on keys left behind, done or not.
    fn keys_changed(&mut self, work: &KeyWork, done: bool) -> Result<(), String> {
        let (old, new) = match work {
            KeyWork::Add(new) => (None, Some(new)),
            KeyWork::Remove { password, .. } => (Some(password), None),
            KeyWork::Passwd { old, new, .. } => (Some(old), Some(new)),
        };
        let is_there = |password: Option<&String>| password.and_then(|password| self.key_of(password));
        let (old_key, new_key) = (is_there(old), is_there(new));
        if done && (old_key.is_some() || new_key.is_some() != new.is_some()) {
            return Err("a change of keys was reported, and is not what the repository has".to_owned());
        }
        if old_key.is_none() && new_key.is_none() && matches!(work, KeyWork::Passwd { .. }) {
            return Err("neither the old nor the new password opens the repository".to_owned());
        }
        self.keys.retain(|(password, _)| Some(password) != old);
        for (password, key) in [(old, old_key), (new, new_key)] {
            if let (Some(password), Some(key)) = (password, key) {
                self.keys.push((password.clone(), key));
            }
        }
        self.judge_keys_but_those_at_work()
    }

    /// As [`World::judge_keys`], but those that somebody is about to change.
    fn judge_keys_but_those_at_work(&mut self) -> Result<(), String> {
        let all = self.keys.clone();
        let at_work: Vec<Id> = self
            .running
            .iter()
            .filter_map(|running| match &running.work {
                Work::Key(KeyWork::Remove { key, .. } | KeyWork::Passwd { key, .. }) => Some(*key),
                _ => None,
            })
            .collect();
        self.keys.retain(|(_, id)| !at_work.contains(id));
        let judged = self.judge_keys();
        self.keys = all;
        judged
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
        let mut rates = self.rates();
        // A repair is asked to believe what it reads, and who changes a snapshot lets a ledger go that reads as damaged.
        let believes = matches!(
            work,
            Work::RepairIndex { .. }
                | Work::RepairPacks(_)
                | Work::RepairSnapshots { .. }
                | Work::Rewrite { .. }
                | Work::Merge { .. }
        );
        if believes {
            rates = FaultRates { short_read: 0, flip_byte: 0, ..rates };
        }
        self.begun += 1;
        self.report.operations.entry(work.name()).or_default().0 += 1;
        let sender = self.sender.clone();
        let client = Client::new(self.stores.clone(), self.random.any(), rates, move |held| {
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
        let places = Places {
            here: (client.store(Place::Here), self.judge.key_id()),
            there: (client.store(Place::There), self.copies.key_id()),
        };
        let (sender, bug, own) = (self.sender.clone(), self.options.bug, work.clone());
        self.running.push(Running { number, work, client, deletions_judged: 0 });
        let body = move || {
            let result = std::panic::catch_unwind(AssertUnwindSafe(|| operations::run(own, places, bug)));
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
            Ok(Event::Held(_, (call, moment, place))) => {
                let place = if place == Place::There { " of the copy" } else { "" };
                self.log(format!("{name} is held up {moment:?} {call}{place}"));
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
        let counts = running.client.counts();
        let gone = running.client.faults().is_gone();
        let deeds = running.client.deeds(Place::Here);
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
        match &running.work {
            Work::Key(work) => self.keys_changed(work, result.is_ok())?,
            Work::Tag { target, .. } if result.is_err() => self.finish_tag(target)?,
            Work::Copy { .. } => {
                for id in running.client.deeds(Place::There).locks {
                    self.copies.store().delete(ObjectKind::Lock, &id).map_err(|error| error.to_string())?;
                }
            }
            _ => {}
        }
        self.bury(&deeds.locks, &mut line)?;
        let objects = [ObjectKind::Lock, ObjectKind::Snapshot, ObjectKind::Index, ObjectKind::Pack]
            .map(|kind| self.here().list(kind).map_or(0, |list| list.len()));
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
            Some(id) => match self.here().size(ObjectKind::Snapshot, &id) {
                Ok(Some(_)) => Ok(()),
                _ => Err("invariant 1: the snapshot that was reported is not there".to_owned()),
            },
            None => Ok(()),
        }
    }

    /// Whether the operation was allowed to delete the snapshots that it deleted in this turn.
    fn deletions(&mut self, at: usize) -> Result<(), String> {
        let running = &mut self.running[at];
        let deleted = running.client.deeds(Place::Here).deleted_snapshots;
        let new = &deleted[running.deletions_judged..];
        running.deletions_judged = deleted.len();
        let work = running.work.clone();
        match (&work, new) {
            (_, []) => Ok(()),
            (Work::Forget(keep), new) => new.iter().try_for_each(|id| self.model.forgotten(id, *keep)),
            (Work::Tag { target, .. }, new) => {
                let time = self.model.snapshots.get(target).map(|known| known.time);
                self.replaced(new, &[*target], time)
            }
            (Work::Rewrite { target, forget: true, time, .. }, new) => self.replaced(new, &[*target], Some(*time)),
            (Work::Merge { targets, forget: true, time }, new) => self.replaced(new, targets, Some(*time)),
            (other, _) => Err(format!("invariant 2: {} deleted a snapshot", other.name())),
        }
    }

    /// These snapshots were deleted by an operation that was to put one of that time into the place of its targets.
    fn replaced(&mut self, deleted: &[Id], targets: &[Id], time: Option<i64>) -> Result<(), String> {
        let snapshots = self.judge.snapshots().map_err(|error| format!("invariant 1: snapshots: {error}"))?;
        let is_there =
            snapshots.iter().any(|(id, snapshot)| !targets.contains(id) && Some(snapshot.time.time().seconds) == time);
        for id in deleted {
            if !is_there || !targets.contains(id) {
                return Err("invariant 2: a snapshot was deleted that nothing has replaced".to_owned());
            }
            self.model.replaced(id);
        }
        Ok(())
    }

    /// A change of tags that ended between its two steps left both snapshots: whoever looks after the repository finishes
    /// it. Otherwise two would have one time, and which of them a rule keeps would depend on their ids.
    fn finish_tag(&mut self, target: &Id) -> Result<(), String> {
        let time = self.model.snapshots.get(target).map(|known| known.time);
        let snapshots = self.judge.snapshots().map_err(|error| format!("invariant 1: snapshots: {error}"))?;
        let same = snapshots.iter().filter(|(_, snapshot)| Some(snapshot.time.time().seconds) == time).count();
        if same > 1 && snapshots.iter().any(|(id, _)| id == target) {
            self.judge.store().delete(ObjectKind::Snapshot, target).map_err(|error| error.to_string())?;
            self.model.replaced(target);
        }
        Ok(())
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
