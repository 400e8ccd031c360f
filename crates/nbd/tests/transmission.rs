//! Requests and answers on a connection, thread models, and how connections and servers end (reference 8, 9, 10.5 to 10.7).
#![allow(clippy::unwrap_used)]

mod common;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::time::Duration;

use backstay_core::{Client, DiskInfo, Extent, Support, ThreadModel};
use backstay_nbd::codec::option::{InfoRequest, OptionKind, ReplyKind};
use backstay_nbd::codec::request::{Command, Flags, Request};
use backstay_nbd::handshake::{Encryption, Style, Terms};
use backstay_nbd::memory::MemoryDisk;
use backstay_nbd::server::{Server, Settings, Stream};
use common::{Peer, Probe, Reply, Running, one_connection};

const MODELS: [ThreadModel; 4] = [
    ThreadModel::SerializeConnections,
    ThreadModel::SerializeAllRequests,
    ThreadModel::SerializeRequests,
    ThreadModel::Parallel,
];

fn read(cookie: u64, offset: u64, count: u32) -> Request {
    Request { flags: Flags(0), command: Command::Read, cookie, offset, count }
}

/// Opens once.
#[derive(Clone, Default)]
struct Latch(Arc<(Mutex<bool>, Condvar)>);

impl Latch {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        drop(self.0.1.wait_while(self.0.0.lock().unwrap(), |open| !*open).unwrap());
    }

    fn is_open(&self) -> bool {
        *self.0.0.lock().unwrap()
    }
}

#[test]
fn what_is_written_is_read_back_under_every_model() {
    for model in MODELS {
        let server = Running::new(Arc::new(MemoryDisk::new(8 << 20, model)));
        for (structured, count) in [(false, 1), (true, 4096), (true, 3 << 20)] {
            let (mut peer, flags) = server.connect().go(b"", structured, structured);
            assert_eq!(flags & 0x100 != 0, model != ThreadModel::SerializeConnections);
            let data: Vec<u8> = (0..count).map(|at: u32| (at % 251) as u8).collect();
            assert_eq!(peer.call(Command::Write, 1, 4097, count, &data), Reply::Simple(vec![]));
            assert_eq!(peer.read(4097, count), data);
            assert_eq!(peer.call(Command::WriteZeroes, 0, 4097, count, b""), Reply::Simple(vec![]));
            assert_eq!(peer.read(4097, count), vec![0; count as usize]);
            for command in [Command::Flush, Command::Trim, Command::Cache] {
                let count = if command == Command::Flush { 0 } else { count };
                assert_eq!(peer.call(command, 0, 0, count, b""), Reply::Simple(vec![]));
            }
            peer.disconnect();
            assert!(peer.is_closed());
        }
        server.end();
    }
}

#[test]
fn answers_are_structured_where_they_carry_data() {
    let probe = Probe {
        info: DiskInfo { size: 1 << 20, can_extents: true, ..DiskInfo::default() },
        extents: vec![Extent { offset: 0, length: 1 << 20, hole: true, zero: true }],
        ..Probe::acting(ThreadModel::Parallel, |call, _| if call == "read 512 8" { Err(libc::ENOMEM) } else { Ok(()) })
    };
    let server = Running::new(Arc::new(probe));
    let (mut peer, flags) = server.connect().go(b"", true, true);
    assert_eq!(flags, 0x83);
    let data = Reply::Chunk(1, 1, [&16_u64.to_be_bytes()[..], &2_u64.to_le_bytes()].concat());
    assert_eq!(peer.call(Command::Read, 4, 16, 8, b""), data);
    let error = Reply::Chunk(1, 0x8001, vec![0, 0, 0, 12, 0, 0]);
    assert_eq!(peer.call(Command::Read, 0, 512, 8, b""), error);
    assert_eq!(peer.call(Command::Read, 0, 1 << 20, 8, b""), Reply::Chunk(1, 0x8001, vec![0, 0, 0, 22, 0, 0]));
    let extents = Reply::Chunk(1, 5, vec![0, 0, 0, 1, 0, 15, 0xf0, 0, 0, 0, 0, 3]);
    assert_eq!(peer.call(Command::BlockStatus, 0, 4096, 8, b""), extents);
    assert_eq!(peer.call(Command::Write, 0, 0, 8, &[0; 8]), Reply::SimpleError(1));
    assert_eq!(peer.call(Command::Flush, 0, 0, 0, b""), Reply::SimpleError(22));
    let (mut peer, _) = server.connect().go(b"", false, false);
    assert_eq!(peer.call(Command::Read, 0, 16, 8, b""), Reply::Simple(2_u64.to_le_bytes().to_vec()));
    assert_eq!(peer.call(Command::Read, 0, 512, 8, b""), Reply::SimpleError(12));
    assert_eq!(peer.call(Command::BlockStatus, 0, 0, 8, b""), Reply::SimpleError(22));
}

