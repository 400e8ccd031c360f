//! A scripted peer speaks for the worker: any order of frames, any lie, any moment of death.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstay_bareos_protocol::{
    Created, Failure, FromWorker, JobEnd, JobSpec, MOST_WHOLE, ObjectEntry, PROTOCOL_VERSION, PluginEntry, StatFields,
    Task, ToWorker, WholeEntry,
};
use backstay_core::{
    Attr, CancelReason, Create, Data, DataError, End, Entry, EntryError, Fatal, Ingest, Job, MessageLevel, Outcome,
    SavedJob, Settled, SideObject, Sink, Stop, Tally, Verdict, Want,
};
use backstay_worker::supervisor::Peer;
use backstay_worker::{Channel, Worker};

use crate::connection::Limits;
use crate::source::{Begin, Taker, run_with};
use crate::{BareosOptions, BareosSink};

const LIMITS: Limits = Limits { silence: None, grace: Duration::from_secs(20), whole: None, memory: None };

#[derive(Default)]
struct TestJob {
    messages: Mutex<Vec<(MessageLevel, String)>>,
    cancelled: AtomicBool,
}

impl Job for TestJob {
    fn id(&self) -> u32 {
        7
    }
    fn message(&self, level: MessageLevel, _source: &str, text: &str) {
        self.messages.lock().unwrap().push((level, text.to_owned()));
    }
    fn cancelled(&self) -> Option<CancelReason> {
        self.cancelled.load(Ordering::SeqCst).then_some(CancelReason::Interrupted)
    }
}

/// Keeps everything, and the engine's rules: one end per entry.
#[derive(Default)]
struct Kept {
    open: Option<(Entry, Vec<u8>, Vec<Attr>)>,
    saved: Vec<(Entry, Vec<u8>, Vec<Attr>)>,
    failed: Vec<(Vec<u8>, EntryError)>,
    skipped: Vec<(Vec<u8>, String)>,
    unchanged: Vec<Vec<u8>>,
    objects: Vec<SideObject>,
    deleted: Vec<(Vec<u8>, bool)>,
    tally: Tally,
    /// The store is full after this many bytes.
    full_at: Option<usize>,
    bytes: usize,
}

impl Ingest for Kept {
    fn entry(&mut self, entry: Entry) -> Result<Want, Stop> {
        assert!(self.open.is_none(), "an entry was begun while one was open");
        self.open = Some((entry, Vec::new(), Vec::new()));
        Ok(Want::Data)
    }
    fn data(&mut self, data: Data<'_>) -> Result<u64, DataError> {
        let (entry, content, _) = self.open.as_mut().expect("data without an entry");
        let before = content.len();
        match data {
            Data::Bytes(bytes) => content.extend_from_slice(bytes),
            Data::Hole(length) => content.resize(before + usize::try_from(length).unwrap(), 0),
            Data::Fd(fd) => {
                let mut file = std::fs::File::from(fd.try_clone_to_owned().unwrap());
                file.read_to_end(content).map_err(|error| {
                    DataError::Read(EntryError::io(
                        format_args!("read {}", String::from_utf8_lossy(&entry.name)),
                        &error,
                    ))
                })?;
            }
        }
        let count = content.len() - before;
        self.bytes += count;
        if self.full_at.is_some_and(|limit| self.bytes > limit) {
            return Err(DataError::Stop(Stop("the store is full".to_owned())));
        }
        Ok(count as u64)
    }
    fn attr(&mut self, attr: Attr) -> Result<(), Stop> {
        self.open.as_mut().expect("an attribute without an entry").2.push(attr);
        Ok(())
    }
    fn end(&mut self, result: Result<(), EntryError>) -> Outcome {
        let open = self.open.take().expect("an end without an entry");
        let outcome = match result {
            Ok(()) => {
                self.saved.push(open);
                Outcome::Saved
            }
            Err(error) => {
                self.failed.push((open.0.name, error.clone()));
                Outcome::Failed(error)
            }
        };
        self.tally.count(&outcome);
        outcome
    }
    fn skipped(&mut self, name: &[u8], rule: &str) {
        assert!(self.open.is_none());
        self.tally.count(&Outcome::Skipped(rule.to_owned()));
        self.skipped.push((name.to_vec(), rule.to_owned()));
    }
    fn unchanged(&mut self, name: &[u8]) {
        assert!(self.open.is_none());
        self.tally.count(&Outcome::Unchanged);
        self.unchanged.push(name.to_vec());
    }
    fn side(&mut self, object: SideObject) -> Result<(), Stop> {
        assert!(self.open.is_none());
        self.tally.count(&Outcome::Saved);
        self.objects.push(object);
        Ok(())
    }
    fn deleted(&mut self, name: &[u8], announced: bool) -> Result<(), Stop> {
        assert!(self.open.is_none());
        if announced {
            self.tally.count(&Outcome::Saved);
        }
        self.deleted.push((name.to_vec(), announced));
        Ok(())
    }
    fn lost(&mut self, count: u64) {
        if self.open.take().is_some() {
            self.tally.count(&Outcome::Lost);
        }
        self.tally.announced += count;
        self.tally.lost += count;
    }
}

