//! Plugins that misbehave in every way, from the command line to the repository: the verdict says what happened, what another
//! plugin of the same run saved is there, nothing that the plugin started is left, and restic finds the repository sound.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::{World, stderr, stdout};
use crate::test_plugins::probe;

/// How many bytes the plugin that behaves saves.
const GOOD: usize = 300_000;

/// What a run came to.
struct Ran {
    out: String,
    log: String,
}

impl Ran {
    fn verdict(&self) -> &str {
        self.out.lines().last().unwrap_or_default()
    }

    #[track_caller]
    fn says(&self, part: &str) -> &Self {
        assert!(
            self.log.contains(part) || self.out.contains(part),
            "{part:?} is expected in {}\n{}",
            self.log,
            self.out
        );
        self
    }
}

/// Runs a plugin that behaves and then `definition`, and looks at everything that has to hold whatever the second does.
#[track_caller]
fn run(world: &World, definition: &str, status: i32, options: &[&str]) -> Ran {
    let good = probe("reads", &format!(":size={GOOD}"));
    let mut command = world.command(["backup", "--save-partial", "--plugin", &good, "--plugin", definition]);
    let assert = command.args(options).assert();
    let ran = Ran { out: stdout(assert.get_output()), log: stderr(assert.get_output()) };
    assert_eq!(assert.get_output().status.code(), Some(status), "{definition}: {}\n{}", ran.log, ran.out);
    let verdict = match status {
        0 => "complete",
        3 => "with errors",
        _ => "partial",
    };
    assert!(ran.verdict().contains(verdict), "{definition}: {}", ran.out);
    assert_nobody_is_left(world);
    let snapshots = world.objects(["snapshots"]);
    let newest = snapshots.last().unwrap()["id"].as_str().unwrap();
    let saved = world.command(["dump", newest, "/probe/reads"]).assert().success();
    let content = &saved.get_output().stdout;
    assert!(
        content.len() == GOOD && content.iter().enumerate().all(|(at, &byte)| byte == (at % 251) as u8),
        "{definition}"
    );
    ran
}

/// Waits until no process has this world's home folder in its environment: nobody but the run's own processes has.
#[track_caller]
fn assert_nobody_is_left(world: &World) {
    let home = format!("HOME={}", world.shown("home"));
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        let left: Vec<PathBuf> = std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                let environment = std::fs::read(path.join("environ")).unwrap_or_default();
                environment.split(|&byte| byte == 0).any(|variable| variable == home.as_bytes())
            })
            .collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "still there: {left:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn assert_sound(world: &World) {
    world.restic(["check", "--read-data"]).assert().success();
}

fn harmful(how: &str) -> String {
    probe("harmful", &format!(":how={how}"))
}

#[test]
fn an_exception_in_any_callback_of_a_backup_is_a_partial_snapshot_with_its_traceback() {
    let world = World::new();
    for callback in [
        "load_bareos_plugin",
        "parse_plugin_definition",
        "handle_plugin_event(16)",
        "handle_plugin_event(3)",
        "start_backup_file",
        "plugin_io_open",
        "plugin_io_read",
        "plugin_io_close",
        "get_acl",
        "get_xattr",
        "end_backup_file",
        "handle_plugin_event(4)",
        "handle_plugin_event(2)",
    ] {
        let ran = run(&world, &probe("raises", &format!(":where={callback}")), 1, &[]);
        ran.says("Traceback (most recent call last)").says("ValueError: raised in ");
    }
    assert_sound(&world);
}

#[test]
fn an_exception_in_any_callback_of_a_restore_ends_it_with_its_traceback() {
    let world = World::new();
    world.run(["backup", "--plugin", &probe("raises", "")]).success();
    for (number, callback) in [
        "load_bareos_plugin",
        "parse_plugin_definition",
        "start_restore_file",
        "create_file",
        "plugin_io_open",
        "plugin_io_write",
        "set_file_attributes",
        "plugin_io_close",
        "set_acl",
        "set_xattr",
        "end_restore_file",
        "handle_plugin_event(2)",
    ]
    .into_iter()
    .enumerate()
    {
        let target = format!("target {number}");
        let mut command =
            world.command(["restore", "latest", "--target", &target, "--through-plugin", "--plugin-options"]);
        let assert = command.arg(format!("python3:where={callback}")).assert();
        let log = stderr(assert.get_output());
        assert_eq!(assert.get_output().status.code(), Some(1), "{callback}: {log}");
        assert!(log.contains("ValueError: raised in ") && log.contains("Traceback"), "{callback}: {log}");
        assert!(log.lines().last().unwrap().contains("did not reach its end"), "{callback}: {log}");
        assert_nobody_is_left(&world);
    }
}