#[test]
fn the_stream_stays_in_step_after_every_refusal() {
    let probe = Probe {
        info: DiskInfo { size: 1 << 20, can_write: true, ..DiskInfo::default() },
        ..Probe::new(ThreadModel::Parallel)
    };
    let server = Running::new(Arc::new(probe));
    let mut peer = server.connect().ready();
    let table = [
        (Command::Write, 0, 1 << 20, 512, 28),
        (Command::Write, 0, u64::MAX, 512, 28),
        (Command::Write, 1, 0, 512, 22),
        (Command::Write, 0, 0, 100_000, 0),
        (Command::Write, 32, 0, 100_000, 22),
        (Command::Read, 0, 0, 0, 22),
        (Command::Other(9), 0, 0, 512, 22),
        (Command::WriteZeroes, 16, 0, 512, 22),
        (Command::Flush, 0, 0, 0, 22),
    ];
    for (command, flags, offset, count, error) in table {
        let payload = vec![7; if command == Command::Write { count as usize } else { 0 }];
        assert_eq!(peer.call(command, flags, offset, count, &payload).error(), error, "{command:?}");
        assert_eq!(peer.read(8, 8), 1_u64.to_le_bytes());
    }
}

#[test]
fn sizes_at_the_limits_are_served_refused_or_end_the_connection() {
    let server = Running::new(Arc::new(MemoryDisk::new(1 << 30, ThreadModel::SerializeAllRequests)));
    let mut peer = server.connect().ready();
    let mib: u32 = 1 << 20;
    assert_eq!(peer.read(0, 64 * mib).len(), 64 << 20);
    assert_eq!(peer.call(Command::Read, 0, 0, 64 * mib + 1, b""), Reply::SimpleError(12));
    let payload = vec![1; 128 << 20];
    assert_eq!(peer.call(Command::Write, 0, 0, 64 * mib, &payload[..64 << 20]).error(), 0);
    assert_eq!(peer.call(Command::Write, 0, 0, 64 * mib + 1, &payload[..(64 << 20) + 1]).error(), 12);
    assert_eq!(peer.call(Command::Write, 0, 0, 128 * mib, &payload).error(), 12);
    for command in [Command::Trim, Command::WriteZeroes, Command::Cache] {
        assert_eq!(peer.call(command, 0, 0, 300 * mib, b"").error(), 0);
    }
    peer.request(Request { command: Command::Write, ..read(1, 0, 128 * mib + 1) }, b"");
    assert!(peer.is_closed());
    assert_eq!(server.connect().ready().read(0, 8), [0; 8]);
}

#[test]
fn what_is_no_request_ends_the_connection_and_no_other() {
    let server = Running::new(Arc::new(Probe::new(ThreadModel::Parallel)));
    let mut other = server.connect().ready();
    let mut peer = server.connect().ready();
    peer.send(&[0; 28]);
    assert!(peer.is_closed());
    // Clients that vanish anywhere.
    let mut greeted = server.connect().greet(3);
    greeted.send(b"IHAVEOPT\0\0");
    drop(greeted);
    drop(server.connect());
    let mut peer = server.connect().ready();
    peer.request(Request { command: Command::Write, ..read(1, 0, 1 << 20) }, &[0; 1000]);
    drop(peer);
    let mut peer = server.connect().ready();
    (0..64).for_each(|cookie| peer.request(read(cookie, 0, 1 << 20), b""));
    drop(peer);
    assert_eq!(other.read(0, 8), [0; 8]);
}

