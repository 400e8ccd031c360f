//! Plugins of the Bareos director and storage daemon through the command line: what they hear of a backup and of a
//! restore, and what their misbehaviour comes to.

use serde_json::{Value, json};

use crate::common::{World, fails_with, stderr, stdout};
use crate::test_plugins::{probe, tree_lister};

/// A definition of the listener, which writes what it hears to the file `log` of the world.
fn listener(world: &World, options: &str) -> String {
    probe("listener", &format!(":log={}{options}", world.shown("log")))
}

/// What was heard, line by line.
fn heard(world: &World) -> Vec<Value> {
    let text = std::fs::read_to_string(world.path("log")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The names of the events that a listener with this tag heard.
fn events(heard: &[Value], tag: &str) -> Vec<String> {
    let mine = heard.iter().filter(|line| line["tag"] == tag);
    mine.filter_map(|line| line["event"].as_str().map(str::to_owned)).collect()
}

/// The values that were read at an event.
fn values<'a>(heard: &'a [Value], event: &str) -> &'a Value {
    &heard.iter().find(|line| line["event"] == event).unwrap_or_else(|| panic!("no {event} in {heard:#?}"))["values"]
}

fn letter(letter: char) -> Value {
    u32::from(letter).into()
}

const DIRECTOR: [&str; 4] = ["bDirEventJobStart", "bDirEventJobInit", "bDirEventJobRun", "bDirEventJobEnd"];
const STORAGE: [&str; 6] = [
    "bsdEventJobStart",
    "bsdEventDeviceReserve",
    "bsdEventDeviceOpen",
    "bsdEventSetupRecordTranslation",
    "bsdEventDeviceClose",
    "bsdEventJobEnd",
];

#[test]
fn a_director_plugin_hears_of_a_backup_of_files_and_reads_its_figures() {
    let world = World::new();
    world.make_tree();
    let plugin = listener(&world, ":a=1");
    let mut command = world.command(["backup", "--json", "tree", "--dir-plugin", &plugin]);
    let output = command.args(["--job-name", "nightly", "--client", "web-fd"]).assert().success();
    let summary = crate::common::parse_lines(&stdout(output.get_output())).pop().unwrap();
    let heard = heard(&world);
    assert_eq!(heard[0]["load"], format!("log={}:a=1:", world.shown("log")));
    assert_eq!((&heard[0]["instances"], &heard[1]["parse"]), (&json!(1), &heard[0]["load"]));
    assert_eq!(events(&heard, ""), DIRECTOR);

    let begin = values(&heard, DIRECTOR[0]);
    let storage = world.shown("repository");
    assert_eq!(begin["bDirVarJob"], "nightly");
    assert_eq!(begin["bDirVarClient"], "web-fd");
    assert_eq!((&begin["bDirVarLevel"], &begin["bDirVarType"]), (&letter('F'), &letter('B')));
    assert_eq!((&begin["bDirVarJobStatus"], &begin["bDirVarPriority"]), (&letter('C'), &json!(10)));
    assert_eq!((&begin["bDirVarStorage"], &begin["bDirVarWriteStorage"]), (&json!(storage), &json!(storage)));
    assert_eq!((&begin["bDirVarReadStorage"], &begin["bDirVarVolumeName"]), (&Value::Null, &Value::Null));
    assert_eq!((&begin["bDirVarPool"], &begin["bDirVarMediaType"]), (&json!("Default"), &json!("File")));
    assert_eq!((&begin["bDirVarJobFiles"], &begin["bDirVarJobBytes"]), (&json!(0), &json!(0)));
    let name = begin["bDirVarJobName"].as_str().unwrap();
    assert_eq!(name.rsplitn(4, '.').last(), Some("nightly"), "{name}");

    assert_eq!(values(&heard, DIRECTOR[2])["bDirVarJobStatus"], letter('R'));
    let end = values(&heard, DIRECTOR[3]);
    assert_eq!(end["bDirVarJobId"], begin["bDirVarJobId"]);
    assert_eq!(end["bDirVarJobName"], name);
    for status in ["bDirVarJobStatus", "bDirVarFDJobStatus", "bDirVarSDJobStatus"] {
        assert_eq!(end[status], letter('T'), "{status}");
    }
    assert_eq!(end["bDirVarJobFiles"], summary["entries"]["saved"]);
    assert_eq!(end["bDirVarJobBytes"], summary["total_bytes_processed"]);
    assert_eq!((&end["bDirVarJobErrors"], &end["bDirVarNumVols"]), (&json!(0), &json!(1)));
    assert!(end["bDirVarJobFiles"].as_u64() > Some(3) && end["bDirVarJobBytes"].as_u64() > Some(10), "{end}");
}

