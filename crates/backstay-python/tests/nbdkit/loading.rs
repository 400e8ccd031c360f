//! Loading the script and the module (items 1 to 17).

use super::LEAST;
use super::server::{Server, eventually, program, run, script, text};

/// Exit status and standard error of a script that is only asked what it is.
fn dump(content: &str) -> (Option<i32>, String) {
    let script = script(content);
    let output = run(&["python", &script.path, "--dump-plugin"]);
    (output.status.code(), text(&output.stderr))
}

#[test]
fn item_01_required_callbacks() {
    for name in ["pread", "open", "get_size"] {
        for change in [format!("del {name}"), format!("{name} = 5")] {
            let (status, stderr) = dump(&format!("{LEAST}{change}\n"));
            assert_eq!(status, Some(1), "{change}");
            assert!(stderr.contains("'open', 'get_size' or 'pread'"), "{stderr}");
        }
    }
    assert_eq!(dump(LEAST).0, Some(0));
}

#[test]
fn item_02_api_version() {
    for (version, status) in [("1", 0), ("2", 0), ("True", 0), ("0", 1), ("3", 1), ("'2'", 1), ("2.0", 1)] {
        assert_eq!(dump(&format!("{LEAST}API_VERSION = {version}")).0, Some(status), "{version}");
    }
    assert_eq!(Server::start(LEAST).open().read(0, 16), Ok(vec![0; 16]));
    assert_eq!(Server::start(&format!("{LEAST}API_VERSION = True")).open().read(0, 16), Ok(vec![0; 16]));
    // The signature is never looked at: version 2 calls with four arguments.
    assert_eq!(Server::start(&format!("{LEAST}API_VERSION = 2")).open().read(0, 16), Err(5));
}

#[test]
fn item_03_the_script_as_main_program() {
    let content = format!(
        "import sys, os\nassert __name__ == '__main__' and sys.argv == ['']\n\
         assert os.path.dirname(__file__) not in sys.path and '' not in sys.path\n\
         assert '/pythonpath' in sys.path\n\
         def get_ready(): print('ready', '__file__' in globals())\n{LEAST}"
    );
    let script = script(&content);
    let output = program(&["-U", "-", "python", &script.path, "--run", "true"])
        .env("PYTHONPATH", "/pythonpath")
        .output()
        .unwrap();
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), "ready False\n"), "{output:?}");
}

#[test]
fn item_04_the_module_is_there_in_imported_modules_too() {
    let script = script(&format!(
        "import sys\nsys.path.append(HERE)\nimport helper, nbdkit\nassert helper.nbdkit is nbdkit\n{LEAST}"
    ));
    std::fs::write(script.folder.path().join("helper.py"), "import nbdkit\n").unwrap();
    let content = std::fs::read_to_string(&script.path).unwrap();
    let content = content.replace("HERE", &format!("{:?}", script.folder.path()));
    std::fs::write(&script.path, content).unwrap();
    assert_eq!(run(&["python", &script.path, "--dump-plugin"]).status.code(), Some(0));
}

#[test]
fn item_05_errors_at_top_level() {
    for (content, part) in
        [("def broken(:\n", "SyntaxError"), ("def f(): raise ValueError('boo')\nf()\n", "ValueError: boo")]
    {
        let (status, stderr) = dump(content);
        assert_eq!(status, Some(1));
        assert!(stderr.contains(part), "{stderr}");
    }
    assert!(dump("def f(): raise ValueError('boo')\nf()\n").1.contains("in f"));
    assert_eq!(dump("import sys\nsys.exit(7)\n").0, Some(7));
}