#[test]
fn requests_before_a_disconnect_are_answered() {
    for model in MODELS {
        let server = Running::new(Arc::new(Probe::new(model)));
        let mut peer = server.connect().ready();
        (0..60).for_each(|cookie| peer.request(read(cookie, 8 * cookie, 8), b""));
        peer.disconnect();
        let mut answered: Vec<u64> = (0..60)
            .map(|_| {
                let (cookie, reply) = peer.reply(8);
                assert_eq!(reply, Reply::Simple(cookie.to_le_bytes().to_vec()));
                cookie
            })
            .collect();
        answered.sort_unstable();
        assert_eq!(answered, (0..60).collect::<Vec<_>>());
        assert!(peer.is_closed());
    }
}

#[test]
fn a_client_that_sends_no_more_still_gets_its_answers() {
    let server = Running::new(Arc::new(Probe::new(ThreadModel::SerializeRequests)));
    let mut peer = server.connect().ready();
    (0..64).for_each(|cookie| peer.request(read(cookie, 8 * cookie, 8), b""));
    peer.stream.shutdown(std::net::Shutdown::Write).unwrap();
    (0..64).for_each(|_| drop(peer.reply(8)));
    assert!(peer.is_closed());
}

/// A server of parallel calls in which every read waits but those of the first bytes.
fn holding(wait: impl Fn() + Send + Sync + 'static) -> Running {
    let act = move |call: &str, _: &Client| {
        if call.starts_with("read") && call != "read 0 8" {
            wait();
        }
        Ok(())
    };
    Running::new(Arc::new(Probe::acting(ThreadModel::Parallel, act)))
}

/// Sixteen calls can only end when sixteen run.
#[test]
fn parallel_calls_of_one_connection_overlap_and_are_answered_out_of_order() {
    let barrier = Arc::new(Barrier::new(16));
    let server = holding(move || {
        barrier.wait();
    });
    let mut peer = server.connect().ready();
    for round in 0..4_u64 {
        let cookies = round * 16 + 1..round * 16 + 17;
        cookies.clone().for_each(|cookie| peer.request(read(cookie, 8 * cookie, 8), b""));
        let mut answered: Vec<u64> = cookies
            .clone()
            .map(|_| {
                let (cookie, reply) = peer.reply(8);
                assert_eq!(reply, Reply::Simple(cookie.to_le_bytes().to_vec()));
                cookie
            })
            .collect();
        answered.sort_unstable();
        assert_eq!(answered, cookies.collect::<Vec<_>>());
    }
}

/// One request after the other arrives while all before it are running.
#[test]
fn a_request_that_comes_while_calls_run_is_run_beside_them() {
    let latch = Latch::default();
    let held = latch.clone();
    let server = holding(move || held.wait());
    let mut peer = server.connect().ready();
    for cookie in 1..16 {
        peer.request(read(cookie, 8 * cookie, 8), b"");
        assert_eq!(peer.read(0, 8), [0; 8]);
    }
    latch.open();
    (1..16).for_each(|_| drop(peer.reply(8)));
}

#[test]
fn no_more_threads_than_told_call_at_a_time() {
    for (model, threads, most) in [
        (ThreadModel::Parallel, 3, 3),
        (ThreadModel::Parallel, 1, 1),
        (ThreadModel::SerializeRequests, 16, 1),
        (ThreadModel::SerializeAllRequests, 16, 1),
    ] {
        let (now, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (running, highest) = (Arc::clone(&now), Arc::clone(&peak));
        let act = move |call: &str, _: &Client| {
            if call.starts_with("read") {
                highest.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(1));
                running.fetch_sub(1, Ordering::SeqCst);
            }
            Ok(())
        };
        let server = Running::with(Arc::new(Probe::acting(model, act)), Settings { threads, ..Settings::default() });
        let mut peer = server.connect().ready();
        (0..64).for_each(|cookie| peer.request(read(cookie, 0, 8), b""));
        (0..64).for_each(|_| drop(peer.reply(8)));
        assert!(peak.load(Ordering::SeqCst) <= most, "{model:?} {threads}");
    }
}

/// Each call of one connection waits for one of the other; that only ends if they overlap.
#[test]
fn connections_overlap_where_only_their_own_requests_are_serial() {
    let barrier = Arc::new(Barrier::new(2));
    let act = move |call: &str, _: &Client| {
        if call.starts_with("read") {
            barrier.wait();
        }
        Ok(())
    };
    let server = Running::new(Arc::new(Probe::acting(ThreadModel::SerializeRequests, act)));
    let mut peers = [server.connect().ready(), server.connect().ready()];
    for peer in &mut peers {
        (0..8).for_each(|cookie| peer.request(read(cookie, 8 * cookie, 8), b""));
    }
    for peer in &mut peers {
        // In order.
        (0..8).for_each(|cookie| assert_eq!(peer.reply(8).0, cookie));
    }
}