fn begin(limits: Limits) -> Begin {
    Begin { spec: spec(), prior: None, limits, trace: None }
}

fn spec() -> JobSpec {
    JobSpec {
        protocol: PROTOCOL_VERSION,
        task: Task::Backup,
        definitions: vec!["python3:module_name=m".into()],
        option_lines: 0,
        overrides: Vec::new(),
        job_id: 7,
        job_name: "j".into(),
        client: "c".into(),
        since: 0,
        level: 'F',
        accurate: false,
        accurate_options: vec![32, 128, 256],
        previous_job_name: String::new(),
        prefix_links: false,
        trace: false,
        working_directory: "/".into(),
        where_prefix: None,
        replace: 'a',
        used_config: String::new(),
        flags: Vec::new(),
        rules: Vec::new(),
        module_directories: Vec::new(),
        debug_level: 0,
    }
}

fn plugin_entry(name: &str) -> PluginEntry {
    PluginEntry {
        definition: 0,
        file_index: 1,
        file_type: 3,
        name: name.into(),
        link: Vec::new(),
        link_file_index: 0,
        stat: StatFields { mode: 0o100_644, nlink: 1, ..StatFields::default() },
        flags: [0; 5],
        delta_sequence: 0,
        no_read: false,
    }
}

fn entry(name: &str) -> FromWorker {
    FromWorker::Entry(Box::new(plugin_entry(name)))
}

const END: FromWorker = FromWorker::EndEntry(Ok(()));

fn ready() -> FromWorker {
    FromWorker::Ready { protocol: PROTOCOL_VERSION, python: "3.11.2 (main)".into() }
}

fn finished(announced: u64) -> FromWorker {
    FromWorker::Finished(JobEnd { whole: true, reason: String::new(), announced, errors: 0, warnings: 0 })
}

fn gave_up(announced: u64) -> FromWorker {
    FromWorker::Finished(JobEnd { whole: false, reason: "cancelled".into(), announced, errors: 0, warnings: 0 })
}

/// Runs a backup against a peer that has answered the start already.
fn backup_with(
    limits: Limits,
    job: &TestJob,
    kept: &mut Kept,
    script: impl FnOnce(&mut Peer) + Send,
) -> Result<End, Fatal> {
    let (worker, mut peer) = Worker::scripted().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let Some((ToWorker::Start(_), None)) = peer.channel.receive::<ToWorker>().unwrap() else { panic!() };
            peer.channel.send(&ready()).unwrap();
            script(&mut peer);
            // A peer whose host has given up cannot send: that is the host's right.
            let _ = peer.channel.flush();
        });
        run_with(worker, begin(limits), "m", job, &mut Taker::Ingest(kept, Vec::new()))
    })
}

fn backup(script: impl FnOnce(&mut Peer) + Send) -> (End, Kept) {
    let mut kept = Kept::default();
    let end = backup_with(LIMITS, &TestJob::default(), &mut kept, script).unwrap();
    assert!(kept.tally.balances(), "{:?}", kept.tally);
    (end, kept)
}

fn send(peer: &mut Peer, frames: &[FromWorker]) {
    for frame in frames {
        peer.channel.send(frame).unwrap();
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 % 251) as u8).collect()
}

/// Writes data as a worker does: as much as fits, then waits for room.
fn write_ring(peer: &mut Peer, mut data: &[u8], piece: usize) {
    while !data.is_empty() {
        match peer.backup.write(&data[..piece.min(data.len())]) {
            Some((position, length)) => {
                peer.channel.send(&FromWorker::Data { position, length }).unwrap();
                data = &data[length as usize..];
            }
            None => match peer.channel.receive().unwrap() {
                Some((ToWorker::Consumed(position), None)) => peer.backup.consumed(position).unwrap(),
                other => panic!("{other:?}"),
            },
        }
    }
}

#[test]
fn data_attributes_and_ends_reach_the_engine_in_order() {
    let data = pattern(30_000_000);
    let (end, kept) = backup(|peer| {
        for (name, piece) in [("a", 262_144), ("b", 8 << 20), ("empty", 1)] {
            send(peer, &[entry(name)]);
            if name != "empty" {
                write_ring(peer, &data, piece);
            }
            let xattr = FromWorker::Xattr { name: b"user.x".to_vec(), value: vec![0, 255] };
            send(peer, &[FromWorker::Acl(b"acl".to_vec()), xattr, END]);
        }
        send(peer, &[entry("bytes")]);
        write_ring(peer, &data[..5000], 1);
        send(peer, &[END, finished(4)]);
    });
    assert_eq!(end, End::Whole);
    assert_eq!(kept.tally, Tally { announced: 4, saved: 4, ..Tally::default() });
    for (at, length) in [(0, data.len()), (1, data.len()), (2, 0), (3, 5000)] {
        assert!(kept.saved[at].1 == data[..length], "contents of entry {at}");
    }
    let xattr = Attr::Xattr { name: b"user.x".to_vec(), value: vec![0, 255] };
    assert_eq!(kept.saved[2].2, [Attr::Acl(b"acl".to_vec()), xattr]);
}

