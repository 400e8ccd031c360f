//! Plugins under limits of memory and time, as another user, and in another interpreter.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use crate::common::{World, fails_with, stderr, stdout};
use crate::test_plugins::probe;

/// A backup that ends with status 1; its standard error.
fn stopped(world: &World, definition: &str, options: &[&str]) -> String {
    let assert = world.command(["backup", "--plugin", definition]).args(options).assert().code(1);
    let log = stderr(assert.get_output());
    assert!(log.lines().last().unwrap().contains("no snapshot was made"), "{log}");
    log
}

#[test]
fn a_plugin_over_its_memory_limit_fails_with_a_verdict_that_names_the_limit() {
    let world = World::new();
    for how in ["memory", "shared", "child_memory"] {
        let log = stopped(&world, &probe("harmful", &format!(":how={how}")), &["--plugin-memory", "256M"]);
        match how {
            "child_memory" => assert!(log.contains("MemoryError"), "{log}"),
            _ => assert!(
                log.lines().last().unwrap().contains("its memory is limited to 256 MiB (--plugin-memory)"),
                "{log}"
            ),
        }
    }
    // What fits goes through.
    world.run(["backup", "--plugin", &probe("reads", ":size=30000000"), "--plugin-memory", "256M"]).success();
    fails_with(
        world.command(["-q", "backup", "--plugin", &probe("reads", ""), "--plugin-memory", "1M"]),
        1,
        &["--plugin-memory", "1.000 MiB is too little", "64.000 MiB"],
    );
}

