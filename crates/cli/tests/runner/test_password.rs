use std::io::{Read, Write};
use std::process::Stdio;

use assert_cmd::Command;

use crate::common::{PASSWORD, World, fails_with, stderr};

/// Our program with the repository named and no password.
fn without_password(world: &World) -> Command {
    let mut command = world.bare();
    command.env("BACKSTAY_REPOSITORY", world.path("repository")).arg("snapshots");
    command
}

#[test]
fn every_source_of_the_password_works() {
    let world = World::new();
    world.write("good", format!("{PASSWORD}\n"));
    let good = world.path("good");
    let print = format!("sh -c 'echo \"{PASSWORD}\"'");
    without_password(&world).arg("--password-file").arg(&good).assert().success();
    without_password(&world).arg("-p").arg(&good).assert().success();
    without_password(&world).args(["--password-command", &print]).assert().success();
    for family in ["BACKSTAY", "RESTIC"] {
        without_password(&world).env(format!("{family}_PASSWORD"), PASSWORD).assert().success();
        without_password(&world).env(format!("{family}_PASSWORD_FILE"), &good).assert().success();
        without_password(&world).env(format!("{family}_PASSWORD_COMMAND"), &print).assert().success();
    }
}

#[test]
fn sources_go_in_the_documented_order() {
    let world = World::new();
    world.write("good", format!("{PASSWORD}\n"));
    world.write("bad", "wrong\n");
    let (good, bad) = (world.shown("good"), world.shown("bad"));
    let print_bad = "echo wrong".to_owned();
    // Each case: what wins holds the right password, everything behind it a wrong one.
    let order: [(&str, &str); 5] = [
        ("BACKSTAY_PASSWORD", PASSWORD),
        ("BACKSTAY_PASSWORD_FILE", &good),
        ("BACKSTAY_PASSWORD_COMMAND", "echo correct\\ horse"),
        ("RESTIC_PASSWORD_FILE", &good),
        ("RESTIC_PASSWORD", PASSWORD),
    ];
    for first in 0..order.len() {
        let mut command = without_password(&world);
        for (name, right) in &order[first..] {
            let wrong = if name.ends_with("FILE") {
                &bad
            } else if name.ends_with("COMMAND") {
                &print_bad
            } else {
                "wrong"
            };
            let value = if *name == order[first].0 { *right } else { wrong };
            command.env(name, value);
        }
        command.assert().success();
    }
    // An option goes before all of them.
    let mut command = without_password(&world);
    command.env("BACKSTAY_PASSWORD", "wrong").env("RESTIC_PASSWORD", "wrong").args(["--password-file", &good]);
    command.assert().success();
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let world = World::new();
    let mut command = without_password(&world);
    command.env("BACKSTAY_PASSWORD", "").env("RESTIC_PASSWORD", PASSWORD);
    command.assert().success();
}

#[test]
fn the_same_password_file_opens_the_same_repository_here_and_in_restic() {
    let world = World::empty();
    world.write("password", " blanks around \r\n\n");
    let file = world.path("password");
    let mut command = world.bare();
    command.env("BACKSTAY_REPOSITORY", world.path("repository")).arg("init").arg("-p").arg(&file);
    command.assert().success();
    let mut restic = world.restic(["snapshots", "--password-file"]);
    restic.arg(&file).env_remove("RESTIC_PASSWORD").assert().success();
}

#[test]
fn without_a_terminal_the_error_says_how_to_give_a_password() {
    let world = World::new();
    // A session of its own has no terminal to ask on.
    let program = without_password(&world).get_program().to_owned();
    let mut command = Command::new("setsid");
    command.arg("--wait").arg(program).args(["snapshots", "-r"]).arg(world.path("repository"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("BACKSTAY_") || text.starts_with("RESTIC_") {
            command.env_remove(&name);
        }
    }
    fails_with(command, 1, &["no password", "--password-file", "BACKSTAY_PASSWORD"]);
}

#[test]
fn a_source_that_gives_nothing_is_named() {
    let world = World::new();
    world.write("empty", "\n");
    let mut command = without_password(&world);
    command.args(["--password-file", "missing"]);
    fails_with(command, 1, &["password file missing", "No such file"]);
    let mut command = without_password(&world);
    command.args(["--password-file", "empty"]);
    fails_with(command, 1, &["password file empty is empty"]);
    let mut command = without_password(&world);
    command.args(["--password-command", "false"]);
    fails_with(command, 1, &["--password-command", "exit status: 1"]);
    let mut command = without_password(&world);
    command.args(["--password-command", "true"]);
    fails_with(command, 1, &["printed no password"]);
    let mut command = without_password(&world);
    command.args(["--password-command", "no-such-program-here"]);
    fails_with(command, 1, &["cannot run no-such-program-here"]);
    let mut command = without_password(&world);
    command.args(["--password-command", "true", "--password-file", "empty"]);
    fails_with(command, 1, &["--password-command", "--password-file"]);
}

#[test]
fn no_error_repeats_a_password_or_a_command() {
    let world = World::new();
    let mut command = without_password(&world);
    command.env("BACKSTAY_PASSWORD_COMMAND", "false --token hush-hush");
    let text = stderr(command.assert().code(1).get_output());
    assert!(!text.contains("hush-hush"), "{text}");
    let mut command = without_password(&world);
    command.env("BACKSTAY_PASSWORD", "hush-hush");
    let text = stderr(command.assert().code(12).get_output());
    assert!(!text.contains("hush-hush"), "{text}");
}

/// Runs our program on a terminal that script(1) makes; types each answer when its question stands there. Gives the
/// status and everything that the terminal showed.
fn on_terminal(world: &World, arguments: &str, dialogue: &[(&str, &str)]) -> (Option<i32>, String) {
    let program = world.bare().get_program().to_str().unwrap().to_owned();
    let line = format!("{program} -r {} {arguments}", world.shown("repository"));
    let mut script = std::process::Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    script.env("HOME", world.path("home")).current_dir(world.path(""));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("BACKSTAY_") || text.starts_with("RESTIC_") {
            script.env_remove(name);
        }
    }
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    let mut screen = child.stdout.take().unwrap();
    let mut shown = Vec::new();
    let mut byte = [0];
    for (question, answer) in dialogue {
        let from = shown.len();
        while !String::from_utf8_lossy(&shown[from..]).contains(question) {
            assert_eq!(
                screen.read(&mut byte).unwrap(),
                1,
                "ended before {question:?}: {}",
                String::from_utf8_lossy(&shown)
            );
            shown.push(byte[0]);
        }
        keyboard.write_all(format!("{answer}\n").as_bytes()).unwrap();
    }
    screen.read_to_end(&mut shown).unwrap();
    drop(keyboard);
    (child.wait().unwrap().code(), String::from_utf8_lossy(&shown).into_owned())
}

#[test]
fn a_prompt_asks_on_the_terminal_without_echo_and_twice_for_a_new_repository() {
    let world = World::empty();
    let (status, text) = on_terminal(&world, "init", &[("repository:", "typed secret"), ("again:", "typed other")]);
    assert!(text.contains("the two passwords differ"), "{text}");
    assert_eq!(status, Some(1));
    assert!(!world.path("repository/config").exists());

    let (status, text) = on_terminal(&world, "init", &[("repository:", "typed secret"), ("again:", "typed secret")]);
    assert_eq!(status, Some(0), "{text}");
    assert!(!text.contains("typed secret"), "{text}");

    let (status, text) = on_terminal(&world, "snapshots", &[("repository:", "typed secret")]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("0 snapshots"), "{text}");
}