#[test]
fn every_way_an_entry_can_end_is_counted_once() {
    let job = TestJob::default();
    let mut kept = Kept::default();
    let failure = |text: &str| Failure { errno: 5, message: text.into() };
    let end = backup_with(LIMITS, &job, &mut kept, |peer| {
        send(
            peer,
            &[
                entry("saved"),
                END,
                entry("failed"),
                FromWorker::EndEntry(Err(failure("Read error on file failed"))),
                FromWorker::NotSaved { name: b"archived".to_vec(), reason: Ok("it is an archive".into()) },
                FromWorker::NotSaved { name: b"noaccess".to_vec(), reason: Err(failure("Could not access")) },
                FromWorker::Deleted { name: b"deleted".to_vec(), announced: true },
                FromWorker::Deleted { name: b"missing".to_vec(), announced: false },
                FromWorker::Unchanged { name: b"unchanged".to_vec() },
                FromWorker::Object(Box::new(ObjectEntry {
                    definition: 0,
                    file_index: 3,
                    object_type: 25,
                    object_index: 4,
                    object_name: "object".into(),
                })),
                END,
                FromWorker::Message { kind: 4, text: "python3-fd-mod: hm\n".into() },
                FromWorker::Message { kind: 16, text: "two\nlines".into() },
                entry("open"),
            ],
        );
        for _ in 0..11 {
            peer.backup.announce();
        }
    });
    // A scripted peer has no process: it counts as one that exited with status 0.
    assert_eq!(end.unwrap(), End::Stopped("the plugin worker exited with status 0".to_owned()));
    // Eight frames of eleven announced entries: the open one and the three that nobody heard of are lost.
    assert_eq!(kept.tally, Tally { announced: 11, saved: 3, failed: 2, skipped: 1, lost: 4, unchanged: 1 });
    assert_eq!(kept.deleted, [(b"deleted".to_vec(), true), (b"missing".to_vec(), false)]);
    assert_eq!((kept.objects.len(), kept.objects[0].kind, kept.objects[0].index), (1, 25, 4));
    assert_eq!(kept.failed[0].1.errno, Some(5));
    let messages = job.messages.lock().unwrap();
    assert!(messages.contains(&(MessageLevel::Error, "python3-fd-mod: hm".into())));
    assert!(messages.contains(&(MessageLevel::Info, "two\nlines".into())));
}

#[test]
fn a_worker_that_dies_at_any_byte_leaves_a_count_that_balances() {
    // The whole conversation as bytes; the peer sends a part of it and is gone.
    let mut bytes = Vec::new();
    let mut ends = Vec::new();
    {
        let (a, b) = Channel::pair().unwrap();
        let mut channel = Channel::new(a);
        let frames = [
            ready(),
            entry("one"),
            FromWorker::Data { position: 0, length: 100 },
            FromWorker::Acl(b"acl".to_vec()),
            END,
            FromWorker::NotSaved { name: b"x".to_vec(), reason: Ok("rule".into()) },
            entry("two"),
            FromWorker::Data { position: 100, length: 5 },
            END,
            finished(3),
        ];
        let mut raw = UnixStream::from(b);
        for frame in frames {
            channel.send(&frame).unwrap();
            channel.flush().unwrap();
            let mut part = [0; 4096];
            let n = raw.read(&mut part).unwrap();
            bytes.extend_from_slice(&part[..n]);
            ends.push(bytes.len());
        }
    }
    for cut in 0..=bytes.len() {
        let (mut worker, mut peer) = Worker::scripted().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        // The bytes go raw, beside the peer's own channel.
        let (sender, receiver) = Channel::new(OwnedFd::from(ours)).split();
        (worker.sender, worker.receiver) = (sender, receiver);
        peer.backup.write(&pattern(105)).unwrap();
        for _ in 0..3 {
            peer.backup.announce();
        }
        (&theirs).write_all(&bytes[..cut]).unwrap();
        drop(theirs);
        let (job, mut kept) = (TestJob::default(), Kept::default());
        let end = run_with(worker, begin(LIMITS), "m", &job, &mut Taker::Ingest(&mut kept, Vec::new()));
        assert!(kept.tally.balances());
        match end {
            Err(_) => assert!(cut < ends[0] && kept.tally == Tally::default()),
            Ok(End::Whole) => {
                assert_eq!(cut, bytes.len());
                assert_eq!(kept.tally, Tally { announced: 3, saved: 2, skipped: 1, ..Tally::default() });
            }
            Ok(End::Stopped(_)) => {
                assert!(cut < bytes.len());
                assert_eq!(kept.tally.announced, 3, "cut at {cut}");
                let saved = u64::from(cut >= ends[4]) + u64::from(cut >= ends[8]);
                assert_eq!((kept.tally.saved, kept.tally.skipped), (saved, u64::from(cut >= ends[5])), "cut at {cut}");
            }
        }
    }
}

