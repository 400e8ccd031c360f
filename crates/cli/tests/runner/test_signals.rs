//! SIGINT, SIGTERM and a reader that goes away.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{PASSWORD, World};

/// Our program as a child that the test keeps.
fn start(world: &World, arguments: &[&str]) -> Child {
    let mut command = Command::new(world.bare().get_program());
    command.current_dir(world.path("")).args(arguments);
    command.env("BACKSTAY_REPOSITORY", world.path("repository")).env("BACKSTAY_PASSWORD", PASSWORD);
    command.env("HOME", world.path("home")).env("XDG_STATE_HOME", world.path("state"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn wait_for_lock(world: &World, child: &mut Child) {
    while std::fs::read_dir(world.path("repository/locks")).unwrap().count() == 0 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it took its lock");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn an_interrupted_backup_ends_in_good_order_with_status_130() {
    for signal in [Signal::INT, Signal::TERM] {
        let world = World::new();
        // A command without an end: the backup is in the middle of it.
        let mut child = start(&world, &["backup", "--stdin-from-command", "--", "yes"]);
        wait_for_lock(&world, &mut child);
        send(&child, signal);
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(130), "{text}");
        assert!(text.contains("no snapshot was made"), "{text}");
        assert_eq!(std::fs::read_dir(world.path("repository/locks")).unwrap().count(), 0);
        assert!(world.objects(["snapshots"]).is_empty());
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let world = World::new();
    let mut child = start(&world, &["backup", "--stdin"]);
    wait_for_lock(&world, &mut child);
    // Standard input stays open: nothing but the second signal ends it.
    let input = child.stdin.take();
    send(&child, Signal::INT);
    while child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(50));
        send(&child, Signal::INT);
    }
    let status = child.wait().unwrap();
    drop(input);
    assert_eq!(status.code(), Some(130), "{status:?}");
    assert!(world.objects(["snapshots", "--no-lock"]).is_empty());
}

#[test]
fn a_reader_that_goes_away_ends_a_listing_quietly() {
    let world = World::new();
    for number in 0..3000 {
        world.write(&format!("tree/a-file-with-a-long-name-so-that-the-listing-is-long-{number}"), "");
    }
    world.backup(["tree"]);
    let mut child = start(&world, &["-q", "ls", "latest"]);
    let mut first = [0; 10];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    drop(child.stdout.take());
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(text, "");
    assert_eq!((status.code(), status.signal()), (Some(141), None));
    assert_eq!(std::fs::read_dir(world.path("repository/locks")).unwrap().count(), 0);
}
