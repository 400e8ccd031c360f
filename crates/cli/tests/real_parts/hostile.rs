//! Servers that misbehave: what the user sees, that nothing hangs, that nothing is half written.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use backstay_core::Id;
use backstay_stores::testing::hostile::{Act, Rule};
use backstay_stores::testing::http::{Answer, Manner};
use rustix::process::{Pid, Signal, kill_process};

use crate::place::{assert_same, below, succeed, told};
use crate::remote::{BUCKET, Remote, Server};

/// As Amazon words a refusal.
fn refusal(status: u16, code: &str) -> Answer {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>The words</Message></Error>"
    );
    Answer::new(status, body).with("Content-Type", "application/xml")
}

/// Runs a command; one that hangs is ended and fails the test.
fn without_hanging(command: &mut Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(120) {
            child.kill().unwrap();
            panic!("it hangs: {}", told(command, &child.wait_with_output().unwrap()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

/// It fails with one line (warnings that it tries again aside) that holds these words, and no secret.
fn fails_with(command: &mut Command, words: &[&str]) {
    let output = without_hanging(command);
    assert_eq!(output.status.code(), Some(1), "{}", told(command, &output));
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains("trying again for up to")).collect();
    assert_eq!(lines.len(), 1, "{}", told(command, &output));
    for word in words {
        assert!(lines[0].to_lowercase().contains(&word.to_lowercase()), "no {word:?}: {}", told(command, &output));
    }
    assert!(!text.contains(backstay_stores::testing::s3::SECRET_KEY), "{text}");
}

/// Every object in the bucket is whole: its bytes are those that its name says.
fn assert_whole(remote: &Remote) {
    let Server::S3(server) = &remote.server else { unreachable!() };
    for (name, size) in server.objects(BUCKET) {
        let path = remote.place.path("buckets").join(BUCKET).join(&name);
        let body = std::fs::read(&path).unwrap();
        assert_eq!(body.len() as u64, size);
        if !name.ends_with("/config") {
            assert_eq!(Path::new(&name).file_name().unwrap().to_str().unwrap(), Id::of(&body).to_hex(), "{name}");
        }
    }
}

fn with_repository() -> Remote {
    let remote = Remote::s3();
    remote.run(["init"]);
    remote
}

#[test]
fn each_refusal_is_one_line_that_says_what_to_do() {
    let mut remote = with_repository();
    let tree = remote.tree();
    for (status, code, words) in [
        (403, "InvalidAccessKeyId", "credentials"),
        (403, "SignatureDoesNotMatch", "credentials"),
        (400, "ExpiredToken", "expired"),
        (403, "RequestTimeTooSkewed", "clock"),
        (404, "NoSuchBucket", "bucket"),
        (403, "AccessDenied", "denied"),
    ] {
        // The first question is a HEAD, whose answer has no body: its reason comes from what is asked next.
        let hostile = remote.spoiled(vec![Rule::always(Act::Answer(refusal(status, code)))]);
        for arguments in [vec!["snapshots"], vec!["backup", tree.to_str().unwrap()], vec!["check"], vec!["init"]] {
            let output = without_hanging(&mut remote.backstay(&arguments));
            let text = String::from_utf8(output.stderr).unwrap();
            assert_eq!(text.trim_end().lines().count(), 1, "{code} {arguments:?}: {text}");
            let expected = if status == 404 && arguments[0] != "init" { 10 } else { 1 };
            assert!([Some(1), Some(expected)].contains(&output.status.code()), "{code} {arguments:?}: {text}");
            assert!(text.to_lowercase().contains(words) || expected == 10, "{code} {arguments:?}: {text}");
        }
        drop(hostile);
    }
    assert_whole(&remote);
}

#[test]
fn a_store_that_is_disturbed_for_a_while_costs_time_and_nothing_else() {
    let mut remote = with_repository();
    let tree = remote.tree();
    let rules = vec![
        Rule::always(Act::Answer(refusal(503, "SlowDown"))).after(3).times(2),
        Rule::on("PUT", "/data/", Act::ResetInUpload(100_000)).times(1),
        Rule::on("PUT", "/index/", Act::Spoil(Manner::Reset)).times(1),
        Rule::on("PUT", "/snapshots/", Act::Answer(refusal(500, "InternalError"))).times(1),
    ];
    let hostile = remote.spoiled(rules);
    let output = without_hanging(remote.backstay(["backup"]).arg(&tree));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(hostile.done(), [2, 1, 1, 1]);
    assert_whole(&remote);
    let target = remote.place.path("restored");
    let rules = vec![
        Rule::on("GET", "/data/", Act::Spoil(Manner::Truncated(1000))).times(1),
        Rule::on("GET", "/data/", Act::Spoil(Manner::ResetAfter(1000))).times(1),
        Rule::on("GET", "/snapshots/", Act::Spoil(Manner::Reset)).times(1),
    ];
    let hostile = remote.spoiled(rules);
    succeed(remote.backstay(["restore", "latest", "--target"]).arg(&target));
    assert_eq!(hostile.done(), [1, 1, 1]);
    assert_same(&tree, &below(&target, &tree), &[]);
    drop(hostile);
    let _honest = remote.spoiled(Vec::new());
    remote.run(["check", "--read-data"]);
}

#[test]
fn a_store_that_stays_disturbed_ends_a_backup_with_nothing_half_written() {
    let mut remote = with_repository();
    let tree = remote.tree();
    for (act, words) in [
        (Act::Answer(refusal(503, "ServiceUnavailable")), "503"),
        (Act::ResetInUpload(1_000_000), ""),
        (Act::ResetInUpload(0), ""),
    ] {
        let hostile = remote.spoiled(vec![Rule::on("PUT", "/data/", act)]);
        fails_with(remote.backstay(["--retry-time", "1s", "backup"]).arg(&tree), &[words]);
        assert!(hostile.done()[0] >= 1);
        assert_whole(&remote);
        drop(hostile);
        let _honest = remote.spoiled(Vec::new());
        assert_eq!(remote.run(["--json", "snapshots"]), "");
        remote.run(["check", "--read-data"]);
    }
    let _honest = remote.spoiled(Vec::new());
    succeed(remote.backstay(["backup"]).arg(&tree));
    remote.run(["check", "--read-data"]);
}

#[test]
fn answers_that_are_cut_short_or_garbled_are_never_taken_for_data() {
    let mut remote = with_repository();
    let tree = remote.tree();
    succeed(remote.backstay(["backup"]).arg(&tree));
    let page = Answer::new(200, "<html><body>Welcome</body></html>").with("Content-Type", "text/html");
    for (number, act) in
        [Act::Spoil(Manner::Truncated(1000)), Act::Spoil(Manner::ResetAfter(1000)), Act::Answer(page), Act::Garble]
            .into_iter()
            .enumerate()
    {
        let _hostile = remote.spoiled(vec![Rule::on("GET", "/data/", act.clone())]);
        let target = remote.place.path(&format!("restored {number}"));
        let mut command = remote.backstay(["--retry-time", "0s", "restore", "latest", "--target"]);
        let output = without_hanging(command.arg(&target));
        let told = told(&command, &output);
        assert!(matches!(output.status.code(), Some(1 | 3)), "{told}");
        assert!(!output.stderr.is_empty() && !told.contains("panicked"), "{told}");
    }
    // What lists objects must not believe a page for people: an empty list would look like an empty repository.
    let page = Answer::new(200, "<html><body>Welcome</body></html>").with("Content-Type", "text/html");
    let _hostile = remote.spoiled(vec![Rule::on("GET", "list-type=2", Act::Answer(page))]);
    fails_with(&mut remote.backstay(["--retry-time", "0s", "snapshots"]), &["list"]);
}

#[test]
fn hosts_that_nobody_knows_and_ports_where_nobody_listens_are_one_line() {
    let mut remote = Remote::s3();
    for (address, words) in [
        ("s3://backup/repo?endpoint=http://nothing.invalid", "DNS"),
        ("rest:http://me:hush-hush@nothing.invalid/repo/", "nothing.invalid"),
        ("s3://backup/repo?endpoint=http://127.0.0.1:1", "127.0.0.1"),
        ("rest:http://me:hush-hush@127.0.0.1:1/repo/", "cannot connect"),
    ] {
        remote.ours = address.to_owned();
        for arguments in [vec!["snapshots"], vec!["init"]] {
            fails_with(remote.backstay(["--retry-time", "0s"]).args(arguments), &[words]);
        }
    }
}

#[test]
fn a_signal_ends_the_pause_between_two_attempts_at_a_disturbed_store() {
    let mut remote = with_repository();
    let tree = remote.tree();
    for arguments in [vec!["backup", tree.to_str().unwrap()], vec!["prune"], vec!["snapshots"]] {
        let place = if arguments[0] == "backup" { "/data/" } else { "list-type=2" };
        let verb = if arguments[0] == "backup" { "PUT" } else { "GET" };
        let hostile = remote.spoiled(vec![Rule::on(verb, place, Act::Answer(refusal(503, "ServiceUnavailable")))]);
        let mut command = remote.backstay(["--retry-time", "1h"]);
        let mut child = command.args(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // By its third attempt it is in the middle of its pauses.
        while hostile.done()[0] < 3 && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(10));
        }
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let start = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if start.elapsed() > Duration::from_secs(120) {
                child.kill().unwrap();
                panic!("{arguments:?} goes on waiting");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", told(&command, &output));
        drop(hostile);
    }
    assert_whole(&remote);
}