#[test]
fn a_storage_plugin_hears_of_the_device_that_it_reads_nothing_of_before() {
    let world = World::new();
    world.make_tree();
    world.run(["backup", "tree", "--sd-plugin", &listener(&world, "")]).success();
    let heard = heard(&world);
    assert_eq!(events(&heard, ""), STORAGE);
    let begin = values(&heard, STORAGE[0]);
    for unknown in ["bsdVarPool", "bsdVarPoolType", "bsdVarStorage", "bsdVarMediaType", "bsdVarVolumeName"] {
        assert_eq!(begin[unknown], Value::Null, "{unknown}");
    }
    assert_eq!((&begin["bsdVarJob"], &begin["bsdVarLevel"]), (&json!("backstay"), &letter('F')));
    let reserved = values(&heard, STORAGE[1]);
    assert_eq!(reserved["bsdVarStorage"], world.shown("repository"));
    assert_eq!((&reserved["bsdVarPool"], &reserved["bsdVarPoolType"]), (&json!("Default"), &json!("Backup")));
    let end = values(&heard, STORAGE[5]);
    assert_eq!((&end["bsdVarJobStatus"], &end["bsdVarJobErrors"]), (&letter('T'), &json!(0)));
    assert!(end["bsdVarJobFiles"].as_u64() > Some(3) && end["bsdVarJobBytes"].as_u64() > Some(10), "{end}");
    assert!(std::path::Path::new(end["bsdVarPluginDir"].as_str().unwrap()).join("BareosSdWrapper.py").is_file());
}

#[test]
fn both_daemons_and_two_instances_hear_in_order_beside_a_plugin_that_saves() {
    let world = World::new();
    world.make_tree();
    let (first, second) = (listener(&world, ":tag=a:sets=Vol7"), listener(&world, ":tag=b:instance=5"));
    let mut command = world.command(["backup", "--plugin", &tree_lister(&world), "--level", "incremental"]);
    command.args(["--dir-plugin", &second, "--dir-plugin", &first, "--sd-plugin", &listener(&world, ":tag=s")]);
    command.assert().success();
    let heard = heard(&world);
    for tag in ["a", "b"] {
        assert_eq!(events(&heard, tag), DIRECTOR, "{tag}");
    }
    assert_eq!(events(&heard, "s"), STORAGE);
    assert_eq!(heard.iter().filter(|line| line["instances"] == 2).count(), 2);
    // By number, not in the order in which they are named; all are loaded before the first event.
    let order: Vec<&str> = heard.iter().map(|line| line["tag"].as_str().unwrap()).collect();
    assert_eq!(order[..8], ["a", "a", "b", "b", "s", "s", "a", "b"]);
    // There is nothing to build on: the job was a full one in the end.
    let of_b = |event: &str| {
        let line = heard.iter().find(|line| line["tag"] == "b" && line["event"] == event);
        line.unwrap_or_else(|| panic!("no {event}"))["values"].clone()
    };
    assert_eq!(of_b(DIRECTOR[0])["bDirVarLevel"], letter('I'));
    assert_eq!(of_b(DIRECTOR[3])["bDirVarLevel"], letter('F'));
    assert_eq!(of_b(DIRECTOR[0])["bDirVarVolumeName"], "Vol7");
    assert_eq!(values(&heard, STORAGE[0])["bsdVarVolumeName"], "Vol7");
}