#[test]
fn item_06_no_script() {
    for arguments in [
        &["python", "/nonexistent/x.py"][..],
        &["python", "-"],
        &["python", "a=b"],
        &["python"],
        &[],
        &["memory-of-another", "1G"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(text(&output.stderr).starts_with("nbdkit: "), "{}", text(&output.stderr));
    }
}

#[test]
fn item_07_order_of_parameters_and_callbacks() {
    let content = format!(
        "import sys\nsay = lambda *a: print(*a, file=sys.stderr, flush=True)\n\
         def config(k, v): say('config', repr(k), repr(v))\ndef config_complete(): say('config_complete')\n\
         def thread_model(): say('thread_model'); return 1\ndef get_ready(): say('get_ready')\n\
         def after_fork(): say('after_fork')\n{LEAST}"
    );
    let server = Server::with(&content, &["b=1", "a=x=y", "c=", "a.b_c-d=2", "script=again"]);
    let stderr = eventually("after_fork", || Some(server.stderr()).filter(|text| text.contains("after_fork")));
    assert_eq!(
        stderr.lines().collect::<Vec<_>>(),
        [
            "config 'b' '1'",
            "config 'a' 'x=y'",
            "config 'c' ''",
            "config 'a.b_c-d' '2'",
            "config 'script' 'again'",
            "config_complete",
            "thread_model",
            "get_ready",
            "after_fork"
        ]
    );
}

#[test]
fn item_08_parameters_that_nobody_takes() {
    let plain = script(LEAST);
    for argument in ["a=b", "bare", "1a=b"] {
        assert_eq!(run(&["python", &plain.path, argument, "--dump-plugin"]).status.code(), Some(1), "{argument}");
    }
    std::fs::write(plain.folder.path().join("x=y.py"), LEAST).unwrap();
    let output = program(&["python", "./x=y.py", "--dump-plugin"]).current_dir(plain.folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn item_09_callbacks_of_the_configuration_that_raise() {
    for name in ["config", "config_complete", "thread_model", "get_ready", "after_fork"] {
        let script = script(&format!("{LEAST}def {name}(*a): raise ValueError('not today')\n"));
        let socket = script.folder.path().join("socket");
        let mut arguments = vec!["-f", "-U", socket.to_str().unwrap(), "python", &script.path];
        if name == "config" {
            arguments.push("a=b");
        }
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(text(&output.stderr).contains(&format!("{name}: error: Traceback")), "{}", text(&output.stderr));
    }
    let ended = Server::start(&format!("{LEAST}def cleanup(): raise ValueError('not today')\n")).end();
    assert_eq!(ended.status.code(), Some(0));
    assert!(ended.stderr.contains("cleanup: error: Traceback"), "{}", ended.stderr);
}

#[test]
fn item_10_values_are_utf_8() {
    use std::os::unix::ffi::OsStrExt;
    let script = script(&format!("{LEAST}def config(k, v): print(ascii(v))\n"));
    let good = run(&["python", &script.path, "k=grün", "--dump-plugin"]);
    assert!(text(&good.stdout).starts_with("'gr\\xfcn'\n"), "{}", text(&good.stdout));
    let bad = program(&["python", &script.path, "--dump-plugin"]).arg(std::ffi::OsStr::from_bytes(b"k=\xff")).output();
    assert_eq!(bad.unwrap().status.code(), Some(1));
}

#[test]
fn item_11_callbacks_are_looked_up_at_each_call_and_called_positionally() {
    let server = Server::start(
        "def open(anything): return 1\ndef get_size(server): return 512\n\
         def second(me, how_many, where): return b'2' * how_many\n\
         def pread(me, how_many, where):\n  global pread\n  pread = second\n  return b'1' * how_many\n",
    );
    let mut client = server.open();
    assert_eq!((client.read(0, 2), client.read(0, 2)), (Ok(b"11".to_vec()), Ok(b"22".to_vec())));
}

#[test]
fn item_12_standard_streams() {
    let server = Server::start(&format!(
        "import os\ndef get_ready(): print('ready', flush=True)\n\
         def preconnect(readonly): print('connected', flush=True); null = os.stat('/dev/null'); assert [os.fstat(fd).st_rdev for fd in (0, 1)] == [null.st_rdev] * 2\n{LEAST}"
    ));
    assert_eq!(server.open().read(0, 4), Ok(vec![0; 4]));
    assert_eq!(server.stdout(), "ready\n");
}

/// Items 13, 14 and 17 are tested beside the module (`adapters/nbdkit/worker/tests`); here once more in the real program.
#[test]
fn items_13_14_and_17_the_module() {
    let (status, stderr) = dump(include_str!("../../../../adapters/nbdkit/worker/tests/module.py"));
    assert_eq!(status, Some(0), "{stderr}");
}

#[test]
fn item_15_export_name() {
    let server = Server::start(
        "import nbdkit\n\
         def open(readonly): return nbdkit.export_name()\n\
         def get_size(h): return len(h.encode())\n\
         def pread(h, c, o): assert nbdkit.export_name() == h; return h.encode()\n\
         def close(h): assert nbdkit.export_name() == h\n\
         def fails():\n  try: nbdkit.export_name()\n  except RuntimeError: return\n  raise SystemExit\n\
         def preconnect(r): fails()\n\
         def list_exports(r, t): fails(); return []\n\
         def default_export(r, t): fails(); return 'resolved'\n",
    );
    let long = "x".repeat(80);
    for name in ["テスト", "/", "%%", "new\nline", &long, ""] {
        let mut client = server.connect();
        client.go(name.as_bytes(), &[]).unwrap();
        let expected = if name.is_empty() { "resolved" } else { name };
        let length = u32::try_from(expected.len()).unwrap();
        assert_eq!(client.read(0, length), Ok(expected.as_bytes().to_vec()));
        client.leave();
    }
    let mut client = server.connect();
    assert_eq!(client.list(), Ok(vec![]));
    assert_eq!(client.go(b"\xff", &[]), Err(super::client::ERR_UNKNOWN));
    assert!(!server.stderr().contains("close: error"), "{}", server.stderr());
}

#[test]
fn item_16_debug_lines_are_for_the_verbose() {
    let content = format!("import nbdkit\nnbdkit.debug('a word from the script')\n{LEAST}");
    let script = script(&content);
    let quiet = run(&["python", &script.path, "--dump-plugin"]);
    assert!(!text(&quiet.stderr).contains("a word"));
    let verbose = run(&["-v", "python", &script.path, "--dump-plugin"]);
    assert!(text(&verbose.stderr).contains("nbdkit: debug: a word from the script\n"), "{}", text(&verbose.stderr));
}
