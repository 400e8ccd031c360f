//! Lines 17 to 28: the module `bareosfd`.

use std::ffi::CString;
use std::sync::OnceLock;

use backstay_bareos_protocol::Task;
use pyo3::prelude::*;

use crate::common::objects::{lines, plugin, run};
use crate::common::{Host, restore, spec};

/// The tests that need no job, in Python.
const UNIT: &str = include_str!("../../../../adapters/bareos/worker/tests/module.py");

/// Runs the functions of `UNIT` whose names begin like this, in this process, outside of any job.
fn unit(start: &str) {
    static INTERPRETER: OnceLock<()> = OnceLock::new();
    INTERPRETER.get_or_init(|| {
        backstay_bareos_worker::register_module();
        backstay_python_runtime::start(&backstay_python_runtime::interpreter_path(None)).unwrap();
    });
    Python::attach(|py| {
        let code = CString::new(UNIT).unwrap();
        let module = PyModule::from_code(py, &code, c"module.py", c"module_tests").unwrap();
        let mut count = 0;
        for item in module.dict().items() {
            let (name, function): (String, Bound<'_, PyAny>) = item.extract().unwrap();
            if name.starts_with(start) {
                count += 1;
                if let Err(error) = function.call0() {
                    panic!("{name}\n{}", backstay_python_runtime::format_error(py, &error));
                }
            }
        }
        assert!(count > 0, "there is no test {start}");
    });
}

#[test]
fn item_17_every_constant_has_its_value_and_type() {
    unit("item_17_");
}

#[test]
fn item_18_dictionaries_have_bytes_keys() {
    unit("item_18_");
}

#[test]
fn item_19_functions_outside_a_job_say_that_there_is_none() {
    unit("item_19_");
}

#[test]
fn item_20_functions_take_no_keywords() {
    unit("item_20_");
}

#[test]
fn item_21_get_value_has_the_types_and_values_of_the_job() {
    let plugin = plugin(
        "def show(where):\n    out(where, GetValue(bVarType), GetValue(bVarJobStatus), sorted(GetValue(bVarAccurateOptions)))\n\
         RegisterEvents((16, 3, 4, 2))\nshow('load')\n\
         def handle_plugin_event(event): show('event%d' % event); return bRC_OK\n\
         def objects():\n    show('file')\n    yield '/f', FT_REG, {}, b''\n\
         for number in range(0, 30):\n    v = GetValue(number)\n    out('value', number, repr(v))",
    );
    run(&plugin).good();
    let log = plugin.log();
    let value = |number: usize| {
        let start = format!("value {number} ");
        log.iter().find_map(|line| line.strip_prefix(&start)).unwrap().to_owned()
    };
    for (number, expected) in [
        (0, "None"),
        (1, "7"),
        (2, "'client-fd'"),
        (3, "70"),
        (4, "73"),
        (5, "'client-fd'"),
        (6, "'job.2026-11-22_00.00.00_07'"),
        (7, "67"),
        (8, "0"),
        (9, "0"),
        (10, "None"),
        (11, "None"),
        (12, "'/tmp'"),
        (13, "None"),
        (14, "None"),
        (16, "'26.0.0~pre1 (21 August 2026)'"),
        (17, "None"),
        (18, "''"),
        (19, "0"),
        (20, "True"),
        (21, "'/etc/backstay/bareos/bareos-fd.d/*/*.conf'"),
        (22, "None"),
        (23, "frozenset()"),
        (24, "None"),
    ] {
        assert_eq!(value(number), expected, "variable {number}");
    }
    assert!(value(15).ends_with("/'"), "{}", value(15));
    let shown: Vec<_> = log.iter().filter(|line| !line.starts_with("value") && line.contains('[')).collect();
    assert_eq!(
        shown,
        [
            "load 73 67 []",
            "event16 73 67 []",
            "event3 66 66 []",
            "file 66 82 [32, 128, 256]",
            "event4 66 84 [32, 128, 256]",
            "event2 66 84 [32, 128, 256]"
        ]
    );

    // In a restore: level and type are others, and there is a prefix once it has started.
    let saved = run(&plugin).good().saved;
    plugin.forget_log();
    let source = std::fs::read_to_string(plugin.path("plug.py")).unwrap();
    let values = "def create_file(rp):\n  out('restore', *(repr(GetValue(n)) for n in (3, 4, 7, 8, 9, 13, 14, 18, 19, 23)))\n  return bRC_Error";
    std::fs::write(plugin.path("plug.py"), format!("{source}\n{values}")).unwrap();
    restore(&plugin.definition(""), &saved, std::path::Path::new("/x"));
    let seen = "restore 32 82 82 0 0 '/x' None '' 0 frozenset()".to_owned();
    assert!(plugin.log().contains(&seen), "{:?}", plugin.log());
}

/// What a plugin logs that runs these lines in parse_plugin_definition; `text` calls a function and shows what it raises.
fn parsing(source: &str) -> Vec<String> {
    let plugin = plugin(&format!(
        "def text(call, *arguments):\n\
         \x20 try: return call(*arguments)\n\
         \x20 except Exception as error: return '%s: %s' % (type(error).__name__, error)\n\
         def parse_plugin_definition(t):\n  state['objects'] = None\n{source}\n  return bRC_OK"
    ));
    run(&plugin).good();
    plugin.log()
}

#[test]
fn item_22_set_value_knows_three_variables() {
    let log = parsing(
        "  out('since', SetValue(bVarSinceTime, 5), GetValue(bVarSinceTime))\n\
         \x20 out('bad', text(SetValue, bVarSinceTime, 'x'), GetValue(bVarSinceTime))\n\
         \x20 SetValue(bVarSinceTime, 0)\n\
         \x20 out('check', SetValue(bVarCheckChanges, 1), GetValue(bVarCheckChanges), SetValue(bVarCheckChanges, True),\n\
         \x20     GetValue(bVarCheckChanges), SetValue(bVarCheckChanges, 'x'), GetValue(bVarCheckChanges))\n\
         \x20 SetValue(bVarCheckChanges, True)\n\
         \x20 out('seen', SetValue(bVarFileSeen, '/f'))\n\
         \x20 out('others', {SetValue(n, 1) for n in range(-5, 40) if n not in (8, 10, 20)}, SetValue(999, None))",
    );
    assert_eq!(
        log[..5],
        [
            "since 0 5",
            "bad TypeError: 'str' object cannot be interpreted as an integer -1",
            "check 0 False 0 True 0 False",
            // Without an accurate list there is nothing to mark; item 56 and `levels.rs` have one.
            "seen 2",
            "others {2} 2",
        ]
    );
}

#[test]
fn item_23_events_are_registered_from_any_sequence_of_numbers() {
    let log = parsing(
        "  out('register', RegisterEvents([4]), RegisterEvents((4, 99)), RegisterEvents([0, 32]), RegisterEvents([]))\n\
         \x20 out('refused', text(RegisterEvents, 5), '|', text(RegisterEvents, ['x']))\n\
         \x20 out('unregister', UnRegisterEvents([17]), UnRegisterEvents([]), RegisterEvents((17, 17)))",
    );
    assert_eq!(
        log[..3],
        [
            "register 0 0 2 2",
            "refused TypeError: Expected a sequence of events | TypeError: 'str' object cannot be interpreted as an integer",
            "unregister 0 2 0",
        ]
    );
}

#[test]
fn item_24_messages_get_the_prefix_and_nothing_else() {
    let plugin = plugin(
        "def handle_plugin_event(event): return bRC_OK\n\
         def objects():\n\
         \x20 JobMessage(M_INFO, '100% %s\\n'); JobMessage(M_INFO, None); JobMessage(M_INFO)\n\
         \x20 JobMessage(M_WARNING, 'w\\n'); JobMessage(M_ERROR, 'e\\n'); JobMessage(99, 'odd'); JobMessage(-5, 'odder')\n\
         \x20 DebugMessage(100, 'shown'); DebugMessage(101, 'hidden'); DebugMessage(1)\n\
         \x20 yield '/f', FT_REG, {}, b''",
    );
    let mut job = spec(Task::Backup, vec![plugin.definition("")]);
    job.debug_level = 100;
    let outcome = Host::start(job).backup();
    let texts: Vec<_> = outcome.messages.iter().map(|(kind, text)| (*kind, text.as_str())).collect();
    assert_eq!(
        texts,
        [
            (6, "python3-fd-mod: 100% %s\n"),
            (5, "python3-fd-mod: w\n"),
            (4, "python3-fd-mod: e\n"),
            (6, "python3-fd-mod: odd"),
            (6, "python3-fd-mod: odder"),
            (2, "python3-fd-mod: shown"),
        ]
    );
    let end = outcome.end();
    assert_eq!((end.whole, end.errors, end.warnings), (true, 1, 1));
}

#[test]
fn item_25_a_stat_packet_has_its_defaults_and_names() {
    unit("item_25_");
}

#[test]
fn item_26_all_classes_show_themselves_as_in_bareos() {
    unit("item_25_stat_packet_repr");
    unit("item_26_");
}

#[test]
fn item_27_members_are_as_strict_as_in_bareos() {
    unit("item_27_");
}

#[test]
fn item_28_wide_integers_survive_exactly() {
    let stat = "st_ino=2**64-1, st_size=2**63+5, st_mtime=10**18+1, st_atime=-2**63, st_ctime=-1, st_blocks=2**64-2";
    let plugin = plugin(&format!(
        "def objects(): yield '/f', FT_REG, dict({stat}), b''\n\
         def create_file(rp):\n\
         \x20 s = rp.statp\n\
         \x20 out('stat', s.st_ino, s.st_size, s.st_mtime, s.st_atime, s.st_ctime, s.st_blocks)\n\
         \x20 rp.create_status = CF_SKIP; return bRC_OK"
    ));
    let saved = run(&plugin).good().saved;
    restore(&plugin.definition(""), &saved, std::path::Path::new("")).good();
    assert_eq!(
        lines(&plugin, &["stat"])[0],
        "stat 18446744073709551615 9223372036854775813 1000000000000000001 -9223372036854775808 -1 18446744073709551614"
    );
}
