//! Storage-daemon and director plugins, word by word: a scripted host starts the real worker program with small plugins
//! written for one behaviour each (reference 7, conformance 18, 83, 84).
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use backstay_bareos_protocol::hooks::{Daemon, FromHook, HOOK_PROTOCOL_VERSION, HookAnswer, HookSpec, ToHook, Value};
use backstay_worker::Worker;
use common::{Plugin, python_folder};

struct HookHost {
    worker: Worker,
    messages: Vec<(i32, String)>,
    volume: Option<String>,
}

fn spec(daemon: Daemon) -> HookSpec {
    HookSpec {
        protocol: HOOK_PROTOCOL_VERSION,
        daemon,
        instances: 2,
        values: vec![(1, Value::Text("nightly".into())), (2, Value::Int(70)), (4, Value::Int(7))],
        module_directories: vec![python_folder().join("modules").display().to_string()],
        debug_level: 0,
        trace: false,
    }
}

impl HookHost {
    fn start(spec: HookSpec) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_backstay-python"));
        let worker = Worker::spawn(program, &[spec.daemon.command()]).unwrap();
        let mut host = Self { worker, messages: Vec::new(), volume: None };
        host.send(&ToHook::Start(Box::new(spec)));
        let ready = host.worker.receiver.receive::<FromHook>().unwrap().unwrap().0;
        assert!(matches!(ready, FromHook::Ready { protocol: HOOK_PROTOCOL_VERSION, .. }), "{ready:?}");
        host
    }

    fn send(&mut self, frame: &ToHook) {
        self.worker.sender.send(frame).unwrap();
        self.worker.sender.flush().unwrap();
    }

    fn ask(&mut self, frame: &ToHook) -> HookAnswer {
        self.send(frame);
        loop {
            match self.worker.receiver.receive::<FromHook>().unwrap().unwrap().0 {
                FromHook::Message { kind, text } => self.messages.push((kind, text)),
                FromHook::Answered { answer, volume } => {
                    self.volume = volume;
                    return answer;
                }
                other => panic!("{other:?} in place of an answer"),
            }
        }
    }

    fn options(&mut self, definition: &str) -> HookAnswer {
        self.ask(&ToHook::Options(definition.to_owned()))
    }

    fn event(&mut self, number: u8) -> HookAnswer {
        self.ask(&ToHook::Event { number, values: Vec::new() })
    }

    fn end(self) {
        let exit = self.worker.end(std::time::Duration::from_secs(10)).unwrap();
        assert_eq!(exit, backstay_worker::Exit::Status(0));
    }
}

const OK: HookAnswer = HookAnswer::Code(0);

/// A director plugin that registers its four events and logs what it hears.
const LISTENER: &str = "
from bareosdir import *
from probe import out
def load_bareos_plugin(text): out('load', text); out('registered', RegisterEvents((1, 2, 3, 4))); return bRC_OK
def parse_plugin_definition(text): out('parse', text); return bRC_OK
def handle_plugin_event(event): out('event', event); return answer(event)
def answer(event): return bRC_OK
";

fn listener(more: &str) -> Plugin {
    Plugin::new(&format!("{LISTENER}\n{more}"))
}

#[test]
fn the_first_definition_loads_the_script_and_each_one_is_parsed() {
    let plugin = listener("");
    let mut host = HookHost::start(spec(Daemon::Director));
    assert_eq!(host.options(&plugin.definition(r"instance=3:a=x\:y:B=1")), OK);
    assert_eq!(host.options("Python3:c=2"), OK);
    host.end();
    assert_eq!(plugin.log(), [r"load a=x\:y:B=1:", "registered 0", r"parse a=x\:y:B=1:", "parse c=2:"]);
}

#[test]
fn only_registered_events_arrive_and_their_answers_go_back() {
    let plugin = listener("def answer(event): UnRegisterEvents([3]); return {1: 0, 2: 4}.get(event, 'x')");
    let mut host = HookHost::start(spec(Daemon::Director));
    assert_eq!(host.event(1), HookAnswer::NotRegistered);
    host.options(&plugin.definition(""));
    let answers: Vec<HookAnswer> = [1, 3, 4, 6, 2].into_iter().map(|number| host.event(number)).collect();
    let quiet = HookAnswer::NotRegistered;
    assert_eq!(answers, [OK, quiet.clone(), HookAnswer::NotAnInteger, quiet, HookAnswer::Code(4)]);
    assert_eq!(plugin.log()[3..], ["event 1", "event 4", "event 2"]);
}

