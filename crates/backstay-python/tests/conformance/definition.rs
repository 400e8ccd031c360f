//! Lines 1 to 16: definition and loading.

use backstay_bareos_protocol::Task;

use crate::common::chain::Chain;
use crate::common::objects::{BASE, failed, lines, plugin, run};
use crate::common::program::World;
use crate::common::{self, Host, Plugin, backup, restore, spec};

#[test]
fn item_01_python3_and_python_select_the_python_host_and_nothing_else_does() {
    let plugin = plugin("");
    let named = |prefix: &str| plugin.definition("").replacen("python3", prefix, 1);
    for prefix in ["python3", "python"] {
        assert_eq!(backup(&named(prefix)).good().saved.len(), 1, "{prefix}");
    }
    let world = World::new();
    for prefix in ["pytho", "Python3", "python34", "grpc", ""] {
        let said = world.fails(["backup", "--plugin", &named(prefix)]);
        assert!(said.contains("starts with python3:"), "{prefix}: {said}");
    }
}

/// The job of this definition fails with just this text.
fn is_illegal(definition: &str, text: &str) {
    let outcome = backup(definition);
    assert!(outcome.said(3, text), "{outcome:#?}");
    assert_eq!(failed(&outcome), text);
}

#[test]
fn item_02_a_definition_without_a_colon_fails_the_job() {
    is_illegal("python3", "python3-fd: Illegal plugin definition python3");
}

#[test]
fn item_03_an_option_without_a_value_fails_the_job() {
    is_illegal("python3:module_name=plug:flag", "python3-fd: Illegal argument flag without value");
}

/// What load_bareos_plugin and parse_plugin_definition get of a definition that ends with `options`, the module's keys
/// written as `path` and `name`.
fn options_seen(path: &str, name: &str, options: &str) -> String {
    let plugin = plugin(
        "def load_bareos_plugin(t): out('load', repr(t)); return bRC_OK\n\
         def parse_plugin_definition(t): out('parse', repr(t)); return bRC_Error",
    );
    backup(&format!("python3:{path}={}:{name}=plug{options}", plugin.folder.path().display()));
    let log = plugin.log();
    let seen = log[0].strip_prefix("load ").unwrap().to_owned();
    assert_eq!(log[1..], [format!("parse {seen}"), format!("parse {seen}")]);
    seen.trim_matches('\'').replace("\\\\", "\\")
}

#[test]
fn item_04_options_are_joined_by_colons_and_end_with_one() {
    for (options, seen) in [(":a=1:b=2", "a=1:b=2:"), (":a=1:b=2:", "a=1:b=2:"), (":a=1", "a=1:"), ("", ""), (":", "")]
    {
        assert_eq!(options_seen("module_path", "module_name", options), seen, "{options}");
    }
}

#[test]
fn item_05_the_keys_of_the_module_are_taken_out_in_any_case_and_without_backslashes() {
    assert_eq!(options_seen("Module_Path", "MODULE_NAME", ":a=1"), "a=1:");
    assert_eq!(options_seen("module_path", "module_name", ":a=1:module_name=p\\lug"), "a=1:");
    let plugin = plugin("out('path', sys.path[0])");
    std::fs::create_dir(plugin.path("a:b")).unwrap();
    std::fs::rename(plugin.path("plug.py"), plugin.path("a:b/plug.py")).unwrap();
    std::fs::copy(plugin.path("probe.py"), plugin.path("a:b/probe.py")).unwrap();
    let folder = plugin.folder.path().display();
    backup(&format!("python3:module_path={folder}/a\\:b:module_name=pl\\ug")).good();
    assert_eq!(lines(&plugin, &["path"]), [format!("path {folder}/a:b")]);
}

#[test]
fn item_06_all_other_options_arrive_unchanged() {
    for options in ["a=x::b=y", r"a=x\:y:b=\\", "a = 1 : b=  2", "c=:a=:b=", "z=1:a=2:z=3", "m=4:module=5", "a=b=c"] {
        assert_eq!(
            options_seen("module_path", "module_name", &format!(":{options}")),
            format!("{options}:"),
            "{options}"
        );
    }
}