#[test]
fn lies_end_the_job_and_nothing_panics() {
    let lies: Vec<(&str, Vec<FromWorker>)> = vec![
        ("data without an entry", vec![FromWorker::Data { position: 0, length: 1 }]),
        ("a span out of order", vec![entry("a"), FromWorker::Data { position: 1, length: 1 }]),
        ("a span longer than the ring", vec![entry("a"), FromWorker::Data { position: 0, length: u32::MAX }]),
        ("a position at the end of all numbers", vec![entry("a"), FromWorker::Data { position: u64::MAX, length: 9 }]),
        ("two entries at once", vec![entry("a"), entry("b")]),
        ("an end without an entry", vec![END]),
        ("an attribute without an entry", vec![FromWorker::Acl(vec![1])]),
        ("a descriptor that is not there", vec![entry("a"), FromWorker::DataFd]),
        ("a descriptor without an entry", vec![FromWorker::DataFd]),
        ("left out while open", vec![entry("a"), FromWorker::NotSaved { name: vec![], reason: Ok(String::new()) }]),
        ("finished while open", vec![entry("a"), finished(1)]),
        ("ready twice", vec![ready()]),
        ("restore answers", vec![FromWorker::Created(Created::Made)]),
        ("restore answers", vec![FromWorker::Consumed(5)]),
        ("restore answers", vec![FromWorker::Restored(Ok(()))]),
    ];
    for (what, frames) in lies {
        let (end, kept) = backup(|peer| send(peer, &frames));
        let End::Stopped(reason) = end else { panic!("{what}: {end:?}") };
        assert!(reason.contains("broke the protocol"), "{what}: {reason}");
        assert_eq!(kept.tally.announced, u64::from(matches!(frames[0], FromWorker::Entry(_))), "{what}");
    }
    // A descriptor that nobody asked for.
    let (end, _) = backup(|peer| {
        let (a, _b) = UnixStream::pair().unwrap();
        peer.channel.send_with_fd(&entry("a"), a.as_fd()).unwrap();
    });
    assert!(matches!(end, End::Stopped(reason) if reason.contains("broke the protocol")));
    // A counter beyond belief, and one behind.
    let (end, kept) = backup(|peer| {
        for _ in 0..5 {
            peer.backup.announce();
        }
        send(peer, &[finished(0)]);
    });
    assert_eq!(end, End::Stopped("the plugin worker announced 5 entries more than it sent".into()));
    assert_eq!(kept.tally.lost, 5);
    let (end, kept) = backup(|peer| send(peer, &[entry(&"n".repeat(3_000_000)), END, finished(1)]));
    assert_eq!((end, kept.saved[0].0.name.len()), (End::Whole, 3_000_000));
}

#[test]
fn a_worker_of_another_release_is_refused() {
    let (worker, mut peer) = Worker::scripted().unwrap();
    peer.channel.send(&FromWorker::Ready { protocol: 99, python: String::new() }).unwrap();
    peer.channel.flush().unwrap();
    let error =
        run_with(worker, begin(LIMITS), "m", &TestJob::default(), &mut Taker::Ingest(&mut Kept::default(), Vec::new()))
            .unwrap_err();
    assert!(error.0.contains("version 99") && error.0.contains("one release"), "{error}");
}