#[test]
fn a_job_over_its_time_limit_is_cancelled_however_busy_it_is() {
    let world = World::new();
    let limit = ["--plugin-time-limit", "2s", "--cancel-grace", "5s"];
    let endless = "1000000000000000";
    for definition in [
        probe("reads", &format!(":size={endless}")),
        probe("reads", &format!(":case=one_byte:size={endless}")),
        probe("pipe", &format!(":size={endless}")),
        probe("pipe", &format!(":how=socket:size={endless}")),
        probe("sleeps", ":where=start_backup_file"),
        probe("harmful", ":how=holds_pipe"),
    ] {
        let log = stopped(&world, &definition, &limit);
        assert!(
            log.lines().last().unwrap().contains("took longer than 2 s (--plugin-time-limit)"),
            "{definition}: {log}"
        );
    }
    // A plugin that is done in time hears nothing of it; a restore is limited too.
    world.run(["backup", "--plugin", &probe("sleeps", ""), "--plugin-time-limit", "10m"]).success();
    let restore = ["restore", "latest", "--target", "out", "--through-plugin", "--plugin-time-limit", "1s"];
    let options = ["--plugin-options", "python3:where=create_file", "--cancel-grace", "2s"];
    let assert = world.command(restore).args(options).assert().code(1);
    let log = stderr(assert.get_output());
    assert!(log.lines().last().unwrap().contains("(--plugin-time-limit)"), "{log}");
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A world that other users may enter.
fn open_world() -> World {
    let world = World::new();
    std::fs::set_permissions(world.path(""), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir(world.path("state")).unwrap();
    std::fs::set_permissions(world.path("state"), std::fs::Permissions::from_mode(0o755)).unwrap();
    world
}

/// The test plugins where every user can read them: the source tree may lie in root's home.
fn copied_plugins(world: &World) -> String {
    let folder = world.path("plugins");
    std::fs::create_dir(&folder).unwrap();
    let from = probe("x", "").replace("python3:module_path=", "").replace(":module_name=x", "");
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "py") {
            std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
    }
    format!("python3:module_path={}", folder.display())
}

#[test]
fn a_plugin_runs_as_the_user_that_is_named_and_so_do_its_children() {
    if !is_root() {
        return;
    }
    let world = open_world();
    let definition = format!(
        "{}:module_name=reaches:do=who;working;read=/etc/shadow;host_environment;signal_host",
        copied_plugins(&world)
    );
    let id = |option: &str| {
        String::from_utf8(Command::new("id").args([option, "nobody"]).output().unwrap().stdout)
            .unwrap()
            .trim()
            .to_owned()
    };
    let (uid, gid) = (id("-u"), id("-g"));
    for (user, groups) in [("nobody".to_owned(), format!("[{gid}]")), (format!("{uid}:daemon"), "[1]".to_owned())] {
        let gid = groups.trim_matches(['[', ']']);
        let mut command = world.command(["backup", "-v", "--plugin", &definition, "--plugin-user", &user]);
        let log = stderr(command.assert().success().get_output());
        let expected = format!(
            "reach who: ({uid}, {uid}, {uid}) ({gid}, {gid}, {gid}) {groups} /nonexistent child uid={uid}(nobody)"
        );
        assert!(log.contains(&expected), "{expected}: {log}");
        assert!(log.contains("reach working: OK"), "{log}");
        for closed in ["read=/etc/shadow", "host_environment"] {
            assert!(log.contains(&format!("reach {closed}: EACCES")), "{log}");
        }
        assert!(log.contains("reach signal_host: EPERM"), "{log}");
    }
    let working = std::fs::metadata(world.path(format!("state/backstay/work-{uid}"))).unwrap();
    assert_eq!((working.uid().to_string(), working.mode() & 0o777), (uid, 0o700));
}

#[test]
fn a_plugin_of_another_user_is_killed_with_all_that_it_started() {
    if !is_root() {
        return;
    }
    let world = open_world();
    std::fs::create_dir(world.path("pids")).unwrap();
    std::fs::set_permissions(world.path("pids"), std::fs::Permissions::from_mode(0o777)).unwrap();
    let definition = format!("{}:module_name=children:pids={}", copied_plugins(&world), world.shown("pids/all"));
    world.run(["backup", "--plugin", &definition, "--plugin-user", "nobody"]).success();
    let pids = std::fs::read_to_string(world.path("pids/all")).unwrap();
    assert_eq!(pids.lines().count(), 4);
    for pid in pids.lines() {
        assert!(!Path::new("/proc").join(pid).exists(), "{pid} is still there");
    }
}

#[test]
fn a_user_that_cannot_be_used_or_cannot_work_is_refused_in_one_line() {
    let world = open_world();
    let plugin = probe("reads", "");
    let with = |more: &[&str]| {
        let mut command = world.command(["-q", "backup", "--plugin", &plugin]);
        command.args(more);
        command
    };
    if !is_root() {
        fails_with(with(&["--plugin-user", "nobody"]), 1, &["only root may run plugins as another user"]);
        return;
    }
    fails_with(with(&["--plugin-user", "no-such-user"]), 1, &["--plugin-user", "there is no user no-such-user"]);
    fails_with(with(&["--plugin-user", "nobody:no-such-group"]), 1, &["no group no-such-group"]);
    world.write("closed/working/file", "");
    std::fs::set_permissions(world.path("closed"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let definition = format!("{}:module_name=reads", copied_plugins(&world));
    let closed = world.shown("closed/working");
    let mut command = world.command(["-q", "backup", "--plugin", &definition, "--plugin-user", "nobody"]);
    command.args(["--working-dir", &closed]);
    fails_with(command, 1, &["user nobody cannot write to", &closed, "Permission denied"]);
    let hidden = format!("python3:module_path={closed}:module_name=reads");
    let command = world.command(["-q", "backup", "--plugin", &hidden, "--plugin-user", "nobody"]);
    fails_with(command, 1, &["user nobody cannot read", &closed, "Permission denied"]);
}

#[test]
fn user_sandbox_and_limits_go_together_there_and_back() {
    if !is_root() {
        return;
    }
    let world = open_world();
    let definition = format!("{}:module_name=reads:size=1000000", copied_plugins(&world));
    let confined = [
        "--plugin-user",
        "nobody",
        "--sandbox=closed,no-network",
        "--plugin-memory",
        "512M",
        "--plugin-time-limit",
        "10m",
    ];
    world.command(["backup", "--plugin", &definition]).args(confined).assert().success();
    let mut command = world.command(["restore", "latest", "--target", "out", "--through-plugin"]);
    command.args(confined).assert().success();
    let back = std::fs::metadata(world.path("out/probe/reads")).unwrap();
    assert_eq!(back.len(), 1_000_000);
    assert_ne!(back.uid(), 0);
}

/// Debian's interpreter, which the worker is linked with.
const PYTHON: &str = "/usr/bin/python3";

#[test]
fn a_virtual_environment_made_by_python_itself_is_used_whole() {
    let world = World::new();
    let environment = world.shown("environment");
    let made = Command::new(PYTHON).args(["-m", "venv", "--without-pip", &environment]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
    let script = "import sysconfig; print(sysconfig.get_path('purelib'))";
    let asked = Command::new(format!("{environment}/bin/python")).args(["-c", script]).output().unwrap();
    let packages = String::from_utf8(asked.stdout).unwrap();
    std::fs::write(Path::new(packages.trim()).join("only_here.py"), "answer = 42\n").unwrap();
    let module = "import subprocess, sys\nimport bareosfd, only_here\nfrom bareosfd import *\n\
        def load_bareos_plugin(definition):\n\
        \x20   asked = 'import sys, only_here; print(sys.prefix, only_here.answer)'\n\
        \x20   child = subprocess.run([sys.executable, '-c', asked], stdout=subprocess.PIPE, text=True).stdout\n\
        \x20   bareosfd.JobMessage(M_INFO, f'saw {only_here.answer} {sys.prefix} {sys.executable} child {child}')\n\
        \x20   return bRC_OK\n\
        def parse_plugin_definition(definition):\n    return bRC_OK\n\
        def handle_plugin_event(event):\n    return bRC_OK\n\
        def start_backup_file(packet):\n    return bRC_Stop\n\
        def end_backup_file():\n    return bRC_OK\n";
    world.write("plugins/looks.py", module);
    let definition = format!("python3:module_path={}:module_name=looks", world.shown("plugins"));
    let expected = |program: &str| format!("saw 42 {environment} {program} child {environment} 42");
    for (given, sandbox) in
        [(environment.clone(), None), (format!("{environment}/bin/python3"), Some("--sandbox=closed"))]
    {
        let mut command = world.command(["backup", "-v", "--plugin", &definition, "--python", &given]);
        let log = stderr(command.args(sandbox).assert().success().get_output());
        assert!(log.contains(&expected(&format!("{environment}/bin/python3"))), "{log}");
    }
}

#[test]
fn an_interpreter_of_another_minor_version_is_refused_with_how_to_build_for_it() {
    let world = World::new();
    world.write("python3", "#!/bin/sh\necho 3.99\n");
    std::fs::set_permissions(world.path("python3"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut others = vec![(world.shown("python3"), "3.99".to_owned())];
    // Whatever other interpreters this machine has.
    for folder in std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()) {
        for minor in [8, 9, 10, 12, 13, 14] {
            let program = folder.join(format!("python3.{minor}"));
            let asked =
                Command::new(&program).args(["-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).output();
            if let Ok(output) = asked.map(|output| output.stdout)
                && output == format!("3.{minor}\n").as_bytes()
            {
                others.push((program.display().to_string(), format!("3.{minor}")));
            }
        }
    }
    let linked = stdout(
        &Command::new(PYTHON).args(["-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).output().unwrap(),
    );
    for (program, version) in others.into_iter().filter(|(_, version)| version != linked.trim()) {
        let command = world.command(["-q", "backup", "--plugin", &probe("reads", ""), "--python", &program]);
        let said =
            format!("{program} is Python {version}, but this backstay-python is linked with Python {}", linked.trim());
        let build = format!("PYO3_PYTHON={program} cargo build --release -p backstay-python");
        fails_with(command, 1, &[&said, &build]);
    }
}