#[test]
fn one_call_at_a_time_in_all_means_all_calls() {
    let running = Arc::new(AtomicUsize::new(0));
    let act = move |_: &str, _: &Client| {
        assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "two calls at a time");
        std::thread::sleep(Duration::from_micros(300));
        running.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    };
    let probe = Probe::acting(ThreadModel::SerializeAllRequests, act);
    let server = Running::new(Arc::new(probe.clone()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..3 {
                    let mut peer = server.connect().greet(3);
                    assert_eq!(peer.ask(OptionKind::List, b""), ReplyKind::Ack);
                    drop(peer);
                    let mut peer = server.connect().ready();
                    (0..20).for_each(|cookie| peer.request(read(cookie, 0, 8), b""));
                    (0..20).for_each(|_| assert_eq!(peer.reply(8).1, Reply::Simple(vec![0; 8])));
                    peer.disconnect();
                    assert!(peer.is_closed());
                }
            });
        }
    });
    server.end();
    let closed = probe.calls().iter().filter(|call| *call == "close").count();
    assert_eq!(closed, 12);
}

#[test]
fn a_silent_client_holds_up_nobody_but_where_connections_are_serial() {
    for model in MODELS {
        let server = Running::new(Arc::new(Probe::new(model)));
        // It is greeted, so that it is the one that is served, and says nothing.
        let mut silent = server.connect();
        std::io::Read::read_exact(&mut silent.stream, &mut [0; 18]).unwrap();
        let half = server.connect();
        if model == ThreadModel::SerializeConnections {
            let mut waiting = server.connect();
            waiting.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let error = std::io::Read::read(&mut waiting.stream, &mut [0]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "it was greeted");
            waiting.stream.set_read_timeout(None).unwrap();
            drop((silent, half));
            assert_eq!(waiting.ready().read(0, 8), [0; 8]);
        } else {
            assert_eq!(server.connect().ready().read(0, 8), [0; 8]);
            drop((silent, half));
        }
    }
}

#[test]
fn a_client_that_takes_no_answers_holds_up_nobody_but_where_connections_are_serial() {
    for model in MODELS.into_iter().filter(|model| *model != ThreadModel::SerializeConnections) {
        let server = Running::new(Arc::new(Probe::new(model)));
        let mut greedy = server.connect().ready();
        // More than the system keeps for it.
        let requests: Vec<u8> = (0..4000).flat_map(|cookie| read(cookie, 0, 1000).encode()).collect();
        let mut stream = greedy.stream.try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            // Until the end of the server.
            let _ = std::io::Write::write_all(&mut stream, &requests);
        });
        // Its first answer is there, so it is being served.
        greedy.reply(1000);
        for _ in 0..20 {
            let other = server.connect();
            other.stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            assert_eq!(other.ready().read(0, 8), [0; 8], "{model:?}");
        }
        greedy.stream.shutdown(std::net::Shutdown::Both).unwrap();
        sending.join().unwrap();
    }
}

#[test]
fn a_finished_answer_does_not_wait_for_a_call_that_runs() {
    for model in MODELS {
        let latch = Latch::default();
        let held = latch.clone();
        let act = move |call: &str, _: &Client| {
            if call == "read 64 8" {
                held.wait();
            }
            Ok(())
        };
        let threads = 1;
        let server = Running::with(Arc::new(Probe::acting(model, act)), Settings { threads, ..Settings::default() });
        let mut peer = server.connect().ready();
        // In one piece, so that they are read together.
        let requests: Vec<u8> = (0..9).flat_map(|cookie| read(cookie, 8 * cookie, 8).encode()).collect();
        peer.send(&requests);
        // They come although the ninth call does not end before they came.
        (0..8).for_each(|cookie| assert_eq!(peer.reply(8).0, cookie));
        latch.open();
        assert_eq!(peer.reply(8).0, 8);
    }
}