/// The answer to a descriptor, with acknowledgements left aside.
fn fd_answer(peer: &mut Peer) -> Result<u64, Failure> {
    loop {
        match peer.channel.receive().unwrap() {
            Some((ToWorker::DataFdDone(answer), None)) => return answer,
            Some((ToWorker::Consumed(_) | ToWorker::Cancel, None)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_descriptor_is_read_from_where_it_stands_and_closed_before_the_answer() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"0123456789").unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(4)).unwrap();
    let data = pattern(3_000_000);
    let (end, kept) = backup(|peer| {
        send(peer, &[entry("file")]);
        peer.channel.send_with_fd(&FromWorker::DataFd, file.as_fd()).unwrap();
        assert_eq!(fd_answer(peer), Ok(6));
        send(peer, &[END, entry("pipe")]);
        let (reading, writing) = std::io::pipe().unwrap();
        peer.channel.send_with_fd(&FromWorker::DataFd, reading.as_fd()).unwrap();
        drop(reading);
        (&writing).write_all(&data).unwrap();
        drop(writing);
        assert_eq!(fd_answer(peer), Ok(data.len() as u64));
        send(peer, &[END, entry("folder")]);
        let folder = std::fs::File::open("/").unwrap();
        peer.channel.send_with_fd(&FromWorker::DataFd, folder.as_fd()).unwrap();
        assert_eq!(fd_answer(peer).unwrap_err().errno, 21);
        // The worker may not have heard of it as a failure: the host knows.
        send(peer, &[END, finished(3)]);
    });
    assert_eq!(end, End::Whole);
    assert_eq!(kept.saved[0].1, b"456789");
    assert!(kept.saved[1].1 == data);
    assert_eq!(kept.failed[0].1.message, "read folder: Is a directory (os error 21)");
}

#[test]
fn our_copy_of_a_pipe_is_closed_when_the_answer_comes() {
    let (end, _) = backup(|peer| {
        send(peer, &[entry("socket")]);
        let (theirs, ours) = UnixStream::pair().unwrap();
        peer.channel.send_with_fd(&FromWorker::DataFd, theirs.as_fd()).unwrap();
        drop(theirs);
        (&ours).write_all(b"x").unwrap();
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(fd_answer(peer), Ok(1));
        let gone = (&ours).write(b"y").unwrap_err();
        assert_eq!(gone.kind(), std::io::ErrorKind::BrokenPipe);
        send(peer, &[END, finished(1)]);
    });
    assert_eq!(end, End::Whole);
}

#[test]
fn a_full_store_cancels_the_plugin_and_loses_what_comes_after() {
    let (job, mut kept) = (TestJob::default(), Kept { full_at: Some(1000), ..Kept::default() });
    let end = backup_with(LIMITS, &job, &mut kept, |peer| {
        send(peer, &[entry("fits"), END, entry("big")]);
        write_ring(peer, &pattern(8_000_000), 100_000);
        send(peer, &[FromWorker::Acl(vec![1]), END, entry("after"), END]);
        while !matches!(peer.channel.receive().unwrap(), Some((ToWorker::Cancel, None))) {}
        send(peer, &[gave_up(3)]);
    });
    assert_eq!(end.unwrap(), End::Stopped("the store is full".into()));
    assert_eq!(kept.tally, Tally { announced: 3, saved: 1, lost: 2, ..Tally::default() });
}

#[test]
fn a_cancelled_job_cancels_the_plugin_and_takes_its_last_word() {
    let (job, mut kept) = (TestJob::default(), Kept::default());
    let end = backup_with(LIMITS, &job, &mut kept, |peer| {
        send(peer, &[entry("a")]);
        peer.channel.flush().unwrap();
        job.cancelled.store(true, Ordering::SeqCst);
        assert!(matches!(peer.channel.receive().unwrap(), Some((ToWorker::Cancel, None))));
        let failure = Failure { errno: 4, message: "interrupted".into() };
        send(peer, &[FromWorker::EndEntry(Err(failure)), gave_up(1)]);
    });
    assert_eq!(end.unwrap(), End::Stopped("the job was interrupted".into()));
    assert_eq!(kept.tally.announced, 1);
}

#[test]
fn a_pipe_that_never_ends_does_not_hold_a_cancelled_job() {
    let (job, mut kept) = (TestJob::default(), Kept::default());
    let end = backup_with(LIMITS, &job, &mut kept, |peer| {
        send(peer, &[entry("a")]);
        let (reading, writing) = std::io::pipe().unwrap();
        peer.channel.send_with_fd(&FromWorker::DataFd, reading.as_fd()).unwrap();
        drop(reading);
        (&writing).write_all(b"begun").unwrap();
        job.cancelled.store(true, Ordering::SeqCst);
        assert_eq!(fd_answer(peer).unwrap_err().errno, 4);
        assert_eq!((&writing).write(b"x").unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
        send(peer, &[FromWorker::EndEntry(Err(Failure { errno: 4, message: "interrupted".into() })), finished(1)]);
    });
    assert_eq!(end.unwrap(), End::Stopped("the job was interrupted".into()));
}

#[test]
fn a_plugin_that_does_nothing_is_stopped_by_its_time_limit() {
    let limits = Limits { silence: Some(Duration::from_millis(150)), grace: Duration::from_millis(150), ..LIMITS };
    let (job, mut kept) = (TestJob::default(), Kept::default());
    let end = backup_with(limits, &job, &mut kept, |peer| {
        send(peer, &[entry("a")]);
        peer.channel.flush().unwrap();
        // Deaf to the cancel too, until the host closes.
        while let Ok(Some(_)) = peer.channel.receive::<ToWorker>() {}
    });
    let End::Stopped(reason) = end.unwrap() else { panic!() };
    assert!(
        reason.starts_with("the plugin did nothing for 0.15 s (--plugin-timeout); it did not end within 0.15 s"),
        "{reason}"
    );
    assert_eq!(kept.tally, Tally { announced: 1, lost: 1, ..Tally::default() });
    assert!(job.messages.lock().unwrap().iter().any(|(level, _)| *level == MessageLevel::Fatal));
}

#[test]
fn a_silent_pipe_is_silence() {
    let limits = Limits { silence: Some(Duration::from_millis(150)), grace: Duration::from_secs(20), ..LIMITS };
    let (job, mut kept) = (TestJob::default(), Kept::default());
    let end = backup_with(limits, &job, &mut kept, |peer| {
        send(peer, &[entry("a")]);
        let (reading, _writing) = std::io::pipe().unwrap();
        peer.channel.send_with_fd(&FromWorker::DataFd, reading.as_fd()).unwrap();
        assert!(fd_answer(peer).is_err());
        send(peer, &[FromWorker::EndEntry(Err(Failure { errno: 4, message: "cancelled".into() })), finished(1)]);
    });
    assert_eq!(end.unwrap(), End::Stopped("the plugin did nothing for 0.15 s (--plugin-timeout)".into()));
}

// ------------------------------------------------------------------------------------------------------ restore

/// A sink whose peer runs `script` on a thread of its own, and the folder that its options live in.
fn sink(
    script: impl FnOnce(&mut Peer) + Send + 'static,
) -> (BareosSink, std::thread::JoinHandle<()>, tempfile::TempDir) {
    let (worker, mut peer) = Worker::scripted().unwrap();
    let thread = std::thread::spawn(move || {
        let Some((ToWorker::Start(spec), None)) = peer.channel.receive::<ToWorker>().unwrap() else { panic!() };
        assert_eq!((spec.task, spec.level, spec.where_prefix.as_deref()), (Task::Restore, ' ', Some("/to")));
        peer.channel.send(&ready()).unwrap();
        peer.channel.flush().unwrap();
        script(&mut peer);
        let _ = peer.channel.flush();
    });
    let state = tempfile::tempdir().unwrap();
    let mut options = BareosOptions::new(state.path().to_owned());
    options.where_prefix = Some("/to".into());
    let job: Arc<dyn Job> = Arc::new(TestJob::default());
    let mut sink = BareosSink::new(options, job);
    let saved_by = SavedJob { definitions: vec!["python3:module_name=m:a=1".into()], ..SavedJob::default() };
    sink.begin_with(worker, &[saved_by], &[]).unwrap();
    (sink, thread, state)
}

fn expect_restore(peer: &mut Peer) -> backstay_bareos_protocol::RestoreEntry {
    match peer.channel.receive().unwrap() {
        Some((ToWorker::Restore(entry), None)) => *entry,
        other => panic!("{other:?}"),
    }
}

/// Takes ring data until the entry's end, like a worker.
fn take_data(peer: &mut Peer) -> (Vec<u8>, ToWorker) {
    let mut data = Vec::new();
    loop {
        match peer.channel.receive().unwrap() {
            Some((ToWorker::Data { position, length }, None)) => {
                assert!(length <= 262_144);
                peer.restore.copy_out(position, length, &mut data).unwrap();
                peer.channel.send(&FromWorker::Consumed(peer.restore.position())).unwrap();
            }
            Some((end @ ToWorker::EndData { .. }, None)) => return (data, end),
            other => panic!("{other:?}"),
        }
    }
}

fn ledger_entry(name: &str, file_type: i32, link: &str) -> Entry {
    crate::view::entry(&PluginEntry { file_type, link: link.into(), ..plugin_entry(name) }).unwrap()
}

#[test]
fn a_restore_sends_names_data_and_attributes() {
    let data = pattern(20_000_000);
    let expected = data.clone();
    let (mut sink, thread, _state) = sink(move |peer| {
        let got = expect_restore(peer);
        assert_eq!(got.definition, "python3:module_name=m:a=1");
        assert_eq!((got.output_name.as_slice(), got.output_link.as_slice()), (&b"/to/etc/a"[..], &b""[..]));
        peer.channel.send(&FromWorker::Created(Created::Ring)).unwrap();
        let (data, end) = take_data(peer);
        assert!(data == expected);
        let acls = vec![b"acl".to_vec()];
        let xattrs = vec![(b"user.x".to_vec(), b"1".to_vec())];
        assert_eq!(end, ToWorker::EndData { written: Ok(()), acls, xattrs });
        peer.channel.send(&FromWorker::Restored(Ok(()))).unwrap();

        let got = expect_restore(peer);
        assert_eq!((got.output_name.as_slice(), got.output_link.as_slice()), (&b"/to/v"[..], &b"/to/etc/a"[..]));
        peer.channel.send(&FromWorker::Created(Created::Made)).unwrap();
        peer.channel.receive::<ToWorker>().unwrap();
        peer.channel.send(&FromWorker::Restored(Err(Failure { errno: 0, message: "no".into() }))).unwrap();

        // A symbolic link keeps its target.
        assert_eq!(expect_restore(peer).output_link, b"/etc/a");
        send(
            peer,
            &[FromWorker::Message { kind: 4, text: "cannot make it\n".into() }, FromWorker::Created(Created::Failed)],
        );
        peer.channel.receive::<ToWorker>().unwrap();
        peer.channel.send(&FromWorker::Restored(Ok(()))).unwrap();
        assert!(matches!(peer.channel.receive().unwrap(), Some((ToWorker::EndRestore, None))));
        send(peer, &[finished(0)]);
    });
    let entry = ledger_entry("/etc/a", 3, "");
    assert!(matches!(sink.create(&entry).unwrap(), Create::Bytes));
    for blob in data.chunks(1_500_000) {
        sink.write(blob).unwrap();
    }
    sink.close(&entry, true).unwrap();
    sink.attr(&entry, &Attr::Acl(b"acl".to_vec())).unwrap();
    sink.attr(&entry, &Attr::Xattr { name: b"user.x".to_vec(), value: b"1".to_vec() }).unwrap();
    assert_eq!(sink.end(&entry).unwrap(), None);

    let entry = ledger_entry("v", 1, "/etc/a");
    assert!(matches!(sink.create(&entry).unwrap(), Create::Made));
    assert_eq!(sink.end(&entry).unwrap().unwrap().message, "no");

    let entry = ledger_entry("/l", 4, "/etc/a");
    assert_eq!(sink.create(&entry).unwrap_err().message, "cannot make it");
    assert_eq!(sink.end(&entry).unwrap(), None);
    sink.finish(&Verdict::Complete).unwrap();
    thread.join().unwrap();
}

fn expect_whole(peer: &mut Peer) -> WholeEntry {
    match peer.channel.receive().unwrap() {
        Some((ToWorker::Whole(whole), None)) => *whole,
        other => panic!("{other:?}"),
    }
}

#[test]
fn small_entries_go_whole_and_do_not_wait_for_each_other() {
    let (mut sink, thread, _state) = sink(|peer| {
        let first = expect_whole(peer);
        assert_eq!((first.entry.output_name.as_slice(), first.data.as_slice()), (&b"/to/a"[..], &b"data"[..]));
        assert_eq!((first.acls, first.xattrs), (vec![b"acl".to_vec()], vec![(b"user.x".to_vec(), b"1".to_vec())]));
        // All are here before the first is answered.
        let others: Vec<_> = (0..4).map(|_| expect_whole(peer).entry.output_name).collect();
        assert_eq!(others, [b"/to/b", b"/to/c", b"/to/d", b"/to/e"]);
        let complaint = || FromWorker::Message { kind: 4, text: "cannot make it\n".into() };
        send(peer, &[FromWorker::Created(Created::Ring), FromWorker::Restored(Ok(()))]);
        send(peer, &[FromWorker::Created(Created::Skip), FromWorker::Restored(Ok(()))]);
        send(peer, &[complaint(), FromWorker::Created(Created::Failed), FromWorker::Restored(Ok(()))]);
        let failure = Failure { errno: 5, message: "no".into() };
        send(peer, &[FromWorker::Created(Created::Ring), FromWorker::Restored(Err(failure))]);
        send(peer, &[FromWorker::Created(Created::Made), complaint(), FromWorker::Restored(Ok(()))]);
        assert!(matches!(peer.channel.receive().unwrap(), Some((ToWorker::EndRestore, None))));
        send(peer, &[finished(0)]);
    });
    let attrs = [Attr::Acl(b"acl".to_vec()), Attr::Xattr { name: b"user.x".to_vec(), value: b"1".to_vec() }];
    assert!(sink.hand_over(&ledger_entry("a", 3, ""), b"data", &attrs).unwrap());
    for name in ["b", "c", "d", "e"] {
        assert!(sink.hand_over(&ledger_entry(name, 3, ""), b"", &[]).unwrap());
    }
    let failed = |text: &str, errno| Settled::Failed(EntryError { errno, ..EntryError::new(text) });
    let expected = [
        Settled::Restored,
        Settled::Skipped,
        failed("cannot make it", None),
        failed("no", Some(5)),
        failed("cannot make it", None),
    ];
    for settled in expected {
        assert_eq!(sink.settle().unwrap(), Some(settled));
    }
    assert_eq!(sink.settle().unwrap(), None);
    sink.finish(&Verdict::WithErrors).unwrap();
    thread.join().unwrap();
}

#[test]
fn what_is_not_small_or_has_no_record_is_not_handed_over() {
    let (mut sink, thread, _state) = sink(|peer| {
        assert!(matches!(peer.channel.receive().unwrap(), Some((ToWorker::EndRestore, None))));
        send(peer, &[finished(0)]);
    });
    let entry = ledger_entry("a", 3, "");
    assert!(!sink.hand_over(&entry, &vec![0; MOST_WHOLE + 1], &[]).unwrap());
    assert!(!sink.hand_over(&entry, b"", &[Attr::Acl(vec![0; 2 << 20])]).unwrap());
    let mut broken = ledger_entry("a", 3, "");
    broken.native.truncate(3);
    assert!(!sink.hand_over(&broken, b"", &[]).unwrap());
    sink.finish(&Verdict::Complete).unwrap();
    thread.join().unwrap();
}

#[test]
fn lies_and_deaths_after_a_hand_over_end_the_restore() {
    let lies: [fn() -> Vec<FromWorker>; 4] = [
        || vec![FromWorker::Restored(Ok(()))],
        || vec![FromWorker::Created(Created::Fd)],
        || vec![FromWorker::Created(Created::Ring), FromWorker::Created(Created::Ring)],
        Vec::new,
    ];
    for lie in lies {
        let (mut sink, thread, _state) = sink(move |peer| {
            expect_whole(peer);
            send(peer, &lie());
        });
        let entry = ledger_entry("a", 3, "");
        assert!(sink.hand_over(&entry, b"data", &[]).unwrap());
        let reason = sink.settle().unwrap_err().0;
        assert!(reason.contains("broke the protocol") || reason.contains("the plugin worker"), "{reason}");
        assert!(sink.finish(&Verdict::Partial(String::new())).is_err());
        thread.join().unwrap();
    }
}

#[test]
fn a_descriptor_of_the_plugin_gets_everything_and_is_closed_before_the_end() {
    let data = pattern(3_000_000);
    let expected = data.clone();
    let (mut sink, thread, _state) = sink(move |peer| {
        for _ in 0..2 {
            expect_restore(peer);
            let (reading, writing) = std::io::pipe().unwrap();
            peer.channel.send_with_fd(&FromWorker::Created(Created::Fd), writing.as_fd()).unwrap();
            drop(writing);
            let mut got = Vec::new();
            (&reading).read_to_end(&mut got).unwrap();
            assert!(got == expected);
            let Some((ToWorker::EndData { written: Ok(()), .. }, None)) = peer.channel.receive().unwrap() else {
                panic!()
            };
            peer.channel.send(&FromWorker::Restored(Ok(()))).unwrap();
        }
        expect_restore(peer);
        let (reading, writing) = std::io::pipe().unwrap();
        drop(reading);
        peer.channel.send_with_fd(&FromWorker::Created(Created::Fd), writing.as_fd()).unwrap();
        drop(writing);
        match peer.channel.receive().unwrap() {
            Some((ToWorker::EndData { written: Err(failure), .. }, None)) => assert_eq!(failure.errno, 32),
            other => panic!("{other:?}"),
        }
        peer.channel.send(&FromWorker::Restored(Err(Failure { errno: 32, message: "Write error".into() }))).unwrap();
        peer.channel.receive::<ToWorker>().unwrap();
        send(peer, &[finished(0)]);
    });
    let entry = ledger_entry("a", 3, "");
    for _ in 0..2 {
        assert!(matches!(sink.create(&entry).unwrap(), Create::Bytes));
        for blob in data.chunks(1_000_000) {
            sink.write(blob).unwrap();
        }
        sink.close(&entry, true).unwrap();
        assert_eq!(sink.end(&entry).unwrap(), None);
    }
    sink.create(&entry).unwrap();
    assert_eq!(sink.write(&data).unwrap_err().errno, Some(32));
    sink.close(&entry, false).unwrap();
    assert_eq!(sink.end(&entry).unwrap().unwrap().message, "Write error");
    sink.finish(&Verdict::WithErrors).unwrap();
    thread.join().unwrap();
}

#[test]
fn a_worker_that_dies_in_a_restore_ends_it() {
    let (mut sink, thread, _state) = sink(|peer| {
        expect_restore(peer);
        send(peer, &[FromWorker::Created(Created::Ring)]);
        peer.channel.flush().unwrap();
        peer.channel.receive::<ToWorker>().unwrap();
    });
    let entry = ledger_entry("a", 3, "");
    sink.create(&entry).unwrap();
    let data = vec![0; 1 << 20];
    let error = loop {
        if let Err(error) = sink.write(&data) {
            break error;
        }
    };
    assert!(error.message.contains("the plugin worker exited"), "{error}");
    sink.close(&entry, false).unwrap();
    assert!(sink.end(&entry).unwrap_err().0.contains("the plugin worker exited"));
    assert!(sink.finish(&Verdict::Partial(String::new())).is_err());
    thread.join().unwrap();
}

#[test]
fn a_record_of_another_kind_fails_alone() {
    let (mut sink, thread, _state) = sink(|peer| {
        assert!(matches!(peer.channel.receive().unwrap(), Some((ToWorker::EndRestore, None))));
        send(peer, &[finished(0)]);
    });
    let mut entry = ledger_entry("a", 3, "");
    entry.native.truncate(3);
    assert!(sink.create(&entry).unwrap_err().message.contains("the ledger's record of a cannot be read"));
    assert_eq!(sink.end(&entry).unwrap(), None);
    let stray = PluginEntry { definition: 9, ..plugin_entry("b") };
    assert!(sink.create(&crate::view::entry(&stray).unwrap()).is_err());
    assert_eq!(sink.end(&entry).unwrap(), None);
    sink.finish(&Verdict::WithErrors).unwrap();
    thread.join().unwrap();
}