#[test]
fn answers_that_are_no_return_code_are_said() {
    let world = World::new();
    for rc in ["text", "None", "99"] {
        for callback in ["start_backup_file", "end_backup_file", "get_xattr"] {
            let good = probe("reads", &format!(":size={GOOD}"));
            let bad = probe("nonsense_rc", &format!(":where={callback}:rc={rc}"));
            let mut command = world.command(["backup", "--save-partial", "--plugin", &good, "--plugin", &bad]);
            let assert = command.assert();
            let (out, log) = (stdout(assert.get_output()), stderr(assert.get_output()));
            let status = assert.get_output().status.code().unwrap();
            assert!([1, 3].contains(&status), "{callback} {rc}: {status} {log}\n{out}");
            assert!(log.contains("nonsense_rc"), "{callback} {rc}: {log}");
        }
    }
    assert_nobody_is_left(&world);
    assert_sound(&world);
}

#[test]
fn packets_of_wrong_types_are_named() {
    let world = World::new();
    for (case, status) in [
        ("fname_bytes", 1),
        ("fname_none", 1),
        ("link_int", 1),
        ("statp_missing", 1),
        ("flags_bytes", 1),
        ("type_missing", 1),
        ("status_float", 1),
        ("stat_float", 1),
        ("buf_str", 3),
        ("buf_list", 3),
        ("open_bad_descriptor", 3),
    ] {
        let ran = run(&world, &probe("wrong_types", &format!(":case={case}")), status, &[]);
        assert!(ran.log.contains("error:"), "{case}: {}", ran.log);
    }
    assert_sound(&world);
}

#[test]
fn negative_numbers_never_become_data() {
    let world = World::new();
    for (case, status) in [("status", 3), ("huge_status", 3)] {
        let ran = run(&world, &probe("harmful", &format!(":how=negative:case={case}")), status, &[]);
        ran.says("/probe/harmful");
    }
    // What the contract's 64-bit members take is kept in the ledger, and the view stays readable.
    for case in ["size", "times", "mode", "block"] {
        let good = probe("reads", &format!(":size={GOOD}"));
        let bad = probe("harmful", &format!(":how=negative:case={case}"));
        let mut command = world.command(["backup", "--save-partial", "--plugin", &good, "--plugin", &bad]);
        let status = command.assert().get_output().status.code().unwrap();
        assert!([0, 1, 3].contains(&status), "{case}: {status}");
        if status == 0 {
            world.run(["restore", "latest", "--target", &format!("back {case}")]).success();
        }
    }
    assert_nobody_is_left(&world);
    assert_sound(&world);
}

#[test]
fn a_buffer_that_is_longer_than_asked_fails_its_file_only() {
    let world = World::new();
    run(&world, &probe("big_buffer", ":size=10000000"), 3, &[]).says("/probe/big_buffer");
    run(&world, &probe("wrong_types", ":case=count_less"), 3, &[]);
    assert_sound(&world);
}

#[test]
fn an_endless_stream_and_a_plugin_that_never_returns_end_at_the_time_limit() {
    let world = World::new();
    let limit = ["--plugin-time-limit", "2s", "--cancel-grace", "5s"];
    for definition in
        [probe("pipe", ":size=1000000000000000"), probe("sleeps", ":where=plugin_io_read"), harmful("holds_pipe")]
    {
        run(&world, &definition, 1, &limit).says("took longer than 2 s (--plugin-time-limit)");
    }
    if std::fs::File::open("/proc/kmsg").is_ok() {
        run(&world, &harmful("kernel_log"), 1, &limit).says("took longer than 2 s (--plugin-time-limit)");
    }
    assert_sound(&world);
}

#[test]
fn a_plugin_that_ignores_its_cancel_is_killed_when_its_grace_is_over() {
    let world = World::new();
    for definition in [harmful("stubborn"), probe("sleeps", ":where=plugin_io_read:how=gil")] {
        let ran = run(&world, &definition, 1, &["--plugin-time-limit", "1s", "--cancel-grace", "1s"]);
        ran.says("(--plugin-time-limit)");
    }
    let ran = run(&world, &harmful("stubborn"), 1, &["--plugin-timeout", "1s", "--cancel-grace", "500ms"]);
    ran.says("it did not end within 0.5 s (--cancel-grace) and its worker was killed");
    assert_sound(&world);
}

#[test]
fn a_process_that_ends_itself_is_named_with_how() {
    let world = World::new();
    for (how, said) in [
        ("exit3", "exited with status 3"),
        ("exit0", "exited with status 0"),
        ("null", "was killed by SIGSEGV"),
        ("abort", "was killed by SIGABRT"),
        ("kill", "was killed by SIGKILL"),
    ] {
        let ran = run(&world, &probe("exits", &format!(":where=plugin_io_read:how={how}")), 1, &[]);
        ran.says(&format!("the plugin worker {said}")).says("1 lost");
    }
    assert_sound(&world);
}

#[test]
fn eight_gibibytes_of_memory_end_at_the_limit() {
    let world = World::new();
    for how in ["memory", "shared"] {
        run(&world, &harmful(how), 1, &["--plugin-memory", "256M"])
            .says("its memory is limited to 256 MiB (--plugin-memory)");
    }
    assert_sound(&world);
}

#[test]
fn a_thousand_threads_hold_up_nothing() {
    let world = World::new();
    run(&world, &harmful("threads"), 0, &[]);
    assert_sound(&world);
}