#[test]
fn shutdown_finishes_what_runs_and_closes_disks_idle_connections_included() {
    for model in MODELS {
        let (begun, latch) = (Latch::default(), Latch::default());
        let (entered, held) = (begun.clone(), latch.clone());
        let act = move |call: &str, _: &Client| {
            if call == "read 8 8" {
                entered.open();
                held.wait();
            }
            Ok(())
        };
        let probe = Probe::acting(model, act);
        let server = Running::new(Arc::new(probe.clone()));
        let serial = model == ThreadModel::SerializeConnections;
        let mut idle: Vec<Peer> =
            if serial { vec![] } else { vec![server.connect().ready(), server.connect().greet(3)] };
        let mut peer = server.connect().ready();
        let unserved = server.connect();
        peer.request(read(7, 8, 8), b"");
        begun.wait();
        server.handle.shutdown();
        // Those that wait for nothing end while the call still runs.
        idle.iter_mut().for_each(|peer| assert!(peer.is_closed()));
        assert!(!latch.is_open());
        latch.open();
        assert_eq!(peer.reply(8), (7, Reply::Simple(1_u64.to_le_bytes().to_vec())));
        assert!(peer.is_closed());
        server.wait();
        drop(unserved);
        let count = |name: &str| probe.calls().iter().filter(|call| call.starts_with(name)).count();
        assert_eq!(count("open"), if serial { 1 } else { 2 });
        assert_eq!(count("close"), count("open"));
    }
}

#[test]
fn a_disk_ends_the_server_from_a_call_and_is_answered() {
    let act = |call: &str, client: &Client| {
        if call == "read 8 8" {
            client.connection.shutdown();
        }
        Ok(())
    };
    let probe = Probe::acting(ThreadModel::SerializeAllRequests, act);
    let server = Running::new(Arc::new(probe.clone()));
    let mut peer = server.connect().ready();
    let requests: Vec<u8> = (1..9).flat_map(|cookie| read(cookie, 8 * cookie, 8).encode()).collect();
    peer.send(&requests);
    assert_eq!(peer.reply(8), (1, Reply::Simple(1_u64.to_le_bytes().to_vec())));
    // What was read and had not begun is told so.
    (2..9).for_each(|cookie| assert_eq!(peer.reply(8), (cookie, Reply::SimpleError(108))));
    assert!(peer.is_closed());
    server.wait();
    assert_eq!(probe.calls().last().unwrap(), "close");
}

#[test]
fn a_disk_ends_its_connection_softly_or_at_once() {
    for force in [false, true] {
        let act = move |call: &str, client: &Client| {
            if call == "read 8 8" {
                client.connection.disconnect(force);
            }
            Ok(())
        };
        let probe = Probe::acting(ThreadModel::Parallel, act);
        let server = Running::new(Arc::new(probe.clone()));
        let mut other = server.connect().ready();
        let mut peer = server.connect().ready();
        peer.request(read(1, 8, 8), b"");
        if force {
            assert!(peer.is_closed());
        } else {
            assert_eq!(peer.reply(8).1, Reply::Simple(1_u64.to_le_bytes().to_vec()));
            (0..3).for_each(|_| assert_eq!(peer.call(Command::Read, 0, 16, 8, b""), Reply::SimpleError(108)));
            peer.disconnect();
            assert!(peer.is_closed());
        }
        assert_eq!(other.read(0, 8), [0; 8]);
        assert!(!probe.calls().contains(&"read 16 8".to_owned()));
    }
}

#[test]
fn a_sleep_in_a_call_ends_with_its_connection_or_server() {
    let slept = Arc::new(Mutex::new(Vec::new()));
    let (begun, results) = (Arc::new(Barrier::new(2)), Arc::clone(&slept));
    let entered = Arc::clone(&begun);
    let act = move |call: &str, client: &Client| {
        if call == "read 8 8" {
            entered.wait();
            let whole = client.connection.sleep(Duration::from_secs(3600));
            results.lock().unwrap().push(whole);
        } else if call == "read 16 8" {
            assert!(client.connection.sleep(Duration::from_millis(1)));
        }
        Ok(())
    };
    let server = Running::new(Arc::new(Probe::acting(ThreadModel::SerializeRequests, act)));
    let mut peer = server.connect().ready();
    peer.read(16, 8);
    peer.request(read(1, 8, 8), b"");
    begun.wait();
    drop(peer);
    let mut peer = server.connect().ready();
    peer.request(read(1, 8, 8), b"");
    begun.wait();
    server.end();
    assert_eq!(*slept.lock().unwrap(), [false, false]);
}

