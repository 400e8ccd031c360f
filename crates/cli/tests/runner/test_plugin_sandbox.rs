//! Plugins in a sandbox: what each kind of sandbox lets them do and what not, said by a plugin that tries; their children and
//! threads are in it too.

use std::collections::BTreeMap;

use crate::common::{World, fails_with, stderr, stdout};
use crate::test_plugins::{EXAMPLES, probe};

/// What came of each thing that the plugin reached for.
type Reached = BTreeMap<String, String>;

fn reached(log: &str) -> Reached {
    log.lines()
        .filter_map(|line| line.split_once("reach ")?.1.split_once(": "))
        .map(|(what, came)| (what.to_owned(), came.to_owned()))
        .collect()
}

/// A backup with the plugin that reaches for `acts`.
fn reach(world: &World, acts: &[String], options: &[&str]) -> Reached {
    let definition = probe("reaches", &format!(":do={}", acts.join(";")));
    let assert = world.command(["backup", "-v", "--plugin", &definition]).args(options).assert().success();
    let log = stderr(assert.get_output());
    let found = reached(&log);
    assert_eq!(found.len(), acts.len(), "{log}");
    found
}

fn acts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn assert_all(found: &Reached, expected: &str) {
    for (what, came) in found {
        assert_eq!(came, expected, "{what}");
    }
}

#[test]
fn a_sandboxed_plugin_and_its_children_write_only_where_they_work() {
    let world = World::new();
    world.write("outside/there", "as it was\n");
    let outside = world.shown("outside");
    let wanted: Vec<String> = ["write", "child_write", "thread"]
        .iter()
        .map(|act| format!("{act}={outside}/{act}"))
        .chain(["append", "truncate", "truncate_open", "remove"].iter().map(|act| format!("{act}={outside}/there")))
        .chain([
            format!("rename={outside}/there>{outside}/gone"),
            format!("write=/dev/shm/backstay-{}", std::process::id()),
        ])
        .collect();
    let found = reach(&world, &wanted, &["--sandbox"]);
    for (what, came) in &found {
        let refused = ["EACCES", "EPERM", "EXDEV"].contains(&came.as_str()) || came.starts_with("PermissionError");
        assert!(refused, "{what}: {came}");
    }
    assert_eq!(std::fs::read_to_string(world.path("outside/there")).unwrap(), "as it was\n");
    assert_eq!(std::fs::read_dir(world.path("outside")).unwrap().count(), 1);

    let own = reach(&world, &acts(&["working", "temporary", "unix", "tcp", "read=/etc/passwd"]), &["--sandbox"]);
    let temporary = own["temporary"].strip_prefix("OK in ").unwrap().to_owned();
    assert!(temporary.contains("backstay-plugin-") && !std::path::Path::new(&temporary).exists(), "{temporary}");
    assert_all(&own.into_iter().filter(|(what, _)| what != "temporary").collect(), "OK");

    // The same things work without a sandbox: the sandbox is what refuses them.
    let free = reach(&world, &wanted[..4], &[]);
    assert_all(&free, "OK");
}

#[test]
fn what_a_sandbox_allows_to_write_is_written() {
    let world = World::new();
    world.write("outside/there", "as it was\n");
    world.write("file", "as it was\n");
    let outside = world.shown("outside");
    let wanted: Vec<String> = vec![
        format!("write={outside}/new"),
        format!("child_write={outside}/child"),
        format!("truncate={outside}/there"),
        format!("rename={outside}/there>{outside}/moved"),
        format!("write={}", world.shown("file")),
    ];
    let allowed = ["--sandbox", "--sandbox-allow-write", &outside, "--sandbox-allow-write", &world.shown("file")];
    assert_all(&reach(&world, &wanted, &allowed), "OK");
    assert!(world.path("outside/moved").exists());
    // A device file in a place that is open for writing would be a way to the disk.
    let device = reach(&world, &[format!("device={outside}/disk")], &allowed);
    assert!(["EACCES", "EPERM"].contains(&device.values().next().unwrap().as_str()), "{device:?}");
}

