//! Which status goes with which end, and that bad input gets one clear line.

use std::os::unix::fs::PermissionsExt;

use crate::common::{World, fails_with, parse_lines, stderr};

#[test]
fn no_repository_is_status_10_before_any_password_is_asked_for() {
    let world = World::empty();
    for command in [
        &["snapshots"][..],
        &["backup", "."],
        &["restore", "latest", "--target", "t"],
        &["ls", "latest"],
        &["dump", "latest:/x"],
        &["diff", "a", "b"],
        &["find", "x"],
        &["stats"],
        &["check"],
    ] {
        let mut bare = world.bare();
        bare.arg("-r").arg(world.path("nowhere")).args(command);
        fails_with(bare, 10, &["nowhere", "backstay init"]);
    }
}

#[test]
fn a_wrong_password_is_status_12() {
    let world = World::new();
    let mut command = world.command(["snapshots"]);
    command.env("BACKSTAY_PASSWORD", "wrong");
    fails_with(command, 12, &["wrong password"]);
}

#[test]
fn a_lock_of_somebody_else_is_status_11_and_no_lock_reads_on() {
    let world = World::with_snapshot();
    // An exclusive lock as another program leaves it: restic's check takes one; ours is made by hand from a killed one.
    let mut restic = std::process::Command::new(world.restic(["x"]).get_program());
    restic.args(["check", "--read-data"]).env("RESTIC_REPOSITORY", world.path("repository"));
    restic.env("RESTIC_PASSWORD", crate::common::PASSWORD).env("HOME", world.path("home"));
    restic.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let locks = world.path("repository/locks");
    let mut child = restic.spawn().unwrap();
    let there = || {
        // Another name than an id is a file that is still being written.
        let mut names =
            std::fs::read_dir(&locks).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.any(|name| name.len() == 64)
    };
    while !there() {
        assert!(child.try_wait().unwrap().is_none(), "restic ended before it took its lock");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(std::fs::read_dir(&locks).unwrap().count(), 1);
    fails_with(world.command(["snapshots"]), 11, &["locked", "backstay unlock"]);
    fails_with(world.command(["-q", "backup", "tree"]), 11, &["locked"]);
    assert!(world.lines(["snapshots", "--no-lock"]).join("\n").contains("1 snapshot"));
    assert_eq!(std::fs::read_dir(&locks).unwrap().count(), 1, "a foreign lock is never removed");
}

#[test]
fn commands_that_write_refuse_no_lock() {
    let world = World::new();
    fails_with(world.command(["backup", "--no-lock", "."]), 1, &["backup", "--no-lock"]);
    fails_with(world.command(["init", "--no-lock"]), 1, &["init", "--no-lock"]);
}

#[test]
fn reading_commands_leave_no_lock_behind() {
    let world = World::with_snapshot();
    for command in [&["snapshots"][..], &["ls", "latest"], &["stats"], &["check"], &["ls", "missing"]] {
        let _ = world.run(command);
        assert_eq!(std::fs::read_dir(world.path("repository/locks")).unwrap().count(), 0, "{command:?}");
    }
}

#[test]
fn addresses_that_are_none_are_refused_without_repeating_what_may_be_secret() {
    let world = World::empty();
    for (address, hint) in [
        ("s3:https://key:hush@host/bucket", "AWS_ACCESS_KEY_ID"),
        ("https://me:hush@host/", "did you mean \"rest:\""),
        ("s4://hush@bucket/x", "did you mean \"s3:\""),
        ("rclone:hush:x", "rclone serve restic"),
    ] {
        let mut command = world.bare();
        command.args(["-r", address, "snapshots"]);
        let text = stderr(command.assert().code(1).get_output());
        assert!(text.contains(hint) && !text.contains("hush"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
}

#[test]
fn a_store_that_nobody_answers_for_is_one_line() {
    let world = World::empty();
    // Bound, but nobody listens: refused at once, and no other program can take the port meanwhile.
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = std::net::SocketAddr::try_from(rustix::net::getsockname(&socket).unwrap()).unwrap();
    let mut command = world.bare();
    command.args(["-r", &format!("s3:http://{address}/bucket"), "--retry-time", "0", "snapshots"]);
    command.env("AWS_ACCESS_KEY_ID", "me").env("AWS_SECRET_ACCESS_KEY", "hush-hush");
    let text = stderr(command.assert().code(1).get_output());
    assert!(text.contains("nobody answers there") && text.contains(&address.to_string()), "{text}");
    assert!(!text.contains("hush"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn no_repository_named_says_how_to_name_one() {
    let world = World::empty();
    let mut command = world.bare();
    command.arg("snapshots");
    fails_with(command, 1, &["--repo", "BACKSTAY_REPOSITORY"]);
}

#[test]
fn the_repository_is_named_by_option_then_our_variables_then_restics() {
    let world = World::new();
    world.write("place", format!("{}\n", world.shown("repository")));
    let (right, wrong) = (world.shown("repository"), world.shown("nowhere"));
    let password = ("BACKSTAY_PASSWORD", crate::common::PASSWORD);
    let run = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = world.bare();
        command.env(password.0, password.1).envs(variables.iter().copied()).args(arguments).arg("snapshots");
        command.assert().success();
    };
    run(&["-r", &right], &[("BACKSTAY_REPOSITORY", &wrong), ("RESTIC_REPOSITORY", &wrong)]);
    run(&["--repository-file", "place"], &[("BACKSTAY_REPOSITORY", &wrong)]);
    run(&[], &[("BACKSTAY_REPOSITORY", &right), ("RESTIC_REPOSITORY", &wrong)]);
    run(&[], &[("BACKSTAY_REPOSITORY_FILE", "place"), ("RESTIC_REPOSITORY", &wrong)]);
    run(&[], &[("RESTIC_REPOSITORY", &right)]);
    run(&[], &[("RESTIC_REPOSITORY_FILE", "place")]);
}

#[test]
fn a_damaged_object_is_named() {
    let world = World::with_snapshot();
    let damage = |folder: &str| {
        let file = std::fs::read_dir(world.path("repository").join(folder)).unwrap().next().unwrap().unwrap().path();
        let original = std::fs::read(&file).unwrap();
        let mut bytes = original.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&file, bytes).unwrap();
        (file, original)
    };
    for (folder, kind, command) in
        // What the local copy of the index has is not read from the repository.
        [("snapshots", "snapshot", &["ls", "latest"][..]), ("index", "index", &["ls", "latest", "--no-cache"])]
    {
        let (file, original) = damage(folder);
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        fails_with(world.command(command), 1, &[kind, &name, "damaged"]);
        std::fs::write(&file, original).unwrap();
        world.run(command).success();
    }
    let config = world.path("repository/config");
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&config, b"nothing like it").unwrap();
    fails_with(world.command(["snapshots"]), 1, &["config", "damaged"]);
}

#[test]
fn with_json_a_fatal_error_is_an_object() {
    let world = World::new();
    let mut command = world.command(["snapshots", "--json"]);
    command.env("BACKSTAY_PASSWORD", "wrong");
    let objects = parse_lines(&stderr(command.assert().code(12).get_output()));
    assert_eq!(objects.len(), 1);
    assert_eq!(objects[0]["message_type"], "exit_error");
    assert_eq!(objects[0]["code"], 12);
    assert!(objects[0]["message"].as_str().unwrap().contains("wrong password"));

    let objects = parse_lines(&stderr(world.run(["snapshots", "--json", "--latest", "many"]).code(1).get_output()));
    assert_eq!(objects[0]["code"], 1);
}

#[test]
fn a_snapshot_that_is_not_there_is_one_line() {
    let world = World::with_snapshot();
    fails_with(world.command(["ls", "abcdef"]), 1, &["abcdef"]);
    fails_with(world.command(["ls", "latest", "--host", "elsewhere"]), 1, &["snapshot"]);
    fails_with(World::new().command(["-q", "ls", "latest"]), 1, &["snapshot"]);
}

#[test]
fn ids_can_be_short_as_long_as_they_are_clear() {
    let world = World::new();
    world.make_tree();
    let id = world.backup(["tree"]);
    for length in [64, 16, 8, 4] {
        assert!(!world.lines(["ls", &id[..length]]).is_empty());
    }
    // With seventeen snapshots, two begin with the same digit.
    let mut ids = vec![id];
    for number in 0..16 {
        world.write("tree/number", number.to_string());
        ids.push(world.backup(["tree"]));
    }
    let twice = ids.iter().map(|id| &id[..1]).find(|digit| ids.iter().filter(|id| id.starts_with(digit)).count() > 1);
    fails_with(world.command(["ls", twice.unwrap()]), 1, &[twice.unwrap()]);
}