#[test]
fn a_restore_is_told_with_its_own_figures() {
    let world = World::with_snapshot();
    let plugins = ["--dir-plugin", &listener(&world, ""), "--sd-plugin", &listener(&world, "")];
    let mut command = world.command(["restore", "latest", "--target", "out"]);
    command.args(plugins).assert().success();
    let lines = heard(&world);
    assert_eq!(events(&lines, "").len(), DIRECTOR.len() + STORAGE.len());
    let end = values(&lines, DIRECTOR[3]);
    assert_eq!((&end["bDirVarType"], &end["bDirVarLevel"]), (&letter('R'), &letter(' ')));
    assert_eq!(
        (&end["bDirVarReadStorage"], &end["bDirVarWriteStorage"]),
        (&json!(world.shown("repository")), &Value::Null)
    );
    assert_eq!(end["bDirVarJobStatus"], letter('T'));
    assert!(end["bDirVarJobFiles"].as_u64() > Some(3) && end["bDirVarJobBytes"].as_u64() > Some(10), "{end}");

    std::fs::remove_file(world.path("log")).unwrap();
    world.run(["backup", "--plugin", &tree_lister(&world)]).success();
    let mut command = world.command(["restore", "latest", "--target", "through", "--through-plugin"]);
    command.args(plugins).assert().success();
    let lines = heard(&world);
    assert_eq!(events(&lines, "").len(), DIRECTOR.len() + STORAGE.len());
    let end = values(&lines, DIRECTOR[3]);
    assert_eq!((&end["bDirVarType"], &end["bDirVarJobStatus"]), (&letter('R'), &letter('T')));
    assert!(end["bDirVarJobFiles"].as_u64() > Some(3) && end["bDirVarJobBytes"].as_u64() > Some(10), "{end}");
}

#[test]
fn a_plugin_that_raises_before_the_work_stops_the_job_and_still_hears_its_end() {
    let world = World::new();
    world.make_tree();
    let assert = world.run(["backup", "tree", "--dir-plugin", &listener(&world, ":raises=4")]).code(1);
    let err = stderr(assert.get_output());
    assert!(err.contains("Traceback") && err.contains("ValueError: raised in bDirEventJobRun"), "{err}");
    assert!(err.lines().last().unwrap().contains("no snapshot was made"), "{err}");
    assert!(world.objects(["snapshots"]).is_empty());
    let heard = heard(&world);
    assert_eq!(events(&heard, ""), DIRECTOR);
    assert_eq!(values(&heard, DIRECTOR[3])["bDirVarJobStatus"], letter('f'));
}

#[test]
fn a_plugin_that_raises_at_the_end_leaves_the_snapshot_and_status_3() {
    let world = World::new();
    world.make_tree();
    let plugins = [listener(&world, ":tag=s:raises=2"), listener(&world, ":tag=d")];
    let mut command = world.command(["backup", "tree", "--sd-plugin", &plugins[0], "--dir-plugin", &plugins[1]]);
    let assert = command.assert().code(3);
    assert!(stderr(assert.get_output()).contains("ValueError: raised in bsdEventJobEnd"));
    assert!(stdout(assert.get_output()).contains("with errors"));
    assert_eq!(world.objects(["snapshots"]).len(), 1);
    // The director hears later, and knows.
    let heard = heard(&world);
    assert_eq!(events(&heard, "d"), DIRECTOR);
    assert_eq!(values(&heard, DIRECTOR[3])["bDirVarJobStatus"], letter('W'));
}

