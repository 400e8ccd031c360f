//! The process around the server (items 61 to 67).

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::LEAST;
use super::client::{Client, READ};
use super::server::{Server, eventually, program, run, script, text};

const CLEANUP: &str = "import sys\ndef cleanup(): print('cleanup', file=sys.stderr, flush=True)\n\
                       import atexit\natexit.register(lambda: print('atexit', file=sys.stderr, flush=True))\n";

#[test]
fn item_61_signals_and_shutdown() {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP] {
        let server =
            Server::start(&format!("{LEAST}{CLEANUP}def close(h): print('close', file=sys.stderr, flush=True)\n"));
        // Neither an idle client nor one in the handshake holds up the end.
        let (_idle, _new) = (server.open(), server.connect());
        let socket = server.socket.clone();
        kill_process(server.process(), signal).unwrap();
        let mut server = server;
        let ended = server.wait();
        assert_eq!(ended.status.code(), Some(0), "{signal:?}: {}", ended.stderr);
        assert_eq!(ended.stderr.lines().collect::<Vec<_>>(), ["close", "cleanup", "atexit"], "{signal:?}");
        assert!(socket.exists());
    }
    let mut server = Server::start(&format!(
        "{LEAST}{CLEANUP}import nbdkit\ndef pread(h, c, o): nbdkit.shutdown(); return b's' * c\n"
    ));
    let mut client = server.open();
    assert_eq!(client.read(0, 4), Ok(b"ssss".to_vec()));
    let ended = server.wait();
    assert_eq!(ended.status.code(), Some(0));
    assert!(ended.stderr.ends_with("cleanup\natexit\n"), "{}", ended.stderr);
}

#[test]
fn item_61_disconnect() {
    let server = Server::start(&format!(
        "{LEAST}import nbdkit\ndef pread(h, c, o):\n  if o < 2: nbdkit.disconnect(o)\n  return b'd' * c\n"
    ));
    let mut client = server.open();
    client.send(READ, 0, 1, 4, &[]);
    assert!(client.is_closed());
    let mut client = server.open();
    assert_eq!(client.read(0, 4), Ok(b"dddd".to_vec()));
    assert_eq!(client.read(2, 4), Err(108));
    client.leave();
    assert_eq!(server.open().read(2, 4), Ok(b"dddd".to_vec()));
}

fn number_in(path: &Path) -> Option<i32> {
    let content = std::fs::read_to_string(path).ok()?;
    content.strip_suffix('\n')?.parse().ok()
}

/// Ends a server that is nobody's child.
fn end(number: i32) {
    let pid = Pid::from_raw(number).unwrap();
    let _ = kill_process(pid, Signal::TERM);
    eventually("the end", || {
        let gone = test_kill_process(pid).is_err();
        // Without an init that collects it, it stays as a zombie.
        let zombie = std::fs::read_to_string(format!("/proc/{number}/stat")).is_ok_and(|stat| stat.contains(") Z "));
        (gone || zombie).then_some(())
    });
}

#[test]
fn item_62_in_the_background() {
    let script = script(&format!(
        "{LEAST}import os\ndef pread(h, c, o): return os.readlink(['/proc/self/cwd', '/proc/self/fd/2'][o]).encode().ljust(c)\n"
    ));
    let folder = script.folder.path();
    let output = program(&["-U", "relative", "-P", "pid", "python", "script.py"]).current_dir(folder).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let number = eventually("the pid file", || number_in(&folder.join("pid")));
    let mut client = Client::connect(&folder.join("relative"));
    client.go(b"", &[]).unwrap();
    let read = |client: &mut Client, offset| text(&client.read(offset, 40).unwrap()).trim_end().to_owned();
    let found = (read(&mut client, 0), read(&mut client, 1));
    drop(client);
    end(number);
    assert_eq!(found, ("/".to_owned(), "/dev/null".to_owned()));
    assert!(folder.join("relative").exists() && folder.join("pid").exists());
}