#[test]
fn item_07_module_path_is_searched_first_then_the_helper_folder() {
    let plugin =
        plugin("out('path', sys.path[0], sys.path[1])\nout('argv', sys.argv)\nout('mask', oct(os.umask(0) & 0o26))");
    run(&plugin).good();
    let modules = common::python_folder().join("modules");
    assert_eq!(
        plugin.log()[..2],
        [format!("path {} {}", plugin.folder.path().display(), modules.display()), "argv ['']".to_owned()]
    );
    assert_eq!(plugin.log()[2], "mask 0o26");
}

#[test]
fn item_08_packages_dotted_names_and_dashes_load() {
    let plugin = Plugin::new("");
    let source = format!("{BASE}\nout('loaded', __name__)");
    std::fs::create_dir_all(plugin.path("pack/age")).unwrap();
    std::fs::write(plugin.path("pack/__init__.py"), "").unwrap();
    std::fs::write(plugin.path("pack/age/__init__.py"), &source).unwrap();
    std::fs::write(plugin.path("with-dash.py"), &source).unwrap();
    for name in ["pack.age", "with-dash"] {
        plugin.forget_log();
        let outcome =
            backup(&format!("python3:module_path={}:module_name={name}", plugin.folder.path().display())).good();
        assert_eq!(plugin.log()[0], format!("loaded {name}"));
        assert_eq!(outcome.saved.len(), 1);
    }
}

#[test]
fn item_09_each_job_has_module_state_of_its_own() {
    let plugin = plugin(
        "import time\ncount = []\n\
         def objects():\n\
         \x20 count.append(1)\n\
         \x20 out('arrived')\n\
         \x20 while open(__file__.replace('plug.py', 'log')).read().count('arrived') < 2: time.sleep(0.01)\n\
         \x20 yield '/%d' % len(count), FT_REG, {}, b''",
    );
    // The first two wait for each other; the third comes later.
    let jobs = [(); 2].map(|()| Host::start(spec(Task::Backup, vec![plugin.definition("")])));
    let [one, other] = jobs.map(|job| std::thread::spawn(|| job.backup().good()));
    for outcome in [one.join().unwrap(), other.join().unwrap(), run(&plugin).good()] {
        assert_eq!(outcome.saved[0].entry.name, b"/1");
    }
}

#[test]
fn item_10_an_import_error_fails_the_job_with_its_text() {
    for (source, reason) in [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("def f(:\n  pass", "SyntaxError: invalid syntax"),
        ("", "the module plug has no function load_bareos_plugin"),
        ("def load_bareos_plugin(text): raise ValueError('no\\nway')", "way"),
    ] {
        let plugin = Plugin::new(source);
        let outcome = run(&plugin);
        assert!(failed(&outcome).contains(reason), "{outcome:#?}");
        assert!(outcome.messages.iter().any(|(kind, text)| *kind == 3 && text.contains(reason)), "{outcome:#?}");
        assert_eq!(outcome.saved.len(), 0);
    }
    let outcome = backup("python3:option=x");
    assert!(failed(&outcome).contains("names no module_name"), "{outcome:#?}");
    let outcome = backup("python3:module_path=/nowhere:module_name=missing_plugin");
    assert!(failed(&outcome).contains("No module named 'missing_plugin'"), "{outcome:#?}");
}

#[test]
fn item_11_the_script_is_loaded_once_and_parses_twice_in_a_backup_and_once_per_restored_file() {
    let plugin = plugin(
        "def load_bareos_plugin(t): out('load', t); return bRC_OK\n\
         def parse_plugin_definition(t): out('parse', t); state['objects'] = None; return bRC_OK\n\
         def objects():\n  for name in '/a', '/b', '/c': yield name, FT_REG, {}, b''",
    );
    let saved = backup(&plugin.definition("a=1")).good().saved;
    assert_eq!(lines(&plugin, &["load", "parse"]), ["load a=1:", "parse a=1:", "parse a=1:"]);
    plugin.forget_log();
    restore(&plugin.definition("a=1"), &saved, plugin.folder.path()).good();
    assert_eq!(lines(&plugin, &["load", "parse"]), ["load a=1:", "parse a=1:", "parse a=1:", "parse a=1:"]);
}