#[test]
fn a_plugin_that_never_answers_is_killed_when_its_time_is_over() {
    let world = World::new();
    world.make_tree();
    for (event, status, snapshots) in [("3", 1, 0), ("2", 3, 1)] {
        let (hangs, other) = (listener(&world, &format!(":hangs={event}")), listener(&world, ":tag=o:instance=1"));
        let mut command = world.command(["backup", "tree", "--dir-plugin", &hangs, "--dir-plugin", &other]);
        let assert = command.args(["--plugin-timeout", "3s"]).assert().code(status);
        let err = stderr(assert.get_output());
        assert!(err.contains("listener: the plugin did not answer within 3 s (--plugin-timeout)"), "{err}");
        assert_eq!(world.objects(["snapshots"]).len(), snapshots);
        // One that is dead takes nothing from the others.
        assert_eq!(events(&heard(&world), "o").last().unwrap(), DIRECTOR[3]);
        std::fs::remove_file(world.path("log")).unwrap();
    }
}

#[test]
fn a_plugin_that_dies_is_told_with_how() {
    let world = World::new();
    world.make_tree();
    let assert = world.run(["backup", "tree", "--dir-plugin", &listener(&world, ":dies=2")]).code(3);
    let err = stderr(assert.get_output());
    assert!(err.contains("listener: the plugin worker exited with status 5"), "{err}");
    assert_eq!(world.objects(["snapshots"]).len(), 1);
}

#[test]
fn answers_stop_the_chain_end_the_plugin_or_veto_the_job() {
    let world = World::new();
    world.make_tree();
    let other = listener(&world, ":tag=o:instance=1");
    // bRC_Stop at JobInit: the second instance does not hear of it. bRC_Term: the first hears no more.
    for (answer, first, second) in [("3,1", vec![0, 1, 2, 3], vec![0, 2, 3]), ("1,4", vec![0], vec![0, 1, 2, 3])] {
        let plugin = listener(&world, &format!(":answers={answer}"));
        world.run(["backup", "tree", "--dir-plugin", &plugin, "--dir-plugin", &other]).success();
        let named = |list: Vec<usize>| list.into_iter().map(|at| DIRECTOR[at].to_owned()).collect::<Vec<_>>();
        let lines = heard(&world);
        assert_eq!((events(&lines, ""), events(&lines, "o")), (named(first), named(second)), "{answer}");
        std::fs::remove_file(world.path("log")).unwrap();
    }
    // DeviceOpen may be refused; the device is closed, and both ends are told.
    let before = world.objects(["snapshots"]).len();
    let plugin = listener(&world, ":answers=7,2");
    fails_with(
        world.command(["backup", "tree", "--sd-plugin", &plugin]),
        1,
        &["bRC_Error", "Open", "no snapshot was made"],
    );
    assert_eq!(world.objects(["snapshots"]).len(), before);
    let heard = heard(&world);
    assert_eq!(events(&heard, ""), [STORAGE[0], STORAGE[1], STORAGE[2], STORAGE[4], STORAGE[5]]);
    assert_eq!(values(&heard, STORAGE[5])["bsdVarJobStatus"], letter('f'));
}

#[test]
fn messages_come_without_a_prefix_and_errors_count() {
    let world = World::new();
    world.make_tree();
    let assert = world.run(["backup", "tree", "--dir-plugin", &listener(&world, ":says=5,1")]).success();
    assert!(stderr(assert.get_output()).contains("listener: said in bDirEventJobStart"));
    let assert = world.run(["backup", "tree", "--sd-plugin", &listener(&world, ":says=4,1")]).code(3);
    assert!(stderr(assert.get_output()).contains("listener: said in bsdEventJobStart"));
    assert!(stdout(assert.get_output()).contains("with errors"));
    assert_eq!(world.objects(["snapshots"]).len(), 2);
    assert_eq!(values(&heard(&world), "bsdEventJobEnd")["bsdVarJobErrors"], 1);
}