#[test]
fn a_sandboxed_plugin_reaches_neither_its_host_nor_the_kernel() {
    let world = World::new();
    let file = world.shown("mine");
    world.write("mine", "");
    let wanted = acts(&[
        "signal_host",
        "trace_host",
        "host_environment",
        "memory_of_host",
        "limits_of_host",
        "mount",
        "namespace",
        &format!("chmod={file}"),
        &format!("touch={file}"),
    ]);
    let found = reach(&world, &wanted, &["--sandbox"]);
    for (what, came) in &found {
        assert!(["EACCES", "EPERM"].contains(&came.as_str()), "{what}: {came}");
    }
    // What a plugin of the same user can do to its host otherwise, among it reading the repository's password.
    assert_all(&reach(&world, &acts(&["signal_host", "host_environment", "limits_of_host"]), &[]), "OK");
}

#[test]
fn a_sandbox_without_network_has_unix_sockets_only() {
    let world = World::new();
    let found = reach(&world, &acts(&["tcp", "child_tcp", "unix"]), &["--sandbox=no-network"]);
    assert_eq!(found["tcp"], "EAFNOSUPPORT");
    assert!(found["child_tcp"].starts_with("OSError: [Errno 97]"), "{found:?}");
    assert_eq!(found["unix"], "OK");
    // A plugin of root's that goes on as a lesser user: the usual way to a database.
    if rustix::process::geteuid().is_root() {
        assert_all(&reach(&world, &acts(&["switch_user"]), &["--sandbox=closed,no-network"]), "OK");
    }
}

#[test]
fn a_closed_sandbox_reads_only_what_is_allowed() {
    let world = World::new();
    world.write("open/there", "text");
    world.write("shut/there", "text");
    let (open, shut) = (world.shown("open"), world.shown("shut"));
    let wanted = acts(&["read=/etc/passwd", &format!("list={open}"), &format!("read={open}/there")]);
    let allowed = ["--sandbox=closed,no-network", "--sandbox-allow", &open];
    assert_all(&reach(&world, &wanted, &allowed), "OK");
    let wanted =
        acts(&[&format!("list={shut}"), &format!("read={shut}/there"), &format!("write={open}/new"), "list=/root"]);
    assert_all(&reach(&world, &wanted, &allowed), "EACCES");
    assert_all(&reach(&world, &acts(&["working", "unix", "child_write=/dev/null"]), &allowed), "OK");
}

#[test]
fn what_a_sandbox_refused_reaches_the_user_with_the_plugins_traceback() {
    let world = World::new();
    let module = "import bareosfd\nfrom BareosFdWrapper import *\nfrom probe_base import OneFile\n\
        @BareosPlugin\nclass Writes(OneFile):\n\
        \x20   def start_backup_job(self):\n        open('/not-writable-in-a-sandbox', 'w')\n";
    world.write("plugins/writes.py", module);
    let path = format!("{}:module_name=writes", world.shown("plugins"));
    let plugins = probe("x", "").replace("python3:module_path=", "").replace(":module_name=x", "");
    std::fs::copy(format!("{plugins}/probe_base.py"), world.path("plugins/probe_base.py")).unwrap();
    let definition = format!("python3:module_path={path}");
    let assert = world.command(["backup", "--sandbox", "--plugin", &definition]).assert().code(1);
    let log = stderr(assert.get_output());
    assert!(log.contains("PermissionError: [Errno 13] Permission denied: '/not-writable-in-a-sandbox'"), "{log}");
    assert!(log.lines().last().unwrap().contains("no snapshot was made"), "{log}");
    assert!(!std::path::Path::new("/not-writable-in-a-sandbox").exists());
}