#[test]
fn numbers_of_events_out_of_range_are_skipped() {
    for (daemon, module, expected) in [
        (Daemon::Director, "bareosdir", "0 2 2 2 0"),
        // 22 may be registered by a script; it still goes to parse_plugin_definition.
        (Daemon::Storage, "bareossd", "0 2 2 0 0"),
    ] {
        let plugin = Plugin::new(&format!(
            "from {module} import *\nfrom probe import out\ndef load_bareos_plugin(text):\n    \
             out(*[RegisterEvents(some) for some in ([1, 99], [], [25, 0, -1], [11], (2, 2))])\n    return bRC_OK\n\
             def parse_plugin_definition(text): return bRC_OK"
        ));
        let mut host = HookHost::start(spec(daemon));
        assert_eq!(host.options(&plugin.definition("")), OK);
        assert_eq!(plugin.log(), [expected]);
    }
}

#[test]
fn item_83_values_are_read_by_their_number_and_change_with_the_events() {
    let plugin = listener(
        "def answer(event):\n    out(*[(type(GetValue(n)).__name__, GetValue(n)) for n in (1, 2, 16, 17, 99)])\n    \
         out(GetInstanceCount())\n    return bRC_OK",
    );
    let mut host = HookHost::start(spec(Daemon::Director));
    host.options(&plugin.definition(""));
    host.event(1);
    host.ask(&ToHook::Event { number: 3, values: vec![(2, Value::Int(73)), (16, Value::Text("Vol".into()))] });
    let log = plugin.log();
    let none = "('NoneType', None)";
    assert_eq!(log[4], format!("('str', 'nightly') ('int', 70) {none} {none} {none}"));
    assert_eq!(log[5], "2");
    assert_eq!(log[7], format!("('str', 'nightly') ('int', 73) ('str', 'Vol') {none} {none}"));
}

#[test]
fn a_volume_name_that_is_set_is_read_back_and_told_to_the_host() {
    let plugin = Plugin::new(
        "from bareossd import *\nfrom probe import out\ndef load_bareos_plugin(text): return RegisterEvents([1])\n\
         def parse_plugin_definition(text): return bRC_OK\ndef handle_plugin_event(event):\n    \
         out(SetValue(bsdwVarVolumeName, 'Vol'), GetValue(bsdVarVolumeName), GetValue(bsdVarLevel))\n    \
         out(SetValue(1, None), SetValue(3, 5), SetValue(3, -1), SetValue(4, 70), SetValue(5, 1), SetValue(12, 'x'))\n    \
         return SetValue(2, 5)",
    );
    let mut host = HookHost::start(spec(Daemon::Storage));
    host.options(&plugin.definition(""));
    assert_eq!(host.event(1), HookAnswer::Raised);
    assert_eq!(plugin.log(), ["0 Vol 70", "0 0 2 0 2 2"]);
    assert_eq!(host.volume.as_deref(), Some("Vol"));
    let said = |kind: i32, text: &str| host.messages.iter().any(|(k, t)| *k == kind && t.contains(text));
    assert!(said(5, "priority") && said(5, "level"), "{:?}", host.messages);
    assert!(said(3, "TypeError: the volume name must be str"), "{:?}", host.messages);
}

#[test]
fn item_84_messages_have_no_prefix_and_a_newline_is_appended() {
    let plugin = listener(
        "def answer(event):\n    JobMessage(M_INFO, 'plain')\n    JobMessage(M_WARNING, 'ended\\n')\n    \
         JobMessage(M_ERROR, None)\n    JobMessage(M_ERROR)\n    DebugMessage(0, 'bug')\n    DebugMessage(1, 'no')\n    \
         return bRC_OK",
    );
    let mut host = HookHost::start(spec(Daemon::Director));
    host.options(&plugin.definition(""));
    host.event(1);
    let expected = [(6, "plain\n"), (5, "ended\n\n"), (2, "bug\n")].map(|(kind, text)| (kind, text.to_owned()));
    assert_eq!(host.messages, expected);
}

#[test]
fn an_exception_is_a_fatal_message_with_its_traceback_and_the_script_stays() {
    for (daemon, module, start) in
        [(Daemon::Director, "bareosdir", "bareosdir: Traceback"), (Daemon::Storage, "bareossd", "Traceback")]
    {
        let plugin = Plugin::new(&format!(
            "from {module} import *\ndef load_bareos_plugin(text): return RegisterEvents([1, 2])\n\
             def parse_plugin_definition(text): return bRC_OK\ndef handle_plugin_event(event): return 1 // (event - 1)"
        ));
        let mut host = HookHost::start(spec(daemon));
        host.options(&plugin.definition(""));
        assert_eq!(host.event(1), HookAnswer::Raised);
        assert_eq!(host.event(2), HookAnswer::Code(1));
        let (kind, text) = &host.messages[0];
        assert!(*kind == 3 && text.starts_with(start) && text.contains("ZeroDivisionError"), "{text}");
    }
}