#[test]
fn errors_and_panics_of_calls_hurt_their_request_only() {
    let act = |call: &str, _: &Client| match call {
        "read 8 8" => panic!("on purpose"),
        "read 16 8" => Err(libc::ENOSPC),
        _ => Ok(()),
    };
    let server = Running::new(Arc::new(Probe::acting(ThreadModel::SerializeAllRequests, act)));
    let mut peer = server.connect().ready();
    assert_eq!(peer.call(Command::Read, 0, 8, 8, b""), Reply::SimpleError(5));
    assert_eq!(peer.call(Command::Read, 0, 16, 8, b""), Reply::SimpleError(28));
    assert_eq!(peer.read(0, 8), [0; 8]);
}

#[test]
fn preconnect_and_open_refuse_before_the_first_byte_the_export_or_the_connection() {
    let act = |call: &str, client: &Client| match (call, client.number) {
        ("preconnect", 1) => Err(1),
        ("open bad", _) => Err(2),
        ("open worse", _) => Err(0),
        _ => Ok(()),
    };
    let probe = Probe::acting(ThreadModel::Parallel, act);
    let server = Running::new(Arc::new(probe.clone()));
    assert!(server.connect().is_closed());
    let mut peer = server.connect().greet(3);
    let name = |name: &[u8]| InfoRequest { name: name.to_vec(), wanted: vec![] }.encode();
    assert_eq!(peer.ask(OptionKind::Go, &name(b"bad")), ReplyKind::ErrUnknown);
    assert_eq!(peer.ask(OptionKind::Info, &name(b"good")), ReplyKind::Ack);
    assert_eq!(peer.ask(OptionKind::Go, &name(b"")), ReplyKind::Ack);
    assert_eq!(peer.read(0, 8), [0; 8]);
    let mut peer = server.connect().greet(3);
    peer.option(OptionKind::Go, &name(b"worse"));
    assert!(peer.is_closed());
    let mut peer = server.connect().greet(3);
    peer.option(OptionKind::ExportName, b"bad");
    assert!(peer.is_closed());
    let calls = probe.calls();
    let order: Vec<&str> = calls.iter().map(|call| &call[..]).take(8).collect();
    let expected =
        ["preconnect", "preconnect", "open bad", "open good", "close", "default_export", "open resolved", "read 0 8"];
    assert_eq!(order, expected);
}

#[test]
fn the_old_style_serves_at_once() {
    let terms = Terms { style: Style::Oldstyle, ..Terms::default() };
    let server = Running::with(Arc::new(Probe::new(ThreadModel::Parallel)), Settings { terms, ..Settings::default() });
    let mut peer = server.connect();
    assert_eq!(peer.receive(152)[..8], *b"NBDMAGIC");
    assert_eq!(peer.read(8, 8), 1_u64.to_le_bytes());
}

#[test]
fn two_pipes_do_as_well_as_a_socket() {
    let probe = Probe::new(ThreadModel::Parallel);
    let server = Server::new(Arc::new(probe.clone()), Settings::default()).unwrap();
    let handle = server.handle();
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let ((input, to), (from, output)) = (pipe(), pipe());
    let serving = std::thread::spawn(move || server.serve_stream(Stream::pair(input, output).unwrap()));
    let (mut to, mut from) = (std::fs::File::from(to), std::fs::File::from(from));
    let mut say = |bytes: &[u8]| std::io::Write::write_all(&mut to, bytes).unwrap();
    let mut hear = |length| {
        let mut bytes = vec![0; length];
        std::io::Read::read_exact(&mut from, &mut bytes).unwrap();
        bytes
    };
    hear(18);
    say(&3_u32.to_be_bytes());
    say(b"IHAVEOPT\0\0\0\x01\0\0\0\0");
    hear(10);
    say(&read(5, 8, 100_000).encode());
    assert_eq!(hear(100_016)[16..24], 1_u64.to_le_bytes());
    // Idle, it still ends.
    handle.shutdown();
    serving.join().unwrap();
    assert_eq!(probe.calls().last().unwrap(), "close");
}

#[test]
fn connections_beyond_the_memory_that_all_may_hold_wait_for_it_and_are_served() {
    let settings = Settings { memory: 64 << 20, ..Settings::default() };
    let server = Running::with(Arc::new(MemoryDisk::new(64 << 20, ThreadModel::SerializeRequests)), settings);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut peer = server.connect().ready();
                for _ in 0..3 {
                    (0..3).for_each(|cookie| peer.request(read(cookie, 0, 40 << 20), b""));
                    (0..3).for_each(|_| drop(peer.reply(40 << 20)));
                }
            });
        }
    });
}