#[test]
fn item_12_a_load_that_is_not_ok_skips_the_first_parse_only() {
    let plugin = plugin(
        "def load_bareos_plugin(text): out('load'); return bRC_Error\n\
         def parse_plugin_definition(text): out('parse'); state['objects'] = None; return bRC_OK",
    );
    let outcome = run(&plugin).good();
    assert_eq!(lines(&plugin, &["load", "parse"]), ["load", "parse"]);
    assert_eq!(outcome.saved.len(), 1);
}

#[test]
fn item_13_two_lines_share_one_module_and_each_packet_shows_its_own_line() {
    let plugin = plugin(
        "count = []\n\
         def parse_plugin_definition(text): out('parse', text); state['objects'] = None; count.append(1); return bRC_OK\n\
         def objects(): yield '/f%d' % len(count), FT_REG, {}, b''\n\
         old = start_backup_file\n\
         def start_backup_file(packet): out('cmd', packet.cmd); return old(packet)",
    );
    let definitions = vec![plugin.definition("a=1"), plugin.definition("a=2")];
    let outcome = Host::start(spec(Task::Backup, definitions.clone())).backup().good();
    assert_eq!(lines(&plugin, &["parse"]), ["parse a=1:", "parse a=2:", "parse a=1:", "parse a=2:"]);
    let names: Vec<_> = outcome.saved.iter().map(|one| (one.entry.definition, &one.entry.name[..])).collect();
    assert_eq!(names, [(0, &b"/f3"[..]), (1, b"/f4")]);
    let cmd = lines(&plugin, &["cmd"]);
    assert_eq!((&cmd[0], &cmd[3]), (&format!("cmd {}", definitions[0]), &format!("cmd {}", definitions[1])));
}

#[test]
fn item_14_an_override_in_a_restore_is_merged_into_the_first_definition_only() {
    let plugin = plugin(
        "def load_bareos_plugin(t): out('load', t); return bRC_OK\n\
         def parse_plugin_definition(t): out('parse', t); state['objects'] = None; return bRC_OK\n\
         def objects():\n  yield '/f', FT_REG, {}, b''\n  yield '/g', FT_REG, {}, b''",
    );
    let definition = plugin.definition("a=1");
    let saved = backup(&definition).good().saved;
    plugin.forget_log();
    let mut job = spec(Task::Restore, Vec::new());
    job.overrides = vec!["python3:lost=1".to_owned(), "python3:a=9:b=2".to_owned()];
    Host::start(job).restore(&definition, &saved, "").good();
    assert_eq!(lines(&plugin, &["load", "parse"]), ["load a=9:b=2:a=1:", "parse a=9:b=2:a=1:", "parse a=1:"]);
    // Over the jobs of a chain too.
    let chain = Chain::new();
    chain.backup_by("full", "a=1", "file /a 1\nobject o 1");
    chain.backup_by("incremental", "a=1", "file /b 1\nfile /c 1");
    chain.restore(&["--plugin-options", "python3:a=9:b=2"]);
    assert_eq!(chain.lines("parse"), ["parse a=9:b=2:a=1:", "parse a=1:", "parse a=1:", "parse a=1:"]);
}

#[test]
fn item_15_the_stored_definition_reaches_start_restore_file_whatever_was_overridden() {
    let plugin = plugin("");
    let definition = plugin.definition(r"a=1:b=x\:y");
    let saved = backup(&definition).good().saved;
    plugin.forget_log();
    let mut job = spec(Task::Restore, Vec::new());
    job.overrides = vec!["python3:a=9".to_owned()];
    Host::start(job).restore(&definition, &saved, "").good();
    assert_eq!(lines(&plugin, &["start_restore"]), [format!("start_restore {definition}")]);
}

#[test]
fn item_16_a_parse_that_is_not_ok_ends_the_job_with_event_4_but_not_2() {
    let plugin = plugin(
        "RegisterEvents([2, 3, 4])\ncount = []\n\
         def parse_plugin_definition(text): count.append(1); return bRC_OK if len(count) == 1 else bRC_Error\n\
         def handle_plugin_event(event): out('event', event, chr(GetValue(bVarJobStatus))); return bRC_OK",
    );
    let outcome = run(&plugin);
    assert!(failed(&outcome).contains("parse_plugin_definition answered 2"), "{outcome:#?}");
    assert_eq!(plugin.log(), ["event 3 B", "event 4 E"]);
}