#[test]
fn example_plugins_and_children_on_pipes_go_there_and_back_in_every_sandbox() {
    let world = World::new();
    world.make_tree();
    let tree = world.shown("tree");
    for (number, sandbox) in ["--sandbox", "--sandbox=no-network", "--sandbox=closed"].into_iter().enumerate() {
        let allow: &[&str] = if sandbox.ends_with("closed") { &["--sandbox-allow", &tree] } else { &[] };
        for io in ["core", "plugin"] {
            let definition = format!("python3:module_path={EXAMPLES}:module_name=tree_lister:path={tree}:io={io}");
            let pipe = probe("pipe", ":size=3000000");
            let mut command = world.command(["backup", "--plugin", &definition, "--plugin", &pipe, sandbox]);
            let out = stdout(command.args(allow).assert().success().get_output());
            assert!(out.lines().last().unwrap().contains("complete"), "{out}");
            let target = format!("back {number} {io}");
            let mut command = world.command(["restore", "latest", "--target", &target, "--through-plugin", sandbox]);
            command.args(allow).assert().success();
            let back = world.path(&target).join(tree.trim_start_matches('/'));
            let mut diff = assert_cmd::Command::new("diff");
            diff.args(["-r", "--no-dereference"]).arg(world.path("tree")).arg(back).assert().success();
            assert_eq!(std::fs::metadata(world.path(&target).join("probe/pipe")).unwrap().len(), 3_000_000);
        }
    }
    let script = "import sqlite3, sys\nwith sqlite3.connect(sys.argv[1]) as db: db.executescript('CREATE TABLE t (x); INSERT INTO t VALUES (1);')";
    let database = world.shown("tree/app.db");
    assert_cmd::Command::new("/usr/bin/python3").args(["-c", script, &database]).assert().success();
    let definition =
        format!("python3:module_path={EXAMPLES}:module_name=sqlite_and_folder:database={database}:folder={tree}/docs");
    let closed = ["--sandbox=closed,no-network", "--sandbox-allow", &tree];
    world.command(["backup", "--plugin", &definition]).args(closed).assert().success();
    world.command(["restore", "latest", "--target", "sqlite", "--through-plugin"]).args(closed).assert().success();
    assert!(std::fs::read_to_string(world.path("sqlite/@SQLITE/app.db/t.sql")).unwrap().contains("INSERT"));
    world.restic(["check", "--read-data"]).assert().success();
}

#[test]
fn a_sandboxed_restore_writes_below_its_target_only() {
    let world = World::new();
    let outside = world.shown("outside");
    world.write("outside/there", "");
    let definition = probe("reaches", ":in=create_file:do=unix");
    world.run(["backup", "--plugin", &definition]).success();
    let target = world.shown("target");
    let options =
        format!("python3:do=write={outside}/new;write={target}/new;chmod={target}/new;child_write={target}/child");
    let mut command = world.command(["restore", "latest", "-v", "--target", "target", "--through-plugin", "--sandbox"]);
    let assert = command.args(["--plugin-options", &options]).assert().success();
    let found = reached(&stderr(assert.get_output()));
    assert_eq!(found[&format!("write={outside}/new")], "EACCES");
    let inside: Reached = found.into_iter().filter(|(what, _)| !what.contains("outside")).collect();
    assert_eq!(inside.len(), 3);
    assert_all(&inside, "OK");
    assert!(world.path("target/probe/reaches").is_file());
}

#[test]
fn sandbox_options_that_mean_nothing_are_refused() {
    let world = World::new();
    let plugin = probe("reaches", ":do=unix");
    fails_with(world.command(["backup", "--plugin", &plugin, "--sandbox-allow", "/srv"]), 1, &["--sandbox"]);
    let mut command = world.command(["backup", "--plugin", &plugin, "--sandbox", "--sandbox-allow", "/srv"]);
    command.arg("-q");
    fails_with(command, 1, &["--sandbox-allow is for --sandbox=closed"]);
    fails_with(world.command(["backup", "--plugin", &plugin, "--sandbox=tight"]), 1, &["tight", "no-network"]);
    let mut command = world.command(["-q", "backup", "--plugin", &plugin, "--sandbox"]);
    command.args(["--sandbox-allow-write", "/no/such/folder"]);
    fails_with(command, 1, &["the sandbox cannot allow /no/such/folder", "No such file"]);
}
