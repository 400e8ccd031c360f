//! Thread models and threads (items 57 to 60). Whether calls overlap is seen by who meets whom, not by a clock.

use super::LEAST;
use super::client::{Client, READ};
use super::server::{PATIENCE, Server, eventually};

/// Reads at offset 0 wait until `meet` of them are there at the same time (or until it is known that they will not be), and
/// the byte that they answer is how many were there at most.
const MEETING: &str = "
import threading, sys
lock = threading.Condition()
inside = most = 0
def pread(h, c, o):
    global inside, most
    with lock:
        inside += 1
        most = max(most, inside)
        lock.notify_all()
        if o == 0: lock.wait_for(lambda: most >= WANTED, TIME)
        inside -= 1
        return bytes([most]) * c
";

fn meeting(model: u8, wanted: u8, arguments: &[&str]) -> Server {
    // Where they cannot meet, waiting for long shows nothing more.
    let time = if model == 3 && arguments.is_empty() || model == 2 { "60" } else { "0.05" };
    let code = MEETING.replace("WANTED", &wanted.to_string()).replace("TIME", time);
    Server::with(&format!("{LEAST}{code}def thread_model(): return {model}\n"), arguments)
}

fn most(client: &mut Client, requests: usize) -> u8 {
    for _ in 0..requests {
        client.send(READ, 0, 0, 1, &[]);
    }
    let mut most = 0;
    for _ in 0..requests {
        assert_eq!(client.answer().unwrap().1, 0);
        let mut byte = [0];
        std::io::Read::read_exact(&mut client.stream, &mut byte).unwrap();
        most = most.max(byte[0]);
    }
    most
}

#[test]
fn item_57_a_silent_client_blocks_nobody() {
    for model in 1..=3 {
        let server = meeting(model, 1, &[]);
        let silent = std::os::unix::net::UnixStream::connect(&server.socket).unwrap();
        let half = server.connect();
        assert_eq!(server.open().read(1, 4).unwrap().len(), 4, "model {model}");
        drop((silent, half));
    }
}

#[test]
fn item_58_how_many_calls_run_at_a_time() {
    assert_eq!(most(&mut meeting(3, 8, &[]).open(), 8), 8);
    assert_eq!(most(&mut meeting(3, 2, &["-t", "1"]).open(), 4), 1);
    assert_eq!(most(&mut meeting(2, 1, &[]).open(), 8), 1);
    assert_eq!(most(&mut meeting(1, 2, &[]).open(), 4), 1);
    // Two connections meet in model 2 and not in model 1.
    for (model, met) in [(2, 2), (1, 1)] {
        let server = meeting(model, 2, &[]);
        let mut clients = [server.open(), server.open()];
        let results: Vec<u8> = std::thread::scope(|scope| {
            let threads: Vec<_> = clients.iter_mut().map(|client| scope.spawn(|| most(client, 1))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(results.iter().max(), Some(&met), "model {model}");
    }
    // In model 0 the second client is not even greeted before the first has gone.
    let server = meeting(0, 1, &[]);
    let first = eventually("the first client", || {
        // The one that looked whether the socket is there may still be leaving.
        Client::try_connect(&server.socket).ok()
    });
    let second = std::os::unix::net::UnixStream::connect(&server.socket).unwrap();
    second.set_nonblocking(true).unwrap();
    let mut byte = [0];
    let read = std::io::Read::read(&mut &second, &mut byte);
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    drop(first);
    second.set_nonblocking(false).unwrap();
    second.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(Client::greet(second).is_ok());
}

#[test]
fn item_59_replies_in_any_order_have_their_cookies_and_data() {
    let server = Server::start(&format!(
        "{LEAST}import time\ndef thread_model(): return 3\ndef pread(h, c, o):\n  time.sleep(0.001 * (o % 7))\n  return bytes([o]) * c\n"
    ));
    let mut client = server.open();
    let mut offsets = std::collections::HashMap::new();
    for offset in 0..64 {
        offsets.insert(client.send(READ, 0, offset, 8, &[]), offset);
    }
    for _ in 0..64 {
        let (cookie, error) = client.answer().unwrap();
        assert_eq!(error, 0);
        let mut data = [0; 8];
        std::io::Read::read_exact(&mut client.stream, &mut data).unwrap();
        assert_eq!(u64::from(data[7]), offsets.remove(&cookie).unwrap());
    }
}

#[test]
fn item_60_threads_and_children_of_the_script() {
    let server = Server::start(&format!(
        "{LEAST}import threading, subprocess, sys, time\n\
         def work():\n  while True: time.sleep(0.01); print('tick', file=sys.stderr, flush=True)\n\
         def after_fork(): threading.Thread(target=work, daemon=True).start()\n\
         def pread(h, c, o): return subprocess.run(['echo', '-n', 'child'], stdout=subprocess.PIPE, check=True).stdout.ljust(c)\n"
    ));
    // While nobody calls.
    eventually("three ticks", || (server.stderr().matches("tick").count() >= 3).then_some(()));
    assert_eq!(server.open().read(0, 5), Ok(b"child".to_vec()));
}