#[test]
fn a_daemon_that_left_its_session_and_its_environment_is_found() {
    let world = World::new();
    for bare in ["no", "yes"] {
        let pid = world.shown(&format!("pid {bare}"));
        run(&world, &probe("harmful", &format!(":how=daemon:bare={bare}:pid={pid}")), 0, &[]);
        let pid = std::fs::read_to_string(pid).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "bare={bare}: {pid} is still there");
    }
    assert_sound(&world);
}

#[test]
fn a_plugin_that_closes_every_descriptor_loses_its_own_job_only() {
    let world = World::new();
    let ran = run(&world, &harmful("closes"), 1, &[]);
    ran.says("the plugin worker").says("1 lost");
    assert_sound(&world);
}

#[test]
fn what_looks_like_frames_on_standard_output_is_text() {
    let world = World::new();
    run(&world, &probe("prints", ":long=yes"), 0, &["-v"]).says("printed in plugin_io");
    assert_sound(&world);
}

#[test]
fn children_threads_and_pipes_that_are_left_do_not_hold_the_end() {
    let world = World::new();
    run(&world, &probe("children", ""), 0, &[]);
    run(&world, &probe("threads", ""), 0, &[]);
    assert_sound(&world);
}

#[test]
fn names_that_no_file_can_have_stay_out_of_the_tree_and_harm_nothing() {
    let world = World::new();
    run(&world, &probe("harmful", ":how=name:name=/probe/aNULb"), 1, &[]).says("error:");
    for (number, options) in
        [":name_of_length=100000", ":name=/probe/../../../../etc/cron.d/evil", ":name=../../evil", ":name=/", ":name=."]
            .into_iter()
            .enumerate()
    {
        let definition = probe("harmful", &format!(":how=name{options}"));
        let ran = run(&world, &definition, 0, &[]);
        assert!(ran.verdict().contains("complete"), "{}", ran.out);
        // Neither way back leads out of the target.
        let plain = format!("plain/{number}/deep/target");
        world.run(["restore", "latest", "--target", &plain]).success();
        for out in ["evil", "deep/evil", "etc", "deep/etc"] {
            assert!(!world.path(format!("plain/{number}/{out}")).exists(), "{options}");
        }
    }
    assert!(!Path::new("/etc/cron.d/evil").exists());
    assert_sound(&world);
}

#[test]
fn a_million_lines_of_log_are_all_there_and_cost_no_memory() {
    let world = World::new();
    for how in ["chatter", "prints"] {
        let definition = harmful(how);
        let program = assert_cmd::cargo::cargo_bin!("backstay");
        // The largest of the processes that it waited for, and of those that they waited for, in KiB.
        let script = "import resource, subprocess, sys\n\
            done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)\n\
            lines = sum(line.find(b'of very many') > 0 for line in done.stderr.splitlines())\n\
            print(done.returncode, lines, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n";
        let mut command = world.command(["x"]);
        let mut measured = assert_cmd::Command::new("/usr/bin/python3");
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                measured.env(name, value);
            }
        }
        command.env("X", "");
        measured.current_dir(world.path("")).args(["-c", script]).arg(program).args([
            "backup",
            "-v",
            "--plugin",
            &definition,
        ]);
        let said = stdout(measured.assert().success().get_output());
        let numbers: Vec<u64> = said.split_whitespace().map(|number| number.parse().unwrap()).collect();
        assert_eq!(numbers[..2], [0, 1_000_000], "{how}: {said}");
        assert!(numbers[2] < 400 << 10, "{how}: {} KiB", numbers[2]);
        assert_nobody_is_left(&world);
    }
    assert_sound(&world);
}

#[test]
fn a_buffer_that_changes_after_it_was_handed_over_is_saved_as_one_state_of_it() {
    let world = World::new();
    run(&world, &harmful("changes"), 0, &[]);
    let snapshot = world.objects(["snapshots"]).pop().unwrap()["id"].as_str().unwrap().to_owned();
    let dumped = world.command(["dump", &snapshot, "/probe/harmful"]).assert().success();
    assert_eq!(dumped.get_output().stdout.len(), 64 * 262_144);
    assert_sound(&world);
}

#[test]
fn a_plugin_that_scribbles_over_the_shared_memory_spoils_its_own_data_only() {
    let world = World::new();
    let ran = run(&world, &harmful("scribbles"), 1, &[]);
    // Its threads may go on until after the memory is gone from their process, which is the end of that process.
    let died = ran.log.contains("killed by SIGSEGV");
    assert!(died || ran.log.contains("more than it sent"), "{}", ran.log);
    assert_sound(&world);
}

#[test]
fn a_plugin_that_kills_its_host_leaves_no_process_and_a_sound_repository() {
    let world = World::new();
    world.run(["backup", "--plugin", &probe("reads", "")]).success();
    let mut command = world.command(["backup", "--plugin", &harmful("kills_host")]);
    assert_eq!(command.assert().get_output().status.code(), None);
    assert_nobody_is_left(&world);
    world.run(["unlock"]).success();
    assert_sound(&world);
    // In a sandbox it cannot: the attempt is an exception like any other.
    run(&world, &harmful("kills_host"), 1, &["--sandbox"]).says("PermissionError: [Errno 1]");
    assert_sound(&world);
}