#[test]
fn what_does_not_load_says_why_and_is_tried_again() {
    let plugin = listener("");
    let mut host = HookHost::start(spec(Daemon::Director));
    for (definition, reason) in [
        ("python3:module_name=no_such_module".to_owned(), "No module named 'no_such_module'"),
        ("python3:a=1".to_owned(), "names no module_name"),
        ("python:module_name=plug".to_owned(), "python3-dir: Illegal plugin definition"),
        ("python3:module_name=json".to_owned(), "has no function load_bareos_plugin"),
        (plugin.definition("flag"), "python3-dir: Illegal argument number 3 without value"),
    ] {
        let answer = host.options(&definition);
        assert!(matches!(&answer, HookAnswer::NotLoaded(text) if text.contains(reason)), "{definition}: {answer:?}");
        assert_eq!(host.messages.last().unwrap().0, 3);
    }
    assert_eq!(host.options(&plugin.definition("")), OK);
    assert_eq!(host.event(1), OK);
}

#[test]
fn a_load_function_that_refuses_counts_as_loaded_and_is_not_parsed() {
    let plugin = listener("def load_bareos_plugin(text): RegisterEvents([1]); return bRC_Error");
    let mut host = HookHost::start(spec(Daemon::Director));
    assert_eq!(host.options(&plugin.definition("")), HookAnswer::Code(2));
    assert_eq!(host.event(1), OK);
    assert_eq!(host.options(&plugin.definition("a=1")), OK);
    assert_eq!(plugin.log(), ["event 1", "parse a=1:"]);
}

#[test]
fn functions_work_from_threads_of_the_plugin() {
    let plugin = listener(
        "import threading\ndef answer(event):\n    \
         thread = threading.Thread(target=lambda: (JobMessage(M_INFO, GetValue(1)), SetValue(2, 'V')))\n    \
         thread.start(); thread.join()\n    return bRC_OK",
    );
    let mut host = HookHost::start(spec(Daemon::Director));
    host.options(&plugin.definition(""));
    assert_eq!(host.event(1), OK);
    assert_eq!((host.messages.as_slice(), host.volume.as_deref()), (&[(6, "nightly\n".to_owned())][..], Some("V")));
}

#[test]
fn a_plugin_finds_the_module_of_its_own_daemon_only() {
    for (daemon, own, others) in [
        (Daemon::Director, "bareosdir", ["bareossd", "bareosfd"]),
        (Daemon::Storage, "bareossd", ["bareosdir", "bareosfd"]),
    ] {
        let plugin = Plugin::new(&format!(
            "import sys, importlib.util\nfrom probe import out\nfound = '{own}' in sys.modules\nimport {own}\n\
             out(found, *[importlib.util.find_spec(name) for name in {others:?}])\n\
             def load_bareos_plugin(text): return 0\ndef parse_plugin_definition(text): return 0"
        ));
        let mut host = HookHost::start(spec(daemon));
        assert_eq!(host.options(&plugin.definition("")), OK);
        assert_eq!(plugin.log(), ["True None None"]);
    }
}

#[test]
fn the_helper_modules_carry_a_script_of_the_old_style() {
    let plugin = Plugin::new(
        "from bareosdir import *\nimport BareosDirWrapper\nfrom BareosDirWrapper import *\n\
         import BareosDirPluginBaseclass\nfrom probe import out\n\
         class Mine(BareosDirPluginBaseclass.BareosDirPluginBaseclass):\n    \
         def handle_plugin_event(self, event):\n        super().handle_plugin_event(event)\n        \
         if event == bDirEventJobEnd: out(self.options, self.jobStatus, self.jobBytes, self.jobPool)\n        \
         return bRC_OK\n\
         def load_bareos_plugin(text): BareosDirWrapper.bareos_dir_plugin_object = Mine(text); return bRC_OK",
    );
    let mut spec = spec(Daemon::Director);
    for number in [3, 6, 14, 15, 18, 19, 26] {
        spec.values.push((number, Value::Int(66)));
    }
    let mut host = HookHost::start(spec);
    assert_eq!(host.options(&plugin.definition("a=1")), OK, "{:?}", host.messages);
    for number in [1, 3, 4, 2] {
        assert_eq!(host.event(number), OK, "{:?}", host.messages);
    }
    assert_eq!(plugin.log(), ["{'a': '1'} B 66 None"]);
}

#[test]
fn every_call_is_told_where_a_trace_is_wanted() {
    let plugin = listener("");
    let mut host = HookHost::start(HookSpec { trace: true, ..spec(Daemon::Director) });
    host.send(&ToHook::Options(plugin.definition("a=\"1\"")));
    let mut lines = Vec::new();
    loop {
        match host.worker.receiver.receive::<FromHook>().unwrap().unwrap().0 {
            FromHook::Trace(line) => lines.push(serde_json::from_str::<serde_json::Value>(&line).unwrap()),
            FromHook::Answered { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    let call = |name: &str| serde_json::json!({"call": name, "arguments": ["a=\"1\":"], "answer": 0});
    assert_eq!(lines, [call("load_bareos_plugin"), call("parse_plugin_definition")]);
}