#[test]
fn a_client_that_takes_no_answers_does_not_hold_up_the_end() {
    let server = Running::new(Arc::new(MemoryDisk::new(64 << 20, ThreadModel::Parallel)));
    let mut peer = server.connect().ready();
    peer.request(read(1, 0, 64 << 20), b"");
    // The answer has begun and does not fit.
    peer.receive(16);
    server.end();
}

#[test]
fn clients_are_told_apart() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let clients = Arc::clone(&seen);
    let act = move |call: &str, client: &Client| {
        if call.starts_with("open") {
            clients.lock().unwrap().push(client.clone());
        }
        Ok(())
    };
    let settings = Settings { read_only: true, ..Settings::default() };
    let server = Running::with(Arc::new(Probe::acting(ThreadModel::Parallel, act)), settings);
    let (_peer, flags) = server.connect().go(b"", false, false);
    assert_eq!(flags & 2, 2);
    drop(server.connect().ready());
    let seen = seen.lock().unwrap();
    assert_eq!((seen[0].number, seen[1].number), (1, 2));
    assert!(seen[0].read_only && !seen[0].tls);
    assert_eq!(seen[0].peer.unwrap().process, std::process::id().cast_signed());
    assert_ne!(seen[0].connection, seen[1].connection);
}

#[test]
fn encryption_that_is_not_there_is_refused_at_the_start() {
    for encryption in [Encryption::Offered, Encryption::Required] {
        let terms = Terms { encryption, ..Terms::default() };
        let disk = Arc::new(Probe::new(ThreadModel::Parallel));
        assert!(Server::new(disk, Settings { terms, ..Settings::default() }).is_err());
    }
}

#[test]
fn one_connection_without_a_listener_ends_with_its_client() {
    let probe = Probe::new(ThreadModel::SerializeConnections);
    let (peer, serving) = one_connection(Arc::new(probe.clone()), Settings::default());
    let mut peer = peer.ready();
    assert_eq!(peer.read(8, 8), 1_u64.to_le_bytes());
    drop(peer);
    serving.join().unwrap();
    assert_eq!(probe.calls().last().unwrap(), "close");
}

#[test]
fn many_connections_come_and_go() {
    let info = DiskInfo { size: 4096, can_multi_conn: true, cache: Support::Native, ..DiskInfo::default() };
    let server = Running::new(Arc::new(Probe { info, ..Probe::new(ThreadModel::SerializeAllRequests) }));
    let mut peers: Vec<Peer> = (0..300).map(|_| server.connect().ready()).collect();
    peers.iter_mut().for_each(|peer| assert_eq!(peer.read(0, 8), [0; 8]));
    peers.truncate(10);
    peers.extend((0..50).map(|_| server.connect().ready()));
    peers.iter_mut().for_each(|peer| assert_eq!(peer.read(0, 8), [0; 8]));
    server.end();
}

#[test]
fn tcp_listens_on_the_family_asked_for_and_serves() {
    use backstay_nbd::listen::{self, Family, addresses};
    let tcp = |port, family| listen::tcp(&addresses(Some("127.0.0.1"), port, family).unwrap(), false, false);
    let listeners: Vec<OwnedFd> = tcp(0, Family::V4).unwrap();
    assert!(tcp(0, Family::V6).is_err());
    let address = |fd: &OwnedFd| {
        let listener = std::net::TcpListener::from(fd.try_clone().unwrap());
        listener.local_addr().unwrap()
    };
    let at = address(&listeners[0]);
    // Another on the same port has no address left.
    assert_eq!(tcp(at.port(), Family::Any).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    let server = Server::new(Arc::new(MemoryDisk::new(1 << 20, ThreadModel::Parallel)), Settings::default()).unwrap();
    let handle = server.handle();
    let serving = std::thread::spawn(move || server.serve(&listeners).unwrap());
    let stream = std::net::TcpStream::connect(at).unwrap();
    let mut peer = Peer::new(std::os::unix::net::UnixStream::from(OwnedFd::from(stream))).ready();
    assert_eq!(peer.read(0, 1 << 20), vec![0; 1 << 20]);
    handle.shutdown();
    serving.join().unwrap();
}