#[test]
fn item_63_captive() {
    let script = script(LEAST);
    let captive = |command: &str, more: &[&str]| {
        program(&["python", &script.path, "--run", command]).args(more).stdin(Stdio::null()).output().unwrap()
    };
    let output = captive("echo $uri $nbd $unixsocket; echo [$port$exportname$tls]", &["-U", "-"]);
    let stdout = text(&output.stdout);
    let mut lines = stdout.lines();
    let words: Vec<_> = lines.next().unwrap().split(' ').collect();
    assert_eq!(words[0], words[1]);
    assert_eq!(words[0], format!("nbd+unix://?socket={}", words[2]));
    assert!(words[2].starts_with("/tmp/nbdkit") && words[2].ends_with("/socket"));
    assert_eq!(lines.next(), Some("[]"));
    assert!(!Path::new(words[2]).parent().unwrap().exists(), "the folder is gone");
    assert_eq!(text(&captive("echo $uri $exportname", &["-e", "a b"]).stdout).split(' ').nth(1), Some("a"));
    for (command, status) in [("true", 0), ("exit 3", 3), ("kill -9 $$", 137), ("/nonexistent/command", 127)] {
        assert_eq!(captive(command, &[]).status.code(), Some(status), "{command}");
    }
    // Standard input of the command is the original one.
    let mut child = program(&["python", &script.path, "--run", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"through").unwrap();
    assert_eq!(text(&child.wait_with_output().unwrap().stdout), "through");
    // A server that had ended decides when the command succeeded.
    let fails = self::script(&format!("{LEAST}import time\ndef after_fork(): raise ValueError('no')\n"));
    let output = run(&["python", &fails.path, "--run", "sleep 2"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn item_64_one_client_on_standard_input_and_output() {
    let noisy = format!("print('noise')\ndef config_complete(): print('noise', flush=True)\n{LEAST}{CLEANUP}");
    let script = script(&noisy);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let output: std::os::fd::OwnedFd = theirs.try_clone().unwrap().into();
    let mut child = program(&["-s", "python", &script.path])
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .stdout(Stdio::from(output))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut client = Client::greet(ours).unwrap();
    client.go(b"", &[]).unwrap();
    assert_eq!(client.read(0, 4), Ok(vec![0; 4]));
    drop(client);
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), "cleanup\natexit\n"));
    // Two pipes.
    let mut child = program(&["-s", "python", &script.path])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut greeting = [0; 18];
    child.stdout.as_mut().unwrap().read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting[..8], b"NBDMAGIC");
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn item_65_exit_with_parent() {
    let script = script(LEAST);
    let folder = script.folder.path();
    let (socket, pid) = (folder.join("socket"), folder.join("pid"));
    let line = format!(
        "{:?} nbdkit --exit-with-parent -U {:?} -P {:?} python {:?} & while [ ! -e {:?} ]; do sleep 0.05; done",
        env!("CARGO_BIN_EXE_backstay-python"),
        socket,
        pid,
        script.path,
        pid
    );
    assert!(std::process::Command::new("/bin/sh").arg("-c").arg(line).status().unwrap().success());
    let number = eventually("the pid file", || number_in(&pid));
    eventually("the end with the parent", || {
        let stat = std::fs::read_to_string(format!("/proc/{number}/stat"));
        stat.map_or(true, |stat| stat.contains(") Z ")).then_some(())
    });
}

#[test]
fn item_65_scripts_that_are_programs() {
    use std::os::unix::fs::PermissionsExt;
    let script = script("");
    let folder = script.folder.path();
    let front = folder.join("nbdkit");
    let inner = format!("#!/bin/sh\nexec {:?} nbdkit \"$@\"\n", env!("CARGO_BIN_EXE_backstay-python"));
    std::fs::write(&front, inner).unwrap();
    std::fs::write(
        &script.path,
        format!("#!{} python\n{LEAST}def config(k, v): print(k, v, flush=True)\n", front.display()),
    )
    .unwrap();
    for path in [front.as_path(), Path::new(&script.path)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let output =
        std::process::Command::new(&script.path).args(["-f", "a=b", "-U", "-", "--run", "echo $uri"]).output().unwrap();
    let stdout = text(&output.stdout);
    assert!(stdout.starts_with("a b\nnbd+unix://?socket=/tmp/nbdkit"), "{stdout}{}", text(&output.stderr));
}

#[test]
fn item_66_what_a_plugin_is() {
    let plain = run(&["python", "--dump-plugin"]);
    let lines = text(&plain.stdout);
    for line in [
        "name=python",
        "api_version=2",
        "max_thread_model=parallel",
        "thread_model=serialize_all_requests",
        "errno_is_preserved=0",
        "has_pread=1",
        "has_cache=1",
        "nbdkit_python_maximum_api_version=2",
    ] {
        assert!(lines.lines().any(|found| found == line), "{line}: {lines}");
    }
    assert!(lines.contains("\npython_version=3."));
    let script = script(&format!(
        "{LEAST}def thread_model(): return 3\ndef config(k, v): print('config', k)\ndef config_complete(): print('finished')\n\
         def dump_plugin(): print('mine=1')\n"
    ));
    let output = run(&["python", &script.path, "k=v", "--dump-plugin"]);
    let stdout = text(&output.stdout);
    assert!(stdout.starts_with("config k\npath=") && stdout.ends_with("mine=1\n"), "{stdout}");
    assert!(stdout.contains("\nthread_model=parallel\n") && !stdout.contains("finished"), "{stdout}");
    let raising = self::script(&format!("{LEAST}def dump_plugin(): raise ValueError('x')\n"));
    assert_eq!(run(&["python", &raising.path, "--dump-plugin"]).status.code(), Some(1));
}

#[test]
fn item_67_refusals() {
    let script = script(LEAST);
    let long = format!("/tmp/{}", "x".repeat(110));
    for arguments in [
        &["-p", "1", "-U", "x"][..],
        &["-s", "--run", "x"],
        &["-s", "--dump-plugin"],
        &["--filter=xz"],
        &["--selinux-label", "x"],
        &["--tls=require"],
        &["--tls=require", "--tls-certificates", "/nonexistent"],
        &["--tls-psk", "/nonexistent"],
        &["-o", "--tls=require"],
        &["--log", "x"],
        &["-t", "x"],
        &["-D", "x"],
        &["-x"],
        &["--nonsense"],
        &["-u", "nobody-at-all"],
        &["-g", "nobody-at-all"],
        &["-U", &long],
        &["-U", &script.path],
        &["-p", "no-such-service"],
        &["-i", "256.0.0.1"],
        &["-f", "-U", "-", "-P", "/nonexistent/pid"],
    ] {
        let mut line = vec!["python", &script.path];
        line.extend_from_slice(arguments);
        let output = run(&line);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(text(&output.stderr).starts_with("nbdkit: "), "{arguments:?}: {}", text(&output.stderr));
    }
}

#[test]
fn a_time_limit_for_the_handshake() {
    let server = Server::with(LEAST, &["--timeout", "1500ms"]);
    assert!(server.connect().is_closed());
    assert_eq!(server.open().read(0, 4), Ok(vec![0; 4]));
}

#[test]
fn questions_about_the_program() {
    for (arguments, begins) in [
        (&["--version"][..], "nbdkit 1."),
        (&["python", "--version"], "nbdkit 1."),
        (&["--help"], "Usage: "),
        (&["--long-options"], "--ipv4-only\n"),
        (&["--short-options"], "-4\n"),
        (&["--dump-config"], "binary=/"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(text(&output.stdout).starts_with(begins), "{arguments:?}: {}", text(&output.stdout));
    }
}