#[test]
fn a_backup_that_fails_is_told_as_failed() {
    let world = World::new();
    let failing = probe("exits", ":where=plugin_io_read");
    world.run(["backup", "--plugin", &failing, "--dir-plugin", &listener(&world, "")]).code(1);
    let heard = heard(&world);
    assert_eq!(events(&heard, ""), DIRECTOR);
    let end = values(&heard, DIRECTOR[3]);
    assert_eq!(end["bDirVarJobStatus"], letter('f'));
    assert!(end["bDirVarJobErrors"].as_u64() > Some(0), "{end}");
}

#[test]
fn a_dry_run_is_nothing_that_plugins_hear_of() {
    let world = World::with_snapshot();
    let plugin = listener(&world, "");
    world.run(["backup", "--dry-run", "tree", "--dir-plugin", &plugin]).success();
    world.run(["restore", "latest", "--target", "out", "--dry-run", "--sd-plugin", &plugin]).success();
    assert!(heard(&world).is_empty());
}

#[test]
fn definitions_that_cannot_be_used_are_refused_before_anything_runs() {
    let world = World::with_snapshot();
    for (definitions, parts) in [
        (vec!["secret"], vec!["python3-dir: Illegal plugin definition"]),
        (vec!["python:module_name=secret"], vec!["python3:"]),
        (vec!["python3:module_name=m:instance=200"], vec!["instance", "from 0 to 127"]),
        (vec!["python3:password=secret"], vec!["names a module"]),
        (vec!["python3:module_name=a", "python3:module_name=b"], vec!["instance=N", "a", "b"]),
    ] {
        let mut command = world.command(["backup", "tree"]);
        definitions.iter().for_each(|text| {
            command.args(["--dir-plugin", text]);
        });
        let assert = command.assert().code(1);
        let err = stderr(assert.get_output());
        assert!(err.lines().count() == 1 && parts.iter().all(|part| err.contains(part)), "{definitions:?}: {err}");
        assert!(!err.contains("secret"), "{err}");
    }
    assert_eq!(world.objects(["snapshots"]).len(), 1);
}

#[test]
fn a_plugin_that_does_not_load_stops_the_job_with_its_reason() {
    let world = World::new();
    world.make_tree();
    let assert = world.run(["backup", "tree", "--dir-plugin", "python3:module_name=no_such_module"]).code(1);
    let err = stderr(assert.get_output());
    assert!(err.contains("No module named 'no_such_module'"), "{err}");
    assert!(err.lines().last().unwrap().contains("no snapshot was made"), "{err}");
    assert!(world.objects(["snapshots"]).is_empty());
}

#[test]
fn hooks_run_in_a_sandbox_too() {
    let world = World::new();
    world.make_tree();
    let plugin = listener(&world, "");
    let mut command = world.command(["backup", "tree", "--dir-plugin", &plugin, "--sandbox=partial"]);
    let err = stderr(command.assert().code(1).get_output());
    assert!(err.contains("PermissionError"), "{err}");
    let mut command = world.command(["backup", "tree", "--dir-plugin", &plugin, "--sandbox=partial"]);
    std::fs::write(world.path("log"), "").unwrap();
    command.args(["--sandbox-allow-write", &world.shown("log")]).assert().success();
    assert_eq!(events(&heard(&world), ""), DIRECTOR);
}

#[test]
fn one_trace_has_the_calls_of_all_plugins_of_a_job() {
    let world = World::new();
    world.make_tree();
    let mut command = world.command(["backup", "--plugin", &tree_lister(&world), "--trace-plugin", "trace"]);
    command.args(["--dir-plugin", &listener(&world, "")]).assert().success();
    let text = std::fs::read_to_string(world.path("trace")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let calls = |module: &str| lines.iter().filter(|line| line["module"] == module).collect::<Vec<_>>();
    let of_listener = calls("listener");
    assert_eq!(of_listener.len(), 2 + DIRECTOR.len(), "{text}");
    assert_eq!(
        *of_listener[5],
        json!({"module": "listener", "call": "handle_plugin_event", "arguments": [2], "answer": 0})
    );
    assert!(calls("tree_lister").len() > 10, "{text}");
}
