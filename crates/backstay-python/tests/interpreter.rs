//! Which interpreter runs: the default, a virtual environment, and the ones that are refused.
#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

use backstay_bareos_protocol::Task;
use common::{Host, Plugin, spec};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_backstay-python")).env_remove("BACKSTAY_PYTHON").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Major and minor version that the program is linked with.
fn linked() -> String {
    let said = text(&run(&["--version"]).stdout);
    let version = said.split("Python ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    version.rsplit_once('.').unwrap().0.to_owned()
}

/// A virtual environment around the default interpreter, with a module `only_here`.
fn environment(folder: &Path) {
    let packages = folder.join(format!("lib/python{}/site-packages", linked()));
    std::fs::create_dir_all(&packages).unwrap();
    std::fs::create_dir_all(folder.join("bin")).unwrap();
    std::fs::write(packages.join("only_here.py"), "answer = 42\n").unwrap();
    std::fs::write(folder.join("pyvenv.cfg"), "home = /usr/bin\ninclude-system-site-packages = false\n").unwrap();
    symlink("/usr/bin/python3", folder.join("bin/python3")).unwrap();
}

#[test]
fn check_names_the_interpreter_whatever_comes_first_on_path() {
    let output = run(&["--check"]);
    assert!(output.status.success(), "{output:?}");
    let said = text(&output.stdout);
    assert!(said.contains("interpreter  /usr/bin/python3\n") && said.contains("bareosfd"), "{said}");
}

#[test]
fn a_virtual_environment_gives_its_packages_to_plugins() {
    let folder = tempfile::tempdir().unwrap();
    environment(folder.path());
    let plugin = Plugin::new(
        "import sys, only_here\nfrom bareosfd import *\nfrom probe import out\nout(only_here.answer, sys.executable, sys.prefix)\n\
         def load_bareos_plugin(t): return bRC_OK\ndef parse_plugin_definition(t): return bRC_OK\n\
         def start_backup_file(p): return bRC_Stop",
    );
    let interpreter = folder.path().join("bin/python3").display().to_string();
    for given in [folder.path().display().to_string(), interpreter.clone()] {
        plugin.forget_log();
        let job = spec(Task::Backup, vec![plugin.definition("")]);
        Host::start_with(job, &["bareos-fd", "--python", &given]).backup().good();
        assert_eq!(plugin.log(), [format!("42 {interpreter} {}", folder.path().display())]);
    }
}

#[test]
fn another_minor_version_is_refused_with_how_to_build_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let by_name = folder.path().join("python3.99");
    std::fs::write(&by_name, "").unwrap();
    let by_answer = folder.path().join("python");
    std::fs::write(&by_answer, "#!/bin/sh\necho 3.99\n").unwrap();
    std::fs::set_permissions(&by_answer, std::fs::Permissions::from_mode(0o755)).unwrap();
    for path in [by_name, by_answer] {
        let output = run(&["--check", "--python", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stderr);
        let start =
            format!("backstay-python: {} is Python 3.99, but this backstay-python is linked with", path.display());
        assert!(said.starts_with(&start) && said.contains("PYO3_PYTHON="), "{said}");
        assert_eq!(said.lines().count(), 1);
    }
}

#[test]
fn an_interpreter_that_is_missing_or_broken_is_named() {
    let said = text(&run(&["--check", "--python", "/nowhere/python3"]).stderr);
    assert!(said.contains("no Python interpreter at /nowhere/python3"), "{said}");
    let said = text(&run(&["--check", "--python=/bin/true"]).stderr);
    assert!(said.contains("/bin/true does not work as a Python interpreter"), "{said}");
}

#[test]
fn the_command_line_refuses_what_it_does_not_know() {
    for arguments in [&["nothing"][..], &[], &["--check", "--wrong"], &["--check", "--python"], &["bareos-fd"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).starts_with("backstay-python: "), "{arguments:?}");
    }
}
